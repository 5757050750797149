/* backend.c - the operations of backend.h in front of an implementation.
 *
 *     mica_linear(be, args)
 *        already failed ........ return
 *        shapes disagree ....... keep MICA_E_INTERNAL with both shapes
 *        nothing to compute .... return
 *        be->ops->linear ....... its failure is kept, its time counted
 *
 * The checks cost a few comparisons an operation, so they stay in release builds: a defect
 * of a model then is a message with the weight's name and not a stray write. No numbers
 * are computed here and no device is known. What surrounds operations is in backend_memory.c. */
#include "backend/backend_calls.h"
#include "base/clock.h"

#include <inttypes.h>

/* --------------------------------------------------------------- checks -- */

/* Keeps the failure "op NAME: what" with the description of both tensors. */
static bool mismatch(mica_backend *be, const char *op, const mica_weight *w, const char *what,
                     const mica_tensor *a, const mica_tensor *b)
{
    char text_a[96], text_b[96];
    mica_backend_fail(be, MICA_E_INTERNAL, "%s%s%s: %s: %s against %s", op, w && w->name ? " " : "",
                      w && w->name ? w->name : "", what,
                      mica_tensor_describe(a, text_a, sizeof text_a),
                      mica_tensor_describe(b, text_b, sizeof text_b));
    return false;
}

/* Rows of a tensor seen as [rows, last dimension]. */
static int64_t last_of(const mica_tensor *t)
{
    return t->ndim > 0 ? t->shape_[t->ndim - 1] : 1;
}

static int64_t rows_of(const mica_tensor *t)
{
    const int64_t last = last_of(t);
    return last > 0 ? mica_tensor_count(t) / last : 0;
}

static bool same_shape(const mica_tensor *a, const mica_tensor *b)
{
    if (a->ndim != b->ndim)
        return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape_[i] != b->shape_[i])
            return false;
    return true;
}

static bool check_same(mica_backend *be, const char *op, const mica_tensor *a, const mica_tensor *b)
{
    return same_shape(a, b) || mismatch(be, op, NULL, "shapes differ", a, b);
}

static bool check_vector(mica_backend *be, const char *op, const mica_weight *name,
                         const mica_tensor *v, const mica_tensor *x, int64_t length)
{
    return !v || mica_tensor_count(v) == length ||
           mismatch(be, op, name, "vector of another length", v, x);
}

/* --------------------------------------------------------------- linear -- */

static bool check_linear(mica_backend *be, const mica_linear_args *a)
{
    const mica_tensor *x = a->x_MD, *w = &a->w_OD->tensor, *y = a->y_MO;
    const int64_t outputs = w->shape_[0];
    if (w->ndim != 2 || last_of(x) != w->shape_[1])
        return mismatch(be, "linear", a->w_OD, "weight does not fit the input", x, w);
    if (last_of(y) != outputs || rows_of(y) != rows_of(x))
        return mismatch(be, "linear", a->w_OD, "weight does not fit the output", y, w);
    if (a->residual_MO && !same_shape(a->residual_MO, y))
        return mismatch(be, "linear", a->w_OD, "residual and output differ", a->residual_MO, y);
    if (a->w_OD->adapters && !be->takes_adapters) {
        mica_backend_fail(be, MICA_E_UNSUPPORTED, "%s: LoRA is not available on this device",
                          a->w_OD->name ? a->w_OD->name : "weight");
        return false;
    }
    if (a->gate_O && !a->residual_MO)
        return mismatch(be, "linear", a->w_OD, "a gate needs a residual", a->gate_O, y);
    return check_vector(be, "linear bias of", a->w_OD, a->bias_O ? &a->bias_O->tensor : NULL, y,
                        outputs) &&
           check_vector(be, "linear gate of", a->w_OD, a->gate_O, y, outputs);
}

