/* SPDX-License-Identifier: Apache-2.0
 * The library's threads inside somebody else's process: fork, limits, callers that share them.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "tests/host_process.h"

namespace {

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
    /* Until its helpers sleep, in what a child that joins them waits for. */
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
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
        const hattn_decode_args args = job.decode_args(true);
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

} // namespace
