/* SPDX-License-Identifier: Apache-2.0
 * The control region of workspaces in host memory: what threads that work on one run share. All zero between runs. One size
 * for all devices, so that a workspace may be made ready through any of them.
 */
#ifndef HATTN_BACKENDS_HOST_CONTROL_H
#define HATTN_BACKENDS_HOST_CONTROL_H

#include <stdatomic.h>
#include <string.h>

#include "core/rows.h"
#include "core/workspace.h"

enum {
    HATTN_MAX_STEPS = 7,      /* of one run */
    HATTN_MAX_THREADS = 1024, /* that share one run; more sockets than any board has */
    HATTN_NUM_LOCKS = 256     /* of places in a code cache, by hash */
};

typedef struct hattn_host_control {
    _Atomic int64_t next[HATTN_MAX_STEPS]; /* the first unit that nobody has begun */
    _Atomic int64_t done[HATTN_MAX_STEPS]; /* units */
    atomic_int entered;                    /* ranks of a team */
    atomic_bool locks[HATTN_NUM_LOCKS];
    atomic_int arrived[HATTN_MAX_THREADS]; /* finished parts of a task, when tasks are fewer than threads */
} hattn_host_control;

static inline hattn_host_control *hattn_host_control_of(hattn_buffer workspace)
{
    return (hattn_host_control *)hattn_address(workspace);
}

/* Where a backend's own part of a workspace starts. */
static inline uint64_t hattn_host_control_size(void)
{
    uint64_t size = 0;
    hattn_carve(&size, sizeof(hattn_host_control));
    return size;
}

static inline void hattn_host_control_init(hattn_buffer workspace, uint64_t size)
{
    memset(hattn_address(workspace), 0, size < sizeof(hattn_host_control) ? size : sizeof(hattn_host_control));
}

/* Once nobody works on the run any more. Locks and arrivals are zero again by themselves. */
static inline void hattn_host_control_reset(hattn_host_control *control)
{
    for (int i = 0; i < HATTN_MAX_STEPS; i++) {
        atomic_store_explicit(&control->next[i], 0, memory_order_relaxed);
        atomic_store_explicit(&control->done[i], 0, memory_order_relaxed);
    }
    atomic_store_explicit(&control->entered, 0, memory_order_relaxed);
}

#endif
