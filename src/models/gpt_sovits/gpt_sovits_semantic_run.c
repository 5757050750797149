/* gpt_sovits_semantic_run.c - the passes of text to semantic: prefix, then a row per code.
 *
 *     prefix     x attends to x, y to x and to y up to itself: two attentions over one cache
 *     step       code ─mica_post_norm_step: embedding, position, blocks, head─► logits ─► draw ─► code
 *                  ▲                                                                         │
 *                  └───────────────────── where the backend computes ────────────────────────┴─► the host, behind
 *     watch      codes of a finished sentence, all rows at once: where each of them looked
 *
 * A step reads every weight once, whatever the batch: 78 million numbers for 25 rows a second. A row does not
 * depend on how many there are, so a batch makes the codes that its sentences make alone. The host knows
 * how long every cache is without knowing the codes: on a device it queues the step for code n + 1 before it
 * reads code n. */
#include "models/gpt_sovits/gpt_sovits_semantic.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define BATCH 64

/* ------------------------------------------------------------------- blocks -- */

typedef struct pass {
    mica_gs_semantic *s;
    mica_backend *be;
    mica_gs_sentence *const *list; /* of a step; prefix: one */
    int count;
    const mica_gs_watch *watch; /* NULL: none */
    mica_tensor
        *picks_MHK; /* of a watch: values by which attention tells its shares, K phones each */
} pass;

static void linear(const pass *p, mica_nn_linear *l, const mica_tensor *x, mica_tensor *y,
                   const mica_tensor *residual)
{
    mica_linear(p->be,
                &(mica_linear_args){
                    .x_MD = x, .w_OD = &l->w, .bias_O = &l->b, .residual_MO = residual, .y_MO = y});
}

/* Rows [first, first + rows) of q over the first `keys` rows of a cache. */
static void attend(const pass *p, const mica_gs_sentence *t, int layer, const mica_tensor *q,
                   const mica_tensor *out, int64_t first, int64_t rows, int64_t keys, bool causal)
{
    const mica_tensor part = mica_tensor_rows(q, first, rows);
    const mica_tensor to = mica_tensor_rows(out, first, rows);
    const mica_tensor q_LHK = mica_gs_heads(&part, p->s->stack.heads);
    mica_tensor out_LHK = mica_gs_heads(&to, p->s->stack.heads);
    const mica_tensor k = mica_kv_cache_rows(&t->cache, layer, MICA_KV_KEYS, 0, keys);
    const mica_tensor v = mica_kv_cache_rows(&t->cache, layer, MICA_KV_VALUES, 0, keys);
    mica_attention(p->be, &(mica_attention_args){.segments = 1,
                                                 .q_LHK = {&q_LHK},
                                                 .k_MGK = {&k},
                                                 .v_MGK = {&v},
                                                 .out_LHK = {&out_LHK},
                                                 .causal = causal,
                                                 .once = true});
}

/* New keys or values, rows of x, behind the valid ones. */
static void keep(const pass *p, int layer, mica_kv_half half, const mica_tensor *x)
{
    const mica_kv_cache *c = &p->list[0]->cache;
    const mica_tensor from = mica_gs_heads(x, p->s->stack.heads);
    mica_tensor to = mica_kv_cache_rows(c, layer, half, c->count, x->shape_[0]);
    mica_copy(p->be, &from, &to);
}

static void attend_all(const pass *p, int layer, const mica_tensor *q, const mica_tensor *k,
                       const mica_tensor *v, const mica_tensor *out)
{
    const mica_gs_sentence *t = p->list[0];
    const int64_t rows = q->shape_[0], had = t->cache.count, text = had ? 0 : t->text_count;
    keep(p, layer, MICA_KV_KEYS, k);
    keep(p, layer, MICA_KV_VALUES, v);
    if (text > 0)
        attend(p, t, layer, q, out, 0, text, text, false);
    if (rows > text)
        attend(p, t, layer, q, out, text, rows - text, had + rows, true);
}

/* Attention by itself, without an operation for it: with values that are 1 in column c for phone first + c and
 * 0 elsewhere, the outputs of a head are its shares of K phones. The same values serve all layers. */
