/* weights.c - the directory: tensors by position and by name.
 *
 *     shard 0  |a|b|  c  |          list    a  b  c  d  e     (file order)
 *     shard 1  |  d  | e |   ──►    sorted  a  c  e  b  d     (by name, for find)
 *
 * Lookups are a binary search: no hash to attack with chosen names, and a walk in name order
 * comes for free. Tensors point into the mappings; only those that lie misaligned for their
 * element type are copied, within a budget. Opening by path is weights_open.c, scales are
 * weights_scale.c, cutting fused tensors is weights_split.c; what the names mean is the models'
 * business. */
#include "format/weights.h"

#include "base/mem.h"
#include "format/onnx.h"
#include "format/safetensors.h"
#include "format/weights_internal.h"
#include "format/zip_directory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_CHUNK    (256 * 1024)
#define MAX_COPY       ((size_t)64 << 20)   /* one misaligned tensor */
#define MAX_COPY_TOTAL ((size_t)1024 << 20) /* all of them */

static mica_status no_memory(const mica_weights *w, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", w->path);
}

/* Room for one more element of `size` bytes in *array. */
static bool grow(void **array, size_t count, size_t *cap, size_t size)
{
    if (count < *cap)
        return true;
    const size_t bigger = *cap == 0 ? 16 : *cap * 2;
    void *p = mica_mem_realloc(*array, bigger * size);
    if (p == NULL)
        return false;
    *array = p;
    *cap = bigger;
    return true;
}

/* ---- lifetime ---- */

mica_status mica_weights_new(mica_weights **out, const char *path, mica_err *err)
{
    mica_weights *w = mica_mem_calloc(1, sizeof *w);
    char *copy = mica_mem_strdup(path);
    *out = w;
    if (w == NULL || copy == NULL) {
        mica_mem_free(copy);
        mica_mem_free(w);
        *out = NULL;
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", path);
    }
    w->path = copy;
    mica_arena_init(&w->arena, ARENA_CHUNK);
    return MICA_OK;
}

mica_status mica_weights_open_empty(mica_weights **out, mica_err *err)
{
    return mica_weights_new(out, "(no file)", err);
}

mica_status mica_weights_open_view(mica_weights **out, const mica_weights *of, mica_err *err)
{
    return mica_weights_new(out, mica_weights_path(of), err);
}

static void close_file(mica_weights_file *f)
{
    if (f->is_mapped)
        mica_file_map_close(&f->map);
    else
        mica_mem_free(f->map.path);
}

void mica_weights_close(mica_weights **weights)
{
    mica_weights *w = *weights;
    *weights = NULL;
    if (w == NULL)
        return;
    for (size_t i = 0; i < w->file_count; i++)
        close_file(&w->files[i]);
    for (size_t i = 0; i < w->copy_count; i++)
        mica_mem_free(w->copies[i]);
    mica_mem_free(w->files);
    mica_mem_free(w->copies);
    mica_mem_free(w->list);
    mica_mem_free(w->sorted);
    mica_arena_deinit(&w->arena);
    mica_mem_free(w->path);
    mica_mem_free(w);
}

/* ---- filling ---- */

bool mica_weights_reserve(mica_weights *w, size_t more)
{
    const size_t need = w->count + more;
    if (need <= w->cap)
        return true;
    const size_t cap = MICA_MAX(need, w->cap * 2);
    mica_weights_entry **list = mica_mem_realloc(w->list, cap * sizeof *list);
    if (list != NULL)
        w->list = list;
    mica_weights_entry **sorted = mica_mem_realloc(w->sorted, cap * sizeof *sorted);
    if (sorted != NULL)
        w->sorted = sorted;
    if (list == NULL || sorted == NULL)
        return false;
    w->cap = cap;
    return true;
}

mica_status mica_weights_new_copy(mica_weights *w, const char *path, const char *name, size_t size,
                                  void **data, mica_err *err)
{
    if (size > MAX_COPY || size > MAX_COPY_TOTAL - w->copy_bytes)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: tensor %s (%zu bytes) is misaligned or not contiguous and too large "
                         "to copy; save the file again with current libraries",
                         path, name, size);
    void *grown = w->copies;
    if (!grow(&grown, w->copy_count, &w->copy_cap, sizeof *w->copies))
        return no_memory(w, err);
    w->copies = grown;
    void *copy = mica_mem_alloc_aligned(size, 64);
    if (copy == NULL)
        return no_memory(w, err);
    w->copies[w->copy_count++] = copy;
    w->copy_bytes += size;
    *data = copy;
    return MICA_OK;
}

/* Backends may read any element with an aligned load. Files written before the format asked
 * for alignment break that; such a tensor moves to memory of its own. */
