/* compare_packed.c - linears and tables of packed weights on two backends: every type, few rows and many.
 *
 * Blocks are random bytes with finite f16 fields of a usual size, as in test_backend_packed.c. */
#include "compare.h"

#include "base/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F32_BOUND  3e-6
#define BF16_BOUND 6e-3

static const mica_dtype TYPES[] = {
    MICA_DTYPE_Q8_0,   MICA_DTYPE_Q4_0,   MICA_DTYPE_Q4_1,  MICA_DTYPE_Q5_0, MICA_DTYPE_Q5_1,
    MICA_DTYPE_Q2_K,   MICA_DTYPE_Q3_K,   MICA_DTYPE_Q4_K,  MICA_DTYPE_Q5_K, MICA_DTYPE_Q6_K,
    MICA_DTYPE_IQ4_NL, MICA_DTYPE_IQ4_XS, MICA_DTYPE_MXFP4, MICA_DTYPE_MLX2, MICA_DTYPE_MLX3,
    MICA_DTYPE_MLX4,   MICA_DTYPE_MLX5,   MICA_DTYPE_MLX6,  MICA_DTYPE_MLX8, MICA_DTYPE_I8,
};
#define TYPE_COUNT ((int)(sizeof TYPES / sizeof TYPES[0]))

/* Where a block keeps f16 numbers. */
static void tame(cmp *c, mica_dtype dtype, uint8_t *block)
{
    int at[2] = {0, 0};
    if (dtype == MICA_DTYPE_Q4_1 || dtype == MICA_DTYPE_Q5_1 || dtype == MICA_DTYPE_Q4_K ||
        dtype == MICA_DTYPE_Q5_K)
        at[1] = 2;
    if (dtype == MICA_DTYPE_Q2_K)
        at[0] = 80, at[1] = 82;
    if (dtype == MICA_DTYPE_Q3_K)
        at[0] = at[1] = 108;
    if (dtype == MICA_DTYPE_Q6_K)
        at[0] = at[1] = 208;
    for (int i = 0; i < 2; i++) {
        const uint16_t h = mica_f32_to_f16(0.01f * cmp_normal(c));
        memcpy(block + at[i], &h, 2);
    }
    if (dtype == MICA_DTYPE_MXFP4)
        block[0] = (uint8_t)cmp_int(c, 118, 126);
}

/* like: of another weight's kind and groups, or NULL. */
static void add_scales(cmp *c, mica_tensor *t, const mica_tensor *like)
{
    static const mica_dtype KINDS[] = {MICA_DTYPE_F16, MICA_DTYPE_BF16, MICA_DTYPE_F32};
    const bool grouped = t->dtype != MICA_DTYPE_I8;
    const int least = grouped ? 32 << (t->shape_[1] % 64 == 0 ? cmp_int(c, 0, 1) : 0) : 0;
    const int group = like ? like->scale.group : least;
    const int64_t count = grouped ? mica_tensor_count(t) / group : t->shape_[0];
    const mica_dtype kind = like ? like->scale.dtype : KINDS[cmp_int(c, 0, 2)];
    uint8_t *s = cmp_alloc((size_t)count * 8);
    for (int64_t i = 0; i < 2 * count; i++) {
        const float v = 0.01f * cmp_normal(c);
        const uint16_t h = kind == MICA_DTYPE_F16 ? mica_f32_to_f16(v) : mica_f32_to_bf16(v);
        memcpy(s + i * (kind == MICA_DTYPE_F32 ? 4 : 2),
               kind == MICA_DTYPE_F32 ? (const void *)&v : &h, kind == MICA_DTYPE_F32 ? 4 : 2);
    }
    t->scale =
        (mica_tensor_scale){.data = s,
                            .dtype = kind,
                            .per_row = !grouped,
                            .group = group,
                            .bias = grouped ? s + count * (kind == MICA_DTYPE_F32 ? 4 : 2) : NULL};
}