void mica_linear(mica_backend *be, const mica_linear_args *args)
{
    if (!mica_backend_begin(be) || !check_linear(be, args) || mica_tensor_count(args->y_MO) == 0)
        return;
    const double start = mica_clock_seconds();
    keep_sized(be, be->ops->linear(be, args, &be->error), 3,
               ((const int64_t[]){rows_of(args->x_MD), args->w_OD->tensor.shape_[1],
                                  args->w_OD->tensor.shape_[0]}));
    be->counters.linear_seconds += mica_clock_seconds() - start;
    be->counters.linear_flops +=
        2.0 * (double)mica_tensor_count(args->y_MO) * (double)args->w_OD->tensor.shape_[1];
}

static void run_linears(mica_backend *be, const mica_linear_args *args, int count)
{
    int64_t outputs = 0;
    bool fits = true;
    for (int i = 0; i < count; i++) {
        fits = fits && check_linear(be, &args[i]);
        outputs += args[i].w_OD->tensor.shape_[0];
    }
    if (!fits || mica_tensor_count(args[0].y_MO) == 0)
        return;
    const double start = mica_clock_seconds();
    const int64_t rows = rows_of(args[0].x_MD), width = last_of(args[0].x_MD);
    keep_sized(be, be->ops->linears(be, args, count, &be->error), 3,
               ((const int64_t[]){rows, width, outputs}));
    be->counters.linear_seconds += mica_clock_seconds() - start;
    be->counters.linear_flops += 2.0 * (double)rows * (double)width * (double)outputs;
}

void mica_linears(mica_backend *be, const mica_linear_args *args, int count)
{
    if (be->ops->linears && !be->options.ablate_joining) {
        if (mica_backend_begin(be))
            run_linears(be, args, count);
        return;
    }
    for (int i = 0; i < count; i++) {
        mica_linear_args one = args[i];
        one.same_x = one.same_x || i > 0;
        mica_linear(be, &one);
    }
}

/* --------------------------------------------------------------- swiglu -- */

/* The linears of a SwiGLU; where they leave gate and up. */
static bool check_gated(mica_backend *be, const mica_linear_args *args, int count,
                        const mica_tensor *y, mica_tensor *gate, mica_tensor *up)
{
    const mica_tensor *first = args[0].y_MO;
    const int64_t F = last_of(y);
    if (count < 1 || count > 2 || first->ndim != 2 || last_of(first) * count != 2 * F)
        return mismatch(be, "linear_swiglu", args[0].w_OD, "not gate and up of the result", first,
                        y);
    for (int i = 0; i < count; i++) {
        if (!check_linear(be, &args[i]))
            return false;
        if (args[i].act != MICA_ACT_NONE || args[i].residual_MO)
            return mismatch(be, "linear_swiglu", args[i].w_OD, "an epilogue before SwiGLU", first,
                            y);
    }
    *gate = count == 2 ? *first : mica_tensor_columns(first, 0, F);
    *up = count == 2 ? *args[1].y_MO : mica_tensor_columns(first, F, F);
    return check_same(be, "linear_swiglu", gate, y) && check_same(be, "linear_swiglu", up, y);
}

/* All at once, where the backend can; true as well where it failed. */
static bool run_gated(mica_backend *be, const mica_linear_args *args, int count,
                      const mica_tensor *y)
{
    bool taken = false;
    if (!be->ops->linear_swiglu)
        return false;
    mica_backend_settle(be);
    if (mica_backend_failed(be))
        return true;
    const double start = mica_clock_seconds();
    const mica_status st = be->ops->linear_swiglu(be, args, count, y, &taken, &be->error);
    mica_backend_keep_status(be, st);
    if (!taken)
        return st != MICA_OK;
    const int64_t rows = rows_of(y), width = last_of(args[0].x_MD), outputs = 2 * last_of(y);
    be->counters.ops++;
    be->next_is_operand = false;
    be->counters.linear_seconds += mica_clock_seconds() - start;
    be->counters.linear_flops += 2.0 * (double)rows * (double)width * (double)outputs;
    if (be->profile)
        mica_backend_note_call(be, "be->ops->linear_swiglu(", 3,
                               ((const int64_t[]){rows, width, outputs}));
    return true;
}

