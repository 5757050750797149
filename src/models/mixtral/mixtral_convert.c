/* mixtral_convert.c - see mixtral_convert.h. */
#include "models/mixtral/mixtral_convert.h"

#include "base/file.h"
#include "base/mem.h"
#include "models/mixtral/mixtral_tokenizer.h"
#include "models/mixtral/mixtral_weights.h"
#include "text/chat_template.h"
#include "text/tokenizer_pieces.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

mica_status mica_mixtral_prepare(mica_mixtral_config *c, mica_weights *w, const char *config_path,
                                 mica_arena *arena, mica_err *err)
{
    mica_mixtral_weights tables = {.config = mica_mixtral_config_default()};
    *c = tables.config;
    MICA_TRY(mica_mixtral_rename(w, &c->interleaved, err));
    MICA_TRY(mica_mixtral_config_read(c, config_path, w, err));
    tables.config = *c;
    return mica_mixtral_bind(&tables, w, arena, err);
}

/* ------------------------------------------------------------------- names -- */

bool mica_mixtral_is_expert(const char *name, mica_mixtral_expert *out)
{
    int end = 0;
    if (sscanf(name, "model.layers.%5d.block_sparse_moe.experts.%5d.w%1d.weight%n", &out->layer,
               &out->index, &out->part, &end) != 3)
        return false;
    return end > 0 && name[end] == '\0' && out->part >= 1 && out->part <= 3;
}

void mica_mixtral_expert_name(const mica_mixtral_expert *e, char *out, size_t cap)
{
    snprintf(out, cap, "model.layers.%d.block_sparse_moe.experts.%d.w%d.weight", e->layer, e->index,
             e->part);
}

void mica_mixtral_stack_name(const mica_mixtral_expert *e, bool gguf, char *out, size_t cap)
{
    static const char *const NAMES[] = {"", "gate", "down", "up"};
    if (gguf)
        snprintf(out, cap, "blk.%d.ffn_%s_exps.weight", e->layer, NAMES[e->part]);
    else
        snprintf(out, cap, "model.layers.%d.block_sparse_moe.switch_mlp.%s_proj.weight", e->layer,
                 NAMES[e->part]);
}

bool mica_mixtral_gguf_name(const char *name, char *out, size_t cap)
{
    static const char *const REST[][2] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                          {"model.norm.weight", "output_norm.weight"},
                                          {"lm_head.weight", "output.weight"}};
    static const char *const LAYER[][2] = {
        {"input_layernorm", "attn_norm"},         {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},           {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},           {"self_attn.o_proj", "attn_output"},
        {"block_sparse_moe.gate", "ffn_gate_inp"}};
    int layer = 0, n = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(REST); i++)
        if (strcmp(name, REST[i][0]) == 0)
            return (size_t)snprintf(out, cap, "%s", REST[i][1]) < cap;
    if (sscanf(name, "model.layers.%5d.%n", &layer, &n) != 1 || n == 0)
        return false;
    for (size_t i = 0; i < MICA_ARRAY_LEN(LAYER); i++) {
        const size_t m = strlen(LAYER[i][0]);
        if (strncmp(name + n, LAYER[i][0], m) == 0 && strcmp(name + n + m, ".weight") == 0)
            return (size_t)snprintf(out, cap, "blk.%d.%s.weight", layer, LAYER[i][1]) < cap;
    }
    return false;
}

int64_t mica_mixtral_rotary_heads(const mica_mixtral_config *c, const char *name)
{
    return strstr(name, ".self_attn.q_proj.")   ? c->lm.heads
           : strstr(name, ".self_attn.k_proj.") ? c->lm.kv_heads
                                                : 0;
}

/* ------------------------------------------------------------- config.json -- */

void mica_mixtral_write_config(const mica_mixtral_config *c, const char *dtype, mica_text *out)
{
    const mica_lm_config *lm = &c->lm;
    mica_text_add(out,
                  "{\n  \"architectures\": [\"MixtralForCausalLM\"],\n  \"hidden_act\": \"silu\",\n"
                  "  \"model_type\": \"mixtral\",\n  \"vocab_size\": %" PRId64
                  ",\n  \"hidden_size\": %" PRId64 ",\n  \"intermediate_size\": %" PRId64
                  ",\n  \"num_hidden_layers\": %" PRId64 ",\n  \"num_attention_heads\": %" PRId64
                  ",\n  \"num_key_value_heads\": %" PRId64 ",\n  \"head_dim\": %" PRId64 ",\n",
                  lm->vocab, lm->width, lm->ffn, lm->layers, lm->heads, lm->kv_heads, lm->head_dim);
    mica_text_add(out,
                  "  \"num_local_experts\": %" PRId64 ",\n  \"num_experts_per_tok\": %" PRId64
                  ",\n  \"rms_norm_eps\": %.9g,\n  \"rope_theta\": %.17g,\n"
                  "  \"max_position_embeddings\": %" PRId64
                  ",\n  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\",\n",
                  c->experts, c->active, lm->eps, lm->theta, c->context, c->tied ? "true" : "false",
                  dtype);
    if (c->window > 0)
        mica_text_add(out, "  \"sliding_window\": %" PRId64 ",\n", c->window);
    mica_text_add(out, "  \"eos_token_id\": [");
    for (size_t i = 0; i < c->end_count; i++)
        mica_text_add(out, "%s%" PRId64, i ? ", " : "", c->ends[i]);
    mica_text_add(out, "]\n}\n");
}

/* -------------------------------------------------------------- vocabulary -- */

static mica_status no_memory(const char *folder, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its vocabulary", folder);
}

