/* compare_tokens.c - cases of the operations that write token by token: embedding of drawn ids, blocks with
 * norms behind, draws.
 *
 * Draws must be equal, not near: logits come from the same numbers on both sides. */
#include "compare.h"

#include "base/compiler.h"
#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F32_BOUND  2e-5
#define BF16_BOUND 4e-2 /* caches and rows are rounded, block after block */
#define BLOCKS     3
#define MOST_ROWS  11

/* ---------------------------------------------------------------- embedding -- */

/* MLX's 4 bits as files have them most: groups of 64, bf16 or f16 scales and biases. */
static cmp_weight mlx4_of(cmp *c, int rows, int width, mica_dtype scale_type)
{
    const bool half = scale_type == MICA_DTYPE_F16;
    mica_tensor t = mica_tensor_2d(NULL, MICA_DTYPE_MLX4, rows, width);
    const size_t bytes = mica_tensor_size(&t), groups = (size_t)rows * (size_t)width / 64;
    uint8_t *data = cmp_alloc(bytes);
    uint16_t *scales = cmp_alloc(2 * groups * sizeof *scales);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)cmp_u32(c);
    for (size_t i = 0; i < groups; i++) {
        const float scale = 0.004f * (0.5f + 0.01f * (float)cmp_int(c, 0, 100));
        const float bias = -scale * (float)cmp_int(c, 5, 10);
        scales[i] = half ? mica_f32_to_f16(scale) : mica_f32_to_bf16(scale);
        scales[groups + i] = half ? mica_f32_to_f16(bias) : mica_f32_to_bf16(bias);
    }
    t.data = data;
    t.scale = (mica_tensor_scale){
        .data = scales, .dtype = scale_type, .group = 64, .bias = scales + groups};
    return (cmp_weight){{{.tensor = t, .name = "mlx4"}, {.tensor = t, .name = "mlx4"}}};
}

static cmp_weight mlx4(cmp *c, int rows, int width)
{
    return mlx4_of(c, rows, width, MICA_DTYPE_BF16);
}

static mica_dtype random_scales(cmp *c)
{
    return cmp_int(c, 0, 2) ? MICA_DTYPE_BF16 : MICA_DTYPE_F16;
}

/* Integers in memory of each backend: from the host as the tokens that a draw leaves. */
typedef struct ids {
    mica_tensor t[2];
} ids;

/* Greedy draws of rows whose largest logit is known put ids on both sides. */
static ids drawn_ids(cmp *c, int count, int V, int32_t *want)
{
    ids d;
    for (int i = 0; i < count; i++)
        want[i] = cmp_int(c, 0, V - 1);
    for (int b = 0; b < 2; b++) {
        void *data = mica_backend_buffer_alloc(c->be[b], (size_t)(count + 1) * sizeof(int32_t));
        d.t[b] = mica_tensor_1d(data, MICA_DTYPE_I32, count);
        for (int i = 0; i < count; i++) {
            float *logits = cmp_alloc((size_t)V * sizeof *logits);
            for (int v = 0; v < V; v++)
                logits[v] = v == want[i] ? 5.0f : (float)(v % 3);
            mica_tensor row = mica_state_tensor(c->be[b], MICA_POOL_STEP, 1, CMP_SHAPE(V));
            mica_tensor seen = mica_state_tensor(c->be[b], MICA_POOL_STEP, 1, CMP_SHAPE(V));
            mica_tensor to = mica_tensor_1d((int32_t *)data + i, MICA_DTYPE_I32, 2);
            mica_upload_f32(c->be[b], &row, logits);
            mica_upload_f32(c->be[b], &seen, logits);
            mica_race_args a = {.race = {.top_k = 1, .top_p = 1.0, .penalty = 1.0, .greedy = true},
                                .choices = V,
                                .end = -1,
                                .logits_V = row,
                                .seen_V = &seen,
                                .drawn_2 = &to};
            mica_race_draw(c->be[b], &a, 1);
            free(logits);
        }
    }
    return d;
}

static void embed_drawn(cmp *c)
{
    const bool adds = cmp_u32(c) & 1, packed = cmp_u32(c) & 1;
    const int V = cmp_int(c, 2, 300), L = cmp_int(c, 1, 5);
    const int D = packed ? 64 * cmp_int(c, 1, 3) : cmp_int(c, 1, 80);
    int32_t want[8];
    snprintf(c->what, sizeof c->what, "%d of %d x %d%s%s", L, V, D, packed ? ", packed" : "",
             adds ? ", added" : "");
    cmp_weight w =
        packed ? mlx4(c, V, D) : cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 2, CMP_SHAPE(V, D));
    cmp_tensor add = cmp_state(c, 1.0f, 2, CMP_SHAPE(L, D));
    cmp_tensor y = cmp_output(c, false, 2, CMP_SHAPE(L, D));
    ids d = drawn_ids(c, L, V, want);
    for (int b = 0; b < 2; b++) {
        mica_tensor one[8];
        const mica_tensor *list[8];
        int64_t places[8];
        for (int i = 0; i < L; i++) {
            one[i] = mica_tensor_1d((int32_t *)d.t[b].data + i, MICA_DTYPE_I32, 1);
            list[i] = &one[i];
            places[i] = (i + 1) % L;
        }
        mica_post_norm_step(c->be[b], &(mica_post_norm_args){.heads = 1,
                                                             .x_LD = &y.t[b],
                                                             .table_VD = &w.w[b],
                                                             .ids = list,
                                                             .add_RD = adds ? &add.t[b] : NULL,
                                                             .places = places});
        for (int i = 0; i < L; i++) {
            int32_t got;
            mica_fetch_finish(c->be[b], mica_fetch_start(c->be[b], &one[i], 1), &got, 1);
            if (got != want[i])
                cmp_fail(c, "another id", (double)got, (double)want[i]);
        }
    }
    cmp_result(c, &y, 1e-7, 4e-3);
    for (int b = 0; b < 2; b++)
        mica_backend_buffer_free(c->be[b], d.t[b].data);
    cmp_weight_free(c, &w);
}

