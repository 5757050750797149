/* compare_products.c - cases of linears, attention and convolution, and their timings.
 *
 * Bounds: f32 sums of up to 2,000 products in another order 2e-5. bf16: operands are equal on both
 * sides and the sums are f32, so what differs is the rounding of intermediate results: the weight
 * (a file of f32 is rounded to bf16: 2e-3), the sums on the way to a gate or residual, P of attention. */
#include "compare.h"

#include "base/clock.h"
#include "base/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F32_BOUND  2e-5
#define BF16_BOUND 6e-3
#define FP8_BOUND  5e-2 /* two operands of four significant bits: 3.6e-2 on random numbers */

static const mica_dtype TYPES[] = {MICA_DTYPE_F32,     MICA_DTYPE_BF16,    MICA_DTYPE_F16,
                                   MICA_DTYPE_F8_E4M3, MICA_DTYPE_F8_E5M2, MICA_DTYPE_F64};

/* ---------------------------------------------------------------- linears -- */

static int random_width(cmp *c, int most)
{
    return cmp_u32(c) & 1 ? cmp_int(c, 1, most) : 8 * cmp_int(c, 1, most / 8);
}

static void linear(cmp *c)
{
    const int M = cmp_int(c, 1, 80), D = random_width(c, 400), O = random_width(c, 300);
    const int pad = cmp_u32(c) & 1 ? 0 : cmp_int(c, 1, 9);
    const mica_dtype type = TYPES[cmp_int(c, 0, 5)];
    const mica_act act = (mica_act)cmp_int(c, 0, 3);
    const int rest = cmp_int(c, 0, 7); /* 1 bias, 2 residual, 4 gate */
    const bool state = cmp_int(c, 0, 3) == 0, in_place = cmp_u32(c) & 1;
    const bool state_x = cmp_int(c, 0, 5) == 0, by_row = cmp_int(c, 0, 3) == 0;
    snprintf(c->what, sizeof c->what, "%d x %d x %d, %s, act %d, rest %d, pad %d%s%s%s%s", M, D, O,
             mica_dtype_get(type)->name, (int)act, rest, pad, state ? ", f32 out" : "",
             state_x ? ", f32 in" : "", in_place ? ", in place" : "", by_row ? ", by row" : "");
    cmp_tensor x = state_x ? cmp_state(c, 1.0f, 2, CMP_SHAPE(M, D + pad))
                           : cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D + pad));
    x.t[0].shape_[1] = x.t[1].shape_[1] = D;
    cmp_weight w = cmp_weight_make(c, type, 0.1f, cmp_int(c, 0, 2), 2, CMP_SHAPE(O, D));
    cmp_weight bias = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(O));
    cmp_tensor gate = cmp_state(c, 1.0f, 1, CMP_SHAPE(O));
    cmp_tensor residual =
        state ? cmp_state(c, 1.0f, 2, CMP_SHAPE(M, O)) : cmp_act(c, 1.0f, 2, CMP_SHAPE(M, O));
    cmp_tensor y = (rest & 2) && in_place ? residual : cmp_output(c, state, 2, CMP_SHAPE(M, O));
    for (int i = 0; i < 2; i++) {
        const mica_linear_args args = {.x_MD = &x.t[i],
                                       .w_OD = &w.w[i],
                                       .bias_O = rest & 1 ? &bias.w[i] : NULL,
                                       .act = act,
                                       .gate_O = (rest & 6) == 6 ? &gate.t[i] : NULL,
                                       .residual_MO = rest & 2 ? &residual.t[i] : NULL,
                                       .y_MO = &y.t[i],
                                       .by_row = by_row};
        mica_linear(c->be[i], &args);
    }
    cmp_result(c, &y, F32_BOUND, c->fp8 ? FP8_BOUND : BF16_BOUND);
    cmp_weight_free(c, &w);
    cmp_weight_free(c, &bias);
}

/* -------------------------------------------------------------- attention -- */

