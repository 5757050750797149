/* compare_pictures.c - cases of the autoencoders' operations at the channels they have, and their
 * timings at 1,024 x 1,024.
 *
 * compare_rows.c and compare_products.c draw any width; here are those for which a backend has ways of
 * its own: whole vectors of channels, contiguous pictures, results over their own residual. */
#include "compare.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F32_BOUND  2e-5
#define BF16_BOUND 6e-3

static const int WIDTHS[] = {8, 16, 24, 32, 64, 96, 128, 192, 256, 384, 512};

static int width(cmp *c)
{
    return WIDTHS[cmp_int(c, 0, (int)MICA_ARRAY_LEN(WIDTHS) - 1)];
}

static cmp_weight vector(cmp *c, int n)
{
    return cmp_weight_make(c, MICA_DTYPE_F32, 1.0f, 0, 1, CMP_SHAPE(n));
}

/* ------------------------------------------------------------------- rows -- */

static void unit_rows(cmp *c)
{
    const int Y = cmp_int(c, 1, 12), X = cmp_int(c, 1, 40), C = width(c);
    const mica_act act = cmp_u32(c) & 1 ? MICA_ACT_SILU : MICA_ACT_NONE;
    snprintf(c->what, sizeof c->what, "%d x %d x %d, act %d", Y, X, C, (int)act);
    cmp_tensor x = cmp_act(c, 3.0f, 3, CMP_SHAPE(Y, X, C));
    cmp_tensor y = cmp_u32(c) & 1 ? x : cmp_output(c, false, 3, CMP_SHAPE(Y, X, C));
    cmp_weight w = vector(c, C);
    for (int i = 0; i < 2; i++)
        mica_l2_norm_channels(c->be[i], &x.t[i], &w.w[i], act, &y.t[i]);
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &w);
}

/* Values far from zero: a variance from plain sums of squares would be lost. */
static void groups(cmp *c)
{
    const int Y = cmp_int(c, 1, 12), X = cmp_int(c, 1, 70), C = width(c);
    const int G = C % 32 == 0 ? 32 : C / 8;
    const float far = cmp_u32(c) & 1 ? 0.0f : 20.0f;
    snprintf(c->what, sizeof c->what, "%d x %d x %d, %d groups around %g", Y, X, C, G, (double)far);
    const int64_t count = (int64_t)Y * X * C;
    float *values = cmp_alloc((size_t)count * sizeof *values);
    cmp_tensor x = cmp_output(c, false, 3, CMP_SHAPE(Y, X, C));
    for (int64_t i = 0; i < count; i++) /* of a step that bf16 has everywhere */
        values[i] = far + 0.25f * rintf(4.0f * cmp_normal(c));
    cmp_tensor moments = cmp_output(c, true, 3, CMP_SHAPE(Y, G, 2));
    cmp_tensor y = cmp_output(c, false, 3, CMP_SHAPE(Y, X, C));
    cmp_weight gamma = vector(c, C), beta = vector(c, C);
    for (int i = 0; i < 2; i++) {
        mica_upload_f32(c->be[i], &x.t[i], values);
        mica_group_moments(c->be[i], &x.t[i], &moments.t[i]);
        mica_group_norm(c->be[i],
                        &(mica_group_norm_args){.x_YXC = &x.t[i],
                                                .moments_YG2 = &moments.t[i],
                                                .gamma_C = &gamma.w[i],
                                                .beta_C = &beta.w[i],
                                                .eps = 1e-6f,
                                                .act = Y & 1 ? MICA_ACT_SILU : MICA_ACT_NONE,
                                                .y_YXC = &y.t[i]});
    }
    cmp_result(c, &moments, F32_BOUND, F32_BOUND);
    cmp_result(c, &y, 4 * F32_BOUND, BF16_BOUND);
    free(values);
    cmp_weight_free(c, &gamma);
    cmp_weight_free(c, &beta);
}

