/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's own types. A run is a crew of threads that share out units of work (crew.h); a unit resolves rows, pages
 * and strides and hands plain arrays to the plan's kernels. The workspace has a piece of scratch for each thread. What a unit
 * computes never depends on the crew, so neither do results.
 */
#ifndef HATTN_BACKENDS_CPU_CPU_H
#define HATTN_BACKENDS_CPU_CPU_H

#include "backends/backend.h"
#include "backends/cpu/crew.h"
#include "core/dtype.h"
#include "core/rows.h"
#include "kernels_cpu/kernels.h"

enum {
    HATTN_KEY_BLOCK = 32,     /* keys encoded by one unit: the map is read once for all of them */
    HATTN_CPU_SHARE_STEP = 8, /* shares are looked at in such steps */
    HATTN_SCORE_CHUNK = 8192  /* keys scored by one unit when a head is shared: 128 KiB of 128-bit codes */
};

/* Offsets into one thread's scratch. */
typedef struct hattn_cpu_scratch {
    uint64_t x, z, hidden[2];                  /* encode: fp32 vectors */
    uint64_t weights, planes, scores, keys;    /* one selection head of one row */
    uint64_t histogram, positions, candidates; /* topk */
    uint64_t indices, list_scores, shares, rests;
    uint64_t head_weights, head_planes, head_steps, listed, head_rows, head_codes, head_scores, head_shares, head_keys,
        ranks;                                     /* scores per query head */
    uint64_t state;                                /* of a task: hattn_cpu_task_state */
    uint64_t q, logits, max, sum, acc;             /* attend: one part */
    uint64_t part_out, part_max, part_sum, merged; /* attend: all parts of a task, sink and tail included */
    uint64_t part_near, part_all, near, all, old_max, mean, sums; /* a tail's */
    uint64_t value_weights, block_max, read,
        part_left; /* with min_value_weight: [group, stride_weights], [group, blocks], positions, [part, group] */
    uint64_t size;
} hattn_cpu_scratch;

/* What a selection has left out, and the sums of the shares that it has: of anchors, of all. */
typedef struct hattn_cpu_rest {
    int64_t rest; /* hattn_topk */
    uint64_t near, all;
} hattn_cpu_rest;

/* What the steps of a decode's task leave for later ones. */
typedef struct hattn_cpu_task_state {
    int32_t step; /* hattn_encode_queries */
    int32_t kept;
} hattn_cpu_task_state;

struct hattn_cpu_plan {
    hattn_plan base;
    hattn_cpu_kernels kernels;
    hattn_pool *pool; /* the device's */
    int max_threads;
    int group;       /* Hq / Hs: query heads that share a selection */
    int dense_group; /* G: query heads that share K and V */
    int part_size, dense_part_size;
    int max_parts;    /* of one task, dense or not */
    int loads_first;  /* hattn_cpu_loads_first */
    int page_shift;   /* log2 of a page's size; -1: not a power of two, or contiguous */
    int64_t stride_q; /* of fp32 vectors, padded to whole lines */
    int64_t stride_acc;
    int num_told;           /* query heads, or 1 for all of a selection, that shares and rests are of */
    int64_t stride_shares;  /* of these, in scratch */
    int64_t stride_listed;  /* of scores and shares of candidates */
    int64_t stride_weights; /* of a head's, of a selection: whole blocks */
    uint64_t floor_tau;     /* hattn_floor_tau */
    uint64_t scratch_start; /* of rank 0, behind the control region */
    hattn_cpu_scratch scratch;
};

/* Keys that the rows of a batch can see, all selection heads together. */
static inline int64_t hattn_cpu_most_keys(const hattn_plan *plan, const hattn_batch *batch)
{
    return (int64_t)batch->num_rows * plan->problem.num_selection_heads * plan->problem.max_length;
}

/* ---- one file an operation: units, and the bodies that share them out ---- */

/* encode.c */
/* slopes: null without a floor. Returns the step, 0 without. */
int32_t hattn_cpu_encode_queries_unit(const hattn_crew *crew, char *scratch, hattn_buffer q,
                                      const hattn_map_buffers *map, hattn_buffer slopes, int64_t row, int64_t head,
                                      int8_t *weights);
/* After that, out of its projections: of query head `head`, the group's i'th. Returns its step. */
int32_t hattn_cpu_encode_head(const hattn_crew *crew, char *scratch, hattn_buffer slopes, int64_t head, int i,
                              int8_t *weights);