/* ------------------------------------------------------------------- blocks -- */

typedef struct block {
    cmp_weight w[12]; /* qkv, q, k, v; o, up, down; biases: qkv or q, k, v, o, up, down */
    cmp_tensor vectors[4];
    bool joined;
} block;

enum { W_Q, W_K, W_V, W_O, W_UP, W_DOWN, B_Q, B_K, B_V, B_O, B_UP, B_DOWN };

static void block_make(cmp *c, block *b, int D, int F, bool joined)
{
    const mica_dtype dtype = c->bf16 ? MICA_DTYPE_BF16 : MICA_DTYPE_F32;
    const int rows[] = {joined ? 3 * D : D, D, D, D, F, D}, cols[] = {D, D, D, D, D, F};
    b->joined = joined;
    for (int i = 0; i < 6; i++) {
        b->w[i] = cmp_weight_make(c, dtype, 1.0f / (float)(cols[i] > 64 ? 12 : 4), 0, 2,
                                  CMP_SHAPE(rows[i], cols[i]));
        b->w[6 + i] = cmp_weight_make(c, dtype, 0.3f, 0, 1, CMP_SHAPE(rows[i]));
    }
    for (int i = 0; i < 4; i++)
        b->vectors[i] = cmp_state(c, 0.2f, 1, CMP_SHAPE(D));
}

static mica_post_norm_block block_of(block *b, int side)
{
    mica_weight *w[12];
    for (int i = 0; i < 12; i++)
        w[i] = &b->w[i].w[side];
    return (mica_post_norm_block){
        .qkv_w = {w[W_Q], b->joined ? NULL : w[W_K], b->joined ? NULL : w[W_V]},
        .qkv_b = {w[B_Q], b->joined ? NULL : w[B_K], b->joined ? NULL : w[B_V]},
        .o_w = w[W_O],
        .o_b = w[B_O],
        .up_w = w[W_UP],
        .up_b = w[B_UP],
        .down_w = w[W_DOWN],
        .down_b = w[B_DOWN],
        .scale_1 = &b->vectors[0].t[side],
        .shift_1 = &b->vectors[1].t[side],
        .scale_2 = &b->vectors[2].t[side],
        .shift_2 = &b->vectors[3].t[side]};
}

/* What a step begins and ends with. */
typedef struct ends {
    bool has_table, has_head;
    cmp_weight table, head;
    ids drawn;
    cmp_tensor add, logits;
    int64_t places[MOST_ROWS];
} ends;

static cmp_weight end_make(cmp *c, bool packed, int V, int D)
{
    return packed ? mlx4(c, V, D)
                  : cmp_weight_make(c, c->bf16 ? MICA_DTYPE_BF16 : MICA_DTYPE_F32, 0.1f, 0, 2,
                                    CMP_SHAPE(V, D));
}

static ends ends_make(cmp *c, int L, int D)
{
    const int V = cmp_int(c, 2, 300), R = cmp_int(c, 1, 20), logits = cmp_int(c, 1, 1400);
    const bool packs = D % 64 == 0 && cmp_int(c, 0, 2) == 0;
    int32_t want[MOST_ROWS];
    ends e = {.has_table = cmp_int(c, 0, 3) != 0, .has_head = cmp_int(c, 0, 3) != 0};
    e.table = end_make(c, packs && cmp_u32(c) & 1, V, D);
    e.head = end_make(c, packs && cmp_u32(c) & 1, logits, D);
    e.add = cmp_state(c, 1.0f, 2, CMP_SHAPE(R, D));
    e.logits = cmp_state(c, 0.0f, 2, CMP_SHAPE(L, logits));
    for (int l = 0; l < L; l++)
        e.places[l] = cmp_int(c, 0, R - 1);
    e.drawn = drawn_ids(c, L, V, want);
    return e;
}

static void ends_free(cmp *c, ends *e)
{
    for (int side = 0; side < 2; side++)
        mica_backend_buffer_free(c->be[side], e->drawn.t[side].data);
    cmp_weight_free(c, &e->table);
    cmp_weight_free(c, &e->head);
}

