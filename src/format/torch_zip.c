/* torch_zip.c - from a zip archive with a pickle to checked tensors; see torch_zip.h.
 *
 *     directory ──► data.pkl ──► tree ──► dict of tensors ──► each against its entry
 *
 * Reference: torch/serialization.py _save and _load. */
#include "format/torch_zip.h"

#include "base/checked.h"
#include "base/names.h"
#include "format/safetensors.h"
#include "format/zip_directory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PICKLE_NAME "data.pkl"
#define KEY_MAX     64

typedef struct reader {
    mica_torch_zip *out;
    const char *path;
    const uint8_t *data;
    mica_zip_directory zip;
    const char *prefix; /* "archive/" */
    mica_arena *arena;
    mica_err *err;
} reader;

static mica_status no_memory(const reader *r)
{
    return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", r->path);
}

static const mica_zip_entry *find_pickle(reader *r)
{
    for (size_t i = 0; i < r->zip.count; i++) {
        const mica_zip_entry *e = &r->zip.entries[i];
        const size_t n = strlen(e->name) - MICA_MIN(strlen(e->name), strlen(PICKLE_NAME));
        if (!mica_name_ends(e->name, PICKLE_NAME) || (n > 0 && e->name[n - 1] != '/'))
            continue;
        r->prefix = mica_arena_strndup(r->arena, e->name, n);
        return r->prefix ? e : NULL;
    }
    return NULL;
}

/* The entry `name` of the checkpoint's folder; NULL: none. */
static const mica_zip_entry *find_entry(const reader *r, const char *name)
{
    char text[512];
    const int n = snprintf(text, sizeof text, "%s%s", r->prefix, name);
    return n > 0 && (size_t)n < sizeof text ? mica_zip_find(&r->zip, text) : NULL;
}

static mica_status check_stored(const reader *r, const mica_zip_entry *e)
{
    if (e->method != 0)
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                         "%s: its entry %s is compressed, which torch never does; pack it again "
                         "without compression",
                         r->path, mica_printable_text(e->name));
    return MICA_OK;
}

static mica_status check_byte_order(const reader *r)
{
    const mica_zip_entry *e = find_entry(r, "byteorder");
    if (e && e->method == 0 && e->end - e->begin == 3 && memcmp(r->data + e->begin, "big", 3) == 0)
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                         "%s: its numbers are big-endian, which is not read here", r->path);
    return MICA_OK;
}

/* ---- tensors ---- */

/* One past the last element that the strides reach, counted from the storage's start; false when
 * it cannot be counted. */
static bool last_element(const mica_pickle_tensor *t, size_t *end)
{
    *end = (size_t)t->offset;
    for (int i = 0; i < t->ndim; i++) {
        size_t step = 0;
        if (t->shape_[i] == 0)
            return true; /* no elements */
        if (!mica_mul_size((size_t)(t->shape_[i] - 1), (size_t)t->stride_[i], &step) ||
            !mica_add_size(*end, step, end))
            return false;
    }
    return mica_add_size(*end, 1, end);
}

static bool has_countable_size(const mica_pickle_tensor *t)
{
    size_t size = (size_t)mica_dtype_get(t->dtype)->size;
    for (int i = 0; i < t->ndim; i++)
        if (!mica_mul_size(size, (size_t)t->shape_[i], &size) || size > INT64_MAX)
            return false;
    return true;
}

static mica_status read_tensor(const reader *r, const mica_pickle_tensor *t, mica_torch_item *item)
{
    char name[KEY_MAX + 8];
    const size_t unit = (size_t)mica_dtype_get(t->dtype)->size;
    size_t bytes = 0, end = 0;
    if (strlen(t->key) > KEY_MAX)
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: tensor %s names an entry with a long name",
                         r->path, item->name);
    snprintf(name, sizeof name, "data/%s", t->key);
    const mica_zip_entry *e = find_entry(r, name);
    if (!e)
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: the data of tensor %s is not in the archive",
                         r->path, item->name);
    MICA_TRY(check_stored(r, e));
    if (!mica_mul_size((size_t)t->storage_count, unit, &bytes) || bytes > e->end - e->begin)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: tensor %s needs %lld elements, its entry has %llu bytes", r->path,
                         item->name, (long long)t->storage_count,
                         (unsigned long long)(e->end - e->begin));
    if (!has_countable_size(t) || !last_element(t, &end) || end > (size_t)t->storage_count)
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: tensor %s reaches outside its storage",
                         r->path, item->name);
    item->dtype = t->dtype;
    item->ndim = t->ndim;
    memcpy(item->shape_, t->shape_, sizeof item->shape_);
    memcpy(item->stride_, t->stride_, sizeof item->stride_);
    item->begin = e->begin + (uint64_t)t->offset * unit;
    return MICA_OK;
}

