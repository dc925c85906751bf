/* SPDX-License-Identifier: Apache-2.0
 * The refusals of runs, each with words of its own.
 */
#include "api/checks.h"

#include "core/dtype.h"
#include "core/rows.h"
#include "core/status.h"

#define INVALID_IF(condition, ...)                                         \
    do {                                                                   \
        if (condition)                                                     \
            return hattn_fail(error, HATTN_INVALID_ARGUMENT, __VA_ARGS__); \
    } while (0)
#define RETURN_IF_FAILED(call)         \
    do {                               \
        hattn_status status_ = (call); \
        if (status_)                   \
            return status_;            \
    } while (0)

static bool misaligned(const hattn_backend *backend, hattn_buffer buffer, uint64_t alignment)
{
    return (backend->has_handles ? buffer.byte_offset : (uintptr_t)buffer.data + buffer.byte_offset) % alignment;
}

static hattn_status check_optional(const hattn_plan *plan, const char *name, hattn_buffer buffer, int64_t element,
                                   hattn_error *error)
{
    uint64_t alignment =
        (uint64_t)element > plan->backend->pointer_alignment ? (uint64_t)element : plan->backend->pointer_alignment;
    INVALID_IF(buffer.data && misaligned(plan->backend, buffer, alignment), "%s is not aligned to %llu bytes", name,
               (unsigned long long)alignment);
    return HATTN_OK;
}

static hattn_status check_buffer(const hattn_plan *plan, const char *name, hattn_buffer buffer, int64_t element,
                                 hattn_error *error)
{
    INVALID_IF(!buffer.data, "%s is null", name);
    return check_optional(plan, name, buffer, element, error);
}

#define CHECK_BUFFER(name, element) RETURN_IF_FAILED(check_buffer(plan, #name, args->name, element, error))
#define CHECK_OPTIONAL(name, element) RETURN_IF_FAILED(check_optional(plan, #name, args->name, element, error))

bool hattn_team_is_sound(const hattn_team *team)
{
    return team->size >= 1 && team->rank >= 0 && team->rank < team->size && (team->size == 1 || team->barrier);
}

hattn_status hattn_check_exec(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    INVALID_IF(!plan, "plan is null");
    INVALID_IF(exec->num_threads < 0, "exec.num_threads is %d: it must be 0 or more", exec->num_threads);
    INVALID_IF(!exec->workspace.data, "exec.workspace is null");
    INVALID_IF(misaligned(plan->backend, exec->workspace, 256), "exec.workspace is not aligned to 256 bytes");
    if (exec->workspace_size < plan->workspace_size)
        return hattn_fail(error, HATTN_WORKSPACE_TOO_SMALL, "exec.workspace_size is %llu: the plan needs %llu",
                          (unsigned long long)exec->workspace_size, (unsigned long long)plan->workspace_size);
    const hattn_team *team = exec->team;
    INVALID_IF(team && !hattn_team_is_sound(team), "exec.team: size %d, rank %d, barrier %s", team->size, team->rank,
               team->barrier ? "set" : "null");
    INVALID_IF(team && !plan->backend->is_host, "exec.team is set: %s takes none", plan->backend->name);
    return HATTN_OK;
}

static hattn_status check_rows(const hattn_plan *plan, int32_t num_rows, hattn_error *error)
{
    INVALID_IF(num_rows < 0 || num_rows > plan->problem.max_rows, "num_rows is %d: it must be 0..max_rows (%d)",
               num_rows, plan->problem.max_rows);
    return HATTN_OK;
}

static hattn_status check_batch(const hattn_plan *plan, const hattn_batch *batch, bool needs_pages, hattn_error *error)
{
    const hattn_problem *p = &plan->problem;
    INVALID_IF(batch->reserved, "batch.reserved must be 0");
    INVALID_IF(batch->num_sequences < 0 || batch->num_sequences > p->max_sequences,
               "batch.num_sequences is %d: it must be 0..max_sequences (%d)", batch->num_sequences, p->max_sequences);
    RETURN_IF_FAILED(check_rows(plan, batch->num_rows, error));
    if (!batch->q_start.data) {
        INVALID_IF(batch->q_len < 0 || batch->q_len > p->max_q_len, "batch.q_len is %d: it must be 0..max_q_len (%d)",
                   batch->q_len, p->max_q_len);
        INVALID_IF(batch->num_rows != (int64_t)batch->num_sequences * batch->q_len,
                   "batch.num_rows is %d: without q_start it is num_sequences * q_len", batch->num_rows);
    }
    if (!batch->num_rows)
        return HATTN_OK;
    RETURN_IF_FAILED(check_optional(plan, "batch.q_start", batch->q_start, 4, error));
    RETURN_IF_FAILED(check_buffer(plan, "batch.seq_len", batch->seq_len, 4, error));
    if (p->page_size && needs_pages)
        RETURN_IF_FAILED(check_buffer(plan, "batch.block_table", batch->block_table, 4, error));
    return HATTN_OK;
}