void mica_linear_swiglu(mica_backend *be, const mica_linear_args *args, int count,
                        mica_tensor *y_MF)
{
    mica_tensor gate, up;
    const bool is_operand = be->next_is_operand;
    if (mica_backend_failed(be) || !check_gated(be, args, count, y_MF, &gate, &up) ||
        mica_tensor_count(y_MF) == 0 || run_gated(be, args, count, y_MF))
        return;
    be->next_is_operand = false;
    mica_linears(be, args, count);
    be->next_is_operand = is_operand;
    mica_swiglu(be, &gate, &up, y_MF);
}

/* ---------------------------------------------------------------- norms -- */

void mica_layer_norm_modulate(mica_backend *be, const mica_tensor *x_MD, const mica_tensor *scale_D,
                              const mica_tensor *shift_D, float eps, mica_tensor *y_MD)
{
    const char *op = "layer_norm_modulate";
    if (mica_backend_begin_unsettled(be) && check_same(be, op, x_MD, y_MD) &&
        check_vector(be, op, NULL, scale_D, x_MD, last_of(x_MD)) &&
        check_vector(be, op, NULL, shift_D, x_MD, last_of(x_MD)) && mica_tensor_count(x_MD) > 0)
        keep_sized(be,
                   be->ops->layer_norm_modulate(be, x_MD, scale_D, shift_D, eps, y_MD, &be->error),
                   2, ((const int64_t[]){rows_of(x_MD), last_of(x_MD)}));
}

static bool check_rms_norm(mica_backend *be, const mica_tensor *x_MD, const mica_weight *w_D,
                           const mica_tensor *vector_D, const mica_tensor *y_MD)
{
    const char *op = "rms_norm";
    return check_same(be, op, x_MD, y_MD) &&
           check_vector(be, op, w_D, w_D ? &w_D->tensor : NULL, x_MD, last_of(x_MD)) &&
           check_vector(be, op, w_D, vector_D, x_MD, last_of(x_MD)) && mica_tensor_count(x_MD) > 0;
}

void mica_rms_norm(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D, float eps,
                   mica_tensor *y_MD)
{
    mica_rms_norm_modulate(be, x_MD, w_D, NULL, eps, y_MD);
}

void mica_rms_norm_modulate(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D,
                            const mica_tensor *scale_D, float eps, mica_tensor *y_MD)
{
    if (mica_backend_begin_unsettled(be) && check_rms_norm(be, x_MD, w_D, scale_D, y_MD))
        keep_sized(be, be->ops->rms_norm_modulate(be, x_MD, w_D, scale_D, eps, y_MD, &be->error), 2,
                   ((const int64_t[]){rows_of(x_MD), last_of(x_MD)}));
}

void mica_rms_norm_gated(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D,
                         const mica_tensor *gate_D, float eps, mica_tensor *y_MD)
{
    if (mica_backend_begin(be) && check_rms_norm(be, x_MD, w_D, gate_D, y_MD))
        keep_sized(be, be->ops->rms_norm_gated(be, x_MD, w_D, gate_D, eps, y_MD, &be->error), 2,
                   ((const int64_t[]){rows_of(x_MD), last_of(x_MD)}));
}

void mica_l2_norm_channels(mica_backend *be, const mica_tensor *x_MC, mica_weight *gamma_C,
                           mica_act act, mica_tensor *y_MC)
{
    if (mica_backend_begin(be) && check_same(be, "l2_norm_channels", x_MC, y_MC) &&
        check_vector(be, "l2_norm_channels", gamma_C, gamma_C ? &gamma_C->tensor : NULL, x_MC,
                     last_of(x_MC)) &&
        mica_tensor_count(x_MC) > 0)
        keep(be, be->ops->l2_norm_channels(be, x_MC, gamma_C, act, y_MC, &be->error));
}

/* Moments of at least x's rows, in groups that divide its channels. */
static bool check_groups(mica_backend *be, const char *op, const mica_tensor *x,
                         const mica_tensor *moments)
{
    if (x->ndim == 3 && moments->ndim == 3 && moments->shape_[0] >= x->shape_[0] &&
        moments->shape_[1] > 0 && x->shape_[2] % moments->shape_[1] == 0 &&
        moments->shape_[2] == 2 && mica_tensor_is_contiguous(x) &&
        mica_tensor_is_contiguous(moments))
        return true;
    return mismatch(be, op, NULL, "not the moments of a picture of these rows", moments, x);
}

