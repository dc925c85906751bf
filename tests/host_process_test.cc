/* SPDX-License-Identifier: Apache-2.0
 * The library inside somebody else's process: fork, thread limits, teams with a refused rank, floating-point environments,
 * workspaces and threads that several devices and callers share.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "tests/api_job.h"

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
const bool SANITIZED = true;
#else
const bool SANITIZED = false;
#endif

hattn_device *open_cpu(int threads)
{
    hattn_device_options options = sized<hattn_device_options>();
    options.backend = "cpu";
    options.max_threads = threads;
    hattn_device *device = nullptr;
    hattn_error error = {};
    EXPECT_EQ(HATTN_OK, hattn_device_open(&options, &device, &error)) << error.text;
    return device;
}

int max_threads(const hattn_device *device)
{
    hattn_device_info info = sized<hattn_device_info>();
    EXPECT_EQ(HATTN_OK, hattn_device_query(device, &info, nullptr));
    return info.max_threads;
}

int threads_of_process()
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    while (const dirent *entry = readdir(tasks))
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* One decode step, again and again. */
class Decode
{
public:
    explicit Decode(const char *backend = "cpu") : device(backend), job(device, good_problem())
    {
        const hattn_encode_keys_args keys = job.encode_keys_args();
        EXPECT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &keys, &job.exec, nullptr));
        expected = run(1);
    }

    /* Selections and outputs. */
    std::vector<std::vector<uint8_t>> run(int threads)
    {
        for (const hattn_buffer &buffer : {job.out, job.lse, job.indices, job.counts})
            std::fill(job.bytes(buffer).begin(), job.bytes(buffer).end(), 0xaa);
        const hattn_decode_args args = job.decode_args();
        job.exec.num_threads = threads;
        hattn_error error = {};
        EXPECT_EQ(HATTN_OK, hattn_decode(job.plan.get(), &args, &job.exec, &error)) << error.text;
        return results();
    }
    std::vector<std::vector<uint8_t>> results()
    {
        return {job.bytes(job.out), job.bytes(job.lse), job.bytes(job.indices), job.bytes(job.counts)};
    }

    Device device; /* of three threads */
    Job job;
    std::vector<std::vector<uint8_t>> expected;
};

/* Runs `body` in a child; the exit status, or -1 where it hung for ten seconds or died of a signal. */
int in_child(const std::function<int()> &body)
{
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        alarm(SANITIZED ? 60 : 10);
        _exit(body());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(HostProcess, ForkedChildrenWorkAlone)
{
    Decode decode;
    EXPECT_EQ(decode.expected, decode.run(3));
    EXPECT_EQ(0, in_child([&] { return decode.run(3) == decode.expected ? 0 : 1; }));
#if !defined(__SANITIZE_THREAD__) /* which lets no child start threads */
    /* A device of its own has helpers again; the parent's plans may be destroyed there. */
    EXPECT_EQ(0, in_child([&] {
                  decode.job.plan.reset();
                  Decode own;
                  return own.run(3) == own.expected && (SANITIZED || threads_of_process() == 3) ? 0 : 1;
              }));
#endif
    EXPECT_EQ(decode.expected, decode.run(3));
    hattn_device *device = open_cpu(3);
    EXPECT_EQ(0, in_child([&] {
                  hattn_device_close(device);
                  return 0;
              }));
    hattn_device_close(device);
}

TEST(HostProcess, ForksInTheMiddleOfRuns)
{
    Decode decode, forked;
    std::atomic<bool> stop{false};
    std::thread busy([&] {
        while (!stop)
            decode.run(3);
    });
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(0, in_child([&] { return forked.run(3) == forked.expected ? 0 : 1; }));
    stop = true;
    busy.join();
}

/* Standard output and error of the child go to a file, which must stay empty. */
int silently(const std::function<int()> &body)
{
    char path[] = "/tmp/hattn_host_process_XXXXXX";
    const int file = mkstemp(path);
    unlink(path);
    const int status = in_child([&] {
        dup2(file, STDOUT_FILENO);
        dup2(file, STDERR_FILENO);
        return body();
    });
    EXPECT_EQ(0, lseek(file, 0, SEEK_END)) << "something was printed";
    close(file);
    return status;
}

int runs_with_fewer_than(int wanted)
{
    hattn_device *device = open_cpu(wanted);
    const int threads = max_threads(device);
    hattn_device_close(device);
    if (threads < 1 || threads >= wanted)
        return 2;
    Decode decode;
    return decode.run(3) == decode.expected ? 0 : 3;
}

int limit_memory_and_run()
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld", &pages) != 1)
        return 1;
    fclose(file);
    const rlim_t most = rlim_t(pages) * rlim_t(sysconf(_SC_PAGESIZE)) + (16 << 20);
    const struct rlimit limit = {most, most};
    return setrlimit(RLIMIT_AS, &limit) ? 1 : runs_with_fewer_than(200);
}