static cmp_weight weight_like(cmp *c, mica_dtype dtype, int64_t rows, int64_t width,
                              const mica_tensor *like)
{
    const mica_dtype_info *info = mica_dtype_get(dtype);
    mica_tensor t = mica_tensor_2d(NULL, dtype, rows, width);
    uint8_t *p = cmp_alloc(mica_tensor_size(&t));
    cmp_weight w;
    for (size_t i = 0; i < mica_tensor_size(&t); i++)
        p[i] = (uint8_t)cmp_u32(c);
    t.data = p;
    if (mica_dtype_is_affine(dtype) || dtype == MICA_DTYPE_I8)
        add_scales(c, &t, like);
    else
        for (size_t i = 0; i < mica_tensor_size(&t); i += (size_t)info->size)
            tame(c, dtype, p + i);
    for (int i = 0; i < 2; i++)
        w.w[i] = (mica_weight){.tensor = t, .name = "packed"};
    return w;
}

static cmp_weight packed_weight(cmp *c, mica_dtype dtype, int64_t rows, int64_t width)
{
    return weight_like(c, dtype, rows, width, NULL);
}

cmp_weight cmp_packed_like(cmp *c, const cmp_weight *w)
{
    const mica_tensor *t = &w->w[0].tensor;
    return weight_like(c, t->dtype, t->shape_[0], t->shape_[1], t);
}

cmp_weight cmp_packed_matrix(cmp *c, int rows, int width)
{
    return packed_weight(c, TYPES[cmp_int(c, 0, TYPE_COUNT - 1)], rows, width);
}

cmp_weight cmp_packed_weight(cmp *c, int rows, int most)
{
    const mica_dtype type = TYPES[cmp_int(c, 0, TYPE_COUNT - 1)];
    const int unit = mica_dtype_get(type)->block == 256 ? 256 : 32;
    return packed_weight(c, type, rows, unit * cmp_int(c, 1, most));
}

/* A factor per row, as a DoRA gives blocks that have scales of their own. */
static void add_row_scales(cmp *c, cmp_weight *w)
{
    const int64_t rows = w->w[0].tensor.shape_[0];
    float *s = cmp_alloc((size_t)rows * sizeof *s);
    for (int64_t i = 0; i < rows; i++)
        s[i] = 1.0f + 0.5f * cmp_normal(c);
    for (int i = 0; i < 2; i++)
        w->w[i].tensor.scale =
            (mica_tensor_scale){.data = s, .dtype = MICA_DTYPE_F32, .per_row = true};
}

static void packed_linear(cmp *c)
{
    const mica_dtype type = TYPES[cmp_int(c, 0, TYPE_COUNT - 1)];
    const int unit = mica_dtype_get(type)->block == 256 ? 256 : 32;
    const int M = cmp_u32(c) & 1 ? cmp_int(c, 1, 8) : cmp_int(c, 9, 90);
    const int D = unit * cmp_int(c, 1, 6), O = cmp_int(c, 1, 300);
    const int rest = cmp_int(c, 0, 7);
    const bool state = cmp_int(c, 0, 3) == 0, by_row = cmp_int(c, 0, 3) == 0;
    const bool by_rows =
        !mica_dtype_is_affine(type) && type != MICA_DTYPE_I8 && cmp_int(c, 0, 2) == 0;
    const mica_act act = (mica_act)cmp_int(c, 0, 3);
    snprintf(c->what, sizeof c->what, "%d x %d x %d, %s, act %d, rest %d%s%s%s", M, D, O,
             mica_dtype_get(type)->name, (int)act, rest, state ? ", f32" : "",
             by_row ? ", by row" : "", by_rows ? ", row scales" : "");
    cmp_tensor x =
        state ? cmp_state(c, 1.0f, 2, CMP_SHAPE(M, D)) : cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    cmp_weight w = packed_weight(c, type, O, D);
    if (by_rows)
        add_row_scales(c, &w);
    cmp_weight bias = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(O));
    cmp_tensor gate = cmp_state(c, 1.0f, 1, CMP_SHAPE(O));
    cmp_tensor residual =
        state ? cmp_state(c, 1.0f, 2, CMP_SHAPE(M, O)) : cmp_act(c, 1.0f, 2, CMP_SHAPE(M, O));
    cmp_tensor y = cmp_output(c, state, 2, CMP_SHAPE(M, O));
    for (int i = 0; i < 2; i++)
        mica_linear(c->be[i], &(mica_linear_args){.x_MD = &x.t[i],
                                                  .w_OD = &w.w[i],
                                                  .bias_O = rest & 1 ? &bias.w[i] : NULL,
                                                  .act = act,
                                                  .gate_O = (rest & 6) == 6 ? &gate.t[i] : NULL,
                                                  .residual_MO = rest & 2 ? &residual.t[i] : NULL,
                                                  .y_MO = &y.t[i],
                                                  .by_row = by_row});
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &w);
    cmp_weight_free(c, &bias);
}

