/* mixtral_synthetic.c - a Mixtral of random weights at full width, for measurements.
 *
 *   "layers=2"    mixtral-8x7b has 32 layers of 2.9 GB in bf16 each: give as many as memory holds
 *   "bits=4"      MLX's groups of 64 in 4 or 8 bits, 0.8 or 1.5 GB a layer; embeddings, head and router stay bf16
 *   "windows=1"   with bits, for devices: packed matrices are windows of one block on the host
 *
 * Weights are in memory of their own otherwise. There is no tokenizer: a prompt is "tokens=N". */
#include "models/common/picture_model.h"
#include "models/mixtral/mixtral.h"

#include <string.h>

static mica_status build(mica_mixtral *m, const char *spec, mica_err *err)
{
    mica_mixtral_config *c = &m->weights.config;
    int64_t bits = 16, windows = 0;
    *c = mica_mixtral_config_default();
    const mica_synthetic_key keys[] = {{"layers", &c->lm.layers, 1000, NULL},
                                       {"experts", &c->experts, MICA_MIXTRAL_MAX_EXPERTS, NULL},
                                       {"bits", &bits, 16, NULL},
                                       {"windows", &windows, 1, NULL}};
    MICA_TRY(mica_synthetic_read(spec, "mixtral-8x7b", keys, MICA_ARRAY_LEN(keys), err));
    if (bits != 4 && bits != 8 && bits != 16)
        return MICA_FAIL(err, MICA_E_USAGE, "\"bits=%lld\": there are 4, 8 and 16",
                         (long long)bits);
    c->active = MICA_MIN(c->active, c->experts);
    MICA_TRY(mica_weights_open_empty(&m->files, err));
    MICA_TRY(mica_mixtral_fill(c, m->files, &m->arena, (int)bits, windows == 1, err));
    MICA_TRY(mica_mixtral_bind(&m->weights, m->files, &m->arena, err));
    memcpy(m->base.hash, "synthetic", sizeof "synthetic");
    return MICA_OK;
}

mica_status mica_mixtral_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    mica_mixtral *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model");
    m->base.kind = &mica_mixtral_kind;
    mica_arena_init(&m->arena, 1 << 18);
    const mica_status st = build(m, spec, err);
    if (st)
        mica_mixtral_kind.close(out);
    return st;
}
