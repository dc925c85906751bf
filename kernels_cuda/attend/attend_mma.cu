/* SPDX-License-Identifier: Apache-2.0
 * Attention as a call of its own: tensor cores.
 */
#include "kernels_cuda/attend/attend_kernel.cuh"

namespace hattn {

DeviceError load_attend_mma(const hattn_cuda_params &params) { return load_attend<MmaEngines>(params); }

DeviceError launch_attend_mma(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                              DeviceStream stream)
{
    return launch_attend<MmaEngines>(params, args, workspace, stream);
}

} // namespace hattn
