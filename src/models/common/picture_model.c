/* picture_model.c - opens, binds and closes picture models of any family; see picture_model.h.
 *
 * All parts are opened even when one fails, so that one error text tells everything that is
 * wrong with a download. No weight data is read here. */
#include "models/common/picture_model.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------- models -- */

static mica_status check_present(const mica_picture_family *f, const mica_model_parts *parts,
                                 mica_err *err)
{
    const struct {
        mica_model_part part;
        const char *what, *option;
    } needed[] = {
        {MICA_PART_TRANSFORMER, "transformer", "--transformer FILE"},
        {MICA_PART_TEXT_ENCODER, f->text_encoder, "--text-encoder FILE"},
        {MICA_PART_VAE, f->vae, "--vae FILE"},
        {MICA_PART_TOKENIZER, "tokenizer",
         "--tokenizer FOLDER with tokenizer.json, or vocab.json and merges.txt"},
    };
    mica_text missing = {0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(needed); i++)
        if (!parts->path[needed[i].part])
            mica_text_add(&missing, "%s%s (%s)", missing.size ? ", " : "", needed[i].what,
                          needed[i].option);
    mica_status st = MICA_OK;
    if (missing.failed)
        st = MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model");
    else if (missing.size)
        st = MICA_FAIL(err, MICA_E_MISSING, "%s is missing its %s", f->kind->title, missing.data);
    mica_text_deinit(&missing);
    return st;
}

static mica_status open_tokenizer(mica_picture_model *m, const mica_model_parts *parts,
                                  mica_err *err)
{
    return mica_tokenizer_open(&m->tokenizer, parts->path[MICA_PART_TOKENIZER], err);
}

static void open_part(mica_picture_model *m, const mica_model_parts *parts, mica_open_part_fn open,
                      mica_err *all)
{
    mica_err one = {0};
    if (open(m, parts, &one))
        mica_err_join(all, &one);
}

static mica_status open_parts(mica_picture_model *m, const mica_model_parts *parts, mica_err *err)
{
    const mica_picture_family *f = m->family;
    mica_err all = {0};
    MICA_TRY(check_present(f, parts, err));
    for (int i = 0; i < MICA_PICTURE_PARTS && f->open[i]; i++)
        open_part(m, parts, f->open[i], &all);
    open_part(m, parts, open_tokenizer, &all);
    if (all.status)
        return MICA_FAIL(err, all.status, "%s", all.text);
    mica_weights_hash(m->transformer_files, m->base.hash);
    return f->check(m, err);
}

static mica_picture_model *new_model(const mica_picture_family *family, mica_err *err)
{
    mica_picture_model *m = mica_mem_calloc(1, family->model_size);
    if (!m) {
        (void)MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model");
        return NULL;
    }
    m->base.kind = family->kind;
    m->family = family;
    mica_arena_init(&m->arena, 1 << 18);
    return m;
}

void mica_picture_model_close(mica_model **model)
{
    mica_picture_model *m = model ? (mica_picture_model *)*model : NULL;
    if (!m)
        return;
    mica_tokenizer_close(&m->tokenizer);
    mica_weights_close(&m->transformer_files);
    mica_weights_close(&m->text_files);
    mica_weights_close(&m->vae_files);
    mica_arena_deinit(&m->arena);
    mica_mem_free(m);
    *model = NULL;
}

mica_status mica_picture_model_open(mica_model **out, const mica_picture_family *family,
                                    const mica_model_parts *parts, mica_err *err)
{
    mica_picture_model *m = new_model(family, err);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_E_NOMEM;
    const mica_status st = open_parts(m, parts, err);
    if (st)
        mica_picture_model_close(out);
    return st;
}

/* ------------------------------------------------------------------ sessions -- */

void mica_picture_session_close(mica_model_session **session)
{
    mica_picture_session *s = session ? (mica_picture_session *)*session : NULL;
    if (!s)
        return;
    s->model->family->unbind(s);
    if (s->text_encoder.layers)
        mica_lm_drop(&s->text_encoder, s->be);
    mica_arena_deinit(&s->arena);
    mica_mem_free(s);
    *session = NULL;
}

