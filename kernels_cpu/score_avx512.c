/* SPDX-License-Identifier: Apache-2.0
 * Scores of a run of keys: one ternary-logic instruction and one popcount for a plane of 64 bytes of codes.
 *
 * Compact codes of 1, 2, 4, 8 or 16 words: 32 keys at a time, whose counts are folded into one vector of 32 u16. The
 * block's two halves may be of two runs, so that pages of 16 keys cost no more than others.
 * Others (odd word counts, heads interleaved): one key in one vector, 16 keys folded at a time. Bound: the codes'
 * bytes.
 */
#include "kernels_cpu/avx512.h"
#include "kernels_cpu/kernels.h"

enum {
    KEYS = 32,             /* of a block of compact codes: one vector of scores */
    HALF = KEYS / 2,       /* as many vectors as a code has words */
    STRIDED_KEYS = 16,     /* of a block of others */
    CODE_AND_PLANE = 0x28, /* (code ^ sign) & plane, operands in this order */
    OR_ALL = 0xfe,
    MAX_CONSTANT_PLANES = 4 /* 4-bit weights need 3, hamming of 16 heads 4; more is rare and goes through a loop */
};

typedef struct plane_vectors {
    __m512i sign, plane[HATTN_MAX_PLANES];
} plane_vectors;

/* `words` words, repeated through the vector. */
HATTN_INLINE __m512i repeat_words(const uint32_t *src, int words)
{
    __m512i all = _mm512_maskz_loadu_epi32(hattn_mask16(words), src);
    switch (words) {
    case 1: return _mm512_broadcastd_epi32(_mm512_castsi512_si128(all));
    case 2: return _mm512_broadcastq_epi64(_mm512_castsi512_si128(all));
    case 4: return _mm512_broadcast_i32x4(_mm512_castsi512_si128(all));
    case 8: return _mm512_broadcast_i64x4(_mm512_castsi512_si256(all));
    default: return all;
    }
}

HATTN_INLINE plane_vectors repeat_planes(const hattn_planes *planes, int words, int num_planes)
{
    plane_vectors vectors;
    vectors.sign = repeat_words(planes->sign, words);
    for (int p = 0; p < num_planes; p++)
        vectors.plane[p] = repeat_words(planes->plane[p], words);
    return vectors;
}

/* Weighted counts of each qword, of each dword for one-word codes and single keys. */
HATTN_INLINE __m512i count_codes(__m512i codes, const plane_vectors *v, int num_planes, int dwords)
{
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int p = num_planes - 1; p >= 0; p--) {
        __m512i bits = _mm512_ternarylogic_epi64(codes, v->sign, v->plane[p], CODE_AND_PLANE);
        if (dwords) {
            sum = _mm512_add_epi32(_mm512_add_epi32(sum, sum), _mm512_popcnt_epi32(bits));
        } else {
            sum = _mm512_add_epi64(_mm512_add_epi64(sum, sum), _mm512_popcnt_epi64(bits));
        }
    }
    return sum;
}

/* 32 keys: `words` vectors of codes each. */
typedef struct code_block {
    const uint32_t *low, *high;
    int words;
    int tail, limit; /* of a tail only: how many dwords of the block exist */
} code_block;

HATTN_INLINE __m512i load_codes(const code_block *block, int vector)
{
    const int words = block->words, limit = block->limit;
    const uint32_t *src = vector < words ? block->low + vector * 16 : block->high + (vector - words) * 16;
    return block->tail ? _mm512_maskz_loadu_epi32(hattn_mask16(limit - vector * 16), src) : _mm512_loadu_si512(src);
}

/* The u16 of qword q, place i, is the count of qword q of vector first + i. */
HATTN_INLINE __m512i pack_four(const code_block *block, int first, const plane_vectors *v, int num_planes)
{
    __m512i a = count_codes(load_codes(block, first), v, num_planes, 0);
    __m512i b = count_codes(load_codes(block, first + 1), v, num_planes, 0);
    __m512i c = count_codes(load_codes(block, first + 2), v, num_planes, 0);
    __m512i d = count_codes(load_codes(block, first + 3), v, num_planes, 0);
    __m512i low = _mm512_ternarylogic_epi64(a, _mm512_slli_epi64(b, 16), _mm512_slli_epi64(c, 32), OR_ALL);
    return _mm512_or_si512(low, _mm512_slli_epi64(d, 48));
}

