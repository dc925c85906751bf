/* SPDX-License-Identifier: Apache-2.0
 * From vectors to code bits, norms and integer weights.
 *
 * A layer is a matrix product; a tile of vectors by outputs lives in 16 accumulators (fp32 FMA): 8 x 32 for many
 * vectors, where a tile converts each weight once for 8 vectors, and 4, 2 or 1 x 64 for a decode step's few. Outputs
 * are the outer loop, so that the 32 or 64 columns of the weights that a tile reads stay in L1 or L2 while all
 * vectors pass.
 */
#include "kernels_cpu/avx512.h"
#include "kernels_cpu/kernels.h"

enum {
    MAX_BITS = 32 * HATTN_MAX_WORDS,
    /* Rows of the weights, of which a decode step reads all once: 128 x 128 fp16 out of DRAM for 4 vectors take 2.3
     * us, at 16 or 64 rows 2.7 to 2.9, without 3.1 (Zen 4). */
    ROWS_AHEAD = 32
};

HATTN_INLINE __m512 silu(__m512 z)
{
    __m512 e = hattn_exp_f32x16(_mm512_sub_ps(_mm512_setzero_ps(), z));
    return _mm512_div_ps(z, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* vectors * regs accumulators; `mask` is of the only register where regs is 1. */
HATTN_INLINE void project_tile(const hattn_layer *layer, int x, int o, int vectors, int regs, int32_t dtype,
                               __mmask16 mask)
{
    const size_t size = (size_t)hattn_dtype_size(dtype);
    const float *in = layer->x + x * layer->stride_x;
    const char *weight = (const char *)layer->weight + (size_t)o * size;
    const int masked = regs == 1;
    __m512 acc[8][4];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
#pragma GCC unroll 4
        for (int c = 0; c < regs; c++)
            acc[v][c] = _mm512_setzero_ps();
    }
    for (int i = 0; i < layer->num_inputs; i++) {
        __m512 row[4];
        if (x == 0 && i + ROWS_AHEAD < layer->num_inputs) {
            const char *later = weight + (size_t)(ROWS_AHEAD * layer->stride_weight) * size;
            for (size_t line = 0; line < 16 * (size_t)regs * size; line += 64)
                _mm_prefetch(later + line, _MM_HINT_T1);
        }
#pragma GCC unroll 4
        for (int c = 0; c < regs; c++) {
            const char *src = weight + (size_t)c * 16 * size;
            row[c] = masked ? hattn_load_unscaled_masked(src, dtype, mask) : hattn_load_unscaled(src, dtype);
        }
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            __m512 value = _mm512_set1_ps(in[v * layer->stride_x + i]);
#pragma GCC unroll 4
            for (int c = 0; c < regs; c++)
                acc[v][c] = _mm512_fmadd_ps(value, row[c], acc[v][c]);
        }
        weight += (size_t)layer->stride_weight * size;
    }
#pragma GCC unroll 4
    for (int c = 0; c < regs; c++) {
        const char *src = (const char *)layer->bias + (size_t)(o + 16 * c) * size;
        __m512 bias = layer->bias ? hattn_load_unscaled_masked(src, dtype, mask) : _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            __m512 z = _mm512_add_ps(acc[v][c], bias);
            if (layer->silu)
                z = silu(z);
            _mm512_mask_storeu_ps(layer->z + (x + v) * layer->stride_z + o + 16 * c, mask, z);
        }
    }
}

/* All outputs of vectors first..last-1, `vectors` at a time. */
HATTN_INLINE void project_vectors(const hattn_layer *layer, int first, int last, int vectors, int regs, int32_t dtype)
{
    int o = 0;
    for (; o + 16 * regs <= layer->num_outputs; o += 16 * regs) {
        for (int x = first; x < last; x += vectors)
            project_tile(layer, x, o, vectors, regs, dtype, 0xffff);
    }
    for (; o < layer->num_outputs; o += 16) {
        for (int x = first; x < last; x += vectors)
            project_tile(layer, x, o, vectors, 1, dtype, hattn_mask16(layer->num_outputs - o));
    }
}

HATTN_INLINE void project_as(const hattn_layer *layer, int32_t dtype)
{
    int x8 = layer->num_x / 8 * 8, x4 = layer->num_x / 4 * 4, x2 = layer->num_x / 2 * 2;
    if (x8)
        project_vectors(layer, 0, x8, 8, 2, dtype);
    if (x4 > x8)
        project_vectors(layer, x8, x4, 4, 4, dtype);
    if (x2 > x4)
        project_vectors(layer, x4, x2, 2, 4, dtype);
    if (layer->num_x > x2)
        project_vectors(layer, x2, layer->num_x, 1, 4, dtype);
}

void hattn_project_avx512(const hattn_layer *layer)
{
    switch (layer->dtype) {
    case HATTN_F32: project_as(layer, HATTN_F32); break;
    case HATTN_F16: project_as(layer, HATTN_F16); break;
    case HATTN_BF16: project_as(layer, HATTN_BF16); break;
    }
}

