/* SPDX-License-Identifier: Apache-2.0
 * What scores promise of probabilities (api/hattn.h, hattn_topk): a floor's threshold, a tail's shares. As
 * core/floor.h, whose table is floor_factors. In front of select.cl, where a plan has a floor or a tail.
 */
#define FLOOR_STRIDE 61 /* HATTN_FLOOR_STRIDE */
#define FEW_ANCHORS 8   /* HATTN_FEW_ANCHORS */

/* In 2^-30 of the largest score's. distance below 2^16. */
uint floor_share(uint distance, int step)
{
    const uint e = distance * (uint)step, octaves = e >> 10;
    return octaves > 30 ? 0 : floor_factors[e >> 4 & 63] >> octaves;
}

/* The least share that reaches tau of a sum; above all shares where none does. */
ulong least_share(ulong tau, ulong sum)
{
    const ulong low = tau * (sum & 0xffffffff), high = tau * (sum >> 32) + (low >> 32);
    return high + ((low & 0xffffffff) != 0);
}

REDUCTION(largest_of_all, a, b, max(a, b))

/* a - b, at least 0; both below 2^63. Signed: clang makes a saturating subtraction of the unsigned one, which Oclgrind 21.10 does not
 * know. */
ulong surplus(ulong a, ulong b) { return (ulong)max((long)(a - b), 0L); }

/* The scores of a row's ranked positions: how many have each, or, where nobody has counted, one by one. */
typedef struct population {
    __local const uint *counts;    /* 0: nobody */
    __global const ushort *scores; /* of position 0 */
    int first, past;               /* scores with counts, positions without */
} population;

uint score_of(const population *p, int i) { return p->counts ? (uint)i : p->scores[i]; }

uint count_of(const population *p, int i) { return p->counts ? p->counts[i] : 1; }

typedef struct estimate {
    uint largest; /* score */
    int step;
    ulong sum; /* Z */
} estimate;

uint share_of(const estimate *e, uint score) { return floor_share(e->largest - score, e->step); }

/* bound: of the budget, the least score; is_all: it keeps all. first, past: positions that are ranked. */
estimate make_estimate(const population *p, uint bound, int is_all, int step, int first, int past, __local ulong *space)
{
    estimate e = {0, step, 0};
    ulong largest = 0, sum = 0;
    for (int i = p->first + (int)get_local_id(0); i < p->past; i += LOCAL)
        if (count_of(p, i))
            largest = max(largest, (ulong)score_of(p, i));
    e.largest = (uint)largest_of_all(space, largest);
    for (int i = p->first + (int)get_local_id(0); i < p->past; i += LOCAL)
        if ((is_all || score_of(p, i) > bound) && count_of(p, i))
            sum += count_of(p, i) * (ulong)share_of(&e, score_of(p, i));
    const long from = (first + FLOOR_STRIDE - 1) / FLOOR_STRIDE + get_local_id(0);
    for (long j = from * FLOOR_STRIDE; !is_all && j < past; j += LOCAL * FLOOR_STRIDE)
        if (p->scores[j] <= bound)
            sum += FLOOR_STRIDE * (ulong)share_of(&e, p->scores[j]);
    e.sum = sum_of_all(space, sum);
    return e;
}

/* How many positions reach the floor, of those with scores above `key` and `ties` that have it. */
int count_above(const population *p, uint key, uint ties, const estimate *e, ulong tau, __local ulong *space)
{
    const ulong least = least_share(tau, e->sum);
    ulong above = get_local_id(0) == 0 && share_of(e, key) >= least ? ties : 0;
    for (int i = p->first + (int)get_local_id(0); i < p->past; i += LOCAL)
        if (score_of(p, i) > key && count_of(p, i) && share_of(e, score_of(p, i)) >= least)
            above += count_of(p, i);
    return (int)sum_of_all(space, above);
}

#if TAIL
/* What a list says of its shares. */
typedef struct marks {
    estimate e;
    ulong near; /* shares below are anchors */
    int is_any; /* 0: all are 0 */
    ulong rest;
} marks;

/* Of positions with scores above `key` and `ties` that have it. */
marks make_marks(const population *p, uint key, uint ties, const estimate *e, __local ulong *space)
{
    marks m = {*e, 0, 1, 0};
    const uint at_key = ties ? share_of(e, key) : 0;
    ulong sum = get_local_id(0) == 0 ? at_key * (ulong)ties : 0, inverse = at_key ? ~(ulong)at_key : 0, num_near = 0;
    for (int i = p->first + (int)get_local_id(0); i < p->past; i += LOCAL) {
        if (score_of(p, i) <= key || !count_of(p, i))
            continue;
        const ulong share = share_of(e, score_of(p, i));
        sum += count_of(p, i) * share;
        inverse = max(inverse, share ? ~share : 0);
    }
    sum = sum_of_all(space, sum);
    m.rest = surplus(e->sum, sum);
    m.near = 4 * ~largest_of_all(space, inverse);
    if (get_local_id(0) == 0 && at_key && at_key < m.near)
        num_near = ties;
    for (int i = p->first + (int)get_local_id(0); i < p->past; i += LOCAL) {
        const uint share = score_of(p, i) > key && count_of(p, i) ? share_of(e, score_of(p, i)) : 0;
        num_near += share && share < m.near ? count_of(p, i) : 0;
    }
    if (sum_of_all(space, num_near) < FEW_ANCHORS)
        m.near = ULONG_MAX;
    return m;
}

uint marked_share(const marks *m, uint score)
{
    const uint share = m->is_any ? share_of(&m->e, score) : 0;
    return share && share < m->near ? share | SHARE_ANCHOR : share;
}
#endif
