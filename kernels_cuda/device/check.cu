/* SPDX-License-Identifier: Apache-2.0
 * Whether a workspace is as runs leave it, for builds that check it.
 */
#include "kernels_cuda/device/exchange.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

/* All words of the control region. */
__global__ void __launch_bounds__(kThreads) check_kernel(const uint32_t *control, uint32_t num_words)
{
    for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < num_words; i += gridDim.x * kThreads)
        if (load_l2(control + i))
            stop_device();
}

} // namespace

DeviceError check_workspace(hattn_buffer workspace, DeviceStream stream)
{
    if (!kIsChecked)
        return kSuccess;
    constexpr uint32_t kWords = sizeof(hattn_cuda_control) / sizeof(uint32_t);
    return launch({256, kThreads, 0, stream}, check_kernel, static_cast<const uint32_t *>(hattn_address(workspace)),
                  kWords);
}

} // namespace hattn
