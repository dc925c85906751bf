/* SPDX-License-Identifier: Apache-2.0
 * Parts of an attention and how the blocks of a task join them: each some heads. A block does not wait for other
 * blocks' memory fences: parts are sent, in words that tell by themselves whether they are there (device/exchange.cuh).
 * Nor does it wait for blocks that may have no place on the device yet: who is done before all have begun leaves its
 * heads to the last one to begin.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_PARTS_CUH
#define HATTN_KERNELS_CUDA_ATTEND_PARTS_CUH

#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/device/exchange.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {

template <class Args>
__host__ __device__ inline Inputs inputs_of(const Args &args, hattn_buffer workspace)
{
    return {args.q,           args.k_cache, args.v_cache, args.k_scale, args.v_scale,
            args.sink_logits, args.out,     args.lse,     workspace};
}

/* Which part of the work a block has: heads first_head..first_head+count of a row, share `split` of num_splits. */
struct Share {
    int32_t row, first_head, count, split, num_splits, counter;
    int32_t heads; /* of the largest block */
    hattn_cuda_divisor splits;

    /* Of query g of the share. */
    __device__ int32_t row_of(int) const { return row; }

    __device__ int32_t head_of(int g) const { return first_head + g; }
};

/* The same of several tokens of a sequence, rows row..row+num_tokens: `count` and `heads` are of all tokens together,
 * a token's side by side. */
struct TokenShare : Share {
    hattn_cuda_divisor group; /* heads of a token */
    int32_t num_tokens;
    int64_t end;     /* the last token's length, not clamped; each one before it sees one position less */
    int32_t longest; /* the same, clamped */

    __device__ int32_t token_of(int g) const { return static_cast<int32_t>(divide(static_cast<uint32_t>(g), group)); }

    __device__ int32_t row_of(int g) const { return row + token_of(g); }

    __device__ int32_t head_of(int g) const
    {
        return first_head + g - token_of(g) * static_cast<int32_t>(group.divisor);
    }

    /* The first query that sees a position. */
    __device__ int32_t first_that_sees(int32_t position) const
    {
        const int64_t unseeing = num_tokens + position - end; /* tokens */
        return static_cast<int32_t>(max(unseeing, int64_t(0))) * static_cast<int32_t>(group.divisor);
    }
};

/* Weights are e^(x - max) times this, so that 2^30 values of type T sum to no more than the largest of them: 1 where
 * they are too small to overflow. fp16's weights would become subnormal. */
template <class T>
constexpr float kWeightOne = sizeof(T) == 4 || std::is_same_v<T, bfloat16> ? 0x1p-30f : 1.0f;

/* What a part of a softmax weighs: its values are a sum with weights that sum to `sum`, all relative to e^max.
 * Nothing: -inf and 0. */
struct PartWeight {
    float max, sum;

    __device__ float lse(float one) const { return sum == 0.0f ? -INFINITY : max + logf(sum / one); }

    __device__ float scale() const { return sum == 0.0f ? 0.0f : 1.0f / sum; } /* a NaN stays one */

    __device__ void scale_sums(float factor) { sum *= factor; }

    __device__ void add_sums(const PartWeight &other, float factor) { sum += factor * other.sum; }
};

/* With a tail also what its anchors weigh, and what all with shares do. */
struct TailWeight : PartWeight {
    float near, all;

    TailWeight() = default;

    __device__ TailWeight(float of_max, float of_sum) : PartWeight{of_max, of_sum}, near(0.0f), all(0.0f) {}

    __device__ void scale_sums(float factor)
    {
        sum *= factor;
        near *= factor;
        all *= factor;
    }

    __device__ void add_sums(const TailWeight &other, float factor)
    {
        sum += factor * other.sum;
        near += factor * other.near;
        all += factor * other.all;
    }
};

template <class Weight>
constexpr int kWeightWords = sizeof(Weight) / sizeof(uint32_t);

/* What attention without a tail has of one (decode/tail.cuh). */
struct NoTail {
    __device__ void settle() const {}
};

__device__ inline float scaled(float x, float scale) { return x * scale; }

__device__ inline float4 scaled(float4 x, float scale) { return {x.x * scale, x.y * scale, x.z * scale, x.w * scale}; }

/* Where the results of a share's heads go, their sinks and tails. */
template <class S, class Tail>
class Results
{
public:
    /* one: what a weight of e^0 is. */
    __device__ Results(const hattn_problem &p, const Inputs &in, const S &share, float one, const Tail &tail)
        : p_(p), in_(in), share_(share), one_(one), tail_(tail)
    {
    }

