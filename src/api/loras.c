/* loras.c - the LoRA files of an engine: opened, hung on the model, and what there is to tell. */
#include "api/api.h"

#include <math.h>

#define MOST_LORAS 64
#define MOST_SCALE 100.0

static mica_status check_options(const mica_engine *e, const mica_engine_options *o, mica_err *err)
{
    if (o->lora_count < 0 || o->lora_count > MOST_LORAS || !o->loras)
        return MICA_FAIL(err, MICA_E_USAGE, "%d LoRA files are given; 0 to %d are possible",
                         o->lora_count, MOST_LORAS);
    if (!e->kind->lora)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s takes no LoRA", e->kind->title);
    for (int i = 0; i < o->lora_count; i++) {
        const mica_lora_input *in = &o->loras[i];
        if (!in->path)
            return MICA_FAIL(err, MICA_E_USAGE, "LoRA %d has no path", i + 1);
        if (!isfinite(in->scale) || fabs(in->scale) > MOST_SCALE)
            return MICA_FAIL(err, MICA_E_USAGE, "the scale of %s must be from %g to %g, not %g",
                             in->path, -MOST_SCALE, MOST_SCALE, in->scale);
    }
    return MICA_OK;
}

/* What did not apply. */
static void add_note(mica_text *notes, const mica_lora *lora, const mica_lora_match *m)
{
    const mica_lora_facts f = mica_lora_get_facts(lora);
    if (!m->missed && !f.text_targets && !f.unknown)
        return;
    mica_text_add(notes, "%sLoRA %s: %d of its %d layers are used", notes->size ? "\n" : "",
                  mica_lora_name(lora), m->matched, f.targets);
    if (m->missed)
        mica_text_add(notes, "; %d not in this model (the first: %s)", m->missed, m->first_missed);
    if (f.text_targets)
        mica_text_add(notes, "; %d of a text encoder are left out", f.text_targets);
    if (f.unknown)
        mica_text_add(notes, "; %d tensors are not understood (the first: %s)", f.unknown,
                      f.first_unknown);
}

static mica_status open_one(mica_engine *e, const mica_lora_input *in, mica_err *err)
{
    mica_lora_match match;
    api_lora *l = &e->loras[e->lora_count];
    MICA_TRY(mica_lora_open(&l->file, in->path, err));
    e->lora_count++;
    l->scale = in->scale == 0.0 ? 1.0 : in->scale;
    MICA_TRY(mica_lora_attach(l->file, e->kind->lora, e->kind->lora_weights(e->model), l->scale,
                              &match, err));
    add_note(&e->notes, l->file, &match);
    return MICA_OK;
}

mica_status api_loras_open(mica_engine *e, const mica_engine_options *o, mica_err *err)
{
    if (o->lora_count == 0)
        return MICA_OK;
    MICA_TRY(check_options(e, o, err));
    e->loras = mica_mem_calloc((size_t)o->lora_count, sizeof *e->loras);
    if (!e->loras)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d LoRA files", o->lora_count);
    for (int i = 0; i < o->lora_count; i++)
        MICA_TRY(open_one(e, &o->loras[i], err));
    return e->notes.failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for remarks") : MICA_OK;
}

void api_loras_close(mica_engine *e)
{
    for (int i = 0; i < e->lora_count; i++)
        mica_lora_close(&e->loras[i].file);
    mica_mem_free(e->loras);
    mica_text_deinit(&e->notes);
    e->loras = NULL;
    e->lora_count = 0;
}

const char *mica_engine_notes(const mica_engine *engine)
{
    return engine && engine->notes.data ? engine->notes.data : "";
}
