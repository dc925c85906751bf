/* SPDX-License-Identifier: Apache-2.0
 * Scores of all keys: integers, or one fp32 product where keys have norms.
 */
#include "reference/internal.h"

/* sum w_r code_r + (sum of |w_r| with w_r < 0), and the largest score there can be, sum |w_r|. */
int64_t hattn_reference_score_of(const int8_t *weights, const uint32_t *code, int num_bits, int64_t *total)
{
    int64_t score = 0;
    *total = 0;
    for (int r = 0; r < num_bits; r++) {
        int64_t weight = weights[r] < -127 ? -127 : weights[r];
        score += (code[r / 32] >> r % 32 & 1 ? weight : 0) + (weight < 0 ? -weight : 0);
        *total += weight < 0 ? -weight : weight;
    }
    return score;
}

void hattn_reference_score(const hattn_problem *problem, const hattn_score_args *args)
{
    const uint32_t *codes = hattn_reference_address(args->codes);
    const void *norms = hattn_reference_address(args->norms);
    void *scores = hattn_reference_address(args->scores);
    for (int64_t row = 0; row < args->batch.num_rows; row++) {
        int64_t sequence;
        int64_t length = hattn_reference_row(problem, &args->batch, row, &sequence);
        for (int64_t s = 0; s < problem->num_selection_heads; s++) {
            int64_t c = s * problem->num_code_heads / problem->num_selection_heads;
            const int8_t *weights = (const int8_t *)hattn_reference_address(args->weights) +
                                    row * problem->weights.stride[0] + s * problem->weights.stride[1];
            int64_t to = row * problem->scores.stride[0] + s * problem->scores.stride[1];
            for (int64_t j = 0; j < length; j++) {
                int64_t total, at = hattn_reference_key_offset(problem, &args->batch, &problem->codes, sequence, j, c);
                int64_t score = hattn_reference_score_of(weights, codes + at, problem->code_bits, &total);
                if (problem->key_norms) {
                    /* 17 bits times 11: the product is exact in double, the store is the one rounding. */
                    at = hattn_reference_key_offset(problem, &args->batch, &problem->norms, sequence, j, c);
                    double norm = hattn_reference_load(norms, HATTN_F16, at);
                    hattn_reference_store(scores, HATTN_F32, to + j, (double)(2 * score - total) * norm);
                } else {
                    ((uint16_t *)scores)[to + j] = (uint16_t)score;
                }
            }
        }
    }
}
