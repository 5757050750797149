/* cuda_tokens.c - steps of models that write token by token: embedding of what was drawn, blocks with
 * norms behind in one kernel, draws.
 *
 *     tokens.table     device: addresses of a step's weights and caches; sent again when they change
 *     tokens.words     device: through which the blocks of cuda_step.cu talk, tokens.round and turn of the next
 *     tokens.norms     device: what the norms' scales make of the weights, once for all steps
 *     tokens.plain     device: the rows of a packed embedding, which the device alone knows the ids of
 *
 * Nothing here waits; integers come to the host by cuda_fetch.c. */
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_step.h"

#include "backend/backend_race.h"
#include "base/mem.h"

#include <string.h>

struct mica_cuda_tokens {
    void *table; /* device, table_size bytes */
    void *image; /* host: what the table holds, image_size bytes of it */
    void *fresh; /* host: what it should hold */
    size_t table_size, image_size;
    void *words;
    size_t word_count;
    uint32_t round;
    int turn;
    struct step_norms { /* device: what mica_cuda_step_prepare makes of weights, and of which */
        void *data;
        size_t size;
        const void *head;
        uint64_t moves;
        bool is_known;
    } norms;
    bool cluster; /* how a step runs here, and of how many rows at once; 0: not in one kernel */
    int rows;
    struct plain_table {
        void *rows; /* [V][ld] of the compute type */
        size_t size;
        const void *from; /* the weight's numbers, and be->moves when they were expanded */
        uint64_t moves;
    } plain;
};

void mica_cuda_tokens_deinit(mica_cuda_backend *be)
{
    mica_cuda_tokens *t = be->tokens;
    if (!t)
        return;
    atomic_fetch_sub(&be->device->steppers, 1);
    mica_cuda_free(be, t->table);
    mica_cuda_free(be, t->words);
    mica_cuda_free(be, t->norms.data);
    mica_cuda_free(be, t->plain.rows);
    mica_mem_free(t->image);
    mica_mem_free(t->fresh);
    mica_mem_free(t);
    be->tokens = NULL;
}

/* Clusters where 16 of them are resident at once. */
static void choose_route(const mica_cuda_backend *be, mica_cuda_tokens *t)
{
    const mica_cuda_gpu *gpu = &be->device->gpu;
    const mica_cuda_type type = mica_cuda_compute_type(be);
    if (!gpu->cooperates)
        return;
    if (gpu->capability >= 90)
        t->rows = mica_cuda_step_rows(gpu->multiprocessors, true, type);
    t->cluster = t->rows > 0;
    if (!t->cluster)
        t->rows = mica_cuda_step_rows(gpu->multiprocessors, false, type);
}

static mica_status tokens_of(mica_cuda_backend *be, mica_cuda_tokens **out, mica_err *err)
{
    *out = NULL;
    if (!be->tokens) {
        be->tokens = mica_mem_calloc(1, sizeof *be->tokens);
        if (!be->tokens)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory for steps");
        atomic_fetch_add(&be->device->steppers, 1);
        choose_route(be, be->tokens);
    }
    *out = be->tokens;
    return MICA_OK;
}

/* -------------------------------------------------------------------- draw -- */

mica_status mica_cuda_op_race_draw(mica_backend *base, const mica_race_args *rows, int count,
                                   mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_cuda_race_row list[MICA_RACE_ROWS];
    for (int i = 0; i < count; i++) {
        const mica_race_args *a = &rows[i];
        const mica_race *r = &a->race;
        if (a->logits_V.shape_[0] > MICA_CUDA_RACE_MOST)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "race_draw: %lld tokens, the device draws among %d",
                             (long long)a->logits_V.shape_[0], MICA_CUDA_RACE_MOST);
        const float temperature = (float)(r->temperature > 1e-5 ? r->temperature : 1e-5);
        uint64_t *told;
        MICA_TRY(mica_cuda_told(be, a->ticket, &told, err));
        list[i] = (mica_cuda_race_row){.logits = a->logits_V.data,
                                       .seen = a->seen_V->data,
                                       .drawn = a->drawn_2->data,
                                       .top_k = r->top_k,
                                       .greedy = r->greedy,
                                       .stored = (int)a->logits_V.shape_[0],
                                       .choices = (int)a->choices,
                                       .top_p = r->top_p,
                                       .penalty = (float)r->penalty,
                                       .per_penalty = 1.0 / (double)(float)r->penalty,
                                       .per_temperature = 1.0 / (double)temperature,
                                       .end = a->end,
                                       .key = mica_race_key(r),
                                       .noise = a->noise,
                                       .told = told,
                                       .ticket = (uint32_t)a->ticket};
    }
    return mica_cuda_check(mica_cuda_race(list, count, be->stream), "race_draw", err);
}

