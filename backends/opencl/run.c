/* SPDX-License-Identifier: Apache-2.0
 * Runs: which kernels with what.
 */
#include <string.h>

#include "backends/opencl/queue.h"

/* ---- The kernels ---- */

/* Rows times selection heads. */
static int64_t num_tasks(const hattn_cl_run *r, const hattn_batch *batch)
{
    return (int64_t)batch->num_rows * r->plan->selection.num_heads;
}

/* s: the plan's, with the strides of what args hold. Leaves counts in the workspace. */
static void score(hattn_cl_run *r, const hattn_score_args *args, hattn_opencl_selection s)
{
    const int64_t tasks = num_tasks(r, &args->batch);
    s.num_chunks = hattn_opencl_num_chunks(r->plan, tasks);
    hattn_cl_start(r, HATTN_OPENCL_SCORE);
    hattn_cl_put(r, &s, sizeof(s));
    hattn_cl_put_batch(r, &args->batch);
    hattn_cl_put_buffer(r, args->batch.block_table);
    hattn_cl_put_buffer(r, args->weights);
    hattn_cl_put_buffer(r, args->codes);
    hattn_cl_put_buffer(r, args->norms);
    hattn_cl_put_buffer(r, args->scores);
    hattn_cl_put_buffer(r, hattn_cl_in_workspace(r, r->plan->layout.histograms));
    hattn_cl_put_local(r, s.num_buckets ? (int64_t)r->plan->histograms * s.num_buckets : 1, r->plan->is_cpu ? 2 : 4);
    hattn_cl_enqueue(r, tasks * s.num_chunks);
}

/* has_counts: score has left them in the workspace. */
static void topk(hattn_cl_run *r, const hattn_topk_args *args, hattn_opencl_selection s, const hattn_opencl_floor *f,
                 bool has_counts)
{
    const int64_t tasks = num_tasks(r, &args->batch);
    s.num_chunks = hattn_opencl_num_chunks(r->plan, tasks);
    hattn_cl_start(r, has_counts ? HATTN_OPENCL_SELECT_NARROW : HATTN_OPENCL_SELECT_WIDE);
    hattn_cl_put(r, &s, sizeof(s));
    hattn_cl_put_batch(r, &args->batch);
    hattn_cl_put_buffer(r, args->budgets);
    hattn_cl_put_buffer(r, args->scores);
    hattn_cl_put_buffer(r, args->indices);
    hattn_cl_put_buffer(r, args->counts);
    if (r->plan->has_shares && !r->plan->by_heads) {
        hattn_cl_put(r, f, sizeof(*f));
        hattn_cl_put_buffer(r, args->steps);
        hattn_cl_put_buffer(r, args->shares);
        hattn_cl_put_buffer(r, args->rests);
    }
    if (has_counts) {
        hattn_cl_put_buffer(r, hattn_cl_in_workspace(r, r->plan->layout.histograms));
        hattn_cl_put_local(r, 2 * (int64_t)s.num_buckets, sizeof(cl_uint));
    }
    hattn_cl_enqueue(r, has_counts ? tasks * s.num_chunks : tasks);
}

/* The candidates' list, scores of query heads, and what these make of it. e: with the strides of weights and steps of
 * query heads. */