static mica_status copy_misaligned(mica_weights *w, const char *path, const char *name,
                                   const uint8_t *from, size_t size, void **data, mica_err *err)
{
    MICA_TRY(mica_weights_new_copy(w, path, name, size, data, err));
    memcpy(*data, from, size);
    return MICA_OK;
}

static mica_status take_item(mica_weights *w, size_t file, const mica_safetensors_item *item,
                             mica_err *err)
{
    const mica_file_map *map = &w->files[file].map;
    const uint8_t *p = map->data + item->begin;
    const size_t size = (size_t)(item->end - item->begin);
    /* Blocks are read byte by byte. */
    const size_t unit =
        mica_dtype_is_packed(item->dtype) ? 1 : (size_t)mica_dtype_get(item->dtype)->size;
    void *data = (void *)(uintptr_t)p; /* tensors are not const, weights are never written */
    mica_weights_entry *e = mica_arena_calloc(&w->arena, 1, sizeof *e);
    if (e == NULL)
        return no_memory(w, err);
    if ((uintptr_t)p % unit != 0 && size > 0)
        MICA_TRY(copy_misaligned(w, map->path, item->name, p, size, &data, err));
    e->tensor = mica_tensor_make(data, item->dtype, item->ndim, item->shape_);
    e->name = e->source = item->name;
    e->file = file;
    w->list[w->count++] = e;
    return MICA_OK;
}

static mica_status take_items(mica_weights *w, size_t file, const mica_safetensors_item *items,
                              size_t count, mica_err *err)
{
    if (!mica_weights_reserve(w, count))
        return no_memory(w, err);
    for (size_t i = 0; i < count; i++)
        MICA_TRY(take_item(w, file, &items[i], err));
    return MICA_OK;
}

static mica_status take_gguf(mica_weights *w, size_t file, mica_err *err)
{
    mica_weights_file *f = &w->files[file];
    mica_gguf g;
    MICA_TRY(mica_gguf_parse(&g, f->map.path, f->map.data, f->map.size, &w->arena, err));
    f->values = g.values;
    f->value_count = g.value_count;
    f->metadata = mica_arena_calloc(&w->arena, 2 * g.value_count + 1, sizeof *f->metadata);
    if (!f->metadata)
        return no_memory(w, err);
    for (size_t i = 0; i < g.value_count; i++) {
        if (g.values[i].type != MICA_META_STRING)
            continue;
        f->metadata[2 * f->metadata_count] = g.values[i].key;
        f->metadata[2 * f->metadata_count++ + 1] = g.values[i].text;
    }
    return take_items(w, file, g.items, g.count, err);
}

/* The tensors of files[file], whose mapping is in place. */
static mica_status take_image(mica_weights *w, size_t file, mica_err *err)
{
    mica_weights_file *f = &w->files[file];
    mica_safetensors s;
    if (mica_gguf_is_image(f->map.data, f->map.size))
        return take_gguf(w, file, err);
    if (mica_zip_probe(f->map.data, f->map.size))
        return mica_weights_take_torch(w, file, err);
    if (mica_onnx_is_image(f->map.data, f->map.size))
        return mica_weights_take_onnx(w, file, err);
    MICA_TRY(mica_safetensors_parse(&s, f->map.path, f->map.data, f->map.size, &w->arena, err));
    f->metadata = s.metadata;
    f->metadata_count = s.metadata_count;
    return take_items(w, file, s.items, s.count, err);
}

static mica_status new_file(mica_weights *w, mica_weights_file **out, mica_err *err)
{
    void *grown = w->files;
    if (!grow(&grown, w->file_count, &w->file_cap, sizeof *w->files))
        return no_memory(w, err);
    w->files = grown;
    *out = &w->files[w->file_count];
    memset(*out, 0, sizeof **out);
    return MICA_OK;
}

mica_status mica_weights_take_file(mica_weights *w, const char *path, mica_err *err)
{
    mica_weights_file *f = NULL;
    MICA_TRY(new_file(w, &f, err));
    MICA_TRY(mica_file_map_open(&f->map, path, err));
    f->is_mapped = true;
    return take_image(w, w->file_count++, err);
}

static mica_status take_memory(mica_weights *w, const void *data, size_t size, mica_err *err)
{
    mica_weights_file *f = NULL;
    MICA_TRY(new_file(w, &f, err));
    f->map = (mica_file_map){.data = data, .size = size, .path = mica_mem_strdup(w->path)};
    if (f->map.path == NULL)
        return no_memory(w, err);
    return take_image(w, w->file_count++, err);
}