static mica_status make_picks(pass *p, int64_t keys, mica_err *err)
{
    const mica_gs_watch *w = p->watch;
    const int64_t H = p->list[0]->cache.heads, K = p->list[0]->cache.width;
    const int64_t count = (w->phones + K - 1) / K;
    float *host = mica_mem_alloc((size_t)(keys * H * K) * sizeof *host);
    p->picks_MHK = mica_mem_calloc((size_t)count + 1, sizeof *p->picks_MHK);
    if (!host || !p->picks_MHK) {
        mica_mem_free(host);
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the attention of %lld rows",
                         (long long)keys);
    }
    for (int64_t n = 0; n < count; n++) {
        memset(host, 0, (size_t)(keys * H * K) * sizeof *host);
        for (int64_t j = 0; j < MICA_MIN(K, w->phones - n * K); j++)
            for (int64_t h = 0; h < H; h++)
                host[((w->first_phone + n * K + j) * H + h) * K + j] = 1.0f;
        p->picks_MHK[n] = mica_act_tensor(p->be, MICA_POOL_STEP, 3, (const int64_t[]){keys, H, K});
        mica_upload_f32(p->be, &p->picks_MHK[n], host);
    }
    mica_mem_free(host);
    return mica_backend_check(p->be, err);
}

/* Shares of the phones of picks n, into their columns of shares_LHT. */
static void watch_phones(const pass *p, int layer, const mica_tensor *q, int64_t n, float *work,
                         float *shares_LHT)
{
    const mica_gs_watch *w = p->watch;
    const mica_kv_cache *c = &p->list[0]->cache;
    const int64_t L = q->shape_[0], H = c->heads, K = c->width;
    const int64_t count = MICA_MIN(K, w->phones - n * K);
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    mica_tensor out = mica_gs_scratch(p->be, L, H * K), out_LHK = mica_gs_heads(&out, H);
    const mica_tensor q_LHK = mica_gs_heads(q, H);
    const mica_tensor keys = mica_kv_cache_rows(c, layer, MICA_KV_KEYS, 0, c->count + L);
    mica_attention(p->be, &(mica_attention_args){.segments = 1,
                                                 .q_LHK = {&q_LHK},
                                                 .k_MGK = {&keys},
                                                 .v_MGK = {&p->picks_MHK[n]},
                                                 .out_LHK = {&out_LHK},
                                                 .causal = true,
                                                 .once = true});
    mica_download_f32(p->be, work, &out);
    for (int64_t i = 0; i < L * H; i++)
        memcpy(shares_LHT + i * w->phones + n * K, work + i * K, (size_t)count * sizeof *work);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
}

static mica_status watch_layer(const pass *p, int layer, const mica_tensor *q, mica_err *err)
{
    const mica_gs_watch *w = p->watch;
    const mica_kv_cache *c = &p->list[0]->cache;
    const int64_t L = q->shape_[0], H = c->heads, K = c->width, T = w->phones;
    float *work = mica_mem_alloc((size_t)(L * H * K) * sizeof *work);
    float *shares = mica_mem_alloc((size_t)(L * H * T) * sizeof *shares);
    mica_status st = work && shares
                         ? MICA_OK
                         : MICA_FAIL(err, MICA_E_NOMEM, "no memory for the attention of %lld codes",
                                     (long long)L);
    for (int64_t n = 0; n * K < T && !st; n++) {
        watch_phones(p, layer, q, n, work, shares);
        st = mica_backend_check(p->be, err);
    }
    if (!st)
        st = w->seen(w->user, layer, shares, err);
    mica_mem_free(work);
    mica_mem_free(shares);
    return st;
}

static mica_status run_block(const pass *p, int n, mica_tensor *x, mica_err *err)
{
    mica_status st = MICA_OK;
    const mica_gs_stack *s = &p->s->stack;
    mica_gs_block *b = &s->blocks[n];
    const int64_t L = x->shape_[0];
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    mica_tensor qkv = mica_gs_scratch(p->be, L, 3 * s->width);
    mica_tensor q = mica_tensor_columns(&qkv, 0, s->width);
    mica_tensor k = mica_tensor_columns(&qkv, s->width, s->width);
    mica_tensor v = mica_tensor_columns(&qkv, 2 * s->width, s->width);
    mica_tensor out = mica_gs_scratch(p->be, L, s->width);
    mica_tensor hidden = mica_gs_scratch(p->be, L, s->ffn);
    if (b->qkv.w.name) {
        linear(p, &b->qkv, x, &qkv, NULL);
    } else {
        linear(p, &b->q, x, &q, NULL);
        linear(p, &b->k, x, &k, NULL);
        linear(p, &b->v, x, &v, NULL);
    }
    attend_all(p, n, &q, &k, &v, &out);
    if (p->watch && p->watch->wants(p->watch->user, n))
        st = watch_layer(p, n, &q, err);
    linear(p, &b->o, &out, x, x);
    mica_gs_norm_run(p->be, &b->norm_1, s->eps, x, x);
    linear(p, &b->up, x, &hidden, NULL);
    mica_apply(p->be, MICA_FUNCTION_LEAKY_RELU, 0.0f, &hidden, NULL, &hidden); /* ReLU */
    linear(p, &b->down, &hidden, x, x);
    mica_gs_norm_run(p->be, &b->norm_2, s->eps, x, x);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
    return st;
}