/* Eight vectors; the two qwords of each 128-bit lane are added: qword 2 * lane for the first four vectors, + 1 for
 * the others. */
HATTN_INLINE __m512i pack_eight(const code_block *block, int first, const plane_vectors *v, int num_planes)
{
    __m512i a = pack_four(block, first, v, num_planes), b = pack_four(block, first + 4, v, num_planes);
    return _mm512_add_epi16(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Adds neighbouring 128-bit lanes: two of a, then two of b. */
HATTN_INLINE __m512i add_lanes(__m512i a, __m512i b)
{
    return _mm512_add_epi16(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
}

/* 32 scores in the order that the folding leaves. */
HATTN_INLINE __m512i fold_block(const code_block *block, const plane_vectors *v, int num_planes)
{
    const int words = block->words;
    if (words == 1) {
        __m512i low = count_codes(load_codes(block, 0), v, num_planes, 1);
        __m512i high = count_codes(load_codes(block, 1), v, num_planes, 1);
        return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
    }
    if (words == 2)
        return pack_four(block, 0, v, num_planes);
    if (words == 4)
        return pack_eight(block, 0, v, num_planes);
    __m512i first = add_lanes(pack_eight(block, 0, v, num_planes), pack_eight(block, 8, v, num_planes));
    if (words == 8)
        return first;
    return add_lanes(first, add_lanes(pack_eight(block, 16, v, num_planes), pack_eight(block, 24, v, num_planes)));
}

/* Where fold_block leaves key `key` of the block. */
HATTN_INLINE int folded_place(int key, int words)
{
    if (words == 1)
        return key % 16 * 2 + key / 16;
    int keys_per_vector = 16 / words, vector = key * words / 16, within = key % keys_per_vector, pack = vector / 4,
        qword;
    if (words == 2) {
        qword = within;
    } else if (words == 4) {
        qword = within * 2 + pack;
    } else if (words == 8) {
        qword = (pack / 2 * 2 + within) * 2 + pack % 2;
    } else {
        qword = pack / 2 * 2 + pack % 2;
    }
    return qword * 4 + vector % 4;
}

HATTN_INLINE __m512i unfold_order(int words)
{
    uint16_t places[KEYS];
    for (int key = 0; key < KEYS; key++)
        places[key] = (uint16_t)folded_place(key, words);
    return _mm512_loadu_si512(places);
}

/* Fetches codes in the order in which they are scored, half a block at a time. */
typedef struct code_fetcher {
    const hattn_score_run *run, *end;
    int64_t key;
} code_fetcher;

HATTN_INLINE void fetch_half(code_fetcher *fetcher, int words)
{
    if (fetcher->run == fetcher->end)
        return;
    const char *codes = (const char *)(fetcher->run->codes + fetcher->key * words);
    for (int line = 0; line < words; line++)
        _mm_prefetch(codes + line * 64, _MM_HINT_T1);
    fetcher->key += HALF;
    if (fetcher->key >= fetcher->run->num_keys) {
        fetcher->run++;
        fetcher->key = 0;
    }
}

/* Zen 4. Runs of 16 KiB and more, into L1: a cold run of 512 KiB takes 19.3 us (27 GB/s; plain prefetched reads 18),
 * with 1 KiB ahead 20.7, 8 KiB 21.4; into L2 only 21 to 28. Shorter runs in random order, into L2: 256 bytes each at 13
 * GB/s, into L1 9, without prefetch 7.5. On Granite Rapids any prefetch of long runs is worth 1.4 to 1.5 times none. */
HATTN_INLINE void score_compact(const hattn_planes *planes, const hattn_score_run *runs, int num_runs,
                                int num_runs_ahead, uint16_t *scores, int words, int num_planes)
{
    enum { AHEAD = 4096, LONG_RUN = 16384 };
    const plane_vectors v = repeat_planes(planes, words, num_planes);
    const __m512i order = unfold_order(words);
    const int64_t keys_ahead = AHEAD / 4 / words, long_run = LONG_RUN / 4 / words;
    code_fetcher fetcher = {runs, runs + num_runs + num_runs_ahead, 0};
    if (runs[0].num_keys < long_run) {
        for (int i = 0; i < keys_ahead / HALF; i++)
            fetch_half(&fetcher, words);
    }
    int64_t key = 0;
    for (int i = 0; i < num_runs; i++) {
        const uint32_t *codes = runs[i].codes;
        const int64_t num_keys = runs[i].num_keys;
        if (num_keys >= long_run) {
            for (; key + keys_ahead + KEYS <= num_keys; key += KEYS, scores += KEYS) {
                for (int line = 0; line < 2 * words; line++)
                    _mm_prefetch((const char *)(codes + key * words) + AHEAD + line * 64, _MM_HINT_T0);
                const code_block block = {codes + key * words, codes + (key + HALF) * words, words, 0, 0};
                _mm512_storeu_si512(scores, _mm512_permutexvar_epi16(order, fold_block(&block, &v, num_planes)));
            }
            fetcher = (code_fetcher){runs + i + 1, fetcher.end, 0};
        }
        for (; key + KEYS <= num_keys; key += KEYS, scores += KEYS) {
            fetch_half(&fetcher, words);
            fetch_half(&fetcher, words);
            const code_block block = {codes + key * words, codes + (key + HALF) * words, words, 0, 0};
            _mm512_storeu_si512(scores, _mm512_permutexvar_epi16(order, fold_block(&block, &v, num_planes)));
        }
        const int rest = (int)(num_keys - key);
        codes += key * words;
        key = 0;
        if (rest == 0)
            continue;
        fetch_half(&fetcher, words);
        if (rest == HALF && i + 1 < num_runs && runs[i + 1].num_keys >= HALF) {
            fetch_half(&fetcher, words);
            const code_block block = {codes, runs[i + 1].codes, words, 0, 0};
            _mm512_storeu_si512(scores, _mm512_permutexvar_epi16(order, fold_block(&block, &v, num_planes)));
            key = HALF;
            scores += KEYS;
            continue;
        }
        const code_block block = {codes, codes + HALF * words, words, 1, rest * words};
        _mm512_mask_storeu_epi16(scores, hattn_mask32(rest),
                                 _mm512_permutexvar_epi16(order, fold_block(&block, &v, num_planes)));
        scores += rest;
    }
}

HATTN_INLINE void score_compact_planes(const hattn_planes *planes, const hattn_score_run *runs, int num_runs,
                                       int num_runs_ahead, uint16_t *scores, int words)
{
    switch (planes->num_planes) {
    case 1: score_compact(planes, runs, num_runs, num_runs_ahead, scores, words, 1); break;
    case 2: score_compact(planes, runs, num_runs, num_runs_ahead, scores, words, 2); break;
    case 3: score_compact(planes, runs, num_runs, num_runs_ahead, scores, words, 3); break;
    case MAX_CONSTANT_PLANES:
        score_compact(planes, runs, num_runs, num_runs_ahead, scores, words, MAX_CONSTANT_PLANES);
        break;
    default: score_compact(planes, runs, num_runs, num_runs_ahead, scores, words, planes->num_planes); break;
    }
}

/* dst[i] of the result: the sum of the 16 dwords of rows[i]. */
HATTN_INLINE __m512i add_across(const __m512i *rows)
{
    __m512i pairs[8], fours[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]),
                                    _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                    _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    __m512i low = _mm512_add_epi32(_mm512_shuffle_i32x4(fours[0], fours[1], 0x88),
                                   _mm512_shuffle_i32x4(fours[0], fours[1], 0xdd));
    __m512i high = _mm512_add_epi32(_mm512_shuffle_i32x4(fours[2], fours[3], 0x88),
                                    _mm512_shuffle_i32x4(fours[2], fours[3], 0xdd));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xdd));
}

