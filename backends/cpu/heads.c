/* SPDX-License-Identifier: Apache-2.0
 * Scores per query head: the summed weights' best are scored once more for each head of the group, and the heads' shares of them summed.
 */
#include <string.h>

#include "backends/cpu/cpu.h"
#include "core/floor.h"
#include "core/tail.h"

/* What is made of a row's candidates. */
typedef struct candidates {
    const int32_t *listed; /* positions, rising */
    int32_t count;
    const uint32_t **codes;
    uint32_t *shares; /* [group, stride_listed] */
    uint32_t *keys;   /* p, in 2^-24: floats of these bits are in the same order */
    uint64_t sums[HATTN_MOST_HEADS];
} candidates;

static void *at(char *scratch, uint64_t offset) { return scratch + offset; }

static void resolve_codes(const hattn_cpu_plan *plan, const hattn_cpu_keys *keys, const candidates *c)
{
    const hattn_tensor *codes = &plan->base.problem.codes;
    const hattn_pages pages = keys->pages;
    const int64_t stride_page = codes->stride[0], stride_slot = codes->stride[1];
    const uint32_t *start = (const uint32_t *)hattn_element(codes, keys->codes, 0, 0, keys->code_head),
                   **out = c->codes;
    const int32_t count = c->count, *listed = c->listed;
    if (!pages.table) {
        start += pages.sequence * stride_page;
        for (int32_t i = 0; i < count; i++)
            out[i] = start + listed[i] * stride_slot;
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        int32_t slot = listed[i] & (pages.page_size - 1);
        const int64_t page =
            plan->page_shift < 0 ? hattn_page(&pages, listed[i], &slot) : pages.table[listed[i] >> plan->page_shift];
        out[i] = start + page * stride_page + slot * stride_slot;
    }
}

/* Ranks, rising, of the `wanted` candidates with the largest p. */
static void select_ranks(const hattn_crew *crew, char *scratch, const candidates *c, int32_t wanted, int32_t *ranks)
{
    const hattn_cpu_scratch *places = &crew->plan->scratch;
    const hattn_topk_scratch kernels = {at(scratch, places->histogram), at(scratch, places->positions),
                                        at(scratch, places->candidates)};
    if (wanted < c->count)
        crew->plan->kernels.topk_f32((const float *)(const void *)c->keys, c->count, wanted, 0, ranks, &kernels);
    else
        for (int32_t i = 0; i < c->count; i++)
            ranks[i] = i;
}

/* Of the `wanted` ranks those that reach the floor, first in the list; returns how many. */
static int32_t keep_above(const hattn_cpu_plan *plan, const candidates *c, int32_t wanted, int32_t *ranks)
{
    const uint64_t least = hattn_head_floor(plan->floor_tau, plan->group);
    int32_t left = 0;
    for (int32_t i = 0; i < wanted; i++) {
        const int32_t rank = ranks[i];
        ranks[left] = rank;
        left += c->keys[rank] >= least;
    }
    return left;
}

/* hattn_topk's f, from the summed scores. */
static uint64_t factor_outside(const hattn_crew *crew, char *scratch, const hattn_cpu_scores *scores, int32_t length,
                               const candidates *c, const int32_t *ranks, int32_t num_ranks)
{
    const hattn_problem *p = &crew->plan->base.problem;
    uint32_t *shares = c->shares + crew->plan->group * crew->plan->stride_listed;
    const hattn_cpu_estimate e = hattn_cpu_make_estimate(
        crew->plan, scratch, scores, length, c->count + p->num_sink + p->num_recent, c->listed - p->num_sink, shares);
    uint64_t inside = e.listed;
    for (int32_t i = 0; i < num_ranks; i++)
        inside -= shares[ranks[i]];
    return hattn_head_factor(e.sum > e.listed ? e.sum - e.listed : 0, inside);
}

/* Ones in place of the keys of the list's anchors, in its order, zeros of others. */
static void mark_anchors(const candidates *c, const int32_t *ranks, int32_t count)
{
    uint32_t least = UINT32_MAX;
    int32_t num_near = 0;
    for (int32_t i = 0; i < count; i++) {
        const uint32_t key = c->keys[i] = c->keys[ranks[i]]; /* at or behind i */
        least = key - 1 < least - 1 ? key : least;           /* 0 is the largest */
    }
    const uint32_t near = least > UINT32_MAX / 4 ? UINT32_MAX : 4 * least - 1;
    for (int32_t i = 0; i < count; i++)
        num_near += c->keys[i] - 1 < near;
    const uint32_t most = num_near < HATTN_FEW_ANCHORS ? UINT32_MAX : near;
    for (int32_t i = 0; i < count; i++)
        c->keys[i] = c->keys[i] - 1 < most ? UINT32_MAX : 0;
}

