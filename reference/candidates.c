/* SPDX-License-Identifier: Apache-2.0
 * Selections by scores per query head: api/hattn.h, hattn_topk, "With candidates". Everything of a candidate is computed again when it is
 * wanted, which needs no memory.
 */
#include "reference/internal.h"

#include <math.h>

enum { MOST_HEADS = 64 };

/* One row and selection head. */
typedef struct row {
    const hattn_problem *problem;
    const hattn_topk_args *args;
    const uint16_t *scores; /* of position 0 */
    int64_t sequence, code_head, length, begin, end;
    int64_t threshold, ties; /* candidates: scores above it, and the first `ties` that are it */
    int64_t group, first_head;
    const int8_t *weights[MOST_HEADS];
    int64_t step[MOST_HEADS], largest[MOST_HEADS];
    uint64_t sum[MOST_HEADS]; /* Z */
} row;

static int64_t head_score(const row *r, int64_t g, int64_t j)
{
    const uint32_t *codes = hattn_reference_address(r->args->codes);
    int64_t total;
    return hattn_reference_score_of(r->weights[g],
                                    codes + hattn_reference_key_offset(r->problem, &r->args->batch, &r->problem->codes,
                                                                       r->sequence, j, r->code_head),
                                    r->problem->code_bits, &total);
}

static uint64_t head_share(const row *r, int64_t g, int64_t j)
{
    return hattn_reference_share(r->largest[g] - head_score(r, g, j), r->step[g]);
}

static uint64_t probability(const row *r, int64_t j)
{
    uint64_t p = 0;
    for (int64_t g = 0; g < r->group; g++)
        p += head_share(r, g, j) * (((uint64_t)1 << 62) / r->sum[g]) >> 38;
    return p;
}

/* Of positions in rising order; *ties: those that are left. */
static int is_candidate(const row *r, int64_t j, int64_t *ties)
{
    return r->scores[j] > r->threshold || (r->scores[j] == r->threshold && (*ties)-- > 0);
}

static void look_at_heads(row *r)
{
    for (int64_t g = 0; g < r->group; g++) {
        r->largest[g] = 0;
        r->sum[g] = 0;
        int64_t ties = r->ties;
        for (int64_t j = r->begin; j < r->end; j++)
            if (is_candidate(r, j, &ties)) {
                const int64_t score = head_score(r, g, j);
                r->largest[g] = score > r->largest[g] ? score : r->largest[g];
            }
        ties = r->ties;
        for (int64_t j = r->begin; j < r->end; j++)
            if (is_candidate(r, j, &ties))
                r->sum[g] += head_share(r, g, j);
    }
}

static int64_t count_at_least(const row *r, uint64_t bound)
{
    int64_t count = 0, ties = r->ties;
    for (int64_t j = r->begin; j < r->end; j++)
        count += is_candidate(r, j, &ties) && probability(r, j) >= bound;
    return count;
}

/* The least probability among the `wanted` best, and how many that have it are: digit by digit. */
static uint64_t least_probability(const row *r, int64_t wanted, int64_t *ties)
{
    uint64_t least = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t counts[256] = {0}, left = r->ties;
        int digit = 255;
        for (int64_t j = r->begin; j < r->end; j++)
            if (is_candidate(r, j, &left)) {
                const uint64_t p = probability(r, j) >> shift;
                if (p >> 8 == least)
                    counts[p & 255]++;
            }
        for (; digit > 0 && counts[digit] < wanted; digit--)
            wanted -= counts[digit];
        least = least << 8 | (uint64_t)digit;
    }
    *ties = wanted;
    return least;
}

/* How many of the `wanted` best reach the floor; least: the last one's probability. */
static int64_t num_above_floor(const row *r, int64_t wanted, uint64_t least)
{
    const uint64_t tau = (uint64_t)rint(r->problem->min_probability * 0x1p32) * (uint64_t)r->group,
                   floor = (tau + 255) / 256;
    return least >= floor ? wanted : count_at_least(r, floor);
}

/* The list of the `wanted` best, forced positions around them. */
static void list_best(const row *r, int64_t wanted, int32_t *indices)
{
    int64_t ties = 0, candidate_ties = r->ties;
    const uint64_t least = wanted > 0 ? least_probability(r, wanted, &ties) : UINT64_MAX;
    for (int64_t j = 0; j < r->length; j++) {
        int is_kept = j < r->begin || j >= r->end;
        if (!is_kept && is_candidate(r, j, &candidate_ties) && wanted > 0) {
            const uint64_t p = probability(r, j);
            is_kept = p > least || (p == least && ties-- > 0);
        }
        if (is_kept)
            *indices++ = (int32_t)j;
    }
}

/* 19 of a rest's own size at most, in 2^-8: what the candidates have left out, by the summed scores. indices: the list's positions that are
 * not forced. */
