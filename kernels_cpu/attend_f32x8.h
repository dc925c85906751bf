/* SPDX-License-Identifier: Apache-2.0
 * One block of rows through online softmax:
 *   x_j = cap(q·k_j); m' = max(m, x); acc = acc * e^(m - m') + sum e^(x_j - m') v_j; sum likewise.
 *
 * For 4, 2 or 1 queries of the group at a time, with 8 accumulators of 8 floats (two FMAs a cycle of latency 4; half of
 * AVX2's registers, half of NEON's in pairs):
 * - QK: 4 x 2, 2 x 4 or 1 x 8 (queries x rows) along the dims, summed across by one tree.
 * - PV: the output in registers, 4 x 16, 2 x 32 or 1 x 64 (queries x dims), all rows of the block pass.
 * QK prefetches K rows and PV V rows that come later, this block's or the next one's, so that memory works while the
 * core does. The block's part of acc is summed by itself before it is added, which keeps the error of long rows small.
 */
#ifndef HATTN_KERNELS_CPU_ATTEND_F32X8_H
#define HATTN_KERNELS_CPU_ATTEND_F32X8_H

#include "kernels_cpu/attend_rows.h"
#include "kernels_cpu/f32x8.h"

enum { ACCUMULATORS = 8, MAX_QUERIES = 4 };

/* Logits of `queries` queries from g on and all rows; rows `ahead` of them are prefetched. A last step repeats the
 * last row, whose extra logits fall between num_rows and HATTN_ATTEND_BLOCK. */
HATTN_INLINE void compute_logits(const hattn_attend_block *block, int g, int queries, int32_t dtype, int ahead)
{
    const int rows = ACCUMULATORS / queries;
    const size_t size = (size_t)hattn_dtype_size(dtype);
    const float *q = block->q + g * block->stride_q;
    const int num_known = block->num_rows + block->num_rows_ahead;
    float *logits = block->logits + g * HATTN_ATTEND_BLOCK;
    for (int j = 0; j < block->num_rows; j += rows) {
        for (int r = 0; r < rows; r++)
            prefetch_row(block->k_rows, j + r + ahead, num_known, (size_t)block->head_dim_qk * size);
        const char *k[ACCUMULATORS];
        f32x8 acc[ACCUMULATORS];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            k[r] = block->k_rows[j + r < block->num_rows ? j + r : block->num_rows - 1];
#pragma GCC unroll 8
        for (int i = 0; i < ACCUMULATORS; i++)
            acc[i] = f32x8_set(0.0f);
        for (int dim = 0; dim < block->head_dim_qk; dim += 8) {
            f32x8 keys[ACCUMULATORS];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                keys[r] = f32x8_load_unscaled(k[r] + (size_t)dim * size, dtype);
#pragma GCC unroll 4
            for (int h = 0; h < queries; h++) {
                f32x8 query = f32x8_load_register(q + h * block->stride_q + dim);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++)
                    acc[h * rows + r] = f32x8_fma(query, keys[r], acc[h * rows + r]);
            }
        }
        f32x8 sums = f32x8_sums(acc);
        if (dtype == HATTN_F8_E4M3)
            sums = f32x8_mul(sums, f32x8_set(HATTN_F8_FACTOR));
        float parts[ACCUMULATORS];
        f32x8_store(parts, sums);
#pragma GCC unroll 4
        for (int h = 0; h < queries; h++)
            memcpy(logits + h * HATTN_ATTEND_BLOCK + j, parts + h * rows, (size_t)rows * sizeof *parts);
    }
}

/* Logits of query g become e^(x - max); returns what its earlier sums are to be multiplied with. A max of -inf is
 * replaced by 0 in the exponents: then e^-inf is 0 and a NaN stays one. */
HATTN_INLINE float compute_weights(const hattn_attend_block *block, int g)
{
    float *logits = block->logits + g * HATTN_ATTEND_BLOCK;
    const float old_max = block->max[g];
    const f32x8 cap = f32x8_set(block->soft_cap);
    f32x8 maxima = f32x8_set(old_max), sums = f32x8_set(0.0f);
    for (int j = 0; j < block->num_rows; j += 8) {
        f32x8 x = f32x8_load(logits + j);
        if (block->soft_cap > 0.0f)
            x = f32x8_mul(cap, f32x8_tanh(f32x8_div(x, cap)));
        if (block->num_rows - j < 8)
            x = f32x8_first(x, block->num_rows - j, -INFINITY);
        f32x8_store(logits + j, x);
        maxima = f32x8_max(x, maxima);
    }
    const float max = f32x8_largest(maxima), base = max == -INFINITY ? 0.0f : max;
    for (int j = 0; j < block->num_rows; j += 8) {
        f32x8 weights = f32x8_exp(f32x8_sub(f32x8_load(logits + j), f32x8_set(base)));
        f32x8_store(logits + j, weights);
        sums = f32x8_add(sums, weights);
    }
    float decay[8];
    f32x8_store(decay, f32x8_exp(f32x8_set(old_max - base)));
    block->max[g] = max;
    block->sum[g] = block->sum[g] * decay[0] + f32x8_sum(sums);
    return decay[0];
}

