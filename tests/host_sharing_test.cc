/* SPDX-License-Identifier: Apache-2.0
 * What several threads, teams and devices share: refused ranks, floating-point environments, workspaces, slots.
 */
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/host_process.h"

namespace {

void spin(std::chrono::microseconds time)
{
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end)
        continue;
}

class HostProcessOf : public testing::TestWithParam<const char *>
{
};

TEST_P(HostProcessOf, ARefusedRankHangsNobody)
{
    alarm(SANITIZED ? 200 : 30); /* or who waits for it would wait for ever */
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
                hattn_decode_args args = decode.job.decode_args(true);
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
    alarm(0);
    EXPECT_EQ(decode.expected, decode.run(3)) << "the control region was left as it should be";
}

/* Five ranks on a device of three threads, each of them the first to come now and then. */
TEST_P(HostProcessOf, TeamsMayBeLargerThanTheDevice)
{
    const int SIZE = 5, ROUNDS = 400;
    Decode decode(GetParam());
    Barrier barrier(SIZE);
    std::atomic<int> wrong{0};
    std::vector<std::thread> ranks;
    for (int rank = 0; rank < SIZE; rank++)
        ranks.emplace_back([&, rank] {
            hattn_team team = {SIZE, rank, Barrier::wait, &barrier};
            hattn_exec exec = decode.job.exec;
            exec.team = &team;
            const hattn_decode_args args = decode.job.decode_args(true);
            for (int round = 0; round < ROUNDS; round++) {
                Barrier::wait(&barrier);
                if ((round + rank) % SIZE)
                    spin(std::chrono::microseconds(20));
                wrong += hattn_decode(decode.job.plan.get(), &args, &exec, nullptr) != HATTN_OK;
                wrong += rank == 0 && decode.expected != decode.results();
            }
        });
    for (std::thread &rank : ranks)
        rank.join();
    EXPECT_EQ(0, wrong);
    EXPECT_TRUE(decode.job.workspace_guard_intact());
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
        hattn_attend_args dense = job.attend_args(true);
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

/* Two ranks that come at different times, and keys that take long to encode: who is done first must not score what the other
 * has not encoded yet. */
TEST(HostProcess, AppendedKeysAreScoredAfterTheyAreEncoded)
{
    hattn_problem p = plain_problem();
    p.map_kind = HATTN_MAP_MLP;
    p.key_map.hidden[0] = p.key_map.hidden[1] = 1024;
    p.query_map.hidden[0] = p.query_map.hidden[1] = 8;
    p.head_dim_qk = 128;
    p.max_sequences = p.max_q_len = 1;
    p.max_length = 64;
    p.k = 32;
    Device device("cpu");
    Job job(device, completed(p), 5);
    job.exec.num_threads = 1;
    const hattn_encode_keys_args keys = job.encode_keys_args();
    ASSERT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &keys, &job.exec, nullptr));
    hattn_decode_args args = job.decode_args(true);
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
    setenv("HATTN_CPU_DISABLE", "avx512,avx2,neon", 1); /* scalar code writes a code word by word */
    Device device("cpu");
    unsetenv("HATTN_CPU_DISABLE");
    Job job(device, p);
    ASSERT_EQ(TOKENS, job.num_tokens);
    hattn_encode_keys_args args = job.encode_keys_args();
    ASSERT_EQ(HATTN_OK, hattn_encode_keys(job.plan.get(), &args, &job.exec, nullptr));
    const std::vector<uint8_t> codes = job.bytes(job.codes), norms = job.bytes(job.norms);
    for (int64_t t = 0; t < TOKENS; t++)
        static_cast<int64_t *>(job.slot_mapping.data)[t] = t % SLOTS;
    /* A team of two that starts as one: each has the tokens that the other's slots are written by. */
    const size_t code = 64, norm = 2;
    std::atomic<int> entered{0};
    int torn = 0;
    const auto meet = [&](int number) {
        entered++;
        while (entered < number)
            std::this_thread::yield();
    };
    Barrier barrier(2);
    const auto member = [&](int rank) {
        hattn_team team = {2, rank, Barrier::wait, &barrier};
        hattn_exec exec = job.exec;
        exec.team = &team;
        for (int round = 0; round < 4000; round++) {
            meet(4 * round + 2);
            hattn_encode_keys(job.plan.get(), &args, &exec, nullptr);
            for (size_t place = 0; rank == 0 && place < 2 * SLOTS; place++) {
                const size_t head = place / SLOTS, slot = place % SLOTS, have = head * TOKENS + slot;
                bool whole = false;
                for (const size_t want : {have, have + SLOTS})
                    whole |= !memcmp(&job.bytes(job.codes)[have * code], &codes[want * code], code) &&
                             !memcmp(&job.bytes(job.norms)[have * norm], &norms[want * norm], norm);
                torn += !whole;
            }
            meet(4 * round + 4);
        }
    };
    std::thread other(member, 1);
    member(0);
    other.join();
    EXPECT_EQ(0, torn);
}

} // namespace
