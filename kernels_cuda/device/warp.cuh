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
constexpr unsigned kFullMask = 0xffffffffu;

/* x of lane `lane`. */
template <class T>
__device__ inline T from_lane(T x, int lane)
{
    return __shfl_sync(kFullMask, x, lane, 32);
}

/* x of the lane whose number differs in the bits of `mask`. */
template <class T>
__device__ inline T from_partner(T x, int mask)
{
    return __shfl_xor_sync(kFullMask, x, mask, 32);
}

/* x of the lane `distance` before or after this one; past the warp's ends this lane's own. */
template <class T>
__device__ inline T from_before(T x, int distance)
{
    return __shfl_up_sync(kFullMask, x, distance, 32);
}

template <class T>
__device__ inline T from_after(T x, int distance)
{
    return __shfl_down_sync(kFullMask, x, distance, 32);
}

/* What one lane has written to memory before it, all lanes read after it. */
__device__ inline void warp_barrier() { __syncwarp(); }

__device__ inline uint32_t warp_or(uint32_t x)
{
#ifdef HATTN_PORTABLE
    for (int offset = 16; offset; offset >>= 1)
        x |= from_partner(x, offset);
    return x;
#else
    return __reduce_or_sync(kFullMask, x);
#endif
}

/* A bit of each lane: whether it says yes. */
__device__ inline uint32_t ballot(bool yes)
{
#ifdef HATTN_PORTABLE
    return warp_or(yes ? 1u << lane_id() : 0u);
#else
    return __ballot_sync(kFullMask, yes);
#endif
}

/* Whether all lanes have the same. */
__device__ inline bool all_alike(uint32_t x)
{
#ifdef HATTN_PORTABLE
    return ballot(x == from_lane(x, 0)) == kFullMask;
#else
    int are_alike;
    __match_all_sync(kFullMask, x, &are_alike);
    return are_alike;
#endif
}

/* Of signed integers. */
__device__ inline int32_t warp_least(int32_t x)
{
#ifdef HATTN_PORTABLE
    for (int offset = 16; offset; offset >>= 1)
        x = min(x, from_partner(x, offset));
    return x;
#else
    return __reduce_min_sync(kFullMask, x);
#endif
}

__device__ inline int32_t warp_largest(int32_t x)
{
#ifdef HATTN_PORTABLE
    for (int offset = 16; offset; offset >>= 1)
        x = max(x, from_partner(x, offset));
    return x;
#else
    return __reduce_max_sync(kFullMask, x);
#endif
}

/* Sums of integers; of floats in an order that is always the same. */
__device__ inline uint32_t warp_total(uint32_t x)
{
#ifdef HATTN_PORTABLE
    for (int offset = 16; offset; offset >>= 1)
        x += from_partner(x, offset);
    return x;
#else
    return __reduce_add_sync(kFullMask, x);
#endif
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
__device__ inline float warp_max_magnitude(float x)
{
#ifdef HATTN_PORTABLE
    return warp_max(x);
#else
    return float_of_bits(__reduce_max_sync(kFullMask, bits_of(x)));
#endif
}

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
