/* decoder_lm.c - whole-prompt pass of a Llama/Qwen language model; see decoder_lm.h.
 *
 * Reference: transformers models/qwen2_5_vl/modeling_qwen2_5_vl.py, Qwen2_5_VLTextModel and
 * Qwen2_5_VLDecoderLayer. Its rotary embedding has three position axes
 * (apply_multimodal_rotary_pos_emb); for text all three are equal, which leaves the plain rotary
 * embedding of halves. */
#include "nn/decoder_lm.h"

#include "nn/rope.h"

#include <string.h>

/* The MLP goes through in pieces of this many rows: at 18,944 wide, gate and up of 1,024 rows
 * take 155 MB instead of 320 MB for two prompts of full length. */
#define MLP_ROWS 1024

#define ROW(pattern, shape, field, flags)                                                          \
    {                                                                                              \
        pattern, shape, offsetof(mica_lm_layer, field), flags                                      \
    }
#define P "model.layers.%d."
static const mica_weight_row LAYER_ROWS[] = {
    ROW(P "input_layernorm.weight", "D", norm_in, MICA_WEIGHT_SENSITIVE),
    ROW(P "self_attn.q_proj.weight", "QD", q.w, 0),
    ROW(P "self_attn.k_proj.weight", "JD", k.w, 0),
    ROW(P "self_attn.v_proj.weight", "JD", v.w, 0),
    ROW(P "self_attn.o_proj.weight", "DQ", o.w, 0),
    ROW(P "post_attention_layernorm.weight", "D", norm_post, MICA_WEIGHT_SENSITIVE),
    ROW(P "mlp.gate_proj.weight", "FD", gate.w, 0),
    ROW(P "mlp.up_proj.weight", "FD", up.w, 0),
    ROW(P "mlp.down_proj.weight", "DF", down.w, 0),
};
static const mica_weight_row QKV_BIAS_ROWS[] = {
    ROW(P "self_attn.q_proj.bias", "Q", q.b, 0),
    ROW(P "self_attn.k_proj.bias", "J", k.b, 0),
    ROW(P "self_attn.v_proj.bias", "J", v.b, 0),
};
static const mica_weight_row QK_NORM_ROWS[] = {
    ROW(P "self_attn.q_norm.weight", "K", q_norm, MICA_WEIGHT_SENSITIVE),
    ROW(P "self_attn.k_norm.weight", "K", k_norm, MICA_WEIGHT_SENSITIVE),
};
#undef ROW
#undef P
/* The norm stands last: it is left out when only hidden states are wanted. */
static const mica_weight_row MODEL_ROWS[] = {
    {"model.embed_tokens.weight", "VD", offsetof(mica_lm, embed), MICA_WEIGHT_SENSITIVE},
    {"model.norm.weight", "D", offsetof(mica_lm, norm), MICA_WEIGHT_SENSITIVE},
};
static size_t model_rows(const mica_lm_config *c)
{
    return MICA_ARRAY_LEN(MODEL_ROWS) - (c->state_count > 0);
}

int64_t mica_lm_layers(const mica_lm_config *c)
{
    return c->state_count > 0 ? c->states[c->state_count - 1] : c->layers;
}

int64_t mica_lm_result_width(const mica_lm_config *c)
{
    return c->width * MICA_MAX(1, c->state_count);
}

#define LAYER_WEIGHTS                                                                              \
    (MICA_ARRAY_LEN(LAYER_ROWS) + MICA_ARRAY_LEN(QKV_BIAS_ROWS) + MICA_ARRAY_LEN(QK_NORM_ROWS))

/* Q: all query heads side by side, J: all key heads side by side. */
static mica_weight_dims dims_of(const mica_lm_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['V'] = c->vocab;
    d.of['D'] = c->width;
    d.of['F'] = c->ffn;
    d.of['K'] = c->head_dim;
    d.of['Q'] = c->heads * c->head_dim;
    d.of['J'] = c->kv_heads * c->head_dim;
    return d;
}

