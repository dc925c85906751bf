/* SPDX-License-Identifier: Apache-2.0
 * Softmax attention over the selected positions, or over all: once over the keys for the largest logit, once to sum. What is wanted again is
 * computed again, which needs no memory.
 */
#include "reference/internal.h"

#include <math.h>

enum { MOST_HEADS = 128 }; /* of a selection */

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

/* The largest logit of a head, and D in e^that: 0 of a head without logits. */
typedef struct softmax {
    double max, sum;
} softmax;

/* positions NULL: 0..count-1. */
static softmax look_at_head(const query *x, const int32_t *positions, int64_t count, double sink)
{
    softmax found = {sink, 0};
    for (int64_t i = 0; i < count; i++)
        found.max = larger(found.max, logit(x, positions ? positions[i] : i));
    if (found.max == -INFINITY)
        return found;
    for (int64_t i = 0; i < count; i++)
        found.sum += exp(logit(x, positions ? positions[i] : i) - found.max);
    found.sum += exp(sink - found.max);
    return found;
}

/* A selection's query heads, first_head.. */
typedef struct selection {
    int64_t row, first_head, group;
    const int32_t *positions;
    int64_t count;
    softmax head[MOST_HEADS];
} selection;

/* Rows whose weights are looked at together: those of a head need its query once. */
enum { BLOCK = 64 };

static void load_query(query *x, int64_t row, int64_t h)
{
    const hattn_problem *problem = x->problem;
    hattn_reference_load_row(hattn_reference_address(x->args->q), problem->q.dtype,
                             row * problem->q.stride[0] + h * problem->q.stride[1], problem->head_dim_qk, 1, x->q);
}

/* w of api/hattn.h of positions first..first+num of the list, without the division. */
static void weigh(const query *of_head, const selection *s, int64_t first, int64_t num, double *weights)
{
    query x = *of_head;
    for (int64_t i = 0; i < num; i++)
        weights[i] = 0;
    for (int64_t g = 0; g < s->group; g++) {
        if (s->head[g].max == -INFINITY)
            continue;
        load_query(&x, s->row, s->first_head + g);
        for (int64_t i = 0; i < num; i++)
            weights[i] += exp(logit(&x, s->positions[first + i]) - s->head[g].max) / s->head[g].sum;
    }
}

/* out += e^(logit - max) times the values. Returns the weights of values that are not read. */
static double add_values(const query *x, const selection *s, int64_t h, double *out)
{
    const double least = x->problem->min_value_weight * (double)s->group, max = s->head[h - s->first_head].max;
    const int skips = x->shares && least > 0;
    double weights[BLOCK], left = 0;
    for (int64_t first = 0; first < s->count; first += BLOCK) {
        const int64_t num = s->count - first < BLOCK ? s->count - first : BLOCK;
        if (skips)
            weigh(x, s, first, num, weights);
        for (int64_t i = 0; i < num; i++) {
            const int64_t j = s->positions ? s->positions[first + i] : first + i;
            const double e = exp(logit(x, j) - max);
            if (skips && weights[i] < least)
                left += e;
            else
                add_value(x, j, e, out);
        }
    }
    return left;
}

/* Fills out and returns the lse. */
static double attend(const query *x, const selection *s, int64_t h, double *out)
{
    const softmax *head = &s->head[h - s->first_head];
    double denominator = head->sum;
    for (int i = 0; i < x->problem->head_dim_v; i++)
        out[i] = 0;
    if (head->max == -INFINITY)
        return -INFINITY;
    double of_mean = add_values(x, s, h, out);
    if (x->shares) {
        const double mass = tail_mass(x, s->positions, s->count, head->max);
        of_mean += mass;
        denominator += mass;
        if (of_mean != 0)
            add_mean(x, of_mean, out);
    }
    for (int i = 0; i < x->problem->head_dim_v; i++)
        out[i] /= denominator;
    return head->max + log(denominator);
}

static void attend_head(query *x, const selection *s, int64_t h)
{
    const hattn_problem *problem = x->problem;
    const hattn_attend_args *args = x->args;
    void *lse = hattn_reference_address(args->lse);
    load_query(x, s->row, h);
    if (args->shares.data && x->length > 0) {
        const int64_t of = problem->num_candidates ? h : h * problem->num_selection_heads / problem->num_q_heads;
        const uint32_t *shares = hattn_reference_address(args->shares);
        const int64_t *rests = hattn_reference_address(args->rests);
        x->shares = shares + s->row * problem->shares.stride[0] + of * problem->shares.stride[1];
        x->rest = rests[s->row * problem->rests.stride[0] + of * problem->rests.stride[1]];
    }
    double out[HATTN_REFERENCE_MAX_DIM];
    const double row_lse = attend(x, s, h, out);
    for (int i = 0; i < problem->head_dim_v; i++)
        hattn_reference_store(hattn_reference_address(args->out), problem->out.dtype,
                              s->row * problem->out.stride[0] + h * problem->out.stride[1] + i, out[i]);
    if (lse)
        hattn_reference_store(lse, HATTN_F32, s->row * problem->lse.stride[0] + h * problem->lse.stride[1], row_lse);
}

static void attend_row(const hattn_problem *problem, const hattn_attend_args *args, int64_t row)
{
    const float *sinks = hattn_reference_address(args->sink_logits);
    const int32_t *indices = hattn_reference_address(args->indices), *counts = hattn_reference_address(args->counts);
    query x = {.problem = problem, .args = args};
    x.length = hattn_reference_row(problem, &args->batch, row, &x.sequence);
    for (int64_t head = 0; head < problem->num_selection_heads; head++) {
        selection s = {.row = row, .group = problem->num_q_heads / problem->num_selection_heads, .count = x.length};
        s.first_head = head * s.group;
        if (indices) {
            s.positions = indices + row * problem->indices.stride[0] + head * problem->indices.stride[1];
            s.count = x.length > 0 ? counts[row * problem->counts.stride[0] + head * problem->counts.stride[1]] : 0;
        }
        x.kv_head = s.first_head * problem->num_kv_heads / problem->num_q_heads;
        x.k_scale = hattn_reference_kv_scale(problem, args->k_scale, x.kv_head);
        x.v_scale = hattn_reference_kv_scale(problem, args->v_scale, x.kv_head);
        for (int64_t g = 0; g < s.group; g++) {
            const int64_t h = s.first_head + g;
            load_query(&x, row, h);
            s.head[g] = look_at_head(&x, s.positions, s.count, sinks ? sinks[h] : -INFINITY);
        }
        for (int64_t g = 0; g < s.group; g++)
            attend_head(&x, &s, s.first_head + g);
    }
}

void hattn_reference_attend(const hattn_problem *problem, const hattn_attend_args *args)
{
    for (int64_t row = 0; row < args->batch.num_rows; row++)
        attend_row(problem, args, row);
}
