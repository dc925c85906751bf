/* SPDX-License-Identifier: Apache-2.0
 * Scores of a run of keys where there is no popcount of vectors wider than a byte. A block is 16 keys for each 16-byte
 * lane of a register, as rows of 16 bytes: lane i has keys 16 * i and up, or, of compact codes, every other row. Two
 * ways through it:
 * - Count: (row ^ sign) & plane, popcounts of its bytes weighted by doubling, bytes summed to keys. Time grows with the
 *   planes.
 * - Look up: the rows are transposed to columns, one byte of all 16 keys; each of its nibbles indexes a table of the 16
 *   sums of weights that 4 code bits can have. Time is that of the transposition and two lookups a byte, whatever the
 *   weights. Sums of bytes move to u16 before they can overflow: as u16, a byte sum is even + 256 * odd, wherever it
 *   wraps, and its high byte is odd.
 * The file that includes this sets SCORE_MAX_COUNTED: with more planes lookups are faster.
 * Bound: the codes' bytes from DRAM, as long as the block's instructions hide behind them.
 */
#ifndef HATTN_KERNELS_CPU_SCORE_LANES_H
#define HATTN_KERNELS_CPU_SCORE_LANES_H

#include "kernels_cpu/f32x8.h"
#include "kernels_cpu/scalar.h"

enum {
    KEYS = 16 * U8V_LANES, /* of a block */
    GROUP_PLANES = 3,      /* counted at once: bytes stay below 8 * 7, 4 of them below 256, which u8v_fold relies on */
    LOOKUP_PLANES = 6,     /* 4 * 63 fits a byte; a 7th plane is counted */
    MIN_LOOKUP_KEYS = 512, /* building tables costs as much as scoring about a hundred keys */
    AHEAD = 4096,          /* bytes of prefetch, into L1: measured with AVX-512, into L2 up to a quarter slower */
    CHUNKS = HATTN_MAX_WORDS / 4,
    CHUNK_NIBBLES = 32
};

typedef struct score_plan {
    const hattn_planes *planes;
    int num_chunks; /* of 4 words, the last may have fewer */
    uint8_t tables[CHUNKS * CHUNK_NIBBLES][16];
} score_plan;

/* `words` below is of compact codes of 1, 2, 4 or 8 words, known when the kernel is compiled; 0: any codes. A row is
 * then 4, 2 or 1 keys of so many words: */
HATTN_INLINE int words_in_row(int words) { return words == 1 || words == 2 ? words : 4; }

/* Where the rows of one chunk are, in words. */
typedef struct score_rows {
    const uint32_t *first;
    int64_t step, stride_lane;
    int part; /* words of a chunk that is not whole, or 0 */
} score_rows;

HATTN_INLINE u8v load_row(const score_rows *rows, int row)
{
    const uint32_t *src = rows->first + row * rows->step;
    return rows->part ? u8v_load_lanes_part(src, rows->stride_lane, rows->part)
                      : u8v_load_lanes(src, rows->stride_lane);
}

/* 4 words of a row of bits that fit a row of codes. */
HATTN_INLINE u8v repeat_chunk(const uint32_t *bits, int words, int chunk)
{
    uint32_t lane[4];
    for (int i = 0; i < 4; i++)
        lane[i] = bits[4 * chunk + i % words_in_row(words)];
    return u8v_repeat(lane);
}

/* ---- Count ---- */

/* Adds to the u16 of keys 0..7 (a) and 8..15 (b) of each lane. */
HATTN_INLINE void count_planes(const score_plan *plan, const score_rows *rows, int words, int chunk, int first_plane,
                               int num_planes, u8v *a, u8v *b)
{
    const int half = 2 * words_in_row(words);
    const u8v sign = repeat_chunk(plan->planes->sign, words, chunk);
    u8v plane[GROUP_PLANES];
#pragma GCC unroll 3
    for (int p = 0; p < num_planes; p++)
        plane[p] = repeat_chunk(plan->planes->plane[first_plane + p], words, chunk);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        u8v counts[8];
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) {
            const u8v bits = u8v_xor(load_row(rows, h * half + i), sign);
            u8v count = u8v_popcount(u8v_and(bits, plane[num_planes - 1]));
#pragma GCC unroll 3
            for (int p = num_planes - 2; p >= 0; p--)
                count = u8v_add(u8v_add(count, count), u8v_popcount(u8v_and(bits, plane[p])));
            counts[i] = count;
        }
        u8v sums = u16v_shift_left(u8v_fold(counts, words_in_row(words)), first_plane);
        *(h ? b : a) = u16v_add(*(h ? b : a), sums);
    }
}

