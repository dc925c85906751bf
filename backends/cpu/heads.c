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
    uint32_t *codes;  /* compact */
    uint32_t *shares; /* [group, stride_listed] */
    uint32_t *keys;   /* p, in 2^-24: floats of these bits are in the same order */
    uint64_t sums[HATTN_MOST_HEADS];
} candidates;

static void *at(char *scratch, uint64_t offset) { return scratch + offset; }

/* words: known when this is compiled, as a rule. */
static inline __attribute__((always_inline)) void gather_words(const hattn_cpu_plan *plan, const hattn_cpu_keys *keys,
                                                               const candidates *c, size_t words)
{
    const hattn_tensor *codes = &plan->base.problem.codes;
    const hattn_pages pages = keys->pages;
    const int64_t stride_page = codes->stride[0], stride_slot = codes->stride[1];
    const int page_shift = plan->page_shift;
    const int32_t count = c->count, *listed = c->listed;
    uint32_t *out = c->codes;
    const uint32_t *start = (const uint32_t *)hattn_element(codes, keys->codes, 0, 0, keys->code_head);
    if (!pages.table) {
        start += pages.sequence * stride_page;
        for (int32_t i = 0; i < count; i++, out += words)
            memcpy(out, start + listed[i] * stride_slot, words * sizeof(*out));
        return;
    }
    for (int32_t i = 0; i < count; i++, out += words) {
        int32_t slot = listed[i] & (pages.page_size - 1);
        const int64_t page =
            page_shift < 0 ? hattn_page(&pages, listed[i], &slot) : pages.table[listed[i] >> page_shift];
        memcpy(out, start + page * stride_page + slot * stride_slot, words * sizeof(*out));
    }
}

/* The candidates' codes side by side: all heads score them, out of a near cache. */
static void gather_codes(const hattn_cpu_plan *plan, const hattn_cpu_keys *keys, const candidates *c, size_t words)
{
    switch (words) {
    case 1: gather_words(plan, keys, c, 1); break;
    case 2: gather_words(plan, keys, c, 2); break;
    case 4: gather_words(plan, keys, c, 4); break;
    case 8: gather_words(plan, keys, c, 8); break;
    case 16: gather_words(plan, keys, c, 16); break;
    default: gather_words(plan, keys, c, words); break;
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
static uint64_t factor_outside(const hattn_crew *crew, const hattn_cpu_scores *scores, int32_t length,
                               const candidates *c, const int32_t *ranks, int32_t num_ranks)
{
    const hattn_problem *p = &crew->plan->base.problem;
    uint32_t *shares = c->shares + crew->plan->group * crew->plan->stride_listed;
    const hattn_cpu_estimate e = hattn_cpu_make_estimate(p, scores, length, c->count + p->num_sink + p->num_recent,
                                                         c->listed - p->num_sink, shares);
    const uint64_t listed = hattn_cpu_sum_shares(shares, c->count, 0).all;
    uint64_t inside = listed;
    for (int32_t i = 0; i < num_ranks; i++)
        inside -= shares[ranks[i]];
    return hattn_head_factor(e.sum > listed ? e.sum - listed : 0, inside);
}

static void tell_heads(const hattn_crew *crew, const candidates *c, const int32_t *ranks, int32_t count,
                       uint64_t factor, uint32_t *shares, hattn_cpu_rest *rests)
{
    const hattn_problem *p = &crew->plan->base.problem;
    uint32_t least = UINT32_MAX;
    int32_t num_near = 0;
    for (int32_t i = 0; i < count; i++)
        least = c->keys[ranks[i]] - 1 < least - 1 ? c->keys[ranks[i]] : least; /* 0 is the largest */
    for (int32_t i = 0; i < count; i++)
        num_near += c->keys[ranks[i]] > 0 && c->keys[ranks[i]] < (uint64_t)least * 4;
    const uint64_t bound = num_near < HATTN_FEW_ANCHORS ? UINT64_MAX : (uint64_t)least * 4;
    for (int head = 0; head < crew->plan->group; head++) {
        uint32_t *out = shares + head * crew->plan->stride_shares;
        memset(out, 0, (size_t)p->num_sink * sizeof(*out));
        out += p->num_sink;
        for (int32_t i = 0; i < count; i++) {
            const uint32_t share = c->shares[head * crew->plan->stride_listed + ranks[i]], key = c->keys[ranks[i]];
            out[i] = share | (share > 0 && key > 0 && key < bound ? HATTN_SHARE_ANCHOR : 0);
        }
        memset(out + count, 0, (size_t)p->num_recent * sizeof(*out));
        rests[head] = hattn_cpu_sum_shares(out, count, 0);
        rests[head].rest = hattn_head_rest(c->sums[head] - rests[head].all, factor);
    }
}

int32_t hattn_cpu_select_by_heads(const hattn_crew *crew, char *scratch, int32_t length, int32_t kept,
                                  const hattn_cpu_scores *scores, int32_t *out, uint32_t *shares, hattn_cpu_rest *rests)
{
    const hattn_cpu_plan *plan = crew->plan;
    const hattn_problem *p = &plan->base.problem;
    const int32_t forced = p->num_sink + p->num_recent, middle = length - forced,
                  least = hattn_cpu_least_kept(p, kept) - forced;
    const size_t words = ((size_t)p->code_bits + 31) / 32;
    uint16_t *head_scores = at(scratch, plan->scratch.head_scores);
    int32_t *listed = (int32_t *)at(scratch, plan->scratch.listed), *ranks = at(scratch, plan->scratch.ranks);
    candidates c = {.listed = listed + p->num_sink,
                    .count = p->num_candidates < middle ? p->num_candidates : middle,
                    .codes = at(scratch, plan->scratch.head_codes),
                    .shares = at(scratch, plan->scratch.head_shares),
                    .keys = at(scratch, plan->scratch.head_keys)};
    hattn_cpu_select_kept(crew, scratch, length, c.count + forced, scores, listed);
    gather_codes(plan, &scores->heads->keys, &c, words);
    memset(c.keys, 0, (size_t)c.count * sizeof(*c.keys));
    for (int head = 0; head < plan->group; head++) {
        const hattn_score_run run = {c.codes, c.count};
        plan->kernels.score(scores->heads->planes + head, &run, 1, 0, (int64_t)words, head_scores);
        c.sums[head] = plan->kernels.vote(head_scores, c.count, scores->heads->steps[head],
                                          c.shares + head * plan->stride_listed, c.keys);
    }
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
        tell_heads(crew, &c, ranks, wanted, factor_outside(crew, scores, length, &c, ranks, wanted), shares, rests);
    } else if (p->tail > 0) {
        for (int head = 0; head < plan->group; head++) {
            memset(shares + head * plan->stride_shares, 0, (size_t)left * sizeof(*shares));
            rests[head] = (hattn_cpu_rest){0};
        }
    }
    return left;
}
