/* gguf.c - reads and checks the header of a GGUF file; gguf.h has the layout.
 *
 *     image ──► cursor ──► values ──► tensors ──► alignment ──► ranges, duplicates
 *
 * One cursor walks the image; every length is compared with what is left before it is used, so a
 * count from the file never sizes an allocation beyond the file itself: a value takes 13 bytes of it
 * at least, a tensor 25. */
#include "format/gguf.h"

#include "base/checked.h"

#include <inttypes.h>
#include <string.h>

#define MAX_DIMS      4
#define VALUE_BYTES   13 /* least: empty key, type, one byte */
#define TENSOR_BYTES  25 /* least: one letter, no dimension, type, offset */
#define MAX_KEY       4096
#define MAX_ALIGNMENT 65536
#define DEFAULT_ALIGN 32
#define ORIGINAL      "comfy.gguf.orig_shape."
#define MAX_ORIGINAL  1024 /* shapes restored at most: files have a few dozen */

/* GGUF's numbers of value types. */
enum {
    TYPE_U8,
    TYPE_I8,
    TYPE_U16,
    TYPE_I16,
    TYPE_U32,
    TYPE_I32,
    TYPE_F32,
    TYPE_BOOL,
    TYPE_STRING,
    TYPE_ARRAY,
    TYPE_U64,
    TYPE_I64,
    TYPE_F64,
    TYPE_COUNT
};

static const struct {
    uint8_t size;
    mica_meta_type type;
} VALUE_TYPES[TYPE_COUNT] = {
    [TYPE_U8] = {1, MICA_META_INT},        [TYPE_I8] = {1, MICA_META_INT},
    [TYPE_U16] = {2, MICA_META_INT},       [TYPE_I16] = {2, MICA_META_INT},
    [TYPE_U32] = {4, MICA_META_INT},       [TYPE_I32] = {4, MICA_META_INT},
    [TYPE_F32] = {4, MICA_META_FLOAT},     [TYPE_BOOL] = {1, MICA_META_BOOL},
    [TYPE_STRING] = {0, MICA_META_STRING}, [TYPE_ARRAY] = {0, MICA_META_ARRAY},
    [TYPE_U64] = {8, MICA_META_INT},       [TYPE_I64] = {8, MICA_META_INT},
    [TYPE_F64] = {8, MICA_META_FLOAT},
};

/* GGML's numbers of tensor types: read, or known by name. */
static const struct {
    uint32_t number;
    mica_dtype dtype; /* MICA_DTYPE_COUNT: not read */
    const char *name;
} TENSOR_TYPES[] = {
    {0, MICA_DTYPE_F32, "F32"},        {1, MICA_DTYPE_F16, "F16"},
    {2, MICA_DTYPE_Q4_0, "Q4_0"},      {3, MICA_DTYPE_Q4_1, "Q4_1"},
    {6, MICA_DTYPE_Q5_0, "Q5_0"},      {7, MICA_DTYPE_Q5_1, "Q5_1"},
    {8, MICA_DTYPE_Q8_0, "Q8_0"},      {10, MICA_DTYPE_Q2_K, "Q2_K"},
    {11, MICA_DTYPE_Q3_K, "Q3_K"},     {12, MICA_DTYPE_Q4_K, "Q4_K"},
    {13, MICA_DTYPE_Q5_K, "Q5_K"},     {14, MICA_DTYPE_Q6_K, "Q6_K"},
    {20, MICA_DTYPE_IQ4_NL, "IQ4_NL"}, {23, MICA_DTYPE_IQ4_XS, "IQ4_XS"},
    {24, MICA_DTYPE_I8, "I8"},         {25, MICA_DTYPE_I16, "I16"},
    {26, MICA_DTYPE_I32, "I32"},       {27, MICA_DTYPE_I64, "I64"},
    {28, MICA_DTYPE_F64, "F64"},       {30, MICA_DTYPE_BF16, "BF16"},
    {39, MICA_DTYPE_MXFP4, "MXFP4"},   {9, MICA_DTYPE_COUNT, "Q8_1"},
    {15, MICA_DTYPE_COUNT, "Q8_K"},    {16, MICA_DTYPE_COUNT, "IQ2_XXS"},
    {17, MICA_DTYPE_COUNT, "IQ2_XS"},  {18, MICA_DTYPE_COUNT, "IQ3_XXS"},
    {19, MICA_DTYPE_COUNT, "IQ1_S"},   {21, MICA_DTYPE_COUNT, "IQ3_S"},
    {22, MICA_DTYPE_COUNT, "IQ2_S"},   {29, MICA_DTYPE_COUNT, "IQ1_M"},
    {34, MICA_DTYPE_COUNT, "TQ1_0"},   {35, MICA_DTYPE_COUNT, "TQ2_0"},
    {40, MICA_DTYPE_COUNT, "NVFP4"},
};

