/* safetensors.c - reads and checks the header of a safetensors file.
 *
 *     bytes ──► length ──► JSON ──► items ──► sort by offset ──► overlaps, duplicates
 *
 * Reference: the format section of the safetensors README and safetensors/src/tensor.rs
 * (Metadata::validate). Stricter than that reader in one point (control characters in
 * names) and milder in one (holes between tensors). The JSON tree is walked by its links,
 * never by index, and both sorts are n log n, so a header at the 100 MB limit stays
 * affordable. The data section is not touched. */
#include "format/safetensors.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/utf8.h"
#include "format/file_kind.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define METADATA_KEY  "__metadata__"
#define MAX_EXACT_INT 9007199254740992.0 /* 2^53: JSON numbers are doubles */

typedef struct reader {
    mica_safetensors *out;
    const char *path;
    uint64_t data_begin, size; /* of the data section's start and of the file */
    mica_arena *arena;
    mica_err *err;
} reader;

bool mica_tensor_name_is_valid(const char *name)
{
    const size_t n = strlen(name);
    if (n == 0 || n > MICA_TENSOR_NAME_MAX || strcmp(name, METADATA_KEY) == 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return mica_utf8_is_valid(name, n);
}

const char *mica_printable_text(const char *text)
{
    return mica_tensor_name_is_valid(text) ? text : "(unprintable)";
}

static mica_status no_memory(const reader *r)
{
    return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", r->path);
}

static uint64_t read_u64le(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

/* The text behind the 8-byte length, or a message that says what the file is instead. */
static mica_status check_frame(reader *r, const uint8_t *data, mica_err *err)
{
    if (r->size == 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the file is empty", r->path);
    const uint64_t length = r->size >= 8 ? read_u64le(data) : 0;
    const bool plausible =
        length > 0 && length <= MICA_SAFETENSORS_MAX_HEADER && (r->size <= 8 || data[8] == '{');
    const mica_file_kind *kind = plausible ? NULL : mica_file_kind_find(data, r->size);
    if (kind != NULL)
        return MICA_FAIL(err, kind->status, "%s is %s", r->path, kind->text);
    if (r->size < 8)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: %" PRIu64 " bytes are too few for a safetensors file", r->path,
                         r->size);
    if (length == 0 || length > MICA_SAFETENSORS_MAX_HEADER)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: header length %" PRIu64
                         " is not between 1 and %d; not a safetensors file",
                         r->path, length, MICA_SAFETENSORS_MAX_HEADER);
    if (length > r->size - 8)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: truncated: the header needs %" PRIu64 " bytes, the file has %" PRIu64,
                         r->path, length + 8, r->size);
    if (data[8] != '{')
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the header is not a JSON object", r->path);
    r->data_begin = 8 + length;
    return MICA_OK;
}

static bool read_whole(const cJSON *number, uint64_t *out)
{
    if (!cJSON_IsNumber(number))
        return false;
    const double v = number->valuedouble;
    if (!(v >= 0 && v <= MAX_EXACT_INT) || v != (double)(uint64_t)v)
        return false;
    *out = (uint64_t)v;
    return true;
}

static mica_status read_dtype(const reader *r, const cJSON *object, mica_safetensors_item *item)
{
    const cJSON *dtype = mica_json_find(object, "dtype");
    if (!cJSON_IsString(dtype))
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: tensor %s has no dtype", r->path, item->name);
    const char *text = dtype->valuestring;
    if (!mica_dtype_from_safetensors(text, strlen(text), &item->dtype))
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED, "%s: tensor %s has the unknown dtype %s",
                         r->path, item->name, mica_printable_text(text));
    return MICA_OK;
}

