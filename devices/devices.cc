/* SPDX-License-Identifier: Apache-2.0
 * Which backend has what.
 */
#include "devices/memory.h"

#include <chrono>

#include "devices/cuda.h"
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

} // namespace

const Memory *memory_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_memory();
#endif
#ifdef HATTN_BUILD_OPENCL
    if (backend == "opencl")
        return opencl_memory();
#endif
    (void)backend;
    return nullptr;
}

const Probe *probe_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_probe();
#endif
#ifdef HATTN_BUILD_OPENCL
    if (backend == "opencl")
        return opencl_probe();
#endif
    (void)backend;
    return nullptr;
}

const Model *model_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_model();
#endif
    (void)backend;
    return nullptr;
}

const Streams *streams_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_streams();
#endif
#ifdef HATTN_BUILD_OPENCL
    if (backend == "opencl")
        return opencl_streams();
#endif
    (void)backend;
    return nullptr;
}

const Memory *pinned_memory_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_pinned_memory();
#endif
#ifdef HATTN_BUILD_OPENCL
    if (backend == "opencl")
        return opencl_pinned_memory();
#endif
    (void)backend;
    return nullptr;
}

std::unique_ptr<Stopwatch> stopwatch_of(const std::string &backend)
{
#ifdef HATTN_BUILD_CUDA
    if (backend == "cuda")
        return cuda_stopwatch();
#endif
#ifdef HATTN_BUILD_OPENCL
    if (backend == "opencl")
        return opencl_stopwatch();
#endif
    (void)backend;
    return std::make_unique<HostStopwatch>();
}

} // namespace devices
