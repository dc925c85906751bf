/* SPDX-License-Identifier: Apache-2.0
 * Top-k: forced positions around a kernel's exact selection of the middle.
 */
#include <string.h>

#include "backends/cpu/cpu.h"

void hattn_cpu_store_selection(const hattn_problem *problem, hattn_buffer indices, hattn_buffer counts, int64_t row,
                               int64_t head, const int32_t *selected, int32_t kept)
{
    if (counts.data)
        *(int32_t *)hattn_element(&problem->counts, counts, row, head, 0) = kept;
    if (indices.data) {
        int32_t *out = (int32_t *)hattn_element(&problem->indices, indices, row, head, 0);
        memcpy(out, selected, (size_t)kept * sizeof(*out));
        memset(out + kept, 0xff, (size_t)(problem->k - kept) * sizeof(*out)); /* -1 */
    }
}

static int32_t *put_range(int32_t *out, int32_t first, int32_t end)
{
    while (first < end)
        *out++ = first++;
    return out;
}

bool hattn_cpu_is_ranked(const hattn_problem *p, int32_t length, int32_t kept)
{
    const bool is_floor_asked = p->min_probability > 0 && kept > p->min_k;
    return kept > p->num_sink + p->num_recent && (kept < length || is_floor_asked);
}

void hattn_cpu_select_kept(const hattn_crew *crew, char *scratch, int32_t length, int32_t kept,
                           const hattn_cpu_scores *scores, int32_t *out)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const hattn_cpu_scratch *at = &crew->plan->scratch;
    if (kept == length) {
        put_range(out, 0, length);
        return;
    }
    /* kept < length, so that sinks and recents do not meet and the middle has more positions than are wanted. */
    const int32_t middle = length - p->num_sink - p->num_recent, wanted = kept - p->num_sink - p->num_recent;
    const hattn_topk_scratch kernels = {(uint32_t *)(scratch + at->histogram), (int32_t *)(scratch + at->positions),
                                        (uint32_t *)(scratch + at->candidates)};
    out = put_range(out, 0, p->num_sink);
    if (wanted && scores->keys)
        crew->plan->kernels.topk_f32(scores->keys, middle, wanted, p->num_sink, out, &kernels);
    else if (wanted)
        crew->plan->kernels.topk_u16(scores->scores, middle, wanted, scores->max_score, p->num_sink, out, &kernels);
    put_range(out + wanted, length - p->num_recent, length);
}

int32_t hattn_cpu_select_unit(const hattn_crew *crew, char *scratch, int32_t length, int32_t kept,
                              const hattn_cpu_scores *scores, int32_t *out, uint32_t *shares, hattn_cpu_rest *rests)
{
    const hattn_problem *p = &crew->plan->base.problem;
    if (p->num_candidates && hattn_cpu_is_ranked(p, length, kept))
        return hattn_cpu_select_by_heads(crew, scratch, length, kept, scores, out, shares, rests);
    hattn_cpu_select_kept(crew, scratch, length, kept, scores, out);
    const int32_t least = hattn_cpu_least_kept(p, kept);
    const bool has_floor = p->min_probability > 0 && kept > least && !p->num_candidates,
               is_ranked = hattn_cpu_is_ranked(p, length, kept);
    hattn_cpu_estimate estimate = {0};
    int32_t left = kept;
    if (is_ranked && (has_floor || p->tail > 0))
        estimate = hattn_cpu_make_estimate(crew->plan, scratch, scores, length, kept, out, shares + p->num_sink);
    if (has_floor && (left = hattn_cpu_apply_floor(crew->plan, &estimate, length, kept, out)) < 0) {
        hattn_cpu_select_kept(crew, scratch, length, left = least, scores, out);
        if (p->tail > 0)
            hattn_cpu_share_list(crew->plan, scratch, &estimate, left, out);
    }
    if (p->tail == 0)
        return left;
    if (!is_ranked || left == length) {
        for (int i = 0; i < crew->plan->num_told; i++) {
            memset(shares + i * crew->plan->stride_shares, 0, (size_t)left * sizeof(*shares));
            rests[i] = (hattn_cpu_rest){0};
        }
        return left;
    }
    *rests = hattn_cpu_mark_anchors(&estimate);
    memset(shares, 0, (size_t)p->num_sink * sizeof(*shares));
    memset(shares + left - p->num_recent, 0, (size_t)p->num_recent * sizeof(*shares));
    return left;
}

