/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's own types. A run is a crew of threads that share out units of work (a row and head, a run of keys, a part
 * of a selection); a unit resolves rows, pages and strides and hands plain arrays to the plan's kernels. Scratch is one
 * slot of the workspace for each thread. What a unit computes never depends on the crew, so neither do results.
 */
#ifndef HATTN_BACKENDS_CPU_CPU_H
#define HATTN_BACKENDS_CPU_CPU_H

#include <stdbool.h>

#include "backends/backend.h"
#include "core/dtype.h"
#include "core/rows.h"
#include "kernels_cpu/kernels.h"

enum {
    HATTN_KEY_BLOCK = 32, /* keys encoded by one unit: the map is read once for all of them */
    HATTN_SCORE_CHUNK =
        8192,         /* keys scored by one unit when a head is shared: 128 KiB of 128-bit codes, 16 KiB of scores */
    HATTN_PARTS = 16, /* of one selection; more would cost merging, fewer leave threads idle */
    HATTN_MIN_PART = 256, /* tokens: a smaller part costs more in state than in rows */
    /* tokens: equal rows round to one side, 64 of a block by 32 units of 2^-24 at most and 64 blocks by as many, which is all that
     * the numerics contract has (8192 leave it) */
    HATTN_MAX_PART = 4096
};

/* Offsets into one slot of the workspace. */
typedef struct hattn_cpu_slot {
    uint64_t x, z, hidden[2];                  /* encode: fp32 vectors */
    uint64_t weights, planes, scores, keys;    /* one selection head of one row */
    uint64_t histogram, positions, candidates; /* topk */
    uint64_t indices;
    uint64_t q, logits, max, sum, acc;             /* attend: one part */
    uint64_t part_out, part_max, part_sum, merged; /* attend: all parts of a task, sink included */
    uint64_t size;
} hattn_cpu_slot;

typedef struct hattn_cpu_plan {
    hattn_plan base;
    hattn_cpu_kernels kernels;
    int max_threads;
    int group;       /* Hq / Hs: query heads that share a selection */
    int dense_group; /* G: query heads that share K and V */
    int part_size, dense_part_size;
    int max_parts;    /* of one task, dense or not */
    int loads_first;  /* hattn_cpu_loads_first */
    int page_shift;   /* log2 of a page's size; -1: not a power of two, or contiguous */
    int64_t stride_q; /* of fp32 vectors, padded to whole lines */
    int64_t stride_acc;
    uint64_t slots; /* offset of the first slot, behind the control region */
    hattn_cpu_slot slot;
} hattn_cpu_plan;

/* ---- crew.c: threads ---- */

/* Steps of a run that hand out units; each has a counter of its own, so that none waits for another's reset. */
enum hattn_cpu_step {
    HATTN_STEP_APPEND,
    HATTN_STEP_ENCODE,
    HATTN_STEP_SCORE,
    HATTN_STEP_SELECT,
    HATTN_STEP_ATTEND,
    HATTN_NUM_STEPS
};

/* One thread's view of a run. */
typedef struct hattn_crew {
    const hattn_cpu_plan *plan;
    char *workspace;
    int size, rank;
    const hattn_team *team;        /* NULL: OpenMP, or alone */
    int64_t next[HATTN_NUM_STEPS]; /* used instead of the shared counters when alone */
} hattn_crew;

typedef void hattn_cpu_body(hattn_crew *crew, const void *args);

/* Bytes of the control region: shared counters, zero between runs. */
uint64_t hattn_cpu_control_size(int max_threads);

/* Runs body on every thread of the caller's team or of OpenMP, and returns when all are done. num_keys is how many keys the
 * call may work on, all heads and rows together: where the caller left the number of threads open, few keys get few. */
void hattn_cpu_run(const hattn_plan *plan, const hattn_exec *exec, int64_t num_keys, hattn_cpu_body *body,
                   const void *args);

/* Keys that the rows of a batch can see, all selection heads together. */
static inline int64_t hattn_cpu_most_keys(const hattn_plan *plan, const hattn_batch *batch)
{
    return (int64_t)batch->num_rows * plan->problem.num_selection_heads * plan->problem.max_length;
}

