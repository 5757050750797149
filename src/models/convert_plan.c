/* convert_plan.c - what becomes of each tensor of a converted file; see convert.h.
 *
 *     matrix of floats or packed numbers, rows of a multiple of 32
 *         first and last layers, all that sees the timestep, routers      kept: bf16, or f32, f16 as they are
 *         modulation of blocks, embeddings, output heads                  8 bits at least
 *         the rest                                                        the type asked for
 *     vectors, convolutions, anything else                                kept; in GGUF vectors become f32
 *
 * Rows of the rule table are tried in order on the tensor's name in its file, in all spellings that the models
 * read. Types of 256 need rows of a multiple of 256, else their relatives of 32 stand in (q4_k: q4_0). */
#include "models/convert.h"

#include "format/safetensors.h"
#include "models/qwen_image/qwen_image_config.h"
#include "nn/lm_config.h"
#include "nn/lm_gguf.h"
#include "nn/qwen3.h"

#include <stdio.h>
#include <string.h>

#define FILE_VERSION 2 /* general.quantization_version */

typedef enum keep { PACK = 0, EIGHT_BITS, KEEP } keep;

static const struct {
    const char *part; /* of the name */
    keep keep;
} RULES[] = {
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
    {"block_sparse_moe.gate.", KEEP},
    {"ffn_gate_inp.", KEEP},
    {"img_mod", EIGHT_BITS},
    {"txt_mod", EIGHT_BITS},
    {"modulation",
     EIGHT_BITS}, /* adaLN_modulation, ada_ln_modulation, double_stream_modulation_img */
    {"embed_tokens.", EIGHT_BITS},
    {"token_embd.", EIGHT_BITS},
    {"lm_head.", EIGHT_BITS},
};

typedef struct type_row {
    const char *name;
    int bits;               /* of groups; 0: not packed so */
    mica_dtype wide, small; /* GGUF: of 256 and of 32 */
} type_row;

static const type_row TYPES[] = {
    {"q8", 8, MICA_DTYPE_Q8_0, MICA_DTYPE_Q8_0},   {"q6", 6, MICA_DTYPE_Q6_K, MICA_DTYPE_Q8_0},
    {"q5", 5, MICA_DTYPE_Q5_K, MICA_DTYPE_Q5_0},   {"q4", 4, MICA_DTYPE_Q4_K, MICA_DTYPE_Q4_0},
    {"bf16", 0, MICA_DTYPE_BF16, MICA_DTYPE_BF16}, {"fp8", 0, MICA_DTYPE_F8_E4M3, MICA_DTYPE_COUNT},
    {"int8", 0, MICA_DTYPE_I8, MICA_DTYPE_COUNT},
};

static const type_row *find_type(const char *name)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(TYPES); i++)
        if (strcmp(TYPES[i].name, name) == 0)
            return &TYPES[i];
    return NULL;
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static mica_status no_memory(const mica_convert_plan *p, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to plan its conversion",
                     mica_weights_path(p->weights));
}

/* ---------------------------------------------------------------- tensors -- */

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
    const mica_tensor *t = item->from;
    return t->ndim >= 2 && t->ndim <= 3 && mica_tensor_is_weight(t) &&
           ends_with(item->name, ".weight") && t->shape_[t->ndim - 1] % 32 == 0 &&
           t->shape_[0] > 0 && mica_tensor_count(t) > 0;
}

/* What a tensor that is not packed is written as. */
static void choose_kept(mica_convert_item *item, bool gguf)
{
    const mica_tensor *t = item->from;
    const bool is_float = mica_dtype_get(t->dtype)->is_float;
    const bool is_plain = !t->scale.data && t->dtype != MICA_DTYPE_F8_E4M3 &&
                          t->dtype != MICA_DTYPE_F8_E5M2 && t->dtype != MICA_DTYPE_F64;
    item->form = MICA_CONVERT_COPY;
    item->dtype = t->dtype;
    if (mica_tensor_is_weight(t) && !(is_float && is_plain)) {
        item->form = MICA_CONVERT_FLOATS;
        item->dtype = MICA_DTYPE_BF16;
    }
    if (gguf && is_float && t->ndim <= 1) { /* readers of GGUF expect norms and biases so */
        item->form = MICA_CONVERT_FLOATS;
        item->dtype = MICA_DTYPE_F32;
    }
}