const int MAY_NOT = 77;

int limit_processes_and_run()
{
    /* The limit is one of a user's, and root has none. */
    if (geteuid() == 0 && (setresgid(61234, 61234, 61234) || setresuid(61234, 61234, 61234)))
        return MAY_NOT;
    const struct rlimit limit = {1, 1};
    return setrlimit(RLIMIT_NPROC, &limit) ? 1 : runs_with_fewer_than(2);
}

TEST(HostProcess, GoesOnWithFewerThreads)
{
    if (SANITIZED)
        GTEST_SKIP() << "sanitizers need more memory and threads of their own";
    EXPECT_EQ(0, silently(limit_memory_and_run));
    const int status = silently(limit_processes_and_run);
    if (status == MAY_NOT)
        GTEST_SKIP() << "root has no limit of processes, and may not become another user here";
    EXPECT_EQ(0, status);
}

TEST(HostProcess, ThreadsEndWithTheirDevice)
{
    const int before = threads_of_process();
    hattn_device *device = open_cpu(6);
    EXPECT_EQ(before + 5, threads_of_process());
    hattn_device_close(device);
    EXPECT_EQ(before, threads_of_process());
}

TEST(HostProcess, CallersShareTheHelpers)
{
    Device device("cpu");
    std::vector<std::unique_ptr<Job>> jobs;
    for (int i = 0; i < 6; i++)
        jobs.push_back(std::make_unique<Job>(device, good_problem(), 7));
    const auto step = [](Job &job) {
        const hattn_encode_keys_args keys = job.encode_keys_args();
        const hattn_decode_args args = job.decode_args();
        job.exec.num_threads = 3;
        EXPECT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &keys, &job.exec, nullptr));
        EXPECT_EQ(HATTN_OK, hattn_decode(job.plan.get(), &args, &job.exec, nullptr));
        return job.bytes(job.out);
    };
    const std::vector<uint8_t> expected = step(*jobs[0]);
    const int before = threads_of_process();
    std::atomic<int> wrong{0}, too_many{0};
    std::vector<std::thread> callers;
    for (auto &job : jobs)
        callers.emplace_back([&, job = job.get()] {
            for (int i = 0; i < 50; i++) {
                wrong += step(*job) != expected;
                too_many += threads_of_process() > before + 6;
            }
        });
    for (std::thread &caller : callers)
        caller.join();
    EXPECT_EQ(0, wrong);
    EXPECT_EQ(0, too_many);
}

/* A barrier that keeps count of who entered it. */
struct Barrier {
    explicit Barrier(int size) { pthread_barrier_init(&barrier, nullptr, unsigned(size)); }
    ~Barrier() { pthread_barrier_destroy(&barrier); }
    static void wait(void *self) { pthread_barrier_wait(&static_cast<Barrier *>(self)->barrier); }
    pthread_barrier_t barrier;
};

class HostProcessOf : public testing::TestWithParam<const char *>
{
};

TEST_P(HostProcessOf, ARefusedRankHangsNobody)
{
    Decode decode(GetParam());
    for (int refused = 0; refused < 3; refused++)
        for (int way = 0; way < 4; way++) {
            for (const hattn_buffer &buffer : {decode.job.out, decode.job.lse, decode.job.indices, decode.job.counts})
                std::fill(decode.job.bytes(buffer).begin(), decode.job.bytes(buffer).end(), 0xaa);
            Barrier barrier(3);
            hattn_status statuses[3];
            const auto member = [&](int rank) {
                hattn_team team = {3, rank, Barrier::wait, &barrier};
                hattn_exec exec = decode.job.exec;
                hattn_decode_args args = decode.job.decode_args();
                exec.team = &team;
                if (rank == refused && way == 0)
                    exec.workspace_size = 0;
                if (rank == refused && way == 1)
                    exec.workspace.data = nullptr;
                if (rank == refused && way == 2)
                    args.q.data = nullptr;
                statuses[rank] =
                    hattn_decode(rank == refused && way == 3 ? nullptr : decode.job.plan.get(), &args, &exec, nullptr);
            };
            std::thread one(member, 1), two(member, 2);
            member(0);
            one.join();
            two.join();
            for (int rank = 0; rank < 3; rank++)
                EXPECT_EQ(rank == refused, statuses[rank] != HATTN_OK) << "rank " << rank << " way " << way;
            EXPECT_EQ(decode.expected, decode.results()) << "refused " << refused << " way " << way;
        }
    EXPECT_EQ(decode.expected, decode.run(3)) << "the control region was left as it should be";
}

