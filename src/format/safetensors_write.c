/* safetensors_write.c - writes a safetensors file, whole or not at all.
 *
 *     length (8) | JSON, padded with spaces to a multiple of 8 | f64 .. f32 .. bf16 .. u8
 *
 * The format allows no holes, so alignment must come from the order: tensors of wider
 * elements first (as the reference writer does), the given order among equals. With the data
 * section at a multiple of 8 every tensor is then aligned for its dtype. Nothing is written
 * before all entries have been checked. */
#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "format/safetensors.h"
#include "format/weights.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct placed {
    const mica_safetensors_entry *entry;
    size_t given; /* position in the caller's list */
} placed;

static int element_size(const placed *p)
{
    return mica_dtype_get(p->entry->tensor->dtype)->size;
}

static int compare_placement(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (element_size(x) != element_size(y))
        return element_size(x) > element_size(y) ? -1 : 1;
    return x->given < y->given ? -1 : 1;
}

static int compare_names(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    return strcmp(x->entry->name, y->entry->name);
}

static mica_status check_entry(const char *path, const mica_safetensors_entry *e, mica_err *err)
{
    if (!mica_tensor_name_is_valid(e->name))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: cannot write a tensor with an invalid name", path);
    if (!mica_tensor_is_contiguous(e->tensor))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: tensor %s is not contiguous", path, e->name);
    if (e->tensor->scale.data != NULL)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: tensor %s has a scale beside it, which this writer would lose", path,
                         e->name);
    return MICA_OK;
}

static mica_status check_entries(const char *path, placed *order, size_t count, mica_err *err)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        MICA_TRY(check_entry(path, order[i].entry, err));
        if (!mica_add_size(total, mica_tensor_size(order[i].entry->tensor), &total))
            return MICA_FAIL(err, MICA_E_USAGE, "%s: the sum of all tensors overflows", path);
    }
    qsort(order, count, sizeof *order, compare_names);
    for (size_t i = 1; i < count; i++)
        if (strcmp(order[i - 1].entry->name, order[i].entry->name) == 0)
            return MICA_FAIL(err, MICA_E_USAGE, "%s: two tensors are named %s", path,
                             order[i].entry->name);
    return MICA_OK;
}

static mica_status check_metadata(const char *path, const char *const *metadata, mica_err *err)
{
    for (size_t i = 0; metadata != NULL && metadata[i] != NULL; i++) {
        if (!mica_utf8_is_valid(metadata[i], strlen(metadata[i])))
            return MICA_FAIL(err, MICA_E_USAGE, "%s: metadata text %zu is not UTF-8", path, i);
        if (i % 2 == 0 && metadata[i + 1] == NULL)
            return MICA_FAIL(err, MICA_E_USAGE, "%s: metadata key %s has no value", path,
                             metadata[i]);
    }
    return MICA_OK;
}

static void add_metadata(mica_text *t, const char *const *metadata)
{
    if (metadata == NULL || metadata[0] == NULL)
        return;
    mica_text_add(t, "\"__metadata__\":{");
    for (size_t i = 0; metadata[i] != NULL; i += 2) {
        mica_text_add(t, "%s", i > 0 ? "," : "");
        mica_text_add_json_string(t, metadata[i]);
        mica_text_add(t, ":");
        mica_text_add_json_string(t, metadata[i + 1]);
    }
    mica_text_add(t, "}");
}

static void add_tensor(mica_text *t, const mica_safetensors_entry *e, uint64_t begin)
{
    const mica_tensor *x = e->tensor;
    mica_text_add_json_string(t, e->name);
    mica_text_add(t, ":{\"dtype\":\"%s\",\"shape\":[", mica_dtype_get(x->dtype)->safetensors_name);
    for (int i = 0; i < x->ndim; i++)
        mica_text_add(t, i > 0 ? ",%" PRId64 : "%" PRId64, x->shape_[i]);
    mica_text_add(t, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin,
                  begin + mica_tensor_size(x));
}

static void make_header(mica_text *t, const placed *order, size_t count,
                        const char *const *metadata)
{
    uint64_t offset = 0;
    mica_text_add(t, "{");
    add_metadata(t, metadata);
    for (size_t i = 0; i < count; i++) {
        mica_text_add(t, "%s", t->size > 1 ? "," : "");
        add_tensor(t, order[i].entry, offset);
        offset += mica_tensor_size(order[i].entry->tensor);
    }
    mica_text_add(t, "}");
    const size_t padding = (8 - t->size % 8) % 8;
    mica_text_add_bytes(t, "        ", padding);
}

static mica_status write_file(mica_file_out *f, const mica_text *header, const placed *order,
                              size_t count, mica_err *err)
{
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header->size >> (8 * i));
    MICA_TRY(mica_file_out_write(f, length, sizeof length, err));
    MICA_TRY(mica_file_out_write(f, header->data, header->size, err));
    for (size_t i = 0; i < count; i++) {
        const mica_tensor *t = order[i].entry->tensor;
        if (mica_tensor_size(t) > 0)
            MICA_TRY(mica_file_out_write(f, t->data, mica_tensor_size(t), err));
    }
    return MICA_OK;
}

static mica_status write_ordered(const char *path, const placed *order, size_t count,
                                 const mica_text *header, mica_err *err)
{
    mica_file_out f;
    if (header->failed)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the header", path);
    if (header->size > MICA_SAFETENSORS_MAX_HEADER)
        return MICA_FAIL(err, MICA_E_USAGE, "%s: a header of %zu bytes is above the format's %d",
                         path, header->size, MICA_SAFETENSORS_MAX_HEADER);
    MICA_TRY(mica_file_out_open(&f, path, err));
    const mica_status st = write_file(&f, header, order, count, err);
    if (st != MICA_OK) {
        mica_file_out_abort(&f);
        return st;
    }
    return mica_file_out_commit(&f, err);
}

mica_status mica_safetensors_write(const char *path, const mica_safetensors_entry *entries,
                                   size_t count, const char *const *metadata, mica_err *err)
{
    mica_text header = {.data = NULL};
    placed *order = mica_mem_calloc(count + 1, sizeof *order);
    if (order == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the header", path);
    for (size_t i = 0; i < count; i++)
        order[i] = (placed){.entry = &entries[i], .given = i};
    mica_status st = check_entries(path, order, count, err);
    if (st == MICA_OK)
        st = check_metadata(path, metadata, err);
    if (st == MICA_OK) {
        qsort(order, count, sizeof *order, compare_placement);
        make_header(&header, order, count, metadata);
        st = write_ordered(path, order, count, &header, err);
    }
    mica_text_deinit(&header);
    mica_mem_free(order);
    return st;
}
