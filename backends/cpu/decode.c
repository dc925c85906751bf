/* SPDX-License-Identifier: Apache-2.0
 * Decode: whole tasks (a row and selection head from query to output, all of it warm in one core) while there are enough
 * of them for the threads; else step by step, the threads sharing the keys of a step.
 */
#include "backends/cpu/cpu.h"

/* What a step knows of one task. */
typedef struct task {
    int64_t row, head;
    hattn_row resolved;
    int32_t budget; /* the most that it keeps */
    char *scratch;  /* its weights, scores, selection, parts */
} task;

static task make_task(const hattn_crew *crew, const hattn_decode_args *args, int64_t index, char *scratch)
{
    const hattn_problem *p = &crew->plan->base.problem;
    task t = {.row = index / p->num_selection_heads, .head = index % p->num_selection_heads, .scratch = scratch};
    t.resolved = hattn_resolve_row(p, &args->batch, (int32_t)t.row);
    t.budget = hattn_kept(p, args->budgets, &t.resolved, t.head);
    return t;
}

static bool needs_scores(const hattn_problem *p, const task *t)
{
    return hattn_cpu_is_ranked(p, t->resolved.length, t->budget);
}

static hattn_cpu_task_state *state_of(const hattn_crew *crew, const task *t)
{
    return (hattn_cpu_task_state *)(void *)(t->scratch + crew->plan->scratch.state);
}

/* After the group's weights, of the same projections. */
static void encode_heads(const hattn_crew *crew, const hattn_decode_args *args, const task *t, char *scratch)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    int32_t *steps = (int32_t *)(void *)(t->scratch + plan->scratch.head_steps);
    for (int i = 0; i < plan->group; i++) {
        const int64_t head = t->head * plan->group + i;
        int8_t *weights = (int8_t *)(t->scratch + plan->scratch.head_weights) + (int64_t)i * p->code_bits;
        if (args->head_weights.data)
            weights = (int8_t *)hattn_element(&p->head_weights, args->head_weights, t->row, head, 0);
        steps[i] = hattn_cpu_encode_head(crew, scratch, args->head_slopes, head, i, weights);
        if (args->head_steps.data)
            *(int32_t *)(void *)hattn_element(&p->head_steps, args->head_steps, t->row, head, 0) = steps[i];
        plan->kernels.split(weights, p->code_bits,
                            (hattn_planes *)(void *)(t->scratch + plan->scratch.head_planes) + i);
    }
}

static void encode(const hattn_crew *crew, const hattn_decode_args *args, const task *t, char *scratch)
{
    const hattn_problem *p = &crew->plan->base.problem;
    int8_t *weights = (int8_t *)(t->scratch + crew->plan->scratch.weights);
    if (args->weights.data)
        weights = (int8_t *)hattn_element(&p->weights, args->weights, t->row, t->head, 0);
    else if (!args->steps.data && !args->head_weights.data && !args->head_steps.data && !needs_scores(p, t))
        return;
    const int32_t step =
        hattn_cpu_encode_queries_unit(crew, scratch, args->q, &args->query_map, args->slopes, t->row, t->head, weights);
    state_of(crew, t)->step = step;
    if (args->steps.data)
        *(int32_t *)(void *)hattn_element(&p->steps, args->steps, t->row, t->head, 0) = step;
    crew->plan->kernels.split(weights, p->code_bits, (hattn_planes *)(void *)(t->scratch + crew->plan->scratch.planes));
    if (p->num_candidates)
        encode_heads(crew, args, t, scratch);
}

/* Scores of `count` middle positions from `first` on; position num_sink is element 0 of the scratch's scores. */
static void score(const hattn_crew *crew, const hattn_decode_args *args, const task *t, int32_t first, int32_t count)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const hattn_cpu_keys keys = {args->codes, args->norms, hattn_sequence_pages(p, &args->batch, t->resolved.sequence),
                                 t->head * p->num_code_heads / p->num_selection_heads};
    hattn_cpu_score_unit(crew, (const hattn_planes *)(void *)(t->scratch + crew->plan->scratch.planes), &keys,
                         p->num_sink + first, count, (uint16_t *)(t->scratch + crew->plan->scratch.scores) + first,
                         (float *)(t->scratch + crew->plan->scratch.keys) + first);
}