/* Rows beyond the tokens get fillers: readers want a token for every row. */
static mica_status copy_pieces(mica_mixtral_vocabulary *v, const mica_tokenizer *t,
                               const char *folder, mica_arena *arena, mica_err *err)
{
    v->texts = mica_arena_calloc(arena, v->count, sizeof *v->texts);
    v->scores = mica_arena_calloc(arena, v->count, sizeof *v->scores);
    v->kinds = mica_arena_calloc(arena, v->count, sizeof *v->kinds);
    if (!v->texts || !v->scores || !v->kinds)
        return no_memory(folder, err);
    MICA_TRY(mica_tokenizer_get_scores(t, v->scores, v->count, err));
    for (size_t i = 0; i < v->count; i++) {
        char filler[32];
        size_t size = 0;
        const char *text = mica_tokenizer_get_spelling(t, (int32_t)i, &size);
        snprintf(filler, sizeof filler, "[PAD%zu]", i);
        v->texts[i] = text ? mica_arena_strndup(arena, text, size)
                           : mica_arena_strndup(arena, filler, strlen(filler));
        v->kinds[i] = (int32_t)mica_tokenizer_get_kind(t, (int32_t)i);
        if (v->kinds[i] == MICA_PIECE_UNKNOWN)
            v->unknown = (int32_t)i;
        if (!v->texts[i])
            return no_memory(folder, err);
    }
    return MICA_OK;
}

static mica_status fill(mica_mixtral_vocabulary *v, const mica_tokenizer *t, const char *folder,
                        const mica_mixtral_config *c, mica_arena *arena, mica_err *err)
{
    char *source = NULL;
    v->adds_bos = mica_tokenizer_bos(t) >= 0;
    v->adds_eos = mica_tokenizer_eos(t) >= 0;
    v->bos = v->adds_bos ? mica_tokenizer_bos(t) : mica_tokenizer_find(t, "<s>");
    v->eos = c->end_count > 0 ? (int32_t)c->ends[0] : mica_tokenizer_find(t, "</s>");
    v->space_prefix = mica_tokenizer_puts_space(t);
    MICA_TRY(copy_pieces(v, t, folder, arena, err));
    MICA_TRY(mica_chat_template_find(folder, &source, err));
    if (source)
        v->chat_template = mica_arena_strndup(arena, source, strlen(source));
    const bool failed = source && !v->chat_template;
    mica_mem_free(source);
    return failed ? no_memory(folder, err) : MICA_OK;
}

mica_status mica_mixtral_read_vocabulary(mica_mixtral_vocabulary *v, const char *folder,
                                         const mica_mixtral_config *c, mica_arena *arena,
                                         mica_err *err)
{
    mica_tokenizer *t = NULL;
    char *path = mica_path_join(folder, "tokenizer.json");
    const bool found = path && mica_path_is_file(path);
    mica_mem_free(path);
    *v = (mica_mixtral_vocabulary){.count = (size_t)c->lm.vocab, .unknown = -1};
    if (!found)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: there is no tokenizer.json; a GGUF file holds its model's tokenizer",
                         folder);
    MICA_TRY(mica_tokenizer_open(&t, folder, err));
    mica_status st = MICA_OK;
    if (mica_tokenizer_vocab_size(t) > c->lm.vocab)
        st = MICA_FAIL(err, MICA_E_FORMAT, "%s: its tokenizer has %d tokens, the model %lld",
                       folder, (int)mica_tokenizer_vocab_size(t), (long long)c->lm.vocab);
    if (!st)
        st = fill(v, t, folder, c, arena, err);
    mica_tokenizer_close(&t);
    return st;
}

/* ------------------------------------------------------- the way back to files -- */

static void add_token(mica_text *out, const char *key, const mica_tokenizer *t, int64_t id)
{
    size_t size = 0;
    const char *text = id >= 0 && id < mica_tokenizer_vocab_size(t)
                           ? mica_tokenizer_get_spelling(t, (int32_t)id, &size)
                           : NULL;
    char *copy = text ? mica_mem_strndup(text, size) : NULL;
    if (copy) {
        mica_text_add(out, "  \"%s\": ", key);
        mica_text_add_json_string(out, copy);
        mica_text_add(out, ",\n");
    }
    mica_mem_free(copy);
}

static void write_tokenizer_config(const mica_weights *w, const mica_tokenizer *t, mica_text *out)
{
    const char *template = mica_weights_metadata(w, "tokenizer.chat_template");
    mica_text_add(out, "{\n");
    add_token(out, "bos_token", t, mica_weights_meta_int(w, "tokenizer.ggml.bos_token_id", 1));
    add_token(out, "eos_token", t, mica_weights_meta_int(w, "tokenizer.ggml.eos_token_id", 2));
    add_token(out, "unk_token", t, mica_weights_meta_int(w, "tokenizer.ggml.unknown_token_id", -1));
    if (template) {
        mica_text_add(out, "  \"chat_template\": ");
        mica_text_add_json_string(out, template);
        mica_text_add(out, ",\n");
    }
    mica_text_add(out, "  \"clean_up_tokenization_spaces\": false,\n"
                       "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}

mica_status mica_mixtral_write_tokenizer(const mica_weights *w, mica_text *tokenizer,
                                         mica_text *config, mica_err *err)
{
    mica_tokenizer *t = NULL;
    MICA_TRY(mica_mixtral_open_vocabulary(&t, w, err));
    const mica_status st = mica_tokenizer_write_json(t, tokenizer, err);
    write_tokenizer_config(w, t, config);
    mica_tokenizer_close(&t);
    if (!st && (tokenizer->failed || config->failed))
        return no_memory(mica_weights_path(w), err);
    return st;
}
