/* SPDX-License-Identifier: Apache-2.0
 * Attention as a call of its own: tensor cores, any dims, fp8, up to 16 heads a block.
 */
#include "kernels_cuda/attend/attend_kernel.cuh"

namespace hattn {

static_assert(sizeof(ShareSpace<WideEngine<float16, float16, 2, false>, ListEarly>) + 64 <= HATTN_WIDE_STATIC,
              "the plan counts on it");

DeviceError load_attend_wide(const hattn_cuda_params &params) { return load_attend<WideEngines>(params); }

DeviceError launch_attend_wide(const hattn_cuda_params &params, const hattn_attend_args &args, hattn_buffer workspace,
                               DeviceStream stream)
{
    return launch_attend<WideEngines>(params, args, workspace, stream);
}

} // namespace hattn
