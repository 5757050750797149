/* convert_header.c - what converted files say beside their tensors; see convert.h.
 *
 *     safetensors   format, config (the part's config.json), MLX: quantization, quantization_level
 *     GGUF          architecture and sizes as llama.cpp calls them, a language model's tokenizer, config
 *     voices        the checkpoints' settings as JSON
 *
 * So that a file can be used alone, by us and by others. */
#include "models/convert.h"

#include "models/gpt_sovits/gpt_sovits_convert.h"
#include "models/mixtral/mixtral_convert.h"
#include "models/qwen_image/qwen_image_config.h"
#include "nn/lm_config.h"
#include "nn/qwen3.h"
#include "format/safetensors.h"

#include <stdio.h>
#include <string.h>

#define VALUES       48 /* beside those taken over from another file */
#define FILE_VERSION 2  /* general.quantization_version */

void mica_convert_add_value(mica_convert_plan *p, const mica_stream_value *value)
{
    if (p->value_count < p->value_cap)
        p->values[p->value_count++] = *value;
}

void mica_convert_add_text(mica_convert_plan *p, const char *key, const char *text)
{
    if (text)
        mica_convert_add_value(p, &(mica_stream_value){.key = key, .text = text});
}

static const char *own_key(mica_convert_plan *p, const char *key)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", p->architecture, key);
    return mica_arena_strndup(&p->arena, full, strlen(full));
}

void mica_convert_add_number(mica_convert_plan *p, const char *key, double number,
                             mica_stream_kind kind)
{
    const mica_stream_value v = {.key = own_key(p, key), .kind = kind, .number = number};
    if (v.key)
        mica_convert_add_value(p, &v);
}

static void add_count(mica_convert_plan *p, const char *key, int64_t number)
{
    mica_convert_add_number(p, key, (double)number, MICA_STREAM_U32);
}

/* A number of GGUF's own, whole key given. */
static void add_flag(mica_convert_plan *p, const char *key, mica_stream_kind kind, double number)
{
    mica_convert_add_value(p, &(mica_stream_value){.key = key, .kind = kind, .number = number});
}

/* ------------------------------------------------------------------- sizes -- */

static void add_sizes(mica_convert_plan *p, const mica_lm_config *c)
{
    add_count(p, "block_count", c->layers);
    add_count(p, "embedding_length", c->width);
    add_count(p, "feed_forward_length", c->ffn);
    add_count(p, "attention.head_count", c->heads);
    add_count(p, "attention.head_count_kv", c->kv_heads);
    add_count(p, "attention.key_length", c->head_dim);
    add_count(p, "attention.value_length", c->head_dim);
    mica_convert_add_number(p, "attention.layer_norm_rms_epsilon", c->eps, MICA_STREAM_F32);
    mica_convert_add_number(p, "rope.freq_base", c->theta, MICA_STREAM_F32);
}

/* Of a text encoder. */
static mica_status add_encoder(mica_convert_plan *p, const mica_convert_source *s, mica_err *err)
{
    const bool qwen3 = strcmp(p->architecture, "qwen3") == 0;
    const mica_tensor *e = mica_weights_find(s->weights, "model.embed_tokens.weight");
    mica_lm_config c = qwen3 ? mica_qwen3_config_default(e ? e->shape_[1] : 0)
                             : mica_qwen_image_text_config_default();
    MICA_TRY(mica_lm_config_read(&c, s->config_path, s->weights, err));
    add_sizes(p, &c);
    return MICA_OK;
}

/* --------------------------------------------------------- language models -- */

/* Values of a GGUF file that begin so. */
static void take_over(mica_convert_plan *p, const mica_convert_source *s, const char *prefix)
{
    const mica_meta *m;
    for (size_t i = 0; (m = mica_weights_meta_at(s->weights, i)) != NULL; i++)
        if (strncmp(m->key, prefix, strlen(prefix)) == 0)
            mica_convert_add_value(
                p, &(mica_stream_value){.key = m->key, .kind = MICA_STREAM_META, .meta = m});
}