static mica_status read_shape(const reader *r, const cJSON *object, mica_safetensors_item *item)
{
    const cJSON *shape = mica_json_find(object, "shape");
    if (!cJSON_IsArray(shape))
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: tensor %s has no shape", r->path, item->name);
    const cJSON *dim;
    cJSON_ArrayForEach(dim, shape)
    {
        uint64_t v;
        if (item->ndim == MICA_MAX_DIMS)
            return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                             "%s: tensor %s has more than %d dimensions", r->path, item->name,
                             MICA_MAX_DIMS);
        if (!read_whole(dim, &v)) {
            if (!cJSON_IsNumber(dim))
                return MICA_FAIL(r->err, MICA_E_FORMAT,
                                 "%s: tensor %s: dimension %d is not a number", r->path, item->name,
                                 item->ndim);
            return MICA_FAIL(r->err, MICA_E_FORMAT,
                             "%s: tensor %s: dimension %d is %g, not a whole number from 0 to 2^53",
                             r->path, item->name, item->ndim, dim->valuedouble);
        }
        item->shape_[item->ndim++] = (int64_t)v;
    }
    return MICA_OK;
}

/* Bytes of shape x dtype. Zero dimensions count as one in the overflow check, so that the
 * strides of an empty tensor stay in range too. */
static bool item_bytes(const mica_safetensors_item *item, uint64_t *bytes)
{
    size_t product = (size_t)mica_dtype_get(item->dtype)->size;
    bool is_empty = false;
    for (int i = 0; i < item->ndim; i++) {
        is_empty = is_empty || item->shape_[i] == 0;
        if (!mica_mul_size(product, (size_t)MICA_MAX(item->shape_[i], 1), &product))
            return false;
    }
    if (product > INT64_MAX)
        return false;
    *bytes = is_empty ? 0 : product;
    return true;
}

static mica_status read_offsets(const reader *r, const cJSON *object, mica_safetensors_item *item)
{
    const cJSON *pair = mica_json_find(object, "data_offsets");
    const cJSON *first = cJSON_IsArray(pair) ? pair->child : NULL;
    const cJSON *second = first != NULL ? first->next : NULL;
    uint64_t begin, end, bytes;
    if (second == NULL || second->next != NULL || !read_whole(first, &begin) ||
        !read_whole(second, &end) || end < begin)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: tensor %s: data_offsets are not two whole numbers in rising order",
                         r->path, item->name);
    if (!item_bytes(item, &bytes))
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: tensor %s: the product of its shape overflows",
                         r->path, item->name);
    if (end - begin != bytes)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: tensor %s: data_offsets hold %" PRIu64
                         " bytes, shape and dtype need %" PRIu64,
                         r->path, item->name, end - begin, bytes);
    item->begin = r->data_begin + begin; /* below 2^27 + 2^53 */
    item->end = r->data_begin + end;
    return MICA_OK;
}

static mica_status read_item(const reader *r, const cJSON *object, mica_safetensors_item *item)
{
    if (!mica_tensor_name_is_valid(object->string))
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: a tensor name is empty, longer than %d bytes, not UTF-8 or holds a "
                         "control character",
                         r->path, MICA_TENSOR_NAME_MAX);
    item->name = mica_arena_strndup(r->arena, object->string, strlen(object->string));
    if (item->name == NULL)
        return no_memory(r);
    if (!cJSON_IsObject(object))
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: the entry of tensor %s is not a JSON object",
                         r->path, item->name);
    MICA_TRY(read_dtype(r, object, item));
    MICA_TRY(read_shape(r, object, item));
    return read_offsets(r, object, item);
}

/* `__metadata__`: strings to strings. Other values are skipped; nothing depends on them. */
static mica_status read_metadata(reader *r, const cJSON *object)
{
    mica_safetensors *s = r->out;
    if (!cJSON_IsObject(object) || s->metadata != NULL)
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: " METADATA_KEY " is %s", r->path,
                         s->metadata != NULL ? "there twice" : "not a JSON object");
    const size_t cap = (size_t)cJSON_GetArraySize(object);
    s->metadata = mica_arena_calloc(r->arena, 2 * cap + 1, sizeof *s->metadata);
    if (s->metadata == NULL)
        return no_memory(r);
    const cJSON *member;
    cJSON_ArrayForEach(member, object)
    {
        if (!cJSON_IsString(member))
            continue;
        const char *key = mica_arena_strndup(r->arena, member->string, strlen(member->string));
        const char *value =
            mica_arena_strndup(r->arena, member->valuestring, strlen(member->valuestring));
        if (key == NULL || value == NULL)
            return no_memory(r);
        s->metadata[2 * s->metadata_count] = key;
        s->metadata[2 * s->metadata_count++ + 1] = value;
    }
    return MICA_OK;
}

