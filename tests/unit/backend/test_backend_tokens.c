/* test_backend_tokens.c - a row of each sequence through blocks with norms behind, against f64.
 *
 * As one region and block by block (the ablation of fusion, packed weights); q, k, v joined or not; bytes for 1,
 * 2, 3 threads; rows alone and together; the caches get what they should; nothing is allocated again. With embedding
 * and head. And places of largest numbers, tickets of draws. */
#include "backend_testing.h"

#define MOST   9
#define BLOCKS 3

typedef struct stack {
    int L, heads, D, F;
    bool joined;
    mica_weight w[BLOCKS][6], b[BLOCKS][6]; /* q, k, v (or all of them in q), o, up, down */
    mica_tensor norms[BLOCKS][4];           /* scale and shift of the first, of the second */
    mica_post_norm_block blocks[BLOCKS];
    mica_tensor caches[MOST][BLOCKS][2], first[MOST][BLOCKS][2];
    mica_tensor (*rows[MOST])[2];
    int64_t seen[MOST];
    mica_tensor x, before;
} stack;

static void make_block(stack *s, int n, mica_dtype dtype)
{
    const int rows[] = {s->joined ? 3 * s->D : s->D, s->D, s->D, s->D, s->F, s->D};
    mica_weight *w = s->w[n], *b = s->b[n];
    for (int i = 0; i < 6; i++) {
        w[i] = host_weight(dtype, 0.2f, 2, SHAPE(rows[i], i == 5 ? s->F : s->D));
        b[i] = host_weight(dtype, 0.3f, 1, SHAPE(rows[i]));
    }
    for (int i = 0; i < 4; i++)
        s->norms[n][i] = host_random(0.3f, 1, SHAPE(s->D));
    s->blocks[n] =
        (mica_post_norm_block){.qkv_w = {&w[0], s->joined ? NULL : &w[1], s->joined ? NULL : &w[2]},
                               .qkv_b = {&b[0], s->joined ? NULL : &b[1], s->joined ? NULL : &b[2]},
                               .o_w = &w[3],
                               .o_b = &b[3],
                               .up_w = &w[4],
                               .up_b = &b[4],
                               .down_w = &w[5],
                               .down_b = &b[5],
                               .scale_1 = &s->norms[n][0],
                               .shift_1 = &s->norms[n][1],
                               .scale_2 = &s->norms[n][2],
                               .shift_2 = &s->norms[n][3]};
}

static stack *make(int L, int heads, int K, int F, bool joined, mica_dtype dtype)
{
    stack *s = test_calloc(1, sizeof *s);
    *s = (stack){.L = L, .heads = heads, .D = heads * K, .F = F, .joined = joined};
    for (int n = 0; n < BLOCKS; n++)
        make_block(s, n, dtype);
    for (int l = 0; l < L; l++) {
        s->seen[l] = random_int(0, 1) ? random_int(0, 5) : random_int(500, 600);
        s->rows[l] = s->caches[l];
        for (int i = 0; i < 2 * BLOCKS; i++) {
            const int64_t *shape = SHAPE(s->seen[l] + 3, heads, K);
            s->caches[l][i / 2][i % 2] = host_random(1.0f, 3, shape);
            s->first[l][i / 2][i % 2] = host_tensor(MICA_DTYPE_F32, 3, shape);
            memcpy(s->first[l][i / 2][i % 2].data, s->caches[l][i / 2][i % 2].data,
                   mica_tensor_size(&s->caches[l][i / 2][i % 2]));
        }
    }
    s->x = host_random(1.0f, 2, SHAPE(L, s->D));
    s->before = host_tensor(MICA_DTYPE_F32, 2, SHAPE(L, s->D));
    memcpy(s->before.data, s->x.data, mica_tensor_size(&s->x));
    return s;
}