static void add_vocabulary(mica_convert_plan *p, const mica_mixtral_vocabulary *v)
{
    static const char *const NAMES[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                                        "tokenizer.ggml.token_type"};
    const void *const lists[] = {v->texts, v->scores, v->kinds};
    mica_convert_add_text(p, "tokenizer.ggml.model", "llama");
    for (int i = 0; i < 3; i++)
        mica_convert_add_value(
            p, &(mica_stream_value){.key = NAMES[i],
                                    .kind = (mica_stream_kind)(MICA_STREAM_TEXTS + i),
                                    .list = lists[i],
                                    .count = v->count});
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", v->bos},
               {"tokenizer.ggml.eos_token_id", v->eos},
               {"tokenizer.ggml.unknown_token_id", v->unknown}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(ids); i++)
        if (ids[i].id >= 0)
            add_flag(p, ids[i].key, MICA_STREAM_U32, ids[i].id);
    add_flag(p, "tokenizer.ggml.add_bos_token", MICA_STREAM_BOOL, v->adds_bos);
    add_flag(p, "tokenizer.ggml.add_eos_token", MICA_STREAM_BOOL, v->adds_eos);
    add_flag(p, "tokenizer.ggml.add_space_prefix", MICA_STREAM_BOOL, v->space_prefix);
    mica_convert_add_text(p, "tokenizer.chat_template", v->chat_template);
}

/* The tokenizer beside the weights, or the one inside. */
static mica_status add_tokenizer(mica_convert_plan *p, const mica_convert_source *s, mica_err *err)
{
    const mica_mixtral_config *c = s->language;
    mica_mixtral_vocabulary v;
    if (mica_weights_meta(s->weights, "tokenizer.ggml.tokens")) {
        take_over(p, s, "tokenizer.");
        return MICA_OK;
    }
    const char *slash = strrchr(p->input, '/');
    const char *folder = p->input;
    if (!mica_path_is_dir(folder))
        folder = slash ? mica_arena_strndup(&p->arena, p->input, (size_t)(slash - p->input)) : ".";
    if (!folder)
        return mica_convert_no_memory(p, err);
    MICA_TRY(mica_mixtral_read_vocabulary(&v, folder, c, &p->arena, err));
    add_vocabulary(p, &v);
    return MICA_OK;
}

static mica_status add_language(mica_convert_plan *p, const mica_convert_source *s, mica_err *err)
{
    const mica_mixtral_config *c = s->language;
    add_sizes(p, &c->lm);
    add_count(p, "context_length", c->context);
    add_count(p, "vocab_size", c->lm.vocab);
    add_count(p, "rope.dimension_count", c->lm.head_dim);
    add_count(p, "expert_count", c->experts);
    add_count(p, "expert_used_count", c->active);
    if (c->window > 0)
        add_count(p, "attention.sliding_window", c->window);
    return add_tokenizer(p, s, err);
}

/* --------------------------------------------------------------------- MLX -- */

/* MLX's description of packed layers: one rule, and the layers that differ from it. */
static mica_status describe_groups(mica_convert_plan *p, mica_err *err)
{
    mica_text t = {0};
    mica_text_add(&t, "{\"group_size\": 64, \"bits\": %d", p->type->bits);
    for (size_t i = 0; i < p->item_count; i++) {
        const mica_convert_item *item = &p->items[i];
        const int bits = mica_dtype_get(item->dtype)->size / 4;
        if (item->form != MICA_CONVERT_GROUPS || (bits == p->type->bits && item->group == 64))
            continue;
        char module[MICA_TENSOR_NAME_MAX + 1];
        snprintf(module, sizeof module, "%.*s", (int)(strlen(item->name) - strlen(".weight")),
                 item->name);
        mica_text_add(&t, ", ");
        mica_text_add_json_string(&t, module);
        mica_text_add(&t, ": {\"group_size\": %d, \"bits\": %d}", item->group, bits);
    }
    mica_text_add(&t, "}");
    p->quantization = t.failed ? NULL : mica_arena_strndup(&p->arena, t.data, t.size);
    mica_text_deinit(&t);
    return p->quantization ? MICA_OK : mica_convert_no_memory(p, err);
}

