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

int hattn_backend_count(void) { return hattn_num_backend_rows; }

hattn_status hattn_backend_query(int index, hattn_backend_info *info, hattn_error *error)
{
    INVALID_IF(index < 0 || index >= hattn_num_backend_rows, "backend %d: there are %d", index, hattn_num_backend_rows);
    const hattn_backend_row *row = &hattn_backend_rows[index];
    hattn_backend_info made = {.built = row->backend != NULL};
    strncpy(made.name, row->name, sizeof(made.name) - 1);
    if (row->backend)
        made.num_devices = row->backend->device_count(made.text, sizeof(made.text));
    else
        strncpy(made.text, "not built into this library", sizeof(made.text) - 1);
    return HATTN_GIVE(info, made);
}

static const hattn_backend_row *find_row(const char *name)
{
    for (int i = 0; i < hattn_num_backend_rows; i++)
        if (!strcmp(hattn_backend_rows[i].name, name))
            return &hattn_backend_rows[i];
    return NULL;
}

/* For callers who name none. */
static bool is_chosen(const hattn_backend *backend)
{
    char why[256];
    return backend && (!backend->is_default || backend->is_default()) && backend->device_count(why, sizeof(why));
}

static hattn_status check_options(const hattn_device_options *options, const hattn_backend_row *row, hattn_error *error)
{
    INVALID_IF(options->reserved, "options.reserved must be 0");
    INVALID_IF(options->index < 0, "options.index is %d: it must be 0 or more", options->index);
    INVALID_IF(options->max_threads < 0 || options->max_threads > HATTN_MAX_THREADS,
               "options.max_threads is %d: it must be 0 (the processors of the process) or 1..%d", options->max_threads,
               HATTN_MAX_THREADS);
    INVALID_IF(!row->backend->has_handles && (options->native_context || options->native_device),
               "options.native_%s is set: %s takes none, only opencl does",
               options->native_context ? "context" : "device", row->name);
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
    char why[256] = "";
    const hattn_backend_row *row = NULL;
    if (name) {
        row = find_row(name);
        INVALID_IF(!row, "no backend is called '%s'", name);
        if (!row->backend)
            return hattn_fail(error, HATTN_NO_DEVICE, "%s: not built into this library", row->name);
    } else {
        /* The last row, the reference, always has a device. */
        for (row = hattn_backend_rows; !is_chosen(row->backend); row++)
            continue;
    }
    if ((status = check_options(&ours, row, error)))
        return status;
    int count = row->backend->device_count(why, sizeof(why));
    if (!count)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: %s", row->name, why);
    if (ours.index >= count)
        return hattn_fail(error, HATTN_NO_DEVICE, "%s: no device %d, there are %d", row->name, ours.index, count);
    return row->backend->open(&ours, device, error);
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
