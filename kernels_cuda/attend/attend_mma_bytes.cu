/* SPDX-License-Identifier: Apache-2.0
 * Attention as a call of its own: tensor cores, fp8.
 */
#include "kernels_cuda/attend/attend_kernel.cuh"

namespace hattn {

DeviceError load_attend_mma_bytes(const hattn_cuda_params &params) { return load_attend<MmaBytesEngines>(params); }

DeviceError launch_attend_mma_bytes(const hattn_cuda_params &params, const hattn_attend_args &args,
                                    hattn_buffer workspace, DeviceStream stream)
{
    return launch_attend<MmaBytesEngines>(params, args, workspace, stream);
}

} // namespace hattn
