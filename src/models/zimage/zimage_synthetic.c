/* zimage_synthetic.c - a Z-Image of random weights at full width, for measurements.
 *
 *   "layers=2,refiners=2,text_layers=1"    30, 2 and 35 unless given; the VAE is always whole
 *
 * Weights are bf16 in memory of their own: 0.36 GB per transformer block, 0.2 GB per text encoder
 * layer and 0.8 GB for its vocabulary. There is no tokenizer. */
#include "models/zimage/zimage.h"

/* text_layers are those that run: the encoder's last one is never bound. */
static mica_status read_spec(mica_zimage *m, const char *spec, mica_err *err)
{
    mica_lm_config *text = &m->base.text_encoder.config;
    int64_t text_layers = text->layers - 1;
    const mica_synthetic_key keys[] = {{"layers", &m->transformer.config.layers, 1000, NULL},
                                       {"refiners", &m->transformer.config.refiners, 100, NULL},
                                       {"text_layers", &text_layers, 1000, NULL}};
    MICA_TRY(mica_synthetic_read(spec, "z-image", keys, MICA_ARRAY_LEN(keys), err));
    text->layers = text_layers + 1;
    mica_zimage_choose_state(text);
    return MICA_OK;
}

static mica_status fill(mica_zimage *m, mica_err *err)
{
    mica_picture_model *b = &m->base;
    mica_zimage_weights *w = &m->transformer;
    MICA_TRY(mica_zimage_weights_fill(&w->config, b->transformer_files, &b->arena, err));
    MICA_TRY(mica_lm_fill(&b->text_encoder.config, b->text_files, &b->arena, err));
    MICA_TRY(mica_kl_vae_fill(&m->vae_config, b->vae_files, &b->arena, err));
    MICA_TRY(mica_zimage_weights_bind(w, b->transformer_files, &b->arena, err));
    return mica_lm_bind(&b->text_encoder, b->text_files, "text encoder", &b->arena, err);
}

static mica_status build(mica_picture_model *base, const char *spec, mica_err *err)
{
    mica_zimage *m = (mica_zimage *)base;
    m->transformer.config = mica_zimage_config_default();
    base->text_encoder.config = mica_qwen3_config_default(MICA_QWEN3_WIDTH_4B);
    m->vae_config = mica_kl_vae_config_default((int)m->transformer.config.channels);
    mica_zimage_schedule_default(&base->schedule);
    m->distilled = true;
    MICA_TRY(read_spec(m, spec, err));
    return fill(m, err);
}

mica_status mica_zimage_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    return mica_picture_model_synthetic(out, &mica_zimage_family, spec, build, err);
}
