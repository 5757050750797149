/* mixtral_weights.c - see mixtral_weights.h. */
#include "models/mixtral/mixtral_weights.h"

#include <stdio.h>
#include <string.h>

#define P "model.layers.%d."
#define ROW(pattern, shape, field, flags)                                                          \
    {                                                                                              \
        pattern, shape, offsetof(mica_mixtral_layer, field), flags                                 \
    }
static const mica_weight_row LAYER_ROWS[MICA_MIXTRAL_LAYER] = {
    ROW(P "input_layernorm.weight", "D", norm_in, MICA_WEIGHT_SENSITIVE),
    ROW(P "self_attn.q_proj.weight", "QD", q.w, 0),
    ROW(P "self_attn.k_proj.weight", "JD", k.w, 0),
    ROW(P "self_attn.v_proj.weight", "JD", v.w, 0),
    ROW(P "self_attn.o_proj.weight", "DQ", o.w, 0),
    ROW(P "post_attention_layernorm.weight", "D", norm_post, MICA_WEIGHT_SENSITIVE),
    ROW(P "block_sparse_moe.gate.weight", "ED", router, MICA_WEIGHT_SENSITIVE),
};
#undef ROW
/* The head stands last: tied models have none. */
static const mica_weight_row MODEL_ROWS[] = {
    {"model.embed_tokens.weight", "VD", offsetof(mica_mixtral_weights, embed),
     MICA_WEIGHT_SENSITIVE},
    {"model.norm.weight", "D", offsetof(mica_mixtral_weights, norm), MICA_WEIGHT_SENSITIVE},
    {"lm_head.weight", "VD", offsetof(mica_mixtral_weights, head), MICA_WEIGHT_SENSITIVE},
};

static size_t model_rows(const mica_mixtral_config *c)
{
    return MICA_ARRAY_LEN(MODEL_ROWS) - c->tied;
}

static mica_weight_dims dims_of(const mica_mixtral_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['V'] = c->lm.vocab;
    d.of['D'] = c->lm.width;
    d.of['F'] = c->lm.ffn;
    d.of['E'] = c->experts;
    d.of['Q'] = c->lm.heads * c->lm.head_dim;
    d.of['J'] = c->lm.kv_heads * c->lm.head_dim;
    return d;
}

/* The rows of layer n's experts: the index of a row is the expert's. */
typedef struct expert_rows {
    char names[3][96];
    mica_weight_row rows[3];
} expert_rows;

static void make_expert_rows(expert_rows *r, int layer)
{
    static const char *const parts[] = {"w1", "w3", "w2"}, *const shapes[] = {"FD", "FD", "DF"};
    for (int i = 0; i < 3; i++) {
        snprintf(r->names[i], sizeof r->names[i],
                 "model.layers.%d.block_sparse_moe.experts.%%d.%s.weight", layer, parts[i]);
        r->rows[i] = (mica_weight_row){r->names[i], shapes[i], 0, 0};
    }
}

static bool alloc_experts(mica_mixtral_layer *layer, size_t experts, mica_arena *arena)
{
    layer->gate_FD = mica_arena_calloc(arena, experts, sizeof(mica_weight));
    layer->up_FD = mica_arena_calloc(arena, experts, sizeof(mica_weight));
    layer->down_DF = mica_arena_calloc(arena, experts, sizeof(mica_weight));
    return layer->gate_FD && layer->up_FD && layer->down_DF;
}

static void bind_experts(mica_weight_binder *b, const mica_mixtral_config *c, int n,
                         mica_mixtral_layer *layer)
{
    expert_rows r;
    make_expert_rows(&r, n);
    for (int e = 0; e < (int)c->experts; e++) {
        mica_weight_bind(b, &r.rows[0], 1, e, &layer->gate_FD[e]);
        mica_weight_bind(b, &r.rows[1], 1, e, &layer->up_FD[e]);
        mica_weight_bind(b, &r.rows[2], 1, e, &layer->down_DF[e]);
    }
}

static mica_status no_memory(mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "language model: no memory for its tensor table");
}

mica_status mica_mixtral_bind(mica_mixtral_weights *w, const mica_weights *files, mica_arena *arena,
                              mica_err *err)
{
    const mica_mixtral_config *c = &w->config;
    const mica_weight_dims dims = dims_of(c);
    mica_weight_binder b;
    w->layers = mica_arena_calloc(arena, (size_t)c->lm.layers, sizeof *w->layers);
    if (!w->layers)
        return no_memory(err);
    for (int n = 0; n < (int)c->lm.layers; n++)
        if (!alloc_experts(&w->layers[n], (size_t)c->experts, arena))
            return no_memory(err);
    mica_weight_binder_init(&b, files, "language model", &dims, arena);
    mica_weight_bind(&b, MODEL_ROWS, model_rows(c), 0, w);
    for (int n = 0; n < (int)c->lm.layers; n++) {
        mica_weight_bind(&b, LAYER_ROWS, MICA_MIXTRAL_LAYER, n, &w->layers[n]);
        bind_experts(&b, c, n, &w->layers[n]);
    }
    return mica_weight_binder_finish(&b, err);
}

