/* SPDX-License-Identifier: Apache-2.0
 * A tail in a decode by regions (api/hattn.h, hattn_attend): what a block knows of a row's shares once it knows the selection's threshold,
 * and what joins it to attention's sums. Keys are marked as they are listed; engines sum weights by marks beside the softmax.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_TAIL_CUH
#define HATTN_KERNELS_CUDA_DECODE_TAIL_CUH

#include "kernels_cuda/attend/attend.cuh"
#include "kernels_cuda/attend/tail.cuh"

namespace hattn {

/* Of a row: from its histogram, then totals. Shares are integers, in 2^-30 of the largest score's. */
struct TailSums {
    uint64_t kept[kWarps], near[kWarps]; /* of scores above the threshold, in the levels of each warp: all; anchors */
    uint64_t sum, of_ties;               /* the estimate over all positions; of those that are kept at the threshold */
    int32_t least, near_end; /* scores that have shares are at least so large; anchors' are below that, too */
    uint64_t near_shares, all_shares;
    int64_t rest;
};

__device__ inline TailSums &tail_sums()
{
    __shared__ TailSums sums;
    return sums;
}

/* A position with its marks. */
__device__ inline int marked(int position, uint32_t score, const TailSums &tail)
{
    const int32_t x = static_cast<int32_t>(score);
    const uint32_t marks = x < tail.least ? 0 : x < tail.near_end ? kMarks : kHasShare;
    return static_cast<int>(static_cast<uint32_t>(position) | marks);
}

/* Of one row and KV head. Value: an element of V. mean: of values, in shared memory. */
template <class Value>
class RowTail
{
public:
    __device__ RowTail(const hattn_problem &p, const hattn_decode_args &args, int32_t sequence, int32_t length,
                       int64_t kv_head, float4 *mean, const bool &leaves_some)
        : p_(p), args_(args), sequence_(sequence), length_(length), kv_head_(kv_head), mean_(mean),
          leaves_some_(leaves_some)
    {
    }

    /* Into L2, whoever still writes it: by one warp, early. */
    __device__ void prefetch() const
    {
        const hattn_value_state state = find_state();
        if (lane_id() == 0)
            prefetch_line(state.length);
        for (int column = lane_id() * 16; column < p_.head_dim_v; column += 32 * 16)
            prefetch_line(state.sums + column);
        const char *row = reinterpret_cast<const char *>(value_row(length_ - 1));
        for (int byte = lane_id() * 128; byte < p_.head_dim_v * static_cast<int>(sizeof(Value)); byte += 32 * 128)
            prefetch_line(row + byte);
    }

    /* Shares' totals and the mean value: before a barrier, and then add may be called. */
    __device__ void settle() const
    {
        TailSums &tail = tail_sums();
        if (threadIdx.x == 0) {
            uint64_t near = 0, all = 0;
            for (int w = 0; leaves_some_ && w < kWarps; w++) {
                near += tail.near[w];
                all += tail.kept[w];
            }
            tail.near_shares = leaves_some_ ? near + tail.of_ties : 0;
            tail.all_shares = leaves_some_ ? all + tail.of_ties : 0;
            tail.rest =
                leaves_some_ && tail.sum > tail.all_shares ? static_cast<int64_t>(tail.sum - tail.all_shares) : 0;
        }
        if (!leaves_some_)
            return;
        const hattn_value_state state = find_state();
        const float scale = hattn_kv_scale(&p_, args_.v_scale, kv_head_);
#pragma unroll 1
        for (int column = 4 * (kThreads - 1 - static_cast<int>(threadIdx.x)); column < p_.head_dim_v;
             column += 4 * kThreads) {
            const int32_t told = load_now(state.length), summed = told > length_ ? 0 : max(told, 0);
            int64_t sum[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int64_t stored = load_l2(state.sums + column + i);
                sum[i] = summed ? stored : 0;
            }
#pragma unroll 1
            for (int32_t j = summed; j < length_; j++) {
                const Four values = *reinterpret_cast<const Four *>(value_row(j) + column);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sum[i] += hattn_fixed_value(to_float(values.x[i]));
            }
            mean_[column / 4] = {hattn_mean_value(sum[0], length_) * scale, hattn_mean_value(sum[1], length_) * scale,
                                 hattn_mean_value(sum[2], length_) * scale, hattn_mean_value(sum[3], length_) * scale};
        }
    }

    /* To four columns of a head's sums. */
    __device__ void add(int column, float4 &value, TailWeight &weight) const
    {
        const TailSums &tail = tail_sums();
        const float mass =
            hattn_tail_mass(p_.tail, weight.near, weight.all, tail.near_shares, tail.all_shares, tail.rest);
        if (mass == 0.0f)
            return;
        const float4 mean = mean_[column / 4];
        value = {value.x + mass * mean.x, value.y + mass * mean.y, value.z + mass * mean.z, value.w + mass * mean.w};
        weight.sum += mass;
    }

private:
    struct alignas(4 * sizeof(Value)) Four {
        Value x[4];
    };

    __device__ hattn_value_state find_state() const
    {
        return hattn_find_values(&p_, args_.value_slots, args_.value_sums, args_.value_lengths, sequence_, kv_head_);
    }

    __device__ const Value *value_row(int32_t position) const
    {
        return cache_row<Value>(p_.v_cache, args_.v_cache, hattn_sequence_pages(&p_, &args_.batch, sequence_), position,
                                kv_head_);
    }

    const hattn_problem &p_;
    const hattn_decode_args &args_;
    const int32_t sequence_, length_;
    const int64_t kv_head_;
    float4 *const mean_;
    const bool &leaves_some_; /* once rows are listed: some are kept and some are not */
};

} // namespace hattn

#endif