/* Absent optional groups stay zero. */
static void bind_layer(mica_weight_binder *b, const mica_lm_config *c, int n, mica_lm_layer *layer)
{
    memset(layer, 0, sizeof *layer);
    mica_weight_bind(b, LAYER_ROWS, MICA_ARRAY_LEN(LAYER_ROWS), n, layer);
    if (c->qkv_bias)
        mica_weight_bind(b, QKV_BIAS_ROWS, MICA_ARRAY_LEN(QKV_BIAS_ROWS), n, layer);
    if (c->qk_norm)
        mica_weight_bind(b, QK_NORM_ROWS, MICA_ARRAY_LEN(QK_NORM_ROWS), n, layer);
    mica_nn_linear *const linears[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                       &layer->gate, &layer->up, &layer->down};
    for (size_t i = 0; i < MICA_ARRAY_LEN(linears); i++)
        linears[i]->w.sensitive = c->sensitive;
}

static mica_status check_states(const mica_lm_config *c, const mica_weights *weights,
                                const char *part, mica_err *err)
{
    for (int i = 0; i < c->state_count; i++)
        if (c->states[i] >= c->layers)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s %s: it has %lld layers, but what leaves layer %d is needed before "
                             "the last; it is not the text encoder of this model",
                             part, mica_weights_path(weights), (long long)c->layers, c->states[i]);
    return MICA_OK;
}

mica_status mica_lm_bind(mica_lm *lm, const mica_weights *weights, const char *part,
                         mica_arena *arena, mica_err *err)
{
    const mica_lm_config *c = &lm->config;
    const int layers = (int)mica_lm_layers(c);
    MICA_TRY(check_states(c, weights, part, err));
    lm->layers = mica_arena_calloc(arena, (size_t)layers, sizeof *lm->layers);
    if (!lm->layers)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for %d layers", part, layers);
    const mica_weight_dims dims = dims_of(c);
    mica_weight_binder b;
    mica_weight_binder_init(&b, weights, part, &dims, arena);
    mica_weight_bind(&b, MODEL_ROWS, model_rows(c), 0, lm);
    for (int n = 0; n < layers; n++)
        bind_layer(&b, c, n, &lm->layers[n]);
    return mica_weight_binder_finish(&b, err);
}

mica_status mica_lm_copy(mica_lm *out, const mica_lm *lm, mica_arena *arena, mica_err *err)
{
    const size_t n = (size_t)mica_lm_layers(&lm->config);
    *out = *lm;
    out->layers = mica_arena_calloc(arena, n, sizeof *out->layers);
    if (!out->layers)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu language model layers", n);
    memcpy(out->layers, lm->layers, n * sizeof *out->layers);
    return MICA_OK;
}

mica_status mica_lm_fill(const mica_lm_config *c, mica_weights *w, mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = dims_of(c);
    MICA_TRY(mica_weight_fill(w, &dims, arena, MODEL_ROWS, model_rows(c), 0, err));
    for (int n = 0; n < (int)mica_lm_layers(c); n++) {
        MICA_TRY(mica_weight_fill(w, &dims, arena, LAYER_ROWS, MICA_ARRAY_LEN(LAYER_ROWS), n, err));
        if (c->qkv_bias)
            MICA_TRY(mica_weight_fill(w, &dims, arena, QKV_BIAS_ROWS, MICA_ARRAY_LEN(QKV_BIAS_ROWS),
                                      n, err));
        if (c->qk_norm)
            MICA_TRY(mica_weight_fill(w, &dims, arena, QK_NORM_ROWS, MICA_ARRAY_LEN(QK_NORM_ROWS),
                                      n, err));
    }
    return MICA_OK;
}

