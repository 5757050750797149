/* gpt_sovits_semantic.c - weights and passes of the text-to-semantic model; see
 * gpt_sovits_semantic.h.
 *
 * Reference: AR/models/t2s_model.py Text2SemanticDecoder (infer_panel_naive, T2SBlock);
 * AR/modules/embedding.py SinePositionalEmbedding. */
#include "models/gpt_sovits/gpt_sovits_semantic.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NORM_EPS 1e-5f

#define AT(field) offsetof(mica_gs_semantic, field)
static const mica_weight_row ROWS[] = {
    {"phoneme_embed.weight", "PD", AT(phones), 0},
    {"semantic_embed.weight", "VD", AT(codes), 0},
    {"audio_proj.weight", "DB", AT(bert.w), 0},
    {"audio_proj.bias", "D", AT(bert.b), 0},
    {"text_pos_alpha", "1", AT(phone_alpha), 0},
    {"audio_pos_alpha", "1", AT(code_alpha), 0},
    {"lm_head.weight", "VD", AT(head), MICA_WEIGHT_SENSITIVE},
};
#undef AT
#define AT(field) offsetof(mica_gs_block, field)
#define P         "layers.%d."
static const mica_weight_row BLOCK_ROWS[] = {
    {P "self_attn.q_proj.weight", "DD", AT(q.w), 0},
    {P "self_attn.q_proj.bias", "D", AT(q.b), 0},
    {P "self_attn.k_proj.weight", "DD", AT(k.w), 0},
    {P "self_attn.k_proj.bias", "D", AT(k.b), 0},
    {P "self_attn.v_proj.weight", "DD", AT(v.w), 0},
    {P "self_attn.v_proj.bias", "D", AT(v.b), 0},
    {P "self_attn.o_proj.weight", "DD", AT(o.w), 0},
    {P "self_attn.o_proj.bias", "D", AT(o.b), 0},
    {P "input_layernorm.weight", "D", AT(norm_1.w), 0},
    {P "input_layernorm.bias", "D", AT(norm_1.b), 0},
    {P "mlp.gate_proj.weight", "FD", AT(up.w), 0},
    {P "mlp.gate_proj.bias", "F", AT(up.b), 0},
    {P "mlp.down_proj.weight", "DF", AT(down.w), 0},
    {P "mlp.down_proj.bias", "D", AT(down.b), 0},
    {P "post_attention_layernorm.weight", "D", AT(norm_2.w), 0},
    {P "post_attention_layernorm.bias", "D", AT(norm_2.b), 0},
};
#undef AT
#undef P

/* ------------------------------------------------------------------- names -- */

typedef struct renaming {
    const char *from, *to;
} renaming;

/* Upstream's names to those of a common converter, which keeps q, k and v apart. */
static const renaming WHOLE[] = {
    {"ar_text_embedding.word_embeddings.weight", "phoneme_embed.weight"},
    {"ar_audio_embedding.word_embeddings.weight", "semantic_embed.weight"},
    {"bert_proj.weight", "audio_proj.weight"},
    {"bert_proj.bias", "audio_proj.bias"},
    {"ar_text_position.alpha", "text_pos_alpha"},
    {"ar_audio_position.alpha", "audio_pos_alpha"},
    {"ar_predict_layer.weight", "lm_head.weight"},
};
static const renaming IN_LAYER[] = {
    {"self_attn.in_proj_weight", "self_attn.qkv.weight"},
    {"self_attn.in_proj_bias", "self_attn.qkv.bias"},
    {"self_attn.out_proj.weight", "self_attn.o_proj.weight"},
    {"self_attn.out_proj.bias", "self_attn.o_proj.bias"},
    {"linear1.weight", "mlp.gate_proj.weight"},
    {"linear1.bias", "mlp.gate_proj.bias"},
    {"linear2.weight", "mlp.down_proj.weight"},
    {"linear2.bias", "mlp.down_proj.bias"},
    {"norm1.weight", "input_layernorm.weight"},
    {"norm1.bias", "input_layernorm.bias"},
    {"norm2.weight", "post_attention_layernorm.weight"},
    {"norm2.bias", "post_attention_layernorm.bias"},
};

bool mica_gs_is_semantic_name(const char *name)
{
    static const char *const BEGINS[] = {"layers.",       "phoneme_embed.", "semantic_embed.",
                                         "audio_proj.",   "text_pos_alpha", "audio_pos_alpha",
                                         "lm_head.weight"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(BEGINS); i++)
        if (strncmp(name, BEGINS[i], strlen(BEGINS[i])) == 0)
            return true;
    return false;
}

