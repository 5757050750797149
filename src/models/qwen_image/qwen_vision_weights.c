/* qwen_vision_weights.c - the tensor table of the vision tower; see qwen_vision.h.
 *
 * Letters: D width, Q three times D, F MLP width, M the rows of a token side by side, O the language
 * model's width, C channels, T frames, Y patch side. Names are those of transformers
 * models/qwen2_5_vl/modeling_qwen2_5_vl.py (Qwen2_5_VisionTransformerPretrainedModel), which ComfyUI
 * keeps. All of it is sensitive: it runs once, and every later step depends on it. */
#include "models/qwen_image/qwen_vision.h"

#include <string.h>

#define SENSITIVE MICA_WEIGHT_SENSITIVE
#define P         "visual.blocks.%d."
#define AT(field) offsetof(mica_qwen_vision_layer, field)
static const mica_weight_row LAYER_ROWS[] = {
    {P "norm1.weight", "D", AT(norm_1), SENSITIVE},
    {P "norm2.weight", "D", AT(norm_2), SENSITIVE},
    {P "attn.qkv.weight", "QD", AT(qkv.w), SENSITIVE},
    {P "attn.qkv.bias", "Q", AT(qkv.b), SENSITIVE},
    {P "attn.proj.weight", "DD", AT(proj.w), SENSITIVE},
    {P "attn.proj.bias", "D", AT(proj.b), SENSITIVE},
    {P "mlp.gate_proj.weight", "FD", AT(gate.w), SENSITIVE},
    {P "mlp.gate_proj.bias", "F", AT(gate.b), SENSITIVE},
    {P "mlp.up_proj.weight", "FD", AT(up.w), SENSITIVE},
    {P "mlp.up_proj.bias", "F", AT(up.b), SENSITIVE},
    {P "mlp.down_proj.weight", "DF", AT(down.w), SENSITIVE},
    {P "mlp.down_proj.bias", "D", AT(down.b), SENSITIVE},
};
#undef P
#undef AT
#define AT(field) offsetof(mica_qwen_vision, field)
static const mica_weight_row REST_ROWS[] = {
    {"visual.patch_embed.proj.weight", "DCTYY", AT(patch.w), SENSITIVE},
    {"visual.merger.ln_q.weight", "D", AT(norm), SENSITIVE},
    {"visual.merger.mlp.0.weight", "MM", AT(merge_1.w), SENSITIVE},
    {"visual.merger.mlp.0.bias", "M", AT(merge_1.b), SENSITIVE},
    {"visual.merger.mlp.2.weight", "OM", AT(merge_2.w), SENSITIVE},
    {"visual.merger.mlp.2.bias", "O", AT(merge_2.b), SENSITIVE},
};
#undef AT
#undef SENSITIVE

static mica_weight_dims dims_of(const mica_qwen_vision_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['D'] = c->width;
    d.of['Q'] = 3 * c->width;
    d.of['F'] = c->ffn;
    d.of['M'] = c->width * c->merge * c->merge;
    d.of['O'] = c->out_width;
    d.of['C'] = c->channels;
    d.of['T'] = c->frames;
    d.of['Y'] = c->patch;
    return d;
}

/* Rows [n * D, (n + 1) * D) of the joint projection. */
static void take_third(const mica_nn_linear *qkv, int n, int64_t D, mica_nn_linear *out)
{
    *out = *qkv;
    out->w.tensor = mica_tensor_rows(&qkv->w.tensor, n * D, D);
    out->b.tensor = mica_tensor_rows(&qkv->b.tensor, n * D, D);
}

static void derive_views(mica_qwen_vision *v)
{
    const mica_qwen_vision_config *c = &v->config;
    const int64_t columns = c->channels * c->frames * c->patch * c->patch;
    for (int64_t n = 0; n < c->depth; n++) {
        mica_qwen_vision_layer *layer = &v->layers[n];
        take_third(&layer->qkv, 0, c->width, &layer->q);
        take_third(&layer->qkv, 1, c->width, &layer->k);
        take_third(&layer->qkv, 2, c->width, &layer->v);
    }
    /* A convolution whose stride is its kernel is a product with rows of patches. */
    v->patch.w.tensor =
        mica_tensor_reshape(&v->patch.w.tensor, 2, (const int64_t[]){c->width, columns});
}

mica_status mica_qwen_vision_bind(mica_qwen_vision *v, const mica_weights *files, mica_arena *arena,
                                  mica_err *err)
{
    const size_t depth = (size_t)v->config.depth;
    v->layers = mica_arena_calloc(arena, depth, sizeof *v->layers);
    if (!v->layers)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu vision layers", depth);
    const mica_weight_dims dims = dims_of(&v->config);
    mica_weight_binder b;
    mica_weight_binder_init(&b, files, "vision tower", &dims, arena);
    mica_weight_bind(&b, REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), 0, v);
    for (int n = 0; n < (int)depth; n++)
        mica_weight_bind(&b, LAYER_ROWS, MICA_ARRAY_LEN(LAYER_ROWS), n, &v->layers[n]);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    derive_views(v);
    return MICA_OK;
}

mica_status mica_qwen_vision_copy(mica_qwen_vision *out, const mica_qwen_vision *v,
                                  mica_arena *arena, mica_err *err)
{
    const size_t depth = (size_t)v->config.depth;
    *out = *v;
    out->layers = mica_arena_calloc(arena, depth, sizeof *out->layers);
    if (!out->layers)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu vision layers", depth);
    memcpy(out->layers, v->layers, depth * sizeof *out->layers);
    return MICA_OK;
}

int mica_qwen_vision_list_layer(mica_qwen_vision_layer *layer,
                                mica_weight *list[MICA_QWEN_VISION_LAYER_WEIGHTS])
{
    mica_nn_linear *const thirds[] = {&layer->q, &layer->k, &layer->v};
    int count = mica_weight_list(LAYER_ROWS, MICA_ARRAY_LEN(LAYER_ROWS), layer, list);
    for (size_t i = 0; i < MICA_ARRAY_LEN(thirds); i++) {
        list[count++] = &thirds[i]->w;
        list[count++] = &thirds[i]->b;
    }
    return count;
}

void mica_qwen_vision_drop(mica_qwen_vision *v, mica_backend *be)
{
    mica_weight *list[MICA_QWEN_VISION_LAYER_WEIGHTS];
    mica_backend_drop_weights(be, list,
                              mica_weight_list(REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), v, list));
    for (int64_t n = 0; v->layers && n < v->config.depth; n++)
        mica_backend_drop_weights(be, list, mica_qwen_vision_list_layer(&v->layers[n], list));
}
