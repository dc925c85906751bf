/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/cuda_streams.h"

#include <cuda_runtime.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace devices {
namespace {

void check(cudaError_t error)
{
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("cuda: ") + cudaGetErrorString(error));
}

cudaStream_t of(void *stream)
{
    return static_cast<cudaStream_t>(stream);
}

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
    void release(void *stream) const override { check(cudaStreamDestroy(of(stream))); }
    void wait(void *stream) const override { check(cudaStreamSynchronize(of(stream))); }
    void hold(void *stream, const std::atomic<bool> *open) const override
    {
        check(cudaLaunchHostFunc(of(stream), wait_until_open, const_cast<std::atomic<bool> *>(open)));
    }
    void write(void *to_device, const void *from_host, size_t size, void *stream) const override
    {
        check(cudaMemcpyAsync(to_device, from_host, size, cudaMemcpyHostToDevice, of(stream)));
    }
    void fill(void *device, int byte, size_t size, void *stream) const override
    {
        check(cudaMemsetAsync(device, byte, size, of(stream)));
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
    size_t available_memory() const override
    {
        size_t available, total;
        check(cudaMemGetInfo(&available, &total));
        return available;
    }
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
    void release(void *address) const override { check(cudaFreeHost(address)); }
    void write(void *to_pinned, const void *from_host, size_t size) const override { memcpy(to_pinned, from_host, size); }
    void read(void *to_host, const void *from_pinned, size_t size) const override { memcpy(to_host, from_pinned, size); }
    void synchronize() const override { check(cudaDeviceSynchronize()); }
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
