/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k. Narrow: a group for each chunk, from the histograms that score.cl left. Wide: a group for each row and selection
 * head, by digits of 8 bits, whatever the scores. Both write positions in ascending order, and -1 behind them.
 * No barrier stands behind a condition, only in loops, of no turn perhaps: of what comes after one PoCL compiles a copy for each way,
 * and copies of those, for minutes.
 */
#define DIGITS 256

/* An integer that orders as scores do: NaN lowest, -0 equal to +0. */
#if WITH_NORMS
typedef float score_type;
#define NUM_DIGITS 4
uint order(float score)
{
    if (isnan(score))
        return 0;
    const uint bits = score == 0 ? 0 : as_uint(score);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
#elif BY_HEADS /* probabilities */
typedef uint score_type;
#define NUM_DIGITS 4
uint order(uint score) { return score; }
#else
typedef ushort score_type;
#define NUM_DIGITS 2
uint order(ushort score) { return score; }
#endif

/* The sum of what the work-items before this one give; *total: of all. Twice LOCAL sums. */
uint sum_before(__local uint *sums, uint value, uint *total)
{
    const int item = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    sums[item] = value;
#ifdef IS_CPU
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item == 0) {
        uint sum = 0;
        for (int i = 0; i < LOCAL; i++) {
            sums[LOCAL + i] = sum;
            sum += sums[i];
        }
        sums[0] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    *total = sums[0];
    return sums[LOCAL + item];
#else
    int from = 0;
    for (int step = 1; step < LOCAL; step *= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        sums[(LOCAL - from) + item] = sums[from + item] + (item >= step ? sums[from + item - step] : 0);
        from = LOCAL - from;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    *total = sums[from + LOCAL - 1];
    return sums[from + item] - value;
#endif
}

/* What a row and selection head asks for. */
typedef struct wish {
    int length, first, past; /* first <= j < past: ranked by score; the others are kept in any case */
    int kept, wanted;        /* positions; of those that are ranked */
} wish;

wish make_wish(const hattn_opencl_selection *s, row_place place, __global const int *budgets, int head)
{
    wish w;
    int budget = s->k;
    if (budgets && place.length)
        budget = clamp(budgets[place.sequence * s->budgets[0] + head * s->budgets[1]], 0, s->k);
    w.length = place.length;
    w.first = min(s->num_sink, w.length);
    w.past = max(w.first, w.length - s->num_recent);
    w.kept = min(max(budget, s->num_sink + s->num_recent), w.length);
    w.wanted = w.kept - (w.length - (w.past - w.first));
    return w;
}

/* Where the wanted-th largest is: its bin, and how many are in higher ones. */
typedef struct bound {
    int bin;
    uint above;
} bound;

/* Every work-item has the counts of `each` neighbouring bins, the first one those of the highest. wanted >= 1. */
bound find_bin(__local const uint *counts, int num_bins, uint wanted, __local uint *sums, __local bound *found)
{
    const int each = (num_bins + LOCAL - 1) / LOCAL, high = num_bins - 1 - (int)get_local_id(0) * each;
    uint sum = 0, total;
    for (int i = 0; i < each && high - i >= 0; i++)
        sum += counts[high - i];
    const uint before = sum_before(sums, sum, &total);
    if (before < wanted && wanted <= before + sum) {
        uint above = before;
        int bin = high;
        while (above + counts[bin] < wanted)
            above += counts[bin--];
        found->bin = bin;
        found->above = above;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return *found;
}

/* What is kept: ranked keys above the threshold, and `ties` of those that equal it. */
typedef struct threshold {
    uint key, ties;
    int is_any; /* 0: nothing that is ranked */
} threshold;

/* A position goes to place `to` of the list, with a tail its share too. */
#if TAIL
#define SHARES_PARAMETERS , __global uint *shares, marks m
#define SHARES , list_shares, m
#define KEEP(j)                                                                  \
    {                                                                            \
        shares[to] = (j) < w.first || (j) >= w.past ? 0 : marked_share(&m, scores[j]); \
        indices[to++] = (j);                                                     \
    }
#elif BY_HEADS /* positions are places of a list; a list of places too */
#define SHARES_PARAMETERS , __global const int *listed, __global int *places
#define KEEP(j)                    \
    {                              \
        places[to] = (j);          \
        indices[to++] = listed[j]; \
    }
#else
#define SHARES_PARAMETERS
#define SHARES
#define KEEP(j) indices[to++] = (j);
#endif

/* Positions begin..end-1, before which `above` and `equal` of the ranked ones are above the threshold or equal it. */
void write_positions(wish w, threshold t, __global const score_type *scores, int begin, int end, uint above, uint equal,
                     __local uint *sums, __global int *indices SHARES_PARAMETERS)
{
    const int size = (end - begin + LOCAL - 1) / LOCAL, own = min(begin + (int)get_local_id(0) * size, end),
              own_end = min(own + size, end), ranked = clamp(w.first, own, own_end),
              ranked_end = clamp(w.past, own, own_end);
    uint num_above = 0, num_equal = 0, total;
    if (t.is_any) {
        for (int j = ranked; j < ranked_end; j++) {
            const uint key = order(scores[j]);
            num_above += key > t.key;
            num_equal += key == t.key;
        }
    }
    above += sum_before(sums, num_above, &total);
    equal += sum_before(sums, num_equal, &total);
    /* Forced positions before `own`. */
    uint to = above + min(equal, t.ties) + min(own, w.first) + max(own - w.past, 0);
    for (int j = own; j < ranked; j++)
        KEEP(j)
    if (t.is_any && (num_above || (num_equal && equal < t.ties))) {
        for (int j = ranked; j < ranked_end; j++) {
#if defined(IS_CPU) && !WITH_NORMS && !BY_HEADS
            if (j + 8 <= ranked_end && !any(vload8(0, scores + j) >= (ushort8)(t.key))) {
                j += 7; /* most are far below */
                continue;
            }
#endif
            const uint key = order(scores[j]);
            if (key > t.key || (key == t.key && equal++ < t.ties))
                KEEP(j)
        }
    }
    for (int j = ranked_end; j < own_end; j++)
        KEEP(j)
}

#if FLOOR
#define FLOOR_ARGUMENTS                                                                                      \
    , const hattn_opencl_floor f, bytes_in steps, ulong steps_at, bytes_out shares, ulong shares_at, bytes_out rests, \
        ulong rests_at

/* Shortens the wish of a budget, whose threshold is t, to what reaches the floor or is kept in any case. Nothing that is ranked: not at all. */
estimate apply_floor(const hattn_opencl_floor *f, const population *p, threshold t, int step, wish *w,
                     __local ulong *space)
{
    const int forced = w->kept - w->wanted;
    const estimate e = make_estimate(p, t.key, w->kept == w->length, step, w->first, w->past, space),
                   none = {0, step, 0};
    const int above = count_above(p, t.key, t.ties, &e, f->tau, space);
    if (t.is_any && f->tau)
        w->kept = max(above + forced, min(f->min_k, w->kept));
    w->wanted = w->kept - forced;
    return t.is_any ? e : none;
}

/* find: the threshold of `best` best. */
#define APPLY_FLOOR(counts, begin, end, find)                                                                    \
    __local ulong space[LOCAL];                                                                                  \
    const population p = {counts, keys, begin, end};                                                             \
    const threshold of_budget = t;                                                                               \
    const int wanted = w.wanted;                                                                                 \
    const estimate e =                                                                                           \
        apply_floor(&f, &p, t, AT(const int, steps, steps_at)[row * f.steps[0] + head * f.steps[1]], &w, space); \
    const int best = w.wanted < wanted ? w.wanted : 0;                                                           \
    const threshold of_floor = find;                                                                             \
    if (w.wanted < wanted)                                                                                       \
        t = of_floor;
#else
#define FLOOR_ARGUMENTS
#define APPLY_FLOOR(counts, begin, end, find)
#endif

#if TAIL
#define MAKE_MARKS                                                                              \
    marks m = {e, 0, 0, 0};                                                                     \
    __global uint *list_shares = AT(uint, shares, shares_at) + row * f.shares[0] + head * f.shares[1]; \
    const marks made = make_marks(&p, t.key, t.ties, &e, space);                                \
    if (of_budget.is_any && w.kept < w.length)                                                  \
        m = made;
#define STORE_REST AT(long, rests, rests_at)[row * f.rests[0] + head * f.rests[1]] = (long)m.rest
#define CLEAR(i) list[i] = -1, list_shares[i] = 0
#else
#define MAKE_MARKS
#define STORE_REST
#define CLEAR(i) list[i] = -1
#endif

#define SELECT_ARGUMENTS                                                                                          \
    const hattn_opencl_selection s, const hattn_opencl_rows rows, bytes_in q_start, ulong q_start_at,             \
        bytes_in seq_len, ulong seq_len_at, bytes_in budgets, ulong budgets_at, bytes_in scores, ulong scores_at, \
        bytes_out indices, ulong indices_at, bytes_out counts, ulong counts_at FLOOR_ARGUMENTS

#define TASK(task)                                                                                        \
    const int row = (task) / s.num_heads, head = (task) % s.num_heads, item = get_local_id(0);            \
    const row_place place =                                                                               \
        place_row(&rows, AT(const int, q_start, q_start_at), AT(const int, seq_len, seq_len_at), row);    \
    wish w = make_wish(&s, place, AT(const int, budgets, budgets_at), head);                        \
    __global const score_type *keys =                                                                     \
        AT(const score_type, scores, scores_at) + row * s.scores[0] + head * s.scores[1];                 \
    __global int *list = AT(int, indices, indices_at) + row * s.indices[0] + head * s.indices[1]

#if WITH_COUNTS
#ifndef IS_CPU
#define SLABS 8 /* of eight neighbouring scores a work-item, loaded together */

/* Likewise for scores that start at 16 bytes, `begin` at eight of them. A work-item keeps a mask of what it found in a slab: above
 * the threshold in the low byte, equal to it in the next; places are counts of both, in halves of a word. */
void write_chunk(wish w, threshold t, __global const ushort *scores, int begin, int end, uint above, uint equal,
                 __local uint *sums, __local uint *places, __global int *indices SHARES_PARAMETERS)
{
    const int item = get_local_id(0);
    const uint8 bits = (uint8)(1, 2, 4, 8, 16, 32, 64, 128);
    above += min(begin, w.first) + max(begin - w.past, 0);
    for (int from = begin; from < end; from += SLABS * LOCAL * 8) {
        uint masks[SLABS];
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            const int j = from + (slab * LOCAL + item) * 8;
            const int8 at = j + (int8)(0, 1, 2, 3, 4, 5, 6, 7);
            const uint8 key =
                convert_uint8(as_ushort8(*(__global const uint4 *)(scores + min(j, (end - 1) / 8 * 8))));
            const int8 forced = at < w.first || at >= w.past;
            const uint8 found = select((uint8)(0), bits, as_uint8(forced || key > t.key)) |
                                select((uint8)(0), bits << 8, as_uint8(!forced && key == t.key));
            const uint8 there = select((uint8)(0), found, as_uint8(at < end));
            const uint4 half_way = there.lo | there.hi;
            const uint2 quarter = half_way.lo | half_way.hi;
            masks[slab] = quarter.x | quarter.y;
            places[slab * LOCAL + item] = popcount(masks[slab] & 255) | popcount(masks[slab] >> 8) << 16;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        uint sum = 0, total;
#pragma unroll
        for (int i = 0; i < SLABS; i++)
            sum += places[item * SLABS + i];
        uint before = sum_before(sums, sum, &total);
#pragma unroll
        for (int i = 0; i < SLABS; i++) {
            const uint one = places[item * SLABS + i];
            places[item * SLABS + i] = before;
            before += one;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            const uint place = places[slab * LOCAL + item];
            uint ties = equal + (place >> 16), to = above + (place & 0xffff) + min(ties, t.ties);
            for (uint mask = (masks[slab] | masks[slab] >> 8) & 255; mask; mask &= mask - 1) {
                const int bit = 31 - clz(mask & -mask);
                const int j = from + (slab * LOCAL + item) * 8 + bit;
                if (masks[slab] >> bit & 1 || ties++ < t.ties)
                    KEEP(j)
            }
        }
        above += total & 0xffff;
        equal += total >> 16;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}
#endif

threshold narrow_threshold(__local const uint *total, int buckets, int wanted, __local uint *sums, __local bound *found)
{
    threshold t = {0xffffffff, 0, wanted > 0};
    const bound b = find_bin(total, buckets, max(wanted, 1), sums, found);
    if (t.is_any) {
        t.key = b.bin;
        t.ties = wanted - b.above;
    }
    return t;
}

/* total: counts of the row, then of the chunks before this one. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void select_narrow(SELECT_ARGUMENTS, bytes_in histograms,
                                                                               ulong histograms_at, __local uint *total)
{
    __local uint sums[2 * LOCAL];
    __local bound found;
    const int chunk = get_group_id(0) % s.num_chunks, task = get_group_id(0) / s.num_chunks;
    TASK(task);
    const int buckets = s.num_buckets, size = chunk_size(w.length, s.num_chunks), begin = min((long)chunk * size, (long)w.length),
              end = min((long)begin + size, (long)w.length), num_used = w.length ? (w.length - 1) / size + 1 : 0;

    __global const uint *histogram = AT(const uint, histograms, histograms_at) + (long)task * s.num_chunks * buckets;
    __local uint *earlier = total + buckets;
    for (int b = item; b < buckets; b += LOCAL) {
        uint sum = 0, sum_earlier = 0;
#pragma unroll 8
        for (int c = 0; c < num_used; c++) {
            const uint one = histogram[c * buckets + b];
            sum += one;
            sum_earlier += c < chunk ? one : 0;
        }
        total[b] = sum;
        earlier[b] = sum_earlier;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    threshold t = narrow_threshold(total, buckets, w.wanted, sums, &found);
    APPLY_FLOOR(total, 0, buckets, narrow_threshold(total, buckets, best, sums, &found))
    MAKE_MARKS
    uint above = 0, own = 0;
    for (int i = item + (int)t.key + 1; t.is_any && i < buckets; i += LOCAL)
        own += earlier[i];
    sum_before(sums, own, &above);
    const uint equal = t.is_any ? earlier[t.key] : 0;
#ifdef IS_CPU
    write_positions(w, t, keys, begin, end, above, equal, sums, list SHARES);
#else
    __local uint places[SLABS * LOCAL];
    write_chunk(w, t, keys, begin, end, above, equal, sums, places, list SHARES);
#endif
    for (int i = w.kept + chunk * LOCAL + item; i < s.k; i += s.num_chunks * LOCAL)
        CLEAR(i);
    if (chunk == 0 && item == 0) {
        AT(int, counts, counts_at)[row * s.counts[0] + head * s.counts[1]] = w.kept;
        STORE_REST;
    }
}
#endif

#if HISTOGRAMS == LOCAL
#define COUNT(counts, bin) counts[item * DIGITS + bin]++
#else
#define COUNT(counts, bin) atomic_inc(&counts[item % HISTOGRAMS * DIGITS + bin])
#endif

threshold wide_threshold(__global const score_type *keys, int first, int past, int wanted, __local uint *counted,
                         __local uint *sums, __local bound *found)
{
    const int item = get_local_id(0);
    threshold t = {wanted > 0 ? 0 : 0xffffffff, max(wanted, 0), wanted > 0};
#ifdef IS_CPU
#pragma unroll 1
#endif
    for (int digit = t.is_any ? NUM_DIGITS - 1 : -1; digit >= 0; digit--) {
        for (int i = item; i < HISTOGRAMS * DIGITS; i += LOCAL)
            counted[i] = 0;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int j = first + item; j < past; j += LOCAL) {
            const uint key = order(keys[j]);
            if (digit == NUM_DIGITS - 1 || key >> (8 * digit + 8) == t.key >> (8 * digit + 8))
                COUNT(counted, (key >> 8 * digit & (DIGITS - 1)));
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int b = item; b < DIGITS; b += LOCAL)
            for (int h = 1; h < HISTOGRAMS; h++)
                counted[b] += counted[h * DIGITS + b];
        barrier(CLK_LOCAL_MEM_FENCE);
        const bound b = find_bin(counted, DIGITS, t.ties, sums, found);
        t.key |= (uint)b.bin << 8 * digit;
        t.ties -= b.above;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return t;
}

#if !BY_HEADS
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void select_wide(SELECT_ARGUMENTS)
{
    __local uint counted[HISTOGRAMS * DIGITS], sums[2 * LOCAL];
    __local bound found;
    TASK(get_group_id(0));
    threshold t = wide_threshold(keys, w.first, w.past, w.wanted, counted, sums, &found);
    APPLY_FLOOR(0, w.first, w.past, wide_threshold(keys, w.first, w.past, best, counted, sums, &found))
    MAKE_MARKS
    write_positions(w, t, keys, 0, w.length, 0, 0, sums, list SHARES);
    for (int i = w.kept + item; i < s.k; i += LOCAL)
        CLEAR(i);
    if (item == 0) {
        AT(int, counts, counts_at)[row * s.counts[0] + head * s.counts[1]] = w.kept;
        STORE_REST;
    }
}
#endif
