/* compare_rows.c - cases of the operations that are bound by memory: norms, rotation, pointwise,
 * copies, transfers, guidance. Bounds: f32 arithmetic in another order 1e-5; a result rounded once
 * to bf16 3e-3 (half a unit is 2^-9, uniformly distributed mantissas give 1.7e-3 in the mean). */
#include "compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F32_BOUND  1e-5
#define BF16_BOUND 3e-3

static const mica_dtype TYPES[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16};

static cmp_weight vector(cmp *c, int64_t n)
{
    return cmp_weight_make(c, TYPES[cmp_int(c, 0, 2)], 1.0f, 0, 1, CMP_SHAPE(n));
}

/* [rows, n] columns of a wider matrix. */
static cmp_tensor rows_of_width(cmp *c, int64_t rows, int64_t n, int pad)
{
    cmp_tensor t = cmp_act(c, 1.0f, 2, CMP_SHAPE(rows, n + pad));
    t.t[0].shape_[1] = t.t[1].shape_[1] = n;
    return t;
}

static void random_size(cmp *c, int *rows, int *n, int *pad)
{
    static const int WIDTHS[] = {8, 64, 96, 130, 384, 1023, 1536, 3072, 3840};
    *rows = cmp_int(c, 1, 70);
    *n = cmp_u32(c) & 1 ? WIDTHS[cmp_int(c, 0, 8)] : cmp_int(c, 1, 200);
    *pad = cmp_u32(c) & 1 ? 0 : cmp_int(c, 1, 9);
    snprintf(c->what, sizeof c->what, "%d x %d, %d apart", *rows, *n, *n + *pad);
}

/* ------------------------------------------------------------------ norms -- */

static void layer_norm(cmp *c)
{
    int rows, n, pad;
    random_size(c, &rows, &n, &pad);
    cmp_tensor x = rows_of_width(c, rows, n, pad);
    cmp_tensor y = cmp_u32(c) & 1 ? x : cmp_output(c, false, 2, CMP_SHAPE(rows, n));
    cmp_tensor scale = cmp_state(c, 1.0f, 1, CMP_SHAPE(n));
    cmp_tensor shift = cmp_state(c, 1.0f, 1, CMP_SHAPE(n));
    const int which = cmp_int(c, 0, 3);
    for (int i = 0; i < 2; i++)
        mica_layer_norm_modulate(c->be[i], &x.t[i], which & 1 ? &scale.t[i] : NULL,
                                 which & 2 ? &shift.t[i] : NULL, 1e-6f, &y.t[i]);
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
}

static void rms_norm(cmp *c)
{
    int rows, n, pad;
    random_size(c, &rows, &n, &pad);
    cmp_tensor x = rows_of_width(c, rows, n, pad);
    cmp_tensor y = rows_of_width(c, rows, n, 0), scale = cmp_state(c, 1.0f, 1, CMP_SHAPE(n));
    cmp_weight w = vector(c, n);
    const int which = cmp_int(c, 0, 7);
    for (int i = 0; i < 2; i++) {
        mica_weight *weight = which & 1 ? &w.w[i] : NULL;
        const mica_tensor *extra = which & 2 ? &scale.t[i] : NULL;
        if (which & 4)
            mica_rms_norm_gated(c->be[i], &x.t[i], weight, extra, 1e-6f, &y.t[i]);
        else
            mica_rms_norm_modulate(c->be[i], &x.t[i], weight, extra, 1e-6f, &y.t[i]);
    }
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &w);
}

static void l2_norm(cmp *c)
{
    int rows, n, pad;
    random_size(c, &rows, &n, &pad);
    cmp_tensor x = rows_of_width(c, rows, n, pad);
    cmp_weight w = vector(c, n);
    const mica_act act = cmp_u32(c) & 1 ? MICA_ACT_SILU : MICA_ACT_NONE;
    for (int i = 0; i < 2; i++)
        mica_l2_norm_channels(c->be[i], &x.t[i], &w.w[i], act, &x.t[i]);
    cmp_result(c, &x, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &w);
}

