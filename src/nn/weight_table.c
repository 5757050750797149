/* weight_table.c - binds table rows to tensors of a file and lists every problem; see
 * weight_table.h. The list is cut to the size of an error text, the count is not. */
#include "nn/weight_table.h"

#include <stdio.h>
#include <string.h>

void mica_weight_binder_init(mica_weight_binder *b, const mica_weights *weights, const char *part,
                             const mica_weight_dims *dims, mica_arena *arena)
{
    *b = (mica_weight_binder){.weights = weights, .part = part, .dims = *dims, .arena = arena};
}

void mica_weight_row_name(const mica_weight_row *row, int index, char out[MICA_WEIGHT_NAME])
{
    const char *hole = strstr(row->pattern, "%d");
    if (hole)
        snprintf(out, MICA_WEIGHT_NAME, "%.*s%d%s", (int)(hole - row->pattern), row->pattern, index,
                 hole + 2);
    else
        snprintf(out, MICA_WEIGHT_NAME, "%s", row->pattern);
}

/* N of "prefixN.", or -1. */
static int block_of(const char *name, const char *prefix, size_t prefix_length)
{
    if (strncmp(name, prefix, prefix_length) != 0)
        return -1;
    int n = 0;
    const char *p = name + prefix_length;
    for (; *p >= '0' && *p <= '9' && n < 10000; p++)
        n = n * 10 + (*p - '0');
    return p > name + prefix_length && *p == '.' && n < 10000 ? n : -1;
}

int mica_weight_count_blocks(const mica_weights *weights, const char *prefix)
{
    int count = 0;
    for (size_t i = 0; i < mica_weights_count(weights); i++) {
        const int n = block_of(mica_weights_name(weights, i), prefix, strlen(prefix));
        count = MICA_MAX(count, n + 1);
    }
    return count;
}

static void describe_expected(const mica_weight_binder *b, const char *shape, char *out,
                              size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (size_t i = 0; shape[i] && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "",
                                 (long long)b->dims.of[(unsigned char)shape[i]]);
    if (used < size)
        snprintf(out + used, size - used, "]");
}

static bool has_shape(const mica_weight_binder *b, const mica_tensor *t, const char *shape)
{
    if (t->ndim != (int)strlen(shape))
        return false;
    for (int i = 0; i < t->ndim; i++)
        if (t->shape_[i] != b->dims.of[(unsigned char)shape[i]])
            return false;
    return true;
}

/* The tensor in the shape that the table asks for: packed integers whose file does not tell how wide
 * their rows are take the width from here. */
static bool see_as(const mica_weight_binder *b, const mica_tensor *t, const char *shape,
                   mica_tensor *out)
{
    const size_t n = strlen(shape);
    *out = *t;
    return has_shape(b, t, shape) ||
           (n > 0 && mica_tensor_set_width(out, b->dims.of[(unsigned char)shape[n - 1]]) &&
            has_shape(b, out, shape));
}

static void add_problem(mica_weight_binder *b, const char *name, const mica_tensor *got,
                        const char *shape)
{
    char want[96], have[128];
    describe_expected(b, shape, want, sizeof want);
    b->problems++;
    if (!got)
        mica_text_add(&b->text, "\n  %s: missing, expected %s", name, want);
    else
        mica_text_add(&b->text, "\n  %s: got %s, expected %s of a type of weights", name,
                      mica_tensor_describe(got, have, sizeof have), want);
}

static void bind_one(mica_weight_binder *b, const mica_weight_row *row, int index, void *base)
{
    char name[MICA_WEIGHT_NAME];
    mica_weight_row_name(row, index, name);
    mica_weight *out = (mica_weight *)(void *)((char *)base + row->offset);
    *out = (mica_weight){.sensitive = row->flags & MICA_WEIGHT_SENSITIVE,
                         .constant = row->flags & MICA_WEIGHT_CONSTANT};
    const mica_tensor *t = mica_weights_find(b->weights, name);
    mica_tensor seen;
    if (!t && (row->flags & MICA_WEIGHT_OPTIONAL))
        return;
    if (!t || !mica_tensor_is_weight(t) || !see_as(b, t, row->shape, &seen)) {
        add_problem(b, name, t, row->shape);
        return;
    }
    out->tensor = seen;
    out->mapped = mica_weights_is_mapped(b->weights, t);
    out->lasting = true; /* the model closes after its sessions */
    out->name = mica_arena_strndup(b->arena, name, strlen(name));
    b->out_of_memory |= !out->name;
    b->bound++;
}

