/* kl_vae_layers.c - one layer of the autoencoder over a whole picture, in bands of rows; see
 * kl_vae_internal.h for the picture.
 *
 *     rows of `from` ─► [norm SiLU | twice | copy] ─► scratch ─conv 3x3─► + ─► rows of `to`
 *     rows of `add`  ─► [1x1] ───────────────────────────────────────────┘        └► moments
 *
 * A band of n rows of the result needs n + 2 rows in front of the convolution (2 n + 1 with stride
 * 2): the rows at its edges are normed twice, no convolution is.
 * Reference: diffusers models/resnet.py ResnetBlock2D, upsampling.py Upsample2D, downsampling.py
 * Downsample2D (zeros below and right), attention_processor.py Attention with group_norm. */
#include "nn/kl_vae_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* -------------------------------------------------------------------- planes -- */

mica_tensor mica_kl_plane_view(const mica_kl_plane *p)
{
    return mica_tensor_3d(p->store.data, p->store.dtype, p->Y, p->X, p->C);
}

/* Rows [first, first + rows) of a plane as if it were rows of X x C; of one slot. */
static mica_tensor rows_of(const mica_kl_plane *p, int64_t X, int64_t C, int64_t first,
                           int64_t rows)
{
    char *data = p->store.data;
    const int64_t size = mica_dtype_get(p->store.dtype)->size;
    const int64_t slot = p->band ? first / p->band : 0;
    const int64_t at = p->offset + slot * p->pitch + (first - slot * p->band) * X * C;
    return mica_tensor_3d(data + at * size, p->store.dtype, rows, X, C);
}

/* How many of `rows` rows from `first` on lie behind each other. */
static int64_t rows_together(const mica_kl_plane *p, int64_t first, int64_t rows)
{
    return p->band ? MICA_MIN(rows, p->band - first % p->band) : rows;
}

static mica_tensor scratch_of(const mica_kl_run *r, int64_t *used, int64_t rows, int64_t X,
                              int64_t C)
{
    char *data = r->scratch.data;
    const mica_tensor t = mica_tensor_3d(data + *used * mica_dtype_get(r->scratch.dtype)->size,
                                         r->scratch.dtype, rows, X, C);
    *used += rows * X * C;
    return t;
}

static void resize_plane(mica_kl_plane *p, int64_t Y, int64_t X, int64_t C)
{
    p->Y = Y;
    p->X = X;
    p->C = C;
    if (!p->band)
        p->most = MICA_MAX(p->most, Y * X * C);
    p->most_rows = MICA_MAX(p->most_rows, Y);
}

/* No norm reads a picture whose channels are no whole groups (latents). */
static void take_moments(mica_kl_run *r, const mica_kl_plane *p, const mica_tensor *rows,
                         int64_t first)
{
    if (!p->moments.data || rows->shape_[2] % r->vae->config.groups != 0)
        return;
    mica_tensor moments = mica_tensor_rows(&p->moments, first, rows->shape_[0]);
    mica_group_moments(r->be, rows, &moments);
}

/* `rows` of plane `p` normed into y; the plane's rows all have their moments. */
static void norm_rows(mica_kl_run *r, const mica_kl_plane *p, mica_kl_norm *norm, mica_act act,
                      const mica_tensor *rows, mica_tensor *y)
{
    const mica_tensor moments = mica_tensor_rows(&p->moments, 0, p->Y);
    mica_group_norm(r->be, &(mica_group_norm_args){.x_YXC = rows,
                                                   .moments_YG2 = &moments,
                                                   .gamma_C = &norm->gamma,
                                                   .beta_C = &norm->beta,
                                                   .eps = MICA_KL_VAE_EPS,
                                                   .act = act,
                                                   .y_YXC = y});
}

/* A 1x1 convolution is a linear layer over pixels. */
static void mix_channels(mica_kl_run *r, mica_nn_linear *l, const mica_tensor *x_YXC,
                         const mica_tensor *y_YXO)
{
    const int64_t P = x_YXC->shape_[0] * x_YXC->shape_[1];
    const mica_tensor x_PC = mica_tensor_2d(x_YXC->data, x_YXC->dtype, P, x_YXC->shape_[2]);
    mica_tensor y_PO = mica_tensor_2d(y_YXO->data, y_YXO->dtype, P, y_YXO->shape_[2]);
    mica_nn_linear_run(r->be, l, &x_PC, MICA_ACT_NONE, &y_PO);
}

