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

uint32_t lane_value(Wave *w, const Inst *in, int reg, int lane)
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