    /* One value, or four, of all parts. A sink is one more of them: all weight, no value. */
    template <class X, class Weight>
    __device__ void store(int g, int column, X value, Weight sums) const
    {
        if (sums.sum == 0.0f)
            value = X{}; /* what weighs nothing may be anything */
        if constexpr (!std::is_same_v<Tail, NoTail>)
            tail_.add(g, column, value, sums);
        PartWeight weight = sums;
        if (in_.sink_logits.data) {
            const float sink = static_cast<const float *>(hattn_address(in_.sink_logits))[share_.head_of(g)];
            const float max = fmaxf(weight.max, sink), base = max == -INFINITY ? 0.0f : max,
                        factor = expf(weight.max - base);
            value = scaled(value, factor);
            weight = {max, weight.sum * factor + expf(sink - base) * one_};
        }
        put(place(g) + column, scaled(value, weight.scale()));
        if (column == 0 && in_.lse.data)
            static_cast<float *>(
                hattn_address(in_.lse))[share_.row_of(g) * p_.lse.stride[0] + share_.head_of(g) * p_.lse.stride[1]] =
                weight.lse(one_);
    }

private:
    __device__ int64_t place(int g) const
    {
        return share_.row_of(g) * p_.out.stride[0] + share_.head_of(g) * p_.out.stride[1];
    }

    __device__ void put(int64_t index, float value) const
    {
        store_element(hattn_address(in_.out), p_.out.dtype, index, value);
    }

    __device__ void put(int64_t index, float4 value) const
    {
        store_elements(hattn_address(in_.out), p_.out.dtype, index, value);
    }

    const hattn_problem &p_;
    const Inputs &in_;
    const S &share_;
    const float one_;
    const Tail &tail_;
};

constexpr int kMaxDim = 576;

/* Parts whose loads are in flight together: as many as have registers. */
template <class Weight>
constexpr int kJoined = sizeof(Weight) == sizeof(PartWeight) ? 8 : 4;

/* What threads of a block join apart: up to four take parts of the same columns. */
template <class Weight>
struct JoinSpace {
    float4 value[kThreads];
    Weight weight[kThreads];
};

/* A tail's mean value is there before parts are joined, unless the engine has a place for it. */
template <>
struct JoinSpace<TailWeight> {
    float4 value[kThreads];
    TailWeight weight[kThreads];
    float4 mean[kMaxDim / 4];
};

/* Four columns of some parts. */
template <class Weight>
struct JoinedParts {
    Weight weight = {-INFINITY, 0.0f};
    float4 value = {0.0f, 0.0f, 0.0f, 0.0f};

    template <int kNum>
    __device__ void add(const Weight (&weights)[kNum], const float4 (&x)[kNum])
    {
        const float old = weight.max;
#pragma unroll
        for (int p = 0; p < kNum; p++)
            weight.max = fmaxf(weight.max, weights[p].max);
        const float base = weight.max == -INFINITY ? 0.0f : weight.max, decay = fast_exp(old - base);
        weight.scale_sums(decay);
        value = scaled(value, decay);
#pragma unroll
        for (int p = 0; p < kNum; p++) {
            const float factor = fast_exp(weights[p].max - base);
            if (factor != 0.0f || isnan(weights[p].sum)) { /* what weighs nothing may be anything; a NaN is passed on */
                weight.add_sums(weights[p], factor);
                value = {value.x + factor * x[p].x, value.y + factor * x[p].y, value.z + factor * x[p].z,
                         value.w + factor * x[p].w};
            }
        }
    }
};

/* Joins parts of columns first_column..end_column, of those of all heads of a share: four a thread (dims are
 * multiples of 8), `row` threads beside each other, parts shared between the rest. read(first, g, place, weights, x):
 * parts from `first` on, of columns from `place` on; past the last one, nothing. Starts with a barrier. */
template <class S, class Tail, class Weight, class Read>
__device__ inline void join_parts(const Results<S, Tail> &results, const Share &share, const hattn_cuda_divisor &dim,
                                  uint32_t first_column, uint32_t end_column, uint32_t row, JoinSpace<Weight> &space,
                                  Read read)
{
    const uint32_t turn = threadIdx.x / row,
                   turns = min(static_cast<uint32_t>(kThreads) / row,
                               static_cast<uint32_t>(share.num_splits + kJoined<Weight> - 1) / kJoined<Weight>);
#pragma unroll 1
    for (uint32_t done = first_column; done < end_column; done += 4 * row) {
        const uint32_t place = done + threadIdx.x % row * 4, g = divide(place, dim), column = place - g * dim.divisor;
        JoinedParts<Weight> joined;
        __syncthreads();
        if (place < end_column && turn < turns)
#pragma unroll 1
            for (int first = turn * kJoined<Weight>; first < share.num_splits; first += turns * kJoined<Weight>) {
                Weight weights[kJoined<Weight>];
                float4 x[kJoined<Weight>];
                read(first, g, place, weights, x);
                joined.add(weights, x);
            }
        if (turn) {
            space.value[threadIdx.x] = joined.value;
            space.weight[threadIdx.x] = joined.weight;
        }
        __syncthreads();
        if (place >= end_column || turn)
            continue;
#pragma unroll 1
        for (uint32_t other = threadIdx.x + row; other < turns * row; other += row)
            joined.template add<1>({space.weight[other]}, {space.value[other]});
        results.store(g, column, joined.value, joined.weight);
    }
}