static uint64_t factor_outside(const row *r, int64_t step, const int32_t *indices, int64_t count)
{
    uint32_t largest = 0;
    uint64_t of_candidates = 0, inside = 0;
    int64_t ties = r->ties, num_candidates = 0;
    for (int64_t j = r->begin; j < r->end; j++)
        largest = r->scores[j] > largest ? r->scores[j] : largest;
    for (int64_t j = r->begin, i = 0; j < r->end; j++) {
        if (!is_candidate(r, j, &ties))
            continue;
        const uint64_t share = hattn_reference_share(largest - (int64_t)r->scores[j], step);
        const int is_kept = i < count && indices[i] == j;
        num_candidates++;
        of_candidates += share;
        inside += is_kept ? 0 : share;
        i += is_kept;
    }
    const uint64_t all = hattn_reference_sum(r->scores, r->begin, r->end, largest,
                                             num_candidates < r->end - r->begin ? r->threshold : -1, step),
                   outside = all > of_candidates ? all - of_candidates : 0;
    if (inside == 0)
        return 0;
    return outside * 256 / inside < 19 * 256 ? outside * 256 / inside : 19 * 256;
}

/* r NULL: all of them 0. */
static void store_shares(const hattn_problem *problem, const hattn_topk_args *args, const row *r, int64_t row_index,
                         int64_t s, const int32_t *indices, int64_t kept)
{
    const int64_t group = problem->num_q_heads / problem->num_selection_heads, begin = problem->num_sink,
                  end = kept - problem->num_recent;
    const int32_t *steps = hattn_reference_address(args->steps);
    uint64_t least = UINT64_MAX, factor = 0;
    int64_t num_near = 0;
    for (int64_t i = begin; r && i < end; i++) {
        const uint64_t p = probability(r, indices[i]);
        least = p > 0 && p < least ? p : least;
    }
    for (int64_t i = begin; r && i < end; i++) {
        const uint64_t p = probability(r, indices[i]);
        num_near += p > 0 && p < 4 * least;
    }
    if (r)
        factor = factor_outside(r, steps[row_index * problem->steps.stride[0] + s * problem->steps.stride[1]],
                                indices + begin, end - begin);
    for (int64_t g = 0; g < group; g++) {
        const int64_t h = s * group + g;
        uint32_t *shares = (uint32_t *)hattn_reference_address(args->shares) + row_index * problem->shares.stride[0] +
                           h * problem->shares.stride[1];
        int64_t *rest = (int64_t *)hattn_reference_address(args->rests) + row_index * problem->rests.stride[0] +
                        h * problem->rests.stride[1];
        uint64_t sum = 0;
        for (int64_t i = 0; i < problem->k; i++)
            shares[i] = 0;
        for (int64_t i = begin; r && i < end; i++) {
            const uint64_t share = head_share(r, g, indices[i]), p = probability(r, indices[i]);
            sum += share;
            shares[i] = (uint32_t)share;
            if (share > 0 && p > 0 && (p < 4 * least || num_near < 8))
                shares[i] |= 1u << 31;
        }
        const uint64_t own = r ? r->sum[g] - sum : 0;
        *rest = (int64_t)(own + (own * factor >> 8));
    }
}

int64_t hattn_reference_select_by_heads(const hattn_problem *problem, const hattn_topk_args *args, int64_t row_index,
                                        int64_t s, int64_t sequence, int64_t length, int64_t kept, int32_t *indices)
{
    row r = {.problem = problem, .args = args, .sequence = sequence, .length = length};
    const int64_t forced = (int64_t)problem->num_sink + problem->num_recent;
    r.scores = (const uint16_t *)hattn_reference_address(args->scores) + row_index * problem->scores.stride[0] +
               s * problem->scores.stride[1];
    r.begin = problem->num_sink < length ? problem->num_sink : length;
    r.end = length - problem->num_recent > r.begin ? length - problem->num_recent : r.begin;
    r.code_head = s * problem->num_code_heads / problem->num_selection_heads;
    r.group = problem->num_q_heads / problem->num_selection_heads;
    const int is_ranked = kept > forced && (kept < length || problem->min_probability > 0);
    if (is_ranked) {
        const int64_t most = r.end - r.begin;
        r.threshold =
            hattn_reference_threshold(problem, r.scores, r.begin, r.end,
                                      problem->num_candidates < most ? problem->num_candidates : most, &r.ties);
        for (int64_t g = 0; g < r.group; g++) {
            const int64_t h = s * r.group + g;
            r.weights[g] = (const int8_t *)hattn_reference_address(args->head_weights) +
                           row_index * problem->head_weights.stride[0] + h * problem->head_weights.stride[1];
            r.step[g] = ((const int32_t *)hattn_reference_address(
                args->head_steps))[row_index * problem->head_steps.stride[0] + h * problem->head_steps.stride[1]];
        }
        look_at_heads(&r);
    }
    if (is_ranked && problem->min_probability > 0) {
        int64_t ties;
        const int64_t above = num_above_floor(&r, kept - forced, least_probability(&r, kept - forced, &ties)) + forced,
                      least = problem->min_k < kept ? problem->min_k : kept;
        kept = above > least ? above : least;
    }
    if (is_ranked)
        list_best(&r, kept - forced, indices);
    else
        for (int64_t j = 0, i = 0; j < length; j++)
            if (kept == length || j < r.begin || j >= r.end)
                indices[i++] = (int32_t)j;
    if (args->shares.data)
        store_shares(problem, args, is_ranked && kept < length ? &r : NULL, row_index, s, indices, kept);
    return kept;
}
