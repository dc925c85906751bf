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
    int total = resolved.length; /* at most: counts are the caller's */
    const int32_t *indices = nullptr;
    if (!dense) {
        const int64_t head = share.first_head / group;
        const int count = *reinterpret_cast<const int32_t *>(hattn_element(&p.counts, args.counts, share.row, head, 0));
        total = min(max(count, 0), min(total, p.k));
        indices = reinterpret_cast<const int32_t *>(hattn_element(&p.indices, args.indices, share.row, head, 0));
    }
    const SlotFinder slots(params, args.batch, resolved.sequence);
    attend_share<Engine, ListEarly>(
        params, inputs_of(args, workspace), share, total, space, [](auto begin) { begin(); },
        [&](int first, int end, Slot *list) {
            for (int rank = first + static_cast<int>(threadIdx.x); rank < end; rank += kThreads)
                list[rank - first] = slots.find(indices ? indices[rank] : rank);
            __syncthreads();
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
                        with_attend_kernel<Engines>(params, params.dense_block_heads, load)});
}

template <class Engines>
DeviceError launch_attend(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                          DeviceStream stream)
{
    const bool dense = !args.indices.data;
    const int group = dense ? params.dense_group : params.group,
              heads = dense ? params.dense_block_heads : params.block_heads;
    const int num_splits = dense ? params.num_dense_splits : params.num_splits;
    return with_attend_kernel<Engines>(params, heads, [&](auto kernel) {
        const dim3 grid =
            attend_grid(args.batch.num_rows, params.problem.num_q_heads / group, group, heads, num_splits);
        return launch({grid, kThreads, static_cast<size_t>(params.attend_shared), stream}, kernel,
                      at_launch(params, heads, args.k_cache, args.v_cache), args, workspace);
    });
}

} // namespace hattn

#endif
