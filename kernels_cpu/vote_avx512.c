/* SPDX-License-Identifier: Apache-2.0
 * Shares and probabilities of 16 candidates at a time. The table of factors is four registers; a shift by more than 31 gives 0.
 */
#include "core/floor.h"
#include "kernels_cpu/avx512.h"
#include "kernels_cpu/kernels.h"

enum { UPPER_FACTORS = 32 };

static const uint32_t factors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;

static uint32_t largest_of(const uint16_t *scores, int n)
{
    __m512i largest = _mm512_setzero_si512();
    int i = 0;
    for (; i + 32 <= n; i += 32)
        largest = _mm512_max_epu16(largest, _mm512_loadu_si512(scores + i));
    largest = _mm512_max_epu16(largest, _mm512_maskz_loadu_epi16(hattn_mask32(n - i), scores + i));
    largest =
        _mm512_max_epu32(_mm512_srli_epi32(largest, 16), _mm512_and_si512(largest, _mm512_set1_epi32(UINT16_MAX)));
    return _mm512_reduce_max_epu32(largest);
}

typedef struct share_maker {
    __m512i largest, step, table[4], upper;
} share_maker;

HATTN_INLINE __m512i shares_of(const share_maker *m, __m256i scores)
{
    const __m512i distance = _mm512_sub_epi32(m->largest, _mm512_cvtepu16_epi32(scores)),
                  e = _mm512_mullo_epi32(distance, m->step), place = _mm512_srli_epi32(e, 4);
    const __m512i factor = _mm512_mask_blend_epi32(_mm512_test_epi32_mask(place, m->upper),
                                                   _mm512_permutex2var_epi32(m->table[0], place, m->table[1]),
                                                   _mm512_permutex2var_epi32(m->table[2], place, m->table[3]));
    return _mm512_srlv_epi32(factor, _mm512_srli_epi32(e, 10));
}

HATTN_INLINE __m512i add_halves(__m512i sums, __m512i shares)
{
    const __m512i low_half = _mm512_set1_epi64(UINT32_MAX);
    return _mm512_add_epi64(sums, _mm512_add_epi64(_mm512_and_si512(shares, low_half), _mm512_srli_epi64(shares, 32)));
}

static uint64_t make_shares(const uint16_t *scores, int n, int32_t step, uint32_t *shares)
{
    share_maker m = {.largest = _mm512_set1_epi32((int)largest_of(scores, n)),
                     .step = _mm512_set1_epi32(step),
                     .upper = _mm512_set1_epi32(UPPER_FACTORS)};
    for (int i = 0; i < 4; i++)
        m.table[i] = _mm512_loadu_si512(factors + 16 * i);
    __m512i sums = _mm512_setzero_si512();
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m512i low = shares_of(&m, _mm256_loadu_si256((const __m256i *)(scores + i))),
                      high = shares_of(&m, _mm256_loadu_si256((const __m256i *)(scores + i + 16)));
        _mm512_storeu_si512(shares + i, low);
        _mm512_storeu_si512(shares + i + 16, high);
        sums = add_halves(sums, _mm512_add_epi32(low, high)); /* two shares fit 32 bits */
    }
    for (; i + 16 <= n; i += 16) {
        const __m512i share = shares_of(&m, _mm256_loadu_si256((const __m256i *)(scores + i)));
        _mm512_storeu_si512(shares + i, share);
        sums = add_halves(sums, share);
    }
    const __mmask16 rest = hattn_mask16(n - i);
    const __m512i share = _mm512_maskz_mov_epi32(rest, shares_of(&m, _mm256_maskz_loadu_epi16(rest, scores + i)));
    _mm512_mask_storeu_epi32(shares + i, rest, share);
    return (uint64_t)_mm512_reduce_add_epi64(add_halves(sums, share));
}

/* Products are below 2^62: the upper 24 bits of an even lane's lie in its upper half, and so do those of an odd one's, where
 * they go. */
HATTN_INLINE __m512i probabilities_of(__m512i shares, __m512i inverse)
{
    const __m512i even = _mm512_mul_epu32(shares, inverse),
                  odd = _mm512_mul_epu32(_mm512_srli_epi64(shares, 32), inverse);
    return _mm512_mask_srli_epi32(_mm512_srli_epi64(even, 38), 0xaaaa, odd, 6);
}

/* inverse below 2^32 */
static void add_probabilities(const uint32_t *shares, int n, uint64_t inverse, uint32_t *keys)
{
    const __m512i factor = _mm512_set1_epi64((int64_t)inverse);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i p = probabilities_of(_mm512_loadu_si512(shares + i), factor);
        _mm512_storeu_si512(keys + i, _mm512_add_epi32(_mm512_loadu_si512(keys + i), p));
    }
    const __mmask16 rest = hattn_mask16(n - i);
    const __m512i p = probabilities_of(_mm512_maskz_loadu_epi32(rest, shares + i), factor);
    _mm512_mask_storeu_epi32(keys + i, rest, _mm512_add_epi32(_mm512_maskz_loadu_epi32(rest, keys + i), p));
}

uint64_t hattn_vote_avx512(const uint16_t *scores, int n, int32_t step, uint32_t *shares, uint32_t *keys)
{
    const uint64_t sum = make_shares(scores, n, step, shares);
    if (!keys)
        return sum;
    const uint64_t inverse = hattn_head_inverse(sum);
    if (inverse <= UINT32_MAX)
        add_probabilities(shares, n, inverse, keys);
    else /* one candidate has all */
        for (int i = 0; i < n; i++)
            keys[i] += hattn_head_probability(shares[i], inverse);
    return sum;
}
