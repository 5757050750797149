/* flux2_synthetic.c - a FLUX.2-klein of random weights at full width, for measurements.
 *
 *   "layers=1,single_layers=2,text_layers=9"    5, 20 and 27 unless given; the VAE is always whole
 *   "size=9"                                    the 9B model: 8 and 24 layers, width 4096
 *
 * text_layers is a multiple of three: the states are read after each third. Weights are bf16 in
 * memory of their own: 4B has 0.49 GB per double block, 0.25 GB per single block, 0.2 GB per layer
 * of the text encoder and 0.8 GB for its vocabulary. There is no tokenizer. */
#include "models/flux2/flux2.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
    int64_t size, layers, single_layers, text_layers;
} settings;

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
                     "\"%.*s\" is not a setting of a synthetic flux2-klein; there are size=4|9, "
                     "layers=N, single_layers=N and text_layers=N",
                     (int)n, text);
}

static mica_status read_spec(settings *s, const char *spec, mica_err *err)
{
    const spec_key keys[] = {{"size", &s->size},
                             {"layers", &s->layers},
                             {"single_layers", &s->single_layers},
                             {"text_layers", &s->text_layers},
                             {NULL, NULL}};
    while (*spec) {
        const size_t n = strcspn(spec, ",");
        MICA_TRY(read_setting(spec, n, keys, err));
        spec += n + (spec[n] == ',');
    }
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
    mica_lm_config *text = &m->text_encoder.config;
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
    mica_flux2_schedule_default(&m->schedule);
    m->variant = (mica_flux2_variant){.known = true, .distilled = true};
}

static mica_status fill(mica_flux2 *m, mica_err *err)
{
    mica_flux2_weights *w = &m->transformer;
    MICA_TRY(mica_weights_open_empty(&m->transformer_files, err));
    MICA_TRY(mica_weights_open_empty(&m->text_files, err));
    MICA_TRY(mica_weights_open_empty(&m->vae_files, err));
    MICA_TRY(mica_flux2_weights_fill(&w->config, m->transformer_files, &m->arena, err));
    MICA_TRY(mica_lm_fill(&m->text_encoder.config, m->text_files, &m->arena, err));
    MICA_TRY(mica_kl_vae_fill(&m->vae_config, m->vae_files, &m->arena, err));
    MICA_TRY(mica_flux2_weights_bind(w, m->transformer_files, &m->arena, err));
    MICA_TRY(mica_lm_bind(&m->text_encoder, m->text_files, "text encoder", &m->arena, err));
    MICA_TRY(mica_flux2_alloc_statistics(m, err));
    memcpy(m->base.hash, "synthetic", sizeof "synthetic");
    return mica_flux2_check_parts(m, err);
}

mica_status mica_flux2_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    settings s = {.size = 4, .text_layers = 27};
    mica_flux2 *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a synthetic model");
    m->base.kind = &mica_flux2_kind;
    mica_arena_init(&m->arena, 1 << 20);
    mica_status st = read_spec(&s, spec, err);
    if (!st) {
        apply(m, &s);
        st = fill(m, err);
    }
    if (st)
        mica_flux2_kind.close(out);
    return st;
}