static void attention(cmp *c)
{
    static const int WIDTHS[] = {4, 16, 20, 40, 64, 72, 128, 128, 128, 192, 384};
    const int K = WIDTHS[cmp_int(c, 0, 10)], G = cmp_int(c, 1, 3), H = G * cmp_int(c, 1, 3);
    const int segments = cmp_int(c, 1, 2);
    const bool causal = cmp_int(c, 0, 3) == 0, apart = cmp_u32(c) & 1;
    const int L[2] = {cmp_int(c, 1, 150), segments == 2 ? cmp_int(c, 1, 300) : 0};
    const int M[2] = {L[0] + (causal ? 0 : cmp_int(c, 0, 9)), L[1]};
    const int window = causal && cmp_u32(c) & 1 ? cmp_int(c, 1, 200) : 0;
    snprintf(c->what, sizeof c->what, "%d+%d queries, %d+%d keys, %d/%d x %d%s%s, window %d", L[0],
             L[1], M[0], M[1], H, G, K, causal ? ", causal" : "", apart ? ", rows apart" : "",
             window);
    const int extra = apart ? 1 : 0; /* heads that are not part of the view */
    cmp_tensor q[2], k[2], v[2], out[2];
    for (int s = 0; s < segments; s++) {
        q[s] = cmp_act(c, 1.0f, 3, CMP_SHAPE(L[s], H + extra, K));
        k[s] = cmp_act(c, 1.0f, 3, CMP_SHAPE(M[s], G + extra, K));
        v[s] = cmp_act(c, 1.0f, 3, CMP_SHAPE(M[s], G + extra, K));
        out[s] = cmp_output(c, false, 3, CMP_SHAPE(L[s], H, K));
        for (int i = 0; i < 2; i++) {
            q[s].t[i].shape_[1] = H;
            k[s].t[i].shape_[1] = v[s].t[i].shape_[1] = G;
        }
    }
    for (int i = 0; i < 2; i++) {
        mica_attention_args args = {.segments = segments, .causal = causal, .window = window};
        for (int s = 0; s < segments; s++) {
            args.q_LHK[s] = &q[s].t[i];
            args.k_MGK[s] = &k[s].t[i];
            args.v_MGK[s] = &v[s].t[i];
            args.out_LHK[s] = &out[s].t[i];
        }
        mica_attention(c->be[i], &args);
    }
    for (int s = 0; s < segments; s++)
        cmp_result(c, &out[s], F32_BOUND, 8e-3);
}

/* ------------------------------------------------------------------ cache -- */

/* A cache in 8 bits: rows packed, then attention over them. */
static void cache(cmp *c)
{
    static const int WIDTHS[] = {32, 64, 96, 128, 256};
    const int K = WIDTHS[cmp_int(c, 0, 4)], G = cmp_int(c, 1, 3), H = G * cmp_int(c, 1, 3);
    const int M = cmp_int(c, 1, 300), L = cmp_int(c, 1, MICA_MIN(M, 20));
    const int window = cmp_u32(c) & 1 ? cmp_int(c, 1, 200) : 0;
    const int group = K % 128 == 0 ? 128 : K % 64 == 0 ? 64 : 32;
    const size_t numbers = (size_t)M * (size_t)G * (size_t)K, scales = numbers / (size_t)group * 4;
    snprintf(c->what, sizeof c->what, "%d queries, %d keys in 8 bits, %d/%d x %d, window %d", L, M,
             H, G, K, window);
    cmp_tensor q = cmp_act(c, 1.0f, 3, CMP_SHAPE(L, H, K));
    cmp_tensor rows[2] = {cmp_act(c, 1.0f, 3, CMP_SHAPE(M, G, K)),
                          cmp_act(c, 1.0f, 3, CMP_SHAPE(M, G, K))};
    cmp_tensor out = cmp_output(c, false, 3, CMP_SHAPE(L, H, K));
    for (int i = 0; i < 2; i++) {
        mica_tensor t[2];
        for (int half = 0; half < 2; half++) {
            char *data = mica_backend_buffer_alloc(c->be[i], numbers + 2 * scales);
            t[half] = mica_tensor_3d(data, MICA_DTYPE_MLX8, M, G, K);
            t[half].scale = (mica_tensor_scale){.data = data + numbers,
                                                .dtype = MICA_DTYPE_F32,
                                                .group = group,
                                                .bias = data + numbers + scales};
            mica_copy(c->be[i], &rows[half].t[i], &t[half]);
        }
        mica_attention(c->be[i], &(mica_attention_args){.segments = 1,
                                                        .q_LHK = {&q.t[i]},
                                                        .k_MGK = {&t[0]},
                                                        .v_MGK = {&t[1]},
                                                        .out_LHK = {&out.t[i]},
                                                        .causal = true,
                                                        .by_row = L == 1,
                                                        .window = window});
        for (int half = 0; half < 2; half++)
            mica_backend_buffer_free(c->be[i], t[half].data);
    }
    /* A number on the border between two steps may be taken up by one side and down by the other. */
    cmp_result(c, &out, 2e-3, 1.5e-2);
}

