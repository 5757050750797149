/* onnx.c - the reader of ONNX files; see onnx.h.
 *
 *     field = varint(number << 3 | wire)   wire 0: varint   1: 8 bytes   2: varint n, n bytes   5: 4 bytes
 *
 * A message is a stretch of bytes; every field is cut out of it and checked against its end before it is
 * looked at. Two passes over the graph: initialisers, then nodes. */
#include "format/onnx.h"

#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ITEMS 100000u
#define MAX_NODES 1000000u

enum wire { WIRE_VARINT = 0, WIRE_8 = 1, WIRE_BYTES = 2, WIRE_4 = 5 };

typedef struct message {
    const uint8_t *at, *end;
    bool broken;
} message;

typedef struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value; /* of a varint */
    message bytes;  /* of bytes */
} field;

static uint64_t read_varint(message *m)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (m->at >= m->end)
            break;
        const uint8_t b = *m->at++;
        value |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return value;
    }
    m->broken = true;
    return 0;
}

static void skip(message *m, uint64_t n)
{
    if (n > (uint64_t)(m->end - m->at))
        m->broken = true;
    else
        m->at += n;
}

/* The next field; false at the end of the message or where it is broken. */
static bool next_field(message *m, field *f)
{
    if (m->broken || m->at >= m->end)
        return false;
    const uint64_t tag = read_varint(m);
    *f = (field){.number = (uint32_t)(tag >> 3), .wire = (enum wire)(tag & 7)};
    if (m->broken || tag >> 3 == 0 || tag >> 3 > 0x1fffffff) {
        m->broken = true;
        return false;
    }
    if (f->wire == WIRE_VARINT)
        f->value = read_varint(m);
    else if (f->wire == WIRE_8 || f->wire == WIRE_4)
        skip(m, f->wire == WIRE_8 ? 8 : 4);
    else if (f->wire == WIRE_BYTES) {
        const uint64_t n = read_varint(m);
        f->bytes.at = m->at;
        skip(m, n);
        f->bytes.end = m->at;
    } else
        m->broken = true;
    return !m->broken;
}

/* ---- initialisers ---- */

typedef struct reader {
    const char *path;
    const uint8_t *data;
    mica_arena *arena;
    mica_onnx *out;
    mica_onnx_item **sorted; /* by name */
} reader;

/* TensorProto as it is read. */
typedef struct raw_tensor {
    message name, bytes;
    int64_t shape_[MICA_MAX_DIMS];
    int ndim;
    uint64_t type;
    bool has_bytes, is_external, is_wide; /* wide: more dimensions than anything has here */
} raw_tensor;

enum { TENSOR_DIMS = 1, TENSOR_TYPE = 2, TENSOR_FLOATS = 4, TENSOR_NAME = 8, TENSOR_RAW = 9 };
enum { TENSOR_DOUBLES = 10, TENSOR_EXTERNAL = 13, TENSOR_LOCATION = 14 };

static void add_dim(raw_tensor *t, uint64_t n)
{
    if (t->ndim >= MICA_MAX_DIMS)
        t->is_wide = true;
    else
        t->shape_[t->ndim++] = (int64_t)n;
}

static bool read_tensor(message m, raw_tensor *t)
{
    field f;
    *t = (raw_tensor){.type = 0};
    while (next_field(&m, &f)) {
        const bool is_bytes = f.wire == WIRE_BYTES;
        if (f.number == TENSOR_DIMS && f.wire == WIRE_VARINT)
            add_dim(t, f.value);
        else if (f.number == TENSOR_DIMS && is_bytes)
            while (f.bytes.at < f.bytes.end && !f.bytes.broken)
                add_dim(t, read_varint(&f.bytes));
        else if (f.number == TENSOR_TYPE)
            t->type = f.value;
        else if (f.number == TENSOR_NAME && is_bytes)
            t->name = f.bytes;
        else if ((f.number == TENSOR_RAW || f.number == TENSOR_FLOATS ||
                  f.number == TENSOR_DOUBLES) &&
                 is_bytes && f.bytes.end > f.bytes.at) {
            t->bytes = f.bytes;
            t->has_bytes = true;
        } else if (f.number == TENSOR_EXTERNAL || (f.number == TENSOR_LOCATION && f.value == 1))
            t->is_external = true;
        if (f.bytes.broken)
            return false;
    }
    return !m.broken;
}

/* TensorProto.DataType; MICA_DTYPE_COUNT: no numbers that are read here. */
static mica_dtype dtype_of(uint64_t type)
{
    static const uint8_t TYPES[][2] = {
        {1, MICA_DTYPE_F32},   {2, MICA_DTYPE_U8},   {3, MICA_DTYPE_I8},   {4, MICA_DTYPE_U16},
        {5, MICA_DTYPE_I16},   {6, MICA_DTYPE_I32},  {7, MICA_DTYPE_I64},  {9, MICA_DTYPE_BOOL},
        {10, MICA_DTYPE_F16},  {11, MICA_DTYPE_F64}, {12, MICA_DTYPE_U32}, {13, MICA_DTYPE_U64},
        {16, MICA_DTYPE_BF16},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(TYPES); i++)
        if (TYPES[i][0] == type)
            return (mica_dtype)TYPES[i][1];
    return MICA_DTYPE_COUNT;
}

