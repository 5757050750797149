/* mixtral_forward.c - one pass over new tokens of one or more sequences.
 *
 *     ids ─embed─► x ─┬► RMS norm ─► q k v ─► RoPE ─► cache ─► causal attention ─► o ─┐  x layers
 *                     ├◄──────────────────────────── + ───────────────────────────────┘
 *                     ├► RMS norm ─┬─► router ─► 2 of 8 experts and their shares
 *                     ├◄──── + ◄───┴─► experts: w2(silu(w1 x) * w3 x)
 *                     └► RMS norm ─► head ─► logits of the last rows
 *
 * Reference: transformers models/mixtral/modeling_mixtral.py (MixtralDecoderLayer, MixtralSparseMoeBlock).
 * A prompt's rows are products of many rows; single rows of several sequences go `by_row`, so that each
 * comes out as if it were alone; a device may take their layers whole (mica_mixture_layer). Experts of layers
 * that the device has no room for are computed on the CPU (mixtral_plan.c). Logits stay in the pass's stack
 * until the next pass. */
#include "models/mixtral/mixtral.h"

typedef struct pass {
    mica_mixtral_session *s;
    mica_backend *be;
    const mica_mixtral_config *c;
    const mica_completion_rows *rows;
    int sequences;
    int64_t L;   /* rows of all sequences */
    bool by_row; /* one row each */
} pass;

static mica_tensor scratch(const pass *p, int64_t rows, int64_t columns)
{
    return mica_act_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){rows, columns});
}

static void linear(const pass *p, mica_weight *w, const mica_tensor *x, const mica_tensor *residual,
                   mica_tensor *y)
{
    mica_linear(p->be,
                &(mica_linear_args){
                    .x_MD = x, .w_OD = w, .residual_MO = residual, .y_MO = y, .by_row = p->by_row});
}

/* ---------------------------------------------------------------- attention -- */

static void rotate(const pass *p, mica_tensor *q_LHK, mica_tensor *k_LGK, int64_t position)
{
    const int64_t count = q_LHK->shape_[0];
    const mica_tensor cos = mica_tensor_rows(&p->s->rope.cos_Lk, position, count);
    const mica_tensor sin = mica_tensor_rows(&p->s->rope.sin_Lk, position, count);
    mica_qk_norm_rope(p->be,
                      &(mica_qk_norm_rope_args){.x_LHK = q_LHK,
                                                .also_LHK = k_LGK,
                                                .cos_Lk = &cos,
                                                .sin_Lk = &sin,
                                                .layout = p->c->interleaved ? MICA_ROPE_INTERLEAVED
                                                                            : MICA_ROPE_HALF});
}

/* A layer's keys and values up to `count` new ones; those that no window of the new ones reaches are left out. */
static void visible_rows(const pass *p, const mica_kv_cache *cache, int layer, int64_t count,
                         mica_tensor halves[2])
{
    const int64_t end = cache->count + count, window = p->c->window;
    const int64_t first = window ? MICA_MAX(cache->count + 1 - window, (int64_t)0) : 0;
    halves[0] = mica_kv_cache_rows(cache, layer, MICA_KV_KEYS, first, end - first);
    halves[1] = mica_kv_cache_rows(cache, layer, MICA_KV_VALUES, first, end - first);
}

/* Queries over a layer's cache, whose last rows are their own. */
static void attend(const pass *p, const mica_kv_cache *cache, int layer, const mica_tensor *q_LHK,
                   mica_tensor *out_LHK)
{
    const int64_t count = q_LHK->shape_[0];
    mica_tensor kv[2];
    visible_rows(p, cache, layer, count, kv);
    mica_attention(p->be, &(mica_attention_args){.segments = 1,
                                                 .q_LHK = {q_LHK},
                                                 .k_MGK = {&kv[0]},
                                                 .v_MGK = {&kv[1]},
                                                 .out_LHK = {out_LHK},
                                                 .causal = true,
                                                 .by_row = count == 1,
                                                 .window = p->c->window});
}

/* One sequence's new keys and values are computed where they stay, and turned there. */
static bool writes_into_cache(const pass *p)
{
    return p->sequences == 1 && !p->rows[0].cache->q8;
}

static mica_tensor cache_rows(const pass *p, int layer, mica_kv_half half)
{
    const mica_kv_cache *c = p->rows[0].cache;
    const mica_tensor rows = mica_kv_cache_rows(c, layer, half, c->count, p->L);
    return mica_tensor_reshape(&rows, 2, (const int64_t[]){p->L, c->heads * c->width});
}

