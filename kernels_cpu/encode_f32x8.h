/* SPDX-License-Identifier: Apache-2.0
 * From vectors to code bits, norms and integer weights.
 *
 * A layer is a matrix product; a tile of vectors by outputs lives in 8 accumulators: 4 x 16, 2 x 32 or 1 x 64. Outputs
 * are the outer loop, so that the columns of the weights that a tile reads stay in L1 or L2 while all vectors pass.
 */
#ifndef HATTN_KERNELS_CPU_ENCODE_F32X8_H
#define HATTN_KERNELS_CPU_ENCODE_F32X8_H

#include "kernels_cpu/f32x8.h"
#include "kernels_cpu/scalar.h"

enum {
    ACCUMULATORS = 8,
    MAX_VECTORS = 4,
    MAX_BITS = 32 * HATTN_MAX_WORDS,
    LINE = 64,
    /* A decode step finds its weights in DRAM, and a tile reads part of each row only: the first tile prefetches the
     * others' parts. Zen 4, 4 vectors of 128 by 128 fp16: 3.8 us instead of 4.9, out of L2 1.4. */
    ROWS_AHEAD = 16,
    MAX_PREFETCH = 128 * 1024, /* bytes: what surely stays in L2 */
    MAX_PREFETCH_VECTORS = 8   /* more take longer than the weights */
};

HATTN_INLINE f32x8 silu(f32x8 z)
{
    f32x8 e = f32x8_exp(f32x8_sub(f32x8_set(0.0f), z));
    return f32x8_div(z, f32x8_add(f32x8_set(1.0f), e));
}

HATTN_INLINE void project_tile(const hattn_layer *layer, int x, int o, int vectors, int regs, int32_t dtype)
{
    const size_t size = (size_t)hattn_dtype_size(dtype);
    const float *in = layer->x + x * layer->stride_x;
    const char *weight = (const char *)layer->weight + (size_t)o * size;
    f32x8 acc[ACCUMULATORS];
#pragma GCC unroll 8
    for (int i = 0; i < vectors * regs; i++)
        acc[i] = f32x8_set(0.0f);
    const size_t row_size = (size_t)layer->num_outputs * size;
    const int prefetches = x == 0 && o == 0 && layer->num_x <= MAX_PREFETCH_VECTORS &&
                           row_size * (size_t)layer->num_inputs <= MAX_PREFETCH;
    for (int i = 0; i < layer->num_inputs; i++) {
        if (prefetches && i + ROWS_AHEAD < layer->num_inputs) {
            const char *row = weight + (size_t)(ROWS_AHEAD * layer->stride_weight) * size;
            for (size_t at = 0; at < row_size; at += LINE)
                __builtin_prefetch(row + at, 0, 3);
        }
        f32x8 values[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            values[v] = f32x8_set(in[v * layer->stride_x + i]);
#pragma GCC unroll 8
        for (int c = 0; c < regs; c++) {
            f32x8 row = f32x8_load_unscaled(weight + (size_t)c * 8 * size, dtype);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                acc[v * regs + c] = f32x8_fma(values[v], row, acc[v * regs + c]);
        }
        weight += (size_t)layer->stride_weight * size;
    }
#pragma GCC unroll 8
    for (int c = 0; c < regs; c++) {
        f32x8 bias = f32x8_set(0.0f);
        if (layer->bias)
            bias = f32x8_load_unscaled((const char *)layer->bias + (size_t)(o + 8 * c) * size, dtype);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            f32x8 z = f32x8_add(acc[v * regs + c], bias);
            f32x8_store(layer->z + (x + v) * layer->stride_z + o + 8 * c, layer->silu ? silu(z) : z);
        }
    }
}

/* All outputs of vectors first..last-1, `vectors` at a time. */
HATTN_INLINE void project_vectors(const hattn_layer *layer, int first, int last, int vectors, int32_t dtype)
{
    const int regs = ACCUMULATORS / vectors;
    int o = 0;
    for (; o + 8 * regs <= layer->num_outputs; o += 8 * regs) {
        for (int x = first; x < last; x += vectors)
            project_tile(layer, x, o, vectors, regs, dtype);
    }
    for (; o < layer->num_outputs; o += 8) {
        for (int x = first; x < last; x += vectors)
            project_tile(layer, x, o, vectors, 1, dtype);
    }
}

HATTN_INLINE void project_as(const hattn_layer *layer, int32_t dtype)
{
    int x4 = layer->num_x / 4 * 4, x2 = layer->num_x / 2 * 2;
    if (x4)
        project_vectors(layer, 0, x4, 4, dtype);
    if (x2 > x4)
        project_vectors(layer, x4, x2, 2, dtype);
    if (layer->num_x > x2)
        project_vectors(layer, x2, layer->num_x, 1, dtype);
}