/* Dims dim .. dim + 8 * regs - 1 of the queries' acc. */
HATTN_INLINE void add_values(const hattn_attend_block *block, int g, int dim, int queries, int regs, int32_t dtype,
                             const float *decay, int ahead)
{
    const size_t size = (size_t)hattn_dtype_size(dtype);
    const int num_known = block->num_rows + block->num_rows_ahead;
    const float *weights = block->logits + g * HATTN_ATTEND_BLOCK;
    f32x8 sums[ACCUMULATORS];
#pragma GCC unroll 8
    for (int i = 0; i < queries * regs; i++)
        sums[i] = f32x8_set(0.0f);
    for (int j = 0; j < block->num_rows; j++) {
        if (dim == 0)
            prefetch_row(block->v_rows, j + ahead, num_known, (size_t)block->head_dim_v * size);
        const char *v = (const char *)block->v_rows[j] + (size_t)dim * size;
        f32x8 factors[MAX_QUERIES];
#pragma GCC unroll 4
        for (int h = 0; h < queries; h++)
            factors[h] = f32x8_set(weights[h * HATTN_ATTEND_BLOCK + j]);
#pragma GCC unroll 8
        for (int c = 0; c < regs; c++) {
            f32x8 values = f32x8_load_unscaled(v + (size_t)c * 8 * size, dtype);
#pragma GCC unroll 4
            for (int h = 0; h < queries; h++)
                sums[h * regs + c] = f32x8_fma(factors[h], values, sums[h * regs + c]);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < queries; h++) {
        float *acc = block->acc + (g + h) * block->stride_acc + dim;
#pragma GCC unroll 8
        for (int c = 0; c < regs; c++) {
            f32x8 sum = sums[h * regs + c];
            if (dtype == HATTN_F8_E4M3)
                sum = f32x8_mul(sum, f32x8_set(HATTN_F8_FACTOR));
            f32x8_store(acc + 8 * c, f32x8_fma(f32x8_load(acc + 8 * c), f32x8_set(decay[h]), sum));
        }
    }
}

/* By weights that are given, or first by those of the block's logits. */
HATTN_INLINE void attend_queries(const hattn_attend_block *block, int g, int queries, int32_t dtype, bool are_given,
                                 int ahead)
{
    const int regs = ACCUMULATORS / queries;
    float decay[MAX_QUERIES] = {1, 1, 1, 1};
    int dim = 0;
    if (!are_given) {
        compute_logits(block, g, queries, dtype, ahead);
        for (int h = 0; h < queries; h++)
            decay[h] = compute_weights(block, g + h);
    }
    for (; dim + 8 * regs <= block->head_dim_v; dim += 8 * regs)
        add_values(block, g, dim, queries, regs, dtype, decay, ahead);
    for (; dim < block->head_dim_v; dim += 8)
        add_values(block, g, dim, queries, 1, dtype, decay, ahead);
}

HATTN_INLINE void attend_group(const hattn_attend_block *block, int32_t dtype, bool are_given)
{
    const size_t size = (size_t)hattn_dtype_size(dtype);
    int g = 0,
        ahead = fetch_block(block, are_given ? 0 : (size_t)block->head_dim_qk * size, (size_t)block->head_dim_v * size);
    for (; g + 4 <= block->group; g += 4, ahead = NOTHING_AHEAD)
        attend_queries(block, g, 4, dtype, are_given, ahead);
    if (g + 2 <= block->group) {
        attend_queries(block, g, 2, dtype, are_given, ahead);
        ahead = NOTHING_AHEAD;
        g += 2;
    }
    if (g < block->group)
        attend_queries(block, g, 1, dtype, are_given, ahead);
}

HATTN_INLINE void attend(const hattn_attend_block *block, bool are_given)
{
    switch (block->dtype) {
    case HATTN_F32: attend_group(block, HATTN_F32, are_given); break;
    case HATTN_F16: attend_group(block, HATTN_F16, are_given); break;
    case HATTN_BF16: attend_group(block, HATTN_BF16, are_given); break;
    case HATTN_F8_E4M3: attend_group(block, HATTN_F8_E4M3, are_given); break;
    }
}

#endif
