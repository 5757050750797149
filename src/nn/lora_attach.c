/* lora_attach.c - finds the layers that a LoRA file means and hangs its adapters on them; see lora.h.
 *
 *     target "double_blocks.3.img_attn.qkv", [3 D, D]
 *        │  a directory with this one name and no data
 *        ▼  the family's own rename
 *     transformer_blocks.3.attn.to_q.weight [D, D]  rows 0 ..     ─► tables ─► mica_weight
 *     transformer_blocks.3.attn.to_k.weight [D, D]  rows D ..         adapter: skip D, count D
 *     ...
 *
 * So every spelling that a model reads in its weight files it reads in LoRA files too, and what is
 * fused there is split in the same places. Flat names ("transformer_blocks_3_attn_to_q") are compared with
 * the flattened names of the tables and of the family's aliases; nothing is guessed. */
#include "nn/lora_internal.h"

#include "base/mem.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WEIGHT ".weight"

/* --------------------------------------------------------------- patterns -- */

/* Whether `name` is `pattern` with a number for its %d. With `flat` a dot of the pattern is an
 * underscore of the name. */
static bool matches(const char *pattern, size_t length, bool flat, const char *name, int *index)
{
    size_t i = 0;
    *index = 0;
    while (i < length) {
        if (pattern[i] == '%') { /* %d */
            const char *digits = name;
            for (; *name >= '0' && *name <= '9' && *index < 100000; name++)
                *index = *index * 10 + (*name - '0');
            if (name == digits || (digits[0] == '0' && name > digits + 1))
                return false;
            i += 2;
            continue;
        }
        if (*name != (flat && pattern[i] == '.' ? '_' : pattern[i]))
            return false;
        i++;
        name++;
    }
    return *name == '\0';
}

/* The dotted name that a pattern gives at `index`. */
static void write_name(const char *pattern, size_t length, int index, char *out, size_t cap)
{
    const char *hole = memchr(pattern, '%', length);
    if (hole)
        snprintf(out, cap, "%.*s%d%.*s", (int)(hole - pattern), pattern, index,
                 (int)(pattern + length - hole - 2), hole + 2);
    else
        snprintf(out, cap, "%.*s", (int)length, pattern);
}

/* Length of a row's name without ".weight"; 0: it has another ending. */
static size_t stem_of(const mica_weight_row *row)
{
    const size_t n = strlen(row->pattern), m = sizeof WEIGHT - 1;
    return n > m && strcmp(row->pattern + n - m, WEIGHT) == 0 ? n - m : 0;
}

/* The name of a target in dots. */
static bool resolve_flat(const mica_lora_family *f, const char *flat, char *out, size_t cap)
{
    int index;
    for (size_t g = 0; g < f->group_count; g++)
        for (size_t r = 0; r < f->groups[g].count; r++) {
            const mica_weight_row *row = &f->groups[g].rows[r];
            const size_t n = stem_of(row);
            if (n && matches(row->pattern, n, true, flat, &index)) {
                write_name(row->pattern, n, index, out, cap);
                return true;
            }
        }
    for (const char *const *a = f->aliases; a && *a; a++)
        if (matches(*a, strlen(*a), true, flat, &index)) {
            write_name(*a, strlen(*a), index, out, cap);
            return true;
        }
    return false;
}

/* Where the tensor `name` is bound; *row NULL: in no table; false: not in this model. */
static const mica_weight_row *find_row(const mica_lora_family *f, const char *name, size_t *group,
                                       int *index)
{
    for (*group = 0; *group < f->group_count; ++*group)
        for (size_t r = 0; r < f->groups[*group].count; r++) {
            const mica_weight_row *row = &f->groups[*group].rows[r];
            if (matches(row->pattern, strlen(row->pattern), false, name, index))
                return row;
        }
    return NULL;
}

static mica_weight *find_weight(const mica_lora_family *f, void *weights, const char *name)
{
    size_t group;
    int index;
    const mica_weight_row *row = find_row(f, name, &group, &index);
    char *base = row ? f->block(weights, group, index) : NULL;
    return base ? (mica_weight *)(void *)(base + row->offset) : NULL;
}

