/* SPDX-License-Identifier: Apache-2.0
 * Floats in eights, on what avx2.h or neon.h (included before) defines: loads and stores by dtype, parts of a vector,
 * exp, tanh.
 */
#ifndef HATTN_KERNELS_CPU_F32X8_H
#define HATTN_KERNELS_CPU_F32X8_H

#include <math.h>

#include "core/dtype.h"
#include "kernels_cpu/fitted.h"
#include "kernels_cpu/kernels.h"

enum { HATTN_F8_FACTOR = 256 }; /* what fp8 values come divided by: load_f8 */

/* 8 elements. F8 comes divided by HATTN_F8_FACTOR. */
HATTN_INLINE f32x8 f32x8_load_unscaled(const char *src, int32_t dtype)
{
    switch (dtype) {
    case HATTN_F16: return f32x8_load_f16(src);
    case HATTN_BF16: return f32x8_load_bf16(src);
    case HATTN_F8_E4M3: return f32x8_load_f8(src);
    default: return f32x8_load((const float *)(const void *)src);
    }
}

/* n < 8 floats, then zeros. */
HATTN_INLINE f32x8 f32x8_load_part(const float *src, int n)
{
    float part[8] = {0};
    memcpy(part, src, (size_t)n * sizeof *src);
    return f32x8_load(part);
}

HATTN_INLINE void f32x8_store_part(float *dst, f32x8 values, int n)
{
    float part[8];
    f32x8_store(part, values);
    memcpy(dst, part, (size_t)n * sizeof *dst);
}

/* Lanes n and up become `other`. */
HATTN_INLINE f32x8 f32x8_first(f32x8 values, int n, float other)
{
    static const float lanes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    return f32x8_select_less(f32x8_load(lanes), f32x8_set((float)n), values, f32x8_set(other));
}

/* e^x by fitted.h, within 1 ulp but for subnormals; NaN stays NaN. */
HATTN_INLINE f32x8 f32x8_exp(f32x8 x)
{
    f32x8 low = f32x8_set(HATTN_EXP_LOWEST), high = f32x8_set(HATTN_EXP_HIGHEST);
    x = f32x8_select_less(x, low, low, x);
    x = f32x8_select_less(high, x, high, x);
    f32x8 n = f32x8_round(f32x8_mul(x, f32x8_set(HATTN_EXP_PER_LN2)));
    f32x8 r = f32x8_fma(n, f32x8_set(-HATTN_EXP_LN2_HIGH), x);
    r = f32x8_fma(n, f32x8_set(-HATTN_EXP_LN2_LOW), r);
    f32x8 p = f32x8_set(HATTN_EXP_P4);
    p = f32x8_fma(p, r, f32x8_set(HATTN_EXP_P3));
    p = f32x8_fma(p, r, f32x8_set(HATTN_EXP_P2));
    p = f32x8_fma(p, r, f32x8_set(HATTN_EXP_P1));
    p = f32x8_fma(p, r, f32x8_set(HATTN_EXP_P0));
    p = f32x8_fma(p, f32x8_mul(r, r), r);
    return f32x8_scale(f32x8_add(p, f32x8_set(1.0f)), n);
}

/* tanh(x) by fitted.h. */
HATTN_INLINE f32x8 f32x8_tanh(f32x8 x)
{
    f32x8 square = f32x8_mul(x, x), magnitude = f32x8_abs(x), one = f32x8_set(1.0f);
    f32x8 p = f32x8_set(HATTN_TANH_P4);
    p = f32x8_fma(p, square, f32x8_set(HATTN_TANH_P3));
    p = f32x8_fma(p, square, f32x8_set(HATTN_TANH_P2));
    p = f32x8_fma(p, square, f32x8_set(HATTN_TANH_P1));
    p = f32x8_fma(p, square, f32x8_set(HATTN_TANH_P0));
    f32x8 small = f32x8_fma(p, f32x8_mul(square, x), x);
    f32x8 e = f32x8_exp(f32x8_mul(magnitude, f32x8_set(-2.0f)));
    f32x8 large = f32x8_div(f32x8_sub(one, e), f32x8_add(one, e));
    return f32x8_select_less(magnitude, f32x8_set(HATTN_TANH_SMALL), small, f32x8_copysign(large, x));
}

#endif
