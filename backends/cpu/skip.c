/* SPDX-License-Identifier: Apache-2.0
 * Attention where values of small weight are not read (api/hattn.h, min_value_weight). The parts of a task leave weights, and no values, whose
 * rows wait until all weights are known; then each part reads those that are left, by weights that sum to 1 at most.
 */
#include <math.h>
#include <string.h>

#include "backends/cpu/cpu.h"
#include "core/tail.h"

enum { BLOCK = HATTN_ATTEND_BLOCK, MOST_GROUP = 128 /* of a problem */ };

static float *floats(const char *scratch, uint64_t offset)
{
    return (float *)(void *)((char *)(uintptr_t)scratch + offset);
}

bool hattn_cpu_skips(const hattn_cpu_attention *a, const hattn_problem *problem)
{
    return a->tail.shares && problem->min_value_weight > 0;
}

/* The weights of a head, from the first of the selection on, and what those of each block are relative to. */
static float *weights_of(const hattn_cpu_plan *plan, const char *task_scratch, int head)
{
    return floats(task_scratch, plan->scratch.value_weights) + head * plan->stride_weights;
}

static float *maxima_of(const hattn_cpu_plan *plan, const char *task_scratch, int head)
{
    return floats(task_scratch, plan->scratch.block_max) + head * (plan->stride_weights / BLOCK);
}

void hattn_cpu_keep_weights(const hattn_cpu_plan *plan, char *task_scratch, const hattn_attend_block *block,
                            int32_t first)
{
    for (int h = 0; h < block->group; h++) {
        memcpy(weights_of(plan, task_scratch, h) + first, block->logits + h * BLOCK,
               (size_t)block->num_rows * sizeof(float));
        maxima_of(plan, task_scratch, h)[first / BLOCK] = block->max[h];
    }
}

/* A head's D is sum * e^max, of all parts and its sink logit; no logits: sum is 0. */
typedef struct softmax {
    float max, sum;
} softmax;

static softmax join_sums(const hattn_cpu_plan *plan, const char *task_scratch, const hattn_cpu_attention *a, int head)
{
    const float *maxima = floats(task_scratch, plan->scratch.part_max) + head,
                *sums = floats(task_scratch, plan->scratch.part_sum) + head;
    const float sink =
        a->sink_logits.data ? ((const float *)hattn_address(a->sink_logits))[a->first_head + head] : -INFINITY;
    const int num_parts = hattn_cpu_num_parts(a);
    softmax all = {sink, 0};
    for (int part = 0; part < num_parts; part++)
        all.max = fmaxf(all.max, maxima[part * a->group]);
    if (all.max == -INFINITY)
        all.max = 0;
    for (int part = 0; part < num_parts; part++) /* an empty one's maximum is -inf, and a NaN stays one */
        all.sum += sums[part * a->group] * expf(maxima[part * a->group] - all.max);
    all.sum += expf(sink - all.max);
    return all;
}

/* Of a block, weights become softmax; sums[j] gets those of all heads. */
static void make_softmax(const hattn_cpu_plan *plan, char *task_scratch, const hattn_cpu_attention *a, int32_t first,
                         int count, const softmax *heads, float *sums)
{
    memset(sums, 0, BLOCK * sizeof(*sums));
    for (int h = 0; h < a->group; h++) {
        float *weights = weights_of(plan, task_scratch, h) + first;
        const float max = maxima_of(plan, task_scratch, h)[first / BLOCK],
                    factor = max == -INFINITY ? 0 : expf(max - heads[h].max) / heads[h].sum;
        for (int j = 0; j < count; j++)
            sums[j] += weights[j] *= factor;
    }
}

/* Lists the positions of a part whose values are read, their weights moved together from the part's first on, and adds up the others'. */
static int32_t list_read(const hattn_cpu_plan *plan, char *task_scratch, const hattn_cpu_attention *a, int32_t first,
                         int32_t count, const softmax *heads, int32_t *positions, float *left)
{
    const float least = plan->base.problem.min_value_weight * (float)a->group;
    int32_t num_read = 0;
    memset(left, 0, (size_t)a->group * sizeof(*left));
    for (int32_t done = 0; done < count; done += BLOCK) {
        const int num = count - done < BLOCK ? count - done : BLOCK;
        float sums[BLOCK];
        int read[BLOCK], num_here = 0;
        make_softmax(plan, task_scratch, a, first + done, num, heads, sums);
        for (int j = 0; j < num; j++) {
            read[num_here] = j;
            positions[num_read + num_here] = a->indices[first + done + j];
            num_here += !(sums[j] < least);
        }
        for (int h = 0; h < a->group; h++) {
            float *weights = weights_of(plan, task_scratch, h) + first, not_read = 0;
            for (int j = 0; j < num; j++)
                not_read += sums[j] < least ? weights[done + j] : 0;
            left[h] += not_read;
            for (int i = 0; i < num_here; i++)
                weights[num_read + i] = weights[done + read[i]];
        }
        num_read += num_here;
    }
    return num_read;
}

