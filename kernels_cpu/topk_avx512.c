/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k without a histogram:
 * 1. A sample of the keys gives a lower bound that nearly always leaves a few more than k candidates.
 * 2. One pass keeps the candidates: positions by vpcompressw within a chunk, then their keys as u32. Whenever there are far
 *    more than k, they are trimmed to the k best, and only larger keys pass from there on: ties at the bound do not pile up.
 * 3. The k-th largest key of the candidates by bisection, where one step counts 16 keys with a compare.
 * 4. One pass over the candidates keeps those above it, and of its equals the first ones: trimming is 3 and 4.
 * Too few candidates in step 2: a lower bound, in the end none.
 */
#include "kernels_cpu/avx512.h"
#include "kernels_cpu/kernels.h"

enum {
    CHUNK = HATTN_TOPK_CHUNK, /* keys whose candidates are numbered in 16 bits: 8 KiB of stack */
    /* Keys. Zen 4, u16, n = 32768 and 131072, k = n / 64: 2.6 and 8.7 us; 1024: 2.6 and 9.5; 4096: 3.3 and 9.1. */
    MAX_SAMPLE = 2048,
    SAMPLE_RUN = 8,   /* neighbours in a sample: short, for scores of neighbours are alike */
    SAMPLE_STEP = 64, /* at least, from run to run: 4096 keys in 0.8 us, with twice the sample 1.2 */
    ALL_BELOW = 512   /* so few keys are all candidates, 1 ns each */
};

#define LOWEST_NUMBER 0x007fffffu /* -inf as an ordered key */

/* Both key types as unsigned integers of the same order. */
typedef struct topk_keys {
    int is_float; /* known when the kernels are compiled: each has loops of its own */
    const uint16_t *scores;
    const float *floats;
    int n;
} topk_keys;

/* NaN 0, then -inf ... -0 = +0 ... +inf. */
HATTN_INLINE __m512i ordered_floats(__m512 keys)
{
    __m512i bits = _mm512_castps_si512(_mm512_add_ps(keys, _mm512_setzero_ps())); /* -0 + 0 is +0 */
    __m512i flip = _mm512_or_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32((int)0x80000000));
    return _mm512_maskz_xor_epi32(_mm512_cmp_ps_mask(keys, keys, _CMP_ORD_Q), bits, flip);
}

static float float_of_ordered(uint32_t ordered)
{
    uint32_t bits = ordered >> 31 ? ordered ^ 0x80000000 : ~ordered;
    float key;
    memcpy(&key, &bits, sizeof key);
    return key;
}

HATTN_INLINE __m512i load_ordered(const topk_keys *keys, int first, __mmask16 mask)
{
    if (!keys->is_float)
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, keys->scores + first));
    return _mm512_maskz_mov_epi32(mask, ordered_floats(_mm512_maskz_loadu_ps(mask, keys->floats + first)));
}

/* Keys >= bound of a zero-padded array; bound > 0. */
static int count_at_least(const uint32_t *keys, int n, uint32_t bound)
{
    const __m512i bounds = _mm512_set1_epi32((int)bound), one = _mm512_set1_epi32(1);
    __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 32) {
        even = _mm512_mask_add_epi32(even, _mm512_cmpge_epu32_mask(_mm512_loadu_si512(keys + i), bounds), even, one);
        odd = _mm512_mask_add_epi32(odd, _mm512_cmpge_epu32_mask(_mm512_loadu_si512(keys + i + 16), bounds), odd, one);
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd));
}

/* Room for 32 keys after them. */
static void pad_keys(uint32_t *keys, int n)
{
    _mm512_storeu_si512(keys + n, _mm512_setzero_si512());
    _mm512_storeu_si512(keys + n + 16, _mm512_setzero_si512());
}

/* The largest t with at least k of n padded keys >= t, or a smaller t with exactly k keys > t. All keys are >= low. is_near: it is
 * looked for near low first. */
