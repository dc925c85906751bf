/* SPDX-License-Identifier: Apache-2.0
 * AVX2's vectors: 8 floats, and bytes in two 16-byte lanes. neon.h has the same names; the kernels' bodies (f32x8.h,
 * *_f32x8.h, score_lanes.h, topk_lanes.h) are written once on them.
 */
#ifndef HATTN_KERNELS_CPU_AVX2_H
#define HATTN_KERNELS_CPU_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define HATTN_INLINE static inline __attribute__((always_inline))

/* ---- 8 floats ---- */

typedef __m256 f32x8;

HATTN_INLINE f32x8 f32x8_set(float value) { return _mm256_set1_ps(value); }
HATTN_INLINE f32x8 f32x8_load(const float *src) { return _mm256_loadu_ps(src); }
/* For several uses: gcc would make it a memory operand of each. */
HATTN_INLINE f32x8 f32x8_load_register(const float *src)
{
    f32x8 a = f32x8_load(src);
    __asm__("" : "+x"(a));
    return a;
}
HATTN_INLINE void f32x8_store(float *dst, f32x8 a) { _mm256_storeu_ps(dst, a); }
HATTN_INLINE f32x8 f32x8_add(f32x8 a, f32x8 b) { return _mm256_add_ps(a, b); }
HATTN_INLINE f32x8 f32x8_sub(f32x8 a, f32x8 b) { return _mm256_sub_ps(a, b); }
HATTN_INLINE f32x8 f32x8_mul(f32x8 a, f32x8 b) { return _mm256_mul_ps(a, b); }
HATTN_INLINE f32x8 f32x8_div(f32x8 a, f32x8 b) { return _mm256_div_ps(a, b); }
/* a * b + c */
HATTN_INLINE f32x8 f32x8_fma(f32x8 a, f32x8 b, f32x8 c) { return _mm256_fmadd_ps(a, b, c); }
/* Where a is NaN: b. */
HATTN_INLINE f32x8 f32x8_max(f32x8 a, f32x8 b) { return _mm256_max_ps(a, b); }
HATTN_INLINE f32x8 f32x8_abs(f32x8 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
HATTN_INLINE f32x8 f32x8_copysign(f32x8 magnitude, f32x8 sign)
{
    return _mm256_or_ps(f32x8_abs(magnitude), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
/* To an integer, ties to even. */
HATTN_INLINE f32x8 f32x8_round(f32x8 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a < b ? yes : no */
HATTN_INLINE f32x8 f32x8_select_less(f32x8 a, f32x8 b, f32x8 yes, f32x8 no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

/* a * 2^n; n an integer, |n| <= 250. In two steps: 2^n itself may be subnormal or infinite. */
HATTN_INLINE f32x8 f32x8_scale(f32x8 a, f32x8 n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i bias = _mm256_set1_epi32(127), rest = _mm256_sub_epi32(whole, half);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

HATTN_INLINE float f32x8_sum(f32x8 a)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Of numbers. */
HATTN_INLINE float f32x8_largest(f32x8 a)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* Lane i: the sum of the lanes of a[i]. */
HATTN_INLINE f32x8 f32x8_sums(const f32x8 *a)
{
    __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

/* Bit i: a[i] > 0. */
HATTN_INLINE unsigned f32x8_positive(f32x8 a)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ));
}

HATTN_INLINE f32x8 f32x8_load_f16(const void *src) { return _mm256_cvtph_ps(_mm_loadu_si128(src)); }
HATTN_INLINE void f32x8_store_f16(void *dst, f32x8 a)
{
    _mm_storeu_si128(dst, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

HATTN_INLINE f32x8 f32x8_load_bf16(const void *src)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(src)), 16));
}

HATTN_INLINE void f32x8_store_bf16(void *dst, f32x8 a)
{
    __m256i bits = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    __m256i halves = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    _mm_storeu_si128(dst, _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}

/* E4M3 divided by HATTN_F8_FACTOR: exponent and mantissa moved to fp16's places (bias 7 against 15; subnormals too).
 * The one NaN pattern would read as 1.875 and is raised to fp16's quiet NaN. */
HATTN_INLINE f32x8 f32x8_load_f8(const void *src)
{
    const __m128i largest = _mm_set1_epi16(0x3f80);
    __m128i halves = _mm_cvtepi8_epi16(_mm_loadl_epi64(src));
    halves = _mm_and_si128(_mm_slli_epi16(halves, 7), _mm_set1_epi16((short)0xbf80));
    __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(halves, largest), largest);
    halves = _mm_add_epi16(halves, _mm_and_si128(nan, _mm_set1_epi16(0x7e00 - 0x3f80)));
    return _mm256_cvtph_ps(halves);
}

/* rint(a * factor / divisor) in double. */
HATTN_INLINE f32x8 f32x8_round_quotient(f32x8 a, double factor, double divisor)
{
    const __m256d factors = _mm256_set1_pd(factor), divisors = _mm256_set1_pd(divisor);
    __m256d low = _mm256_div_pd(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)), factors), divisors);
    __m256d high = _mm256_div_pd(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)), factors), divisors);
    low = _mm256_round_pd(low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    high = _mm256_round_pd(high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
}

/* Integers within int8. */
HATTN_INLINE void f32x8_store_i8(int8_t *dst, f32x8 a)
{
    __m256i whole = _mm256_cvtps_epi32(a);
    __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)dst, _mm_packs_epi16(halves, halves));
}

