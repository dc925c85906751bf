/* SPDX-License-Identifier: Apache-2.0
 * What all kernels are made of. Vendor intrinsics appear in the headers of dialects and nowhere else (a test greps).
 */
#ifndef HATTN_KERNELS_CUDA_DEVICE_DEVICE_CUH
#define HATTN_KERNELS_CUDA_DEVICE_DEVICE_CUH

#include "core/rows.h"
#include "kernels_cuda/device/block.cuh"
#include "kernels_cuda/device/elements.cuh"
#include "kernels_cuda/device/launch.cuh"
#include "kernels_cuda/device/matrix.cuh"
#include "kernels_cuda/device/memory.cuh"
#include "kernels_cuda/device/numbers.cuh"
#include "kernels_cuda/device/warp.cuh"

#endif
