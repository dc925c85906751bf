/* SPDX-License-Identifier: Apache-2.0
 * The default decode: the separate calls of the same table one after the other, their results in the workspace behind
 * the backend's own part. What a caller wants to see goes straight into the caller's buffers.
 */
#include "backends/backend.h"
#include "core/dtype.h"
#include "core/workspace.h"

typedef struct composed {
    uint64_t weights, scores, indices, counts, steps; /* offsets behind the backend's own workspace */
    uint64_t size;
} composed;

/* Bytes from the first to past the last element of a [row, Hs, last] tensor. */
static uint64_t span(const hattn_problem *problem, const hattn_tensor *tensor, int64_t last)
{
    int64_t elements =
        (problem->max_rows - 1) * tensor->stride[0] + (problem->num_selection_heads - 1) * tensor->stride[1] + last;
    return (uint64_t)(elements * hattn_dtype_size(tensor->dtype));
}

static composed layout(const hattn_problem *problem)
{
    composed c = {0};
    c.weights = hattn_carve(&c.size, span(problem, &problem->weights, problem->code_bits));
    c.scores = hattn_carve(&c.size, span(problem, &problem->scores, problem->max_length));
    c.indices = hattn_carve(&c.size, span(problem, &problem->indices, problem->k));
    c.counts = hattn_carve(&c.size, span(problem, &problem->counts, 1));
    if (problem->min_probability > 0)
        c.steps = hattn_carve(&c.size, span(problem, &problem->steps, 1));
    return c;
}

uint64_t hattn_compose_workspace_size(const hattn_problem *problem) { return layout(problem).size; }

hattn_status hattn_compose_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                                  hattn_error *error)
{
    const hattn_backend *backend = plan->backend;
    const composed c = layout(&plan->problem);
    hattn_buffer space = exec->workspace;
    space.byte_offset += plan->backend_workspace_size;
    const hattn_buffer weights =
        args->weights.data ? args->weights : (hattn_buffer){space.data, space.byte_offset + c.weights};
    const hattn_buffer scores = {space.data, space.byte_offset + c.scores};
    const hattn_buffer indices =
        args->indices.data ? args->indices : (hattn_buffer){space.data, space.byte_offset + c.indices};
    const hattn_buffer counts =
        args->counts.data ? args->counts : (hattn_buffer){space.data, space.byte_offset + c.counts};
    hattn_buffer steps = args->steps;
    if (plan->problem.min_probability > 0 && !steps.data)
        steps = (hattn_buffer){space.data, space.byte_offset + c.steps};

    hattn_status status;
    if (args->append && (status = backend->append(plan, args, exec, error)))
        return status;
    const hattn_encode_queries_args encode = {.struct_size = sizeof(encode),
                                              .num_rows = args->batch.num_rows,
                                              .q = args->q,
                                              .query_map = args->query_map,
                                              .weights = weights,
                                              .slopes = args->slopes,
                                              .steps = steps};
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
                                  .steps = steps};
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
                                      .lse = args->lse};
    return backend->attend(plan, &attend, exec, error);
}
