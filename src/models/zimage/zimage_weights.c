/* zimage_weights.c - the tensor table of the Z-Image transformer.
 *
 * One row per tensor: name, shape letters, place. Letters: D width, C numbers of a token, E text
 * width, F MLP width, K head size, M four times D, A what adaLN reads, N hidden width of the
 * timestep MLP, S the 256 sinusoids, I one. Names are those of diffusers transformer_z_image.py.
 *
 * Sensitive (never below bf16): everything that sees the timestep, the first and the last linear,
 * the caption's projection and its refiners, which run once. */
#include "models/zimage/zimage_weights.h"

#include <stdio.h>
#include <string.h>

#define SENSITIVE    MICA_WEIGHT_SENSITIVE
#define PLACE(field) offsetof(mica_zimage_weights, field)
static const mica_weight_row REST_ROWS[] = {
    {"all_x_embedder.2-1.weight", "DC", PLACE(x_in.w), SENSITIVE},
    {"all_x_embedder.2-1.bias", "D", PLACE(x_in.b), SENSITIVE},
    {"cap_embedder.0.weight", "E", PLACE(cap_norm), SENSITIVE},
    {"cap_embedder.1.weight", "DE", PLACE(cap_in.w), SENSITIVE},
    {"cap_embedder.1.bias", "D", PLACE(cap_in.b), SENSITIVE},
    {"x_pad_token", "ID", PLACE(x_pad), SENSITIVE},
    {"cap_pad_token", "ID", PLACE(cap_pad), SENSITIVE},
    {"t_embedder.mlp.0.weight", "NS", PLACE(time_1.w), SENSITIVE},
    {"t_embedder.mlp.0.bias", "N", PLACE(time_1.b), SENSITIVE},
    {"t_embedder.mlp.2.weight", "AN", PLACE(time_2.w), SENSITIVE},
    {"t_embedder.mlp.2.bias", "A", PLACE(time_2.b), SENSITIVE},
    {"all_final_layer.2-1.adaLN_modulation.1.weight", "DA", PLACE(out_mod.w), SENSITIVE},
    {"all_final_layer.2-1.adaLN_modulation.1.bias", "D", PLACE(out_mod.b), SENSITIVE},
    {"all_final_layer.2-1.linear.weight", "CD", PLACE(out.w), SENSITIVE},
    {"all_final_layer.2-1.linear.bias", "C", PLACE(out.b), SENSITIVE},
};
#undef PLACE

/* The three stacks of blocks: the same rows under other names. */
#define AT(field) offsetof(mica_zimage_block, field)
#define BLOCK(P)                                                                                   \
    {                                                                                              \
        {P "attention_norm1.weight", "D", AT(attn_norm1), SENSITIVE},                              \
            {P "attention.to_q.weight", "DD", AT(q.w), 0},                                         \
            {P "attention.to_k.weight", "DD", AT(k.w), 0},                                         \
            {P "attention.to_v.weight", "DD", AT(v.w), 0},                                         \
            {P "attention.norm_q.weight", "K", AT(norm_q), SENSITIVE},                             \
            {P "attention.norm_k.weight", "K", AT(norm_k), SENSITIVE},                             \
            {P "attention.to_out.0.weight", "DD", AT(out.w), 0},                                   \
            {P "attention_norm2.weight", "D", AT(attn_norm2), SENSITIVE},                          \
            {P "ffn_norm1.weight", "D", AT(ffn_norm1), SENSITIVE},                                 \
            {P "feed_forward.w1.weight", "FD", AT(mlp_gate.w), 0},                                 \
            {P "feed_forward.w3.weight", "FD", AT(mlp_up.w), 0},                                   \
            {P "feed_forward.w2.weight", "DF", AT(mlp_down.w), 0},                                 \
            {P "ffn_norm2.weight", "D", AT(ffn_norm2), SENSITIVE},                                 \
    }
