/* SPDX-License-Identifier: Apache-2.0
 * Which backend has what.
 */
#include "devices/memory.h"

#include <chrono>

#include "devices/cuda.h"
#include "devices/hip.h"
#include "devices/model.h"
#include "devices/opencl.h"
#include "devices/probe.h"
#include "devices/streams.h"
#include "devices/timing.h"

namespace devices {
namespace {

class HostRecording : public Recording
{
public:
    explicit HostRecording(const std::function<void()> &calls) : calls_(calls) {}

    double replay() override
    {
        const auto start = std::chrono::steady_clock::now();
        calls_();
        return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    }

private:
    std::function<void()> calls_;
};

class HostStopwatch : public Stopwatch
{
public:
    void *stream() const override { return nullptr; }
    std::unique_ptr<Recording> record(const std::function<void()> &calls) override
    {
        return std::make_unique<HostRecording>(calls);
    }
};

const Model *no_model() { return nullptr; }

const Probe *no_probe() { return nullptr; }

/* Of a backend that is not built, each gives null (absent_NAME.cc). */
const struct Backend {
    const char *name;
    const Memory *(*memory)(), *(*pinned_memory)();
    const Probe *(*probe)();
    const Model *(*model)();
    const Streams *(*streams)();
    std::unique_ptr<Stopwatch> (*stopwatch)();
} BACKENDS[] = {
    {"cuda", cuda_memory, cuda_pinned_memory, cuda_probe, cuda_model, cuda_streams, cuda_stopwatch},
    {"hip", hip_memory, hip_pinned_memory, no_probe, no_model, hip_streams, hip_stopwatch},
    {"opencl", opencl_memory, opencl_pinned_memory, opencl_probe, no_model, opencl_streams, opencl_stopwatch},
};

template <typename Thing>
Thing of(const std::string &backend, Thing (*Backend::*make)())
{
    for (const Backend &one : BACKENDS)
        if (backend == one.name)
            return (one.*make)();
    return nullptr;
}

} // namespace

const Memory *memory_of(const std::string &backend) { return of(backend, &Backend::memory); }

const Probe *probe_of(const std::string &backend) { return of(backend, &Backend::probe); }

const Model *model_of(const std::string &backend) { return of(backend, &Backend::model); }

const Streams *streams_of(const std::string &backend) { return of(backend, &Backend::streams); }

const Memory *pinned_memory_of(const std::string &backend) { return of(backend, &Backend::pinned_memory); }

std::unique_ptr<Stopwatch> stopwatch_of(const std::string &backend)
{
    std::unique_ptr<Stopwatch> own = of(backend, &Backend::stopwatch);
    return own ? std::move(own) : std::make_unique<HostStopwatch>();
}

} // namespace devices
