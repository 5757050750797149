/* qwen_image_vae_blocks.c - the autoencoder's layers on bands of rows; see
 * qwen_image_vae_internal.h for the picture of a band.
 *
 *   residual block      x ─► norm1 SiLU ─► conv1 ─► norm2 SiLU ─► conv2 ─► + ─► x
 *    lag in rows        └──────────── (1x1), kept 2 rows ──────────────────┘
 *                                            1                      2
 *
 * Convolutions read kept rows and band as one tensor: the norm in front of them writes into a
 * slot that has room above. The result of a residual block is written over its input.
 * Reference: autoencoder_kl_qwenimage.py QwenImageResidualBlock, QwenImageAttentionBlock,
 * QwenImageResample, QwenImageMidBlock. */
#include "models/qwen_image/qwen_image_vae_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Largest sum of the slots that an automatic choice takes on the CPU: what the mid block of a 2048 x 2048
 * picture needs anyway. Each band reads all weights once: at 256 x 256 bands of 4 rows cost a quarter more
 * time than the whole. */
#define AUTO_SLOT_BYTES ((int64_t)512 << 20)

/* --------------------------------------------------------------------- run -- */

int64_t mica_vae_head_rows(const mica_qwen_vae_config *c)
{
    return 2 * (c->num_res_blocks + 1) + 2; /* each residual block may move up by two rows */
}

void mica_vae_run_init(mica_vae_run *r, mica_qwen_vae *vae, mica_backend *be,
                       const mica_vae_run_args *args, mica_err *err)
{
    static const mica_vae_run_args none = {0};
    memset(r, 0, sizeof *r);
    r->vae = vae;
    r->be = be;
    r->args = args ? args : &none;
    r->err = err;
    r->head = mica_vae_head_rows(&vae->config);
}

mica_status mica_vae_run_slots(mica_vae_run *r, mica_vae_slot_sizes sizes)
{
    memset(r->kept, 0, sizeof r->kept);
    for (int i = 0; i < MICA_VAE_SLOTS; i++) {
        const int64_t count = i == MICA_VAE_WIDE ? sizes.wide : sizes.narrow;
        r->slot[i] = mica_act_tensor(r->be, MICA_POOL_STEP, 1, &count);
    }
    return mica_backend_check(r->be, r->err);
}

mica_status mica_vae_run_step(mica_vae_run *r)
{
    MICA_TRY(mica_backend_check(r->be, r->err));
    r->done++;
    if (r->args->progress && !r->args->progress(r->args->progress_user, r->done, r->total))
        return MICA_FAIL(r->err, MICA_E_CANCELLED, "vae: cancelled");
    return MICA_OK;
}

/* Rows [start + first, + rows) of a band's slot; `first` may be negative, never below the slot. */
static mica_tensor rows_of(mica_vae_run *r, const mica_vae_band *b, int64_t first, int64_t rows)
{
    const mica_tensor *slot = &r->slot[b->slot];
    const int64_t row = b->X * b->C, start = (b->start + first) * row;
    if (start < 0 || start + rows * row > slot->shape_[0]) {
        mica_backend_fail(r->be, MICA_E_INTERNAL,
                          "vae: rows %" PRId64 " + %" PRId64 " of %" PRId64 " x %" PRId64
                          " leave slot %d of %" PRId64 " elements",
                          b->start + first, rows, b->X, b->C, b->slot, slot->shape_[0]);
        return mica_tensor_3d(slot->data, slot->dtype, 0, b->X, b->C);
    }
    char *data = (char *)slot->data + start * mica_dtype_get(slot->dtype)->size;
    return mica_tensor_3d(data, slot->dtype, rows, b->X, b->C);
}

mica_tensor mica_vae_band_view(mica_vae_run *r, const mica_vae_band *b)
{
    return rows_of(r, b, 0, b->rows);
}

static mica_vae_band fresh_band(const mica_vae_run *r, int slot, int64_t rows, int64_t X, int64_t C)
{
    return (mica_vae_band){.slot = slot, .start = r->head, .rows = rows, .X = X, .C = C};
}

void mica_vae_run_load(mica_vae_run *r, const mica_tensor *src_YXC, bool last)
{
    r->x = fresh_band(r, MICA_VAE_MAIN, src_YXC->shape_[0], src_YXC->shape_[1], src_YXC->shape_[2]);
    r->last = last;
    r->next_kept = 0;
    mica_tensor x = mica_vae_band_view(r, &r->x);
    mica_copy(r->be, src_YXC, &x);
}

