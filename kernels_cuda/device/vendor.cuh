/* SPDX-License-Identifier: Apache-2.0
 * The vendor's headers, included nowhere else, and names for the types that they give. What another vendor's have under
 * the same names (__device__, __shared__, __syncthreads, threadIdx, dim3) is used everywhere as it is.
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_VENDOR_CUH
#define HATTN_KERNELS_CUDA_DEVICE_VENDOR_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace hattn {

using float16 = __half;
using bfloat16 = __nv_bfloat16;

using DeviceError = cudaError_t;
using DeviceStream = cudaStream_t;
constexpr DeviceError kSuccess = cudaSuccess, kNoSuchKernel = cudaErrorInvalidDeviceFunction;

} // namespace hattn

#endif
