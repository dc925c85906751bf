/* SPDX-License-Identifier: Apache-2.0
 * NEON's vectors (armv8-a without extensions): 8 floats in a pair of registers, and bytes in one 16-byte lane. The same
 * names as in avx2.h, where each is explained.
 */
#ifndef HATTN_KERNELS_CPU_NEON_H
#define HATTN_KERNELS_CPU_NEON_H

#include <stdint.h>
#include <string.h>

#include "kernels_cpu/simd.h"

#define HATTN_INLINE static inline __attribute__((always_inline))

/* ---- 8 floats ---- */

typedef struct f32x8 {
    float32x4_t low, high;
} f32x8;

HATTN_INLINE f32x8 f32x8_set(float value) { return (f32x8){vdupq_n_f32(value), vdupq_n_f32(value)}; }
HATTN_INLINE f32x8 f32x8_load(const float *src) { return (f32x8){vld1q_f32(src), vld1q_f32(src + 4)}; }
HATTN_INLINE f32x8 f32x8_load_register(const float *src) { return f32x8_load(src); }
HATTN_INLINE void f32x8_store(float *dst, f32x8 a)
{
    vst1q_f32(dst, a.low);
    vst1q_f32(dst + 4, a.high);
}
HATTN_INLINE f32x8 f32x8_add(f32x8 a, f32x8 b) { return (f32x8){vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
HATTN_INLINE f32x8 f32x8_sub(f32x8 a, f32x8 b) { return (f32x8){vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
HATTN_INLINE f32x8 f32x8_mul(f32x8 a, f32x8 b) { return (f32x8){vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
HATTN_INLINE f32x8 f32x8_div(f32x8 a, f32x8 b)
{
    return (f32x8){hattn_div_f32x4(a.low, b.low), hattn_div_f32x4(a.high, b.high)};
}
HATTN_INLINE f32x8 f32x8_fma(f32x8 a, f32x8 b, f32x8 c)
{
    return (f32x8){vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
HATTN_INLINE f32x8 f32x8_abs(f32x8 a) { return (f32x8){vabsq_f32(a.low), vabsq_f32(a.high)}; }
HATTN_INLINE f32x8 f32x8_round(f32x8 a) { return (f32x8){vrndnq_f32(a.low), vrndnq_f32(a.high)}; }

HATTN_INLINE f32x8 f32x8_select_less(f32x8 a, f32x8 b, f32x8 yes, f32x8 no)
{
    return (f32x8){vbslq_f32(vcltq_f32(a.low, b.low), yes.low, no.low),
                   vbslq_f32(vcltq_f32(a.high, b.high), yes.high, no.high)};
}

HATTN_INLINE f32x8 f32x8_max(f32x8 a, f32x8 b) { return f32x8_select_less(b, a, a, b); }

HATTN_INLINE f32x8 f32x8_copysign(f32x8 magnitude, f32x8 sign)
{
    const uint32x4_t bit = vdupq_n_u32(0x80000000);
    return (f32x8){vbslq_f32(bit, sign.low, magnitude.low), vbslq_f32(bit, sign.high, magnitude.high)};
}

HATTN_INLINE float32x4_t f32x4_scale(float32x4_t a, float32x4_t n)
{
    int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
    a = vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23)));
    return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23)));
}

HATTN_INLINE f32x8 f32x8_scale(f32x8 a, f32x8 n)
{
    return (f32x8){f32x4_scale(a.low, n.low), f32x4_scale(a.high, n.high)};
}

HATTN_INLINE float f32x8_sum(f32x8 a) { return vaddvq_f32(vaddq_f32(a.low, a.high)); }
HATTN_INLINE float f32x8_largest(f32x8 a) { return vmaxvq_f32(vmaxq_f32(a.low, a.high)); }

HATTN_INLINE float32x4_t f32x4_sums(const f32x8 *a)
{
    float32x4_t pair = vpaddq_f32(vaddq_f32(a[0].low, a[0].high), vaddq_f32(a[1].low, a[1].high));
    return vpaddq_f32(pair, vpaddq_f32(vaddq_f32(a[2].low, a[2].high), vaddq_f32(a[3].low, a[3].high)));
}

HATTN_INLINE f32x8 f32x8_sums(const f32x8 *a) { return (f32x8){f32x4_sums(a), f32x4_sums(a + 4)}; }

HATTN_INLINE unsigned f32x8_positive(f32x8 a)
{
    static const uint16_t bits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    uint16x8_t positive =
        vcombine_u16(vmovn_u32(vcgtq_f32(a.low, vdupq_n_f32(0.0f))), vmovn_u32(vcgtq_f32(a.high, vdupq_n_f32(0.0f))));
    return vaddvq_u16(vandq_u16(positive, vld1q_u16(bits)));
}

HATTN_INLINE f32x8 f32x8_of_f16(uint16x8_t halves)
{
    return (f32x8){hattn_f32x4_of_f16(vget_low_u16(halves)), hattn_f32x4_of_f16(vget_high_u16(halves))};
}

/* By memcpy: the address need not be one of halves. */
HATTN_INLINE uint16x8_t u16x8_load(const void *src) { return vreinterpretq_u16_u8(vld1q_u8(src)); }
HATTN_INLINE void u16x8_store(void *dst, uint16x4_t low, uint16x4_t high)
{
    vst1q_u8(dst, vreinterpretq_u8_u16(vcombine_u16(low, high)));
}

HATTN_INLINE f32x8 f32x8_load_f16(const void *src) { return f32x8_of_f16(u16x8_load(src)); }
HATTN_INLINE void f32x8_store_f16(void *dst, f32x8 a)
{
    u16x8_store(dst, hattn_f16_of_f32x4(a.low), hattn_f16_of_f32x4(a.high));
}

HATTN_INLINE f32x8 f32x8_load_bf16(const void *src)
{
    const uint16x8_t halves = u16x8_load(src);
    return (f32x8){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16)),
                   vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(halves), 16))};
}

