/* SPDX-License-Identifier: Apache-2.0
 * Joins the parts of an attention where they are too many bytes for the last block of a share: a block a row and head.
 */
#include "kernels_cuda/parts.cuh"

namespace hattn {
namespace {

__global__ void __launch_bounds__(kThreads)
    join_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ Inputs in, int num_splits)
{
    take_over();
    const Share share = {
        static_cast<int32_t>(blockIdx.x), static_cast<int32_t>(blockIdx.y), 1, 0, num_splits, 0, 1, {}};
    const PartsApart parts(params, in, share);
    __shared__ JoinSpace space;
    join_parts(Results(params.problem, in, share), share, params.v_dim, space,
               [&](int first, uint32_t, uint32_t column, PartWeight(&weights)[kJoined], float4(&x)[kJoined]) {
#pragma unroll
                   for (int p = 0; p < kJoined; p++) {
                       const int part = min(first + p, num_splits - 1);
                       weights[p] = first + p < num_splits ? parts.load_weight(part) : PartWeight{-INFINITY, 0.0f};
                       x[p] = parts.load(part, column);
                   }
               });
}

} // namespace

cudaError_t load_join()
{
    return prepare(join_kernel, 0);
}

cudaError_t launch_join(const hattn_cuda_params &params, const Inputs &in, int num_rows, int num_splits,
                        cudaStream_t stream)
{
    const dim3 grid(static_cast<unsigned>(num_rows), static_cast<unsigned>(params.problem.num_q_heads));
    return launch_dependent(params, join_kernel, grid, 0, stream, params, in, num_splits);
}

} // namespace hattn
