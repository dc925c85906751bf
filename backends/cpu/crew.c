/* SPDX-License-Identifier: Apache-2.0
 * Threads of a run: OpenMP's or the caller's. Units are handed out by counters in the workspace's control region, which the
 * last thread to leave sets back to zero.
 */
#include <omp.h>
#include <stdatomic.h>

#include "backends/cpu/cpu.h"
#include "core/workspace.h"

typedef struct control {
    atomic_int_fast64_t next[HATTN_NUM_STEPS];
    atomic_int left;
    atomic_int arrived[]; /* one a task, when tasks are fewer than threads */
} control;

static control *control_of(const hattn_crew *crew) { return (control *)(void *)crew->workspace; }

uint64_t hattn_cpu_control_size(int max_threads)
{
    uint64_t size = 0;
    hattn_carve(&size, sizeof(control) + (uint64_t)max_threads * sizeof(atomic_int));
    return size;
}

int64_t hattn_crew_next(hattn_crew *crew, enum hattn_cpu_step step)
{
    if (crew->size == 1)
        return crew->next[step]++;
    return atomic_fetch_add_explicit(&control_of(crew)->next[step], 1, memory_order_relaxed);
}

void hattn_crew_barrier(hattn_crew *crew)
{
    if (crew->size == 1)
        return;
    if (crew->team) {
        crew->team->barrier(crew->team->context);
    } else {
#pragma omp barrier
    }
}

bool hattn_crew_arrive(hattn_crew *crew, int64_t task, int num_parts)
{
    if (num_parts == 1)
        return true;
    atomic_int *arrived = &control_of(crew)->arrived[task];
    if (atomic_fetch_add_explicit(arrived, 1, memory_order_acq_rel) != num_parts - 1)
        return false;
    atomic_store_explicit(arrived, 0, memory_order_relaxed);
    return true;
}

bool hattn_crew_shares_tasks(const hattn_crew *crew, int64_t num_tasks)
{
    return num_tasks < crew->size && num_tasks <= crew->plan->max_threads;
}

char *hattn_crew_slot(const hattn_crew *crew, int64_t index)
{
    return crew->workspace + crew->plan->slots + (uint64_t)index * crew->plan->slot.size;
}

static void leave(hattn_crew *crew)
{
    if (crew->size == 1)
        return;
    control *shared = control_of(crew);
    if (atomic_fetch_add_explicit(&shared->left, 1, memory_order_acq_rel) == crew->size - 1) {
        for (int i = 0; i < HATTN_NUM_STEPS; i++)
            atomic_store_explicit(&shared->next[i], 0, memory_order_relaxed);
        atomic_store_explicit(&shared->left, 0, memory_order_relaxed);
    }
}

/* Below this a second thread costs more than it brings: 16384 keys are 10 to 20 us, waking and meeting a thread 2 to 10, and milliseconds
 * where processors are busy. */
enum { KEYS_PER_THREAD = 16384 };

static int smaller(int a, int b) { return a < b ? a : b; }

void hattn_cpu_run(const hattn_plan *plan, const hattn_exec *exec, int64_t num_keys, hattn_cpu_body *body,
                   const void *args)
{
    const hattn_cpu_plan *cpu = (const hattn_cpu_plan *)plan;
    const hattn_team *team = exec->team;
    hattn_crew crew = {.plan = cpu, .workspace = hattn_address(exec->workspace), .size = 1, .team = team};
    if (team) {
        /* Every rank takes part in the barriers, also those for which there is no slot. */
        crew.size = team->size;
        crew.rank = team->rank;
        body(&crew, args);
        leave(&crew);
        hattn_crew_barrier(&crew);
        return;
    }
    int threads = smaller(exec->num_threads ? exec->num_threads : omp_get_max_threads(), cpu->max_threads);
    if (!exec->num_threads && num_keys / KEYS_PER_THREAD < threads)
        threads = num_keys < 2 * KEYS_PER_THREAD ? 1 : (int)(num_keys / KEYS_PER_THREAD);
    if (threads == 1 || omp_in_parallel()) {
        body(&crew, args);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        hattn_crew mine = crew;
        mine.size = omp_get_num_threads();
        mine.rank = omp_get_thread_num();
        body(&mine, args);
        leave(&mine);
    }
}