static void choose_packed(mica_convert_item *item, const type_row *type, bool gguf)
{
    const int64_t row = item->from->shape_[item->from->ndim - 1];
    item->dtype = row % 256 == 0 ? type->wide : type->small;
    if (type->wide == MICA_DTYPE_BF16)
        item->form = MICA_CONVERT_FLOATS;
    else if (type->wide == MICA_DTYPE_F8_E4M3 || type->wide == MICA_DTYPE_I8) {
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

static void choose(mica_convert_item *item, const type_row *type, bool gguf)
{
    const keep k = keep_of(item->name);
    const bool is_stack = item->from->ndim > 2;
    const bool below_eight = type->bits > 0 && type->bits < 8;
    if (k == KEEP || !can_pack(item) || (is_stack && type->bits == 0))
        choose_kept(item, gguf);
    else
        choose_packed(item, k == EIGHT_BITS && below_eight ? find_type("q8") : type, gguf);
}

/* -------------------------------------------------------------- the output -- */

static const char *joined(mica_convert_plan *p, const char *stem, size_t n, const char *suffix)
{
    char *s = mica_arena_calloc(&p->arena, n + strlen(suffix) + 1, 1);
    if (s)
        snprintf(s, n + strlen(suffix) + 1, "%.*s%s", (int)n, stem, suffix);
    return s;
}

static void add_tensor(mica_convert_plan *p, const char *name, mica_dtype dtype, int ndim,
                       const int64_t *shape)
{
    mica_stream_tensor *t = &p->tensors[p->tensor_count++];
    *t = (mica_stream_tensor){.name = name, .dtype = dtype, .ndim = ndim};
    memcpy(t->shape_, shape, (size_t)ndim * sizeof *shape);
}

/* The tensors that an item becomes; at most three. */
static mica_status add_outputs(mica_convert_plan *p, mica_convert_item *item, bool gguf,
                               mica_err *err)
{
    const mica_tensor *t = item->from;
    const size_t stem = strlen(item->name) - strlen(".weight");
    char text[MICA_TENSOR_NAME_MAX + 1];
    const char *name = item->name;
    int64_t shape[MICA_MAX_DIMS];
    memcpy(shape, t->shape_, sizeof shape);
    if (gguf && p->part == MICA_PART_TEXT_ENCODER && mica_lm_gguf_name(name, text, sizeof text))
        name = joined(p, text, strlen(text), "");
    item->first = p->tensor_count;
    const int last = t->ndim - 1;
    if (item->form == MICA_CONVERT_GROUPS) {
        shape[last] = t->shape_[last] * (mica_dtype_get(item->dtype)->size / 4) / 32;
        add_tensor(p, name, MICA_DTYPE_U32, t->ndim, shape);
        shape[last] = t->shape_[last] / item->group;
        add_tensor(p, joined(p, name, stem, ".scales"), MICA_DTYPE_BF16, t->ndim, shape);
        add_tensor(p, joined(p, name, stem, ".biases"), MICA_DTYPE_BF16, t->ndim, shape);
    } else
        add_tensor(p, name, item->dtype, t->ndim, shape);
    if (item->form == MICA_CONVERT_INT8)
        add_tensor(p, joined(p, name, stem, ".weight_scale"), MICA_DTYPE_F32, 2,
                   (const int64_t[]){t->shape_[0], 1});
    if (item->form == MICA_CONVERT_FP8) {
        add_tensor(p, joined(p, name, stem, ".weight_scale"), MICA_DTYPE_F32, 0, shape);
        add_tensor(p, joined(p, name, stem, ".comfy_quant"), MICA_DTYPE_U8, 1,
                   (const int64_t[]){(int64_t)strlen(MICA_CONVERT_FP8_FORMAT)});
    }
    for (size_t i = item->first; i < p->tensor_count; i++)
        if (!p->tensors[i].name)
            return no_memory(p, err);
    return MICA_OK;
}

static bool is_left_out(const mica_convert_plan *p, const char *name, bool gguf)
{
    char text[MICA_TENSOR_NAME_MAX + 1];
    return gguf && p->part == MICA_PART_TEXT_ENCODER && !mica_lm_gguf_name(name, text, sizeof text);
}

static mica_status plan_tensors(mica_convert_plan *p, const type_row *type, bool gguf,
                                mica_err *err)
{
    const size_t count = mica_weights_count(p->weights);
    p->items = mica_arena_calloc(&p->arena, count + 1, sizeof *p->items);
    p->tensors = mica_arena_calloc(&p->arena, 3 * count + 1, sizeof *p->tensors);
    if (!p->items || !p->tensors)
        return no_memory(p, err);
    for (size_t i = 0; i < count; i++) {
        const char *name = mica_weights_name(p->weights, i);
        if (is_left_out(p, name, gguf)) {
            p->left_out++;
            continue;
        }
        mica_convert_item *item = &p->items[p->item_count++];
        *item = (mica_convert_item){.name = name, .from = mica_weights_tensor(p->weights, i)};
        choose(item, type, gguf);
        MICA_TRY(add_outputs(p, item, gguf, err));
    }
    return MICA_OK;
}

/* ---------------------------------------------------------------- header -- */

#define MAX_VALUES 16

static void add_text(mica_convert_plan *p, const char *key, const char *text)
{
    if (text)
        p->values[p->value_count++] = (mica_stream_value){.key = key, .text = text};
}

static void add_number(mica_convert_plan *p, const char *key, double number, bool is_float)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", p->architecture, key);
    p->values[p->value_count++] = (mica_stream_value){
        .key = joined(p, full, strlen(full), ""), .number = number, .is_float = is_float};
}

/* Sizes of a text encoder, as llama.cpp calls them. */
static mica_status add_sizes(mica_convert_plan *p, const char *config, mica_err *err)
{
    const bool qwen3 = strcmp(p->architecture, "qwen3") == 0;
    const mica_tensor *e = mica_weights_find(p->weights, "model.embed_tokens.weight");
    mica_lm_config c = qwen3 ? mica_qwen3_config_default(e ? e->shape_[1] : 0)
                             : mica_qwen_image_text_config_default();
    MICA_TRY(mica_lm_config_read(&c, config, p->weights, err));
    add_number(p, "block_count", (double)c.layers, false);
    add_number(p, "embedding_length", (double)c.width, false);
    add_number(p, "feed_forward_length", (double)c.ffn, false);
    add_number(p, "attention.head_count", (double)c.heads, false);
    add_number(p, "attention.head_count_kv", (double)c.kv_heads, false);
    add_number(p, "attention.key_length", (double)c.head_dim, false);
    add_number(p, "attention.layer_norm_rms_epsilon", c.eps, true);
    add_number(p, "rope.freq_base", c.theta, true);
    return MICA_OK;
}

/* The text of the part's configuration, so that the file needs none beside it; NULL: there is none. */
static mica_status read_config(mica_convert_plan *p, const char *input, char **path,
                               const char **text, mica_err *err)
{
    char *data = NULL;
    size_t size = 0;
    *text = mica_weights_metadata(p->weights, "config");
    *path = mica_path_is_dir(input) ? mica_path_join(input, "config.json") : NULL;
    if (!*path || !mica_path_is_file(*path)) {
        mica_mem_free(*path);
        *path = NULL;
        return MICA_OK;
    }
    MICA_TRY(mica_file_read(*path, (size_t)1 << 20, &data, &size, err));
    *text = mica_arena_strndup(&p->arena, data, size);
    mica_mem_free(data);
    return *text ? MICA_OK : no_memory(p, err);
}

/* MLX's description of packed layers: one rule, and the layers that differ from it. */
static mica_status add_quantization(mica_convert_plan *p, const type_row *type, mica_err *err)
{
    mica_text t = {0};
    mica_text_add(&t, "{\"group_size\": 64, \"bits\": %d", type->bits);
    for (size_t i = 0; i < p->item_count; i++) {
        const mica_convert_item *item = &p->items[i];
        const int bits = mica_dtype_get(item->dtype)->size / 4;
        if (item->form != MICA_CONVERT_GROUPS || (bits == type->bits && item->group == 64))
            continue;
        char module[MICA_TENSOR_NAME_MAX + 1];
        snprintf(module, sizeof module, "%.*s", (int)(strlen(item->name) - strlen(".weight")),
                 item->name);
        mica_text_add(&t, ", ");
        mica_text_add_json_string(&t, module);
        mica_text_add(&t, ": {\"group_size\": %d, \"bits\": %d}", item->group, bits);
    }
    mica_text_add(&t, "}");
    const char *copy = t.failed ? NULL : mica_arena_strndup(&p->arena, t.data, t.size);
    mica_text_deinit(&t);
    if (!copy)
        return no_memory(p, err);
    add_text(p, "quantization", copy);
    return MICA_OK;
}

static mica_status plan_values(mica_convert_plan *p, const char *input, const type_row *type,
                               bool gguf, mica_err *err)
{
    static const char *const LEVELS[] = {"", "", "", "", "4", "5", "6", "", "8"};
    char *path = NULL;
    const char *config = NULL;
    p->values = mica_arena_calloc(&p->arena, MAX_VALUES, sizeof *p->values);
    if (!p->values)
        return no_memory(p, err);
    mica_status st = read_config(p, input, &path, &config, err);
    if (!st && gguf) {
        add_text(p, "general.architecture", p->architecture);
        p->values[p->value_count++] =
            (mica_stream_value){.key = "general.quantization_version", .number = FILE_VERSION};
        if (p->part == MICA_PART_TEXT_ENCODER)
            st = add_sizes(p, path, err);
    } else if (!st) {
        add_text(p, "format", type->bits ? "mlx" : "pt");
        add_text(p, "quantization_level", type->bits ? LEVELS[type->bits] : NULL);
        if (type->bits)
            st = add_quantization(p, type, err);
    }
    add_text(p, "config", config);
    mica_mem_free(path);
    return st;
}

/* ------------------------------------------------------------------ entry -- */

static void classify(mica_convert_plan *p)
{
    const mica_model_kind *kind;
    for (int i = 0; !p->kind && (kind = mica_model_kind_at(i)) != NULL; i++) {
        p->part = kind->classify(p->weights);
        p->kind = p->part == MICA_PART_NONE ? NULL : kind;
    }
}

/* GGUF's name of the network. Only what its readers can make sense of is written so. */
static mica_status find_architecture(mica_convert_plan *p, mica_err *err)
{
    static const struct {
        const char *kind, *name;
    } KNOWN[] = {{"qwen-image", "qwen_image"}, {"flux2-klein", "flux"}, {"z-image", "lumina2"}};
    const mica_weights *w = p->weights;
    const bool is_text = p->part == MICA_PART_TEXT_ENCODER;
    if (is_text)
        p->architecture = mica_qwen_image_is_text_encoder(w) ? "qwen2vl"
                          : mica_config_has_suffix(w, "layers.0.self_attn.q_norm.weight") ? "qwen3"
                                                                                          : NULL;
    for (size_t i = 0; p->kind && p->part == MICA_PART_TRANSFORMER && i < MICA_ARRAY_LEN(KNOWN);
         i++)
        if (strcmp(p->kind->id, KNOWN[i].kind) == 0)
            p->architecture = KNOWN[i].name;
    if (p->architecture)
        return MICA_OK;
    return MICA_FAIL(
        err, MICA_E_UNSUPPORTED,
        "%s: GGUF is written of the transformers of picture models and of Qwen2.5-VL and "
        "Qwen3 text encoders; write a .safetensors file instead",
        mica_weights_path(w));
}

static mica_status check_request(const char *input, const char *output, const type_row *type,
                                 const char *type_name, mica_err *err)
{
    const bool gguf = mica_stream_is_gguf(output);
    if (!type)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "type '%s' is not known; q8, q6, q5, q4, bf16, fp8 and int8 are",
                         type_name);
    if (!gguf && !ends_with(output, ".safetensors"))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: the output ends in .safetensors or .gguf", output);
    if (gguf && type->small == MICA_DTYPE_COUNT)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: a GGUF file has no type %s; use q8, or .safetensors", output,
                         type->name);
    if (mica_path_is_dir(output))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: this is a folder", output);
    char *index = mica_path_is_dir(input) ? mica_path_join(input, "model_index.json") : NULL;
    const bool is_whole = index && mica_path_is_file(index);
    mica_mem_free(index);
    if (is_whole)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: this is a whole model; convert its parts one by one: its transformer "
                         "folder, its text_encoder folder",
                         input);
    return MICA_OK;
}

