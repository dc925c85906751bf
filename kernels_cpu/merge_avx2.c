/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/avx2.h"

#include "kernels_cpu/merge_f32x8.h"

void hattn_merge_avx2(const float *outs, int64_t stride_out, const float *lses, int64_t stride_lse, int num_parts,
                      int n, float *out, float *lse)
{
    merge(outs, stride_out, lses, stride_lse, num_parts, n, out, lse);
}
