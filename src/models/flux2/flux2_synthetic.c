/* flux2_synthetic.c - a FLUX.2-klein of random weights at full width, for measurements.
 *
 *   "layers=1,single_layers=2,text_layers=9"    5, 20 and 27 unless given; the VAE is always whole
 *   "size=9"                                    the 9B model: 8 and 24 layers, width 4096
 *
 * text_layers is a multiple of three: the states are read after each third. Weights are bf16 in
 * memory of their own: 4B has 0.49 GB per double block, 0.25 GB per single block, 0.2 GB per layer
 * of the text encoder and 0.8 GB for its vocabulary. There is no tokenizer. */
#include "models/flux2/flux2.h"

typedef struct settings {
    int64_t size, layers, single_layers, text_layers;
} settings;

static mica_status read_spec(settings *s, const char *spec, mica_err *err)
{
    const mica_synthetic_key keys[] = {{"size", &s->size, 1000, "4|9"},
                                       {"layers", &s->layers, 1000, NULL},
                                       {"single_layers", &s->single_layers, 1000, NULL},
                                       {"text_layers", &s->text_layers, 1000, NULL}};
    MICA_TRY(mica_synthetic_read(spec, "flux2-klein", keys, MICA_ARRAY_LEN(keys), err));
    if (s->size != 4 && s->size != 9)
        return MICA_FAIL(err, MICA_E_USAGE, "size=%lld: there are 4 and 9", (long long)s->size);
    if (s->text_layers % 3)
        return MICA_FAIL(err, MICA_E_USAGE, "text_layers=%lld: must be a multiple of three",
                         (long long)s->text_layers);
    return MICA_OK;
}

static void apply(mica_flux2 *m, const settings *s)
{
    mica_flux2_config *c = &m->transformer.config;
    mica_lm_config *text = &m->base.text_encoder.config;
    *c = mica_flux2_config_default();
    if (s->size == 9) {
        c->heads = 32;
        c->width = 4096;
        c->ffn = 12288;
        c->text_width = 3 * MICA_QWEN3_WIDTH_8B;
        c->layers = 8;
        c->single_layers = 24;
    }
    *text = mica_qwen3_config_default(c->text_width / 3);
    c->layers = s->layers ? s->layers : c->layers;
    c->single_layers = s->single_layers ? s->single_layers : c->single_layers;
    mica_flux2_set_states(text);
    for (int i = 0; i < 3; i++)
        text->states[i] = (int)s->text_layers / 3 * (i + 1);
    text->layers = MICA_MAX(text->layers, s->text_layers + 1);
    m->vae_config = mica_kl_vae_config_default(32);
    mica_flux2_schedule_default(&m->base.schedule);
    m->variant = (mica_flux2_variant){.known = true, .distilled = true};
}

static mica_status fill(mica_flux2 *m, mica_err *err)
{
    mica_picture_model *b = &m->base;
    mica_flux2_weights *w = &m->transformer;
    MICA_TRY(mica_flux2_weights_fill(&w->config, b->transformer_files, &b->arena, err));
    MICA_TRY(mica_lm_fill(&b->text_encoder.config, b->text_files, &b->arena, err));
    MICA_TRY(mica_kl_vae_fill(&m->vae_config, b->vae_files, &b->arena, err));
    MICA_TRY(mica_flux2_weights_bind(w, b->transformer_files, &b->arena, err));
    MICA_TRY(mica_lm_bind(&b->text_encoder, b->text_files, "text encoder", &b->arena, err));
    return mica_flux2_alloc_statistics(m, err);
}

static mica_status build(mica_picture_model *base, const char *spec, mica_err *err)
{
    settings s = {.size = 4, .text_layers = 27};
    mica_flux2 *m = (mica_flux2 *)base;
    MICA_TRY(read_spec(&s, spec, err));
    apply(m, &s);
    return fill(m, err);
}

mica_status mica_flux2_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    return mica_picture_model_synthetic(out, &mica_flux2_family, spec, build, err);
}
