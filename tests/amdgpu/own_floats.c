/* SPDX-License-Identifier: Apache-2.0
 * Of own.h's opcodes those of floats and doubles: minima, rounding, the steps of a division, mixed halves.
 */
#include "tests/amdgpu/own.h"

static void minimum(Wave *w, const Inst *in, int is_half, int is_max, int clears)
{
    uint32_t a[LANES], b[LANES];
    fetch32(w, in, 0, is_half ? SIGN_16 : SIGN_32, is_half, a);
    fetch32(w, in, 1, is_half ? SIGN_16 : SIGN_32, is_half, b);
    LOOP
    {
        const float x = is_half ? f16_of(a[l]) : f32_of(a[l]), y = is_half ? f16_of(b[l]) : f32_of(b[l]);
        const float z = is_max ? max_f32(x, y) : min_f32(x, y);
        a[l] = is_half ? bits16(z) : bits32(z);
    }
    if (is_half)
        store16(w, in, 1, clears, a);
    else
        store32(w, in, 32, a);
}

void own_max_f32(Wave *w, const Inst *in) { minimum(w, in, 0, 1, 0); }
void own_min_f32(Wave *w, const Inst *in) { minimum(w, in, 0, 0, 0); }
void own_max_f16(Wave *w, const Inst *in) { minimum(w, in, 1, 1, !in->is_rdna); }
void own_min_f16(Wave *w, const Inst *in) { minimum(w, in, 1, 0, !in->is_rdna); }

static void minimum64(Wave *w, const Inst *in, double (*f)(double, double))
{
    uint64_t a[LANES], b[LANES];
    fetch64(w, in, 0, SIGN_64, a);
    fetch64(w, in, 1, SIGN_64, b);
    LOOP a[l] = bits64(f(f64_of(a[l]), f64_of(b[l])));
    store64(w, in, 64, a);
}

void own_max_f64(Wave *w, const Inst *in) { minimum64(w, in, max_f64); }
void own_min_f64(Wave *w, const Inst *in) { minimum64(w, in, min_f64); }

/* The pseudocode's floor(x + 0.5) rounds the sum, too. */
void own_rndne_f32(Wave *w, const Inst *in)
{
    uint32_t x[LANES];
    fetch32(w, in, 0, SIGN_32, 0, x);
    LOOP x[l] = bits32(rintf(f32_of(x[l])));
    store32(w, in, 32, x);
}

/* x * 2^n, rounded once: 2^n alone may be beyond a float. */
void own_ldexp_f32(Wave *w, const Inst *in)
{
    uint32_t x[LANES], n[LANES];
    fetch32(w, in, 0, SIGN_32, 0, x);
    fetch32(w, in, 1, SIGN_NONE, 0, n);
    LOOP
    {
        const int32_t by = (int32_t)n[l] > 400 ? 400 : (int32_t)n[l] < -400 ? -400 : (int32_t)n[l];
        x[l] = bits32(ldexpf(f32_of(x[l]), by));
    }
    store32(w, in, 32, x);
}

static int is_denormal(float x) { return x != 0 && fabsf(x) < 0x1p-126f; }

/* The pseudocode leaves out that a value which is not scaled is the result; `DENORM` is any denormal number. */
static float div_scale(float x, float den, float num, int *scaled)
{
    *scaled = 0;
    if (num == 0 || den == 0)
        return NAN;
    if (exponent32(num) - exponent32(den) >= 96) {
        *scaled = 1;
        return x == den ? ldexpf(x, 64) : x;
    }
    if (is_denormal(den))
        return ldexpf(x, 64);
    const int tiny_inverse = fabs(1.0 / (double)den) < 0x1p-126, tiny_quotient = is_denormal(num / den);
    if (tiny_inverse && tiny_quotient) {
        *scaled = 1;
        return x == den ? ldexpf(x, 64) : x;
    }
    if (tiny_inverse)
        return ldexpf(x, -64);
    if (tiny_quotient) {
        *scaled = 1;
        return x == num ? ldexpf(x, 64) : x;
    }
    return exponent32(num) <= 23 ? ldexpf(x, 64) : x;
}

void own_div_scale_f32(Wave *w, const Inst *in)
{
    uint32_t x[LANES], den[LANES], num[LANES];
    uint64_t mask = 0;
    fetch32(w, in, 0, SIGN_32, 0, x);
    fetch32(w, in, 1, SIGN_32, 0, den);
    fetch32(w, in, 2, SIGN_32, 0, num);
    LOOP
    {
        int scaled;
        x[l] = bits32(div_scale(f32_of(x[l]), f32_of(den[l]), f32_of(num[l]), &scaled));
        mask |= (uint64_t)scaled << l;
    }
    store32(w, in, 32, x);
    write_mask(w, in, in->sdst, mask & w->exec);
}