HATTN_INLINE void score_strided(const hattn_planes *planes, const hattn_score_run *runs, int num_runs,
                                int64_t stride_key, uint16_t *scores, int num_planes)
{
    const plane_vectors v = repeat_planes(planes, HATTN_MAX_WORDS, num_planes);
    const __mmask16 words = hattn_mask16(planes->num_words);
    for (int run = 0; run < num_runs; scores += runs[run++].num_keys) {
        const uint32_t *codes = runs[run].codes;
        const int64_t num_keys = runs[run].num_keys;
        for (int64_t j = 0; j < num_keys; j += STRIDED_KEYS) {
            int count = num_keys - j < STRIDED_KEYS ? (int)(num_keys - j) : STRIDED_KEYS;
            __m512i rows[STRIDED_KEYS];
#pragma GCC unroll 16
            for (int i = 0; i < STRIDED_KEYS; i++) {
                int key = i < count ? i : count - 1; /* past the end: the last key again, not stored */
                rows[i] =
                    count_codes(_mm512_maskz_loadu_epi32(words, codes + (j + key) * stride_key), &v, num_planes, 1);
            }
            _mm256_mask_storeu_epi16(scores + j, hattn_mask16(count), _mm512_cvtepi32_epi16(add_across(rows)));
        }
    }
}

