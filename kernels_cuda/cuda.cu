/* SPDX-License-Identifier: Apache-2.0
 * The table of what nvcc makes. In a file of its own: other compilers have theirs.
 */
#include "kernels_cuda/kernels.cuh"

const hattn_cuda_kernels *hattn_cuda_kernels_by_nvcc(void) { return hattn::kernels(); }
