/* SPDX-License-Identifier: Apache-2.0
 * One block's share of an attention: up to 8 query heads that share rows, and an even part of those rows. The last block of a task to
 * finish joins the parts.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_SHARE_CUH
#define HATTN_KERNELS_CUDA_ATTEND_SHARE_CUH

#include "kernels_cuda/attend_mma.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {

constexpr int kList = 1024; /* positions found at a time: 4 KiB of shared memory */

/* Arguments that attend and decode have in common. */
struct Inputs {
    hattn_buffer q, k_cache, v_cache, k_scale, v_scale, sink_logits, out, lse, workspace;
};

template <class Args>
__device__ inline Inputs inputs_of(const Args &args, hattn_buffer workspace)
{
    return {args.q, args.k_cache, args.v_cache, args.k_scale, args.v_scale, args.sink_logits, args.out, args.lse, workspace};
}

/* Which part of the work a block has: heads first_head..first_head+count of a row, share `split` of num_splits. */
struct Share {
    int64_t row, first_head, counter;
    int count, split, num_splits;
};

/* blockIdx.x runs over row, group of heads, block of 8 in the group, split. */
__device__ inline Share share_of(const hattn_problem &p, int group, int block_group, int num_splits)
{
    Share share;
    int64_t index = blockIdx.x;
    share.split = static_cast<int>(index % num_splits);
    share.num_splits = num_splits;
    share.counter = index /= num_splits;
    const int blocks = (group + block_group - 1) / block_group, block = static_cast<int>(index % blocks);
    index /= blocks;
    const int groups = p.num_q_heads / group;
    share.row = index / groups;
    share.first_head = index % groups * group + block * block_group;
    share.count = min(block_group, group - block * block_group);
    return share;
}

/* Shared memory of a block: what finds rows (Early has a member list) and what holds results. The first is done with when the second
 * starts, unless the engine works in shared memory all along. Little of it leaves much for L1, where rows land. */
template <class Engine, class Early>
struct LateSpace {
    union {
        typename Engine::Space engine;
        Early early;
    };
    MergeSpace merge;
};

template <class Engine, class Early>
struct ApartSpace {
    typename Engine::Space engine;
    Early early;
    MergeSpace merge;
};

template <class Engine, class Early>
using ShareSpace = std::conditional_t<Engine::kNeedsSpaceLate, LateSpace<Engine, Early>, ApartSpace<Engine, Early>>;

