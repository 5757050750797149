/* gpt_sovits_voice_file.c - .voice files, read with suspicion. */
#include "models/gpt_sovits/gpt_sovits_voice_file.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "format/weights.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define FORMAT_NAME "mica-voice-1"

bool mica_gs_voice_is_file(const char *path)
{
    const size_t n = strlen(path);
    return n > 6 && strcasecmp(path + n - 6, ".voice") == 0;
}

static mica_status find_vector(const mica_weights *w, const char *path, const char *name,
                               mica_dtype dtype, int64_t most, const mica_tensor **out,
                               mica_err *err)
{
    const mica_tensor *t = mica_weights_find(w, name);
    if (t == NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: not a voice: no tensor %s", path, name);
    if (t->dtype != dtype || t->ndim != 1 || t->shape_[0] > most)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s is no list of at most %lld %s values",
                         path, name, (long long)most, mica_dtype_get(dtype)->name);
    *out = t;
    return MICA_OK;
}

static mica_status read_codes(mica_gs_voice *v, const mica_weights *w, const char *path,
                              mica_err *err)
{
    const mica_tensor *t = NULL;
    MICA_TRY(find_vector(w, path, "codes", MICA_DTYPE_I32, MICA_GS_VOICE_MAX_CODES, &t, err));
    v->codes = mica_mem_alloc((size_t)t->shape_[0] * sizeof *v->codes + 1);
    if (v->codes == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its codes", path);
    v->code_count = t->shape_[0];
    memcpy(v->codes, t->data, (size_t)v->code_count * sizeof *v->codes);
    for (int64_t i = 0; i < v->code_count; i++)
        if (v->codes[i] < 0)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: code %lld is negative", path, (long long)i);
    return MICA_OK;
}

static mica_status read_style(mica_gs_voice *v, const mica_weights *w, const char *path,
                              mica_err *err)
{
    const mica_tensor *t = NULL;
    MICA_TRY(find_vector(w, path, "style", MICA_DTYPE_F32, MICA_GS_VOICE_MAX_STYLE, &t, err));
    v->style = mica_mem_alloc((size_t)t->shape_[0] * sizeof *v->style + 1);
    if (v->style == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its style", path);
    v->style_width = t->shape_[0];
    memcpy(v->style, t->data, (size_t)v->style_width * sizeof *v->style);
    for (int64_t i = 0; i < v->style_width; i++)
        if (!isfinite(v->style[i]))
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: style value %lld is not a number", path,
                             (long long)i);
    return MICA_OK;
}

/* A text of the metadata; absent ones stay NULL. */
static mica_status read_text(char **out, const mica_weights *w, const char *path, const char *key,
                             mica_err *err)
{
    const char *text = mica_weights_metadata(w, key);
    if (text == NULL)
        return MICA_OK;
    if (strlen(text) > MICA_GS_VOICE_MAX_TEXT || !mica_utf8_is_valid(text, strlen(text)))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its %s is no text", path, key);
    *out = mica_mem_strdup(text);
    return *out != NULL ? MICA_OK
                        : MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its %s", path, key);
}

static mica_status read_all(mica_gs_voice *v, const mica_weights *w, const char *path,
                            mica_err *err)
{
    const char *format = mica_weights_metadata(w, "format"),
               *hash = mica_weights_metadata(w, "hash");
    if (format == NULL || strcmp(format, FORMAT_NAME) != 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: not a voice that this version can read", path);
    if (hash == NULL || strlen(hash) != 16 || strspn(hash, "0123456789abcdef") != 16)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: it does not say which model it belongs to", path);
    memcpy(v->hash, hash, 17);
    MICA_TRY(read_codes(v, w, path, err));
    MICA_TRY(read_style(v, w, path, err));
    MICA_TRY(read_text(&v->text, w, path, "text", err));
    return read_text(&v->language, w, path, "language", err);
}

/* Of an opened file, which is closed. */
static mica_status take(mica_gs_voice *voice, mica_weights *w, const char *path, mica_err *err)
{
    const mica_status status = read_all(voice, w, path, err);
    mica_weights_close(&w);
    if (status != MICA_OK)
        mica_gs_voice_deinit(voice);
    return status;
}

mica_status mica_gs_voice_parse(mica_gs_voice *voice, const char *name, const void *data,
                                size_t size, mica_err *err)
{
    mica_weights *w = NULL;
    memset(voice, 0, sizeof *voice);
    MICA_TRY(mica_weights_open_memory(&w, name, data, size, err));
    return take(voice, w, name, err);
}

mica_status mica_gs_voice_read(mica_gs_voice *voice, const char *path, mica_err *err)
{
    mica_weights *w = NULL;
    memset(voice, 0, sizeof *voice);
    MICA_TRY(mica_weights_open(&w, path, err));
    return take(voice, w, path, err);
}

mica_status mica_gs_voice_write(const mica_gs_voice *voice, const char *path, mica_err *err)
{
    const char *metadata[10] = {"format", FORMAT_NAME, "hash", voice->hash};
    size_t n = 4;
    mica_tensor codes, style;
    if (voice->text != NULL) {
        metadata[n++] = "text";
        metadata[n++] = voice->text;
    }
    if (voice->language != NULL) {
        metadata[n++] = "language";
        metadata[n++] = voice->language;
    }
    codes = mica_tensor_1d(voice->codes, MICA_DTYPE_I32, voice->code_count);
    style = mica_tensor_1d(voice->style, MICA_DTYPE_F32, voice->style_width);
    const mica_safetensors_entry entries[] = {{"codes", &codes}, {"style", &style}};
    return mica_safetensors_write(path, entries, MICA_ARRAY_LEN(entries), metadata, err);
}
