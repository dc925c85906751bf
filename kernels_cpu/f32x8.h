/* SPDX-License-Identifier: Apache-2.0
 * Floats in eights, on what avx2.h or neon.h (included before) defines: loads and stores by dtype, parts of a vector,
 * exp, tanh.
 */
#ifndef HATTN_KERNELS_CPU_F32X8_H
#define HATTN_KERNELS_CPU_F32X8_H

#include <math.h>

#include "kernels_cpu/kernels.h"

enum { HATTN_F8_FACTOR = 256 }; /* what fp8 values come divided by: load_f8 */

HATTN_INLINE size_t f32x8_element_size(int32_t dtype)
{
    return dtype == HATTN_F32 ? 4 : dtype == HATTN_F8_E4M3 ? 1 : 2;
}

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

/* e^x: 2^n e^r with |r| <= ln2 / 2, e^r = 1 + r + r^2 P(r), P fitted for the least relative error (3.1e-9); within 1
 * ulp but for subnormals. Below -110 it is 0, above 100 infinite; NaN stays NaN. */
HATTN_INLINE f32x8 f32x8_exp(f32x8 x)
{
    f32x8 low = f32x8_set(-110.0f), high = f32x8_set(100.0f);
    x = f32x8_select_less(x, low, low, x);
    x = f32x8_select_less(high, x, high, x);
    f32x8 n = f32x8_round(f32x8_mul(x, f32x8_set(0x1.715476p+0f)));
    f32x8 r = f32x8_fma(n, f32x8_set(-0x1.62e430p-1f), x); /* ln2 in two pieces */
    r = f32x8_fma(n, f32x8_set(0x1.05c610p-29f), r);
    f32x8 p = f32x8_set(0x1.6a2256p-10f);
    p = f32x8_fma(p, r, f32x8_set(0x1.123b04p-7f));
    p = f32x8_fma(p, r, f32x8_set(0x1.5558f8p-5f));
    p = f32x8_fma(p, r, f32x8_set(0x1.555490p-3f));
    p = f32x8_fma(p, r, f32x8_set(0x1.fffffcp-2f));
    p = f32x8_fma(p, f32x8_mul(r, r), r);
    return f32x8_scale(f32x8_add(p, f32x8_set(1.0f)), n);
}

/* tanh(x): x + x^3 P(x^2) below 0.56 (fitted, relative error 1.3e-9), else (1 - e^-2|x|) / (1 + e^-2|x|). */
HATTN_INLINE f32x8 f32x8_tanh(f32x8 x)
{
    f32x8 square = f32x8_mul(x, x), magnitude = f32x8_abs(x), one = f32x8_set(1.0f);
    f32x8 p = f32x8_set(-0.006198689807206392f);
    p = f32x8_fma(p, square, f32x8_set(0.02102053165435791f));
    p = f32x8_fma(p, square, f32x8_set(-0.0538405142724514f));
    p = f32x8_fma(p, square, f32x8_set(0.13332480192184448f));
    p = f32x8_fma(p, square, f32x8_set(-0.3333331346511841f));
    f32x8 small = f32x8_fma(p, f32x8_mul(square, x), x);
    f32x8 e = f32x8_exp(f32x8_mul(magnitude, f32x8_set(-2.0f)));
    f32x8 large = f32x8_div(f32x8_sub(one, e), f32x8_add(one, e));
    return f32x8_select_less(magnitude, f32x8_set(0.56f), small, f32x8_copysign(large, x));
}

#endif