void mica_group_moments(mica_backend *be, const mica_tensor *x_YXC, mica_tensor *moments_YG2)
{
    if (mica_backend_begin(be) && check_groups(be, "group_moments", x_YXC, moments_YG2) &&
        mica_tensor_count(x_YXC) > 0)
        keep(be, be->ops->group_moments(be, x_YXC, moments_YG2, &be->error));
}

void mica_group_norm(mica_backend *be, const mica_group_norm_args *args)
{
    const char *op = "group_norm";
    const mica_tensor *x = args->x_YXC;
    if (mica_backend_begin(be) && check_groups(be, op, x, args->moments_YG2) &&
        check_same(be, op, x, args->y_YXC) &&
        check_vector(be, op, args->gamma_C, &args->gamma_C->tensor, x, last_of(x)) &&
        check_vector(be, op, args->beta_C, &args->beta_C->tensor, x, last_of(x)) &&
        mica_tensor_count(x) > 0)
        keep(be, be->ops->group_norm(be, args, &be->error));
}

static bool check_heads(mica_backend *be, const mica_qk_norm_rope_args *args, const mica_tensor *x,
                        const mica_weight *norm)
{
    const char *op = "qk_norm_rope";
    const mica_tensor *cos = args->cos_Lk, *sin = args->sin_Lk;
    if (x->ndim != 3 || x->shape_[2] % 2 != 0 || (cos != NULL) != (sin != NULL))
        return mismatch(be, op, norm, "not [tokens, heads, even width]", x, x);
    if (cos &&
        (rows_of(cos) < x->shape_[0] || last_of(cos) != x->shape_[2] / 2 || !same_shape(cos, sin)))
        return mismatch(be, op, norm, "rotary table does not fit", cos, x);
    return check_vector(be, op, norm, norm ? &norm->tensor : NULL, x, x->shape_[2]);
}

void mica_qk_norm_rope(mica_backend *be, const mica_qk_norm_rope_args *args)
{
    const mica_tensor *x = args->x_LHK, *also = args->also_LHK;
    if (!mica_backend_begin(be) || !check_heads(be, args, x, args->norm_K) ||
        (also && !check_heads(be, args, also, args->also_norm_K)))
        return;
    if (also && (also->shape_[0] != x->shape_[0] || also->shape_[2] != x->shape_[2])) {
        mismatch(be, "qk_norm_rope", args->also_norm_K, "other tokens or heads", also, x);
        return;
    }
    if (mica_tensor_count(x) > 0)
        keep_sized(be, be->ops->qk_norm_rope(be, args, &be->error), 3, x->shape_);
}

/* ------------------------------------------------------------ attention -- */

static bool check_segment(mica_backend *be, const mica_attention_args *a, int s)
{
    const mica_tensor *q = a->q_LHK[s], *k = a->k_MGK[s], *v = a->v_MGK[s], *out = a->out_LHK[s];
    const mica_tensor *q0 = a->q_LHK[0], *k0 = a->k_MGK[0];
    if (q->ndim != 3 || k->ndim != 3 || q->shape_[2] != k->shape_[2] || k->shape_[1] == 0 ||
        q->shape_[1] % k->shape_[1] != 0)
        return mismatch(be, "attention", NULL, "queries do not fit the keys", q, k);
    if (!same_shape(k, v))
        return mismatch(be, "attention", NULL, "keys and values differ", k, v);
    if (!same_shape(q, out))
        return mismatch(be, "attention", NULL, "queries and output differ", q, out);
    if (q->shape_[1] != q0->shape_[1] || q->shape_[2] != q0->shape_[2] ||
        k->shape_[1] != k0->shape_[1])
        return mismatch(be, "attention", NULL, "segments differ in heads or width", q, q0);
    return true;
}

