/* SPDX-License-Identifier: Apache-2.0
 * The second kernel of a decode: each block finds the positions of its share of a selection and attends to them.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_DECODE_ATTEND_CUH
#define HATTN_KERNELS_CUDA_DECODE_DECODE_ATTEND_CUH

#include "kernels_cuda/attend/attend_share.cuh"
#include "kernels_cuda/decode/select_regions.cuh"

namespace hattn {

struct SelectEarly {
    Slot list[kList];
    RegionSpace select;
};

template <class Engine, int kGroup, bool kKeyed>
__global__ void __launch_bounds__(kThreads, 2)
    decode_attend_kernel(const __grid_constant__ hattn_cuda_params params,
                         const __grid_constant__ hattn_decode_args args, const __grid_constant__ RegionRun run,
                         hattn_buffer workspace)
{
    __shared__ ShareSpace<Engine, SelectEarly> space;
    static_assert(sizeof(space) + 64 <= Engine::kStaticBytes, "with what functions declare");
    const hattn_problem &p = params.problem;
    const Share share = share_of(params.group, kGroup, run.first_row, run.first_head, params.splits);
    const int32_t head = share.first_head / params.group;
    RegionSelection<kKeyed> selection(run, share.row, head, space.early.select);
    const int32_t kept = selection.task().kept, sequence = selection.task().row.sequence;
    const SlotFinder slots(params, args.batch, sequence);

    /* One block of the group shows the selection; each share its own ranks of it. */
    const bool shows = share.first_head % params.group == 0;
    int32_t *indices = nullptr;
    if (shows && args.indices.data)
        indices = static_cast<int32_t *>(hattn_address(args.indices)) + share.row * p.indices.stride[0] +
                  head * p.indices.stride[1];
    bool is_found = true;
    auto ready = [&](auto begin) {
        wait_for_previous();
        begin();
        if (run.overlaps)
            allow_dependents();
        is_found = selection.find();
        if (!is_found)
            score_anew<kKeyed>(params, args, run, share.row, head, space.early.select);
    };
    bool last = attend_share<Engine, SelectEarly>(
        params, inputs_of(args, workspace), share, kept, space, ready, [&](int first, int end, Slot *list) {
            auto keep = [list, indices, first, sequence](int rank, int position) {
                list[rank - first] = {sequence, position};
                if (indices)
                    indices[rank] = position;
            };
            if (is_found)
                selection.visit(first, end, keep);
            else
                visit_anew<kKeyed>(params, run, share.row, head, first, end, keep, space.early.select);
            if (run.is_paged) {
#pragma unroll 1
                for (int i = threadIdx.x; i < end - first; i += kThreads)
                    list[i] = slots.find(list[i].slot);
                __syncthreads();
            }
        });
    if (shows && share.split == 0) {
#pragma unroll 1
        for (int i = kept + static_cast<int>(threadIdx.x); indices && i < p.k; i += kThreads)
            indices[i] = -1;
        if (threadIdx.x == 0 && args.counts.data)
            static_cast<int32_t *>(
                hattn_address(args.counts))[share.row * p.counts.stride[0] + head * p.counts.stride[1]] = kept;
    }
    /* Every block of the task has read the histogram once the last one is here. */
    const uint32_t blocks = static_cast<uint32_t>((params.group + kGroup - 1) / kGroup);
    if (last && blocks > 1) {
        hattn_cuda_control *control = static_cast<hattn_cuda_control *>(hattn_address(workspace));
        last =
            arrive_last(&control->arrived[HATTN_CUDA_COUNTERS - HATTN_CUDA_HISTOGRAMS + selection.task().task], blocks);
    }
    if (last)
        selection.clear();
}

template <class Engines, bool kKeyed, class F>
DeviceError with_decode_kernel(const hattn_cuda_params &params, F f)
{
    return Engines::choose(params.problem, params.block_heads, [&](auto engine) {
        using Engine = typename decltype(engine)::type;
        return f(decode_attend_kernel<Engine, Engine::kHeads, kKeyed>);
    });
}

template <class Engines, bool kKeyed>
DeviceError load_decode_attend(const hattn_cuda_params &params)
{
    return with_decode_kernel<Engines, kKeyed>(params,
                                               [&](auto kernel) { return prepare(kernel, params.attend_shared); });
}

template <class Engines, bool kKeyed>
DeviceError launch_decode_attend(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                                 hattn_buffer workspace, DeviceStream stream)
{
    const RegionRun run = region_run(params, args, wave, workspace);
    return with_decode_kernel<Engines, kKeyed>(params, [&](auto kernel) {
        const dim3 grid =
            attend_grid(wave.num_rows, wave.num_heads, params.group, params.block_heads, params.num_splits);
        return launch_dependent(params, kernel, grid, params.attend_shared, stream,
                                at_launch(params, params.block_heads, args.k_cache, args.v_cache), args, run,
                                workspace);
    });
}

} // namespace hattn

#endif