/* Undoes what v_div_scale did, by 2^64 either way, not by the pseudocode's 2^32. */
void own_div_fmas_f32(Wave *w, const Inst *in)
{
    uint32_t a[LANES], b[LANES], c[LANES];
    const uint64_t mask = read_mask(w, in, VCC);
    fetch32(w, in, 0, SIGN_32, 0, a);
    fetch32(w, in, 1, SIGN_32, 0, b);
    fetch32(w, in, 2, SIGN_32, 0, c);
    LOOP
    {
        const float x = f32_of(a[l]), y = f32_of(b[l]), z = f32_of(c[l]);
        const double scaled = ldexp(fma(x, y, z), exponent32(z) > 127 ? 64 : -64); /* rounded once, to float */
        a[l] = bits32(mask >> l & 1 ? (float)scaled : fmaf(x, y, z));
    }
    store32(w, in, 32, a);
}

/* As for floats, with thresholds of doubles. */
static double div_scale64(double x, double den, double num, int *scaled)
{
    *scaled = 0;
    if (num == 0 || den == 0)
        return NAN;
    if (exponent64(num) - exponent64(den) >= 768) {
        *scaled = 1;
        return x == den ? ldexp(x, 128) : x;
    }
    if (exponent64(den) == 0)
        return ldexp(x, 128);
    const int tiny_inverse = fabs(den) > 0x1p1022, tiny_quotient = num / den != 0 && exponent64(num / den) == 0;
    if (tiny_inverse && tiny_quotient) {
        *scaled = 1;
        return x == den ? ldexp(x, 128) : x;
    }
    if (tiny_inverse)
        return ldexp(x, -128);
    if (tiny_quotient) {
        *scaled = 1;
        return x == num ? ldexp(x, 128) : x;
    }
    return exponent64(num) <= 53 ? ldexp(x, 128) : x;
}

void own_div_scale_f64(Wave *w, const Inst *in)
{
    uint64_t x[LANES], den[LANES], num[LANES], mask = 0;
    fetch64(w, in, 0, SIGN_64, x);
    fetch64(w, in, 1, SIGN_64, den);
    fetch64(w, in, 2, SIGN_64, num);
    LOOP
    {
        int scaled;
        x[l] = bits64(div_scale64(f64_of(x[l]), f64_of(den[l]), f64_of(num[l]), &scaled));
        mask |= (uint64_t)scaled << l;
    }
    store64(w, in, 64, x);
    write_mask(w, in, in->sdst, mask & w->exec);
}

void own_div_fmas_f64(Wave *w, const Inst *in)
{
    uint64_t a[LANES], b[LANES], c[LANES];
    const uint64_t mask = read_mask(w, in, VCC);
    fetch64(w, in, 0, SIGN_64, a);
    fetch64(w, in, 1, SIGN_64, b);
    fetch64(w, in, 2, SIGN_64, c);
    LOOP
    {
        const double x = f64_of(a[l]), y = f64_of(b[l]), z = f64_of(c[l]);
        const _Float128 exact = (_Float128)x * y + z; /* a product has 106 bits */
        const _Float128 scale = exponent64(z) > 1023 ? 0x1p128 : 0x1p-128;
        a[l] = bits64(mask >> l & 1 ? (double)(exact * scale) : fma(x, y, z));
    }
    store64(w, in, 64, a);
}

/* fp32, or the half that opsel names where opsel_hi says fp16; neg_hi is abs. */
static void mix(Wave *w, const Inst *in, uint32_t *result, int is_fused, int to_half)
{
    float x[3][LANES];
    for (int i = 0; i < 3; i++) {
        if (in->opsel_hi >> i & 1 && in->src[i] >= 240 && in->src[i] < 256)
            fail(w, "a constant as fp16");
        LOOP
        {
            const uint32_t bits = lane_value(w, in, in->src[i], l);
            float y = !(in->opsel_hi >> i & 1) ? f32_of(bits) : f16_of(in->opsel >> i & 1 ? bits >> 16 : bits);
            y = in->neg_hi >> i & 1 ? fabsf(y) : y;
            x[i][l] = in->neg >> i & 1 ? -y : y;
        }
    }
    LOOP
    {
        float y = is_fused ? fmaf(x[0][l], x[1][l], x[2][l]) : x[0][l] * x[1][l] + x[2][l];
        if (in->clamp)
            y = y > 0 ? (y < 1 ? y : 1) : 0;
        result[l] = to_half ? bits16(y) : bits32(y);
    }
}

static void store_mix(Wave *w, const Inst *in, int is_fused, int half)
{
    uint32_t x[LANES];
    mix(w, in, x, is_fused, half >= 0);
    uint32_t *to = w->v[in->dst - 256];
    LOOP
    {
        if (IS_ACTIVE(l))
            to[l] = half < 0 ? x[l] : half ? (to[l] & 0xffff) | x[l] << 16 : (to[l] & 0xffff0000u) | x[l];
    }
}

/* CDNA's mad_mix is fused, as gfx906 and later are: that is what clang takes it for. */
void own_mix_f32(Wave *w, const Inst *in) { store_mix(w, in, 1, -1); }
void own_mixlo_f16(Wave *w, const Inst *in) { store_mix(w, in, 1, 0); }
void own_mixhi_f16(Wave *w, const Inst *in) { store_mix(w, in, 1, 1); }