void mica_vae_tap(mica_vae_run *r, const char *format, ...)
{
    char name[96];
    if (!r->args->taps)
        return;
    va_list list;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    if (!mica_tap_wants(r->args->taps, "%s", name))
        return;
    const int64_t Y = r->x.rows, X = r->x.X, C = r->x.C;
    const mica_pool_mark mark = mica_pool_get_mark(r->be, MICA_POOL_STEP);
    mica_tensor x_CYX = mica_vae_band_view(r, &r->x);
    mica_tensor copy = mica_act_tensor(r->be, MICA_POOL_STEP, 3, (const int64_t[]){C, Y, X});
    const int64_t shape[] = {C, Y, X}, stride[] = {1, X * C, C};
    memcpy(x_CYX.shape_, shape, sizeof shape);
    memcpy(x_CYX.stride_, stride, sizeof stride);
    mica_copy(r->be, &x_CYX, &copy);
    mica_tap(r->args->taps, r->be, &copy, 5, (const int64_t[]){1, C, 1, Y, X}, "%s", name);
    mica_pool_release(r->be, MICA_POOL_STEP, mark);
}

/* ---------------------------------------------------------------- kept rows -- */

/* Layers ask in the same order in every band. */
static mica_vae_kept *next_kept(mica_vae_run *r)
{
    return &r->kept[r->next_kept++];
}

/* Puts the kept rows in front of the band, which grows by them. */
static void take_kept(mica_vae_run *r, mica_vae_kept *k, mica_vae_band *b)
{
    if (k->count > 0) {
        const mica_tensor from = mica_tensor_rows(&k->rows, 0, k->count);
        mica_tensor to = rows_of(r, b, -k->count, k->count);
        mica_copy(r->be, &from, &to);
    }
    b->start -= k->count;
    b->rows += k->count;
}

/* Keeps the rows of the band from `first` on for the next one. */
static void keep_rows(mica_vae_run *r, mica_vae_kept *k, const mica_vae_band *b, int64_t first)
{
    if (r->last)
        return;
    if (!k->rows.data)
        k->rows = mica_act_tensor(r->be, MICA_POOL_STEP, 3, (const int64_t[]){2, b->X, b->C});
    k->count = (int)(b->rows - first);
    if (k->count == 0 || mica_backend_failed(r->be))
        return;
    const mica_tensor from = rows_of(r, b, first, k->count);
    mica_tensor to = mica_tensor_rows(&k->rows, 0, k->count);
    mica_copy(r->be, &from, &to);
}

/* ------------------------------------------------------------- convolutions -- */

/* One 3x3 convolution of a band. */
typedef struct conv_plan {
    mica_vae_kept *kept;
    mica_vae_band in; /* with the kept rows */
    int stride;
    int pad_top, pad_bottom;
    int64_t rows; /* of the output */
} conv_plan;

/* Stride 2 pads below and to the right only: nn.ZeroPad2d((0, 1, 0, 1)). */
static conv_plan plan_conv(mica_vae_run *r, mica_vae_band in, int stride)
{
    conv_plan p = {.kept = next_kept(r), .in = in, .stride = stride};
    take_kept(r, p.kept, &p.in);
    p.pad_top = stride == 1 && !p.kept->started;
    p.pad_bottom = r->last;
    const int64_t padded = p.in.rows + p.pad_top + p.pad_bottom;
    p.rows = padded < 3 ? 0 : (padded - 3) / stride + 1;
    keep_rows(r, p.kept, &p.in, MICA_MAX(0, p.rows * stride - p.pad_top));
    p.kept->started |= p.rows > 0;
    return p;
}

static void run_conv(mica_vae_run *r, const conv_plan *p, mica_nn_linear *conv,
                     const mica_tensor *residual, mica_tensor *y)
{
    if (p->rows == 0)
        return;
    const mica_tensor x = mica_vae_band_view(r, &p->in);
    mica_conv2d(r->be, &(mica_conv2d_args){.x_YXC = &x,
                                           .w_OCYX = &conv->w,
                                           .bias_O = &conv->b,
                                           .stride = p->stride,
                                           .pad_top = p->pad_top,
                                           .pad_bottom = p->pad_bottom,
                                           .pad_left = p->stride == 1,
                                           .pad_right = 1,
                                           .residual_YXO = residual,
                                           .y_YXO = y});
}