static int32_t num_middle(const hattn_problem *p, const task *t)
{
    return t->resolved.length - p->num_sink - p->num_recent;
}

static void select_tokens(const hattn_crew *crew, const hattn_decode_args *args, const task *t)
{
    const hattn_problem *p = &crew->plan->base.problem;
    const hattn_cpu_scratch *at = &crew->plan->scratch;
    int32_t *indices = (int32_t *)(t->scratch + at->indices);
    const hattn_planes *planes = (const hattn_planes *)(void *)(t->scratch + at->planes);
    hattn_cpu_heads heads = {
        .keys = {args->codes, args->norms, {0}, t->head * p->num_code_heads / p->num_selection_heads},
        .planes = (const hattn_planes *)(const void *)(t->scratch + at->head_planes),
        .steps = (const int32_t *)(const void *)(t->scratch + at->head_steps)};
    if (t->resolved.length)
        heads.keys.pages = hattn_sequence_pages(p, &args->batch, t->resolved.sequence);
    hattn_cpu_scores scores = {.step = state_of(crew, t)->step, .heads = &heads};
    if (p->key_norms)
        scores.keys = (const float *)(t->scratch + at->keys);
    else
        scores.scores = (const uint16_t *)(t->scratch + at->scores);
    if (needs_scores(p, t))
        scores.max_score = planes->max_score;
    const int32_t kept = hattn_cpu_select_unit(crew, t->scratch, t->resolved.length, t->budget, &scores, indices,
                                               (uint32_t *)(void *)(t->scratch + at->shares),
                                               (hattn_cpu_rest *)(void *)(t->scratch + at->rests));
    state_of(crew, t)->kept = kept;
    hattn_cpu_store_selection(p, args->indices, args->counts, t->row, t->head, indices, kept);
}

static hattn_cpu_attention attention(const hattn_crew *crew, const hattn_decode_args *args, const task *t)
{
    const hattn_cpu_plan *plan = crew->plan;
    hattn_cpu_attention a = {
        .q = args->q,
        .k_cache = args->k_cache,
        .v_cache = args->v_cache,
        .k_scale = args->k_scale,
        .v_scale = args->v_scale,
        .sink_logits = args->sink_logits,
        .out = args->out,
        .lse = args->lse,
        .row = t->row,
        .first_head = t->head * plan->group,
        .group = plan->group,
        .indices = (const int32_t *)(t->scratch + plan->scratch.indices),
        .count = state_of(crew, t)->kept,
        .part_size = plan->part_size,
        .page_shift = plan->page_shift,
    };
    if (t->resolved.length)
        a.pages = hattn_sequence_pages(&plan->base.problem, &args->batch, t->resolved.sequence);
    if (plan->base.problem.tail > 0 && t->resolved.length)
        a.tail = (hattn_cpu_tail){.shares = (const uint32_t *)(const void *)(t->scratch + plan->scratch.shares),
                                  .stride_shares = plan->num_told > 1 ? plan->stride_shares : 0,
                                  .rests = (const hattn_cpu_rest *)(const void *)(t->scratch + plan->scratch.rests),
                                  .value_sums = args->value_sums,
                                  .value_lengths = args->value_lengths,
                                  .value_slots = args->value_slots,
                                  .length = t->resolved.length};
    return a;
}

