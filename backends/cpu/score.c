/* SPDX-License-Identifier: Apache-2.0
 * Score: runs of keys, page by page.
 */
#include "backends/cpu/cpu.h"

void hattn_cpu_score_unit(const hattn_crew *crew, const hattn_planes *planes, const hattn_cpu_keys *keys, int32_t first, int32_t count, uint16_t *scores,
                          float *norm_keys)
{
    const hattn_problem *p = &crew->plan->base.problem;
    for (int32_t done = 0; done < count;) {
        int32_t slot;
        const int64_t page = hattn_page(&keys->pages, first + done, &slot);
        const int32_t in_page = keys->pages.page_size - slot;
        const int32_t run = in_page < count - done ? in_page : count - done;
        crew->plan->kernels.score(planes, (const uint32_t *)hattn_element(&p->codes, keys->codes, page, slot, keys->code_head), p->codes.stride[1], run,
                                  scores + done);
        if (p->key_norms)
            crew->plan->kernels.scale(scores + done, planes->max_score,
                                      (const uint16_t *)hattn_element(&p->norms, keys->norms, page, slot, keys->code_head), p->norms.stride[1], run,
                                      norm_keys + done);
        done += run;
    }
}

/* Rows may be shared out in chunks of keys: as many as the longest row could have. */
static void score_body(hattn_crew *crew, const void *opaque)
{
    const hattn_score_args *args = opaque;
    const hattn_problem *p = &crew->plan->base.problem;
    if (crew->rank >= crew->plan->max_threads)
        return;
    uint16_t *scratch = (uint16_t *)(hattn_crew_slot(crew, crew->rank) + crew->plan->slot.scores);
    const int64_t chunks = ((int64_t)p->max_length + HATTN_SCORE_CHUNK - 1) / HATTN_SCORE_CHUNK;
    int64_t unit;
    while ((unit = hattn_crew_next(crew, HATTN_STEP_SCORE)) < args->batch.num_rows * chunks * p->num_selection_heads) {
        const int64_t task = unit / chunks, row = task / p->num_selection_heads, head = task % p->num_selection_heads;
        const int32_t first = (int32_t)(unit % chunks * HATTN_SCORE_CHUNK);
        const hattn_row resolved = hattn_resolve_row(p, &args->batch, (int32_t)row);
        if (first >= resolved.length)
            continue;
        const int32_t left = resolved.length - first, count = left < HATTN_SCORE_CHUNK ? left : HATTN_SCORE_CHUNK;
        hattn_planes planes;
        crew->plan->kernels.split((const int8_t *)hattn_element(&p->weights, args->weights, row, head, 0), p->code_bits, &planes);
        const hattn_cpu_keys keys = {args->codes, args->norms, hattn_sequence_pages(p, &args->batch, resolved.sequence),
                                     head * p->num_code_heads / p->num_selection_heads};
        char *out = hattn_element(&p->scores, args->scores, row, head, 0) + first * hattn_dtype_size(p->scores.dtype);
        hattn_cpu_score_unit(crew, &planes, &keys, first, count, p->key_norms ? scratch : (uint16_t *)out, p->key_norms ? (float *)out : NULL);
    }
}

hattn_status hattn_cpu_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec, hattn_error *error)
{
    (void)error;
    hattn_cpu_run(plan, exec, score_body, args);
    return HATTN_OK;
}
