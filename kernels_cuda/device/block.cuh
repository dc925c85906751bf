/* SPDX-License-Identifier: Apache-2.0
 * Blocks: their size, counters that their threads share, and sums over all of them.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_BLOCK_CUH
#define HATTN_KERNELS_CUDA_DEVICE_BLOCK_CUH

#include "kernels_cuda/device/warp.cuh"

namespace hattn {

constexpr int kThreads = 256; /* of a block, but for those that encode many keys by a linear map */
constexpr int kWarps = kThreads / 32;

/* Adds to a word of shared or global memory, in no order with anything else; returns what it was (of 32 bits). */
using vendor::atomic_add;

/* Counters in shared memory: count(i) adds 1 to one. Where it can be, by a 32-bit address: one instruction, where a
 * pointer would cost several. */
using vendor::SharedCounters;

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
