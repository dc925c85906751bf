/* SPDX-License-Identifier: Apache-2.0
 * One block of rows through online softmax:
 *   x_j = cap(q·k_j);  m' = max(m, x);  acc = acc * e^(m - m') + sum e^(x_j - m') v_j;  sum likewise.
 * The block's part of acc and sum is summed by itself before it is added, which keeps the error of long rows small.
 */
#include <math.h>

#include "core/dtype.h"
#include "kernels_cpu/kernels.h"

enum { DIMS = 64 }; /* of a tile: a converted piece of one row, reused by the whole group */

static float dot(const float *a, const float *b, int n)
{
    float parts[8] = {0};
    for (int i = 0; i < n; i += 8) {
        for (int lane = 0; lane < 8; lane++)
            parts[lane] += a[i + lane] * b[i + lane];
    }
    return ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

static void compute_logits(const hattn_attend_block *block)
{
    float piece[DIMS];
    for (int j = 0; j < block->num_rows; j++) {
        for (int g = 0; g < block->group; g++)
            block->logits[g * HATTN_ATTEND_BLOCK + j] = 0.0f;
        for (int dim = 0; dim < block->head_dim_qk; dim += DIMS) {
            int num_dims = block->head_dim_qk - dim < DIMS ? block->head_dim_qk - dim : DIMS;
            hattn_load_scalar((const char *)block->k_rows[j] + dim * hattn_dtype_size(block->dtype), block->dtype,
                              num_dims, 1.0f, piece);
            for (int g = 0; g < block->group; g++)
                block->logits[g * HATTN_ATTEND_BLOCK + j] += dot(block->q + g * block->stride_q + dim, piece, num_dims);
        }
    }
}

/* Logits become e^(x - max); returns what the earlier sums are to be multiplied with. A max of -inf is replaced by 0
 * in the exponents: then e^-inf is 0 and a NaN stays one. */
static float compute_weights(const hattn_attend_block *block, int g)
{
    float *x = block->logits + g * HATTN_ATTEND_BLOCK, old_max = block->max[g], max = old_max, sum = 0.0f;
    for (int j = 0; j < block->num_rows; j++) {
        if (block->soft_cap > 0.0f)
            x[j] = block->soft_cap * tanhf(x[j] / block->soft_cap);
        max = x[j] > max ? x[j] : max;
    }
    float base = max == -INFINITY ? 0.0f : max;
    for (int j = 0; j < block->num_rows; j++)
        sum += x[j] = expf(x[j] - base);
    float decay = expf(old_max - base);
    block->max[g] = max;
    block->sum[g] = block->sum[g] * decay + sum;
    return decay;
}

static void add_values(const hattn_attend_block *block, int g, float decay)
{
    float *acc = block->acc + g * block->stride_acc;
    const float *weights = block->logits + g * HATTN_ATTEND_BLOCK;
    for (int dim = 0; dim < block->head_dim_v; dim += DIMS) {
        int num_dims = block->head_dim_v - dim < DIMS ? block->head_dim_v - dim : DIMS;
        float piece[DIMS], sums[DIMS] = {0};
        for (int j = 0; j < block->num_rows; j++) {
            hattn_load_scalar((const char *)block->v_rows[j] + dim * hattn_dtype_size(block->dtype), block->dtype,
                              num_dims, 1.0f, piece);
            for (int i = 0; i < num_dims; i++)
                sums[i] += weights[j] * piece[i];
        }
        for (int i = 0; i < num_dims; i++)
            acc[dim + i] = acc[dim + i] * decay + sums[i];
    }
}

void hattn_attend_scalar(const hattn_attend_block *block)
{
    compute_logits(block);
    for (int g = 0; g < block->group; g++)
        add_values(block, g, compute_weights(block, g));
}

void hattn_add_values_scalar(const hattn_attend_block *block)
{
    for (int g = 0; g < block->group; g++)
        add_values(block, g, 1);
}
