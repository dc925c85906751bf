/* SPDX-License-Identifier: Apache-2.0
 * Attend: a selection (or every position) in parts of a size that the plan fixed, blocks of rows inside a part, then the
 * parts joined in order. Which thread did which part leaves no trace in the result.
 */
#include <math.h>
#include <string.h>

#include "backends/cpu/cpu.h"

int hattn_cpu_num_parts(const hattn_cpu_attention *a)
{
    return a->count <= a->part_size ? 1 : (a->count + a->part_size - 1) / a->part_size;
}

/* Rows whose addresses are found at a time, while rows before them are on their way; as many and a block's are known. */
enum { ROWS_RESOLVED = 2 * HATTN_ATTEND_BLOCK };

hattn_cpu_cache_head hattn_cpu_head_of(const hattn_tensor *cache, hattn_buffer buffer, int64_t kv_head)
{
    const int64_t size = hattn_dtype_size(cache->dtype);
    return (hattn_cpu_cache_head){hattn_element(cache, buffer, 0, 0, kv_head), cache->stride[0] * size,
                                  cache->stride[1] * size};
}

/* Addresses of rows first..first+count of the list. A loop for each kind of list: dense rows cost a nanosecond each to attend to. */
void hattn_cpu_resolve_rows(const hattn_cpu_attention *a, const hattn_cpu_cache_head *k, const hattn_cpu_cache_head *v,
                            int32_t first, int count, const void **k_rows, const void **v_rows)
{
    if (a->pages.table && a->page_shift >= 0) { /* a division takes longer than all the rest */
        const int32_t mask = a->pages.page_size - 1;
        for (int i = 0; i < count; i++) {
            const int32_t position = a->indices ? a->indices[first + i] : first + i, slot = position & mask;
            const int64_t page = a->pages.table[position >> a->page_shift];
            k_rows[i] = k->start + page * k->page_bytes + slot * k->slot_bytes;
            v_rows[i] = v->start + page * v->page_bytes + slot * v->slot_bytes;
        }
        return;
    }
    if (a->pages.table) {
        for (int i = 0; i < count; i++) {
            int32_t slot;
            const int64_t page = hattn_page(&a->pages, a->indices ? a->indices[first + i] : first + i, &slot);
            k_rows[i] = k->start + page * k->page_bytes + slot * k->slot_bytes;
            v_rows[i] = v->start + page * v->page_bytes + slot * v->slot_bytes;
        }
        return;
    }
    const char *k_start = k->start + a->pages.sequence * k->page_bytes,
               *v_start = v->start + a->pages.sequence * v->page_bytes;
    for (int i = 0; i < count; i++) {
        const int64_t position = a->indices ? a->indices[first + i] : first + i;
        k_rows[i] = k_start + position * k->slot_bytes;
        v_rows[i] = v_start + position * v->slot_bytes;
    }
}

/* Row `head` of part `part` in the scratch's part area: [part][head][stride_acc]. */
static float *part_out(const hattn_cpu_plan *plan, char *scratch, int group, int part, int head)
{
    return (float *)(scratch + plan->scratch.part_out) + ((int64_t)part * group + head) * plan->stride_acc;
}

/* A part's softmax weighs sum * e^max: one float of both would round a large max, and with it the part's share. */
static float *part_max(const hattn_cpu_plan *plan, char *scratch, int group, int part, int head)
{
    return (float *)(scratch + plan->scratch.part_max) + (int64_t)part * group + head;
}

static float *part_sum(const hattn_cpu_plan *plan, char *scratch, int group, int part, int head)
{
    return (float *)(scratch + plan->scratch.part_sum) + (int64_t)part * group + head;
}

/* Weights of a second attempt are e^-HEADROOM at most: those of the longest part then sum to less than 1. */
static const float HEADROOM = 16;

/* out[i] = sums[i] * factor; true if all sums are finite. In steps of 8, of which dims are multiples: the compiler then needs no
 * more than the multiplication's own time. */