/* ----------------------------------------------------------------- naming -- */

/* A directory with the target's tensors under the names that the model gives them. Their data is a
 * block of bytes that nobody reads: where a part begins in it tells which rows it has. */
typedef struct naming {
    mica_weights *names;
    uint8_t *rows; /* columns bytes for each row */
    int64_t columns;
} naming;

static void naming_deinit(naming *n)
{
    mica_weights_close(&n->names);
    mica_mem_free(n->rows);
}

static mica_status add_name(naming *n, const char *name, const char *ending, int64_t rows,
                            int64_t columns, mica_err *err)
{
    char full[MICA_TENSOR_NAME_MAX + 16];
    snprintf(full, sizeof full, "%s%s", name, ending);
    const mica_tensor t = columns ? mica_tensor_2d(n->rows, MICA_DTYPE_U8, rows, columns)
                                  : mica_tensor_1d(n->rows, MICA_DTYPE_U8, rows);
    return mica_weights_add(n->names, full, &t, err);
}

static mica_status naming_make(naming *n, const mica_lora *l, const mica_lora_family *f,
                               const mica_lora_target *t, mica_err *err)
{
    char dotted[MICA_TENSOR_NAME_MAX + 16];
    const int64_t bias = t->bias ? t->bias->shape_[0] : 0;
    const int64_t width = MICA_MAX(1, t->columns), rows = MICA_MAX(t->rows, bias);
    snprintf(dotted, sizeof dotted, "%s", t->name);
    n->columns = width;
    MICA_TRY(mica_weights_open_empty(&n->names, err));
    if (t->is_flat && !resolve_flat(f, t->name, dotted, sizeof dotted))
        return MICA_OK; /* no name, no match */
    if (strlen(dotted) + sizeof WEIGHT > MICA_TENSOR_NAME_MAX)
        return MICA_OK;
    n->rows = mica_mem_calloc((size_t)rows, (size_t)width); /* untouched pages cost nothing */
    if (!n->rows)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to name layer %s",
                         mica_weights_path(l->files), t->name);
    if (t->form != MICA_LORA_FORM_NONE)
        MICA_TRY(add_name(n, dotted, WEIGHT, t->rows, t->columns, err));
    if (t->bias)
        MICA_TRY(add_name(n, dotted, ".bias", bias, 0, err));
    return f->rename(n->names, err);
}

/* ---------------------------------------------------------------- numbers -- */

/* Reads every number once: factors of a few MB each. */
static bool is_finite(const mica_tensor *t)
{
    float block[256];
    const mica_kernels *k = mica_kernels_get();
    const int64_t n = mica_tensor_count(t);
    const uint8_t *data = t->data;
    const size_t size = (size_t)mica_dtype_get(t->dtype)->size;
    for (int64_t i = 0; i < n; i += 256) {
        const int64_t count = MICA_MIN(256, n - i);
        const void *src = data + (size_t)i * size;
        if (t->dtype == MICA_DTYPE_BF16)
            k->f32_from_bf16(count, src, 1.0f, block);
        else if (t->dtype == MICA_DTYPE_F16)
            k->f32_from_f16(count, src, 1.0f, block);
        else if (t->dtype == MICA_DTYPE_F8_E4M3)
            k->f32_from_f8_e4m3(count, src, 1.0f, block);
        else if (t->dtype == MICA_DTYPE_F8_E5M2)
            k->f32_from_f8_e5m2(count, src, 1.0f, block);
        else
            for (int64_t j = 0; j < count; j++)
                block[j] = mica_tensor_read_f32(t, i + j);
        if (!k->all_finite(count, block))
            return false;
    }
    return true;
}

static mica_status check_finite(const mica_lora *l, const mica_lora_target *t, mica_err *err)
{
    for (int r = MICA_LORA_UP; r < MICA_LORA_ROLE_COUNT; r++)
        if (t->tensors[r] && !is_finite(t->tensors[r]))
            return MICA_FAIL(err, MICA_E_NUMERIC, "%s: layer %s: its %s holds NaN or Inf",
                             mica_weights_path(l->files), t->name,
                             mica_lora_role_name((mica_lora_role)r));
    return MICA_OK;
}

