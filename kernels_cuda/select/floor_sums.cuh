/* SPDX-License-Identifier: Apache-2.0
 * What floors of probability need of a block: shares of scores, sums of them, and the score that reaches a sum's part.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_FLOOR_SUMS_CUH
#define HATTN_KERNELS_CUDA_SELECT_FLOOR_SUMS_CUH

#include "core/floor.h"
#include "kernels_cuda/device/device.cuh"

namespace hattn {

using FloorSpace = JoinedWarps<kWarps>;

__device__ inline uint32_t floor_share(uint32_t distance, int32_t step)
{
    static constexpr uint32_t kFactors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
    return hattn_floor_share(distance, step, kFactors);
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
template <int kNum>
__device__ inline FloorEstimate estimate_of(const uint16_t *scores, const int32_t *list, int count, int begin, int end,
                                            int32_t step, JoinedWarps<kNum> &space)
{
    constexpr int kBlock = 32 * kNum;
    const int thread = static_cast<int>(threadIdx.x);
    uint32_t largest = 0, least = UINT16_MAX;
    for (int i = thread; i < count; i += kBlock) {
        const uint32_t score = scores[list[i]];
        largest = max(largest, score);
        least = min(least, score);
    }
    largest = block_largest(largest, space);
    least = UINT16_MAX - block_largest(UINT16_MAX - least, space);

    const bool is_all = count == end - begin;
    uint64_t sum = 0;
    for (int i = thread; i < count; i += kBlock)
        if (is_all || scores[list[i]] > least)
            sum += floor_share(largest - scores[list[i]], step);
    if (!is_all)
        for (int i = (begin + HATTN_FLOOR_STRIDE - 1) / HATTN_FLOOR_STRIDE + thread; i * HATTN_FLOOR_STRIDE < end;
             i += kBlock) {
            const uint32_t score = scores[i * HATTN_FLOOR_STRIDE];
            if (score <= least)
                sum += static_cast<uint64_t>(HATTN_FLOOR_STRIDE) * floor_share(largest - score, step);
        }
    return {largest, block_total(sum, space)};
}

} // namespace hattn

#endif
