/* gpt_sovits_synthetic.c - a GPT-SoVITS of random weights at the released sizes, for measurements.
 *
 *     "v2"   "v2pro"   "v2proplus"    then perhaps ",blocks=N" (24) and ",bert_blocks=N" (24)
 *
 * Text to semantic is 155 MB of bf16, BERT 650 MB, the synthesizer 130 to 170 MB and as much again
 * in the forms of its session. There are no HuBERT and no speaker network: a voice is made up. */
#include "models/gpt_sovits/gpt_sovits.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
    mica_gs_version version;
    int blocks, bert_blocks;
} settings;

static mica_status read_number(const char *text, size_t n, const char *name, int *out, bool *taken)
{
    const size_t k = strlen(name);
    if (n <= k + 1 || strncmp(text, name, k) != 0 || text[k] != '=')
        return MICA_OK;
    char *end;
    const long value = strtol(text + k + 1, &end, 10);
    *taken = end == text + n && value >= 3 && value <= 100;
    *out = (int)value;
    return MICA_OK;
}

static bool read_version(const char *text, size_t n, mica_gs_version *out)
{
    static const struct {
        const char *name;
        mica_gs_version version;
    } NAMES[] = {{"v2", MICA_GS_V2}, {"v2pro", MICA_GS_V2PRO}, {"v2proplus", MICA_GS_V2PRO_PLUS}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES); i++)
        if (strlen(NAMES[i].name) == n && strncmp(NAMES[i].name, text, n) == 0) {
            *out = NAMES[i].version;
            return true;
        }
    return false;
}

static mica_status read_spec(const char *spec, settings *s, mica_err *err)
{
    *s = (settings){MICA_GS_V2, 24, 24};
    while (*spec) {
        const size_t n = strcspn(spec, ",");
        bool taken = read_version(spec, n, &s->version);
        if (!taken)
            MICA_TRY(read_number(spec, n, "blocks", &s->blocks, &taken));
        if (!taken)
            MICA_TRY(read_number(spec, n, "bert_blocks", &s->bert_blocks, &taken));
        if (!taken)
            return MICA_FAIL(err, MICA_E_USAGE,
                             "\"%.*s\" is not a setting of a synthetic gpt-sovits; there are v2, "
                             "v2pro, v2proplus, blocks=N and bert_blocks=N (3 to 100)",
                             (int)n, spec);
        spec += n + (spec[n] == ',');
    }
    return MICA_OK;
}

static mica_status fill(mica_gs_model *m, const settings *s, mica_err *err)
{
    mica_gs_synth_config_default(&m->synth, s->version);
    const int parts[] = {MICA_GS_SEMANTIC, MICA_GS_SYNTHESIZER, MICA_GS_BERT};
    for (size_t i = 0; i < MICA_ARRAY_LEN(parts); i++)
        MICA_TRY(mica_weights_open_empty(&m->directory[parts[i]], err));
    MICA_TRY(mica_gs_semantic_fill(m->directory[MICA_GS_SEMANTIC], s->blocks, &m->arena, err));
    MICA_TRY(mica_gs_bert_fill(m->directory[MICA_GS_BERT], s->bert_blocks, &m->arena, err));
    MICA_TRY(mica_gs_synth_fill(m->directory[MICA_GS_SYNTHESIZER], &m->synth, &m->arena, err));
    memcpy(m->base.hash, "synthetic", sizeof "synthetic");
    return mica_gs_model_finish(m, err);
}

mica_status mica_gs_open_synthetic(mica_model **out, const char *spec, mica_err *err)
{
    settings s;
    mica_gs_model *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a synthetic model");
    m->base.kind = &mica_gpt_sovits_kind;
    m->is_synthetic = true;
    mica_arena_init(&m->arena, 1 << 20);
    mica_status st = read_spec(spec, &s, err);
    if (!st)
        st = fill(m, &s, err);
    if (st)
        mica_gpt_sovits_kind.close(out);
    return st;
}
