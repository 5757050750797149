/* flux2_weights.c - the tensor table of the FLUX.2 transformer.
 *
 * One row per tensor: name, shape letters, place. Letters: D width, C packed channels, E text
 * width, F MLP width, G twice that, K head size, S six times D, Q three times D, M = D + F, T the 256
 * sinusoids. Names are those of diffusers transformer_flux2.py after mica_flux2_rename.
 *
 * Sensitive (never below bf16): everything that sees the timestep, the first and the last
 * linear. Their error reaches every token, and together they are under 2 % of a step. */
#include "models/flux2/flux2_weights.h"

#include <string.h>

#define SENSITIVE    MICA_WEIGHT_SENSITIVE
#define PLACE(field) offsetof(mica_flux2_weights, field)
static const mica_weight_row REST_ROWS[] = {
    {"x_embedder.weight", "DC", PLACE(x_embedder.w), SENSITIVE},
    {"context_embedder.weight", "DE", PLACE(context_embedder.w), SENSITIVE},
    {"time_guidance_embed.timestep_embedder.linear_1.weight", "DT", PLACE(time_1.w), SENSITIVE},
    {"time_guidance_embed.timestep_embedder.linear_2.weight", "DD", PLACE(time_2.w), SENSITIVE},
    {"double_stream_modulation_img.linear.weight", "SD", PLACE(mod_img.w), SENSITIVE},
    {"double_stream_modulation_txt.linear.weight", "SD", PLACE(mod_txt.w), SENSITIVE},
    {"single_stream_modulation.linear.weight", "QD", PLACE(mod_single.w), SENSITIVE},
    {"norm_out.scale.weight", "DD", PLACE(norm_scale.w), SENSITIVE},
    {"norm_out.shift.weight", "DD", PLACE(norm_shift.w), SENSITIVE},
    {"proj_out.weight", "CD", PLACE(proj_out.w), SENSITIVE},
};
#undef PLACE

#define P          "transformer_blocks.%d."
#define IMG(field) offsetof(mica_flux2_double, img.field)
#define TXT(field) offsetof(mica_flux2_double, txt.field)
static const mica_weight_row DOUBLE_ROWS[] = {
    {P "attn.to_q.weight", "DD", IMG(q.w), 0},
    {P "attn.to_k.weight", "DD", IMG(k.w), 0},
    {P "attn.to_v.weight", "DD", IMG(v.w), 0},
    {P "attn.norm_q.weight", "K", IMG(norm_q), SENSITIVE},
    {P "attn.norm_k.weight", "K", IMG(norm_k), SENSITIVE},
    {P "attn.to_out.0.weight", "DD", IMG(out.w), 0},
    {P "ff.linear_in.weight", "GD", IMG(mlp_in.w), 0},
    {P "ff.linear_out.weight", "DF", IMG(mlp_out.w), 0},
    {P "attn.add_q_proj.weight", "DD", TXT(q.w), 0},
    {P "attn.add_k_proj.weight", "DD", TXT(k.w), 0},
    {P "attn.add_v_proj.weight", "DD", TXT(v.w), 0},
    {P "attn.norm_added_q.weight", "K", TXT(norm_q), SENSITIVE},
    {P "attn.norm_added_k.weight", "K", TXT(norm_k), SENSITIVE},
    {P "attn.to_add_out.weight", "DD", TXT(out.w), 0},
    {P "ff_context.linear_in.weight", "GD", TXT(mlp_in.w), 0},
    {P "ff_context.linear_out.weight", "DF", TXT(mlp_out.w), 0},
};
#undef P
#undef IMG
#undef TXT

#define P            "single_transformer_blocks.%d."
#define PLACE(field) offsetof(mica_flux2_single, field)
static const mica_weight_row SINGLE_ROWS[] = {
    {P "attn.qkv.weight", "QD", PLACE(qkv.w), 0},
    {P "attn.mlp.weight", "GD", PLACE(mlp.w), 0},
    {P "attn.norm_q.weight", "K", PLACE(norm_q), SENSITIVE},
    {P "attn.norm_k.weight", "K", PLACE(norm_k), SENSITIVE},
    {P "attn.to_out.weight", "DM", PLACE(out.w), 0},
};
#undef P
#undef PLACE
#undef SENSITIVE

static mica_weight_dims dims_of(const mica_flux2_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['D'] = c->width;
    d.of['C'] = c->in_channels;
    d.of['E'] = c->text_width;
    d.of['F'] = c->ffn;
    d.of['G'] = 2 * c->ffn;
    d.of['K'] = c->head_dim;
    d.of['S'] = 6 * c->width;
    d.of['Q'] = 3 * c->width;
    d.of['M'] = c->width + c->ffn;
    d.of['T'] = 256;
    return d;
}

static mica_status alloc_blocks(mica_flux2_weights *w, mica_arena *arena, mica_err *err)
{
    const mica_flux2_config *c = &w->config;
    w->doubles = mica_arena_calloc(arena, (size_t)c->layers, sizeof *w->doubles);
    w->singles = mica_arena_calloc(arena, (size_t)c->single_layers, sizeof *w->singles);
    if (!w->doubles || !w->singles)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d transformer blocks",
                         mica_flux2_block_count(c));
    return MICA_OK;
}

