/* pickle.c - the stack machine of a pickle with every call taken out; see pickle.h.
 *
 *     stack   values, growing upwards        ( pushes a mark: t, l, d, e, u take what is above it
 *     memo    values by number               q stores, h fetches: strings and classes recur
 *
 * Opcodes of protocols 0 to 5 that torch.save and the pickle module write for data are known,
 * with three groups left out on purpose: text forms of numbers (protocol 0), extension
 * codes, and buffers outside the stream. Reference: Lib/pickletools.py of CPython for the
 * opcodes, torch/_utils.py _rebuild_tensor_v2 and torch/serialization.py persistent_load for
 * what the names mean. */
#include "format/pickle.h"

#include "base/checked.h"
#include "base/mem.h"

#include <inttypes.h>
#include <string.h>

#define MAX_MEMO  ((size_t)1 << 20)
#define MAX_STACK ((size_t)1 << 20)
#define SLAB      256 /* values per allocation */

typedef mica_pickle_value value;

typedef struct machine {
    const char *path;
    const uint8_t *data;
    size_t size, at;
    mica_arena *arena;
    value *slab;
    size_t slab_left, values;
    value **stack;
    size_t depth, stack_cap;
    size_t *marks; /* depths */
    size_t mark_count, mark_cap;
    value **memo;
    size_t memo_count, memo_cap; /* memo_count: slots in use from 0 */
    mica_err *err;
} machine;

static mica_status no_memory(const machine *m)
{
    return MICA_FAIL(m->err, MICA_E_NOMEM, "%s: out of memory for its pickle", m->path);
}

static mica_status damaged(const machine *m, const char *what)
{
    return MICA_FAIL(m->err, MICA_E_FORMAT, "%s: its pickle is damaged at byte %zu: %s", m->path,
                     m->at, what);
}

/* ---- values ---- */

static mica_status make(machine *m, mica_pickle_kind kind, value **out)
{
    if (m->values >= MICA_PICKLE_MAX_VALUES)
        return damaged(m, "it has too many values");
    if (m->slab_left == 0) {
        m->slab = mica_arena_calloc(m->arena, SLAB, sizeof *m->slab);
        if (!m->slab)
            return no_memory(m);
        m->slab_left = SLAB;
    }
    *out = m->slab++;
    m->slab_left--;
    m->values++;
    (*out)->kind = kind;
    return MICA_OK;
}

static mica_status append(machine *m, value *list, value *item)
{
    if (list->as.list.count == list->as.list.cap) {
        const size_t cap = list->as.list.cap ? 2 * list->as.list.cap : 8;
        value **items = mica_arena_alloc(m->arena, cap * sizeof(value *));
        if (!items)
            return no_memory(m);
        if (list->as.list.count)
            memcpy(items, list->as.list.items, list->as.list.count * sizeof(value *));
        list->as.list.items = items;
        list->as.list.cap = cap;
    }
    list->as.list.items[list->as.list.count++] = item;
    return MICA_OK;
}

static bool is_list(const value *v)
{
    return v->kind == MICA_PICKLE_LIST;
}

static bool is_text(const value *v, const char *text)
{
    return v->kind == MICA_PICKLE_TEXT && strcmp(v->as.text.data, text) == 0;
}

const mica_pickle_value *mica_pickle_get(const mica_pickle_value *dict, const char *key)
{
    if (!dict || dict->kind != MICA_PICKLE_DICT)
        return NULL;
    for (size_t i = dict->as.list.count; i >= 2; i -= 2)
        if (is_text(dict->as.list.items[i - 2], key))
            return dict->as.list.items[i - 1];
    return NULL;
}

/* ---- stack and memo ---- */

static mica_status push(machine *m, value *v)
{
    if (m->depth == m->stack_cap) {
        const size_t cap = m->stack_cap ? 2 * m->stack_cap : 256;
        value **stack = cap > MAX_STACK ? NULL : mica_mem_realloc(m->stack, cap * sizeof *m->stack);
        if (!stack)
            return cap > MAX_STACK ? damaged(m, "its stack is too deep") : no_memory(m);
        m->stack = stack;
        m->stack_cap = cap;
    }
    m->stack[m->depth++] = v;
    return MICA_OK;
}

