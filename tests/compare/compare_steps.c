/* compare_steps.c - what a token of speech's text to semantic costs on one backend, and what it costs the host.
 *
 *     embedding, 24 blocks of width 512, head ─► draw ─► the host, which reads a token when the next is queued
 *
 * Caches have 300 rows, of which the last is written again and again. Behind each other: whole tokens, steps without
 * draws, draws alone. Of two backends of one device at once: whole tokens, whose logits must be those of one alone. */
#include "compare.h"

#include "base/clock.h"
#include "base/compiler.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 24
#define WIDTH  512
#define FFN    2048
#define HEADS  16
#define VOCAB  1025
#define SEEN   300
#define MOST   4 /* rows */
#define TOKENS 400

typedef struct model {
    mica_backend *be;
    int rows;
    mica_weight w[BLOCKS][8], table, head;
    mica_post_norm_block blocks[BLOCKS];
    mica_tensor scale, shift, positions, x, logits;
    mica_tensor caches[MOST][BLOCKS][2], (*lists[MOST])[2];
    mica_tensor drawn[MOST], seen[MOST];
    const mica_tensor *ids[MOST];
    int64_t had[MOST], places[MOST];
    void *memory;
} model;

static mica_weight weight(cmp *c, int64_t rows, int64_t columns)
{
    mica_weight w = {.tensor = mica_tensor_2d(NULL, MICA_DTYPE_BF16, rows, columns),
                     .name = "bench"};
    uint16_t *data = cmp_alloc((size_t)(rows * columns) * sizeof *data);
    for (int64_t i = 0; i < rows * columns; i++)
        data[i] = (uint16_t)((cmp_u32(c) & 0x80ff) | 0x3c00);
    w.tensor.data = data;
    if (rows == 1)
        w.tensor = mica_tensor_1d(data, MICA_DTYPE_BF16, columns);
    return w;
}

static mica_tensor zeros(mica_backend *be, bool state, int ndim, const int64_t *shape)
{
    mica_tensor t = state ? mica_state_tensor(be, MICA_POOL_SESSION, ndim, shape)
                          : mica_act_tensor(be, MICA_POOL_SESSION, ndim, shape);
    float *v = calloc((size_t)mica_tensor_count(&t), sizeof *v);
    if (v)
        mica_upload_f32(be, &t, v);
    free(v);
    return t;
}

static void make_block(model *m, cmp *c, int n)
{
    static const int64_t SHAPES[8][2] = {{3 * WIDTH, WIDTH}, {WIDTH, WIDTH}, {FFN, WIDTH},
                                         {WIDTH, FFN},       {1, 3 * WIDTH}, {1, WIDTH},
                                         {1, FFN},           {1, WIDTH}};
    mica_weight *w = m->w[n];
    for (int i = 0; i < 8; i++)
        w[i] = weight(c, SHAPES[i][0], SHAPES[i][1]);
    m->blocks[n] = (mica_post_norm_block){.qkv_w = {&w[0]},
                                          .qkv_b = {&w[4]},
                                          .o_w = &w[1],
                                          .o_b = &w[5],
                                          .up_w = &w[2],
                                          .up_b = &w[6],
                                          .down_w = &w[3],
                                          .down_b = &w[7],
                                          .scale_1 = &m->scale,
                                          .shift_1 = &m->shift,
                                          .scale_2 = &m->scale,
                                          .shift_2 = &m->shift};
}

static void make(model *m, mica_backend *be, int rows)
{
    cmp c = {.random = 0x2545f4914f6cdd1du};
    *m = (model){.be = be, .rows = rows, .table = weight(&c, VOCAB, WIDTH)};
    m->head = weight(&c, VOCAB, WIDTH);
    m->scale = zeros(be, true, 1, CMP_SHAPE(WIDTH));
    m->shift = zeros(be, true, 1, CMP_SHAPE(WIDTH));
    m->positions = zeros(be, true, 2, CMP_SHAPE(SEEN, WIDTH));
    m->x = zeros(be, false, 2, CMP_SHAPE(rows, WIDTH));
    m->logits = zeros(be, true, 2, CMP_SHAPE(rows, VOCAB));
    m->memory = mica_backend_buffer_alloc(be, sizeof(int32_t) * 2 * MOST);
    for (int n = 0; n < BLOCKS; n++)
        make_block(m, &c, n);
    for (int l = 0; l < rows; l++) {
        for (int i = 0; i < 2 * BLOCKS; i++)
            m->caches[l][i / 2][i % 2] = zeros(be, false, 3, CMP_SHAPE(SEEN, HEADS, WIDTH / HEADS));
        m->lists[l] = m->caches[l];
        m->drawn[l] = mica_tensor_1d((int32_t *)m->memory + 2 * l, MICA_DTYPE_I32, 2);
        m->seen[l] = zeros(be, true, 1, CMP_SHAPE(VOCAB));
        m->ids[l] = &m->drawn[l];
        m->had[l] = m->places[l] = SEEN - 1;
    }
}

static void destroy(model *m)
{
    mica_weight *list[8 * BLOCKS + 2] = {&m->table, &m->head};
    for (int i = 0; i < 8 * BLOCKS; i++)
        list[i + 2] = &m->w[i / 8][i % 8];
    mica_backend_drop_weights(m->be, list, MICA_ARRAY_LEN(list));
    for (size_t i = 0; i < MICA_ARRAY_LEN(list); i++)
        free(list[i]->tensor.data);
    mica_backend_buffer_free(m->be, m->memory);
}