static bool scale_sums(const float *restrict sums, int n, float factor, float *restrict out)
{
    float zeros[8] = {0};
    for (int i = 0; i < n; i += 8)
        for (int j = 0; j < 8; j++) {
            zeros[j] += sums[i + j] * 0; /* NaN of an infinity, or a NaN */
            out[i + j] = sums[i + j] * factor;
        }
    float all = 0;
    for (int j = 0; j < 8; j++)
        all += zeros[j];
    return all == 0;
}

/* False where sums of weighted values overflowed, though their mean may not: then once more, `lowered`, with the maxima that
 * the first attempt has left. */
static bool attend_part(const hattn_crew *crew, char *scratch, char *task_scratch, const hattn_cpu_attention *a,
                        int part, bool lowered)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    const int64_t kv_head = a->first_head / plan->dense_group;
    const float v_scale = hattn_kv_scale(p, a->v_scale, kv_head),
                q_scale = p->scale * hattn_kv_scale(p, a->k_scale, kv_head);
    const int32_t first = part * a->part_size, left = a->count - first,
                  count = left < a->part_size ? left : a->part_size;
    float *q = (float *)(scratch + plan->scratch.q), *max = (float *)(scratch + plan->scratch.max),
          *sum = (float *)(scratch + plan->scratch.sum);
    float *acc = (float *)(scratch + plan->scratch.acc);
    for (int h = 0; h < a->group; h++) {
        float *row = q + h * plan->stride_q;
        plan->kernels.load(hattn_element(&p->q, a->q, a->row, a->first_head + h, 0), p->q.dtype, p->head_dim_qk,
                           q_scale, row);
        memset(row + p->head_dim_qk, 0, (size_t)(plan->stride_q - p->head_dim_qk) * sizeof(*row));
        max[h] = lowered ? max[h] + HEADROOM : -INFINITY;
        sum[h] = 0;
    }
    memset(acc, 0, (size_t)(a->group * plan->stride_acc) * sizeof(*acc));
    const bool skips = hattn_cpu_skips(a, p), has_tail = hattn_cpu_has_tail(a),
               all_have_shares = has_tail && hattn_cpu_all_have_shares(&a->tail, a->group, first, count);
    if (has_tail)
        hattn_cpu_begin_tail(plan, scratch, a->group, max);

    const hattn_cpu_cache_head k = hattn_cpu_head_of(&p->k_cache, a->k_cache, kv_head),
                               v = hattn_cpu_head_of(&p->v_cache, a->v_cache, kv_head);
    const void *k_rows[2 * ROWS_RESOLVED], *v_rows[2 * ROWS_RESOLVED];
    hattn_attend_block block = {
        .q = q,
        .stride_q = plan->stride_q,
        .group = a->group,
        .head_dim_qk = p->head_dim_qk,
        .head_dim_v = skips ? 0 : p->head_dim_v,
        .dtype = p->k_cache.dtype,
        .soft_cap = p->soft_cap,
        .logits = (float *)(scratch + plan->scratch.logits),
        .max = max,
        .sum = sum,
        .acc = acc,
        .stride_acc = plan->stride_acc,
        .loads_first = plan->loads_first,
    };
    int32_t resolved = 0;
    for (int32_t done = 0, row = 0, known = 0; done < count; done += block.num_rows, row += block.num_rows) {
        if (known - row < ROWS_RESOLVED && resolved < count) {
            const int32_t more = count - resolved < ROWS_RESOLVED ? count - resolved : ROWS_RESOLVED;
            known -= row;
            memmove(k_rows, k_rows + row, (size_t)known * sizeof(*k_rows));
            memmove(v_rows, v_rows + row, (size_t)known * sizeof(*v_rows));
            hattn_cpu_resolve_rows(a, &k, &v, first + resolved, more, k_rows + known, v_rows + known);
            row = 0;
            known += more;
            resolved += more;
        }
        block.num_rows = count - done < HATTN_ATTEND_BLOCK ? count - done : HATTN_ATTEND_BLOCK;
        block.num_rows_ahead = known - row - block.num_rows;
        block.k_rows = k_rows + row;
        block.v_rows = v_rows + row;
        plan->kernels.attend(&block);
        if (skips)
            hattn_cpu_keep_weights(plan, task_scratch, &block, first + done);
        if (has_tail)
            hattn_cpu_add_block(plan, scratch, &block, &a->tail, first + done, all_have_shares);
    }
    if (has_tail)
        hattn_cpu_end_tail(plan, scratch, task_scratch, a->group, part, all_have_shares);
    bool overflowed = false;
    for (int h = 0; h < a->group; h++) {
        float *out = part_out(plan, task_scratch, a->group, part, h);
        const float *sums = acc + h * plan->stride_acc;
        const bool empty = sum[h] == 0; /* a NaN is not: it stays one */
        const float factor = empty ? 0 : v_scale / sum[h];
        if (empty)
            memset(out, 0, (size_t)p->head_dim_v * sizeof(*out)); /* what weighs nothing may be anything */
        else if (!skips)
            overflowed |= !scale_sums(sums, p->head_dim_v, factor, out) && sum[h] < INFINITY;
        *part_max(plan, task_scratch, a->group, part, h) = empty ? -INFINITY : max[h];
        *part_sum(plan, task_scratch, a->group, part, h) = empty ? 1 : sum[h];
    }
    return !overflowed;
}