/* Until all units are done, the other threads' too. */
void hattn_cpu_append(hattn_crew *crew, const hattn_decode_args *args);
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
/* A row's scores (u16) or keys (fp32), one of them, from position num_sink on. */
typedef struct hattn_cpu_scores {
    const uint16_t *scores;
    const float *keys;
    uint32_t max_score;
    int32_t step;                        /* with a floor or a tail */
    const struct hattn_cpu_heads *heads; /* with scores per query head */
} hattn_cpu_scores;
/* Whether scores decide about any of `kept` of `length` positions; if not they are not read. */
bool hattn_cpu_is_ranked(const hattn_problem *problem, int32_t length, int32_t kept);
/* Selects `kept` of `length` positions, the budget's, or as many of them as a floor leaves, and returns how many. out has room
 * for kept + HATTN_TOPK_SLACK. Where there are floors or tails `shares` is the scratch's; with a tail it gets
 * their shares, and rests the rests. */
int32_t hattn_cpu_select_unit(const hattn_crew *crew, char *scratch, int32_t length, int32_t kept,
                              const hattn_cpu_scores *scores, int32_t *out, uint32_t *shares, hattn_cpu_rest *rests);
/* The budget's list: of `kept` of `length` positions. */
void hattn_cpu_select_kept(const hattn_crew *crew, char *scratch, int32_t length, int32_t kept,
                           const hattn_cpu_scores *scores, int32_t *out);
hattn_status hattn_cpu_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                            hattn_error *error);

/* floor.c */
/* How many of the budget's `kept` positions are kept in any case. */
int32_t hattn_cpu_least_kept(const hattn_problem *problem, int32_t kept);
/* What the budget's list says of a row's probabilities. */
typedef struct hattn_cpu_estimate {
    const uint16_t *scores; /* from position num_sink on */
    int32_t step;
    uint32_t largest, bound; /* of the list */
    uint64_t sum;            /* Z */
    uint64_t listed;         /* the list's sum of shares */
    uint32_t *shares;        /* of the list's positions that are not forced; room for HATTN_CPU_SHARE_STEP more */
    int32_t count;
} hattn_cpu_estimate;
/* Of a list of `kept` of `length` positions that are ranked, with their shares. */
hattn_cpu_estimate hattn_cpu_make_estimate(const hattn_cpu_plan *plan, char *scratch, const hattn_cpu_scores *scores,
                                           int32_t length, int32_t kept, const int32_t *selected, uint32_t *shares);
/* The shares of another list, which has the best position, too; returns their sum. */
uint64_t hattn_cpu_share_list(const hattn_cpu_plan *plan, char *scratch, hattn_cpu_estimate *estimate, int32_t kept,
                              const int32_t *selected);
/* Makes the list of the budget's selection shorter, and its shares, and returns how many are left; -1: fewer than are kept in any
 * case, and the list is as it was. */
int32_t hattn_cpu_apply_floor(const hattn_cpu_plan *plan, hattn_cpu_estimate *estimate, int32_t length, int32_t kept,
                              int32_t *selected);
/* Marks anchors among the shares. */
hattn_cpu_rest hattn_cpu_mark_anchors(const hattn_cpu_estimate *estimate);

/* heads.c: scores per query head */
typedef struct hattn_cpu_heads {
    hattn_cpu_keys keys;
    const hattn_planes *planes; /* of each head of the group */
    const int32_t *steps;
} hattn_cpu_heads;
/* Like hattn_cpu_select_unit, of a row that is ranked. */
int32_t hattn_cpu_select_by_heads(const hattn_crew *crew, char *scratch, int32_t length, int32_t kept,
                                  const hattn_cpu_scores *scores, int32_t *out, uint32_t *shares,
                                  hattn_cpu_rest *rests);

/* What an attention needs for its tail. */
typedef struct hattn_cpu_tail {
    const uint32_t *shares;      /* NULL: no tail */
    int64_t stride_shares;       /* of the group's heads; 0: of all of them */
    const hattn_cpu_rest *rests; /* likewise */
    hattn_buffer value_sums, value_lengths, value_slots;
    int32_t length; /* of the row */
} hattn_cpu_tail;