void hattn_pack_avx512(const float *z, int num_bits, uint32_t *code)
{
    const __m512 zero = _mm512_setzero_ps();
    for (int r = 0; r < num_bits; r += 32) {
        __mmask16 low_lanes = hattn_mask16(num_bits - r), high_lanes = hattn_mask16(num_bits - r - 16);
        uint32_t low = _mm512_cmp_ps_mask(_mm512_maskz_loadu_ps(low_lanes, z + r), zero, _CMP_GT_OQ), high = 0;
        if (high_lanes)
            high = _mm512_cmp_ps_mask(_mm512_maskz_loadu_ps(high_lanes, z + r + 16), zero, _CMP_GT_OQ);
        code[r / 32] = high << 16 | low;
    }
}

uint16_t hattn_norm_avx512(const float *x, int n)
{
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 32) {
        __m512 a = _mm512_maskz_loadu_ps(hattn_mask16(n - i), x + i);
        even = _mm512_fmadd_ps(a, a, even);
        if (n - i <= 16)
            break;
        __m512 b = _mm512_maskz_loadu_ps(hattn_mask16(n - i - 16), x + i + 16);
        odd = _mm512_fmadd_ps(b, b, odd);
    }
    __m128 sum = _mm_set_ss(_mm512_reduce_add_ps(_mm512_add_ps(even, odd)));
    return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_sqrt_ss(sum), HATTN_ROUND_NEAREST), 0);
}

static void hamming_weights(const float *z, int64_t stride_z, int group, int num_bits, int8_t *weights)
{
    for (int r = 0; r < num_bits; r += 16) {
        __mmask16 mask = hattn_mask16(num_bits - r);
        __m512i sum = _mm512_set1_epi32(-group);
        for (int g = 0; g < group; g++) {
            __mmask16 set =
                _mm512_cmp_ps_mask(_mm512_maskz_loadu_ps(mask, z + g * stride_z + r), _mm512_setzero_ps(), _CMP_GT_OQ);
            sum = _mm512_mask_add_epi32(sum, set, sum, _mm512_set1_epi32(2));
        }
        if (group % 2 == 0)
            sum = _mm512_srai_epi32(sum, 1); /* even: exact */
        _mm_mask_storeu_epi8(weights + r, mask, _mm512_cvtepi32_epi8(sum));
    }
}

float hattn_weights_avx512(const float *z, int64_t stride_z, int group, int num_bits, int qmax, int8_t *weights)
{
    if (qmax == 0) {
        hamming_weights(z, stride_z, group, num_bits, weights);
        return 1.0f;
    }
    float sums[MAX_BITS];
    __m512 maxima = _mm512_setzero_ps();
    __mmask16 infinite = 0;
    for (int r = 0; r < num_bits; r += 16) {
        __mmask16 mask = hattn_mask16(num_bits - r);
        __m512 sum = _mm512_maskz_loadu_ps(mask, z + r);
        for (int g = 1; g < group; g++)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, z + g * stride_z + r));
        _mm512_storeu_ps(sums + r, sum);
        __m512 magnitude = _mm512_abs_ps(sum);
        infinite |= _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(__builtin_inff()), _CMP_NLT_UQ); /* or NaN */
        maxima = _mm512_max_ps(maxima, magnitude);
    }
    float max = _mm512_reduce_max_ps(maxima);
    if (infinite || max == 0.0f) {
        memset(weights, 0, (size_t)num_bits);
        return 0.0f;
    }
    /* In double the product is exact and cannot overflow, so that a tie is a tie. */
    const __m512d factor = _mm512_set1_pd(qmax), divisor = _mm512_set1_pd(max);
    for (int r = 0; r < num_bits; r += 8) {
        __m512d scaled = _mm512_div_pd(_mm512_mul_pd(_mm512_cvtps_pd(_mm256_loadu_ps(sums + r)), factor), divisor);
        __m256i rounded = _mm512_cvt_roundpd_epi32(scaled, HATTN_ROUND_NEAREST);
        _mm_storel_epi64((__m128i *)(weights + r), _mm256_cvtepi32_epi8(rounded));
    }
    return max;
}

void hattn_split_avx512(const int8_t *weights, int num_bits, hattn_planes *planes)
{
    memset(planes, 0, sizeof *planes);
    planes->num_words = (num_bits + 31) / 32;
    __m512i sums = _mm512_setzero_si512();
    uint64_t any[HATTN_MAX_PLANES] = {0};
    for (int r = 0; r < num_bits; r += 64) {
        __mmask64 lanes = num_bits - r >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (num_bits - r)) - 1;
        __m512i values = _mm512_maskz_loadu_epi8(lanes, weights + r);
        __m512i magnitudes = _mm512_min_epu8(_mm512_abs_epi8(values), _mm512_set1_epi8(127));
        uint64_t sign = _mm512_movepi8_mask(values);
        memcpy(planes->sign + r / 32, &sign, sizeof sign);
        for (int p = 0; p < HATTN_MAX_PLANES; p++) {
            uint64_t plane = _mm512_test_epi8_mask(magnitudes, _mm512_set1_epi8((char)(1 << p)));
            memcpy(planes->plane[p] + r / 32, &plane, sizeof plane);
            any[p] |= plane;
        }
        sums = _mm512_add_epi64(sums, _mm512_sad_epu8(magnitudes, _mm512_setzero_si512()));
    }
    planes->max_score = (uint32_t)_mm512_reduce_add_epi64(sums);
    for (int p = 0; p < HATTN_MAX_PLANES; p++)
        planes->num_planes = any[p] ? p + 1 : planes->num_planes;
}
