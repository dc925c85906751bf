/* SPDX-License-Identifier: Apache-2.0
 * One block's share of an attention: up to 16 query heads that share rows, and an even part of those rows. The last block of a task to
 * finish joins the parts.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_SHARE_CUH
#define HATTN_KERNELS_CUDA_ATTEND_SHARE_CUH

#include <algorithm>

#include "kernels_cuda/attend_mma.cuh"
#include "kernels_cuda/attend_wide.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {

template <class Args>
__host__ __device__ inline Inputs inputs_of(const Args &args, hattn_buffer workspace)
{
    return {args.q, args.k_cache, args.v_cache, args.k_scale, args.v_scale, args.sink_logits, args.out, args.lse, workspace};
}

/* Which part of the work a block has: heads first_head..first_head+count of a row, share `split` of num_splits. */
struct Share {
    int32_t row, first_head, count, split, num_splits, counter;
    int32_t heads; /* of the largest block */
};

/* The grid is (row from first_row on, blocks of heads, split): no divisions of large numbers. */
__device__ inline Share share_of(int group, int block_group, int32_t first_row)
{
    Share share;
    share.row = first_row + static_cast<int32_t>(blockIdx.x);
    share.split = blockIdx.z;
    share.num_splits = gridDim.z;
    share.counter = blockIdx.x * gridDim.y + blockIdx.y;
    const int blocks = (group + block_group - 1) / block_group;
    const int of_group = blocks == 1 ? 0 : static_cast<int>(blockIdx.y) % blocks,
              which = blocks == 1 ? static_cast<int>(blockIdx.y) : static_cast<int>(blockIdx.y) / blocks;
    share.first_head = which * group + of_group * block_group;
    share.count = min(block_group, group - of_group * block_group);
    share.heads = min(block_group, group);
    return share;
}

/* Shared memory of a block: what finds rows (Early has a member list of slots) and what holds results. The first is done with when the second
 * starts, unless the engine works in shared memory all along. Little of it leaves much for L1, where rows land. */
template <class Engine, class Early>
union LateSpace {
    typename Engine::Space engine;
    Early early;
};

template <class Engine, class Early>
struct ApartSpace {
    typename Engine::Space engine;
    Early early;
};

template <class Engine, class Early>
using ShareSpace = std::conditional_t<Engine::kNeedsSpaceLate, LateSpace<Engine, Early>, ApartSpace<Engine, Early>>;

/* Joins the parts of a share's heads: four columns a thread (dims are multiples of 8), the loads of 8 parts in flight together. lse and out
 * are [head, part]. A sink is a part of its own: all weight, no value. */
template <class Write, class WriteLse>
__device__ inline void join_parts(const Share &share, int stride, const hattn_cuda_divisor &dim, const float *part_lse,
                                  const float *part_out, const float *sinks, Write write, WriteLse write_lse)
{
    constexpr int kParts = 8;
    const uint32_t size = dim.divisor; /* floats of a part */
    for (uint32_t i = threadIdx.x * 4; i < share.count * size; i += kThreads * 4) {
        const uint32_t g = divide(i, dim), column = i - g * size, first_part = g * static_cast<uint32_t>(stride);
        const float *const lses = part_lse + first_part;
        const float *const values = part_out + static_cast<uint64_t>(first_part) * size + column;
        float max = sinks ? sinks[g] : -INFINITY, sum = sinks ? 1.0f : 0.0f;
        float4 value = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int first = 0; first < share.num_splits; first += kParts) {
            float lse[kParts];
            float4 x[kParts];
#pragma unroll
            for (int p = 0; p < kParts; p++) {
                const uint32_t part = min(first + p, share.num_splits - 1);
                lse[p] = first + p < share.num_splits ? __ldcg(lses + part) : -INFINITY;
                x[p] = __ldcg(reinterpret_cast<const float4 *>(values + part * size));
            }
            const float old = max;
#pragma unroll
            for (int p = 0; p < kParts; p++)
                max = fmaxf(max, lse[p]);
            const float base = max == -INFINITY ? 0.0f : max, decay = expf(old - base);
            sum *= decay;
            value = {value.x * decay, value.y * decay, value.z * decay, value.w * decay};
#pragma unroll
            for (int p = 0; p < kParts; p++) {
                const float factor = expf(lse[p] - base);
                sum += factor;
                if (factor != 0.0f) /* an empty part's values may be anything; a NaN is passed on */
                    value = {value.x + factor * x[p].x, value.y + factor * x[p].y, value.z + factor * x[p].z, value.w + factor * x[p].w};
            }
        }
        const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
        write(g, column, make_float4(value.x * scale, value.y * scale, value.z * scale, value.w * scale));
        if (column == 0)
            write_lse(g, sum == 0.0f ? -INFINITY : max + logf(sum));
    }
}