void mica_weight_bind(mica_weight_binder *b, const mica_weight_row *rows, size_t count, int index,
                      void *base)
{
    for (size_t i = 0; i < count; i++)
        bind_one(b, &rows[i], index, base);
}

mica_status mica_weight_binder_finish(mica_weight_binder *b, mica_err *err)
{
    mica_status st = MICA_OK;
    if (b->out_of_memory || b->text.failed)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its tensor table", b->part);
    else if (b->problems)
        st = MICA_FAIL(err, MICA_E_FORMAT, "%s %s: %d of its tensors %s wrong or missing:%s",
                       b->part, mica_weights_path(b->weights), b->problems,
                       b->problems == 1 ? "is" : "are", b->text.data);
    mica_text_deinit(&b->text);
    return st;
}

int mica_weight_list(const mica_weight_row *rows, size_t count, void *base, mica_weight **list)
{
    int n = 0;
    for (size_t i = 0; i < count; i++) {
        mica_weight *w = (mica_weight *)(void *)((char *)base + rows[i].offset);
        if (w->name)
            list[n++] = w;
    }
    return n;
}

static mica_linear_args args_of(mica_nn_linear *l, const mica_tensor *x_MD, mica_act act,
                                mica_tensor *y_MO)
{
    return (mica_linear_args){
        .x_MD = x_MD, .w_OD = &l->w, .bias_O = l->b.name ? &l->b : NULL, .act = act, .y_MO = y_MO};
}

void mica_nn_linear_run(mica_backend *be, mica_nn_linear *l, const mica_tensor *x_MD, mica_act act,
                        mica_tensor *y_MO)
{
    const mica_linear_args args = args_of(l, x_MD, act, y_MO);
    mica_linear(be, &args);
}

void mica_nn_linear_again(mica_backend *be, mica_nn_linear *l, const mica_tensor *x_MD,
                          mica_act act, mica_tensor *y_MO)
{
    mica_linear_args args = args_of(l, x_MD, act, y_MO);
    args.same_x = true;
    mica_linear(be, &args);
}

void mica_nn_linears_run(mica_backend *be, mica_nn_linear *const *l, int count,
                         const mica_tensor *x_MD, const mica_tensor *all_MN, mica_tensor *y)
{
    mica_linear_args args[MICA_NN_LINEARS];
    int64_t first = 0;
    for (int i = 0; i < count; i++) {
        y[i] = mica_tensor_columns(all_MN, first, l[i]->w.tensor.shape_[0]);
        first += y[i].shape_[1];
        args[i] = args_of(l[i], x_MD, MICA_ACT_NONE, &y[i]);
    }
    mica_linears(be, args, count);
}

void mica_nn_swiglu_run(mica_backend *be, mica_nn_linear *const *l, int count,
                        const mica_tensor *x_MD, const mica_tensor *hidden, mica_tensor *y_MF)
{
    mica_linear_args args[2];
    mica_tensor made[2];
    for (int i = 0; i < count; i++) {
        made[i] = hidden[i];
        args[i] = args_of(l[i], x_MD, MICA_ACT_NONE, &made[i]);
    }
    mica_linear_swiglu(be, args, count, y_MF);
}

int64_t mica_nn_piece(int64_t L, int64_t most)
{
    const int64_t pieces = MICA_MAX((L + most / 2) / most, (int64_t)1);
    return (L + pieces - 1) / pieces;
}

void mica_nn_next_feeds(mica_backend *be, const mica_nn_linear *l)
{
    if (!l->w.sensitive)
        mica_next_is_operand(be);
}

void mica_nn_linear_gated(mica_backend *be, mica_nn_linear *l, const mica_tensor *in_MD,
                          const mica_tensor *gate_O, mica_tensor *x_MO)
{
    mica_linear(be, &(mica_linear_args){.x_MD = in_MD,
                                        .w_OD = &l->w,
                                        .bias_O = l->b.name ? &l->b : NULL,
                                        .gate_O = gate_O,
                                        .residual_MO = x_MO,
                                        .y_MO = x_MO});
}
