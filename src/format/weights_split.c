/* weights_split.c - one tensor seen as several: views of its rows under names of their own.
 *
 *     attention.qkv  [3 D, D]          to_q  [D, D]  rows 0 ..
 *     +-------------------+            to_k  [D, D]  rows D ..
 *     | q |    | k | | v  |    ──►     to_v  [D, D]  rows 2 D ..
 *     +-------------------+            same bytes, nothing is copied
 *
 * Layouts differ in what they fuse (ComfyUI and BFL files against diffusers folders). With views
 * a model needs one table and one forward pass for all of them. */
#include "base/mem.h"
#include "format/safetensors.h"
#include "format/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static mica_status check_parts(const mica_weights *w, const mica_weights_entry *e,
                               const mica_weights_part *parts, size_t count, mica_err *err)
{
    const int64_t have = e->tensor.ndim > 0 ? e->tensor.shape_[0] : 0;
    int64_t rows = 0;
    char shape[96];
    for (size_t i = 0; i < count; i++) {
        if (parts[i].rows < 0 || parts[i].rows > have - rows ||
            !mica_tensor_name_is_valid(parts[i].name))
            break;
        rows += parts[i].rows;
        if (mica_weights_find_entry(w, parts[i].name))
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: both %s and %s are there",
                             mica_weights_file_path(w, e), e->name, parts[i].name);
        for (size_t k = 0; k < i; k++)
            if (strcmp(parts[k].name, parts[i].name) == 0)
                return MICA_FAIL(err, MICA_E_INTERNAL, "%s is split into %s twice", e->name,
                                 parts[i].name);
    }
    if (rows != have || have == 0)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: tensor %s is %s and cannot be split into its %zu parts",
                         mica_weights_file_path(w, e), e->name,
                         mica_tensor_describe(&e->tensor, shape, sizeof shape), count);
    return MICA_OK;
}

static mica_status no_memory(const mica_weights *w, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", w->path);
}

static mica_weights_entry *make_part(mica_weights *w, const mica_weights_entry *whole,
                                     const mica_weights_part *part, int64_t first)
{
    mica_weights_entry *e = mica_arena_calloc(&w->arena, 1, sizeof *e);
    const char *name = mica_arena_strndup(&w->arena, part->name, strlen(part->name));
    if (!e || !name)
        return NULL;
    *e = *whole;
    e->name = name;
    e->tensor = mica_tensor_rows(&whole->tensor, first, part->rows);
    return e;
}

static void insert(mica_weights *w, mica_weights_entry *e)
{
    const size_t at = mica_weights_lower_bound(w, e->name);
    memmove(&w->sorted[at + 1], &w->sorted[at], (w->count - at) * sizeof *w->sorted);
    w->sorted[at] = e;
    w->list[w->count++] = e;
}

mica_status mica_weights_split(mica_weights *w, const char *name, const mica_weights_part *parts,
                               size_t count, mica_err *err)
{
    mica_weights_entry *whole = mica_weights_find_entry(w, name);
    if (!whole)
        return MICA_OK;
    MICA_TRY(check_parts(w, whole, parts, count, err));
    mica_weights_entry **made = mica_arena_calloc(&w->arena, count, sizeof(mica_weights_entry *));
    if (!made || !mica_weights_reserve(w, count))
        return no_memory(w, err);
    int64_t first = 0;
    for (size_t i = 0; i < count; i++) {
        made[i] = make_part(w, whole, &parts[i], first);
        if (!made[i])
            return no_memory(w, err);
        first += parts[i].rows;
    }
    char hash[sizeof w->hash];
    mica_weights_hash(w, hash);
    memcpy(w->hash, hash, sizeof hash);
    whole->is_hidden = true;
    mica_weights_drop_hidden(w);
    for (size_t i = 0; i < count; i++)
        insert(w, made[i]);
    return MICA_OK;
}

/* ------------------------------------------------------------------- stacks -- */

#define STACK_MOST 4096
#define STACK_NAME 192

/* "experts.%d.w1" as "experts.3.w1". */
static void name_part(const char *pattern, int index, char out[STACK_NAME])
{
    const char *hole = strstr(pattern, "%d");
    const size_t before = hole ? (size_t)(hole - pattern) : strlen(pattern);
    snprintf(out, STACK_NAME, "%.*s%d%s", (int)before, pattern, index, hole ? hole + 2 : "");
}

static void drop_first_dimension(mica_tensor *t)
{
    t->ndim--;
    for (int i = 0; i < MICA_MAX_DIMS - 1; i++) {
        t->shape_[i] = t->shape_[i + 1];
        t->stride_[i] = t->stride_[i + 1];
    }
    t->shape_[MICA_MAX_DIMS - 1] = 1;
}

static mica_status unstack(mica_weights *w, const char *name, const char *pattern, size_t count,
                           mica_weights_part *parts, char (*names)[STACK_NAME], mica_err *err)
{
    for (size_t i = 0; i < count; i++) {
        name_part(pattern, (int)i, names[i]);
        parts[i] = (mica_weights_part){names[i], 1};
    }
    MICA_TRY(mica_weights_split(w, name, parts, count, err));
    for (size_t i = 0; i < count; i++)
        drop_first_dimension(&mica_weights_find_entry(w, names[i])->tensor);
    return MICA_OK;
}

mica_status mica_weights_unstack(mica_weights *w, const char *name, const char *pattern,
                                 mica_err *err)
{
    const mica_tensor *t = mica_weights_find(w, name);
    char shape[96];
    if (!t)
        return MICA_OK;
    if (t->ndim < 2 || t->shape_[0] < 1 || t->shape_[0] > STACK_MOST || t->scale.per_row)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s is %s, which is no stack of matrices",
                         w->path, name, mica_tensor_describe(t, shape, sizeof shape));
    const size_t count = (size_t)t->shape_[0];
    mica_weights_part *parts = mica_mem_calloc(count, sizeof *parts);
    char(*names)[STACK_NAME] = mica_mem_calloc(count, sizeof *names);
    mica_status st = parts && names ? MICA_OK : no_memory(w, err);
    if (!st)
        st = unstack(w, name, pattern, count, parts, names, err);
    mica_mem_free(parts);
    mica_mem_free(names);
    return st;
}