static void whole_tasks(hattn_crew *crew, const hattn_decode_args *args, int64_t num_tasks)
{
    char *scratch = hattn_crew_scratch(crew, crew->rank);
    const hattn_problem *p = &crew->plan->base.problem;
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_ENCODE, num_tasks, &unit)) {
        const task t = make_task(crew, args, unit, scratch);
        encode(crew, args, &t, scratch);
        if (needs_scores(p, &t))
            score(crew, args, &t, 0, num_middle(p, &t));
        select_tokens(crew, args, &t);
        const hattn_cpu_attention a = attention(crew, args, &t);
        hattn_cpu_attend_whole(crew, scratch, &a);
    }
}

/* Fewer tasks than threads: task i lives in the scratch of rank i, every step's units go to whoever is free. */
static void shared_tasks(hattn_crew *crew, const hattn_decode_args *args, int64_t num_tasks)
{
    const hattn_problem *p = &crew->plan->base.problem;
    char *scratch = hattn_crew_scratch(crew, crew->rank);
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_ENCODE, num_tasks, &unit)) {
        const task t = make_task(crew, args, unit, hattn_crew_scratch(crew, unit));
        encode(crew, args, &t, scratch);
    }
    hattn_crew_finish(crew, HATTN_STEP_ENCODE, num_tasks);
    const int64_t chunks = ((int64_t)p->max_length + HATTN_SCORE_CHUNK - 1) / HATTN_SCORE_CHUNK;
    while (hattn_crew_take(crew, HATTN_STEP_SCORE, num_tasks * chunks, &unit)) {
        const task t = make_task(crew, args, unit / chunks, hattn_crew_scratch(crew, unit / chunks));
        const int32_t first = (int32_t)(unit % chunks * HATTN_SCORE_CHUNK), left = num_middle(p, &t) - first;
        if (needs_scores(p, &t) && left > 0)
            score(crew, args, &t, first, left < HATTN_SCORE_CHUNK ? left : HATTN_SCORE_CHUNK);
    }
    hattn_crew_finish(crew, HATTN_STEP_SCORE, num_tasks * chunks);
    while (hattn_crew_take(crew, HATTN_STEP_SELECT, num_tasks, &unit)) {
        const task t = make_task(crew, args, unit, hattn_crew_scratch(crew, unit));
        select_tokens(crew, args, &t);
    }
    hattn_crew_finish(crew, HATTN_STEP_SELECT, num_tasks);
    const int64_t parts = crew->plan->max_parts;
    while (hattn_crew_take(crew, HATTN_STEP_ATTEND, num_tasks * parts, &unit)) {
        const task t = make_task(crew, args, unit / parts, hattn_crew_scratch(crew, unit / parts));
        const hattn_cpu_attention a = attention(crew, args, &t);
        hattn_cpu_attend_shared(crew, scratch, unit / parts, &a, (int)(unit % parts));
    }
    if (p->min_value_weight == 0)
        return;
    hattn_crew_finish(crew, HATTN_STEP_ATTEND, num_tasks * parts);
    while (hattn_crew_take(crew, HATTN_STEP_READ, num_tasks * parts, &unit)) {
        const task t = make_task(crew, args, unit / parts, hattn_crew_scratch(crew, unit / parts));
        const hattn_cpu_attention a = attention(crew, args, &t);
        hattn_cpu_read_shared(crew, scratch, unit / parts, &a, (int)(unit % parts));
    }
}

static void decode_body(hattn_crew *crew, hattn_cpu_args run)
{
    const hattn_decode_args *args = run.decode;
    if (args->append)
        hattn_cpu_append(crew, args);
    const int64_t num_tasks = (int64_t)args->batch.num_rows * crew->plan->base.problem.num_selection_heads;
    if (hattn_crew_shares_tasks(crew, num_tasks))
        shared_tasks(crew, args, num_tasks);
    else
        whole_tasks(crew, args, num_tasks);
}

hattn_status hattn_cpu_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                              hattn_error *error)
{
    (void)error;
    return hattn_cpu_run(plan, exec, hattn_cpu_most_keys(plan, &args->batch), decode_body,
                         (hattn_cpu_args){.decode = args});
}