static void step(model *m)
{
    mica_post_norm_step(m->be, &(mica_post_norm_args){.blocks = m->blocks,
                                                      .count = BLOCKS,
                                                      .heads = HEADS,
                                                      .eps = 1e-5f,
                                                      .x_LD = &m->x,
                                                      .caches = m->lists,
                                                      .seen = m->had,
                                                      .table_VD = &m->table,
                                                      .ids = m->ids,
                                                      .add_RD = &m->positions,
                                                      .places = m->places,
                                                      .head_VD = &m->head,
                                                      .logits_LV = &m->logits});
}

static void draw(model *m, int token, uint64_t *tickets)
{
    mica_race_args a[MOST];
    for (int l = 0; l < m->rows; l++)
        a[l] = (mica_race_args){
            .race = {.top_k = 15, .top_p = 1.0, .temperature = 1.0, .penalty = 1.35, .seed = 7},
            .choices = VOCAB,
            .end = -1,
            .noise = (uint64_t)token * VOCAB,
            .logits_V = mica_tensor_1d((float *)m->logits.data + l * VOCAB, MICA_DTYPE_F32, VOCAB),
            .seen_V = &m->seen[l],
            .drawn_2 = &m->drawn[l]};
    mica_race_draw(m->be, a, m->rows);
    for (int l = 0; l < m->rows; l++)
        tickets[l] = a[l].ticket;
}

/* Milliseconds a token; *host: those in which the host queued. */
static double run(model *m, bool steps, bool draws, double *host)
{
    uint64_t tickets[2][MOST];
    int32_t got[2];
    double queued = 0.0;
    draw(m, 0, tickets[1]);
    const double start = mica_clock_seconds();
    for (int i = 0; i < TOKENS; i++) {
        const double before = mica_clock_seconds();
        if (steps)
            step(m);
        if (draws)
            draw(m, i, tickets[i % 2]);
        queued += mica_clock_seconds() - before;
        for (int l = 0; l < m->rows && (draws || i == 0); l++)
            mica_fetch_finish(m->be, tickets[(i + 1) % 2][l], got, 2);
    }
    (void)mica_all_finite(m->be, &m->logits); /* waits */
    *host = 1e3 * queued / TOKENS;
    return 1e3 * (mica_clock_seconds() - start) / TOKENS;
}

void cmp_bench_steps(mica_backend *be)
{
    static const char *const NAMES[] = {"tokens", "steps without draws", "draws alone"};
    static model m;
    for (int rows = 1; rows <= MOST; rows += MOST - 1) {
        const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
        mica_err err = {0};
        double host;
        make(&m, be, rows);
        (void)run(&m, true, true, &host);
        /* Draws on the host leave logits of which none can be drawn again. */
        const int kinds = mica_backend_is_queued(be) ? 3 : 2;
        for (int kind = 0; kind < kinds; kind++) {
            const double ms = run(&m, kind < 2, kind != 1, &host);
            if (mica_backend_check(be, &err) != MICA_OK)
                printf("%s FAILED: %s\n", NAMES[kind], err.text);
            else
                printf("%d rows, %-20s %8.4f ms, of which the host queues %7.4f ms\n", rows,
                       NAMES[kind], ms, host);
        }
        destroy(&m);
        mica_pool_release(be, MICA_POOL_SESSION, mark);
    }
}

/* ------------------------------------------------------------- two at once -- */

typedef struct side {
    model m;
    pthread_t thread;
    double ms, host;
} side;

static void *run_side(void *arg)
{
    side *s = arg;
    s->ms = run(&s->m, true, true, &s->host);
    return NULL;
}

/* One row's tokens from the same beginning, so that logits are the same. */
static void begin_again(model *m)
{
    float *none = calloc(VOCAB, sizeof *none);
    if (none) {
        mica_upload_f32(m->be, &m->seen[0], none);
        mica_upload_f32(m->be, &m->logits, none);
    }
    free(none);
}

static bool same_logits(side *s, const float *want)
{
    static float got[VOCAB];
    mica_download_f32(s->m.be, got, &s->m.logits);
    return memcmp(got, want, sizeof got) == 0;
}

int cmp_steps_at_once(mica_backend *const be[2])
{
    static side sides[2];
    static float alone[VOCAB];
    int failures = 0;
    for (int i = 0; i < 2; i++)
        make(&sides[i].m, be[i], 1);
    (void)run_side(&sides[0]);
    mica_download_f32(be[0], alone, &sides[0].m.logits);
    begin_again(&sides[0].m);
    int started = 0;
    while (started < 2 &&
           pthread_create(&sides[started].thread, NULL, run_side, &sides[started]) == 0)
        started++;
    for (int i = 0; i < started; i++)
        (void)pthread_join(sides[i].thread, NULL);
    for (int i = 0; i < 2; i++) {
        mica_err err = {0};
        const bool good = started == 2 && mica_backend_check(be[i], &err) == MICA_OK &&
                          same_logits(&sides[i], alone);
        printf("%-28s %8.4f ms a token%s%s\n", i ? "at once, the other" : "at once, one",
               sides[i].ms, good ? "" : "  FAILED: ", good ? "" : err.text);
        failures += !good;
        destroy(&sides[i].m);
    }
    return failures;
}
