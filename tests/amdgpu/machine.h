/* SPDX-License-Identifier: Apache-2.0
 * A wave of an AMD GPU, and what the functions of opcodes need: operands, masks, memory. The functions themselves are
 * written by opcodes.py and compiled with this. LANES is 64 or 32.
 */
#ifndef HATTN_TESTS_AMDGPU_MACHINE_H
#define HATTN_TESTS_AMDGPU_MACHINE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tests/amdgpu/launch.h"

typedef struct Wave Wave;

/* An instruction, as decode.py packs it. Registers: 0..127 scalar, 128..255 constants, 256..511 vector, 512..767
 * accumulation, -1 none. */
typedef struct Inst {
    uint32_t function, size;
    int16_t dst, sdst, src[3], addr, saddr, data, data2, spare;
    int32_t offset;
    uint32_t literal, modifier; /* of DPP or SDWA */
    uint8_t neg, abs, opsel, opsel_hi, neg_hi, clamp, omod, kind;
    uint8_t bits, is_rdna, sub, spare2; /* bits: of f16 constants 16, of f64 64 */
} Inst;

enum { PLAIN, DPP, SDWA };

typedef struct Block {
    uint8_t *lds;
    uint32_t lds_size, waves, ended, waiting;
} Block;

enum { READY, AT_BARRIER, ENDED };

struct Wave {
    uint32_t s[128];
    uint32_t v[512][LANES]; /* vector, then accumulation registers */
    uint64_t exec, pc, next;
    uint32_t scc, mode;
    int state, yields; /* to others, after this instruction */
    Block *block;
    uint8_t *scratch; /* of each lane one after the other */
    uint32_t scratch_size;
    const Launch *launch;
    uint64_t clock;
    const MemoryRange *last; /* that an access was in */
    char error[256];
};

typedef void Function(Wave *w, const Inst *in);

#define ALL_LANES (LANES == 64 ? ~0ull : 0xffffffffull)
#define LOOP for (int l = 0; l < LANES; l++)
#define IS_ACTIVE(l) (w->exec >> (l)&1)

