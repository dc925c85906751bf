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

/* S and Z of hattn_topk (api/hattn.h). */
struct FloorEstimate {
    uint32_t largest;
    uint64_t sum;
};

/* Of the positions begin..end, the `count` best of which are listed. */
__device__ inline FloorEstimate estimate_of(const uint16_t *scores, const int32_t *list, int count, int begin, int end,
                                            int32_t step, FloorSpace &space)
{
    const int thread = static_cast<int>(threadIdx.x);
    uint32_t largest = 0, least = UINT16_MAX;
    for (int i = thread; i < count; i += kThreads) {
        const uint32_t score = scores[list[i]];
        largest = max(largest, score);
        least = min(least, score);
    }
    largest = block_largest(largest, space);
    least = UINT16_MAX - block_largest(UINT16_MAX - least, space);

    const bool is_all = count == end - begin;
    uint64_t sum = 0;
    for (int i = thread; i < count; i += kThreads)
        if (is_all || scores[list[i]] > least)
            sum += floor_share(largest - scores[list[i]], step);
    if (!is_all)
        for (int i = (begin + HATTN_FLOOR_STRIDE - 1) / HATTN_FLOOR_STRIDE + thread; i * HATTN_FLOOR_STRIDE < end;
             i += kThreads) {
            const uint32_t score = scores[i * HATTN_FLOOR_STRIDE];
            if (score <= least)
                sum += static_cast<uint64_t>(HATTN_FLOOR_STRIDE) * floor_share(largest - score, step);
        }
    return {largest, block_total(sum, space)};
}

} // namespace hattn

#endif
