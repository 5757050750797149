/* backend_calls.h - how backend.c and backend_memory.c call a slot of an implementation.
 *
 *     if (mica_backend_begin(be))                 counted
 *         keep(be, be->ops->linear(be, ...));     its failure is kept, its time noted */
#ifndef MICA_BACKEND_BACKEND_CALLS_H
#define MICA_BACKEND_BACKEND_CALLS_H

#include "backend/backend_ops.h"

/* Start of every operation: false once something failed. Unsettled: of one that settles the one before itself
 * (ops->settle). */
bool mica_backend_begin(mica_backend *be);
bool mica_backend_begin_unsettled(mica_backend *be);
/* An implementation returned `status` with its text in be->error: a status without text would
 * be lost by mica_backend_check. */
void mica_backend_keep_status(mica_backend *be, mica_status status);
/* "linear 256 x 3072 x 9216" from "be->ops->linear(be, ...)" and sizes into the profile. */
void mica_backend_note_call(mica_backend *be, const char *call, int count, const int64_t *sizes);

/* Keeps what a slot returned; keep_sized: with sizes that tell calls of one operation apart in a profile. */
#define keep(be, call) keep_sized(be, call, 0, (const int64_t[]){0})
#define keep_sized(be, call, n, s)                                                                 \
    do {                                                                                           \
        mica_backend_keep_status(be, call);                                                        \
        if ((be)->profile)                                                                         \
            mica_backend_note_call(be, #call, n, s);                                               \
    } while (0)

#endif