static void run_blocks(cmp *c, block *list, int L, int heads, cmp_tensor *x, ends *e,
                       cmp_tensor (*caches)[BLOCKS][2], const int64_t *seen)
{
    for (int side = 0; side < 2; side++) {
        mica_tensor id[MOST_ROWS];
        const mica_tensor *list_of_ids[MOST_ROWS];
        mica_tensor own[MOST_ROWS][BLOCKS][2];
        mica_tensor(*rows[MOST_ROWS])[2];
        mica_post_norm_block blocks[BLOCKS];
        for (int n = 0; n < BLOCKS; n++)
            blocks[n] = block_of(&list[n], side);
        for (int l = 0; l < L; l++) {
            rows[l] = own[l];
            id[l] = mica_tensor_1d((int32_t *)e->drawn.t[side].data + l, MICA_DTYPE_I32, 1);
            list_of_ids[l] = &id[l];
            for (int i = 0; i < 2 * BLOCKS; i++)
                own[l][i / 2][i % 2] = caches[l][i / 2][i % 2].t[side];
        }
        mica_post_norm_step(
            c->be[side], &(mica_post_norm_args){.blocks = blocks,
                                                .count = BLOCKS,
                                                .heads = heads,
                                                .eps = 1e-5f,
                                                .x_LD = &x->t[side],
                                                .caches = rows,
                                                .seen = seen,
                                                .table_VD = e->has_table ? &e->table.w[side] : NULL,
                                                .ids = list_of_ids,
                                                .add_RD = &e->add.t[side],
                                                .places = e->places,
                                                .head_VD = e->has_head ? &e->head.w[side] : NULL,
                                                .logits_LV = &e->logits.t[side]});
    }
}

/* The row that was written, among those that were there. */
static void check_caches(cmp *c, int L, cmp_tensor (*caches)[BLOCKS][2], double bound)
{
    for (int l = 0; l < L; l++)
        for (int i = 0; i < 2 * BLOCKS; i++)
            cmp_result(c, &caches[l][i / 2][i % 2], bound, BF16_BOUND);
}

/* Keys this much larger put scores hundreds above each other, beyond what exponents of any fixed distance hold. */
#define FAR_KEYS  60.0f
#define FAR_BOUND 5e-4

/* Infinity must arrive at the end, on both sides. */
static void check_endless(cmp *c, const cmp_tensor *t)
{
    for (int side = 0; side < 2; side++)
        if (mica_all_finite(c->be[side], &t->t[side]))
            cmp_fail(c, "an infinity was lost, side", (double)side, 0.0);
}

/* No number of one row may reach another: the first value of the first row's cache is infinite. */
static void spoil(cmp *c, const cmp_tensor *values)
{
    const mica_tensor first = mica_tensor_rows(&values->t[0], 0, 1);
    float *v = cmp_alloc((size_t)mica_tensor_count(&first) * sizeof *v);
    mica_download_f32(c->be[0], v, &first);
    v[0] = INFINITY;
    for (int side = 0; side < 2; side++) {
        mica_tensor row = mica_tensor_rows(&values->t[side], 0, 1);
        mica_upload_f32(c->be[side], &row, v);
    }
    free(v);
}

static void post_norm_step(cmp *c)
{
    static const int widths[] = {8, 16, 24, 32};
    static cmp_tensor caches[MOST_ROWS][BLOCKS][2];
    const bool released = cmp_int(c, 0, 3) != 0; /* widths for which devices have a kernel */
    const int K = released ? 32 : widths[cmp_int(c, 0, 3)], H = released ? 16 : cmp_int(c, 1, 16);
    const int F = released ? 2048 : 32 * cmp_int(c, 1, 12), D = H * K,
              L = cmp_int(c, 1, 3) == 1 ? cmp_int(c, 1, MOST_ROWS) : 1;
    const bool joined = cmp_u32(c) & 1, endless = cmp_int(c, 0, 9) == 0;
    const bool far = !endless && !c->bf16 && cmp_int(c, 0, 4) == 0;
    block list[BLOCKS];
    int64_t seen[MOST_ROWS];
    ends e = ends_make(c, L, D);
    snprintf(c->what, sizeof c->what, "%d rows, %d heads of %d, hidden %d%s%s%s%s%s", L, H, K, F,
             joined ? ", joined" : "", e.has_table ? ", embedding" : "", e.has_head ? ", head" : "",
             far ? ", scores far apart" : "", endless ? ", infinity" : "");
    for (int n = 0; n < BLOCKS; n++)
        block_make(c, &list[n], D, F, joined);
    if (endless) {
        mica_tensor *bias = &list[0].w[B_DOWN].w[0].tensor; /* both sides have its numbers */
        if (bias->dtype == MICA_DTYPE_F32)
            *(float *)bias->data = INFINITY;
        else
            *(uint16_t *)bias->data = mica_f32_to_bf16(INFINITY);
    }
    for (int l = 0; l < L; l++) {
        seen[l] = cmp_int(c, 0, 3) == 0 ? cmp_int(c, 0, 9) : cmp_int(c, 0, 900);
        for (int i = 0; i < 2 * BLOCKS; i++)
            caches[l][i / 2][i % 2] =
                cmp_act(c, far && i % 2 == 0 ? FAR_KEYS : 1.0f, 3, CMP_SHAPE(seen[l] + 1, H, K));
    }
    if (L > 1 && !endless && !far && seen[0] > 0 && cmp_int(c, 0, 2) == 0) {
        spoil(c, &caches[0][0][1]);
        strncat(c->what, ", first row spoilt", sizeof c->what - strlen(c->what) - 1);
    }
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(L, D));
    /* Again over what the first one wrote, where the rows that it begins with are known. */
    const int steps = e.has_head && !e.has_table ? 1 : 2;
    for (int step = 0; step < steps; step++)
        run_blocks(c, list, L, H, &x, &e, caches, seen);
    if (endless) {
        check_endless(c, e.has_head ? &e.logits : &x);
    } else {
        cmp_result(c, e.has_head ? &e.logits : &x, far ? FAR_BOUND : F32_BOUND, BF16_BOUND);
        check_caches(c, L, caches, far ? FAR_BOUND : F32_BOUND);
    }
    for (int n = 0; n < BLOCKS; n++)
        for (int i = 0; i < 12; i++)
            cmp_weight_free(c, &list[n].w[i]);
    ends_free(c, &e);
}

