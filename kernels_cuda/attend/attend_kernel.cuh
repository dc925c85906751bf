/* SPDX-License-Identifier: Apache-2.0
 * Attention over given indices or over all rows, as a call of its own.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_ATTEND_KERNEL_CUH
#define HATTN_KERNELS_CUDA_ATTEND_ATTEND_KERNEL_CUH

#include "kernels_cuda/attend/mean_tail.cuh"

namespace hattn {

template <TailOf kTail>
struct ListEarly {
    Listed<kTail> list[kList];
};

/* Of rows that a block attends to. */
template <class Engine>
using ListSpace = ShareSpace<Engine, ListEarly<Engine::kTailOf>>;

/* With a tail: shares are given, of each query head or of the selection. */
template <class Engine, int kGroup>
__global__ void __launch_bounds__(kThreads, 2)
    attend_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_attend_args args,
                  hattn_buffer workspace)
{
    constexpr bool kTail = Engine::kTailOf != TailOf::NONE;
    using Row = Listed<Engine::kTailOf>;
    __shared__ ListSpace<Engine> space;
    static_assert(sizeof(space) + (kTail ? 2 * Engine::kHeads * sizeof(float2) : 0) + 64 <= Engine::kStaticBytes,
                  "with what functions declare");
    const hattn_problem &p = params.problem;
    const bool dense = !kTail && !args.indices.data;
    const int group = dense ? params.dense_group : params.group;
    const Share share = share_of(group, kGroup, dense ? params.dense_splits : params.splits);
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, share.row);
    const int64_t head = share.first_head / group;
    const int32_t *indices =
        dense ? nullptr
              : reinterpret_cast<const int32_t *>(hattn_element(&p.indices, args.indices, share.row, head, 0));
    const SlotFinder slots(params, args.batch, resolved.sequence);
    [[maybe_unused]] bool selects = false;
    const auto tail = [&] {
        if constexpr (kTail)
            return HeadTail<Engine>({params, args, slots, resolved.sequence, resolved.length,
                                     share.first_head / params.dense_group, mean_space<Engine>(space)},
                                    args, workspace, share, selects);
        else
            return NoTail();
    }();
    if constexpr (kTail)
        if (share.split == 0 && warp_id() == kWarps - 1 && resolved.length > 0)
            tail.prefetch();
    auto ready = [&](auto begin) {
        wait_for_previous(); /* which may be a decode's, that lists the selection */
        begin();
        if (dense)
            return resolved.length;
        allow_dependents();
        const int told =
            load_l2(reinterpret_cast<const int32_t *>(hattn_element(&p.counts, args.counts, share.row, head, 0)));
        const int count = min(max(told, 0), min(resolved.length, p.k)); /* counts are the caller's */
        selects = count > 0;
        return count;
    };
    attend_share<Engine, ListEarly<Engine::kTailOf>>(
        params, inputs_of(args, workspace), share, resolved.length, space, ready,
        [&](int first, int end, int, Row *list) {
            for (int rank = first + static_cast<int>(threadIdx.x); rank < end; rank += kThreads) {
                const Slot slot = slots.find(indices ? load_l2(indices + rank) : rank);
                if constexpr (kTail)
                    list[rank - first] = {slot.page, slot.slot, tail.marks(rank)};
                else
                    list[rank - first] = slot;
            }
            __syncthreads();
        },
        tail);
}

/* Dense attention where sequences have several tokens: a block has up to params.dense_tokens rows, those of a sequence
 * together, so that K and V are read once for all of these. */
template <class Engine>
__global__ void __launch_bounds__(kThreads, 2)
    attend_tokens_kernel(const __grid_constant__ hattn_cuda_params params,
                         const __grid_constant__ hattn_attend_args args, hattn_buffer workspace)
{
    __shared__ ListSpace<Engine> space;
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
        attend_share<Engine, ListEarly<TailOf::NONE>>(
            params, inputs_of(args, workspace), share, first.length, space, [](auto begin) { begin(); },
            [&](int from, int to, int, Slot *list) {
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

template <class Engines, TailOf kTail, class F>
DeviceError with_attend_kernel(const hattn_cuda_params &params, int heads, F f)
{
    return Engines::choose(params.problem, heads, [&](auto engine) {
        using Engine = typename decltype(engine)::type;
        if constexpr (kTail == TailOf::NONE)
            return f(attend_kernel<Engine, Engine::kHeads>);
        else
            return f(attend_kernel<typename Engine::template With<kTail>, Engine::kHeads>);
    });
}

template <class Engines>
DeviceError load_attend(const hattn_cuda_params &params)
{
    auto load = [&](auto kernel) { return prepare(kernel, params.attend_shared); };
    return first_error({with_attend_kernel<Engines, TailOf::NONE>(params, params.block_heads, load),
                        with_attend_kernel<Engines, TailOf::NONE>(params, params.dense_block_heads, load),
                        params.dense_tokens > 1 ? with_tokens_kernel<Engines>(params, load) : kSuccess});
}

/* Blocks of `heads` of groups of `group`, and shares of each. */
template <class Engines, TailOf kTail>
DeviceError launch_shares(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                          DeviceStream stream, bool is_dependent, int group, int heads, int num_splits)
{
    return with_attend_kernel<Engines, kTail>(params, heads, [&](auto kernel) {
        const dim3 grid =
            attend_grid(args.batch.num_rows, params.problem.num_q_heads / group, group, heads, num_splits);
        return launch({grid, kThreads, static_cast<size_t>(params.attend_shared), stream,
                       is_dependent && params.has_dependent_launch},
                      kernel, at_launch(params, heads, args.k_cache, args.v_cache), args, workspace);
    });
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
    return launch_shares<Engines, TailOf::NONE>(params, args, workspace, stream, is_dependent, group, heads,
                                                dense ? params.num_dense_splits : params.num_splits);
}

template <class Engines>
DeviceError load_attend_tail(const hattn_cuda_params &params)
{
    return with_attend_kernel<Engines, TailOf::HEADS>(
        params, params.block_heads, [&](auto kernel) { return prepare(kernel, params.attend_shared); });
}

/* Shares and their totals are there. */
template <class Engines>
DeviceError launch_attend_tail(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                               DeviceStream stream, bool is_dependent)
{
    return launch_shares<Engines, TailOf::HEADS>(params, args, workspace, stream, is_dependent, params.group,
                                                 params.block_heads, params.num_splits);
}

} // namespace hattn

#endif