static void topk_by_heads(hattn_cl_run *r, const hattn_topk_args *args, hattn_opencl_selection s,
                          const hattn_opencl_floor *f, const hattn_opencl_encoding *e, bool has_counts)
{
    const hattn_opencl_layout *l = &r->plan->layout;
    hattn_opencl_heads h = r->plan->heads;
    memcpy(h.head_steps, e->head_steps, sizeof(h.head_steps));
    const hattn_buffer listed = hattn_cl_in_workspace(r, l->listed), lengths = hattn_cl_in_workspace(r, l->lengths),
                       head_scores = hattn_cl_in_workspace(r, l->head_scores);
    const int64_t tasks = num_tasks(r, &args->batch), heads = s.num_heads;
    hattn_opencl_selection all = s;
    all.k = r->plan->num_listed;
    all.indices[0] = heads * h.stride;
    all.indices[1] = h.stride;
    all.counts[0] = heads;
    all.counts[1] = 1;
    topk(r, &(hattn_topk_args){.batch = args->batch, .scores = args->scores, .indices = listed, .counts = lengths}, all,
         f, has_counts);

    hattn_opencl_selection own = s;
    own.num_heads = s.num_heads * h.group;
    own.num_buckets = 0;
    own.num_chunks = hattn_opencl_num_chunks(r->plan, tasks * h.group);
    memcpy(own.weights, e->head_weights, sizeof(own.weights));
    own.scores[0] = (cl_long)own.num_heads * h.stride;
    own.scores[1] = h.stride;
    hattn_cl_start(r, HATTN_OPENCL_SCORE_LISTED);
    hattn_cl_put(r, &own, sizeof(own));
    hattn_cl_put_batch(r, &args->batch);
    const hattn_buffer none = {NULL, 0};
    const hattn_buffer scored[] = {args->batch.block_table, args->head_weights, args->codes, none, head_scores, none};
    hattn_cl_put_buffers(r, scored, sizeof(scored) / sizeof(*scored));
    hattn_cl_put(r, &h, sizeof(h));
    hattn_cl_put_buffer(r, listed);
    hattn_cl_put_buffer(r, lengths);
    hattn_cl_put_local(r, 1, sizeof(cl_uint));
    hattn_cl_enqueue(r, tasks * h.group * own.num_chunks);

    hattn_cl_start(r, HATTN_OPENCL_RANK_HEADS);
    hattn_cl_put(r, &s, sizeof(s));
    hattn_cl_put_batch(r, &args->batch);
    const hattn_buffer selected[] = {args->budgets, args->scores, args->indices, args->counts};
    hattn_cl_put_buffers(r, selected, sizeof(selected) / sizeof(*selected));
    hattn_cl_put(r, f, sizeof(*f));
    const hattn_buffer told[] = {args->steps, args->shares, args->rests};
    hattn_cl_put_buffers(r, told, sizeof(told) / sizeof(*told));
    hattn_cl_put(r, &h, sizeof(h));
    const hattn_buffer of_heads[] = {args->head_steps,
                                     listed,
                                     lengths,
                                     head_scores,
                                     hattn_cl_in_workspace(r, l->keys),
                                     hattn_cl_in_workspace(r, l->places)};
    hattn_cl_put_buffers(r, of_heads, sizeof(of_heads) / sizeof(*of_heads));
    hattn_cl_enqueue(r, tasks);
}

/* t NULL: no tail. */
static void join_splits(hattn_cl_run *r, const hattn_attend_args *args, const hattn_opencl_attention *a,
                        const hattn_opencl_tail *t)
{
    hattn_cl_start(r, t ? HATTN_OPENCL_JOIN_TAIL : HATTN_OPENCL_JOIN);
    hattn_cl_put(r, a, sizeof(*a));
    hattn_cl_put_buffer(r, hattn_cl_in_workspace(r, r->plan->layout.parts));
    hattn_cl_put_buffer(r, args->v_scale);
    hattn_cl_put_buffer(r, args->sink_logits);
    hattn_cl_put_buffer(r, args->out);
    hattn_cl_put_buffer(r, args->lse);
    if (t) {
        hattn_cl_put(r, t, sizeof(*t));
        hattn_cl_put_batch(r, &args->batch);
        const hattn_buffer buffers[] = {
            args->batch.block_table, args->v_cache,       args->counts,     args->shares, args->rests,
            args->value_sums,        args->value_lengths, args->value_slots};
        hattn_cl_put_buffers(r, buffers, sizeof(buffers) / sizeof(*buffers));
    }
    hattn_cl_enqueue(r, (int64_t)args->batch.num_rows * a->num_q_heads);
}

/* What both kernels of sums take. */
static void put_sums(hattn_cl_run *r, int kernel, const hattn_sum_values_args *args, cl_int num_parts)
{
    const hattn_opencl_attention *a = &r->plan->dense.attention;
    hattn_cl_start(r, kernel);
    hattn_cl_put(r, a, sizeof(*a));
    hattn_cl_put(r, &r->plan->tail, sizeof(r->plan->tail));
    hattn_cl_put_batch(r, &args->batch);
    const hattn_buffer buffers[] = {args->value_slots, args->value_sums, args->value_lengths,
                                    hattn_cl_in_workspace(r, r->plan->layout.value_parts)};
    hattn_cl_put_buffers(r, buffers, sizeof(buffers) / sizeof(*buffers));
    hattn_cl_put(r, &num_parts, sizeof(num_parts));
}

/* With more than one part, two kernels. */
static void sum_values(hattn_cl_run *r, const hattn_sum_values_args *args, int32_t num_parts)
{
    const hattn_opencl_attention *a = &r->plan->dense.attention;
    const int64_t tasks = (int64_t)args->batch.num_sequences * a->num_kv_heads;
    put_sums(r, HATTN_OPENCL_SUM_VALUES, args, num_parts);
    hattn_cl_put_buffer(r, args->batch.block_table);
    hattn_cl_put_buffer(r, args->v_cache);
    const int32_t columns = a->head_dim_v / 8, lanes = r->kernel->local / columns;
    hattn_cl_put_local(r, (int64_t)(lanes > 1 ? lanes : 1) * a->head_dim_v, sizeof(cl_long));
    hattn_cl_enqueue(r, tasks * num_parts);
    if (num_parts == 1)
        return;
    put_sums(r, HATTN_OPENCL_JOIN_VALUES, args, num_parts);
    hattn_cl_enqueue(r, tasks);
}