/* Bytes that shape and dtype make; false: more than a file can hold. */
static bool find_size(const raw_tensor *t, mica_dtype dtype, uint64_t *size)
{
    *size = (uint64_t)mica_dtype_get(dtype)->size;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape_[i] < 0 || (t->shape_[i] > 0 && *size > INT64_MAX / (uint64_t)t->shape_[i]))
            return false;
        *size *= (uint64_t)t->shape_[i];
    }
    return true;
}

static mica_status take_tensor(reader *r, message m, mica_err *err)
{
    raw_tensor t;
    uint64_t size;
    if (!read_tensor(m, &t))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: an initialiser is damaged", r->path);
    char *name =
        mica_arena_strndup(r->arena, (const char *)t.name.at, (size_t)(t.name.end - t.name.at));
    if (!name)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its names", r->path);
    if (!mica_tensor_name_is_valid(name))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: an initialiser has no usable name", r->path);
    if (t.is_external)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: %s lies in a file of its own, which is not read here; save the model "
                         "as one file",
                         r->path, name);
    const mica_dtype dtype = dtype_of(t.type);
    if (dtype == MICA_DTYPE_COUNT || !t.has_bytes)
        return MICA_OK;
    if (t.is_wide || !find_size(&t, dtype, &size) || size != (uint64_t)(t.bytes.end - t.bytes.at))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the sizes of %s are not those of its data",
                         r->path, name);
    mica_onnx_item *item = &r->out->items[r->out->count++];
    *item = (mica_onnx_item){.name = name,
                             .dtype = dtype,
                             .ndim = t.ndim,
                             .begin = (uint64_t)(t.bytes.at - r->data),
                             .size = size};
    memcpy(item->shape_, t.shape_, sizeof item->shape_);
    return MICA_OK;
}

/* ---- names of nameless weights ---- */

/* A product with a constant: what comes out, the constant, and what it is called then. */
typedef struct product {
    message output;
    mica_onnx_item *item;
    const char *name; /* NULL: as it is */
} product;

enum { NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_TYPE = 4 };

typedef struct node {
    message input[2], output, type;
    int inputs;
} node;

static bool read_node(message m, node *n)
{
    field f;
    *n = (node){.inputs = 0};
    while (next_field(&m, &f)) {
        if (f.wire != WIRE_BYTES)
            continue;
        if (f.number == NODE_INPUT && n->inputs++ < 2)
            n->input[n->inputs - 1] = f.bytes;
        else if (f.number == NODE_OUTPUT && !n->output.at)
            n->output = f.bytes;
        else if (f.number == NODE_TYPE)
            n->type = f.bytes;
    }
    return !m.broken;
}

static bool is_type(const node *n, const char *type)
{
    const size_t size = (size_t)(n->type.end - n->type.at);
    return size == strlen(type) && memcmp(n->type.at, type, size) == 0;
}

static int compare_text(message a, const char *b, size_t b_size)
{
    const size_t a_size = (size_t)(a.end - a.at);
    const int order = a_size && b_size ? memcmp(a.at, b, MICA_MIN(a_size, b_size)) : 0;
    return order ? order : (a_size > b_size) - (a_size < b_size);
}

