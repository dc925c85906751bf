/* SPDX-License-Identifier: Apache-2.0
 * Loads and stores of vectors in the caches' and outputs' dtypes, bit for bit as convert_scalar.c.
 */
#include "kernels_cpu/avx512.h"
#include "kernels_cpu/kernels.h"

HATTN_INLINE void load_as(const char *src, int32_t dtype, int n, float scale, float *dst)
{
    size_t size = (size_t)hattn_dtype_size(dtype);
    __m512 factor = _mm512_set1_ps(dtype == HATTN_F8_E4M3 ? HATTN_F8_FACTOR : 1.0f), scales = _mm512_set1_ps(scale);
    for (int i = 0; i < n; i += 16) {
        __mmask16 mask = hattn_mask16(n - i);
        __m512 values = hattn_load_unscaled_masked(src + (size_t)i * size, dtype, mask);
        if (dtype == HATTN_F8_E4M3)
            values = _mm512_mul_ps(values, factor);
        _mm512_mask_storeu_ps(dst + i, mask, _mm512_mul_ps(values, scales));
    }
}

void hattn_load_avx512(const void *src, int32_t dtype, int n, float scale, float *dst)
{
    switch (dtype) {
    case HATTN_F32: load_as(src, HATTN_F32, n, scale, dst); break;
    case HATTN_F16: load_as(src, HATTN_F16, n, scale, dst); break;
    case HATTN_BF16: load_as(src, HATTN_BF16, n, scale, dst); break;
    case HATTN_F8_E4M3: load_as(src, HATTN_F8_E4M3, n, scale, dst); break;
    }
}

/* By integers: vcvtneps2bf16 would flush subnormals. */
HATTN_INLINE __m256i bf16_of_f32x16(__m512 values)
{
    __m512i bits = _mm512_castps_si512(values);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

void hattn_store_avx512(const float *src, int n, int32_t dtype, void *dst)
{
    for (int i = 0; i < n; i += 16) {
        __mmask16 mask = hattn_mask16(n - i);
        __m512 values = _mm512_maskz_loadu_ps(mask, src + i);
        if (dtype == HATTN_F32)
            _mm512_mask_storeu_ps((float *)dst + i, mask, values);
        else if (dtype == HATTN_F16)
            _mm256_mask_storeu_epi16((uint16_t *)dst + i, mask, _mm512_cvtps_ph(values, HATTN_ROUND_NEAREST));
        else if (dtype == HATTN_BF16)
            _mm256_mask_storeu_epi16((uint16_t *)dst + i, mask, bf16_of_f32x16(values));
    }
}