static void destroy(stack *s)
{
    for (int n = 0; n < BLOCKS; n++) {
        for (int i = 0; i < 6; i++) {
            weight_free(&s->w[n][i]);
            weight_free(&s->b[n][i]);
        }
        for (int i = 0; i < 4; i++)
            host_free(&s->norms[n][i]);
    }
    for (int l = 0; l < s->L; l++)
        for (int i = 0; i < 2 * BLOCKS; i++) {
            host_free(&s->caches[l][i / 2][i % 2]);
            host_free(&s->first[l][i / 2][i % 2]);
        }
    host_free(&s->x);
    host_free(&s->before);
    test_free(s);
}

/* Rows [first, first + count) from the beginning. */
static void run_rows(mica_backend *be, stack *s, int first, int count)
{
    mica_tensor x = mica_tensor_rows(&s->x, first, count);
    for (int l = first; l < first + count; l++)
        for (int i = 0; i < 2 * BLOCKS; i++)
            memcpy(s->caches[l][i / 2][i % 2].data, s->first[l][i / 2][i % 2].data,
                   mica_tensor_size(&s->first[l][i / 2][i % 2]));
    memcpy(x.data, floats(&s->before) + (ptrdiff_t)first * s->D, mica_tensor_size(&x));
    mica_post_norm_step(be, &(mica_post_norm_args){.blocks = s->blocks,
                                                   .count = BLOCKS,
                                                   .heads = s->heads,
                                                   .eps = 1e-5f,
                                                   .x_LD = &x,
                                                   .caches = s->rows + first,
                                                   .seen = s->seen + first});
    assert_fine(be);
}

/* ------------------------------------------------------------------ in f64 -- */

static void product(const mica_weight *w, const mica_weight *b, int first, int rows, int n,
                    const double *x, double *y)
{
    for (int r = 0; r < rows; r++) {
        y[r] = weight_at(b, first + r);
        for (int i = 0; i < n; i++)
            y[r] += weight_at(w, (int64_t)(first + r) * n + i) * x[i];
    }
}

static void norm(const mica_tensor *scale, const mica_tensor *shift, int n, double *x)
{
    double mean = 0.0, variance = 0.0;
    for (int i = 0; i < n; i++)
        mean += x[i] / n;
    for (int i = 0; i < n; i++)
        variance += (x[i] - mean) * (x[i] - mean) / n;
    for (int i = 0; i < n; i++)
        x[i] = (x[i] - mean) / sqrt(variance + 1e-5) * (1.0 + (double)floats(scale)[i]) +
               (double)floats(shift)[i];
}

/* Keys and values of the row that is written come from kv. */
static void attention(const stack *s, int l, int n, int head, const double *q, const double *kv,
                      double *out)
{
    const int K = s->D / s->heads, keys = (int)s->seen[l] + 1;
    double *p = test_malloc((size_t)keys * sizeof *p), sum = 0.0;
    for (int m = 0; m < keys; m++) {
        double dot = 0.0;
        for (int i = 0; i < K; i++)
            dot += q[i] * (m == keys - 1
                               ? kv[i]
                               : (double)floats(&s->first[l][n][0])[m * s->D + head * K + i]);
        sum += p[m] = exp(dot / sqrt((double)K));
    }
    for (int i = 0; i < K; i++) {
        out[i] = 0.0;
        for (int m = 0; m < keys; m++)
            out[i] += p[m] / sum *
                      (m == keys - 1 ? kv[s->D + i]
                                     : (double)floats(&s->first[l][n][1])[m * s->D + head * K + i]);
    }
    test_free(p);
}