typedef struct cursor {
    const char *path;
    const uint8_t *data;
    size_t size, at;
    mica_arena *arena;
    mica_err *err;
} cursor;

bool mica_gguf_is_image(const uint8_t *data, size_t size)
{
    return size >= 4 && memcmp(data, "GGUF", 4) == 0;
}

int mica_gguf_type_of(mica_dtype dtype)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(TENSOR_TYPES); i++)
        if (TENSOR_TYPES[i].dtype == dtype)
            return (int)TENSOR_TYPES[i].number;
    return -1;
}

static mica_status truncated(const cursor *c)
{
    return MICA_FAIL(c->err, MICA_E_FORMAT,
                     "%s: truncated or damaged: its header leads beyond the %zu bytes of the file",
                     c->path, c->size);
}

static mica_status no_memory(const cursor *c)
{
    return MICA_FAIL(c->err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", c->path);
}

/* ---------------------------------------------------------------- numbers -- */

static uint64_t load(const uint8_t *p, int size)
{
    uint64_t v = 0;
    for (int i = size - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static mica_status read_number(cursor *c, int size, uint64_t *out)
{
    if (c->size - c->at < (size_t)size)
        return truncated(c);
    *out = load(c->data + c->at, size);
    c->at += (size_t)size;
    return MICA_OK;
}

static mica_status read_u32(cursor *c, uint32_t *out)
{
    uint64_t v = 0;
    MICA_TRY(read_number(c, 4, &v));
    *out = (uint32_t)v;
    return MICA_OK;
}

static mica_status read_string(cursor *c, size_t most, const char **text, size_t *length)
{
    uint64_t n = 0;
    MICA_TRY(read_number(c, 8, &n));
    if (n > c->size - c->at)
        return truncated(c);
    if (n > most)
        return MICA_FAIL(c->err, MICA_E_FORMAT, "%s: a text of %" PRIu64 " bytes where %zu may be",
                         c->path, n, most);
    *text = (const char *)c->data + c->at;
    *length = (size_t)n;
    c->at += (size_t)n;
    return MICA_OK;
}

/* A name or key, copied and fit for a terminal. */
static mica_status read_name(cursor *c, size_t most, const char **out)
{
    const char *text = NULL;
    size_t length = 0;
    MICA_TRY(read_string(c, most, &text, &length));
    char *copy = mica_arena_strndup(c->arena, text, length);
    if (!copy)
        return no_memory(c);
    if (strlen(copy) != length || !mica_tensor_name_is_valid(copy))
        return MICA_FAIL(
            c->err, MICA_E_FORMAT,
            "%s: a name in its header is empty, not UTF-8 or holds a control character", c->path);
    *out = copy;
    return MICA_OK;
}

/* The stored number at p as both kinds; false when an int64_t cannot hold it. */
static bool decode(const uint8_t *p, uint32_t type, int64_t *integer, double *number)
{
    const int size = VALUE_TYPES[type].size;
    const uint64_t bits = load(p, size);
    if (type == TYPE_F32) {
        const uint32_t half = (uint32_t)bits;
        float f;
        memcpy(&f, &half, 4);
        *number = (double)f;
    } else if (type == TYPE_F64) {
        memcpy(number, &bits, 8);
    } else {
        const bool is_signed =
            type == TYPE_I8 || type == TYPE_I16 || type == TYPE_I32 || type == TYPE_I64;
        const int unused = 64 - 8 * size;
        if (!is_signed && bits > INT64_MAX)
            return false;
        *integer = is_signed ? (int64_t)(bits << unused) >> unused : (int64_t)bits;
        *number = (double)*integer;
    }
    return true;
}

/* ----------------------------------------------------------------- values -- */

static mica_status read_array(cursor *c, mica_meta *m)
{
    uint64_t count = 0;
    MICA_TRY(read_u32(c, &m->stored));
    MICA_TRY(read_number(c, 8, &count));
    if (m->stored >= TYPE_COUNT || m->stored == TYPE_ARRAY)
        return MICA_FAIL(c->err, MICA_E_UNSUPPORTED, "%s: value %s is an array of type %u", c->path,
                         m->key, (unsigned)m->stored);
    const size_t least = m->stored == TYPE_STRING ? 8 : VALUE_TYPES[m->stored].size;
    if (count > (c->size - c->at) / least)
        return truncated(c);
    m->element = VALUE_TYPES[m->stored].type;
    m->count = (size_t)count;
    m->data = c->data + c->at;
    const size_t begin = c->at;
    if (m->stored != TYPE_STRING)
        c->at += m->count * least;
    for (size_t i = 0; i < m->count && m->stored == TYPE_STRING; i++) {
        const char *text;
        size_t length;
        MICA_TRY(read_string(c, SIZE_MAX, &text, &length));
    }
    m->size = c->at - begin;
    return MICA_OK;
}

static mica_status read_text(cursor *c, mica_meta *m)
{
    const char *text = NULL;
    size_t length = 0;
    MICA_TRY(read_string(c, SIZE_MAX, &text, &length));
    m->text = mica_arena_strndup(c->arena, text, length); /* ends at a NUL inside */
    return m->text ? MICA_OK : no_memory(c);
}

static mica_status read_value(cursor *c, mica_meta *m)
{
    uint32_t type = 0;
    MICA_TRY(read_name(c, MAX_KEY, &m->key));
    MICA_TRY(read_u32(c, &type));
    if (type >= TYPE_COUNT)
        return MICA_FAIL(c->err, MICA_E_FORMAT, "%s: value %s has the unknown type %u", c->path,
                         m->key, (unsigned)type);
    m->type = VALUE_TYPES[type].type;
    if (type == TYPE_ARRAY)
        return read_array(c, m);
    if (type == TYPE_STRING)
        return read_text(c, m);
    const uint8_t *p = c->data + c->at;
    uint64_t unused = 0;
    MICA_TRY(read_number(c, VALUE_TYPES[type].size, &unused));
    if (!decode(p, type, &m->integer, &m->number))
        return MICA_FAIL(c->err, MICA_E_FORMAT, "%s: value %s is too large", c->path, m->key);
    return MICA_OK;
}

const mica_meta *mica_gguf_find(const mica_meta *values, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(values[i].key, key) == 0)
            return &values[i];
    return NULL;
}

double mica_meta_number_at(const mica_meta *array, size_t i)
{
    int64_t integer = 0;
    double number = 0.0;
    (void)decode(array->data + i * VALUE_TYPES[array->stored].size, array->stored, &integer,
                 &number);
    return number;
}

bool mica_meta_next_string(const mica_meta *array, size_t *at, const char **text, size_t *length)
{
    if (array->element != MICA_META_STRING || array->size - *at < 8)
        return false;
    *length = (size_t)load(array->data + *at, 8); /* checked when the array was read */
    *text = (const char *)array->data + *at + 8;
    *at += 8 + *length;
    return true;
}

/* ---------------------------------------------------------------- tensors -- */

static mica_status read_type(cursor *c, mica_safetensors_item *item)
{
    uint32_t number = 0;
    MICA_TRY(read_u32(c, &number));
    for (size_t i = 0; i < MICA_ARRAY_LEN(TENSOR_TYPES); i++) {
        if (TENSOR_TYPES[i].number != number)
            continue;
        item->dtype = TENSOR_TYPES[i].dtype;
        if (item->dtype != MICA_DTYPE_COUNT)
            return MICA_OK;
        return MICA_FAIL(c->err, MICA_E_UNSUPPORTED,
                         "%s: tensor %s is stored as %s, which is not read here; use a file of a "
                         "K-quant, Q8_0 or Q4_0",
                         c->path, item->name, TENSOR_TYPES[i].name);
    }
    return MICA_FAIL(c->err, MICA_E_UNSUPPORTED, "%s: tensor %s has the unknown type %u", c->path,
                     item->name, (unsigned)number);
}

static mica_status read_sizes(cursor *c, mica_safetensors_item *item)
{
    uint32_t ndim = 0;
    MICA_TRY(read_u32(c, &ndim));
    if (ndim > MAX_DIMS)
        return MICA_FAIL(c->err, MICA_E_FORMAT, "%s: tensor %s has %u dimensions, %d is the most",
                         c->path, item->name, (unsigned)ndim, MAX_DIMS);
    item->ndim = (int)ndim;
    for (int i = item->ndim - 1; i >= 0; i--) {
        uint64_t v = 0;
        MICA_TRY(read_number(c, 8, &v));
        if (v > INT64_MAX)
            return MICA_FAIL(c->err, MICA_E_FORMAT, "%s: tensor %s: a dimension is too large",
                             c->path, item->name);
        item->shape_[i] = (int64_t)v;
    }
    return MICA_OK;
}

/* Bytes of shape x dtype; rows must be whole blocks. Zero dimensions count as one in the overflow check, so
 * that the strides of an empty tensor cannot overflow either. */
static mica_status count_bytes(const cursor *c, const mica_safetensors_item *item, uint64_t *bytes)
{
    const mica_dtype_info *info = mica_dtype_get(item->dtype);
    const int64_t row = item->ndim > 0 ? item->shape_[item->ndim - 1] : 1;
    size_t product = (size_t)info->size;
    bool fits = true, is_empty = false;
    if (row % info->block != 0)
        return MICA_FAIL(c->err, MICA_E_FORMAT,
                         "%s: tensor %s: rows of %" PRId64 " are no multiple of the %d of %s",
                         c->path, item->name, row, info->block, info->name);
    for (int i = 0; i < item->ndim; i++) {
        const int64_t n = i == item->ndim - 1 ? item->shape_[i] / info->block : item->shape_[i];
        is_empty = is_empty || n == 0;
        fits = fits && mica_mul_size(product, n ? (size_t)n : 1, &product);
    }
    if (!fits || product > INT64_MAX / 8)
        return MICA_FAIL(c->err, MICA_E_FORMAT, "%s: tensor %s: the product of its shape overflows",
                         c->path, item->name);
    *bytes = is_empty ? 0 : product;
    return MICA_OK;
}

/* begin is left relative to the data section, whose place is known after the last tensor. */
static mica_status read_tensor(cursor *c, mica_safetensors_item *item)
{
    uint64_t bytes = 0;
    MICA_TRY(read_name(c, MICA_TENSOR_NAME_MAX, &item->name));
    MICA_TRY(read_sizes(c, item));
    MICA_TRY(read_type(c, item));
    MICA_TRY(read_number(c, 8, &item->begin));
    MICA_TRY(count_bytes(c, item, &bytes));
    if (item->begin > c->size || bytes > c->size)
        return MICA_FAIL(c->err, MICA_E_FORMAT,
                         "%s: truncated or damaged: tensor %s ends at byte %" PRIu64
                         " of the data, the file has %zu; download it again",
                         c->path, item->name, item->begin + bytes, c->size);
    item->end = item->begin + bytes;
    return MICA_OK;
}

static mica_status read_alignment(const cursor *c, const mica_gguf *g, uint64_t *out)
{
    const mica_meta *m = mica_gguf_find(g->values, g->value_count, "general.alignment");
    const int64_t a = !m ? DEFAULT_ALIGN : m->type == MICA_META_INT ? m->integer : 0;
    if (a < 1 || a > MAX_ALIGNMENT || (a & (a - 1)) != 0)
        return MICA_FAIL(c->err, MICA_E_FORMAT,
                         "%s: general.alignment is not a power of two up to %d", c->path,
                         MAX_ALIGNMENT);
    *out = (uint64_t)a;
    return MICA_OK;
}

static mica_status place_tensors(cursor *c, mica_gguf *g)
{
    uint64_t alignment = 0;
    MICA_TRY(read_alignment(c, g, &alignment));
    const uint64_t begin = (c->at + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < g->count; i++) {
        mica_safetensors_item *item = &g->items[i];
        if (item->begin % alignment != 0)
            return MICA_FAIL(c->err, MICA_E_FORMAT,
                             "%s: tensor %s lies at byte %" PRIu64
                             " of the data, no multiple of the alignment %" PRIu64,
                             c->path, item->name, item->begin, alignment);
        item->begin += begin;
        item->end += begin;
    }
    return mica_weight_items_check(g->items, g->count, c->size, c->path, c->arena, c->err);
}

/* The shape a tensor had before it was bent to fit, if it is one of as many elements whose rows
 * are whole blocks. */
static void restore_shape(mica_safetensors_item *item, const mica_meta *m)
{
    const int64_t block = mica_dtype_get(item->dtype)->block;
    int64_t shape[MICA_MAX_DIMS], have = 1, want = 1;
    if (m->type != MICA_META_ARRAY || m->element != MICA_META_INT || m->count == 0 ||
        m->count > MICA_MAX_DIMS)
        return;
    for (int i = 0; i < item->ndim; i++)
        have *= item->shape_[i];
    for (size_t i = 0; i < m->count; i++) {
        const double v = mica_meta_number_at(m, i);
        if (!(v >= 1 && v <= (double)have) || want > INT64_MAX / (int64_t)v)
            return;
        shape[i] = (int64_t)v;
        want *= shape[i];
    }
    if (want != have || shape[m->count - 1] % block != 0)
        return;
    item->ndim = (int)m->count;
    memcpy(item->shape_, shape, m->count * sizeof *shape);
}

static void restore_shapes(mica_gguf *g)
{
    const size_t n = strlen(ORIGINAL);
    int restored = 0;
    for (size_t v = 0; v < g->value_count && restored < MAX_ORIGINAL; v++) {
        if (strncmp(g->values[v].key, ORIGINAL, n) != 0)
            continue;
        restored++;
        for (size_t i = 0; i < g->count; i++)
            if (strcmp(g->items[i].name, g->values[v].key + n) == 0)
                restore_shape(&g->items[i], &g->values[v]);
    }
}

/* ------------------------------------------------------------------- file -- */

static mica_status read_counts(cursor *c, uint64_t *tensors, uint64_t *values)
{
    uint32_t version = 0;
    c->at = 4;
    MICA_TRY(read_u32(c, &version));
    if (version != 2 && version != 3)
        return MICA_FAIL(c->err, MICA_E_UNSUPPORTED,
                         "%s: GGUF version %u%s; versions 2 and 3 are read, little-endian", c->path,
                         (unsigned)version, (version & 0xffff) == 0 ? " (big-endian?)" : "");
    MICA_TRY(read_number(c, 8, tensors));
    MICA_TRY(read_number(c, 8, values));
    if (*tensors > c->size / TENSOR_BYTES || *values > c->size / VALUE_BYTES)
        return truncated(c);
    return MICA_OK;
}

static mica_status read_all(cursor *c, mica_gguf *g)
{
    uint64_t tensors = 0, values = 0;
    MICA_TRY(read_counts(c, &tensors, &values));
    g->values = mica_arena_calloc(c->arena, (size_t)values + 1, sizeof *g->values);
    g->items = mica_arena_calloc(c->arena, (size_t)tensors + 1, sizeof *g->items);
    if (!g->values || !g->items)
        return no_memory(c);
    for (; g->value_count < values; g->value_count++)
        MICA_TRY(read_value(c, &g->values[g->value_count]));
    for (; g->count < tensors; g->count++)
        MICA_TRY(read_tensor(c, &g->items[g->count]));
    MICA_TRY(place_tensors(c, g));
    restore_shapes(g);
    return MICA_OK;
}

mica_status mica_gguf_parse(mica_gguf *g, const char *path, const uint8_t *data, size_t size,
                            mica_arena *arena, mica_err *err)
{
    cursor c = {.path = path, .data = data, .size = size, .arena = arena, .err = err};
    *g = (mica_gguf){0};
    const mica_status st = read_all(&c, g);
    if (st != MICA_OK)
        *g = (mica_gguf){0};
    return st;
}
