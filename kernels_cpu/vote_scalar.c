/* SPDX-License-Identifier: Apache-2.0
 * Shares of one query head's scores, and its probabilities added to the candidates' keys.
 */
#include "core/floor.h"
#include "kernels_cpu/kernels.h"

static const uint32_t factors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;

uint64_t hattn_vote_scalar(const uint16_t *scores, int n, int32_t step, uint32_t *shares, uint32_t *keys)
{
    uint32_t largest = 0;
    uint64_t sum = 0;
    for (int i = 0; i < n; i++)
        largest = scores[i] > largest ? scores[i] : largest;
    for (int i = 0; i < n; i++)
        sum += shares[i] = hattn_floor_share(largest - scores[i], step, factors);
    const uint64_t inverse = hattn_head_inverse(sum);
    for (int i = 0; keys && i < n; i++)
        keys[i] += hattn_head_probability(shares[i], inverse);
    return sum;
}