/* attend.c: attention of one row and the heads that share a selection. */
typedef struct hattn_cpu_attention {
    hattn_buffer q, k_cache, v_cache, k_scale, v_scale, sink_logits, out, lse;
    int64_t row, first_head; /* of group query heads */
    int group;
    hattn_pages pages;
    const int32_t *indices; /* NULL: positions 0..count */
    int32_t count, part_size;
    int page_shift; /* the plan's */
    hattn_cpu_tail tail;
} hattn_cpu_attention;
int hattn_cpu_num_parts(const hattn_cpu_attention *a);
/* Addresses of rows of a selection. */
typedef struct hattn_cpu_cache_head {
    const char *start;
    int64_t page_bytes, slot_bytes;
} hattn_cpu_cache_head;
hattn_cpu_cache_head hattn_cpu_head_of(const hattn_tensor *cache, hattn_buffer buffer, int64_t kv_head);
void hattn_cpu_resolve_rows(const hattn_cpu_attention *a, const hattn_cpu_cache_head *k, const hattn_cpu_cache_head *v,
                            int32_t first, int count, const void **k_rows, const void **v_rows);
/* All of it, in one thread. */
void hattn_cpu_attend_whole(const hattn_crew *crew, char *scratch, const hattn_cpu_attention *a);
/* A part of it, in the task's scratch; the last part finishes, or with skips leaves that to the parts of read. */
void hattn_cpu_attend_shared(hattn_crew *crew, char *scratch, int64_t task, const hattn_cpu_attention *a, int part);
hattn_status hattn_cpu_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                              hattn_error *error);
hattn_status hattn_cpu_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                             hattn_error *error);

/* values.c */
/* The row's mean value, scaled. */
void hattn_cpu_mean_value(const hattn_cpu_plan *plan, const hattn_cpu_attention *a, int64_t kv_head, char *scratch,
                          float *mean);
/* Until all units are done, the other threads' too. */
void hattn_cpu_sum_values_units(hattn_crew *crew, const hattn_sum_values_args *args);
hattn_status hattn_cpu_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                                  hattn_error *error);

/* tail.c: the sums of weights that a tail is made of. */
/* No block has been seen yet; max: what weights are relative to. */
void hattn_cpu_begin_tail(const hattn_cpu_plan *plan, char *scratch, int group, const float *max);
/* Whether any of its heads has one. */
bool hattn_cpu_has_tail(const hattn_cpu_attention *a);
/* Then the weights of all need no sums of their own. */
bool hattn_cpu_all_have_shares(const hattn_cpu_tail *tail, int group, int32_t first, int32_t count);
/* A block that the kernel has just left, of rows from `first` of the selection on. */
void hattn_cpu_add_block(const hattn_cpu_plan *plan, char *scratch, const hattn_attend_block *block,
                         const hattn_cpu_tail *tail, int32_t first, bool all_have_shares);
/* The sums of a part to where its task's are. */
void hattn_cpu_end_tail(const hattn_cpu_plan *plan, const char *scratch, char *task_scratch, int group, int part,
                        bool all_have_shares);
/* Of a selection that somebody else has made. */
hattn_cpu_rest hattn_cpu_sum_shares(const uint32_t *shares, int32_t count, int64_t rest);
/* Adds the tail, where there is one, as part num_parts of each head; true if it did. */
bool hattn_cpu_add_tail(const hattn_cpu_plan *plan, char *task_scratch, const hattn_cpu_attention *a, int num_parts);

/* skip.c: attention in two steps, where values of small weight are not read. */
bool hattn_cpu_skips(const hattn_cpu_attention *a, const hattn_problem *problem);
/* The weights that the kernel has just left of rows from `first` of the selection on. */
void hattn_cpu_keep_weights(const hattn_cpu_plan *plan, char *task_scratch, const hattn_attend_block *block,
                            int32_t first);
/* Of rows whose parts are all done: of one part its values, and what they weigh that are not read. */
void hattn_cpu_read_part(const hattn_crew *crew, char *scratch, char *task_scratch, const hattn_cpu_attention *a,
                         int part);
void hattn_cpu_read_shared(hattn_crew *crew, char *scratch, int64_t task, const hattn_cpu_attention *a,
                           int part); /* the last part finishes */
void hattn_cpu_read_finish(const hattn_crew *crew, char *task_scratch, const hattn_cpu_attention *a);

/* plan.c: chooses kernels, and lays out the scratch. */
hattn_status hattn_cpu_make_plan(hattn_device *device, const hattn_problem *problem, hattn_plan **plan,
                                 hattn_error *error);

/* device.c */
typedef struct hattn_cpu_device {
    hattn_device base;
    unsigned isas;
    hattn_pool *pool; /* NULL: one thread */
} hattn_cpu_device;

/* decode.c */
hattn_status hattn_cpu_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                              hattn_error *error);

#endif