/* All rows of a packed table, once: 1,025 of 512 numbers are 1 MB. */
static mica_status expand(mica_cuda_backend *be, struct plain_table *p, const mica_weight *w,
                          int64_t ld, const char *name, mica_err *err)
{
    const mica_tensor *from = &w->tensor;
    const mica_cuda_type type = mica_cuda_compute_type(be);
    const int64_t V = from->shape_[0];
    const size_t size = (size_t)(V * ld) * mica_cuda_type_size(type);
    mica_tensor rows = mica_tensor_2d(
        NULL, type == MICA_CUDA_F32 ? MICA_DTYPE_F32 : MICA_DTYPE_BF16, V, from->shape_[1]);
    if (p->from == from->data && p->moves == be->moves && p->size >= size)
        return MICA_OK;
    p->from = NULL;
    if (p->size < size) {
        mica_cuda_free(be, p->rows);
        *p = (struct plain_table){0};
        MICA_TRY(mica_cuda_alloc(be, size, name, &p->rows, err));
        p->size = size;
    }
    rows.data = p->rows;
    rows.stride_[0] = ld;
    int32_t *ids = mica_mem_alloc((size_t)V * sizeof *ids);
    if (!ids)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for %lld ids", name, (long long)V);
    for (int64_t i = 0; i < V; i++)
        ids[i] = (int32_t)i;
    const mica_status st = mica_cuda_packed_embed(be, from, ids, V, &rows, name, err);
    mica_mem_free(ids);
    MICA_TRY(st);
    p->from = from->data;
    p->moves = be->moves;
    return MICA_OK;
}

/* Rows of a table in the compute type, mica_cuda_round8 of its width apart. */
static mica_status table_of(mica_cuda_backend *be, mica_weight *w, const void **out, mica_err *err)
{
    mica_cuda_tokens *t;
    if (!mica_cuda_is_packed(&w->tensor))
        return mica_cuda_weight(be, w, MICA_CUDA_FORM_MATRIX, out, err);
    MICA_TRY(tokens_of(be, &t, err));
    MICA_TRY(expand(be, &t->plain, w, mica_cuda_round8(w->tensor.shape_[1]),
                    w->name ? w->name : "embed_drawn", err));
    *out = t->plain.rows;
    return MICA_OK;
}

mica_status mica_cuda_op_embed_drawn(mica_backend *base, mica_weight *w_VD,
                                     const mica_tensor *ids_L, const mica_tensor *add_LD,
                                     mica_tensor *y_LD, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_tensor *w = &w_VD->tensor;
    mica_cuda_drawn_args args = {.type = mica_cuda_compute_type(be),
                                 .V = w->shape_[0],
                                 .ld = mica_cuda_round8(w->shape_[1]),
                                 .ids = ids_L->data,
                                 .y = mica_cuda_view_of(y_LD)};
    if (add_LD)
        args.add = mica_cuda_view_of(add_LD);
    const char *name = w_VD->name ? w_VD->name : "embed_drawn";
    if (args.y.n != w->shape_[1] || (add_LD && args.add.n != args.y.n))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: rows must be contiguous", name);
    MICA_TRY(table_of(be, w_VD, &args.table, err));
    return mica_cuda_check(mica_cuda_embed_drawn(&args, be->stream), "embed_drawn", err);
}

/* ------------------------------------------------------------------ blocks -- */

static bool is_plain(const mica_weight *w, int64_t rows, int64_t cols)
{
    const mica_tensor *t = &w->tensor;
    return t->ndim == 2 && t->shape_[0] == rows && t->shape_[1] == cols &&
           !mica_cuda_is_packed(t) && !mica_cuda_is_streamed(w);
}

