/* SPDX-License-Identifier: Apache-2.0
 * Rows of K of a selection, read by plain kernels: lanes that share a row, queries in shared memory.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_LISTED_CUH
#define HATTN_KERNELS_CUDA_ATTEND_LISTED_CUH

#include "kernels_cuda/attend/tail.cuh"

namespace hattn {
namespace listed {

constexpr int kLanes = 8;                 /* that share a row of K */
constexpr int kRows = kThreads / kLanes;  /* of a block at a time */
constexpr int kHeads = kLanes;            /* query heads at a time: a lane sums for one */
constexpr int kTogether = 2;              /* rows that such lanes load at once */
constexpr int kPiece = kRows * kTogether; /* of a selection: 64 */
constexpr int kMostDims = 576;

/* Of anchors, and of all that have shares. */
template <class X>
struct Pair {
    X near, all;
};

template <class X>
__device__ Pair<X> *pairs(hattn_buffer workspace, uint64_t offset, int64_t index)
{
    return reinterpret_cast<Pair<X> *>(static_cast<char *>(hattn_address(workspace)) + offset) + index;
}

__device__ inline float *floats(hattn_buffer workspace, uint64_t offset)
{
    return reinterpret_cast<float *>(static_cast<char *>(hattn_address(workspace)) + offset);
}

/* A selection head's selection, and the heads that have shares: itself, or with scores per query head its group. */
struct Selected {
    const int32_t *indices;
    int count, num_heads;
    int64_t first_head;

    __device__ Selected(const hattn_cuda_params &params, const hattn_attend_args &args, int64_t row, int64_t head,
                        int32_t length)
        : indices(reinterpret_cast<const int32_t *>(hattn_element(&params.problem.indices, args.indices, row, head, 0)))
    {
        const hattn_problem &p = params.problem;
        count = min(max(*reinterpret_cast<const int32_t *>(hattn_element(&p.counts, args.counts, row, head, 0)), 0),
                    min(length, p.k));
        num_heads = p.num_candidates ? params.group : 1;
        first_head = head * num_heads;
    }

    __device__ const uint32_t *shares(const hattn_problem &p, const hattn_attend_args &args, int64_t row,
                                      int in_group) const
    {
        const int64_t head = first_head + min(in_group, num_heads - 1);
        return reinterpret_cast<const uint32_t *>(hattn_element(&p.shares, args.shares, row, head, 0));
    }

    __device__ int64_t rest(const hattn_problem &p, const hattn_attend_args &args, int64_t row, int in_group) const
    {
        const int64_t head = first_head + min(in_group, num_heads - 1);
        return *reinterpret_cast<const int64_t *>(hattn_element(&p.rests, args.rests, row, head, 0));
    }
};

/* What rows of K make of the queries' heads: the lane's own, of kHeads. All lanes of a warp together; loads of all rows are in
 * flight at once. */
template <class T, int kNum>
__device__ void dots_of_lane(const T *const (&row)[kNum], int dims, const float (*q)[kMostDims], int heads,
                             float (&own)[kNum])
{
    const int lane = lane_id() % kLanes;
    float dot[kNum][kHeads] = {};
#pragma unroll 2
    for (int first = lane * 8; first < dims; first += kLanes * 8) {
        Eight<T> key[kNum];
#pragma unroll
        for (int r = 0; r < kNum; r++)
            key[r] = load_eight(row[r] + first);
#pragma unroll
        for (int h = 0; h < kHeads; h++)
            if (h < heads) {
                const float4 low = *reinterpret_cast<const float4 *>(&q[h][first]),
                             high = *reinterpret_cast<const float4 *>(&q[h][first + 4]);
                const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int r = 0; r < kNum; r++)
                        dot[r][h] = fmaf(to_float(key[r].x[i]), x[i], dot[r][h]);
            }
    }
#pragma unroll
    for (int r = 0; r < kNum; r++) {
        own[r] = 0.0f;
#pragma unroll
        for (int h = 0; h < kHeads; h++)
            if (h < heads) {
#pragma unroll
                for (int mask = kLanes / 2; mask; mask /= 2)
                    dot[r][h] += from_partner(dot[r][h], mask);
                own[r] = h == lane ? dot[r][h] : own[r];
            }
    }
}

/* Of the block's `heads` heads from first_query on, scaled, when nobody reads those before any more. All threads together. */
__device__ inline void load_queries(const hattn_problem &p, const hattn_attend_args &args, int64_t row,
                                    int64_t first_query, int heads, float scale, float (*q)[kMostDims])
{
    __syncthreads();
    for (int h = warp_id(); h < heads; h += kWarps)
#pragma unroll 4
        for (int e = lane_id(); e < p.head_dim_qk; e += 32)
            q[h][e] = scale * load_element(hattn_address(args.q), p.q.dtype,
                                           row * p.q.stride[0] + (first_query + h) * p.q.stride[1] + e);
    __syncthreads();
}

/* The mean of a row's values. T: of the cache. */
template <class T>
class RowMean
{
public:
    /* has: otherwise it is not asked for. */
    __device__ RowMean(const hattn_cuda_params &params, const hattn_attend_args &args, const hattn_row &row,
                       int64_t kv_head, bool has)
        : p_(params.problem), v_cache_(args.v_cache), kv_head_(kv_head), length_(row.length),
          scale_(hattn_kv_scale(&params.problem, args.v_scale, kv_head))
    {
        if (!has)
            return;
        pages_ = hattn_sequence_pages(&p_, &args.batch, row.sequence);
        state_ = hattn_find_values(&p_, args.value_slots, args.value_sums, args.value_lengths, row.sequence, kv_head);
        summed_ = *state_.length > length_ ? 0 : max(*state_.length, 0);
    }

    __device__ float of(int column) const
    {
        int64_t sum = summed_ ? state_.sums[column] : 0;
#pragma unroll 4
        for (int32_t j = summed_; j < length_; j++)
            sum += hattn_fixed_value(to_float(cache_row<T>(p_.v_cache, v_cache_, pages_, j, kv_head_)[column]));
        return hattn_mean_value(sum, length_) * scale_;
    }

private:
    const hattn_problem &p_;
    hattn_buffer v_cache_;
    int64_t kv_head_;
    int32_t length_, summed_ = 0;
    float scale_;
    hattn_pages pages_ = {};
    hattn_value_state state_ = {};
};

} // namespace listed
} // namespace hattn

#endif
