/* SPDX-License-Identifier: Apache-2.0
 * Joins attention over disjoint parts of the keys: L = ln(sum e^lse_p), out = sum e^(lse_p - L) out_p.
 */
#include <math.h>

#include "kernels_cpu/avx512.h"
#include "kernels_cpu/kernels.h"

/* e^(lse - max) of up to 16 parts. */
HATTN_INLINE __m512 part_weights(const float *lses, int64_t stride_lse, int num_parts, float max)
{
    float values[16];
    for (int p = 0; p < num_parts; p++)
        values[p] = lses[p * stride_lse];
    __mmask16 mask = hattn_mask16(num_parts);
    return _mm512_maskz_mov_ps(
        mask, hattn_exp_f32x16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, values), _mm512_set1_ps(max))));
}

void hattn_merge_avx512(const float *outs, int64_t stride_out, const float *lses, int64_t stride_lse, int num_parts,
                        int n, float *out, float *lse)
{
    float max = -INFINITY;
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
    __m512 sums = _mm512_setzero_ps();
    for (int p = 0; p < num_parts; p += 16)
        sums = _mm512_add_ps(
            sums, part_weights(lses + p * stride_lse, stride_lse, num_parts - p < 16 ? num_parts - p : 16, max));
    float sum = _mm512_reduce_add_ps(sums);
    /* 16 parts at a time; the first group does not read out, which may be the only part. */
    for (int first = 0; first < num_parts; first += 16) {
        int count = num_parts - first < 16 ? num_parts - first : 16;
        float weights[16];
        __m512 group_weights = part_weights(lses + first * stride_lse, stride_lse, count, max);
        _mm512_storeu_ps(weights, _mm512_div_ps(group_weights, _mm512_set1_ps(sum)));
        for (int i = 0; i < n; i += 16) {
            __mmask16 mask = hattn_mask16(n - i);
            __m512 acc = _mm512_setzero_ps();
            for (int p = 0; p < count; p++) {
                if (lses[(first + p) * stride_lse] == -INFINITY)
                    continue;
                __m512 values = _mm512_maskz_loadu_ps(mask, outs + (first + p) * stride_out + i);
                acc = _mm512_fmadd_ps(_mm512_set1_ps(weights[p]), values, acc);
            }
            if (first) /* groups by themselves: errors of many equal parts add up */
                acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(mask, out + i));
            _mm512_mask_storeu_ps(out + i, mask, acc);
        }
    }
    if (lse)
        *lse = max + logf(sum);
}