static void group_norm(cmp *c)
{
    const int Y = cmp_int(c, 1, 20), X = cmp_int(c, 1, 30), G = cmp_int(c, 1, 32);
    const int C = G * cmp_int(c, 1, 8);
    snprintf(c->what, sizeof c->what, "%d x %d x %d, %d groups", Y, X, C, G);
    cmp_tensor x = cmp_act(c, 2.0f, 3, CMP_SHAPE(Y, X, C));
    cmp_tensor moments = cmp_output(c, true, 3, CMP_SHAPE(Y, G, 2));
    cmp_tensor y = cmp_output(c, false, 3, CMP_SHAPE(Y, X, C));
    cmp_weight gamma = vector(c, C), beta = vector(c, C);
    for (int i = 0; i < 2; i++) {
        const mica_group_norm_args args = {.x_YXC = &x.t[i],
                                           .moments_YG2 = &moments.t[i],
                                           .gamma_C = &gamma.w[i],
                                           .beta_C = &beta.w[i],
                                           .eps = 1e-6f,
                                           .act = Y & 1 ? MICA_ACT_SILU : MICA_ACT_NONE,
                                           .y_YXC = &y.t[i]};
        mica_group_moments(c->be[i], &x.t[i], &moments.t[i]);
        mica_group_norm(c->be[i], &args);
    }
    cmp_result(c, &moments, F32_BOUND, F32_BOUND);
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &gamma);
    cmp_weight_free(c, &beta);
}

static void rope(cmp *c)
{
    static const int WIDTHS[] = {2, 6, 32, 64, 66, 128, 256};
    const int L = cmp_int(c, 1, 40), H = cmp_int(c, 1, 5), K = WIDTHS[cmp_int(c, 0, 6)];
    const int which = cmp_int(c, 1, 3), G = cmp_int(c, 0, 4);
    snprintf(c->what, sizeof c->what, "%d x %d and %d x %d, parts %d", L, H, G, K, which);
    cmp_tensor x = cmp_act(c, 1.0f, 3, CMP_SHAPE(L, H + 1, K)); /* one head is not touched */
    cmp_tensor cos = cmp_state(c, 1.0f, 2, CMP_SHAPE(L + 2, K / 2));
    cmp_tensor sin = cmp_state(c, 1.0f, 2, CMP_SHAPE(L + 2, K / 2));
    cmp_tensor keys = cmp_act(c, 1.0f, 3, CMP_SHAPE(L, G + 1, K));
    cmp_weight w = vector(c, K), also_w = vector(c, K);
    const mica_rope_layout layout = cmp_u32(c) & 1 ? MICA_ROPE_HALF : MICA_ROPE_INTERLEAVED;
    for (int i = 0; i < 2; i++) {
        mica_tensor part = x.t[i], also = keys.t[i];
        part.shape_[1] = H;
        also.shape_[1] = G;
        const mica_qk_norm_rope_args args = {.x_LHK = &part,
                                             .norm_K = which & 1 ? &w.w[i] : NULL,
                                             .also_LHK = G ? &also : NULL,
                                             .also_norm_K = which & 1 ? &also_w.w[i] : NULL,
                                             .eps = 1e-6f,
                                             .cos_Lk = which & 2 ? &cos.t[i] : NULL,
                                             .sin_Lk = which & 2 ? &sin.t[i] : NULL,
                                             .layout = layout};
        mica_qk_norm_rope(c->be[i], &args);
    }
    cmp_result(c, &x, F32_BOUND, BF16_BOUND);
    cmp_result(c, &keys, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &w);
    cmp_weight_free(c, &also_w);
}

/* -------------------------------------------------------------- pointwise -- */

static void pointwise(cmp *c)
{
    int rows, n, pad;
    random_size(c, &rows, &n, &pad);
    cmp_tensor a = rows_of_width(c, rows, n, pad), b = rows_of_width(c, rows, n, 0);
    cmp_tensor y = cmp_u32(c) & 1 ? a : cmp_output(c, cmp_u32(c) & 1, 2, CMP_SHAPE(rows, n));
    const int op = cmp_int(c, 0, 4);
    for (int i = 0; i < 2; i++) {
        mica_backend *be = c->be[i];
        if (op == 0)
            mica_silu(be, &a.t[i], &y.t[i]);
        else if (op == 1)
            mica_tanh(be, &a.t[i], &y.t[i]);
        else if (op == 2)
            mica_swiglu(be, &a.t[i], &b.t[i], &y.t[i]);
        else if (op == 3)
            mica_add(be, &a.t[i], &b.t[i], &y.t[i]);
        else
            mica_mul(be, &a.t[i], &b.t[i], &y.t[i]);
    }
    snprintf(c->what + strlen(c->what), sizeof c->what - strlen(c->what), ", operation %d", op);
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
}

