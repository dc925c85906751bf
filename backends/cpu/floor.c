/* SPDX-License-Identifier: Apache-2.0
 * Floors of probability and tails: what a budget's list, and a sample of the others, say of a row.
 */
#include <string.h>

#include "backends/cpu/cpu.h"
#include "core/floor.h"
#include "core/tail.h"

static const uint32_t factors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;

int32_t hattn_cpu_least_kept(const hattn_problem *p, int32_t kept)
{
    const int32_t forced = p->num_sink + p->num_recent, least = p->min_k < kept ? p->min_k : kept;
    return least > forced ? least : forced;
}

/* Scores of positions `first` and up to count from there, and of a list of positions among them. */
typedef struct scored {
    const uint16_t *scores; /* of position `first` */
    int32_t first, count;
    const int32_t *list;
    int32_t num_listed;
} scored;

static uint16_t listed(const scored *s, int32_t i) { return s->scores[s->list[i] - s->first]; }

/* Z of api/hattn.h: exact above `bound`. */
static uint64_t sum_of_shares(const scored *s, uint32_t largest, int64_t bound, int32_t step)
{
    uint64_t exact = 0, sampled = 0;
    for (int32_t i = 0; i < s->num_listed; i++) {
        const uint32_t score = listed(s, i);
        exact += score > bound ? hattn_floor_share(largest - score, step, factors) : 0;
    }
    if (bound >= 0) {
        int32_t j = (HATTN_FLOOR_STRIDE - s->first % HATTN_FLOOR_STRIDE) % HATTN_FLOOR_STRIDE;
        for (; j < s->count; j += HATTN_FLOOR_STRIDE)
            sampled += s->scores[j] <= bound ? hattn_floor_share(largest - s->scores[j], step, factors) : 0;
    }
    return exact + HATTN_FLOOR_STRIDE * sampled;
}

/* The least score whose share reaches `least`; the largest score does. */
static uint32_t least_score(uint32_t largest, uint64_t least, int32_t step)
{
    uint32_t near = 0, far = largest + 1; /* distances: near reaches, far does not */
    while (far - near > 1) {
        const uint32_t middle = near + (far - near) / 2;
        if (hattn_floor_share(middle, step, factors) >= least)
            near = middle;
        else
            far = middle;
    }
    return largest - near;
}

/* The positions of a list that are not forced. */
static scored ranked(const hattn_problem *p, const uint16_t *scores, int32_t length, int32_t kept,
                     const int32_t *selected)
{
    const int32_t forced = p->num_sink + p->num_recent;
    return (scored){scores, p->num_sink, length - forced, selected + p->num_sink, kept - forced};
}

hattn_cpu_estimate hattn_cpu_make_estimate(const hattn_problem *p, const hattn_cpu_scores *scores, int32_t length,
                                           int32_t kept, const int32_t *selected)
{
    const scored s = ranked(p, scores->scores, length, kept, selected);
    hattn_cpu_estimate estimate = {.scores = scores->scores, .step = scores->step};
    uint32_t bound = UINT16_MAX;
    for (int32_t i = 0; i < s.num_listed; i++) {
        estimate.largest = listed(&s, i) > estimate.largest ? listed(&s, i) : estimate.largest;
        bound = listed(&s, i) < bound ? listed(&s, i) : bound;
    }
    estimate.sum = sum_of_shares(&s, estimate.largest, kept < length ? (int64_t)bound : -1, scores->step);
    return estimate;
}

int32_t hattn_cpu_apply_floor(const hattn_cpu_plan *plan, const hattn_cpu_estimate *estimate, int32_t length,
                              int32_t kept, int32_t *selected)
{
    const hattn_problem *p = &plan->base.problem;
    const int32_t forced = p->num_sink + p->num_recent;
    const scored s = ranked(p, estimate->scores, length, kept, selected);
    const uint64_t least = hattn_floor_least_share(plan->floor_tau, estimate->sum);
    const uint32_t floor = hattn_floor_share(0, estimate->step, factors) >= least
                               ? least_score(estimate->largest, least, estimate->step)
                               : UINT32_MAX;
    int32_t *out = selected + p->num_sink;
    int32_t above = 0;
    for (int32_t i = 0; i < s.num_listed; i++)
        above += listed(&s, i) >= floor;
    if (above + forced < hattn_cpu_least_kept(p, kept))
        return -1;
    for (int32_t i = 0; i < s.num_listed; i++) {
        const int32_t position = s.list[i];
        const int is_kept = listed(&s, i) >= floor;
        *out = position; /* at or before i */
        out += is_kept;
    }
    for (int32_t j = length - p->num_recent; j < length; j++)
        *out++ = j;
    return above + forced;
}

int64_t hattn_cpu_tell_shares(const hattn_problem *p, const hattn_cpu_estimate *estimate, int32_t kept,
                              const int32_t *selected, uint32_t *shares)
{
    const int32_t end = kept - p->num_recent;
    uint32_t least = UINT32_MAX;
    int32_t num_near = 0;
    uint64_t sum = 0;
    memset(shares, 0, (size_t)kept * sizeof(*shares));
    for (int32_t i = p->num_sink; i < end; i++) {
        const uint32_t distance = estimate->largest - estimate->scores[selected[i] - p->num_sink];
        const uint32_t share = hattn_floor_share(distance, estimate->step, factors);
        shares[i] = share;
        least = share - 1 < least - 1 ? share : least; /* 0 is the largest */
        sum += share;
    }
    for (int32_t i = p->num_sink; i < end; i++)
        num_near += shares[i] > 0 && shares[i] < (uint64_t)least * 4;
    for (int32_t i = p->num_sink; i < end; i++)
        if (shares[i] > 0 && (shares[i] < (uint64_t)least * 4 || num_near < HATTN_FEW_ANCHORS))
            shares[i] |= HATTN_SHARE_ANCHOR;
    return estimate->sum > sum ? (int64_t)(estimate->sum - sum) : 0;
}
