/* SPDX-License-Identifier: Apache-2.0
 * The default decode: the separate calls of the same table one after the other, their results in the workspace behind
 * the backend's own part. What a caller wants to see goes straight into the caller's buffers.
 */
#include "backends/backend.h"
#include "core/dtype.h"
#include "core/rows.h"
#include "core/workspace.h"

typedef struct composed {
    uint64_t weights, scores, indices, counts, steps, shares, rests, head_weights,
        head_steps; /* offsets behind the backend's own workspace */
    uint64_t size;
} composed;

/* Bytes from the first to past the last element of a [row, heads, last] tensor. */
static uint64_t span_of(const hattn_problem *problem, const hattn_tensor *tensor, int32_t heads, int64_t last)
{
    const int64_t elements = (problem->max_rows - 1) * tensor->stride[0] + (heads - 1) * tensor->stride[1] + last;
    return (uint64_t)(elements * hattn_dtype_size(tensor->dtype));
}

static uint64_t span(const hattn_problem *problem, const hattn_tensor *tensor, int64_t last)
{
    return span_of(problem, tensor, problem->num_selection_heads, last);
}

static composed layout(const hattn_problem *problem)
{
    composed c = {0};
    c.weights = hattn_carve(&c.size, span(problem, &problem->weights, problem->code_bits));
    c.scores = hattn_carve(&c.size, span(problem, &problem->scores, problem->max_length));
    c.indices = hattn_carve(&c.size, span(problem, &problem->indices, problem->k));
    c.counts = hattn_carve(&c.size, span(problem, &problem->counts, 1));
    if (hattn_has_shares(problem))
        c.steps = hattn_carve(&c.size, span(problem, &problem->steps, 1));
    const int32_t of_shares = hattn_heads_of_shares(problem);
    if (problem->tail > 0) {
        c.shares = hattn_carve(&c.size, span_of(problem, &problem->shares, of_shares, problem->k));
        c.rests = hattn_carve(&c.size, span_of(problem, &problem->rests, of_shares, 1));
    }
    if (problem->num_candidates) {
        c.head_weights =
            hattn_carve(&c.size, span_of(problem, &problem->head_weights, problem->num_q_heads, problem->code_bits));
        c.head_steps = hattn_carve(&c.size, span_of(problem, &problem->head_steps, problem->num_q_heads, 1));
    }
    return c;
}

uint64_t hattn_compose_workspace_size(const hattn_problem *problem) { return layout(problem).size; }

/* The caller's buffer, or what the workspace has instead; null where the problem has no such tensor. */
static hattn_buffer choose(hattn_buffer callers, hattn_buffer space, uint64_t offset, bool is_needed)
{
    if (callers.data || !is_needed)
        return callers;
    return (hattn_buffer){space.data, space.byte_offset + offset};
}

/* The step's own keys, and, with a tail, the values of those before them. */
static hattn_status append(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                           hattn_error *error)
{
    const hattn_status status = plan->backend->append(plan, args, exec, error);
    if (status || plan->problem.tail == 0)
        return status;
    const hattn_sum_values_args sums = {.struct_size = sizeof(sums),
                                        .batch = args->batch,
                                        .v_cache = args->v_cache,
                                        .value_slots = args->value_slots,
                                        .value_sums = args->value_sums,
                                        .value_lengths = args->value_lengths};
    return plan->backend->sum_values(plan, &sums, exec, error);
}

hattn_status hattn_compose_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                                  hattn_error *error)
{
    const hattn_backend *backend = plan->backend;
    const composed c = layout(&plan->problem);
    const bool has_tail = plan->problem.tail > 0, by_heads = plan->problem.num_candidates > 0;
    hattn_buffer space = exec->workspace;
    space.byte_offset += plan->backend_workspace_size;
    const hattn_buffer weights = choose(args->weights, space, c.weights, true),
                       scores = choose((hattn_buffer){0}, space, c.scores, true),
                       indices = choose(args->indices, space, c.indices, true),
                       counts = choose(args->counts, space, c.counts, true),
                       steps = choose(args->steps, space, c.steps, hattn_has_shares(&plan->problem)),
                       shares = choose((hattn_buffer){0}, space, c.shares, has_tail),
                       rests = choose((hattn_buffer){0}, space, c.rests, has_tail),
                       head_weights = choose(args->head_weights, space, c.head_weights, by_heads),
                       head_steps = choose(args->head_steps, space, c.head_steps, by_heads);

    hattn_status status;
    if (args->append && (status = append(plan, args, exec, error)))
        return status;
    const hattn_encode_queries_args encode = {.struct_size = sizeof(encode),
                                              .num_rows = args->batch.num_rows,
                                              .q = args->q,
                                              .query_map = args->query_map,
                                              .weights = weights,
                                              .slopes = args->slopes,
                                              .steps = steps,
                                              .head_slopes = args->head_slopes,
                                              .head_weights = head_weights,
                                              .head_steps = head_steps};
    if ((status = backend->encode_queries(plan, &encode, exec, error)))
        return status;
    const hattn_score_args score = {.struct_size = sizeof(score),
                                    .batch = args->batch,
                                    .weights = weights,
                                    .codes = args->codes,
                                    .norms = args->norms,
                                    .scores = scores};
    if ((status = backend->score(plan, &score, exec, error)))
        return status;
    const hattn_topk_args topk = {.struct_size = sizeof(topk),
                                  .batch = args->batch,
                                  .scores = scores,
                                  .budgets = args->budgets,
                                  .indices = indices,
                                  .counts = counts,
                                  .steps = steps,
                                  .shares = shares,
                                  .rests = rests,
                                  .codes = by_heads ? args->codes : (hattn_buffer){0},
                                  .head_weights = head_weights,
                                  .head_steps = head_steps};
    if ((status = backend->topk(plan, &topk, exec, error)))
        return status;
    const hattn_attend_args attend = {.struct_size = sizeof(attend),
                                      .batch = args->batch,
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
                                      .value_slots = args->value_slots};
    return backend->attend(plan, &attend, exec, error);
}