static bool is_aligned(const mica_tensor *t)
{
    return (uintptr_t)t->data % 16 == 0;
}

static bool block_fits(const mica_post_norm_block *b)
{
    const int64_t D = MICA_CUDA_STEP_WIDTH, F = MICA_CUDA_STEP_FFN;
    const bool joined = !b->qkv_w[1];
    if (!is_aligned(b->scale_1) || !is_aligned(b->shift_1) || !is_aligned(b->scale_2) ||
        !is_aligned(b->shift_2))
        return false;
    if (!b->qkv_b[0] || !b->o_b || !b->up_b || !b->down_b)
        return false;
    if (!joined && (!is_plain(b->qkv_w[1], D, D) || !is_plain(b->qkv_w[2], D, D) || !b->qkv_b[1] ||
                    !b->qkv_b[2]))
        return false;
    return is_plain(b->qkv_w[0], joined ? 3 * D : D, D) && is_plain(b->o_w, D, D) &&
           is_plain(b->up_w, F, D) && is_plain(b->down_w, D, F);
}

/* The embedding and the head; of the first any type, since packed rows are made plain. */
static bool ends_fit(const mica_post_norm_args *a)
{
    const int64_t D = MICA_CUDA_STEP_WIDTH, V = a->head_VD ? a->head_VD->tensor.shape_[0] : 0;
    if (a->table_VD &&
        (a->table_VD->tensor.shape_[0] > INT32_MAX ||
         (a->add_RD && (!mica_tensor_is_contiguous(a->add_RD) || !is_aligned(a->add_RD)))))
        return false;
    return !a->head_VD || (is_plain(a->head_VD, V, D) && V <= MICA_CUDA_STEP_HEAD &&
                           mica_tensor_is_contiguous(a->logits_LV));
}

static bool fits(const mica_cuda_backend *be, const mica_cuda_tokens *t,
                 const mica_post_norm_args *a)
{
    if (!ends_fit(a) || t->rows == 0 || be->capturing || !mica_tensor_is_contiguous(a->x_LD) ||
        a->x_LD->shape_[1] != MICA_CUDA_STEP_WIDTH || a->heads != MICA_CUDA_STEP_HEADS ||
        a->count > MICA_CUDA_STEP_BLOCKS || a->x_LD->dtype != be->base.act_dtype)
        return false;
    for (int n = 0; n < a->count; n++)
        if (!block_fits(&a->blocks[n]))
            return false;
    for (int64_t l = 0; l < a->x_LD->shape_[0]; l++)
        for (int i = 0; i < 2 * a->count; i++) {
            const mica_tensor *c = &a->caches[l][i / 2][i % 2];
            if (c->dtype != be->base.act_dtype || !mica_tensor_is_contiguous(c))
                return false;
        }
    return true;
}

static mica_status matrix(mica_cuda_backend *be, mica_weight *w, const void **out, mica_err *err)
{
    return mica_cuda_weight(be, w, MICA_CUDA_FORM_MATRIX, out, err);
}

static mica_status vector(mica_cuda_backend *be, mica_weight *w, const float **out, mica_err *err)
{
    const void *p;
    MICA_TRY(mica_cuda_weight(be, w, MICA_CUDA_FORM_F32, &p, err));
    *out = p;
    return MICA_OK;
}

static mica_status describe(mica_cuda_backend *be, const mica_post_norm_block *b, int64_t D,
                            mica_cuda_step_block *out, mica_err *err)
{
    const void **w[] = {&out->q, &out->k, &out->v};
    const float **v[] = {&out->q_b, &out->k_b, &out->v_b};
    const size_t size = (size_t)(D * D) * mica_cuda_type_size(mica_cuda_compute_type(be));
    for (int i = 0; i < 3; i++) {
        const bool joined = i > 0 && !b->qkv_w[1];
        if (joined) {
            *w[i] = (const uint8_t *)out->q + (size_t)i * size;
            *v[i] = out->q_b ? out->q_b + i * D : NULL;
            continue;
        }
        MICA_TRY(matrix(be, b->qkv_w[i], w[i], err));
        MICA_TRY(vector(be, b->qkv_b[i], v[i], err));
    }
    MICA_TRY(matrix(be, b->o_w, &out->o, err));
    MICA_TRY(matrix(be, b->up_w, &out->up, err));
    MICA_TRY(matrix(be, b->down_w, &out->down, err));
    MICA_TRY(vector(be, b->o_b, &out->o_b, err));
    MICA_TRY(vector(be, b->up_b, &out->up_b, err));
    MICA_TRY(vector(be, b->down_b, &out->down_b, err));
    out->scale_1 = b->scale_1->data;
    out->shift_1 = b->shift_1->data;
    out->scale_2 = b->scale_2->data;
    out->shift_2 = b->shift_2->data;
    return MICA_OK;
}