/* 2 * scores[i] - max_score */
HATTN_INLINE f32x8 f32x8_centred_scores(const uint16_t *scores, uint32_t max_score)
{
    __m256i twice = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)scores)), 1);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(twice, _mm256_set1_epi32((int)max_score)));
}

/* ---- Bytes: U8V_LANES lanes of 16 ---- */

typedef __m256i u8v;
enum { U8V_LANES = 2 };

HATTN_INLINE u8v u8v_zero(void) { return _mm256_setzero_si256(); }
HATTN_INLINE u8v u8v_set(uint8_t byte) { return _mm256_set1_epi8((char)byte); }
/* 4 words into each lane: lane i from src + i * stride_lane words. */
HATTN_INLINE u8v u8v_load_lanes(const uint32_t *src, int64_t stride_lane)
{
    if (__builtin_constant_p(stride_lane) && stride_lane == 4)
        return _mm256_loadu_si256((const __m256i *)src);
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)src));
    return _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)(src + stride_lane)), 1);
}
/* The first `words` (1..3) words, the rest 0 and not touched. */
HATTN_INLINE u8v u8v_load_lanes_part(const uint32_t *src, int64_t stride_lane, int words)
{
    __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(words), _mm_setr_epi32(0, 1, 2, 3));
    __m128i low = _mm_maskload_epi32((const int *)src, mask),
            high = _mm_maskload_epi32((const int *)(src + stride_lane), mask);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
/* 16 bytes into every lane. */
HATTN_INLINE u8v u8v_repeat(const void *src) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(src)); }
HATTN_INLINE u8v u8v_xor(u8v a, u8v b) { return _mm256_xor_si256(a, b); }
HATTN_INLINE u8v u8v_and(u8v a, u8v b) { return _mm256_and_si256(a, b); }
HATTN_INLINE u8v u8v_add(u8v a, u8v b) { return _mm256_add_epi8(a, b); }
/* Bytes of the low (high) halves of the lanes, alternating. */
HATTN_INLINE u8v u8v_zip_low(u8v a, u8v b) { return _mm256_unpacklo_epi8(a, b); }
HATTN_INLINE u8v u8v_zip_high(u8v a, u8v b) { return _mm256_unpackhi_epi8(a, b); }
HATTN_INLINE u8v u8v_low_nibbles(u8v a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
HATTN_INLINE u8v u8v_high_nibbles(u8v a) { return u8v_low_nibbles(_mm256_srli_epi16(a, 4)); }
/* table[i] in each lane; i < 16. */
HATTN_INLINE u8v u8v_lookup(u8v table, u8v i) { return _mm256_shuffle_epi8(table, i); }

HATTN_INLINE u8v u8v_popcount(u8v a)
{
    const u8v counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2,
                                        3, 2, 3, 3, 4);
    return _mm256_add_epi8(_mm256_shuffle_epi8(counts, u8v_low_nibbles(a)),
                           _mm256_shuffle_epi8(counts, u8v_high_nibbles(a)));
}

/* The same register as u16. */
HATTN_INLINE u8v u16v_add(u8v a, u8v b) { return _mm256_add_epi16(a, b); }
HATTN_INLINE u8v u16v_sub(u8v a, u8v b) { return _mm256_sub_epi16(a, b); }
HATTN_INLINE u8v u16v_shift_left(u8v a, int bits) { return _mm256_sll_epi16(a, _mm_cvtsi32_si128(bits)); }
HATTN_INLINE u8v u16v_high_bytes(u8v a) { return _mm256_srli_epi16(a, 8); }
HATTN_INLINE u8v u16v_zip_low(u8v a, u8v b) { return _mm256_unpacklo_epi16(a, b); }
HATTN_INLINE u8v u16v_zip_high(u8v a, u8v b) { return _mm256_unpackhi_epi16(a, b); }