mica_status mica_weights_open_memory(mica_weights **out, const char *name, const void *data,
                                     size_t size, mica_err *err)
{
    *out = NULL;
    MICA_TRY(mica_weights_new(out, name, err));
    mica_status st = take_memory(*out, data, size, err);
    if (st == MICA_OK)
        st = mica_weights_index(*out, err);
    if (st == MICA_OK)
        st = mica_weights_attach_scales(*out, err);
    if (st != MICA_OK)
        mica_weights_close(out);
    return st;
}

/* ---- order by name ---- */

static int compare_entries(const void *a, const void *b)
{
    const mica_weights_entry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

const char *mica_weights_file_path(const mica_weights *w, const mica_weights_entry *e)
{
    return e->file == MICA_WEIGHTS_NO_FILE ? w->path : w->files[e->file].map.path;
}

mica_status mica_weights_index(mica_weights *w, mica_err *err)
{
    if (w->count == 0)
        return MICA_OK;
    memcpy(w->sorted, w->list, w->count * sizeof *w->list);
    qsort(w->sorted, w->count, sizeof *w->sorted, compare_entries);
    for (size_t i = 1; i < w->count; i++) {
        const mica_weights_entry *a = w->sorted[i - 1], *b = w->sorted[i];
        if (strcmp(a->name, b->name) == 0)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "tensor %s is in both %s and %s; give one of the files as the path",
                             a->name, mica_weights_file_path(w, a), mica_weights_file_path(w, b));
    }
    return MICA_OK;
}

size_t mica_weights_lower_bound(const mica_weights *w, const char *name)
{
    size_t lo = 0, hi = w->count;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (strcmp(w->sorted[mid]->name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

mica_weights_entry *mica_weights_find_entry(const mica_weights *w, const char *name)
{
    const size_t i = mica_weights_lower_bound(w, name);
    return i < w->count && strcmp(w->sorted[i]->name, name) == 0 ? w->sorted[i] : NULL;
}

static size_t keep_visible(mica_weights_entry **entries, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!entries[i]->is_hidden)
            entries[kept++] = entries[i];
    return kept;
}

void mica_weights_drop_hidden(mica_weights *w)
{
    keep_visible(w->sorted, w->count);
    w->count = keep_visible(w->list, w->count);
}

mica_status mica_weights_add(mica_weights *w, const char *name, const mica_tensor *t, mica_err *err)
{
    if (!mica_tensor_name_is_valid(name))
        return MICA_FAIL(err, MICA_E_USAGE, "a tensor name of %zu bytes is not valid",
                         strlen(name));
    if (!mica_tensor_is_contiguous(t))
        return MICA_FAIL(err, MICA_E_USAGE, "tensor %s is not contiguous", name);
    const size_t at = mica_weights_lower_bound(w, name);
    if (at < w->count && strcmp(w->sorted[at]->name, name) == 0)
        return MICA_FAIL(err, MICA_E_USAGE, "tensor %s is there already", name);
    mica_weights_entry *e = mica_arena_calloc(&w->arena, 1, sizeof *e);
    const char *copy = mica_arena_strndup(&w->arena, name, strlen(name));
    if (e == NULL || copy == NULL || !mica_weights_reserve(w, 1))
        return no_memory(w, err);
    *e = (mica_weights_entry){
        .tensor = *t, .name = copy, .source = copy, .file = MICA_WEIGHTS_NO_FILE};
    memmove(&w->sorted[at + 1], &w->sorted[at], (w->count - at) * sizeof *w->sorted);
    w->sorted[at] = e;
    w->list[w->count++] = e;
    return MICA_OK;
}

/* ---- renaming ---- */

static mica_status map_name(mica_weights *w, mica_weights_entry *e, mica_name_map_fn map,
                            void *user, mica_err *err)
{
    char text[MICA_TENSOR_NAME_MAX + 1] = "";
    if (!map(user, e->name, text, sizeof text))
        return MICA_OK;
    text[sizeof text - 1] = '\0';
    if (!mica_tensor_name_is_valid(text))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s would get an invalid name",
                         mica_weights_file_path(w, e), e->name);
    const char *name = mica_arena_strndup(&w->arena, text, strlen(text));
    if (name == NULL)
        return no_memory(w, err);
    e->name = name;
    return MICA_OK;
}

/* Two entries of one name after renaming: says where each came from. */
static mica_status check_collisions(const mica_weights *w, mica_err *err)
{
    for (size_t i = 1; i < w->count; i++) {
        const mica_weights_entry *a = w->sorted[i - 1], *b = w->sorted[i];
        if (strcmp(a->name, b->name) == 0)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensors %s and %s are both %s to this model",
                             w->path, a->source, b->source, a->name);
    }
    return MICA_OK;
}