/* ------------------------------------------------------------ convolution -- */

static void convolution(cmp *c)
{
    const int Y = cmp_int(c, 3, 24), X = cmp_int(c, 3, 24), C = random_width(c, 40);
    const int O = random_width(c, 40), size = cmp_u32(c) & 1 ? 3 : 1, stride = cmp_int(c, 1, 2);
    const int pad[4] = {cmp_int(c, 0, 2), cmp_int(c, 0, 2), cmp_int(c, 0, 2), cmp_int(c, 0, 2)};
    const int out_y = (Y + pad[0] + pad[1] - size) / stride + 1;
    const int out_x = (X + pad[2] + pad[3] - size) / stride + 1;
    const int rest = cmp_int(c, 0, 3); /* 1 bias, 2 residual */
    const mica_act act = cmp_u32(c) & 1 ? MICA_ACT_SILU : MICA_ACT_NONE;
    snprintf(c->what, sizeof c->what, "%d x %d x %d to %d, %d x %d, stride %d, pads %d %d %d %d", Y,
             X, C, O, size, size, stride, pad[0], pad[1], pad[2], pad[3]);
    cmp_tensor x = cmp_act(c, 1.0f, 3, CMP_SHAPE(Y, X, C));
    cmp_weight w =
        cmp_weight_make(c, TYPES[cmp_int(c, 0, 2)], 0.1f, 0, 5, CMP_SHAPE(O, C, 2, size, size));
    cmp_weight bias = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(O));
    cmp_tensor residual = cmp_act(c, 1.0f, 3, CMP_SHAPE(out_y, out_x, O));
    cmp_tensor y = cmp_output(c, false, 3, CMP_SHAPE(out_y, out_x, O));
    void *base = w.w[0].tensor.data;
    for (int i = 0; i < 2; i++) {
        /* The second of two time taps, as the Qwen-Image VAE has it. */
        mica_tensor *t = &w.w[i].tensor;
        t->data = (char *)t->data + (size_t)t->stride_[2] * (size_t)mica_dtype_get(t->dtype)->size;
        for (int d = 2; d < 4; d++) {
            t->shape_[d] = t->shape_[d + 1];
            t->stride_[d] = t->stride_[d + 1];
        }
        t->ndim = 4;
        const mica_conv2d_args args = {.x_YXC = &x.t[i],
                                       .w_OCYX = &w.w[i],
                                       .bias_O = rest & 1 ? &bias.w[i] : NULL,
                                       .stride = stride,
                                       .pad_top = pad[0],
                                       .pad_bottom = pad[1],
                                       .pad_left = pad[2],
                                       .pad_right = pad[3],
                                       .act = act,
                                       .residual_YXO = rest & 2 ? &residual.t[i] : NULL,
                                       .y_YXO = &y.t[i]};
        mica_conv2d(c->be[i], &args);
    }
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
    for (int i = 0; i < 2; i++) {
        mica_weight *const list[] = {&w.w[i]};
        mica_backend_drop_weights(c->be[i], list, 1);
    }
    w.w[0].tensor.data = base;
    cmp_weight_free(c, &w);
    cmp_weight_free(c, &bias);
}

