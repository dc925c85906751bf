/* SPDX-License-Identifier: Apache-2.0
 * The table of what the processor's compiler makes, in the place of nvcc's.
 */
#include "kernels_cuda/kernels.cuh"

const hattn_cuda_kernels *hattn_cuda_kernels_by_nvcc(void) { return hattn::kernels(); }