static mica_status rename_all(mica_weights *w, mica_name_map_fn map, void *user, mica_err *err)
{
    for (size_t i = 0; i < w->count; i++)
        MICA_TRY(map_name(w, w->list[i], map, user, err));
    qsort(w->sorted, w->count, sizeof *w->sorted, compare_entries);
    return check_collisions(w, err);
}

mica_status mica_weights_rename(mica_weights *w, mica_name_map_fn map, void *user, mica_err *err)
{
    if (w->count == 0)
        return MICA_OK;
    const char **before = mica_mem_calloc(w->count, sizeof *before);
    if (before == NULL)
        return no_memory(w, err);
    for (size_t i = 0; i < w->count; i++)
        before[i] = w->list[i]->name;
    const mica_status st = rename_all(w, map, user, err);
    if (st != MICA_OK) { /* all or nothing */
        for (size_t i = 0; i < w->count; i++)
            w->list[i]->name = before[i];
        qsort(w->sorted, w->count, sizeof *w->sorted, compare_entries);
    }
    mica_mem_free(before);
    return st;
}

/* ---- reading ---- */

size_t mica_weights_count(const mica_weights *w)
{
    return w->count;
}

const char *mica_weights_name(const mica_weights *w, size_t i)
{
    return w->list[i]->name;
}

const mica_tensor *mica_weights_tensor(const mica_weights *w, size_t i)
{
    return &w->list[i]->tensor;
}

const mica_tensor *mica_weights_find(const mica_weights *w, const char *name)
{
    const mica_weights_entry *e = mica_weights_find_entry(w, name);
    return e == NULL ? NULL : &e->tensor;
}

const char *mica_weights_metadata(const mica_weights *w, const char *key)
{
    if (w->file_count == 0)
        return NULL;
    const mica_weights_file *f = &w->files[0];
    for (size_t i = 0; i < f->metadata_count; i++)
        if (strcmp(f->metadata[2 * i], key) == 0)
            return f->metadata[2 * i + 1];
    return NULL;
}

const mica_meta *mica_weights_meta(const mica_weights *w, const char *key)
{
    if (w->file_count == 0 || !w->files[0].values)
        return NULL;
    return mica_gguf_find(w->files[0].values, w->files[0].value_count, key);
}

const mica_meta *mica_weights_meta_at(const mica_weights *w, size_t i)
{
    return w->file_count > 0 && i < w->files[0].value_count ? &w->files[0].values[i] : NULL;
}

int64_t mica_weights_meta_int(const mica_weights *w, const char *key, int64_t absent)
{
    const mica_meta *m = mica_weights_meta(w, key);
    return m && m->type == MICA_META_INT ? m->integer : absent;
}

double mica_weights_meta_number(const mica_weights *w, const char *key, double absent)
{
    const mica_meta *m = mica_weights_meta(w, key);
    return m && (m->type == MICA_META_INT || m->type == MICA_META_FLOAT) ? m->number : absent;
}

uint64_t mica_weights_bytes(const mica_weights *w)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < w->count; i++)
        sum += mica_tensor_size(&w->list[i]->tensor) + mica_tensor_scale_size(&w->list[i]->tensor);
    return sum;
}

uint64_t mica_weights_parameters(const mica_weights *w)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < w->count; i++)
        sum += (uint64_t)mica_tensor_count(&w->list[i]->tensor);
    return sum;
}

const char *mica_weights_path(const mica_weights *w)
{
    return w->path;
}

/* ---- page cache ---- */

/* The mapped file that holds the tensor's data, or NULL; few shards, so a plain walk. */
static const mica_file_map *find_map(const mica_weights *w, const mica_tensor *t, size_t *offset)
{
    const uintptr_t p = (uintptr_t)t->data;
    for (size_t i = 0; i < w->file_count; i++) {
        const mica_weights_file *f = &w->files[i];
        const uintptr_t base = (uintptr_t)f->map.data;
        if (!f->is_mapped || p < base || p - base >= f->map.size)
            continue;
        *offset = p - base;
        return &f->map;
    }
    return NULL;
}

void mica_weights_dontneed(const mica_weights *w, const mica_tensor *t)
{
    size_t offset;
    const mica_file_map *map = find_map(w, t, &offset);
    if (map != NULL)
        mica_file_map_dontneed(map, offset, MICA_MIN(mica_tensor_size(t), map->size - offset));
}

bool mica_weights_is_mapped(const mica_weights *w, const mica_tensor *t)
{
    size_t offset;
    return find_map(w, t, &offset) != NULL;
}