/* --------------------------------------------------------------------- draws -- */

static mica_race random_race(cmp *c)
{
    static const int ks[] = {1, 2, 16, 17, 32, 33, 64, 65, 128, 256, 257, 1000, INT32_MAX};
    static const double ps[] = {1e-12, 0.5, 1.0 - 1e-12};
    const int k = cmp_int(c, 0, 2), p = cmp_int(c, 0, 5);
    return (mica_race){.top_k = k ? cmp_int(c, 1, 40) : ks[cmp_int(c, 0, MICA_ARRAY_LEN(ks) - 1)],
                       .top_p = p < 3   ? 1.0
                                : p < 5 ? 0.01 * cmp_int(c, 1, 99)
                                        : ps[cmp_int(c, 0, MICA_ARRAY_LEN(ps) - 1)],
                       .temperature = cmp_int(c, 0, 9) ? 0.1 * cmp_int(c, 1, 20) : 1e-9,
                       .penalty = cmp_u32(c) & 1 ? 1.0 : 1.35,
                       .greedy = cmp_int(c, 0, 9) == 0,
                       .seed = cmp_u32(c),
                       .stream = cmp_u32(c) & 3,
                       .attempt = cmp_u32(c) & 3};
}

static void race_draw(cmp *c)
{
    const int V = cmp_int(c, 0, 5) ? cmp_int(c, 2, 1400) : cmp_int(c, 2020, 2048);
    const int rows = cmp_int(c, 1, MICA_RACE_ROWS), kind = cmp_int(c, 0, 7);
    const bool ties = kind < 3, bad = cmp_int(c, 0, 15) == 0;
    /* All equal; steep; so large that a low temperature makes infinities. */
    const float scale = kind == 3 ? 0.0f : kind == 4 ? 30.0f : kind == 5 ? 3e35f : 3.0f;
    const mica_race race = random_race(c);
    cmp_tensor logits[MICA_RACE_ROWS], seen[MICA_RACE_ROWS];
    int32_t got[2][MICA_RACE_ROWS][2];
    snprintf(c->what, sizeof c->what, "%d of %d, top k %d, top p %g, T %g, scale %g%s", rows, V,
             race.top_k, race.top_p, race.temperature, (double)scale, ties ? ", ties" : "");
    float *values = cmp_alloc((size_t)V * sizeof *values);
    for (int i = 0; i < rows; i++) {
        logits[i] = cmp_state(c, 3.0f, 1, CMP_SHAPE(V));
        seen[i] = cmp_state(c, 1.0f, 1, CMP_SHAPE(V));
        for (int v = 0; v < V; v++)
            values[v] = ties ? (float)cmp_int(c, -4, 4) : scale * cmp_normal(c);
        if (bad)
            values[cmp_int(c, 0, V - 1)] = cmp_u32(c) & 1 ? -INFINITY : NAN;
        for (int side = 0; side < 2; side++)
            mica_upload_f32(c->be[side], &logits[i].t[side], values);
        for (int v = 0; v < V; v++)
            values[v] = cmp_int(c, 0, 5) == 0 ? 1.0f : 0.0f;
        for (int side = 0; side < 2; side++)
            mica_upload_f32(c->be[side], &seen[i].t[side], values);
    }
    free(values);
    for (int side = 0; side < 2; side++) {
        mica_race_args a[MICA_RACE_ROWS];
        mica_tensor drawn[MICA_RACE_ROWS];
        void *memory = mica_backend_buffer_alloc(c->be[side], sizeof got[0]);
        for (int i = 0; i < rows; i++) {
            drawn[i] = mica_tensor_1d((int32_t *)memory + 2 * i, MICA_DTYPE_I32, 2);
            a[i] = (mica_race_args){.race = race,
                                    .choices = V > 2 ? V - (i & 1) : V,
                                    .end = V - 1,
                                    .noise = (uint64_t)(1000 * i),
                                    .logits_V = logits[i].t[side],
                                    .seen_V = &seen[i].t[side],
                                    .drawn_2 = &drawn[i]};
            a[i].race.stream += (uint32_t)i;
        }
        mica_race_draw(c->be[side], a, rows);
        for (int i = 0; i < rows; i++)
            mica_fetch_finish(c->be[side], a[i].ticket, got[side][i], 2);
        mica_backend_buffer_free(c->be[side], memory);
    }
    for (int i = 0; i < rows; i++) {
        if (memcmp(got[0][i], got[1][i], sizeof got[0][i]) != 0)
            cmp_fail(c, "another token", (double)got[1][i][0], (double)got[0][i][0]);
        cmp_result(c, &seen[i], 0.0, 0.0);
    }
}