HATTN_INLINE uint16x4_t bf16_of_f32x4(float32x4_t a)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd),
                     quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vmovn_u32(vshrq_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, quiet), 16));
}

HATTN_INLINE void f32x8_store_bf16(void *dst, f32x8 a)
{
    u16x8_store(dst, bf16_of_f32x4(a.low), bf16_of_f32x4(a.high));
}

HATTN_INLINE f32x8 f32x8_load_f8(const void *src)
{
    const uint16x8_t largest = vdupq_n_u16(0x3f80);
    uint16x8_t halves = vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(src))));
    halves = vandq_u16(vshlq_n_u16(halves, 7), vdupq_n_u16(0xbf80));
    const uint16x8_t nan = vceqq_u16(vandq_u16(halves, largest), largest);
    return f32x8_of_f16(vaddq_u16(halves, vandq_u16(nan, vdupq_n_u16(0x7e00 - 0x3f80))));
}

HATTN_INLINE float32x2_t f32x2_round_quotient(float32x2_t a, float64x2_t factor, float64x2_t divisor)
{
    return vcvt_f32_f64(vrndnq_f64(hattn_div_f64x2(vmulq_f64(vcvt_f64_f32(a), factor), divisor)));
}

HATTN_INLINE f32x8 f32x8_round_quotient(f32x8 a, double factor, double divisor)
{
    const float64x2_t f = vdupq_n_f64(factor), d = vdupq_n_f64(divisor);
    return (f32x8){
        vcombine_f32(f32x2_round_quotient(vget_low_f32(a.low), f, d), f32x2_round_quotient(vget_high_f32(a.low), f, d)),
        vcombine_f32(f32x2_round_quotient(vget_low_f32(a.high), f, d),
                     f32x2_round_quotient(vget_high_f32(a.high), f, d))};
}

HATTN_INLINE void f32x8_store_i8(int8_t *dst, f32x8 a)
{
    vst1_s8(dst, vmovn_s16(vcombine_s16(vmovn_s32(vcvtq_s32_f32(a.low)), vmovn_s32(vcvtq_s32_f32(a.high)))));
}