/* The second pass over the same shapes takes no memory and never waits. */
static void steady(cmp *c)
{
    const int M = 70, D = 64, H = 4, K = 16;
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D)),
               y = cmp_output(c, false, 2, CMP_SHAPE(M, D));
    cmp_weight w = cmp_weight_make(c, MICA_DTYPE_BF16, 0.1f, 0, 2, CMP_SHAPE(D, D));
    c->cases++;
    for (int i = 0; i < 2; i++) {
        mica_backend_counters before = {0};
        for (int pass = 0; pass < 3; pass++) {
            const mica_pool_mark mark = mica_pool_get_mark(c->be[i], MICA_POOL_STEP);
            mica_tensor h = mica_act_tensor(c->be[i], MICA_POOL_STEP, 2, CMP_SHAPE(M, D));
            mica_linear(c->be[i],
                        &(mica_linear_args){
                            .x_MD = &x.t[i], .w_OD = &w.w[i], .act = MICA_ACT_SILU, .y_MO = &h});
            mica_tensor heads = mica_tensor_reshape(&h, 3, CMP_SHAPE(M, H, K));
            mica_tensor out = mica_tensor_reshape(&y.t[i], 3, CMP_SHAPE(M, H, K));
            mica_attention(c->be[i], &(mica_attention_args){.segments = 1,
                                                            .q_LHK = {&heads},
                                                            .k_MGK = {&heads},
                                                            .v_MGK = {&heads},
                                                            .out_LHK = {&out}});
            mica_pool_release(c->be[i], MICA_POOL_STEP, mark);
            if (pass == 1)
                before = mica_backend_get_counters(c->be[i]);
        }
        const mica_backend_counters after = mica_backend_get_counters(c->be[i]);
        if (after.allocations != before.allocations)
            cmp_fail(c, "allocations in a third pass",
                     (double)(after.allocations - before.allocations), 0);
        if (after.waits != before.waits)
            cmp_fail(c, "waits in a third pass", (double)(after.waits - before.waits), 0);
    }
    cmp_result(c, &y, F32_BOUND, 2 * BF16_BOUND);
    cmp_weight_free(c, &w);
}

#define EXPERTS 5

/* Both sides route by the same logits, so they choose the same experts. */
static void experts(cmp *c)
{
    const int L = cmp_int(c, 1, 40), D = 8 * cmp_int(c, 1, 12), F = 8 * cmp_int(c, 1, 12);
    const int active = cmp_int(c, 1, EXPERTS);
    const mica_dtype type = TYPES[cmp_int(c, 0, 4)];
    snprintf(c->what, sizeof c->what, "%d rows of %d, %d of %d experts of %d, %s", L, D, active,
             EXPERTS, F, mica_dtype_get(type)->name);
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(L, D));
    cmp_tensor y = cmp_act(c, 1.0f, 2, CMP_SHAPE(L, D));
    cmp_tensor logits = cmp_state(c, 1.0f, 2, CMP_SHAPE(L, EXPERTS));
    mica_backend *host = NULL; /* of the second side, every third time */
    if (cmp_int(c, 0, 2) == 0)
        (void)mica_backend_open_host(&host, c->be[1], NULL);
    cmp_weight all[3][EXPERTS];
    mica_weight w[2][3][EXPERTS];
    for (int k = 0; k < 3; k++)
        for (int e = 0; e < EXPERTS; e++) {
            all[k][e] =
                cmp_weight_make(c, type, 0.2f, 0, 2, k == 2 ? CMP_SHAPE(D, F) : CMP_SHAPE(F, D));
            for (int i = 0; i < 2; i++)
                w[i][k][e] = all[k][e].w[i];
        }
    for (int i = 0; i < 2; i++) {
        mica_experts(c->be[i], &(mica_experts_args){.x_LD = &x.t[i],
                                                    .logits_LE = &logits.t[i],
                                                    .active = active,
                                                    .gate_FD = w[i][0],
                                                    .up_FD = w[i][1],
                                                    .down_DF = w[i][2],
                                                    .y_LD = &y.t[i],
                                                    .by_row = L < 4,
                                                    .host = i == 1 ? host : NULL});
    }
    cmp_result(c, &y, F32_BOUND, 2 * BF16_BOUND);
    for (int k = 0; k < 3; k++)
        for (int e = 0; e < EXPERTS; e++) {
            /* The elements of the arrays are what was prepared. */
            for (int i = 0; i < 2; i++)
                mica_backend_drop_weights(i == 1 && host ? host : c->be[i],
                                          (mica_weight *[]){&w[i][k][e]}, 1);
            cmp_weight_free(c, &all[k][e]);
        }
    mica_backend_close(&host);
}