HATTN_INLINE void count_all(const score_plan *plan, const score_rows *rows, int words, int chunk, int first_plane,
                            int num_planes, u8v *a, u8v *b)
{
    for (int p = first_plane; p < num_planes; p += GROUP_PLANES) {
        switch (num_planes - p) {
        case 1: count_planes(plan, rows, words, chunk, p, 1, a, b); break;
        case 2: count_planes(plan, rows, words, chunk, p, 2, a, b); break;
        default: count_planes(plan, rows, words, chunk, p, GROUP_PLANES, a, b); break;
        }
    }
}

/* ---- Look up ---- */

/* Entry v is the sum over the nibble's bits b of |w_b| * bit b of (v ^ sign); planes from num_planes on do not
 * count. */
HATTN_INLINE void make_tables(score_plan *plan, int num_planes)
{
    static const uint64_t ones = 0x0101010101010101;
    /* Bytes v of 0..7 that have bit b set. */
    static const uint64_t set_bytes[3] = {0x0100010001000100, 0x0101000001010000, 0x0101010100000000};
    for (int i = 0; i < plan->planes->num_words * 8; i++) {
        const int word = i / 8, shift = i % 8 * 4;
        const uint32_t sign = plan->planes->sign[word] >> shift & 15;
        uint32_t magnitudes = 0; /* byte b: |w_b| */
        for (int p = 0; p < num_planes; p++) {
            const uint32_t nibble = plan->planes->plane[p][word] >> shift & 15;
            magnitudes |= (nibble * 0x00204081 & 0x01010101) << p; /* bit b to byte b */
        }
        uint64_t low = 0;
        for (int b = 0; b < 3; b++)
            low += (magnitudes >> 8 * b & 255) * (sign >> b & 1 ? ones ^ set_bytes[b] : set_bytes[b]);
        const uint64_t last = (magnitudes >> 24) * ones, high = low + (sign >> 3 ? 0 : last);
        low += sign >> 3 ? last : 0;
        memcpy(plan->tables[i], &low, 8);
        memcpy(plan->tables[i] + 8, &high, 8);
    }
    memset(plan->tables[plan->planes->num_words * 8], 0,
           (size_t)(-plan->planes->num_words * 8 & (CHUNK_NIBBLES - 1)) * 16);
}

/* Moves the top bit of the register's number into the byte's number, and its top bit out of it. */
HATTN_INLINE void rotate(u8v *regs, int num_regs)
{
    u8v out[8];
#pragma GCC unroll 4
    for (int i = 0; i < num_regs / 2; i++) {
        out[2 * i] = u8v_zip_low(regs[i], regs[i + num_regs / 2]);
        out[2 * i + 1] = u8v_zip_high(regs[i], regs[i + num_regs / 2]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < num_regs; i++)
        regs[i] = out[i];
}

/* Sums of up to num_planes planes over columns, in order of the keys: u16 of the whole register (even + 256 * odd)
 * and of its odd bytes. */
HATTN_INLINE void look_up_columns(const u8v *columns, int num_columns, const uint8_t (*tables)[16], int num_planes,
                                  u8v *all, u8v *odd)
{
    /* Nibbles whose sums fit a byte: 255 / (4 * (2^planes - 1)). */
    const int room = num_planes <= 2 ? 16 : num_planes == 3 ? 8 : num_planes == 4 ? 4 : 1;
    u8v sum = u8v_zero();
#pragma GCC unroll 16
    for (int i = 0; i < 2 * num_columns; i++) {
        const u8v column = columns[i / 2], nibbles = i % 2 ? u8v_high_nibbles(column) : u8v_low_nibbles(column);
        const u8v looked_up = u8v_lookup(u8v_repeat(tables[i]), nibbles);
        sum = i % room ? u8v_add(sum, looked_up) : looked_up;
        if ((i + 1) % room == 0 || i + 1 == 2 * num_columns) {
            *all = u16v_add(*all, sum);
            *odd = u16v_add(*odd, u16v_high_bytes(sum));
        }
    }
}

HATTN_INLINE void look_up(const score_plan *plan, const score_rows *rows, int words, int chunk, int num_planes,
                          u8v *all, u8v *odd)
{
    const uint8_t(*tables)[16] = plan->tables + chunk * CHUNK_NIBBLES;
    u8v regs[8];
    if (words == 1 || words == 2) {
        const int num_rows = 4 * words;
#pragma GCC unroll 8
        for (int i = 0; i < num_rows; i++)
            regs[i] = load_row(rows, i);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            rotate(regs, num_rows);
        look_up_columns(regs, num_rows, tables, num_planes, all, odd);
        return;
    }
    /* 16 rows: after the first step, columns 0..7 come out of one half of the registers and 8..15 out of the other. */
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const u8v low = load_row(rows, i), high = load_row(rows, i + 8);
            regs[i] = h ? u8v_zip_high(low, high) : u8v_zip_low(low, high);
        }
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++)
            rotate(regs, 8);
        look_up_columns(regs, 8, tables + 16 * h, num_planes, all, odd);
        /* Or gcc keeps the rows for the other half, most of them on the stack: 24 us instead of 20. */
        __asm__("" : : : "memory");
    }
}

