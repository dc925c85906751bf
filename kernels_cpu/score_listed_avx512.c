/* SPDX-License-Identifier: Apache-2.0
 * Scores of listed codes by four heads at a time. Each nibble of a code indexes a table of 16 entries, the sums of the weights that
 * the nibble's bits can have: a byte for each head. One permutation looks up for 16 keys and four heads. At 3 planes that is 1.5
 * instructions for a key and head, beside 3.3 of counting by planes. Bytes move to u16 before they can overflow.
 */
#include "kernels_cpu/avx512.h"
#include "kernels_cpu/listed.h"

enum {
    HEADS = 4, /* bytes of an entry */
    KEYS = 16, /* of a block */
    WORD_NIBBLES = 8,
    MAX_BYTE_PLANES = 6, /* 4 * 63 fits a byte */
    MAX_BITS = 32 * HATTN_MAX_WORDS
};

typedef struct table_row {
    uint32_t entries[KEYS]; /* of the 16 values of a nibble */
} table_row;

/* Each bit's weight of four heads: what a 1 there adds, and what a 0 does. */
typedef struct bit_weights {
    uint32_t one[MAX_BITS], zero[MAX_BITS];
} bit_weights;

/* Bytes of four heads to words of one bit: those of 32 bits. */
static void store_bits(uint32_t *out, const __m256i *heads)
{
    const __m256i low[2] = {_mm256_unpacklo_epi8(heads[0], heads[1]), _mm256_unpacklo_epi8(heads[2], heads[3])},
                  high[2] = {_mm256_unpackhi_epi8(heads[0], heads[1]), _mm256_unpackhi_epi8(heads[2], heads[3])};
    const __m256i fours[4] = {_mm256_unpacklo_epi16(low[0], low[1]), _mm256_unpackhi_epi16(low[0], low[1]),
                              _mm256_unpacklo_epi16(high[0], high[1]), _mm256_unpackhi_epi16(high[0], high[1])};
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((__m128i *)(out + 4 * i), _mm256_castsi256_si128(fours[i]));
        _mm_storeu_si128((__m128i *)(out + 16 + 4 * i), _mm256_extracti128_si256(fours[i], 1));
    }
}

static void spread_weights(const hattn_planes *planes, int num_heads, bit_weights *weights)
{
    for (int word = 0; word < planes->num_words; word++) {
        __m256i one[HEADS], zero[HEADS];
        for (int h = 0; h < HEADS; h++) {
            __m256i magnitude = _mm256_setzero_si256();
            const hattn_planes *head = planes + (h < num_heads ? h : 0);
            for (int p = 0; h < num_heads && p < head->num_planes; p++)
                magnitude = _mm256_or_si256(magnitude, _mm256_maskz_set1_epi8(head->plane[p][word], (char)(1 << p)));
            one[h] = _mm256_maskz_mov_epi8(~head->sign[word], magnitude);
            zero[h] = _mm256_maskz_mov_epi8(head->sign[word], magnitude);
        }
        store_bits(weights->one + 32 * word, one);
        store_bits(weights->zero + 32 * word, zero);
    }
}

static void make_tables(const hattn_planes *planes, int num_heads, table_row *tables)
{
    static const __mmask16 set[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00}; /* values that have bit b */
    bit_weights weights;
    spread_weights(planes, num_heads, &weights);
    for (int i = 0; i < planes->num_words * WORD_NIBBLES; i++) {
        __m512i row = _mm512_setzero_si512();
        for (int b = 0; b < 4; b++)
            row = _mm512_add_epi8(row, _mm512_mask_set1_epi32(_mm512_set1_epi32((int)weights.zero[4 * i + b]), set[b],
                                                              (int)weights.one[4 * i + b]));
        _mm512_storeu_si512(tables[i].entries, row);
    }
}

/* 16 bytes each of keys row, 4 + row, 8 + row, 12 + row. */
HATTN_INLINE __m512i load_row(const uint32_t *const *codes, int row, int64_t word)
{
    const __m128i *lanes[4] = {(const __m128i *)(codes[row] + word), (const __m128i *)(codes[4 + row] + word),
                               (const __m128i *)(codes[8 + row] + word), (const __m128i *)(codes[12 + row] + word)};
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(lanes[0])),
                                                _mm_loadu_si128(lanes[1]), 1),
                  high = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(lanes[2])),
                                                 _mm_loadu_si128(lanes[3]), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Sums of heads 0 and 2, and of 1 and 3: halves of a word for each key. */
typedef struct block_sums {
    __m512i even, odd;
} block_sums;

