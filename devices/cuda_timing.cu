/* SPDX-License-Identifier: Apache-2.0 */
#include <cuda_runtime.h>

#include "devices/cuda.h"
#include "devices/cuda_check.cuh"

namespace devices {
namespace {

class Event
{
public:
    Event() { check(cudaEventCreate(&event_)); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;
    cudaEvent_t get() const { return event_; }

    /* As a node of the graph that is being captured: the time stamps then lie right before and after the calls, without
     * the launch of the graph. */
    void capture(cudaStream_t stream) const
    {
        check(cudaEventRecordWithFlags(event_, stream, cudaEventRecordExternal));
    }

private:
    cudaEvent_t event_;
};

class CudaRecording : public Recording
{
public:
    CudaRecording(cudaStream_t stream, const std::function<void()> &calls) : stream_(stream)
    {
        cuda_streams()->begin_capture(stream);
        try {
            start_.capture(stream);
            calls();
            stop_.capture(stream);
        } catch (...) {
            drop_capture();
            throw;
        }
        graph_ = cuda_streams()->end_capture(stream);
    }

    double replay() override
    {
        float ms;
        graph_->replay(stream_);
        cuda_streams()->wait(stream_);
        check(cudaEventElapsedTime(&ms, start_.get(), stop_.get()));
        return double(ms) * 1e3;
    }

private:
    /* The first error counts, not that of the end. */
    void drop_capture() const
    {
        try {
            cuda_streams()->end_capture(stream_);
        } catch (const std::runtime_error &) {
        }
    }

    cudaStream_t stream_;
    Event start_, stop_;
    std::unique_ptr<Graph> graph_;
};

class CudaStopwatch : public Stopwatch
{
public:
    /* Ordered with the legacy stream, which the copies of cuda_memory use. */
    CudaStopwatch() { check(cudaStreamCreate(&stream_)); }
    ~CudaStopwatch() override { cudaStreamDestroy(stream_); }

    void *stream() const override { return stream_; }

    std::unique_ptr<Recording> record(const std::function<void()> &calls) override
    {
        return std::make_unique<CudaRecording>(stream_, calls);
    }

private:
    cudaStream_t stream_;
};

} // namespace

std::unique_ptr<Stopwatch> cuda_stopwatch() { return std::make_unique<CudaStopwatch>(); }

} // namespace devices
