/* SPDX-License-Identifier: Apache-2.0 */
#include <cuda_runtime.h>

#include "devices/cuda.h"
#include "devices/cuda_check.cuh"
#include "devices/random_word.h"

namespace devices {
namespace {

enum { THREADS = 256 };

__global__ void fill_words(uint8_t *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed)
{
    const size_t num_words = size / 8, stride = size_t(gridDim.x) * THREADS;
    for (size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x; i <= num_words; i += stride) {
        const uint64_t word = (random_word(seed, i) & keep) | set;
        if (i < num_words)
            reinterpret_cast<uint64_t *>(data)[i] = word;
        else
            for (size_t byte = 0; byte < size % 8; byte++)
                data[num_words * 8 + byte] = uint8_t(word >> 8 * byte);
    }
}

/* As CUDA counts them: 12040 is 12.4. */
std::string version_text(int version)
{
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
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

    /* From destructors: a fault of a kernel, which would show here again, has been thrown by the call that waited. */
    void release(void *address) const override { cudaFree(address); }

    void write(void *to_device, const void *from_host, size_t size) const override
    {
        check(cudaMemcpy(to_device, from_host, size, cudaMemcpyHostToDevice));
    }

    void read(void *to_host, const void *from_device, size_t size) const override
    {
        check(cudaMemcpy(to_host, from_device, size, cudaMemcpyDeviceToHost));
    }

    void fill(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed) const override
    {
        fill_words<<<unsigned(8 * num_multiprocessors()), THREADS>>>(static_cast<uint8_t *>(data), size, keep, set,
                                                                     seed);
        check(cudaGetLastError());
        synchronize();
    }

    void synchronize() const override { check(cudaDeviceSynchronize()); }

    Properties properties() const override
    {
        int device, cache, driver, runtime;
        size_t available, total;
        check(cudaGetDevice(&device));
        check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device));
        check(cudaMemGetInfo(&available, &total));
        check(cudaDriverGetVersion(&driver));
        check(cudaRuntimeGetVersion(&runtime));
        return {total, available, size_t(cache), version_text(driver), version_text(runtime)};
    }
};

} // namespace

const Memory *cuda_memory()
{
    static const CudaMemory memory;
    return &memory;
}

} // namespace devices
