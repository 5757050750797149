/* trace.c - keeps tapped tensors and writes them; see trace.h. A name written twice keeps the
 * later tensor, so that a file never holds two of one name. */
#include "nn/trace.h"

#include "base/mem.h"
#include "format/weights.h"

#include <string.h>

typedef struct trace_entry {
    char *name;
    mica_tensor tensor; /* data owned */
} trace_entry;

struct mica_trace {
    mica_tap_sink sink;
    trace_entry *entries;
    size_t count, cap;
    bool failed; /* a tensor was lost for lack of memory */
};

static trace_entry *find_entry(const mica_trace *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->entries[i].name, name) == 0)
            return &t->entries[i];
    return NULL;
}

static trace_entry *add_entry(mica_trace *t, const char *name)
{
    if (t->count == t->cap) {
        const size_t cap = t->cap ? 2 * t->cap : 64;
        trace_entry *grown = mica_mem_realloc(t->entries, cap * sizeof *grown);
        if (!grown)
            return NULL;
        t->entries = grown;
        t->cap = cap;
    }
    char *copy = mica_mem_strdup(name);
    if (!copy)
        return NULL;
    t->entries[t->count] = (trace_entry){.name = copy};
    return &t->entries[t->count++];
}

static void keep(void *user, const char *name, const mica_tensor *host)
{
    mica_trace *t = user;
    const size_t size = mica_tensor_size(host);
    trace_entry *e = find_entry(t, name);
    void *data = mica_mem_alloc(size);
    if (data && !e)
        e = add_entry(t, name);
    if (!data || !e) {
        mica_mem_free(data);
        t->failed = true;
        return;
    }
    memcpy(data, host->data, size);
    mica_mem_free(e->tensor.data);
    e->tensor = mica_tensor_make(data, host->dtype, host->ndim, host->shape_);
}

mica_status mica_trace_open(mica_trace **out, mica_err *err)
{
    mica_trace *t = mica_mem_calloc(1, sizeof *t);
    *out = t;
    if (!t)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a trace");
    t->sink = (mica_tap_sink){.write = keep, .user = t};
    return MICA_OK;
}

void mica_trace_close(mica_trace **trace)
{
    mica_trace *t = trace ? *trace : NULL;
    if (!t)
        return;
    for (size_t i = 0; i < t->count; i++) {
        mica_mem_free(t->entries[i].name);
        mica_mem_free(t->entries[i].tensor.data);
    }
    mica_mem_free(t->entries);
    mica_mem_free(t);
    *trace = NULL;
}

const mica_tap_sink *mica_trace_sink(mica_trace *trace)
{
    return &trace->sink;
}

size_t mica_trace_count(const mica_trace *trace)
{
    return trace->count;
}

const mica_tensor *mica_trace_find(const mica_trace *trace, const char *name)
{
    const trace_entry *e = find_entry(trace, name);
    return e ? &e->tensor : NULL;
}

mica_status mica_trace_write(const mica_trace *t, const char *path, mica_err *err)
{
    static const char *const METADATA[] = {"format", "pt", "producer", "mica", NULL};
    if (t->failed)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to keep every traced tensor", path);
    mica_safetensors_entry *list = mica_mem_calloc(t->count + 1, sizeof *list);
    if (!list)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to write %zu tensors", path, t->count);
    for (size_t i = 0; i < t->count; i++)
        list[i] = (mica_safetensors_entry){t->entries[i].name, &t->entries[i].tensor};
    const mica_status st = mica_safetensors_write(path, list, t->count, METADATA, err);
    mica_mem_free(list);
    return st;
}