static mica_status add_safetensors(mica_convert_plan *p, mica_err *err)
{
    static const char *const LEVELS[] = {"", "", "", "", "4", "5", "6", "", "8"};
    mica_convert_add_text(p, "format", p->type->bits ? "mlx" : "pt");
    if (!p->type->bits)
        return MICA_OK;
    MICA_TRY(describe_groups(p, err));
    mica_convert_add_text(p, "quantization_level", LEVELS[p->type->bits]);
    mica_convert_add_text(p, "quantization", p->quantization);
    return MICA_OK;
}

/* ---------------------------------------------------------------- settings -- */

static mica_status kept(mica_convert_plan *p, mica_text *t, const char **out, mica_err *err)
{
    *out = t->failed || !t->data ? NULL : mica_arena_strndup(&p->arena, t->data, t->size);
    mica_text_deinit(t);
    return *out ? MICA_OK : mica_convert_no_memory(p, err);
}

/* What a source's configuration is: its config.json, a checkpoint's plain data, or what GGUF's values say. */
static mica_status read_settings(mica_convert_plan *p, const mica_convert_source *s,
                                 const char **out, mica_err *err)
{
    mica_text t = {0};
    *out = s->config;
    if (!*out && mica_weights_write_settings(s->weights, "config", &t))
        return kept(p, &t, out, err);
    mica_text_deinit(&t);
    if (*out || !s->language || p->gguf)
        return MICA_OK;
    mica_mixtral_write_config(s->language, p->type->bits ? "bfloat16" : "float32", &t);
    return kept(p, &t, out, err);
}

static mica_status add_settings(mica_convert_plan *p, mica_err *err)
{
    for (int i = 0; i < p->source_count; i++) {
        mica_convert_source *s = &p->sources[i];
        const char *own = mica_gs_settings_key(s->part);
        if (own && mica_weights_metadata(s->weights, own)) /* of a file with both */
            s->config = mica_weights_metadata(s->weights, own);
        MICA_TRY(read_settings(p, s, &s->config, err));
        mica_convert_add_text(p, p->source_count > 1 ? own : "config", s->config);
        if (s->part == MICA_PART_SYNTHESIZER)
            mica_convert_add_text(p, "version",
                                  mica_gs_version_name(s->weights)
                                      ? mica_gs_version_name(s->weights)
                                      : mica_weights_metadata(s->weights, "version"));
    }
    return MICA_OK;
}

/* ------------------------------------------------------------------- entry -- */

mica_status mica_convert_add_header(mica_convert_plan *p, mica_err *err)
{
    const mica_convert_source *s = &p->sources[0];
    size_t more = 0;
    while (mica_weights_meta_at(s->weights, more))
        more++;
    p->value_cap = VALUES + more;
    p->values = mica_arena_calloc(&p->arena, p->value_cap, sizeof *p->values);
    if (!p->values)
        return mica_convert_no_memory(p, err);
    if (p->gguf) {
        mica_convert_add_text(p, "general.architecture", p->architecture);
        add_flag(p, "general.quantization_version", MICA_STREAM_U32, FILE_VERSION);
        add_flag(p, "general.file_type", MICA_STREAM_U32, p->type->file_type);
        if (s->part == MICA_PART_TEXT_ENCODER)
            MICA_TRY(add_encoder(p, s, err));
        if (s->language)
            MICA_TRY(add_language(p, s, err));
    } else
        MICA_TRY(add_safetensors(p, err));
    return add_settings(p, err);
}
