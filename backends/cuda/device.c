/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend's table: devices, plans, and launches with the right device current.
 */
#include <stdio.h>
#include <stdlib.h>

#include "backends/cuda/cuda.h"
#include "core/rows.h"
#include "core/status.h"

typedef struct cuda_device {
    hattn_device base;
    int32_t index;
    hattn_cuda_properties properties;
} cuda_device;

typedef struct cuda_plan {
    hattn_plan base;
    hattn_cuda_params params;
} cuda_plan;

static int device_count(char *why, size_t size)
{
    int count;
    const int code = hattn_cuda_device_count(&count);
    if (code)
        snprintf(why, size, "%s", hattn_cuda_error_text(code));
    else if (!count)
        snprintf(why, size, "the driver reports no device");
    return count;
}

static hattn_status open_device(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    if (options->isa)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT, "cuda: options.isa is '%s', only the cpu backend has a choice",
                          options->isa);
    hattn_cuda_properties properties;
    const int code = hattn_cuda_get_properties(options->index, &properties);
    if (code)
        return hattn_fail(error, HATTN_DEVICE_ERROR, "cuda: %s", hattn_cuda_error_text(code));
    if (properties.major < 8)
        return hattn_fail(error, HATTN_NO_DEVICE, "cuda: %s is sm_%d%d, the kernels need sm_80 or later",
                          properties.name, properties.major, properties.minor);
    cuda_device *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "cuda: no memory for a device");
    made->index = options->index;
    made->properties = properties;
    made->base.backend = &hattn_cuda_backend;
    snprintf(made->base.info.backend, sizeof(made->base.info.backend), "cuda");
    snprintf(made->base.info.name, sizeof(made->base.info.name), "%s", properties.name);
    snprintf(made->base.info.isa, sizeof(made->base.info.isa), "sm_%d%d", properties.major, properties.minor);
    *device = &made->base;
    return HATTN_OK;
}

static void close_device(hattn_device *device) { free(device); }

static hattn_status from_code(int code, hattn_error *error)
{
    return code ? hattn_fail(error, HATTN_DEVICE_ERROR, "cuda: %s", hattn_cuda_error_text(code)) : HATTN_OK;
}

static hattn_status make_plan(hattn_device *device, const hattn_problem *problem, hattn_plan **plan, hattn_error *error)
{
    cuda_plan *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "cuda: no memory for a plan");
    const cuda_device *cuda = (const cuda_device *)device;
    hattn_cuda_choose(&cuda->properties, problem, &made->params);
    hattn_status status = hattn_cuda_check(&made->params, error);
    int previous;
    if (!status && !(status = from_code(hattn_cuda_enter(cuda->index, &previous), error))) {
        status = from_code(hattn_cuda_load(&made->params), error);
        hattn_cuda_leave(previous);
    }
    if (status) {
        free(made);
        return status;
    }
    made->base.workspace_size = made->params.workspace_size;
    made->base.is_composed = !made->params.by_regions;
    *plan = &made->base;
    return HATTN_OK;
}

static void destroy_plan(hattn_plan *plan) { free(plan); }

static hattn_status init_workspace(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                   hattn_error *error)
{
    const uint64_t control = sizeof(hattn_cuda_control);
    int previous, code = hattn_cuda_enter(((const cuda_device *)device)->index, &previous);
    if (!code) {
        code = hattn_cuda_zero(hattn_address(workspace), control < size ? control : size, stream);
        hattn_cuda_leave(previous);
    }
    return from_code(code, error);
}

/* One call with the plan's device current, and the caller's again afterwards. */
#define ON_DEVICE(call)                                                                               \
    do {                                                                                              \
        const hattn_cuda_params *params = &((const cuda_plan *)plan)->params;                         \
        int previous, code = hattn_cuda_enter(((const cuda_device *)plan->device)->index, &previous); \
        if (!code) {                                                                                  \
            code = (call);                                                                            \
            hattn_cuda_leave(previous);                                                               \
        }                                                                                             \
        return from_code(code, error);                                                                \
    } while (0)

static hattn_status encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                                hattn_error *error)
{
    ON_DEVICE(hattn_cuda_encode_keys(params, args, exec->stream));
}

static hattn_status encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                   const hattn_exec *exec, hattn_error *error)
{
    ON_DEVICE(hattn_cuda_encode_queries(params, args, exec->stream));
}

static hattn_status score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                          hattn_error *error)
{
    ON_DEVICE(hattn_cuda_score(params, args, exec->stream));
}

static hattn_status topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                         hattn_error *error)
{
    ON_DEVICE(hattn_cuda_topk(params, args, exec->workspace, exec->stream));
}

static hattn_status attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                           hattn_error *error)
{
    ON_DEVICE(hattn_cuda_attend(params, args, exec->workspace, exec->stream));
}

static hattn_status merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                          hattn_error *error)
{
    ON_DEVICE(hattn_cuda_merge(params, args, exec->stream));
}

static hattn_status append(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                           hattn_error *error)
{
    ON_DEVICE(hattn_cuda_append(params, args, exec->stream));
}

static hattn_status decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                           hattn_error *error)
{
    ON_DEVICE(hattn_cuda_decode(params, args, exec->workspace, exec->stream));
}

const hattn_backend hattn_cuda_backend = {
    .name = "cuda",
    .pointer_alignment = 16,
    .device_count = device_count,
    .open = open_device,
    .close = close_device,
    .plan = make_plan,
    .plan_destroy = destroy_plan,
    .workspace_init = init_workspace,
    .encode_keys = encode_keys,
    .encode_queries = encode_queries,
    .score = score,
    .topk = topk,
    .attend = attend,
    .merge = merge,
    .decode = decode,
    .append = append,
};
