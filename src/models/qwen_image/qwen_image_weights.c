/* qwen_image_weights.c - the tensor table of the Qwen-Image transformer.
 *
 * One row per tensor: name, shape letters, place. Letters: D width, C packed channels, E text
 * width, F MLP width, K head size, S six times D, W twice D, T the 256 sinusoids, A two. Names are those of
 * diffusers transformer_qwenimage.py, which ComfyUI and GGUF files keep.
 *
 * Sensitive (never below bf16): everything that sees the timestep, the first and the last
 * linear. Their error reaches every token, and together they are under 0.1 % of a step. */
#include "models/qwen_image/qwen_image_weights.h"

#include <string.h>

#define SENSITIVE    MICA_WEIGHT_SENSITIVE
#define PLACE(field) offsetof(mica_qwen_image_weights, field)
static const mica_weight_row REST_ROWS[] = {
    {"img_in.weight", "DC", PLACE(img_in.w), SENSITIVE},
    {"img_in.bias", "D", PLACE(img_in.b), SENSITIVE},
    {"txt_norm.weight", "E", PLACE(txt_norm), SENSITIVE},
    {"txt_in.weight", "DE", PLACE(txt_in.w), SENSITIVE},
    {"txt_in.bias", "D", PLACE(txt_in.b), SENSITIVE},
    {"time_text_embed.timestep_embedder.linear_1.weight", "DT", PLACE(time_1.w), SENSITIVE},
    {"time_text_embed.timestep_embedder.linear_1.bias", "D", PLACE(time_1.b), SENSITIVE},
    {"time_text_embed.timestep_embedder.linear_2.weight", "DD", PLACE(time_2.w), SENSITIVE},
    {"time_text_embed.timestep_embedder.linear_2.bias", "D", PLACE(time_2.b), SENSITIVE},
    {"norm_out.linear.weight", "WD", PLACE(norm_out.w), SENSITIVE},
    {"norm_out.linear.bias", "W", PLACE(norm_out.b), SENSITIVE},
    {"proj_out.weight", "CD", PLACE(proj_out.w), SENSITIVE},
    {"proj_out.bias", "C", PLACE(proj_out.b), SENSITIVE},
};
static const mica_weight_row LAYERED_ROWS[] = {
    {"time_text_embed.addition_t_embedding.weight", "AD", PLACE(addition), SENSITIVE},
};
#undef PLACE

#define P          "transformer_blocks.%d."
#define IMG(field) offsetof(mica_qwen_image_block, img.field)
#define TXT(field) offsetof(mica_qwen_image_block, txt.field)
static const mica_weight_row BLOCK_ROWS[] = {
    {P "attn.to_q.weight", "DD", IMG(q.w), 0},
    {P "attn.to_q.bias", "D", IMG(q.b), 0},
    {P "attn.to_k.weight", "DD", IMG(k.w), 0},
    {P "attn.to_k.bias", "D", IMG(k.b), 0},
    {P "attn.to_v.weight", "DD", IMG(v.w), 0},
    {P "attn.to_v.bias", "D", IMG(v.b), 0},
    {P "attn.norm_q.weight", "K", IMG(norm_q), SENSITIVE},
    {P "attn.norm_k.weight", "K", IMG(norm_k), SENSITIVE},
    {P "attn.to_out.0.weight", "DD", IMG(out.w), 0},
    {P "attn.to_out.0.bias", "D", IMG(out.b), 0},
    {P "img_mlp.net.0.proj.weight", "FD", IMG(mlp_in.w), 0},
    {P "img_mlp.net.0.proj.bias", "F", IMG(mlp_in.b), 0},
    {P "img_mlp.net.2.weight", "DF", IMG(mlp_out.w), 0},
    {P "img_mlp.net.2.bias", "D", IMG(mlp_out.b), 0},
    {P "attn.add_q_proj.weight", "DD", TXT(q.w), 0},
    {P "attn.add_q_proj.bias", "D", TXT(q.b), 0},
    {P "attn.add_k_proj.weight", "DD", TXT(k.w), 0},
    {P "attn.add_k_proj.bias", "D", TXT(k.b), 0},
    {P "attn.add_v_proj.weight", "DD", TXT(v.w), 0},
    {P "attn.add_v_proj.bias", "D", TXT(v.b), 0},
    {P "attn.norm_added_q.weight", "K", TXT(norm_q), SENSITIVE},
    {P "attn.norm_added_k.weight", "K", TXT(norm_k), SENSITIVE},
    {P "attn.to_add_out.weight", "DD", TXT(out.w), 0},
    {P "attn.to_add_out.bias", "D", TXT(out.b), 0},
    {P "txt_mlp.net.0.proj.weight", "FD", TXT(mlp_in.w), 0},
    {P "txt_mlp.net.0.proj.bias", "F", TXT(mlp_in.b), 0},
    {P "txt_mlp.net.2.weight", "DF", TXT(mlp_out.w), 0},
    {P "txt_mlp.net.2.bias", "D", TXT(mlp_out.b), 0},
};
static const mica_weight_row MODULATION_ROWS[] = {
    {P "img_mod.1.weight", "SD", IMG(mod.w), SENSITIVE},
    {P "img_mod.1.bias", "S", IMG(mod.b), SENSITIVE},
    {P "txt_mod.1.weight", "SD", TXT(mod.w), SENSITIVE},
    {P "txt_mod.1.bias", "S", TXT(mod.b), SENSITIVE},
};
#undef P
#undef IMG
#undef TXT
#undef SENSITIVE

