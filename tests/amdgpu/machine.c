/* SPDX-License-Identifier: Apache-2.0
 * Operands and memory of a wave.
 */
#include "tests/amdgpu/machine.h"

#include <stdarg.h>
#include <stdio.h>

void fail(Wave *w, const char *format, ...)
{
    if (w->error[0])
        return; /* the first one tells most */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(w->error, sizeof(w->error), format, arguments);
    va_end(arguments);
}

/* ---- constants ---- */

enum { SHARED_APERTURE = 0x10000, PRIVATE_APERTURE = 0x20000 }; /* the high words of addresses in LDS and scratch */

static double float_constant(int reg)
{
    static const double values[] = {0.5, -0.5, 1, -1, 2, -2, 4, -4, 0.15915494309189532};
    return values[reg - 240];
}

static uint32_t float_word(const Inst *in, int reg, int high)
{
    const double x = float_constant(reg);
    if (in->bits == 64)
        return (uint32_t)(bits64(x) >> (high ? 32 : 0));
    return high ? 0 : in->bits == 16 ? bits16(x) : bits32((float)x);
}

/* Word `high` of what source `reg` >= 128 stands for. */
uint32_t constant(Wave *w, const Inst *in, int reg, int high)
{
    if (reg <= 192)
        return high ? 0 : (uint32_t)(reg - 128);
    if (reg <= 208)
        return high ? 0xffffffffu : (uint32_t)(192 - reg);
    if (reg >= 240 && reg <= 248)
        return float_word(in, reg, high);
    const uint64_t vcc = w->s[VCC] | (LANES == 64 ? (uint64_t)w->s[VCC + 1] << 32 : 0);
    switch (reg) {
    case 235: return high ? SHARED_APERTURE : 0;
    case 236: return high ? SHARED_APERTURE : 0xffffffffu;
    case 237: return high ? PRIVATE_APERTURE : 0;
    case 238: return high ? PRIVATE_APERTURE : 0xffffffffu;
    case 251: return high ? 0 : !vcc;
    case 252: return high ? 0 : !w->exec;
    case 253: return high ? 0 : w->scc;
    case 255:
        if (in->bits == 64)
            return high ? in->literal : 0;
        return high ? (in->bits == 63 && in->literal >> 31 ? 0xffffffffu : 0) : in->literal;
    default: fail(w, "source operand %d is not known", reg); return 0;
    }
}

/* ---- lanes of other lanes ---- */

/* The lane that `lane` reads by a DPP control, -1: none. */
static int dpp_lane(Wave *w, const Inst *in, int lane, unsigned control)
{
    const int row = lane & ~15, at = lane & 15, n = (int)(control & 15);
    if (control < 0x100)
        return (lane & ~3) | (int)(control >> 2 * (lane & 3) & 3);
    switch (control >> 4) {
    case 0x10: return at + n > 15 ? -1 : lane + n;
    case 0x11: return at < n ? -1 : lane - n;
    case 0x12: return row | ((at - n) & 15);
    case 0x15: return row | n; /* row_share on RDNA, row_newbcast on gfx90a and later */
    case 0x16:
        if (in->is_rdna)
            return row | (at ^ n);
        break;
    default: break;
    }
    switch (control) {
    case 0x140: return row | (15 - at);
    case 0x141: return (lane & ~7) | (7 - (lane & 7));
    case 0x142:
        if (!in->is_rdna)
            return lane < 16 ? -1 : row - 1;
        break;
    case 0x143:
        if (!in->is_rdna)
            return lane < 32 ? -1 : 31;
        break;
    case 0x130:
        if (!in->is_rdna)
            return lane == LANES - 1 ? -1 : lane + 1;
        break;
    case 0x138:
        if (!in->is_rdna)
            return lane == 0 ? -1 : lane - 1;
        break;
    default: break;
    }
    fail(w, "DPP control 0x%x is not known", control);
    return -1;
}

/* modifier of DPP: control 0..8, bound_ctrl 9, fetch_inactive 10, row_mask 12..15, bank_mask 16..19. Lanes that are
 * not written: those outside of the masks, or without a source where bound_ctrl does not make it 0. */