HATTN_INLINE f32x8 f32x8_centred_scores(const uint16_t *scores, uint32_t max_score)
{
    const uint16x8_t all = u16x8_load(scores);
    const int32x4_t max = vdupq_n_s32((int32_t)max_score);
    const int32x4_t low = vreinterpretq_s32_u32(vshll_n_u16(vget_low_u16(all), 1)),
                    high = vreinterpretq_s32_u32(vshll_n_u16(vget_high_u16(all), 1));
    return (f32x8){vcvtq_f32_s32(vsubq_s32(low, max)), vcvtq_f32_s32(vsubq_s32(high, max))};
}

/* ---- Bytes: U8V_LANES lanes of 16 ---- */

typedef uint8x16_t u8v;
enum { U8V_LANES = 1 };

HATTN_INLINE u8v u8v_zero(void) { return vdupq_n_u8(0); }
HATTN_INLINE u8v u8v_load_lanes(const uint32_t *src, int64_t stride_lane)
{
    (void)stride_lane;
    return vld1q_u8((const uint8_t *)src);
}
HATTN_INLINE u8v u8v_load_lanes_part(const uint32_t *src, int64_t stride_lane, int words)
{
    uint32_t lane[4] = {0};
    (void)stride_lane;
    memcpy(lane, src, (size_t)words * sizeof *src);
    return vld1q_u8((const uint8_t *)lane);
}
HATTN_INLINE u8v u8v_repeat(const void *src) { return vld1q_u8(src); }
HATTN_INLINE u8v u8v_xor(u8v a, u8v b) { return veorq_u8(a, b); }
HATTN_INLINE u8v u8v_and(u8v a, u8v b) { return vandq_u8(a, b); }
HATTN_INLINE u8v u8v_add(u8v a, u8v b) { return vaddq_u8(a, b); }
HATTN_INLINE u8v u8v_zip_low(u8v a, u8v b) { return vzip1q_u8(a, b); }
HATTN_INLINE u8v u8v_zip_high(u8v a, u8v b) { return vzip2q_u8(a, b); }
HATTN_INLINE u8v u8v_low_nibbles(u8v a) { return vandq_u8(a, vdupq_n_u8(15)); }
HATTN_INLINE u8v u8v_high_nibbles(u8v a) { return vshrq_n_u8(a, 4); }
HATTN_INLINE u8v u8v_lookup(u8v table, u8v i) { return vqtbl1q_u8(table, i); }
HATTN_INLINE u8v u8v_popcount(u8v a) { return vcntq_u8(a); }