void mica_attention(mica_backend *be, const mica_attention_args *args)
{
    if (!mica_backend_begin(be))
        return;
    int64_t L = 0, M = 0;
    for (int s = 0; s < args->segments; s++) {
        if (!check_segment(be, args, s))
            return;
        L += args->q_LHK[s]->shape_[0];
        M += args->k_MGK[s]->shape_[0];
    }
    if (args->segments < 1 || args->segments > 2 || (L > 0 && M == 0)) {
        mica_backend_fail(be, MICA_E_INTERNAL,
                          "attention: %d segments, %" PRId64
                          " keys; 1 or 2 segments, 1 key at least",
                          args->segments, M);
        return;
    }
    if (args->window < 0 || (args->window > 0 && !args->causal)) {
        mica_backend_fail(be, MICA_E_INTERNAL, "attention: a window of %" PRId64 " keys, %s",
                          args->window, args->causal ? "causal" : "not causal");
        return;
    }
    const double width = (double)args->q_LHK[0]->shape_[1] * (double)args->q_LHK[0]->shape_[2];
    if (L == 0 || width == 0)
        return;
    const double start = mica_clock_seconds();
    keep_sized(be, be->ops->attention(be, args, &be->error), 4,
               ((const int64_t[]){L, M, args->q_LHK[0]->shape_[1], args->q_LHK[0]->shape_[2]}));
    be->counters.attention_seconds += mica_clock_seconds() - start;
    be->counters.attention_flops +=
        4.0 * (double)L * (double)M * width * (args->causal ? 0.5 : 1.0);
}

/* ------------------------------------------------------------ pointwise -- */

void mica_silu(mica_backend *be, const mica_tensor *x, mica_tensor *y)
{
    if (mica_backend_begin(be) && check_same(be, "silu", x, y) && mica_tensor_count(x) > 0)
        keep(be, be->ops->silu(be, x, y, &be->error));
}

void mica_tanh(mica_backend *be, const mica_tensor *x, mica_tensor *y)
{
    if (mica_backend_begin(be) && check_same(be, "tanh", x, y) && mica_tensor_count(x) > 0)
        keep(be, be->ops->tanh(be, x, y, &be->error));
}

void mica_swiglu(mica_backend *be, const mica_tensor *gate, const mica_tensor *up, mica_tensor *y)
{
    if (mica_backend_begin(be) && check_same(be, "swiglu", gate, up) &&
        check_same(be, "swiglu", gate, y) && mica_tensor_count(y) > 0)
        keep_sized(be, be->ops->swiglu(be, gate, up, y, &be->error), 2,
                   ((const int64_t[]){rows_of(y), last_of(y)}));
}

void mica_add(mica_backend *be, const mica_tensor *a, const mica_tensor *b, mica_tensor *y)
{
    if (mica_backend_begin(be) && check_same(be, "add", a, b) && check_same(be, "add", a, y) &&
        mica_tensor_count(y) > 0)
        keep(be, be->ops->add(be, a, b, y, &be->error));
}

void mica_mul(mica_backend *be, const mica_tensor *a, const mica_tensor *b, mica_tensor *y)
{
    if (mica_backend_begin(be) && check_same(be, "mul", a, b) && check_same(be, "mul", a, y) &&
        mica_tensor_count(y) > 0)
        keep(be, be->ops->mul(be, a, b, y, &be->error));
}

void mica_embed_rows(mica_backend *be, mica_weight *w_VD, const int32_t *ids, int64_t count,
                     mica_tensor *y_LD)
{
    if (!mica_backend_begin(be))
        return;
    if (w_VD->tensor.ndim != 2 || last_of(y_LD) != w_VD->tensor.shape_[1] ||
        rows_of(y_LD) != count) {
        mismatch(be, "embed_rows", w_VD, "table does not fit the output", &w_VD->tensor, y_LD);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= w_VD->tensor.shape_[0]) {
            mica_backend_fail(be, MICA_E_INTERNAL,
                              "embed_rows %s: id %d at position %" PRId64 ", the table has %" PRId64
                              " rows",
                              w_VD->name ? w_VD->name : "", (int)ids[i], i, w_VD->tensor.shape_[0]);
            return;
        }
    if (count > 0)
        keep(be, be->ops->embed_rows(be, w_VD, ids, count, y_LD, &be->error));
}

