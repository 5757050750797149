/* convert_types.c - which type a tensor gets; see convert.h.
 *
 *     matrix of floats or packed numbers, rows of a multiple of 32
 *         first and last layers, all that sees the timestep, routers      kept: bf16, or f32, f16 as they are
 *         modulation of blocks, embeddings, output heads                  8 bits at least
 *         the rest                                                        the type asked for
 *     vectors, convolutions, anything else                                kept; in GGUF vectors become f32
 *     asked for floats                                                    matrices and kernels; f32: everything
 *
 * Rows of the rule table are tried in order on the tensor's name, in all spellings that the models
 * read. Types of 256 need rows of a multiple of 256, else their relatives of 32 stand in (q4_k: q4_0). */
#include "models/convert.h"

#include "base/names.h"

#include <string.h>

typedef enum keep { PACK = 0, EIGHT_BITS, KEEP } keep;

static const struct {
    const char *part; /* of the name */
    keep keep;
} RULES[] = {
    /* picture transformers and their text encoders */
    {"time_text_embed.", KEEP},
    {"time_guidance_embed.", KEEP},
    {"time_in.", KEEP},
    {"guidance_in.", KEEP},
    {"t_embedder.", KEEP},
    {"cap_embedder.", KEEP},
    {"norm_out.", KEEP},
    {"final_layer.", KEEP}, /* all_final_layer. too */
    {"x_embedder.", KEEP},  /* and all_x_embedder. */
    {"context_embedder.", KEEP},
    {"img_in.", KEEP},
    {"txt_in.", KEEP},
    {"pad_token", KEEP},
    {"visual.", KEEP},
    {"img_mod", EIGHT_BITS},
    {"txt_mod", EIGHT_BITS},
    {"modulation",
     EIGHT_BITS}, /* adaLN_modulation, ada_ln_modulation, double_stream_modulation_img */
    /* language models */
    {"block_sparse_moe.gate.", KEEP},
    {"ffn_gate_inp.", KEEP},
    {"embed_tokens.", EIGHT_BITS},
    {"token_embd.", EIGHT_BITS},
    {"lm_head.", EIGHT_BITS},
    /* speech: what decides about codes, and positions */
    {"quantizer.", KEEP},
    {"ssl_proj.", KEEP},
    {"emb_rel_", KEEP},
    {"pos_conv_embed.", KEEP},
    {"phoneme_embed.", EIGHT_BITS},
    {"semantic_embed.", EIGHT_BITS},
    {"embeddings.", EIGHT_BITS}, /* BERT's */
};

static const mica_convert_type TYPES[] = {
    {"q8", false, 8, MICA_DTYPE_Q8_0, MICA_DTYPE_Q8_0, 7},
    {"q6", false, 6, MICA_DTYPE_Q6_K, MICA_DTYPE_Q8_0, 18},
    {"q5", false, 5, MICA_DTYPE_Q5_K, MICA_DTYPE_Q5_0, 17},
    {"q4", false, 4, MICA_DTYPE_Q4_K, MICA_DTYPE_Q4_0, 15},
    {"f32", true, 0, MICA_DTYPE_F32, MICA_DTYPE_F32, 0},
    {"f16", true, 0, MICA_DTYPE_F16, MICA_DTYPE_F16, 1},
    {"bf16", true, 0, MICA_DTYPE_BF16, MICA_DTYPE_BF16, 32},
    {"fp8", false, 0, MICA_DTYPE_F8_E4M3, MICA_DTYPE_COUNT, 0},
    {"int8", false, 0, MICA_DTYPE_I8, MICA_DTYPE_COUNT, 0},
};

const mica_convert_type *mica_convert_type_find(const char *name)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(TYPES); i++)
        if (strcmp(TYPES[i].name, name) == 0)
            return &TYPES[i];
    return NULL;
}

/* The convolutions of these decide about the sound, and their matrices are few and small. */
static bool is_never_packed(mica_model_part part)
{
    return part == MICA_PART_SYNTHESIZER || part == MICA_PART_SPEAKER || part == MICA_PART_VAE;
}