/* --------------------------------------------------------------- embeddings -- */

/* alpha * (sin, cos of position / 10000^(2i/D)) of positions first, first + 1, ...; the frequencies are
 * rounded to f32 as the reference has them. */
static void positions(const mica_gs_semantic *s, const mica_weight *alpha, int64_t first,
                      int64_t rows, float *out)
{
    const int64_t D = s->stack.width;
    const float a = mica_tensor_read_f32(&alpha->tensor, 0);
    for (int64_t i = 0; i < D; i += 2) {
        const float rate = expf((float)i * -(float)(log(10000.0) / (double)D));
        for (int64_t r = 0; r < rows; r++) {
            const float angle = (float)(first + r) * rate;
            out[r * D + i] = a * (float)sin((double)angle);
            out[r * D + i + 1] = a * (float)cos((double)angle);
        }
    }
}

/* x += host rows. */
static void add_host(mica_backend *be, const float *rows, mica_tensor *x)
{
    mica_tensor t = mica_gs_scratch(be, x->shape_[0], x->shape_[1]);
    mica_upload_f32(be, &t, rows);
    mica_add(be, x, &t, x);
}

static void embed_text(const pass *p, const mica_gs_prefix *prefix, float *work, mica_tensor *x)
{
    mica_gs_semantic *s = p->s;
    const int64_t T = prefix->phone_count;
    mica_tensor bert = mica_gs_scratch(p->be, T, s->bert_width);
    mica_embed_rows(p->be, &s->phones, prefix->phones, T, x);
    if (prefix->features_TB)
        memcpy(work, prefix->features_TB, (size_t)(T * s->bert_width) * sizeof *work);
    else
        memset(work, 0, (size_t)(T * s->bert_width) * sizeof *work);
    mica_upload_f32(p->be, &bert, work);
    mica_nn_linear_gated(p->be, &s->bert, &bert, NULL, x);
    positions(s, &s->phone_alpha, 0, T, work);
    add_host(p->be, work, x);
}

static void embed_codes(const pass *p, const int32_t *codes, int64_t first, int64_t count,
                        float *work, mica_tensor *y)
{
    mica_embed_rows(p->be, &p->s->codes, codes, count, y);
    positions(p->s, &p->s->code_alpha, first, count, work);
    add_host(p->be, work, y);
}

/* ------------------------------------------------------------------- codes -- */

static mica_status add_code(mica_gs_sentence *t, int32_t code, mica_err *err)
{
    const int64_t used = t->prompt_count + t->count;
    if (used == t->cap) {
        const int64_t cap = t->cap ? 2 * t->cap : 256;
        int32_t *codes = mica_mem_realloc(t->codes, (size_t)cap * sizeof *codes);
        if (!codes)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld codes", (long long)cap);
        t->codes = codes;
        t->cap = cap;
    }
    t->codes[used] = code;
    return MICA_OK;
}

static mica_tensor logits_of(const pass *p)
{
    return mica_state_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){p->count, p->s->vocab});
}

/* Draws the next code of each sentence from its row of the logits; the host is told behind. */
static void draw(const pass *p, mica_run *run, const mica_tensor *logits)
{
    const int64_t V = p->s->vocab;
    for (int first = 0; first < p->count; first += MICA_RACE_ROWS) {
        mica_race_args list[MICA_RACE_ROWS];
        const int count = MICA_MIN(p->count - first, MICA_RACE_ROWS);
        for (int i = 0; i < count; i++) {
            mica_gs_sentence *t = p->list[first + i];
            list[i] = mica_gs_sampler_race(&t->sampler, t->step);
            list[i].logits_V = mica_tensor_1d(
                logits->data ? (float *)logits->data + (first + i) * V : NULL, MICA_DTYPE_F32, V);
            list[i].seen_V = &t->seen_V;
            list[i].drawn_2 = &t->drawn_2;
            if (t->step > 0)
                mica_tap(run->taps, p->be, &list[i].logits_V, 0, NULL, "semantic.logits.%d",
                         t->step);
        }
        mica_race_draw(p->be, list, count);
        for (int i = 0; i < count; i++) {
            mica_gs_sentence *t = p->list[first + i];
            t->tickets[t->queued++] = list[i].ticket;
            t->step++;
        }
    }
}