/* New keys and values of one sequence into its cache, then its queries over all of them. */
static void attend_sequence(const pass *p, int layer, int sequence, int64_t first, mica_tensor *qkv,
                            mica_tensor *out)
{
    const mica_lm_config *c = &p->c->lm;
    const mica_completion_rows *r = &p->rows[sequence];
    const int64_t at = r->cache->count;
    mica_tensor q = mica_tensor_heads(&qkv[0], first, r->count, c->heads, c->head_dim);
    mica_tensor k = mica_tensor_heads(&qkv[1], first, r->count, c->kv_heads, c->head_dim);
    const mica_tensor v = mica_tensor_heads(&qkv[2], first, r->count, c->kv_heads, c->head_dim);
    mica_tensor out_LHK = mica_tensor_heads(out, first, r->count, c->heads, c->head_dim);
    rotate(p, &q, &k, at);
    if (!writes_into_cache(p)) {
        mica_tensor keys = mica_kv_cache_rows(r->cache, layer, MICA_KV_KEYS, at, r->count);
        mica_tensor values = mica_kv_cache_rows(r->cache, layer, MICA_KV_VALUES, at, r->count);
        mica_copy(p->be, &k, &keys);
        mica_copy(p->be, &v, &values);
    }
    attend(p, r->cache, layer, &q, &out_LHK);
}

static void run_attention(const pass *p, int n, mica_tensor *x_LD)
{
    const mica_lm_config *c = &p->c->lm;
    mica_mixtral_layer *w = &p->s->weights.layers[n];
    mica_tensor norm_LD = scratch(p, p->L, c->width);
    const int64_t kv_width = c->kv_heads * c->head_dim;
    const bool in_place = writes_into_cache(p);
    mica_tensor qkv[] = {scratch(p, p->L, c->heads * c->head_dim),
                         in_place ? cache_rows(p, n, MICA_KV_KEYS) : scratch(p, p->L, kv_width),
                         in_place ? cache_rows(p, n, MICA_KV_VALUES) : scratch(p, p->L, kv_width)};
    mica_tensor out = scratch(p, p->L, c->heads * c->head_dim);
    mica_rms_norm(p->be, x_LD, &w->norm_in, (float)c->eps, &norm_LD);
    mica_weight *const weights[] = {&w->q.w, &w->k.w, &w->v.w};
    mica_linear_args linears[3];
    for (int i = 0; i < 3; i++)
        linears[i] = (mica_linear_args){
            .x_MD = &norm_LD, .w_OD = weights[i], .y_MO = &qkv[i], .by_row = p->by_row};
    mica_linears(p->be, linears, 3);
    int64_t first = 0;
    for (int i = 0; i < p->sequences; i++) {
        if (!mica_backend_failed(p->be))
            attend_sequence(p, n, i, first, qkv, &out);
        first += p->rows[i].count;
    }
    linear(p, &w->o.w, &out, x_LD, x_LD);
}

/* ------------------------------------------------------------------ experts -- */

static void run_experts(const pass *p, int n, mica_run *run, mica_tensor *x_LD)
{
    mica_mixtral_layer *w = &p->s->weights.layers[n];
    const int64_t here =
        p->c->lm.layers - p->s->completion.host_layers; /* layers whose experts it holds */
    mica_tensor norm_LD = scratch(p, p->L, p->c->lm.width);
    mica_tensor logits_LE =
        mica_state_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){p->L, p->c->experts});
    mica_rms_norm(p->be, x_LD, &w->norm_post, (float)p->c->lm.eps, &norm_LD);
    /* In f32 whatever the precision: a choice of experts turned round by rounding is the one error here
     * that is not small. */
    mica_linear(p->be,
                &(mica_linear_args){
                    .x_MD = &norm_LD, .w_OD = &w->router, .y_MO = &logits_LE, .by_row = true});
    mica_tap(run->taps, p->be, &logits_LE, 0, NULL, "router_logits.%d", n);
    mica_experts(p->be, &(mica_experts_args){.x_LD = &norm_LD,
                                             .logits_LE = &logits_LE,
                                             .active = (int)p->c->active,
                                             .gate_FD = w->gate_FD,
                                             .up_FD = w->up_FD,
                                             .down_DF = w->down_DF,
                                             .y_LD = x_LD,
                                             .by_row = p->by_row,
                                             .host = n < here ? NULL : p->s->host});
}