static void largest(cmp *c)
{
    const int L = cmp_int(c, 1, 9), V = cmp_int(c, 1, 5000), kind = cmp_int(c, 0, 3);
    int32_t got[2][9];
    snprintf(c->what, sizeof c->what, "%d rows of %d%s", L, V, kind == 0 ? ", ties" : "");
    cmp_tensor x = cmp_state(c, 1.0f, 2, CMP_SHAPE(L, V));
    float *values = cmp_alloc((size_t)(L * V) * sizeof *values);
    for (int i = 0; i < L * V; i++)
        values[i] = kind == 0 ? (float)cmp_int(c, -3, 0) * 0.0f - (float)cmp_int(c, 0, 2)
                              : 3.0f * cmp_normal(c);
    if (kind == 1)
        values[cmp_int(c, 0, L * V - 1)] = cmp_u32(c) & 1 ? NAN : INFINITY;
    for (int side = 0; side < 2; side++) {
        mica_upload_f32(c->be[side], &x.t[side], values);
        mica_largest(c->be[side], &x.t[side], got[side]);
    }
    free(values);
    for (int l = 0; l < L; l++)
        if (got[0][l] != got[1][l])
            cmp_fail(c, "another place", got[1][l], got[0][l]);
    cmp_result(c, &x, 0.0, 0.0);
}

/* ------------------------------------------------------- language models -- */

static void token_linear(cmp *c)
{
    const int M = cmp_int(c, 1, 9), D = 256 * cmp_int(c, 1, 9), O = 16 * cmp_int(c, 1, 20);
    const bool packed = cmp_u32(c) & 1, adds = cmp_u32(c) & 1, state = cmp_u32(c) & 1;
    snprintf(c->what, sizeof c->what, "%d x %d x %d%s%s", M, D, O, packed ? ", packed" : "",
             adds ? ", in place" : "");
    cmp_weight w = packed ? mlx4_of(c, O, D, random_scales(c))
                          : cmp_weight_make(c, MICA_DTYPE_BF16, 0.02f, 0, 2, CMP_SHAPE(O, D));
    cmp_weight bias = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(O));
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    cmp_tensor y =
        state ? cmp_state(c, 1.0f, 2, CMP_SHAPE(M, O)) : cmp_act(c, 1.0f, 2, CMP_SHAPE(M, O));
    for (int side = 0; side < 2; side++)
        mica_linear(c->be[side], &(mica_linear_args){.x_MD = &x.t[side],
                                                     .w_OD = &w.w[side],
                                                     .bias_O = state ? &bias.w[side] : NULL,
                                                     .residual_MO = adds ? &y.t[side] : NULL,
                                                     .y_MO = &y.t[side],
                                                     .by_row = true});
    cmp_result(c, &y, F32_BOUND, 6e-3);
    cmp_weight_free(c, &w);
    cmp_weight_free(c, &bias);
}

#define EXPERTS 5

/* The experts of a layer on both sides: gate, up, down. */
typedef struct mixture {
    cmp_weight w[3][EXPERTS];
    mica_weight list[2][3][EXPERTS]; /* these are what is prepared */
} mixture;

/* plain: of that float type; MICA_DTYPE_COUNT: MLX's 4 bits as files have them most, or any packed type. */
static void mixture_make(cmp *c, mixture *m, int E, int D, int F, bool tiles, mica_dtype plain)
{
    const mica_dtype scales = random_scales(c);
    for (int k = 0; k < 3; k++)
        for (int e = 0; e < E; e++) {
            const int rows = k == 2 ? D : F, width = k == 2 ? F : D;
            const cmp_weight *like = e > 0 ? &m->w[k][0] : k == 1 ? &m->w[0][0] : NULL;
            m->w[k][e] = plain != MICA_DTYPE_COUNT
                             ? cmp_weight_make(c, plain, 0.03f, 0, 2, CMP_SHAPE(rows, width))
                         : tiles ? mlx4_of(c, rows, width, scales)
                         : like  ? cmp_packed_like(c, like)
                                 : cmp_packed_matrix(c, rows, width);
            for (int side = 0; side < 2; side++)
                m->list[side][k][e] = m->w[k][e].w[side];
        }
}

