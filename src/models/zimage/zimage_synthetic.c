/* zimage_synthetic.c - a Z-Image of random weights at full width, for measurements.
 *
 *   "layers=2,refiners=2,text_layers=1"    30, 2 and 35 unless given; the VAE is always whole
 *
 * Weights are bf16 in memory of their own: 0.36 GB per transformer block, 0.2 GB per text encoder
 * layer and 0.8 GB for its vocabulary. There is no tokenizer. */
#include "models/zimage/zimage.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

typedef struct spec_key {
    const char *name;
    int64_t *value;
    long most;
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
        if (end != text + n || value < 1 || value > keys->most)
            return MICA_FAIL(err, MICA_E_USAGE, "\"%.*s\": the number must be 1 to %ld", (int)n,
                             text, keys->most);
        *keys->value = value;
        return MICA_OK;
    }
    return MICA_FAIL(err, MICA_E_USAGE,
                     "\"%.*s\" is not a setting of a synthetic z-image; there are layers=N, "
                     "refiners=N and text_layers=N",
                     (int)n, text);
}

/* text_layers are those that run: the encoder's last one is never bound. */
static mica_status read_spec(mica_zimage *m, const char *spec, mica_err *err)
{
    int64_t text_layers = m->text_encoder.config.layers - 1;
    const spec_key keys[] = {{"layers", &m->transformer.config.layers, 1000},
                             {"refiners", &m->transformer.config.refiners, 100},
                             {"text_layers", &text_layers, 1000},
                             {NULL, NULL, 0}};
    while (*spec) {
        const size_t n = strcspn(spec, ",");
        MICA_TRY(read_setting(spec, n, keys, err));
        spec += n + (spec[n] == ',');
    }
    m->text_encoder.config.layers = text_layers + 1;
    mica_zimage_choose_state(&m->text_encoder.config);
    return MICA_OK;
}

static mica_status fill(mica_zimage *m, mica_err *err)
{
    mica_kl_vae *vae = NULL;
    MICA_TRY(mica_weights_open_empty(&m->transformer_files, err));
    MICA_TRY(mica_weights_open_empty(&m->text_files, err));
    MICA_TRY(mica_weights_open_empty(&m->vae_files, err));
    MICA_TRY(
        mica_zimage_weights_fill(&m->transformer.config, m->transformer_files, &m->arena, err));
    MICA_TRY(mica_lm_fill(&m->text_encoder.config, m->text_files, &m->arena, err));
    MICA_TRY(mica_kl_vae_fill(&m->vae_config, m->vae_files, &m->arena, err));
    MICA_TRY(mica_zimage_weights_bind(&m->transformer, m->transformer_files, &m->arena, err));
    MICA_TRY(mica_lm_bind(&m->text_encoder, m->text_files, "text encoder", &m->arena, err));
    MICA_TRY(mica_kl_vae_open(&vae, &m->vae_config, m->vae_files, err));
    mica_kl_vae_close(&vae);
    memcpy(m->base.hash, "synthetic", sizeof "synthetic");
    return mica_zimage_check_parts(m, err);
}

mica_status mica_zimage_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    mica_zimage *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a synthetic model");
    m->base.kind = &mica_zimage_kind;
    mica_arena_init(&m->arena, 1 << 20);
    m->transformer.config = mica_zimage_config_default();
    m->text_encoder.config = mica_qwen3_config_default(MICA_QWEN3_WIDTH_4B);
    m->vae_config = mica_kl_vae_config_default((int)m->transformer.config.channels);
    mica_zimage_schedule_default(&m->schedule);
    m->distilled = true;
    mica_status st = read_spec(m, spec, err);
    if (!st)
        st = fill(m, err);
    if (st)
        mica_zimage_kind.close(out);
    return st;
}
