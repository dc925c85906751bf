/* SPDX-License-Identifier: Apache-2.0
 * What the AVX-512 kernels share: loads by dtype, tail masks, exp and tanh of 16 floats.
 */
#ifndef HATTN_KERNELS_CPU_AVX512_H
#define HATTN_KERNELS_CPU_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "core/dtype.h"
#include "kernels_cpu/fitted.h"

#define HATTN_INLINE static inline __attribute__((always_inline))

enum { HATTN_ROUND_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

/* The low n lanes; n may be anything. */
HATTN_INLINE __mmask16 hattn_mask16(int n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }

HATTN_INLINE __mmask32 hattn_mask32(int n) { return n >= 32 ? 0xffffffff : n <= 0 ? 0 : (1u << n) - 1; }

HATTN_INLINE __m512 hattn_f32x16_of_bf16(__m256i halves)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* E4M3's exponent and mantissa, moved into fp16's places, read as value * 2^-8 (bias 7 against 15; subnormals too).
 * The one NaN pattern would read as 1.875 and is raised to fp16's quiet NaN. */
enum { HATTN_F8_FACTOR = 256 };
HATTN_INLINE __m512 hattn_f32x16_of_f8_unscaled(__m128i bytes)
{
    const __m256i largest = _mm256_set1_epi16(0x3f80);
    __m256i halves =
        _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16((short)0xbf80));
    __mmask16 nan = _mm256_cmpeq_epi16_mask(_mm256_and_si256(halves, largest), largest);
    halves = _mm256_mask_add_epi16(halves, nan, halves, _mm256_set1_epi16(0x7e00 - 0x3f80));
    return _mm512_cvtph_ps(halves);
}

/* 16 elements at src. F8 comes divided by HATTN_F8_FACTOR. */
HATTN_INLINE __m512 hattn_load_unscaled(const char *src, int32_t dtype)
{
    switch (dtype) {
    case HATTN_F16: return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)src));
    case HATTN_BF16: return hattn_f32x16_of_bf16(_mm256_loadu_si256((const __m256i *)src));
    case HATTN_F8_E4M3: return hattn_f32x16_of_f8_unscaled(_mm_loadu_si128((const __m128i *)src));
    default: return _mm512_loadu_ps(src);
    }
}

/* The same for the elements of mask; others are 0 and not touched. */
HATTN_INLINE __m512 hattn_load_unscaled_masked(const char *src, int32_t dtype, __mmask16 mask)
{
    switch (dtype) {
    case HATTN_F16: return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, src));
    case HATTN_BF16: return hattn_f32x16_of_bf16(_mm256_maskz_loadu_epi16(mask, src));
    case HATTN_F8_E4M3: return hattn_f32x16_of_f8_unscaled(_mm_maskz_loadu_epi8(mask, src));
    default: return _mm512_maskz_loadu_ps(mask, src);
    }
}

/* e^x by fitted.h, within 1.01 ulp; NaN stays NaN (max and min return their second operand then). */
HATTN_INLINE __m512 hattn_exp_f32x16(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(HATTN_EXP_HIGHEST), _mm512_max_ps(_mm512_set1_ps(HATTN_EXP_LOWEST), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(HATTN_EXP_PER_LN2)), HATTN_ROUND_NEAREST);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(HATTN_EXP_LN2_HIGH), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(HATTN_EXP_LN2_LOW), r);
    __m512 p = _mm512_set1_ps(HATTN_EXP_P4);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(HATTN_EXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(HATTN_EXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(HATTN_EXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(HATTN_EXP_P0));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
    return _mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0f)), n);
}

/* tanh(x) by fitted.h. */
HATTN_INLINE __m512 hattn_tanh_f32x16(__m512 x)
{
    __m512 square = _mm512_mul_ps(x, x), magnitude = _mm512_abs_ps(x), one = _mm512_set1_ps(1.0f);
    __m512 p = _mm512_set1_ps(HATTN_TANH_P4);
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(HATTN_TANH_P3));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(HATTN_TANH_P2));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(HATTN_TANH_P1));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(HATTN_TANH_P0));
    __m512 small = _mm512_fmadd_ps(p, _mm512_mul_ps(square, x), x);
    __m512 e = hattn_exp_f32x16(_mm512_mul_ps(magnitude, _mm512_set1_ps(-2.0f)));
    __m512 large = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    /* Bitwise select: the sign of x, the rest of `large`. */
    __m512i signed_large = _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)0x80000000), _mm512_castps_si512(x),
                                                     _mm512_castps_si512(large), 0xca);
    __mmask16 is_small = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(HATTN_TANH_SMALL), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_castsi512_ps(signed_large), is_small, small);
}

#endif