static void mixture_free(cmp *c, mixture *m, int E)
{
    for (int e = 0; e < E; e++)
        for (int k = 0; k < 3; k++) {
            for (int side = 0; side < 2; side++)
                mica_backend_drop_weights(c->be[side], (mica_weight *[]){&m->list[side][k][e]}, 1);
            cmp_weight_free(c, &m->w[k][e]);
        }
}

/* Twice; a device does not wait the second time, when all weights are there. */
static void run_experts(cmp *c, mixture *m, int A, const cmp_tensor *x, const cmp_tensor *logits,
                        cmp_tensor *y)
{
    const bool queued = mica_backend_is_queued(c->be[1]), few = x->t[0].shape_[0] <= 8;
    uint64_t waits = 0;
    for (int run = 0; run < 2; run++) {
        waits = mica_backend_get_counters(c->be[1]).waits;
        for (int side = 0; side < 2; side++)
            mica_experts(c->be[side], &(mica_experts_args){.x_LD = &x->t[side],
                                                           .logits_LE = &logits->t[side],
                                                           .active = A,
                                                           .gate_FD = m->list[side][0],
                                                           .up_FD = m->list[side][1],
                                                           .down_DF = m->list[side][2],
                                                           .y_LD = &y->t[side],
                                                           .by_row = true});
    }
    waits = mica_backend_get_counters(c->be[1]).waits - waits;
    if (queued && few && !c->fp8 && waits > 0)
        cmp_fail(c, "waits", (double)waits, 0);
}

static void token_experts(cmp *c)
{
    static const mica_dtype plains[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16,
                                        MICA_DTYPE_F8_E4M3};
    const int E = cmp_int(c, 2, EXPERTS), A = cmp_int(c, 1, 2), L = cmp_int(c, 1, 9);
    const int D = 256 * cmp_int(c, 1, 9), F = 256 * cmp_int(c, 1, 10), kind = cmp_int(c, 0, 4);
    const mica_dtype plain = kind == 4 ? plains[cmp_int(c, 0, 3)] : MICA_DTYPE_COUNT;
    mixture m;
    mixture_make(c, &m, E, D, F, kind < 2, plain);
    snprintf(c->what, sizeof c->what, "%d rows of %d, %d of %d experts of %d, %s and %s", L, D, A,
             E, F, mica_dtype_get(m.w[0][0].w[0].tensor.dtype)->name,
             mica_dtype_get(m.w[2][0].w[0].tensor.dtype)->name);
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(L, D)), y = cmp_act(c, 1.0f, 2, CMP_SHAPE(L, D));
    cmp_tensor logits = cmp_state(c, 2.0f, 2, CMP_SHAPE(L, E));
    run_experts(c, &m, A, &x, &logits, &y);
    cmp_result(c, &y, F32_BOUND, 1e-2);
    mixture_free(c, &m, E);
}

/* One query over a cache. */
static void token_attention(cmp *c)
{
    const int K = cmp_int(c, 0, 3) ? 64 << cmp_int(c, 0, 1) : 16, G = cmp_int(c, 1, 4);
    const int H = G * cmp_int(c, 1, 6),
              M = cmp_u32(c) & 1 ? cmp_int(c, 1, 70) : cmp_int(c, 1, 3000);
    snprintf(c->what, sizeof c->what, "%d heads of %d on %d over %d keys", H, K, G, M);
    cmp_tensor q = cmp_act(c, 1.0f, 3, CMP_SHAPE(1, H, K)),
               k = cmp_act(c, 1.0f, 3, CMP_SHAPE(M, G, K));
    cmp_tensor v = cmp_act(c, 1.0f, 3, CMP_SHAPE(M, G, K));
    cmp_tensor out = cmp_output(c, false, 3, CMP_SHAPE(1, H, K));
    for (int side = 0; side < 2; side++)
        mica_attention(c->be[side], &(mica_attention_args){.segments = 1,
                                                           .q_LHK = {&q.t[side]},
                                                           .k_MGK = {&k.t[side]},
                                                           .v_MGK = {&v.t[side]},
                                                           .out_LHK = {&out.t[side]},
                                                           .causal = true,
                                                           .by_row = true});
    cmp_result(c, &out, F32_BOUND, 6e-3);
}

/* ------------------------------------------------------------ whole layers -- */

#define LAYER_ROWS 8

typedef struct token_layer {
    int L, D, F, H, G, K, E, A;
    mica_rope_layout layout;
    cmp_weight norms[2], linears[4], router; /* q, k, v, o */
    mixture experts;
    cmp_tensor x, caches[LAYER_ROWS][2], table[2];
    int64_t positions[LAYER_ROWS];
} token_layer;

