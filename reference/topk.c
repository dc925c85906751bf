/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k: the k-th largest key is found bit by bit by counting, which needs no memory. A floor of probability shortens
 * the list; for a tail the probabilities themselves are told.
 */
#include "reference/internal.h"

#include <math.h>
#include <string.h>

/* An integer that orders as the scores do: NaN lowest, -0 equal to +0. */
static uint32_t order(const hattn_problem *problem, const void *scores, int64_t index)
{
    if (!problem->key_norms)
        return ((const uint16_t *)scores)[index];
    float score = ((const float *)scores)[index];
    uint32_t bits;
    if (score != score)
        return 0;
    if (score == 0)
        score = 0;
    memcpy(&bits, &score, sizeof(bits));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static int64_t count_at_least(const hattn_problem *problem, const void *scores, int64_t begin, int64_t end,
                              uint32_t bound)
{
    int64_t count = 0;
    for (int64_t j = begin; j < end; j++)
        count += order(problem, scores, j) >= bound;
    return count;
}

uint32_t hattn_reference_threshold(const hattn_problem *problem, const void *scores, int64_t begin, int64_t end,
                                   int64_t wanted, int64_t *ties)
{
    uint32_t threshold = 0;
    for (int bit = problem->key_norms ? 31 : 15; bit >= 0; bit--)
        if (count_at_least(problem, scores, begin, end, threshold | 1u << bit) >= wanted)
            threshold |= 1u << bit;
    *ties = wanted - (threshold == UINT32_MAX ? 0 : count_at_least(problem, scores, begin, end, threshold + 1));
    return threshold;
}

/* Writes the `kept` positions of one row of `length` scores, scores[0] being position 0. */
static void select_row(const hattn_problem *problem, const void *scores, int64_t length, int64_t kept, int32_t *indices)
{
    int64_t begin = problem->num_sink < length ? problem->num_sink : length;
    int64_t end = length - problem->num_recent > begin ? length - problem->num_recent : begin;
    int64_t wanted = kept - (length - (end - begin));
    int64_t ties;
    const uint32_t threshold = hattn_reference_threshold(problem, scores, begin, end, wanted, &ties);
    for (int64_t j = 0; j < length; j++) {
        int chosen = j < begin || j >= end;
        if (!chosen) {
            uint32_t key = order(problem, scores, j);
            chosen = key > threshold || (key == threshold && ties-- > 0);
        }
        if (chosen)
            *indices++ = (int32_t)j;
    }
}

/* min(n, max(B, num_sink + num_recent)), B clamped to 0..k. */
static int64_t num_kept(const hattn_problem *problem, const int32_t *budgets, int64_t sequence, int64_t s,
                        int64_t length)
{
    int64_t budget = problem->k, forced = (int64_t)problem->num_sink + problem->num_recent;
    if (budgets && sequence >= 0)
        budget = budgets[sequence * problem->budgets.stride[0] + s * problem->budgets.stride[1]];
    budget = budget < 0 ? 0 : budget > problem->k ? problem->k : budget;
    budget = budget > forced ? budget : forced;
    return budget < length ? budget : length;
}

/* One row's scores, all of positions that are not forced. */
typedef struct middle {
    const uint16_t *scores; /* of position 0 */
    int64_t begin, end;
    uint32_t largest; /* score */
    int64_t step;
    uint64_t sum; /* Z */
} middle;

uint64_t hattn_reference_share(int64_t distance, int64_t step)
{
    const int64_t e = distance * step;
    return e >> 10 > 30 ? 0 : (uint64_t)floor(exp2(30 - (double)(e >> 4 & 63) / 64)) >> (e >> 10);
}

static uint64_t share(const middle *m, uint32_t score)
{
    return hattn_reference_share(m->largest - (int64_t)score, m->step);
}

uint64_t hattn_reference_sum(const uint16_t *scores, int64_t begin, int64_t end, uint32_t largest, int64_t bound,
                             int64_t step)
{
    uint64_t exact = 0, sampled = 0;
    for (int64_t j = begin; j < end; j++) {
        if (scores[j] > bound)
            exact += hattn_reference_share(largest - (int64_t)scores[j], step);
        else if (j % 61 == 0)
            sampled += hattn_reference_share(largest - (int64_t)scores[j], step);
    }
    return exact + 61 * sampled;
}

/* Whether share * 2^32 >= tau * sum. */
static int reaches(uint64_t share, uint64_t tau, uint64_t sum)
{
    const uint64_t low = tau * (sum & 0xffffffff), high = tau * (sum >> 32) + (low >> 32);
    return high >> 32 == 0 && share << 32 >= (high << 32 | (low & 0xffffffff));
}

/* What the `kept` positions of a budget say of a row. */
static middle look(const hattn_problem *problem, const uint16_t *scores, int64_t length, int64_t kept, int64_t step,
                   const int32_t *indices)
{
    middle m = {.scores = scores, .begin = problem->num_sink, .end = length - problem->num_recent, .step = step};
    int64_t bound = UINT16_MAX;
    for (int64_t j = m.begin; j < m.end; j++)
        m.largest = scores[j] > m.largest ? scores[j] : m.largest;
    for (int64_t i = problem->num_sink; i < kept - problem->num_recent; i++)
        bound = scores[indices[i]] < bound ? scores[indices[i]] : bound;
    m.sum = hattn_reference_sum(scores, m.begin, m.end, m.largest, kept < length ? bound : -1, step);
    return m;
}

/* How many of `kept` positions, the budget's, a floor leaves. */
static int64_t num_above_floor(const hattn_problem *problem, const middle *m, int64_t kept, const int32_t *indices)
{
    const int64_t least = problem->min_k < kept ? problem->min_k : kept;
    const uint64_t tau = (uint64_t)rint(problem->min_probability * 0x1p32);
    int64_t above = (int64_t)problem->num_sink + problem->num_recent;
    for (int64_t i = problem->num_sink; i < kept - problem->num_recent; i++)
        above += reaches(share(m, m->scores[indices[i]]), tau, m->sum);
    return above > least ? above : least;
}

/* Shares of the positions that are kept, and what is left of the sum; m NULL: all of them 0. */
static void store_shares(const hattn_problem *problem, const middle *m, int64_t kept, const int32_t *indices,
                         uint32_t *shares, int64_t *rest)
{
    uint64_t least = UINT64_MAX, sum = 0;
    int64_t num_near = 0;
    for (int64_t i = 0; i < problem->k; i++)
        shares[i] = 0;
    *rest = 0;
    if (!m)
        return;
    const int64_t end = kept - problem->num_recent;
    for (int64_t i = problem->num_sink; i < end; i++) {
        const uint64_t own = share(m, m->scores[indices[i]]);
        least = own > 0 && own < least ? own : least;
        sum += own;
        shares[i] = (uint32_t)own;
    }
    for (int64_t i = problem->num_sink; i < end; i++)
        num_near += shares[i] > 0 && shares[i] < 4 * least;
    for (int64_t i = problem->num_sink; i < end; i++)
        if (shares[i] > 0 && (shares[i] < 4 * least || num_near < 8))
            shares[i] |= 1u << 31;
    *rest = m->sum > sum ? (int64_t)(m->sum - sum) : 0;
}

/* Of a row whose budget keeps `kept` positions; returns how many. */
static int64_t select_by_scores(const hattn_problem *problem, const hattn_topk_args *args, int64_t row, int64_t s,
                                const void *scores, int64_t length, int64_t kept, int32_t *indices)
{
    const int32_t *steps = hattn_reference_address(args->steps);
    uint32_t *shares = hattn_reference_address(args->shares);
    int64_t *rests = hattn_reference_address(args->rests);
    middle m = {0};
    const int is_ranked = kept > (int64_t)problem->num_sink + problem->num_recent;
    select_row(problem, scores, length, kept, indices);
    if (steps && is_ranked)
        m = look(problem, (const uint16_t *)scores, length, kept,
                 steps[row * problem->steps.stride[0] + s * problem->steps.stride[1]], indices);
    if (problem->min_probability > 0 && is_ranked) {
        kept = num_above_floor(problem, &m, kept, indices);
        select_row(problem, scores, length, kept, indices);
    }
    if (shares)
        store_shares(problem, is_ranked && kept < length ? &m : NULL, kept, indices,
                     shares + row * problem->shares.stride[0] + s * problem->shares.stride[1],
                     rests + row * problem->rests.stride[0] + s * problem->rests.stride[1]);
    return kept;
}

void hattn_reference_topk(const hattn_problem *problem, const hattn_topk_args *args)
{
    const int32_t *budgets = hattn_reference_address(args->budgets);
    int64_t score_size = problem->key_norms ? sizeof(float) : sizeof(uint16_t);
    for (int64_t row = 0; row < args->batch.num_rows; row++) {
        int64_t sequence;
        int64_t length = hattn_reference_row(problem, &args->batch, row, &sequence);
        for (int64_t s = 0; s < problem->num_selection_heads; s++) {
            const char *scores = (const char *)hattn_reference_address(args->scores) +
                                 (row * problem->scores.stride[0] + s * problem->scores.stride[1]) * score_size;
            int32_t *indices = (int32_t *)hattn_reference_address(args->indices) + row * problem->indices.stride[0] +
                               s * problem->indices.stride[1];
            int32_t *counts = hattn_reference_address(args->counts);
            int64_t kept = num_kept(problem, budgets, sequence, s, length);
            if (problem->num_candidates)
                kept = hattn_reference_select_by_heads(problem, args, row, s, sequence, length, kept, indices);
            else
                kept = select_by_scores(problem, args, row, s, scores, length, kept, indices);
            for (int64_t i = kept; i < problem->k; i++)
                indices[i] = -1;
            counts[row * problem->counts.stride[0] + s * problem->counts.stride[1]] = (int32_t)kept;
        }
    }
}