static mica_status read_members(reader *r, const cJSON *root)
{
    mica_safetensors *s = r->out;
    const size_t cap = (size_t)cJSON_GetArraySize(root);
    s->items = mica_arena_calloc(r->arena, cap + 1, sizeof *s->items);
    if (s->items == NULL)
        return no_memory(r);
    const cJSON *member;
    cJSON_ArrayForEach(member, root)
    {
        if (strcmp(member->string, METADATA_KEY) == 0) {
            MICA_TRY(read_metadata(r, member));
            continue;
        }
        MICA_TRY(read_item(r, member, &s->items[s->count]));
        s->count++;
    }
    return MICA_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const mica_safetensors_item *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name); /* names differ: the order is total */
}

static int compare_names(const void *a, const void *b)
{
    const mica_safetensors_item *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static mica_status check_names(const reader *r)
{
    const mica_safetensors *s = r->out;
    const mica_arena_mark mark = mica_arena_get_mark(r->arena);
    const mica_safetensors_item **sorted =
        mica_arena_calloc(r->arena, s->count + 1, sizeof *sorted);
    if (sorted == NULL)
        return no_memory(r);
    for (size_t i = 0; i < s->count; i++)
        sorted[i] = &s->items[i];
    qsort(sorted, s->count, sizeof *sorted, compare_names);
    mica_status st = MICA_OK;
    for (size_t i = 1; i < s->count && st == MICA_OK; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            st = MICA_FAIL(r->err, MICA_E_FORMAT, "%s: tensor %s is listed twice", r->path,
                           sorted[i]->name);
    mica_arena_release(r->arena, mark);
    return st;
}

/* Items by rising offset: the widest end so far belongs to `last`. */
static mica_status check_ranges(const reader *r)
{
    const mica_safetensors *s = r->out;
    const mica_safetensors_item *last = NULL;
    for (size_t i = 0; i < s->count; i++) {
        const mica_safetensors_item *item = &s->items[i];
        if (item->begin == item->end && item->end <= r->size)
            continue;
        if (item->end > r->size)
            return MICA_FAIL(r->err, MICA_E_FORMAT,
                             "%s: truncated or damaged: tensor %s ends at byte %" PRIu64
                             ", the file has %" PRIu64 "; download it again",
                             r->path, item->name, item->end, r->size);
        if (last != NULL && item->begin < last->end)
            return MICA_FAIL(r->err, MICA_E_FORMAT,
                             "%s: tensors %s and %s overlap (bytes %" PRIu64 " to %" PRIu64 ")",
                             r->path, last->name, item->name, item->begin,
                             MICA_MIN(last->end, item->end));
        last = item;
    }
    return MICA_OK;
}

static mica_status read_header(reader *r, const cJSON *root)
{
    if (!cJSON_IsObject(root))
        return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: the header is not a JSON object", r->path);
    MICA_TRY(read_members(r, root));
    return mica_weight_items_check(r->out->items, r->out->count, r->size, r->path, r->arena,
                                   r->err);
}

mica_status mica_weight_items_check(mica_safetensors_item *items, size_t count, uint64_t size,
                                    const char *path, mica_arena *arena, mica_err *err)
{
    mica_safetensors s = {.items = items, .count = count};
    const reader r = {.out = &s, .path = path, .size = size, .arena = arena, .err = err};
    MICA_TRY(check_names(&r));
    qsort(items, count, sizeof *items, compare_offsets);
    return check_ranges(&r);
}

mica_status mica_safetensors_parse(mica_safetensors *s, const char *path, const uint8_t *data,
                                   size_t size, mica_arena *arena, mica_err *err)
{
    reader r = {.out = s, .path = path, .size = size, .arena = arena, .err = err};
    mica_json json;
    memset(s, 0, sizeof *s);
    MICA_TRY(check_frame(&r, data, err));
    const size_t length = (size_t)r.data_begin - 8;
    MICA_TRY(mica_json_parse(&json, path, (const char *)data + 8, length, err));
    const mica_status st = read_header(&r, json.root);
    mica_json_close(&json);
    if (st != MICA_OK)
        memset(s, 0, sizeof *s);
    return st;
}
