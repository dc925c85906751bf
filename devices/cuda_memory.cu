/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/cuda_memory.h"

#include <cuda_runtime.h>

#include <stdexcept>

namespace devices {
namespace {

void check(cudaError_t error)
{
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("cuda: ") + cudaGetErrorString(error));
}

class CudaMemory : public Memory
{
public:
    void *allocate(size_t size) const override
    {
        void *address;
        check(cudaMalloc(&address, size ? size : 1));
        return address;
    }

    void release(void *address) const override
    {
        check(cudaFree(address));
    }

    void write(void *to_device, const void *from_host, size_t size) const override
    {
        check(cudaMemcpy(to_device, from_host, size, cudaMemcpyHostToDevice));
    }

    void read(void *to_host, const void *from_device, size_t size) const override
    {
        check(cudaMemcpy(to_host, from_device, size, cudaMemcpyDeviceToHost));
    }

    void synchronize() const override
    {
        check(cudaDeviceSynchronize());
    }
};

} // namespace

const Memory *cuda_memory()
{
    static const CudaMemory memory;
    return &memory;
}

} // namespace devices
