/* SPDX-License-Identifier: Apache-2.0
 * A tail: sums of the weights that the kernels leave behind, and what they say of what was not selected, as one more part.
 */
#include <math.h>
#include <string.h>

#include "backends/cpu/cpu.h"
#include "core/tail.h"

static float *floats(const char *scratch, uint64_t offset)
{
    return (float *)(void *)((char *)(uintptr_t)scratch + offset);
}

void hattn_cpu_begin_tail(const hattn_cpu_plan *plan, char *scratch, int group, const float *max)
{
    memset(floats(scratch, plan->scratch.near), 0, (size_t)group * sizeof(float));
    memset(floats(scratch, plan->scratch.all), 0, (size_t)group * sizeof(float));
    memcpy(floats(scratch, plan->scratch.old_max), max, (size_t)group * sizeof(float));
}

/* The sum of weights where the mask has ones: of others not even a NaN counts. Eight lanes, as compilers like it. */
static float masked_sum(const float *weights, const uint32_t *mask)
{
    float lanes[8] = {0};
    for (int j = 0; j < HATTN_ATTEND_BLOCK; j += 8)
        for (int lane = 0; lane < 8; lane++) {
            uint32_t bits;
            float weight;
            memcpy(&bits, weights + j + lane, sizeof(bits));
            bits &= mask[j + lane];
            memcpy(&weight, &bits, sizeof(weight));
            lanes[lane] += weight;
        }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

bool hattn_cpu_all_have_shares(const hattn_cpu_tail *tail, int group, int32_t first, int32_t count)
{
    uint32_t none[8] = {0};
    for (int h = 0; h < (tail->stride_shares ? group : 1); h++) {
        const uint32_t *shares = tail->shares + h * tail->stride_shares + first;
        int32_t i = 0;
        for (; i + 8 <= count; i += 8) /* eight lanes, as compilers like it */
            for (int lane = 0; lane < 8; lane++)
                none[lane] |= shares[i + lane] == 0;
        for (; i < count; i++)
            none[0] |= shares[i] == 0;
    }
    return !(none[0] | none[1] | none[2] | none[3] | none[4] | none[5] | none[6] | none[7]);
}

/* Ones where there are anchors; all: where there are shares at all, or NULL. */
static void make_masks(const uint32_t *shares, int count, uint32_t *near, uint32_t *all)
{
    for (int j = 0; j < count; j++)
        near[j] = (uint32_t)((int32_t)shares[j] >> 31);
    memset(near + count, 0, (size_t)(HATTN_ATTEND_BLOCK - count) * sizeof(*near));
    if (!all)
        return;
    for (int j = 0; j < count; j++)
        all[j] = shares[j] ? UINT32_MAX : 0;
    memset(all + count, 0, (size_t)(HATTN_ATTEND_BLOCK - count) * sizeof(*all));
}

void hattn_cpu_add_block(const hattn_cpu_plan *plan, char *scratch, const hattn_attend_block *block,
                         const hattn_cpu_tail *tail, int32_t first, bool all_have_shares)
{
    float *near = floats(scratch, plan->scratch.near), *all = floats(scratch, plan->scratch.all),
          *old_max = floats(scratch, plan->scratch.old_max);
    uint32_t near_mask[HATTN_ATTEND_BLOCK], all_mask[HATTN_ATTEND_BLOCK];
    for (int h = 0; h < block->group; h++) {
        if (h == 0 || tail->stride_shares)
            make_masks(tail->shares + h * tail->stride_shares + first, block->num_rows, near_mask,
                       all_have_shares ? NULL : all_mask);
        const float *weights = block->logits + h * HATTN_ATTEND_BLOCK;
        const float decay = old_max[h] == block->max[h] ? 1 : expf(old_max[h] - block->max[h]);
        near[h] = near[h] * decay + masked_sum(weights, near_mask);
        if (!all_have_shares)
            all[h] = all[h] * decay + masked_sum(weights, all_mask);
        old_max[h] = block->max[h];
    }
}

void hattn_cpu_end_tail(const hattn_cpu_plan *plan, const char *scratch, char *task_scratch, int group, int part,
                        bool all_have_shares)
{
    const size_t size = (size_t)group * sizeof(float);
    memcpy(floats(task_scratch, plan->scratch.part_near) + part * group, floats(scratch, plan->scratch.near), size);
    memcpy(floats(task_scratch, plan->scratch.part_all) + part * group,
           floats(scratch, all_have_shares ? plan->scratch.sum : plan->scratch.all), size);
}

hattn_cpu_rest hattn_cpu_sum_shares(const uint32_t *shares, int32_t count, int64_t rest)
{
    hattn_cpu_rest sums = {.rest = rest};
    for (int32_t i = 0; i < count; i++) {
        const uint32_t share = shares[i] & ~HATTN_SHARE_ANCHOR;
        sums.all += share;
        sums.near += shares[i] >> 31 ? share : 0;
    }
    return sums;
}

bool hattn_cpu_has_tail(const hattn_cpu_attention *a)
{
    for (int h = 0; a->tail.shares && h < (a->tail.stride_shares ? a->group : 1); h++)
        if (a->tail.rests[h].rest > 0 && a->tail.rests[h].near)
            return true;
    return false;
}

bool hattn_cpu_add_tail(const hattn_cpu_plan *plan, char *task_scratch, const hattn_cpu_attention *a, int num_parts)
{
    const hattn_problem *p = &plan->base.problem;
    const hattn_cpu_scratch *at = &plan->scratch;
    if (!hattn_cpu_has_tail(a))
        return false;
    float *mean = floats(task_scratch, at->mean), *maxima = floats(task_scratch, at->part_max),
          *sums = floats(task_scratch, at->part_sum);
    const float *near = floats(task_scratch, at->part_near), *all = floats(task_scratch, at->part_all);
    hattn_cpu_mean_value(plan, a, a->first_head / plan->dense_group, task_scratch, mean);
    for (int h = 0; h < a->group; h++) {
        float max = -INFINITY, near_sum = 0, all_sum = 0;
        for (int part = 0; part < num_parts; part++)
            max = fmaxf(max, maxima[part * a->group + h]);
        for (int part = 0; part < num_parts && max > -INFINITY; part++) {
            const float factor = expf(maxima[part * a->group + h] - max);
            near_sum += near[part * a->group + h] * factor;
            all_sum += all[part * a->group + h] * factor;
        }
        memcpy(floats(task_scratch, at->part_out) + ((int64_t)num_parts * a->group + h) * plan->stride_acc, mean,
               (size_t)p->head_dim_v * sizeof(float));
        maxima[num_parts * a->group + h] = max;
        const hattn_cpu_rest *rest = &a->tail.rests[a->tail.stride_shares ? h : 0];
        sums[num_parts * a->group + h] = hattn_tail_mass(p->tail, near_sum, all_sum, rest->near, rest->all, rest->rest);
    }
    return true;
}
