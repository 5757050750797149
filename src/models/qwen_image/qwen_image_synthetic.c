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

static mica_status read_spec(mica_qwen_image *m, const char *spec, mica_err *err)
{
    const mica_synthetic_key keys[] = {
        {"layers", &m->transformer.config.layers, 1000, NULL},
        {"text_layers", &m->base.text_encoder.config.layers, 1000, NULL}};
    return mica_synthetic_read(spec, "qwen-image", keys, MICA_ARRAY_LEN(keys), err);
}

static mica_status fill(mica_qwen_image *m, mica_err *err)
{
    mica_picture_model *b = &m->base;
    mica_qwen_image_weights *w = &m->transformer;
    MICA_TRY(mica_qwen_image_weights_fill(&w->config, b->transformer_files, &b->arena, err));
    MICA_TRY(mica_lm_fill(&b->text_encoder.config, b->text_files, &b->arena, err));
    MICA_TRY(mica_qwen_vae_fill(&m->vae_config, b->vae_files, &b->arena, err));
    MICA_TRY(mica_qwen_image_weights_bind(w, b->transformer_files, &b->arena, err));
    return mica_lm_bind(&b->text_encoder, b->text_files, "text encoder", &b->arena, err);
}

static mica_status build(mica_picture_model *base, const char *spec, mica_err *err)
{
    mica_qwen_image *m = (mica_qwen_image *)base;
    m->transformer.config = mica_qwen_image_config_default();
    base->text_encoder.config = mica_qwen_image_text_config_default();
    m->vae_config = mica_qwen_vae_config_default();
    mica_qwen_image_schedule_default(&base->schedule);
    MICA_TRY(read_spec(m, spec, err));
    return fill(m, err);
}

mica_status mica_qwen_image_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    return mica_picture_model_synthetic(out, &mica_qwen_image_family, spec, build, err);
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
