/* compare_fusion.c - what a device does together although the model asks for it one by one: linears of one input,
 * a gated sum and the norm behind it, attention in one kernel; and looks for NaN that nobody waits for.
 *
 * Every case comes with what breaks the pattern as well: outputs that lie apart, odd widths, an operation between
 * the two. Bounds as in compare_products.c. */
#include "compare.h"

#include <math.h>
#include <stdio.h>

/* ---------------------------------------------------------------- linears -- */

typedef struct joined {
    int count;
    int64_t widths[4];
    cmp_weight w[4], bias[4];
    cmp_tensor x, norm, scale, shift, all, y[4];
} joined;

static void open_joined(cmp *c, joined *j, int M, int D, bool apart)
{
    const mica_dtype types[] = {MICA_DTYPE_BF16, MICA_DTYPE_BF16, MICA_DTYPE_F16, MICA_DTYPE_F32};
    const mica_dtype type = types[cmp_int(c, 0, 3)];
    int64_t total = 0;
    for (int i = 0; i < j->count; i++) {
        j->widths[i] = cmp_int(c, 0, 5) ? 16 * cmp_int(c, 1, 20) : cmp_int(c, 1, 90);
        j->w[i] = cmp_weight_make(c, type, 0.1f, 0, 2, CMP_SHAPE(j->widths[i], D));
        j->bias[i] = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(j->widths[i]));
        total += j->widths[i];
    }
    j->x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    j->scale = cmp_state(c, 0.3f, 1, CMP_SHAPE(D));
    j->shift = cmp_state(c, 0.3f, 1, CMP_SHAPE(D));
    j->norm = cmp_output(c, false, 2, CMP_SHAPE(M, D));
    j->all = cmp_output(c, false, 2, CMP_SHAPE(M, total));
    int64_t first = 0;
    for (int i = 0; i < j->count; i++) {
        j->y[i] = apart ? cmp_output(c, false, 2, CMP_SHAPE(M, j->widths[i])) : j->all;
        for (int b = 0; b < 2 && !apart; b++)
            j->y[i].t[b] = mica_tensor_columns(&j->all.t[b], first, j->widths[i]);
        first += j->widths[i];
    }
}

static void run_joined(cmp *c, joined *j, int b, bool promise, bool biased)
{
    mica_linear_args args[4];
    if (promise)
        mica_next_is_operand(c->be[b]);
    mica_layer_norm_modulate(c->be[b], &j->x.t[b], &j->scale.t[b], &j->shift.t[b], 1e-6f,
                             &j->norm.t[b]);
    for (int i = 0; i < j->count; i++)
        args[i] = (mica_linear_args){.x_MD = &j->norm.t[b],
                                     .w_OD = &j->w[i].w[b],
                                     .bias_O = biased ? &j->bias[i].w[b] : NULL,
                                     .y_MO = &j->y[i].t[b]};
    mica_linears(c->be[b], args, j->count);
}

static void linears(cmp *c)
{
    joined j = {.count = cmp_int(c, 2, 4)};
    const int M = cmp_int(c, 1, 150),
              D = cmp_int(c, 0, 3) ? 16 * cmp_int(c, 1, 24) : cmp_int(c, 1, 200);
    const bool apart = cmp_int(c, 0, 3) == 0, biased = cmp_u32(c) & 1,
               alone = cmp_int(c, 0, 3) == 0;
    open_joined(c, &j, M, D, apart);
    for (int round = 0; round < 2; round++) {
        snprintf(c->what, sizeof c->what, "%d of %d x %d%s%s%s, round %d", j.count, M, D,
                 apart ? ", apart" : "", biased ? ", biases" : "",
                 alone ? ", one alone before" : "", round);
        for (int b = 0; b < 2; b++) {
            if (alone && round == 0) { /* its weight then lies by itself */
                mica_linear(c->be[b], &(mica_linear_args){.x_MD = &j.x.t[b],
                                                          .w_OD = &j.w[1].w[b],
                                                          .y_MO = &j.y[1].t[b]});
            }
            run_joined(c, &j, b, round == 1, biased);
        }
        for (int i = 0; i < j.count; i++)
            cmp_result(c, &j.y[i], 2e-5, c->fp8 ? 5e-2 : 1e-2);
    }
    for (int i = 0; i < j.count; i++) {
        cmp_weight_free(c, &j.w[i]);
        cmp_weight_free(c, &j.bias[i]);
    }
}

/* --------------------------------------------------------------- residual -- */