static void packed_embed(cmp *c)
{
    const mica_dtype type = TYPES[cmp_int(c, 0, TYPE_COUNT - 1)];
    const int unit = mica_dtype_get(type)->block == 256 ? 256 : 32;
    const int V = cmp_int(c, 1, 40), D = unit * cmp_int(c, 1, 5), L = cmp_int(c, 1, 9);
    int32_t ids[9];
    for (int i = 0; i < L; i++)
        ids[i] = cmp_int(c, 0, V - 1);
    snprintf(c->what, sizeof c->what, "%d of [%d, %d] %s", L, V, D, mica_dtype_get(type)->name);
    cmp_weight w = packed_weight(c, type, V, D);
    cmp_tensor y = cmp_output(c, false, 2, CMP_SHAPE(L, D));
    for (int i = 0; i < 2; i++)
        mica_embed_rows(c->be[i], &w.w[i], ids, L, &y.t[i]);
    cmp_result(c, &y, 1e-6, 3e-3);
    cmp_weight_free(c, &w);
}

/* One to three LoRA of different types and ranks on parts of the rows; then the weight without them. */
static void packed_lora(cmp *c)
{
    static const mica_dtype KINDS[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16};
    const mica_dtype type = TYPES[cmp_int(c, 0, TYPE_COUNT - 1)];
    const int unit = mica_dtype_get(type)->block == 256 ? 256 : 32, count = cmp_int(c, 1, 3);
    const int M = cmp_u32(c) & 1 ? cmp_int(c, 1, 8) : cmp_int(c, 9, 90);
    const int D = unit * cmp_int(c, 1, 6), O = cmp_int(c, 1, 300);
    cmp_weight up[3], down[3];
    mica_adapter a[3] = {{0}};
    snprintf(c->what, sizeof c->what, "%d x %d x %d, %s, %d LoRA", M, D, O,
             mica_dtype_get(type)->name, count);
    for (int i = 0; i < count; i++) {
        const int rows = cmp_int(c, 1, 2 * O), rank = cmp_int(c, 1, 20);
        const mica_dtype kind = KINDS[cmp_int(c, 0, 2)];
        up[i] = cmp_weight_make(c, kind, 0.3f, 0, 2, CMP_SHAPE(rows, rank));
        down[i] = cmp_weight_make(c, kind, 0.3f, 0, 2, CMP_SHAPE(rank, D));
        a[i] = (mica_adapter){.next = i + 1 < count ? &a[i + 1] : NULL,
                              .first = cmp_int(c, 0, O - 1),
                              .skip = cmp_int(c, 0, rows - 1),
                              .scale = 0.1f * (float)cmp_int(c, 1, 9),
                              .up = {up[i].w[0].tensor},
                              .down = {down[i].w[0].tensor}};
        a[i].count = MICA_MIN(O - a[i].first, rows - a[i].skip);
    }
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    cmp_weight w = packed_weight(c, type, O, D);
    for (int pass = 0; pass < 2; pass++) {
        cmp_tensor y = cmp_output(c, true, 2, CMP_SHAPE(M, O));
        for (int i = 0; i < 2; i++) {
            w.w[i].adapters = pass ? NULL : a;
            mica_linear(c->be[i], &(mica_linear_args){.x_MD = &x.t[i],
                                                      .w_OD = &w.w[i],
                                                      .act = MICA_ACT_SILU,
                                                      .y_MO = &y.t[i]});
        }
        cmp_result(c, &y, 2e-5, 6e-3);
    }
    cmp_weight_free(c, &w);
    for (int i = 0; i < count; i++) {
        cmp_weight_free(c, &up[i]);
        cmp_weight_free(c, &down[i]);
    }
}

const cmp_op cmp_packed_ops[] = {{"packed_linear", packed_linear, 60},
                                 {"packed_lora", packed_lora, 20},
                                 {"packed_embed", packed_embed, 20},
                                 {0}};