/* --------------------------------------------------------------------- pass -- */

/* A token's layer as a whole, where the backend has it. */
static bool run_layer_at_once(const pass *p, int n, const mica_run *run, mica_tensor *x_LD)
{
    const mica_lm_config *c = &p->c->lm;
    mica_mixtral_layer *w = &p->s->weights.layers[n];
    mica_tensor caches[MICA_COMPLETION_BATCH][2];
    int64_t positions[MICA_COMPLETION_BATCH];
    if (!p->by_row || run->taps || n >= (int)(c->layers - p->s->completion.host_layers))
        return false;
    for (int i = 0; i < p->sequences; i++) {
        const mica_kv_cache *cache = p->rows[i].cache;
        if (cache->q8)
            return false;
        positions[i] = cache->count;
        visible_rows(p, cache, n, 1, caches[i]);
    }
    return mica_mixture_layer(
        p->be, &(mica_mixture_layer_args){.norm_in = &w->norm_in,
                                          .q = &w->q.w,
                                          .k = &w->k.w,
                                          .v = &w->v.w,
                                          .o = &w->o.w,
                                          .norm_post = &w->norm_post,
                                          .router = &w->router,
                                          .experts = {.x_LD = x_LD,
                                                      .active = (int)p->c->active,
                                                      .gate_FD = w->gate_FD,
                                                      .up_FD = w->up_FD,
                                                      .down_DF = w->down_DF,
                                                      .by_row = true},
                                          .count = (int)p->c->experts,
                                          .heads = (int)c->heads,
                                          .kv_heads = (int)c->kv_heads,
                                          .eps = (float)c->eps,
                                          .caches = (const mica_tensor(*)[2])caches,
                                          .positions = positions,
                                          .cos_Lk = &p->s->rope.cos_Lk,
                                          .sin_Lk = &p->s->rope.sin_Lk,
                                          .layout = p->c->interleaved ? MICA_ROPE_INTERLEAVED
                                                                      : MICA_ROPE_HALF});
}

static void prefetch_layer(const pass *p, int n)
{
    mica_weight *list[MICA_MIXTRAL_LAYER];
    if (n < (int)p->c->lm.layers)
        mica_backend_prefetch_weights(p->be, list,
                                      mica_mixtral_list_layer(&p->s->weights.layers[n], list));
}

static void embed(const pass *p, mica_tensor *x_LD)
{
    int64_t first = 0;
    for (int i = 0; i < p->sequences; i++) {
        mica_tensor rows = mica_tensor_rows(x_LD, first, p->rows[i].count);
        mica_embed_rows(p->be, &p->s->weights.embed, p->rows[i].ids, p->rows[i].count, &rows);
        first += p->rows[i].count;
    }
}

static void tap_hidden(const pass *p, const mica_run *run, const mica_tensor *x_LD, int n)
{
    mica_tap(run->taps, p->be, x_LD, 3, (const int64_t[]){1, p->L, p->c->lm.width},
             "hidden_states.%d", n);
}

static mica_status run_layers(const pass *p, mica_run *run, mica_tensor *x_LD, mica_err *err)
{
    const int layers = (int)p->c->lm.layers;
    prefetch_layer(p, 0);
    embed(p, x_LD);
    for (int n = 0; n < layers; n++) {
        prefetch_layer(p, n + 1);
        tap_hidden(p, run, x_LD, n);
        if (!run_layer_at_once(p, n, run, x_LD)) {
            const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
            run_attention(p, n, x_LD);
            mica_pool_release(p->be, MICA_POOL_STEP, mark);
            run_experts(p, n, run, x_LD);
            mica_pool_release(p->be, MICA_POOL_STEP, mark);
        }
        MICA_TRY(mica_run_block(run, p->be, n + 1, layers, err));
    }
    return MICA_OK;
}

/* Logits of all rows, or of the last one of each sequence: those are the last, or all, of the pass. */
static void run_head(pass *p, mica_run *run, mica_tensor *x_LD, bool all_rows)
{
    const mica_lm_config *c = &p->c->lm;
    mica_mixtral_weights *w = &p->s->weights;
    const int64_t count = all_rows ? p->L : p->sequences;
    mica_tensor x = mica_tensor_rows(x_LD, p->L - count, count);
    p->s->logits = mica_state_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){count, c->vocab});
    mica_rms_norm(p->be, &x, &w->norm, (float)c->eps, &x);
    if (all_rows)
        tap_hidden(p, run, &x, (int)c->layers);
    p->by_row = !all_rows;
    linear(p, p->c->tied ? &w->embed : &w->head, &x, NULL, &p->s->logits);
    if (all_rows) {
        mica_tap(run->taps, p->be, &p->s->logits, 3, (const int64_t[]){1, count, c->vocab},
                 "logits");
        p->s->logits = mica_tensor_rows(&p->s->logits, count - 1, 1);
    }
}