typedef struct sum {
    int M, D;
    bool rms, promise, between, reads;
    cmp_weight w, bias, after, norm_w[2];
    cmp_tensor in, x, gate, scale, shift, norm, y, seen;
} sum;

static void open_sum(cmp *c, sum *s)
{
    const int64_t M = s->M, D = s->D;
    s->w = cmp_weight_make(c, MICA_DTYPE_BF16, 0.1f, 0, 2, CMP_SHAPE(D, 64));
    s->bias = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(D));
    s->after = cmp_weight_make(c, MICA_DTYPE_BF16, 0.1f, 0, 2, CMP_SHAPE(64, D));
    for (int i = 0; i < 2; i++)
        s->norm_w[i] = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(D));
    s->in = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, 64));
    s->x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    s->gate = cmp_state(c, 0.5f, 1, CMP_SHAPE(D));
    s->scale = cmp_state(c, 0.3f, 1, CMP_SHAPE(D));
    s->shift = cmp_state(c, 0.3f, 1, CMP_SHAPE(D));
    s->norm = cmp_output(c, false, 2, CMP_SHAPE(M, D));
    s->y = cmp_output(c, false, 2, CMP_SHAPE(M, 64));
    s->seen = cmp_output(c, false, 2, CMP_SHAPE(M, D));
}

/* x += gate * (in w^T + b), or x += gate * RMS(in w^T + b); then a norm of x, then a product of that. */
static void run_sum(mica_backend *be, int b, sum *s)
{
    mica_linear_args args = {.x_MD = &s->in.t[b], .w_OD = &s->w.w[b], .bias_O = &s->bias.w[b]};
    args.gate_O = s->rms ? NULL : &s->gate.t[b];
    args.residual_MO = s->rms ? NULL : &s->x.t[b];
    args.y_MO = s->rms ? &s->seen.t[b] : &s->x.t[b];
    mica_linear(be, &args);
    if (s->rms)
        mica_rms_norm_gated(be, &s->seen.t[b], &s->norm_w[0].w[b], &s->gate.t[b], 1e-5f,
                            &s->x.t[b]);
    if (s->between)
        mica_copy(be, &s->x.t[b], &s->seen.t[b]);
    if (s->promise)
        mica_next_is_operand(be);
    if (s->rms)
        mica_rms_norm_modulate(be, &s->x.t[b], &s->norm_w[1].w[b], &s->scale.t[b], 1e-5f,
                               &s->norm.t[b]);
    else
        mica_layer_norm_modulate(be, &s->x.t[b], &s->scale.t[b], &s->shift.t[b], 1e-6f,
                                 &s->norm.t[b]);
    mica_linear(
        be, &(mica_linear_args){.x_MD = &s->norm.t[b], .w_OD = &s->after.w[b], .y_MO = &s->y.t[b]});
}

/* The last round ends with the sum, which is then read: nothing but that makes it come. */
static void residuals(cmp *c)
{
    const int widths[] = {8 * cmp_int(c, 1, 128), 16 * cmp_int(c, 1, 256), 3072, cmp_int(c, 1, 300),
                          4096 + 8 * cmp_int(c, 0, 9)};
    sum s = {.M = cmp_int(c, 1, 90), .D = widths[cmp_int(c, 0, 4)], .rms = cmp_u32(c) & 1};
    open_sum(c, &s);
    for (int round = 0; round < 3; round++) {
        s.promise = round == 1;
        s.between = round == 2;
        snprintf(c->what, sizeof c->what, "%d x %d, %s, round %d", s.M, s.D, s.rms ? "rms" : "sums",
                 round);
        for (int b = 0; b < 2; b++)
            run_sum(c->be[b], b, &s);
        /* x went through as many sums as rounds */
        cmp_result(c, &s.x, 5e-5, c->fp8 ? 1.5e-1 : 2e-2);
        if (!s.promise)
            cmp_result(c, &s.norm, 1e-4, c->fp8 ? 1.5e-1 : 2.5e-2);
        cmp_result(c, &s.y, 1e-4, c->fp8 ? 2e-1 : 3e-2);
        if (s.between)
            cmp_result(c, &s.seen, 5e-5, c->fp8 ? 1.5e-1 : 2e-2);
    }
    cmp_weight_free(c, &s.w);
    cmp_weight_free(c, &s.bias);
    cmp_weight_free(c, &s.after);
    for (int i = 0; i < 2; i++)
        cmp_weight_free(c, &s.norm_w[i]);
}