static size_t floor_of(const machine *m)
{
    return m->mark_count ? m->marks[m->mark_count - 1] : 0;
}

static mica_status pop(machine *m, value **out)
{
    if (m->depth <= floor_of(m))
        return damaged(m, "it takes from an empty stack");
    *out = m->stack[--m->depth];
    return MICA_OK;
}

static mica_status top(machine *m, value **out)
{
    if (m->depth <= floor_of(m))
        return damaged(m, "it looks at an empty stack");
    *out = m->stack[m->depth - 1];
    return MICA_OK;
}

static mica_status push_mark(machine *m)
{
    if (m->mark_count == m->mark_cap) {
        const size_t cap = m->mark_cap ? 2 * m->mark_cap : 64;
        size_t *marks = cap > MAX_STACK ? NULL : mica_mem_realloc(m->marks, cap * sizeof *m->marks);
        if (!marks)
            return cap > MAX_STACK ? damaged(m, "it has too many marks") : no_memory(m);
        m->marks = marks;
        m->mark_cap = cap;
    }
    m->marks[m->mark_count++] = m->depth;
    return MICA_OK;
}

/* The values above the last mark leave the stack; they stay readable until the next push. */
static mica_status pop_mark(machine *m, value ***items, size_t *count)
{
    if (m->mark_count == 0)
        return damaged(m, "a mark is missing");
    const size_t from = m->marks[--m->mark_count];
    *items = m->stack ? m->stack + from : NULL; /* nothing was ever pushed */
    *count = m->depth - from;
    m->depth = from;
    return MICA_OK;
}

static mica_status remember(machine *m, size_t index)
{
    value *v = NULL;
    MICA_TRY(top(m, &v));
    if (index >= MAX_MEMO)
        return damaged(m, "its memo is too large");
    if (index >= m->memo_cap) {
        size_t cap = m->memo_cap ? m->memo_cap : 1024;
        while (cap <= index)
            cap *= 2;
        value **memo = mica_mem_realloc(m->memo, cap * sizeof *m->memo);
        if (!memo)
            return no_memory(m);
        memset(memo + m->memo_cap, 0, (cap - m->memo_cap) * sizeof *memo);
        m->memo = memo;
        m->memo_cap = cap;
    }
    m->memo[index] = v;
    m->memo_count = MICA_MAX(m->memo_count, index + 1);
    return MICA_OK;
}

static mica_status recall(machine *m, size_t index)
{
    if (index >= m->memo_cap || !m->memo[index])
        return damaged(m, "it refers to a value that was not stored");
    return push(m, m->memo[index]);
}

/* ---- arguments of opcodes ---- */

static mica_status take(machine *m, size_t n, const uint8_t **out)
{
    if (n > m->size - m->at)
        return damaged(m, "it ends in the middle of a value");
    *out = m->data + m->at;
    m->at += n;
    return MICA_OK;
}

static mica_status take_number(machine *m, int bytes, uint64_t *out)
{
    const uint8_t *p = NULL;
    MICA_TRY(take(m, (size_t)bytes, &p));
    *out = 0;
    for (int i = bytes - 1; i >= 0; i--)
        *out = *out << 8 | p[i];
    return MICA_OK;
}

static mica_status take_line(machine *m, const char **text, size_t *size)
{
    const uint8_t *from = m->data + m->at;
    const uint8_t *end = memchr(from, '\n', m->size - m->at);
    if (!end)
        return damaged(m, "a name has no end");
    *text = (const char *)from;
    *size = (size_t)(end - from);
    m->at += *size + 1;
    return MICA_OK;
}