/* They are sent through the control region, [task, part], values before each head's weight. */
template <class Weight>
class SentParts
{
public:
    __device__ SentParts(const Inputs &in, const Share &share, const hattn_cuda_divisor &dim)
        : share_(share), dim_(dim),
          stride_(hattn_cuda_part_words(share.heads, static_cast<int32_t>(dim.divisor), kWeightWords<Weight>)),
          first_(static_cast<hattn_cuda_control *>(hattn_address(in.workspace))->parts +
                 static_cast<uint32_t>(share.counter * share.num_splits) * stride_)
    {
    }

    /* One value or four. */
    template <class X>
    __device__ void send(int g, int column, X value, Weight weight) const
    {
        const uint32_t part = share_.split * stride_;
        send_words(first_ + part + static_cast<uint32_t>(g) * dim_.divisor + column, value);
        if (column == 0) {
            if constexpr (kHasTail)
                send_words(weights(g) + part, float4{weight.max, weight.sum, weight.near, weight.all});
            else
                send_words(weights(g) + part, make_float2(weight.max, weight.sum));
        }
    }

    /* By one block, once, heads first..end, of which a block has `unit`: what order parts are joined in depends on it
     * alone. Leaves zeros: of weights, which several threads read, after join_parts' barriers. */
    template <class S, class Tail>
    __device__ void join(const Results<S, Tail> &results, int first_head, int end_head, int unit,
                         JoinSpace<Weight> &space) const
    {
        const uint32_t last = static_cast<uint32_t>(share_.num_splits) - 1, columns = unit * dim_.divisor / 4;
        const uint32_t row = columns <= 32 ? 32 : columns <= 64 ? 64 : columns <= 128 ? 128 : kThreads;
        join_parts(
            results, share_, dim_, first_head * dim_.divisor, end_head * dim_.divisor, row, space,
            [&](int first, uint32_t g, uint32_t place, Weight(&weight)[kJoined<Weight>], float4(&x)[kJoined<Weight>]) {
                WeightWords weight_words[kJoined<Weight>];
                uint4 words[kJoined<Weight>];
                bool is_here;
                const WaitLimit limit;
                do {
                    limit.check();
                    is_here = true;
#pragma unroll
                    for (int p = 0; p < kJoined<Weight>; p++) {
                        const uint32_t part = min(static_cast<uint32_t>(first) + p, last) * stride_;
                        if constexpr (kHasTail)
                            weight_words[p] = receive_four(weights(g) + part);
                        else
                            weight_words[p] = receive_two(weights(g) + part);
                        words[p] = receive_four(first_ + part + place);
                    }
#pragma unroll
                    for (int p = 0; p < kJoined<Weight>; p++) {
                        is_here &= weight_words[p].x && weight_words[p].y && words[p].x && words[p].y && words[p].z &&
                                   words[p].w;
                        if constexpr (kHasTail)
                            is_here &= weight_words[p].z && weight_words[p].w;
                    }
                } while (!is_here);
#pragma unroll
                for (int p = 0; p < kJoined<Weight>; p++) {
                    const bool is_part = static_cast<uint32_t>(first) + p <= last;
                    weight[p].max = is_part ? float_of(weight_words[p].x) : -INFINITY;
                    weight[p].sum = float_of(weight_words[p].y);
                    if constexpr (kHasTail) {
                        weight[p].near = float_of(weight_words[p].z);
                        weight[p].all = float_of(weight_words[p].w);
                    }
                    x[p] = {float_of(words[p].x), float_of(words[p].y), float_of(words[p].z), float_of(words[p].w)};
                    if (is_part)
                        *reinterpret_cast<uint4 *>(first_ + (first + p) * stride_ + place) = {};
                }
            });
        for (uint32_t part = threadIdx.x; part <= last; part += kThreads)
            for (int g = first_head; g < end_head; g++)
                *reinterpret_cast<WeightWords *>(weights(g) + part * stride_) = {};
    }

private:
    static constexpr bool kHasTail = std::is_same_v<Weight, TailWeight>;
    using WeightWords = std::conditional_t<kHasTail, uint4, uint2>;

    __device__ uint32_t *weights(int g) const
    {
        return first_ + share_.heads * dim_.divisor + kWeightWords<Weight> * g;
    }

    const Share &share_;
    const hattn_cuda_divisor &dim_;
    uint32_t stride_;
    uint32_t *first_;
};

} // namespace hattn

#endif