static void combination(cmp *c)
{
    const int terms = cmp_int(c, 1, 6), n = cmp_int(c, 1, 5000);
    float coef[6];
    cmp_tensor x[6];
    for (int t = 0; t < terms; t++) {
        coef[t] = cmp_normal(c);
        x[t] = cmp_state(c, 1.0f, 2, CMP_SHAPE(n, 1));
    }
    for (int i = 0; i < 2; i++) {
        const mica_tensor *list[6];
        for (int t = 0; t < terms; t++)
            list[t] = &x[t].t[i];
        mica_linear_combination(c->be[i], terms, coef, list, &x[0].t[i]);
    }
    cmp_result(c, &x[0], F32_BOUND, F32_BOUND);
}

static void guidance(cmp *c)
{
    const int rows = cmp_int(c, 1, 50), n = cmp_int(c, 1, 2000);
    const bool renorm = cmp_u32(c) & 1, state = cmp_u32(c) & 1;
    cmp_tensor a =
        state ? cmp_state(c, 1.0f, 2, CMP_SHAPE(rows, n)) : cmp_act(c, 1.0f, 2, CMP_SHAPE(rows, n));
    cmp_tensor b = cmp_act(c, 1.0f, 2, CMP_SHAPE(rows, n));
    for (int i = 0; i < 2; i++) {
        mica_cfg_combine(c->be[i], &a.t[i], &b.t[i], 3.5f, renorm, &a.t[i]);
        mica_limit_norm(c->be[i], &b.t[i], 0.9f, &a.t[i]);
    }
    cmp_result(c, &a, F32_BOUND, 2 * BF16_BOUND);
}

static void finiteness(cmp *c)
{
    const int rows = cmp_int(c, 1, 50), n = cmp_int(c, 1, 300), bad = cmp_int(c, 0, 2);
    const float v[] = {1.0f, NAN, INFINITY};
    float *values = cmp_alloc((size_t)(rows * n) * sizeof *values);
    for (int i = 0; i < rows * n; i++)
        values[i] = cmp_normal(c);
    values[cmp_int(c, 0, rows * n - 1)] = v[bad];
    c->cases++;
    for (int i = 0; i < 2; i++) {
        mica_tensor t = mica_act_tensor(c->be[i], MICA_POOL_STEP, 2, CMP_SHAPE(rows, n));
        mica_upload_f32(c->be[i], &t, values);
        if (mica_all_finite(c->be[i], &t) != (bad == 0))
            cmp_fail(c, "all_finite is wrong on backend", i, 0);
    }
    free(values);
}

/* ----------------------------------------------------------------- moving -- */

/* dst[perm] = src for a random permutation of up to 5 dimensions. */
static void copy(cmp *c)
{
    const int ndim = cmp_int(c, 1, 5);
    int64_t shape[5], turned[5];
    int perm[5];
    for (int d = 0; d < ndim; d++) {
        shape[d] = cmp_u32(c) & 1 ? cmp_int(c, 1, 9) : 8 * cmp_int(c, 1, 3);
        perm[d] = d;
    }
    for (int d = ndim - 1; d > 0 && (cmp_u32(c) & 3); d--) {
        const int other = cmp_int(c, 0, d), t = perm[d];
        perm[d] = perm[other];
        perm[other] = t;
    }
    for (int d = 0; d < ndim; d++)
        turned[d] = shape[perm[d]];
    const bool to_state = cmp_u32(c) & 1;
    cmp_tensor src =
        cmp_u32(c) & 1 ? cmp_state(c, 1.0f, ndim, shape) : cmp_act(c, 1.0f, ndim, shape);
    cmp_tensor dst = cmp_output(c, to_state, ndim, turned);
    for (int i = 0; i < 2; i++) {
        mica_tensor view = src.t[i];
        for (int d = 0; d < ndim; d++) {
            view.shape_[d] = src.t[i].shape_[perm[d]];
            view.stride_[d] = src.t[i].stride_[perm[d]];
        }
        mica_copy(c->be[i], &view, &dst.t[i]);
    }
    cmp_result(c, &dst, 0.0, BF16_BOUND);
}

