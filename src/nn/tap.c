/* tap.c - copies named tensors of a running model to a sink; see tap.h. */
#include "nn/tap.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>

/* False when nobody wants the tensor; `name` then holds nothing of use. */
static bool is_wanted(const mica_tap_sink *sink, char *name, size_t size, const char *format,
                      va_list args) MICA_PRINTF(4, 0);
static bool is_wanted(const mica_tap_sink *sink, char *name, size_t size, const char *format,
                      va_list args)
{
    vsnprintf(name, size, format, args);
    return !sink->wants || sink->wants(sink->user, name);
}

void mica_tap(const mica_tap_sink *sink, mica_backend *be, const mica_tensor *t, int ndim,
              const int64_t *shape, const char *name_format, ...)
{
    if (!sink || mica_backend_failed(be))
        return;
    char name[192];
    va_list args;
    va_start(args, name_format);
    const bool wanted = is_wanted(sink, name, sizeof name, name_format, args);
    va_end(args);
    if (!wanted)
        return;
    const int64_t count = mica_tensor_count(t);
    float *copy = mica_mem_calloc((size_t)count, sizeof *copy);
    if (!copy) {
        mica_backend_fail(be, MICA_E_NOMEM, "no memory to copy %s for the trace", name);
        return;
    }
    mica_download_f32(be, copy, t);
    const mica_tensor host = ndim > 0 ? mica_tensor_make(copy, MICA_DTYPE_F32, ndim, shape)
                                      : mica_tensor_make(copy, MICA_DTYPE_F32, t->ndim, t->shape_);
    if (!mica_backend_failed(be))
        sink->write(sink->user, name, &host);
    mica_mem_free(copy);
}

void mica_tap_host(const mica_tap_sink *sink, const mica_tensor *t, const char *name_format, ...)
{
    if (!sink)
        return;
    char name[192];
    va_list args;
    va_start(args, name_format);
    const bool wanted = is_wanted(sink, name, sizeof name, name_format, args);
    va_end(args);
    if (wanted)
        sink->write(sink->user, name, t);
}

bool mica_tap_wants(const mica_tap_sink *sink, const char *name_format, ...)
{
    if (!sink)
        return false;
    char name[192];
    va_list args;
    va_start(args, name_format);
    const bool wanted = is_wanted(sink, name, sizeof name, name_format, args);
    va_end(args);
    return wanted;
}