/* Bytes of the upper left part; values on and around the halves between them, beyond the ends, and NaN. */
static void bytes(cmp *c)
{
    enum { MOST = 40 * 70 * 4 };
    const int Y = cmp_int(c, 1, 40), X = cmp_int(c, 1, 70), C = cmp_int(c, 3, 4);
    const int shown_Y = cmp_int(c, 1, Y), shown_X = cmp_int(c, 1, X);
    const size_t count = (size_t)shown_Y * (size_t)shown_X * (size_t)C;
    float *values = cmp_alloc((size_t)(Y * X * C) * sizeof *values);
    uint8_t *got[2] = {cmp_alloc(MOST), cmp_alloc(MOST)};
    snprintf(c->what, sizeof c->what, "%d x %d of %d x %d x %d", shown_Y, shown_X, Y, X, C);
    cmp_tensor x = cmp_output(c, true, 3, CMP_SHAPE(Y, X, C));
    for (int i = 0; i < Y * X * C; i++)
        values[i] =
            cmp_u32(c) % 3 ? 1.3f * cmp_normal(c) : (float)cmp_int(c, -20, 530) / 255.0f - 1.0f;
    values[cmp_int(c, 0, Y * X * C - 1)] = NAN;
    for (int i = 0; i < 2; i++) {
        mica_upload_f32(c->be[i], &x.t[i], values);
        mica_tensor shown = mica_tensor_rows(&x.t[i], 0, shown_Y);
        shown.shape_[1] = shown_X;
        mica_download_pixels(c->be[i], got[i], &shown);
    }
    for (size_t i = 0; i < count; i++)
        if (got[0][i] != got[1][i]) {
            cmp_fail(c, "a byte differs", (double)got[1][i], (double)got[0][i]);
            break;
        }
    free(values);
    free(got[0]);
    free(got[1]);
}

static void doubling(cmp *c)
{
    const int Y = cmp_int(c, 1, 20), X = cmp_int(c, 1, 20), C = width(c);
    snprintf(c->what, sizeof c->what, "%d x %d x %d", Y, X, C);
    cmp_tensor x = cmp_act(c, 1.0f, 3, CMP_SHAPE(Y, X, C));
    cmp_tensor y = cmp_output(c, false, 3, CMP_SHAPE(2 * Y, 2 * X, C));
    for (int i = 0; i < 2; i++)
        mica_upsample_nearest2(c->be[i], &x.t[i], &y.t[i]);
    cmp_result(c, &y, 0.0, 0.0);
}

/* ------------------------------------------------------------ convolution -- */

/* 0 as in the decoder, 1 a band (padding above or below only), 2 downsampling, 3 the last layer: three
 * colours, f32. */
static void convolution(cmp *c)
{
    const int kind = cmp_int(c, 0, 3), stride = kind == 2 ? 2 : 1;
    const int Y = 2 * cmp_int(c, 2, 12), X = 2 * cmp_int(c, 2, 20), C = width(c);
    const int O = kind == 3 ? 3 : width(c), rest = cmp_int(c, 0, 3);
    const int top = kind == 2 ? 0 : kind == 1 ? (int)(cmp_u32(c) & 1) : 1;
    const int left = kind == 2 ? 0 : 1, bottom = kind == 1 ? !top : 1;
    const int out_Y = (Y + top + bottom - 3) / stride + 1, out_X = (X + left + 1 - 3) / stride + 1;
    const bool in_place = cmp_u32(c) & 1, state = kind == 3;
    snprintf(c->what, sizeof c->what, "kind %d, %d x %d, %d to %d, rest %d%s", kind, Y, X, C, O,
             rest, in_place ? ", in place" : "");
    cmp_tensor x = cmp_act(c, 1.0f, 3, CMP_SHAPE(Y, X, C));
    cmp_weight w = cmp_weight_make(c, MICA_DTYPE_BF16, 0.05f, 0, 4, CMP_SHAPE(O, C, 3, 3));
    cmp_weight bias = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(O));
    cmp_tensor residual = state ? cmp_state(c, 1.0f, 3, CMP_SHAPE(out_Y, out_X, O))
                                : cmp_act(c, 1.0f, 3, CMP_SHAPE(out_Y, out_X, O));
    cmp_tensor y =
        (rest & 2) && in_place ? residual : cmp_output(c, state, 3, CMP_SHAPE(out_Y, out_X, O));
    for (int i = 0; i < 2; i++)
        mica_conv2d(c->be[i], &(mica_conv2d_args){.x_YXC = &x.t[i],
                                                  .w_OCYX = &w.w[i],
                                                  .bias_O = rest & 1 ? &bias.w[i] : NULL,
                                                  .stride = stride,
                                                  .pad_top = top,
                                                  .pad_bottom = bottom,
                                                  .pad_left = left,
                                                  .pad_right = 1,
                                                  .residual_YXO = rest & 2 ? &residual.t[i] : NULL,
                                                  .y_YXO = &y.t[i]});
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &w);
    cmp_weight_free(c, &bias);
}

