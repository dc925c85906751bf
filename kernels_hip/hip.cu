/* SPDX-License-Identifier: Apache-2.0
 * The table of what clang makes of kernels_cuda for AMD's GPUs.
 */
#include "kernels_hip/table.h"

#include "kernels_cuda/kernels.cuh"

const hattn_cuda_kernels *hattn_hip_kernels(void) { return hattn::kernels(); }