/* Keys of `words` words, 4 / words of them in a lane of each of 2 * words rows: 8 u16 sums of their bytes in each
 * lane. */
HATTN_INLINE u8v u8v_fold(const u8v *rows, int words)
{
    if (words == 1) {
        const u8v ones = _mm256_set1_epi8(1), wide_ones = _mm256_set1_epi16(1);
        u8v low = _mm256_madd_epi16(_mm256_maddubs_epi16(rows[0], ones), wide_ones);
        u8v high = _mm256_madd_epi16(_mm256_maddubs_epi16(rows[1], ones), wide_ones);
        return _mm256_packus_epi32(low, high);
    }
    u8v fours[4]; /* u16 sums of 8 bytes, 4 rows in 2 registers */
#pragma GCC unroll 4
    for (int i = 0; i < words; i++) {
        u8v even = _mm256_sad_epu8(rows[2 * i], _mm256_setzero_si256()),
            odd = _mm256_sad_epu8(rows[2 * i + 1], _mm256_setzero_si256());
        fours[i] = _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd), 0x88));
    }
    u8v low = _mm256_packus_epi32(fours[0], fours[1]);
    return words == 2 ? low : _mm256_hadd_epi16(low, _mm256_packus_epi32(fours[2], fours[3]));
}

/* The first 8 scores of each lane (a) and its last 8 (b). Lane i has keys 16 * i and up; with words, lanes take
 * turns after 4 / words keys. */
HATTN_INLINE void u16v_store_scores(uint16_t *scores, u8v a, u8v b, int words)
{
    u8v low = _mm256_permute2x128_si256(a, b, 0x20), high = _mm256_permute2x128_si256(a, b, 0x31);
    if (words) {
        u8v first = words == 4   ? _mm256_unpacklo_epi16(low, high)
                    : words == 2 ? _mm256_unpacklo_epi32(low, high)
                                 : _mm256_unpacklo_epi64(low, high);
        u8v second = words == 4   ? _mm256_unpackhi_epi16(low, high)
                     : words == 2 ? _mm256_unpackhi_epi32(low, high)
                                  : _mm256_unpackhi_epi64(low, high);
        low = _mm256_permute2x128_si256(first, second, 0x20);
        high = _mm256_permute2x128_si256(first, second, 0x31);
    }
    _mm256_storeu_si256((__m256i *)scores, low);
    _mm256_storeu_si256((__m256i *)(scores + 16), high);
}

/* ---- Keys of top-k ---- */

/* Bit i: keys[i] >= bound, of 32 keys. */
HATTN_INLINE uint32_t mask_at_least_u16(const uint16_t *keys, uint16_t bound)
{
    const __m256i bounds = _mm256_set1_epi16((short)bound);
    __m256i a = _mm256_loadu_si256((const __m256i *)keys), b = _mm256_loadu_si256((const __m256i *)(keys + 16));
    a = _mm256_cmpeq_epi16(_mm256_max_epu16(a, bounds), a);
    b = _mm256_cmpeq_epi16(_mm256_max_epu16(b, bounds), b);
    return (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8));
}

HATTN_INLINE uint32_t mask_at_least_f32(const float *keys, float bound)
{
    const __m256 bounds = _mm256_set1_ps(bound);
    uint32_t mask = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        mask |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(keys + 8 * i), bounds, _CMP_GE_OQ)) << 8 * i;
    return mask;
}

/* 8 keys as unsigned integers of the same order: topk_lanes.h, ordered_of_float. */
HATTN_INLINE void ordered_u16x8(uint32_t *dst, const uint16_t *keys)
{
    _mm256_storeu_si256((__m256i *)dst, _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)keys)));
}

HATTN_INLINE void ordered_f32x8(uint32_t *dst, const float *keys)
{
    const __m256 values = _mm256_add_ps(_mm256_loadu_ps(keys), _mm256_setzero_ps());
    const __m256i bits = _mm256_castps_si256(values),
                  numbers = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_ORD_Q));
    const __m256i flip = _mm256_or_si256(_mm256_srai_epi32(bits, 31), _mm256_set1_epi32((int)0x80000000));
    _mm256_storeu_si256((__m256i *)dst, _mm256_and_si256(_mm256_xor_si256(bits, flip), numbers));
}

/* How many of n keys, a multiple of 16, are >= bound. */
HATTN_INLINE int count_at_least_u32(const uint32_t *keys, int n, uint32_t bound)
{
    const __m256i bounds = _mm256_set1_epi32((int)bound);
    __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 16) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(keys + i)),
                b = _mm256_loadu_si256((const __m256i *)(keys + i + 8));
        even = _mm256_sub_epi32(even, _mm256_cmpeq_epi32(_mm256_max_epu32(a, bounds), a));
        odd = _mm256_sub_epi32(odd, _mm256_cmpeq_epi32(_mm256_max_epu32(b, bounds), b));
    }
    even = _mm256_add_epi32(even, odd);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