mica_status mica_picture_session_open(mica_model_session **out, const mica_model *model,
                                      mica_backend *be, const mica_diffusion_switches *switches,
                                      mica_err *err)
{
    const mica_picture_model *m = (const mica_picture_model *)model;
    mica_picture_session *s = mica_mem_calloc(1, m->family->session_size);
    *out = s ? &s->base : NULL;
    if (!s)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a session");
    *s =
        (mica_picture_session){.base = {m->base.kind}, .model = m, .be = be, .switches = *switches};
    mica_arena_init(&s->arena, 1 << 16);
    mica_status st = mica_lm_copy(&s->text_encoder, &m->text_encoder, &s->arena, err);
    if (!st)
        st = m->family->bind(s, err);
    if (st)
        mica_picture_session_close(out);
    return st;
}

/* ----------------------------------------------------------------- synthetic -- */

/* "layers=N, refiners=N and text_layers=N" */
static mica_status refuse_setting(const char *text, int n, const char *model,
                                  const mica_synthetic_key *keys, size_t count, mica_err *err)
{
    mica_text list = {0};
    for (size_t i = 0; i < count; i++)
        mica_text_add(&list, "%s%s=%s",
                      i == 0          ? ""
                      : i + 1 < count ? ", "
                                      : " and ",
                      keys[i].name, keys[i].shown ? keys[i].shown : "N");
    const mica_status st =
        MICA_FAIL(err, MICA_E_USAGE, "\"%.*s\" is not a setting of a synthetic %s; there are %s", n,
                  text, model, list.data ? list.data : "others");
    mica_text_deinit(&list);
    return st;
}

/* "name=number" of length n. */
static mica_status read_setting(const char *text, size_t n, const char *model,
                                const mica_synthetic_key *keys, size_t count, mica_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const size_t k = strlen(keys[i].name);
        if (n <= k + 1 || strncmp(text, keys[i].name, k) != 0 || text[k] != '=')
            continue;
        char *end;
        const long value = strtol(text + k + 1, &end, 10);
        if (end != text + n || value < 1 || value > keys[i].most)
            return MICA_FAIL(err, MICA_E_USAGE, "\"%.*s\": the number must be 1 to %lld", (int)n,
                             text, (long long)keys[i].most);
        *keys[i].value = value;
        return MICA_OK;
    }
    return refuse_setting(text, (int)n, model, keys, count, err);
}

mica_status mica_synthetic_read(const char *spec, const char *model, const mica_synthetic_key *keys,
                                size_t count, mica_err *err)
{
    while (*spec) {
        const size_t n = strcspn(spec, ",");
        MICA_TRY(read_setting(spec, n, model, keys, count, err));
        spec += n + (spec[n] == ',');
    }
    return MICA_OK;
}

static mica_status fill(mica_picture_model *m, const char *spec,
                        mica_status (*build)(mica_picture_model *, const char *, mica_err *),
                        mica_err *err)
{
    MICA_TRY(mica_weights_open_empty(&m->transformer_files, err));
    MICA_TRY(mica_weights_open_empty(&m->text_files, err));
    MICA_TRY(mica_weights_open_empty(&m->vae_files, err));
    MICA_TRY(build(m, spec, err));
    memcpy(m->base.hash, "synthetic", sizeof "synthetic");
    return m->family->check(m, err);
}

mica_status mica_picture_model_synthetic(
    mica_model **out, const mica_picture_family *family, const char *spec,
    mica_status (*build)(mica_picture_model *m, const char *spec, mica_err *err), mica_err *err)
{
    mica_picture_model *m = new_model(family, err);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_E_NOMEM;
    const mica_status st = fill(m, spec, build, err);
    if (st)
        mica_picture_model_close(out);
    return st;
}
