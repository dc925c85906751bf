/* SPDX-License-Identifier: Apache-2.0
 * Devices, plans, and launches with the right device current, of whichever vendor's kernels.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "backends/cuda/cuda.h"
#include "backends/known_answer.h"
#include "core/rows.h"
#include "core/status.h"

typedef struct cuda_device {
    hattn_device base;
    const hattn_cuda_kernels *kernels;
    int32_t index;
    hattn_cuda_properties properties;
    void *scratch_stream; /* while it is opened */
} cuda_device;

typedef struct cuda_plan {
    hattn_plan base;
    hattn_cuda_params params;
} cuda_plan;

int hattn_cuda_count(const hattn_cuda_kernels *kernels, char *why, size_t size)
{
    int count;
    const int code = kernels->device_count(&count);
    if (code)
        snprintf(why, size, "%s", kernels->error_text(code));
    else if (!count)
        snprintf(why, size, "the driver reports no device");
    return count;
}

static hattn_status from_code(const hattn_device *device, int code, hattn_error *error)
{
    return code ? hattn_fail(error, HATTN_DEVICE_ERROR, "%s: %s", device->backend->name,
                             ((const cuda_device *)device)->kernels->error_text(code))
                : HATTN_OK;
}

/* ---- What the known answer lies in ---- */

/* One call of hattn_cuda_scratch with the device current. */
#define ON_SCRATCH(call)                                       \
    do {                                                       \
        const cuda_device *cuda = (const cuda_device *)device; \
        void *stream = cuda->scratch_stream;                   \
        hattn_cuda_caller caller;                              \
        int code = cuda->kernels->enter(cuda->index, &caller); \
        if (!code) {                                           \
            code = cuda->kernels->scratch->call;               \
            cuda->kernels->leave(&caller);                     \
        }                                                      \
        return from_code(device, code, error);                 \
    } while (0)

static hattn_status allocate(hattn_device *device, uint64_t size, hattn_buffer *buffer, hattn_error *error)
{
    ON_SCRATCH(allocate(size, stream, &buffer->data));
}

static void release(hattn_device *device, hattn_buffer buffer)
{
    const cuda_device *cuda = (const cuda_device *)device;
    hattn_cuda_caller caller;
    if (cuda->kernels->enter(cuda->index, &caller))
        return;
    cuda->kernels->scratch->release(buffer.data, cuda->scratch_stream);
    cuda->kernels->leave(&caller);
}

static hattn_status write_buffer(hattn_device *device, hattn_buffer to, const void *from, uint64_t size,
                                 hattn_error *error)
{
    ON_SCRATCH(copy(hattn_address(to), from, size, stream));
}

static hattn_status read_buffer(hattn_device *device, void *to, hattn_buffer from, uint64_t size, hattn_error *error)
{
    ON_SCRATCH(copy(to, hattn_address(from), size, stream));
}

/* For the known answer. Devices without memory pools (shared ones, under some virtual machines) are not asked. */
static hattn_status ask(cuda_device *cuda, hattn_error *error)
{
    enum { NOT_SUPPORTED = 801 };
    const hattn_cuda_scratch *scratch = cuda->kernels->scratch;
    hattn_cuda_caller caller;
    int code = cuda->kernels->enter(cuda->index, &caller), tried = 0;
    if (!code) {
        code = scratch->open(&cuda->scratch_stream);
        if (!code) {
            void *address;
            tried = scratch->allocate(256, cuda->scratch_stream, &address);
            if (tried)
                scratch->close(cuda->scratch_stream);
            else
                scratch->release(address, cuda->scratch_stream);
        }
        cuda->kernels->leave(&caller);
    }
    if (code || tried)
        return tried == NOT_SUPPORTED ? HATTN_OK : from_code(&cuda->base, code ? code : tried, error);
    const hattn_known_memory memory = {.allocate = allocate,
                                       .release = release,
                                       .write = write_buffer,
                                       .read = read_buffer,
                                       .stream = cuda->scratch_stream};
    const hattn_status status = hattn_known_answer(&cuda->base, &memory, error);
    if (!cuda->kernels->enter(cuda->index, &caller)) {
        scratch->close(cuda->scratch_stream);
        cuda->kernels->leave(&caller);
    }
    cuda->scratch_stream = NULL;
    return status;
}