static const char *what_is(const mica_pickle_value *v)
{
    static const char *const KINDS[] = {"nothing", "a truth value", "a number", "a number",
                                        "a text",  "a list",        "a dict",   "a class",
                                        "",        "a storage",     "a tensor"};
    return KINDS[v->kind];
}

/* Numbers and texts beside tensors are passed over where the tensors have no dict of their own. */
static mica_status check_other(const reader *r, const char *name, const mica_pickle_value *v,
                               bool bare)
{
    if (v->kind == MICA_PICKLE_OBJECT || v->kind == MICA_PICKLE_NAME)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: %s is an object of %s where a tensor belongs; only tensors are read",
                         r->path, name, v->as.text.data);
    if (!bare)
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: %s is %s where a tensor belongs", r->path,
                         name, what_is(v));
    return MICA_OK;
}

static mica_status read_dict(reader *r, const mica_pickle_value *dict, bool bare)
{
    const size_t pairs = dict->as.list.count / 2;
    r->out->items = mica_arena_calloc(r->arena, pairs + 1, sizeof *r->out->items);
    if (!r->out->items)
        return no_memory(r);
    for (size_t i = 0; i < pairs; i++) {
        const mica_pickle_value *key = dict->as.list.items[2 * i];
        const mica_pickle_value *v = dict->as.list.items[2 * i + 1];
        if (key->kind != MICA_PICKLE_TEXT || strlen(key->as.text.data) != key->as.text.size ||
            !mica_tensor_name_is_valid(key->as.text.data))
            return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: a tensor has no usable name", r->path);
        if (v->kind != MICA_PICKLE_TENSOR) {
            MICA_TRY(check_other(r, key->as.text.data, v, bare));
            continue;
        }
        mica_torch_item *item = &r->out->items[r->out->count];
        item->name = key->as.text.data;
        MICA_TRY(read_tensor(r, v->as.tensor, item));
        r->out->count++;
    }
    return MICA_OK;
}

static int compare_names(const void *a, const void *b)
{
    const mica_torch_item *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static mica_status check_names(const reader *r)
{
    const mica_torch_zip *z = r->out;
    const mica_torch_item **sorted = mica_arena_calloc(r->arena, z->count + 1, sizeof *sorted);
    if (!sorted)
        return no_memory(r);
    for (size_t i = 0; i < z->count; i++)
        sorted[i] = &z->items[i];
    qsort(sorted, z->count, sizeof *sorted, compare_names);
    for (size_t i = 1; i < z->count; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: tensor %s is listed twice", r->path,
                             sorted[i]->name);
    return MICA_OK;
}

static mica_status read_root(reader *r, const mica_pickle_value *root)
{
    static const char *const HOLDERS[] = {"weight", "state_dict", "generator",
                                          "model"}; /* the last: what training keeps */
    if (root->kind != MICA_PICKLE_DICT)
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: it holds %s, not a dict of tensors", r->path,
                         root->kind == MICA_PICKLE_OBJECT ? root->as.text.data : what_is(root));
    const mica_pickle_value *dict = NULL;
    for (size_t i = 0; i < MICA_ARRAY_LEN(HOLDERS) && !dict; i++) {
        const mica_pickle_value *v = mica_pickle_get(root, HOLDERS[i]);
        dict = v && v->kind == MICA_PICKLE_DICT ? v : NULL;
    }
    MICA_TRY(read_dict(r, dict ? dict : root, !dict));
    return check_names(r);
}

mica_status mica_torch_zip_parse(mica_torch_zip *z, const char *path, const uint8_t *data,
                                 size_t size, mica_arena *arena, mica_err *err)
{
    reader r = {.out = z, .path = path, .data = data, .arena = arena, .err = err};
    mica_pickle_value *root = NULL;
    *z = (mica_torch_zip){0};
    MICA_TRY(mica_zip_directory_read(&r.zip, path, data, size, arena, err));
    const mica_zip_entry *e = find_pickle(&r);
    if (!e)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s is a zip archive without a torch checkpoint inside", path);
    MICA_TRY(check_stored(&r, e));
    MICA_TRY(check_byte_order(&r));
    MICA_TRY(
        mica_pickle_parse(&root, path, data + e->begin, (size_t)(e->end - e->begin), arena, err));
    memcpy(z->header, data, 2);
    z->root = root;
    const mica_status st = read_root(&r, root);
    if (st != MICA_OK)
        *z = (mica_torch_zip){0};
    return st;
}