static mica_status finish(mica_kl_run *r)
{
    if (r->counting) {
        r->total++;
        return MICA_OK;
    }
    MICA_TRY(mica_backend_check(r->be, r->err));
    r->done++;
    if (r->args->progress && !r->args->progress(r->args->progress_user, r->done, r->total))
        return MICA_FAIL(r->err, MICA_E_CANCELLED, "vae: cancelled");
    return MICA_OK;
}

void mica_kl_tap(mica_kl_run *r, const mica_kl_plane *p, const char *format, ...)
{
    char name[96];
    if (r->counting || !r->args->taps)
        return;
    va_list list;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    if (!mica_tap_wants(r->args->taps, "%s", name))
        return;
    const mica_pool_mark mark = mica_pool_get_mark(r->be, MICA_POOL_STEP);
    const int64_t shape[] = {p->C, p->Y, p->X}, stride[] = {1, p->X * p->C, p->C};
    mica_tensor x_CYX = mica_kl_plane_view(p);
    mica_tensor copy = mica_act_tensor(r->be, MICA_POOL_STEP, 3, shape);
    memcpy(x_CYX.shape_, shape, sizeof shape);
    memcpy(x_CYX.stride_, stride, sizeof stride);
    mica_copy(r->be, &x_CYX, &copy);
    mica_tap(r->args->taps, r->be, &copy, 4, (const int64_t[]){1, p->C, p->Y, p->X}, "%s", name);
    mica_pool_release(r->be, MICA_POOL_STEP, mark);
}

/* --------------------------------------------------------------- convolution -- */

typedef struct conv_pass {
    mica_kl_run *r;
    const mica_kl_layer *l;
    mica_kl_plane *from, *to;
    int64_t in_Y, in_X, in_C; /* in front of the convolution, after any doubling */
    int64_t Y, X;             /* of the result */
    int64_t stride, pad;      /* pad: zeros above and left */
    int64_t rows;             /* of a band */
    mica_kl_plane result;     /* `to`, as it will be: what changes its size leaves the slots */
} conv_pass;

static bool needs_scratch(const conv_pass *c)
{
    return c->l->norm || c->l->size != MICA_KL_SAME;
}

/* Elements of scratch for a band of n rows. Doubling makes whole pairs of rows. */
static int64_t band_scratch(const conv_pass *c, int64_t n)
{
    const int64_t in_rows = (n - 1) * c->stride + 3 + (c->l->size == MICA_KL_TWICE ? 2 : 0);
    const int64_t in = needs_scratch(c) ? MICA_MIN(in_rows, c->in_Y + 2) * c->in_X * c->in_C : 0;
    return in + (c->l->shortcut ? n * c->X * c->l->out : 0);
}

static int64_t band_rows(const conv_pass *c)
{
    const mica_kl_run *r = c->r;
    const int64_t asked = r->args->tile_rows, limit = r->most_band;
    if (asked != 0) {
        const int64_t per_latent = MICA_MAX(1, c->Y / r->latent_rows);
        return asked < 0 ? c->Y : MICA_MIN(asked * per_latent, c->Y);
    }
    const int64_t two = band_scratch(c, 2) - band_scratch(c, 1); /* growth per row */
    if (two <= 0)
        return c->Y;
    return MICA_MAX(1, MICA_MIN(c->Y, (limit - band_scratch(c, 1)) / two + 1));
}

static conv_pass plan_conv(mica_kl_run *r, const mica_kl_layer *l, mica_kl_plane *from,
                           mica_kl_plane *to)
{
    const int64_t grow = l->size == MICA_KL_TWICE ? 2 : 1, shrink = l->size == MICA_KL_HALF ? 2 : 1;
    conv_pass c = {.r = r,
                   .l = l,
                   .from = from,
                   .to = to,
                   .in_Y = from->Y * grow,
                   .in_X = from->X * grow,
                   .in_C = from->C,
                   .stride = shrink,
                   .pad = l->size == MICA_KL_HALF ? 0 : 1};
    c.Y = c.in_Y / shrink;
    c.X = c.in_X / shrink;
    c.result = *to;
    if (l->size != MICA_KL_SAME)
        c.result.band = c.result.offset = 0;
    c.rows = c.result.band ? c.result.band : band_rows(&c);
    return c;
}