/* Five ranks on a device of three threads. */
TEST_P(HostProcessOf, TeamsMayBeLargerThanTheDevice)
{
    Decode decode(GetParam());
    for (int round = 0; round < 50; round++) {
        Barrier barrier(5);
        std::vector<std::thread> ranks;
        for (int rank = 0; rank < 5; rank++)
            ranks.emplace_back([&, rank] {
                hattn_team team = {5, rank, Barrier::wait, &barrier};
                hattn_exec exec = decode.job.exec;
                exec.team = &team;
                const hattn_decode_args args = decode.job.decode_args();
                EXPECT_EQ(HATTN_OK, hattn_decode(decode.job.plan.get(), &args, &exec, nullptr));
            });
        for (std::thread &rank : ranks)
            rank.join();
        ASSERT_EQ(decode.expected, decode.results());
        ASSERT_TRUE(decode.job.workspace_guard_intact());
    }
}

#if defined(__x86_64__)
TEST_P(HostProcessOf, TheCallersFloatingPointEnvironmentDoesNotMatter)
{
    hattn_problem p = plain_problem();
    p.key_norms = 1;
    p.page_size = 0;
    p.max_length = 64;
    p.k = 8;
    Device device(GetParam());
    Job job(device, completed(p));
    /* Subnormal numbers that rise with the position: the last eight are the largest. */
    for (int64_t i = 0; i < int64_t(job.bytes(job.scores).size()) / 4; i++)
        static_cast<float *>(job.scores.data)[i] = float(i % 64 + 1) * 1e-42f;
    const hattn_topk_args args = job.topk_args();
    hattn_topk_args all = args;
    all.budgets = {};
    const unsigned before = _mm_getcsr(),
                   changed = 0x1f80 | 0x8040 | 0x4000; /* to zero, subnormals are zero, upwards */
    for (int threads : {1, 3}) {
        job.exec.num_threads = threads;
        _mm_setcsr(changed);
        const hattn_status status = hattn_topk(job.plan.get(), &all, &job.exec, nullptr);
        const unsigned after = _mm_getcsr();
        _mm_setcsr(before);
        EXPECT_EQ(HATTN_OK, status);
        EXPECT_EQ(changed, after);
        for (int i = 0; i < 8; i++)
            EXPECT_EQ(56 + i, static_cast<const int32_t *>(
                                  job.indices.data)[job.p.indices.stride[0] + i]); /* a row that sees all */
    }
}
#endif

INSTANTIATE_TEST_SUITE_P(Backends, HostProcessOf, testing::Values("reference", "cpu"),
                         [](const auto &info) { return std::string(info.param); });

TEST(HostProcess, WorkspacesAreMadeReadyByAnyDevice)
{
    hattn_device *one = open_cpu(1), *many = open_cpu(64);
    hattn_plan *plan = nullptr;
    hattn_problem p = plain_problem();
    p.num_q_heads = p.num_kv_heads = 30;
    p.max_rows = 2;
    p.max_length = 4000;
    p.k = 4000;
    p = completed(p);
    ASSERT_EQ(HATTN_OK, hattn_plan_create(many, &p, &plan, nullptr));
    const uint64_t size = (hattn_plan_workspace_size(plan) + 255) / 256 * 256;
    std::unique_ptr<void, decltype(&free)> workspace(aligned_alloc(256, size), free);
    memset(workspace.get(), 0xaa, size);
    ASSERT_EQ(HATTN_OK, hattn_workspace_init(one, {workspace.get(), 0}, size, nullptr, nullptr));
    Device three("cpu");
    Job job(three, p);
    const hattn_attend_args args = [&] {
        hattn_attend_args dense = job.attend_args();
        dense.indices = dense.counts = {};
        return dense;
    }();
    ASSERT_EQ(HATTN_OK, hattn_attend(job.plan.get(), &args, &job.exec, nullptr));
    const std::vector<uint8_t> expected = job.bytes(job.out);
    std::fill(job.bytes(job.out).begin(), job.bytes(job.out).end(), 0x55);
    hattn_exec exec = sized<hattn_exec>();
    exec.workspace.data = workspace.get();
    exec.workspace_size = size;
    exec.num_threads = 64;
    ASSERT_EQ(HATTN_OK, hattn_attend(plan, &args, &exec, nullptr));
    EXPECT_EQ(expected, job.bytes(job.out));
    hattn_plan_destroy(plan);
    hattn_device_close(many);
    hattn_device_close(one);
}