static mica_status push_text(machine *m, int length_bytes)
{
    uint64_t n = 0;
    const uint8_t *p = NULL;
    value *v = NULL;
    MICA_TRY(take_number(m, length_bytes, &n));
    if (n > m->size)
        return damaged(m, "a text is longer than the file");
    MICA_TRY(take(m, (size_t)n, &p));
    MICA_TRY(make(m, MICA_PICKLE_TEXT, &v));
    v->as.text.data = mica_arena_strndup(m->arena, (const char *)p, (size_t)n);
    v->as.text.size = (size_t)n;
    return v->as.text.data ? push(m, v) : no_memory(m);
}

static mica_status push_integer(machine *m, mica_pickle_kind kind, int64_t number)
{
    value *v = NULL;
    MICA_TRY(make(m, kind, &v));
    v->as.integer = number;
    return push(m, v);
}

/* LONG1: little-endian two's complement of n bytes; more than 8 do not occur in checkpoints. */
static mica_status push_long(machine *m, int length_bytes)
{
    uint64_t n = 0, bits = 0;
    MICA_TRY(take_number(m, length_bytes, &n));
    if (n > 8)
        return damaged(m, "an integer has more than 64 bits");
    if (n > 0)
        MICA_TRY(take_number(m, (int)n, &bits));
    if (n > 0 && n < 8 && bits >> (8 * n - 1))
        bits |= UINT64_MAX << (8 * n);
    return push_integer(m, MICA_PICKLE_INT, (int64_t)bits);
}

static mica_status push_float(machine *m)
{
    const uint8_t *p = NULL;
    value *v = NULL;
    uint64_t bits = 0;
    MICA_TRY(take(m, 8, &p));
    for (int i = 0; i < 8; i++) /* big-endian */
        bits = bits << 8 | p[i];
    MICA_TRY(make(m, MICA_PICKLE_FLOAT, &v));
    memcpy(&v->as.number, &bits, sizeof bits);
    return push(m, v);
}

/* ---- names ---- */

typedef enum name_role {
    ROLE_UNKNOWN = 0,
    ROLE_DICT,      /* called without arguments or with a list of pairs */
    ROLE_LIST,      /* called with one list */
    ROLE_TENSOR,    /* torch._utils._rebuild_tensor_v2 */
    ROLE_PARAMETER, /* its first argument */
    ROLE_STORAGE
} name_role;

typedef struct known_name {
    const char *name;
    name_role role;
    mica_dtype dtype; /* of a storage */
} known_name;

static const known_name NAMES[] = {
    {"collections.OrderedDict", ROLE_DICT, 0},
    {"utils.HParams", ROLE_DICT, 0},
    {"torch.Size", ROLE_LIST, 0},
    {"builtins.set", ROLE_LIST, 0},
    {"__builtin__.set", ROLE_LIST, 0},
    {"torch._utils._rebuild_tensor_v2", ROLE_TENSOR, 0},
    {"torch._utils._rebuild_parameter", ROLE_PARAMETER, 0},
    {"torch.FloatStorage", ROLE_STORAGE, MICA_DTYPE_F32},
    {"torch.HalfStorage", ROLE_STORAGE, MICA_DTYPE_F16},
    {"torch.BFloat16Storage", ROLE_STORAGE, MICA_DTYPE_BF16},
    {"torch.DoubleStorage", ROLE_STORAGE, MICA_DTYPE_F64},
    {"torch.LongStorage", ROLE_STORAGE, MICA_DTYPE_I64},
    {"torch.IntStorage", ROLE_STORAGE, MICA_DTYPE_I32},
    {"torch.ShortStorage", ROLE_STORAGE, MICA_DTYPE_I16},
    {"torch.CharStorage", ROLE_STORAGE, MICA_DTYPE_I8},
    {"torch.ByteStorage", ROLE_STORAGE, MICA_DTYPE_U8},
    {"torch.BoolStorage", ROLE_STORAGE, MICA_DTYPE_BOOL},
};

/* Modules, or names of one, that turn loading into running. Files with them are not opened. */
static const char *const ATTACKS[] = {
    "os.",
    "posix.",
    "nt.",
    "subprocess.",
    "sys.",
    "socket.",
    "shutil.",
    "pty.",
    "runpy.",
    "importlib.",
    "ctypes.",
    "code.",
    "pickle.",
    "webbrowser.",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.open",
    "builtins.getattr",
    "__builtin__.eval",
    "__builtin__.exec",
    "__builtin__.compile",
    "__builtin__.__import__",
    "__builtin__.open",
    "__builtin__.getattr",
};