/* Rows [first, first + count) of what the convolution reads. */
static mica_tensor load_band(const conv_pass *c, int64_t first, int64_t count, int64_t *used)
{
    mica_backend *be = c->r->be;
    if (c->l->size == MICA_KL_TWICE) {
        const int64_t low = first / 2, high = (first + count + 1) / 2;
        const mica_tensor twice = scratch_of(c->r, used, 2 * (high - low), c->in_X, c->in_C);
        for (int64_t y = low, n; y < high; y += n) {
            n = rows_together(c->from, y, high - y);
            const mica_tensor src = rows_of(c->from, c->from->X, c->in_C, y, n);
            mica_tensor part = mica_tensor_rows(&twice, 2 * (y - low), 2 * n);
            mica_upsample_nearest2(be, &src, &part);
        }
        return mica_tensor_rows(&twice, first - 2 * low, count);
    }
    if (!needs_scratch(c))
        return rows_of(c->from, c->in_X, c->in_C, first, count);
    const mica_tensor band = scratch_of(c->r, used, count, c->in_X, c->in_C);
    for (int64_t y = first, n; y < first + count; y += n) {
        n = rows_together(c->from, y, first + count - y);
        const mica_tensor src = rows_of(c->from, c->in_X, c->in_C, y, n);
        mica_tensor part = mica_tensor_rows(&band, y - first, n);
        if (c->l->norm)
            norm_rows(c->r, c->from, c->l->norm, MICA_ACT_SILU, &src, &part);
        else
            mica_copy(be, &src, &part);
    }
    return band;
}

/* What is added to rows [y, y + n) of the result. */
static mica_tensor load_shortcut(const conv_pass *c, int64_t y, int64_t n, int64_t *used)
{
    const mica_kl_plane *add = c->l->add;
    const mica_tensor rows = rows_of(add, add->X, add->C, y, n);
    if (!c->l->shortcut)
        return rows;
    const mica_tensor out = scratch_of(c->r, used, n, c->X, c->l->out);
    mix_channels(c->r, c->l->shortcut, &rows, &out);
    return out;
}

static void run_band(const conv_pass *c, int64_t y, int64_t n)
{
    const int64_t top = y * c->stride - c->pad, end = top + (n - 1) * c->stride + 3;
    const int64_t first = MICA_MAX(top, 0), last = MICA_MIN(end, c->in_Y);
    mica_tensor residual, out = rows_of(&c->result, c->X, c->l->out, y, n);
    int64_t used = 0;
    if (c->l->add)
        residual = load_shortcut(c, y, n, &used);
    const mica_tensor in = load_band(c, first, last - first, &used);
    mica_conv2d(c->r->be, &(mica_conv2d_args){.x_YXC = &in,
                                              .w_OCYX = &c->l->conv->w,
                                              .bias_O = &c->l->conv->b,
                                              .stride = (int)c->stride,
                                              .pad_top = (int)(first - top),
                                              .pad_bottom = (int)(end - last),
                                              .pad_left = (int)c->pad,
                                              .pad_right = 1,
                                              .residual_YXO = c->l->add ? &residual : NULL,
                                              .y_YXO = &out});
    take_moments(c->r, c->to, &out, y);
}

/* What x takes while h is there, too. */
static void note_x(mica_kl_run *r, const mica_kl_plane *from, const mica_kl_plane *to)
{
    if ((from == &r->h || to == &r->h) && !r->x.band)
        r->most_beside_h = MICA_MAX(r->most_beside_h, r->x.Y * r->x.X * r->x.C);
}

