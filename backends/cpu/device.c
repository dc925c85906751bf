/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's table: device, plan (which lays out the workspace), and the control region.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "backends/cpu/cpu.h"
#include "core/status.h"
#include "core/workspace.h"
#include "kernels_cpu/cpu_features.h"

typedef struct cpu_device {
    hattn_device base;
    unsigned isas;
} cpu_device;

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
    unsigned isas = hattn_cpu_isas();
    if (options->isa) {
        if (!hattn_cpu_isas_up_to(~0u, options->isa))
            return hattn_fail(error, HATTN_INVALID_ARGUMENT, "cpu: no instruction set is called '%s'", options->isa);
        isas = hattn_cpu_isas_up_to(isas, options->isa);
        if (!isas)
            return hattn_fail(error, HATTN_NO_DEVICE, "cpu: no instruction set '%s' here; the best is %s", options->isa,
                              hattn_cpu_isa_name(hattn_cpu_isas()));
    }
    cpu_device *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "cpu: no memory for a device");
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    made->isas = isas;
    made->base.backend = &hattn_cpu_backend;
    made->base.info.max_threads = options->max_threads ? options->max_threads : online > 0 ? (int32_t)online : 1;
    snprintf(made->base.info.backend, sizeof(made->base.info.backend), "cpu");
    snprintf(made->base.info.isa, sizeof(made->base.info.isa), "%s", hattn_cpu_isa_name(isas));
    processor_name(made->base.info.name, sizeof(made->base.info.name));
    *device = &made->base;
    return HATTN_OK;
}

static void close_device(hattn_device *device) { free(device); }

static int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Splits depend on the problem alone: HATTN_PARTS parts of whole blocks, within the bounds of a part. */
static int part_size(int64_t count)
{
    const int64_t even = round_up((count + HATTN_PARTS - 1) / HATTN_PARTS, HATTN_ATTEND_BLOCK);
    return (int)smaller(larger(HATTN_MIN_PART, even), HATTN_MAX_PART);
}

static int64_t num_parts(int64_t count, int part) { return (count + part - 1) / part; }

static void lay_out_slot(const hattn_problem *p, const hattn_cpu_plan *plan, hattn_cpu_slot *slot)
{
    const uint64_t vectors = (uint64_t)larger(plan->group, HATTN_KEY_BLOCK), group = (uint64_t)plan->dense_group,
                   f32 = sizeof(float);
    const uint64_t length = (uint64_t)p->max_length, parts = (uint64_t)plan->max_parts + 1,
                   stride_acc = (uint64_t)plan->stride_acc;
    const uint64_t kept = (uint64_t)smaller(p->k, p->max_length);
    uint64_t used = 0;
    slot->x = hattn_carve(&used, vectors * (uint64_t)plan->stride_q * f32);
    slot->z = hattn_carve(&used, vectors * (uint64_t)p->code_bits * f32);
    for (int i = 0; i < 2; i++)
        slot->hidden[i] =
            hattn_carve(&used, vectors * (uint64_t)larger(p->key_map.hidden[i], p->query_map.hidden[i]) * f32);
    slot->weights = hattn_carve(&used, (uint64_t)p->code_bits);
    slot->planes = hattn_carve(&used, sizeof(hattn_planes));
    slot->scores = hattn_carve(&used, (length + HATTN_TOPK_SLACK) * sizeof(uint16_t));
    slot->keys = hattn_carve(&used, p->key_norms ? length * f32 : 0);
    slot->histogram = hattn_carve(&used, HATTN_TOPK_BINS * sizeof(uint32_t));
    slot->positions = hattn_carve(&used, (length + HATTN_TOPK_SLACK) * sizeof(int32_t));
    slot->candidates = hattn_carve(&used, (length + HATTN_TOPK_SLACK) * sizeof(uint32_t));
    slot->indices = hattn_carve(&used, (kept + HATTN_TOPK_SLACK) * sizeof(int32_t));
    slot->q = hattn_carve(&used, group * (uint64_t)plan->stride_q * f32);
    slot->logits = hattn_carve(&used, group * HATTN_ATTEND_BLOCK * f32);
    slot->max = hattn_carve(&used, group * f32);
    slot->sum = hattn_carve(&used, group * f32);
    slot->acc = hattn_carve(&used, group * stride_acc * f32);
    slot->part_out = hattn_carve(&used, parts * group * stride_acc * f32);
    slot->part_max = hattn_carve(&used, parts * group * f32);
    slot->part_sum = hattn_carve(&used, parts * group * f32);
    slot->merged = hattn_carve(&used, stride_acc * f32);
    slot->size = used;
}

static hattn_status make_plan(hattn_device *device, const hattn_problem *problem, hattn_plan **plan, hattn_error *error)
{
    hattn_cpu_plan *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "cpu: no memory for a plan");
    hattn_cpu_kernels_select(((const cpu_device *)device)->isas, &made->kernels);
    made->max_threads = device->info.max_threads;
    made->group = problem->num_q_heads / problem->num_selection_heads;
    made->dense_group = problem->num_q_heads / problem->num_kv_heads;
    const int64_t kept = smaller(problem->k, problem->max_length);
    made->part_size = part_size(kept);
    made->dense_part_size = part_size(problem->max_length);
    made->max_parts =
        (int)larger(num_parts(kept, made->part_size), num_parts(problem->max_length, made->dense_part_size));
    made->loads_first = hattn_cpu_loads_first();
    made->page_shift = -1;
    if (problem->page_size && !(problem->page_size & (problem->page_size - 1)))
        made->page_shift = __builtin_ctz((unsigned)problem->page_size);
    made->stride_q = round_up(problem->head_dim_qk, 16);
    made->stride_acc = round_up(problem->head_dim_v, 16);
    lay_out_slot(problem, made, &made->slot);
    made->slots = hattn_cpu_control_size(made->max_threads);
    made->base.workspace_size = made->slots + (uint64_t)made->max_threads * made->slot.size;
    *plan = &made->base;
    return HATTN_OK;
}

static void destroy_plan(hattn_plan *plan) { free(plan); }

static hattn_status init_workspace(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                   hattn_error *error)
{
    (void)stream;
    (void)error;
    const uint64_t control = hattn_cpu_control_size(device->info.max_threads);
    memset(hattn_address(workspace), 0, control < size ? control : size);
    return HATTN_OK;
}

const hattn_backend hattn_cpu_backend = {
    .name = "cpu",
    .pointer_alignment = 1,
    .device_count = device_count,
    .open = open_device,
    .close = close_device,
    .plan = make_plan,
    .plan_destroy = destroy_plan,
    .workspace_init = init_workspace,
    .encode_keys = hattn_cpu_encode_keys,
    .encode_queries = hattn_cpu_encode_queries,
    .score = hattn_cpu_score,
    .topk = hattn_cpu_topk,
    .attend = hattn_cpu_attend,
    .merge = hattn_cpu_merge,
    .decode = hattn_cpu_decode,
};