/* Room for `size` bytes on both sides; what the table held is forgotten when it grows. */
static mica_status reserve(mica_cuda_backend *be, mica_cuda_tokens *t, size_t size, mica_err *err)
{
    if (size <= t->table_size)
        return MICA_OK;
    mica_cuda_free(be, t->table);
    t->table = NULL;
    t->table_size = t->image_size = 0;
    void *image = mica_mem_realloc(t->image, size);
    t->image = image ? image : t->image;
    void *fresh = mica_mem_realloc(t->fresh, size);
    t->fresh = fresh ? fresh : t->fresh;
    if (!image || !fresh)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the addresses of a step");
    MICA_TRY(mica_cuda_alloc(be, size, "the addresses of a step", &t->table, err));
    t->table_size = size;
    return MICA_OK;
}

/* The table as it should be now; sent when it is not. */
static mica_status send_table(mica_cuda_backend *be, mica_cuda_tokens *t, size_t size,
                              mica_err *err)
{
    void *host;
    if (size == t->image_size && memcmp(t->image, t->fresh, size) == 0)
        return MICA_OK;
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    memcpy(host, t->fresh, size);
    MICA_TRY(
        mica_cuda_check(cudaMemcpyAsync(t->table, host, size, cudaMemcpyHostToDevice, be->stream),
                        "sending addresses", err));
    MICA_TRY(mica_cuda_stage_close(be, err));
    memcpy(t->image, t->fresh, size);
    t->image_size = size;
    return MICA_OK;
}

/* Addresses of the weights, then of the caches of all rows. */
static mica_status fill_table(mica_cuda_backend *be, mica_cuda_tokens *t,
                              const mica_post_norm_args *a, mica_err *err)
{
    const int64_t L = a->x_LD->shape_[0], D = a->x_LD->shape_[1];
    const size_t weights = (size_t)a->count * sizeof(mica_cuda_step_block);
    const size_t size = weights + (size_t)(2 * L * a->count) * sizeof(void *);
    MICA_TRY(reserve(be, t, size, err));
    mica_cuda_step_block *blocks = t->fresh;
    void **caches = (void **)(void *)((uint8_t *)t->fresh + weights);
    for (int n = 0; n < a->count; n++)
        MICA_TRY(describe(be, &a->blocks[n], D, &blocks[n], err));
    for (int64_t l = 0; l < L; l++)
        for (int i = 0; i < 2 * a->count; i++)
            caches[2 * l * a->count + i] = a->caches[l][i / 2][i % 2].data;
    if (t->image_size < weights || memcmp(t->image, t->fresh, weights) != 0)
        t->norms.is_known = false;
    return send_table(be, t, size, err);
}

#define LAST_ROUND (UINT32_C(1) << 30)

/* At least `count` words, and `rounds` rounds that none of them has seen. */
static mica_status reserve_words(mica_cuda_backend *be, mica_cuda_tokens *t, size_t count,
                                 uint32_t rounds, mica_err *err)
{
    if (count <= t->word_count && t->round > 0 && t->round + rounds < LAST_ROUND)
        return MICA_OK;
    if (count > t->word_count) {
        mica_cuda_free(be, t->words);
        t->words = NULL;
        t->word_count = 0;
        MICA_TRY(
            mica_cuda_alloc(be, count * sizeof(uint64_t), "the words of a step", &t->words, err));
        t->word_count = count;
    }
    t->round = 1;
    return mica_cuda_check(
        cudaMemsetAsync(t->words, 0, t->word_count * sizeof(uint64_t), be->stream),
        "clearing words", err);
}

