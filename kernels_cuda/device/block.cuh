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

/* Exclusive sum over the threads of a block of kNum warps, at most 32, and the total; `sums` is kNum words of shared memory. Ends with
 * every thread free to go on, but `sums` must not be written before the next barrier. */
template <int kNum = kWarps>
__device__ inline uint32_t block_scan(uint32_t x, uint32_t *sums, uint32_t *total)
{
    const uint32_t inclusive = warp_scan(x);
    if (lane_id() == 31)
        sums[warp_id()] = inclusive;
    __syncthreads();
    uint32_t before = 0, all = 0;
    if constexpr (kNum > kWarps) { /* a lane a warp */
        const uint32_t its = sums[lane_id() % kNum], scan = warp_scan(its);
        before = from_lane(scan - its, warp_id());
        all = from_lane(scan, kNum - 1);
    } else {
        for (int w = 0; w < kNum; w++) {
            before += w < warp_id() ? sums[w] : 0;
            all += sums[w];
        }
    }
    *total = all;
    return before + inclusive - x;
}

/* What all warps of a block of kNum have. */
template <int kNum>
struct JoinedWarps {
    uint64_t warps[kNum];
};

/* join(a, b) over all threads' x, in all of them; ends with a barrier, so that space may be used again. */
template <int kNum, class Join>
__device__ inline uint64_t block_join(uint64_t x, JoinedWarps<kNum> &space, Join join)
{
#pragma unroll
    for (int mask = 16; mask; mask /= 2)
        x = join(x, from_partner(x, mask));
    if (lane_id() == 0)
        space.warps[warp_id()] = x;
    __syncthreads();
    if constexpr (kNum == 32) { /* a lane a warp */
        x = space.warps[lane_id()];
#pragma unroll
        for (int mask = 16; mask; mask /= 2)
            x = join(x, from_partner(x, mask));
    } else {
        x = space.warps[0];
#pragma unroll
        for (int w = 1; w < kNum; w++)
            x = join(x, space.warps[w]);
    }
    __syncthreads();
    return x;
}

template <int kNum>
__device__ inline uint64_t block_total(uint64_t x, JoinedWarps<kNum> &space)
{
    return block_join(x, space, [](uint64_t a, uint64_t b) { return a + b; });
}

template <int kNum>
__device__ inline uint32_t block_total(uint32_t x, JoinedWarps<kNum> &space)
{
    return static_cast<uint32_t>(block_total(static_cast<uint64_t>(x), space));
}

template <int kNum>
__device__ inline uint32_t block_largest(uint32_t x, JoinedWarps<kNum> &space)
{
    return static_cast<uint32_t>(block_join(x, space, [](uint64_t a, uint64_t b) { return a > b ? a : b; }));
}

} // namespace hattn

#endif