static uint32_t kth_largest(const uint32_t *keys, int n, int k, uint32_t low, int is_near)
{
    __m512i maxima = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 16)
        maxima = _mm512_max_epu32(maxima, _mm512_loadu_si512(keys + i));
    uint32_t high = _mm512_reduce_max_epu32(maxima);
    while (low < high) {
        uint32_t middle = is_near ? low + (high - low + 7) / 8 : high - (high - low) / 2;
        int count = count_at_least(keys, n, middle);
        if (count == k)
            return middle - 1;
        if (count > k) {
            low = middle;
            is_near = 0;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

HATTN_INLINE int sample_keys(const topk_keys *keys, uint32_t *sample)
{
    int64_t step = (keys->n + (int64_t)MAX_SAMPLE - 1) / MAX_SAMPLE * SAMPLE_RUN;
    if (step < SAMPLE_STEP)
        step = SAMPLE_STEP;
    int num_samples = 0;
    for (int64_t j = 0; j + SAMPLE_RUN <= keys->n; j += step) {
        _mm512_storeu_si512(sample + num_samples, load_ordered(keys, (int)j, hattn_mask16(SAMPLE_RUN)));
        num_samples += SAMPLE_RUN;
    }
    pad_keys(sample, num_samples);
    return num_samples;
}

/* Appends positions of keys >= bound within first..first+count-1, relative to first. */
HATTN_INLINE int chunk_candidates(const topk_keys *keys, int first, int count, uint32_t bound, uint16_t *positions)
{
    static const uint16_t lanes[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                       16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    const __m512i bounds = _mm512_set1_epi16((short)bound), step = _mm512_set1_epi16(32);
    const __m512 float_bounds = _mm512_set1_ps(float_of_ordered(bound));
    const __mmask32 nan_too = keys->is_float && bound == 0 ? 0xffffffff : 0;
    __m512i position = _mm512_loadu_si512(lanes);
    int num_found = 0;
    for (int j = 0; j < count; j += 32) {
        __mmask32 valid = hattn_mask32(count - j), kept;
        if (!keys->is_float) {
            kept =
                _mm512_mask_cmpge_epu16_mask(valid, _mm512_maskz_loadu_epi16(valid, keys->scores + first + j), bounds);
        } else {
            __mmask16 low_valid = (__mmask16)valid, high_valid = (__mmask16)(valid >> 16);
            __m512 low = _mm512_maskz_loadu_ps(low_valid, keys->floats + first + j);
            __m512 high = _mm512_maskz_loadu_ps(high_valid, keys->floats + first + j + 16);
            __mmask16 low_kept = _mm512_mask_cmp_ps_mask(low_valid, low, float_bounds, _CMP_GE_OQ);
            __mmask16 high_kept = _mm512_mask_cmp_ps_mask(high_valid, high, float_bounds, _CMP_GE_OQ);
            kept = _mm512_kunpackw(high_kept, low_kept) | (nan_too & valid);
        }
        _mm512_storeu_si512(positions + num_found, _mm512_maskz_compress_epi16(kept, position));
        num_found += _mm_popcnt_u32(kept);
        position = _mm512_add_epi16(position, step);
    }
    return num_found;
}

/* Positions and keys of a chunk's candidates behind those of the chunks before. */
HATTN_INLINE void append_found(const topk_keys *keys, int first, const uint16_t *found, int num_found,
                               const hattn_topk_scratch *scratch, int num_candidates)
{
    uint32_t *out = scratch->keys + num_candidates;
    for (int i = 0; i < num_found; i += 16) {
        __m512i position = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(found + i)));
        _mm512_storeu_si512(scratch->positions + num_candidates + i,
                            _mm512_add_epi32(position, _mm512_set1_epi32(first)));
    }
    for (int i = 0; i < num_found; i++) {
        if (!keys->is_float) {
            out[i] = keys->scores[first + found[i]];
        } else {
            memcpy(&out[i], keys->floats + first + found[i], sizeof *out);
        }
    }
    for (int64_t i = 0; keys->is_float && i < num_found; i += 16)
        _mm512_storeu_si512(out + i, ordered_floats(_mm512_loadu_ps(out + i)));
}

/* Of num_candidates those above the threshold, and of its equals as many as are needed for k: positions plus `first` to out,
 * which may be the candidates', and keys to the front of the candidates'. */
static void keep_best(const hattn_topk_scratch *scratch, int num_candidates, int k, uint32_t threshold, int32_t first,
                      int32_t *out)
{
    const __m512i thresholds = _mm512_set1_epi32((int)threshold), firsts = _mm512_set1_epi32(first);
    int equals_left = k - (threshold == UINT32_MAX ? 0 : count_at_least(scratch->keys, num_candidates, threshold + 1));
    for (int i = 0, num_out = 0; num_out < k; i += 16) {
        __mmask16 valid = hattn_mask16(num_candidates - i);
        __m512i keys = _mm512_loadu_si512(scratch->keys + i);
        __mmask16 kept = _mm512_mask_cmpgt_epu32_mask(valid, keys, thresholds);
        uint32_t equal = _mm512_mask_cmpeq_epu32_mask(valid, keys, thresholds);
        equal = _pdep_u32(equals_left >= 16 ? 0xffff : (1u << equals_left) - 1, equal); /* the first ones */
        equals_left -= _mm_popcnt_u32(equal);
        kept |= (__mmask16)equal;
        __m512i positions = _mm512_add_epi32(_mm512_loadu_si512(scratch->positions + i), firsts);
        _mm512_storeu_si512(out + num_out, _mm512_maskz_compress_epi32(kept, positions));
        _mm512_storeu_si512(scratch->keys + num_out, _mm512_maskz_compress_epi32(kept, keys));
        num_out += _mm_popcnt_u32(kept);
    }
}

/* The k best of the candidates, all of which are >= low; returns the smallest key that may be among them. */
static uint32_t trim(const hattn_topk_scratch *scratch, int num_candidates, int k, uint32_t low, int32_t first,
                     int32_t *out)
{
    pad_keys(scratch->keys, num_candidates);
    uint32_t threshold = num_candidates == k ? 0 : kth_largest(scratch->keys, num_candidates, k, low, 1);
    keep_best(scratch, num_candidates, k, threshold, first, out);
    return threshold;
}

/* Everything >= bound, or the better part of it with at least k keys; returns how many. */
HATTN_INLINE int collect_candidates(const topk_keys *keys, int k, uint32_t bound, const hattn_topk_scratch *scratch)
{
    uint16_t found[CHUNK + 32];
    const int64_t limit = hattn_topk_limit(k);
    int num_candidates = 0;
    for (int first = 0, count; first < keys->n; first += count) {
        count = keys->n - first < CHUNK ? keys->n - first : CHUNK;
        int num_found = chunk_candidates(keys, first, count, bound, found);
        append_found(keys, first, found, num_found, scratch, num_candidates);
        num_candidates += num_found;
        if (num_candidates <= limit || first + count == keys->n)
            continue;
        const uint32_t threshold = trim(scratch, num_candidates, k, bound, 0, scratch->positions);
        num_candidates = k;
        if (threshold == (keys->is_float ? UINT32_MAX : UINT16_MAX))
            break; /* nothing is larger, and equals come too late */
        bound = keys->is_float && threshold < LOWEST_NUMBER ? LOWEST_NUMBER : threshold + 1;
    }
    return num_candidates;
}

HATTN_INLINE void topk(const topk_keys *keys, int k, int32_t first, int32_t *out, const hattn_topk_scratch *scratch)
{
    int num_samples = keys->n > ALL_BELOW ? sample_keys(keys, scratch->histogram) : 0, num_candidates;
    /* As many of the sample as would be k of all, and 3 standard deviations more. */
    double expected = (double)k * num_samples / keys->n;
    double wanted = expected + 3.0 * __builtin_sqrt(expected) + 1.0;
    uint32_t bound;
    do {
        bound = wanted < num_samples ? kth_largest(scratch->histogram, num_samples, (int)wanted, 0, 0) : 0;
        num_candidates = collect_candidates(keys, k, bound, scratch);
        wanted *= 4;
    } while (num_candidates < k);
    trim(scratch, num_candidates, k, bound, first, out);
}

void hattn_topk_u16_avx512(const uint16_t *scores, int n, int k, uint32_t max_score, int32_t first, int32_t *out,
                           const hattn_topk_scratch *scratch)
{
    (void)max_score; /* bisection starts from the largest key that it finds */
    const topk_keys keys = {0, scores, NULL, n};
    topk(&keys, k, first, out, scratch);
}

void hattn_topk_f32_avx512(const float *floats, int n, int k, int32_t first, int32_t *out,
                           const hattn_topk_scratch *scratch)
{
    const topk_keys keys = {1, NULL, floats, n};
    topk(&keys, k, first, out, scratch);
}
