/* cpu_team.c - the threads that share a region's tasks.
 *
 *     caller    open ─► takes tasks ─────────────────► close ─► waits for tasks under way ─► returns
 *     helper       └─► enters, takes tasks, leaves ─┘              (spins a little, then sleeps)
 *
 * A pass over one row is some hundred regions of ten microseconds. A barrier that every thread must reach
 * makes each as slow as the slowest thread to wake: on a busy machine, and on a virtual one whose second
 * processor sleeps, two threads were slower than one. So nobody waits for a helper that has not come. Tasks
 * are taken from one counter, the caller takes whatever is left, and only tasks under way are waited for.
 * Helpers look for the next region for SPIN seconds before they sleep.
 *
 *     state    odd: region open; even: closed. A helper counts itself in `inside` before it looks whether the
 *              region is (still) open, the caller closes before it looks at `inside`: one of them sees the
 *              other. The job is written only while closed and nobody is inside.
 *
 * Helpers start with the first region that wants them; one that cannot be had is done without. */
#include "backend/cpu/cpu_backend.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define SPIN       100e-6 /* seconds */
#define LOOKS      64     /* between two looks at the clock */
#define CACHE_LINE 64

struct mica_cpu_team {
    int count; /* helpers that run */
    bool is_started;
    pthread_mutex_t lock;
    pthread_cond_t open, left;
    /* The job. */
    mica_cpu_task_fn fn;
    void *user;
    int64_t tasks;
    int most; /* threads that may take part */
    _Alignas(CACHE_LINE) atomic_uint state;
    atomic_bool stop;
    atomic_int asleep;
    atomic_bool is_waiting; /* the caller, for those inside */
    _Alignas(CACHE_LINE) atomic_llong next;
    _Alignas(CACHE_LINE) atomic_int inside;
    struct helper {
        mica_cpu_team *team;
        pthread_t thread;
        int index; /* 1 and up: the caller is 0 */
    } helpers[];
};

static void take_tasks(mica_cpu_team *t, int thread)
{
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
        if (i >= t->tasks)
            return;
        t->fn(t->user, i, thread);
    }
}

/* -------------------------------------------------------------- helpers -- */

static void leave(mica_cpu_team *t)
{
    if (atomic_fetch_sub(&t->inside, 1) == 1 && atomic_load(&t->is_waiting)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_signal(&t->left);
        pthread_mutex_unlock(&t->lock);
    }
}

/* Takes part in the region, if it is open. */
static void visit(mica_cpu_team *t, int thread)
{
    atomic_fetch_add(&t->inside, 1);
    if (atomic_load(&t->state) % 2 != 0 && thread < t->most)
        take_tasks(t, thread);
    leave(t);
}

/* Until the state is another than `seen`. */
static void wait_for_change(mica_cpu_team *t, unsigned seen)
{
    const double start = mica_clock_seconds();
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load(&t->state) != seen)
                return;
            MICA_RELAX();
        }
    } while (mica_clock_seconds() - start < SPIN);
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->asleep, 1);
    while (atomic_load(&t->state) == seen)
        pthread_cond_wait(&t->open, &t->lock);
    atomic_fetch_sub(&t->asleep, 1);
    pthread_mutex_unlock(&t->lock);
}

static void *helper_main(void *user)
{
    const struct helper *h = user;
    mica_cpu_team *t = h->team;
    for (;;) {
        const unsigned seen = atomic_load(&t->state);
        if (atomic_load(&t->stop))
            return NULL;
        if (seen % 2 != 0)
            visit(t, h->index);
        wait_for_change(t, seen);
    }
}

static void start(mica_cpu_team *t, int wanted)
{
    t->is_started = true;
    for (int i = 0; i < wanted; i++) {
        struct helper *h = &t->helpers[i];
        *h = (struct helper){.team = t, .index = i + 1};
        if (pthread_create(&h->thread, NULL, helper_main, h) != 0)
            return;
        t->count++;
    }
}

/* --------------------------------------------------------------- caller -- */

static void change_state(mica_cpu_team *t)
{
    atomic_fetch_add(&t->state, 1);
    if (atomic_load(&t->asleep) > 0) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->open);
        pthread_mutex_unlock(&t->lock);
    }
}

static void wait_for_those_inside(mica_cpu_team *t)
{
    const double start = mica_clock_seconds();
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load(&t->inside) == 0)
                return;
            MICA_RELAX();
        }
        sched_yield(); /* to one that lost its processor */
    } while (mica_clock_seconds() - start < SPIN);
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->is_waiting, true);
    while (atomic_load(&t->inside) != 0)
        pthread_cond_wait(&t->left, &t->lock);
    atomic_store(&t->is_waiting, false);
    pthread_mutex_unlock(&t->lock);
}

void mica_cpu_parallel(mica_cpu_backend *be, int64_t count, mica_cpu_task_fn fn, void *user)
{
    mica_cpu_team *t = be->team;
    const int team = (int)MICA_MIN((int64_t)be->threads, count);
    if (team <= 1) {
        for (int64_t i = 0; i < count; i++)
            fn(user, i, 0);
        return;
    }
    if (!t->is_started)
        start(t, be->threads - 1);
    t->fn = fn;
    t->user = user;
    t->tasks = count;
    t->most = team;
    atomic_store_explicit(&t->next, 0, memory_order_relaxed);
    change_state(t);
    take_tasks(t, 0);
    atomic_fetch_add(&t->state, 1); /* closed: sleepers sleep on */
    wait_for_those_inside(t);
}

/* ------------------------------------------------------------- lifetime -- */

mica_status mica_cpu_team_open(mica_cpu_backend *be, mica_err *err)
{
    const size_t helpers = (size_t)be->threads * sizeof(struct helper);
    const size_t size =
        (sizeof(mica_cpu_team) + helpers + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
    mica_cpu_team *t = mica_mem_alloc_aligned(size, CACHE_LINE);
    if (!t)
        return MICA_FAIL(err, MICA_E_NOMEM, "%d threads could not be allocated", be->threads);
    memset(t, 0, size);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->open, NULL);
    pthread_cond_init(&t->left, NULL);
    be->team = t;
    return MICA_OK;
}

void mica_cpu_team_close(mica_cpu_backend *be)
{
    mica_cpu_team *t = be->team;
    if (!t)
        return;
    atomic_store(&t->stop, true);
    atomic_fetch_add(&t->state, 1); /* odd and even: seen as a change */
    change_state(t);
    for (int i = 0; i < t->count; i++)
        pthread_join(t->helpers[i].thread, NULL);
    pthread_cond_destroy(&t->left);
    pthread_cond_destroy(&t->open);
    pthread_mutex_destroy(&t->lock);
    mica_mem_free(t);
    be->team = NULL;
}