/* Part `part` into the part area of `task_scratch`, its own scratch in `scratch`; finish joins the parts there and writes out and lse. */
static void attend_in_range(const hattn_crew *crew, char *scratch, char *task_scratch, const hattn_cpu_attention *a,
                            int part)
{
    if (!attend_part(crew, scratch, task_scratch, a, part, false))
        attend_part(crew, scratch, task_scratch, a, part, true);
}

/* Joins the parts of one head into `out`; returns the lse. */
static float join_parts(const hattn_cpu_plan *plan, char *task_scratch, int group, int head, int num_parts, float *out)
{
    float *maxima = part_max(plan, task_scratch, group, 0, head), *sums = part_sum(plan, task_scratch, group, 0, head);
    float max = -INFINITY, lse;
    for (int part = 0; part < num_parts; part++)
        max = fmaxf(max, maxima[part * group]);
    const float base = max == -INFINITY ? 0 : max;
    for (int part = 0; part < num_parts; part++) /* lse less the base, which is exact enough to weigh by */
        maxima[part * group] = maxima[part * group] - base + logf(sums[part * group]);
    plan->kernels.merge(part_out(plan, task_scratch, group, 0, head), group * plan->stride_acc, maxima, group,
                        num_parts, plan->base.problem.head_dim_v, out, &lse);
    return base + lse;
}

static void finish(const hattn_crew *crew, char *task_scratch, const hattn_cpu_attention *a)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    const float *sink_logits = a->sink_logits.data ? hattn_address(a->sink_logits) : NULL;
    const int num_parts = hattn_cpu_num_parts(a);
    const int num_joined = num_parts + hattn_cpu_add_tail(plan, task_scratch, a, num_parts);
    float *merged = (float *)(task_scratch + plan->scratch.merged);
    for (int h = 0; h < a->group; h++) {
        const float *out = part_out(plan, task_scratch, a->group, 0, h);
        float lse = *part_max(plan, task_scratch, a->group, 0, h) + logf(*part_sum(plan, task_scratch, a->group, 0, h));
        if (sink_logits) { /* a part of its own: all weight, no value */
            memset(part_out(plan, task_scratch, a->group, num_joined, h), 0, (size_t)p->head_dim_v * sizeof(float));
            *part_max(plan, task_scratch, a->group, num_joined, h) = sink_logits[a->first_head + h];
            *part_sum(plan, task_scratch, a->group, num_joined, h) = 1;
        }
        if (num_joined > 1 || sink_logits) {
            lse = join_parts(plan, task_scratch, a->group, h, num_joined + (sink_logits != NULL), merged);
            out = merged;
        }
        plan->kernels.store(out, p->head_dim_v, p->out.dtype,
                            hattn_element(&p->out, a->out, a->row, a->first_head + h, 0));
        if (a->lse.data)
            *(float *)hattn_element(&p->lse, a->lse, a->row, a->first_head + h, 0) = lse;
    }
}

