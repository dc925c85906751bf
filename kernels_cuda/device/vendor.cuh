/* SPDX-License-Identifier: Apache-2.0
 * The one place where kernels choose whose compiler they are for: the dialect, everything under `vendor::`, is CUDA's or that of the
 * header that HATTN_DIALECT names.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_VENDOR_CUH
#define HATTN_KERNELS_CUDA_DEVICE_VENDOR_CUH

#ifdef HATTN_DIALECT
#include HATTN_DIALECT
#else
#include "kernels_cuda/device/cuda.cuh"
#endif

namespace hattn {

using vendor::bfloat16;
using vendor::float16;
using vendor::kMostShared;
using vendor::kNoSuchKernel;
using vendor::kSuccess;
using DeviceError = vendor::Error;
using DeviceStream = vendor::Stream;

} // namespace hattn

#endif