static hattn_status check_map(const hattn_plan *plan, bool query, const hattn_map_buffers *map, hattn_error *error)
{
    bool mlp = plan->problem.map_kind == HATTN_MAP_MLP;
    const char *weight = query ? "query_map.weight" : "key_map.weight",
               *bias = query ? "query_map.bias" : "key_map.bias";
    int64_t element = hattn_dtype_size(query ? plan->problem.query_map.dtype : plan->problem.key_map.dtype);
    INVALID_IF(!mlp && query && map->bias[0].data, "query_map.bias is set: linear queries have none");
    for (int layer = 0; layer < (mlp ? 3 : 1); layer++) {
        RETURN_IF_FAILED(check_buffer(plan, weight, map->weight[layer], element, error));
        RETURN_IF_FAILED((mlp ? check_buffer : check_optional)(plan, bias, map->bias[layer], element, error));
    }
    return HATTN_OK;
}

static hattn_status check_norms(const hattn_plan *plan, hattn_buffer norms, hattn_error *error)
{
    INVALID_IF(!plan->problem.key_norms && norms.data, "norms is set: the problem has no key_norms");
    return plan->problem.key_norms ? check_buffer(plan, "norms", norms, 2, error) : HATTN_OK;
}

static hattn_status check_kv_scale(const hattn_plan *plan, const char *name, hattn_buffer scale, hattn_error *error)
{
    INVALID_IF(scale.data && plan->problem.k_cache.dtype != HATTN_F8_E4M3, "%s is set: only fp8 caches have scales",
               name);
    return check_optional(plan, name, scale, 4, error);
}

/* A buffer that floors and tails need and nothing else has. */
static hattn_status check_floor(const hattn_plan *plan, const char *name, hattn_buffer buffer, hattn_error *error)
{
    const bool is_read = hattn_has_shares(&plan->problem);
    INVALID_IF(!is_read && buffer.data, "%s is set: the problem has no min_probability and no tail", name);
    return is_read ? check_buffer(plan, name, buffer, 4, error) : HATTN_OK;
}

/* A buffer that tails need, `wanted` by this call. */
static hattn_status check_tail(const hattn_plan *plan, bool wanted, const char *name, hattn_buffer buffer,
                               int64_t element, hattn_error *error)
{
    INVALID_IF(plan->problem.tail == 0 && buffer.data, "%s is set: the problem has no tail", name);
    INVALID_IF(!wanted && buffer.data, "%s is set: this call is without a tail", name);
    return wanted ? check_buffer(plan, name, buffer, element, error) : HATTN_OK;
}

/* A buffer that scores per query head need and nothing else has. */
static hattn_status check_heads(const hattn_plan *plan, const char *name, hattn_buffer buffer, int64_t element,
                                hattn_error *error)
{
    const bool is_wanted = plan->problem.num_candidates > 0;
    INVALID_IF(!is_wanted && buffer.data, "%s is set: the problem has no num_candidates", name);
    return is_wanted ? check_buffer(plan, name, buffer, element, error) : HATTN_OK;
}

#define CHECK_HEADS(name, element) RETURN_IF_FAILED(check_heads(plan, #name, args->name, element, error))

#define CHECK_TAIL(wanted, name, element) RETURN_IF_FAILED(check_tail(plan, wanted, #name, args->name, element, error))

#define CHECK_VALUE_SUMS(wanted)                                        \
    do {                                                                \
        CHECK_TAIL(wanted, value_sums, 8);                              \
        CHECK_TAIL(wanted, value_lengths, 4);                           \
        CHECK_TAIL((wanted) && args->value_slots.data, value_slots, 4); \
    } while (0)