static uint64_t dpp_written(Wave *w, const Inst *in)
{
    uint64_t written = 0;
    LOOP
    {
        const int from = dpp_lane(w, in, l, in->modifier & 511);
        const int reads = from >= 0 && (in->modifier >> 10 & 1 || IS_ACTIVE(from));
        if ((in->modifier >> (12 + l / 16 % 4) & 1) && (in->modifier >> (16 + l % 16 / 4) & 1) &&
            (reads || in->modifier >> 9 & 1))
            written |= 1ull << l;
    }
    return written;
}

static void apply_dpp(Wave *w, const Inst *in, uint32_t *x)
{
    uint32_t y[LANES];
    LOOP
    {
        const int from = dpp_lane(w, in, l, in->modifier & 511);
        y[l] = from >= 0 && (in->modifier >> 10 & 1 || IS_ACTIVE(from)) ? x[from] : 0;
    }
    memcpy(x, y, sizeof(y));
}

/* modifier of SDWA: dst_sel 0..2, dst_unused 3..4, src0_sel 5..7, src0_sext 8, src1_sel 9..11, src1_sext 12. */
static void apply_sdwa(const Inst *in, int i, uint32_t *x)
{
    const unsigned select = in->modifier >> (i ? 9 : 5) & 7, extends = in->modifier >> (i ? 12 : 8) & 1;
    if (select == 6)
        return;
    const unsigned shift = select < 4 ? 8 * select : 16 * (select - 4), bits = select < 4 ? 8 : 16;
    LOOP
    {
        const uint32_t y = x[l] >> shift & ((1u << bits) - 1);
        x[l] = extends && y >> (bits - 1) ? y | ~0u << bits : y;
    }
}

/* ---- operands ---- */

static void fetch_row(Wave *w, const Inst *in, int reg, uint32_t *x)
{
    if (reg >= 256) {
        memcpy(x, w->v[reg - 256], sizeof(w->v[0]));
    } else {
        const uint32_t y = read_s(w, in, reg);
        LOOP x[l] = y;
    }
}

void fetch32(Wave *w, const Inst *in, int i, int sign, int is_half, uint32_t *x)
{
    fetch_row(w, in, in->src[i], x);
    if (in->kind == DPP && i == 0)
        apply_dpp(w, in, x);
    else if (in->kind == SDWA && i < 2)
        apply_sdwa(in, i, x);
    if (is_half && in->opsel >> i & 1)
        LOOP x[l] >>= 16;
    if (!(in->neg >> i & 1) && !(in->abs >> i & 1))
        return;
    if (sign != SIGN_16 && sign != SIGN_32)
        fail(w, "neg or abs of what is no float");
    const uint32_t top = sign == SIGN_16 ? 0x8000u : 0x80000000u;
    const uint32_t keep = in->abs >> i & 1 ? ~top : ~0u, flip = in->neg >> i & 1 ? top : 0;
    LOOP x[l] = (x[l] & keep) ^ flip;
}

void fetch64(Wave *w, const Inst *in, int i, int sign, uint64_t *x)
{
    const int reg = in->src[i];
    if (in->kind == SDWA)
        fail(w, "SDWA of 64 bits");
    if (reg >= 256) {
        uint32_t low[LANES], high[LANES];
        fetch_row(w, in, reg, low);
        fetch_row(w, in, reg + 1, high);
        if (in->kind == DPP && i == 0) {
            apply_dpp(w, in, low);
            apply_dpp(w, in, high);
        }
        LOOP x[l] = low[l] | (uint64_t)high[l] << 32;
    } else {
        const uint64_t y = read_s64(w, in, reg);
        LOOP x[l] = y;
    }
    if (!(in->neg >> i & 1) && !(in->abs >> i & 1))
        return;
    if (sign != SIGN_64)
        fail(w, "neg or abs of what is no double");
    const uint64_t top = 1ull << 63, keep = in->abs >> i & 1 ? ~top : ~0ull, flip = in->neg >> i & 1 ? top : 0;
    LOOP x[l] = (x[l] & keep) ^ flip;
}