static void store_shares(const hattn_crew *crew, const hattn_topk_args *args, const char *scratch, int64_t row,
                         int64_t head, int32_t kept)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const hattn_cpu_rest *rests = (const hattn_cpu_rest *)(const void *)(scratch + crew->plan->scratch.rests);
    for (int i = 0; i < crew->plan->num_told; i++) {
        const uint32_t *from =
            (const uint32_t *)(const void *)(scratch + crew->plan->scratch.shares) + i * crew->plan->stride_shares;
        const int64_t of = head * crew->plan->num_told + i;
        uint32_t *out = (uint32_t *)(void *)hattn_element(&p->shares, args->shares, row, of, 0);
        memcpy(out, from, (size_t)kept * sizeof(*out));
        memset(out + kept, 0, (size_t)(p->k - kept) * sizeof(*out));
        *(int64_t *)(void *)hattn_element(&p->rests, args->rests, row, of, 0) = rests[i].rest;
    }
}

/* Planes and steps into the scratch; nothing where query heads have no scores. */
static hattn_cpu_heads find_heads(const hattn_crew *crew, const hattn_topk_args *args, char *scratch,
                                  const hattn_row *resolved, int64_t row, int64_t head)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    hattn_cpu_heads heads = {.planes = (const hattn_planes *)(const void *)(scratch + plan->scratch.head_planes),
                             .steps = (const int32_t *)(const void *)(scratch + plan->scratch.head_steps)};
    if (!p->num_candidates || !resolved->length)
        return heads;
    heads.keys = (hattn_cpu_keys){.codes = args->codes,
                                  .pages = hattn_sequence_pages(p, &args->batch, resolved->sequence),
                                  .code_head = head * p->num_code_heads / p->num_selection_heads};
    for (int i = 0; i < plan->group; i++) {
        const int64_t of = head * plan->group + i;
        plan->kernels.split((const int8_t *)hattn_element(&p->head_weights, args->head_weights, row, of, 0),
                            p->code_bits, (hattn_planes *)(void *)(scratch + plan->scratch.head_planes) + i);
        ((int32_t *)(void *)(scratch + plan->scratch.head_steps))[i] =
            *(const int32_t *)(const void *)hattn_element(&p->head_steps, args->head_steps, row, of, 0);
    }
    return heads;
}

static void topk_body(hattn_crew *crew, hattn_cpu_args run)
{
    const hattn_topk_args *args = run.topk;
    const hattn_problem *p = &crew->plan->base.problem;
    char *scratch = hattn_crew_scratch(crew, crew->rank);
    int32_t *selected = (int32_t *)(scratch + crew->plan->scratch.indices);
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_SELECT, (int64_t)args->batch.num_rows * p->num_selection_heads, &unit)) {
        const int64_t row = unit / p->num_selection_heads, head = unit % p->num_selection_heads;
        const hattn_row resolved = hattn_resolve_row(p, &args->batch, (int32_t)row);
        const int32_t budget = hattn_kept(p, args->budgets, &resolved, head);
        const char *middle =
            hattn_element(&p->scores, args->scores, row, head, 0) + p->num_sink * hattn_dtype_size(p->scores.dtype);
        hattn_cpu_scores scores = {.max_score = UINT16_MAX};
        if (p->key_norms)
            scores.keys = (const float *)(const void *)middle;
        else
            scores.scores = (const uint16_t *)(const void *)middle;
        if (args->steps.data)
            scores.step = *(const int32_t *)(const void *)hattn_element(&p->steps, args->steps, row, head, 0);
        const hattn_cpu_heads heads = find_heads(crew, args, scratch, &resolved, row, head);
        scores.heads = &heads;
        const int32_t kept = hattn_cpu_select_unit(crew, scratch, resolved.length, budget, &scores, selected,
                                                   (uint32_t *)(void *)(scratch + crew->plan->scratch.shares),
                                                   (hattn_cpu_rest *)(void *)(scratch + crew->plan->scratch.rests));
        if (p->tail > 0)
            store_shares(crew, args, scratch, row, head, kept);
        hattn_cpu_store_selection(p, args->indices, args->counts, row, head, selected, kept);
    }
}

hattn_status hattn_cpu_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                            hattn_error *error)
{
    (void)error;
    return hattn_cpu_run(plan, exec, hattn_cpu_most_keys(plan, &args->batch), topk_body,
                         (hattn_cpu_args){.topk = args});
}
