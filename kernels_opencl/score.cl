/* SPDX-License-Identifier: Apache-2.0
 * Scores of a chunk of a row's keys, and for the narrow selection how many keys of the chunk have each of them. WORDS of a code, 2 or
 * whole pieces of 16 bytes that start at 16, and PLANES of weights; WORDS 0: any codes, and weights of up to PLANES. WITH_NORMS; LISTED: of a list of
 * positions that query heads share; WITH_COUNTS: there are histograms, HISTOGRAMS of a group in local memory, either one for each work-item or few that are counted in by atomics.
 */
#if WORDS
#define PAIRS (WORDS / 2)
#define NUM_PAIRS PAIRS
#define NUM_PLANES PLANES
#else
#define PAIRS 8
#define NUM_PAIRS ((s.code_bits + 63) / 64)
#define NUM_PLANES s.num_planes
#endif

int sum_of8(int8 x)
{
    const int4 a = x.lo + x.hi;
    const int2 b = a.lo + a.hi;
    return b.x + b.y;
}

/* Planes of two words at a time; the sign's are the first. A byte of one at a time, whose eight weights are loaded together; of
 * the sign's also the sum of magnitudes. */
void make_planes(__global const char *weights, int code_bits, int num_pairs, int num_planes, __local uchar *planes,
                 __local int *totals)
{
    for (int i = get_local_id(0); i < num_pairs * (num_planes + 1) * 8; i += LOCAL) {
        const int pair = i / 8 / (num_planes + 1), plane = i / 8 % (num_planes + 1) - 1, first = pair * 64 + i % 8 * 8;
        const int8 weight = max(first < code_bits ? convert_int8(vload8(0, weights + first)) : (int8)(0), (int8)(-127));
        const int8 magnitude = convert_int8(abs(weight)),
                   bit = (plane < 0 ? weight >> 31 : magnitude >> plane) & 1;
        planes[i] = (uchar)sum_of8(bit << (int8)(0, 1, 2, 3, 4, 5, 6, 7));
        if (plane < 0)
            totals[first / 8] = sum_of8(magnitude);
    }
}

#if WORDS && WORDS <= 4
#define PLANES_IN __private /* registers hold them */
#else
#define PLANES_IN __local
#endif

int score_pair(ulong code, int num_planes, PLANES_IN const ulong *planes)
{
    const ulong turned = code ^ planes[0];
    int score = 0;
#pragma unroll
    for (int p = 0; p < num_planes; p++)
        score += (int)popcount(turned & planes[p + 1]) << p;
    return score;
}

/* planes: of each pair of words the sign's and the others. */
int score_key(__global const uint *code, int num_words, int num_planes, PLANES_IN const ulong *planes)
{
    int score = 0;
#if WORDS >= 4
#pragma unroll
    for (int word = 0; word < WORDS; word += 4) {
        PLANES_IN const ulong *own = planes + word / 2 * (PLANES + 1);
        const uint4 piece = *(__global const uint4 *)(code + word);
        score += score_pair(as_ulong(piece.lo), PLANES, own) + score_pair(as_ulong(piece.hi), PLANES, own + PLANES + 1);
    }
#elif WORDS
    score = score_pair(code[0] | (ulong)code[1] << 32, PLANES, planes);
#else
    for (int word = 0; word < num_words; word += 2) { /* a missing word's planes are 0 */
        const ulong pair = code[word] | (word + 1 < num_words ? (ulong)code[word + 1] << 32 : 0);
        score += score_pair(pair, num_planes, planes + word / 2 * (num_planes + 1));
    }
#endif
    return score;
}

#if LISTED
#define LIST_ARGUMENTS , const hattn_opencl_heads h, bytes_in listed, ulong listed_at, bytes_in lengths, ulong lengths_at
#define POSITION(j) list[j]
#else
#define LIST_ARGUMENTS
#define POSITION(j) (j)
#endif