/* w1 of a LoKr as f32, multiplied out where the file has two factors: it is the small part. */
static mica_status make_mix(mica_lora *l, mica_lora_target *t, mica_err *err)
{
    mica_tensor *mix = &t->adapter.mix;
    const mica_tensor *w1 = t->tensors[MICA_LORA_LOKR_W1], *a = t->tensors[MICA_LORA_LOKR_W1_A];
    const mica_tensor *b = t->tensors[MICA_LORA_LOKR_W1_B];
    const int64_t rows = mix->shape_[0], columns = mix->shape_[1];
    if (t->form != MICA_LORA_FORM_LOKR || mix->data)
        return MICA_OK;
    float *out = mica_arena_calloc(&l->arena, (size_t)(rows * columns), sizeof *out);
    if (!out)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for layer %s",
                         mica_weights_path(l->files), t->name);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            double sum = w1 ? (double)mica_tensor_read_f32(w1, i * columns + j) : 0.0;
            for (int64_t r = 0; !w1 && r < a->shape_[1]; r++)
                sum += (double)mica_tensor_read_f32(a, i * a->shape_[1] + r) *
                       (double)mica_tensor_read_f32(b, r * columns + j);
            out[i * columns + j] = (float)sum;
        }
    mix->data = out;
    return MICA_OK;
}

/* ----------------------------------------------------------------- attach -- */

typedef struct attaching {
    mica_lora *lora;
    const mica_lora_family *family;
    void *weights;
    double scale;
} attaching;

/* got: its sizes alone mean something. */
static mica_status misfit(const attaching *at, const mica_lora_target *t, const mica_tensor *got,
                          const mica_tensor *want, mica_err *err)
{
    char a[96], b[96];
    mica_tensor_describe(got, a, sizeof a);
    mica_tensor_describe(want, b, sizeof b);
    a[strcspn(a, "]") + 1] = b[strcspn(b, "]") + 1] = '\0'; /* the dtypes do not matter */
    return MICA_FAIL(
        err, MICA_E_FORMAT,
        "%s: layer %s adds %s to a layer of this model that is %s; 'mica inspect' tells "
        "which model the file fits",
        mica_weights_path(at->lora->files), t->name, a, b);
}

static mica_status out_of_memory(const attaching *at, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its adapters",
                     mica_weights_path(at->lora->files));
}

static mica_status attach_matrix(const attaching *at, const mica_lora_target *t, int64_t skip,
                                 mica_weight *w, mica_err *err)
{
    mica_adapter *a = mica_arena_calloc(&at->lora->arena, 1, sizeof *a);
    if (!a)
        return out_of_memory(at, err);
    *a = t->adapter;
    a->next = w->adapters;
    a->skip = skip;
    a->count = w->tensor.shape_[0];
    a->scale = (float)((double)t->adapter.scale * at->scale);
    if (t->tensors[MICA_LORA_MAGNITUDE])
        return mica_lora_decompose(at->lora, t, skip, (double)a->scale, a, w, err);
    w->adapters = a;
    return MICA_OK;
}

/* The vector and scale * diff[skip ..] in f32, in memory of the LoRA's. */
static mica_status attach_vector(const attaching *at, const mica_tensor *diff, double scale,
                                 int64_t skip, mica_weight *w, int64_t count, const char *name,
                                 mica_err *err)
{
    float *sum = mica_arena_calloc(&at->lora->arena, (size_t)count, sizeof *sum);
    const char *own = w->name ? w->name : mica_arena_strndup(&at->lora->arena, name, strlen(name));
    if (!sum || !own)
        return out_of_memory(at, err);
    for (int64_t i = 0; i < count; i++)
        sum[i] = (float)((w->name ? (double)mica_tensor_read_f32(&w->tensor, i) : 0.0) +
                         scale * (double)mica_tensor_read_f32(diff, skip + i));
    w->name = own;
    w->tensor = mica_tensor_1d(sum, MICA_DTYPE_F32, count);
    w->mapped = false;
    return MICA_OK;
}