/* Whether a kernel of its own joins the parts of blocks of `heads` (join.cu): reading 2048 floats a part takes one block longer than
 * another kernel does. */
__host__ __device__ inline bool joins_apart(const hattn_problem &p, int heads)
{
    return heads * p.head_dim_v > 1024;
}

/* Where a share's parts are, [head, part], and its results. */
struct ShareParts {
    __device__ ShareParts(const hattn_cuda_params &params, const Inputs &in, const Share &share)
    {
        const int64_t first = (static_cast<int64_t>(share.row) * params.problem.num_q_heads + share.first_head) * params.num_splits_max;
        char *workspace = static_cast<char *>(hattn_address(in.workspace));
        out = reinterpret_cast<float *>(workspace + params.part_out) + first * params.problem.head_dim_v;
        lse = reinterpret_cast<float *>(workspace + params.part_lse) + first;
    }

    float *out, *lse;
};

__device__ inline int64_t out_place(const hattn_problem &p, const Share &share, int g)
{
    return share.row * p.out.stride[0] + (share.first_head + g) * p.out.stride[1];
}

__device__ inline void write_lse(const hattn_problem &p, const Inputs &in, const Share &share, int g, float lse)
{
    if (in.lse.data)
        static_cast<float *>(hattn_address(in.lse))[share.row * p.lse.stride[0] + (share.first_head + g) * p.lse.stride[1]] = lse;
}

__device__ inline void join_share(const hattn_cuda_params &params, const Inputs &in, const Share &share)
{
    const hattn_problem &p = params.problem;
    const ShareParts parts(params, in, share);
    const float *sinks = in.sink_logits.data ? static_cast<const float *>(hattn_address(in.sink_logits)) + share.first_head : nullptr;
    join_parts(
        share, params.num_splits_max, params.v_dim, parts.lse, parts.out, sinks,
        [&](int g, int column, float4 value) {
            store_elements(hattn_address(in.out), p.out.dtype, out_place(p, share, g) + column, value);
        },
        [&](int g, float lse) { write_lse(p, in, share, g, lse); });
}

/* Attends to a share of `total` rows. ready() is called when the queries are on their way; fill(first, end, list) writes the slots of
 * ranks first..end and ends with a barrier. True in all threads of the block that wrote the results. */
template <class Engine, class Early, class Ready, class Fill>
__device__ inline bool attend_share(const hattn_cuda_params &params, const Inputs &in, const Share &share, int total,
                                    ShareSpace<Engine, Early> &space, Ready ready, Fill fill)
{
    const hattn_problem &p = params.problem;
    AttendTask task = {
        share.first_head / params.dense_group, share.count, 1.0f, 1.0f, hattn_address(in.k_cache), hattn_address(in.v_cache), params.attend_shared};
    task.k_scale = hattn_kv_scale(&p, in.k_scale, task.kv_head);
    task.v_scale = hattn_kv_scale(&p, in.v_scale, task.kv_head);
    Engine engine(p, task, space.engine);
    const int q_size = p.q.dtype == HATTN_F32 ? 4 : 2;
    engine.start([&](int g) {
        return static_cast<const char *>(hattn_address(in.q)) +
               (share.row * p.q.stride[0] + (share.first_head + g) * p.q.stride[1]) * q_size;
    });
    const int first = static_cast<int>(static_cast<int64_t>(total) * share.split / share.num_splits);
    const int end = static_cast<int>(static_cast<int64_t>(total) * (share.split + 1) / share.num_splits);
    ready(); /* which may wait: what can be known is known */
    for (int done = first; done < end; done += kList) {
        const int count = min(kList, end - done);
        if (done != first)
            __syncthreads();
        fill(done, done + count, space.early.list);
        engine.add_rows(space.early.list, count);
    }
    engine.finish();

    if (share.num_splits == 1 && !in.sink_logits.data) {
        engine.each_value([&](int g, int column, float value) { store_element(hattn_address(in.out), p.out.dtype, out_place(p, share, g) + column, value); });
        if (threadIdx.x < share.count)
            write_lse(p, in, share, threadIdx.x, engine.lse(threadIdx.x));
        return true;
    }
    /* Parts are normalised, so that joining them is one operation everywhere: [row, head, part]. */
    const ShareParts parts(params, in, share);
    const uint32_t dim = static_cast<uint32_t>(p.head_dim_v), stride = static_cast<uint32_t>(params.num_splits_max);
    float *const out = parts.out + static_cast<uint32_t>(share.split) * dim;
    engine.each_value(
        [&](int g, int column, float value) { out[static_cast<uint32_t>(g) * (stride * dim) + column] = value; });
    if (threadIdx.x < share.count)
        parts.lse[threadIdx.x * stride + share.split] = engine.lse(threadIdx.x);
    hattn_cuda_control *control = static_cast<hattn_cuda_control *>(hattn_address(in.workspace));
    if (!arrive_last(&control->arrived[share.counter], static_cast<uint32_t>(share.num_splits)))
        return false;
    if (!joins_apart(p, share.heads))
        join_share(params, in, share);
    return true;
}