/* Once for weights that stay where they are. */
static mica_status prepare_norms(mica_cuda_backend *be, mica_cuda_tokens *t,
                                 mica_cuda_step_args *args, mica_err *err)
{
    struct step_norms *p = &t->norms;
    const size_t size = mica_cuda_step_norms(args->count);
    if (!p->is_known || p->moves != be->moves || p->head != args->head) {
        p->is_known = false;
        if (p->size < size) {
            mica_cuda_free(be, p->data);
            *p = (struct step_norms){0};
            MICA_TRY(mica_cuda_alloc(be, size, "the norms of a step", &p->data, err));
            p->size = size;
        }
        MICA_TRY(mica_cuda_check(mica_cuda_step_prepare(args, p->data, be->stream),
                                 "post_norm_step", err));
        p->head = args->head;
        p->moves = be->moves;
        p->is_known = true;
    }
    args->norms = p->data;
    return MICA_OK;
}

/* What rows [first, first + rows) begin and end with. */
static mica_status add_ends(mica_cuda_backend *be, const mica_post_norm_args *a, int64_t first,
                            mica_cuda_step_args *args, mica_err *err)
{
    if (a->table_VD) {
        MICA_TRY(table_of(be, a->table_VD, &args->table, err));
        args->table_rows = (int)a->table_VD->tensor.shape_[0];
    }
    for (int m = 0; m < args->rows && a->table_VD; m++) {
        args->ids[m] = a->ids[first + m]->data;
        if (a->add_RD)
            args->add[m] =
                (const float *)a->add_RD->data + a->places[first + m] * MICA_CUDA_STEP_WIDTH;
    }
    if (a->head_VD) {
        MICA_TRY(matrix(be, a->head_VD, &args->head, err));
        args->head_rows = (int)a->head_VD->tensor.shape_[0];
        args->logits_ld = a->logits_LV->shape_[1];
        args->logits = (float *)a->logits_LV->data + first * args->logits_ld;
    }
    return MICA_OK;
}

/* Rows [first, first + rows). */
static mica_status run_rows(mica_cuda_backend *be, mica_cuda_tokens *t,
                            const mica_post_norm_args *a, int64_t first, int rows, mica_err *err)
{
    const mica_tensor x = mica_tensor_rows(a->x_LD, first, rows);
    const uint32_t rounds = mica_cuda_step_rounds(a->count);
    MICA_TRY(reserve_words(be, t, (size_t)mica_cuda_step_words(rows, t->cluster), rounds, err));
    const size_t weights = (size_t)a->count * sizeof(mica_cuda_step_block);
    mica_cuda_step_args args = {
        .blocks = t->table,
        .caches = (void *const *)(const void *)((const uint8_t *)t->table + weights) +
                  2 * first * a->count,
        .count = a->count,
        .rows = rows,
        .eps = a->eps,
        .type = mica_cuda_compute_type(be),
        .x = x.data,
        .words = t->words,
        .round = t->round,
        .turn = t->turn,
        .cluster = t->cluster,
        .early = !be->device->gpu.is_shared && atomic_load(&be->device->steppers) == 1};
    for (int m = 0; m < rows; m++)
        args.seen[m] = (int)a->seen[first + m];
    MICA_TRY(add_ends(be, a, first, &args, err));
    MICA_TRY(prepare_norms(be, t, &args, err));
    t->round += rounds;
    t->turn = 1 - t->turn;
    return mica_cuda_check(mica_cuda_step(&args, be->stream), "post_norm_step", err);
}

mica_status mica_cuda_op_post_norm_step(mica_backend *base, const mica_post_norm_args *a,
                                        bool *taken, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const int64_t L = a->x_LD->shape_[0];
    mica_cuda_tokens *t;
    MICA_TRY(tokens_of(be, &t, err));
    *taken = be->fuse && a->count > 0 && fits(be, t, a);
    if (!*taken)
        return MICA_OK;
    MICA_TRY(fill_table(be, t, a, err));
    for (int64_t first = 0; first < L; first += t->rows)
        MICA_TRY(run_rows(be, t, a, first, (int)MICA_MIN(L - first, (int64_t)t->rows), err));
    return MICA_OK;
}