static void swap_main_inner(mica_vae_run *r)
{
    const mica_tensor t = r->slot[MICA_VAE_MAIN];
    r->slot[MICA_VAE_MAIN] = r->slot[MICA_VAE_INNER];
    r->slot[MICA_VAE_INNER] = t;
    r->x.slot = MICA_VAE_MAIN;
}

/* in (not in slot INNER) ─► convolution ─► r->x */
static void conv_to_main(mica_vae_run *r, mica_vae_band in, int stride, mica_nn_linear *conv)
{
    const conv_plan p = plan_conv(r, in, stride);
    r->x = fresh_band(r, MICA_VAE_INNER, p.rows, in.X / stride, conv->w.tensor.shape_[0]);
    mica_tensor y = mica_vae_band_view(r, &r->x);
    run_conv(r, &p, conv, NULL, &y);
    swap_main_inner(r);
}

void mica_vae_conv(mica_vae_run *r, mica_nn_linear *conv)
{
    conv_to_main(r, r->x, 1, conv);
}

void mica_vae_downsample(mica_vae_run *r, mica_nn_linear *conv)
{
    conv_to_main(r, r->x, 2, conv);
}

/* Reference mode "nearest-exact" at a factor of two is plain doubling. */
void mica_vae_upsample(mica_vae_run *r, mica_nn_linear *conv)
{
    const mica_vae_band twice = fresh_band(r, MICA_VAE_WIDE, 2 * r->x.rows, 2 * r->x.X, r->x.C);
    const mica_tensor x = mica_vae_band_view(r, &r->x);
    mica_tensor y = mica_vae_band_view(r, &twice);
    if (r->x.rows > 0)
        mica_upsample_nearest2(r->be, &x, &y);
    conv_to_main(r, twice, 1, conv);
}

void mica_vae_conv_1x1(mica_vae_run *r, mica_nn_linear *conv)
{
    const mica_tensor x = mica_vae_band_view(r, &r->x);
    r->x = fresh_band(r, MICA_VAE_INNER, r->x.rows, r->x.X, conv->w.tensor.shape_[0]);
    mica_tensor y = mica_vae_band_view(r, &r->x);
    mica_nn_linear_run(r->be, conv, &x, MICA_ACT_NONE, &y);
    swap_main_inner(r);
}

static void norm_to(mica_vae_run *r, const mica_vae_band *in, mica_weight *gamma, mica_act act,
                    const mica_vae_band *out)
{
    const mica_tensor x = mica_vae_band_view(r, in);
    mica_tensor y = mica_vae_band_view(r, out);
    mica_l2_norm_channels(r->be, &x, gamma, act, &y);
}

void mica_vae_head(mica_vae_run *r, mica_weight *norm, mica_nn_linear *conv, const char *norm_tap)
{
    const bool tapped = mica_tap_wants(r->args->taps, "%s", norm_tap);
    norm_to(r, &r->x, norm, tapped ? MICA_ACT_NONE : MICA_ACT_SILU, &r->x);
    if (tapped) {
        mica_tensor x = mica_vae_band_view(r, &r->x);
        mica_vae_tap(r, "%s", norm_tap);
        mica_silu(r->be, &x, &x);
    }
    mica_vae_conv(r, conv);
}

/* ------------------------------------------------------------------- blocks -- */

/* The shortcut's rows, in step with the output of the second convolution. */
static mica_tensor run_shortcut(mica_vae_run *r, mica_nn_linear *shortcut, int64_t rows)
{
    const mica_tensor x = rows_of(r, &r->x, 0, rows);
    if (!shortcut->w.name)
        return x;
    const mica_vae_band out =
        fresh_band(r, MICA_VAE_WIDE, rows, r->x.X, shortcut->w.tensor.shape_[0]);
    mica_tensor y = mica_vae_band_view(r, &out);
    mica_nn_linear_run(r->be, shortcut, &x, MICA_ACT_NONE, &y);
    return y;
}