hattn_status hattn_check_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, hattn_error *error)
{
    INVALID_IF(args->num_tokens < 0, "num_tokens is %d: it must be 0 or more", args->num_tokens);
    RETURN_IF_FAILED(check_norms(plan, args->norms, error));
    if (!args->num_tokens)
        return HATTN_OK;
    CHECK_BUFFER(k_new, hattn_dtype_size(plan->problem.k_new.dtype));
    RETURN_IF_FAILED(check_kv_scale(plan, "k_scale", args->k_scale, error));
    RETURN_IF_FAILED(check_map(plan, false, &args->key_map, error));
    CHECK_OPTIONAL(slot_mapping, 8);
    CHECK_BUFFER(codes, 4);
    return HATTN_OK;
}

hattn_status hattn_check_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                        hattn_error *error)
{
    RETURN_IF_FAILED(check_rows(plan, args->num_rows, error));
    if (!args->num_rows)
        return HATTN_OK;
    CHECK_BUFFER(q, hattn_dtype_size(plan->problem.q.dtype));
    RETURN_IF_FAILED(check_map(plan, true, &args->query_map, error));
    CHECK_BUFFER(weights, 1);
    CHECK_HEADS(head_slopes, 4);
    CHECK_HEADS(head_weights, 1);
    CHECK_HEADS(head_steps, 4);
    RETURN_IF_FAILED(check_floor(plan, "slopes", args->slopes, error));
    return check_floor(plan, "steps", args->steps, error);
}

hattn_status hattn_check_score(const hattn_plan *plan, const hattn_score_args *args, hattn_error *error)
{
    INVALID_IF(args->reserved, "args.reserved must be 0");
    RETURN_IF_FAILED(check_batch(plan, &args->batch, true, error));
    RETURN_IF_FAILED(check_norms(plan, args->norms, error));
    if (!args->batch.num_rows)
        return HATTN_OK;
    CHECK_BUFFER(weights, 1);
    CHECK_BUFFER(codes, 4);
    CHECK_BUFFER(scores, hattn_dtype_size(plan->problem.scores.dtype));
    return HATTN_OK;
}

hattn_status hattn_check_topk(const hattn_plan *plan, const hattn_topk_args *args, hattn_error *error)
{
    INVALID_IF(args->reserved, "args.reserved must be 0");
    RETURN_IF_FAILED(check_batch(plan, &args->batch, plan->problem.num_candidates > 0, error));
    if (!args->batch.num_rows)
        return HATTN_OK;
    CHECK_HEADS(codes, 4);
    CHECK_HEADS(head_weights, 1);
    CHECK_HEADS(head_steps, 4);
    CHECK_BUFFER(scores, hattn_dtype_size(plan->problem.scores.dtype));
    CHECK_OPTIONAL(budgets, 4);
    CHECK_BUFFER(indices, 4);
    CHECK_BUFFER(counts, 4);
    CHECK_TAIL(plan->problem.tail > 0, shares, 4);
    CHECK_TAIL(plan->problem.tail > 0, rests, 8);
    return check_floor(plan, "steps", args->steps, error);
}

hattn_status hattn_check_attend(const hattn_plan *plan, const hattn_attend_args *args, hattn_error *error)
{
    INVALID_IF(args->reserved, "args.reserved must be 0");
    RETURN_IF_FAILED(check_batch(plan, &args->batch, true, error));
    INVALID_IF(!args->indices.data != !args->counts.data, "indices and counts go together: one is null");
    INVALID_IF(args->shares.data && !args->indices.data, "shares is set: without indices there is no tail");
    if (!args->batch.num_rows)
        return HATTN_OK;
    CHECK_BUFFER(q, hattn_dtype_size(plan->problem.q.dtype));
    CHECK_BUFFER(k_cache, hattn_dtype_size(plan->problem.k_cache.dtype));
    CHECK_BUFFER(v_cache, hattn_dtype_size(plan->problem.v_cache.dtype));
    RETURN_IF_FAILED(check_kv_scale(plan, "k_scale", args->k_scale, error));
    RETURN_IF_FAILED(check_kv_scale(plan, "v_scale", args->v_scale, error));
    CHECK_OPTIONAL(sink_logits, 4);
    CHECK_OPTIONAL(indices, 4);
    CHECK_OPTIONAL(counts, 4);
    CHECK_BUFFER(out, hattn_dtype_size(plan->problem.out.dtype));
    CHECK_OPTIONAL(lse, 4);
    const bool has_tail = args->shares.data || args->rests.data;
    CHECK_TAIL(has_tail, shares, 4);
    CHECK_TAIL(has_tail, rests, 8);
    CHECK_VALUE_SUMS(has_tail);
    return HATTN_OK;
}