/* Of n keys, a multiple of 16. */
HATTN_INLINE uint32_t largest_u32(const uint32_t *keys, int n)
{
    __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 16) {
        even = _mm256_max_epu32(even, _mm256_loadu_si256((const __m256i *)(keys + i)));
        odd = _mm256_max_epu32(odd, _mm256_loadu_si256((const __m256i *)(keys + i + 8)));
    }
    even = _mm256_max_epu32(even, odd);
    __m128i most = _mm_max_epu32(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1)));
}

/* ---- Shares ---- */

typedef __m256i u64v;
HATTN_INLINE u64v u64v_zero(void) { return _mm256_setzero_si256(); }
HATTN_INLINE uint64_t u64v_sum(u64v a)
{
    __m128i b = _mm_add_epi64(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return (uint64_t)_mm_cvtsi128_si64(b) + (uint64_t)_mm_extract_epi64(b, 1);
}

/* Of n scores, a multiple of 8. */
HATTN_INLINE uint16_t largest_u16(const uint16_t *scores, int n)
{
    __m128i most = _mm_setzero_si128();
    for (int i = 0; i < n; i += 8)
        most = _mm_max_epu16(most, _mm_loadu_si128((const __m128i *)(scores + i)));
    return (uint16_t)~_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(most, _mm_set1_epi16(-1))), 0);
}

/* hattn_floor_share of 8 scores; adds them to *sums. */
HATTN_INLINE void shares_u16x8(uint32_t *dst, const uint16_t *scores, uint32_t largest, int32_t step,
                               const uint32_t *factors, u64v *sums)
{
    const __m256i score = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)scores));
    const __m256i e =
        _mm256_mullo_epi32(_mm256_sub_epi32(_mm256_set1_epi32((int)largest), score), _mm256_set1_epi32(step));
    const __m256i place = _mm256_and_si256(_mm256_srli_epi32(e, 4), _mm256_set1_epi32(63));
    const __m256i share =
        _mm256_srlv_epi32(_mm256_i32gather_epi32((const int *)factors, place, 4), _mm256_srli_epi32(e, 10));
    _mm256_storeu_si256((__m256i *)dst, share);
    *sums = _mm256_add_epi64(*sums, _mm256_and_si256(share, _mm256_set1_epi64x(UINT32_MAX)));
    *sums = _mm256_add_epi64(*sums, _mm256_srli_epi64(share, 32));
}

/* keys[i] += hattn_head_probability(shares[i], inverse), of 8. The inverse is 2^32 at most, one more than a factor of 32 bits
 * holds: share * (inverse - 1) + share. */
HATTN_INLINE void add_probabilities_u32x8(uint32_t *keys, const uint32_t *shares, uint64_t inverse)
{
    const __m256i factor = _mm256_set1_epi64x((int64_t)(inverse - 1)), low_half = _mm256_set1_epi64x(UINT32_MAX);
    const __m256i share = _mm256_loadu_si256((const __m256i *)shares), odd_share = _mm256_srli_epi64(share, 32);
    const __m256i even = _mm256_add_epi64(_mm256_mul_epu32(share, factor), _mm256_and_si256(share, low_half));
    const __m256i odd = _mm256_add_epi64(_mm256_mul_epu32(odd_share, factor), odd_share);
    const __m256i p = _mm256_blend_epi32(_mm256_srli_epi64(even, 38), _mm256_srli_epi32(odd, 6), 0xaa);
    _mm256_storeu_si256((__m256i *)keys, _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)keys), p));
}

/* ---- Weights ---- */

/* 32 weights into sign and magnitude bits; returns the sum of the magnitudes (-128 counts as 127). */
HATTN_INLINE uint32_t split_32_weights(const int8_t *weights, uint32_t *sign, uint32_t *planes, int num_planes)
{
    __m256i w = _mm256_loadu_si256((const __m256i *)weights);
    __m256i magnitudes = _mm256_min_epu8(_mm256_abs_epi8(w), _mm256_set1_epi8(127));
    *sign = (uint32_t)_mm256_movemask_epi8(w);
    for (int p = 0; p < num_planes; p++)
        planes[p] = (uint32_t)_mm256_movemask_epi8(_mm256_sll_epi16(magnitudes, _mm_cvtsi32_si128(7 - p)));
    __m256i sums = _mm256_sad_epu8(magnitudes, _mm256_setzero_si256());
    __m128i sum = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return (uint32_t)(_mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 2));
}

#endif
