/* SPDX-License-Identifier: Apache-2.0
 * What floors of probability need of a block: shares of scores, sums of them, and the score that reaches a sum's part.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_FLOOR_SUMS_CUH
#define HATTN_KERNELS_CUDA_SELECT_FLOOR_SUMS_CUH

#include "core/floor.h"
#include "kernels_cuda/device/device.cuh"

namespace hattn {

struct FloorSpace {
    uint64_t warps[kWarps];
};

__device__ inline uint32_t floor_share(uint32_t distance, int32_t step)
{
    static constexpr uint32_t kFactors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
    return hattn_floor_share(distance, step, kFactors);
}

/* join(a, b) over all threads' x, in all of them; ends with a barrier, so that space may be used again. */
template <class Join>
__device__ inline uint64_t block_join(uint64_t x, FloorSpace &space, Join join)
{
#pragma unroll
    for (int mask = 16; mask; mask /= 2)
        x = join(x, from_partner(x, mask));
    if (lane_id() == 0)
        space.warps[warp_id()] = x;
    __syncthreads();
    x = space.warps[0];
#pragma unroll
    for (int w = 1; w < kWarps; w++)
        x = join(x, space.warps[w]);
    __syncthreads();
    return x;
}

__device__ inline uint64_t block_total(uint64_t x, FloorSpace &space)
{
    return block_join(x, space, [](uint64_t a, uint64_t b) { return a + b; });
}

__device__ inline uint32_t block_total(uint32_t x, FloorSpace &space)
{
    return static_cast<uint32_t>(block_total(static_cast<uint64_t>(x), space));
}

__device__ inline uint32_t block_largest(uint32_t x, FloorSpace &space)
{
    return static_cast<uint32_t>(block_join(x, space, [](uint64_t a, uint64_t b) { return a > b ? a : b; }));
}

/* The least score whose share is at least `least`, if any is. */
class FloorScore
{
public:
    __device__ FloorScore(uint32_t largest, int32_t step, uint64_t least)
        : score_(largest), any_(floor_share(0, step) >= least)
    {
        uint32_t far = largest + 1; /* a distance that does not reach it, as far as scores go */
        for (uint32_t near = 0; any_ && far - near > 1;) {
            const uint32_t middle = near + (far - near) / 2;
            if (floor_share(middle, step) >= least)
                near = middle;
            else
                far = middle;
            score_ = largest - near;
        }
    }

    __device__ bool reaches(uint32_t score) const { return any_ && score >= score_; }

private:
    uint32_t score_;
    bool any_;
};

} // namespace hattn

#endif