#define MODULATION(P)                                                                              \
    {                                                                                              \
        {P "adaLN_modulation.0.weight", "MA", AT(mod.w), SENSITIVE},                               \
            {P "adaLN_modulation.0.bias", "M", AT(mod.b), SENSITIVE},                              \
    }
#define BLOCK_ROWS      13
#define MODULATION_ROWS 2

typedef struct stack {
    mica_weight_row block[BLOCK_ROWS];
    mica_weight_row modulation[MODULATION_ROWS];
    int modulation_rows;
    size_t place; /* of the array of blocks in mica_zimage_weights */
    bool is_layers;
} stack;

static const stack STACKS[] = {
    {BLOCK("noise_refiner.%d."), MODULATION("noise_refiner.%d."), MODULATION_ROWS,
     offsetof(mica_zimage_weights, noise), false},
    {BLOCK("context_refiner.%d."), MODULATION("context_refiner.%d."), 0,
     offsetof(mica_zimage_weights, context), false},
    {BLOCK("layers.%d."), MODULATION("layers.%d."), MODULATION_ROWS,
     offsetof(mica_zimage_weights, layers), true},
};
#undef AT
#undef BLOCK
#undef MODULATION
#undef SENSITIVE

static mica_weight_dims dims_of(const mica_zimage_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['D'] = c->width;
    d.of['C'] = c->patch_width;
    d.of['E'] = c->text_width;
    d.of['F'] = c->ffn;
    d.of['K'] = c->head_dim;
    d.of['M'] = 4 * c->width;
    d.of['A'] = c->time_width;
    d.of['N'] = c->time_hidden;
    d.of['S'] = 256;
    d.of['I'] = 1;
    return d;
}

static int count_of(const mica_zimage_config *c, const stack *s)
{
    return (int)(s->is_layers ? c->layers : c->refiners);
}

static mica_zimage_block **blocks_of(const mica_zimage_weights *w, const stack *s)
{
    return (mica_zimage_block **)(void *)((char *)(uintptr_t)w + s->place);
}

/* Zeroed arrays of blocks. */
static mica_status allocate(mica_zimage_weights *w, mica_arena *arena, mica_err *err)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(STACKS); i++) {
        const int count = count_of(&w->config, &STACKS[i]);
        mica_zimage_block *blocks = mica_arena_calloc(arena, (size_t)count, sizeof *blocks);
        if (!blocks)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d transformer blocks", count);
        *blocks_of(w, &STACKS[i]) = blocks;
    }
    return MICA_OK;
}

/* Never below bf16: the caption's refiners, which run once and whose result reaches every step; q, k and v of
 * the picture's, through which all that they get wrong goes on into every layer (in fp8 half of a small
 * network's error; 0.4 of 59 ms at 1024 x 1024 on an H100). */
static void protect_refiners(mica_zimage_weights *w)
{
    mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS];
    for (int64_t n = 0; n < w->config.refiners; n++) {
        for (int i = mica_zimage_list_block(&w->context[n], list); i-- > 0;)
            list[i]->sensitive = true;
        mica_zimage_block *noise = &w->noise[n];
        noise->q.w.sensitive = noise->k.w.sensitive = noise->v.w.sensitive = true;
    }
}

mica_status mica_zimage_weights_bind(mica_zimage_weights *w, const mica_weights *files,
                                     mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = dims_of(&w->config);
    mica_weight_binder b;
    MICA_TRY(allocate(w, arena, err));
    mica_weight_binder_init(&b, files, "transformer", &dims, arena);
    mica_weight_bind(&b, REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), 0, w);
    for (size_t i = 0; i < MICA_ARRAY_LEN(STACKS); i++)
        for (int n = 0; n < count_of(&w->config, &STACKS[i]); n++) {
            mica_zimage_block *block = *blocks_of(w, &STACKS[i]) + n;
            mica_weight_bind(&b, STACKS[i].block, BLOCK_ROWS, n, block);
            mica_weight_bind(&b, STACKS[i].modulation, (size_t)STACKS[i].modulation_rows, n, block);
        }
    protect_refiners(w);
    return mica_weight_binder_finish(&b, err);
}

