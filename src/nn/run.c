/* run.c - progress, cancellation and phase timing of one run; see run.h. */
#include "nn/run.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>

void mica_run_init(mica_run *run, mica_progress_fn progress, void *user, const mica_tap_sink *taps)
{
    *run = (mica_run){.progress = progress, .progress_user = user, .taps = taps};
    run->start = run->phase_start = mica_clock_seconds();
}

static void tell(mica_run *run)
{
    if (!run->progress || run->stopped)
        return;
    run->now.seconds = mica_clock_seconds() - run->start;
    run->stopped = !run->progress(run->progress_user, &run->now);
}

void mica_run_set_phase(mica_run *run, mica_phase phase)
{
    const double t = mica_clock_seconds();
    if (run->now.phase < MICA_PHASE_COUNT)
        run->seconds[run->now.phase] += t - run->phase_start;
    run->phase_start = t;
    run->now = (mica_progress){.phase = phase};
}

static mica_status check(mica_run *run, mica_backend *be, mica_err *err)
{
    if (be)
        MICA_TRY(mica_backend_check(be, err));
    tell(run);
    if (run->stopped)
        return MICA_FAIL(err, MICA_E_CANCELLED, "stopped on request");
    return MICA_OK;
}

mica_status mica_run_block(mica_run *run, mica_backend *be, int block, int block_count,
                           mica_err *err)
{
    run->now.block = block;
    run->now.block_count = block_count;
    return check(run, be, err);
}

mica_status mica_run_step(mica_run *run, mica_backend *be, int step, int step_count, mica_err *err)
{
    run->now.step = step;
    run->now.step_count = step_count;
    run->now.block = 0;
    return check(run, be, err);
}

void mica_run_notice(mica_run *run, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    run->now.notice = line;
    tell(run);
    run->now.notice = NULL;
}