static const known_name *known(const value *name)
{
    static const known_name UNKNOWN = {"", ROLE_UNKNOWN, 0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES); i++)
        if (strcmp(NAMES[i].name, name->as.text.data) == 0)
            return &NAMES[i];
    return &UNKNOWN;
}

static bool is_identifier(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(text[i] == '_' || text[i] == '.' || (text[i] >= '0' && text[i] <= '9') ||
              (text[i] >= 'A' && text[i] <= 'Z') || (text[i] >= 'a' && text[i] <= 'z')))
            return false;
    return n > 0 && n < 200;
}

static mica_status push_name(machine *m, const char *module, size_t module_size, const char *name,
                             size_t name_size)
{
    value *v = NULL;
    if (!is_identifier(module, module_size) || !is_identifier(name, name_size))
        return damaged(m, "a class has no proper name");
    char *text = mica_arena_alloc(m->arena, module_size + name_size + 2);
    if (!text)
        return no_memory(m);
    memcpy(text, module, module_size);
    text[module_size] = '.';
    memcpy(text + module_size + 1, name, name_size);
    text[module_size + 1 + name_size] = '\0';
    for (size_t i = 0; i < MICA_ARRAY_LEN(ATTACKS); i++)
        if (strncmp(text, ATTACKS[i], strlen(ATTACKS[i])) == 0)
            return MICA_FAIL(m->err, MICA_E_FORMAT,
                             "%s: its pickle names %s, for which weights have no use; the file is "
                             "not to be trusted",
                             m->path, text);
    MICA_TRY(make(m, MICA_PICKLE_NAME, &v));
    v->as.text.data = text;
    v->as.text.size = module_size + 1 + name_size;
    return push(m, v);
}

static mica_status push_global(machine *m)
{
    const char *module = NULL, *name = NULL;
    size_t module_size = 0, name_size = 0;
    MICA_TRY(take_line(m, &module, &module_size));
    MICA_TRY(take_line(m, &name, &name_size));
    return push_name(m, module, module_size, name, name_size);
}

static mica_status push_stack_global(machine *m)
{
    value *name = NULL, *module = NULL;
    MICA_TRY(pop(m, &name));
    MICA_TRY(pop(m, &module));
    if (name->kind != MICA_PICKLE_TEXT || module->kind != MICA_PICKLE_TEXT)
        return damaged(m, "the name of a class is no text");
    return push_name(m, module->as.text.data, module->as.text.size, name->as.text.data,
                     name->as.text.size);
}

/* ---- tensors ---- */

/* ('storage', torch.XStorage, 'key', 'device', count) */
static mica_status push_storage(machine *m)
{
    value *id = NULL, *v = NULL;
    MICA_TRY(pop(m, &id));
    if (!is_list(id) || id->as.list.count < 5)
        return damaged(m, "a storage is not described as torch does");
    value **part = id->as.list.items;
    if (!is_text(part[0], "storage") || part[1]->kind != MICA_PICKLE_NAME ||
        part[2]->kind != MICA_PICKLE_TEXT || part[4]->kind != MICA_PICKLE_INT ||
        part[4]->as.integer < 0)
        return damaged(m, "a storage is not described as torch does");
    const known_name *type = known(part[1]);
    if (type->role != ROLE_STORAGE)
        return MICA_FAIL(m->err, MICA_E_UNSUPPORTED,
                         "%s: a tensor is stored as %s, which is not read here", m->path,
                         part[1]->as.text.data);
    MICA_TRY(make(m, MICA_PICKLE_STORAGE, &v));
    v->as.tensor = mica_arena_calloc(m->arena, 1, sizeof *v->as.tensor);
    if (!v->as.tensor)
        return no_memory(m);
    v->as.tensor->key = part[2]->as.text.data;
    v->as.tensor->dtype = type->dtype;
    v->as.tensor->storage_count = part[4]->as.integer;
    return push(m, v);
}

