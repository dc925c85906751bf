/* SPDX-License-Identifier: Apache-2.0
 * Bits to floats and back, one value at a time. NaNs come out quiet with the payload that x86's conversions keep, so
 * that every ISA gives the same bits.
 */
#ifndef HATTN_KERNELS_CPU_SCALAR_H
#define HATTN_KERNELS_CPU_SCALAR_H

#include <stdint.h>
#include <string.h>

static inline uint32_t hattn_bits_of_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float hattn_f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float hattn_f32_of_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude > 0x7c00)
        return hattn_f32_of_bits(sign | 0x7fc00000 | magnitude << 13);
    if (magnitude == 0x7c00)
        return hattn_f32_of_bits(sign | 0x7f800000);
    if (magnitude >= 0x400)
        return hattn_f32_of_bits(sign | (magnitude + (112 << 10)) << 13);
    float subnormal = (float)magnitude * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}

static inline float hattn_f32_of_bf16(uint16_t half) { return hattn_f32_of_bits((uint32_t)half << 16); }

/* OCP E4M3: bias 7, no infinities, only all ones is NaN. */
static inline float hattn_f32_of_f8_e4m3(uint8_t byte)
{
    uint32_t sign = (uint32_t)(byte & 0x80) << 24, magnitude = byte & 0x7f;
    if (magnitude == 0x7f)
        return hattn_f32_of_bits(sign | 0x7fc00000);
    if (magnitude >= 8)
        return hattn_f32_of_bits(sign | (magnitude + (120 << 3)) << 20);
    float subnormal = (float)magnitude * 0x1p-9f;
    return sign ? -subnormal : subnormal;
}

/* To nearest, ties to even. */
static inline uint16_t hattn_f16_of_f32(float value)
{
    uint32_t bits = hattn_bits_of_f32(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00); /* 65520, half way from the largest to 2^16 */
    if (magnitude < 0x38800000) {
        /* Subnormal in fp16: floats in [0.5, 1) are 2^-24 apart, so the addition does the rounding. */
        float shifted = hattn_f32_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (hattn_bits_of_f32(shifted) - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - (112u << 23)) >> 13);
}

static inline uint16_t hattn_bf16_of_f32(float value)
{
    uint32_t bits = hattn_bits_of_f32(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