#if HISTOGRAMS == LOCAL
#define COUNT(counts, score) counts[get_local_id(0) * s.num_buckets + score]++
#else
#define COUNT(counts, score) atomic_inc(&counts[get_local_id(0) % HISTOGRAMS * s.num_buckets + score])
#endif

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    score_chunk(const hattn_opencl_selection s, const hattn_opencl_rows rows, bytes_in q_start, ulong q_start_at,
                bytes_in seq_len, ulong seq_len_at, bytes_in table, ulong table_at, bytes_in weights, ulong weights_at,
                bytes_in codes, ulong codes_at, bytes_in norms, ulong norms_at, bytes_out scores, ulong scores_at,
                bytes_out histograms, ulong histograms_at LIST_ARGUMENTS, __local counter *counts)
{
    __local ulong shared_planes[PAIRS * (PLANES + 1)];
    __local int totals[PAIRS * 8];
    const int chunk = get_group_id(0) % s.num_chunks, task = get_group_id(0) / s.num_chunks, row = task / s.num_heads, head = task % s.num_heads;
    const row_place place = place_row(&rows, AT(const int, q_start, q_start_at), AT(const int, seq_len, seq_len_at), row);
#if LISTED
    const int list_index = (row * s.num_heads + head) / h.group, length = AT(const int, lengths, lengths_at)[list_index];
    __global const int *list = AT(const int, listed, listed_at) + (long)list_index * h.stride;
#else
    const int length = place.length;
#endif
    const int size = chunk_size(length, s.num_chunks), begin = min((long)chunk * size, (long)length),
              end = min((long)begin + size, (long)length), item = get_local_id(0);

    make_planes(AT(const char, weights, weights_at) + row * s.weights[0] + head * s.weights[1], s.code_bits, NUM_PAIRS,
                NUM_PLANES, (__local uchar *)shared_planes, totals);
#if WITH_COUNTS
    for (int i = item; i < HISTOGRAMS * s.num_buckets; i += LOCAL)
        counts[i] = 0;
#endif
    barrier(CLK_LOCAL_MEM_FENCE);

    const long code_head = (long)head * s.num_code_heads / s.num_heads;
    __global const uint *code = AT(const uint, codes, codes_at) + code_head * s.codes[2];
    __global const int *pages = AT(const int, table, table_at);
    const long to = row * s.scores[0] + head * s.scores[1];
#if WITH_NORMS
    __global float *score_at = AT(float, scores, scores_at) + to;
    __global const half *norm = AT(const half, norms, norms_at) + code_head * s.norms[2];
    int total = 0;
    for (int byte = 0; byte < NUM_PAIRS * 8; byte++)
        total += totals[byte];
#else
    __global ushort *score_at = AT(ushort, scores, scores_at) + to;
#endif
#if WITH_COUNTS
    const int first = min(s.num_sink, place.length), past = max(first, place.length - s.num_recent);
#endif
#if WORDS && WORDS <= 4
    ulong planes[PAIRS * (PLANES + 1)];
#pragma unroll
    for (int i = 0; i < PAIRS * (PLANES + 1); i++)
        planes[i] = shared_planes[i];
#else
    __local const ulong *planes = shared_planes;
#endif
    const int share = (end - begin + LOCAL - 1) / LOCAL, own = BY_RANGES ? begin + item * share : begin + item,
              own_end = BY_RANGES ? min(own + share, end) : end;
    for (int j = own; j < own_end; j += BY_RANGES ? 1 : AHEAD * LOCAL) {
        int score[AHEAD];
#if WITH_NORMS
        float norm_of[AHEAD];
#endif
#pragma unroll
        for (int n = 0; n < AHEAD; n++) {
            int slot;
            const long page = page_of(&rows, pages, place.sequence, POSITION(min(j + n * LOCAL, own_end - 1)), &slot);
            score[n] = score_key(code + page * s.codes[0] + slot * s.codes[1], (s.code_bits + 31) / 32, NUM_PLANES,
                                 planes);
#if WITH_NORMS
            norm_of[n] = vload_half(page * s.norms[0] + slot * s.norms[1], norm);
#endif
        }
#pragma unroll
        for (int n = 0; n < AHEAD; n++) {
            const int key = j + n * LOCAL;
            if (key >= own_end)
                continue;
#if WITH_NORMS
            score_at[key] = (float)(2 * score[n] - total) * norm_of[n];
#else
            score_at[key] = (ushort)score[n];
#endif
#if WITH_COUNTS
            if (key >= first && key < past)
                COUNT(counts, min(score[n], s.num_buckets - 1));
#endif
        }
    }
#if WITH_COUNTS
    barrier(CLK_LOCAL_MEM_FENCE);
    __global uint *histogram = AT(uint, histograms, histograms_at) + ((long)task * s.num_chunks + chunk) * s.num_buckets;
    for (int b = item; b < s.num_buckets; b += LOCAL) {
        uint sum = 0;
        for (int h = 0; h < HISTOGRAMS; h++)
            sum += counts[h * s.num_buckets + b];
        histogram[b] = sum;
    }
#endif
}
