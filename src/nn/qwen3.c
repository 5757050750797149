/* qwen3.c - Qwen3 text encoders; see qwen3.h.
 *
 * Reference: transformers models/qwen3/{configuration,modeling}_qwen3.py and the chat template in
 * tokenizer_config.json; diffusers pipeline_z_image.py _encode_prompt, pipeline_flux2_klein.py. */
#include "nn/qwen3.h"

#include "base/mem.h"
#include "nn/lm_gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct release {
    const char *name;
    int64_t width, ffn, heads, layers;
} release;

/* All have heads of 128, 8 key heads and a vocabulary of 151936 rows. */
static const release RELEASES[] = {
    {"Qwen3-0.6B", 1024, 3072, 16, 28}, {"Qwen3-1.7B", 2048, 6144, 16, 28},
    {"Qwen3-4B", 2560, 9728, 32, 36},   {"Qwen3-8B", 4096, 12288, 32, 36},
    {"Qwen3-14B", 5120, 17408, 40, 40},
};

static const release *find_release(int64_t width)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(RELEASES); i++)
        if (RELEASES[i].width == width)
            return &RELEASES[i];
    return NULL;
}

const char *mica_qwen3_name(int64_t width)
{
    const release *r = find_release(width);
    return r ? r->name : NULL;
}

mica_lm_config mica_qwen3_config_default(int64_t width)
{
    const release *r =
        find_release(width) ? find_release(width) : find_release(MICA_QWEN3_WIDTH_4B);
    return (mica_lm_config){.vocab = 151936,
                            .width = r->width,
                            .ffn = r->ffn,
                            .heads = r->heads,
                            .kv_heads = 8,
                            .head_dim = 128,
                            .layers = r->layers,
                            .eps = 1e-6,
                            .theta = 1e6,
                            .qk_norm = true,
                            .sensitive = true};
}

/* -------------------------------------------------------------------- files -- */

bool mica_qwen3_probe(const mica_weights *w)
{
    return mica_config_has_suffix(w, "embed_tokens.weight") &&
           mica_config_has_suffix(w, "layers.0.self_attn.q_proj.weight");
}

static bool has_prefix(const mica_weights *w, const char *prefix)
{
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (strncmp(mica_weights_name(w, i), prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

/* What a text encoder is, from names that Qwen3 has not; NULL: nothing speaks against it. */
static const char *stranger(const mica_weights *w)
{
    const bool qk_norm = mica_config_has_suffix(w, "layers.0.self_attn.q_norm.weight");
    const bool visual = has_prefix(w, "visual.") || has_prefix(w, "model.visual.") ||
                        has_prefix(w, "model.language_model.") || has_prefix(w, "language_model.");
    if (mica_config_has_suffix(w, "layers.0.self_attn.q_proj.bias"))
        return visual ? "a Qwen2.5-VL" : "a Qwen2.5";
    if (visual && qk_norm)
        return "a Qwen3-VL";
    if (mica_config_has_suffix(w, "layers.0.mlp.experts.0.gate_proj.weight"))
        return "a mixture of experts";
    return qk_norm ? NULL : "a language model without norms of q and k";
}

/* "Qwen3-4B", or "a Qwen3 of hidden size 48". */
static const char *wanted(int64_t width, char *buffer, size_t size)
{
    const char *name = mica_qwen3_name(width);
    if (name)
        snprintf(buffer, size, "%s (hidden size %lld)", name, (long long)width);
    else if (width > 0)
        snprintf(buffer, size, "a Qwen3 of hidden size %lld", (long long)width);
    else
        snprintf(buffer, size, "a Qwen3");
    return buffer;
}

static mica_status check_model_type(const mica_json *j, const char *needed, const char *model,
                                    mica_err *err)
{
    const char *type = NULL;
    if (!mica_json_find(j->root, "model_type"))
        return MICA_OK;
    MICA_TRY(mica_json_get_string(j, j->root, "model_type", &type, err));
    if (strcmp(type, "qwen3") != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: model_type is \"%s\"; the text encoder of %s is %s", j->name, type,
                         model, needed);
    return MICA_OK;
}

mica_status mica_qwen3_check(const mica_weights *w, const char *json_path, const char *model,
                             int64_t width, mica_err *err)
{
    char needed[64];
    mica_json j = {0};
    bool found;
    wanted(width, needed, sizeof needed);
    if (!mica_qwen3_probe(w))
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: its tensors are not a language model's; the text encoder of %s is %s",
                         mica_weights_path(w), model, needed);
    const char *what = stranger(w);
    if (what)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: its tensors are those of %s; the text encoder of %s is %s",
                         mica_weights_path(w), what, model, needed);
    MICA_TRY(mica_config_json_open(&j, json_path, w, &found, err));
    const mica_status st = found ? check_model_type(&j, needed, model, err) : MICA_OK;
    mica_json_close(&j);
    return st;
}

static bool map_name(void *user, const char *name, char *out, size_t cap)
{
    static const char *const PREFIXES[] = {"text_encoder.", "text_encoders.qwen3.", NULL};
    (void)user;
    for (const char *const *p = PREFIXES; *p; p++)
        if (strncmp(name, *p, strlen(*p)) == 0)
            return (size_t)snprintf(out, cap, "%s", name + strlen(*p)) < cap;
    /* Saved as the bare Qwen3Model: without the head's "model." */
    if (strncmp(name, "layers.", 7) == 0 || strncmp(name, "embed_tokens.", 13) == 0 ||
        strcmp(name, "norm.weight") == 0)
        return (size_t)snprintf(out, cap, "model.%s", name) < cap;
    return false;
}

mica_status mica_qwen3_rename(mica_weights *w, mica_err *err)
{
    return mica_weights_rename(w, map_name, NULL, err);
}

mica_status mica_qwen3_open(mica_weights **files, mica_lm_config *c, const char *path,
                            const char *json_path, const char *model, int64_t width, mica_err *err)
{
    char needed[64], is[64];
    *c = mica_qwen3_config_default(width);
    MICA_TRY(mica_lm_weights_open(files, path, err));
    MICA_TRY(mica_qwen3_check(*files, json_path, model, width, err));
    MICA_TRY(mica_qwen3_rename(*files, err));
    MICA_TRY(mica_lm_config_read(c, json_path, *files, err));
    if (width > 0 && c->width != width)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: this is %s; the text encoder of %s is %s",
                         path, wanted(c->width, is, sizeof is), model,
                         wanted(width, needed, sizeof needed));
    return MICA_OK;
}