/* The rests go into the scratch of the calling thread. */
static hattn_cpu_tail describe_tail(const hattn_cpu_plan *plan, const hattn_attend_args *args, char *scratch,
                                    const hattn_cpu_attention *a, int64_t head, int32_t length)
{
    const hattn_problem *p = &plan->base.problem;
    hattn_cpu_rest *rests = (hattn_cpu_rest *)(void *)(scratch + plan->scratch.rests);
    for (int i = 0; i < plan->num_told; i++) {
        const int64_t of = head * plan->num_told + i;
        rests[i] = hattn_cpu_sum_shares(
            (const uint32_t *)(const void *)hattn_element(&p->shares, args->shares, a->row, of, 0), a->count,
            *(const int64_t *)(const void *)hattn_element(&p->rests, args->rests, a->row, of, 0));
    }
    return (hattn_cpu_tail){.shares = (const uint32_t *)(const void *)hattn_element(&p->shares, args->shares, a->row,
                                                                                    head * plan->num_told, 0),
                            .stride_shares = plan->num_told > 1 ? p->shares.stride[1] : 0,
                            .rests = rests,
                            .value_sums = args->value_sums,
                            .value_lengths = args->value_lengths,
                            .value_slots = args->value_slots,
                            .length = length};
}

/* The attention of one task of hattn_attend. */
static hattn_cpu_attention describe(const hattn_cpu_plan *plan, const hattn_attend_args *args, char *scratch,
                                    int64_t task)
{
    const hattn_problem *p = &plan->base.problem;
    const bool dense = !args->indices.data;
    const int group = dense ? plan->dense_group : plan->group;
    const int64_t heads = p->num_q_heads / group, row = task / heads, head = task % heads;
    const hattn_row resolved = hattn_resolve_row(p, &args->batch, (int32_t)row);
    hattn_cpu_attention a = {
        .q = args->q,
        .k_cache = args->k_cache,
        .v_cache = args->v_cache,
        .k_scale = args->k_scale,
        .v_scale = args->v_scale,
        .sink_logits = args->sink_logits,
        .out = args->out,
        .lse = args->lse,
        .row = row,
        .first_head = head * group,
        .group = group,
        .count = resolved.length,
        .part_size = dense ? plan->dense_part_size : plan->part_size,
        .page_shift = plan->page_shift,
    };
    if (resolved.length)
        a.pages = hattn_sequence_pages(p, &args->batch, resolved.sequence);
    if (!dense) {
        const int32_t count = *(const int32_t *)hattn_element(&p->counts, args->counts, row, head, 0);
        a.indices = (const int32_t *)hattn_element(&p->indices, args->indices, row, head, 0);
        a.count = count < 0 ? 0 : count < resolved.length ? count : resolved.length;
        if (args->shares.data && resolved.length)
            a.tail = describe_tail(plan, args, scratch, &a, head, resolved.length);
    }
    return a;
}

void hattn_cpu_attend_whole(const hattn_crew *crew, char *scratch, const hattn_cpu_attention *a)
{
    const int num_parts = hattn_cpu_num_parts(a);
    for (int part = 0; part < num_parts; part++)
        attend_in_range(crew, scratch, scratch, a, part);
    if (!hattn_cpu_skips(a, &crew->plan->base.problem)) {
        finish(crew, scratch, a);
        return;
    }
    for (int part = 0; part < num_parts; part++)
        hattn_cpu_read_part(crew, scratch, scratch, a, part);
    hattn_cpu_read_finish(crew, scratch, a);
}

