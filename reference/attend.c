/* SPDX-License-Identifier: Apache-2.0
 * Softmax attention over the selected positions, or over all: once over the keys for the largest logit, once to sum.
 */
#include "reference/internal.h"

#include <math.h>

/* One query head of one row. */
typedef struct query {
    const hattn_problem *problem;
    const hattn_attend_args *args;
    int64_t sequence, kv_head;
    double k_scale, v_scale;
    double q[HATTN_REFERENCE_MAX_DIM];
} query;

static double logit(const query *x, int64_t j)
{
    const hattn_problem *problem = x->problem;
    const void *keys = hattn_reference_address(x->args->k_cache);
    int64_t at = hattn_reference_key_offset(problem, &x->args->batch, &problem->k_cache, x->sequence, j, x->kv_head);
    double key[HATTN_REFERENCE_MAX_DIM], dot = 0;
    hattn_reference_load_row(keys, problem->k_cache.dtype, at, problem->head_dim_qk, x->k_scale, key);
    for (int i = 0; i < problem->head_dim_qk; i++)
        dot += x->q[i] * key[i];
    dot *= problem->scale;
    return problem->soft_cap > 0 ? problem->soft_cap * tanh(dot / problem->soft_cap) : dot;
}

static void add_value(const query *x, int64_t j, double weight, double *sum)
{
    const hattn_problem *problem = x->problem;
    const void *values = hattn_reference_address(x->args->v_cache);
    int64_t at = hattn_reference_key_offset(problem, &x->args->batch, &problem->v_cache, x->sequence, j, x->kv_head);
    double value[HATTN_REFERENCE_MAX_DIM];
    hattn_reference_load_row(values, problem->v_cache.dtype, at, problem->head_dim_v, x->v_scale, value);
    for (int i = 0; i < problem->head_dim_v; i++)
        sum[i] += weight * value[i];
}

/* The larger; NaN stays. */
static double larger(double a, double b) { return b > a || b != b ? b : a; }

/* positions NULL: 0..count-1. Fills out and returns the lse. */
static double attend(const query *x, const int32_t *positions, int64_t count, double sink, double *out)
{
    double max = sink, denominator = 0;
    for (int i = 0; i < x->problem->head_dim_v; i++)
        out[i] = 0;
    for (int64_t i = 0; i < count; i++)
        max = larger(max, logit(x, positions ? positions[i] : i));
    if (max == -INFINITY)
        return -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        int64_t j = positions ? positions[i] : i;
        double e = exp(logit(x, j) - max);
        denominator += e;
        add_value(x, j, e, out);
    }
    denominator += exp(sink - max);
    for (int i = 0; i < x->problem->head_dim_v; i++)
        out[i] /= denominator;
    return max + log(denominator);
}

static void attend_row(const hattn_problem *problem, const hattn_attend_args *args, int64_t row)
{
    const float *sinks = hattn_reference_address(args->sink_logits);
    const int32_t *indices = hattn_reference_address(args->indices), *counts = hattn_reference_address(args->counts);
    void *lse = hattn_reference_address(args->lse);
    query x = {.problem = problem, .args = args};
    int64_t length = hattn_reference_row(problem, &args->batch, row, &x.sequence);
    for (int64_t h = 0; h < problem->num_q_heads; h++) {
        int64_t s = h * problem->num_selection_heads / problem->num_q_heads, count = length;
        const int32_t *positions = NULL;
        if (indices) {
            positions = indices + row * problem->indices.stride[0] + s * problem->indices.stride[1];
            count = length > 0 ? counts[row * problem->counts.stride[0] + s * problem->counts.stride[1]] : 0;
        }
        x.kv_head = h * problem->num_kv_heads / problem->num_q_heads;
        x.k_scale = hattn_reference_kv_scale(problem, args->k_scale, x.kv_head);
        x.v_scale = hattn_reference_kv_scale(problem, args->v_scale, x.kv_head);
        hattn_reference_load_row(hattn_reference_address(args->q), problem->q.dtype,
                                 row * problem->q.stride[0] + h * problem->q.stride[1], problem->head_dim_qk, 1, x.q);

        double out[HATTN_REFERENCE_MAX_DIM];
        double row_lse = attend(&x, positions, count, sinks ? sinks[h] : -INFINITY, out);
        for (int i = 0; i < problem->head_dim_v; i++)
            hattn_reference_store(hattn_reference_address(args->out), problem->out.dtype,
                                  row * problem->out.stride[0] + h * problem->out.stride[1] + i, out[i]);
        if (lse)
            hattn_reference_store(lse, HATTN_F32, row * problem->lse.stride[0] + h * problem->lse.stride[1], row_lse);
    }
}

void hattn_reference_attend(const hattn_problem *problem, const hattn_attend_args *args)
{
    for (int64_t row = 0; row < args->batch.num_rows; row++)
        attend_row(problem, args, row);
}
