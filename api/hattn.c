/* SPDX-License-Identifier: Apache-2.0
 * Public entry points: O(1) checks of arguments, then one call through the backend's table.
 */
#include "api/hattn.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/validate.h"
#include "backends/backend.h"
#include "core/dtype.h"
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
#define CHECK_STRUCT(pointer)                                                                                          \
    do {                                                                                                               \
        INVALID_IF(!(pointer), #pointer " is null");                                                                   \
        INVALID_IF((pointer)->struct_size != sizeof(*(pointer)), #pointer ".struct_size is %u: this library's is %zu", \
                   (pointer)->struct_size, sizeof(*(pointer)));                                                        \
    } while (0)

int hattn_version(void) { return HATTN_VERSION_MAJOR * 10000 + HATTN_VERSION_MINOR * 100 + HATTN_VERSION_PATCH; }

/* ---- Backends and devices ---- */

int hattn_backend_count(void) { return hattn_num_backend_rows; }

hattn_status hattn_backend_query(int index, hattn_backend_info *info, hattn_error *error)
{
    CHECK_STRUCT(info);
    INVALID_IF(index < 0 || index >= hattn_num_backend_rows, "backend %d: there are %d", index, hattn_num_backend_rows);
    const hattn_backend_row *row = &hattn_backend_rows[index];
    *info = (hattn_backend_info){.struct_size = sizeof(*info), .built = row->backend != NULL};
    strncpy(info->name, row->name, sizeof(info->name) - 1);
    if (row->backend)
        info->num_devices = row->backend->device_count(info->text, sizeof(info->text));
    else
        strncpy(info->text, "not built into this library", sizeof(info->text) - 1);
    return HATTN_OK;
}

static const hattn_backend_row *find_row(const char *name)
{
    for (int i = 0; i < hattn_num_backend_rows; i++)
        if (!strcmp(hattn_backend_rows[i].name, name))
            return &hattn_backend_rows[i];
    return NULL;
}

hattn_status hattn_device_open(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    const hattn_device_options defaults = {.struct_size = sizeof(defaults)};
    if (!options)
        options = &defaults;
    CHECK_STRUCT(options);
    INVALID_IF(!device, "device is null");
    INVALID_IF(options->reserved, "options.reserved must be 0");
    INVALID_IF(options->max_threads < 0, "options.max_threads is %d: it must be 0 or more", options->max_threads);
    INVALID_IF(options->index < 0, "options.index is %d: it must be 0 or more", options->index);

    const char *name = options->backend;
    if (!name && getenv("HATTN_BACKEND") && *getenv("HATTN_BACKEND"))
        name = getenv("HATTN_BACKEND");
    char why[256] = "";
    const hattn_backend_row *row = NULL;
    if (name) {
        row = find_row(name);
        INVALID_IF(!row, "no backend is called '%s'", name);
        if (!row->backend)
            return hattn_fail(error, HATTN_NO_DEVICE, "%s: not built into this library", row->name);
    } else {
        /* The last row, the reference, always has a device. */
        for (row = hattn_backend_rows; !row->backend || !row->backend->device_count(why, sizeof(why)); row++)
            continue;
    }
    int count = row->backend->device_count(why, sizeof(why));
    if (!count)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: %s", row->name, why);
    if (options->index >= count)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: no device %d, there are %d", row->name, options->index, count);
    return row->backend->open(options, device, error);
}

void hattn_device_close(hattn_device *device)
{
    if (device)
        device->backend->close(device);
}

hattn_status hattn_device_query(const hattn_device *device, hattn_device_info *info, hattn_error *error)
{
    CHECK_STRUCT(info);
    INVALID_IF(!device, "device is null");
    *info = device->info;
    info->struct_size = sizeof(*info);
    return HATTN_OK;
}

const char *hattn_device_log(const hattn_device *device) { return device && device->log ? device->log : ""; }

/* ---- Plan ---- */

hattn_status hattn_plan_create(hattn_device *device, const hattn_problem *problem, hattn_plan **plan,
                               hattn_error *error)
{
    INVALID_IF(!device, "device is null");
    INVALID_IF(!problem, "problem is null");
    INVALID_IF(!plan, "plan is null");
    RETURN_IF_FAILED(hattn_validate_problem(problem, error));
    hattn_plan *made;
    RETURN_IF_FAILED(device->backend->plan(device, problem, &made, error));
    made->backend = device->backend;
    made->device = device;
    made->problem = *problem;
    made->backend_workspace_size = made->workspace_size;
    made->is_composed = made->is_composed || !device->backend->decode;
    if (made->is_composed)
        made->workspace_size += hattn_compose_workspace_size(problem);
    *plan = made;
    return HATTN_OK;
}

void hattn_plan_destroy(hattn_plan *plan)
{
    if (plan)
        plan->backend->plan_destroy(plan);
}

uint64_t hattn_plan_workspace_size(const hattn_plan *plan) { return plan ? plan->workspace_size : 0; }

/* ---- Checks of a run ---- */

static bool misaligned(hattn_buffer buffer, uint64_t alignment)
{
    return ((uintptr_t)buffer.data + buffer.byte_offset) % alignment;
}

static hattn_status check_optional(const hattn_plan *plan, const char *name, hattn_buffer buffer, int64_t element,
                                   hattn_error *error)
{
    uint64_t alignment =
        (uint64_t)element > plan->backend->pointer_alignment ? (uint64_t)element : plan->backend->pointer_alignment;
    INVALID_IF(buffer.data && misaligned(buffer, alignment), "%s is not aligned to %llu bytes", name,
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

static hattn_status check_exec(const hattn_plan *plan, const hattn_exec *exec, hattn_error *error)
{
    INVALID_IF(!plan, "plan is null");
    CHECK_STRUCT(exec);
    INVALID_IF(exec->num_threads < 0, "exec.num_threads is %d: it must be 0 or more", exec->num_threads);
    INVALID_IF(!exec->workspace.data, "exec.workspace is null");
    INVALID_IF(misaligned(exec->workspace, 256), "exec.workspace is not aligned to 256 bytes");
    if (exec->workspace_size < plan->workspace_size)
        return hattn_fail(error, HATTN_WORKSPACE_TOO_SMALL, "exec.workspace_size is %llu: the plan needs %llu",
                          (unsigned long long)exec->workspace_size, (unsigned long long)plan->workspace_size);
    const hattn_team *team = exec->team;
    INVALID_IF(team &&
                   (team->size < 1 || team->rank < 0 || team->rank >= team->size || (team->size > 1 && !team->barrier)),
               "exec.team: size %d, rank %d, barrier %s", team->size, team->rank, team->barrier ? "set" : "null");
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

/* ---- Runs ---- */

hattn_status hattn_workspace_init(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                  hattn_error *error)
{
    INVALID_IF(!device, "device is null");
    INVALID_IF(!workspace.data, "workspace is null");
    INVALID_IF(misaligned(workspace, 256), "workspace is not aligned to 256 bytes");
    INVALID_IF(!size, "size is 0");
    return device->backend->workspace_init(device, workspace, size, stream, error);
}

hattn_status hattn_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    RETURN_IF_FAILED(check_exec(plan, exec, error));
    CHECK_STRUCT(args);
    INVALID_IF(args->num_tokens < 0, "num_tokens is %d: it must be 0 or more", args->num_tokens);
    RETURN_IF_FAILED(check_norms(plan, args->norms, error));
    if (!args->num_tokens)
        return HATTN_OK;
    CHECK_BUFFER(k_new, hattn_dtype_size(plan->problem.k_new.dtype));
    RETURN_IF_FAILED(check_kv_scale(plan, "k_scale", args->k_scale, error));
    RETURN_IF_FAILED(check_map(plan, false, &args->key_map, error));
    CHECK_OPTIONAL(slot_mapping, 8);
    CHECK_BUFFER(codes, 4);
    return plan->backend->encode_keys(plan, args, exec, error);
}

hattn_status hattn_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args, const hattn_exec *exec,
                                  hattn_error *error)
{
    RETURN_IF_FAILED(check_exec(plan, exec, error));
    CHECK_STRUCT(args);
    RETURN_IF_FAILED(check_rows(plan, args->num_rows, error));
    if (!args->num_rows)
        return HATTN_OK;
    CHECK_BUFFER(q, hattn_dtype_size(plan->problem.q.dtype));
    RETURN_IF_FAILED(check_map(plan, true, &args->query_map, error));
    CHECK_BUFFER(weights, 1);
    return plan->backend->encode_queries(plan, args, exec, error);
}

hattn_status hattn_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                         hattn_error *error)
{
    RETURN_IF_FAILED(check_exec(plan, exec, error));
    CHECK_STRUCT(args);
    RETURN_IF_FAILED(check_batch(plan, &args->batch, true, error));
    RETURN_IF_FAILED(check_norms(plan, args->norms, error));
    if (!args->batch.num_rows)
        return HATTN_OK;
    CHECK_BUFFER(weights, 1);
    CHECK_BUFFER(codes, 4);
    CHECK_BUFFER(scores, hattn_dtype_size(plan->problem.scores.dtype));
    return plan->backend->score(plan, args, exec, error);
}

hattn_status hattn_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec, hattn_error *error)
{
    RETURN_IF_FAILED(check_exec(plan, exec, error));
    CHECK_STRUCT(args);
    RETURN_IF_FAILED(check_batch(plan, &args->batch, false, error));
    if (!args->batch.num_rows)
        return HATTN_OK;
    CHECK_BUFFER(scores, hattn_dtype_size(plan->problem.scores.dtype));
    CHECK_OPTIONAL(budgets, 4);
    CHECK_BUFFER(indices, 4);
    CHECK_BUFFER(counts, 4);
    return plan->backend->topk(plan, args, exec, error);
}