/* -------------------------------------------------------------- attention -- */

/* Columns of one tensor, as the models lay q, k and v. */
static void flash(cmp *c)
{
    const int K = cmp_u32(c) & 1 ? 64 : 128, G = cmp_int(c, 1, 3), H = G * cmp_int(c, 1, 3);
    const int L = cmp_int(c, 1, 300), ahead = cmp_int(c, 0, 2) ? 0 : cmp_int(c, -20, 200);
    const int M = L + ahead > 0 ? L + ahead : 1, most = L > M ? L : M;
    const bool causal = cmp_int(c, 0, 2) != 0, loud = cmp_int(c, 0, 3) == 0;
    const int N = (H + 2 * G) * K;
    snprintf(c->what, sizeof c->what, "%d x %d tokens, %d / %d heads of %d%s%s", L, M, H, G, K,
             causal ? ", causal" : "", loud ? ", large scores" : "");
    cmp_tensor all = cmp_act(c, loud ? 6.0f : 1.0f, 2, CMP_SHAPE(most, N));
    cmp_tensor out = cmp_output(c, false, 3, CMP_SHAPE(L, H, K));
    for (int b = 0; b < 2; b++) {
        mica_tensor part[3];
        for (int i = 0; i < 3; i++) {
            const int64_t first = i == 0 ? 0 : (H + (i - 1) * G) * K, heads = i == 0 ? H : G;
            const mica_tensor columns = mica_tensor_columns(&all.t[b], first, heads * K);
            part[i] = mica_tensor_3d(columns.data, columns.dtype, i == 0 ? L : M, heads, K);
            part[i].stride_[0] = N;
        }
        mica_attention(c->be[b], &(mica_attention_args){.segments = 1,
                                                        .q_LHK = {&part[0]},
                                                        .k_MGK = {&part[1]},
                                                        .v_MGK = {&part[2]},
                                                        .out_LHK = {&out.t[b]},
                                                        .causal = causal});
    }
    cmp_result(c, &out, 2e-5, 6e-3);
}

/* ----------------------------------------------------------------- watched -- */

static void expect(cmp *c, const char *what, int b, int got, int expected)
{
    if (got != expected) {
        snprintf(c->what, sizeof c->what, "%s, side %d", what, b);
        cmp_fail(c, "first mark", got, expected);
    }
}

/* Six looks, of which the fourth or none finds something; then a run that must know nothing of it. */
static void watched(cmp *c)
{
    const int rows = cmp_int(c, 1, 200), columns = cmp_int(c, 1, 70);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    float value = bad[cmp_int(c, 0, 2)];
    cmp_tensor x = cmp_int(c, 0, 1) ? cmp_state(c, 1.0f, 2, CMP_SHAPE(rows, columns))
                                    : cmp_act(c, 1.0f, 2, CMP_SHAPE(rows, columns));
    snprintf(c->what, sizeof c->what, "%d x %d", rows, columns);
    c->cases++;
    for (int b = 0; b < 2; b++) {
        mica_backend *be = c->be[b];
        for (int mark = 0; mark < 6; mark++) {
            mica_tensor one = mica_tensor_rows(&x.t[b], cmp_int(c, 0, rows - 1), 1);
            one = mica_tensor_columns(&one, cmp_int(c, 0, columns - 1), 1);
            if (mark == 3)
                mica_upload_f32(be, &one, &value);
            mica_watch(be, &x.t[b], mark);
            if (mark > 3) /* known at the latest now */
                expect(c, "one behind", b, mica_watched(be, mark - 1, true), 3);
            if (mark < 3)
                expect(c, "before", b, mica_watched(be, mark, true), -1);
        }
        expect(c, "at the end", b, mica_watched(be, 5, true), 3);
        expect(c, "without waiting", b, mica_watched(be, 5, false), 3);
    }
    x = cmp_act(c, 1.0f, 2, CMP_SHAPE(rows, columns));
    for (int b = 0; b < 2; b++) {
        mica_watch(c->be[b], &x.t[b], 0);
        mica_watch(c->be[b], &x.t[b], 1);
        expect(c, "the next run", b, mica_watched(c->be[b], 1, true), -1);
    }
}

const cmp_op cmp_fusion_ops[] = {{"linears", linears, 12},
                                 {"residuals", residuals, 16},
                                 {"flash", flash, 30},
                                 {"watched", watched, 4},
                                 {NULL, NULL, 0}};
