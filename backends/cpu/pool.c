/* SPDX-License-Identifier: Apache-2.0
 * Who waits for whom: a caller for helpers that have joined its job and not left it, a thread in hattn_job_wait for units that
 * others have begun. Both spin for SPIN_NS, as long as a wake costs, and then sleep.
 *
 * A job lies on its caller's stack. It is in the pool's list while it has room for helpers and its caller has not come to the
 * end; both are changed under the mutex only, so that nobody joins a job that is gone. Waking is shared out: each woken helper
 * wakes two more, so that a caller with many helpers makes two calls to the system, not sixty.
 */
#define _GNU_SOURCE
#include "backends/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/fp_environment.h"

enum {
    SPIN_NS = 30000,       /* of helpers without work and of those who wait for units; a wake takes 5 to 50 us */
    LOOKS_PER_CLOCK = 64,  /* a look at the clock takes as long as some of the spin's own */
    STACK_BYTES = 1 << 20, /* units keep some KiB there; the system's thread-local storage may want much more */
    WAKES = 2
};

struct hattn_job {
    hattn_job *next;
    hattn_pool *pool;
    hattn_job_fn *fn;
    void *context;
    int max_threads, joined; /* ranks given out, the caller's included */
    bool listed;
    atomic_int active;   /* helpers inside */
    atomic_int sleepers; /* threads that sleep on changed */
    pthread_cond_t changed;
};

struct hattn_pool {
    pthread_mutex_t mutex;
    pthread_cond_t posted;
    hattn_job *first; /* jobs with room, oldest first */
    atomic_uint num_posted;
    int sleeping;  /* helpers on `posted` that nobody has woken yet */
    int woken;     /* those that somebody has, and that have not noticed yet */
    int searching; /* helpers awake without a job, the woken ones too: they look at the list before they sleep */
    bool closing;
    unsigned forks; /* before it was made: it has no helpers after another one */
    int num_helpers;
    pthread_t helpers[];
};

/* ---- fork ---- */

static atomic_uint num_forks; /* of this process and its parents, counted in the child */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static bool forks_are_counted;

static void count_fork(void) { atomic_fetch_add_explicit(&num_forks, 1, memory_order_relaxed); }

static void watch_forks(void) { forks_are_counted = !pthread_atfork(NULL, NULL, count_fork); }

static bool is_forked(const hattn_pool *pool)
{
    return pool->forks != atomic_load_explicit(&num_forks, memory_order_relaxed);
}

/* ---- Waiting ---- */

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* yield does nothing on most cores */
#endif
}

void hattn_spin_pause(unsigned turn)
{
    relax();
    if (turn % 1024 == 1023)
        sched_yield();
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

typedef struct spin {
    int64_t until;
    int looks;
} spin;

/* True until SPIN_NS after the first call. */
static bool spins_on(spin *s)
{
    relax();
    if (++s->looks % LOOKS_PER_CLOCK)
        return true;
    const int64_t now = now_ns();
    if (!s->until)
        s->until = now + SPIN_NS;
    return now < s->until;
}

void hattn_job_wait(hattn_job *job, _Atomic int64_t *count, int64_t value)
{
    for (spin s = {0}; spins_on(&s);)
        if (atomic_load_explicit(count, memory_order_acquire) == value)
            return;
    pthread_mutex_lock(&job->pool->mutex);
    atomic_fetch_add(&job->sleepers, 1); /* before the last look: who counts up after that look sees a sleeper */
    while (atomic_load(count) != value)
        pthread_cond_wait(&job->changed, &job->pool->mutex);
    atomic_fetch_sub(&job->sleepers, 1);
    pthread_mutex_unlock(&job->pool->mutex);
}

static void wake_sleepers(hattn_job *job)
{
    if (!atomic_load(&job->sleepers))
        return;
    pthread_mutex_lock(&job->pool->mutex);
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->pool->mutex);
}

void hattn_job_count_up(hattn_job *job, _Atomic int64_t *count)
{
    atomic_fetch_add(count, 1);
    wake_sleepers(job);
}

/* ---- Helpers ---- */

/* How many sleepers to wake for what the searching helpers leave of a job; to be done by `wake` once the mutex is free, which
 * they want first thing. */
static int claim_sleepers(hattn_pool *pool, const hattn_job *job)
{
    int wanted = job->max_threads - job->joined - pool->searching;
    wanted = wanted < pool->sleeping ? wanted : pool->sleeping;
    wanted = wanted < 0 ? 0 : wanted < WAKES ? wanted : WAKES;
    pool->sleeping -= wanted;
    pool->woken += wanted;
    pool->searching += wanted;
    return wanted;
}

static void wake(hattn_pool *pool, int number)
{
    while (number--)
        pthread_cond_signal(&pool->posted);
}

static void unlist(hattn_pool *pool, hattn_job *job)
{
    hattn_job **link = &pool->first;
    while (*link != job)
        link = &(*link)->next;
    *link = job->next;
    job->listed = false;
}

/* Takes part in the oldest job that has room. The mutex is held before and after. Others are woken first: between joining and
 * the first unit, where the caller already waits for this helper, there are no calls to the system. */