hattn_status hattn_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                          hattn_error *error)
{
    RETURN_IF_FAILED(check_exec(plan, exec, error));
    CHECK_STRUCT(args);
    RETURN_IF_FAILED(check_batch(plan, &args->batch, true, error));
    INVALID_IF(!args->indices.data != !args->counts.data, "indices and counts go together: one is null");
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
    return plan->backend->attend(plan, args, exec, error);
}

hattn_status hattn_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                         hattn_error *error)
{
    RETURN_IF_FAILED(check_exec(plan, exec, error));
    CHECK_STRUCT(args);
    INVALID_IF(args->num_parts < 1, "num_parts is %d: it must be at least 1", args->num_parts);
    RETURN_IF_FAILED(check_rows(plan, args->num_rows, error));
    if (!args->num_rows)
        return HATTN_OK;
    CHECK_BUFFER(partial_out, 4);
    CHECK_BUFFER(partial_lse, 4);
    CHECK_BUFFER(out, hattn_dtype_size(plan->problem.out.dtype));
    CHECK_OPTIONAL(lse, 4);
    return plan->backend->merge(plan, args, exec, error);
}

hattn_status hattn_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                          hattn_error *error)
{
    RETURN_IF_FAILED(check_exec(plan, exec, error));
    CHECK_STRUCT(args);
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
    return (plan->is_composed ? hattn_compose_decode : plan->backend->decode)(plan, args, exec, error);
}