mica_status mica_zimage_weights_copy(mica_zimage_weights *out, const mica_zimage_weights *w,
                                     mica_arena *arena, mica_err *err)
{
    *out = *w;
    MICA_TRY(allocate(out, arena, err));
    for (size_t i = 0; i < MICA_ARRAY_LEN(STACKS); i++)
        memcpy(*blocks_of(out, &STACKS[i]), *blocks_of(w, &STACKS[i]),
               (size_t)count_of(&w->config, &STACKS[i]) * sizeof(mica_zimage_block));
    return MICA_OK;
}

mica_status mica_zimage_weights_fill(const mica_zimage_config *config, mica_weights *files,
                                     mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = dims_of(config);
    MICA_TRY(mica_weight_fill(files, &dims, arena, REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), 0, err));
    for (size_t i = 0; i < MICA_ARRAY_LEN(STACKS); i++)
        for (int n = 0; n < count_of(config, &STACKS[i]); n++) {
            MICA_TRY(mica_weight_fill(files, &dims, arena, STACKS[i].block, BLOCK_ROWS, n, err));
            MICA_TRY(mica_weight_fill(files, &dims, arena, STACKS[i].modulation,
                                      (size_t)STACKS[i].modulation_rows, n, err));
        }
    return MICA_OK;
}

mica_zimage_block *mica_zimage_step_block(const mica_zimage_weights *w, int n)
{
    const int refiners = (int)w->config.refiners;
    return n < refiners ? &w->noise[n] : &w->layers[n - refiners];
}

int mica_zimage_step_blocks(const mica_zimage_weights *w)
{
    return (int)(w->config.refiners + w->config.layers);
}

int mica_zimage_list_block(mica_zimage_block *b, mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS])
{
    return mica_weight_list(STACKS[0].block, BLOCK_ROWS, b, list);
}

int mica_zimage_list_modulation(mica_zimage_block *b, mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS])
{
    return mica_weight_list(STACKS[0].modulation, MODULATION_ROWS, b, list);
}

int mica_zimage_list_rest(mica_zimage_weights *w, mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS])
{
    return mica_weight_list(REST_ROWS, MICA_ARRAY_LEN(REST_ROWS), w, list);
}

/* ---------------------------------------------------------------------- LoRA -- */

/* Group 0 is what lies outside the blocks; behind it come two for every stack. */
static void *lora_block(void *weights, size_t group, int index)
{
    mica_zimage_weights *w = weights;
    if (group == 0)
        return w;
    const stack *s = &STACKS[(group - 1) / 2];
    return index < count_of(&w->config, s) ? *blocks_of(w, s) + index : NULL;
}

static const mica_lora_group LORA_GROUPS[] = {
    {REST_ROWS, MICA_ARRAY_LEN(REST_ROWS)},
    {STACKS[0].block, BLOCK_ROWS},
    {STACKS[0].modulation, MODULATION_ROWS},
    {STACKS[1].block, BLOCK_ROWS},
    {STACKS[1].modulation, 0}, /* context refiners are not modulated */
    {STACKS[2].block, BLOCK_ROWS},
    {STACKS[2].modulation, MODULATION_ROWS},
};
/* ComfyUI's names, with q, k and v in one. */
static const char *const LORA_ALIASES[] = {
    "layers.%d.attention.qkv",
    "layers.%d.attention.out",
    "noise_refiner.%d.attention.qkv",
    "noise_refiner.%d.attention.out",
    "context_refiner.%d.attention.qkv",
    "context_refiner.%d.attention.out",
    "x_embedder",
    "final_layer.linear",
    "final_layer.adaLN_modulation.1",
    NULL,
};
const mica_lora_family mica_zimage_lora = {.groups = LORA_GROUPS,
                                           .group_count = MICA_ARRAY_LEN(LORA_GROUPS),
                                           .aliases = LORA_ALIASES,
                                           .rename = mica_zimage_rename,
                                           .block = lora_block};