void hattn_cpu_attend_shared(hattn_crew *crew, char *scratch, int64_t task, const hattn_cpu_attention *a, int part)
{
    const int num_parts = hattn_cpu_num_parts(a);
    if (part >= num_parts)
        return;
    char *task_scratch = hattn_crew_scratch(crew, task);
    attend_in_range(crew, scratch, task_scratch, a, part);
    if (!hattn_cpu_skips(a, &crew->plan->base.problem) && hattn_crew_arrive(crew, task, num_parts))
        finish(crew, task_scratch, a);
}

static void attend_body(hattn_crew *crew, hattn_cpu_args run)
{
    const hattn_attend_args *args = run.attend;
    const hattn_cpu_plan *plan = crew->plan;
    char *scratch = hattn_crew_scratch(crew, crew->rank);
    const int64_t heads = plan->base.problem.num_q_heads / (args->indices.data ? plan->group : plan->dense_group);
    const int64_t tasks = args->batch.num_rows * heads, units = tasks * plan->max_parts;
    int64_t unit;
    if (!hattn_crew_shares_tasks(crew, tasks)) {
        while (hattn_crew_take(crew, HATTN_STEP_ATTEND, tasks, &unit)) {
            const hattn_cpu_attention a = describe(plan, args, scratch, unit);
            hattn_cpu_attend_whole(crew, scratch, &a);
        }
        return;
    }
    while (hattn_crew_take(crew, HATTN_STEP_ATTEND, units, &unit)) {
        const hattn_cpu_attention a = describe(plan, args, scratch, unit / plan->max_parts);
        hattn_cpu_attend_shared(crew, scratch, unit / plan->max_parts, &a, (int)(unit % plan->max_parts));
    }
    if (!args->shares.data || plan->base.problem.min_value_weight == 0)
        return;
    hattn_crew_finish(crew, HATTN_STEP_ATTEND, units);
    while (hattn_crew_take(crew, HATTN_STEP_READ, units, &unit)) {
        const hattn_cpu_attention a = describe(plan, args, scratch, unit / plan->max_parts);
        hattn_cpu_read_shared(crew, scratch, unit / plan->max_parts, &a, (int)(unit % plan->max_parts));
    }
}

hattn_status hattn_cpu_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                              hattn_error *error)
{
    (void)error;
    return hattn_cpu_run(plan, exec, hattn_cpu_most_keys(plan, &args->batch), attend_body,
                         (hattn_cpu_args){.attend = args});
}

static void merge_body(hattn_crew *crew, hattn_cpu_args run)
{
    const hattn_merge_args *args = run.merge;
    const hattn_problem *p = &crew->plan->base.problem;
    float *merged = (float *)(hattn_crew_scratch(crew, crew->rank) + crew->plan->scratch.merged);
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_ATTEND, (int64_t)args->num_rows * p->num_q_heads, &unit)) {
        const int64_t row = unit / p->num_q_heads, head = unit % p->num_q_heads;
        float lse;
        crew->plan->kernels.merge((const float *)hattn_element(&p->partial_out, args->partial_out, 0, row, head),
                                  p->partial_out.stride[0],
                                  (const float *)hattn_element(&p->partial_lse, args->partial_lse, 0, row, head),
                                  p->partial_lse.stride[0], args->num_parts, p->head_dim_v, merged, &lse);
        crew->plan->kernels.store(merged, p->head_dim_v, p->out.dtype, hattn_element(&p->out, args->out, row, head, 0));
        if (args->lse.data)
            *(float *)hattn_element(&p->lse, args->lse, row, head, 0) = lse;
    }
}

hattn_status hattn_cpu_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                             hattn_error *error)
{
    (void)error;
    return hattn_cpu_run(plan, exec, (int64_t)args->num_rows * plan->problem.num_q_heads * args->num_parts, merge_body,
                         (hattn_cpu_args){.merge = args});
}
