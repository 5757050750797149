/* cpu_phases.h - phases of tasks, each of which needs the one before, in one region; see cpu_phases.c. */
#ifndef MICA_BACKEND_CPU_PHASES_H
#define MICA_BACKEND_CPU_PHASES_H

#include "backend/cpu/cpu_backend.h"

typedef struct mica_cpu_phases {
    int count;
    /* Tasks of a phase: at least 1, the same at every call. */
    int (*tasks)(const void *user, int phase);
    /* As mica_cpu_task_fn; everything that tasks of earlier phases wrote can be seen. */
    void (*run)(void *user, int phase, int task, int thread);
    /* The memory that the task reads first; it is asked for while the phase before comes to its end. */
    const void *(*begins)(const void *user, int phase, int task, size_t *size);
    void *user;
} mica_cpu_phases;

mica_status mica_cpu_run_phases(mica_cpu_backend *be, const mica_cpu_phases *p, mica_err *err);

#endif