static void transfer(cmp *c)
{
    const int rows = cmp_int(c, 1, 90), n = cmp_int(c, 1, 3000);
    cmp_tensor t = rows_of_width(c, rows, n, 3);
    cmp_tensor big = cmp_act(c, 1.0f, 1, CMP_SHAPE(c->cases ? 1 : 5000001)); /* once: 20 MB */
    float *values = cmp_alloc((size_t)rows * (size_t)n * sizeof *values);
    for (int i = 0; i < rows * n; i++)
        values[i] = cmp_normal(c);
    for (int i = 0; i < 2; i++)
        mica_upload_f32(c->be[i], &t.t[i], values);
    cmp_result(c, &t, 0.0, BF16_BOUND);
    cmp_result(c, &big, 0.0, 0.0);
    free(values);
}

static void embed(cmp *c)
{
    static const mica_dtype ALL[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16,
                                     MICA_DTYPE_F8_E4M3};
    const int V = cmp_int(c, 1, 300), D = cmp_int(c, 1, 200), L = cmp_int(c, 1, 60);
    cmp_weight w =
        cmp_weight_make(c, ALL[cmp_int(c, 0, 3)], 1.0f, cmp_int(c, 0, 2), 2, CMP_SHAPE(V, D));
    cmp_tensor y = cmp_output(c, false, 2, CMP_SHAPE(L, D));
    int32_t ids[60];
    for (int i = 0; i < L; i++)
        ids[i] = cmp_int(c, 0, V - 1);
    for (int i = 0; i < 2; i++)
        mica_embed_rows(c->be[i], &w.w[i], ids, L, &y.t[i]);
    cmp_result(c, &y, 1e-7, BF16_BOUND);
    cmp_weight_free(c, &w);
}

/* Rows picked, and rows added with a share; no row twice. */
static void pick(cmp *c)
{
    const int M = cmp_int(c, 1, 60), N = cmp_int(c, 1, M), n = cmp_int(c, 1, 300);
    const bool adds = cmp_u32(c) & 1;
    cmp_tensor all = rows_of_width(c, M, n, adds ? 3 : 0), part = rows_of_width(c, N, n, 5);
    int32_t rows[60], order[60];
    float share[60];
    for (int i = 0; i < M; i++)
        order[i] = i;
    for (int i = 0; i < N; i++) {
        const int other = cmp_int(c, i, M - 1);
        rows[i] = order[other];
        order[other] = order[i];
        share[i] = cmp_normal(c);
    }
    snprintf(c->what, sizeof c->what, "%s %d of %d rows of %d", adds ? "add" : "gather", N, M, n);
    for (int i = 0; i < 2; i++)
        if (adds)
            mica_add_rows(c->be[i], &part.t[i], rows, share, N, &all.t[i]);
        else
            mica_gather_rows(c->be[i], &all.t[i], rows, N, &part.t[i]);
    cmp_result(c, adds ? &all : &part, adds ? F32_BOUND : 0.0, adds ? BF16_BOUND : 0.0);
}

static void upsample(cmp *c)
{
    const int Y = cmp_int(c, 1, 9), X = cmp_int(c, 1, 9), C = cmp_int(c, 1, 40);
    cmp_tensor x = cmp_act(c, 1.0f, 3, CMP_SHAPE(Y, X, C));
    cmp_tensor y = cmp_output(c, false, 3, CMP_SHAPE(2 * Y, 2 * X, C));
    for (int i = 0; i < 2; i++)
        mica_upsample_nearest2(c->be[i], &x.t[i], &y.t[i]);
    cmp_result(c, &y, 0.0, 0.0);
}

const cmp_op cmp_row_ops[] = {{"transfer", transfer, 6},
                              {"copy", copy, 40},
                              {"layer_norm_modulate", layer_norm, 30},
                              {"rms_norm", rms_norm, 40},
                              {"l2_norm_channels", l2_norm, 20},
                              {"group_norm", group_norm, 20},
                              {"qk_norm_rope", rope, 30},
                              {"pointwise", pointwise, 40},
                              {"linear_combination", combination, 10},
                              {"guidance", guidance, 20},
                              {"all_finite", finiteness, 12},
                              {"embed_rows", embed, 20},
                              {"pick_rows", pick, 30},
                              {"upsample_nearest2", upsample, 10},
                              {NULL, NULL, 0}};