/* A tuple of sizes or strides. */
static bool read_sizes(const value *v, int *count, int64_t out[MICA_MAX_DIMS])
{
    if (!is_list(v) || v->as.list.count > MICA_MAX_DIMS)
        return false;
    *count = (int)v->as.list.count;
    for (int i = 0; i < *count; i++) {
        const value *n = v->as.list.items[i];
        if (n->kind != MICA_PICKLE_INT || n->as.integer < 0)
            return false;
        out[i] = n->as.integer;
    }
    return true;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]) */
static mica_status make_tensor(machine *m, const value *args, value **out)
{
    value **arg = args->as.list.items;
    int dims = 0, strides = 0;
    if (args->as.list.count < 4 || arg[0]->kind != MICA_PICKLE_STORAGE ||
        arg[1]->kind != MICA_PICKLE_INT || arg[1]->as.integer < 0)
        return damaged(m, "a tensor is not described as torch does");
    MICA_TRY(make(m, MICA_PICKLE_TENSOR, out));
    mica_pickle_tensor *t = mica_arena_calloc(m->arena, 1, sizeof *t);
    if (!t)
        return no_memory(m);
    *t = *arg[0]->as.tensor;
    t->offset = arg[1]->as.integer;
    (*out)->as.tensor = t;
    if (!read_sizes(arg[2], &dims, t->shape_) || !read_sizes(arg[3], &strides, t->stride_) ||
        dims != strides)
        return damaged(m, "a tensor has no usable sizes (6 dimensions at most, none negative)");
    t->ndim = dims;
    return MICA_OK;
}

/* ---- calls ---- */

static mica_status make_dict(machine *m, const value *args, value **out)
{
    MICA_TRY(make(m, MICA_PICKLE_DICT, out));
    if (args->as.list.count == 0 || !is_list(args->as.list.items[0]))
        return MICA_OK;
    const value *pairs = args->as.list.items[0];
    for (size_t i = 0; i < pairs->as.list.count; i++) {
        const value *pair = pairs->as.list.items[i];
        if (!is_list(pair) || pair->as.list.count != 2)
            return damaged(m, "a dict is not made from pairs");
        MICA_TRY(append(m, *out, pair->as.list.items[0]));
        MICA_TRY(append(m, *out, pair->as.list.items[1]));
    }
    return MICA_OK;
}

static mica_status make_object(machine *m, const value *name, value **out)
{
    MICA_TRY(make(m, MICA_PICKLE_OBJECT, out));
    (*out)->as.text.data = name->kind == MICA_PICKLE_NAME ? name->as.text.data : "(unnamed)";
    (*out)->as.text.size = strlen((*out)->as.text.data);
    return MICA_OK;
}

/* Both forms of "call": name and tuple of arguments. */
static mica_status call(machine *m)
{
    value *args = NULL, *name = NULL, *out = NULL;
    MICA_TRY(pop(m, &args));
    MICA_TRY(pop(m, &name));
    if (!is_list(args))
        return damaged(m, "the arguments of a call are no tuple");
    const name_role role = name->kind == MICA_PICKLE_NAME ? known(name)->role : ROLE_UNKNOWN;
    const bool one = args->as.list.count > 0;
    if (role == ROLE_DICT)
        MICA_TRY(make_dict(m, args, &out));
    else if (role == ROLE_TENSOR)
        MICA_TRY(make_tensor(m, args, &out));
    else if ((role == ROLE_LIST && one && is_list(args->as.list.items[0])) ||
             (role == ROLE_PARAMETER && one))
        out = args->as.list.items[0];
    else
        MICA_TRY(make_object(m, name, &out));
    return push(m, out);
}

/* BUILD: attributes of an object. Those of utils.HParams are what it holds; an OrderedDict's
 * (_metadata) and a tensor's are of no use here. */