static mica_weight_dims dims_of(const mica_qwen_image_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['D'] = c->width;
    d.of['C'] = c->in_channels;
    d.of['E'] = c->text_width;
    d.of['F'] = c->ffn;
    d.of['K'] = c->head_dim;
    d.of['S'] = 6 * c->width;
    d.of['W'] = 2 * c->width;
    d.of['T'] = 256;
    d.of['A'] = 2;
    return d;
}

mica_status mica_qwen_image_weights_bind(mica_qwen_image_weights *w, const mica_weights *files,
                                         mica_arena *arena, mica_err *err)
{
    const size_t layers = (size_t)w->config.layers;
    w->blocks = mica_arena_calloc(arena, layers, sizeof *w->blocks);
    if (!w->blocks)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu transformer blocks", layers);
    const mica_weight_dims dims = dims_of(&w->config);
    mica_weight_binder b;
    mica_weight_binder_init(&b, files, "transformer", &dims, arena);
    mica_weight_bind(&b, REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), 0, w);
    if (w->config.layered)
        mica_weight_bind(&b, LAYERED_ROWS, MICA_ARRAY_LEN(LAYERED_ROWS), 0, w);
    for (int n = 0; n < (int)layers; n++) {
        mica_weight_bind(&b, BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), n, &w->blocks[n]);
        mica_weight_bind(&b, MODULATION_ROWS, MICA_ARRAY_LEN(MODULATION_ROWS), n, &w->blocks[n]);
    }
    return mica_weight_binder_finish(&b, err);
}

mica_status mica_qwen_image_weights_copy(mica_qwen_image_weights *out,
                                         const mica_qwen_image_weights *w, mica_arena *arena,
                                         mica_err *err)
{
    const size_t layers = (size_t)w->config.layers;
    *out = *w;
    out->blocks = mica_arena_calloc(arena, layers, sizeof *out->blocks);
    if (!out->blocks)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu transformer blocks", layers);
    memcpy(out->blocks, w->blocks, layers * sizeof *out->blocks);
    return MICA_OK;
}

mica_status mica_qwen_image_weights_fill(const mica_qwen_image_config *config, mica_weights *files,
                                         mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = dims_of(config);
    MICA_TRY(mica_weight_fill(files, &dims, arena, REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), 0, err));
    for (int n = 0; n < (int)config->layers; n++) {
        MICA_TRY(
            mica_weight_fill(files, &dims, arena, BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), n, err));
        MICA_TRY(mica_weight_fill(files, &dims, arena, MODULATION_ROWS,
                                  MICA_ARRAY_LEN(MODULATION_ROWS), n, err));
    }
    return MICA_OK;
}

int mica_qwen_image_list_block(mica_qwen_image_block *b,
                               mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS])
{
    return mica_weight_list(BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), b, list);
}

int mica_qwen_image_list_modulation(mica_qwen_image_block *b,
                                    mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS])
{
    return mica_weight_list(MODULATION_ROWS, MICA_ARRAY_LEN(MODULATION_ROWS), b, list);
}

int mica_qwen_image_list_rest(mica_qwen_image_weights *w,
                              mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS])
{
    return mica_weight_list(REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), w, list);
}

/* ---------------------------------------------------------------------- LoRA -- */

enum { REST, BLOCK, MODULATION };

static void *lora_block(void *weights, size_t group, int index)
{
    mica_qwen_image_weights *w = weights;
    if (group == REST)
        return w;
    return index < w->config.layers ? &w->blocks[index] : NULL;
}

static const mica_lora_group LORA_GROUPS[] = {
    [REST] = {REST_ROWS, MICA_ARRAY_LEN(REST_ROWS)},
    [BLOCK] = {BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS)},
    [MODULATION] = {MODULATION_ROWS, MICA_ARRAY_LEN(MODULATION_ROWS)},
};
const mica_lora_family mica_qwen_image_lora = {.groups = LORA_GROUPS,
                                               .group_count = MICA_ARRAY_LEN(LORA_GROUPS),
                                               .rename = mica_qwen_image_rename,
                                               .block = lora_block};
