/* SPDX-License-Identifier: Apache-2.0
 * Joins attention over disjoint parts of the keys: L = ln(sum e^lse_p), out = sum e^(lse_p - L) out_p.
 */
#include <math.h>
#include <string.h>

#include "kernels_cpu/kernels.h"

void hattn_merge_scalar(const float *outs, int64_t stride_out, const float *lses, int64_t stride_lse, int num_parts,
                        int n, float *out, float *lse)
{
    float max = -INFINITY, sum = 0.0f;
    for (int p = 0; p < num_parts; p++) {
        float part = lses[p * stride_lse];
        max = part > max || part != part ? part : max;
    }
    if (max == -INFINITY) {
        memset(out, 0, (size_t)n * sizeof *out);
        if (lse)
            *lse = max;
        return;
    }
    for (int p = 0; p < num_parts; p++)
        sum += expf(lses[p * stride_lse] - max);
    int empty = 1; /* so that one part may lie where the result goes */
    for (int p = 0; p < num_parts; p++) {
        float part = lses[p * stride_lse];
        if (part == -INFINITY)
            continue;
        const float *values = outs + p * stride_out;
        float weight = expf(part - max) / sum;
        for (int i = 0; i < n; i++)
            out[i] = (empty ? 0.0f : out[i]) + weight * values[i];
        empty = 0;
    }
    if (lse)
        *lse = max + logf(sum);
}
