/* SPDX-License-Identifier: Apache-2.0
 * What a plan fixes for its kernels: how work is cut into groups, and the workspace.
 */
#include <string.h>

#include "backends/opencl/opencl.h"
#include "core/dtype.h"
#include "core/floor.h"
#include "core/rows.h"
#include "core/workspace.h"

enum {
    LOCAL_FLOATS = 6800, /* of vectors and sums in a group's local memory: 32 KiB less what else encoding has there */
    MAX_BUCKETS = 1024,  /* scores that are counted each */
    MAX_CHUNKS = 32,     /* of a row; each group of a selection reads all counts of its row */
    MIN_CHUNK = 1024,    /* as in chunks.cl */
    MIN_VALUES = 64,     /* positions of a part of a sum of values, where all are new */
    SMALL_COUNTER = 1 << 15,
    MAX_SPLITS = 64, /* as build.c tells the kernels */
    MAX_SPLIT = 4096 /* rows of one: numerics.md's c is for sums of parts no longer than that */
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int32_t largest_output(const hattn_opencl_map *map)
{
    int32_t most = 0;
    for (int i = 0; i < map->num_layers; i++)
        most = map->num_outputs[i] > most ? map->num_outputs[i] : most;
    return most;
}

/* vectors: at most so many at a time, fewer where local memory is too small. */
static void choose_encoder(const hattn_problem *p, const hattn_map *map, const hattn_tensor *x, int32_t vectors,
                           hattn_opencl_encoder *encoder)
{
    hattn_opencl_map *m = &encoder->map;
    hattn_opencl_encoding *e = &encoder->encoding;
    const bool is_mlp = p->map_kind == HATTN_MAP_MLP;
    m->num_layers = is_mlp ? 3 : 1;
    for (int i = 0; i < m->num_layers; i++) {
        m->num_outputs[i] = i + 1 < m->num_layers ? map->hidden[i] : p->code_bits;
        m->weight[i] = map->weight_stride[i][0];
        m->weight_row[i] = map->weight_stride[i][1];
        m->bias[i] = map->bias_stride[i];
    }
    memcpy(e->x, x->stride, sizeof(e->x));
    e->x_dtype = x->dtype;
    e->head_dim = p->head_dim_qk;
    e->num_code_heads = p->num_code_heads;
    e->code_bits = p->code_bits;
    e->num_slots = p->page_size ? p->page_size : p->max_length;
    e->has_head_scales = p->per_head_kv_scales;
    memcpy(e->to, p->codes.stride, sizeof(e->to));
    memcpy(e->norms, p->norms.stride, sizeof(e->norms));
    e->num_heads = p->num_kv_heads;

    const int32_t outputs = largest_output(m);
    e->width = (int32_t)larger(p->head_dim_qk, is_mlp ? larger(map->hidden[0], map->hidden[1]) : 0);
    while (vectors > 1 && vectors * (e->width + outputs) > LOCAL_FLOATS)
        vectors /= 2;
    encoder->vectors = vectors;
    e->num_sums = (int32_t)smaller(LOCAL_FLOATS - vectors * e->width, (int64_t)vectors * outputs * 16);
}

static void choose_encoding(const hattn_problem *p, hattn_opencl_plan *plan)
{
    const int32_t group = p->num_q_heads / p->num_selection_heads;
    const int32_t few = group > 1 ? 4 : 1;
    choose_encoder(p, &p->key_map, &p->k_new, plan->is_cpu ? 4 : 16, &plan->keys);
    choose_encoder(p, &p->key_map, &p->k_cache, few, &plan->append);
    choose_encoder(p, &p->query_map, &p->q, few, &plan->queries);
    hattn_opencl_encoding *e = &plan->queries.encoding;
    memcpy(e->to, p->weights.stride, sizeof(e->to));
    e->num_heads = p->num_q_heads;
    e->group = group;
    e->weight_bits = p->score_kind == HATTN_SCORE_WEIGHTED ? p->weight_bits : 0;
    memcpy(e->steps, p->steps.stride, sizeof(e->steps));
    e->slope = p->slopes.stride[0];
    memcpy(e->head_weights, p->head_weights.stride, sizeof(e->head_weights));
    memcpy(e->head_steps, p->head_steps.stride, sizeof(e->head_steps));
    e->head_slope = p->head_slopes.stride[0];
    const double largest_weight = e->weight_bits ? (1 << (e->weight_bits - 1)) - 1 : 1;
    e->step_unit = (cl_float)(2954.639443740597 / largest_weight); /* 2048 / ln 2 */
}

/* The largest weight that the problem can give. */
static int64_t max_weight(const hattn_problem *p)
{
    const int64_t group = p->num_q_heads / p->num_selection_heads;
    if (p->score_kind == HATTN_SCORE_WEIGHTED)
        return (1 << (p->weight_bits - 1)) - 1;
    return group % 2 ? group : group / 2;
}

static void choose_selection(const hattn_problem *p, hattn_opencl_plan *plan)
{
    hattn_opencl_selection *s = &plan->selection;
    memcpy(s->codes, p->codes.stride, sizeof(s->codes));
    memcpy(s->norms, p->norms.stride, sizeof(s->norms));
    memcpy(s->weights, p->weights.stride, sizeof(s->weights));
    memcpy(s->scores, p->scores.stride, sizeof(s->scores));
    memcpy(s->indices, p->indices.stride, sizeof(s->indices));
    memcpy(s->counts, p->counts.stride, sizeof(s->counts));
    memcpy(s->budgets, p->budgets.stride, sizeof(s->budgets));
    s->num_heads = p->num_selection_heads;
    s->num_code_heads = p->num_code_heads;
    s->code_bits = p->code_bits;
    s->k = p->k;
    s->num_sink = p->num_sink;
    s->num_recent = p->num_recent;
    for (int64_t most = max_weight(p); most && s->num_planes < 7; most >>= 1)
        s->num_planes++;
    /* Counters of 16 bits hold what one of a processor's eight work-items counts of a chunk. */
    plan->min_chunks = plan->is_cpu ? (int32_t)divide_up(p->max_length, 8 * SMALL_COUNTER) : 1;
    const int64_t max_score = p->code_bits * max_weight(p);
    const bool is_narrow = !p->key_norms && max_score < MAX_BUCKETS && plan->min_chunks <= MAX_CHUNKS;
    s->num_buckets = is_narrow ? (cl_int)max_score + 1 : 0;
    plan->histograms = plan->is_cpu ? 8 : is_narrow ? (int32_t)larger(1, smaller(8, 2048 / s->num_buckets)) : 1;
}

static void choose_floor(const hattn_problem *p, hattn_opencl_plan *plan)
{
    hattn_opencl_floor *f = &plan->floor;
    plan->has_shares = hattn_has_shares(p);
    plan->has_tail = p->tail > 0;
    memcpy(f->steps, p->steps.stride, sizeof(f->steps));
    memcpy(f->shares, p->shares.stride, sizeof(f->shares));
    memcpy(f->rests, p->rests.stride, sizeof(f->rests));
    f->tau = p->min_probability > 0 ? hattn_floor_tau(p->min_probability) : 0;
    f->min_k = p->min_k;
    hattn_opencl_tail *t = &plan->tail;
    memcpy(t->shares, p->shares.stride, sizeof(t->shares));
    memcpy(t->rests, p->rests.stride, sizeof(t->rests));
    memcpy(t->value_sums, p->value_sums.stride, sizeof(t->value_sums));
    memcpy(t->value_lengths, p->value_lengths.stride, sizeof(t->value_lengths));
    t->factor = p->tail;
    plan->skips = p->min_value_weight > 0;
    t->least = p->min_value_weight * (float)(p->num_q_heads / p->num_selection_heads);
    t->stride = p->k;
    plan->by_heads = p->num_candidates > 0;
    t->has_head_shares = plan->by_heads;
    plan->heads.group = p->num_q_heads / p->num_selection_heads;
    plan->num_listed = (int32_t)smaller((int64_t)p->num_candidates + p->num_sink + p->num_recent, p->max_length);
    plan->heads.stride = (cl_int)divide_up(plan->num_listed, 8) * 8;
}

/* Groups that a scoring should have. */
static int64_t wanted_chunks(const hattn_opencl_plan *plan) { return (plan->is_cpu ? 8 : 4) * plan->num_units; }

int32_t hattn_opencl_num_chunks(const hattn_opencl_plan *plan, int64_t tasks)
{
    const int64_t wanted = larger(wanted_chunks(plan) / tasks, 1),
                  most = smaller(MAX_CHUNKS, divide_up(plan->rows.max_length, MIN_CHUNK));
    return (int32_t)larger(smaller(wanted, most), plan->min_chunks <= MAX_CHUNKS ? plan->min_chunks : 1);
}

int32_t hattn_opencl_num_value_parts(const hattn_opencl_plan *plan, int64_t sequences)
{
    const int64_t wanted = wanted_chunks(plan) / larger(sequences * plan->dense.attention.num_kv_heads, 1);
    return (int32_t)larger(1, smaller(wanted, divide_up(plan->rows.max_length, MIN_VALUES)));
}

/* Groups of an attention that the device should have at a time: a few more would wait for all of these. */
static int64_t wanted_groups(const hattn_opencl_plan *plan) { return (plan->is_cpu ? 1 : 3) * plan->num_units; }

int64_t hattn_opencl_scores_stride(const hattn_opencl_plan *plan) { return divide_up(plan->rows.max_length, 8) * 8; }

static int64_t min_splits(const hattn_opencl_attender *attender)
{
    return smaller(MAX_SPLITS, divide_up(attender->max_count, MAX_SPLIT));
}

int32_t hattn_opencl_num_splits(const hattn_opencl_plan *plan, const hattn_opencl_attender *attender, int64_t rows)
{
    const hattn_opencl_attention *a = &attender->attention;
    const int64_t groups = rows * (a->num_q_heads / a->group) * a->num_blocks;
    const int64_t wanted = smaller(wanted_groups(plan) / groups, attender->max_count / 32);
    return (int32_t)larger(larger(1, min_splits(attender)), smaller(wanted, MAX_SPLITS));
}

static void choose_attender(const hattn_problem *p, int32_t group, int32_t max_count, hattn_opencl_attender *attender)
{
    hattn_opencl_attention *a = &attender->attention;
    memcpy(a->q, p->q.stride, sizeof(a->q));
    memcpy(a->k_cache, p->k_cache.stride, sizeof(a->k_cache));
    memcpy(a->v_cache, p->v_cache.stride, sizeof(a->v_cache));
    memcpy(a->indices, p->indices.stride, sizeof(a->indices));
    memcpy(a->counts, p->counts.stride, sizeof(a->counts));
    memcpy(a->out, p->out.stride, sizeof(a->out));
    memcpy(a->lse, p->lse.stride, sizeof(a->lse));
    a->q_dtype = p->q.dtype;
    a->out_dtype = p->out.dtype;
    a->head_dim_qk = p->head_dim_qk;
    a->head_dim_v = p->head_dim_v;
    a->num_q_heads = p->num_q_heads;
    a->num_kv_heads = p->num_kv_heads;
    a->group = group;
    a->has_head_scales = p->per_head_kv_scales;
    a->scale = p->scale;
    a->soft_cap = p->soft_cap;
    attender->heads = group >= 5 ? 8 : group >= 3 ? 4 : group;
    attender->max_count = max_count;
    a->num_blocks = (cl_int)divide_up(group, attender->heads);
}

/* Floats of all parts of an attention: for the number of rows that has most. A tail is always added to parts. */
static uint64_t part_floats(const hattn_opencl_plan *plan, const hattn_problem *p,
                            const hattn_opencl_attender *attender, bool has_tail)
{
    const int64_t heads = (int64_t)p->max_rows * p->num_q_heads;
    if (!has_tail && smaller(larger(wanted_groups(plan), min_splits(attender)), attender->max_count / 32) <= 1)
        return 0;
    const int64_t least = min_splits(attender),
                  parts = larger(2 * wanted_groups(plan) * attender->heads, least > 1 || has_tail ? heads * least : 0);
    return (uint64_t)parts * (uint64_t)(p->head_dim_v + (!has_tail ? 2 : plan->skips ? 5 : 4));
}

static void lay_out(const hattn_problem *p, hattn_opencl_plan *plan)
{
    hattn_opencl_layout *l = &plan->layout;
    const uint64_t tasks = (uint64_t)p->max_rows * (uint64_t)p->num_selection_heads;
    l->weights = hattn_carve(&l->size, tasks * (uint64_t)p->code_bits);
    l->scores = hattn_carve(&l->size, tasks * (uint64_t)hattn_opencl_scores_stride(plan) * (p->key_norms ? 4 : 2));
    l->indices = hattn_carve(&l->size, tasks * (uint64_t)p->k * 4);
    l->counts = hattn_carve(&l->size, tasks * 4);
    l->steps = hattn_carve(&l->size, plan->has_shares ? tasks * 4 : 0);
    const uint64_t heads = tasks * (uint64_t)plan->heads.group, of_shares = plan->by_heads ? heads : tasks;
    l->shares = hattn_carve(&l->size, plan->has_tail ? of_shares * (uint64_t)p->k * 4 : 0);
    l->rests = hattn_carve(&l->size, plan->has_tail ? of_shares * 8 : 0);
    const uint64_t chunks = (uint64_t)larger(wanted_chunks(plan), (int64_t)tasks * plan->min_chunks);
    l->histograms = hattn_carve(&l->size, (chunks + tasks) * (uint64_t)plan->selection.num_buckets * 4);
    const uint64_t sparse = part_floats(plan, p, &plan->sparse, plan->has_tail),
                   dense = part_floats(plan, p, &plan->dense, false);
    l->parts = hattn_carve(&l->size, (sparse > dense ? sparse : dense) * 4);
    /* At most so many, for whatever number of sequences. */
    const uint64_t value_parts = (uint64_t)wanted_chunks(plan);
    l->value_parts = hattn_carve(&l->size, plan->has_tail ? value_parts * (uint64_t)p->head_dim_v * 8 : 0);
    if (plan->skips) {
        l->logits = hattn_carve(&l->size, heads * (uint64_t)p->k * 4);
        l->head_sums = hattn_carve(&l->size, heads * MAX_SPLITS * 2 * 4);
    }
    if (!plan->by_heads)
        return;
    const uint64_t listed = (uint64_t)plan->heads.stride;
    l->head_weights = hattn_carve(&l->size, heads * (uint64_t)p->code_bits);
    l->head_steps = hattn_carve(&l->size, heads * 4);
    l->listed = hattn_carve(&l->size, tasks * listed * 4);
    l->lengths = hattn_carve(&l->size, tasks * 4);
    l->head_scores = hattn_carve(&l->size, heads * listed * 2);
    l->keys = hattn_carve(&l->size, tasks * listed * 4);
    l->places = hattn_carve(&l->size, tasks * (uint64_t)p->k * 4);
}

void hattn_opencl_choose(const hattn_opencl_device *device, const hattn_problem *p, hattn_opencl_plan *plan)
{
    plan->is_cpu = device->is_cpu;
    plan->num_units = device->num_units;
    choose_encoding(p, plan);
    hattn_opencl_rows *rows = &plan->rows;
    rows->table_stride = p->block_table.stride[0];
    rows->max_length = p->max_length;
    rows->page_size = p->page_size;
    rows->page_shift = -1;
    for (int shift = 0; shift < 31; shift++)
        if (p->page_size == 1 << shift)
            rows->page_shift = shift;
    choose_selection(p, plan);
    choose_floor(p, plan);
    choose_attender(p, p->num_q_heads / p->num_selection_heads, p->k, &plan->sparse);
    choose_attender(p, p->num_q_heads / p->num_kv_heads, p->max_length, &plan->dense);
    memcpy(plan->join.partial_out, p->partial_out.stride, sizeof(plan->join.partial_out));
    memcpy(plan->join.partial_lse, p->partial_lse.stride, sizeof(plan->join.partial_lse));
    memcpy(plan->join.out, p->out.stride, sizeof(plan->join.out));
    memcpy(plan->join.lse, p->lse.stride, sizeof(plan->join.lse));
    plan->join.out_dtype = p->out.dtype;
    plan->join.head_dim_v = p->head_dim_v;
    plan->join.num_q_heads = p->num_q_heads;
    lay_out(p, plan);
}
