/* SPDX-License-Identifier: Apache-2.0
 * Attention over given indices or over all rows, as a call of its own.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_ATTEND_KERNEL_CUH
#define HATTN_KERNELS_CUDA_ATTEND_ATTEND_KERNEL_CUH

#include "kernels_cuda/attend/attend_share.cuh"

namespace hattn {

struct ListEarly {
    Slot list[kList];
};

template <class Engine, int kGroup>
__global__ void __launch_bounds__(kThreads, 2)
    attend_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                  hattn_buffer workspace)
{
    __shared__ ShareSpace<Engine, ListEarly> space;
    static_assert(sizeof(space) + 64 <= Engine::kStaticBytes, "with what functions declare");
    const hattn_problem &p = params.problem;
    const bool dense = !args.indices.data;
    const int group = dense ? params.dense_group : params.group;
    const Share share = share_of(group, kGroup, dense ? params.dense_splits : params.splits);
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, share.row);
    const int64_t head = share.first_head / group;
    const int32_t *indices =
        dense ? nullptr
              : reinterpret_cast<const int32_t *>(hattn_element(&p.indices, args.indices, share.row, head, 0));
    auto ready = [&](auto begin) {
        wait_for_previous(); /* which may be a decode's, that lists the selection */
        begin();
        if (dense)
            return resolved.length;
        allow_dependents();
        const int count =
            load_l2(reinterpret_cast<const int32_t *>(hattn_element(&p.counts, args.counts, share.row, head, 0)));
        return min(max(count, 0), min(resolved.length, p.k)); /* counts are the caller's */
    };
    const SlotFinder slots(params, args.batch, resolved.sequence);
    attend_share<Engine, ListEarly>(
        params, inputs_of(args, workspace), share, resolved.length, space, ready, [&](int first, int end, Slot *list) {
            for (int rank = first + static_cast<int>(threadIdx.x); rank < end; rank += kThreads)
                list[rank - first] = slots.find(indices ? load_l2(indices + rank) : rank);
            __syncthreads();
        });
}

/* Dense attention where sequences have several tokens: a block has up to params.dense_tokens rows, those of a sequence
 * together, so that K and V are read once for all of these. */
template <class Engine>
__global__ void __launch_bounds__(kThreads, 2)
    attend_tokens_kernel(const __grid_constant__ hattn_cuda_params params,
                         const __grid_constant__ hattn_attend_args args, hattn_buffer workspace)
{
    __shared__ ShareSpace<Engine, ListEarly> space;
    static_assert(sizeof(space) + 64 <= Engine::kStaticBytes, "with what functions declare");
    TokenShare share;
    share.group = params.dense_heads;
    share.first_head = static_cast<int32_t>(blockIdx.y) * params.dense_group;
    share.heads = params.dense_tokens * params.dense_group;
    share.splits = params.token_splits;
    share.split = blockIdx.z;
    share.num_splits = gridDim.z;
    const int32_t end = min(static_cast<int32_t>(blockIdx.x + 1) * params.dense_tokens, args.batch.num_rows);
    for (share.row = static_cast<int32_t>(blockIdx.x) * params.dense_tokens; share.row < end;
         share.row += share.num_tokens) {
        const hattn_row_place place = hattn_place_row(&args.batch, share.row);
        share.num_tokens = place.sequence < 0 ? 1 : min(place.after + 1, end - share.row);
        share.count = share.num_tokens * params.dense_group;
        share.counter = share.row * gridDim.y + blockIdx.y;
        const hattn_row first = hattn_resolve_row(&params.problem, &args.batch, share.row),
                        last = hattn_resolve_row(&params.problem, &args.batch, share.row + share.num_tokens - 1);
        share.end = last.position + 1;
        share.longest = last.length;
        const SlotFinder slots(params, args.batch, first.sequence);
        attend_share<Engine, ListEarly>(
            params, inputs_of(args, workspace), share, first.length, space, [](auto begin) { begin(); },
            [&](int from, int to, Slot *list) {
                for (int rank = from + static_cast<int>(threadIdx.x); rank < to; rank += kThreads)
                    list[rank - from] = slots.find(rank);
                __syncthreads();
            });
        __syncthreads();
    }
}

/* Calls f with attend_tokens_kernel, for a plan whose tokens share. */
template <class Engines, class F>
DeviceError with_tokens_kernel(const hattn_cuda_params &params, F f)
{
    return Engines::choose(params.problem, HATTN_CUDA_TOKEN_HEADS, [&](auto engine) {
        using Engine = typename decltype(engine)::type;
        if constexpr (Engine::kTakesTokens)
            return f(attend_tokens_kernel<Engine>);
        return kNoSuchKernel;
    });
}

template <class Engines, class F>
DeviceError with_attend_kernel(const hattn_cuda_params &params, int heads, F f)
{
    return Engines::choose(params.problem, heads, [&](auto engine) {
        using Engine = typename decltype(engine)::type;
        return f(attend_kernel<Engine, Engine::kHeads>);
    });
}

template <class Engines>
DeviceError load_attend(const hattn_cuda_params &params)
{
    auto load = [&](auto kernel) { return prepare(kernel, params.attend_shared); };
    return first_error({with_attend_kernel<Engines>(params, params.block_heads, load),
                        with_attend_kernel<Engines>(params, params.dense_block_heads, load),
                        params.dense_tokens > 1 ? with_tokens_kernel<Engines>(params, load) : kSuccess});
}

template <class Engines>
DeviceError launch_attend(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                          DeviceStream stream, bool is_dependent)
{
    const bool dense = !args.indices.data;
    if (dense && params.dense_tokens > 1 && (args.batch.q_start.data || args.batch.q_len > 1))
        return with_tokens_kernel<Engines>(params, [&](auto kernel) {
            const dim3 grid(
                static_cast<unsigned>((args.batch.num_rows + params.dense_tokens - 1) / params.dense_tokens),
                static_cast<unsigned>(params.problem.num_kv_heads), static_cast<unsigned>(params.num_token_splits));
            return launch({grid, kThreads, static_cast<size_t>(params.attend_shared), stream}, kernel, params, args,
                          workspace);
        });
    const int group = dense ? params.dense_group : params.group,
              heads = dense ? params.dense_block_heads : params.block_heads;
    const int num_splits = dense ? params.num_dense_splits : params.num_splits;
    return with_attend_kernel<Engines>(params, heads, [&](auto kernel) {
        const dim3 grid =
            attend_grid(args.batch.num_rows, params.problem.num_q_heads / group, group, heads, num_splits);
        return launch({grid, kThreads, static_cast<size_t>(params.attend_shared), stream,
                       is_dependent && params.has_dependent_launch},
                      kernel, at_launch(params, heads, args.k_cache, args.v_cache), args, workspace);
    });
}

} // namespace hattn

#endif
