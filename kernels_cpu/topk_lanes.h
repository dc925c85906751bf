/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k by counting with compares:
 * 1. A sample of the keys gives a lower bound that nearly always leaves a few more than k candidates.
 * 2. One pass keeps the candidates: 64 keys become a mask, whose set bits become positions. Whenever there are far more
 *    than k, they are trimmed to the k best, and only larger keys pass from there on: ties at the bound do not pile up.
 * 3. Trimming finds the k-th largest key of the candidates by bisection, where one step counts 8 keys with a compare,
 *    and keeps those above it, and of its equals the first ones.
 * Too few candidates in step 2: a lower bound, in the end none.
 */
#ifndef HATTN_KERNELS_CPU_TOPK_LANES_H
#define HATTN_KERNELS_CPU_TOPK_LANES_H

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/scalar.h"

enum {
    BLOCK = 64,      /* keys of one mask */
    COUNT_STEP = 16, /* keys that count_at_least_u32 and largest_u32 take at once */
    MIN_SAMPLE = 256,
    MAX_SAMPLE = 2048,
    SAMPLE_SHARE = 32, /* n / 32: at n = 32768, k = 512 the bound's count is right to +- 25 %, 1 standard deviation */
    SAMPLE_RUN = 8,    /* neighbours in a sample: short, for scores of neighbours are alike */
    ALL_BELOW = 2 * MIN_SAMPLE /* as few keys are all candidates: bisecting them costs less than sampling */
};

#define LOWEST_NUMBER 0x007fffffu /* -inf as an ordered key */

/* One of them is NULL, known when the kernel is compiled: each has loops of its own. */
typedef struct topk_keys {
    const uint16_t *scores;
    const float *floats;
    int n;
} topk_keys;

/* The order of floats as unsigned integers: NaN 0, then -inf ... -0 = +0 ... +inf. */
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
    for (; n % COUNT_STEP; n++)
        keys[n] = 0;
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
        if (count == k)
            return middle - 1;
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
    int wanted = keys->n / SAMPLE_SHARE, num_samples = 0;
    wanted = wanted < MIN_SAMPLE ? MIN_SAMPLE : wanted > MAX_SAMPLE ? MAX_SAMPLE : wanted;
    const int64_t step = (int64_t)(keys->n / wanted) * SAMPLE_RUN;
    for (int64_t j = 0; num_samples < wanted; j += step) {
        if (keys->scores) {
            ordered_u16x8(sample + num_samples, keys->scores + j);
        } else {
            ordered_f32x8(sample + num_samples, keys->floats + j);
        }
        num_samples += SAMPLE_RUN;
    }
    return num_samples;
}

/* Bit i: key j + i is >= bound, of 32 keys. */
HATTN_INLINE uint32_t mask_at_least(const topk_keys *keys, int j, uint32_t bound)
{
    if (keys->scores)
        return mask_at_least_u16(keys->scores + j, (uint16_t)bound);
    if (bound == 0)
        return UINT32_MAX; /* NaN too */
    return mask_at_least_f32(keys->floats + j, float_of_ordered(bound < LOWEST_NUMBER ? LOWEST_NUMBER : bound));
}

/* Bits of the mask as positions from j on. Few are set as a rule: four are written without looking. */
HATTN_INLINE int append_positions(uint64_t mask, int j, int32_t *positions)
{
    const int count = __builtin_popcountll(mask);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        positions[i] = j + __builtin_ctzll(mask | (uint64_t)1 << 63); /* of 0: anything, without a branch */
        mask &= mask - 1;
    }
    for (int i = 4; i < count; i++) {
        positions[i] = j + __builtin_ctzll(mask);
        mask &= mask - 1;
    }
    return count;
}

/* Candidates so far: positions rising; the first num_keyed have their keys beside them. All keys that were not taken
 * are smaller than k of those that were, or equal to the last of these and behind it. */
typedef struct candidates {
    int32_t *positions;
    uint32_t *keys;
    int num, num_keyed;
} candidates;

/* The k best candidates, their positions plus `first` to out, which may be the candidates'; returns the smallest
 * key. All are >= low. */
HATTN_INLINE uint32_t trim(const topk_keys *keys, candidates *c, int k, uint32_t low, int32_t first, int32_t *out)
{
    for (int i = c->num_keyed; i < c->num; i++)
        c->keys[i] = ordered_at(keys, c->positions[i]);
    uint32_t threshold = c->num == k ? 0 : kth_largest(c->keys, c->num, k, low);
    int padded = pad_keys(c->keys, c->num);
    int equals_left = k - (threshold == UINT32_MAX ? 0 : count_at_least_u32(c->keys, padded, threshold + 1));
    int last_equal = 0, num_out = 0, i = 0; /* up to there equals are kept */
    for (; equals_left > 0; last_equal++)
        equals_left -= c->keys[last_equal] == threshold;
    for (; i < last_equal; i++) {
        out[num_out] = first + c->positions[i];
        c->keys[num_out] = c->keys[i];
        num_out += c->keys[i] >= threshold;
    }
    for (; num_out < k; i++) {
        out[num_out] = first + c->positions[i];
        c->keys[num_out] = c->keys[i];
        num_out += c->keys[i] > threshold;
    }
    c->num = c->num_keyed = k;
    return threshold;
}

/* Everything >= bound, or the better part of it with at least k keys. */
HATTN_INLINE void collect(const topk_keys *keys, int k, uint32_t bound, candidates *c)
{
    const int64_t limit = hattn_topk_limit(k);
    const uint32_t highest = keys->scores ? UINT16_MAX : UINT32_MAX;
    c->num = c->num_keyed = 0;
    int j = 0;
    for (; j + BLOCK <= keys->n; j += BLOCK) {
        const uint64_t mask = mask_at_least(keys, j, bound) | (uint64_t)mask_at_least(keys, j + BLOCK / 2, bound) << 32;
        c->num += append_positions(mask, j, c->positions + c->num);
        if (c->num > limit) {
            const uint32_t threshold = trim(keys, c, k, bound, 0, c->positions);
            if (threshold == highest)
                return;
            bound = threshold + 1; /* k keys before are as good as the threshold */
        }
    }
    for (; j < keys->n; j++) {
        c->positions[c->num] = j;
        c->num += ordered_at(keys, j) >= bound;
    }
}

HATTN_INLINE void topk(const topk_keys *keys, int k, int32_t first, int32_t *out, const hattn_topk_scratch *scratch)
{
    int num_samples = keys->n > ALL_BELOW ? sample_keys(keys, scratch->histogram) : 0;
    /* As many of the sample as would be k of all, and 3 standard deviations more. */
    double expected = (double)k * num_samples / keys->n, wanted = expected + 3.0 * __builtin_sqrt(expected) + 1.0;
    candidates c = {scratch->positions, scratch->keys, 0, 0};
    uint32_t bound;
    do {
        bound = wanted < num_samples ? kth_largest(scratch->histogram, num_samples, (int)wanted, 0) : 0;
        collect(keys, k, bound, &c);
        wanted *= 4;
    } while (c.num < k);
    trim(keys, &c, k, bound, first, out);
}

#endif