/* ---- Runs ---- */

/* Looks up the first lookup_planes planes, counts the others up to num_planes. */
HATTN_INLINE void score_block(const score_plan *plan, const uint32_t *codes, int64_t stride_key, int words,
                              int lookup_planes, int num_planes, uint16_t *scores)
{
    u8v a = u8v_zero(), b = u8v_zero(), all = u8v_zero(), odd = u8v_zero();
    const int lanes_alternate = words && words <= 4;
    for (int chunk = 0; chunk < (words ? (words + 3) / 4 : plan->num_chunks); chunk++) {
        const int left = plan->planes->num_words - 4 * chunk;
        score_rows rows = {codes + 4 * chunk, stride_key, 16 * stride_key, left < 4 ? left : 0};
        if (words == 8)
            rows = (score_rows){codes + 4 * chunk, 8, 16 * 8, 0};
        if (lanes_alternate)
            rows = (score_rows){codes, 4 * U8V_LANES, 4, 0};
        if (lookup_planes)
            look_up(plan, &rows, words, chunk, lookup_planes, &all, &odd);
        count_all(plan, &rows, words, chunk, lookup_planes, num_planes, &a, &b);
    }
    if (lookup_planes) {
        const u8v even = u16v_sub(all, u16v_shift_left(odd, 8));
        a = u16v_add(a, u16v_zip_low(even, odd));
        b = u16v_add(b, u16v_zip_high(even, odd));
    }
    u16v_store_scores(scores, a, b, lanes_alternate ? words : 0);
}

HATTN_INLINE void score_run(const score_plan *plan, const uint32_t *codes, int64_t stride_key, int64_t num_keys,
                            uint16_t *scores, int words, int lookup_planes, int num_planes)
{
    const int num_words = plan->planes->num_words;
    uint32_t last_codes[KEYS * HATTN_MAX_WORDS];
    uint16_t last_scores[KEYS];
    for (int64_t j = 0; j < num_keys; j += KEYS) {
        const uint32_t *block = codes + j * stride_key;
        uint16_t *out = scores + j;
        const int rest = num_keys - j < KEYS ? (int)(num_keys - j) : 0;
        if (rest) {
            memset(last_codes, 0, sizeof last_codes);
            for (int i = 0; i < rest; i++)
                memcpy(last_codes + i * num_words, block + i * stride_key, (size_t)num_words * sizeof *block);
            block = last_codes;
            stride_key = num_words;
            out = last_scores;
        }
        /* Behind the run lies the next head's as a rule. */
        const char *ahead = (const char *)((uintptr_t)block + AHEAD);
        const int num_lines = words ? KEYS * words / 16 : stride_key == num_words ? (KEYS * num_words + 15) / 16 : 0;
#pragma GCC unroll 8
        for (int line = 0; line < num_lines; line++)
            __builtin_prefetch(ahead + 64 * line, 0, 3);
        score_block(plan, block, stride_key, words, lookup_planes, num_planes, out);
        if (rest)
            memcpy(scores + j, last_scores, (size_t)rest * sizeof *scores);
    }
}

