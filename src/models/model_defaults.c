/* model_defaults.c - the file `mica.json` of a model's folder; see model_defaults.h.
 *
 *     folder/mica.json ──► mica_model_defaults ──► mica_image_options, where they are 0 or NULL
 *
 * Ranges are those of the options the values stand for. */
#include "models/model_defaults.h"

#include "base/file.h"

#include <string.h>

#define FILE_NAME    "mica.json"
#define MAX_SIDE     16384
#define MAX_GUIDANCE 1000.0

static mica_status read_int(const mica_json *j, const char *key, int lo, int hi, int *out,
                            mica_err *err)
{
    int64_t value = 0;
    MICA_TRY(mica_json_opt_int(j, j->root, key, lo, hi, &value, err));
    *out = (int)value;
    return MICA_OK;
}

static mica_status read_members(mica_model_defaults *d, const mica_json *j, mica_err *err)
{
    const char *negative = NULL;
    MICA_TRY(read_int(j, "width", 16, MAX_SIDE, &d->width, err));
    MICA_TRY(read_int(j, "height", 16, MAX_SIDE, &d->height, err));
    MICA_TRY(read_int(j, "steps", 1, MICA_MAX_STEPS, &d->steps, err));
    MICA_TRY(mica_json_opt_double(j, j->root, "guidance", 0.0, MAX_GUIDANCE, &d->guidance, err));
    if (!mica_json_find(j->root, "negative_prompt"))
        return MICA_OK;
    MICA_TRY(mica_json_get_string(j, j->root, "negative_prompt", &negative, err));
    d->negative_prompt = mica_mem_strdup(negative);
    return d->negative_prompt ? MICA_OK
                              : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a negative prompt");
}

static mica_status take(mica_model_defaults *d, mica_json *j, mica_err *err)
{
    const mica_status st = read_members(d, j, err);
    mica_json_close(j);
    if (st)
        mica_model_defaults_deinit(d);
    return st;
}

mica_status mica_model_defaults_parse(mica_model_defaults *d, const char *name, const char *text,
                                      size_t size, mica_err *err)
{
    mica_json j;
    *d = (mica_model_defaults){0};
    MICA_TRY(mica_json_parse(&j, name, text, size, err));
    return take(d, &j, err);
}

mica_status mica_model_defaults_read(mica_model_defaults *d, const char *model, mica_err *err)
{
    mica_json j;
    *d = (mica_model_defaults){0};
    if (!model || !mica_path_is_dir(model))
        return MICA_OK;
    char *path = mica_path_join(model, FILE_NAME);
    if (!path)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a path");
    mica_status st = MICA_OK;
    if (mica_path_is_file(path)) {
        st = mica_json_open(&j, path, err);
        if (!st)
            st = take(d, &j, err);
    }
    mica_mem_free(path);
    return st;
}

void mica_model_defaults_apply(const mica_model_defaults *d, mica_image_options *o)
{
    if (!o->input_count && !o->width)
        o->width = d->width;
    if (!o->input_count && !o->height)
        o->height = d->height;
    if (!o->steps && !o->sigma_count)
        o->steps = d->steps;
    if (o->guidance == 0.0)
        o->guidance = d->guidance;
    if (!o->negative_prompt && (o->guidance == 0.0 || o->guidance > 1.0))
        o->negative_prompt = d->negative_prompt;
}

void mica_model_defaults_deinit(mica_model_defaults *d)
{
    mica_mem_free(d->negative_prompt);
    *d = (mica_model_defaults){0};
}
