/* SPDX-License-Identifier: Apache-2.0
 * Shares and probabilities of 8 candidates at a time, on what avx2.h or neon.h (included before) defines.
 */
#ifndef HATTN_KERNELS_CPU_VOTE_LANES_H
#define HATTN_KERNELS_CPU_VOTE_LANES_H

#include "core/floor.h"
#include "kernels_cpu/kernels.h"

HATTN_INLINE uint64_t vote(const uint16_t *scores, int n, int32_t step, uint32_t *shares, uint32_t *keys)
{
    static const uint32_t factors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
    const int whole = n & ~7;
    uint32_t largest = largest_u16(scores, whole);
    for (int i = whole; i < n; i++)
        largest = scores[i] > largest ? scores[i] : largest;
    u64v sums = u64v_zero();
    for (int i = 0; i < whole; i += 8)
        shares_u16x8(shares + i, scores + i, largest, step, factors, &sums);
    uint64_t sum = u64v_sum(sums);
    for (int i = whole; i < n; i++)
        sum += shares[i] = hattn_floor_share(largest - scores[i], step, factors);
    if (!keys)
        return sum;
    const uint64_t inverse = hattn_head_inverse(sum);
    for (int i = 0; i < whole; i += 8)
        add_probabilities_u32x8(keys + i, shares + i, inverse);
    for (int i = whole; i < n; i++)
        keys[i] += hattn_head_probability(shares[i], inverse);
    return sum;
}

#endif