void fetch_packed(Wave *w, const Inst *in, int i, int is_float, uint32_t *x)
{
    fetch_row(w, in, in->src[i], x);
    if (in->kind == DPP && i == 0)
        apply_dpp(w, in, x);
    const unsigned low = in->opsel >> i & 1 ? 16 : 0, high = in->opsel_hi >> i & 1 ? 16 : 0;
    const uint32_t flip = (in->neg >> i & 1 ? 0x8000u : 0) | (in->neg_hi >> i & 1 ? 0x80000000u : 0);
    if (flip && !is_float)
        fail(w, "neg of packed integers");
    LOOP x[l] = ((x[l] >> low & 0xffff) | (x[l] >> high & 0xffff) << 16) ^ flip;
}

void fetch_packed64(Wave *w, const Inst *in, int i, int is_float, uint64_t *x)
{
    const int reg = in->src[i], low = in->opsel >> i & 1, high = in->opsel_hi >> i & 1;
    const uint64_t flip = (in->neg >> i & 1 ? 0x80000000ull : 0) | (in->neg_hi >> i & 1 ? 0x8000000000000000ull : 0);
    if (flip && !is_float)
        fail(w, "neg of packed words that are no floats");
    uint32_t words[2][LANES];
    for (int k = 0; k < 2; k++) {
        if (reg < 128 || reg >= 256)
            fetch_row(w, in, reg + k, words[k]);
        else
            LOOP words[k][l] = constant(w, in, reg, k);
    }
    LOOP x[l] = (words[low][l] | (uint64_t)words[high][l] << 32) ^ flip;
}

/* ---- results ---- */

static float modify(const Inst *in, float x)
{
    static const float factors[] = {1, 2, 4, 0.5f};
    x *= factors[in->omod];
    return in->clamp ? (x > 0 ? (x < 1 ? x : 1) : 0) : x; /* NaN becomes 0 */
}

static void write_row(Wave *w, const Inst *in, int reg, const uint32_t *x)
{
    const uint64_t written = w->exec & (in->kind == DPP ? dpp_written(w, in) : ALL_LANES);
    uint32_t *to = w->v[reg - 256];
    if (written == ALL_LANES)
        memcpy(to, x, sizeof(w->v[0]));
    else
        LOOP to[l] = written >> l & 1 ? x[l] : to[l];
}

static void sdwa_result(Wave *w, const Inst *in, uint32_t *x)
{
    const unsigned select = in->modifier & 7, unused = in->modifier >> 3 & 3;
    if (select == 6)
        return;
    const unsigned shift = select < 4 ? 8 * select : 16 * (select - 4), bits = select < 4 ? 8 : 16;
    const uint32_t mask = ((1u << bits) - 1) << shift;
    LOOP
    {
        uint32_t y = x[l] << shift & mask;
        if (unused == 1 && y >> (shift + bits - 1) & 1)
            y |= shift + bits == 32 ? 0 : ~0u << (shift + bits);
        x[l] = unused == 2 ? (w->v[in->dst - 256][l] & ~mask) | y : y;
    }
}

void store32(Wave *w, const Inst *in, int float_bits, const uint32_t *values)
{
    uint32_t x[LANES];
    memcpy(x, values, sizeof(x));
    if (in->clamp || in->omod) {
        if (float_bits != 32)
            fail(w, "clamp or omod of what is no float");
        LOOP x[l] = bits32(modify(in, f32_of(x[l])));
    }
    if (in->kind == SDWA)
        sdwa_result(w, in, x);
    if (in->dst < 256)
        write_s(w, in, in->dst, x[0]);
    else
        write_row(w, in, in->dst, x);
}

void store64(Wave *w, const Inst *in, int float_bits, const uint64_t *values)
{
    uint32_t low[LANES], high[LANES];
    if (in->clamp || in->omod)
        fail(w, "clamp or omod of 64 bits (%d)", float_bits);
    LOOP low[l] = (uint32_t)values[l], high[l] = (uint32_t)(values[l] >> 32);
    write_row(w, in, in->dst, low);
    write_row(w, in, in->dst + 1, high);
}