const cmp_op cmp_product_ops[] = {
    {"linear", linear, 80},   {"attention", attention, 40}, {"cache in 8 bits", cache, 20},
    {"experts", experts, 30}, {"conv2d", convolution, 40},  {"steady", steady, 1},
    {NULL, NULL, 0}};

/* ---------------------------------------------------------------- timings -- */

#define ROUNDS 20

static mica_tensor filled(mica_backend *be, int ndim, const int64_t *shape)
{
    cmp c = {.random = 0x2545f4914f6cdd1du};
    mica_tensor t = mica_act_tensor(be, MICA_POOL_SESSION, ndim, shape);
    const int64_t count = mica_tensor_count(&t);
    float *v = cmp_alloc((size_t)count * sizeof *v);
    for (int64_t i = 0; i < count; i++)
        v[i] = (float)((int32_t)cmp_u32(&c)) / 2147483648.0f;
    mica_upload_f32(be, &t, v);
    free(v);
    return t;
}

static mica_weight random_weight(int64_t O, int64_t C, int64_t size)
{
    cmp c = {.random = 0x2545f4914f6cdd1du};
    mica_weight w = {.tensor = size ? mica_tensor_4d(NULL, MICA_DTYPE_BF16, O, C, size, size)
                                    : mica_tensor_2d(NULL, MICA_DTYPE_BF16, O, C),
                     .name = "bench"};
    const int64_t count = mica_tensor_count(&w.tensor);
    uint16_t *data = cmp_alloc((size_t)count * sizeof *data);
    for (int64_t i = 0; i < count; i++)
        data[i] = (uint16_t)((cmp_u32(&c) & 0x80ff) | 0x3c00);
    w.tensor.data = data;
    return w;
}

static void wait_for(mica_backend *be, const mica_tensor *t)
{
    const mica_tensor one = mica_tensor_rows(t, 0, 1);
    (void)mica_all_finite(be, &one);
}

typedef struct timed {
    mica_backend *be;
    void (*run)(mica_backend *be, void *user);
    void *user;
    const mica_tensor *result;
} timed;

static void say(const timed *t, const char *name, double flops, double bytes)
{
    mica_err err = {0};
    for (int i = 0; i < 3; i++)
        t->run(t->be, t->user);
    wait_for(t->be, t->result);
    const double start = mica_clock_seconds();
    for (int i = 0; i < ROUNDS; i++)
        t->run(t->be, t->user);
    wait_for(t->be, t->result);
    const double seconds = (mica_clock_seconds() - start) / ROUNDS;
    if (mica_backend_check(t->be, &err) != MICA_OK)
        printf("%-44s FAILED: %s\n", name, err.text);
    else if (flops > 0)
        printf("%-44s %9.3f ms %8.1f TFLOP/s\n", name, seconds * 1e3, flops / seconds * 1e-12);
    else
        printf("%-44s %9.3f ms %8.1f GB/s\n", name, seconds * 1e3, bytes / seconds * 1e-9);
    fflush(stdout);
}