static mica_status build(machine *m)
{
    value *state = NULL, *object = NULL;
    MICA_TRY(pop(m, &state));
    MICA_TRY(top(m, &object));
    if (object->kind != MICA_PICKLE_DICT || state->kind != MICA_PICKLE_DICT ||
        mica_pickle_get(state, "_metadata") || object == state)
        return MICA_OK;
    const size_t count = state->as.list.count;
    for (size_t i = 0; i < count; i++)
        MICA_TRY(append(m, object, state->as.list.items[i]));
    return MICA_OK;
}

/* ---- containers ---- */

static mica_status push_list(machine *m, mica_pickle_kind kind, value **items, size_t count)
{
    value *v = NULL;
    MICA_TRY(make(m, kind, &v));
    if (kind == MICA_PICKLE_DICT && count % 2 != 0)
        return damaged(m, "a dict has a key without a value");
    for (size_t i = 0; i < count; i++)
        MICA_TRY(append(m, v, items[i]));
    return push(m, v);
}

static mica_status push_marked(machine *m, mica_pickle_kind kind)
{
    value **items = NULL;
    size_t count = 0;
    MICA_TRY(pop_mark(m, &items, &count));
    return push_list(m, kind, items, count);
}

/* TUPLE1 to TUPLE3. */
static mica_status push_tuple(machine *m, size_t count)
{
    if (m->depth < floor_of(m) + count)
        return damaged(m, "it takes from an empty stack");
    m->depth -= count;
    return push_list(m, MICA_PICKLE_LIST, m->stack + m->depth, count);
}

/* `count` values on top go into the list or dict below them. */
static mica_status extend(machine *m, value **items, size_t count, mica_pickle_kind kind)
{
    value *into = NULL;
    MICA_TRY(top(m, &into));
    if (into->kind == MICA_PICKLE_OBJECT)
        return MICA_OK; /* items of something that means nothing here */
    if (into->kind != kind || (kind == MICA_PICKLE_DICT && count % 2 != 0))
        return damaged(m, "it adds to something that is not a list or dict");
    for (size_t i = 0; i < count; i++)
        MICA_TRY(append(m, into, items[i]));
    return MICA_OK;
}

static mica_status extend_marked(machine *m, mica_pickle_kind kind)
{
    value **items = NULL;
    size_t count = 0;
    MICA_TRY(pop_mark(m, &items, &count));
    return extend(m, items, count, kind);
}

static mica_status extend_by(machine *m, size_t count, mica_pickle_kind kind)
{
    if (m->depth < floor_of(m) + count)
        return damaged(m, "it takes from an empty stack");
    m->depth -= count;
    return extend(m, m->stack + m->depth, count, kind);
}

static mica_status discard(machine *m)
{
    value *unused = NULL;
    if (m->depth > floor_of(m))
        return pop(m, &unused);
    value **items = NULL;
    size_t count = 0;
    return pop_mark(m, &items, &count);
}

/* POP_MARK */
static mica_status discard_marked(machine *m)
{
    value **items = NULL;
    size_t count = 0;
    return pop_mark(m, &items, &count);
}

/* ---- opcodes ---- */

static mica_status push_none(machine *m)
{
    value *v = NULL;
    MICA_TRY(make(m, MICA_PICKLE_NONE, &v));
    return push(m, v);
}

static mica_status number_then(machine *m, int bytes, mica_status (*then)(machine *, size_t))
{
    uint64_t n = 0;
    MICA_TRY(take_number(m, bytes, &n));
    return then(m, (size_t)n);
}

static mica_status push_small(machine *m, int bytes)
{
    uint64_t n = 0;
    MICA_TRY(take_number(m, bytes, &n));
    return push_integer(m, MICA_PICKLE_INT,
                        bytes == 4 ? (int64_t)(int32_t)(uint32_t)n : (int64_t)n);
}

static mica_status skip(machine *m, size_t n)
{
    const uint8_t *p = NULL;
    return take(m, n, &p);
}