/* One of the kernels of an attention. */
static void put_attend(hattn_cl_run *r, int kernel, const hattn_attend_args *args,
                       const hattn_opencl_attender *attender, const hattn_opencl_attention *a,
                       const hattn_opencl_tail *t)
{
    hattn_cl_start(r, kernel);
    hattn_cl_put(r, a, sizeof(*a));
    hattn_cl_put_batch(r, &args->batch);
    hattn_cl_put_buffer(r, args->batch.block_table);
    const hattn_buffer buffers[] = {args->q,
                                    args->k_cache,
                                    args->v_cache,
                                    args->k_scale,
                                    args->v_scale,
                                    args->sink_logits,
                                    args->indices,
                                    args->counts,
                                    args->out,
                                    args->lse,
                                    hattn_cl_in_workspace(r, r->plan->layout.parts)};
    hattn_cl_put_buffers(r, buffers, sizeof(buffers) / sizeof(*buffers));
    if (t) {
        hattn_cl_put(r, t, sizeof(*t));
        hattn_cl_put_buffer(r, args->shares);
    }
    const bool skips = t && r->plan->skips;
    if (skips) {
        hattn_cl_put_buffer(r, hattn_cl_in_workspace(r, r->plan->layout.logits));
        hattn_cl_put_buffer(r, hattn_cl_in_workspace(r, r->plan->layout.head_sums));
    }
    /* Queries, where there are products: what knows logits has other things in local memory. */
    const bool has_products = !skips || kernel == HATTN_OPENCL_WEIGH;
    hattn_cl_put_local(r, has_products ? (int64_t)attender->heads * a->head_dim_qk : 4, sizeof(cl_float));
    hattn_cl_enqueue(r, (int64_t)args->batch.num_rows * (a->num_q_heads / a->group) * a->num_blocks * a->num_splits);
}

/* s, f: strides of what a decode selected; NULL: as the plan has them. */
static void attend(hattn_cl_run *r, const hattn_attend_args *args, const hattn_opencl_selection *s,
                   const hattn_opencl_floor *f)
{
    const bool is_sparse = args->indices.data;
    const hattn_opencl_attender *attender = is_sparse ? &r->plan->sparse : &r->plan->dense;
    hattn_opencl_attention a = attender->attention;
    hattn_opencl_tail t = r->plan->tail;
    const bool has_tail = is_sparse && r->plan->has_tail;
    a.num_splits = hattn_opencl_num_splits(r->plan, attender, args->batch.num_rows);
    for (int i = 0; s && i < 2; i++) {
        a.indices[i] = s->indices[i];
        a.counts[i] = s->counts[i];
        t.shares[i] = f->shares[i];
        t.rests[i] = f->rests[i];
    }
    const hattn_opencl_tail *tail = has_tail ? &t : NULL;
    if (has_tail && r->plan->skips)
        put_attend(r, HATTN_OPENCL_WEIGH, args, attender, &a, tail);
    put_attend(r, is_sparse ? HATTN_OPENCL_ATTEND_SPARSE : HATTN_OPENCL_ATTEND_DENSE, args, attender, &a, tail);
    if (has_tail || a.num_splits > 1)
        join_splits(r, args, &a, tail);
}

/* ---- The slots ---- */

hattn_status hattn_opencl_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                                hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    score(&r, args, r.plan->selection);
    return hattn_cl_end(&r, error);
}

hattn_status hattn_opencl_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    if (r.plan->by_heads)
        topk_by_heads(&r, args, r.plan->selection, &r.plan->floor, &r.plan->queries.encoding, false);
    else
        topk(&r, args, r.plan->selection, &r.plan->floor, false);
    return hattn_cl_end(&r, error);
}

hattn_status hattn_opencl_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                                 hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    attend(&r, args, NULL, NULL);
    return hattn_cl_end(&r, error);
}

hattn_status hattn_opencl_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                                hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    hattn_opencl_join join = r.plan->join;
    join.num_parts = args->num_parts;
    hattn_cl_start(&r, HATTN_OPENCL_MERGE);
    hattn_cl_put(&r, &join, sizeof(join));
    hattn_cl_put_buffer(&r, args->partial_out);
    hattn_cl_put_buffer(&r, args->partial_lse);
    hattn_cl_put_buffer(&r, args->out);
    hattn_cl_put_buffer(&r, args->lse);
    hattn_cl_enqueue(&r, (int64_t)args->num_rows * join.num_q_heads);
    return hattn_cl_end(&r, error);
}

