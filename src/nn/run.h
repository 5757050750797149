/* run.h - what a network pass knows about the run it is part of.
 *
 *     pipeline ──► mica_run ──► forward pass, text encoder, VAE
 *                   │ phase and block under way, seconds of each phase
 *                   │ where taps go
 *                   └ the caller's progress callback, which may say stop
 *
 * A pass calls mica_run_block once per block (per tile in the VAE): it brings up a
 * backend failure, tells the caller, and turns the caller's "stop" into MICA_E_CANCELLED.
 * It never waits for a device. */
#ifndef MICA_NN_RUN_H
#define MICA_NN_RUN_H

#include "nn/tap.h"

typedef struct mica_run {
    mica_progress_fn progress; /* may be NULL */
    void *progress_user;
    const mica_tap_sink *taps; /* may be NULL */
    mica_progress now;
    double start, phase_start;
    double seconds[MICA_PHASE_COUNT];
    bool stopped; /* the callback returned false */
} mica_run;

void mica_run_init(mica_run *run, mica_progress_fn progress, void *user, const mica_tap_sink *taps);
/* Ends the timing of the phase before and begins `phase`; MICA_PHASE_COUNT ends the run. */
void mica_run_set_phase(mica_run *run, mica_phase phase);
/* `block` of `block_count` blocks are finished. be may be NULL. */
mica_status mica_run_block(mica_run *run, mica_backend *be, int block, int block_count,
                           mica_err *err);
/* `step` of `step_count` solver steps are finished. */
mica_status mica_run_step(mica_run *run, mica_backend *be, int step, int step_count, mica_err *err);
/* One line for the user; delivered at once. */
void mica_run_notice(mica_run *run, const char *format, ...) MICA_PRINTF(2, 3);

#endif