static mica_onnx_item *find_item(const reader *r, message name)
{
    for (size_t low = 0, high = r->out->count; low < high;) {
        const size_t middle = low + (high - low) / 2;
        mica_onnx_item *item = r->sorted[middle];
        const int order = compare_text(name, item->name, strlen(item->name));
        if (order == 0)
            return item;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static int compare_products(const void *a, const void *b)
{
    const product *x = a, *y = b;
    return compare_text(x->output, (const char *)y->output.at,
                        (size_t)(y->output.end - y->output.at));
}

static product *find_product(product *list, size_t count, message name)
{
    const product key = {.output = name};
    return count ? bsearch(&key, list, count, sizeof *list, compare_products) : NULL;
}

/* "a.b.bias" + a product with a constant: the constant becomes "a.b.weight". One that has a name of its
 * own, or whose name is taken, stays. */
static mica_status name_constant(const reader *r, product *p, const char *bias, mica_err *err)
{
    static const char BIAS[] = ".bias", WEIGHT[] = ".weight";
    const size_t n = strlen(bias), stem = n - MICA_MIN(n, sizeof BIAS - 1);
    if (stem == 0 || strcmp(bias + stem, BIAS) != 0 || p->item->ndim != 2)
        return MICA_OK;
    char *name = mica_arena_alloc(r->arena, stem + sizeof WEIGHT);
    if (!name)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its names", r->path);
    memcpy(name, bias, stem);
    memcpy(name + stem, WEIGHT, sizeof WEIGHT);
    const message key = {.at = (const uint8_t *)name, .end = (const uint8_t *)name + strlen(name)};
    if (mica_tensor_name_is_valid(name) && !find_item(r, key))
        p->name = name;
    return MICA_OK;
}

static mica_status name_of_sum(const reader *r, const node *n, product *list, size_t count,
                               mica_err *err)
{
    for (int i = 0; i < 2 && n->inputs == 2; i++) {
        const mica_onnx_item *bias = find_item(r, n->input[i]);
        product *p = bias ? find_product(list, count, n->input[1 - i]) : NULL;
        if (p)
            return name_constant(r, p, bias->name, err);
    }
    return MICA_OK;
}

/* ---- the graph ---- */

enum { MODEL_GRAPH = 7, GRAPH_NODE = 1, GRAPH_INITIALIZER = 5 };

static mica_status fail_damaged(const char *path, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_FORMAT, "%s: a damaged ONNX file", path);
}

static size_t count_fields(message m, uint32_t number)
{
    field f;
    size_t count = 0;
    while (next_field(&m, &f))
        count += f.number == number && f.wire == WIRE_BYTES;
    return count;
}

static int compare_items(const void *a, const void *b)
{
    return strcmp((*(mica_onnx_item *const *)a)->name, (*(mica_onnx_item *const *)b)->name);
}

static mica_status read_initializers(reader *r, message graph, mica_err *err)
{
    field f;
    const size_t most = count_fields(graph, GRAPH_INITIALIZER);
    if (most > MAX_ITEMS)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %zu initialisers; at most %u are read", r->path,
                         most, MAX_ITEMS);
    r->out->items = mica_arena_calloc(r->arena, most + 1, sizeof *r->out->items);
    r->sorted = mica_arena_calloc(r->arena, most + 1, sizeof *r->sorted);
    if (!r->out->items || !r->sorted)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its directory", r->path);
    while (next_field(&graph, &f))
        if (f.number == GRAPH_INITIALIZER && f.wire == WIRE_BYTES)
            MICA_TRY(take_tensor(r, f.bytes, err));
    if (graph.broken)
        return fail_damaged(r->path, err);
    for (size_t i = 0; i < r->out->count; i++)
        r->sorted[i] = &r->out->items[i];
    qsort(r->sorted, r->out->count, sizeof *r->sorted, compare_items);
    for (size_t i = 1; i < r->out->count; i++)
        if (strcmp(r->sorted[i - 1]->name, r->sorted[i]->name) == 0)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: two initialisers are called %s", r->path,
                             r->sorted[i]->name);
    return MICA_OK;
}

static mica_status name_weights(const reader *r, message graph, mica_err *err)
{
    field f;
    node n;
    const size_t most = count_fields(graph, GRAPH_NODE);
    if (most > MAX_NODES)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %zu nodes; at most %u are read", r->path, most,
                         MAX_NODES);
    product *list = mica_arena_calloc(r->arena, most + 1, sizeof *list);
    size_t count = 0;
    if (!list)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its nodes", r->path);
    for (message m = graph; next_field(&m, &f);) {
        if (f.number != GRAPH_NODE || f.wire != WIRE_BYTES)
            continue;
        if (!read_node(f.bytes, &n))
            return fail_damaged(r->path, err);
        mica_onnx_item *item =
            is_type(&n, "MatMul") && n.inputs == 2 ? find_item(r, n.input[1]) : NULL;
        if (item)
            list[count++] = (product){n.output, item, NULL};
    }
    qsort(list, count, sizeof *list, compare_products);
    for (message m = graph; next_field(&m, &f);)
        if (f.number == GRAPH_NODE && f.wire == WIRE_BYTES && read_node(f.bytes, &n) &&
            is_type(&n, "Add"))
            MICA_TRY(name_of_sum(r, &n, list, count, err));
    for (size_t i = 0; i < count; i++) /* not before: items are found by their old names */
        if (list[i].name && !list[i].item->is_transposed) {
            list[i].item->name = list[i].name;
            list[i].item->is_transposed = true;
        }
    return MICA_OK;
}

mica_status mica_onnx_parse(mica_onnx *o, const char *path, const uint8_t *data, size_t size,
                            mica_arena *arena, mica_err *err)
{
    reader r = {.path = path, .data = data, .arena = arena, .out = o};
    message m = {.at = data, .end = data + size}, graph = {.at = NULL};
    field f;
    *o = (mica_onnx){.items = NULL};
    while (next_field(&m, &f))
        if (f.number == MODEL_GRAPH && f.wire == WIRE_BYTES)
            graph = f.bytes;
    if (m.broken)
        return fail_damaged(path, err);
    if (!graph.at)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: an ONNX file without a graph", path);
    MICA_TRY(read_initializers(&r, graph, err));
    return name_weights(&r, graph, err);
}

/* ir_version comes first (field 1, a small number), then another field. The upper half of a safetensors
 * file's length is zero; that of a message is not. */
bool mica_onnx_is_image(const uint8_t *data, size_t size)
{
    static const uint8_t NEXT[] = {0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42, 0x72};
    if (size < 8 || data[0] != 0x08 || data[1] == 0 || data[1] > 0x3f ||
        memchr(NEXT, data[2], sizeof NEXT) == NULL)
        return false;
    return data[4] || data[5] || data[6] || data[7];
}
