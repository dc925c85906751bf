/* SPDX-License-Identifier: Apache-2.0
 * Joins attention over disjoint parts of the keys: L = ln(sum e^lse_p), out = sum e^(lse_p - L) out_p.
 */
#ifndef HATTN_KERNELS_CPU_MERGE_F32X8_H
#define HATTN_KERNELS_CPU_MERGE_F32X8_H

#include "kernels_cpu/f32x8.h"

/* e^(lse - max) of up to 8 parts, 0 in other lanes. */
HATTN_INLINE f32x8 part_weights(const float *lses, int64_t stride_lse, int num_parts, float max)
{
    float values[8] = {0};
    for (int p = 0; p < num_parts; p++)
        values[p] = lses[p * stride_lse];
    return f32x8_first(f32x8_exp(f32x8_sub(f32x8_load(values), f32x8_set(max))), num_parts, 0.0f);
}

/* 8 outputs, or the n < 8 last ones, of a group of parts. */
HATTN_INLINE void add_parts(const float *outs, int64_t stride_out, const float *weights, const int *used, int num_used,
                            int reads_out, int n, float *out)
{
    f32x8 acc = f32x8_set(0.0f);
    for (int i = 0; i < num_used; i++) {
        const float *values = outs + used[i] * stride_out;
        acc = f32x8_fma(f32x8_set(weights[used[i]]), n < 8 ? f32x8_load_part(values, n) : f32x8_load(values), acc);
    }
    if (reads_out) /* groups by themselves: errors of many equal parts add up */
        acc = f32x8_add(acc, n < 8 ? f32x8_load_part(out, n) : f32x8_load(out));
    if (n < 8) {
        f32x8_store_part(out, acc, n);
    } else {
        f32x8_store(out, acc);
    }
}

HATTN_INLINE void merge(const float *outs, int64_t stride_out, const float *lses, int64_t stride_lse, int num_parts,
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
    f32x8 sums = f32x8_set(0.0f);
    for (int p = 0; p < num_parts; p += 8)
        sums = f32x8_add(sums,
                         part_weights(lses + p * stride_lse, stride_lse, num_parts - p < 8 ? num_parts - p : 8, max));
    const float sum = f32x8_sum(sums);
    /* The first group does not read out, which may be the only part. */
    for (int first = 0; first < num_parts; first += 8) {
        int count = num_parts - first < 8 ? num_parts - first : 8, used[8], num_used = 0;
        float weights[8];
        f32x8_store(weights,
                    f32x8_div(part_weights(lses + first * stride_lse, stride_lse, count, max), f32x8_set(sum)));
        for (int p = 0; p < count; p++) {
            used[num_used] = p;
            num_used += lses[(first + p) * stride_lse] != -INFINITY;
        }
        for (int i = 0; i < n; i += 8)
            add_parts(outs + first * stride_out + i, stride_out, weights, used, num_used, first > 0, n - i, out + i);
    }
    if (lse)
        *lse = max + logf(sum);
}

#endif