HATTN_INLINE void score_words(const hattn_planes *planes, const uint32_t *codes, int64_t stride_key, int64_t num_keys,
                              uint16_t *scores, int words)
{
    score_plan plan;
    plan.planes = planes;
    plan.num_chunks = (planes->num_words + 3) / 4;
    const int num_planes = planes->num_planes;
    if (num_planes <= SCORE_MAX_COUNTED || num_keys < MIN_LOOKUP_KEYS) {
        switch (words ? num_planes : 0) {
        case 1: score_run(&plan, codes, stride_key, num_keys, scores, words, 0, 1); break;
        case 2: score_run(&plan, codes, stride_key, num_keys, scores, words, 0, 2); break;
        case 3: score_run(&plan, codes, stride_key, num_keys, scores, words, 0, 3); break;
        default: score_run(&plan, codes, stride_key, num_keys, scores, words, 0, num_planes); break;
        }
        return;
    }
    make_tables(&plan, num_planes < LOOKUP_PLANES ? num_planes : LOOKUP_PLANES);
    switch (words || num_planes > LOOKUP_PLANES ? num_planes : LOOKUP_PLANES) {
    case 2: score_run(&plan, codes, stride_key, num_keys, scores, words, 2, 2); break;
    case 3: score_run(&plan, codes, stride_key, num_keys, scores, words, 3, 3); break;
    case 4: score_run(&plan, codes, stride_key, num_keys, scores, words, 4, 4); break;
    case 5:
    case LOOKUP_PLANES:
        score_run(&plan, codes, stride_key, num_keys, scores, words, LOOKUP_PLANES, LOOKUP_PLANES);
        break;
    default: score_run(&plan, codes, stride_key, num_keys, scores, words, LOOKUP_PLANES, HATTN_MAX_PLANES); break;
    }
}

HATTN_INLINE void score(const hattn_planes *planes, const uint32_t *codes, int64_t stride_key, int64_t num_keys,
                        uint16_t *scores)
{
    if (planes->num_planes == 0) {
        memset(scores, 0, (size_t)num_keys * sizeof *scores);
        return;
    }
    switch (stride_key == planes->num_words ? planes->num_words : 0) {
    case 1: score_words(planes, codes, stride_key, num_keys, scores, 1); break;
    case 2: score_words(planes, codes, stride_key, num_keys, scores, 2); break;
    case 4: score_words(planes, codes, stride_key, num_keys, scores, 4); break;
    case 8: score_words(planes, codes, stride_key, num_keys, scores, 8); break;
    default: score_words(planes, codes, stride_key, num_keys, scores, 0); break;
    }
}

HATTN_INLINE void score_runs(const hattn_planes *planes, const hattn_score_run *runs, int num_runs, int num_runs_ahead,
                             int64_t stride_key, uint16_t *scores)
{
    (void)num_runs_ahead; /* score_run fetches what lies behind a run */
    for (int i = 0; i < num_runs; i++) {
        score(planes, runs[i].codes, stride_key, runs[i].num_keys, scores);
        scores += runs[i].num_keys;
    }
}

HATTN_INLINE void scale(const uint16_t *scores, uint32_t max_score, const uint16_t *norms, int64_t stride_norm,
                        int64_t num_keys, float *keys)
{
    int64_t j = 0;
    for (; j + 8 <= num_keys; j += 8) {
        uint16_t gathered[8];
        const uint16_t *halves = norms + j;
        if (stride_norm != 1) {
            for (int i = 0; i < 8; i++)
                gathered[i] = norms[(j + i) * stride_norm];
            halves = gathered;
        }
        f32x8_store(keys + j, f32x8_mul(f32x8_centred_scores(scores + j, max_score), f32x8_load_f16(halves)));
    }
    for (; j < num_keys; j++)
        keys[j] = (float)(2 * (int32_t)scores[j] - (int32_t)max_score) * hattn_f32_of_f16(norms[j * stride_norm]);
}

#endif
