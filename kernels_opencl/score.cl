/* SPDX-License-Identifier: Apache-2.0
 * Scores of a chunk of a row's keys, and for the narrow selection how many keys of the chunk have each of them. WORDS of a code,
 * PLANES of weights, IS_ALIGNED: codes start at 16 bytes, WITH_NORMS, WITH_COUNTS: there are histograms, HISTOGRAMS of a group in
 * local memory, either one for each work-item or few that are counted in by atomics.
 */
#if WORDS % 4
#define PIECE 1
#else
#define PIECE 4
#endif

/* Words of planes; the sign's are the first. */
void make_planes(__global const char *weights, int code_bits, __local uint *planes, __local int *totals)
{
    for (int i = get_local_id(0); i < WORDS * (PLANES + 1); i += LOCAL) {
        const int word = i / (PLANES + 1), plane = i % (PLANES + 1) - 1;
        uint bits = 0;
        int total = 0;
        for (int bit = 0; bit < 32 && word * 32 + bit < code_bits; bit++) {
            const int weight = max((int)weights[word * 32 + bit], -127);
            bits |= (uint)(plane < 0 ? weight < 0 : abs(weight) >> plane & 1) << bit;
            total += abs(weight);
        }
        planes[i] = bits;
        if (plane < 0)
            totals[word] = total;
    }
}

#if PIECE == 4
int score_piece(uint4 code, __local const uint *planes)
{
    const uint4 sign = (uint4)(planes[0], planes[PLANES + 1], planes[2 * (PLANES + 1)], planes[3 * (PLANES + 1)]);
    const uint4 turned = code ^ sign;
    uint4 sum = 0;
#pragma unroll
    for (int p = 1; p <= PLANES; p++) {
        const uint4 plane = (uint4)(planes[p], planes[p + PLANES + 1], planes[p + 2 * (PLANES + 1)],
                                    planes[p + 3 * (PLANES + 1)]);
        sum += popcount(turned & plane) << (p - 1);
    }
    return (int)(sum.x + sum.y + sum.z + sum.w);
}
#endif

int score_key(__global const uint *code, __local const uint *planes)
{
    int score = 0;
#pragma unroll
    for (int word = 0; word < WORDS; word += PIECE) {
#if PIECE == 4
        const uint4 piece = IS_ALIGNED ? *(__global const uint4 *)(code + word) : vload4(0, code + word);
        score += score_piece(piece, planes + word * (PLANES + 1));
#else
        const uint turned = code[word] ^ planes[word * (PLANES + 1)];
#pragma unroll
        for (int p = 1; p <= PLANES; p++)
            score += (int)popcount(turned & planes[word * (PLANES + 1) + p]) << (p - 1);
#endif
    }
    return score;
}

#if HISTOGRAMS == LOCAL
#define COUNT(counts, score) counts[get_local_id(0) * s.num_buckets + score]++
#else
#define COUNT(counts, score) atomic_inc(&counts[get_local_id(0) % HISTOGRAMS * s.num_buckets + score])
#endif

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    score_chunk(const hattn_opencl_selection s, const hattn_opencl_rows rows, bytes_in q_start, ulong q_start_at,
                bytes_in seq_len, ulong seq_len_at, bytes_in table, ulong table_at, bytes_in weights, ulong weights_at,
                bytes_in codes, ulong codes_at, bytes_in norms, ulong norms_at, bytes_out scores, ulong scores_at,
                bytes_out histograms, ulong histograms_at, __local counter *counts)
{
    __local uint planes[WORDS * (PLANES + 1)];
    __local int totals[WORDS];
    const int chunk = get_group_id(0) % s.num_chunks, task = get_group_id(0) / s.num_chunks, row = task / s.num_heads, head = task % s.num_heads;
    const row_place place = place_row(&rows, AT(const int, q_start, q_start_at), AT(const int, seq_len, seq_len_at), row);
    const int size = chunk_size(place.length, s.num_chunks), begin = min((long)chunk * size, (long)place.length),
              end = min((long)begin + size, (long)place.length), item = get_local_id(0);

    make_planes(AT(const char, weights, weights_at) + row * s.weights[0] + head * s.weights[1], s.code_bits, planes,
                totals);
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
    for (int word = 0; word < WORDS; word++)
        total += totals[word];
#else
    __global ushort *score_at = AT(ushort, scores, scores_at) + to;
#endif
#if WITH_COUNTS
    const int first = min(s.num_sink, place.length), past = max(first, place.length - s.num_recent);
#endif
    for (int j = begin + item; j < end; j += LOCAL) {
        int slot;
        const long page = page_of(&rows, pages, place.sequence, j, &slot);
        const int score = score_key(code + page * s.codes[0] + slot * s.codes[1], planes);
#if WITH_NORMS
        score_at[j] = (float)(2 * score - total) * vload_half(page * s.norms[0] + slot * s.norms[1], norm);
#else
        score_at[j] = (ushort)score;
#endif
#if WITH_COUNTS
        if (j >= first && j < past)
            COUNT(counts, min(score, s.num_buckets - 1));
#endif
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
