/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's plan: kernels, how selections are split, and where everything lies in a thread's scratch.
 */
#include <stdlib.h>

#include "backends/cpu/cpu.h"
#include "backends/host_control.h"
#include "core/floor.h"
#include "core/status.h"
#include "core/workspace.h"
#include "kernels_cpu/cpu_features.h"

enum {
    PARTS = 16,     /* of one selection; more would cost merging, fewer leave threads idle */
    MIN_PART = 256, /* tokens: a smaller part costs more in state than in rows */
    /* tokens: equal rows round to one side, 64 of a block by 32 units of 2^-24 at most and 64 blocks by as many, which is all
     * that the numerics contract has (8192 leave it) */
    MAX_PART = 4096
};
static int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Splits depend on the problem alone: PARTS parts of whole blocks, within the bounds of a part. */
static int part_size(int64_t count)
{
    const int64_t even = round_up((count + PARTS - 1) / PARTS, HATTN_ATTEND_BLOCK);
    return (int)smaller(larger(MIN_PART, even), MAX_PART);
}

static int64_t num_parts(int64_t count, int part) { return (count + part - 1) / part; }

static void lay_out_heads(const hattn_problem *p, const hattn_cpu_plan *plan, hattn_cpu_scratch *scratch,
                          uint64_t *used)
{
    if (!p->num_candidates)
        return;
    const uint64_t group = (uint64_t)plan->group, listed = (uint64_t)plan->stride_listed;
    scratch->head_weights = hattn_carve(used, group * (uint64_t)p->code_bits);
    scratch->head_planes = hattn_carve(used, group * sizeof(hattn_planes));
    scratch->head_steps = hattn_carve(used, group * sizeof(int32_t));
    scratch->listed = hattn_carve(used, (listed + (uint64_t)p->num_sink + HATTN_TOPK_SLACK) * sizeof(int32_t));
    scratch->head_rows = hattn_carve(used, listed * sizeof(uint32_t *));
    scratch->head_codes = hattn_carve(used, listed * ((uint64_t)p->code_bits + 31) / 32 * sizeof(uint32_t));
    scratch->head_scores = hattn_carve(used, group * listed * sizeof(uint16_t));
    scratch->head_shares = hattn_carve(used, (group + 1) * listed * sizeof(uint32_t));
    scratch->head_keys = hattn_carve(used, listed * sizeof(uint32_t));
    scratch->ranks = hattn_carve(used, ((uint64_t)p->k + HATTN_TOPK_SLACK) * sizeof(int32_t));
}

