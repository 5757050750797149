/* completion_cache.c - keys and values of a prompt in a file, so that it is read once for many runs.
 *
 *     ids [n] i32    keys.N, values.N [n, G, K] f32    metadata: model (hash of the weights), format
 *
 * A file of another model, another layout or with damaged contents is refused by name; it is never taken
 * for a part of itself. Written whole or not at all. */
#include "completion/completion_internal.h"

#include "base/file.h"
#include "base/mem.h"
#include "format/weights.h"

#include <stdio.h>
#include <string.h>

#define FORMAT "mica-prompt-cache-1"

static void half_name(int layer, int half, char out[32])
{
    snprintf(out, 32, "%s.%d", half == MICA_KV_KEYS ? "keys" : "values", layer);
}

/* --------------------------------------------------------------------- load -- */

static mica_status check_file(const mica_weights *w, const mica_completion_model *m,
                              const char *path, mica_err *err)
{
    const char *format = mica_weights_metadata(w, "format"),
               *hash = mica_weights_metadata(w, "model");
    if (!format || strcmp(format, FORMAT) != 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: it is no prompt cache of this version", path);
    if (!hash || strcmp(hash, m->hash) != 0)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "%s: the prompt was cached with another model (%s, this one is %s); remove "
            "the file or name another",
            path, hash ? hash : "unknown", m->hash);
    return MICA_OK;
}

static mica_status load_half(mica_kv_cache *c, const mica_weights *w, int layer, int half,
                             int64_t count, const char *path, mica_err *err)
{
    char name[32];
    half_name(layer, half, name);
    const mica_tensor *t = mica_weights_find(w, name);
    if (!t || t->dtype != MICA_DTYPE_F32 || t->ndim != 3 || t->shape_[0] != count ||
        t->shape_[1] != c->heads || t->shape_[2] != c->width)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is missing or of another shape", path, name);
    const mica_tensor rows = mica_kv_cache_rows(c, layer, (mica_kv_half)half, 0, count);
    float *aligned = mica_mem_alloc(mica_tensor_size(t));
    if (!aligned)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to read it", path);
    memcpy(aligned, t->data, mica_tensor_size(t));
    mica_upload_f32(c->be, &rows, aligned);
    mica_mem_free(aligned);
    return mica_backend_check(c->be, err);
}

static mica_status load_ids(mica_completion_model *m, const mica_weights *w, const char *path,
                            mica_err *err)
{
    const mica_tensor *ids = mica_weights_find(w, "ids");
    if (!ids || ids->dtype != MICA_DTYPE_I32 || ids->ndim != 1 || ids->shape_[0] < 1 ||
        ids->shape_[0] > m->context)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its token ids are missing or wrong", path);
    mica_mem_free(m->kept_ids);
    m->kept_ids = mica_mem_calloc((size_t)ids->shape_[0], sizeof *m->kept_ids);
    if (!m->kept_ids)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to read it", path);
    memcpy(m->kept_ids, ids->data, mica_tensor_size(ids));
    return MICA_OK;
}

static mica_status load(mica_completion_model *m, const mica_weights *w, const char *path,
                        mica_err *err)
{
    MICA_TRY(check_file(w, m, path, err));
    mica_completion_release(m);
    MICA_TRY(load_ids(m, w, path, err));
    const int64_t count = mica_weights_find(w, "ids")->shape_[0];
    MICA_TRY(m->ops->cache_init(m, &m->kept, err));
    MICA_TRY(mica_kv_cache_reserve(&m->kept, count, err));
    for (int i = 0; i < 2 * m->kept.layers; i++)
        MICA_TRY(load_half(&m->kept, w, i / 2, i % 2, count, path, err));
    m->kept.count = count;
    return MICA_OK;
}

mica_status completion_cache_load(mica_completion_model *m, const char *path, mica_err *err)
{
    mica_weights *w = NULL;
    if (!mica_path_is_file(path))
        return MICA_OK;
    MICA_TRY(mica_weights_open(&w, path, err));
    const mica_status st = load(m, w, path, err);
    mica_weights_close(&w);
    if (st)
        mica_completion_release(m);
    return st;
}

/* --------------------------------------------------------------------- save -- */

typedef struct saving {
    char (*names)[32];
    mica_tensor *tensors;
    mica_safetensors_entry *entries;
    float *data;
} saving;

static mica_status fill(const mica_completion_model *m, saving *s, size_t count, mica_err *err)
{
    const mica_kv_cache *c = &m->kept;
    const size_t half = count * (size_t)(c->heads * c->width);
    const int halves = 2 * c->layers;
    for (int i = 0; i < halves; i++) {
        const mica_tensor rows =
            mica_kv_cache_rows(c, i / 2, (mica_kv_half)(i % 2), 0, (int64_t)count);
        float *data = s->data + (size_t)i * half;
        mica_download_f32(c->be, data, &rows);
        half_name(i / 2, i % 2, s->names[i]);
        s->tensors[i] = mica_tensor_3d(data, MICA_DTYPE_F32, (int64_t)count, c->heads, c->width);
        s->entries[i] = (mica_safetensors_entry){s->names[i], &s->tensors[i]};
    }
    s->tensors[halves] = mica_tensor_1d(m->kept_ids, MICA_DTYPE_I32, (int64_t)count);
    s->entries[halves] = (mica_safetensors_entry){"ids", &s->tensors[halves]};
    return mica_backend_check(c->be, err);
}

mica_status completion_cache_save(const mica_completion_model *m, size_t count, const char *path,
                                  mica_err *err)
{
    const size_t halves = 2 * (size_t)m->kept.layers;
    const char *const metadata[] = {"format", FORMAT, "model", m->hash, NULL};
    if (!m->kept.rows || (size_t)m->kept.count < count)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to keep the prompt", path);
    const size_t row = (size_t)(m->kept.heads * m->kept.width);
    saving s = {.names = mica_mem_calloc(halves + 1, 32),
                .tensors = mica_mem_calloc(halves + 1, sizeof(mica_tensor)),
                .entries = mica_mem_calloc(halves + 1, sizeof(mica_safetensors_entry)),
                .data = mica_mem_calloc(halves * count, row * sizeof(float))};
    mica_status st = MICA_OK;
    if (!s.names || !s.tensors || !s.entries || !s.data)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to write it", path);
    if (!st)
        st = fill(m, &s, count, err);
    if (!st)
        st = mica_safetensors_write(path, s.entries, halves + 1, metadata, err);
    mica_mem_free(s.names);
    mica_mem_free(s.tensors);
    mica_mem_free(s.entries);
    mica_mem_free(s.data);
    return st;
}
