/* completion_cache.c - keys and values of a prompt in a file, so that it is read once for many runs.
 *
 *     ids [n] i32     metadata: format, model (hash of the weights), cache (how it keeps its numbers)
 *     f32             keys.N, values.N [n, G, K] f32
 *     q8              keys.N, values.N [n, G, K / 4] u32, and .scales, .biases [n, G, groups] f32 of each
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

static void piece_name(int layer, int half, int piece, char out[32])
{
    static const char *const suffixes[MICA_KV_PIECES] = {"", ".scales", ".biases"};
    snprintf(out, 32, "%s.%d%s", half == MICA_KV_KEYS ? "keys" : "values", layer, suffixes[piece]);
}

static const char *cache_name(bool q8)
{
    return q8 ? "q8" : "f32";
}

/* Of piece `piece` in the file. */
static mica_dtype file_dtype(const mica_kv_cache *c, int piece)
{
    return c->q8 && piece == 0 ? MICA_DTYPE_U32 : MICA_DTYPE_F32;
}

/* --------------------------------------------------------------------- load -- */

static mica_status check_file(const mica_weights *w, const mica_completion_model *m,
                              const char *path, mica_err *err)
{
    const char *format = mica_weights_metadata(w, "format"),
               *hash = mica_weights_metadata(w, "model"),
               *cache = mica_weights_metadata(w, "cache");
    if (!format || strcmp(format, FORMAT) != 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: it is no prompt cache of this version", path);
    if (!hash || strcmp(hash, m->hash) != 0)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "%s: the prompt was cached with another model (%s, this one is %s); remove "
            "the file or name another",
            path, hash ? hash : "unknown", m->hash);
    if (strcmp(cache ? cache : cache_name(false), cache_name(m->cache_q8)) != 0)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "%s: the prompt was cached with --cache-type %s; use that, remove the file "
            "or name another",
            path, cache ? cache : cache_name(false));
    return MICA_OK;
}

static mica_status load_piece(mica_kv_cache *c, const mica_weights *w, const char *name,
                              mica_dtype dtype, const mica_tensor *to, const char *path,
                              mica_err *err)
{
    const mica_tensor *t = mica_weights_find(w, name);
    if (!t || t->dtype != dtype || t->ndim != 3 || t->shape_[0] != to->shape_[0] ||
        t->shape_[1] != to->shape_[1] || t->shape_[2] != to->shape_[2])
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is missing or of another shape", path, name);
    float *aligned = mica_mem_alloc(mica_tensor_size(t));
    if (!aligned)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to read it", path);
    memcpy(aligned, t->data, mica_tensor_size(t));
    mica_upload_f32(c->be, to, aligned);
    mica_mem_free(aligned);
    return mica_backend_check(c->be, err);
}

static mica_status load_half(mica_kv_cache *c, const mica_weights *w, int layer, int half,
                             int64_t count, const char *path, mica_err *err)
{
    mica_tensor pieces[MICA_KV_PIECES];
    const int n = mica_kv_cache_pieces(c, layer, (mica_kv_half)half, count, pieces);
    for (int i = 0; i < n; i++) {
        char name[32];
        piece_name(layer, half, i, name);
        MICA_TRY(load_piece(c, w, name, file_dtype(c, i), &pieces[i], path, err));
    }
    return MICA_OK;
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
    uint8_t *data;
    size_t count; /* of the three arrays, so far */
    size_t used;  /* bytes of data */
} saving;

static void add_half(mica_kv_cache *c, saving *s, int layer, int half, size_t count)
{
    mica_tensor pieces[MICA_KV_PIECES];
    const int n = mica_kv_cache_pieces(c, layer, (mica_kv_half)half, (int64_t)count, pieces);
    for (int i = 0; i < n; i++) {
        float *data = (float *)(void *)(s->data + s->used);
        const int64_t *shape = pieces[i].shape_;
        mica_download_f32(c->be, data, &pieces[i]);
        piece_name(layer, half, i, s->names[s->count]);
        s->tensors[s->count] = mica_tensor_3d(data, file_dtype(c, i), shape[0], shape[1], shape[2]);
        s->entries[s->count] = (mica_safetensors_entry){s->names[s->count], &s->tensors[s->count]};
        s->used += mica_tensor_size(&s->tensors[s->count++]);
    }
}

static mica_status fill(mica_completion_model *m, saving *s, size_t count, mica_err *err)
{
    for (int i = 0; i < 2 * m->kept.layers; i++)
        add_half(&m->kept, s, i / 2, i % 2, count);
    s->tensors[s->count] = mica_tensor_1d(m->kept_ids, MICA_DTYPE_I32, (int64_t)count);
    s->entries[s->count] = (mica_safetensors_entry){"ids", &s->tensors[s->count]};
    s->count++;
    return mica_backend_check(m->kept.be, err);
}

mica_status completion_cache_save(mica_completion_model *m, size_t count, const char *path,
                                  mica_err *err)
{
    const size_t most = 2 * MICA_KV_PIECES * (size_t)m->kept.layers + 1;
    const char *const metadata[] = {
        "format", FORMAT, "model", m->hash, "cache", cache_name(m->cache_q8), NULL};
    if (!m->kept.rows || (size_t)m->kept.count < count)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to keep the prompt", path);
    const size_t row = (size_t)(m->kept.heads * m->kept.width);
    saving s = {.names = mica_mem_calloc(most, 32),
                .tensors = mica_mem_calloc(most, sizeof(mica_tensor)),
                .entries = mica_mem_calloc(most, sizeof(mica_safetensors_entry)),
                .data = mica_mem_calloc(2 * (size_t)m->kept.layers * count, row * sizeof(float))};
    mica_status st = MICA_OK;
    if (!s.names || !s.tensors || !s.entries || !s.data)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to write it", path);
    if (!st)
        st = fill(m, &s, count, err);
    if (!st)
        st = mica_safetensors_write(path, s.entries, s.count, metadata, err);
    mica_mem_free(s.names);
    mica_mem_free(s.tensors);
    mica_mem_free(s.entries);
    mica_mem_free(s.data);
    return st;
}
