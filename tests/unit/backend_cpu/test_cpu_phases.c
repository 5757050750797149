/* test_cpu_phases.c - phases: every task once, and none before all of the phase ahead of it.
 *
 * Each task adds up what all tasks of the phase before have written, in plain memory, so a task that starts too
 * early or twice shows in the numbers. Phases of one task and of many, uneven tasks, more threads than tasks
 * and than processors. The tsan preset runs this for the order of memory. */
#include "../backend/backend_testing.h"

#include "backend/cpu/cpu_phases.h"

#include <stdatomic.h>

#define PHASES  41
#define MOST    23
#define THREADS 5

typedef struct chain {
    uint64_t value[PHASES][MOST];
    int spin;
    atomic_int asked;
} chain;

static int tasks_of(const void *user, int phase)
{
    (void)user;
    return phase % 5 == 0 ? 1 : 1 + phase * 7 % MOST;
}

static uint64_t expected(const chain *c, int phase, int task)
{
    uint64_t sum = (uint64_t)task + 1;
    for (int i = 0; phase > 0 && i < tasks_of(c, phase - 1); i++)
        sum += 3 * c->value[phase - 1][i];
    return sum;
}

static void run_task(void *user, int phase, int task, int thread)
{
    chain *c = user;
    (void)thread;
    for (volatile int i = 0; i < (task % 5 == 1 ? c->spin : 0); i++)
        ;
    c->value[phase][task] += expected(c, phase, task);
}

static const void *begins(const void *user, int phase, int task, size_t *size)
{
    const chain *c = user;
    assert_true(phase > 0 && phase < PHASES && task < tasks_of(user, phase));
    atomic_fetch_add((atomic_int *)(uintptr_t)&c->asked, 1);
    *size = sizeof c->value[phase];
    return c->value[phase];
}

static void each_phase_sees_the_one_before(void **state)
{
    (void)state;
    chain *c = test_malloc(sizeof *c);
    for (int threads = 1; threads <= THREADS; threads++) {
        mica_backend *base = NULL;
        const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = threads};
        assert_int_equal(mica_cpu_backend_open(&base, &options, NULL), MICA_OK);
        mica_cpu_backend *be = mica_cpu_from(base);
        for (int round = 0; round < 200; round++) {
            memset(c, 0, sizeof *c);
            c->spin = round % 3 * 500;
            const mica_cpu_phases p = {PHASES, tasks_of, run_task, begins, c};
            assert_int_equal(mica_cpu_run_phases(be, &p, NULL), MICA_OK);
            for (int phase = 0; phase < PHASES; phase++)
                for (int i = 0; i < tasks_of(c, phase); i++)
                    assert_true(c->value[phase][i] == expected(c, phase, i));
            assert_true(atomic_load(&c->asked) >= PHASES - 1);
        }
        base->ops->close(base);
    }
    test_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_phase_sees_the_one_before)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