/* The oldest code that was drawn and is not known yet. */
static mica_status collect(mica_gs_sentence *t, mica_backend *be, mica_err *err)
{
    int32_t drawn[2];
    mica_fetch_finish(be, t->tickets[0], drawn, 2);
    MICA_TRY(mica_backend_check(be, err));
    t->tickets[0] = t->tickets[1];
    t->queued--;
    if (drawn[0] < 0)
        return MICA_FAIL(err, MICA_E_NUMERIC,
                         "text to semantic: NaN or infinity in the logits of code %d",
                         t->step - t->queued - 1);
    if (drawn[1]) {
        t->finished = true;
        return MICA_OK;
    }
    MICA_TRY(add_code(t, drawn[0], err));
    t->count++;
    t->finished = t->count >= t->sampler.options.most;
    return MICA_OK;
}

/* ------------------------------------------------------------------ prefix -- */

static void tap_prefix(const pass *p, mica_run *run, const mica_gs_sentence *t,
                       const mica_tensor *hidden)
{
    const int64_t L = hidden->shape_[0], last = MICA_MIN(L, 4);
    mica_gs_tap(run->taps, p->be, hidden, false, "probe.prefill_hidden");
    if (mica_tap_wants(run->taps, "probe.prefill_logits")) {
        const mica_tensor rows = mica_tensor_rows(hidden, L - last, last);
        mica_tensor logits = mica_gs_scratch(p->be, last, p->s->vocab);
        mica_linear(p->be,
                    &(mica_linear_args){.x_MD = &rows, .w_OD = &p->s->head, .y_MO = &logits});
        mica_gs_tap(run->taps, p->be, &logits, false, "probe.prefill_logits");
    }
    const mica_tensor k = mica_kv_cache_rows(&t->cache, 0, MICA_KV_KEYS, 0, L);
    const mica_tensor flat = mica_tensor_reshape(&k, 2, (const int64_t[]){L, p->s->stack.width});
    mica_gs_tap(run->taps, p->be, &flat, false, "probe.k_cache.0");
}

static mica_status run_prefix(const pass *p, mica_run *run, const mica_gs_prefix *prefix,
                              float *work, mica_err *err)
{
    mica_gs_sentence *t = p->list[0];
    const int64_t T = prefix->phone_count, L = T + prefix->prompt_count;
    mica_tensor x = mica_gs_scratch(p->be, L, p->s->stack.width);
    mica_tensor text = mica_tensor_rows(&x, 0, T);
    mica_tensor codes = mica_tensor_rows(&x, T, prefix->prompt_count);
    embed_text(p, prefix, work, &text);
    mica_gs_tap(run->taps, p->be, &text, false, "probe.x_embedded");
    if (prefix->prompt_count > 0) {
        embed_codes(p, prefix->prompt, 0, prefix->prompt_count, work, &codes);
        mica_gs_tap(run->taps, p->be, &codes, false, "probe.y_embedded");
    }
    for (int n = 0; n < p->s->stack.count; n++) {
        MICA_TRY(run_block(p, n, &x, err));
        MICA_TRY(mica_run_block(run, p->be, n + 1, p->s->stack.count, err));
    }
    t->cache.count = L;
    tap_prefix(p, run, t, &x);
    const mica_tensor last = mica_tensor_rows(&x, L - 1, 1);
    mica_tensor logits = logits_of(p);
    mica_linear(p->be, &(mica_linear_args){
                           .x_MD = &last, .w_OD = &p->s->head, .y_MO = &logits, .by_row = true});
    draw(p, run, &logits);
    return mica_backend_check(p->be, err);
}

static mica_status check_prefix(const mica_gs_semantic *s, const mica_gs_prefix *p, mica_err *err)
{
    if (p->phone_count < 1)
        return MICA_FAIL(err, MICA_E_USAGE, "a sentence without phones");
    for (int64_t i = 0; i < p->phone_count; i++)
        if (p->phones[i] < 0 || p->phones[i] >= s->phone_count)
            return MICA_FAIL(err, MICA_E_USAGE, "phone id %d; the model has %lld phones",
                             (int)p->phones[i], (long long)s->phone_count);
    for (int64_t i = 0; i < p->prompt_count; i++)
        if (p->prompt[i] < 0 || p->prompt[i] >= s->vocab - 1)
            return MICA_FAIL(err, MICA_E_USAGE,
                             "semantic code %d of the reference; the model has %lld",
                             (int)p->prompt[i], (long long)s->vocab - 1);
    return MICA_OK;
}