/* One word of each of 16 keys. room: nibbles whose sums fit a byte. */
HATTN_INLINE void look_up(__m512i words, const table_row *tables, int room, block_sums *sums)
{
    __m512i bytes = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < WORD_NIBBLES; i++) {
        const __m512i place = i ? _mm512_srli_epi32(words, 4 * i) : words; /* its low 4 bits count */
        const __m512i found = _mm512_permutexvar_epi32(place, _mm512_loadu_si512(tables[i].entries));
        bytes = i % room ? _mm512_add_epi8(bytes, found) : found;
        if ((i + 1) % room == 0) {
            sums->even = _mm512_add_epi16(sums->even, _mm512_and_si512(bytes, _mm512_set1_epi16(255)));
            sums->odd = _mm512_add_epi16(sums->odd, _mm512_srli_epi16(bytes, 8));
        }
    }
}

HATTN_INLINE void add_chunk(const uint32_t *const *codes, int chunk, const table_row *tables, int room,
                            block_sums *sums)
{
    const __m512i a = load_row(codes, 0, 4 * chunk), b = load_row(codes, 1, 4 * chunk),
                  c = load_row(codes, 2, 4 * chunk), d = load_row(codes, 3, 4 * chunk);
    const __m512i ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b),
                  cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    tables += chunk * 4 * WORD_NIBBLES;
    look_up(_mm512_unpacklo_epi64(ab_low, cd_low), tables, room, sums);
    look_up(_mm512_unpackhi_epi64(ab_low, cd_low), tables + WORD_NIBBLES, room, sums);
    look_up(_mm512_unpacklo_epi64(ab_high, cd_high), tables + 2 * WORD_NIBBLES, room, sums);
    look_up(_mm512_unpackhi_epi64(ab_high, cd_high), tables + 3 * WORD_NIBBLES, room, sums);
}

HATTN_INLINE void store_scores(const block_sums *sums, int num_heads, int count, uint16_t *scores,
                               int64_t stride_scores)
{
    const __mmask16 stored = hattn_mask16(count);
    const __m512i heads[HEADS] = {sums->even, sums->odd, _mm512_srli_epi32(sums->even, 16),
                                  _mm512_srli_epi32(sums->odd, 16)};
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; h++, scores += stride_scores) {
        if (h >= num_heads)
            break;
        if (count == KEYS) /* masked stores are slow on some */
            _mm256_storeu_si256((__m256i *)scores, _mm512_cvtepi32_epi16(heads[h]));
        else
            _mm256_mask_storeu_epi16(scores, stored, _mm512_cvtepi32_epi16(heads[h]));
    }
}

HATTN_INLINE void score_blocks(const table_row *tables, int num_heads, const uint32_t *const *codes, int num_codes,
                               int num_chunks, int room, uint16_t *scores, int64_t stride_scores)
{
    for (int first = 0; first < num_codes; first += KEYS) {
        const uint32_t *const *block = codes + first;
        const uint32_t *last_codes[KEYS];
        const int left = num_codes - first;
        if (left < KEYS) {
            for (int i = 0; i < KEYS; i++)
                last_codes[i] = block[i < left ? i : 0];
            block = last_codes;
        }
        block_sums sums = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int chunk = 0; chunk < num_chunks; chunk++)
            add_chunk(block, chunk, tables, room, &sums);
        store_scores(&sums, num_heads, left < KEYS ? left : KEYS, scores + first, stride_scores);
    }
}

/* Of at most HEADS heads; num_planes: the most of any. */
static void score_heads(const hattn_planes *planes, int num_heads, int num_planes, const uint32_t *const *codes,
                        int num_codes, uint16_t *scores, int64_t stride_scores)
{
    table_row tables[HATTN_MAX_WORDS * WORD_NIBBLES];
    const int num_chunks = planes->num_words / 4;
    make_tables(planes, num_heads, tables);
    /* 255 / (4 * (2^planes - 1)), a power of 2 */
    if (num_planes <= 3 && num_chunks == 1)
        score_blocks(tables, num_heads, codes, num_codes, 1, 8, scores, stride_scores);
    else if (num_planes <= 3)
        score_blocks(tables, num_heads, codes, num_codes, num_chunks, 8, scores, stride_scores);
    else if (num_planes == 4)
        score_blocks(tables, num_heads, codes, num_codes, num_chunks, 4, scores, stride_scores);
    else
        score_blocks(tables, num_heads, codes, num_codes, num_chunks, 1, scores, stride_scores);
}

void hattn_score_listed_avx512(const hattn_planes *planes, int num_heads, const uint32_t *const *codes, int num_codes,
                               uint32_t *room, uint16_t *scores, int64_t stride_scores)
{
    int num_planes = 0;
    for (int h = 0; h < num_heads; h++)
        num_planes = planes[h].num_planes > num_planes ? planes[h].num_planes : num_planes;
    if (planes->num_words % 4 || num_planes > MAX_BYTE_PLANES) {
        hattn_score_gathered(hattn_score_avx512, planes, num_heads, codes, num_codes, room, scores, stride_scores);
        return;
    }
    for (int first = 0; first < num_heads; first += HEADS)
        score_heads(planes + first, num_heads - first < HEADS ? num_heads - first : HEADS, num_planes, codes, num_codes,
                    scores + first * stride_scores, stride_scores);
}
