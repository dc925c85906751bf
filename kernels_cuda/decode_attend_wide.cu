/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: tensor cores, any dims, fp8, up to 16 heads a block.
 */
#include "kernels_cuda/decode_attend.cuh"

namespace hattn {

static_assert(sizeof(ShareSpace<WideEngine<__half, __half, 2, false>, SelectEarly>) + 64 <= HATTN_WIDE_STATIC,
              "the plan counts on it");

cudaError_t load_decode_attend_wide(const hattn_cuda_params &params)
{
    return load_decode_attend<WideEngines>(params);
}

cudaError_t launch_decode_attend_wide(const hattn_cuda_params &params, const hattn_decode_args &args,
                                      hattn_buffer workspace, cudaStream_t stream)
{
    return launch_decode_attend<WideEngines>(params, args, workspace, stream);
}

} // namespace hattn