/* Row l through all blocks; keys and values that are written into kv [BLOCKS][2 D]. */
static void reference(const stack *s, int l, double *x, double *kv)
{
    const int D = s->D, K = D / s->heads;
    double *q = test_malloc((size_t)(3 * D + s->F) * sizeof *q), *out = q + D, *y = q + 2 * D;
    double *hidden = q + 3 * D;
    for (int i = 0; i < D; i++)
        x[i] = (double)floats(&s->before)[l * D + i];
    for (int n = 0; n < BLOCKS; n++, kv += 2 * D) {
        const mica_weight *w = s->w[n], *b = s->b[n];
        double *parts[] = {q, kv, kv + D};
        for (int i = 0; i < 3; i++)
            product(&w[s->joined ? 0 : i], &b[s->joined ? 0 : i], s->joined ? i * D : 0, D, D, x,
                    parts[i]);
        for (int h = 0; h < s->heads; h++)
            attention(s, l, n, h, q + h * K, kv + h * K, out + h * K);
        product(&w[3], &b[3], 0, D, D, out, y);
        for (int i = 0; i < D; i++)
            x[i] += y[i];
        norm(&s->norms[n][0], &s->norms[n][1], D, x);
        product(&w[4], &b[4], 0, s->F, D, x, hidden);
        for (int i = 0; i < s->F; i++)
            hidden[i] = fmax(hidden[i], 0.0);
        product(&w[5], &b[5], 0, D, s->F, hidden, y);
        for (int i = 0; i < D; i++)
            x[i] += y[i];
        norm(&s->norms[n][2], &s->norms[n][3], D, x);
    }
    test_free(q);
}

static void expect(const char *what, const stack *s, double bound)
{
    const int D = s->D;
    double *x = test_malloc((size_t)(D + BLOCKS * 2 * D) * sizeof *x), *kv = x + D;
    for (int l = 0; l < s->L; l++) {
        reference(s, l, x, kv);
        assert_close(what, floats(&s->x) + l * D, x, D, bound);
        for (int i = 0; i < 2 * BLOCKS; i++) {
            const mica_tensor *t = &s->caches[l][i / 2][i % 2], *was = &s->first[l][i / 2][i % 2];
            const int64_t written = s->seen[l] * D;
            assert_close("cache", floats(t) + written, kv + i * D, D, bound);
            assert_memory_equal(t->data, was->data, (size_t)written * sizeof(float));
            assert_memory_equal(floats(t) + written + D, floats(was) + written + D,
                                2 * (size_t)D * sizeof(float));
        }
    }
    test_free(x);
}

static void test_against_reference(void **state)
{
    static const mica_dtype types[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16};
    (void)state;
    for (int fused = 0; fused < 2; fused++) {
        const mica_backend_options options = {.precision = MICA_PRECISION_F32,
                                              .threads = fused ? 1 : 2, /* up to 3 heads a task */
                                              .ablate_fusion = !fused};
        mica_backend *be = NULL;
        assert_int_equal(mica_backend_open(&be, &options, NULL), MICA_OK);
        for (int round = 0; round < 12; round++) {
            stack *s =
                make(round % 2 ? 1 : random_int(2, MOST), random_int(1, 6), 2 * random_int(1, 20),
                     random_int(1, 150), round % 4 < 2, types[round % 3]);
            run_rows(be, s, 0, s->L);
            expect(fused ? "one region" : "block by block", s, 1e-5);
            destroy(s);
        }
        mica_backend_close(&be);
    }
}

/* A head wider than a task, 8 bits, whose rounding is all that is allowed. */
static void test_wide_heads_and_int8(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    stack *s = make(2, 2, 144, 96, true, MICA_DTYPE_BF16);
    run_rows(be, s, 0, 2);
    expect("wide heads", s, 1e-5);
    mica_backend_close(&be);
    be = open_backend(MICA_PRECISION_INT8, 2);
    run_rows(be, s, 0, 2);
    expect("int8", s, 8e-2);
    mica_backend_close(&be);
    destroy(s);
}

static void test_bytes(void **state)
{
    (void)state;
    stack *s = make(MOST, 11, 32, 256, true, MICA_DTYPE_BF16); /* 4, 2 and 1 heads a task */
    const size_t size = mica_tensor_size(&s->x);
    float *first = test_malloc(size);
    for (int threads = 1; threads <= 3; threads++) {
        mica_backend *be = open_backend(MICA_PRECISION_BF16, threads);
        run_rows(be, s, 0, MOST);
        if (threads == 1)
            memcpy(first, s->x.data, size);
        assert_memory_equal(first, s->x.data, size);
        const uint64_t allocations = mica_backend_get_counters(be).allocations;
        for (int l = 0; l < MOST; l++)
            run_rows(be, s, l, 1);
        assert_memory_equal(first, s->x.data, size);
        assert_int_equal(mica_backend_get_counters(be).allocations, allocations);
        mica_backend_close(&be);
    }
    test_free(first);
    destroy(s);
}