void fail(Wave *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- scalar registers ---- */

enum { VCC = 106, M0_CDNA = 124, M0_RDNA = 125, EXEC = 126 };

uint32_t constant(Wave *w, const Inst *in, int reg, int high);

static inline uint32_t read_s(Wave *w, const Inst *in, int reg)
{
    if (reg >= 128)
        return constant(w, in, reg, 0);
    if (reg == EXEC)
        return (uint32_t)w->exec;
    if (reg == EXEC + 1)
        return (uint32_t)(w->exec >> 32);
    if (in->is_rdna && reg == 124)
        return 0; /* null */
    return w->s[reg];
}

static inline uint64_t read_s64(Wave *w, const Inst *in, int reg)
{
    if (reg >= 128)
        return constant(w, in, reg, 0) | (uint64_t)constant(w, in, reg, 1) << 32;
    if (reg == EXEC)
        return w->exec;
    if (in->is_rdna && reg == 124)
        return 0;
    return w->s[reg] | (uint64_t)w->s[reg + 1] << 32;
}

static inline void write_s(Wave *w, const Inst *in, int reg, uint32_t x)
{
    if (reg == EXEC)
        w->exec = ((w->exec & ~0xffffffffull) | x) & ALL_LANES;
    else if (reg == EXEC + 1)
        w->exec = ((w->exec & 0xffffffffull) | (uint64_t)x << 32) & ALL_LANES;
    else if (reg < 0 || reg > 127)
        fail(w, "a scalar result in register %d", reg);
    else if (!(in->is_rdna && reg == 124))
        w->s[reg] = x;
}

static inline void write_s64(Wave *w, const Inst *in, int reg, uint64_t x)
{
    write_s(w, in, reg, (uint32_t)x);
    if (!(in->is_rdna && reg == 124))
        write_s(w, in, reg + 1, (uint32_t)(x >> 32));
}

/* A mask of lanes: as many bits as there are. */
static inline uint64_t read_mask(Wave *w, const Inst *in, int reg)
{
    return LANES == 64 ? read_s64(w, in, reg) : read_s(w, in, reg);
}

static inline void write_mask(Wave *w, const Inst *in, int reg, uint64_t x)
{
    if (LANES == 64)
        write_s64(w, in, reg, x);
    else
        write_s(w, in, reg, (uint32_t)x);
}

/* ---- vector operands: all lanes are read before any is written ---- */

/* How an operand's sign bits lie: for neg and abs. */
enum { SIGN_NONE, SIGN_16, SIGN_32, SIGN_64 };

/* is_half: the operand has 16 bits, which opsel takes from either half. */
void fetch32(Wave *w, const Inst *in, int i, int sign, int is_half, uint32_t *x);
void fetch64(Wave *w, const Inst *in, int i, int sign, uint64_t *x);
/* Halves of packed operands by opsel and opsel_hi, with neg and neg_hi; of 16 bits, or of 32. */
void fetch_packed(Wave *w, const Inst *in, int i, int is_float, uint32_t *x);
void fetch_packed64(Wave *w, const Inst *in, int i, int is_float, uint64_t *x);
/* float_bits: of a result that omod and clamp apply to, or 0. */
void store32(Wave *w, const Inst *in, int float_bits, const uint32_t *x);
void store64(Wave *w, const Inst *in, int float_bits, const uint64_t *x);
/* A result of 16 bits; the other half stays, or is cleared. */
void store16(Wave *w, const Inst *in, int is_float, int clears, const uint32_t *x);

/* ---- memory ---- */

/* Addresses of active lanes: with their offset. */
void addresses(Wave *w, const Inst *in, int space, uint64_t *a);
enum { SPACE_LDS, SPACE_FLAT, SPACE_GLOBAL, SPACE_SCRATCH };

uint8_t *memory_at(Wave *w, int space, int lane, uint64_t address, unsigned bytes, int writes);

static inline uint64_t load(Wave *w, int space, int lane, uint64_t address, unsigned bytes)
{
    uint64_t x = 0;
    const uint8_t *from = memory_at(w, space, lane, address, bytes, 0);
    if (from)
        memcpy(&x, from, bytes);
    return x;
}

static inline void store(Wave *w, int space, int lane, uint64_t address, unsigned bytes, uint64_t x)
{
    uint8_t *to = memory_at(w, space, lane, address, bytes, 1);
    if (to)
        memcpy(to, &x, bytes);
}

/* ---- numbers ---- */

static inline float f32_of(uint32_t x)
{
    float y;
    memcpy(&y, &x, 4);
    return y;
}
static inline uint32_t bits32(float x)
{
    uint32_t y;
    memcpy(&y, &x, 4);
    return y;
}
static inline double f64_of(uint64_t x)
{
    double y;
    memcpy(&y, &x, 8);
    return y;
}
static inline uint64_t bits64(double x)
{
    uint64_t y;
    memcpy(&y, &x, 8);
    return y;
}
static inline float f16_of(uint32_t x)
{
    _Float16 h;
    const uint16_t b = (uint16_t)x;
    memcpy(&h, &b, 2);
    return (float)h;
}
/* From double: a product of two fp16 and its sum with a third are exact there, so that this is the only rounding. */
static inline uint32_t bits16(double x)
{
    const _Float16 h = (_Float16)x;
    uint16_t b;
    memcpy(&b, &h, 2);
    return b;
}
static inline float bf16_of(uint32_t x) { return f32_of(x << 16); }

static inline int is_signal_nan32(uint32_t x) { return (x & 0x7fffffff) > 0x7f800000 && !(x & 0x400000); }

static inline uint32_t to_u32(double x) { return !(x > 0) ? 0 : x >= 4294967295.0 ? 0xffffffffu : (uint32_t)x; }
static inline int32_t to_i32(double x)
{
    return x != x ? 0 : x >= 2147483647.0 ? INT32_MAX : x <= -2147483648.0 ? INT32_MIN : (int32_t)x;
}
static inline uint32_t to_u16(double x) { return !(x > 0) ? 0 : x >= 65535 ? 65535 : (uint32_t)x; }
static inline int32_t to_i16(double x) { return x != x ? 0 : x >= 32767 ? 32767 : x <= -32768 ? -32768 : (int32_t)x; }

/* -0 is below +0; of a NaN and a number the number. */
static inline float max_f32(float x, float y)
{
    return x != x ? y : y != y ? x : x > y ? x : y > x ? y : signbit(x) ? y : x;
}
static inline float min_f32(float x, float y)
{
    return x != x ? y : y != y ? x : x < y ? x : y < x ? y : signbit(x) ? x : y;
}

static inline double max_f64(double x, double y)
{
    return x != x ? y : y != y ? x : x > y ? x : y > x ? y : signbit(x) ? y : x;
}
static inline double min_f64(double x, double y) { return -max_f64(-x, -y); }

static inline int exponent32(float x) { return bits32(x) >> 23 & 255; }
static inline int exponent64(double x) { return (int)(bits64(x) >> 52 & 2047); }
static inline int exponent16(float x) { return (int)(bits16(x) >> 10 & 31); }

static inline uint32_t reverse32(uint32_t x)
{
    uint32_t y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1) << (31 - i);
    return y;
}
static inline uint64_t reverse64(uint64_t x)
{
    return (uint64_t)reverse32((uint32_t)x) << 32 | reverse32((uint32_t)(x >> 32));
}

#define SHL(x, n, bits) ((n) >= (bits) ? 0 : (x) << (n))
#define SHR(x, n, bits) ((n) >= (bits) ? ((x) < 0 ? -1 : 0) : (x) >> (n))

#endif