void store16(Wave *w, const Inst *in, int is_float, int clears, const uint32_t *values)
{
    uint32_t x[LANES];
    LOOP x[l] = values[l] & 0xffff;
    if (in->clamp || in->omod) {
        if (!is_float)
            fail(w, "clamp or omod of 16 bits that are no float");
        LOOP x[l] = bits16(modify(in, f16_of(x[l])));
    }
    if (in->kind == SDWA) {
        sdwa_result(w, in, x);
    } else if (in->opsel & 8) {
        LOOP x[l] = (w->v[in->dst - 256][l] & 0xffff) | x[l] << 16;
    } else if (!clears) {
        LOOP x[l] |= w->v[in->dst - 256][l] & 0xffff0000u;
    }
    write_row(w, in, in->dst, x);
}

/* ---- memory ---- */

void addresses(Wave *w, const Inst *in, int space, uint64_t *a)
{
    const uint32_t *low = w->v[in->addr < 256 ? 0 : in->addr - 256];
    const int has_scalar = in->saddr >= 0;
    if (space == SPACE_LDS) {
        LOOP a[l] = low[l];
    } else if (space == SPACE_SCRATCH) {
        const uint32_t base = (has_scalar ? read_s(w, in, in->saddr) : 0) + (uint32_t)in->offset;
        LOOP a[l] = (uint32_t)(base + (in->addr >= 0 ? low[l] : 0));
    } else if (has_scalar) {
        const uint64_t base = read_s64(w, in, in->saddr) + (uint64_t)(int64_t)in->offset;
        LOOP a[l] = base + low[l];
    } else {
        const uint32_t *high = w->v[in->addr - 255];
        LOOP a[l] = (low[l] | (uint64_t)high[l] << 32) + (uint64_t)(int64_t)in->offset;
    }
}

static uint8_t *within(Wave *w, uint8_t *memory, uint32_t size, int lane, uint64_t address, unsigned bytes,
                       const char *what)
{
    if (address + bytes <= size && address + bytes >= bytes)
        return memory + address;
    fail(w, "lane %d: %u bytes at %s address 0x%llx, which has 0x%x", lane, bytes, what, (unsigned long long)address,
         size);
    return NULL;
}

static int holds(const MemoryRange *range, uint64_t address, unsigned bytes)
{
    return range && address >= range->first && address + bytes <= range->end;
}

uint8_t *memory_at(Wave *w, int space, int lane, uint64_t address, unsigned bytes, int writes)
{
    if (space == SPACE_FLAT && address >> 32 == SHARED_APERTURE)
        space = SPACE_LDS, address &= 0xffffffff;
    else if (space == SPACE_FLAT && address >> 32 == PRIVATE_APERTURE)
        space = SPACE_SCRATCH, address &= 0xffffffff;
    if (space == SPACE_LDS) /* a sum of 32 bits: part of it may be negative */
        return within(w, w->block->lds, w->block->lds_size, lane, (uint32_t)address, bytes, "LDS");
    if (space == SPACE_SCRATCH)
        return within(w, w->scratch + (size_t)lane * w->scratch_size, w->scratch_size, lane, address, bytes, "scratch");
    if (!holds(w->last, address, bytes)) {
        size_t low = 0, high = w->launch->num_ranges;
        while (low < high) {
            const size_t middle = (low + high) / 2;
            if (w->launch->ranges[middle].end <= address)
                low = middle + 1;
            else
                high = middle;
        }
        w->last = low < w->launch->num_ranges ? &w->launch->ranges[low] : NULL;
    }
    if (!holds(w->last, address, bytes)) {
        fail(w, "lane %d: %s of %u bytes at 0x%llx, outside of all memory that was given", lane,
             writes ? "a write" : "a read", bytes, (unsigned long long)address);
        return NULL;
    }
    if (writes && w->last->is_read_only) {
        fail(w, "lane %d: a write to the code object at 0x%llx", lane, (unsigned long long)address);
        return NULL;
    }
    return (uint8_t *)(uintptr_t)address;
}