mica_status mica_kl_conv(mica_kl_run *r, const mica_kl_layer *l, mica_kl_plane *from,
                         mica_kl_plane *to)
{
    const conv_pass c = plan_conv(r, l, from, to);
    r->most_scratch = MICA_MAX(r->most_scratch, band_scratch(&c, c.rows));
    if (!r->counting) {
        /* Where the result goes over its own input: longer rows from the bottom up. */
        const mica_kl_plane *over = to == from ? from : l->add;
        const bool upwards = over == to && c.Y * c.X * l->out > over->Y * over->X * over->C;
        const int64_t bands = (c.Y + c.rows - 1) / c.rows;
        for (int64_t i = 0; i < bands; i++) {
            const int64_t y = (upwards ? bands - 1 - i : i) * c.rows;
            run_band(&c, y, MICA_MIN(c.rows, c.Y - y));
        }
    }
    to->band = c.result.band;
    to->offset = c.result.offset;
    note_x(r, from, to);
    resize_plane(to, c.Y, c.X, l->out);
    note_x(r, from, to);
    return finish(r);
}

mica_status mica_kl_conv_1x1(mica_kl_run *r, mica_nn_linear *conv, int64_t out,
                             const mica_kl_plane *from, mica_kl_plane *to)
{
    resize_plane(to, from->Y, from->X, out);
    if (!r->counting) {
        const mica_tensor x = mica_kl_plane_view(from), y = mica_kl_plane_view(to);
        mix_channels(r, conv, &x, &y);
        take_moments(r, to, &y, 0);
    }
    return finish(r);
}

/* --------------------------------------------------------------------- slots -- */

/* The plane of a block's new x (lane 0) or h (lane 1) in the store of x. */
static mica_kl_plane lane_of(const mica_kl_plane *x, const mica_kl_plane *old, int lane,
                             int64_t out, int64_t band)
{
    mica_kl_plane p = *old;
    p.store = x->store;
    p.Y = x->Y;
    p.X = x->X;
    p.C = out;
    p.band = band;
    p.pitch = band * x->X * x->C;
    p.offset = lane * band * x->X * out;
    p.most_rows = MICA_MAX(p.most_rows, p.Y);
    return p;
}

/* One band: h = conv1 of the normed rows, s = the shortcut of the rows, both where the rows were. `above`: the
 * normed row above, which is gone from x; becomes that above the next band. */
static void narrow_band(const conv_pass *c, mica_nn_linear *shortcut, const mica_kl_plane *x,
                        const mica_kl_plane *h, int64_t y, int64_t n, mica_tensor *above)
{
    mica_backend *be = c->r->be;
    const int64_t top = y > 0, below = y + n < c->Y;
    int64_t used = c->X * c->in_C; /* `above` */
    const mica_tensor s = scratch_of(c->r, &used, n, c->X, c->l->out);
    const mica_tensor in = scratch_of(c->r, &used, top + n + below, c->X, c->in_C);
    const mica_tensor rows = rows_of(c->from, c->X, c->in_C, y, n);
    const mica_tensor read = rows_of(c->from, c->X, c->in_C, y, n + below);
    mica_tensor normed = mica_tensor_rows(&in, top, n + below);
    if (top) {
        mica_tensor first = mica_tensor_rows(&in, 0, 1);
        mica_copy(be, above, &first);
    }
    norm_rows(c->r, c->from, c->l->norm, MICA_ACT_SILU, &read, &normed);
    const mica_tensor last = mica_tensor_rows(&in, top + n - 1, 1);
    mica_copy(be, &last, above);
    mix_channels(c->r, shortcut, &rows, &s);
    mica_tensor new_x = rows_of(x, c->X, c->l->out, y, n);
    mica_tensor new_h = rows_of(h, c->X, c->l->out, y, n);
    mica_copy(be, &s, &new_x);
    mica_conv2d(be, &(mica_conv2d_args){.x_YXC = &in,
                                        .w_OCYX = &c->l->conv->w,
                                        .bias_O = &c->l->conv->b,
                                        .stride = 1,
                                        .pad_top = (int)(1 - top),
                                        .pad_bottom = (int)(1 - below),
                                        .pad_left = 1,
                                        .pad_right = 1,
                                        .y_YXO = &new_h});
    take_moments(c->r, h, &new_h, y);
}