static bool copy_experts(mica_mixtral_layer *to, const mica_mixtral_layer *from, size_t experts,
                         mica_arena *arena)
{
    if (!alloc_experts(to, experts, arena))
        return false;
    memcpy(to->gate_FD, from->gate_FD, experts * sizeof(mica_weight));
    memcpy(to->up_FD, from->up_FD, experts * sizeof(mica_weight));
    memcpy(to->down_DF, from->down_DF, experts * sizeof(mica_weight));
    return true;
}

mica_status mica_mixtral_copy(mica_mixtral_weights *out, const mica_mixtral_weights *w,
                              mica_arena *arena, mica_err *err)
{
    const size_t layers = (size_t)w->config.lm.layers;
    *out = *w;
    out->layers = mica_arena_calloc(arena, layers, sizeof *out->layers);
    if (!out->layers)
        return no_memory(err);
    memcpy(out->layers, w->layers, layers * sizeof *out->layers);
    for (size_t n = 0; n < layers; n++)
        if (!copy_experts(&out->layers[n], &w->layers[n], (size_t)w->config.experts, arena))
            return no_memory(err);
    return MICA_OK;
}

mica_status mica_mixtral_fill(const mica_mixtral_config *c, mica_weights *w, mica_arena *arena,
                              int bits, bool windows, mica_err *err)
{
    const mica_weight_dims dims = dims_of(c);
    mica_weight_filler f;
    MICA_TRY(mica_weight_filler_init(&f, w, &dims, arena, bits, windows, err));
    MICA_TRY(mica_weight_filler_run(&f, MODEL_ROWS, model_rows(c), 0, err));
    for (int n = 0; n < (int)c->lm.layers; n++) {
        expert_rows r;
        make_expert_rows(&r, n);
        MICA_TRY(mica_weight_filler_run(&f, LAYER_ROWS, MICA_MIXTRAL_LAYER, n, err));
        for (int e = 0; e < (int)c->experts; e++)
            MICA_TRY(mica_weight_filler_run(&f, r.rows, 3, e, err));
    }
    return MICA_OK;
}

int mica_mixtral_list_layer(mica_mixtral_layer *layer, mica_weight **list)
{
    return mica_weight_list(LAYER_ROWS, MICA_MIXTRAL_LAYER, layer, list);
}

void mica_mixtral_drop(mica_mixtral_weights *w, mica_backend *be)
{
    mica_weight *list[MICA_MIXTRAL_LAYER];
    if (!w->layers)
        return;
    mica_backend_drop_weights(be, list,
                              mica_weight_list(MODEL_ROWS, model_rows(&w->config), w, list));
    for (int n = 0; n < (int)w->config.lm.layers; n++)
        mica_backend_drop_weights(be, list, mica_mixtral_list_layer(&w->layers[n], list));
}

void mica_mixtral_drop_experts(mica_mixtral_weights *w, int64_t first, int64_t end,
                               mica_backend *be)
{
    for (int64_t n = first; w->layers && n < end; n++) {
        mica_mixtral_layer *layer = &w->layers[n];
        for (int e = 0; layer->gate_FD && e < (int)w->config.experts; e++)
            mica_backend_drop_weights(
                be, (mica_weight *[]){&layer->gate_FD[e], &layer->up_FD[e], &layer->down_DF[e]}, 3);
    }
}

static uint64_t bytes_of(const mica_weight *w)
{
    return mica_tensor_size(&w->tensor) + mica_tensor_scale_size(&w->tensor);
}

uint64_t mica_mixtral_token_bytes(const mica_mixtral_weights *w)
{
    uint64_t sum = bytes_of(w->config.tied ? &w->embed : &w->head);
    for (int n = 0; n < (int)w->config.lm.layers; n++) {
        mica_mixtral_layer *layer = &w->layers[n];
        mica_weight *list[MICA_MIXTRAL_LAYER];
        const int count = mica_mixtral_list_layer(layer, list);
        for (int i = 0; i < count; i++)
            sum += bytes_of(list[i]);
        sum += (uint64_t)w->config.active *
               (bytes_of(&layer->gate_FD[0]) + bytes_of(&layer->up_FD[0]) +
                bytes_of(&layer->down_DF[0]));
    }
    return sum;
}