/* Rows on the host name rows of a matrix whose rows `part` has as many as there are names. */
static bool check_rows(mica_backend *be, const char *op, const mica_tensor *part,
                       const mica_tensor *whole, const int32_t *rows, int64_t count)
{
    if (part->ndim != 2 || whole->ndim != 2 || part->shape_[1] != whole->shape_[1] ||
        part->shape_[0] != count)
        return mismatch(be, op, NULL, "rows of another number or width", part, whole);
    for (int64_t i = 0; i < count; i++)
        if (rows[i] < 0 || rows[i] >= whole->shape_[0]) {
            mica_backend_fail(be, MICA_E_INTERNAL, "%s: row %d of %" PRId64, op, (int)rows[i],
                              whole->shape_[0]);
            return false;
        }
    return mica_tensor_count(part) > 0;
}

void mica_gather_rows(mica_backend *be, const mica_tensor *x_MD, const int32_t *rows, int64_t count,
                      mica_tensor *y_ND)
{
    if (mica_backend_begin(be) && check_rows(be, "gather_rows", y_ND, x_MD, rows, count))
        keep(be, be->ops->gather_rows(be, x_MD, rows, count, y_ND, &be->error));
}

void mica_add_rows(mica_backend *be, const mica_tensor *x_ND, const int32_t *rows,
                   const float *share, int64_t count, mica_tensor *y_MD)
{
    if (mica_backend_begin(be) && check_rows(be, "add_rows", x_ND, y_MD, rows, count))
        keep(be, be->ops->add_rows(be, x_ND, rows, share, count, y_MD, &be->error));
}

/* ---------------------------------------------------------- convolution -- */

static bool check_conv(mica_backend *be, const mica_conv2d_args *a)
{
    const mica_tensor *x = a->x_YXC, *w = &a->w_OCYX->tensor, *y = a->y_YXO;
    if (x->ndim != 3 || y->ndim != 3 || w->ndim != 4 || a->stride < 1 ||
        x->shape_[2] != w->shape_[1])
        return mismatch(be, "conv2d", a->w_OCYX, "weight does not fit the input", x, w);
    const int64_t rows = x->shape_[0] + a->pad_top + a->pad_bottom - w->shape_[2];
    const int64_t columns = x->shape_[1] + a->pad_left + a->pad_right - w->shape_[3];
    if (rows < 0 || columns < 0 || y->shape_[0] != rows / a->stride + 1 ||
        y->shape_[1] != columns / a->stride + 1 || y->shape_[2] != w->shape_[0])
        return mismatch(be, "conv2d", a->w_OCYX, "output has another size", y, x);
    if (a->residual_YXO && !same_shape(a->residual_YXO, y))
        return mismatch(be, "conv2d", a->w_OCYX, "residual and output differ", a->residual_YXO, y);
    return check_vector(be, "conv2d bias of", a->w_OCYX, a->bias_O ? &a->bias_O->tensor : NULL, y,
                        w->shape_[0]);
}

void mica_conv2d(mica_backend *be, const mica_conv2d_args *args)
{
    if (!mica_backend_begin(be) || !check_conv(be, args) || mica_tensor_count(args->y_YXO) == 0)
        return;
    const int64_t *w = args->w_OCYX->tensor.shape_;
    const double start = mica_clock_seconds();
    keep_sized(be, be->ops->conv2d(be, args, &be->error), 4,
               ((const int64_t[]){args->y_YXO->shape_[0], args->y_YXO->shape_[1], w[1], w[0]}));
    be->counters.conv_seconds += mica_clock_seconds() - start;
    be->counters.conv_flops +=
        2.0 * (double)mica_tensor_count(args->y_YXO) * (double)w[1] * (double)w[2] * (double)w[3];
}

void mica_upsample_nearest2(mica_backend *be, const mica_tensor *x_YXC, mica_tensor *y_YXC)
{
    if (!mica_backend_begin(be))
        return;
    if (x_YXC->ndim != 3 || y_YXC->ndim != 3 || y_YXC->shape_[0] != 2 * x_YXC->shape_[0] ||
        y_YXC->shape_[1] != 2 * x_YXC->shape_[1] || y_YXC->shape_[2] != x_YXC->shape_[2]) {
        mismatch(be, "upsample_nearest2", NULL, "output is not twice the input", x_YXC, y_YXC);
        return;
    }
    if (mica_tensor_count(x_YXC) > 0)
        keep(be, be->ops->upsample_nearest2(be, x_YXC, y_YXC, &be->error));
}

