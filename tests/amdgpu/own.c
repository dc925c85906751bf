/* SPDX-License-Identifier: Apache-2.0
 * Opcodes that are written by hand: those that work across lanes, those whose pseudocode is prose or, as known from
 * the hardware's other documents, not what happens.
 */
#include "tests/amdgpu/own.h"
#include "tests/amdgpu/machine.h"

/* ---- the program ---- */

void own_nothing(Wave *w, const Inst *in) { (void)w, (void)in; } /* waits, caches, hints: all is done in order here */

/* What build.py could not translate. */
void own_refuse(Wave *w, const Inst *in) { fail(w, "%s", w->launch->refusals[in->literal]); }

void own_end(Wave *w, const Inst *in)
{
    (void)in;
    w->state = ENDED;
}

void own_barrier(Wave *w, const Inst *in)
{
    (void)in;
    w->state = AT_BARRIER;
}

/* Others get their turn: they may be what is waited for. */
void own_sleep(Wave *w, const Inst *in)
{
    (void)in;
    w->yields = 1;
}

/* 2, of RDNA: nothing but registers that are given back early. */
void own_sendmsg(Wave *w, const Inst *in)
{
    if ((in->offset & 0xffff) != 3)
        fail(w, "message %d is not known", in->offset & 0xffff);
}

void own_trap(Wave *w, const Inst *in) { fail(w, "trap %d", in->offset & 0xff); }

void own_time(Wave *w, const Inst *in) { write_s64(w, in, in->dst, w->clock); }

/* Register 1 is MODE, 29 the cycle counter of RDNA. */
void own_getreg(Wave *w, const Inst *in)
{
    const int id = in->offset & 63, first = in->offset >> 6 & 31, size = (in->offset >> 11 & 31) + 1;
    if (id != 1 && id != 29)
        fail(w, "hardware register %d is not known", id);
    const uint32_t x = id == 1 ? w->mode : (uint32_t)w->clock;
    write_s(w, in, in->dst, size == 32 ? x : x >> first & ((1u << size) - 1));
}

/* Only what changes nothing: rounding to nearest even, denormal numbers kept. */
static void set_mode(Wave *w, const Inst *in, uint32_t value)
{
    const int id = in->offset & 63, first = in->offset >> 6 & 31, size = (in->offset >> 11 & 31) + 1;
    const uint32_t mask = (size == 32 ? ~0u : (1u << size) - 1) << first;
    const uint32_t mode = (w->mode & ~mask) | (value << first & mask);
    if (id != 1 || ((mode ^ w->mode) & 0xff))
        fail(w, "hardware register %d is set to 0x%x from 0x%x", id, mode, w->mode);
    w->mode = mode;
}

void own_setreg(Wave *w, const Inst *in) { set_mode(w, in, read_s(w, in, in->dst)); }

void own_setreg_imm(Wave *w, const Inst *in) { set_mode(w, in, in->literal); }

/* Both halves of a pair read before either writes. */
extern Function *const hattn_functions[];

void own_pair(Wave *w, const Inst *in)
{
    const Inst *halves = (const Inst *)w->launch->instructions + in->literal;
    uint32_t old[LANES], new[LANES], *x = w->v[halves[0].dst - 256];
    memcpy(old, x, sizeof(old));
    hattn_functions[halves[0].function](w, &halves[0]);
    memcpy(new, x, sizeof(new));
    memcpy(x, old, sizeof(old));
    hattn_functions[halves[1].function](w, &halves[1]);
    memcpy(x, new, sizeof(new));
}

/* ---- across lanes ---- */

static uint32_t lane_value(Wave *w, const Inst *in, int reg, int lane)
{
    return reg >= 256 ? w->v[reg - 256][lane] : read_s(w, in, reg);
}

void own_readfirstlane(Wave *w, const Inst *in)
{
    write_s(w, in, in->dst, lane_value(w, in, in->src[0], w->exec ? __builtin_ctzll(w->exec) : 0));
}

