/* SPDX-License-Identifier: Apache-2.0
 * NEON: the compiler's on aarch64; elsewhere SIMDe's, so that the NEON kernels are tested on any machine. What SIMDe
 * lacks or does otherwise than the processor has a twin here.
 */
#ifndef HATTN_KERNELS_CPU_SIMD_H
#define HATTN_KERNELS_CPU_SIMD_H

#include "kernels_cpu/scalar.h"

#ifdef __aarch64__

#include <arm_neon.h>

static inline float32x4_t hattn_f32x4_of_f16(uint16x4_t halves) { return vcvt_f32_f16(vreinterpret_f16_u16(halves)); }

static inline uint16x4_t hattn_f16_of_f32x4(float32x4_t values) { return vreinterpret_u16_f16(vcvt_f16_f32(values)); }

static inline float32x4_t hattn_div_f32x4(float32x4_t a, float32x4_t b) { return vdivq_f32(a, b); }

static inline float64x2_t hattn_div_f64x2(float64x2_t a, float64x2_t b) { return vdivq_f64(a, b); }

#else

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>

/* SIMDe's conversions lose the payloads of NaNs. */
static inline float32x4_t hattn_f32x4_of_f16(uint16x4_t halves)
{
    uint16_t in[4];
    float out[4];
    vst1_u16(in, halves);
    for (int i = 0; i < 4; i++)
        out[i] = hattn_f32_of_f16(in[i]);
    return vld1q_f32(out);
}

static inline uint16x4_t hattn_f16_of_f32x4(float32x4_t values)
{
    float in[4];
    uint16_t out[4];
    vst1q_f32(in, values);
    for (int i = 0; i < 4; i++)
        out[i] = hattn_f16_of_f32(in[i]);
    return vld1_u16(out);
}

static inline float32x4_t hattn_div_f32x4(float32x4_t a, float32x4_t b)
{
    float x[4], y[4];
    vst1q_f32(x, a);
    vst1q_f32(y, b);
    for (int i = 0; i < 4; i++)
        x[i] /= y[i];
    return vld1q_f32(x);
}

static inline float64x2_t hattn_div_f64x2(float64x2_t a, float64x2_t b)
{
    double x[2], y[2];
    vst1q_f64(x, a);
    vst1q_f64(y, b);
    for (int i = 0; i < 2; i++)
        x[i] /= y[i];
    return vld1q_f64(x);
}

#endif

#endif