/* ------------------------------------------------------------ sequences -- */

static bool check_conv1d(mica_backend *be, const mica_conv1d_args *a)
{
    const mica_tensor *x = a->x_RC, *w = &a->w_OCYX->tensor, *y = a->y_RO;
    if (x->ndim != 2 || y->ndim != 2 || w->ndim != 4 || w->shape_[2] != 1 ||
        x->shape_[1] != w->shape_[1] || a->stride < 1 || a->dilation < 1 ||
        (a->stride > 1 && a->dilation > 1))
        return mismatch(be, "conv1d", a->w_OCYX, "weight does not fit the input", x, w);
    const int64_t reach = (int64_t)a->dilation * (w->shape_[3] - 1);
    const int64_t rows = x->shape_[0] + a->pad_left + a->pad_right - reach - 1;
    if (rows < 0 || a->pad_left < 0 || a->pad_right < 0 || y->shape_[0] != rows / a->stride + 1 ||
        y->shape_[1] != w->shape_[0])
        return mismatch(be, "conv1d", a->w_OCYX, "output has another size", y, x);
    if (a->residual_RO && !same_shape(a->residual_RO, y))
        return mismatch(be, "conv1d", a->w_OCYX, "residual and output differ", a->residual_RO, y);
    return check_vector(be, "conv1d bias of", a->w_OCYX, a->bias_O ? &a->bias_O->tensor : NULL, y,
                        w->shape_[0]);
}

void mica_conv1d(mica_backend *be, const mica_conv1d_args *args)
{
    if (!mica_backend_begin(be) || !check_conv1d(be, args) || mica_tensor_count(args->y_RO) == 0)
        return;
    const int64_t *w = args->w_OCYX->tensor.shape_;
    const double start = mica_clock_seconds();
    keep(be, be->ops->conv1d(be, args, &be->error));
    be->counters.conv_seconds += mica_clock_seconds() - start;
    be->counters.conv_flops +=
        2.0 * (double)mica_tensor_count(args->y_RO) * (double)w[1] * (double)w[3];
}

void mica_apply(mica_backend *be, mica_function f, float p, const mica_tensor *x_MD,
                const mica_tensor *shift_D, mica_tensor *y_MD)
{
    if (mica_backend_begin(be) && check_same(be, "apply", x_MD, y_MD) &&
        check_vector(be, "apply", NULL, shift_D, x_MD, last_of(x_MD)) &&
        mica_tensor_count(x_MD) > 0)
        keep(be, be->ops->apply(be, f, p, x_MD, shift_D, y_MD, &be->error));
}

void mica_gate(mica_backend *be, bool is_tanh, const mica_tensor *x_MN, const mica_tensor *shift_N,
               mica_tensor *y_MD)
{
    if (!mica_backend_begin(be) || !check_vector(be, "gate", NULL, shift_N, x_MN, last_of(x_MN)))
        return;
    if (last_of(x_MN) != 2 * last_of(y_MD) || rows_of(x_MN) != rows_of(y_MD))
        mismatch(be, "gate", NULL, "the input's rows are not twice the output's", x_MN, y_MD);
    else if (mica_tensor_count(y_MD) > 0)
        keep(be, be->ops->gate(be, is_tanh, x_MN, shift_N, y_MD, &be->error));
}

void mica_relative_attention(mica_backend *be, const mica_relative_attention_args *args)
{
    const char *op = "relative_attention";
    const mica_tensor *q = args->q_LHK, *rel = &args->rel_k_NK->tensor;
    if (!mica_backend_begin(be) || !check_same(be, op, q, args->k_LHK) ||
        !check_same(be, op, q, args->v_LHK) || !check_same(be, op, q, args->out_LHK))
        return;
    if (q->ndim != 3 || rel->ndim != 2 || rel->shape_[0] % 2 == 0 ||
        rel->shape_[1] != q->shape_[2] || !same_shape(rel, &args->rel_v_NK->tensor)) {
        mismatch(be, op, args->rel_k_NK, "relative keys do not fit", rel, q);
        return;
    }
    const double pairs = (double)q->shape_[0] * (double)q->shape_[0];
    if (mica_tensor_count(q) == 0)
        return;
    const double start = mica_clock_seconds();
    keep(be, be->ops->relative_attention(be, args, &be->error));
    be->counters.attention_seconds += mica_clock_seconds() - start;
    be->counters.attention_flops += 4.0 * pairs * (double)(q->shape_[1] * q->shape_[2]);
}

