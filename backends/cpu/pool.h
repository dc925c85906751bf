/* SPDX-License-Identifier: Apache-2.0
 * A device's helper threads. A caller posts its work and starts at once; helpers that are awake, or wake while there is
 * work left, join. Nobody ever waits for a helper that has not begun something.
 */
#ifndef HATTN_BACKENDS_CPU_POOL_H
#define HATTN_BACKENDS_CPU_POOL_H

#include <stdbool.h>
#include <stdint.h>

typedef struct hattn_pool hattn_pool;
typedef struct hattn_job hattn_job;

/* Called on each thread that takes part, rank 0 on the caller's: returns when it finds nothing left to begin. */
typedef void hattn_job_fn(hattn_job *job, int rank, void *context);

/* Up to num_helpers threads, fewer where the system gives fewer; NULL where there is no memory. They block all signals but faults,
 * run in the default floating-point environment, and sleep while there is no work. */
hattn_pool *hattn_pool_create(int num_helpers);

/* Joins the helpers; no run may be under way. In a forked child, where there are none, it only frees. NULL is allowed. */
void hattn_pool_destroy(hattn_pool *pool);

/* Helpers that there are; 0 in a forked child. */
int hattn_pool_num_helpers(const hattn_pool *pool);

/* Runs fn on the calling thread and on up to max_threads - 1 helpers, each rank at most once, and returns when all that
 * began are done. Any threads may call it at one time: they share the helpers. */
void hattn_pool_run(hattn_pool *pool, int max_threads, hattn_job_fn *fn, void *context);

/* Waits until *count, which other threads of the job raise by hattn_job_count_up, is `value`; what they wrote before is
 * seen then. Spins for a moment, then sleeps: who is waited for may have lost its processor. */
void hattn_job_wait(hattn_job *job, _Atomic int64_t *count, int64_t value);
void hattn_job_count_up(hattn_job *job, _Atomic int64_t *count);

/* For loops that wait for other threads: a pause, and now and then the processor to somebody else. */
void hattn_spin_pause(unsigned turn);

#endif