/* What draws need: marks of the codes that were seen, the code drawn last. */
static mica_status open_draws(mica_gs_sentence *t, mica_backend *be, mica_err *err)
{
    const int64_t V = t->sampler.vocab, bytes = (V * (int64_t)sizeof(float) + 63) / 64 * 64;
    float *marks = mica_mem_calloc((size_t)V, sizeof *marks);
    if (!marks)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld codes", (long long)V);
    for (int64_t i = 0; i < t->prompt_count; i++)
        marks[t->codes[i]] = 1.0f;
    t->buffer = mica_backend_buffer_alloc(be, (size_t)bytes + 64);
    t->seen_V = mica_tensor_1d(t->buffer, MICA_DTYPE_F32, V);
    t->drawn_2 = mica_tensor_1d(t->buffer ? (char *)t->buffer + bytes : NULL, MICA_DTYPE_I32, 2);
    mica_upload_f32(be, &t->seen_V, marks);
    mica_mem_free(marks);
    return mica_backend_check(be, err);
}

mica_status mica_gs_sentence_begin(mica_gs_sentence *t, mica_gs_semantic *s, mica_backend *be,
                                   mica_run *run, const mica_gs_prefix *prefix,
                                   const mica_gs_sampling *sampling, mica_err *err)
{
    *t = (mica_gs_sentence){.text_count = prefix->phone_count,
                            .sampler = {.options = *sampling, .vocab = s->vocab, .eos = s->eos}};
    MICA_TRY(check_prefix(s, prefix, err));
    MICA_TRY(mica_kv_cache_init(&t->cache, be, s->stack.count, s->stack.heads,
                                s->stack.width / s->stack.heads, err));
    /* With the first codes' room, so that nothing is copied when they come. */
    MICA_TRY(mica_kv_cache_reserve(&t->cache,
                                   prefix->phone_count + prefix->prompt_count + MICA_KV_STEP, err));
    for (int64_t i = 0; i < prefix->prompt_count; i++) {
        MICA_TRY(add_code(t, prefix->prompt[i], err));
        t->prompt_count++;
    }
    const int64_t rows = MICA_MAX(prefix->phone_count, prefix->prompt_count);
    float *work =
        mica_mem_calloc((size_t)(rows * MICA_MAX(s->bert_width, s->stack.width)), sizeof *work);
    if (!work)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld phones", (long long)rows);
    mica_gs_sentence *const list[] = {t};
    const pass p = {.s = s, .be = be, .list = list, .count = 1};
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_status st = open_draws(t, be, err);
    if (!st)
        st = run_prefix(&p, run, prefix, work, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    mica_mem_free(work);
    return st;
}

/* -------------------------------------------------------------------- step -- */

#define POSITIONS 512 /* at a time: 1 MB */

/* Positions of at least `rows` codes. */
static mica_status reserve_positions(mica_gs_semantic *s, mica_backend *be, int64_t rows,
                                     mica_err *err)
{
    const int64_t D = s->stack.width, had = s->positions_RD.data ? s->positions_RD.shape_[0] : 0;
    if (rows <= had)
        return MICA_OK;
    const int64_t wanted = (rows + POSITIONS - 1) / POSITIONS * POSITIONS;
    float *host = mica_mem_calloc((size_t)(wanted * D), sizeof *host);
    void *buffer = mica_backend_buffer_alloc(be, (size_t)(wanted * D) * sizeof *host);
    if (host && buffer) {
        mica_tensor fresh = mica_tensor_2d(buffer, MICA_DTYPE_F32, wanted, D);
        positions(s, &s->code_alpha, 0, wanted, host);
        mica_upload_f32(be, &fresh, host);
        mica_backend_buffer_free(be, s->positions_RD.data);
        s->positions_RD = fresh;
    }
    mica_mem_free(host);
    MICA_TRY(mica_backend_check(be, err));
    return host ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for positions");
}

/* Where the code that was drawn last stands among the codes. */
static int64_t last_position(const mica_gs_sentence *t)
{
    return t->prompt_count + t->count + t->queued - 1;
}

static mica_status run_step(const pass *p, mica_run *run, mica_err *err)
{
    mica_gs_semantic *s = p->s;
    mica_tensor x = mica_gs_scratch(p->be, p->count, s->stack.width), logits = logits_of(p);
    mica_tensor(*caches[BATCH])[2];
    const mica_tensor *ids[BATCH];
    int64_t seen[BATCH], places[BATCH];
    for (int i = 0; i < p->count; i++) {
        const mica_gs_sentence *t = p->list[i];
        ids[i] = &t->drawn_2;
        places[i] = last_position(t);
        caches[i] = t->cache.rows;
        seen[i] = t->cache.count;
    }
    mica_post_norm_step(p->be, &(mica_post_norm_args){.blocks = s->steps,
                                                      .count = s->stack.count,
                                                      .heads = (int)s->stack.heads,
                                                      .eps = s->stack.eps,
                                                      .x_LD = &x,
                                                      .caches = caches,
                                                      .seen = seen,
                                                      .table_VD = &s->codes,
                                                      .ids = ids,
                                                      .add_RD = &s->positions_RD,
                                                      .places = places,
                                                      .head_VD = &s->head,
                                                      .logits_LV = &logits});
    for (int i = 0; i < p->count; i++)
        p->list[i]->cache.count++;
    draw(p, run, &logits);
    return mica_backend_check(p->be, err);
}

/* Queues a pass for the sentences that have fewer than `ahead` codes under way. */
static mica_status queue_step(mica_gs_sentence *const *list, int count, int ahead,
                              mica_gs_semantic *s, mica_backend *be, mica_run *run, mica_err *err)
{
    mica_gs_sentence *running[BATCH];
    pass p = {.s = s, .be = be, .list = running};
    for (int i = 0; i < count && p.count < BATCH; i++) {
        mica_gs_sentence *t = list[i];
        if (t->finished || t->queued >= ahead || t->count + t->queued >= t->sampler.options.most)
            continue;
        MICA_TRY(mica_kv_cache_reserve(&t->cache, 1, err));
        MICA_TRY(reserve_positions(s, be, last_position(t) + 1, err));
        running[p.count++] = t;
    }
    if (p.count == 0)
        return MICA_OK;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = run_step(&p, run, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

mica_status mica_gs_sentences_step(mica_gs_sentence *const *list, int count, mica_gs_semantic *s,
                                   mica_backend *be, mica_run *run, mica_err *err)
{
    const int ahead = mica_backend_is_queued(be) && !run->taps ? MICA_GS_QUEUED : 1;
    MICA_TRY(queue_step(list, count, ahead, s, be, run, err));
    for (int i = 0; i < count; i++)
        if (!list[i]->finished && list[i]->queued > 0)
            MICA_TRY(collect(list[i], be, err));
    return MICA_OK;
}

/* ------------------------------------------------------------------- watch -- */

static mica_status run_watch(pass *p, const int32_t *codes, int64_t count, float *work,
                             mica_err *err)
{
    mica_gs_sentence *t = p->list[0];
    mica_tensor x = mica_gs_scratch(p->be, count, p->s->stack.width);
    t->cache.count = t->text_count + t->prompt_count;
    MICA_TRY(mica_kv_cache_reserve(&t->cache, count, err));
    MICA_TRY(make_picks(p, t->cache.count + count, err));
    embed_codes(p, codes, t->prompt_count, count, work, &x);
    for (int n = 0; n < p->watch->layers && n < p->s->stack.count; n++)
        MICA_TRY(run_block(p, n, &x, err));
    return mica_backend_check(p->be, err);
}

mica_status mica_gs_sentence_watch(mica_gs_sentence *t, mica_gs_semantic *s, mica_backend *be,
                                   const int32_t *codes, int64_t count, const mica_gs_watch *watch,
                                   mica_err *err)
{
    mica_gs_sentence *const list[] = {t};
    pass p = {.s = s, .be = be, .list = list, .count = 1, .watch = watch};
    if (count < 1)
        return MICA_OK;
    float *work = mica_mem_calloc((size_t)(count * s->stack.width), sizeof *work);
    if (!work)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld codes", (long long)count);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = run_watch(&p, codes, count, work, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    mica_mem_free(p.picks_MHK);
    mica_mem_free(work);
    return st;
}

void mica_gs_sentence_deinit(mica_gs_sentence *t)
{
    if (t->buffer)
        mica_backend_buffer_free(t->cache.be, t->buffer);
    mica_kv_cache_deinit(&t->cache);
    mica_mem_free(t->codes);
    *t = (mica_gs_sentence){0};
}
