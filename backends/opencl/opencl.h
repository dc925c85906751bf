/* SPDX-License-Identifier: Apache-2.0
 * What the files of the OpenCL backend's glue know of each other.
 */
#ifndef HATTN_BACKENDS_OPENCL_OPENCL_H
#define HATTN_BACKENDS_OPENCL_OPENCL_H

#include <pthread.h>

#include "backends/backend.h"
#include "core/opencl.h"
#include "kernels_opencl/params.h"

/* A program that has been built: one .cl file with one set of definitions. */
typedef struct hattn_opencl_program {
    struct hattn_opencl_program *next;
    int32_t source;
    char options[320];
    cl_program program;
} hattn_opencl_program;

typedef struct hattn_opencl_device {
    hattn_device base;
    const hattn_opencl_functions *cl;
    cl_context context; /* the caller's, retained, or its own */
    cl_device_id id;
    cl_command_queue queue; /* where exec.stream is null */
    bool is_cpu;
    int32_t num_units, max_local; /* compute units, work-items of a group */
    pthread_mutex_t lock;         /* of the programs */
    hattn_opencl_program *programs;
} hattn_opencl_device;

/* The kernels of a plan, each with the number of work-items of its groups. */
enum {
    HATTN_OPENCL_ENCODE_KEYS,
    HATTN_OPENCL_APPEND_KEYS,
    HATTN_OPENCL_ENCODE_QUERIES,
    HATTN_OPENCL_SCORE,
    HATTN_OPENCL_SELECT_NARROW,
    HATTN_OPENCL_SELECT_WIDE,
    HATTN_OPENCL_SCORE_LISTED,
    HATTN_OPENCL_RANK_HEADS,
    HATTN_OPENCL_WEIGH,
    HATTN_OPENCL_ATTEND_SPARSE,
    HATTN_OPENCL_ATTEND_DENSE,
    HATTN_OPENCL_JOIN,
    HATTN_OPENCL_JOIN_TAIL,
    HATTN_OPENCL_SUM_VALUES,
    HATTN_OPENCL_JOIN_VALUES,
    HATTN_OPENCL_MERGE,
    HATTN_OPENCL_NUM_KERNELS
};

typedef struct hattn_opencl_kernel {
    cl_kernel kernel;
    int32_t local;
} hattn_opencl_kernel;

/* One side's encoding: what its kernels take by value, and their vectors at a time. */
typedef struct hattn_opencl_encoder {
    hattn_opencl_encoding encoding;
    hattn_opencl_map map;
    int32_t vectors;
} hattn_opencl_encoder;

/* How rows of K and V are attended to: over a selection, or all of them. */
typedef struct hattn_opencl_attender {
    hattn_opencl_attention attention;
    int32_t heads;     /* of a group of work-items */
    int32_t max_count; /* positions of a row */
} hattn_opencl_attender;

/* Offsets of the workspace. */
typedef struct hattn_opencl_layout {
    uint64_t weights, scores, indices, counts, steps, shares, rests, histograms, parts;
    uint64_t head_weights, head_steps, listed, lengths, head_scores, keys, places, value_parts, logits, head_sums;
    uint64_t size;
} hattn_opencl_layout;

typedef struct hattn_opencl_plan {
    hattn_plan base;
    pthread_mutex_t lock; /* of the kernels' arguments: one run sets and enqueues at a time */
    hattn_opencl_kernel kernels[HATTN_OPENCL_NUM_KERNELS];
    hattn_opencl_encoder keys, append, queries;
    hattn_opencl_rows rows;
    hattn_opencl_selection selection;
    hattn_opencl_floor floor;
    hattn_opencl_tail tail;
    hattn_opencl_heads heads;
    int32_t num_listed;                  /* most positions of a candidates' list */
    bool has_shares, has_tail, by_heads; /* has_shares: hattn_has_shares */
    bool skips;                          /* min_value_weight: sparse attention weighs first */
    hattn_opencl_attender sparse, dense;
    hattn_opencl_join join;
    hattn_opencl_layout layout;
    int32_t histograms, min_chunks, num_units;
    bool is_cpu;
} hattn_opencl_plan;

hattn_status hattn_opencl_from_code(cl_int code, const char *what, hattn_error *error);

/* plan.c: all but kernels; zeroed before. */
void hattn_opencl_choose(const hattn_opencl_device *device, const hattn_problem *p, hattn_opencl_plan *plan);
/* Chunks of a row's keys for so many rows and selection heads. */
int32_t hattn_opencl_num_chunks(const hattn_opencl_plan *plan, int64_t tasks);
/* From a row of a decode's scores to the next: rows start at 16 bytes. */
int64_t hattn_opencl_scores_stride(const hattn_opencl_plan *plan);
/* Groups that share the new positions of a sequence and KV head, for so many sequences. */
int32_t hattn_opencl_num_value_parts(const hattn_opencl_plan *plan, int64_t sequences);
/* Groups of work-items that share a row's positions, for so many rows. */
int32_t hattn_opencl_num_splits(const hattn_opencl_plan *plan, const hattn_opencl_attender *attender, int64_t rows);

/* build.c: the kernels of a plan. */
hattn_status hattn_opencl_build(hattn_opencl_device *device, const hattn_problem *p, hattn_opencl_plan *plan,
                                hattn_error *error);
void hattn_opencl_release_kernels(const hattn_opencl_functions *cl, hattn_opencl_plan *plan);
void hattn_opencl_release_programs(hattn_opencl_device *device);

/* run.c: the table's slots. */
hattn_status hattn_opencl_encode_keys(const hattn_plan *plan, const hattn_encode_keys_args *args,
                                      const hattn_exec *exec, hattn_error *error);
hattn_status hattn_opencl_encode_queries(const hattn_plan *plan, const hattn_encode_queries_args *args,
                                         const hattn_exec *exec, hattn_error *error);
hattn_status hattn_opencl_score(const hattn_plan *plan, const hattn_score_args *args, const hattn_exec *exec,
                                hattn_error *error);
hattn_status hattn_opencl_topk(const hattn_plan *plan, const hattn_topk_args *args, const hattn_exec *exec,
                               hattn_error *error);
hattn_status hattn_opencl_attend(const hattn_plan *plan, const hattn_attend_args *args, const hattn_exec *exec,
                                 hattn_error *error);
hattn_status hattn_opencl_merge(const hattn_plan *plan, const hattn_merge_args *args, const hattn_exec *exec,
                                hattn_error *error);
hattn_status hattn_opencl_sum_values(const hattn_plan *plan, const hattn_sum_values_args *args, const hattn_exec *exec,
                                     hattn_error *error);
hattn_status hattn_opencl_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                                 hattn_error *error);

#endif
