/* SPDX-License-Identifier: Apache-2.0
 * Loads and stores of vectors in the caches' and outputs' dtypes, bit for bit as convert_scalar.c.
 */
#ifndef HATTN_KERNELS_CPU_CONVERT_F32X8_H
#define HATTN_KERNELS_CPU_CONVERT_F32X8_H

#include "kernels_cpu/f32x8.h"

HATTN_INLINE f32x8 scaled(const char *src, int32_t dtype, f32x8 scale)
{
    f32x8 values = f32x8_load_unscaled(src, dtype);
    if (dtype == HATTN_F8_E4M3)
        values = f32x8_mul(values, f32x8_set(HATTN_F8_FACTOR));
    return f32x8_mul(values, scale);
}

HATTN_INLINE void load_as(const char *src, int32_t dtype, int n, float scale, float *dst)
{
    const size_t size = (size_t)hattn_dtype_size(dtype);
    const f32x8 scales = f32x8_set(scale);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        f32x8_store(dst + i, scaled(src + (size_t)i * size, dtype, scales));
    if (i < n) {
        char part[32] = {0};
        memcpy(part, src + (size_t)i * size, (size_t)(n - i) * size);
        f32x8_store_part(dst + i, scaled(part, dtype, scales), n - i);
    }
}

HATTN_INLINE void load(const void *src, int32_t dtype, int n, float scale, float *dst)
{
    switch (dtype) {
    case HATTN_F32: load_as(src, HATTN_F32, n, scale, dst); break;
    case HATTN_F16: load_as(src, HATTN_F16, n, scale, dst); break;
    case HATTN_BF16: load_as(src, HATTN_BF16, n, scale, dst); break;
    case HATTN_F8_E4M3: load_as(src, HATTN_F8_E4M3, n, scale, dst); break;
    }
}

HATTN_INLINE void store_halves(uint16_t *dst, f32x8 values, int32_t dtype)
{
    if (dtype == HATTN_F16) {
        f32x8_store_f16(dst, values);
    } else {
        f32x8_store_bf16(dst, values);
    }
}

HATTN_INLINE void store_as(const float *src, int n, int32_t dtype, uint16_t *dst)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        store_halves(dst + i, f32x8_load(src + i), dtype);
    if (i < n) {
        uint16_t part[8];
        store_halves(part, f32x8_load_part(src + i, n - i), dtype);
        memcpy(dst + i, part, (size_t)(n - i) * sizeof *dst);
    }
}

HATTN_INLINE void store(const float *src, int n, int32_t dtype, void *dst)
{
    switch (dtype) {
    case HATTN_F32: memcpy(dst, src, (size_t)n * sizeof *src); break;
    case HATTN_F16: store_as(src, n, HATTN_F16, dst); break;
    case HATTN_BF16: store_as(src, n, HATTN_BF16, dst); break;
    }
}

#endif
