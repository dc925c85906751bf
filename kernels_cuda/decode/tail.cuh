/* SPDX-License-Identifier: Apache-2.0
 * A tail in a decode by regions (api/hattn.h, hattn_attend): what a block knows of a row's shares once it knows the selection's threshold,
 * and what joins it to attention's sums. Keys are marked as they are listed; engines sum weights by marks beside the softmax.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_TAIL_CUH
#define HATTN_KERNELS_CUDA_DECODE_TAIL_CUH

#include "kernels_cuda/attend/attend_share.cuh"

#include "core/tail.h" /* after the dialect: HIP's has a memcpy for devices */

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

/* Of one row and KV head. Engine: attention's. What runs once runs out of a cold cache: little code. */
template <class Engine>
class RowTail
{
    using Value = typename Engine::Value;

public:
    /* Another warp than those that have the first rows settles while these wait for them, where the mean has a place of its own by then. */
    static constexpr bool kSettlesEarly = Engine::kNeedsSpaceLate;

    /* mean: of values, in shared memory. leaves_some: once rows are listed, whether some are kept and some are not. */
    __device__ RowTail(const hattn_cuda_params &params, const hattn_decode_args &args, const SlotFinder &slots,
                       int32_t sequence, int32_t length, int64_t kv_head, float4 *mean, const bool &leaves_some)
        : params_(params), args_(args), slots_(slots), sequence_(sequence), length_(length), kv_head_(kv_head),
          mean_(mean), leaves_some_(leaves_some)
    {
    }

    /* Into L2, whoever still writes it: by one warp, early. */
    __device__ void prefetch() const
    {
        const int32_t columns = params_.problem.head_dim_v;
        const hattn_value_state state = find_state();
        if (lane_id() == 0)
            prefetch_line(state.length);
#pragma unroll 1
        for (int column = lane_id() * 16; column < columns; column += 32 * 16)
            prefetch_line(state.sums + column);
        if (lane_id() * 128 < columns * static_cast<int>(sizeof(Value)))
            prefetch_line(values_of(length_ - 1) + lane_id() * 128);
    }

    /* Shares' totals and the mean value, by the last warps first: before a barrier, and then add may be called. */
    __device__ void settle() const
    {
        TailSums &tail = tail_sums();
        const int thread = kThreads - 1 - static_cast<int>(threadIdx.x);
        const int32_t columns = params_.problem.head_dim_v;
        if (!leaves_some_) {
            if (thread == 0)
                tail.of_near = tail.of_all = 0.0f;
            return;
        }
#pragma unroll 1
        for (int column = 4 * thread; column < columns; column += 4 * kThreads) {
            const hattn_value_state state = find_state();
            const int32_t told = load_now(state.length), summed = told > length_ ? 0 : max(told, 0);
            int64_t sum[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int64_t stored = load_l2(state.sums + column + i);
                sum[i] = summed ? stored : 0;
            }
#pragma unroll 1
            for (int32_t j = summed; j < length_; j++) {
                const Four values = reinterpret_cast<const Four *>(values_of(j))[column / 4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sum[i] += hattn_fixed_value(to_float(values.x[i]));
            }
            const float scale = 0x1p-24f * fast_inverse(static_cast<float>(length_)) *
                                hattn_kv_scale(&params_.problem, args_.v_scale, kv_head_);
            auto mean = [&](int i) { return static_cast<float>(sum[i]) * scale; };
            mean_[column / 4] = {mean(0), mean(1), mean(2), mean(3)};
        }
        if (thread == 0) {
            uint64_t near = tail.of_ties, all = tail.of_ties;
#pragma unroll 1
            for (int w = 0; w < kWarps; w++) {
                near += tail.near[w];
                all += tail.kept[w];
            }
            const float rest = tail.sum > all ? static_cast<float>(tail.sum - all) : 0.0f;
            tail.of_near = near ? params_.problem.tail * rest / static_cast<float>(near) : 0.0f;
            tail.of_all = all ? rest / static_cast<float>(all) : 0.0f;
        }
    }

    /* To four columns of a head's sums. */
    __device__ void add(int column, float4 &value, TailWeight &weight) const
    {
        const TailSums &tail = tail_sums();
        if (tail.of_near == 0.0f)
            return;
        const float mass = hattn_smaller_tail(weight.near * tail.of_near, weight.all * tail.of_all);
        const float4 mean = mean_[column / 4];
        if (mass == 0.0f)
            return;
        value = {value.x + mass * mean.x, value.y + mass * mean.y, value.z + mass * mean.z, value.w + mass * mean.w};
        weight.sum += mass;
    }

private:
    struct alignas(4 * sizeof(Value)) Four {
        Value x[4];
    };

    __device__ hattn_value_state find_state() const
    {
        return hattn_find_values(&params_.problem, args_.value_slots, args_.value_sums, args_.value_lengths, sequence_,
                                 kv_head_);
    }

    /* Rows are aligned: the engine asks for that. */
    __device__ const char *values_of(int32_t position) const
    {
        return row_address(static_cast<const Value *>(hattn_address(args_.v_cache)) +
                               kv_head_ * params_.problem.v_cache.stride[2],
                           params_.v_stride, slots_.find(position));
    }

    const hattn_cuda_params &params_;
    const hattn_decode_args &args_;
    const SlotFinder &slots_;
    const int32_t sequence_, length_;
    const int64_t kv_head_;
    float4 *const mean_;
    const bool &leaves_some_;
};

} // namespace hattn

#endif