static keep keep_of(const char *name)
{
    /* mistral's and llama.cpp's head; "proj_out." of transformers begins the name, that of blocks does not */
    if (strcmp(name, "output.weight") == 0)
        return EIGHT_BITS;
    if (strncmp(name, "proj_out.", 9) == 0)
        return KEEP;
    for (size_t i = 0; i < MICA_ARRAY_LEN(RULES); i++)
        if (strstr(name, RULES[i].part))
            return RULES[i].keep;
    return PACK;
}

static bool can_pack(const mica_convert_item *item)
{
    const mica_tensor *t = item->parts[0];
    return item->ndim >= 2 && item->ndim <= 3 && mica_tensor_is_weight(t) &&
           mica_name_ends(item->name, ".weight") && t->shape_[t->ndim - 1] % 32 == 0 &&
           t->shape_[0] > 0 && mica_tensor_count(t) > 0;
}

/* Whether the numbers need no more than their bytes to be understood. */
static bool is_plain(const mica_tensor *t)
{
    return !t->scale.data && (t->dtype == MICA_DTYPE_F32 || t->dtype == MICA_DTYPE_F16 ||
                              t->dtype == MICA_DTYPE_BF16);
}

static void make_floats(mica_convert_item *item, mica_dtype dtype)
{
    const bool same = is_plain(item->parts[0]) && item->parts[0]->dtype == dtype;
    item->form = same && item->turn == MICA_CONVERT_AS_IS && item->part_count == 1
                     ? MICA_CONVERT_COPY
                     : MICA_CONVERT_FLOATS;
    item->dtype = dtype;
}

/* What a tensor that is not packed is written as. */
static void choose_kept(mica_convert_item *item, bool gguf, bool router)
{
    const mica_tensor *t = item->parts[0];
    item->form = MICA_CONVERT_COPY;
    item->dtype = t->dtype;
    if (!mica_tensor_is_weight(t) && !mica_dtype_get(t->dtype)->is_float)
        return;
    /* Readers of GGUF expect norms, biases and routers so. */
    make_floats(item, gguf && (item->ndim <= 1 || router) ? MICA_DTYPE_F32
                      : is_plain(t)                       ? t->dtype
                                                          : MICA_DTYPE_BF16);
}

static void choose_packed(mica_convert_item *item, const mica_convert_type *type, bool gguf)
{
    const int64_t row = item->shape_[item->ndim - 1];
    item->dtype = row % 256 == 0 ? type->wide : type->small;
    if (type->wide == MICA_DTYPE_F8_E4M3 || type->wide == MICA_DTYPE_I8) {
        item->form = type->wide == MICA_DTYPE_I8 ? MICA_CONVERT_INT8 : MICA_CONVERT_FP8;
        item->dtype = type->wide;
    } else if (gguf)
        item->form = MICA_CONVERT_BLOCKS;
    else {
        item->form = MICA_CONVERT_GROUPS;
        item->dtype = mica_dtype_from_bits(type->bits);
        item->group = row % 64 == 0 ? 64 : 32;
    }
}

void mica_convert_choose(mica_convert_item *item, mica_model_part part,
                         const mica_convert_type *type, bool gguf)
{
    const keep k = keep_of(item->name);
    const bool below_eight = type->bits > 0 && type->bits < 8;
    const bool is_number = mica_tensor_is_weight(item->parts[0]);
    const bool stack = item->ndim > 2;
    const bool router = k == KEEP && part == MICA_PART_LANGUAGE;
    if (type->is_float && is_number && type->wide == MICA_DTYPE_F32)
        make_floats(item, type->wide);
    else if (type->is_float && is_number && k != KEEP && item->ndim >= 2)
        make_floats(item, type->wide);
    else if (type->is_float || k == KEEP || is_never_packed(part) || !can_pack(item) ||
             (stack && type->bits == 0))
        choose_kept(item, gguf, router);
    else
        choose_packed(item, k == EIGHT_BITS && below_eight ? mica_convert_type_find("q8") : type,
                      gguf);
}