/* ------------------------------------------------------ copies and sums -- */

void mica_copy(mica_backend *be, const mica_tensor *src, mica_tensor *dst)
{
    if (mica_backend_begin(be) && check_same(be, "copy", src, dst) && mica_tensor_count(src) > 0)
        keep(be, be->ops->copy(be, src, dst, &be->error));
}

void mica_linear_combination(mica_backend *be, int n, const float *coef,
                             const mica_tensor *const *x, mica_tensor *y)
{
    if (!mica_backend_begin(be))
        return;
    if (n < 1 || n > 6) {
        mica_backend_fail(be, MICA_E_INTERNAL, "linear_combination of %d terms; 1 to 6", n);
        return;
    }
    for (int i = 0; i < n; i++)
        if (mica_tensor_count(x[i]) != mica_tensor_count(y)) {
            mismatch(be, "linear_combination", NULL, "sizes differ", x[i], y);
            return;
        }
    if (mica_tensor_count(y) > 0)
        keep(be, be->ops->linear_combination(be, n, coef, x, y, &be->error));
}

void mica_cfg_combine(mica_backend *be, const mica_tensor *cond_PC, const mica_tensor *uncond_PC,
                      float scale, bool renorm, mica_tensor *out_PC)
{
    if (mica_backend_begin(be) && check_same(be, "cfg_combine", cond_PC, uncond_PC) &&
        check_same(be, "cfg_combine", cond_PC, out_PC) && mica_tensor_count(out_PC) > 0)
        keep(be, be->ops->cfg_combine(be, cond_PC, uncond_PC, scale, renorm, out_PC, &be->error));
}

void mica_limit_norm(mica_backend *be, const mica_tensor *reference_PC, float limit,
                     mica_tensor *y_PC)
{
    if (mica_backend_begin(be) && check_same(be, "limit_norm", reference_PC, y_PC) &&
        mica_tensor_count(y_PC) > 0)
        keep(be, be->ops->limit_norm(be, reference_PC, limit, y_PC, &be->error));
}

bool mica_all_finite(mica_backend *be, const mica_tensor *x)
{
    bool finite = true;
    if (mica_backend_begin(be) && mica_tensor_count(x) > 0)
        keep(be, be->ops->all_finite(be, x, &finite, &be->error));
    return finite;
}

void mica_watch(mica_backend *be, const mica_tensor *x, int mark)
{
    if (mark == 0)
        be->nonfinite = -1;
    if (be->ops->watch) {
        if (mica_backend_begin(be) && mica_tensor_count(x) > 0)
            keep(be, be->ops->watch(be, x, mark, &be->error));
    } else if (be->nonfinite < 0 && !mica_all_finite(be, x)) {
        be->nonfinite = mark;
    }
}

int mica_watched(mica_backend *be, int mark, bool wait)
{
    int first = be->nonfinite;
    if (be->ops->watched && !mica_backend_failed(be)) {
        if (wait)
            mica_backend_settle(be);
        first = -1;
        mica_backend_keep_status(be, be->ops->watched(be, mark, wait, &first, &be->error));
    }
    return first;
}

double mica_backend_measure_peak(mica_backend *be, mica_precision precision)
{
    double flops = 0.0;
    if (!mica_backend_failed(be))
        keep(be, be->ops->measure_peak(be, precision, &flops, &be->error));
    return flops;
}

double mica_backend_measure_bandwidth(mica_backend *be)
{
    double bytes = 0.0;
    if (!mica_backend_failed(be))
        keep(be, be->ops->measure_bandwidth(be, &bytes, &be->error));
    return bytes;
}
