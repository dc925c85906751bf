/* SPDX-License-Identifier: Apache-2.0
 * Warps. A warp is 32 lanes, whatever the hardware's is: where waves have 64 lanes, a wave is two warps side by side,
 * moves between lanes stay within 32 of them, and ballot gives a warp its own half.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_WARP_CUH
#define HATTN_KERNELS_CUDA_DEVICE_WARP_CUH

#include "kernels_cuda/device/numbers.cuh"

namespace hattn {

__device__ inline int lane_id() { return threadIdx.x & 31; }

__device__ inline int warp_id() { return threadIdx.x >> 5; }

/* A mask of the lanes before this one. */
__device__ inline uint32_t lanes_below() { return (1u << lane_id()) - 1; }

/* Everything below is for all lanes of a warp together. */

/* x of lane `lane`. */
using vendor::from_lane;

/* x of the lane whose number differs in the bits of `mask`. */
using vendor::from_partner;

/* x of the lane `distance` before or after this one; past the warp's ends this lane's own. */
using vendor::from_after;
using vendor::from_before;

/* What one lane has written to memory before it, all lanes read after it. */
using vendor::warp_barrier;

using vendor::warp_or;

/* A bit of each lane: whether it says yes. */
using vendor::ballot;

/* Whether all lanes have the same. */
using vendor::all_alike;

/* Of signed integers. */
using vendor::warp_largest;
using vendor::warp_least;

/* Sums of integers; of floats in an order that is always the same. */
using vendor::warp_total;

/* Of a warp's numbers, below 2^62: in three words that it can add. */
__device__ inline uint64_t warp_total_of_large(uint64_t x)
{
    constexpr uint32_t kMask = (1 << 27) - 1;
    const uint32_t low = warp_total(static_cast<uint32_t>(x) & kMask),
                   middle = warp_total(static_cast<uint32_t>(x >> 27) & kMask),
                   high = warp_total(static_cast<uint32_t>(x >> 54));
    return low + (static_cast<uint64_t>(middle) << 27) + (static_cast<uint64_t>(high) << 54);
}

__device__ inline float warp_sum(float x)
{
    for (int offset = 16; offset; offset >>= 1)
        x += from_partner(x, offset);
    return x;
}

__device__ inline float warp_max(float x)
{
    for (int offset = 16; offset; offset >>= 1)
        x = fmaxf(x, from_partner(x, offset));
    return x;
}

/* Of numbers that are not negative: their bits are in the same order. */
using vendor::warp_max_magnitude;

/* Whether a warp of this one's wave says yes, of which there are at most kWarpsOfWave; for all of them together. What is around a
 * product of matrices (matrix.cuh) goes by it. */
using vendor::any_of_wave;
using vendor::kWarpsOfWave;

/* Sum over the lanes up to this one. */
__device__ inline uint32_t warp_scan(uint32_t x)
{
    for (int offset = 1; offset < 32; offset <<= 1) {
        const uint32_t below = from_before(x, offset);
        if (lane_id() >= offset)
            x += below;
    }
    return x;
}

/* Sum over this lane and those after it. */
__device__ inline uint32_t warp_scan_down(uint32_t x)
{
    for (int offset = 1; offset < 32; offset <<= 1) {
        const uint32_t above = from_after(x, offset);
        if (lane_id() + offset < 32)
            x += above;
    }
    return x;
}

} // namespace hattn

#endif