/* Positions of one sequence to slots. */
class SlotFinder
{
public:
    __device__ SlotFinder(const hattn_cuda_params &params, const hattn_batch &batch, int32_t sequence) : page_size_(params.page_size), sequence_(sequence)
    {
        if (params.problem.page_size)
            table_ = static_cast<const int32_t *>(hattn_address(batch.block_table)) + sequence * params.problem.block_table.stride[0];
    }

    __device__ Slot find(int32_t position) const
    {
        if (!table_)
            return {sequence_, position};
        const uint32_t index = divide(position, page_size_);
        return {table_[index], static_cast<int32_t>(position - index * page_size_.divisor)};
    }

private:
    const hattn_cuda_divisor &page_size_;
    const int32_t *table_ = nullptr;
    int32_t sequence_;
};

template <class Engine>
struct EngineType {
    using type = Engine;
};

/* Calls make with the number of heads of a block, as a constant: 1, 4 or 8. */
template <class F>
inline cudaError_t with_block_heads(int heads, F make)
{
    if (heads == 1)
        return make(std::integral_constant<int, 1>());
    if (heads == 4)
        return make(std::integral_constant<int, 4>());
    return make(std::integral_constant<int, 8>());
}

/* The engines that a plan may choose (`heads` a block). Each set is compiled in files of its own, to be built side by side. */
struct MmaEngines {
    template <class F>
    static cudaError_t choose(const hattn_problem &p, int heads, F f)
    {
        return with_block_heads(heads, [&](auto size) {
            constexpr int kGroup = decltype(size)::value;
            if (p.k_cache.dtype == HATTN_F16)
                return p.head_dim_qk == 64 ? f(EngineType<MmaEngine<__half, 64, kGroup>>()) : f(EngineType<MmaEngine<__half, 128, kGroup>>());
            return p.head_dim_qk == 64 ? f(EngineType<MmaEngine<__nv_bfloat16, 64, kGroup>>()) : f(EngineType<MmaEngine<__nv_bfloat16, 128, kGroup>>());
        });
    }
};

struct PlainEngines {
    template <class F>
    static cudaError_t choose(const hattn_problem &p, int heads, F f)
    {
        return with_dtype(p.k_cache.dtype, [&](auto type) {
            return with_block_heads(heads, [&](auto size) { return f(EngineType<PlainEngine<value_of<decltype(type)>, decltype(size)::value>>()); });
        });
    }
};

struct WideEngines {
    template <class F>
    static cudaError_t choose(const hattn_problem &p, int heads, F f)
    {
        if (p.k_cache.dtype == HATTN_BF16)
            return heads == 8 ? f(EngineType<WideEngine<__nv_bfloat16, __nv_bfloat16, 1, false>>())
                              : f(EngineType<WideEngine<__nv_bfloat16, __nv_bfloat16, 2, false>>());
        return p.k_cache.dtype == HATTN_F16 ? of_stored<__half>(p, heads, f) : of_stored<fp8_e4m3>(p, heads, f);
    }

private:
    template <class Stored, class F>
    static cudaError_t of_stored(const hattn_problem &p, int heads, F f)
    {
        if (p.q.dtype == HATTN_F32)
            return f(EngineType<WideEngine<__half, Stored, 2, true>>());
        return heads == 8 ? f(EngineType<WideEngine<__half, Stored, 1, false>>()) : f(EngineType<WideEngine<__half, Stored, 2, false>>());
    }
};

/* For blocks of `heads`. */
inline dim3 attend_grid(const hattn_problem &p, int64_t rows, int group, int heads, int num_splits)
{
    return dim3(static_cast<unsigned>(rows), static_cast<unsigned>((p.num_q_heads / group) * ((group + heads - 1) / heads)), static_cast<unsigned>(num_splits));
}

/* What such blocks leave to a kernel of its own, if they do. */
inline cudaError_t launch_join_of(const hattn_cuda_params &params, const Inputs &in, int num_rows, int group, int heads, int num_splits, cudaStream_t stream)
{
    const bool has_parts = num_splits > 1 || in.sink_logits.data;
    return has_parts && joins_apart(params.problem, std::min(group, heads)) ? launch_join(params, in, num_rows, num_splits, stream) : cudaSuccess;
}

} // namespace hattn

#endif