/* A step that begins with tokens and ends with logits: the step without, from those rows, and products of what it
 * leaves. An id outside the table takes its first row. */
static void run_whole(mica_backend *be, stack *s)
{
    enum { V = 7, R = 4, W = 11, L = 3 };
    const int D = s->D;
    const int32_t drawn[L][2] = {{6, 0}, {V, 1}, {2, 0}};
    const int64_t places[L] = {3, 0, 0};
    mica_weight table = host_weight(MICA_DTYPE_BF16, 1.0f, 2, SHAPE(V, D));
    mica_weight head = host_weight(MICA_DTYPE_BF16, 0.3f, 2, SHAPE(W, D));
    mica_tensor add = host_random(1.0f, 2, SHAPE(R, D)), x = host_random(1.0f, 2, SHAPE(L, D));
    mica_tensor logits = host_random(1.0f, 2, SHAPE(L, W)), id[L];
    const mica_tensor *ids[L];
    double want[W];
    for (int l = 0; l < L; l++) {
        id[l] = mica_tensor_1d((void *)(uintptr_t)drawn[l], MICA_DTYPE_I32, 2);
        ids[l] = &id[l];
        for (int i = 0; i < D; i++)
            floats(&s->before)[l * D + i] =
                (float)weight_at(&table, (int64_t)(l == 1 ? 0 : drawn[l][0]) * D + i) +
                floats(&add)[places[l] * D + i];
    }
    run_rows(be, s, 0, L);
    mica_post_norm_step(be, &(mica_post_norm_args){.blocks = s->blocks,
                                                   .count = BLOCKS,
                                                   .heads = s->heads,
                                                   .eps = 1e-5f,
                                                   .x_LD = &x,
                                                   .caches = s->rows,
                                                   .seen = s->seen,
                                                   .table_VD = &table,
                                                   .ids = ids,
                                                   .add_RD = &add,
                                                   .places = places,
                                                   .head_VD = &head,
                                                   .logits_LV = &logits});
    assert_fine(be);
    for (int l = 0; l < L; l++) {
        for (int r = 0; r < W; r++) {
            want[r] = 0.0;
            for (int i = 0; i < D; i++)
                want[r] += weight_at(&head, r * D + i) * (double)floats(&s->x)[l * D + i];
        }
        assert_close("logits", floats(&logits) + (ptrdiff_t)l * W, want, W, 1e-5);
    }
    weight_free(&table);
    weight_free(&head);
    host_free(&add);
    host_free(&x);
    host_free(&logits);
}

static void test_whole_steps(void **state)
{
    (void)state;
    for (int fused = 0; fused < 2; fused++) {
        const mica_backend_options options = {
            .precision = MICA_PRECISION_F32, .threads = 2, .ablate_fusion = !fused};
        mica_backend *be = NULL;
        assert_int_equal(mica_backend_open(&be, &options, NULL), MICA_OK);
        stack *s = make(3, 3, 16, 40, true, MICA_DTYPE_BF16);
        run_whole(be, s);
        destroy(s);
        mica_backend_close(&be);
    }
}

