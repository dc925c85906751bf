/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k: the k-th largest key is found bit by bit by counting, which needs no memory.
 */
#include "reference/internal.h"

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

/* Writes the `kept` positions of one row of `length` scores, scores[0] being position 0. */
static void select_row(const hattn_problem *problem, const void *scores, int64_t length, int64_t kept, int32_t *indices)
{
    int64_t begin = problem->num_sink < length ? problem->num_sink : length;
    int64_t end = length - problem->num_recent > begin ? length - problem->num_recent : begin;
    int64_t wanted = kept - (length - (end - begin));
    uint32_t threshold = 0;
    for (int bit = problem->key_norms ? 31 : 15; bit >= 0; bit--)
        if (count_at_least(problem, scores, begin, end, threshold | 1u << bit) >= wanted)
            threshold |= 1u << bit;
    int64_t above = threshold == UINT32_MAX ? 0 : count_at_least(problem, scores, begin, end, threshold + 1);
    int64_t ties = wanted - above;
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
            select_row(problem, scores, length, kept, indices);
            for (int64_t i = kept; i < problem->k; i++)
                indices[i] = -1;
            counts[row * problem->counts.stride[0] + s * problem->counts.stride[1]] = (int32_t)kept;
        }
    }
}
