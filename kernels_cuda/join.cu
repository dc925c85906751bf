/* SPDX-License-Identifier: Apache-2.0
 * Joins the parts of an attention where they are too many bytes for the last block of a share: a block a row and head.
 */
#include "kernels_cuda/attend_share.cuh"

namespace hattn {
namespace {

__global__ void __launch_bounds__(kThreads)
    join_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ Inputs in, int num_splits)
{
    take_over();
    join_share(params, in,
               {static_cast<int32_t>(blockIdx.x), static_cast<int32_t>(blockIdx.y), 1, 0, num_splits, 0, 1});
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