void own_readlane(Wave *w, const Inst *in)
{
    write_s(w, in, in->dst, lane_value(w, in, in->src[0], (int)(read_s(w, in, in->src[1]) & (LANES - 1))));
}

void own_writelane(Wave *w, const Inst *in)
{
    w->v[in->dst - 256][read_s(w, in, in->src[1]) & (LANES - 1)] = read_s(w, in, in->src[0]);
}

/* opsel bit 0: lanes that are not active are read, too; bit 1: bound_ctrl, of the same. */
static void permute_rows(Wave *w, const Inst *in, int other_row)
{
    const uint64_t select = read_s(w, in, in->src[1]) | (uint64_t)read_s(w, in, in->src[2]) << 32;
    uint32_t x[LANES];
    LOOP
    {
        const int from = ((l & ~15) ^ (other_row ? 16 : 0)) | (int)(select >> 4 * (l & 15) & 15);
        if (in->opsel & 1 || IS_ACTIVE(from))
            x[l] = lane_value(w, in, in->src[0], from);
        else
            x[l] = in->opsel & 2 ? 0 : w->v[in->dst - 256][l];
    }
    LOOP if (IS_ACTIVE(l)) w->v[in->dst - 256][l] = x[l];
}

void own_permlane16(Wave *w, const Inst *in) { permute_rows(w, in, 0); }

void own_permlanex16(Wave *w, const Inst *in) { permute_rows(w, in, 1); }

void own_permlane64(Wave *w, const Inst *in)
{
    if (LANES == 32)
        return;
    uint32_t x[LANES];
    LOOP x[l] = lane_value(w, in, in->src[0], l ^ 32);
    LOOP if (IS_ACTIVE(l)) w->v[in->dst - 256][l] = x[l];
}

void own_bpermute(Wave *w, const Inst *in)
{
    uint32_t x[LANES];
    LOOP
    {
        const uint32_t from = (w->v[in->addr - 256][l] + (uint32_t)in->offset) / 4 % LANES;
        x[l] = IS_ACTIVE(from) ? w->v[in->data - 256][from] : 0;
    }
    LOOP if (IS_ACTIVE(l)) w->v[in->dst - 256][l] = x[l];
}

void own_permute(Wave *w, const Inst *in)
{
    uint32_t x[LANES] = {0};
    LOOP if (IS_ACTIVE(l)) x[(w->v[in->addr - 256][l] + (uint32_t)in->offset) / 4 % LANES] = w->v[in->data - 256][l];
    LOOP if (IS_ACTIVE(l)) w->v[in->dst - 256][l] = x[l];
}

/* By masks within 32 lanes, or, bit 15, within each four. */
void own_swizzle(Wave *w, const Inst *in)
{
    const uint32_t how = (uint32_t)in->offset & 0xffff;
    uint32_t x[LANES];
    if (how >= 0xe000)
        fail(w, "swizzle 0x%x is not known", how);
    LOOP
    {
        const uint32_t lane = (uint32_t)l & 31;
        const uint32_t from = how >> 15 ? (lane & ~3u) | (how >> 2 * (lane & 3) & 3)
                                        : (((lane & how) | (how >> 5 & 31)) ^ (how >> 10 & 31)) & 31;
        const uint32_t lane_from = ((uint32_t)l & 32) | from;
        x[l] = IS_ACTIVE(lane_from) ? w->v[in->addr - 256][lane_from] : 0;
    }
    LOOP if (IS_ACTIVE(l)) w->v[in->dst - 256][l] = x[l];
}

/* ---- moves to and from accumulation registers ---- */

void own_accvgpr_move(Wave *w, const Inst *in)
{
    LOOP if (IS_ACTIVE(l)) w->v[in->dst - 256][l] = lane_value(w, in, in->src[0], l);
}

/* ---- integers ---- */

