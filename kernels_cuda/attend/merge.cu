/* SPDX-License-Identifier: Apache-2.0
 * Merging parts: a block a row and head.
 */
#include "kernels_cuda/attend/attend.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

__global__ void __launch_bounds__(kThreads)
    merge_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_merge_args args)
{
    const hattn_problem &p = params.problem;
    const int64_t row = blockIdx.x, head = blockIdx.y;
    const float lse = merge_any(
        args.num_parts, p.head_dim_v,
        [&](int part) {
            return *reinterpret_cast<const float *>(hattn_element(&p.partial_lse, args.partial_lse, part, row, head));
        },
        [&](int part, int column) {
            return reinterpret_cast<const float *>(
                hattn_element(&p.partial_out, args.partial_out, part, row, head))[column];
        },
        [&](int column, float value) {
            store_element(hattn_element(&p.out, args.out, row, head, 0), p.out.dtype, column, value);
        });
    if (threadIdx.x == 0 && args.lse.data)
        *reinterpret_cast<float *>(hattn_element(&p.lse, args.lse, row, head, 0)) = lse;
}

} // namespace

DeviceError load_merge() { return prepare(merge_kernel, 0); }

} // namespace hattn

int hattn::run_merge(const hattn_cuda_params *params, const hattn_merge_args *args, void *stream)
{
    using namespace hattn;
    const dim3 grid(args->num_rows, params->problem.num_q_heads);
    return launch({grid, kThreads, 0, static_cast<DeviceStream>(stream)}, merge_kernel, *params, *args);
}