/* Experts whose logits are far apart, whatever the rounding: x is around 1.5, a router's row around its own number. */
static cmp_weight router_make(cmp *c, int E, int D)
{
    cmp_weight w = cmp_weight_make(c, MICA_DTYPE_BF16, 0.0f, 0, 2, CMP_SHAPE(E, D));
    const int turn = cmp_int(c, 0, E - 1);
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < E * D; i++)
            ((uint16_t *)w.w[side].tensor.data)[i] =
                mica_f32_to_bf16(1.5f * (float)((i / D + turn) % E) / (float)D);
    return w;
}

static cmp_weight norm_make(cmp *c, int D)
{
    cmp_weight w = cmp_weight_make(c, MICA_DTYPE_F32, 0.0f, 0, 1, CMP_SHAPE(D));
    for (int i = 0; i < D; i++) {
        const float v = 1.0f + 0.1f * cmp_normal(c);
        for (int side = 0; side < 2; side++)
            ((float *)w.w[side].tensor.data)[i] = v;
    }
    return w;
}

static void layer_make(cmp *c, token_layer *y)
{
    const int K = y->K, D = y->D, rows[] = {y->H * K, y->G * K, y->G * K, D};
    const mica_dtype scales = random_scales(c);
    float *x = cmp_alloc((size_t)(y->L * D) * sizeof *x);
    for (int i = 0; i < 2; i++)
        y->norms[i] = norm_make(c, D);
    for (int i = 0; i < 4; i++)
        y->linears[i] = mlx4_of(c, rows[i], i == 3 ? y->H * K : D, scales);
    y->router = router_make(c, y->E, D);
    mixture_make(c, &y->experts, y->E, D, y->F, true, MICA_DTYPE_COUNT);
    y->x = cmp_act(c, 1.0f, 2, CMP_SHAPE(y->L, D));
    for (int i = 0; i < y->L * D; i++)
        x[i] = mica_bf16_to_f32(mica_f32_to_bf16(1.5f + cmp_normal(c)));
    for (int side = 0; side < 2; side++)
        mica_upload_f32(c->be[side], &y->x.t[side], x);
    free(x);
    for (int l = 0; l < y->L; l++) {
        const int M = cmp_u32(c) & 1 ? cmp_int(c, 1, 90) : cmp_int(c, 1, 1500);
        y->positions[l] = cmp_int(c, 0, 9);
        for (int i = 0; i < 2; i++)
            y->caches[l][i] = cmp_act(c, 1.0f, 3, CMP_SHAPE(M, y->G, K));
    }
    for (int i = 0; i < 2; i++)
        y->table[i] = cmp_state(c, 0.7f, 2, CMP_SHAPE(10, K / 2));
}

static void layer_free(cmp *c, token_layer *y)
{
    mixture_free(c, &y->experts, y->E);
    cmp_weight_free(c, &y->router);
    for (int i = 0; i < 2; i++)
        cmp_weight_free(c, &y->norms[i]);
    for (int i = 0; i < 4; i++)
        cmp_weight_free(c, &y->linears[i]);
}

static mica_tensor as_heads(const mica_tensor *x, int l, int H, int K)
{
    const mica_tensor row = mica_tensor_rows(x, l, 1);
    return mica_tensor_reshape(&row, 3, CMP_SHAPE(1, H, K));
}

static void by_row(mica_backend *be, const mica_tensor *x, mica_weight *w,
                   const mica_tensor *residual, mica_tensor *y)
{
    mica_linear(be, &(mica_linear_args){
                        .x_MD = x, .w_OD = w, .residual_MO = residual, .y_MO = y, .by_row = true});
}

static void attend_row(mica_backend *be, token_layer *y, int side, int l, mica_tensor *qkv,
                       const mica_tensor *out)
{
    const mica_tensor *k = &y->caches[l][0].t[side], *v = &y->caches[l][1].t[side];
    const mica_tensor cos = mica_tensor_rows(&y->table[0].t[side], y->positions[l], 1);
    const mica_tensor sin = mica_tensor_rows(&y->table[1].t[side], y->positions[l], 1);
    mica_tensor q = as_heads(&qkv[0], l, y->H, y->K), new_k = as_heads(&qkv[1], l, y->G, y->K);
    const mica_tensor new_v = as_heads(&qkv[2], l, y->G, y->K);
    mica_tensor last_k = mica_tensor_rows(k, k->shape_[0] - 1, 1);
    mica_tensor last_v = mica_tensor_rows(v, v->shape_[0] - 1, 1);
    mica_tensor to = as_heads(out, l, y->H, y->K);
    mica_qk_norm_rope(
        be,
        &(mica_qk_norm_rope_args){
            .x_LHK = &q, .also_LHK = &new_k, .cos_Lk = &cos, .sin_Lk = &sin, .layout = y->layout});
    mica_copy(be, &new_k, &last_k);
    mica_copy(be, &new_v, &last_v);
    mica_attention(be, &(mica_attention_args){.segments = 1,
                                              .q_LHK = {&q},
                                              .k_MGK = {k},
                                              .v_MGK = {v},
                                              .out_LHK = {&to},
                                              .causal = true,
                                              .by_row = true});
}

