/* SPDX-License-Identifier: Apache-2.0
 * Softmax attention over the selected positions, or over all: once over the keys for the largest logit, once to sum.
 */
#include "reference/internal.h"

#include <math.h>

/* One query head of one row. */
typedef struct query {
    const hattn_problem *problem;
    const hattn_attend_args *args;
    int64_t sequence, length, kv_head;
    const uint32_t *shares; /* NULL: no tail */
    int64_t rest;
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

/* R of api/hattn.h, with e^(logit - max). */
static double tail_mass(const query *x, const int32_t *positions, int64_t count, double max)
{
    double near = 0, all = 0, shares_near = 0, shares_all = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t share = x->shares[i] & 0x7fffffff;
        const double e = share ? exp(logit(x, positions[i]) - max) : 0;
        all += e;
        shares_all += share;
        if (x->shares[i] >> 31) {
            near += e;
            shares_near += share;
        }
    }
    if (shares_near == 0)
        return 0;
    const double rest = (double)x->rest, by_near = x->problem->tail * near * rest / shares_near,
                 by_all = all * rest / shares_all;
    return by_near < by_all || by_near != by_near ? by_near : by_all;
}

/* sum += weight times the mean of the row's values. */
static void add_mean(const query *x, double weight, double *sum)
{
    const hattn_problem *problem = x->problem;
    const hattn_attend_args *args = x->args;
    const int32_t *slots = hattn_reference_address(args->value_slots),
                  *lengths = hattn_reference_address(args->value_lengths);
    const int64_t *sums = hattn_reference_address(args->value_sums), state = slots ? slots[x->sequence] : x->sequence;
    int64_t j = lengths[state * problem->value_lengths.stride[0] + x->kv_head * problem->value_lengths.stride[1]];
    const int is_kept = j > 0 && j <= x->length;
    sums += state * problem->value_sums.stride[0] + x->kv_head * problem->value_sums.stride[1];
    int64_t total[HATTN_REFERENCE_MAX_DIM];
    for (int i = 0; i < problem->head_dim_v; i++)
        total[i] = is_kept ? sums[i] : 0;
    hattn_reference_add_values(problem, &args->batch, args->v_cache, x->sequence, x->kv_head, is_kept ? j : 0,
                               x->length, total);
    for (int i = 0; i < problem->head_dim_v; i++)
        sum[i] += weight * x->v_scale * (double)total[i] * 0x1p-24 / (double)x->length;
}

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
    if (x->shares) {
        const double mass = tail_mass(x, positions, count, max);
        if (mass != 0)
            add_mean(x, mass, out);
        denominator += mass;
    }
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
    const uint32_t *shares = hattn_reference_address(args->shares);
    const int64_t *rests = hattn_reference_address(args->rests);
    int64_t length = x.length = hattn_reference_row(problem, &args->batch, row, &x.sequence);
    for (int64_t h = 0; h < problem->num_q_heads; h++) {
        int64_t s = h * problem->num_selection_heads / problem->num_q_heads, count = length;
        const int32_t *positions = NULL;
        if (indices) {
            positions = indices + row * problem->indices.stride[0] + s * problem->indices.stride[1];
            count = length > 0 ? counts[row * problem->counts.stride[0] + s * problem->counts.stride[1]] : 0;
        }
        if (shares && length > 0) {
            const int64_t of = problem->num_candidates ? h : s;
            x.shares = shares + row * problem->shares.stride[0] + of * problem->shares.stride[1];
            x.rest = rests[row * problem->rests.stride[0] + of * problem->rests.stride[1]];
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