void spin(std::chrono::microseconds time)
{
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end)
        continue;
}

/* Two ranks that come at different times, and keys that take long to encode: who is done first must not score what the other
 * has not encoded yet. */
TEST(HostProcess, AppendedKeysAreScoredAfterTheyAreEncoded)
{
    hattn_problem p = plain_problem();
    p.map_kind = HATTN_MAP_MLP;
    for (hattn_map *map : {&p.key_map, &p.query_map})
        map->hidden[0] = map->hidden[1] = 1024;
    p.head_dim_qk = 128;
    p.max_sequences = p.max_q_len = 1;
    p.max_length = 64;
    p.k = 32;
    Device device("cpu");
    Job job(device, completed(p), 5);
    job.exec.num_threads = 1;
    const hattn_encode_keys_args keys = job.encode_keys_args();
    ASSERT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &keys, &job.exec, nullptr));
    hattn_decode_args args = job.decode_args();
    args.budgets = {};
    ASSERT_EQ(HATTN_OK, hattn_decode(job.plan.get(), &args, &job.exec, nullptr));
    const std::vector<uint8_t> codes = job.bytes(job.codes), expected = job.bytes(job.indices);
    std::atomic<int> wrong{0};
    for (int round = 0; round < 100; round++) {
        /* Codes that are as far from the query as can be where the new ones belong, then as near. */
        std::vector<uint8_t> &spoiled = job.bytes(job.codes);
        spoiled = codes;
        for (int head = 0; head < 2; head++)
            for (int word = 0; word < 2; word++)
                reinterpret_cast<uint32_t *>(spoiled.data())[3 * job.p.codes.stride[0] + head * job.p.codes.stride[2] +
                                                             15 * job.p.codes.stride[1] + word] ^= ~0u;
        Barrier barrier(2);
        const auto member = [&](int rank) {
            hattn_team team = {2, rank, Barrier::wait, &barrier};
            hattn_exec exec = job.exec;
            exec.team = &team;
            Barrier::wait(&barrier);
            spin(std::chrono::microseconds(rank * round * 4));
            wrong += hattn_decode(job.plan.get(), &args, &exec, nullptr) != HATTN_OK;
        };
        std::thread other(member, 1);
        member(0);
        other.join();
        wrong += job.bytes(job.indices) != expected;
    }
    EXPECT_EQ(0, wrong);
}

/* Codes and norms of the same slots, written by two tokens each. */
TEST(HostProcess, TwoTokensInASlotLeaveOneOfThem)
{
    const int TOKENS = 64, SLOTS = 32;
    hattn_problem p = plain_problem();
    p.key_norms = 1;
    p.code_bits = 512;
    p.page_size = 0;
    p.max_sequences = 1;
    p.max_length = TOKENS;
    p = completed(p);
    Device device("cpu");
    Job job(device, p);
    ASSERT_EQ(TOKENS, job.num_tokens());
    hattn_encode_keys_args args = job.encode_keys_args();
    ASSERT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &args, &job.exec, nullptr));
    const std::vector<uint8_t> codes = job.bytes(job.codes), norms = job.bytes(job.norms);
    for (int64_t t = 0; t < TOKENS; t++)
        static_cast<int64_t *>(job.slot_mapping.data)[t] = t % SLOTS;
    job.exec.num_threads = 3;
    const size_t code = 64, norm = 2;
    int torn = 0;
    for (int round = 0; round < 2000; round++) {
        ASSERT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &args, &job.exec, nullptr));
        for (size_t head = 0; head < 2; head++)
            for (size_t slot = 0; slot < SLOTS; slot++) {
                bool whole = false;
                for (const size_t token : {slot, slot + SLOTS}) {
                    const size_t have = head * TOKENS + slot, want = head * TOKENS + token;
                    whole |= !memcmp(&job.bytes(job.codes)[have * code], &codes[want * code], code) &&
                             !memcmp(&job.bytes(job.norms)[have * norm], &norms[want * norm], norm);
                }
                torn += !whole;
            }
    }
    EXPECT_EQ(0, torn);
}

} // namespace