static void help(hattn_pool *pool)
{
    const int to_wake = claim_sleepers(pool, pool->first);
    if (to_wake) {
        pthread_mutex_unlock(&pool->mutex);
        wake(pool, to_wake);
        pthread_mutex_lock(&pool->mutex);
    }
    hattn_job *job = pool->first;
    if (!job)
        return;
    const int rank = job->joined++;
    if (job->joined == job->max_threads)
        unlist(pool, job);
    atomic_fetch_add_explicit(&job->active, 1, memory_order_relaxed);
    pool->searching--;
    pthread_mutex_unlock(&pool->mutex);
    job->fn(job, rank, job->context);
    pthread_mutex_lock(&pool->mutex);
    pool->searching++;
    if (atomic_load(&job->sleepers))
        pthread_cond_broadcast(&job->changed);
    atomic_fetch_sub_explicit(&job->active, 1, memory_order_release); /* the caller may leave: the job is gone */
}

static void spin_for_work(hattn_pool *pool, unsigned seen)
{
    for (spin s = {0}; spins_on(&s);)
        if (atomic_load_explicit(&pool->num_posted, memory_order_acquire) != seen)
            return;
}

/* The mutex is held before and after. */
static void sleep_for_work(hattn_pool *pool)
{
    pool->searching--;
    pool->sleeping++;
    while (!pool->woken && !pool->closing)
        pthread_cond_wait(&pool->posted, &pool->mutex);
    if (pool->woken) {
        pool->woken--; /* who woke it has counted it as searching */
    } else {
        pool->sleeping--;
        pool->searching++;
    }
}

static void *helper_main(void *context)
{
    hattn_pool *pool = context;
    (void)hattn_fp_enter();
    pthread_mutex_lock(&pool->mutex);
    pool->searching++;
    while (!pool->closing) {
        if (pool->first) {
            help(pool);
            continue;
        }
        const unsigned seen = atomic_load_explicit(&pool->num_posted, memory_order_relaxed);
        pthread_mutex_unlock(&pool->mutex);
        spin_for_work(pool, seen);
        pthread_mutex_lock(&pool->mutex);
        if (!pool->first && !pool->closing)
            sleep_for_work(pool);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* ---- A pool's life ---- */

/* The host's handlers run on the host's threads; those of a thread's own faults must stay, for the host's crash reports. */
static void signals_to_block(sigset_t *signals)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigfillset(signals);
    for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++)
        sigdelset(signals, faults[i]);
}

static void start_helpers(hattn_pool *pool, int num_helpers)
{
    sigset_t blocked, before;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes))
        return;
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    signals_to_block(&blocked);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    while (pool->num_helpers < num_helpers &&
           !pthread_create(&pool->helpers[pool->num_helpers], &attributes, helper_main, pool)) {
        (void)pthread_setname_np(pool->helpers[pool->num_helpers], "hattn");
        pool->num_helpers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

hattn_pool *hattn_pool_create(int num_helpers)
{
    hattn_pool *pool = calloc(1, sizeof(*pool) + (size_t)num_helpers * sizeof(*pool->helpers));
    if (!pool)
        return NULL;
    pthread_once(&fork_once, watch_forks);
    pool->forks = atomic_load_explicit(&num_forks, memory_order_relaxed);
    if (pthread_mutex_init(&pool->mutex, NULL) || pthread_cond_init(&pool->posted, NULL)) {
        free(pool);
        return NULL;
    }
    if (forks_are_counted)
        start_helpers(pool, num_helpers);
    return pool;
}

void hattn_pool_destroy(hattn_pool *pool)
{
    if (pool && !is_forked(pool)) {
        pthread_mutex_lock(&pool->mutex);
        pool->closing = true;
        pthread_cond_broadcast(&pool->posted);
        atomic_fetch_add_explicit(&pool->num_posted, 1, memory_order_relaxed); /* ends their spinning */
        pthread_mutex_unlock(&pool->mutex);
        for (int i = 0; i < pool->num_helpers; i++)
            pthread_join(pool->helpers[i], NULL);
        pthread_cond_destroy(&pool->posted);
        pthread_mutex_destroy(&pool->mutex);
    }
    free(pool);
}

int hattn_pool_num_helpers(const hattn_pool *pool) { return is_forked(pool) ? 0 : pool->num_helpers; }

static void post(hattn_pool *pool, hattn_job *job)
{
    pthread_mutex_lock(&pool->mutex);
    hattn_job **link = &pool->first;
    while (*link)
        link = &(*link)->next;
    *link = job;
    atomic_fetch_add_explicit(&pool->num_posted, 1, memory_order_release);
    const int to_wake = claim_sleepers(pool, job);
    pthread_mutex_unlock(&pool->mutex);
    wake(pool, to_wake);
}

/* Nobody joins from here on; returns when those who did have left. */
static void close_job(hattn_pool *pool, hattn_job *job)
{
    pthread_mutex_lock(&pool->mutex);
    if (job->listed)
        unlist(pool, job);
    pthread_mutex_unlock(&pool->mutex);
    for (spin s = {0}; spins_on(&s);)
        if (!atomic_load_explicit(&job->active, memory_order_acquire))
            return;
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&job->sleepers, 1);
    while (atomic_load_explicit(&job->active, memory_order_acquire))
        pthread_cond_wait(&job->changed, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

void hattn_pool_run(hattn_pool *pool, int max_threads, hattn_job_fn *fn, void *context)
{
    hattn_job job = {.pool = pool,
                     .fn = fn,
                     .context = context,
                     .max_threads = max_threads,
                     .joined = 1,
                     .listed = true,
                     .changed = PTHREAD_COND_INITIALIZER};
    post(pool, &job);
    fn(&job, 0, context);
    close_job(pool, &job);
    pthread_cond_destroy(&job.changed);
}
