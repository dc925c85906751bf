/* SPDX-License-Identifier: Apache-2.0
 * Score: runs of keys, page by page.
 */
#include <string.h>

#include "backends/cpu/cpu.h"

enum {
    RUNS = 128,     /* of one call: pages */
    RUNS_AHEAD = 32 /* known beyond them, so that pages of the next call are on their way */
};

/* Walks the keys of a sequence page by page, without dividing. */
typedef struct page_walk {
    const hattn_pages *pages;
    int32_t index, slot; /* of the next key */
    int32_t left;        /* keys */
} page_walk;

static page_walk start_walk(const hattn_pages *pages, int32_t first, int32_t count)
{
    return (page_walk){pages, first / pages->page_size, first % pages->page_size, count};
}

/* The keys on the next page, 0 at the end; they start at *slot of *page. */
static int32_t next_page(page_walk *walk, int64_t *page, int32_t *slot)
{
    const int32_t in_page = walk->pages->page_size - walk->slot, count = in_page < walk->left ? in_page : walk->left;
    if (count == 0)
        return 0;
    *page = walk->pages->table ? walk->pages->table[walk->index] : walk->pages->sequence;
    *slot = walk->slot;
    walk->index++;
    walk->slot = 0;
    walk->left -= count;
    return count;
}

void hattn_cpu_score_unit(const hattn_crew *crew, const hattn_planes *planes, const hattn_cpu_keys *keys, int32_t first,
                          int32_t count, uint16_t *scores, float *norm_keys)
{
    const hattn_problem *p = &crew->plan->base.problem;
    page_walk walk = start_walk(&keys->pages, first, count);
    hattn_score_run runs[RUNS + RUNS_AHEAD];
    uint16_t *out = scores;
    int64_t page;
    int32_t slot, in_page;
    for (int known = 0;;) {
        while (known < RUNS + RUNS_AHEAD && (in_page = next_page(&walk, &page, &slot)))
            runs[known++] = (hattn_score_run){
                (const uint32_t *)hattn_element(&p->codes, keys->codes, page, slot, keys->code_head), in_page};
        if (known == 0)
            break;
        const int now = known < RUNS ? known : RUNS;
        crew->plan->kernels.score(planes, runs, now, known - now, p->codes.stride[1], out);
        for (int i = 0; i < now; i++)
            out += runs[i].num_keys;
        known -= now;
        memmove(runs, runs + now, (size_t)known * sizeof(*runs));
    }
    if (!p->key_norms)
        return;
    for (walk = start_walk(&keys->pages, first, count); (in_page = next_page(&walk, &page, &slot));
         scores += in_page, norm_keys += in_page)
        crew->plan->kernels.scale(scores, planes->max_score,
                                  (const uint16_t *)hattn_element(&p->norms, keys->norms, page, slot, keys->code_head),
                                  p->norms.stride[1], in_page, norm_keys);
}

/* Rows may be shared out in chunks of keys: as many as the longest row could have. */
static void score_body(hattn_crew *crew, hattn_cpu_args run)
{
    const hattn_score_args *args = run.score;
    const hattn_problem *p = &crew->plan->base.problem;
    uint16_t *scratch = (uint16_t *)(hattn_crew_scratch(crew, crew->rank) + crew->plan->scratch.scores);
    const int64_t chunks = ((int64_t)p->max_length + HATTN_SCORE_CHUNK - 1) / HATTN_SCORE_CHUNK;
    int64_t unit;
    while (hattn_crew_take(crew, HATTN_STEP_SCORE, args->batch.num_rows * chunks * p->num_selection_heads, &unit)) {
        const int64_t task = unit / chunks, row = task / p->num_selection_heads, head = task % p->num_selection_heads;
        const int32_t first = (int32_t)(unit % chunks * HATTN_SCORE_CHUNK);
        const hattn_row resolved = hattn_resolve_row(p, &args->batch, (int32_t)row);
        if (first >= resolved.length)
            continue;
        const int32_t left = resolved.length - first, count = left < HATTN_SCORE_CHUNK ? left : HATTN_SCORE_CHUNK;
        hattn_planes planes;
        crew->plan->kernels.split((const int8_t *)hattn_element(&p->weights, args->weights, row, head, 0), p->code_bits,
                                  &planes);
        const hattn_cpu_keys keys = {args->codes, args->norms, hattn_sequence_pages(p, &args->batch, resolved.sequence),
                                     head * p->num_code_heads / p->num_selection_heads};
        char *out = hattn_element(&p->scores, args->scores, row, head, 0) + first * hattn_dtype_size(p->scores.dtype);
        hattn_cpu_score_unit(crew, &planes, &keys, first, count, p->key_norms ? scratch : (uint16_t *)out,
                             p->key_norms ? (float *)out : NULL);
    }
}

hattn_status hattn_cpu_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                             hattn_error *error)
{
    (void)error;
    return hattn_cpu_run(plan, exec, hattn_cpu_most_keys(plan, &args->batch), score_body,
                         (hattn_cpu_args){.score = args});
}