/* One tensor of a target, under its canonical name. *matched: it is in the model. */
static mica_status attach_part(const attaching *at, const mica_lora_target *t, const naming *n,
                               size_t part, bool *matched, mica_err *err)
{
    const char *name = mica_weights_name(n->names, part);
    const mica_tensor *shape = mica_weights_tensor(n->names, part);
    mica_weight *w = find_weight(at->family, at->weights, name);
    const size_t length = strlen(name);
    const bool bias = length > 5 && strcmp(name + length - 5, ".bias") == 0;
    const int64_t width = shape->ndim == 2 ? n->columns : 1;
    const int64_t skip = ((const uint8_t *)shape->data - n->rows) / width;
    *matched = w && (w->name || bias);
    if (!*matched)
        return MICA_OK;
    if (w->name && (w->tensor.ndim != shape->ndim || w->tensor.shape_[0] != shape->shape_[0] ||
                    (shape->ndim == 2 && w->tensor.shape_[1] != shape->shape_[1])))
        return misfit(at, t, shape, &w->tensor, err);
    if (shape->ndim == 2)
        return attach_matrix(at, t, skip, w, err);
    const double scale = at->scale * (bias ? (double)t->bias_scale : 1.0);
    const mica_tensor *diff = bias ? t->bias : t->tensors[MICA_LORA_DIFF];
    return attach_vector(at, diff, scale, skip, w, shape->shape_[0], name, err);
}

static mica_status attach_target(const attaching *at, mica_lora_target *t, bool *all, mica_err *err)
{
    naming n = {0};
    mica_status st = naming_make(&n, at->lora, at->family, t, err);
    *all = !st && mica_weights_count(n.names) > 0;
    if (!st)
        st = check_finite(at->lora, t, err);
    if (!st)
        st = make_mix(at->lora, t, err);
    for (size_t i = 0; !st && i < mica_weights_count(n.names); i++) {
        bool matched = false;
        st = attach_part(at, t, &n, i, &matched, err);
        *all = *all && matched;
    }
    naming_deinit(&n);
    return st;
}

static void note(mica_lora_match *m, const mica_lora_target *t, bool matched)
{
    m->matched += matched;
    m->first_missed = matched || m->missed ? m->first_missed : t->name;
    m->missed += !matched;
}

mica_status mica_lora_attach(mica_lora *lora, const mica_lora_family *family, void *weights,
                             double scale, mica_lora_match *match, mica_err *err)
{
    const attaching at = {lora, family, weights, scale};
    *match = (mica_lora_match){0};
    for (size_t i = 0; i < lora->count; i++) {
        bool all;
        if (lora->targets[i].is_text)
            continue;
        MICA_TRY(attach_target(&at, &lora->targets[i], &all, err));
        note(match, &lora->targets[i], all);
    }
    if (match->matched == 0)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: none of its %d layers (the first: %s) is in this model; "
                         "'mica inspect' says which family a LoRA fits",
                         mica_weights_path(lora->files), match->missed, match->first_missed);
    return MICA_OK;
}

/* ------------------------------------------------------------------ count -- */

static bool fits_family(const mica_lora *l, const mica_lora_family *f, const mica_lora_target *t)
{
    naming n = {0};
    size_t group;
    int index;
    bool all = naming_make(&n, l, f, t, NULL) == MICA_OK && mica_weights_count(n.names) > 0;
    for (size_t i = 0; all && i < mica_weights_count(n.names); i++)
        all = find_row(f, mica_weights_name(n.names, i), &group, &index) != NULL;
    naming_deinit(&n);
    return all;
}

mica_lora_match mica_lora_count_matches(const mica_lora *lora, const mica_lora_family *family)
{
    mica_lora_match m = {0};
    for (size_t i = 0; i < lora->count; i++)
        if (!lora->targets[i].is_text)
            note(&m, &lora->targets[i], fits_family(lora, family, &lora->targets[i]));
    return m;
}