hattn_status hattn_opencl_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                                     hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    sum_values(&r, args, hattn_opencl_num_value_parts(r.plan, args->batch.num_sequences));
    return hattn_cl_end(&r, error);
}

/* A tensor of a decode: the caller's, or one of the workspace, compact. */
static hattn_buffer place(const hattn_cl_run *r, hattn_buffer given, uint64_t offset, int64_t heads, int64_t last,
                          cl_long *stride)
{
    if (given.data)
        return given;
    stride[0] = heads * last;
    stride[1] = last;
    return hattn_cl_in_workspace(r, offset);
}

hattn_status hattn_opencl_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                                 hattn_error *error)
{
    hattn_cl_run r = hattn_cl_begin(plan, exec);
    const hattn_opencl_layout *l = &r.plan->layout;
    const hattn_buffer none = {NULL, 0};
    hattn_opencl_selection s = r.plan->selection;
    hattn_opencl_floor f = r.plan->floor;
    hattn_opencl_encoding e = r.plan->queries.encoding;
    const int64_t heads = s.num_heads;
    const hattn_buffer weights = place(&r, args->weights, l->weights, heads, s.code_bits, s.weights),
                       scores = place(&r, none, l->scores, heads, hattn_opencl_scores_stride(r.plan), s.scores),
                       indices = place(&r, args->indices, l->indices, heads, s.k, s.indices),
                       counts = place(&r, args->counts, l->counts, heads, 1, s.counts),
                       steps = place(&r, args->steps, l->steps, heads, 1, f.steps),
                       head_weights =
                           place(&r, args->head_weights, l->head_weights, e.num_heads, s.code_bits, e.head_weights),
                       head_steps = place(&r, args->head_steps, l->head_steps, e.num_heads, 1, e.head_steps);
    memcpy(e.to, s.weights, sizeof(s.weights));
    memcpy(e.steps, f.steps, sizeof(f.steps));
    hattn_buffer shares = none, rests = none;
    if (r.plan->has_tail) {
        const int64_t of_shares = r.plan->by_heads ? e.num_heads : heads;
        shares = place(&r, none, l->shares, of_shares, s.k, f.shares);
        rests = place(&r, none, l->rests, of_shares, 1, f.rests);
    }
    if (args->append)
        hattn_opencl_append_keys(&r, args);
    if (args->append && r.plan->has_tail) /* a step's own positions are few: one kernel */
        sum_values(&r,
                   &(hattn_sum_values_args){.batch = args->batch,
                                            .v_cache = args->v_cache,
                                            .value_slots = args->value_slots,
                                            .value_sums = args->value_sums,
                                            .value_lengths = args->value_lengths},
                   1);
    hattn_opencl_weigh_queries(&r,
                               &(hattn_encode_queries_args){.num_rows = args->batch.num_rows,
                                                            .q = args->q,
                                                            .query_map = args->query_map,
                                                            .weights = weights,
                                                            .slopes = args->slopes,
                                                            .steps = steps,
                                                            .head_slopes = args->head_slopes,
                                                            .head_weights = head_weights,
                                                            .head_steps = head_steps},
                               &e);
    score(&r,
          &(hattn_score_args){
              .batch = args->batch, .weights = weights, .codes = args->codes, .norms = args->norms, .scores = scores},
          s);
    const hattn_topk_args select = {.batch = args->batch,
                                    .scores = scores,
                                    .budgets = args->budgets,
                                    .indices = indices,
                                    .counts = counts,
                                    .steps = steps,
                                    .shares = shares,
                                    .rests = rests,
                                    .codes = args->codes,
                                    .head_weights = head_weights,
                                    .head_steps = head_steps};
    if (r.plan->by_heads)
        topk_by_heads(&r, &select, s, &f, &e, s.num_buckets > 0);
    else
        topk(&r, &select, s, &f, s.num_buckets > 0);
    attend(&r,
           &(hattn_attend_args){.batch = args->batch,
                                .q = args->q,
                                .k_cache = args->k_cache,
                                .v_cache = args->v_cache,
                                .k_scale = args->k_scale,
                                .v_scale = args->v_scale,
                                .sink_logits = args->sink_logits,
                                .indices = indices,
                                .counts = counts,
                                .out = args->out,
                                .lse = args->lse,
                                .shares = shares,
                                .rests = rests,
                                .value_sums = args->value_sums,
                                .value_lengths = args->value_lengths,
                                .value_slots = args->value_slots},
           &s, &f);
    return hattn_cl_end(&r, error);
}
