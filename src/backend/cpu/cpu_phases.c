/* cpu_phases.c - phases of tasks in one region, for passes whose operations take microseconds.
 *
 *              phase 0            phase 1         phase 2
 *     thread 0  0 1 2 3 |4        0 1 2  | begins...
 *     thread 1  5 6 7  |   <- 4   3 4 5 5.|          a task of another's range, when one's own is done
 *
 * A region of its own for each would open, close and wait some 240 times in a step of text to semantic, and
 * memory would be idle each time. Here a phase has one counter of tasks done. Tasks are cut into one range for
 * each thread, in order, so that a thread knows what it will read next and asks for it while others still work
 * at the phase before; who has finished takes tasks of the others. Nobody waits for a thread that has not come
 * (cpu_team.c): its range is taken, and when it comes it goes through the phases that are over. Where others have
 * work for the processors too, a thread may lose its own in the middle of a task. Spinning then only takes
 * time away from it: after LOOKS helpers leave until the next region and the caller naps.
 *
 *     next[thread][phase]   tasks taken of the thread's range; in lines of its own
 *     done[phase]           tasks finished; added to once a thread and phase */
#include "backend/cpu/cpu_phases.h"

#include "base/compiler.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define LINE  64
#define EARLY (16 << 10) /* bytes asked for before the first look at the phase before: half of L1 */
#define MOST  (32 << 10) /* and while waiting, at most */
#define LOOKS 4096       /* at the phase before: some 50 us */
#define NAP   50000      /* nanoseconds */

typedef struct phases_job {
    const mica_cpu_phases *p;
    int threads;
    size_t stride; /* of next, in counters */
    atomic_int *next, *done;
} phases_job;

static int first_of(int tasks, int threads, int thread)
{
    return (int)((int64_t)tasks * thread / threads);
}

/* Lines [from, to) bytes of what the thread will read first in a phase. */
static void ask(const phases_job *j, int phase, int thread, size_t from, size_t to)
{
    size_t size = 0;
    const int tasks = j->p->tasks(j->p->user, phase);
    const int task = first_of(tasks, j->threads, thread);
    if (task >= tasks)
        return;
    const char *data = j->p->begins(j->p->user, phase, task, &size);
    for (size_t i = from; i < MICA_MIN(to, size); i += LINE)
        MICA_PREFETCH(data + i);
}

/* Until the phase before is over; false: it takes long. */
static bool wait_for(const phases_job *j, int phase, int thread)
{
    const int tasks = j->p->tasks(j->p->user, phase - 1);
    atomic_int *done = &j->done[phase - 1];
    size_t asked = EARLY;
    for (int looks = 0; looks < LOOKS; looks++) {
        if (atomic_load_explicit(done, memory_order_acquire) == tasks)
            return true;
        if (asked < MOST) {
            ask(j, phase, thread, asked, asked + 4 * LINE);
            asked += 4 * LINE;
        }
        MICA_RELAX();
    }
    return false;
}

static void nap_until(const phases_job *j, int phase)
{
    const struct timespec nap = {0, NAP};
    const int tasks = j->p->tasks(j->p->user, phase);
    while (atomic_load_explicit(&j->done[phase], memory_order_acquire) != tasks)
        nanosleep(&nap, NULL);
}

/* Runs what is left of a range; returns how many tasks. */
static int run_range(const phases_job *j, int phase, int owner, int thread)
{
    const int tasks = j->p->tasks(j->p->user, phase);
    const int first = first_of(tasks, j->threads, owner);
    const int size = first_of(tasks, j->threads, owner + 1) - first;
    atomic_int *next = &j->next[(size_t)owner * j->stride + (size_t)phase];
    int ran = 0;
    while (atomic_load_explicit(next, memory_order_relaxed) < size) {
        const int i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
        if (i >= size)
            break;
        j->p->run(j->p->user, phase, first + i, thread);
        ran++;
    }
    return ran;
}

static void take_part(void *user, int64_t index, int thread)
{
    const phases_job *j = user;
    (void)index;
    for (int phase = 0; phase < j->p->count; phase++) {
        int ran = 0;
        if (phase > 0 && !wait_for(j, phase, thread)) {
            if (thread > 0)
                return;
            nap_until(j, phase - 1);
        }
        for (int i = 0; i < j->threads; i++)
            ran += run_range(j, phase, (thread + i) % j->threads, thread);
        if (ran > 0)
            atomic_fetch_add_explicit(&j->done[phase], ran, memory_order_acq_rel);
        if (ran > 0 && phase + 1 < j->p->count)
            ask(j, phase + 1, thread, 0, EARLY);
    }
}

mica_status mica_cpu_run_phases(mica_cpu_backend *be, const mica_cpu_phases *p, mica_err *err)
{
    phases_job j = {.p = p, .threads = be->threads};
    const size_t line = LINE / sizeof(atomic_int);
    j.stride = ((size_t)p->count + line - 1) / line * line;
    const size_t size = j.stride * ((size_t)be->threads + 1) * sizeof(atomic_int);
    const mica_pool_mark mark = mica_cpu_pool_get_mark(&be->base, MICA_POOL_STEP);
    void *counters;
    MICA_TRY(mica_cpu_pool_alloc(&be->base, MICA_POOL_STEP, size, &counters, err));
    memset(counters, 0, size);
    j.next = counters;
    j.done = j.next + j.stride * (size_t)be->threads;
    mica_cpu_parallel(be, be->threads, take_part, &j);
    mica_cpu_pool_release(&be->base, MICA_POOL_STEP, mark);
    return MICA_OK;
}
