/* trace.h - a tap sink that keeps what it is given and writes it as one safetensors file.
 *
 * Every tensor is copied to the heap as it comes; a run that reached its end writes the file. */
#ifndef MICA_NN_TRACE_H
#define MICA_NN_TRACE_H

#include "nn/tap.h"

typedef struct mica_trace mica_trace;

mica_status mica_trace_open(mica_trace **out, mica_err *err);
void mica_trace_close(mica_trace **trace);
const mica_tap_sink *mica_trace_sink(mica_trace *trace); /* lives as long as the trace */

size_t mica_trace_count(const mica_trace *trace);
/* The tensor of that name, NULL when it was not written. Host memory. */
const mica_tensor *mica_trace_find(const mica_trace *trace, const char *name);
/* MICA_E_NOMEM when a tensor could not be kept. Atomic. */
mica_status mica_trace_write(const mica_trace *trace, const char *path, mica_err *err);

#endif