mica_status mica_flux2_weights_bind(mica_flux2_weights *w, const mica_weights *files,
                                    mica_arena *arena, mica_err *err)
{
    MICA_TRY(alloc_blocks(w, arena, err));
    const mica_weight_dims dims = dims_of(&w->config);
    mica_weight_binder b;
    mica_weight_binder_init(&b, files, "transformer", &dims, arena);
    mica_weight_bind(&b, REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), 0, w);
    for (int n = 0; n < (int)w->config.layers; n++)
        mica_weight_bind(&b, DOUBLE_ROWS, MICA_ARRAY_LEN(DOUBLE_ROWS), n, &w->doubles[n]);
    for (int n = 0; n < (int)w->config.single_layers; n++)
        mica_weight_bind(&b, SINGLE_ROWS, MICA_ARRAY_LEN(SINGLE_ROWS), n, &w->singles[n]);
    return mica_weight_binder_finish(&b, err);
}

mica_status mica_flux2_weights_copy(mica_flux2_weights *out, const mica_flux2_weights *w,
                                    mica_arena *arena, mica_err *err)
{
    *out = *w;
    MICA_TRY(alloc_blocks(out, arena, err));
    memcpy(out->doubles, w->doubles, (size_t)w->config.layers * sizeof *w->doubles);
    memcpy(out->singles, w->singles, (size_t)w->config.single_layers * sizeof *w->singles);
    return MICA_OK;
}

mica_status mica_flux2_weights_fill(const mica_flux2_config *config, mica_weights *files,
                                    mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = dims_of(config);
    MICA_TRY(mica_weight_fill(files, &dims, arena, REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), 0, err));
    for (int n = 0; n < (int)config->layers; n++)
        MICA_TRY(mica_weight_fill(files, &dims, arena, DOUBLE_ROWS, MICA_ARRAY_LEN(DOUBLE_ROWS), n,
                                  err));
    for (int n = 0; n < (int)config->single_layers; n++)
        MICA_TRY(mica_weight_fill(files, &dims, arena, SINGLE_ROWS, MICA_ARRAY_LEN(SINGLE_ROWS), n,
                                  err));
    return MICA_OK;
}

int mica_flux2_block_count(const mica_flux2_config *c)
{
    return (int)(c->layers + c->single_layers);
}

int mica_flux2_list_block(mica_flux2_weights *w, int block,
                          mica_weight *list[MICA_FLUX2_BLOCK_WEIGHTS])
{
    const int doubles = (int)w->config.layers;
    if (block < doubles)
        return mica_weight_list(DOUBLE_ROWS, MICA_ARRAY_LEN(DOUBLE_ROWS), &w->doubles[block], list);
    return mica_weight_list(SINGLE_ROWS, MICA_ARRAY_LEN(SINGLE_ROWS), &w->singles[block - doubles],
                            list);
}

int mica_flux2_list_rest(mica_flux2_weights *w, mica_weight *list[MICA_FLUX2_BLOCK_WEIGHTS])
{
    return mica_weight_list(REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), w, list);
}

/* ---------------------------------------------------------------------- LoRA -- */

enum { REST, DOUBLE, SINGLE };

static void *lora_block(void *weights, size_t group, int index)
{
    mica_flux2_weights *w = weights;
    if (group == REST)
        return w;
    if (group == DOUBLE)
        return index < w->config.layers ? &w->doubles[index] : NULL;
    return index < w->config.single_layers ? &w->singles[index] : NULL;
}

static const mica_lora_group LORA_GROUPS[] = {
    [REST] = {REST_ROWS, MICA_ARRAY_LEN(REST_ROWS)},
    [DOUBLE] = {DOUBLE_ROWS, MICA_ARRAY_LEN(DOUBLE_ROWS)},
    [SINGLE] = {SINGLE_ROWS, MICA_ARRAY_LEN(SINGLE_ROWS)},
};
/* Layers that the tables have in parts, and the names of BFL. */
static const char *const LORA_ALIASES[] = {
    "norm_out.linear",
    "single_transformer_blocks.%d.attn.to_qkv_mlp_proj",
    "double_blocks.%d.img_attn.qkv",
    "double_blocks.%d.img_attn.proj",
    "double_blocks.%d.img_mlp.0",
    "double_blocks.%d.img_mlp.2",
    "double_blocks.%d.txt_attn.qkv",
    "double_blocks.%d.txt_attn.proj",
    "double_blocks.%d.txt_mlp.0",
    "double_blocks.%d.txt_mlp.2",
    "single_blocks.%d.linear1",
    "single_blocks.%d.linear2",
    "img_in",
    "txt_in",
    "time_in.in_layer",
    "time_in.out_layer",
    "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.lin",
    "single_stream_modulation.lin",
    "final_layer.linear",
    "final_layer.adaLN_modulation.1",
    NULL,
};
const mica_lora_family mica_flux2_lora = {.groups = LORA_GROUPS,
                                          .group_count = MICA_ARRAY_LEN(LORA_GROUPS),
                                          .aliases = LORA_ALIASES,
                                          .rename = mica_flux2_rename,
                                          .block = lora_block};