/* What belongs to another network of the same file, or to training, is left out. */
static bool rename_tensor(void *user, const char *name, char *out, size_t cap)
{
    int layer = 0, n = 0;
    (void)user;
    if (strncmp(name, "model.", 6) == 0)
        name += 6;
    for (size_t i = 0; i < MICA_ARRAY_LEN(WHOLE); i++)
        if (strcmp(name, WHOLE[i].from) == 0) {
            snprintf(out, cap, "%s", WHOLE[i].to);
            return true;
        }
    if (sscanf(name, "h.layers.%4d.%n", &layer, &n) == 1 && n > 0)
        for (size_t i = 0; i < MICA_ARRAY_LEN(IN_LAYER); i++)
            if (strcmp(name + n, IN_LAYER[i].from) == 0) {
                snprintf(out, cap, "layers.%d.%s", layer, IN_LAYER[i].to);
                return true;
            }
    if (mica_gs_is_semantic_name(name))
        return false;
    *out = '\0';
    return true;
}

bool mica_gs_semantic_probe(const mica_weights *files)
{
    return mica_weights_find(files, "model.ar_audio_embedding.word_embeddings.weight") ||
           mica_weights_find(files, "ar_audio_embedding.word_embeddings.weight") ||
           (mica_weights_find(files, "semantic_embed.weight") &&
            mica_weights_find(files, "phoneme_embed.weight"));
}

/* Rows of the fused projection to names of their own. */
static mica_status split_layer(mica_weights *w, int n, const char *kind, mica_err *err)
{
    static const char *const PARTS[] = {"q_proj", "k_proj", "v_proj"};
    char fused[96], names[3][96];
    mica_weights_part parts[3];
    snprintf(fused, sizeof fused, "layers.%d.self_attn.qkv.%s", n, kind);
    const mica_tensor *t = mica_weights_find(w, fused);
    if (!t)
        return MICA_OK;
    if (t->shape_[0] % 3 != 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "text to semantic: %s has %lld rows, not three parts",
                         fused, (long long)t->shape_[0]);
    for (int i = 0; i < 3; i++) {
        snprintf(names[i], sizeof names[i], "layers.%d.self_attn.%s.%s", n, PARTS[i], kind);
        parts[i] = (mica_weights_part){names[i], t->shape_[0] / 3};
    }
    return mica_weights_split(w, fused, parts, 3, err);
}

mica_status mica_gs_semantic_directory(mica_weights **out, const mica_weights *files,
                                       mica_arena *arena, mica_err *err)
{
    MICA_TRY(mica_gs_directory(out, files, rename_tensor, arena, err));
    mica_status st = MICA_OK;
    const int layers = mica_weight_count_blocks(*out, "layers.");
    for (int n = 0; n < layers && !st; n++) {
        st = split_layer(*out, n, "weight", err);
        if (!st)
            st = split_layer(*out, n, "bias", err);
    }
    if (st)
        mica_weights_close(out);
    return st;
}

/* -------------------------------------------------------------------- open -- */

static int64_t size_of(const mica_weights *w, const char *name, int dim)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim ? t->shape_[dim] : 0;
}

/* Where a converted file lost its settings: 32 numbers a head as released, 16 in small models. */
static int64_t heads_for(int64_t width)
{
    return width % 16 != 0 ? 1 : width >= 256 && width % 32 == 0 ? width / 32 : width / 16;
}

/* Whether b's rows lie right behind a's. */
static bool follows(const mica_tensor *a, const mica_tensor *b)
{
    return a->dtype == b->dtype && mica_tensor_is_contiguous(a) && mica_tensor_is_contiguous(b) &&
           !a->scale.data && !b->scale.data &&
           (const char *)a->data + mica_tensor_size(a) == (const char *)b->data;
}

static bool join(const mica_weight *a, const mica_weight *b, const mica_weight *c, mica_weight *out)
{
    if (!follows(&a->tensor, &b->tensor) || !follows(&b->tensor, &c->tensor))
        return false;
    *out = *a;
    out->tensor.shape_[0] += b->tensor.shape_[0] + c->tensor.shape_[0];
    return true;
}

/* Checkpoints hold q, k and v in one tensor: then a step is one product less twice. */
static void join_qkv(mica_gs_block *b)
{
    if (!join(&b->q.w, &b->k.w, &b->v.w, &b->qkv.w) || !join(&b->q.b, &b->k.b, &b->v.b, &b->qkv.b))
        b->qkv = (mica_nn_linear){0};
}