HATTN_INLINE u8v u16v_add(u8v a, u8v b)
{
    return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
HATTN_INLINE u8v u16v_sub(u8v a, u8v b)
{
    return vreinterpretq_u8_u16(vsubq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
HATTN_INLINE u8v u16v_shift_left(u8v a, int bits)
{
    return vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16((int16_t)bits)));
}
HATTN_INLINE u8v u16v_high_bytes(u8v a) { return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(a), 8)); }
HATTN_INLINE u8v u16v_zip_low(u8v a, u8v b)
{
    return vreinterpretq_u8_u16(vzip1q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
HATTN_INLINE u8v u16v_zip_high(u8v a, u8v b)
{
    return vreinterpretq_u8_u16(vzip2q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}

/* Bytes are below 8 * 7: four of them fit a byte. */
HATTN_INLINE u8v u8v_fold(const u8v *rows, int words)
{
    if (words == 1)
        return vreinterpretq_u8_u16(vpaddlq_u8(vpaddq_u8(rows[0], rows[1])));
    if (words == 2)
        return vreinterpretq_u8_u16(vpaddlq_u8(vpaddq_u8(vpaddq_u8(rows[0], rows[1]), vpaddq_u8(rows[2], rows[3]))));
    uint16x8_t low = vpaddlq_u8(vpaddq_u8(vpaddq_u8(rows[0], rows[1]), vpaddq_u8(rows[2], rows[3])));
    uint16x8_t high = vpaddlq_u8(vpaddq_u8(vpaddq_u8(rows[4], rows[5]), vpaddq_u8(rows[6], rows[7])));
    return vreinterpretq_u8_u16(vpaddq_u16(low, high));
}

HATTN_INLINE void u16v_store_scores(uint16_t *scores, u8v a, u8v b, int words)
{
    (void)words;
    vst1q_u16(scores, vreinterpretq_u16_u8(a));
    vst1q_u16(scores + 8, vreinterpretq_u16_u8(b));
}

/* ---- Keys of top-k ---- */

/* The bits of 32 bytes that are 0 or 255. */
HATTN_INLINE uint32_t mask_of_bytes(uint8x16_t low, uint8x16_t high)
{
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bit = vld1q_u8(bits);
    uint8x16_t fours = vpaddq_u8(vandq_u8(low, bit), vandq_u8(high, bit));
    fours = vpaddq_u8(fours, fours);
    return vgetq_lane_u32(vreinterpretq_u32_u8(vpaddq_u8(fours, fours)), 0);
}

HATTN_INLINE uint8x16_t at_least_u16x16(const uint16_t *keys, uint16x8_t bounds)
{
    return vcombine_u8(vmovn_u16(vcgeq_u16(vld1q_u16(keys), bounds)),
                       vmovn_u16(vcgeq_u16(vld1q_u16(keys + 8), bounds)));
}

HATTN_INLINE uint32_t mask_at_least_u16(const uint16_t *keys, uint16_t bound)
{
    return mask_of_bytes(at_least_u16x16(keys, vdupq_n_u16(bound)), at_least_u16x16(keys + 16, vdupq_n_u16(bound)));
}

HATTN_INLINE uint16x8_t at_least_f32x8(const float *keys, float32x4_t bounds)
{
    return vcombine_u16(vmovn_u32(vcgeq_f32(vld1q_f32(keys), bounds)),
                        vmovn_u32(vcgeq_f32(vld1q_f32(keys + 4), bounds)));
}

HATTN_INLINE uint32_t mask_at_least_f32(const float *keys, float bound)
{
    const float32x4_t bounds = vdupq_n_f32(bound);
    uint8x16_t low = vcombine_u8(vmovn_u16(at_least_f32x8(keys, bounds)), vmovn_u16(at_least_f32x8(keys + 8, bounds)));
    return mask_of_bytes(
        low, vcombine_u8(vmovn_u16(at_least_f32x8(keys + 16, bounds)), vmovn_u16(at_least_f32x8(keys + 24, bounds))));
}

HATTN_INLINE void ordered_u16x8(uint32_t *dst, const uint16_t *keys)
{
    const uint16x8_t all = vld1q_u16(keys);
    vst1q_u32(dst, vmovl_u16(vget_low_u16(all)));
    vst1q_u32(dst + 4, vmovl_u16(vget_high_u16(all)));
}

HATTN_INLINE uint32x4_t ordered_of_f32x4(float32x4_t keys)
{
    const float32x4_t values = vaddq_f32(keys, vdupq_n_f32(0.0f));
    const int32x4_t bits = vreinterpretq_s32_f32(values),
                    flip = vorrq_s32(vshrq_n_s32(bits, 31), vdupq_n_s32(INT32_MIN));
    return vandq_u32(vreinterpretq_u32_s32(veorq_s32(bits, flip)), vceqq_f32(values, values));
}

HATTN_INLINE void ordered_f32x8(uint32_t *dst, const float *keys)
{
    vst1q_u32(dst, ordered_of_f32x4(vld1q_f32(keys)));
    vst1q_u32(dst + 4, ordered_of_f32x4(vld1q_f32(keys + 4)));
}

HATTN_INLINE int count_at_least_u32(const uint32_t *keys, int n, uint32_t bound)
{
    const uint32x4_t bounds = vdupq_n_u32(bound);
    uint32x4_t counts[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
    for (int64_t i = 0; i < n; i += 16) {
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++)
            counts[c] = vsubq_u32(counts[c], vcgeq_u32(vld1q_u32(keys + i + 4 * c), bounds));
    }
    return (int)vaddvq_u32(vaddq_u32(vaddq_u32(counts[0], counts[1]), vaddq_u32(counts[2], counts[3])));
}

HATTN_INLINE uint32_t largest_u32(const uint32_t *keys, int n)
{
    uint32x4_t even = vdupq_n_u32(0), odd = even;
    for (int64_t i = 0; i < n; i += 16) {
        even = vmaxq_u32(even, vmaxq_u32(vld1q_u32(keys + i), vld1q_u32(keys + i + 4)));
        odd = vmaxq_u32(odd, vmaxq_u32(vld1q_u32(keys + i + 8), vld1q_u32(keys + i + 12)));
    }
    return vmaxvq_u32(vmaxq_u32(even, odd));
}

/* ---- Shares ---- */

typedef uint64x2_t u64v;
HATTN_INLINE u64v u64v_zero(void) { return vdupq_n_u64(0); }
HATTN_INLINE uint64_t u64v_sum(u64v a) { return vaddvq_u64(a); }

HATTN_INLINE uint16_t largest_u16(const uint16_t *scores, int n)
{
    uint16x8_t most = vdupq_n_u16(0);
    for (int i = 0; i < n; i += 8)
        most = vmaxq_u16(most, vld1q_u16(scores + i));
    return vmaxvq_u16(most);
}

HATTN_INLINE uint32x4_t shares_u16x4(uint16x4_t scores, uint32_t largest, int32_t step, const uint32_t *factors)
{
    const uint32x4_t e = vmulq_u32(vsubq_u32(vdupq_n_u32(largest), vmovl_u16(scores)), vdupq_n_u32((uint32_t)step));
    const uint32x4_t octaves = vminq_u32(vshrq_n_u32(e, 10), vdupq_n_u32(31)); /* of 2^30 nothing is left */
    uint32_t place[4];
    vst1q_u32(place, vandq_u32(vshrq_n_u32(e, 4), vdupq_n_u32(63)));
    const uint32_t factor[4] = {factors[place[0]], factors[place[1]], factors[place[2]], factors[place[3]]};
    return vshlq_u32(vld1q_u32(factor), vnegq_s32(vreinterpretq_s32_u32(octaves)));
}

HATTN_INLINE void shares_u16x8(uint32_t *dst, const uint16_t *scores, uint32_t largest, int32_t step,
                               const uint32_t *factors, u64v *sums)
{
    const uint16x8_t all = vld1q_u16(scores);
    const uint32x4_t low = shares_u16x4(vget_low_u16(all), largest, step, factors),
                     high = shares_u16x4(vget_high_u16(all), largest, step, factors);
    vst1q_u32(dst, low);
    vst1q_u32(dst + 4, high);
    *sums = vpadalq_u32(vpadalq_u32(*sums, low), high);
}

HATTN_INLINE uint32x2_t probabilities_u32x2(uint32x2_t shares, uint32x2_t factor)
{
    return vmovn_u64(vshrq_n_u64(vaddw_u32(vmull_u32(shares, factor), shares), 38));
}

HATTN_INLINE void add_probabilities_u32x8(uint32_t *keys, const uint32_t *shares, uint64_t inverse)
{
    const uint32x2_t factor = vdup_n_u32((uint32_t)(inverse - 1));
    for (int i = 0; i < 8; i += 4) {
        const uint32x4_t share = vld1q_u32(shares + i);
        const uint32x4_t p = vcombine_u32(probabilities_u32x2(vget_low_u32(share), factor),
                                          probabilities_u32x2(vget_high_u32(share), factor));
        vst1q_u32(keys + i, vaddq_u32(vld1q_u32(keys + i), p));
    }
}

/* ---- Weights ---- */

HATTN_INLINE uint32_t split_32_weights(const int8_t *weights, uint32_t *sign, uint32_t *planes, int num_planes)
{
    const int8x16_t low = vld1q_s8(weights), high = vld1q_s8(weights + 16);
    const uint8x16_t most = vdupq_n_u8(127);
    const uint8x16_t low_magnitudes = vminq_u8(vreinterpretq_u8_s8(vabsq_s8(low)), most),
                     high_magnitudes = vminq_u8(vreinterpretq_u8_s8(vabsq_s8(high)), most);
    *sign = mask_of_bytes(vcltq_s8(low, vdupq_n_s8(0)), vcltq_s8(high, vdupq_n_s8(0)));
    for (int p = 0; p < num_planes; p++) {
        const uint8x16_t bit = vdupq_n_u8((uint8_t)(1 << p));
        planes[p] = mask_of_bytes(vtstq_u8(low_magnitudes, bit), vtstq_u8(high_magnitudes, bit));
    }
    return (uint32_t)vaddlvq_u8(low_magnitudes) + vaddlvq_u8(high_magnitudes);
}

#endif