/* ------------------------------------------------------------------ prompts -- */

static const char BEFORE[] = "<|im_start|>user\n";
static const char AFTER[] = "<|im_end|>\n<|im_start|>assistant\n";
static const char NO_THOUGHT[] = "<think>\n\n</think>\n\n";

/* Room for `length` ids, the first `count` of `ids` in it and `pad` behind them. */
static mica_status finish(const int32_t *ids, size_t count, int32_t pad, int64_t length,
                          mica_qwen3_prompt *out, mica_err *err)
{
    *out = (mica_qwen3_prompt){.length = length, .full_count = (int64_t)count};
    out->count = MICA_MIN(out->full_count, length);
    out->ids = mica_mem_calloc((size_t)length, sizeof *out->ids);
    if (!out->ids)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld token ids", (long long)length);
    for (int64_t i = 0; i < length; i++)
        out->ids[i] = i < out->count ? ids[i] : pad;
    return MICA_OK;
}

mica_status mica_qwen3_tokenize(const mica_tokenizer *tokenizer, const char *text, bool thinking,
                                int64_t length, mica_qwen3_prompt *out, mica_err *err)
{
    const int32_t pad = mica_tokenizer_find(tokenizer, "<|endoftext|>");
    mica_text all = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    *out = (mica_qwen3_prompt){0};
    if (pad < 0 || mica_tokenizer_find(tokenizer, "<|im_start|>") < 0)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the tokenizer has no <|endoftext|> or <|im_start|>; it is not Qwen3's");
    mica_text_add_bytes(&all, BEFORE, sizeof BEFORE - 1);
    mica_text_add_bytes(&all, text, strlen(text));
    mica_text_add_bytes(&all, AFTER, sizeof AFTER - 1);
    if (!thinking)
        mica_text_add_bytes(&all, NO_THOUGHT, sizeof NO_THOUGHT - 1);
    mica_status st = all.failed
                         ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the prompt")
                         : mica_tokenizer_encode(tokenizer, all.data, all.size, &ids, &count, err);
    mica_text_deinit(&all);
    if (!st)
        st = finish(ids, count, pad, length, out, err);
    mica_mem_free(ids);
    return st;
}

mica_status mica_qwen3_prompt_synthetic(const char *text, int64_t length, mica_qwen3_prompt *out,
                                        mica_err *err)
{
    int64_t count = MICA_MIN((int64_t)strlen(text) / 4 + 1, length);
    *out = (mica_qwen3_prompt){0};
    if (strncmp(text, "tokens=", 7) == 0) {
        char *end;
        count = strtol(text + 7, &end, 10);
        if (*end || count < 1 || count > length)
            return MICA_FAIL(err, MICA_E_USAGE, "\"%s\": the number must be 1 to %lld", text,
                             (long long)length);
    }
    MICA_TRY(finish(NULL, 0, 0, length, out, err));
    out->count = out->full_count = count;
    for (int64_t i = 0; i < length; i++)
        out->ids[i] = (int32_t)(i * 7919 % 150000);
    return MICA_OK;
}

void mica_qwen3_prompt_deinit(mica_qwen3_prompt *p)
{
    mica_mem_free(p->ids);
    *p = (mica_qwen3_prompt){0};
}

mica_status mica_qwen3_prompt_tap(const mica_qwen3_prompt *p, const mica_tap_sink *taps,
                                  const char *name, mica_err *err)
{
    if (!taps)
        return MICA_OK;
    int32_t *mask = mica_mem_calloc((size_t)p->length, sizeof *mask);
    if (!mask)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to trace %lld token ids",
                         (long long)p->length);
    for (int64_t i = 0; i < p->count; i++)
        mask[i] = 1;
    const mica_tensor ids = mica_tensor_2d(p->ids, MICA_DTYPE_I32, 1, p->length);
    const mica_tensor ones = mica_tensor_2d(mask, MICA_DTYPE_I32, 1, p->length);
    mica_tap_host(taps, &ids, "%s.input_ids", name);
    mica_tap_host(taps, &ones, "%s.attention_mask", name);
    mica_mem_free(mask);
    return MICA_OK;
}