/* Angles of at least `rows` positions, and of the first that follow: 8,192 take 6 ms. */
static mica_status reserve_rope(mica_mixtral_session *s, int64_t rows, mica_err *err)
{
    const mica_lm_config *c = &s->weights.config.lm;
    if (rows <= s->rope_rows)
        return MICA_OK;
    const int64_t wanted = MICA_MAX(2 * s->rope_rows, (rows + MICA_KV_STEP + 1023) / 1024 * 1024);
    mica_backend *be = s->completion.be;
    mica_pool_release(be, MICA_POOL_SESSION, s->mark);
    s->rope_rows = 0;
    MICA_TRY(mica_rope_build_lm(be, MICA_POOL_SESSION, wanted, (int)c->head_dim, c->theta, &s->rope,
                                err));
    MICA_TRY(mica_backend_check(be, err));
    s->rope_rows = wanted;
    s->rope_builds++;
    return MICA_OK;
}

static mica_status prepare(pass *p, mica_err *err)
{
    int64_t longest = 0;
    for (int i = 0; i < p->sequences; i++) {
        const mica_completion_rows *r = &p->rows[i];
        for (int64_t k = 0; k < r->count; k++)
            if (r->ids[k] < 0 || r->ids[k] >= p->c->lm.vocab)
                return MICA_FAIL(err, MICA_E_FORMAT,
                                 "token id %d is outside the model's vocabulary of %lld; the "
                                 "tokenizer belongs to another model",
                                 (int)r->ids[k], (long long)p->c->lm.vocab);
        MICA_TRY(mica_kv_cache_reserve(r->cache, r->count, err));
        longest = MICA_MAX(longest, r->cache->count + r->count);
        p->L += r->count;
    }
    p->by_row = p->L == p->sequences;
    return reserve_rope(p->s, longest, err);
}

static mica_mixtral_session *session_of(mica_completion_model *m)
{
    return (mica_mixtral_session *)(void *)((char *)m - offsetof(mica_mixtral_session, completion));
}

static mica_status forward(mica_completion_model *m, mica_run *run,
                           const mica_completion_rows *rows, int count, bool all_rows,
                           mica_err *err)
{
    mica_mixtral_session *s = session_of(m);
    pass p = {.s = s, .be = m->be, .c = &s->weights.config, .rows = rows, .sequences = count};
    MICA_TRY(prepare(&p, err));
    /* The logits of the pass before go with its stack. */
    mica_pool_release(m->be, MICA_POOL_STEP, (mica_pool_mark){0});
    mica_tensor x_LD = scratch(&p, p.L, p.c->lm.width);
    MICA_TRY(run_layers(&p, run, &x_LD, err));
    run_head(&p, run, &x_LD, all_rows);
    MICA_TRY(mica_backend_check(m->be, err));
    for (int i = 0; i < count; i++)
        rows[i].cache->count += rows[i].count;
    return MICA_OK;
}

static mica_status read_logits(mica_completion_model *m, float *logits_NV, mica_err *err)
{
    mica_download_f32(m->be, logits_NV, &session_of(m)->logits);
    return mica_backend_check(m->be, err);
}

static mica_status read_best(mica_completion_model *m, int32_t *ids_N, mica_err *err)
{
    mica_largest(m->be, &session_of(m)->logits, ids_N);
    return mica_backend_check(m->be, err);
}

static mica_status cache_init(mica_completion_model *m, mica_kv_cache *cache, mica_err *err)
{
    const mica_lm_config *c = &session_of(m)->weights.config.lm;
    MICA_TRY(mica_kv_cache_init(cache, m->be, (int)c->layers, c->kv_heads, c->head_dim, err));
    return m->cache_q8 ? mica_kv_cache_use_q8(cache, err) : MICA_OK;
}

const mica_completion_ops mica_mixtral_completion = {.cache_init = cache_init,
                                                     .forward = forward,
                                                     .read_logits = read_logits,
                                                     .read_best = read_best};
