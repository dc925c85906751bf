/* SPDX-License-Identifier: Apache-2.0
 * A crew is the threads that work on one run: its caller and the device's helpers, or the caller's own team. A run is a few
 * steps, a step is units (a row and head, a run of keys, a part of a selection) that go to whoever is free. Nobody waits for a
 * thread that has not begun a unit, so that helpers may come late or never.
 */
#ifndef HATTN_BACKENDS_CPU_CREW_H
#define HATTN_BACKENDS_CPU_CREW_H

#include "api/hattn.h"
#include "backends/cpu/pool.h"

typedef struct hattn_cpu_plan hattn_cpu_plan;

enum hattn_cpu_step {
    HATTN_STEP_APPEND,
    HATTN_STEP_VALUES,
    HATTN_STEP_ENCODE,
    HATTN_STEP_SCORE,
    HATTN_STEP_SELECT,
    HATTN_STEP_ATTEND,
    HATTN_STEP_READ, /* values, with problem.min_value_weight */
    HATTN_NUM_STEPS
};

/* One thread's view of a run. */
typedef struct hattn_crew {
    const hattn_cpu_plan *plan;
    char *workspace;
    int size, rank; /* the most that may take part, and which of them this is */
    bool has_unit;
    hattn_job *job;                /* NULL: alone, or in a team */
    int64_t next[HATTN_NUM_STEPS]; /* used instead of the shared counters when alone */
} hattn_crew;

/* The arguments of the call that is run. */
typedef union hattn_cpu_args {
    const hattn_encode_keys_args *encode_keys;
    const hattn_encode_queries_args *encode_queries;
    const hattn_score_args *score;
    const hattn_topk_args *topk;
    const hattn_attend_args *attend;
    const hattn_merge_args *merge;
    const hattn_sum_values_args *sum_values;
    const hattn_decode_args *decode;
} hattn_cpu_args;

/* What each thread of a crew does: every step of the call, as far as there are units left. */
typedef void hattn_cpu_body(hattn_crew *crew, hattn_cpu_args args);

/* Runs body on this thread and whoever joins, and returns when all units are done; in a team on the calling rank only.
 * num_keys is how many keys the call may work on, all heads and rows together: where the caller left the number of threads
 * open, few keys get few. */
hattn_status hattn_cpu_run(const hattn_plan *plan, const hattn_exec *exec, int64_t num_keys, hattn_cpu_body *body,
                           hattn_cpu_args args);

/* The next of a step's num_units units, rising from 0 (some other thread may have got those between); false when all are
 * begun. Also says that the unit taken before is done. */
bool hattn_crew_take(hattn_crew *crew, enum hattn_cpu_step step, int64_t num_units, int64_t *unit);

/* Waits until a step's units are done: what was written in them is seen. */
void hattn_crew_finish(hattn_crew *crew, enum hattn_cpu_step step, int64_t num_units);

/* Counts a finished part of a task; true for the last of num_parts, which then sees what the others wrote. */
bool hattn_crew_arrive(hattn_crew *crew, int64_t task, int num_parts);

/* Around writes to a place in the caller's memory that another unit may be writing, too. */
void hattn_crew_lock(hattn_crew *crew, const void *place);
void hattn_crew_unlock(hattn_crew *crew, const void *place);

/* True when tasks are too few for whole ones: threads then share each task, which lives in the scratch of its index. */
bool hattn_crew_shares_tasks(const hattn_crew *crew, int64_t num_tasks);

/* The scratch of a rank, or of a task when tasks are fewer than threads. */
char *hattn_crew_scratch(const hattn_crew *crew, int64_t index);

#endif