static int list_layer(mica_lm_layer *layer, mica_weight **list)
{
    int n = mica_weight_list(LAYER_ROWS, MICA_ARRAY_LEN(LAYER_ROWS), layer, list);
    n += mica_weight_list(QKV_BIAS_ROWS, MICA_ARRAY_LEN(QKV_BIAS_ROWS), layer, list + n);
    return n + mica_weight_list(QK_NORM_ROWS, MICA_ARRAY_LEN(QK_NORM_ROWS), layer, list + n);
}

static void prefetch_layer(mica_lm *lm, mica_backend *be, int n)
{
    mica_weight *list[LAYER_WEIGHTS];
    if (n < (int)mica_lm_layers(&lm->config))
        mica_backend_prefetch_weights(be, list, list_layer(&lm->layers[n], list));
}

/* A layer is used once in a run. */
static void release_layer(mica_lm *lm, mica_backend *be, int n)
{
    mica_weight *list[LAYER_WEIGHTS];
    mica_backend_release_pages(be, list, list_layer(&lm->layers[n], list));
}

void mica_lm_drop(mica_lm *lm, mica_backend *be)
{
    mica_weight *list[LAYER_WEIGHTS];
    mica_backend_drop_weights(be, list,
                              mica_weight_list(MODEL_ROWS, model_rows(&lm->config), lm, list));
    for (int n = 0; n < (int)mica_lm_layers(&lm->config); n++)
        mica_backend_drop_weights(be, list, list_layer(&lm->layers[n], list));
}

/* ---------------------------------------------------------------------- pass -- */

typedef struct pass {
    mica_lm *lm;
    mica_backend *be;
    const mica_lm_prompt *prompts;
    int prompt_count;
    int64_t L; /* rows of all prompts */
    mica_rope_table ropes[MICA_LM_PROMPTS];
} pass;

static mica_tensor scratch(const pass *p, int64_t rows, int64_t columns)
{
    return mica_act_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){rows, columns});
}

/* softmax(q k^T) v of rows [first, first + count) of a prompt over its first `keys` rows. */
static void attend_rows(const pass *p, const mica_tensor *q_LHK, const mica_tensor *k_MGK,
                        const mica_tensor *v_MGK, const mica_tensor *out_LHK, int64_t first,
                        int64_t count, int64_t keys, bool causal)
{
    const mica_tensor q = mica_tensor_rows(q_LHK, first, count);
    const mica_tensor k = mica_tensor_rows(k_MGK, 0, keys), v = mica_tensor_rows(v_MGK, 0, keys);
    mica_tensor out = mica_tensor_rows(out_LHK, first, count);
    mica_attention(p->be, &(mica_attention_args){.segments = 1,
                                                 .q_LHK = {&q},
                                                 .k_MGK = {&k},
                                                 .v_MGK = {&v},
                                                 .out_LHK = {&out},
                                                 .causal = causal});
}

/* Prompt i's rows: norm and rotation in place, then causal attention into out. */
static void attend(const pass *p, mica_lm_layer *w, const mica_tensor *q, const mica_tensor *k,
                   const mica_tensor *v, mica_tensor *out, int64_t first, int i)
{
    const mica_lm_config *c = &p->lm->config;
    const int64_t K = c->head_dim, count = p->prompts[i].count;
    const mica_rope_table rope = mica_rope_table_rows(&p->ropes[i], count);
    mica_tensor q_LHK = mica_tensor_heads(q, first, count, c->heads, K);
    mica_tensor k_MGK = mica_tensor_heads(k, first, count, c->kv_heads, K);
    const mica_tensor v_MGK = mica_tensor_heads(v, first, count, c->kv_heads, K);
    const mica_tensor out_LHK = mica_tensor_heads(out, first, count, c->heads, K);
    const mica_qk_norm_rope_args args = {.x_LHK = &q_LHK,
                                         .norm_K = c->qk_norm ? &w->q_norm : NULL,
                                         .also_LHK = &k_MGK,
                                         .also_norm_K = c->qk_norm ? &w->k_norm : NULL,
                                         .eps = (float)c->eps,
                                         .cos_Lk = &rope.cos_Lk,
                                         .sin_Lk = &rope.sin_Lk,
                                         .layout = MICA_ROPE_HALF};
    mica_qk_norm_rope(p->be, &args);
    /* Padding stands behind the text, so all of the text is before it. */
    const int64_t valid = p->prompts[i].valid > 0 ? p->prompts[i].valid : count;
    attend_rows(p, &q_LHK, &k_MGK, &v_MGK, &out_LHK, 0, valid, valid, true);
    attend_rows(p, &q_LHK, &k_MGK, &v_MGK, &out_LHK, valid, count - valid, valid, false);
}

