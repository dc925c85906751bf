/* SPDX-License-Identifier: Apache-2.0
 * A decode's second kernel: any dims and dtypes.
 */
#include "kernels_cuda/decode_attend.cuh"

namespace hattn {

cudaError_t load_decode_attend_plain(const hattn_cuda_params &params)
{
    return load_decode_attend<PlainEngines>(params);
}

cudaError_t launch_decode_attend_plain(const hattn_cuda_params &params, const hattn_decode_args &args, hattn_buffer workspace, cudaStream_t stream)
{
    return launch_decode_attend<PlainEngines>(params, args, workspace, stream);
}

} // namespace hattn