void hattn_score_avx512(const hattn_planes *planes, const hattn_score_run *runs, int num_runs, int num_runs_ahead,
                        int64_t stride_key, uint16_t *scores)
{
    if (planes->num_planes == 0) {
        for (int i = 0; i < num_runs; scores += runs[i++].num_keys)
            memset(scores, 0, (size_t)runs[i].num_keys * sizeof *scores);
        return;
    }
    if (stride_key == planes->num_words) {
        switch (planes->num_words) {
        case 1: score_compact_planes(planes, runs, num_runs, num_runs_ahead, scores, 1); return;
        case 2: score_compact_planes(planes, runs, num_runs, num_runs_ahead, scores, 2); return;
        case 4: score_compact_planes(planes, runs, num_runs, num_runs_ahead, scores, 4); return;
        case 8: score_compact_planes(planes, runs, num_runs, num_runs_ahead, scores, 8); return;
        case 16: score_compact_planes(planes, runs, num_runs, num_runs_ahead, scores, 16); return;
        }
    }
    switch (planes->num_planes) {
    case 1: score_strided(planes, runs, num_runs, stride_key, scores, 1); break;
    case 2: score_strided(planes, runs, num_runs, stride_key, scores, 2); break;
    case 3: score_strided(planes, runs, num_runs, stride_key, scores, 3); break;
    default: score_strided(planes, runs, num_runs, stride_key, scores, planes->num_planes); break;
    }
}

void hattn_scale_avx512(const uint16_t *scores, uint32_t max_score, const uint16_t *norms, int64_t stride_norm,
                        int64_t num_keys, float *keys)
{
    const __m512i max = _mm512_set1_epi32((int)max_score);
    for (int64_t j = 0; j < num_keys; j += 16) {
        int count = num_keys - j < 16 ? (int)(num_keys - j) : 16;
        __mmask16 mask = hattn_mask16(count);
        __m256i halves;
        if (stride_norm == 1) {
            halves = _mm256_maskz_loadu_epi16(mask, norms + j);
        } else {
            uint16_t gathered[16] = {0};
            for (int i = 0; i < count; i++)
                gathered[i] = norms[(j + i) * stride_norm];
            halves = _mm256_loadu_si256((const __m256i *)gathered);
        }
        __m512i twice = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, scores + j)), 1);
        __m512 centred = _mm512_cvtepi32_ps(_mm512_sub_epi32(twice, max));
        _mm512_mask_storeu_ps(keys + j, mask, _mm512_mul_ps(centred, _mm512_cvtph_ps(halves)));
    }
}
