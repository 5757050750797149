/* test_cpu_team.c - regions: every task once, on a thread of its own number, seen by the caller.
 *
 * Many short regions behind each other drive helpers through entering late, finding a region closed and
 * entering the next; pauses let them sleep; uneven tasks let the caller wait for one under way. The tsan
 * preset runs this for the order of memory. */
#include "../backend/backend_testing.h"

#include "backend/cpu/cpu_backend.h"

#include <stdatomic.h>
#include <time.h>

#define THREADS 5

typedef struct region {
    int64_t *sums; /* plain memory: what a helper wrote must be seen */
    int64_t round;
    atomic_int at_work[THREADS];
    atomic_int bad;
    int spin; /* of every seventh task */
} region;

static mica_cpu_backend *open_cpu(int threads)
{
    mica_backend *be = NULL;
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = threads};
    assert_int_equal(mica_cpu_backend_open(&be, &options, NULL), MICA_OK);
    return mica_cpu_from(be);
}

static void task(void *user, int64_t index, int thread)
{
    region *r = user;
    if (thread < 0 || thread >= THREADS || atomic_fetch_add(&r->at_work[thread], 1) != 0) {
        atomic_fetch_add(&r->bad, 1);
        return;
    }
    for (volatile int i = 0; i < (index % 7 == 0 ? r->spin : 0); i++)
        ;
    r->sums[index] += r->round;
    atomic_fetch_sub(&r->at_work[thread], 1);
}

static void run_rounds(mica_cpu_backend *be, region *r, int64_t tasks, int rounds)
{
    int64_t want = 0;
    memset(r->sums, 0, (size_t)tasks * sizeof *r->sums);
    for (int n = 1; n <= rounds; n++) {
        r->round = n;
        want += n;
        mica_cpu_parallel(be, tasks, task, r);
        for (int64_t i = 0; i < tasks; i++)
            assert_int_equal(r->sums[i], want);
    }
    assert_int_equal(atomic_load(&r->bad), 0);
}

static void every_task_runs_once(void **state)
{
    static int64_t sums[300];
    (void)state;
    for (int threads = 1; threads <= THREADS; threads++) {
        mica_cpu_backend *be = open_cpu(threads);
        region r = {.sums = sums};
        run_rounds(be, &r, 1, 3);
        run_rounds(be, &r, 2, 2000);
        run_rounds(be, &r, 3, 2000);
        run_rounds(be, &r, 300, 50);
        r.spin = 20000;
        run_rounds(be, &r, 30, 50);
        be->base.ops->close(&be->base);
    }
}

static void helpers_wake_after_sleep(void **state)
{
    static int64_t sums[16];
    mica_cpu_backend *be = open_cpu(3);
    region r = {.sums = sums, .spin = 1000};
    (void)state;
    for (int i = 0; i < 30; i++) {
        const struct timespec pause = {0, i % 5 * 150000};
        run_rounds(be, &r, 16, 3);
        nanosleep(&pause, NULL);
    }
    be->base.ops->close(&be->base);
}

static void closes_unused_and_asleep(void **state)
{
    static int64_t sums[4];
    (void)state;
    for (int i = 0; i < 50; i++) {
        mica_cpu_backend *be = open_cpu(4);
        region r = {.sums = sums};
        if (i % 2)
            run_rounds(be, &r, 4, 1);
        be->base.ops->close(&be->base);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(helpers_wake_after_sleep),
        cmocka_unit_test(closes_unused_and_asleep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