mica_status mica_gs_semantic_open(mica_gs_semantic *s, const mica_weights *w, int64_t heads,
                                  mica_arena *arena, mica_err *err)
{
    mica_weight_dims dims = {{0}};
    mica_weight_binder b;
    const int64_t D = dims.of['D'] = size_of(w, "semantic_embed.weight", 1);
    dims.of['1'] = 1;
    dims.of['V'] = size_of(w, "semantic_embed.weight", 0);
    dims.of['P'] = size_of(w, "phoneme_embed.weight", 0);
    dims.of['B'] = size_of(w, "audio_proj.weight", 1);
    dims.of['F'] = size_of(w, "layers.0.mlp.gate_proj.weight", 0);
    *s = (mica_gs_semantic){.vocab = dims.of['V'],
                            .eos = dims.of['V'] - 1,
                            .bert_width = dims.of['B'],
                            .phone_count = dims.of['P'],
                            .stack = {.count = mica_weight_count_blocks(w, "layers."),
                                      .width = D,
                                      .ffn = dims.of['F'],
                                      .heads = heads > 0 ? heads : heads_for(D),
                                      .eps = NORM_EPS}};
    s->stack.blocks = mica_arena_calloc(arena, (size_t)s->stack.count + 1, sizeof *s->stack.blocks);
    if (!s->stack.blocks) {
        s->stack.count = 0;
        return MICA_FAIL(err, MICA_E_NOMEM, "text to semantic: no memory for its blocks");
    }
    mica_weight_binder_init(&b, w, "text to semantic", &dims, arena);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 0, s);
    for (int n = 0; n < s->stack.count; n++)
        mica_weight_bind(&b, BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), n, &s->stack.blocks[n]);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    if (s->vocab < 3 || s->stack.count < 1 || D % 2 != 0 || D % s->stack.heads != 0)
        return MICA_FAIL(
            err, MICA_E_FORMAT,
            "text to semantic %s: %lld codes, %d blocks, a width of %lld in %lld heads "
            "is no model",
            mica_weights_path(w), (long long)s->vocab, s->stack.count, (long long)D,
            (long long)s->stack.heads);
    for (int n = 0; n < s->stack.count; n++)
        join_qkv(&s->stack.blocks[n]);
    return MICA_OK;
}

mica_status mica_gs_semantic_fill(mica_weights *w, int blocks, mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = {.of = {['1'] = 1,
                                          ['D'] = 512,
                                          ['V'] = 1025,
                                          ['P'] = 732,
                                          ['B'] = 1024,
                                          ['F'] = 2048,
                                          ['Q'] = 1536}};
    static const mica_weight_row FUSED[] = {
        {"layers.%d.self_attn.qkv.weight", "QD", 0, 0},
        {"layers.%d.self_attn.qkv.bias", "Q", 0, 0},
    };
    MICA_TRY(mica_weight_fill(w, &dims, arena, ROWS, MICA_ARRAY_LEN(ROWS), 0, err));
    for (int n = 0; n < blocks; n++) { /* q, k, v: the first six rows */
        MICA_TRY(mica_weight_fill(w, &dims, arena, FUSED, MICA_ARRAY_LEN(FUSED), n, err));
        MICA_TRY(mica_weight_fill(w, &dims, arena, BLOCK_ROWS + 6, MICA_ARRAY_LEN(BLOCK_ROWS) - 6,
                                  n, err));
        MICA_TRY(split_layer(w, n, "weight", err));
        MICA_TRY(split_layer(w, n, "bias", err));
    }
    return MICA_OK;
}

mica_status mica_gs_semantic_upload(mica_gs_semantic *s, mica_backend *be, mica_arena *arena,
                                    mica_err *err)
{
    s->steps = mica_arena_calloc(arena, (size_t)s->stack.count, sizeof *s->steps);
    if (!s->steps)
        return MICA_FAIL(err, MICA_E_NOMEM, "text to semantic: no memory for its blocks");
    for (int n = 0; n < s->stack.count; n++) {
        mica_gs_block *b = &s->stack.blocks[n];
        const bool joined = b->qkv.w.name != NULL;
        s->steps[n] =
            (mica_post_norm_block){.qkv_w = {joined ? &b->qkv.w : &b->q.w, joined ? NULL : &b->k.w,
                                             joined ? NULL : &b->v.w},
                                   .qkv_b = {joined ? &b->qkv.b : &b->q.b, joined ? NULL : &b->k.b,
                                             joined ? NULL : &b->v.b},
                                   .o_w = &b->o.w,
                                   .o_b = &b->o.b,
                                   .up_w = &b->up.w,
                                   .up_b = &b->up.b,
                                   .down_w = &b->down.w,
                                   .down_b = &b->down.b,
                                   .scale_1 = &b->norm_1.scale_D,
                                   .shift_1 = &b->norm_1.shift_D,
                                   .scale_2 = &b->norm_2.scale_D,
                                   .shift_2 = &b->norm_2.shift_D};
    }
    return mica_gs_stack_upload(&s->stack, be, err);
}

void mica_gs_semantic_drop(mica_gs_semantic *s, mica_backend *be)
{
    mica_weight *list[MICA_ARRAY_LEN(BLOCK_ROWS)];
    mica_backend_buffer_free(be, s->positions_RD.data);
    s->positions_RD = (mica_tensor){0};
    mica_backend_drop_weights(be, list, mica_weight_list(ROWS, MICA_ARRAY_LEN(ROWS), s, list));
    for (int n = 0; n < s->stack.count; n++) {
        mica_gs_block *b = &s->stack.blocks[n];
        mica_backend_drop_weights(
            be, list, mica_weight_list(BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), b, list));
        mica_backend_drop_weights(be, (mica_weight *const[]){&b->qkv.w, &b->qkv.b}, 2);
    }
}