/* The next unit of a step, rising from 0; some other thread may have got the ones between. */
int64_t hattn_crew_next(hattn_crew *crew, enum hattn_cpu_step step);

/* All threads' writes before it are seen by all after it. */
void hattn_crew_barrier(hattn_crew *crew);

/* Counts a finished part of a task; true for the last of num_parts, which then sees what the others wrote. */
bool hattn_crew_arrive(hattn_crew *crew, int64_t task, int num_parts);

/* True when tasks are too few for whole ones: threads then share each task, which lives in the slot of its index. */
bool hattn_crew_shares_tasks(const hattn_crew *crew, int64_t num_tasks);

/* The slot of a thread, or of a task when tasks are fewer than threads. */
char *hattn_crew_slot(const hattn_crew *crew, int64_t index);

/* ---- one file an operation: units, and the bodies that share them out ---- */

/* encode.c */
void hattn_cpu_encode_queries_unit(const hattn_crew *crew, char *slot, hattn_buffer q, const hattn_map_buffers *map,
                                   int64_t row, int64_t head, int8_t *weights);
void hattn_cpu_append_body(hattn_crew *crew, const hattn_decode_args *args);
hattn_status hattn_cpu_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args, const hattn_exec *exec,
                                   hattn_error *error);
hattn_status hattn_cpu_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                      const hattn_exec *exec, hattn_error *error);

/* score.c: scores of positions first..first+count of one row and head; `scores` are u16, or with norms `keys` fp32 (and
 * scores scratch of the same length). */
typedef struct hattn_cpu_keys {
    hattn_buffer codes, norms;
    hattn_pages pages;
    int64_t code_head;
} hattn_cpu_keys;
void hattn_cpu_score_unit(const hattn_crew *crew, const hattn_planes *planes, const hattn_cpu_keys *keys, int32_t first,
                          int32_t count, uint16_t *scores, float *norm_keys);
hattn_status hattn_cpu_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                             hattn_error *error);

/* topk.c */
void hattn_cpu_store_selection(const hattn_problem *problem, hattn_buffer indices, hattn_buffer counts, int64_t row,
                               int64_t head, const int32_t *selected, int32_t kept);
/* Selects `kept` of `length` positions; scores (u16) or keys (fp32) are indexed from position num_sink. out has room for kept + HATTN_TOPK_SLACK. */
void hattn_cpu_select_unit(const hattn_crew *crew, char *slot, int32_t length, int32_t kept, const uint16_t *scores,
                           const float *keys, uint32_t max_score, int32_t *out);
hattn_status hattn_cpu_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                            hattn_error *error);

/* attend.c: attention of one row and the heads that share a selection. */
typedef struct hattn_cpu_attention {
    hattn_buffer q, k_cache, v_cache, k_scale, v_scale, sink_logits, out, lse;
    int64_t row, first_head; /* of group query heads */
    int group;
    hattn_pages pages;
    const int32_t *indices; /* NULL: positions 0..count */
    int32_t count, part_size;
    int page_shift; /* the plan's */
} hattn_cpu_attention;
int hattn_cpu_num_parts(const hattn_cpu_attention *a);
/* Part `part` into the part area of `task_slot`, scratch in `slot`; finish joins the parts there and writes out and lse. */
void hattn_cpu_attend_part(const hattn_crew *crew, char *slot, char *task_slot, const hattn_cpu_attention *a, int part);
void hattn_cpu_attend_shared(hattn_crew *crew, char *slot, int64_t task, const hattn_cpu_attention *a,
                             int part); /* in the task's slot; the last part finishes */
void hattn_cpu_attend_finish(const hattn_crew *crew, char *task_slot, const hattn_cpu_attention *a);
hattn_status hattn_cpu_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                              hattn_error *error);
hattn_status hattn_cpu_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                             hattn_error *error);

/* decode.c */
hattn_status hattn_cpu_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                              hattn_error *error);

#endif
