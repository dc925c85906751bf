/* SPDX-License-Identifier: Apache-2.0
 * Joins attention over disjoint parts of the keys: L = ln(sum e^lse_p), out = sum e^(lse_p - L) out_p.
 */
#include <math.h>
#include <string.h>

#include "kernels_cpu/kernels.h"

enum { GROUP = 16 }; /* parts that are summed by themselves: errors of many equal ones add up */

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
    for (int first = 0; first < num_parts; first += GROUP) {
        float of_group = 0.0f;
        for (int p = first; p < num_parts && p < first + GROUP; p++)
            of_group += expf(lses[p * stride_lse] - max);
        sum += of_group;
    }
    for (int first = 0; first < num_parts; first += GROUP) {
        int used[GROUP], num_used = 0;
        float weights[GROUP];
        for (int p = first; p < num_parts && p < first + GROUP; p++) {
            used[num_used] = p;
            weights[num_used] = expf(lses[p * stride_lse] - max) / sum;
            num_used += lses[p * stride_lse] != -INFINITY;
        }
        for (int i = 0; i < n; i++) {
            float acc = 0.0f;
            for (int u = 0; u < num_used; u++)
                acc += weights[u] * outs[used[u] * stride_out + i];
            out[i] = first ? out[i] + acc : acc; /* the first group does not read out, which may be the only part */
        }
    }
    if (lse)
        *lse = max + logf(sum);
}