/* Attends to the share's ranks of `total` rows; fill(first, end, list) writes their positions and ends with a barrier. */
template <class Engine, class Early, class Fill>
__device__ inline void attend_share(const hattn_cuda_params &params, const Inputs &in, const hattn_pages &pages, const Share &share, int total,
                                    ShareSpace<Engine, Early> &space, Fill fill)
{
    const hattn_problem &p = params.problem;
    AttendTask task = {pages, share.first_head / params.dense_group, share.count, 1.0f, 1.0f, hattn_address(in.k_cache), hattn_address(in.v_cache)};
    task.k_scale = hattn_kv_scale(&p, in.k_scale, task.kv_head);
    task.v_scale = hattn_kv_scale(&p, in.v_scale, task.kv_head);
    Engine engine(p, task, space.engine);
    engine.start([&](int g) { return hattn_element(&p.q, in.q, share.row, share.first_head + g, 0); });
    const int first = static_cast<int>(static_cast<int64_t>(total) * share.split / share.num_splits);
    const int end = static_cast<int>(static_cast<int64_t>(total) * (share.split + 1) / share.num_splits);
    for (int done = first; done < end; done += kList) {
        const int count = min(kList, end - done);
        fill(done, done + count, space.early.list);
        engine.add_rows(space.early.list, count);
        __syncthreads();
    }
    engine.finish();

    auto write = [&](int g, int column, float value) {
        store_element(hattn_element(&p.out, in.out, share.row, share.first_head + g, 0), p.out.dtype, column, value);
    };
    auto write_lse = [&](int g, float lse) {
        if (in.lse.data)
            *reinterpret_cast<float *>(hattn_element(&p.lse, in.lse, share.row, share.first_head + g, 0)) = lse;
    };
    if (share.num_splits == 1 && !in.sink_logits.data) {
        engine.each_value(write);
        if (threadIdx.x < share.count)
            write_lse(threadIdx.x, engine.lse(threadIdx.x));
        return;
    }
    /* Parts are normalised, so that joining them is one operation everywhere: [row, head, part]. */
    const int64_t first_part = (share.row * p.num_q_heads + share.first_head) * params.num_splits_max;
    float *part_out = reinterpret_cast<float *>(static_cast<char *>(hattn_address(in.workspace)) + params.part_out) + first_part * p.head_dim_v;
    float *part_lse = reinterpret_cast<float *>(static_cast<char *>(hattn_address(in.workspace)) + params.part_lse) + first_part;
    auto part_of = [&](int g, int part) { return static_cast<int64_t>(g) * params.num_splits_max + part; };
    engine.each_value([&](int g, int column, float value) { part_out[part_of(g, share.split) * p.head_dim_v + column] = value; });
    if (threadIdx.x < share.count)
        part_lse[part_of(threadIdx.x, share.split)] = engine.lse(threadIdx.x);
    hattn_cuda_control *control = static_cast<hattn_cuda_control *>(hattn_address(in.workspace));
    if (!arrive_last(&control->arrived[share.counter], static_cast<uint32_t>(share.num_splits)))
        return;
    /* A sink is a part of its own: all weight, no value. */
    const float *sinks = in.sink_logits.data ? static_cast<const float *>(hattn_address(in.sink_logits)) : nullptr;
    merge_weights(share.count, share.num_splits + (sinks != nullptr), space.merge,
                  [&](int g, int part) { return part < share.num_splits ? part_lse[part_of(g, part)] : sinks[share.first_head + g]; });
    /* Four columns a thread (dims are multiples of 8): the loads of 16 parts are in flight together. */
    for (int i = threadIdx.x * 4; i < share.count * p.head_dim_v; i += kThreads * 4) {
        const int g = i / p.head_dim_v, column = i % p.head_dim_v;
        float4 value = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 16
        for (int part = 0; part < share.num_splits; part++) {
            const float4 x = __ldcg(reinterpret_cast<const float4 *>(part_out + part_of(g, part) * p.head_dim_v + column));
            const float factor = space.merge.factor[g][part];
            if (factor != 0.0f) /* an empty part's values may be anything */
                value = {value.x + factor * x.x, value.y + factor * x.y, value.z + factor * x.z, value.w + factor * x.w};
        }
        write(g, column, value.x);
        write(g, column + 1, value.y);
        write(g, column + 2, value.z);
        write(g, column + 3, value.w);
    }
    if (threadIdx.x < share.count)
        write_lse(threadIdx.x, space.merge.lse[threadIdx.x]);
}

template <class Engine>
struct EngineType {
    using type = Engine;
};

/* Calls make with the number of heads of a block, as a constant. */
template <class F>
inline cudaError_t with_block_group(int group, F make)
{
    if (group == 1)
        return make(std::integral_constant<int, 1>());
    if (group <= 4)
        return make(std::integral_constant<int, 4>());
    return make(std::integral_constant<int, HATTN_CUDA_GROUP_BLOCK>());
}

/* The engines that a plan may choose. Each set is compiled in files of its own, to be built side by side. */
struct MmaEngines {
    template <class F>
    static cudaError_t choose(const hattn_problem &p, int group, F f)
    {
        return with_block_group(group, [&](auto size) {
            constexpr int kGroup = decltype(size)::value;
            if (p.k_cache.dtype == HATTN_F16)
                return p.head_dim_qk == 64 ? f(EngineType<MmaEngine<__half, 64, kGroup>>()) : f(EngineType<MmaEngine<__half, 128, kGroup>>());
            return p.head_dim_qk == 64 ? f(EngineType<MmaEngine<__nv_bfloat16, 64, kGroup>>()) : f(EngineType<MmaEngine<__nv_bfloat16, 128, kGroup>>());
        });
    }
};

struct PlainEngines {
    template <class F>
    static cudaError_t choose(const hattn_problem &p, int group, F f)
    {
        return with_dtype(p.k_cache.dtype, [&](auto type) {
            return with_block_group(group, [&](auto size) { return f(EngineType<PlainEngine<value_of<decltype(type)>, decltype(size)::value>>()); });
        });
    }
};

inline int block_group(int group)
{
    return group == 1 ? 1 : group <= 4 ? 4 : HATTN_CUDA_GROUP_BLOCK;
}

inline unsigned num_attend_blocks(const hattn_problem &p, int64_t rows, int group, int num_splits)
{
    const int size = block_group(group);
    return static_cast<unsigned>(rows * (p.num_q_heads / group) * ((group + size - 1) / size) * num_splits);
}

} // namespace hattn

#endif