void mica_vae_res_run(mica_vae_run *r, mica_vae_res *res)
{
    const int64_t O = res->conv1.w.tensor.shape_[0];
    mica_vae_kept *shortcut_kept = next_kept(r);

    const mica_vae_band h = fresh_band(r, MICA_VAE_WIDE, r->x.rows, r->x.X, r->x.C);
    norm_to(r, &r->x, &res->norm1, MICA_ACT_SILU, &h);
    const conv_plan first = plan_conv(r, h, 1);
    const mica_vae_band inner = fresh_band(r, MICA_VAE_INNER, first.rows, r->x.X, O);
    mica_tensor inner_view = mica_vae_band_view(r, &inner);
    run_conv(r, &first, &res->conv1, NULL, &inner_view);
    norm_to(r, &inner, &res->norm2, MICA_ACT_SILU, &inner);

    const conv_plan second = plan_conv(r, inner, 1);
    take_kept(r, shortcut_kept, &r->x);
    keep_rows(r, shortcut_kept, &r->x, second.rows);
    const mica_tensor residual = run_shortcut(r, &res->shortcut, second.rows);
    /* Over the input: where it stands when the channels stay, else from the head on. */
    if (res->shortcut.w.name)
        r->x = fresh_band(r, MICA_VAE_MAIN, second.rows, r->x.X, O);
    r->x.rows = second.rows;
    mica_tensor y = mica_vae_band_view(r, &r->x);
    run_conv(r, &second, &res->conv2, &residual, &y);
}

/* Single-head attention over all pixels of one frame; q, k, v are thirds of one row. */
void mica_vae_attention(mica_vae_run *r, mica_vae_mid *mid)
{
    const int64_t P = r->x.rows * r->x.X, C = r->x.C;
    const mica_pool_mark mark = mica_pool_get_mark(r->be, MICA_POOL_STEP);
    const mica_vae_band normed = fresh_band(r, MICA_VAE_WIDE, r->x.rows, r->x.X, C);
    const mica_vae_band mixed = fresh_band(r, MICA_VAE_INNER, r->x.rows, r->x.X, C);
    norm_to(r, &r->x, &mid->norm, MICA_ACT_NONE, &normed);
    mica_tensor qkv = mica_act_tensor(r->be, MICA_POOL_STEP, 2, (const int64_t[]){P, 3 * C});
    if (!mica_backend_failed(r->be)) {
        const mica_tensor h = mica_vae_band_view(r, &normed), out = mica_vae_band_view(r, &mixed);
        const mica_tensor h_2d = mica_tensor_2d(h.data, h.dtype, P, C);
        mica_nn_linear_run(r->be, &mid->qkv, &h_2d, MICA_ACT_NONE, &qkv);
        mica_tensor part[3], out_P1C = mica_tensor_3d(out.data, out.dtype, P, 1, C);
        for (int i = 0; i < 3; i++) {
            char *data = (char *)qkv.data + i * C * mica_dtype_get(qkv.dtype)->size;
            part[i] = mica_tensor_3d(data, qkv.dtype, P, 1, C);
            part[i].stride_[0] = 3 * C;
        }
        mica_attention(r->be, &(mica_attention_args){.segments = 1,
                                                     .q_LHK = {&part[0]},
                                                     .k_MGK = {&part[1]},
                                                     .v_MGK = {&part[2]},
                                                     .out_LHK = {&out_P1C}});
        mica_tensor x = mica_vae_band_view(r, &r->x);
        mica_nn_linear_gated(r->be, &mid->proj, &out, NULL, &x);
    }
    mica_pool_release(r->be, MICA_POOL_STEP, mark);
}

mica_status mica_vae_mid_run(mica_vae_run *r, mica_vae_half *half, const char *name)
{
    mica_vae_res_run(r, &half->mid.res[0]);
    MICA_TRY(mica_vae_run_step(r));
    mica_vae_attention(r, &half->mid);
    mica_vae_tap(r, "probe.%s.mid_block.attentions.0", name);
    MICA_TRY(mica_vae_run_step(r));
    mica_vae_res_run(r, &half->mid.res[1]);
    mica_vae_tap(r, "probe.%s.mid_block", name);
    return mica_vae_run_step(r);
}

/* -------------------------------------------------------------------- bands -- */

int64_t mica_vae_band_rows(const mica_vae_run *r, mica_vae_sizes_fn sizes, int64_t Y, int64_t X)
{
    const int64_t asked = r->args->tile_rows;
    if (asked != 0)
        return asked < 0 ? Y : MICA_MIN(asked, Y);
    const mica_backend_memory m = mica_backend_get_memory(r->be, false);
    const int64_t bytes = m.total ? (int64_t)(m.available / 2) : AUTO_SLOT_BYTES;
    const int64_t limit = bytes / mica_dtype_get(mica_backend_act_dtype(r->be))->size;
    for (int64_t N = Y; N > 1; N--) {
        const mica_vae_slot_sizes s = sizes(&r->vae->config, Y, X, N);
        if (2 * s.narrow + s.wide <= limit)
            return N;
    }
    return 1;
}