static void run_linear(mica_backend *be, void *user)
{
    mica_linear(be, user);
}

static void bench_linear(mica_backend *be, int M, int D, int O, int kind, const char *name)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_weight w = random_weight(O, D, 0), bias = random_weight(1, O, 0);
    bias.tensor = mica_tensor_1d(bias.tensor.data, MICA_DTYPE_BF16, O);
    mica_tensor x = filled(be, 2, CMP_SHAPE(M, D)), y = filled(be, 2, CMP_SHAPE(M, O));
    const mica_tensor gate = mica_state_tensor(be, MICA_POOL_SESSION, 1, CMP_SHAPE(O));
    float *zeros = calloc((size_t)O, sizeof *zeros);
    if (zeros)
        mica_upload_f32(be, &gate, zeros);
    free(zeros);
    mica_linear_args args = {.x_MD = &x,
                             .w_OD = &w,
                             .bias_O = &bias,
                             .act = kind == 1 ? MICA_ACT_GELU_TANH : MICA_ACT_NONE,
                             .gate_O = kind == 2 ? &gate : NULL,
                             .residual_MO = kind == 2 ? &y : NULL,
                             .y_MO = &y};
    const timed t = {be, run_linear, &args, &y};
    char line[96];
    snprintf(line, sizeof line, "linear %d x %d x %d%s", M, D, O, name);
    say(&t, line, 2.0 * M * D * O, 0);
    mica_backend_drop_weights(be, (mica_weight *[]){&w, &bias}, 2);
    free(w.tensor.data);
    free(bias.tensor.data);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
}

typedef struct gated_job {
    mica_linear_args args;
    mica_tensor y;
} gated_job;

static void run_gated(mica_backend *be, void *user)
{
    gated_job *j = user;
    mica_linear_swiglu(be, &j->args, 1, &j->y);
}

/* One weight with the rows of gate and up. */
static void bench_gated(mica_backend *be, int M, int D, int F)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_weight w = random_weight(2 * F, D, 0);
    mica_tensor x = filled(be, 2, CMP_SHAPE(M, D)), hidden = filled(be, 2, CMP_SHAPE(M, 2 * F));
    gated_job job = {.args = {.x_MD = &x, .w_OD = &w, .y_MO = &hidden},
                     .y = mica_tensor_columns(&hidden, 0, F)};
    const timed t = {be, run_gated, &job, &job.y};
    char line[96];
    snprintf(line, sizeof line, "linear_swiglu %d x %d x 2 * %d", M, D, F);
    say(&t, line, 4.0 * M * D * F, 0);
    mica_backend_drop_weights(be, (mica_weight *[]){&w}, 1);
    free(w.tensor.data);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
}

static void run_attention(mica_backend *be, void *user)
{
    mica_attention(be, user);
}

static void bench_attention(mica_backend *be, int T, int P, int H, int K, bool causal)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_tensor t[2][4];
    mica_attention_args args = {.segments = T ? 2 : 1, .causal = causal};
    for (int s = 0; s < args.segments; s++) {
        const int rows = T && s == 0 ? T : P;
        for (int i = 0; i < 4; i++)
            t[s][i] = filled(be, 3, CMP_SHAPE(rows, H, K));
        args.q_LHK[s] = &t[s][0];
        args.k_MGK[s] = &t[s][1];
        args.v_MGK[s] = &t[s][2];
        args.out_LHK[s] = &t[s][3];
    }
    const timed job = {be, run_attention, &args, &t[0][3]};
    char line[96];
    snprintf(line, sizeof line, "attention %d+%d tokens %d x %d%s", T, P, H, K,
             causal ? " causal" : "");
    say(&job, line, 4.0 * (T + P) * (T + P) * H * K, 0);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
}

