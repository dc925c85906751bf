/* SPDX-License-Identifier: Apache-2.0
 * Selections by scores per query head (api/hattn.h, hattn_topk, "With candidates"), out of a list of candidates and what
 * score.cl has made of it for each query head. Behind floor.cl and select.cl, whose keys are sums of probabilities here.
 */
#define MOST_HEADS 64       /* HATTN_MOST_HEADS */
#define MOST_FACTOR (19 << 8) /* of hattn_head_factor */

/* A row and selection head. Places are of the list. */
typedef struct candidates {
    int group, stride;            /* query heads; from one's scores to the next one's */
    int first, past;              /* places of candidates, forced positions around them */
    __global const int *listed;   /* positions */
    __global const ushort *heads; /* scores of the first query head */
    __global uint *keys;          /* sums of probabilities */
    __local int *steps;
    __local uint *largest; /* of query heads: score, Z */
    __local ulong *sums;
} candidates;

uint head_share(const candidates *c, int head, int place)
{
    return floor_share(c->largest[head] - c->heads[(long)head * c->stride + place], c->steps[head]);
}

/* Largest scores, sums of shares, and keys. */
void look_at_heads(const candidates *c, __local ulong *space)
{
    const int item = get_local_id(0);
#pragma unroll 1
    for (int head = 0; head < c->group; head++) {
        ulong largest = 0, sum = 0;
        for (int i = c->first + item; i < c->past; i += LOCAL)
            largest = max(largest, (ulong)c->heads[(long)head * c->stride + i]);
        largest = largest_of_all(space, largest);
        if (item == 0)
            c->largest[head] = (uint)largest;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = c->first + item; i < c->past; i += LOCAL)
            sum += head_share(c, head, i);
        sum = sum_of_all(space, sum);
        if (item == 0)
            c->sums[head] = sum;
        const ulong inverse = sum ? (1UL << 62) / sum : 0;
        for (int i = c->first + item; i < c->past; i += LOCAL)
            c->keys[i] = (head ? c->keys[i] : 0) + (uint)(head_share(c, head, i) * inverse >> 38);
    }
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
}

/* How many of the budget's candidates reach the floor. */
int count_above_floor(const candidates *c, threshold t, ulong tau, __local ulong *space)
{
    const ulong least = (tau * (ulong)c->group + 255) >> 8;
    ulong above = get_local_id(0) == 0 && t.key >= least ? t.ties : 0;
    for (int i = c->first + (int)get_local_id(0); i < c->past; i += LOCAL)
        above += c->keys[i] > t.key && c->keys[i] >= least;
    return (int)sum_of_all(space, above);
}

/* What is no candidate against candidates that are not kept, by the summed scores, in 2^-8. places: `count` that are
 * kept. */
ulong factor_outside(const candidates *c, __global const ushort *scores, const wish *w, int step,
                     __global const int *places, int count, __local ulong *space)
{
    const int item = get_local_id(0), is_all = c->past - c->first == w->past - w->first;
    const population p = {0, scores, w->first, w->past};
    ulong lowest = 0, listed = 0, kept = 0;
    for (int i = c->first + item; i < c->past; i += LOCAL)
        lowest = max(lowest, (ulong)(0xffff - scores[c->listed[i]]));
    const estimate e = make_estimate(&p, 0xffff - (uint)largest_of_all(space, lowest), is_all, step, w->first, w->past,
                                     space);
    for (int i = c->first + item; i < c->past; i += LOCAL)
        listed += share_of(&e, scores[c->listed[i]]);
    for (int i = item; i < count; i += LOCAL)
        kept += share_of(&e, scores[c->listed[places[i]]]);
    listed = sum_of_all(space, listed);
    const ulong inside = listed - sum_of_all(space, kept), outside = surplus(e.sum, listed);
    return inside ? min((outside << 8) / inside, (ulong)MOST_FACTOR) : 0;
}

