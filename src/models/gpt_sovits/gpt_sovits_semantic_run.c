/* gpt_sovits_semantic_run.c - the passes of text to semantic: prefix, then a row per code.
 *
 *     prefix     x attends to x, y to x and to y up to itself: two attentions over one cache
 *     step       rows of all sentences share the linears; attention sees one cache at a time
 *
 * A step reads every weight once, whatever the batch: 78 million numbers for 25 rows a second. Linears and
 * attention of steps are the backend's `by_row` forms, in which a row does not depend on how many
 * there are; so a batch makes the codes that its sentences make alone. */
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
    bool is_step;
} pass;

static void linear(const pass *p, mica_nn_linear *l, const mica_tensor *x, mica_tensor *y,
                   const mica_tensor *residual)
{
    mica_linear(p->be, &(mica_linear_args){.x_MD = x,
                                           .w_OD = &l->w,
                                           .bias_O = &l->b,
                                           .residual_MO = residual,
                                           .y_MO = y,
                                           .by_row = p->is_step});
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
                                                 .by_row = p->is_step});
}

/* New keys or values of sentence `t`, rows [first, first + rows) of x, behind the valid ones. */
static void keep(const pass *p, const mica_gs_sentence *t, int layer, mica_kv_half half,
                 const mica_tensor *x, int64_t first, int64_t rows)
{
    const mica_tensor part = mica_tensor_rows(x, first, rows);
    const mica_tensor from = mica_gs_heads(&part, p->s->stack.heads);
    mica_tensor to = mica_kv_cache_rows(&t->cache, layer, half, t->cache.count, rows);
    mica_copy(p->be, &from, &to);
}

static void attend_all(const pass *p, int layer, const mica_tensor *q, const mica_tensor *k,
                       const mica_tensor *v, const mica_tensor *out)
{
    for (int i = 0; i < p->count; i++) {
        const mica_gs_sentence *t = p->list[i];
        const int64_t rows = p->is_step ? 1 : q->shape_[0], first = p->is_step ? i : 0;
        keep(p, t, layer, MICA_KV_KEYS, k, first, rows);
        keep(p, t, layer, MICA_KV_VALUES, v, first, rows);
        if (p->is_step) {
            attend(p, t, layer, q, out, first, 1, t->cache.count + 1, false);
            continue;
        }
        const int64_t text = t->text_count;
        attend(p, t, layer, q, out, 0, text, text, false);
        if (rows > text)
            attend(p, t, layer, q, out, text, rows - text, rows, true);
    }
}

static void run_block(const pass *p, int n, mica_tensor *x)
{
    const mica_gs_stack *s = &p->s->stack;
    mica_gs_block *b = &s->blocks[n];
    const int64_t L = x->shape_[0];
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    mica_tensor qkv = mica_gs_scratch(p->be, L, 3 * s->width);
    mica_tensor q = mica_gs_columns(&qkv, 0, s->width);
    mica_tensor k = mica_gs_columns(&qkv, s->width, s->width);
    mica_tensor v = mica_gs_columns(&qkv, 2 * s->width, s->width);
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
    linear(p, &b->o, &out, x, x);
    mica_gs_norm_run(p->be, &b->norm_1, s->eps, x, x);
    linear(p, &b->up, x, &hidden, NULL);
    mica_apply(p->be, MICA_FUNCTION_LEAKY_RELU, 0.0f, &hidden, NULL, &hidden); /* ReLU */
    linear(p, &b->down, &hidden, x, x);
    mica_gs_norm_run(p->be, &b->norm_2, s->eps, x, x);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
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

/* The code of this step from the logits of the sentence's row. */
static mica_status take(mica_gs_sentence *t, float *logits, float *work, mica_err *err)
{
    bool is_end = false;
    const int64_t n = t->sampler.vocab;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(logits[i]))
            return MICA_FAIL(err, MICA_E_NUMERIC,
                             "text to semantic: NaN or infinity in the logits of code %d", t->step);
    const int32_t code = mica_gs_sampler_next(&t->sampler, t->step++, logits, t->codes,
                                              t->prompt_count + t->count, work, &is_end);
    if (is_end) {
        t->finished = true;
        return MICA_OK;
    }
    MICA_TRY(add_code(t, code, err));
    t->count++;
    t->finished = t->count >= t->sampler.options.most;
    return MICA_OK;
}