static void run_conv(mica_backend *be, void *user)
{
    mica_conv2d(be, user);
}

static void bench_conv(mica_backend *be, int side, int C, int O)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_weight w = random_weight(O, C, 3);
    mica_tensor x = filled(be, 3, CMP_SHAPE(side, side, C)),
                y = filled(be, 3, CMP_SHAPE(side, side, O));
    mica_conv2d_args args = {.x_YXC = &x,
                             .w_OCYX = &w,
                             .stride = 1,
                             .pad_top = 1,
                             .pad_bottom = 1,
                             .pad_left = 1,
                             .pad_right = 1,
                             .y_YXO = &y};
    const timed job = {be, run_conv, &args, &y};
    char line[96];
    snprintf(line, sizeof line, "conv2d %d x %d, %d to %d, 3 x 3", side, side, C, O);
    say(&job, line, 2.0 * side * side * C * O * 9, 0);
    mica_backend_drop_weights(be, (mica_weight *[]){&w}, 1);
    free(w.tensor.data);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
}

static void run_norm(mica_backend *be, void *user)
{
    mica_tensor *t = user;
    mica_layer_norm_modulate(be, &t[0], NULL, NULL, 1e-6f, &t[1]);
}

static void run_rope(mica_backend *be, void *user)
{
    mica_tensor *t = user;
    mica_qk_norm_rope(be, &(mica_qk_norm_rope_args){
                              .x_LHK = &t[0], .cos_Lk = &t[1], .sin_Lk = &t[1], .eps = 1e-6f});
}

static void bench_rows(mica_backend *be)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_tensor norm[2] = {filled(be, 2, CMP_SHAPE(4096, 3072)),
                           filled(be, 2, CMP_SHAPE(4096, 3072))};
    const double bytes = 2.0 * 4096 * 3072 * (double)mica_dtype_get(norm[0].dtype)->size;
    const timed of_norm = {be, run_norm, norm, &norm[1]};
    say(&of_norm, "layer norm 4096 x 3072", 0, bytes);
    mica_tensor rope[2] = {mica_tensor_reshape(&norm[0], 3, CMP_SHAPE(4096, 24, 128)),
                           mica_state_tensor(be, MICA_POOL_SESSION, 2, CMP_SHAPE(4096, 64))};
    float *ones = cmp_alloc(4096 * 64 * sizeof *ones);
    for (int i = 0; i < 4096 * 64; i++)
        ones[i] = 0.7f;
    mica_upload_f32(be, &rope[1], ones);
    free(ones);
    const timed of_rope = {be, run_rope, rope, &norm[0]};
    say(&of_rope, "rope 4096 x 24 x 128", 0, bytes);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
}

void cmp_bench(mica_backend *be)
{
    bench_rows(be);
    bench_linear(be, 4096, 3072, 3072, 0, " bias");
    bench_linear(be, 4096, 3072, 12288, 1, " bias, gelu");
    bench_linear(be, 4096, 12288, 3072, 2, " bias, gate, residual");
    bench_linear(be, 4096, 3072, 3072, 2, " bias, gate, residual");
    bench_linear(be, 256, 3072, 3072, 0, " bias");
    bench_linear(be, 256, 3072, 12288, 1, " bias, gelu");
    bench_gated(be, 4224, 3840, 10240);
    bench_gated(be, 4608, 3072, 9216);
    bench_attention(be, 0, 4352, 24, 128, false);
    bench_attention(be, 256, 4096, 24, 128, false);
    bench_attention(be, 0, 512, 32, 128, true);
    bench_attention(be, 0, 16384, 1, 384, false);
    bench_conv(be, 128, 384, 384);
    bench_conv(be, 512, 192, 192);
    bench_conv(be, 1024, 96, 96);
    const double peak = mica_backend_measure_peak(be, mica_backend_precision(be));
    printf("%-44s %25.1f TFLOP/s\n", "peak of a product, 8192 cubed", peak * 1e-12);
}