/* The first half of a residual block that leaves x half its channels or less. */
static mica_status narrow(mica_kl_run *r, mica_kl_res *res, int64_t out)
{
    const mica_kl_layer l = {
        .norm = &res->norm1, .conv = &res->conv1, .out = out, .shortcut = &res->shortcut};
    const conv_pass c = plan_conv(r, &l, &r->x, &r->x);
    const mica_kl_plane x = lane_of(&r->x, &r->x, 0, out, c.rows);
    const mica_kl_plane h = lane_of(&r->x, &r->h, 1, out, c.rows);
    const int64_t slots = (c.Y + c.rows - 1) / c.rows, row = c.X * c.in_C;
    r->most_scratch = MICA_MAX(r->most_scratch, row + band_scratch(&c, c.rows));
    if (!r->counting) {
        int64_t used = 0;
        mica_tensor above = scratch_of(r, &used, 1, c.X, c.in_C);
        for (int64_t y = 0; y < c.Y; y += c.rows)
            narrow_band(&c, &res->shortcut, &x, &h, y, MICA_MIN(c.rows, c.Y - y), &above);
    }
    const int64_t most = MICA_MAX(r->x.most, slots * c.rows * row);
    r->h = h;
    r->x = x;
    r->x.most = most;
    return finish(r);
}

void mica_kl_leave_slots(mica_kl_run *r)
{
    r->h.store = r->h_store;
    r->h.band = r->h.offset = 0;
}

/* -------------------------------------------------------------------- blocks -- */

mica_status mica_kl_res_run(mica_kl_run *r, mica_kl_res *res, int64_t out)
{
    const bool widens = r->x.C != out;
    /* More than three times: the doubling behind the level would overtake its input (mica_kl_conv). */
    const bool narrows = r->shares && !r->x.band && r->x.C >= 2 * out && r->x.C <= 3 * out;
    const mica_kl_layer first = {.norm = &res->norm1, .conv = &res->conv1, .out = out};
    const mica_kl_layer second = {.norm = &res->norm2,
                                  .conv = &res->conv2,
                                  .out = out,
                                  .add = &r->x,
                                  .shortcut = widens && !narrows ? &res->shortcut : NULL};
    MICA_TRY(narrows ? narrow(r, res, out) : mica_kl_conv(r, &first, &r->x, &r->h));
    return mica_kl_conv(r, &second, &r->h, &r->x);
}

mica_status mica_kl_attention(mica_kl_run *r, mica_kl_mid *mid)
{
    const int64_t P = r->x.Y * r->x.X, C = r->x.C;
    resize_plane(&r->h, r->x.Y, r->x.X, C);
    r->most_beside_h = MICA_MAX(r->most_beside_h, (r->shares ? 4 : 1) * P * C);
    if (!r->shares)
        r->most_scratch = MICA_MAX(r->most_scratch, 3 * P * C);
    if (r->counting)
        return finish(r);
    mica_nn_linear *const linears[] = {&mid->q, &mid->k, &mid->v};
    const mica_tensor x = mica_kl_plane_view(&r->x);
    mica_tensor h = mica_kl_plane_view(&r->h), part[3];
    int64_t used = 0;
    norm_rows(r, &r->x, &mid->norm, MICA_ACT_NONE, &x, &h);
    const mica_tensor h_PC = mica_tensor_2d(h.data, h.dtype, P, C);
    for (int i = 0; i < 3; i++) {
        part[i] = r->shares ? rows_of(&r->x, 1, C, (i + 1) * P, P) : scratch_of(r, &used, P, 1, C);
        mica_tensor y_PC = mica_tensor_2d(part[i].data, part[i].dtype, P, C);
        mica_nn_linear_run(r->be, linears[i], &h_PC, MICA_ACT_NONE, &y_PC);
    }
    mica_tensor out_P1C = mica_tensor_3d(h.data, h.dtype, P, 1, C); /* the normed x has served */
    mica_attention(r->be, &(mica_attention_args){.segments = 1,
                                                 .q_LHK = {&part[0]},
                                                 .k_MGK = {&part[1]},
                                                 .v_MGK = {&part[2]},
                                                 .out_LHK = {&out_P1C}});
    mica_tensor x_PC = mica_tensor_2d(x.data, x.dtype, P, C);
    mica_nn_linear_gated(r->be, &mid->out, &h_PC, NULL, &x_PC);
    take_moments(r, &r->x, &x, 0);
    return finish(r);
}
