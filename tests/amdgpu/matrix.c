/* SPDX-License-Identifier: Apache-2.0
 * Products of matrices by AMD's published layouts: MFMA of waves of 64 (AMD Matrix Instruction Calculator, CDNA 3;
 * of broadcasts the CDNA 3 ISA), WMMA of waves of 32 (RDNA 3 ISA, 7.9). Sums are fp32, in the order of the
 * inner dimension.
 */
#include "tests/amdgpu/machine.h"
#include "tests/amdgpu/own.h"

enum { F32, F16, BF16 };

static float element(uint32_t word, int half, int type)
{
    const uint32_t bits = half ? word >> 16 : word & 0xffff;
    return type == F32 ? f32_of(word) : type == F16 ? f16_of(bits) : bf16_of(bits);
}

/* Word `index` of source i, of a lane; constants are the same in all words. */
static uint32_t source(Wave *w, const Inst *in, int i, int index, int lane)
{
    const int reg = in->src[i];
    return reg >= 256 ? w->v[reg - 256 + index][lane] : read_s(w, in, reg);
}

static void check(Wave *w, const Inst *in, int lanes)
{
    if (LANES != lanes)
        fail(w, "a matrix product of waves of %d", lanes);
    if (in->neg || in->neg_hi || in->opsel || in->clamp)
        fail(w, "a matrix product with modifiers");
}

/* Products do not know which lanes are off, and write their registers, where the compiler keeps what these lanes need later: an error. */
static void check_lanes(Wave *w)
{
    if (w->exec != ALL_LANES)
        fail(w, "a matrix product without all lanes");
}

/* size x size x inner. Lane l has row l % size of A and column l % size of B, a run of the inner dimension each; of C
 * and D column l % size, and four rows at a time. */
static void mfma(Wave *w, const Inst *in, int size, int inner, int type)
{
    static float a[32][32], b[32][32], d[16][LANES];
    check(w, in, 64);
    check_lanes(w);
    if (in->sub)
        fail(w, "a broadcast of a matrix that has one block");
    const int run = inner * size / 64;
    LOOP for (int k = 0; k < run; k++)
    {
        const int word = type == F32 ? k : k / 2, at = l / size % (64 / size) * run + k;
        a[l % size][at] = element(source(w, in, 0, word, l), type != F32 && k % 2, type);
        b[l % size][at] = element(source(w, in, 1, word, l), type != F32 && k % 2, type);
    }
    const int words = size * size / 64;
    for (int r = 0; r < words; r++)
        LOOP
        {
            const int row = r / 4 * (256 / size) + l / size * 4 + r % 4;
            float sum = f32_of(source(w, in, 2, r, l));
            for (int k = 0; k < inner; k++)
                sum += a[row][k] * b[l % size][k];
            d[r][l] = sum;
        }
    for (int r = 0; r < words; r++)
        LOOP w->v[in->dst - 256 + r][l] = bits32(d[r][l]);
}

void own_mfma_f32_16x16x16_f16(Wave *w, const Inst *in) { mfma(w, in, 16, 16, F16); }
void own_mfma_f32_16x16x16_bf16(Wave *w, const Inst *in) { mfma(w, in, 16, 16, BF16); }
void own_mfma_f32_32x32x8_f16(Wave *w, const Inst *in) { mfma(w, in, 32, 8, F16); }
void own_mfma_f32_32x32x8_bf16(Wave *w, const Inst *in) { mfma(w, in, 32, 8, BF16); }
void own_mfma_f32_16x16x4_f32(Wave *w, const Inst *in) { mfma(w, in, 16, 4, F32); }
void own_mfma_f32_32x32x2_f32(Wave *w, const Inst *in) { mfma(w, in, 32, 2, F32); }

/* Sixteen blocks of 4 x 4 x inner. Lane l has row l % 4 of A and column l % 4 of B and of D of block l / 4; register r
 * of D is row r. Of 2^cbsz neighbours all take the A of one, abid. */
static void mfma_of_blocks(Wave *w, const Inst *in, int inner, int type)
{
    static float d[4][LANES];
    const int cbsz = in->sub, abid = in->offset;
    check(w, in, 64);
    check_lanes(w);
    if (cbsz > 4 || abid >> cbsz)
        fail(w, "a broadcast of block %d among 2^%d", abid, cbsz);
    for (int r = 0; r < 4; r++)
        LOOP
        {
            const int row = ((l / 4 >> cbsz << cbsz) + abid) * 4 + r;
            float sum = f32_of(source(w, in, 2, r, l));
            for (int k = 0; k < inner; k++) {
                const int word = type == F32 ? k : k / 2, half = type != F32 && k % 2;
                sum +=
                    element(source(w, in, 0, word, row), half, type) * element(source(w, in, 1, word, l), half, type);
            }
            d[r][l] = sum;
        }
    for (int r = 0; r < 4; r++)
        LOOP w->v[in->dst - 256 + r][l] = bits32(d[r][l]);
}

void own_mfma_f32_4x4x4_16b_f16(Wave *w, const Inst *in) { mfma_of_blocks(w, in, 4, F16); }
void own_mfma_f32_4x4x4_16b_bf16(Wave *w, const Inst *in) { mfma_of_blocks(w, in, 4, BF16); }
void own_mfma_f32_4x4x1_16b_f32(Wave *w, const Inst *in) { mfma_of_blocks(w, in, 1, F32); }

/* 16 x 16 x 16. Lane l has all of row l % 16 of A and of column l % 16 of B: lanes 16 and above must repeat those
 * below. Of C and D it has column l % 16, every other row. */
static void wmma(Wave *w, const Inst *in, int type)
{
    float d[8][LANES];
    check(w, in, 32);
    check_lanes(w);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 8; k++)
            for (int l = 0; l < 16; l++)
                if (source(w, in, i, k, l) != source(w, in, i, k, l + 16))
                    fail(w, "operand %d of a matrix product differs between lanes %d and %d", i, l, l + 16);
    for (int r = 0; r < 8; r++)
        LOOP
        {
            float sum = f32_of(source(w, in, 2, r, l));
            for (int k = 0; k < 16; k++)
                sum += element(source(w, in, 0, k / 2, 2 * r + l / 16), k % 2, type) *
                       element(source(w, in, 1, k / 2, l % 16), k % 2, type);
            d[r][l] = sum;
        }
    for (int r = 0; r < 8; r++)
        LOOP w->v[in->dst - 256 + r][l] = bits32(d[r][l]);
}

void own_wmma_f32_16x16x16_f16(Wave *w, const Inst *in) { wmma(w, in, F16); }
void own_wmma_f32_16x16x16_bf16(Wave *w, const Inst *in) { wmma(w, in, BF16); }
