/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k by counting with compares:
 * 1. A sample of the keys gives a lower bound that nearly always leaves a few more than k candidates.
 * 2. One pass keeps the candidates: 32 keys become a mask, whose set bits become positions.
 * 3. The k-th largest key of the candidates by bisection, where one step counts 8 keys with a compare.
 * 4. One pass over the candidates keeps those above it, and of its equals the first ones.
 * Too few candidates in step 2: a lower bound, in the end none. Then all keys are candidates, and the time still grows as
 * n * (bits of a key), whatever the keys are.
 */
#ifndef HATTN_KERNELS_CPU_TOPK_LANES_H
#define HATTN_KERNELS_CPU_TOPK_LANES_H

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/scalar.h"

enum {
    BLOCK = 32,                /* keys of one mask */
    COUNT_STEP = 16,           /* keys that count_at_least_u32 and largest_u32 take at once */
    MAX_SAMPLE = 2048,         /* the bound's count is then right to +- 18 % at k = n / 64, 1 standard deviation */
    SAMPLE_RUN = 8,            /* neighbours in a sample: short, for scores of neighbours are alike */
    ALL_BELOW = 2 * MAX_SAMPLE /* as few keys are all candidates: bisecting them costs less than sampling */
};

/* One of them is NULL, known when the kernel is compiled: each has loops of its own. */
typedef struct topk_keys {
    const uint16_t *scores;
    const float *floats;
    int n;
} topk_keys;

/* NaN 0, then -inf ... -0 = +0 ... +inf. */
HATTN_INLINE uint32_t ordered_of_float(float key)
{
    uint32_t bits = hattn_bits_of_f32(key + 0.0f); /* -0 + 0 is +0 */
    return key != key ? 0 : bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000);
}

HATTN_INLINE float float_of_ordered(uint32_t ordered)
{
    return hattn_f32_of_bits(ordered >> 31 ? ordered ^ 0x80000000 : ~ordered);
}

HATTN_INLINE uint32_t ordered_at(const topk_keys *keys, int position)
{
    return keys->scores ? keys->scores[position] : ordered_of_float(keys->floats[position]);
}

/* Zeros up to a whole step: below every bound that is counted. */
HATTN_INLINE int pad_keys(uint32_t *keys, int n)
{
    for (; n % COUNT_STEP; n++) keys[n] = 0;
    return n;
}

/* The largest t with at least k of n keys >= t, or a smaller t with exactly k keys > t. All keys are >= low. */
HATTN_INLINE uint32_t kth_largest(uint32_t *keys, int n, int k, uint32_t low)
{
    int padded = pad_keys(keys, n);
    uint32_t high = largest_u32(keys, padded);
    while (low < high) {
        uint32_t middle = high - (high - low) / 2;
        int count = count_at_least_u32(keys, padded, middle);
        if (count == k) return middle - 1;
        if (count > k) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

HATTN_INLINE int sample_keys(const topk_keys *keys, uint32_t *sample)
{
    const int64_t step = (keys->n + (int64_t)MAX_SAMPLE - 1) / MAX_SAMPLE * SAMPLE_RUN;
    int num_samples = 0;
    for (int64_t j = 0; j + SAMPLE_RUN <= keys->n; j += step) {
        for (int i = 0; i < SAMPLE_RUN; i++) sample[num_samples++] = ordered_at(keys, (int)j + i);
    }
    return num_samples;
}

HATTN_INLINE uint32_t block_mask(const topk_keys *keys, int j, uint32_t bound)
{
    if (keys->scores) return mask_at_least_u16(keys->scores + j, (uint16_t)bound);
    return bound == 0 ? UINT32_MAX : mask_at_least_f32(keys->floats + j, float_of_ordered(bound)); /* 0: NaN too */
}

/* Bits of the mask as positions from j on. Few are set as a rule: four are written without looking. */
HATTN_INLINE int append_positions(uint32_t mask, int j, int32_t *positions)
{
    uint64_t bits = mask | (uint64_t)15 << 32;
    int count = __builtin_popcount(mask), i = 4;
#pragma GCC unroll 4
    for (int slot = 0; slot < 4; slot++) {
        positions[slot] = j + __builtin_ctzll(bits);
        bits &= bits - 1;
    }
    for (; i < count; i++) {
        positions[i] = j + __builtin_ctzll(bits);
        bits &= bits - 1;
    }
    return count;
}

/* Candidates' positions and keys into the scratch arrays; returns how many. */
HATTN_INLINE int collect_candidates(const topk_keys *keys, uint32_t bound, const hattn_topk_scratch *scratch)
{
    int num_found = 0, j = 0;
    for (; j + BLOCK <= keys->n; j += BLOCK) num_found += append_positions(block_mask(keys, j, bound), j, scratch->positions + num_found);
    for (; j < keys->n; j++) {
        scratch->positions[num_found] = j;
        num_found += ordered_at(keys, j) >= bound;
    }
    for (int i = 0; i < num_found; i++) scratch->keys[i] = ordered_at(keys, scratch->positions[i]);
    return num_found;
}

/* Of num_candidates those above the threshold, and of its equals as many as are needed for k. */
HATTN_INLINE void keep_best(const hattn_topk_scratch *scratch, int num_candidates, int k, uint32_t threshold, int32_t first, int32_t *out)
{
    int padded = pad_keys(scratch->keys, num_candidates);
    int equals_left = k - (threshold == UINT32_MAX ? 0 : count_at_least_u32(scratch->keys, padded, threshold + 1));
    for (int i = 0, num_out = 0; num_out < k; i++) {
        int equal = scratch->keys[i] == threshold;
        out[num_out] = first + scratch->positions[i];
        num_out += (scratch->keys[i] > threshold) | (equal & (equals_left > 0));
        equals_left -= equal;
    }
}

HATTN_INLINE void topk(const topk_keys *keys, int k, int32_t first, int32_t *out, const hattn_topk_scratch *scratch)
{
    int num_samples = keys->n > ALL_BELOW ? sample_keys(keys, scratch->histogram) : 0, num_candidates;
    /* As many of the sample as would be k of all, and 3 standard deviations more. */
    double expected = (double)k * num_samples / keys->n, wanted = expected + 3.0 * __builtin_sqrt(expected) + 1.0;
    uint32_t bound;
    do {
        bound = wanted < num_samples ? kth_largest(scratch->histogram, num_samples, (int)wanted, 0) : 0;
        num_candidates = collect_candidates(keys, bound, scratch);
        wanted *= 4;
    } while (num_candidates < k);
    uint32_t threshold = num_candidates == k ? 0 : kth_largest(scratch->keys, num_candidates, k, bound);
    keep_best(scratch, num_candidates, k, threshold, first, out);
}

#endif