static void run_attention(const pass *p, mica_lm_layer *w, mica_tensor *x_LD)
{
    const mica_lm_config *c = &p->lm->config;
    mica_tensor norm_LD = scratch(p, p->L, c->width);
    const mica_tensor qkv = scratch(p, p->L, (c->heads + 2 * c->kv_heads) * c->head_dim);
    mica_tensor y[3]; /* q, k, v */
    mica_tensor out = scratch(p, p->L, c->heads * c->head_dim);
    mica_rms_norm(p->be, x_LD, &w->norm_in, (float)c->eps, &norm_LD);
    mica_nn_linears_run(p->be, (mica_nn_linear *const[]){&w->q, &w->k, &w->v}, 3, &norm_LD, &qkv,
                        y);
    int64_t first = 0;
    for (int i = 0; i < p->prompt_count; i++) {
        attend(p, w, &y[0], &y[1], &y[2], &out, first, i);
        first += p->prompts[i].count;
    }
    mica_nn_linear_gated(p->be, &w->o, &out, NULL, x_LD);
}

static void run_mlp(const pass *p, mica_lm_layer *w, mica_tensor *x_LD)
{
    const mica_lm_config *c = &p->lm->config;
    const int64_t most = MICA_MIN(p->L, MLP_ROWS);
    const mica_tensor norm = scratch(p, most, c->width), hidden = scratch(p, most, 2 * c->ffn);
    for (int64_t first = 0; first < p->L; first += most) {
        const int64_t n = MICA_MIN(most, p->L - first);
        mica_tensor x = mica_tensor_rows(x_LD, first, n), norm_LD = mica_tensor_rows(&norm, 0, n);
        const mica_tensor hidden_LG = mica_tensor_rows(&hidden, 0, n);
        const mica_tensor up_LF = mica_tensor_columns(&hidden_LG, c->ffn, c->ffn);
        mica_tensor gate_LF = mica_tensor_columns(&hidden_LG, 0, c->ffn);
        mica_rms_norm(p->be, &x, &w->norm_post, (float)c->eps, &norm_LD);
        mica_nn_swiglu_run(p->be, (mica_nn_linear *const[]){&w->gate, &w->up}, 2, &norm_LD,
                           (const mica_tensor[]){gate_LF, up_LF}, &gate_LF);
        mica_nn_linear_gated(p->be, &w->down, &gate_LF, NULL, &x);
    }
}

static void embed(const pass *p, mica_tensor *x_LD)
{
    int64_t first = 0;
    for (int i = 0; i < p->prompt_count; i++) {
        const mica_lm_prompt *prompt = &p->prompts[i];
        mica_tensor rows = mica_tensor_rows(x_LD, first, prompt->count);
        mica_embed_rows(p->be, &p->lm->embed, prompt->ids, prompt->count, &rows);
        for (int n = 0; n < prompt->insert_count; n++) {
            const mica_lm_insert *insert = &prompt->inserts[n];
            mica_tensor dst = mica_tensor_rows(&rows, insert->first, insert->rows_ND.shape_[0]);
            mica_copy(p->be, &insert->rows_ND, &dst);
        }
        first += prompt->count;
    }
}

