/* SPDX-License-Identifier: Apache-2.0
 * Floors of probability and tails: what a budget's list, and a sample of the others, say of a row. Shares are made once; what is
 * done with them goes in steps of 8, with zeros behind, so that compilers take vectors for it.
 */
#include <string.h>

#include "backends/cpu/cpu.h"
#include "core/floor.h"
#include "core/tail.h"

enum {
    LANES = HATTN_CPU_SHARE_STEP,
    SAMPLES = 512 /* of one call of the kernel: 3 KiB of stack */
};

static const uint32_t factors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;

int32_t hattn_cpu_least_kept(const hattn_problem *p, int32_t kept)
{
    const int32_t forced = p->num_sink + p->num_recent, least = p->min_k < kept ? p->min_k : kept;
    return least > forced ? least : forced;
}

/* Of positions at or below the bound: every 61st. scores are of position `first` and up to count from there. The kernel's shares
 * are beside the largest of what it is given: the row's comes first in each block. */
static uint64_t sampled_sum(const hattn_cpu_plan *plan, const hattn_cpu_estimate *e, int32_t first, int32_t count)
{
    uint16_t block[SAMPLES] = {(uint16_t)e->largest};
    uint32_t shares[SAMPLES];
    uint64_t sum = 0;
    int32_t j = (HATTN_FLOOR_STRIDE - first % HATTN_FLOOR_STRIDE) % HATTN_FLOOR_STRIDE;
    while (j < count) {
        int num = 1;
        for (; j < count && num < SAMPLES; j += HATTN_FLOOR_STRIDE) {
            block[num] = e->scores[j];
            num += e->scores[j] <= e->bound;
        }
        sum += plan->kernels.vote(block, num, e->step, shares, NULL) - factors[0];
    }
    return HATTN_FLOOR_STRIDE * sum;
}

uint64_t hattn_cpu_share_list(const hattn_cpu_plan *plan, char *scratch, hattn_cpu_estimate *e, int32_t kept,
                              const int32_t *selected)
{
    const hattn_problem *p = &plan->base.problem;
    uint16_t *listed = (uint16_t *)(void *)(scratch + plan->scratch.list_scores);
    const uint16_t *scores = e->scores - p->num_sink;
    const int32_t *list = selected + p->num_sink;
    e->count = kept - p->num_sink - p->num_recent;
    uint32_t largest = 0, least = UINT16_MAX;
    for (int32_t i = 0; i < e->count; i++) {
        const uint16_t score = listed[i] = scores[list[i]];
        largest = score > largest ? score : largest;
        least = score < least ? score : least;
    }
    e->largest = largest;
    e->bound = least;
    memset(e->shares + e->count, 0, LANES * sizeof(*e->shares));
    return e->count ? plan->kernels.vote(listed, e->count, e->step, e->shares, NULL) : 0;
}

hattn_cpu_estimate hattn_cpu_make_estimate(const hattn_cpu_plan *plan, char *scratch, const hattn_cpu_scores *scores,
                                           int32_t length, int32_t kept, const int32_t *selected, uint32_t *shares)
{
    const hattn_problem *p = &plan->base.problem;
    hattn_cpu_estimate e = {.scores = scores->scores, .step = scores->step, .shares = shares};
    e.listed = hattn_cpu_share_list(plan, scratch, &e, kept, selected);
    const uint16_t *listed = (const uint16_t *)(const void *)(scratch + plan->scratch.list_scores);
    e.sum = e.listed;
    if (kept == length)
        return e;
    /* Equal scores have equal shares: those of the bound are the least, but others may be as small. */
    uint32_t lanes[LANES] = {0}, num_at_bound = 0;
    int32_t i = 0;
    for (; i + LANES <= e.count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += listed[i + lane] == (uint16_t)e.bound;
    for (; i < e.count; i++)
        num_at_bound += listed[i] == e.bound;
    for (int lane = 0; lane < LANES; lane++)
        num_at_bound += lanes[lane];
    e.sum -= (uint64_t)num_at_bound * hattn_floor_share(e.largest - e.bound, e.step, factors);
    e.sum += sampled_sum(plan, &e, p->num_sink, length - p->num_sink - p->num_recent);
    return e;
}

static int32_t count_at_least(const hattn_cpu_estimate *e, int32_t least)
{
    int32_t lanes[LANES] = {0}, count = 0;
    for (int32_t i = 0; i < e->count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += (int32_t)e->shares[i + lane] >= least;
    for (int lane = 0; lane < LANES; lane++)
        count += lanes[lane];
    return count;
}

int32_t hattn_cpu_apply_floor(const hattn_cpu_plan *plan, hattn_cpu_estimate *e, int32_t length, int32_t kept,
                              int32_t *selected)
{
    const hattn_problem *p = &plan->base.problem;
    const int32_t forced = p->num_sink + p->num_recent;
    const uint64_t wanted = hattn_floor_least_share(plan->floor_tau, e->sum);
    if (wanted == 0) /* shares of 0 reach it, those behind the list, too */
        return kept;
    const int32_t least = wanted < INT32_MAX ? (int32_t)wanted : INT32_MAX; /* shares are below */
    const int32_t above = count_at_least(e, least);
    if (above + forced < hattn_cpu_least_kept(p, kept))
        return -1;
    if (above == e->count)
        return kept;
    int32_t *list = selected + p->num_sink, left = 0;
    for (int32_t i = 0; i < e->count; i++) {
        const uint32_t share = e->shares[i];
        list[left] = list[i]; /* at or before i */
        e->shares[left] = share;
        left += (int32_t)share >= least;
    }
    e->count = left;
    memset(e->shares + left, 0, LANES * sizeof(*e->shares));
    for (int32_t j = length - p->num_recent; j < length; j++)
        list[left++] = j;
    return above + forced;
}

hattn_cpu_rest hattn_cpu_mark_anchors(const hattn_cpu_estimate *e)
{
    int32_t lanes[LANES], least = INT32_MAX;
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = INT32_MAX;
    for (int32_t i = 0; i < e->count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            const int32_t share = (int32_t)e->shares[i + lane], positive = share > 0 ? share : INT32_MAX;
            lanes[lane] = positive < lanes[lane] ? positive : lanes[lane];
        }
    for (int lane = 0; lane < LANES; lane++)
        least = lanes[lane] < least ? lanes[lane] : least;
    int32_t bound = least > INT32_MAX / 4 ? INT32_MAX : 4 * least;
    if (count_at_least(e, 1) - count_at_least(e, bound) < HATTN_FEW_ANCHORS)
        bound = INT32_MAX;
    for (int32_t i = 0; i < e->count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            const int32_t share = (int32_t)e->shares[i + lane];
            e->shares[i + lane] |= share > 0 && share < bound ? HATTN_SHARE_ANCHOR : 0;
        }
    hattn_cpu_rest sums = hattn_cpu_sum_shares(e->shares, e->count, 0);
    sums.rest = e->sum > sums.all ? (int64_t)(e->sum - sums.all) : 0;
    return sums;
}