static mica_status make(mica_convert_plan *p, const char *input, const char *output,
                        const type_row *type, mica_err *err)
{
    const bool gguf = mica_stream_is_gguf(output);
    MICA_TRY(mica_lm_weights_open(&p->weights, input, err));
    classify(p);
    if (p->part == MICA_PART_TEXT_ENCODER)
        MICA_TRY(mica_qwen_image_is_text_encoder(p->weights)
                     ? mica_qwen_image_text_rename(p->weights, err)
                     : mica_qwen3_rename(p->weights, err));
    if (gguf)
        MICA_TRY(find_architecture(p, err));
    MICA_TRY(plan_tensors(p, type, gguf, err));
    return plan_values(p, input, type, gguf, err);
}

mica_status mica_convert_plan_make(mica_convert_plan *p, const char *input, const char *output,
                                   const char *type, mica_err *err)
{
    *p = (mica_convert_plan){.part = MICA_PART_NONE};
    mica_arena_init(&p->arena, (size_t)256 << 10);
    mica_status st = check_request(input, output, find_type(type), type, err);
    if (!st)
        st = make(p, input, output, find_type(type), err);
    if (st)
        mica_convert_plan_deinit(p);
    return st;
}

void mica_convert_plan_deinit(mica_convert_plan *p)
{
    mica_weights_close(&p->weights);
    mica_arena_deinit(&p->arena);
}