static void lay_out_scratch(const hattn_problem *p, const hattn_cpu_plan *plan, hattn_cpu_scratch *scratch)
{
    const uint64_t vectors = (uint64_t)larger(plan->group, HATTN_KEY_BLOCK), group = (uint64_t)plan->dense_group,
                   f32 = sizeof(float);
    const uint64_t length = (uint64_t)p->max_length, parts = (uint64_t)plan->max_parts + 2,
                   stride_acc = (uint64_t)plan->stride_acc;
    const uint64_t kept = (uint64_t)smaller(p->k, p->max_length);
    const uint64_t room =
        (uint64_t)hattn_topk_room(p->max_length, larger((int64_t)kept, smaller(p->num_candidates, p->max_length)));
    uint64_t used = 0;
    scratch->x = hattn_carve(&used, vectors * (uint64_t)plan->stride_q * f32);
    scratch->z = hattn_carve(&used, vectors * (uint64_t)p->code_bits * f32);
    for (int i = 0; i < 2; i++)
        scratch->hidden[i] =
            hattn_carve(&used, vectors * (uint64_t)larger(p->key_map.hidden[i], p->query_map.hidden[i]) * f32);
    scratch->weights = hattn_carve(&used, (uint64_t)p->code_bits);
    scratch->planes = hattn_carve(&used, sizeof(hattn_planes));
    scratch->scores = hattn_carve(&used, (length + HATTN_TOPK_SLACK) * sizeof(uint16_t));
    scratch->keys = hattn_carve(&used, p->key_norms ? length * f32 : 0);
    scratch->histogram = hattn_carve(&used, HATTN_TOPK_BINS * sizeof(uint32_t));
    scratch->positions = hattn_carve(&used, room * sizeof(int32_t));
    scratch->candidates = hattn_carve(&used, room * sizeof(uint32_t));
    scratch->indices = hattn_carve(&used, (kept + HATTN_TOPK_SLACK) * sizeof(int32_t));
    const uint64_t tail = p->tail > 0, told = (uint64_t)plan->num_told;
    if (hattn_has_shares(p))
        scratch->shares = hattn_carve(&used, told * (uint64_t)plan->stride_shares * sizeof(uint32_t));
    if (hattn_has_shares(p))
        scratch->list_scores = hattn_carve(
            &used, (uint64_t)larger((int64_t)kept, smaller(p->num_candidates, p->max_length)) * sizeof(uint16_t));
    scratch->rests = hattn_carve(&used, tail * told * sizeof(hattn_cpu_rest));
    lay_out_heads(p, plan, scratch, &used);
    scratch->state = hattn_carve(&used, sizeof(hattn_cpu_task_state));
    scratch->q = hattn_carve(&used, group * (uint64_t)plan->stride_q * f32);
    scratch->logits = hattn_carve(&used, group * HATTN_ATTEND_BLOCK * f32);
    scratch->max = hattn_carve(&used, group * f32);
    scratch->sum = hattn_carve(&used, group * f32);
    scratch->acc = hattn_carve(&used, group * stride_acc * f32);
    scratch->part_out = hattn_carve(&used, parts * group * stride_acc * f32);
    scratch->part_max = hattn_carve(&used, parts * group * f32);
    scratch->part_sum = hattn_carve(&used, parts * group * f32);
    scratch->merged = hattn_carve(&used, stride_acc * f32);
    scratch->part_near = hattn_carve(&used, tail * parts * group * f32);
    scratch->part_all = hattn_carve(&used, tail * parts * group * f32);
    scratch->near = hattn_carve(&used, tail * group * f32);
    scratch->all = hattn_carve(&used, tail * group * f32);
    scratch->old_max = hattn_carve(&used, tail * group * f32);
    scratch->mean = hattn_carve(&used, tail * stride_acc * f32);
    scratch->sums = hattn_carve(&used, tail * stride_acc * sizeof(int64_t));
    const uint64_t weights = p->min_value_weight > 0 ? (uint64_t)plan->group * (uint64_t)plan->stride_weights : 0;
    scratch->value_weights = hattn_carve(&used, weights * f32);
    scratch->block_max = hattn_carve(&used, weights / HATTN_ATTEND_BLOCK * f32);
    scratch->read = hattn_carve(&used, weights ? (uint64_t)plan->part_size * sizeof(int32_t) : 0);
    scratch->part_left = hattn_carve(&used, weights ? parts * (uint64_t)plan->group * f32 : 0);
    scratch->size = used;
}

hattn_status hattn_cpu_make_plan(hattn_device *device, const hattn_problem *problem, hattn_plan **plan,
                                 hattn_error *error)
{
    hattn_cpu_plan *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "cpu: no memory for a plan");
    const hattn_cpu_device *cpu = (const hattn_cpu_device *)device;
    hattn_cpu_kernels_select(cpu->isas, &made->kernels);
    made->pool = cpu->pool;
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
    made->floor_tau = hattn_floor_tau(problem->min_probability);
    made->num_told = problem->num_candidates ? made->group : 1;
    made->stride_shares = kept + HATTN_CPU_SHARE_STEP;
    made->stride_listed = round_up(smaller(problem->num_candidates, problem->max_length), 16) + HATTN_TOPK_SLACK;
    made->stride_weights = round_up(kept, HATTN_ATTEND_BLOCK);
    made->stride_q = round_up(problem->head_dim_qk, 16);
    made->stride_acc = round_up(problem->head_dim_v, 16);
    lay_out_scratch(problem, made, &made->scratch);
    made->scratch_start = hattn_host_control_size();
    made->base.workspace_size = made->scratch_start + (uint64_t)made->max_threads * made->scratch.size;
    *plan = &made->base;
    return HATTN_OK;
}