hattn_status hattn_cuda_open(const hattn_cuda_kernels *kernels, const hattn_backend *backend,
                             const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    const char *name = backend->name;
    if (options->isa)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT, "%s: options.isa is '%s', only the cpu backend has a choice",
                          name, options->isa);
    hattn_cuda_properties properties;
    const int code = kernels->get_properties(options->index, &properties);
    if (code)
        return hattn_fail(error, HATTN_DEVICE_ERROR, "%s: %s", name, kernels->error_text(code));
    if (!properties.has_kernels)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: %s is %s, the kernels need %s", name, properties.name,
                          properties.isa, kernels->targets);
    cuda_device *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "%s: no memory for a device", name);
    made->kernels = kernels;
    made->index = options->index;
    made->properties = properties;
    made->base.backend = backend;
    snprintf(made->base.info.backend, sizeof(made->base.info.backend), "%s", name);
    snprintf(made->base.info.name, sizeof(made->base.info.name), "%s", properties.name);
    snprintf(made->base.info.isa, sizeof(made->base.info.isa), "%s%s", properties.isa,
             properties.is_checked ? " checked" : "");
    const hattn_status status = kernels->scratch ? ask(made, error) : HATTN_OK;
    if (status) {
        free(made);
        return status;
    }
    *device = &made->base;
    return HATTN_OK;
}

void hattn_cuda_close(hattn_device *device) { free(device); }

hattn_status hattn_cuda_plan(hattn_device *device, const hattn_problem *problem, hattn_plan **plan, hattn_error *error)
{
    cuda_plan *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "%s: no memory for a plan", device->backend->name);
    const cuda_device *cuda = (const cuda_device *)device;
    hattn_cuda_choose(&cuda->properties, problem, &made->params);
    hattn_status status = hattn_cuda_check(device->backend->name, &cuda->properties, &made->params, error);
    hattn_cuda_caller caller;
    if (!status && !(status = from_code(device, cuda->kernels->enter(cuda->index, &caller), error))) {
        status = from_code(device, cuda->kernels->load(&made->params), error);
        cuda->kernels->leave(&caller);
    }
    if (status) {
        free(made);
        return status;
    }
    made->base.workspace_size = made->params.workspace_size;
    made->base.is_composed = !made->params.by_regions;
    made->base.rescored_offset = made->params.by_regions ? offsetof(hattn_cuda_head, rescored) : 0;
    *plan = &made->base;
    return HATTN_OK;
}

void hattn_cuda_plan_destroy(hattn_plan *plan) { free(plan); }

hattn_status hattn_cuda_workspace_init(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                       hattn_error *error)
{
    const uint64_t control = sizeof(hattn_cuda_control), counter = offsetof(hattn_cuda_head, rescored);
    hattn_cuda_caller caller;
    const cuda_device *cuda = (const cuda_device *)device;
    int code = cuda->kernels->enter(cuda->index, &caller);
    if (!code) {
        char *address = hattn_address(workspace);
        code = cuda->kernels->zero(address, control < size ? control : size, stream);
        if (!code && size >= sizeof(hattn_cuda_head))
            code = cuda->kernels->zero(address + counter, sizeof(uint64_t), stream);
        cuda->kernels->leave(&caller);
    }
    return from_code(device, code, error);
}

/* One call with the plan's device current, and the caller's again afterwards. */
#define ON_DEVICE(call)                                                       \
    do {                                                                      \
        const hattn_cuda_params *params = &((const cuda_plan *)plan)->params; \
        const cuda_device *cuda = (const cuda_device *)plan->device;          \
        hattn_cuda_caller caller;                                             \
        int code = cuda->kernels->enter(cuda->index, &caller);                \
        if (!code) {                                                          \
            code = cuda->kernels->call;                                       \
            cuda->kernels->leave(&caller);                                    \
        }                                                                     \
        return from_code(plan->device, code, error);                          \
    } while (0)

hattn_status hattn_cuda_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                                    hattn_error *error)
{
    ON_DEVICE(encode_keys(params, args, exec->stream));
}

hattn_status hattn_cuda_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                       const hattn_exec *exec, hattn_error *error)
{
    ON_DEVICE(encode_queries(params, args, exec->stream));
}

hattn_status hattn_cuda_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                              hattn_error *error)
{
    ON_DEVICE(score(params, args, exec->stream));
}

hattn_status hattn_cuda_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                             hattn_error *error)
{
    ON_DEVICE(topk(params, args, exec->workspace, exec->stream));
}

hattn_status hattn_cuda_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    ON_DEVICE(attend(params, args, exec->workspace, exec->stream));
}

hattn_status hattn_cuda_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                              hattn_error *error)
{
    ON_DEVICE(merge(params, args, exec->stream));
}

hattn_status hattn_cuda_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                                   hattn_error *error)
{
    ON_DEVICE(sum_values(params, args, exec->workspace, exec->stream));
}

hattn_status hattn_cuda_append(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    ON_DEVICE(append(params, args, exec->stream));
}

hattn_status hattn_cuda_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    ON_DEVICE(decode(params, args, exec->workspace, exec->stream));
}