/* The rows of positions and their weights, as the kernel takes them. */
static void add_rows(const hattn_crew *crew, char *scratch, const char *task_scratch, const hattn_cpu_attention *a,
                     int32_t first, const int32_t *positions, int32_t num_read)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    const hattn_cpu_cache_head v = hattn_cpu_head_of(&p->v_cache, a->v_cache, a->first_head / plan->dense_group);
    hattn_cpu_attention listed = *a;
    listed.indices = positions;
    const void *rows[2 * BLOCK];
    float max = -INFINITY; /* of the first block */
    hattn_attend_block block = {.group = a->group,
                                .head_dim_v = p->head_dim_v,
                                .dtype = p->v_cache.dtype,
                                .k_rows = rows,
                                .v_rows = rows,
                                .logits = floats(scratch, plan->scratch.logits),
                                .max = &max,
                                .acc = floats(scratch, plan->scratch.acc),
                                .stride_acc = plan->stride_acc,
                                .loads_first = plan->loads_first};
    for (int32_t done = 0; done < num_read; done += BLOCK) {
        const int known = num_read - done < 2 * BLOCK ? num_read - done : 2 * BLOCK;
        hattn_cpu_resolve_rows(&listed, &v, &v, done, known, rows, rows);
        block.num_rows = known < BLOCK ? known : BLOCK;
        block.num_rows_ahead = known - block.num_rows;
        for (int h = 0; h < a->group; h++)
            memcpy(block.logits + h * BLOCK, weights_of(plan, task_scratch, h) + first + done,
                   (size_t)block.num_rows * sizeof(float));
        plan->kernels.add_values(&block);
        max = 0;
    }
}

void hattn_cpu_read_part(const hattn_crew *crew, char *scratch, char *task_scratch, const hattn_cpu_attention *a,
                         int part)
{
    const hattn_cpu_plan *plan = crew->plan;
    const int32_t first = part * a->part_size, left = a->count - first,
                  count = left < a->part_size ? left : a->part_size;
    softmax heads[MOST_GROUP];
    for (int h = 0; h < a->group; h++)
        heads[h] = join_sums(plan, task_scratch, a, h);
    int32_t *positions = (int32_t *)(void *)(scratch + plan->scratch.read);
    float *acc = floats(scratch, plan->scratch.acc);
    memset(acc, 0, (size_t)(a->group * plan->stride_acc) * sizeof(*acc));
    const int32_t num_read = list_read(plan, task_scratch, a, first, count, heads, positions,
                                       floats(task_scratch, plan->scratch.part_left) + (int64_t)part * a->group);
    add_rows(crew, scratch, task_scratch, a, first, positions, num_read);
    memcpy(floats(task_scratch, plan->scratch.part_out) + (int64_t)part * a->group * plan->stride_acc, acc,
           (size_t)(a->group * plan->stride_acc) * sizeof(*acc));
}

void hattn_cpu_read_shared(hattn_crew *crew, char *scratch, int64_t task, const hattn_cpu_attention *a, int part)
{
    const int num_parts = hattn_cpu_num_parts(a);
    if (part >= num_parts || !hattn_cpu_skips(a, &crew->plan->base.problem))
        return;
    char *task_scratch = hattn_crew_scratch(crew, task);
    hattn_cpu_read_part(crew, scratch, task_scratch, a, part);
    if (hattn_crew_arrive(crew, task, num_parts))
        hattn_cpu_read_finish(crew, task_scratch, a);
}

/* Of one head: values read, and the mean for what is left and for the tail. */
static void finish_head(const hattn_cpu_plan *plan, char *task_scratch, const hattn_cpu_attention *a, int h,
                        bool has_tail, bool *has_mean)
{
    const hattn_problem *p = &plan->base.problem;
    const int num_parts = hattn_cpu_num_parts(a);
    const softmax head = join_sums(plan, task_scratch, a, h);
    float *merged = floats(task_scratch, plan->scratch.merged), *mean = floats(task_scratch, plan->scratch.mean);
    const int64_t kv_head = a->first_head / plan->dense_group;
    const float v_scale = hattn_kv_scale(p, a->v_scale, kv_head);
    float tail = 0, left = 0, lse = -INFINITY;
    memset(merged, 0, (size_t)plan->stride_acc * sizeof(*merged));
    if (head.sum != 0) {
        const int64_t at = (int64_t)num_parts * a->group + h;
        if (has_tail)
            tail = floats(task_scratch, plan->scratch.part_sum)[at] *
                   expf(floats(task_scratch, plan->scratch.part_max)[at] - head.max) / head.sum;
        for (int part = 0; part < num_parts; part++)
            left += floats(task_scratch, plan->scratch.part_left)[part * a->group + h];
        const float of_mean = left + tail, share = 1 / (1 + tail);
        if (of_mean != 0 && !*has_mean) {
            hattn_cpu_mean_value(plan, a, kv_head, task_scratch, mean);
            *has_mean = true;
        }
        for (int i = 0; i < p->head_dim_v; i++) {
            float sum = of_mean != 0 ? of_mean * mean[i] : 0;
            for (int part = 0; part < num_parts; part++)
                sum += v_scale * floats(task_scratch,
                                        plan->scratch.part_out)[((int64_t)part * a->group + h) * plan->stride_acc + i];
            merged[i] = sum * share;
        }
        lse = head.max + logf(head.sum) + log1pf(tail);
    }
    plan->kernels.store(merged, p->head_dim_v, p->out.dtype,
                        hattn_element(&p->out, a->out, a->row, a->first_head + h, 0));
    if (a->lse.data)
        *(float *)hattn_element(&p->lse, a->lse, a->row, a->first_head + h, 0) = lse;
}

void hattn_cpu_read_finish(const hattn_crew *crew, char *task_scratch, const hattn_cpu_attention *a)
{
    const hattn_cpu_plan *plan = crew->plan;
    const bool has_tail = hattn_cpu_add_tail(plan, task_scratch, a, hattn_cpu_num_parts(a));
    bool has_mean = has_tail;
    for (int h = 0; h < a->group; h++)
        finish_head(plan, task_scratch, a, h, has_tail, &has_mean);
}