static mica_status check_ids(const mica_lm *lm, const mica_lm_prompt *prompt, mica_err *err)
{
    for (int64_t i = 0; i < prompt->count; i++)
        if (prompt->ids[i] < 0 || prompt->ids[i] >= lm->config.vocab)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "token id %d is outside the text encoder's vocabulary of %lld; the "
                             "tokenizer belongs to another model",
                             (int)prompt->ids[i], (long long)lm->config.vocab);
    return MICA_OK;
}

/* Hidden state `k`, if it is wanted, into its columns of the result. */
static void keep_state(const pass *p, int k, const mica_tensor *x_LD, const mica_tensor *hidden_LN)
{
    const mica_lm_config *c = &p->lm->config;
    for (int i = 0; i < c->state_count; i++) {
        if (c->states[i] != k || mica_backend_failed(p->be))
            continue;
        mica_tensor columns = mica_tensor_columns(hidden_LN, i * c->width, c->width);
        mica_copy(p->be, x_LD, &columns);
    }
}

static mica_status run_layers(const pass *p, mica_run *run, mica_tensor *hidden_LN, mica_err *err)
{
    mica_lm *lm = p->lm;
    const int layers = (int)mica_lm_layers(&lm->config);
    mica_tensor x_LD = scratch(p, p->L, lm->config.width);
    prefetch_layer(lm, p->be, 0);
    embed(p, &x_LD);
    keep_state(p, 0, &x_LD, hidden_LN);
    for (int n = 0; n < layers; n++) {
        prefetch_layer(lm, p->be, n + 1);
        const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
        run_attention(p, &lm->layers[n], &x_LD);
        mica_pool_release(p->be, MICA_POOL_STEP, mark);
        run_mlp(p, &lm->layers[n], &x_LD);
        mica_pool_release(p->be, MICA_POOL_STEP, mark);
        release_layer(lm, p->be, n);
        keep_state(p, n + 1, &x_LD, hidden_LN);
        MICA_TRY(mica_run_block(run, p->be, n + 1, layers, err));
    }
    if (lm->config.state_count == 0)
        mica_rms_norm(p->be, &x_LD, &lm->norm, (float)lm->config.eps, hidden_LN);
    return mica_backend_check(p->be, err);
}

/* Prompts without positions of their own share the table of the longest. */
static mica_status build_ropes(pass *p, mica_err *err)
{
    const mica_lm_config *c = &p->lm->config;
    mica_rope_table plain = {0};
    int64_t longest = 0;
    for (int i = 0; i < p->prompt_count; i++)
        if (!p->prompts[i].positions_L3)
            longest = MICA_MAX(longest, p->prompts[i].count);
    if (longest)
        MICA_TRY(mica_rope_build_lm(p->be, MICA_POOL_STEP, longest, (int)c->head_dim, c->theta,
                                    &plain, err));
    for (int i = 0; i < p->prompt_count; i++) {
        const mica_lm_prompt *prompt = &p->prompts[i];
        p->ropes[i] = plain;
        if (prompt->positions_L3)
            MICA_TRY(mica_rope_build_sections(p->be, MICA_POOL_STEP, prompt->positions_L3,
                                              prompt->count, c->sections, c->theta, &p->ropes[i],
                                              err));
    }
    return MICA_OK;
}

mica_status mica_lm_run(mica_lm *lm, mica_backend *be, mica_run *run, const mica_lm_prompt *prompts,
                        int prompt_count, mica_tensor *hidden_LN, mica_err *err)
{
    pass p = {.lm = lm, .be = be, .prompts = prompts, .prompt_count = prompt_count};
    for (int i = 0; i < prompt_count; i++) {
        MICA_TRY(check_ids(lm, &prompts[i], err));
        p.L += prompts[i].count;
    }
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_status st = build_ropes(&p, err);
    if (!st)
        st = run_layers(&p, run, hidden_LN, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}
