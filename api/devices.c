/* SPDX-License-Identifier: Apache-2.0
 * Public entry points for backends, devices and plans.
 */
#include <stdlib.h>
#include <string.h>

#include "api/hattn.h"
#include "api/structs.h"
#include "api/validate.h"
#include "backends/backend.h"
#include "backends/host_control.h"
#include "core/status.h"

#define INVALID_IF(condition, ...)                                         \
    do {                                                                   \
        if (condition)                                                     \
            return hattn_fail(error, HATTN_INVALID_ARGUMENT, __VA_ARGS__); \
    } while (0)

int hattn_version(void) { return HATTN_VERSION_MAJOR * 10000 + HATTN_VERSION_MINOR * 100 + HATTN_VERSION_PATCH; }

/* ---- Backends and devices ---- */

int hattn_backend_count(void) { return hattn_num_backends; }

hattn_status hattn_backend_query(int index, hattn_backend_info *info, hattn_error *error)
{
    INVALID_IF(index < 0 || index >= hattn_num_backends, "backend %d: there are %d", index, hattn_num_backends);
    const hattn_backend *backend = hattn_backends[index];
    hattn_backend_info made = {.built = backend->open != NULL};
    strncpy(made.name, backend->name, sizeof(made.name) - 1);
    made.num_devices = backend->device_count(made.text, sizeof(made.text));
    return HATTN_GIVE(info, made);
}

static const hattn_backend *find_backend(const char *name)
{
    for (int i = 0; i < hattn_num_backends; i++)
        if (!strcmp(hattn_backends[i]->name, name))
            return hattn_backends[i];
    return NULL;
}

/* For callers who name none. */
static const hattn_backend *choose_backend(void)
{
    char why[256];
    const hattn_backend *const *backend = hattn_backends; /* the last one, the reference, always has a device */
    while (((*backend)->is_default && !(*backend)->is_default()) || !(*backend)->device_count(why, sizeof(why)))
        backend++;
    return *backend;
}

static hattn_status check_options(const hattn_device_options *options, const hattn_backend *backend, hattn_error *error)
{
    INVALID_IF(options->reserved, "options.reserved must be 0");
    INVALID_IF(options->index < 0, "options.index is %d: it must be 0 or more", options->index);
    INVALID_IF(options->max_threads < 0 || options->max_threads > HATTN_MAX_THREADS,
               "options.max_threads is %d: it must be 0 (the processors of the process) or 1..%d", options->max_threads,
               HATTN_MAX_THREADS);
    INVALID_IF(!backend->has_handles && (options->native_context || options->native_device),
               "options.native_%s is set: %s takes none, only opencl does",
               options->native_context ? "context" : "device", backend->name);
    return HATTN_OK;
}

hattn_status hattn_device_open(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    hattn_device_options ours = {.struct_size = sizeof(ours)};
    hattn_status status = options ? HATTN_TAKE(ours, options) : HATTN_OK;
    if (status)
        return status;
    INVALID_IF(!device, "device is null");
    const char *name = ours.backend;
    if (!name && getenv("HATTN_BACKEND") && *getenv("HATTN_BACKEND"))
        name = getenv("HATTN_BACKEND");
    const hattn_backend *backend = name ? find_backend(name) : choose_backend();
    INVALID_IF(!backend, "no backend is called '%s'", name);
    char why[256] = "";
    const int count = backend->device_count(why, sizeof(why));
    if (!backend->open)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: %s", backend->name, why);
    if ((status = check_options(&ours, backend, error)))
        return status;
    if (!count)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: %s", backend->name, why);
    if (ours.index >= count)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: no device %d, there are %d", backend->name, ours.index, count);
    return backend->open(&ours, device, error);
}

void hattn_device_close(hattn_device *device)
{
    if (device)
        device->backend->close(device);
}

hattn_status hattn_device_query(const hattn_device *device, hattn_device_info *info, hattn_error *error)
{
    INVALID_IF(!device, "device is null");
    return HATTN_GIVE(info, device->info);
}

/* ---- Plan ---- */

hattn_status hattn_plan_create(hattn_device *device, const hattn_problem *problem, hattn_plan **plan,
                               hattn_error *error)
{
    INVALID_IF(!device, "device is null");
    INVALID_IF(!plan, "plan is null");
    hattn_problem ours;
    hattn_status status = HATTN_TAKE(ours, problem);
    if (status)
        return status;
    hattn_complete_problem(&ours);
    hattn_resolve_broadcasts(&ours);
    hattn_plan *made;
    if ((status = hattn_validate_problem(&ours, error)) ||
        (status = device->backend->plan(device, &ours, &made, error)))
        return status;
    made->backend = device->backend;
    made->device = device;
    made->problem = ours;
    made->backend_workspace_size = made->workspace_size;
    made->is_composed = made->is_composed || !device->backend->decode;
    if (made->is_composed)
        made->workspace_size += hattn_compose_workspace_size(&ours);
    *plan = made;
    return HATTN_OK;
}

void hattn_plan_destroy(hattn_plan *plan)
{
    if (plan)
        plan->backend->plan_destroy(plan);
}

uint64_t hattn_plan_workspace_size(const hattn_plan *plan) { return plan ? plan->workspace_size : 0; }

hattn_status hattn_plan_counter(const hattn_plan *plan, hattn_counter counter, uint64_t *byte_offset,
                                hattn_error *error)
{
    INVALID_IF(!plan, "plan is null");
    INVALID_IF(!byte_offset, "byte_offset is null");
    if (counter != HATTN_COUNTER_RESCORED)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT, "counter is %d: there is no such counter", (int)counter);
    if (!plan->rescored_offset)
        return hattn_fail(error, HATTN_UNSUPPORTED, "%s: this plan's runs do not count what they score again",
                          plan->backend->name);
    *byte_offset = plan->rescored_offset;
    return HATTN_OK;
}
