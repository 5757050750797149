/* weights_torch.c - torch checkpoints in the directory.
 *
 *     item of torch_zip.c ──contiguous, aligned──► a view into the mapping
 *                          ──else────────────────► a copy in row-major order, within a budget */
#include "format/torch_zip.h"
#include "format/weights_internal.h"

#include <string.h>

/* Strides of the dimensions that have more than one index are those of a packed tensor. */
static bool is_packed(const mica_torch_item *item)
{
    int64_t step = 1;
    for (int i = item->ndim - 1; i >= 0; i--) {
        if (item->shape_[i] > 1 && item->stride_[i] != step)
            return false;
        step *= item->shape_[i];
    }
    return true;
}

/* Element by element in row-major order: such tensors are rare and small. */
static void gather(const mica_torch_item *item, const uint8_t *from, size_t unit, uint8_t *to)
{
    int64_t index[MICA_MAX_DIMS] = {0}, count = 1;
    for (int i = 0; i < item->ndim; i++)
        count *= item->shape_[i];
    for (int64_t n = 0; n < count; n++, to += unit) {
        int64_t at = 0;
        for (int i = 0; i < item->ndim; i++)
            at += index[i] * item->stride_[i];
        memcpy(to, from + (size_t)at * unit, unit);
        for (int i = item->ndim - 1; i >= 0 && ++index[i] == item->shape_[i]; i--)
            index[i] = 0;
    }
}

static mica_status take_item(mica_weights *w, size_t file, const mica_torch_item *item,
                             mica_err *err)
{
    const mica_file_map *map = &w->files[file].map;
    const uint8_t *p = map->data + item->begin;
    const size_t unit = (size_t)mica_dtype_get(item->dtype)->size;
    mica_weights_entry *e = mica_arena_calloc(&w->arena, 1, sizeof *e);
    if (e == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", w->path);
    e->tensor = mica_tensor_make((void *)(uintptr_t)p, item->dtype, item->ndim, item->shape_);
    const size_t size = mica_tensor_size(&e->tensor);
    if (size > 0 && ((uintptr_t)p % unit != 0 || !is_packed(item))) {
        MICA_TRY(mica_weights_new_copy(w, map->path, item->name, size, &e->tensor.data, err));
        gather(item, p, unit, e->tensor.data);
    }
    e->name = e->source = item->name;
    e->file = file;
    w->list[w->count++] = e;
    return MICA_OK;
}

mica_status mica_weights_take_torch(mica_weights *w, size_t file, mica_err *err)
{
    mica_weights_file *f = &w->files[file];
    mica_torch_zip z;
    MICA_TRY(mica_torch_zip_parse(&z, f->map.path, f->map.data, f->map.size, &w->arena, err));
    f->root = z.root;
    memcpy(f->header, z.header, sizeof f->header);
    if (!mica_weights_reserve(w, z.count))
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", w->path);
    for (size_t i = 0; i < z.count; i++)
        MICA_TRY(take_item(w, file, &z.items[i], err));
    return MICA_OK;
}

const char *mica_weights_header(const mica_weights *w)
{
    return w->file_count ? w->files[0].header : "";
}
