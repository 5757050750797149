/* qwen_image_synthetic.c - a Qwen-Image of random weights at full width, for measurements.
 *
 *   "layers=2,text_layers=1"    60 and 28 unless given; the VAE is always whole
 *
 * Weights are bf16 in memory of their own: 0.68 GB per transformer block, 0.47 GB per text
 * encoder layer and 1.1 GB for its vocabulary. There is no tokenizer. */
#include "models/qwen_image/qwen_image.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

typedef struct spec_key {
    const char *name;
    int64_t *value;
} spec_key;

/* "name=number" of length n. */
static mica_status read_setting(const char *text, size_t n, const spec_key *keys, mica_err *err)
{
    for (; keys->name; keys++) {
        const size_t k = strlen(keys->name);
        if (n <= k + 1 || strncmp(text, keys->name, k) != 0 || text[k] != '=')
            continue;
        char *end;
        const long value = strtol(text + k + 1, &end, 10);
        if (end != text + n || value < 1 || value > 1000)
            return MICA_FAIL(err, MICA_E_USAGE, "\"%.*s\": the number must be 1 to 1000", (int)n,
                             text);
        *keys->value = value;
        return MICA_OK;
    }
    return MICA_FAIL(err, MICA_E_USAGE,
                     "\"%.*s\" is not a setting of a synthetic qwen-image; there are layers=N and "
                     "text_layers=N",
                     (int)n, text);
}

static mica_status read_spec(mica_qwen_image *m, const char *spec, mica_err *err)
{
    const spec_key keys[] = {{"layers", &m->transformer.config.layers},
                             {"text_layers", &m->text_encoder.config.layers},
                             {NULL, NULL}};
    while (*spec) {
        const size_t n = strcspn(spec, ",");
        MICA_TRY(read_setting(spec, n, keys, err));
        spec += n + (spec[n] == ',');
    }
    return MICA_OK;
}

static mica_status fill(mica_qwen_image *m, mica_err *err)
{
    MICA_TRY(mica_weights_open_empty(&m->transformer_files, err));
    MICA_TRY(mica_weights_open_empty(&m->text_files, err));
    MICA_TRY(mica_weights_open_empty(&m->vae_files, err));
    MICA_TRY(
        mica_qwen_image_weights_fill(&m->transformer.config, m->transformer_files, &m->arena, err));
    MICA_TRY(mica_lm_fill(&m->text_encoder.config, m->text_files, &m->arena, err));
    MICA_TRY(mica_qwen_vae_fill(&m->vae_config, m->vae_files, &m->arena, err));
    MICA_TRY(mica_qwen_image_weights_bind(&m->transformer, m->transformer_files, &m->arena, err));
    MICA_TRY(mica_lm_bind(&m->text_encoder, m->text_files, "text encoder", &m->arena, err));
    memcpy(m->base.hash, "synthetic", sizeof "synthetic");
    return mica_qwen_image_check_parts(m, err);
}

mica_status mica_qwen_image_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    mica_qwen_image *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a synthetic model");
    m->base.kind = &mica_qwen_image_kind;
    mica_arena_init(&m->arena, 1 << 20);
    m->transformer.config = mica_qwen_image_config_default();
    m->text_encoder.config = mica_qwen_image_text_config_default();
    m->vae_config = mica_qwen_vae_config_default();
    mica_qwen_image_schedule_default(&m->schedule);
    mica_status st = read_spec(m, spec, err);
    if (!st)
        st = fill(m, err);
    if (st)
        mica_qwen_image_kind.close(out);
    return st;
}

mica_status mica_qwen_image_synthetic_prompt(const char *text, mica_qwen_image_prompt *out,
                                             mica_err *err)
{
    size_t tokens = strlen(text) / 4 + 1;
    if (strncmp(text, "tokens=", 7) == 0) {
        char *end;
        const long asked = strtol(text + 7, &end, 10);
        if (*end || asked < 1 || asked > MICA_QWEN_IMAGE_MAX_TOKENS)
            return MICA_FAIL(err, MICA_E_USAGE, "\"%s\": the number must be 1 to %d", text,
                             MICA_QWEN_IMAGE_MAX_TOKENS);
        tokens = (size_t)asked;
    }
    tokens = MICA_MIN(tokens, (size_t)MICA_QWEN_IMAGE_MAX_TOKENS);
    *out = (mica_qwen_image_prompt){.count = tokens + MICA_QWEN_IMAGE_DROPPED,
                                    .dropped = MICA_QWEN_IMAGE_DROPPED};
    out->full_count = out->count;
    out->ids = mica_mem_calloc(out->count, sizeof *out->ids);
    if (!out->ids)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu token ids", out->count);
    for (size_t i = 0; i < out->count; i++)
        out->ids[i] = (int32_t)(i * 7919 % 150000);
    return MICA_OK;
}