HATTN_INLINE void project(const hattn_layer *layer)
{
    switch (layer->dtype) {
    case HATTN_F32: project_as(layer, HATTN_F32); break;
    case HATTN_F16: project_as(layer, HATTN_F16); break;
    case HATTN_BF16: project_as(layer, HATTN_BF16); break;
    }
}

HATTN_INLINE void pack(const float *z, int num_bits, uint32_t *code)
{
    for (int w = 0; w * 32 < num_bits; w++) {
        uint32_t word = 0;
        for (int r = 0; r < 32 && w * 32 + r < num_bits; r += 8)
            word |= (uint32_t)f32x8_positive(f32x8_load(z + w * 32 + r)) << r;
        code[w] = word;
    }
}

HATTN_INLINE uint16_t norm(const float *x, int n)
{
    f32x8 even = f32x8_set(0.0f), odd = even;
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        f32x8 a = f32x8_load(x + i), b = f32x8_load(x + i + 8);
        even = f32x8_fma(a, a, even);
        odd = f32x8_fma(b, b, odd);
    }
    for (; i < n; i += 8) {
        f32x8 a = n - i < 8 ? f32x8_load_part(x + i, n - i) : f32x8_load(x + i);
        even = f32x8_fma(a, a, even);
    }
    return hattn_f16_of_f32(sqrtf(f32x8_sum(f32x8_add(even, odd))));
}

HATTN_INLINE void hamming_weights(const float *z, int64_t stride_z, int group, int num_bits, int8_t *weights)
{
    const f32x8 zero = f32x8_set(0.0f), set = f32x8_set(group % 2 ? 1.0f : 0.5f), unset = f32x8_sub(zero, set);
    for (int r = 0; r < num_bits; r += 8) {
        f32x8 sum = zero;
        for (int g = 0; g < group; g++)
            sum = f32x8_add(sum, f32x8_select_less(zero, f32x8_load(z + g * stride_z + r), set, unset));
        f32x8_store_i8(weights + r, sum);
    }
}

HATTN_INLINE float quantise_weights(const float *z, int64_t stride_z, int group, int num_bits, int qmax,
                                    int8_t *weights)
{
    float sums[MAX_BITS];
    f32x8 maxima = f32x8_set(0.0f), infinite = maxima; /* 0 * u: NaN where u is not finite */
    for (int r = 0; r < num_bits; r += 8) {
        f32x8 sum = f32x8_load(z + r);
        for (int g = 1; g < group; g++)
            sum = f32x8_add(sum, f32x8_load(z + g * stride_z + r));
        f32x8_store(sums + r, sum);
        maxima = f32x8_max(f32x8_abs(sum), maxima);
        infinite = f32x8_fma(f32x8_set(0.0f), sum, infinite);
    }
    const float max = f32x8_largest(maxima);
    if (max == 0.0f || f32x8_sum(infinite) != 0.0f) {
        memset(weights, 0, (size_t)num_bits);
        return 0.0f;
    }
    /* In double the product is exact and cannot overflow, so that a tie is a tie. */
    for (int r = 0; r < num_bits; r += 8)
        f32x8_store_i8(weights + r, f32x8_round_quotient(f32x8_load(sums + r), qmax, max));
    return max;
}

HATTN_INLINE float make_weights(const float *z, int64_t stride_z, int group, int num_bits, int qmax, int8_t *weights)
{
    if (qmax)
        return quantise_weights(z, stride_z, group, num_bits, qmax, weights);
    hamming_weights(z, stride_z, group, num_bits, weights);
    return 1.0f;
}

HATTN_INLINE void split(const int8_t *weights, int num_bits, hattn_planes *planes)
{
    uint32_t any[HATTN_MAX_PLANES] = {0};
    memset(planes, 0, sizeof *planes);
    planes->num_words = (num_bits + 31) / 32;
    for (int w = 0; w < planes->num_words; w++) {
        uint32_t word[HATTN_MAX_PLANES];
        int8_t part[32] = {0};
        int count = num_bits - w * 32 < 32 ? num_bits - w * 32 : 32;
        memcpy(part, weights + w * 32, (size_t)count);
        planes->max_score += split_32_weights(part, &planes->sign[w], word, HATTN_MAX_PLANES);
        for (int p = 0; p < HATTN_MAX_PLANES; p++) {
            planes->plane[p][w] = word[p];
            any[p] |= word[p];
        }
    }
    for (int p = 0; p < HATTN_MAX_PLANES; p++)
        planes->num_planes = any[p] ? p + 1 : planes->num_planes;
}

#endif
