/* SPDX-License-Identifier: Apache-2.0
 * Streams, threads, workspaces and devices, as serving engines mix them.
 */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <thread>

#include "core/sized.h"
#include "devices/timing.h"
#include "tests/device_contract.h"

namespace conformance {
namespace {

class DeviceStreams : public DeviceContract
{
protected:
    using Results = std::vector<std::vector<uint8_t>>;

    /* Decodes of different kinds, some of one problem, with what each gives when it runs alone. */
    void make_jobs()
    {
        for (const char *name : {"plain_append", "long", "long_weighted", "norms_contiguous", "mla", "q_ragged_padded",
                                 "long_clustered", "f8_scale_per_head", "mlp_8", "plain_append", "long"}) {
            jobs.push_back(std::make_unique<DeviceDecode>(memory, pinned, session->device, listed_problem(name),
                                                          10 + jobs.size()));
            workspaces.push_back(
                std::make_unique<DeviceWorkspace>(memory, session->device, jobs.back()->workspace_size()));
            ASSERT_EQ(jobs.back()->enqueue(workspaces.back()->exec(nullptr)), "") << name;
            alone.push_back(jobs.back()->results());
        }
    }

    std::vector<std::unique_ptr<DeviceDecode>> jobs;
    std::vector<std::unique_ptr<DeviceWorkspace>> workspaces; /* of each job */
    std::vector<Results> alone;
};

/* Nothing has begun when the call comes back, and all of it is on the stream. */
TEST_P(DeviceStreams, CallsOnlyEnqueue)
{
    DeviceCalls calls{memory, pinned};
    double longest = 0;
    calls.launch = [&](const std::function<hattn_status(void *)> &call) {
        OwnStream stream(streams);
        memory->synchronize();
        std::atomic<bool> open(false);
        streams->hold(stream.get(), &open);
        const auto start = std::chrono::steady_clock::now();
        const hattn_status status = call(stream.get());
        longest = std::max(longest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        open = true;
        stream.wait();
        return status;
    };
    session->runner = device_runner(calls);
    for (const char *name : {"plain_append", "long_weighted", "norms", "mla", "mlp_8", "q_ragged_padded",
                             "select_per_query_head", "f8_scale_per_head", "kv_on_host"})
        expect_passes(listed_problem(name), 5, "");
    EXPECT_LT(longest, 5) << "seconds: a call waited for the device";
}

/* Each with a stream and a workspace of its own, and a plan that is made while others run. */
TEST_P(DeviceStreams, ThreadsRunPlansAtOnce)
{
    make_jobs();
    std::vector<std::string> wrong(jobs.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < jobs.size(); i++)
        threads.emplace_back([&, i] {
            try {
                OwnStream stream(streams);
                for (int round = 0; round < 20 && wrong[i].empty(); round++) {
                    const Plan plan = make_plan(session->device, jobs[i]->instance.given);
                    jobs[i]->forget();
                    for (int step = 0; step < 20 && wrong[i].empty(); step++)
                        wrong[i] = jobs[i]->enqueue(workspaces[i]->exec(stream.get()), plan.get());
                    stream.wait();
                    if (wrong[i].empty() && jobs[i]->results() != alone[i])
                        wrong[i] = "other results in round " + std::to_string(round);
                }
            } catch (const std::runtime_error &error) {
                wrong[i] = error.what();
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    for (size_t i = 0; i < jobs.size(); i++) {
        EXPECT_EQ(wrong[i], "") << jobs[i]->instance.problem.name;
        EXPECT_TRUE(workspaces[i]->control_is_zero()) << jobs[i]->instance.problem.name;
    }
}

TEST_P(DeviceStreams, ThreadsShareOnePlan)
{
    const Problem problem = listed_problem("plain_append");
    DeviceDecode owner(memory, pinned, session->device, problem, 20);
    const size_t num_threads = 6;
    std::vector<std::string> wrong(num_threads);
    std::vector<std::unique_ptr<DeviceDecode>> others;
    std::vector<Results> expected;
    for (size_t i = 0; i < num_threads; i++) {
        others.push_back(std::make_unique<DeviceDecode>(memory, pinned, session->device, problem, 21 + i));
        DeviceWorkspace workspace(memory, session->device, owner.workspace_size());
        ASSERT_EQ(others[i]->enqueue(workspace.exec(nullptr)), "");
        expected.push_back(others[i]->results());
        others[i]->plan.reset();
        others[i]->forget();
    }
    std::vector<std::unique_ptr<DeviceWorkspace>> own;
    for (size_t i = 0; i < num_threads; i++)
        own.push_back(std::make_unique<DeviceWorkspace>(memory, session->device, owner.workspace_size()));
    std::vector<std::thread> threads;
    for (size_t i = 0; i < num_threads; i++)
        threads.emplace_back([&, i] {
            try {
                OwnStream stream(streams);
                for (int step = 0; step < 300 && wrong[i].empty(); step++)
                    wrong[i] = others[i]->enqueue(own[i]->exec(stream.get()), owner.plan.get());
                stream.wait();
                if (wrong[i].empty() && others[i]->results() != expected[i])
                    wrong[i] = "other results";
            } catch (const std::runtime_error &error) {
                wrong[i] = error.what();
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    for (size_t i = 0; i < num_threads; i++)
        EXPECT_EQ(wrong[i], "") << i;
}

TEST_P(DeviceStreams, PlansShareAWorkspaceInOrder)
{
    make_jobs();
    uint64_t largest = 0;
    for (const auto &job : jobs)
        largest = std::max(largest, job->workspace_size());
    DeviceWorkspace workspace(memory, session->device, largest);
    OwnStream stream(streams);
    for (const auto &job : jobs)
        job->forget();
    for (int round = 0; round < 30; round++)
        for (const auto &job : jobs)
            ASSERT_EQ(job->enqueue(workspace.exec(stream.get())), "");
    stream.wait();
    EXPECT_TRUE(workspace.control_is_zero());
    for (size_t i = 0; i < jobs.size(); i++)
        EXPECT_TRUE(jobs[i]->results() == alone[i]) << jobs[i]->instance.problem.name;
}

/* As hattn decode and hattn bench rely on: no copy overtakes a run on the stopwatch's stream. */
TEST_P(DeviceStreams, CopiesWaitForTheStopwatch)
{
    DeviceDecode job(memory, pinned, session->device, listed_problem("plain_append"), 50);
    DeviceWorkspace workspace(memory, session->device, job.workspace_size());
    const Results before = job.results();
    ASSERT_EQ(job.enqueue(workspace.exec(nullptr)), "");
    const Results expected = job.results();
    const auto stopwatch = devices::stopwatch_of(GetParam());
    /* The run begins when the copies have long been asked for. */
    const auto with_held_run = [&](const std::function<void()> &copies) {
        job.forget();
        std::atomic<bool> open(false);
        streams->hold(stopwatch->stream(), &open);
        EXPECT_EQ(job.enqueue(workspace.exec(stopwatch->stream())), "");
        std::thread opener([&open] {
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
            open = true;
        });
        copies();
        opener.join();
        streams->wait(stopwatch->stream());
    };
    Results read;
    with_held_run([&] { read = job.results(); });
    EXPECT_TRUE(read == expected) << "read before the run had written";
    with_held_run([&] { job.forget(); });
    EXPECT_TRUE(job.results() == before) << "written before the run had";
}

/* A thread that has never used the device. */
TEST_P(DeviceStreams, NewThreadsNeedNoSetup)
{
    DeviceDecode job(memory, pinned, session->device, listed_problem("plain_append"), 30);
    DeviceWorkspace workspace(memory, session->device, job.workspace_size());
    ASSERT_EQ(job.enqueue(workspace.exec(nullptr)), "");
    const Results expected = job.results();
    job.forget();
    std::string wrong = "did not run";
    std::thread([&] { wrong = job.enqueue(workspace.exec(nullptr)); }).join();
    EXPECT_EQ(wrong, "");
    EXPECT_TRUE(job.results() == expected);
}

TEST_P(DeviceStreams, CurrentDeviceIsLeftAsFound)
{
    const int count = streams->num_devices();
    if (count < 2)
        GTEST_SKIP() << "needs two devices, there is " << count;
    /* The session's device is number 0. */
    const Problem problem = listed_problem("plain_append");
    OwnStream stream(streams);
    DeviceDecode job(memory, pinned, session->device, problem, 40);
    DeviceWorkspace workspace(memory, session->device, job.workspace_size());
    ASSERT_EQ(job.enqueue(workspace.exec(stream.get())), "");
    const Results expected = job.results();
    job.forget();
    streams->set_current_device(1);
    hattn_device_options options = sized<hattn_device_options>();
    options.backend = GetParam().c_str();
    hattn_device *device = nullptr;
    EXPECT_EQ(hattn_device_open(&options, &device, nullptr), HATTN_OK);
    EXPECT_EQ(streams->current_device(), 1) << "device_open";
    {
        const Plan plan = make_plan(device, job.instance.given);
        EXPECT_EQ(streams->current_device(), 1) << "plan_create";
        const hattn_exec exec = workspace.exec(stream.get());
        EXPECT_EQ(hattn_workspace_init(device, exec.workspace, exec.workspace_size, exec.stream, nullptr), HATTN_OK);
        EXPECT_EQ(streams->current_device(), 1) << "workspace_init";
        EXPECT_EQ(job.enqueue(exec, plan.get()), "");
        EXPECT_EQ(streams->current_device(), 1) << "decode";
        hattn_exec refused = exec;
        refused.workspace_size = 1;
        EXPECT_NE(job.enqueue(refused, plan.get()), "");
        EXPECT_EQ(streams->current_device(), 1) << "a refusal";
        stream.wait();
    }
    EXPECT_EQ(streams->current_device(), 1) << "plan_destroy";
    hattn_device_close(device);
    EXPECT_EQ(streams->current_device(), 1) << "device_close";
    streams->set_current_device(0);
    EXPECT_TRUE(job.results() == expected);

    /* The other device, while the first is current. */
    options.index = 1;
    ASSERT_EQ(hattn_device_open(&options, &device, nullptr), HATTN_OK);
    EXPECT_EQ(streams->current_device(), 0) << "device_open";
    streams->set_current_device(1);
    {
        OwnStream other(streams);
        DeviceDecode there(memory, pinned, device, problem, 40);
        DeviceWorkspace own(memory, device, there.workspace_size());
        streams->set_current_device(0);
        EXPECT_EQ(there.enqueue(own.exec(other.get())), "");
        EXPECT_EQ(streams->current_device(), 0) << "decode";
        streams->set_current_device(1);
        EXPECT_TRUE(there.results() == expected);
    }
    hattn_device_close(device);
    streams->set_current_device(0);
}

/* Builds of the kernels that check say so; others may give anything, or wait for ever. Each fault ends a process's device. */
TEST_P(DeviceStreams, PoisonedWorkspacesAreNoticed)
{
    if (!strstr(session->info.isa, "checked"))
        GTEST_SKIP() << "not a build that checks: " << session->info.isa;
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    for (const uint64_t poison : {uint64_t(1), uint64_t(0xAAAAAAAAAAAAAAAA), uint64_t(0xFFFFFFFFFFFFFFFF)})
        EXPECT_EXIT(
            {
                DeviceDecode job(memory, pinned, session->device, listed_problem("plain_append"), 31);
                DeviceWorkspace workspace(memory, session->device, job.workspace_size());
                if (!job.enqueue(workspace.exec(nullptr)).empty())
                    _Exit(1);
                job.results();
                memory->fill(workspace.exec(nullptr).workspace.data, 1 << 20, 0, poison, 1);
                try {
                    job.enqueue(workspace.exec(nullptr));
                    memory->synchronize();
                } catch (const std::runtime_error &) {
                    _Exit(0);
                }
                _Exit(2);
            },
            testing::ExitedWithCode(0), "")
            << std::hex << poison;
}

FOR_DEVICE_BACKENDS(DeviceStreams);

} // namespace
} // namespace conformance
