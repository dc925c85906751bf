/* SPDX-License-Identifier: Apache-2.0
 * Threads of a run: the caller and the device's helpers, or the caller's own team. Units are handed out by counters in the
 * workspace's control region, which are set back to zero when all are done.
 */
#include "backends/cpu/crew.h"

#include "backends/cpu/cpu.h"
#include "backends/host_control.h"

_Static_assert((int)HATTN_NUM_STEPS <= (int)HATTN_MAX_STEPS, "each step has counters of its own in the control region");

static hattn_host_control *control_of(const hattn_crew *crew) { return (hattn_host_control *)(void *)crew->workspace; }

static void count_done(hattn_crew *crew, enum hattn_cpu_step step)
{
    _Atomic int64_t *done = &control_of(crew)->done[step];
    if (crew->job)
        hattn_job_count_up(crew->job, done);
    else
        atomic_fetch_add_explicit(done, 1, memory_order_release);
}

bool hattn_crew_take(hattn_crew *crew, enum hattn_cpu_step step, int64_t num_units, int64_t *unit)
{
    if (crew->size == 1)
        return (*unit = crew->next[step]++) < num_units;
    if (crew->has_unit)
        count_done(crew, step);
    *unit = atomic_fetch_add_explicit(&control_of(crew)->next[step], 1, memory_order_relaxed);
    crew->has_unit = *unit < num_units;
    return crew->has_unit;
}

void hattn_crew_finish(hattn_crew *crew, enum hattn_cpu_step step, int64_t num_units)
{
    if (crew->size == 1)
        return;
    _Atomic int64_t *done = &control_of(crew)->done[step];
    if (crew->job) {
        hattn_job_wait(crew->job, done, num_units);
        return;
    }
    for (unsigned turn = 0; atomic_load_explicit(done, memory_order_acquire) != num_units; turn++)
        hattn_spin_pause(turn);
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

static atomic_bool *lock_of(const hattn_crew *crew, const void *place)
{
    const uint64_t hash = (uint64_t)(uintptr_t)place * 0x9e3779b97f4a7c15u;
    return &control_of(crew)->locks[hash >> 32 & (HATTN_NUM_LOCKS - 1)];
}

void hattn_crew_lock(hattn_crew *crew, const void *place)
{
    if (crew->size == 1)
        return;
    atomic_bool *lock = lock_of(crew, place);
    for (unsigned turn = 0; atomic_exchange_explicit(lock, true, memory_order_acquire); turn++)
        hattn_spin_pause(turn);
}

void hattn_crew_unlock(hattn_crew *crew, const void *place)
{
    if (crew->size > 1)
        atomic_store_explicit(lock_of(crew, place), false, memory_order_release);
}

bool hattn_crew_shares_tasks(const hattn_crew *crew, int64_t num_tasks)
{
    return num_tasks < crew->size && num_tasks <= crew->plan->max_threads;
}

char *hattn_crew_scratch(const hattn_crew *crew, int64_t index)
{
    return crew->workspace + crew->plan->scratch_start + (uint64_t)index * crew->plan->scratch.size;
}

/* Below this a second thread costs more than it brings: 16384 keys are 10 to 20 us, waking and meeting a thread 2 to 10. */
enum { KEYS_PER_THREAD = 16384 };

static int num_threads(const hattn_cpu_plan *plan, const hattn_exec *exec, int64_t num_keys)
{
    int threads = 1 + (plan->pool ? hattn_pool_num_helpers(plan->pool) : 0);
    threads = threads < plan->max_threads ? threads : plan->max_threads;
    if (exec->num_threads)
        return exec->num_threads < threads ? exec->num_threads : threads;
    const int64_t worth = num_keys / KEYS_PER_THREAD;
    return worth < 1 ? 1 : worth < threads ? (int)worth : threads;
}

/* What the threads of a run are given. */
typedef struct run {
    hattn_crew crew;
    hattn_cpu_body *body;
    hattn_cpu_args args;
} run;

static void work(hattn_job *job, int rank, void *context)
{
    const run *shared = context;
    hattn_crew crew = shared->crew;
    crew.job = job;
    crew.rank = rank;
    shared->body(&crew, shared->args);
}

hattn_status hattn_cpu_run(const hattn_plan *plan, const hattn_exec *exec, int64_t num_keys, hattn_cpu_body *body,
                           hattn_cpu_args args)
{
    const hattn_cpu_plan *cpu = (const hattn_cpu_plan *)plan;
    run shared = {.crew = {.plan = cpu, .workspace = hattn_address(exec->workspace)}, .body = body, .args = args};
    hattn_crew *crew = &shared.crew;
    if (exec->team) {
        crew->size = exec->team->size;
        crew->rank = exec->team->rank;
        if (crew->rank < cpu->max_threads) /* there is no scratch for more */
            body(crew, args);
        return HATTN_OK;
    }
    crew->size = num_threads(cpu, exec, num_keys);
    if (crew->size == 1) {
        body(crew, args);
        return HATTN_OK;
    }
    hattn_pool_run(cpu->pool, crew->size, work, &shared);
    hattn_host_control_reset(control_of(crew));
    return HATTN_OK;
}
