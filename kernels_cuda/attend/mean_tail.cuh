/* SPDX-License-Identifier: Apache-2.0
 * The mean of a row's values, which tails are of (api/hattn.h, hattn_attend), and tails of each query head in attention over a list. Code that runs
 * once runs out of a cold cache: there is little of it.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_MEAN_TAIL_CUH
#define HATTN_KERNELS_CUDA_ATTEND_MEAN_TAIL_CUH

#include "kernels_cuda/attend/attend_share.cuh"
#include "kernels_cuda/attend/tail.cuh"

namespace hattn {

/* For the mean value of a tail. */
template <class Engine, class Space>
__device__ inline float4 *mean_space(Space &space)
{
    if constexpr (Engine::kNeedsSpaceLate)
        return Engine::mean_space();
    else
        return space.join.mean;
}

/* Of one row and KV head. Engine: attention's; Args: of a decode, or of attend. */
template <class Engine, class Args>
class MeanTail
{
    using Value = typename Engine::Value;

public:
    /* mean: of values, in shared memory. */
    __device__ MeanTail(const hattn_cuda_params &params, const Args &args, const SlotFinder &slots, int32_t sequence,
                        int32_t length, int64_t kv_head, float4 *mean)
        : params_(params), args_(args), slots_(slots), sequence_(sequence), length_(length), kv_head_(kv_head),
          mean_(mean)
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

protected:
    /* The last warps first, which have the fewest rows. */
    __device__ static int settling_thread() { return kThreads - 1 - static_cast<int>(threadIdx.x); }

    __device__ void settle_mean() const
    {
        const int32_t columns = params_.problem.head_dim_v;
#pragma unroll 1
        for (int column = 4 * settling_thread(); column < columns; column += 4 * kThreads) {
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
    }

    /* To four columns of a head's sums. */
    __device__ void add_mass(int column, float mass, float4 &value, TailWeight &weight) const
    {
        const float4 mean = mean_[column / 4];
        if (mass == 0.0f)
            return;
        value = {value.x + mass * mean.x, value.y + mass * mean.y, value.z + mass * mean.z, value.w + mass * mean.w};
        weight.sum += mass;
    }

    const hattn_cuda_params &params_;

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

    const Args &args_;
    const SlotFinder &slots_;
    const int32_t sequence_, length_;
    const int64_t kv_head_;
    float4 *const mean_;
};

/* Of each query head of a block, by shares that attend is given. */
template <class Engine>
class HeadTail : public MeanTail<Engine, hattn_attend_args>
{
    using Mean = MeanTail<Engine, hattn_attend_args>;

public:
    /* selects: once rows are listed, whether there are any. */
    __device__ HeadTail(const Mean &mean, const hattn_attend_args &args, hattn_buffer workspace, const Share &share,
                        const bool &selects)
        : Mean(mean), args_(args), workspace_(workspace), share_(share), selects_(selects)
    {
    }

    /* Before a barrier, and then add may be called. */
    __device__ void settle() const
    {
        const int g = Mean::settling_thread();
        if (g < share_.count) {
            float2 of = {0.0f, 0.0f};
            if (selects_) {
                const hattn_problem &p = this->params_.problem;
                const int64_t head = head_of_shares(g);
                const int64_t rest = load_l2(
                    reinterpret_cast<const int64_t *>(hattn_element(&p.rests, args_.rests, share_.row, head, 0)));
                const ShareTotals *totals = share_totals(this->params_, workspace_, share_.row, head);
                const uint64_t near = load_l2(&totals->near), all = load_l2(&totals->all);
                if (near && rest > 0)
                    of = {p.tail * (static_cast<float>(rest) / static_cast<float>(near)),
                          static_cast<float>(rest) / static_cast<float>(all)};
            }
            of_heads()[g] = of;
        }
        if (selects_)
            Mean::settle_mean();
    }

    __device__ void add(int g, int column, float4 &value, TailWeight &weight) const
    {
        const float2 of = of_heads()[g];
        if (of.y != 0.0f)
            Mean::add_mass(column, hattn_smaller_tail(weight.near * of.x, weight.all * of.y), value, weight);
    }

    /* Of a rank of the selection: two bits a head of the block. */
    __device__ uint32_t marks(int rank) const
    {
        const hattn_problem &p = this->params_.problem;
        const bool is_alike = !p.num_candidates;
        const uint32_t *shares = reinterpret_cast<const uint32_t *>(
            hattn_element(&p.shares, args_.shares, share_.row, head_of_shares(0), 0));
        uint32_t marks = 0;
#pragma unroll
        for (int g = 0; g < Engine::kHeads; g++)
            if (g < share_.count) {
                const uint32_t share = load_l2(shares + (is_alike ? 0 : g * p.shares.stride[1]) + rank);
                marks |= ((share & ~HATTN_SHARE_ANCHOR ? 1u : 0u) | share >> 31 << 1) << 2 * g;
            }
        return marks;
    }

private:
    /* With candidates each query head has its own, else the selection's. */
    __device__ int64_t head_of_shares(int g) const
    {
        return this->params_.problem.num_candidates ? share_.first_head + g : share_.first_head / this->params_.group;
    }

    /* What is left out, of the weight of anchors and of all. */
    __device__ static float2 *of_heads()
    {
        __shared__ float2 of[Engine::kHeads];
        return of;
    }

    const hattn_attend_args &args_;
    const hattn_buffer workspace_;
    const Share &share_;
    const bool &selects_;
};

} // namespace hattn

#endif
