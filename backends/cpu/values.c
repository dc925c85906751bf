/* SPDX-License-Identifier: Apache-2.0
 * Sums of values, which tails need, and the means that are made of them.
 */
#include <string.h>

#include "backends/cpu/cpu.h"
#include "core/tail.h"

/* Values of positions begin..end are added; row: scratch of head_dim_v. */
static void add_values(const hattn_cpu_plan *plan, const hattn_pages *pages, hattn_buffer v_cache, int64_t kv_head,
                       int32_t begin, int32_t end, float *row, int64_t *sums)
{
    const hattn_problem *p = &plan->base.problem;
    for (int32_t j = begin; j < end; j++) {
        int32_t slot;
        const int64_t page = hattn_page(pages, j, &slot);
        plan->kernels.load(hattn_element(&p->v_cache, v_cache, page, slot, kv_head), p->v_cache.dtype, p->head_dim_v, 1,
                           row);
        for (int i = 0; i < p->head_dim_v; i++)
            sums[i] += hattn_fixed_value(row[i]);
    }
}

void hattn_cpu_mean_value(const hattn_cpu_plan *plan, const hattn_cpu_attention *a, int64_t kv_head, char *scratch,
                          float *mean)
{
    const hattn_problem *p = &plan->base.problem;
    const hattn_cpu_tail *tail = &a->tail;
    const hattn_value_state state = hattn_find_values(p, tail->value_slots, tail->value_sums, tail->value_lengths,
                                                      (int32_t)a->pages.sequence, kv_head);
    int64_t *sums = (int64_t *)(void *)(scratch + plan->scratch.sums);
    int32_t begin = *state.length;
    if (begin > 0 && begin <= tail->length)
        memcpy(sums, state.sums, (size_t)p->head_dim_v * sizeof(*sums));
    else
        memset(sums, begin = 0, (size_t)p->head_dim_v * sizeof(*sums));
    add_values(plan, &a->pages, a->v_cache, kv_head, begin, tail->length, mean, sums);
    const float scale = hattn_kv_scale(p, a->v_scale, kv_head);
    for (int i = 0; i < p->head_dim_v; i++)
        mean[i] = hattn_mean_value(sums[i], tail->length) * scale;
}

void hattn_cpu_sum_values_units(hattn_crew *crew, const hattn_sum_values_args *args)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    float *row = (float *)(hattn_crew_scratch(crew, crew->rank) + plan->scratch.merged);
    const int64_t units = (int64_t)args->batch.num_sequences * p->num_kv_heads;
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_VALUES, units, &unit)) {
        const int32_t sequence = (int32_t)(unit / p->num_kv_heads);
        const int64_t kv_head = unit % p->num_kv_heads;
        const int32_t end = hattn_values_end(p, &args->batch, sequence);
        if (end < 0)
            continue;
        const hattn_value_state state =
            hattn_find_values(p, args->value_slots, args->value_sums, args->value_lengths, sequence, kv_head);
        int32_t begin = *state.length;
        if (begin <= 0 || begin > end)
            memset(state.sums, begin = 0, (size_t)p->head_dim_v * sizeof(*state.sums));
        const hattn_pages pages = hattn_sequence_pages(p, &args->batch, sequence);
        add_values(plan, &pages, args->v_cache, kv_head, begin, end, row, state.sums);
        *state.length = end;
    }
    hattn_crew_finish(crew, HATTN_STEP_VALUES, units);
}

static void sum_values_body(hattn_crew *crew, hattn_cpu_args run) { hattn_cpu_sum_values_units(crew, run.sum_values); }

hattn_status hattn_cpu_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                                  hattn_error *error)
{
    (void)error;
    const int64_t most = (int64_t)args->batch.num_sequences * plan->problem.num_kv_heads * plan->problem.max_length;
    return hattn_cpu_run(plan, exec, most, sum_values_body, (hattn_cpu_args){.sum_values = args});
}