/* A place outside what is added, a head of another width, logits of another size. */
static void test_defects_of_ends(void **state)
{
    (void)state;
    mica_weight w = host_weight(MICA_DTYPE_F32, 1.0f, 2, SHAPE(3, 8));
    mica_weight narrow = host_weight(MICA_DTYPE_F32, 1.0f, 2, SHAPE(3, 4));
    mica_tensor x = host_random(1.0f, 2, SHAPE(1, 8)), add = host_random(1.0f, 2, SHAPE(2, 8));
    mica_tensor logits = host_random(1.0f, 2, SHAPE(1, 3));
    int32_t drawn = 1;
    const mica_tensor id = mica_tensor_1d(&drawn, MICA_DTYPE_I32, 1), *const ids[] = {&id};
    const mica_post_norm_args good = {.heads = 1,
                                      .x_LD = &x,
                                      .table_VD = &w,
                                      .ids = ids,
                                      .add_RD = &add,
                                      .places = (const int64_t[]){1},
                                      .head_VD = &w,
                                      .logits_LV = &logits};
    for (int kind = 0; kind < 5; kind++) {
        mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
        mica_post_norm_args a = good;
        a.places = kind == 1 ? (const int64_t[]){2} : a.places;
        a.head_VD = kind == 2 ? &narrow : a.head_VD;
        a.logits_LV = kind == 3 ? &add : a.logits_LV;
        a.ids = kind == 4 ? (const mica_tensor *const[]){&add} : a.ids;
        mica_post_norm_step(be, &a);
        assert_int_equal(mica_backend_failed(be), kind > 0);
        mica_backend_close(&be);
    }
    weight_free(&w);
    weight_free(&narrow);
    host_free(&x);
    host_free(&add);
    host_free(&logits);
}

/* The first of equal ones, -1 for a row with a number that is not finite; rows that are apart are refused. */
static void test_largest(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    float rows[5][4] = {{1.0f, 3.0f, 3.0f, 2.0f},
                        {-5.0f, -2.0f, -9.0f, -2.5f},
                        {-0.0f, 0.0f, -1.0f, 0.0f},
                        {1.0f, NAN, 2.0f, 0.0f},
                        {1.0f, 2.0f, 3.0f, -INFINITY}};
    const int32_t expected[5] = {1, 1, 0, -1, -1};
    int32_t got[5] = {0};
    const mica_tensor x = mica_tensor_2d(rows, MICA_DTYPE_F32, 5, 4);
    mica_largest(be, &x, got);
    assert_memory_equal(got, expected, sizeof got);
    mica_tensor apart = x;
    apart.stride_[0] = 8;
    mica_largest(be, &apart, got);
    assert_true(mica_backend_failed(be));
    mica_backend_close(&be);
}

/* Tickets of draws: the token, the end, a number that is not finite; more of them under way than sentences have. */
static void test_tickets_of_draws(void **state)
{
    enum { V = 5, DRAWS = 128 };
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    static int32_t drawn[DRAWS][2];
    static float logits[DRAWS][V], seen[DRAWS][V];
    uint64_t tickets[DRAWS];
    for (int i = 0; i < DRAWS; i++) {
        mica_tensor to = mica_tensor_1d(drawn[i], MICA_DTYPE_I32, 2);
        mica_tensor marks = mica_tensor_1d(seen[i], MICA_DTYPE_F32, V);
        logits[i][i % V] = i == 7 ? NAN : 1.0f;
        mica_race_args a = {.race = {.top_k = 1, .top_p = 1.0, .temperature = 1.0, .penalty = 1.0},
                            .choices = V,
                            .end = V - 1,
                            .logits_V = mica_tensor_1d(logits[i], MICA_DTYPE_F32, V),
                            .seen_V = &marks,
                            .drawn_2 = &to};
        mica_race_draw(be, &a, 1);
        tickets[i] = a.ticket;
    }
    for (int i = 0; i < DRAWS; i++) {
        int32_t got[2];
        mica_fetch_finish(be, tickets[i], got, 2);
        assert_int_equal(got[0], i == 7 ? -1 : i % V);
        assert_int_equal(got[1], i != 7 && i % V == V - 1);
        assert_true(seen[i][i % V] == (i == 7 || i % V == V - 1 ? 0.0f : 1.0f));
    }
    assert_fine(be);
    mica_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),
        cmocka_unit_test(test_wide_heads_and_int8),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_whole_steps),
        cmocka_unit_test(test_defects_of_ends),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_tickets_of_draws),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