const cmp_op cmp_picture_ops[] = {
    {"picture_unit_rows", unit_rows, 30}, {"picture_groups", groups, 30},
    {"picture_bytes", bytes, 20},         {"picture_doubling", doubling, 12},
    {"picture_conv2d", convolution, 24},  {NULL, NULL, 0}};

/* ---------------------------------------------------------------- timings -- */

#define ROUNDS 20

typedef struct picture_bench {
    mica_backend *be;
    mica_tensor x, y, moments;
    mica_weight w, vector;
    bool residual;
    void (*run)(struct picture_bench *b);
} picture_bench;

static void run_norm(picture_bench *b)
{
    mica_l2_norm_channels(b->be, &b->x, &b->vector, MICA_ACT_SILU, &b->y);
}

static void run_moments(picture_bench *b)
{
    mica_group_moments(b->be, &b->x, &b->moments);
}

static void run_groups(picture_bench *b)
{
    mica_group_norm(b->be, &(mica_group_norm_args){.x_YXC = &b->x,
                                                   .moments_YG2 = &b->moments,
                                                   .gamma_C = &b->vector,
                                                   .beta_C = &b->vector,
                                                   .eps = 1e-6f,
                                                   .act = MICA_ACT_SILU,
                                                   .y_YXC = &b->y});
}

static void run_doubling(picture_bench *b)
{
    mica_upsample_nearest2(b->be, &b->x, &b->y);
}

static void run_conv(picture_bench *b)
{
    mica_conv2d(b->be, &(mica_conv2d_args){.x_YXC = &b->x,
                                           .w_OCYX = &b->w,
                                           .bias_O = &b->vector,
                                           .stride = 1,
                                           .pad_top = 1,
                                           .pad_bottom = 1,
                                           .pad_left = 1,
                                           .pad_right = 1,
                                           .residual_YXO = b->residual ? &b->y : NULL,
                                           .y_YXO = &b->y});
}

static void time_it(picture_bench *b, const char *name, double flops)
{
    const mica_tensor row = mica_tensor_rows(b->run == run_moments ? &b->moments : &b->y, 0, 1);
    mica_err err = {0};
    double start = mica_clock_seconds();
    b->run(b);
    (void)mica_all_finite(b->be, &row);
    const double first = mica_clock_seconds() - start;
    b->run(b);
    (void)mica_all_finite(b->be, &row);
    start = mica_clock_seconds();
    for (int i = 0; i < ROUNDS; i++)
        b->run(b);
    (void)mica_all_finite(b->be, &row);
    const double seconds = (mica_clock_seconds() - start) / ROUNDS;
    const double bytes = (double)mica_tensor_size(&b->x) +
                         (b->run == run_moments ? 0.0 : (double)mica_tensor_size(&b->y));
    if (mica_backend_check(b->be, &err) != MICA_OK)
        printf("%-44s FAILED: %s\n", name, err.text);
    else
        printf("%-44s %9.3f ms %8.1f %s, the first time %.0f ms\n", name, seconds * 1e3,
               (flops > 0 ? flops * 1e-12 : bytes * 1e-9) / seconds, flops > 0 ? "TFLOP/s" : "GB/s",
               first * 1e3);
    fflush(stdout);
}

