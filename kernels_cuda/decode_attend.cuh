/* SPDX-License-Identifier: Apache-2.0
 * The second kernel of a decode: each block finds the positions of its share of a selection and attends to them.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_ATTEND_CUH
#define HATTN_KERNELS_CUDA_DECODE_ATTEND_CUH

#include "kernels_cuda/attend_share.cuh"
#include "kernels_cuda/select.cuh"

namespace hattn {

struct SelectEarly {
    int32_t list[kList];
    SelectSpace select;
};

template <class Engine, int kGroup, class Key>
__global__ void __launch_bounds__(kThreads, 2) decode_attend_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_decode_args args,
                                                                 hattn_buffer workspace)
{
    __shared__ ShareSpace<Engine, SelectEarly> space;
    const hattn_problem &p = params.problem;
    const Share share = share_of(p, params.group, kGroup, params.num_splits);
    const int64_t head = share.first_head / params.group, task = share.row * p.num_selection_heads + head;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(share.row));
    const int32_t kept = hattn_kept(&p, args.budgets, &resolved, head);
    wait_for_previous();
    char *base = static_cast<char *>(hattn_address(workspace));
    hattn_cuda_control *control = reinterpret_cast<hattn_cuda_control *>(base);
    Selection<Key> selection = {reinterpret_cast<const Key *>(base + params.scores) + task * p.max_length + p.num_sink, resolved.length, kept, p.num_sink,
                                p.num_recent,
                                params.counts_tiles ? reinterpret_cast<const uint16_t *>(base + params.tile_counts) +
                                                          task * params.num_tiles * (params.num_bins + 1)
                                                     : nullptr,
                                {}};
    selection.find(params, params.counts_in_score ? control->histogram[task] : nullptr, space.early.select);
    const hattn_pages pages = kept ? hattn_sequence_pages(&p, &args.batch, resolved.sequence) : hattn_pages{};

    /* One block of the group shows the selection; each share its own ranks of it. */
    const bool shows = share.first_head % params.group == 0;
    int32_t *indices = shows && args.indices.data ? reinterpret_cast<int32_t *>(hattn_element(&p.indices, args.indices, share.row, head, 0)) : nullptr;
    if (shows && share.split == 0) {
        for (int i = kept + static_cast<int>(threadIdx.x); indices && i < p.k; i += kThreads)
            indices[i] = -1;
        if (threadIdx.x == 0 && args.counts.data)
            *reinterpret_cast<int32_t *>(hattn_element(&p.counts, args.counts, share.row, head, 0)) = kept;
    }
    attend_share<Engine, SelectEarly>(params, inputs_of(args, workspace), pages, share, kept, space, [&](int first, int end, int32_t *list) {
        selection.visit(params, first, end, space.early.select, [&](int rank, int position) {
            list[rank - first] = position;
            if (indices)
                indices[rank] = position;
        });
    });
    /* Every block of the task has read the histogram once the last one is here. */
    if (params.counts_in_score) {
        const uint32_t blocks = static_cast<uint32_t>((params.group + kGroup - 1) / kGroup * share.num_splits);
        if (blocks == 1 || arrive_last(&control->arrived[HATTN_CUDA_COUNTERS - HATTN_CUDA_HISTOGRAMS + task], blocks))
            for (int i = threadIdx.x; i < params.num_bins; i += kThreads)
                control->histogram[task][i] = 0;
    }
}

template <class Engines, class F>
cudaError_t with_decode_kernel(const hattn_cuda_params &params, F f)
{
    return Engines::choose(params.problem, params.group, [&](auto engine) {
        using Engine = typename decltype(engine)::type;
        return params.problem.key_norms ? f(decode_attend_kernel<Engine, Engine::kHeads, float>) : f(decode_attend_kernel<Engine, Engine::kHeads, uint16_t>);
    });
}

template <class Engines>
cudaError_t load_decode_attend(const hattn_cuda_params &params)
{
    return with_decode_kernel<Engines>(params, [](auto kernel) { return prepare(kernel, 0); });
}

template <class Engines>
cudaError_t launch_decode_attend(const hattn_cuda_params &params, const hattn_decode_args &args, hattn_buffer workspace, cudaStream_t stream)
{
    return with_decode_kernel<Engines>(params, [&](auto kernel) {
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = num_attend_blocks(params.problem, args.batch.num_rows, params.group, params.num_splits);
        config.blockDim = kThreads;
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = params.has_dependent_launch ? 1 : 0;
        return cudaLaunchKernelEx(&config, kernel, params, args, workspace);
    });
}

} // namespace hattn

#endif