static void tell_heads(const hattn_crew *crew, const candidates *c, const int32_t *ranks, int32_t count,
                       uint64_t factor, uint32_t *shares, hattn_cpu_rest *rests)
{
    const hattn_problem *p = &crew->plan->base.problem;
    mark_anchors(c, ranks, count);
    for (int head = 0; head < crew->plan->group; head++) {
        const uint32_t *from = c->shares + head * crew->plan->stride_listed;
        uint32_t *out = shares + head * crew->plan->stride_shares;
        hattn_cpu_rest sums = {0};
        memset(out, 0, (size_t)p->num_sink * sizeof(*out));
        out += p->num_sink;
        for (int32_t i = 0; i < count; i++) { /* without branches: nobody foresees anchors */
            const uint32_t share = from[ranks[i]], mask = c->keys[i];
            out[i] = share | (mask & (0 - share) & HATTN_SHARE_ANCHOR); /* of shares above 0, which are below 2^31 */
            sums.all += share;
            sums.near += mask & share;
        }
        memset(out + count, 0, (size_t)p->num_recent * sizeof(*out));
        sums.rest = hattn_head_rest(c->sums[head] - sums.all, factor);
        rests[head] = sums;
    }
}

int32_t hattn_cpu_select_by_heads(const hattn_crew *crew, char *scratch, int32_t length, int32_t kept,
                                  const hattn_cpu_scores *scores, int32_t *out, uint32_t *shares, hattn_cpu_rest *rests)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    const int32_t forced = p->num_sink + p->num_recent, middle = length - forced,
                  least = hattn_cpu_least_kept(p, kept) - forced;
    uint16_t *head_scores = at(scratch, plan->scratch.head_scores);
    int32_t *listed = (int32_t *)at(scratch, plan->scratch.listed), *ranks = at(scratch, plan->scratch.ranks);
    candidates c = {.listed = listed + p->num_sink,
                    .count = p->num_candidates < middle ? p->num_candidates : middle,
                    .codes = at(scratch, plan->scratch.head_rows),
                    .shares = at(scratch, plan->scratch.head_shares),
                    .keys = at(scratch, plan->scratch.head_keys)};
    hattn_cpu_select_kept(crew, scratch, length, c.count + forced, scores, listed);
    resolve_codes(plan, &scores->heads->keys, &c);
    plan->kernels.score_listed(scores->heads->planes, plan->group, c.codes, c.count,
                               at(scratch, plan->scratch.head_codes), head_scores, plan->stride_listed);
    memset(c.keys, 0, (size_t)c.count * sizeof(*c.keys));
    for (int64_t head = 0, first = 0; head < plan->group; head++, first += plan->stride_listed)
        c.sums[head] =
            plan->kernels.vote(head_scores + first, c.count, scores->heads->steps[head], c.shares + first, c.keys);
    int32_t wanted = kept - forced;
    select_ranks(crew, scratch, &c, wanted, ranks);
    if (p->min_probability > 0 && wanted > least) {
        wanted = keep_above(plan, &c, wanted, ranks);
        if (wanted < least)
            select_ranks(crew, scratch, &c, wanted = least, ranks);
    }
    for (int32_t i = 0; i < p->num_sink; i++)
        out[i] = i;
    for (int32_t i = 0; i < wanted; i++)
        out[p->num_sink + i] = c.listed[ranks[i]];
    for (int32_t i = 0; i < p->num_recent; i++)
        out[p->num_sink + wanted + i] = length - p->num_recent + i;
    const int32_t left = wanted + forced;
    if (p->tail > 0 && left < length) {
        tell_heads(crew, &c, ranks, wanted, factor_outside(crew, scratch, scores, length, &c, ranks, wanted), shares,
                   rests);
    } else if (p->tail > 0) {
        for (int head = 0; head < plan->group; head++) {
            memset(shares + head * plan->stride_shares, 0, (size_t)left * sizeof(*shares));
            rests[head] = (hattn_cpu_rest){0};
        }
    }
    return left;
}
