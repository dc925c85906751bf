/* SPDX-License-Identifier: Apache-2.0
 * Blocks: their size, counters that their threads share, and sums over all of them.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_BLOCK_CUH
#define HATTN_KERNELS_CUDA_DEVICE_BLOCK_CUH

#include "kernels_cuda/device/warp.cuh"

namespace hattn {

constexpr int kThreads = 256; /* of a block, but for those that encode many keys by a linear map */
constexpr int kWarps = kThreads / 32;

/* Adds to a word of shared or global memory, in no order with anything else; returns what it was. */
__device__ inline uint32_t atomic_add(uint32_t *word, uint32_t amount) { return atomicAdd(word, amount); }

__device__ inline void atomic_add(uint64_t *word, uint64_t amount)
{
    atomicAdd(reinterpret_cast<unsigned long long *>(word), static_cast<unsigned long long>(amount));
}

/* Counters in shared memory by their 32-bit address: one instruction a count, where a pointer would cost several. */
class SharedCounters
{
public:
#ifdef HATTN_PORTABLE
    __device__ explicit SharedCounters(uint32_t *first) : first_(first) {}
    __device__ void count(uint32_t index) const { atomic_add(first_ + index, 1u); }

private:
    uint32_t *first_;
#else
    __device__ explicit SharedCounters(uint32_t *first) : first_(static_cast<uint32_t>(__cvta_generic_to_shared(first)))
    {
    }
    __device__ void count(uint32_t index) const
    {
        asm volatile("red.shared.add.u32 [%0],1;" ::"r"(first_ + 4 * index) : "memory");
    }

private:
    uint32_t first_;
#endif
};

/* Exclusive sum over the threads of the block, and the total; `sums` is kWarps words of shared memory. Ends with
 * every thread free to go on, but `sums` must not be written before the next barrier. */
__device__ inline uint32_t block_scan(uint32_t x, uint32_t *sums, uint32_t *total)
{
    const uint32_t inclusive = warp_scan(x);
    if (lane_id() == 31)
        sums[warp_id()] = inclusive;
    __syncthreads();
    uint32_t before = 0, all = 0;
    for (int w = 0; w < kWarps; w++) {
        before += w < warp_id() ? sums[w] : 0;
        all += sums[w];
    }
    *total = all;
    return before + inclusive - x;
}

} // namespace hattn

#endif
