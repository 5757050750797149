/* gpt_sovits_directory.c - weight files as the tables of the networks want them.
 *
 *     X.weight_v [O, C, K], X.weight_g [O, 1, 1] ──► X.weight [O, C, 1, K]    f32, in the arena
 *     everything else                            ──► a view, perhaps of another shape
 *
 * Reference: torch.nn.utils.weight_norm (torch/_weight_norm: v * (g / norm_except_dim(v))). g says
 * which dimension is kept: 0 for convolutions, 2 for HuBERT's positional one. */
#include "models/gpt_sovits/gpt_sovits_layers.h"

#include "base/names.h"

#include <math.h>
#include <string.h>

typedef struct suffix_pair {
    const char *v, *g;
} suffix_pair;

static const suffix_pair NORMED[] = {
    {".weight_v", ".weight_g"},
    {".parametrizations.weight.original1", ".parametrizations.weight.original0"},
};

/* name without its suffix, with another one; false when it is too long. */
static bool exchange(const char *name, const char *suffix, const char *with,
                     char out[MICA_WEIGHT_NAME])
{
    const size_t n = strlen(name) - strlen(suffix);
    if (n + strlen(with) >= MICA_WEIGHT_NAME)
        return false;
    memcpy(out, name, n);
    memcpy(out + n, with, strlen(with) + 1);
    return true;
}

static mica_tensor reshaped(const char *name, const mica_tensor *t)
{
    const int64_t *s = t->shape_;
    if (t->ndim != 3 || !mica_tensor_is_contiguous(t))
        return *t;
    if (s[0] == 1 && strstr(name, "emb_rel_"))
        return mica_tensor_reshape(t, 2, (const int64_t[]){s[1], s[2]});
    if (s[2] == 1)
        return mica_tensor_reshape(t, 2, (const int64_t[]){s[0], s[1]});
    return mica_tensor_reshape(t, 4, (const int64_t[]){s[0], s[1], 1, s[2]});
}

/* Numbers of v that share an entry of g: all with the same index in the kept dimension. */
static mica_status fold(const mica_weights *files, const char *name, const mica_tensor *v,
                        const mica_tensor *g, mica_arena *arena, mica_tensor *out, mica_err *err)
{
    const int64_t count = mica_tensor_count(v), kept = mica_tensor_count(g);
    int dim = -1;
    for (int i = 0; i < g->ndim; i++)
        if (g->shape_[i] > 1 || (kept == 1 && dim < 0 && i + 1 == g->ndim))
            dim = dim < 0 ? i : -2;
    if (kept == 1 && v->shape_[0] == 1)
        dim = 0;
    if (g->ndim != v->ndim || dim < 0 || kept != v->shape_[dim] ||
        !mica_dtype_get(v->dtype)->is_float || !mica_dtype_get(g->dtype)->is_float)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the weight norm of %s has unusable sizes",
                         mica_weights_path(files), name);
    int64_t inner = 1; /* elements behind the kept dimension */
    for (int i = dim + 1; i < v->ndim; i++)
        inner *= v->shape_[i];
    float *w = mica_arena_alloc(arena, (size_t)count * sizeof *w);
    double *square = mica_arena_calloc(arena, (size_t)kept, sizeof *square);
    if (!w || !square)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for %s", mica_weights_path(files), name);
    for (int64_t i = 0; i < count; i++) {
        w[i] = mica_tensor_read_f32(v, i);
        square[i / inner % kept] += (double)w[i] * (double)w[i];
    }
    for (int64_t k = 0; k < kept; k++)
        square[k] = (double)mica_tensor_read_f32(g, k) / sqrt(square[k]);
    for (int64_t i = 0; i < count; i++)
        w[i] = (float)((double)w[i] * square[i / inner % kept]);
    *out = mica_tensor_make(w, MICA_DTYPE_F32, v->ndim, v->shape_);
    return MICA_OK;
}

typedef struct builder {
    mica_weights *out;
    const mica_weights *files;
    mica_name_map_fn rename;
    bool keep_shapes;
    mica_arena *arena;
} builder;

static mica_status add(const builder *b, const char *name, const mica_tensor *t, mica_err *err)
{
    char renamed[MICA_TENSOR_NAME_MAX + 1] = "";
    if (b->rename && b->rename(NULL, name, renamed, sizeof renamed)) {
        if (!*renamed)
            return MICA_OK;
        name = renamed;
    }
    const mica_tensor shaped = b->keep_shapes ? *t : reshaped(name, t);
    if (mica_weights_find(b->out, name))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: two tensors are %s to this model",
                         mica_weights_path(b->files), name);
    return mica_weights_add(b->out, name, &shaped, err);
}

static mica_status add_entry(const builder *b, size_t i, mica_err *err)
{
    const char *name = mica_weights_name(b->files, i);
    const mica_tensor *t = mica_weights_tensor(b->files, i);
    for (size_t k = 0; k < MICA_ARRAY_LEN(NORMED); k++) {
        char other[MICA_WEIGHT_NAME], plain[MICA_WEIGHT_NAME];
        mica_tensor folded;
        if (mica_name_ends(name, NORMED[k].g))
            return MICA_OK; /* with its v */
        if (!mica_name_ends(name, NORMED[k].v) ||
            !exchange(name, NORMED[k].v, NORMED[k].g, other) ||
            !exchange(name, NORMED[k].v, ".weight", plain))
            continue;
        const mica_tensor *g = mica_weights_find(b->files, other);
        if (!g)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s has no %s", mica_weights_path(b->files),
                             name, other);
        MICA_TRY(fold(b->files, plain, t, g, b->arena, &folded, err));
        return add(b, plain, &folded, err);
    }
    return add(b, name, t, err);
}

static mica_status build(mica_weights **out, const mica_weights *files, mica_name_map_fn rename,
                         bool keep_shapes, mica_arena *arena, mica_err *err)
{
    *out = NULL;
    MICA_TRY(mica_weights_open_view(out, files, err));
    const builder b = {*out, files, rename, keep_shapes, arena};
    for (size_t i = 0; i < mica_weights_count(files); i++) {
        const mica_status st = add_entry(&b, i, err);
        if (st != MICA_OK) {
            mica_weights_close(out);
            return st;
        }
    }
    return MICA_OK;
}

mica_status mica_gs_directory(mica_weights **out, const mica_weights *files,
                              mica_name_map_fn rename, mica_arena *arena, mica_err *err)
{
    return build(out, files, rename, false, arena, err);
}

mica_status mica_gs_folded(mica_weights **out, const mica_weights *files, mica_name_map_fn rename,
                           mica_arena *arena, mica_err *err)
{
    return build(out, files, rename, true, arena, err);
}
