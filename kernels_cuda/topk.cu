/* SPDX-License-Identifier: Apache-2.0
 * Top-k by itself: a block a row and selection head.
 */
#include "kernels_cuda/kernels.cuh"
#include "kernels_cuda/select.cuh"

namespace hattn {
namespace {

template <class Key>
__global__ void __launch_bounds__(kThreads) topk_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_topk_args args)
{
    __shared__ SelectSpace space;
    const hattn_problem &p = params.problem;
    const int64_t row = blockIdx.x, head = blockIdx.y;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const int32_t kept = hattn_kept(&p, args.budgets, &resolved, head);
    Selection<Key> selection = {reinterpret_cast<const Key *>(hattn_element(&p.scores, args.scores, row, head, 0)) + p.num_sink, resolved.length, kept,
                                p.num_sink, p.num_recent, {}};
    selection.find(params, space);
    int32_t *indices = reinterpret_cast<int32_t *>(hattn_element(&p.indices, args.indices, row, head, 0));
    selection.visit(0, kept, space, [&](int rank, int position) { indices[rank] = position; });
    for (int i = kept + static_cast<int>(threadIdx.x); i < p.k; i += kThreads)
        indices[i] = -1;
    if (threadIdx.x == 0)
        *reinterpret_cast<int32_t *>(hattn_element(&p.counts, args.counts, row, head, 0)) = kept;
}

} // namespace

cudaError_t load_topk(const hattn_cuda_params &params)
{
    return params.problem.key_norms ? prepare(topk_kernel<float>, 0) : prepare(topk_kernel<uint16_t>, 0);
}

} // namespace hattn

int hattn_cuda_topk(const hattn_cuda_params *params, const hattn_topk_args *args, void *opaque_stream)
{
    using namespace hattn;
    /* Scores handed in may be any u16, not only what this problem's weights can give. */
    hattn_cuda_params any = *params;
    any.digit_shift = 5;
    const dim3 grid(args->batch.num_rows, params->problem.num_selection_heads);
    const cudaStream_t stream = static_cast<cudaStream_t>(opaque_stream);
    if (params->problem.key_norms)
        topk_kernel<float><<<grid, kThreads, 0, stream>>>(any, *args);
    else
        topk_kernel<uint16_t><<<grid, kThreads, 0, stream>>>(any, *args);
    return cudaGetLastError();
}