/* Keys below are those of anchors. places: as above. */
ulong anchor_bound(const candidates *c, __global const int *places, int count, __local ulong *space)
{
    ulong inverse = 0, num_near = 0;
    for (int i = get_local_id(0); i < count; i += LOCAL)
        inverse = max(inverse, c->keys[places[i]] ? ~(ulong)c->keys[places[i]] : 0);
    const ulong bound = 4 * ~largest_of_all(space, inverse);
    for (int i = get_local_id(0); i < count; i += LOCAL)
        num_near += c->keys[places[i]] && c->keys[places[i]] < bound;
    return sum_of_all(space, num_near) < FEW_ANCHORS ? ULONG_MAX : bound;
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    rank_heads(SELECT_ARGUMENTS, const hattn_opencl_heads h, bytes_in head_steps, ulong head_steps_at, bytes_in listed,
               ulong listed_at, bytes_in lengths, ulong lengths_at, bytes_in head_scores, ulong head_scores_at,
               bytes_out keys, ulong keys_at, bytes_out places, ulong places_at)
{
    __local uint counted[HISTOGRAMS * DIGITS], sums[2 * LOCAL], largest[MOST_HEADS];
    __local ulong space[LOCAL], head_sums[MOST_HEADS];
    __local int steps_of_heads[MOST_HEADS];
    __local bound found;
    const int task = get_group_id(0), row = task / s.num_heads, head = task % s.num_heads, item = get_local_id(0),
              length = AT(const int, lengths, lengths_at)[task];
    const row_place place =
        place_row(&rows, AT(const int, q_start, q_start_at), AT(const int, seq_len, seq_len_at), row);
    const wish w = make_wish(&s, place, AT(const int, budgets, budgets_at), head);
    __global const ushort *scored = AT(const ushort, scores, scores_at) + row * s.scores[0] + head * s.scores[1];
    __global int *list = AT(int, indices, indices_at) + row * s.indices[0] + head * s.indices[1],
                 *kept_places = AT(int, places, places_at) + (long)task * s.k;
    candidates c = {h.group, h.stride};
    c.first = min(s.num_sink, length);
    c.past = max(c.first, length - s.num_recent);
    c.listed = AT(const int, listed, listed_at) + (long)task * h.stride;
    c.heads = AT(const ushort, head_scores, head_scores_at) + (long)task * h.group * h.stride;
    c.keys = AT(uint, keys, keys_at) + (long)task * h.stride;
    c.steps = steps_of_heads;
    c.largest = largest;
    c.sums = head_sums;
    for (int g = item; g < h.group; g += LOCAL)
        steps_of_heads[g] =
            AT(const int, head_steps, head_steps_at)[row * h.head_steps[0] + (head * h.group + g) * h.head_steps[1]];
    look_at_heads(&c, space);

    const int forced = length - (c.past - c.first);
    wish l = {length, c.first, c.past, w.kept, w.kept - forced};
    threshold t = wide_threshold(c.keys, l.first, l.past, l.wanted, counted, sums, &found);
    const int is_ranked = t.is_any, above = count_above_floor(&c, t, f.tau, space);
    if (is_ranked && f.tau) {
        l.kept = max(above + forced, min(f.min_k, w.kept));
        l.wanted = l.kept - forced;
    }
    const int is_shorter = l.kept < w.kept;
    const threshold of_floor =
        wide_threshold(c.keys, l.first, l.past, is_shorter ? l.wanted : 0, counted, sums, &found);
    if (is_shorter)
        t = of_floor;
    write_positions(l, t, c.keys, 0, length, 0, 0, sums, list, c.listed, kept_places);
    for (int i = l.kept + item; i < s.k; i += LOCAL)
        list[i] = -1;
    if (item == 0)
        AT(int, counts, counts_at)[row * s.counts[0] + head * s.counts[1]] = l.kept;
#if WITH_SHARES
    barrier(CLK_GLOBAL_MEM_FENCE);
    const int is_told = shares && is_ranked && l.kept < w.length, count = is_told ? l.wanted : 0;
    __global const int *ranked = kept_places + c.first;
    const ulong near = anchor_bound(&c, ranked, count, space),
                factor = factor_outside(
                    &c, scored, &w, AT(const int, steps, steps_at)[row * f.steps[0] + head * f.steps[1]], ranked, count,
                    space);
#pragma unroll 1
    for (int g = 0; shares && g < h.group; g++) {
        const long query_head = (long)head * h.group + g;
        __global uint *to = AT(uint, shares, shares_at) + row * f.shares[0] + query_head * f.shares[1];
        ulong sum = 0;
        for (int i = item; i < s.k; i += LOCAL) {
            uint share = 0;
            if (i >= c.first && i < c.first + count) {
                const int at = kept_places[i];
                share = head_share(&c, g, at);
                sum += share;
                share |= share && c.keys[at] && c.keys[at] < near ? SHARE_ANCHOR : 0;
            }
            to[i] = share;
        }
        const ulong rest = is_told ? head_sums[g] : 0, own = rest - sum_of_all(space, sum);
        if (item == 0)
            AT(long, rests, rests_at)[row * f.rests[0] + query_head * f.rests[1]] = (long)(own + (own * factor >> 8));
    }
#endif
}
