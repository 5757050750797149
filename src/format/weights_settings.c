/* weights_settings.c - what weight files say beside their tensors.
 *
 *     torch checkpoint   {"weight": ..., "config": {"model": {"head": 16}}}      the pickle's tree
 *     safetensors        __metadata__: {"config": "{\"model\": {\"head\": 16}}"}  JSON in a text
 *
 *     "config.model.head" ──► 16       the same path for both; a number is an index into a list
 *
 * mica convert writes the second from the first, so that a converted checkpoint loses nothing. */
#include "format/pickle.h"
#include "format/weights_internal.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define PATH_DEPTH  8
#define WRITE_DEPTH 16
#define WRITE_MOST                                                                                 \
    ((size_t)1 << 20) /* bytes: trees that share nodes can be far larger than their files */

/* The next key of a path; false: none is left, or it is too long. */
static bool next_key(const char **path, char key[64])
{
    const size_t n = strcspn(*path, ".");
    if (n == 0 || n >= 64)
        return false;
    memcpy(key, *path, n);
    key[n] = '\0';
    *path += n + ((*path)[n] == '.');
    return true;
}

/* The index that a key is; false: it is no number. */
static bool read_index(const char *key, size_t *out)
{
    *out = 0;
    for (const char *p = key; *p; p++) {
        if (*p < '0' || *p > '9' || p - key >= 6)
            return false;
        *out = 10 * *out + (size_t)(*p - '0');
    }
    return true;
}

static const mica_pickle_value *step_into(const mica_pickle_value *v, const char *key)
{
    size_t i;
    if (v->kind != MICA_PICKLE_LIST)
        return mica_pickle_get(v, key);
    return read_index(key, &i) && i < v->as.list.count ? v->as.list.items[i] : NULL;
}

static const cJSON *step_into_json(const cJSON *item, const char *key)
{
    size_t i;
    if (!cJSON_IsArray(item))
        return cJSON_IsObject(item) ? mica_json_find(item, key) : NULL;
    return read_index(key, &i) ? cJSON_GetArrayItem(item, (int)i) : NULL;
}

static const mica_pickle_value *find_value(const mica_weights *w, const char *path)
{
    const mica_pickle_value *v = w->file_count ? w->files[0].root : NULL;
    char key[64];
    for (int depth = 0; v && *path; depth++) {
        if (depth == PATH_DEPTH || !next_key(&path, key))
            return NULL;
        v = step_into(v, key);
    }
    return v;
}

/* The JSON that the first key of the path names, opened, and the item that the rest leads to. */
static const cJSON *find_json(const mica_weights *w, const char *path, mica_json *j)
{
    char key[64];
    *j = (mica_json){0};
    const char *text = next_key(&path, key) ? mica_weights_metadata(w, key) : NULL;
    if (!text || mica_json_parse(j, w->path, text, strlen(text), NULL) != MICA_OK)
        return NULL;
    const cJSON *item = j->root;
    for (int depth = 1; item && *path; depth++)
        item = depth < PATH_DEPTH && next_key(&path, key) ? step_into_json(item, key) : NULL;
    return item;
}

static bool take_int(const cJSON *item, int64_t *out)
{
    const double v = cJSON_IsNumber(item) ? item->valuedouble : 0.5;
    if (!(fabs(v) < 9e15) || v != floor(v))
        return false;
    *out = (int64_t)v;
    return true;
}

bool mica_weights_find_int(const mica_weights *w, const char *path, int64_t *out)
{
    const mica_pickle_value *v = find_value(w, path);
    mica_json j;
    if (v) {
        if (v->kind == MICA_PICKLE_INT)
            *out = v->as.integer;
        return v->kind == MICA_PICKLE_INT;
    }
    const bool found = take_int(find_json(w, path, &j), out);
    mica_json_close(&j);
    return found;
}

bool mica_weights_find_item(const mica_weights *w, const char *path, size_t index, int64_t *out)
{
    const mica_pickle_value *v = find_value(w, path);
    mica_json j;
    if (v) {
        if (v->kind != MICA_PICKLE_LIST || index >= v->as.list.count)
            return false;
        v = v->as.list.items[index];
        if (v->kind == MICA_PICKLE_INT)
            *out = v->as.integer;
        return v->kind == MICA_PICKLE_INT;
    }
    const cJSON *list = find_json(w, path, &j);
    const bool found = cJSON_IsArray(list) && index < (size_t)cJSON_GetArraySize(list) &&
                       take_int(cJSON_GetArrayItem(list, (int)index), out);
    mica_json_close(&j);
    return found;
}

static bool take_text(const char *text, char *out, size_t cap)
{
    if (strlen(text) >= cap)
        return false;
    memcpy(out, text, strlen(text) + 1);
    return true;
}

bool mica_weights_find_text(const mica_weights *w, const char *path, char *out, size_t cap)
{
    const mica_pickle_value *v = find_value(w, path);
    mica_json j;
    if (v)
        return v->kind == MICA_PICKLE_TEXT && take_text(v->as.text.data, out, cap);
    const cJSON *item = find_json(w, path, &j);
    const bool found = cJSON_IsString(item) && take_text(item->valuestring, out, cap);
    mica_json_close(&j);
    return found;
}

/* ----------------------------------------------------------------- writing -- */

static void write_value(const mica_pickle_value *v, int depth, mica_text *out);

static void write_list(const mica_pickle_value *v, int depth, mica_text *out)
{
    mica_text_add(out, "[");
    for (size_t i = 0; i < v->as.list.count && out->size < WRITE_MOST; i++) {
        mica_text_add(out, "%s", i ? ", " : "");
        write_value(v->as.list.items[i], depth + 1, out);
    }
    mica_text_add(out, "]");
}

/* Keys that are no text have no place in JSON. */
static void write_dict(const mica_pickle_value *v, int depth, mica_text *out)
{
    const char *between = "";
    mica_text_add(out, "{");
    for (size_t i = 0; i + 1 < v->as.list.count && out->size < WRITE_MOST; i += 2) {
        const mica_pickle_value *key = v->as.list.items[i];
        if (key->kind != MICA_PICKLE_TEXT)
            continue;
        mica_text_add(out, "%s", between);
        mica_text_add_json_string(out, key->as.text.data);
        mica_text_add(out, ": ");
        write_value(v->as.list.items[i + 1], depth + 1, out);
        between = ", ";
    }
    mica_text_add(out, "}");
}

static void write_value(const mica_pickle_value *v, int depth, mica_text *out)
{
    if (depth >= WRITE_DEPTH)
        mica_text_add(out, "null");
    else if (v->kind == MICA_PICKLE_DICT)
        write_dict(v, depth, out);
    else if (v->kind == MICA_PICKLE_LIST)
        write_list(v, depth, out);
    else if (v->kind == MICA_PICKLE_TEXT)
        mica_text_add_json_string(out, v->as.text.data);
    else if (v->kind == MICA_PICKLE_INT)
        mica_text_add(out, "%" PRId64, v->as.integer);
    else if (v->kind == MICA_PICKLE_BOOL)
        mica_text_add(out, v->as.integer ? "true" : "false");
    else if (v->kind == MICA_PICKLE_FLOAT && isfinite(v->as.number))
        mica_text_add(out, "%.17g", v->as.number);
    else
        mica_text_add(out, "null");
}

bool mica_weights_write_settings(const mica_weights *w, const char *key, mica_text *out)
{
    const mica_pickle_value *v = find_value(w, key);
    if (!v || v->kind != MICA_PICKLE_DICT)
        return false;
    write_value(v, 0, out);
    return out->size < WRITE_MOST;
}