void own_mad_u64_u32(Wave *w, const Inst *in)
{
    uint32_t a[LANES], b[LANES];
    uint64_t c[LANES], d[LANES], carry = 0;
    fetch32(w, in, 0, SIGN_NONE, 0, a);
    fetch32(w, in, 1, SIGN_NONE, 0, b);
    fetch64(w, in, 2, SIGN_NONE, c);
    LOOP
    {
        d[l] = (uint64_t)a[l] * b[l] + c[l];
        carry |= (uint64_t)(d[l] < c[l]) << l;
    }
    store64(w, in, 0, d);
    write_mask(w, in, in->sdst, carry & w->exec);
}

void own_mad_i64_i32(Wave *w, const Inst *in)
{
    uint32_t a[LANES], b[LANES];
    uint64_t c[LANES], d[LANES], carry = 0;
    fetch32(w, in, 0, SIGN_NONE, 0, a);
    fetch32(w, in, 1, SIGN_NONE, 0, b);
    fetch64(w, in, 2, SIGN_NONE, c);
    LOOP
    {
        long long sum;
        const int64_t product = (int64_t)(int32_t)a[l] * (int32_t)b[l];
        carry |= (uint64_t)__builtin_add_overflow(product, (int64_t)c[l], &sum) << l;
        d[l] = (uint64_t)sum;
    }
    store64(w, in, 0, d);
    write_mask(w, in, in->sdst, carry & w->exec);
}

void own_bcnt(Wave *w, const Inst *in)
{
    uint32_t a[LANES], b[LANES];
    fetch32(w, in, 0, SIGN_NONE, 0, a);
    fetch32(w, in, 1, SIGN_NONE, 0, b);
    LOOP b[l] += (uint32_t)__builtin_popcount(a[l]);
    store32(w, in, 0, b);
}

void own_perm(Wave *w, const Inst *in)
{
    uint32_t a[LANES], b[LANES], c[LANES], d[LANES];
    fetch32(w, in, 0, SIGN_NONE, 0, a);
    fetch32(w, in, 1, SIGN_NONE, 0, b);
    fetch32(w, in, 2, SIGN_NONE, 0, c);
    LOOP
    {
        const uint64_t data = (uint64_t)a[l] << 32 | b[l];
        d[l] = 0;
        for (int i = 0; i < 4; i++) {
            const uint32_t select = c[l] >> 8 * i & 255;
            const uint32_t byte = select >= 13   ? 255
                                  : select == 12 ? 0
                                  : select >= 8  ? (data >> (16 * (select - 8) + 15) & 1) * 255
                                                 : data >> 8 * select & 255;
            d[l] |= byte << 8 * i;
        }
    }
    store32(w, in, 0, d);
}

/* The pseudocode knows no clamp of integers, which saturates. */
static void store_saturated(Wave *w, const Inst *in, uint32_t *x, const uint32_t *saturated)
{
    Inst plain = *in;
    plain.clamp = 0;
    if (in->clamp)
        memcpy(x, saturated, sizeof(uint32_t) * LANES);
    store32(w, &plain, 0, x);
}

void own_add_u32(Wave *w, const Inst *in)
{
    uint32_t a[LANES], b[LANES], saturated[LANES];
    fetch32(w, in, 0, SIGN_NONE, 0, a);
    fetch32(w, in, 1, SIGN_NONE, 0, b);
    LOOP
    {
        a[l] += b[l];
        saturated[l] = a[l] < b[l] ? 0xffffffffu : a[l];
    }
    store_saturated(w, in, a, saturated);
}

static void subtract(Wave *w, const Inst *in, int from)
{
    uint32_t a[LANES], b[LANES], saturated[LANES];
    fetch32(w, in, from, SIGN_NONE, 0, a);
    fetch32(w, in, !from, SIGN_NONE, 0, b);
    LOOP
    {
        saturated[l] = a[l] < b[l] ? 0 : a[l] - b[l];
        a[l] -= b[l];
    }
    store_saturated(w, in, a, saturated);
}

void own_sub_u32(Wave *w, const Inst *in) { subtract(w, in, 0); }
void own_subrev_u32(Wave *w, const Inst *in) { subtract(w, in, 1); }

/* ---- floats ---- */

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
