/* SPDX-License-Identifier: Apache-2.0
 * A tail in a decode by regions (api/hattn.h, hattn_attend): what a block knows of a row's shares once it knows the selection's threshold,
 * and what joins it to attention's sums. Keys are marked as they are listed; engines sum weights by marks beside the softmax.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_TAIL_CUH
#define HATTN_KERNELS_CUDA_DECODE_TAIL_CUH

#include "kernels_cuda/attend/mean_tail.cuh"

namespace hattn {

/* Of a row: from its histogram, then totals. Shares are integers, in 2^-30 of the largest score's. */
struct TailSums {
    uint64_t kept[kWarps], near[kWarps]; /* of scores above the threshold, in the levels of each warp: all; anchors */
    uint64_t sum, of_ties;               /* the estimate over all positions; of those that are kept at the threshold */
    int32_t least, near_end; /* scores that have shares are at least so large; anchors' are below that, too */
    float of_near, of_all;   /* what is left out, of the weight of anchors and of all: 0 where nothing is */
};

__device__ inline TailSums &tail_sums()
{
    __shared__ TailSums sums;
    return sums;
}

/* Marks positions by their scores: read once, lists being written meanwhile. */
struct Marks {
    int32_t least = tail_sums().least, near_end = tail_sums().near_end;

    __device__ int mark(int position, uint32_t score) const
    {
        const int32_t x = static_cast<int32_t>(score);
        const uint32_t marks = x < least ? 0 : x < near_end ? kMarks : kHasShare;
        return static_cast<int>(static_cast<uint32_t>(position) | marks);
    }
};

struct NoMarks {
    __device__ int mark(int position, uint32_t) const { return position; }
};

/* Of one row and KV head, alike for all query heads. */
template <class Engine>
class RowTail : public MeanTail<Engine, hattn_decode_args>
{
    using Mean = MeanTail<Engine, hattn_decode_args>;

public:
    /* leaves_some: once rows are listed, whether some are kept and some are not. */
    __device__ RowTail(const Mean &mean, const bool &leaves_some) : Mean(mean), leaves_some_(leaves_some) {}

    /* Shares' totals and the mean value: before a barrier, and then add may be called. */
    __device__ void settle() const
    {
        TailSums &tail = tail_sums();
        const int thread = Mean::settling_thread();
        if (!leaves_some_) {
            if (thread == 0)
                tail.of_near = tail.of_all = 0.0f;
            return;
        }
        Mean::settle_mean();
        if (thread == 0) {
            uint64_t near = tail.of_ties, all = tail.of_ties;
#pragma unroll 1
            for (int w = 0; w < kWarps; w++) {
                near += tail.near[w];
                all += tail.kept[w];
            }
            const float rest = tail.sum > all ? static_cast<float>(tail.sum - all) : 0.0f;
            tail.of_near = near ? this->params_.problem.tail * rest / static_cast<float>(near) : 0.0f;
            tail.of_all = all ? rest / static_cast<float>(all) : 0.0f;
        }
    }

    __device__ void add(int, int column, float4 &value, TailWeight &weight) const
    {
        const TailSums &tail = tail_sums();
        if (tail.of_near != 0.0f)
            Mean::add_mass(column, hattn_smaller_tail(weight.near * tail.of_near, weight.all * tail.of_all), value,
                           weight);
    }

private:
    const bool &leaves_some_;
};

} // namespace hattn

#endif