static mica_status step(machine *m, uint8_t op)
{
    switch (op) {
    case 0x80: /* PROTO */
        return skip(m, 1);
    case 0x95: /* FRAME */
        return skip(m, 8);
    case '(':
        return push_mark(m);
    case '0':
        return discard(m);
    case '1':
        return discard_marked(m);
    case 'N':
        return push_none(m);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push_integer(m, MICA_PICKLE_BOOL, op == 0x88);
    case 'K':
        return push_small(m, 1);
    case 'M':
        return push_small(m, 2);
    case 'J':
        return push_small(m, 4);
    case 0x8a: /* LONG1 */
        return push_long(m, 1);
    case 0x8b: /* LONG4 */
        return push_long(m, 4);
    case 'G':
        return push_float(m);
    case 'U': /* SHORT_BINSTRING, SHORT_BINBYTES, SHORT_BINUNICODE */
    case 'C':
    case 0x8c:
        return push_text(m, 1);
    case 'T': /* BINSTRING, BINBYTES, BINUNICODE */
    case 'B':
    case 'X':
        return push_text(m, 4);
    case 0x8d: /* BINUNICODE8, BINBYTES8, BYTEARRAY8 */
    case 0x8e:
    case 0x96:
        return push_text(m, 8);
    case ']': /* EMPTY_LIST, EMPTY_TUPLE, EMPTY_SET */
    case ')':
    case 0x8f:
        return push_list(m, MICA_PICKLE_LIST, NULL, 0);
    case '}':
        return push_list(m, MICA_PICKLE_DICT, NULL, 0);
    case 't': /* TUPLE, LIST, FROZENSET */
    case 'l':
    case 0x91:
        return push_marked(m, MICA_PICKLE_LIST);
    case 'd':
        return push_marked(m, MICA_PICKLE_DICT);
    case 0x85: /* TUPLE1, TUPLE2, TUPLE3 */
    case 0x86:
    case 0x87:
        return push_tuple(m, (size_t)op - 0x84);
    case 'a':
        return extend_by(m, 1, MICA_PICKLE_LIST);
    case 'e': /* APPENDS, ADDITEMS */
    case 0x90:
        return extend_marked(m, MICA_PICKLE_LIST);
    case 's':
        return extend_by(m, 2, MICA_PICKLE_DICT);
    case 'u':
        return extend_marked(m, MICA_PICKLE_DICT);
    case 'q':
        return number_then(m, 1, remember);
    case 'r':
        return number_then(m, 4, remember);
    case 0x94: /* MEMOIZE */
        return remember(m, m->memo_count);
    case 'h':
        return number_then(m, 1, recall);
    case 'j':
        return number_then(m, 4, recall);
    case 'c':
        return push_global(m);
    case 0x93:
        return push_stack_global(m);
    case 'R': /* REDUCE, NEWOBJ */
    case 0x81:
        return call(m);
    case 'b':
        return build(m);
    case 'Q':
        return push_storage(m);
    default:
        return MICA_FAIL(m->err, MICA_E_FORMAT,
                         "%s: its pickle holds the instruction 0x%02x at byte %zu, which weights "
                         "have no use for",
                         m->path, op, m->at - 1);
    }
}

static mica_status run(machine *m, value **root)
{
    while (m->at < m->size) {
        const uint8_t op = m->data[m->at++];
        if (op != '.') {
            MICA_TRY(step(m, op));
            continue;
        }
        MICA_TRY(pop(m, root));
        return m->depth == 0 && m->mark_count == 0 ? MICA_OK : damaged(m, "it leaves values over");
    }
    return damaged(m, "it has no end");
}

mica_status mica_pickle_parse(mica_pickle_value **root, const char *path, const uint8_t *data,
                              size_t size, mica_arena *arena, mica_err *err)
{
    machine m = {.path = path, .data = data, .size = size, .arena = arena, .err = err};
    *root = NULL;
    if (size > MICA_PICKLE_MAX_SIZE)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: a pickle of %zu bytes is too large for weights",
                         path, size);
    const mica_status st = run(&m, root);
    mica_mem_free(m.stack);
    mica_mem_free(m.marks);
    mica_mem_free(m.memo);
    if (st != MICA_OK)
        *root = NULL;
    return st;
}
