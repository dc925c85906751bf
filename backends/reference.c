/* SPDX-License-Identifier: Apache-2.0
 * The reference as a backend: one thread, host memory, no workspace of its own.
 */
#include "reference/reference.h"

#include <stdio.h>
#include <stdlib.h>

#include "backends/backend.h"
#include "backends/host_control.h"
#include "core/status.h"

static int device_count(char *why, size_t size)
{
    (void)why;
    (void)size;
    return 1;
}

static hattn_status open_device(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    if (options->isa)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT, "reference: options.isa is '%s', it has none", options->isa);
    hattn_device *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "reference: no memory for a device");
    made->backend = &hattn_reference_backend;
    made->info.max_threads = 1;
    snprintf(made->info.backend, sizeof(made->info.backend), "reference");
    snprintf(made->info.name, sizeof(made->info.name), "scalar C, sums in double");
    snprintf(made->info.isa, sizeof(made->info.isa), "double");
    *device = made;
    return HATTN_OK;
}

static void close_device(hattn_device *device) { free(device); }

static hattn_status make_plan(hattn_device *device, const hattn_problem *problem, hattn_plan **plan, hattn_error *error)
{
    (void)device;
    (void)problem;
    hattn_plan *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "reference: no memory for a plan");
    made->workspace_size = hattn_host_control_size();
    *plan = made;
    return HATTN_OK;
}

static void destroy_plan(hattn_plan *plan) { free(plan); }

static hattn_status init_workspace(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                   hattn_error *error)
{
    (void)device;
    (void)stream;
    (void)error;
    hattn_host_control_init(workspace, size);
    return HATTN_OK;
}

static hattn_status run_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                                    hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_encode_keys(&plan->problem, args);
    return HATTN_OK;
}

static hattn_status run_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                       const hattn_exec *exec, hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_encode_queries(&plan->problem, args);
    return HATTN_OK;
}

static hattn_status run_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                              hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_score(&plan->problem, args);
    return HATTN_OK;
}

static hattn_status run_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                             hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_topk(&plan->problem, args);
    return HATTN_OK;
}

static hattn_status run_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_attend(&plan->problem, args);
    return HATTN_OK;
}

static hattn_status run_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                              hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_merge(&plan->problem, args);
    return HATTN_OK;
}

static hattn_status run_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                                   hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_sum_values(&plan->problem, args);
    return HATTN_OK;
}

static hattn_status run_append(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                               hattn_error *error)
{
    (void)error;
    (void)exec;
    hattn_reference_append(&plan->problem, args);
    return HATTN_OK;
}

const hattn_backend hattn_reference_backend = {
    .name = "reference",
    .pointer_alignment = 1,
    .is_host = true,
    .device_count = device_count,
    .open = open_device,
    .close = close_device,
    .plan = make_plan,
    .plan_destroy = destroy_plan,
    .workspace_init = init_workspace,
    .encode_keys = run_encode_keys,
    .encode_queries = run_encode_queries,
    .score = run_score,
    .topk = run_topk,
    .attend = run_attend,
    .merge = run_merge,
    .sum_values = run_sum_values,
    .append = run_append,
};