/* Logits of rows of x to the host: [rows][vocab], with 2 vocab of work space behind. */
static mica_status read_logits(const pass *p, const mica_tensor *x, float **out, mica_err *err)
{
    const int64_t rows = x->shape_[0], V = p->s->vocab;
    float *host = mica_mem_calloc((size_t)((rows + 2) * V), sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for logits");
    mica_tensor logits = mica_state_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){rows, V});
    mica_linear(p->be, &(mica_linear_args){
                           .x_MD = x, .w_OD = &p->s->head, .y_MO = &logits, .by_row = true});
    mica_download_f32(p->be, host, &logits);
    const mica_status st = mica_backend_check(p->be, err);
    if (st)
        mica_mem_free(host);
    else
        *out = host;
    return st;
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
    float *logits = NULL;
    embed_text(p, prefix, work, &text);
    mica_gs_tap(run->taps, p->be, &text, false, "probe.x_embedded");
    if (prefix->prompt_count > 0) {
        embed_codes(p, prefix->prompt, 0, prefix->prompt_count, work, &codes);
        mica_gs_tap(run->taps, p->be, &codes, false, "probe.y_embedded");
    }
    for (int n = 0; n < p->s->stack.count; n++) {
        run_block(p, n, &x);
        MICA_TRY(mica_run_block(run, p->be, n + 1, p->s->stack.count, err));
    }
    t->cache.count = L;
    tap_prefix(p, run, t, &x);
    const mica_tensor last = mica_tensor_rows(&x, L - 1, 1);
    MICA_TRY(read_logits(p, &last, &logits, err));
    mica_status st = take(t, logits, logits + p->s->vocab, err);
    mica_mem_free(logits);
    return st;
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

mica_status mica_gs_sentence_begin(mica_gs_sentence *t, mica_gs_semantic *s, mica_backend *be,
                                   mica_run *run, const mica_gs_prefix *prefix,
                                   const mica_gs_sampling *sampling, mica_err *err)
{
    *t = (mica_gs_sentence){.text_count = prefix->phone_count,
                            .sampler = {.options = *sampling, .vocab = s->vocab, .eos = s->eos}};
    MICA_TRY(check_prefix(s, prefix, err));
    MICA_TRY(mica_kv_cache_init(&t->cache, be, s->stack.count, s->stack.heads,
                                s->stack.width / s->stack.heads, err));
    MICA_TRY(mica_kv_cache_reserve(&t->cache, prefix->phone_count + prefix->prompt_count, err));
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
    const mica_status st = run_prefix(&p, run, prefix, work, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    mica_mem_free(work);
    return st;
}

/* -------------------------------------------------------------------- step -- */

static mica_status run_step(const pass *p, mica_run *run, mica_err *err)
{
    mica_tensor x = mica_gs_scratch(p->be, p->count, p->s->stack.width);
    float *logits = NULL, *work = mica_mem_calloc((size_t)p->s->stack.width, sizeof *work);
    if (!work)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for positions");
    for (int i = 0; i < p->count; i++) {
        const mica_gs_sentence *t = p->list[i];
        const int64_t at = t->prompt_count + t->count - 1;
        mica_tensor row = mica_tensor_rows(&x, i, 1);
        embed_codes(p, &t->codes[at], at, 1, work, &row);
    }
    mica_mem_free(work);
    for (int n = 0; n < p->s->stack.count; n++)
        run_block(p, n, &x);
    MICA_TRY(read_logits(p, &x, &logits, err));
    mica_status st = MICA_OK;
    for (int i = 0; i < p->count && !st; i++) {
        float *row = logits + (int64_t)i * p->s->vocab;
        p->list[i]->cache.count++;
        if (mica_tap_wants(run->taps, "semantic.logits.%d", p->list[i]->step)) {
            const mica_tensor t = mica_tensor_1d(row, MICA_DTYPE_F32, p->s->vocab);
            mica_tap_host(run->taps, &t, "semantic.logits.%d", p->list[i]->step);
        }
        st = take(p->list[i], row, logits + (int64_t)p->count * p->s->vocab, err);
    }
    mica_mem_free(logits);
    return st;
}

mica_status mica_gs_sentences_step(mica_gs_sentence *const *list, int count, mica_gs_semantic *s,
                                   mica_backend *be, mica_run *run, mica_err *err)
{
    mica_gs_sentence *running[BATCH];
    pass p = {.s = s, .be = be, .list = running, .is_step = true};
    for (int i = 0; i < count && p.count < BATCH; i++)
        if (!list[i]->finished && list[i]->prompt_count + list[i]->count > 0) {
            MICA_TRY(mica_kv_cache_reserve(&list[i]->cache, 1, err));
            running[p.count++] = list[i];
        }
    if (p.count == 0)
        return MICA_OK;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = run_step(&p, run, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

void mica_gs_sentence_deinit(mica_gs_sentence *t)
{
    mica_kv_cache_deinit(&t->cache);
    mica_mem_free(t->codes);
    *t = (mica_gs_sentence){0};
}