hattn_status hattn_check_merge(const hattn_plan *plan, const hattn_merge_args *args, hattn_error *error)
{
    INVALID_IF(args->reserved, "args.reserved must be 0");
    INVALID_IF(args->num_parts < 1, "num_parts is %d: it must be at least 1", args->num_parts);
    RETURN_IF_FAILED(check_rows(plan, args->num_rows, error));
    if (!args->num_rows)
        return HATTN_OK;
    CHECK_BUFFER(partial_out, 4);
    CHECK_BUFFER(partial_lse, 4);
    CHECK_BUFFER(out, hattn_dtype_size(plan->problem.out.dtype));
    CHECK_OPTIONAL(lse, 4);
    return HATTN_OK;
}

hattn_status hattn_check_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, hattn_error *error)
{
    INVALID_IF(args->reserved, "args.reserved must be 0");
    INVALID_IF(plan->problem.tail == 0, "hattn_sum_values: the problem has no tail");
    RETURN_IF_FAILED(check_batch(plan, &args->batch, true, error));
    if (!args->batch.num_rows)
        return HATTN_OK;
    CHECK_BUFFER(v_cache, hattn_dtype_size(plan->problem.v_cache.dtype));
    CHECK_VALUE_SUMS(true);
    return HATTN_OK;
}

hattn_status hattn_check_decode(const hattn_plan *plan, const hattn_decode_args *args, hattn_error *error)
{
    INVALID_IF(args->append != 0 && args->append != 1, "append is %d: it must be 0 or 1", args->append);
    RETURN_IF_FAILED(check_batch(plan, &args->batch, true, error));
    RETURN_IF_FAILED(check_norms(plan, args->norms, error));
    if (!args->batch.num_rows)
        return HATTN_OK;
    CHECK_BUFFER(q, hattn_dtype_size(plan->problem.q.dtype));
    CHECK_BUFFER(k_cache, hattn_dtype_size(plan->problem.k_cache.dtype));
    CHECK_BUFFER(v_cache, hattn_dtype_size(plan->problem.v_cache.dtype));
    CHECK_BUFFER(codes, 4);
    RETURN_IF_FAILED(check_kv_scale(plan, "k_scale", args->k_scale, error));
    RETURN_IF_FAILED(check_kv_scale(plan, "v_scale", args->v_scale, error));
    CHECK_OPTIONAL(sink_logits, 4);
    CHECK_OPTIONAL(budgets, 4);
    if (args->append)
        RETURN_IF_FAILED(check_map(plan, false, &args->key_map, error));
    RETURN_IF_FAILED(check_map(plan, true, &args->query_map, error));
    CHECK_BUFFER(out, hattn_dtype_size(plan->problem.out.dtype));
    CHECK_OPTIONAL(lse, 4);
    CHECK_OPTIONAL(weights, 1);
    CHECK_OPTIONAL(indices, 4);
    CHECK_OPTIONAL(counts, 4);
    CHECK_VALUE_SUMS(plan->problem.tail > 0);
    CHECK_HEADS(head_slopes, 4);
    if (args->head_weights.data)
        CHECK_HEADS(head_weights, 1);
    if (args->head_steps.data)
        CHECK_HEADS(head_steps, 4);
    RETURN_IF_FAILED(check_floor(plan, "slopes", args->slopes, error));
    return args->steps.data ? check_floor(plan, "steps", args->steps, error) : HATTN_OK;
}

hattn_status hattn_check_workspace(const hattn_device *device, hattn_buffer workspace, uint64_t size,
                                   hattn_error *error)
{
    INVALID_IF(!device, "device is null");
    INVALID_IF(!workspace.data, "workspace is null");
    INVALID_IF(misaligned(device->backend, workspace, 256), "workspace is not aligned to 256 bytes");
    INVALID_IF(!size, "size is 0");
    return HATTN_OK;
}