/* The operations that a layer is, one by one. */
static void layer_by_operations(cmp *c, token_layer *y, int side, const mica_experts_args *experts)
{
    mica_backend *be = c->be[side];
    mica_tensor *x = &y->x.t[side], qkv[3];
    const mica_tensor out = mica_act_tensor(be, MICA_POOL_STEP, 2, CMP_SHAPE(y->L, y->H * y->K));
    mica_tensor norm = mica_act_tensor(be, MICA_POOL_STEP, 2, CMP_SHAPE(y->L, y->D));
    mica_tensor logits = mica_state_tensor(be, MICA_POOL_STEP, 2, CMP_SHAPE(y->L, y->E));
    mica_rms_norm(be, x, &y->norms[0].w[side], 1e-5f, &norm);
    for (int i = 0; i < 3; i++) {
        qkv[i] = mica_act_tensor(be, MICA_POOL_STEP, 2, CMP_SHAPE(y->L, (i ? y->G : y->H) * y->K));
        by_row(be, &norm, &y->linears[i].w[side], NULL, &qkv[i]);
    }
    for (int l = 0; l < y->L; l++)
        attend_row(be, y, side, l, qkv, &out);
    by_row(be, &out, &y->linears[3].w[side], x, x);
    mica_rms_norm(be, x, &y->norms[1].w[side], 1e-5f, &norm);
    by_row(be, &norm, &y->router.w[side], NULL, &logits);
    mica_experts_args a = *experts;
    a.x_LD = &norm;
    a.logits_LE = &logits;
    a.y_LD = x;
    mica_experts(be, &a);
}

static void run_layer(cmp *c, token_layer *y, int side)
{
    mica_tensor caches[LAYER_ROWS][2];
    for (int l = 0; l < y->L; l++)
        for (int i = 0; i < 2; i++)
            caches[l][i] = y->caches[l][i].t[side];
    const mica_experts_args experts = {.x_LD = &y->x.t[side],
                                       .active = y->A,
                                       .gate_FD = y->experts.list[side][0],
                                       .up_FD = y->experts.list[side][1],
                                       .down_DF = y->experts.list[side][2],
                                       .by_row = true};
    const bool taken = mica_mixture_layer(
        c->be[side], &(mica_mixture_layer_args){.norm_in = &y->norms[0].w[side],
                                                .q = &y->linears[0].w[side],
                                                .k = &y->linears[1].w[side],
                                                .v = &y->linears[2].w[side],
                                                .o = &y->linears[3].w[side],
                                                .norm_post = &y->norms[1].w[side],
                                                .router = &y->router.w[side],
                                                .experts = experts,
                                                .count = y->E,
                                                .heads = y->H,
                                                .kv_heads = y->G,
                                                .eps = 1e-5f,
                                                .caches = (const mica_tensor(*)[2])caches,
                                                .positions = y->positions,
                                                .cos_Lk = &y->table[0].t[side],
                                                .sin_Lk = &y->table[1].t[side],
                                                .layout = y->layout});
    if (side == 1 && taken != (mica_backend_is_queued(c->be[1]) && c->bf16 && !c->fp8))
        cmp_fail(c, "taken at once", taken, !taken);
    if (!taken)
        layer_by_operations(c, y, side, &experts);
}

static void token_layer_case(cmp *c)
{
    static token_layer y;
    const int K = 64 << cmp_int(c, 0, 1), G = 4 * cmp_int(c, 1, 2), E = cmp_int(c, 2, EXPERTS);
    const int A = cmp_int(c, 1, 3);
    y = (token_layer){.L = cmp_u32(c) & 1 ? 1 : cmp_int(c, 1, LAYER_ROWS),
                      .D = 256 * cmp_int(c, 1, 6),
                      .F = 256 * cmp_int(c, 1, 5),
                      .H = G * cmp_int(c, 1, 4),
                      .G = G,
                      .K = K,
                      .E = E,
                      .A = MICA_MIN(E, A),
                      .layout = (mica_rope_layout)(cmp_u32(c) & 1)};
    snprintf(c->what, sizeof c->what, "%d rows of %d, %d heads of %d on %d, %d of %d experts of %d",
             y.L, y.D, y.H, y.K, y.G, y.A, y.E, y.F);
    layer_make(c, &y);
    for (int side = 0; side < 2; side++)
        run_layer(c, &y, side);
    cmp_result(c, &y.x, F32_BOUND, 1e-2);
    for (int l = 0; l < y.L; l++)
        for (int i = 0; i < 2; i++)
            cmp_result(c, &y.caches[l][i], F32_BOUND, 1e-2);
    layer_free(c, &y);
}

const cmp_op cmp_token_ops[] = {{"token_linear", token_linear, 30},
                                {"token_experts", token_experts, 40},
                                {"token_attention", token_attention, 30},
                                {"token_layer", token_layer_case, 12},
                                {"embed_drawn", embed_drawn, 10},
                                {"post_norm_step", post_norm_step, 10},
                                {"race_draw", race_draw, 60},
                                {"largest", largest, 30},
                                {NULL, NULL, 0}};
