/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's table, and its device, which owns the helper threads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "backends/cpu/cpu.h"
#include "backends/cpu/processors.h"
#include "backends/host_control.h"
#include "core/status.h"
#include "kernels_cpu/cpu_features.h"

static int device_count(char *why, size_t size)
{
    (void)why;
    (void)size;
    return 1;
}

/* The processor's own name for itself, where there is an instruction for it. */
static void processor_name(char *name, size_t size)
{
    snprintf(name, size, "CPU");
#if defined(__x86_64__)
    unsigned brand[12] = {0};
    if (__get_cpuid_max(0x80000000u, NULL) < 0x80000004u)
        return;
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2], &brand[4 * i + 3]);
    snprintf(name, size, "%.48s", (const char *)brand);
#endif
}

static hattn_status open_device(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    char unknown[32];
    const unsigned there = hattn_cpu_isas(unknown, sizeof(unknown));
    if (!there)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT,
                          "cpu: HATTN_CPU_DISABLE has '%s', it knows " HATTN_CPU_ISA_NAMES, unknown);
    unsigned isas = there;
    if (options->isa) {
        if (!hattn_cpu_isas_up_to(~0u, options->isa))
            return hattn_fail(error, HATTN_INVALID_ARGUMENT, "cpu: no instruction set is called '%s'", options->isa);
        isas = hattn_cpu_isas_up_to(isas, options->isa);
        if (!isas)
            return hattn_fail(error, HATTN_NO_DEVICE, "cpu: no instruction set '%s' here; the best is %s", options->isa,
                              hattn_cpu_isa_name(there));
    }
    hattn_cpu_device *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "cpu: no memory for a device");
    const int wanted = options->max_threads ? options->max_threads : hattn_cpu_processors();
    const int threads = wanted < HATTN_MAX_THREADS ? wanted : HATTN_MAX_THREADS;
    if (threads > 1 && !(made->pool = hattn_pool_create(threads - 1))) {
        free(made);
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "cpu: no memory for %d threads", threads);
    }
    made->isas = isas;
    made->base.backend = &hattn_cpu_backend;
    made->base.info.max_threads = 1 + (made->pool ? hattn_pool_num_helpers(made->pool) : 0);
    snprintf(made->base.info.backend, sizeof(made->base.info.backend), "cpu");
    snprintf(made->base.info.isa, sizeof(made->base.info.isa), "%s", hattn_cpu_isa_name(isas));
    processor_name(made->base.info.name, sizeof(made->base.info.name));
    *device = &made->base;
    return HATTN_OK;
}

static void close_device(hattn_device *device)
{
    hattn_pool_destroy(((hattn_cpu_device *)device)->pool);
    free(device);
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

const hattn_backend hattn_cpu_backend = {
    .name = "cpu",
    .pointer_alignment = 1,
    .is_host = true,
    .shares_runs = true,
    .device_count = device_count,
    .open = open_device,
    .close = close_device,
    .plan = hattn_cpu_make_plan,
    .plan_destroy = destroy_plan,
    .workspace_init = init_workspace,
    .encode_keys = hattn_cpu_encode_keys,
    .encode_queries = hattn_cpu_encode_queries,
    .score = hattn_cpu_score,
    .topk = hattn_cpu_topk,
    .attend = hattn_cpu_attend,
    .merge = hattn_cpu_merge,
    .sum_values = hattn_cpu_sum_values,
    .decode = hattn_cpu_decode,
};
