/* SPDX-License-Identifier: Apache-2.0
 * One block of rows through online softmax:
 *   x_j = cap(q·k_j);  m' = max(m, x);  acc = acc * e^(m - m') + sum e^(x_j - m') v_j;  sum likewise.
 *
 * Three steps, out of L2, for 4, 2 or 1 queries of the group at a time:
 * - QK: 4 x 4, 2 x 8 or 1 x 16 (queries x rows), 16 accumulators along the dims, summed across by one tree.
 * - softmax.
 * - PV: the output in registers, 4 x 64, 2 x 64 or 1 x 128 (queries x dims), all rows of the block pass.
 * QK prefetches K rows and PV V rows that come later, this block's or the next one's, so that memory works while the
 * core does. The block's part of acc is summed by itself before it is added, which keeps the error of long rows
 * small.
 *
 * Zen 4, 4 queries of 128 dims, fp16: 1.46 us a block out of L2, of which 1.22 are FMAs at their peak. 512 random
 * rows out of DRAM: 27 us, with the block's rows loaded first instead of prefetched 45 us.
 */
#include "kernels_cpu/attend_rows.h"
#include "kernels_cpu/avx512.h"

/* Lane i of the result: the sum of the lanes of a[i]. */
HATTN_INLINE __m512 add_across(const __m512 *a)
{
    __m512 pairs[8], fours[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        pairs[i] =
            _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512d x = _mm512_castps_pd(pairs[2 * i]), y = _mm512_castps_pd(pairs[2 * i + 1]);
        fours[i] =
            _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    __m512 low =
        _mm512_add_ps(_mm512_shuffle_f32x4(fours[0], fours[1], 0x88), _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd));
    __m512 high =
        _mm512_add_ps(_mm512_shuffle_f32x4(fours[2], fours[3], 0x88), _mm512_shuffle_f32x4(fours[2], fours[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

/* Logits of `queries` queries from g on, in steps of 16 / queries rows; a last step repeats the last row, whose
 * extra logits fall between num_rows and HATTN_ATTEND_BLOCK. Rows `ahead` of them are prefetched. */
HATTN_INLINE void compute_logits(const hattn_attend_block *block, int g, int queries, int32_t dtype, int ahead)
{
    const int rows = 16 / queries;
    const size_t size = (size_t)hattn_dtype_size(dtype), step = 16 * size, row_size = (size_t)block->head_dim_qk * size;
    const float *q = block->q + g * block->stride_q;
    const int num_known = block->num_rows + block->num_rows_ahead;
    float *logits = block->logits + g * HATTN_ATTEND_BLOCK;
    for (int j = 0; j < block->num_rows; j += rows) {
        for (int r = 0; r < rows; r++)
            prefetch_row(block->k_rows, j + r + ahead, num_known, row_size);
        const char *k[16];
        __m512 acc[16];
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
            k[r] = block->k_rows[j + r < block->num_rows ? j + r : block->num_rows - 1];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            acc[i] = _mm512_setzero_ps();
        int dim = 0;
        for (size_t offset = 0; dim + 16 <= block->head_dim_qk; dim += 16, offset += step) {
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                __m512 key = hattn_load_unscaled(k[r] + offset, dtype);
#pragma GCC unroll 4
                for (int h = 0; h < queries; h++)
                    acc[h * rows + r] =
                        _mm512_fmadd_ps(_mm512_load_ps(q + h * block->stride_q + dim), key, acc[h * rows + r]);
            }
        }
        if (dim < block->head_dim_qk) {
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                __m512 key = hattn_load_unscaled_masked(k[r] + (size_t)dim / 16 * step, dtype, 0xff);
#pragma GCC unroll 4
                for (int h = 0; h < queries; h++)
                    acc[h * rows + r] =
                        _mm512_fmadd_ps(_mm512_load_ps(q + h * block->stride_q + dim), key, acc[h * rows + r]);
            }
        }
        __m512 sums = add_across(acc);
        if (dtype == HATTN_F8_E4M3)
            sums = _mm512_mul_ps(sums, _mm512_set1_ps(HATTN_F8_FACTOR));
        if (queries == 1) {
            _mm512_storeu_ps(logits + j, sums);
        } else if (queries == 2) {
            _mm256_storeu_ps(logits + j, _mm512_castps512_ps256(sums));
            _mm256_storeu_ps(logits + HATTN_ATTEND_BLOCK + j, _mm512_extractf32x8_ps(sums, 1));
        } else {
            _mm_storeu_ps(logits + j, _mm512_castps512_ps128(sums));
            _mm_storeu_ps(logits + HATTN_ATTEND_BLOCK + j, _mm512_extractf32x4_ps(sums, 1));
            _mm_storeu_ps(logits + 2 * HATTN_ATTEND_BLOCK + j, _mm512_extractf32x4_ps(sums, 2));
            _mm_storeu_ps(logits + 3 * HATTN_ATTEND_BLOCK + j, _mm512_extractf32x4_ps(sums, 3));
        }
    }
}

/* Logits of query g become e^(x - max); returns what its earlier sums are to be multiplied with. A max of -inf is
 * replaced by 0 in the exponents: then e^-inf is 0 and a NaN stays one. */
static float compute_weights(const hattn_attend_block *block, int g)
{
    float *logits = block->logits + g * HATTN_ATTEND_BLOCK;
    const float old_max = block->max[g];
    const __m512 cap = _mm512_set1_ps(block->soft_cap);
    __m512 maxima = _mm512_set1_ps(old_max), sums = _mm512_setzero_ps();
    for (int j = 0; j < block->num_rows; j += 16) {
        __mmask16 mask = hattn_mask16(block->num_rows - j);
        __m512 x = _mm512_load_ps(logits + j);
        if (block->soft_cap > 0.0f) {
            x = _mm512_mul_ps(cap, hattn_tanh_f32x16(_mm512_div_ps(x, cap)));
            _mm512_store_ps(logits + j, x);
        }
        maxima = _mm512_mask_max_ps(maxima, mask, x, maxima); /* of x = NaN and m: m */
    }
    const float max = _mm512_reduce_max_ps(maxima), base = max == -INFINITY ? 0.0f : max;
    for (int j = 0; j < block->num_rows; j += 16) {
        __mmask16 mask = hattn_mask16(block->num_rows - j);
        __m512 weights = hattn_exp_f32x16(_mm512_sub_ps(_mm512_load_ps(logits + j), _mm512_set1_ps(base)));
        _mm512_store_ps(logits + j, weights);
        sums = _mm512_mask_add_ps(sums, mask, sums, weights);
    }
    const float decay = _mm512_cvtss_f32(hattn_exp_f32x16(_mm512_set1_ps(old_max - base)));
    block->max[g] = max;
    block->sum[g] = block->sum[g] * decay + _mm512_reduce_add_ps(sums);
    return decay;
}

/* Dims dim .. dim + 16 * regs - 1 of the queries' acc; `mask` is of the only register where regs is 1. */
HATTN_INLINE void add_values(const hattn_attend_block *block, int g, int dim, int queries, int regs, int32_t dtype,
                             __mmask16 mask, const float *decay, int ahead)
{
    const size_t size = (size_t)hattn_dtype_size(dtype);
    const int num_known = block->num_rows + block->num_rows_ahead;
    const float *weights = block->logits + g * HATTN_ATTEND_BLOCK;
    __m512 sums[4][8];
#pragma GCC unroll 4
    for (int h = 0; h < queries; h++) {
#pragma GCC unroll 8
        for (int c = 0; c < regs; c++)
            sums[h][c] = _mm512_setzero_ps();
    }
    for (int j = 0; j < block->num_rows; j++) {
        if (dim == 0)
            prefetch_row(block->v_rows, j + ahead, num_known, (size_t)block->head_dim_v * size);
        const char *v = (const char *)block->v_rows[j] + (size_t)dim * size;
        __m512 values[8];
#pragma GCC unroll 8
        for (int c = 0; c < regs; c++) {
            const char *src = v + (size_t)c * 16 * size;
            values[c] = regs == 1 ? hattn_load_unscaled_masked(src, dtype, mask) : hattn_load_unscaled(src, dtype);
        }
#pragma GCC unroll 4
        for (int h = 0; h < queries; h++) {
            __m512 weight = _mm512_set1_ps(weights[h * HATTN_ATTEND_BLOCK + j]);
#pragma GCC unroll 8
            for (int c = 0; c < regs; c++)
                sums[h][c] = _mm512_fmadd_ps(weight, values[c], sums[h][c]);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < queries; h++) {
        float *acc = block->acc + (g + h) * block->stride_acc + dim;
#pragma GCC unroll 8
        for (int c = 0; c < regs; c++) {
            __m512 sum = sums[h][c];
            if (dtype == HATTN_F8_E4M3)
                sum = _mm512_mul_ps(sum, _mm512_set1_ps(HATTN_F8_FACTOR));
            sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, acc + 16 * c), _mm512_set1_ps(decay[h]), sum);
            _mm512_mask_storeu_ps(acc + 16 * c, mask, sum);
        }
    }
}

/* By weights that are given, or first by those of the block's logits. */
HATTN_INLINE void attend_queries(const hattn_attend_block *block, int g, int queries, int32_t dtype, bool are_given,
                                 int ahead)
{
    const int dims = block->head_dim_v;
    float decay[4] = {1, 1, 1, 1};
    if (!are_given) {
        compute_logits(block, g, queries, dtype, ahead);
        for (int h = 0; h < queries; h++)
            decay[h] = compute_weights(block, g + h);
    }
    int dim = 0;
    if (queries == 1) {
        for (; dim + 128 <= dims; dim += 128)
            add_values(block, g, dim, queries, 8, dtype, 0xffff, decay, ahead);
    }
    for (; dim + 64 <= dims; dim += 64)
        add_values(block, g, dim, queries, 4, dtype, 0xffff, decay, ahead);
    for (; dim < dims; dim += 16)
        add_values(block, g, dim, queries, 1, dtype, hattn_mask16(dims - dim), decay, ahead);
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

void hattn_attend_avx512(const hattn_attend_block *block) { attend(block, false); }

void hattn_add_values_avx512(const hattn_attend_block *block) { attend(block, true); }