static void fill(mica_backend *be, const mica_tensor *t)
{
    cmp c = {.random = 0x2545f4914f6cdd1du};
    const int64_t count = mica_tensor_count(t);
    float *v = cmp_alloc((size_t)count * sizeof *v);
    for (int64_t i = 0; i < count; i++)
        v[i] = (float)((int32_t)cmp_u32(&c)) / 2147483648.0f;
    mica_upload_f32(be, t, v);
    free(v);
}

static void one(mica_backend *be, void (*run)(picture_bench *), int side, int C, int O,
                bool residual)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    cmp c = {.random = 0x9e3779b97f4a7c15u};
    const int out = run == run_doubling ? 2 * side : side;
    const bool is_conv = run == run_conv;
    char name[96];
    cmp_weight vectors = cmp_weight_make(&c, MICA_DTYPE_F32, 0.1f, 0, 1, CMP_SHAPE(O));
    cmp_weight w = {0};
    if (is_conv)
        w = cmp_weight_make(&c, MICA_DTYPE_BF16, 0.02f, 0, 4, CMP_SHAPE(O, C, 3, 3));
    picture_bench b = {.be = be,
                       .x = mica_act_tensor(be, MICA_POOL_SESSION, 3, CMP_SHAPE(side, side, C)),
                       .y = mica_act_tensor(be, MICA_POOL_SESSION, 3, CMP_SHAPE(out, out, O)),
                       .moments =
                           mica_state_tensor(be, MICA_POOL_SESSION, 3, CMP_SHAPE(side, 32, 2)),
                       .w = w.w[0],
                       .vector = vectors.w[0],
                       .residual = residual,
                       .run = run};
    fill(be, &b.x);
    if (residual)
        fill(be, &b.y);
    if (run == run_groups)
        run_moments(&b);
    snprintf(name, sizeof name, "%s %d x %d, %d to %d%s",
             is_conv               ? "conv2d 3 x 3"
             : run == run_norm     ? "l2 norm, silu"
             : run == run_moments  ? "group moments"
             : run == run_doubling ? "upsample"
                                   : "group norm, silu",
             side, side, C, O, residual ? ", residual" : "");
    time_it(&b, name, is_conv ? 2.0 * side * side * C * O * 9 : 0.0);
    mica_backend_drop_weights(be, (mica_weight *[]){&b.vector, &b.w}, is_conv ? 2 : 1);
    free(vectors.w[0].tensor.data);
    free(w.w[0].tensor.data);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
}

void cmp_bench_pictures(mica_backend *be)
{
    static const int CONV[][3] = {
        /* side, in, out: Qwen-Image's decoder, then FLUX.2's */
        {128, 384, 384},  {256, 384, 192},  {256, 192, 384}, {256, 384, 384}, {512, 384, 192},
        {512, 192, 192},  {1024, 192, 96},  {1024, 96, 96},  {1024, 96, 3},   {128, 512, 512},
        {256, 512, 512},  {512, 512, 512},  {512, 512, 256}, {512, 256, 256}, {1024, 256, 256},
        {1024, 256, 128}, {1024, 128, 128}, {1024, 128, 3}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(CONV); i++)
        one(be, run_conv, CONV[i][0], CONV[i][1], CONV[i][2], false);
    one(be, run_conv, 512, 192, 192, true);
    one(be, run_conv, 1024, 96, 96, true);
    one(be, run_conv, 512, 512, 512, true);
    one(be, run_conv, 1024, 128, 128, true);
    one(be, run_norm, 1024, 96, 96, false);
    one(be, run_norm, 512, 192, 192, false);
    one(be, run_norm, 256, 384, 384, false);
    one(be, run_doubling, 512, 192, 192, false);
    one(be, run_doubling, 512, 256, 256, false);
    one(be, run_moments, 1024, 128, 128, false);
    one(be, run_moments, 512, 512, 512, false);
    one(be, run_moments, 128, 512, 512, false);
    one(be, run_groups, 1024, 128, 128, false);
    one(be, run_groups, 512, 512, 512, false);
    one(be, run_groups, 128, 512, 512, false);
}
