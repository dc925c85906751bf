/* SPDX-License-Identifier: Apache-2.0
 * Attention over disjoint parts of the keys, joined.
 */
#include "reference/internal.h"

#include <math.h>

/* One head of one row. Fills out and returns the lse. */
static double merge(const hattn_problem *problem, const hattn_merge_args *args, int64_t row, int64_t h, double *out)
{
    const float *partial_out = hattn_reference_address(args->partial_out);
    const float *partial_lse = hattn_reference_address(args->partial_lse);
    const int64_t *out_stride = problem->partial_out.stride, *lse_stride = problem->partial_lse.stride;
    int64_t out_at = row * out_stride[1] + h * out_stride[2], lse_at = row * lse_stride[1] + h * lse_stride[2];
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < problem->head_dim_v; i++)
        out[i] = 0;
    for (int64_t part = 0; part < args->num_parts; part++) {
        double lse = partial_lse[part * lse_stride[0] + lse_at];
        if (lse > max || lse != lse)
            max = lse;
    }
    if (max == -INFINITY)
        return max;
    for (int64_t part = 0; part < args->num_parts; part++) {
        double lse = partial_lse[part * lse_stride[0] + lse_at];
        if (lse == -INFINITY)
            continue;
        double e = exp(lse - max);
        sum += e;
        for (int i = 0; i < problem->head_dim_v; i++)
            out[i] += e * partial_out[part * out_stride[0] + out_at + i];
    }
    for (int i = 0; i < problem->head_dim_v; i++)
        out[i] /= sum;
    return max + log(sum);
}

void hattn_reference_merge(const hattn_problem *problem, const hattn_merge_args *args)
{
    void *lse = hattn_reference_address(args->lse);
    for (int64_t row = 0; row < args->num_rows; row++) {
        for (int64_t h = 0; h < problem->num_q_heads; h++) {
            double out[HATTN_REFERENCE_MAX_DIM];
            double row_lse = merge(problem, args, row, h, out);
            for (int i = 0; i < problem->head_dim_v; i++)
                hattn_reference_store(hattn_reference_address(args->out), problem->out.dtype,
                                      row * problem->out.stride[0] + h * problem->out.stride[1] + i, out[i]);
            if (lse)
                hattn_reference_store(lse, HATTN_F32, row * problem->lse.stride[0] + h * problem->lse.stride[1],
                                      row_lse);
        }
    }
}
