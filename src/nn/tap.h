/* tap.h - named looks into a running model, for --trace and the golden tests.
 *
 * Models call mica_tap at the places golden vectors name. Without a sink the call is one
 * comparison. The sink copies what it is given. */
#ifndef MICA_NN_TAP_H
#define MICA_NN_TAP_H

#include "backend/backend.h"

typedef struct mica_tap_sink {
    void (*write)(void *user, const char *name,
                  const mica_tensor *host); /* host memory, contiguous */
    bool (*wants)(void *user, const char *name);
    void *user;
} mica_tap_sink;

/* Copies `t` (any backend tensor; downloads as f32) to the sink under printf-style `name`, in
 * the shape given (ndim 0: t's own). Does nothing when sink is NULL. */
void mica_tap(const mica_tap_sink *sink, mica_backend *be, const mica_tensor *t, int ndim,
              const int64_t *shape, const char *name_format, ...) MICA_PRINTF(6, 7);
/* The same for host data of any dtype. */
void mica_tap_host(const mica_tap_sink *sink, const mica_tensor *t, const char *name_format, ...)
    MICA_PRINTF(3, 4);
/* True when a sink is there and would take this name: then a model may run an unfused path
 * whose intermediate result the name stands for. */
bool mica_tap_wants(const mica_tap_sink *sink, const char *name_format, ...) MICA_PRINTF(2, 3);

#endif
