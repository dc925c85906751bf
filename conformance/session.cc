/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/session.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <thread>

#include <pthread.h>

#include "conformance/device_runner.h"
#include "contract/flips.h"
#include "core/sized.h"
#include "devices/streams.h"

namespace conformance {
namespace {

/* 0: as many as the library thinks that the work is worth. */
const int THREAD_COUNTS[] = {0, 1, 2, 3, 7};
const int MAX_THREADS = 7;

std::string describe(hattn_status status, const hattn_error &error)
{
    return status ? std::string("returned '") + hattn_status_string(status) + "': " + error.text : "";
}

void wait(void *barrier) { pthread_barrier_wait(static_cast<pthread_barrier_t *>(barrier)); }

std::string run_team(int size, const hattn_exec &exec, const Call &call)
{
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, nullptr, size);
    std::vector<std::string> results(size);
    auto member = [&](int rank) {
        hattn_team team = {size, rank, wait, &barrier};
        hattn_exec own = exec;
        own.team = &team;
        hattn_error error = {};
        hattn_status status = call(&own, &error);
        results[rank] = describe(status, error);
    };
    std::vector<std::thread> threads;
    for (int rank = 1; rank < size; rank++)
        threads.emplace_back(member, rank);
    member(0);
    for (std::thread &thread : threads)
        thread.join();
    pthread_barrier_destroy(&barrier);
    for (const std::string &result : results)
        if (!result.empty())
            return result;
    return "";
}

/* Calls on a device whose runtime has an error for the engine around the library to read: it is none of theirs. */
std::function<hattn_status(const std::function<hattn_status(void *)> &)> with_unread_error(const std::string &backend)
{
    const devices::Streams *streams = devices::streams_of(backend);
    const devices::Memory *memory = devices::memory_of(backend);
    return [streams, memory](const std::function<hattn_status(void *)> &call) {
        streams->leave_error();
        const hattn_status status = call(memory->stream());
        if (!streams->take_error())
            throw std::runtime_error("the caller's own error, which it had not read yet, is gone");
        return status;
    };
}

} // namespace

std::string Flips::verdict() const
{
    auto check = [](const char *what, uint64_t flips, uint64_t count, double share) {
        bool enough = static_cast<double>(count) * share >= 10;
        if (!enough || static_cast<double>(flips) <= static_cast<double>(count) * share)
            return std::string();
        return std::to_string(flips) + " of " + std::to_string(count) + " " + what +
               " differ from the reference: more than roundings explain";
    };
    std::string bits_verdict = check("code bits", bit_flips, bits, contract::MAX_BIT_FLIPS);
    return bits_verdict.empty() ? check("weights", weight_flips, weights, contract::MAX_WEIGHT_FLIPS) : bits_verdict;
}

Workspace::Workspace(const Session &session, uint64_t size) : memory_("workspace", size, Region::AT_END, 0xAA, 256)
{
    hattn_error error = {};
    if (hattn_status status = session.runner.workspace_init(session.device, buffer(), size, nullptr, &error))
        throw std::runtime_error("hattn_workspace_init " + describe(status, error));
    while (control_size_ < memory_.size() && memory_.data()[control_size_] == 0)
        control_size_++;
}

std::string Workspace::check() const
{
    /* Megabytes of zeros, by the library's compare. */
    const bool is_zero =
        !control_size_ || (!memory_.data()[0] && !memcmp(memory_.data(), memory_.data() + 1, control_size_ - 1));
    for (size_t i = 0; i < control_size_ && !is_zero; i++)
        if (memory_.data()[i])
            return "the workspace's control region is not zero at byte " + std::to_string(i);
    for (const uint8_t *p = memory_.data() + memory_.size(); p < memory_.end(); p++)
        if (*p != 0xAA)
            return "wrote past the workspace: byte " + std::to_string(p - memory_.data()) + " of " +
                   std::to_string(memory_.size());
    for (const uint8_t *p = memory_.begin(); p < memory_.data(); p++)
        if (*p != 0xAA)
            return "wrote before the workspace: byte " + std::to_string(p - memory_.data());
    return "";
}

std::vector<Target> all_targets()
{
    std::vector<Target> targets;
    for (int i = 0; i < hattn_backend_count(); i++) {
        hattn_backend_info info = sized<hattn_backend_info>();
        if (hattn_backend_query(i, &info, nullptr))
            continue;
        if (std::string(info.name) == "cpu")
            for (const char *isa : {"scalar", "neon", "avx2", "avx512"})
                targets.push_back({info.name, isa});
        else
            targets.push_back({info.name, ""});
    }
    return targets;
}

Session::Session(Target tested) : target(std::move(tested))
{
    hattn_device_options options = sized<hattn_device_options>();
    options.backend = target.backend.c_str();
    options.isa = target.isa.empty() ? nullptr : target.isa.c_str();
    options.max_threads = MAX_THREADS;
    const devices::Memory *memory = devices::memory_of(target.backend);
    if (memory)
        memory->choose(&options);
    hattn_error error = {};
    if (hattn_status status = hattn_device_open(&options, &device, &error)) {
        if (status != HATTN_NO_DEVICE)
            throw std::runtime_error(target.text() + ": hattn_device_open " + describe(status, error));
        skipped = error.text;
        return;
    }
    if (memory)
        runner = device_runner({memory, devices::pinned_memory_of(target.backend), with_unread_error(target.backend)});
    info = sized<hattn_device_info>();
    hattn_device_query(device, &info, nullptr);
    if (!target.isa.empty() && target.isa != info.isa)
        skipped = target.text() + ": no kernels, the device chose " + info.isa;
}

Session::~Session()
{
    shared_.reset();
    hattn_device_close(device);
}

Workspace &Session::shared_workspace(uint64_t size)
{
    if (!shared_ || shared_->size() < size)
        shared_ = std::make_unique<Workspace>(*this, std::max<uint64_t>(2 * size, 1 << 20));
    return *shared_;
}

std::string Manner::text() const
{
    return std::string(team ? "a team of " : "threads: ") + std::to_string(threads) +
           (shared_workspace ? ", shared workspace" : "") + (bare ? ", no optional outputs" : "");
}

std::vector<Manner> all_manners(const Session &session)
{
    std::vector<Manner> manners = {{false, 1, false, false}};
    if (session.info.max_threads > 1)
        for (bool team : {false, true})
            for (int threads : THREAD_COUNTS)
                if (team ? threads > 0 : threads != 1)
                    manners.push_back({team, threads, false, false});
    manners.push_back({false, 1, true, false});
    manners.push_back({false, 1, false, true});
    return manners;
}

std::string run_in_manner(const Manner &manner, const Workspace &workspace, const std::string &context,
                          const Call &call)
{
    hattn_exec exec = sized<hattn_exec>();
    exec.workspace = workspace.buffer();
    exec.workspace_size = workspace.size();
    std::string result, fault = run_guarded(context + ", " + manner.text(), manner.threads == 1, [&] {
                            if (manner.team) {
                                result = run_team(manner.threads, exec, call);
                            } else {
                                exec.num_threads = manner.threads;
                                hattn_error error = {};
                                hattn_status status = call(&exec, &error);
                                result = describe(status, error);
                            }
                        });
    if (!fault.empty())
        return fault;
    return result.empty() ? workspace.check() : result;
}

} // namespace conformance
