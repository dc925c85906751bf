/* SPDX-License-Identifier: Apache-2.0 */
#include <cuda_runtime.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "devices/cuda.h"
#include "devices/cuda_check.cuh"

namespace devices {
namespace {

cudaStream_t of(void *stream) { return static_cast<cudaStream_t>(stream); }

void wait_until_open(void *flag)
{
    const auto *open = static_cast<const std::atomic<bool> *>(flag);
    const auto start = std::chrono::steady_clock::now();
    while (!*open && std::chrono::steady_clock::now() - start < std::chrono::seconds(10))
        std::this_thread::sleep_for(std::chrono::microseconds(20));
}

class CudaGraph : public Graph
{
public:
    explicit CudaGraph(cudaGraph_t graph)
    {
        const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
        cudaGraphDestroy(graph);
        check(error);
    }
    ~CudaGraph() override { cudaGraphExecDestroy(executable_); }
    CudaGraph(const CudaGraph &) = delete;
    CudaGraph &operator=(const CudaGraph &) = delete;

    void replay(void *stream) const override { check(cudaGraphLaunch(executable_, of(stream))); }

private:
    cudaGraphExec_t executable_ = nullptr;
};

class CudaStreams : public Streams
{
public:
    void *make() const override
    {
        cudaStream_t stream;
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        return stream;
    }
    void release(void *stream) const override { cudaStreamDestroy(of(stream)); } /* from destructors */
    void wait(void *stream) const override { check(cudaStreamSynchronize(of(stream))); }
    void hold(void *stream, const std::atomic<bool> *open) const override
    {
        check(cudaLaunchHostFunc(of(stream), wait_until_open, const_cast<std::atomic<bool> *>(open)));
    }
    void begin_capture(void *stream) const override
    {
        check(cudaStreamBeginCapture(of(stream), cudaStreamCaptureModeGlobal));
    }
    std::unique_ptr<Graph> end_capture(void *stream) const override
    {
        cudaGraph_t graph;
        check(cudaStreamEndCapture(of(stream), &graph));
        return std::make_unique<CudaGraph>(graph);
    }
    int num_devices() const override
    {
        int count;
        check(cudaGetDeviceCount(&count));
        return count;
    }
    int current_device() const override
    {
        int index;
        check(cudaGetDevice(&index));
        return index;
    }
    void set_current_device(int index) const override { check(cudaSetDevice(index)); }
    void leave_error() const override { cudaSetDevice(-1); }
    bool take_error() const override { return cudaGetLastError() == cudaErrorInvalidDevice; }
};

/* One address for both sides. */
class CudaPinnedMemory : public Memory
{
public:
    void *allocate(size_t size) const override
    {
        void *address;
        check(cudaHostAlloc(&address, size ? size : 1, cudaHostAllocMapped | cudaHostAllocPortable));
        return address;
    }
    void release(void *address) const override { cudaFreeHost(address); } /* from destructors */
    void write(void *to_pinned, const void *from_host, size_t size) const override
    {
        memcpy(to_pinned, from_host, size);
    }
    void read(void *to_host, const void *from_pinned, size_t size) const override
    {
        memcpy(to_host, from_pinned, size);
    }
    void fill(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed) const override
    {
        cuda_memory()->fill(data, size, keep, set, seed);
    }
    void synchronize() const override { cuda_memory()->synchronize(); }
    Properties properties() const override { return cuda_memory()->properties(); }
};

} // namespace

const Streams *cuda_streams()
{
    static const CudaStreams streams;
    return &streams;
}

const Memory *cuda_pinned_memory()
{
    static const CudaPinnedMemory memory;
    return &memory;
}

} // namespace devices
