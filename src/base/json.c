/* json.c - cJSON with checks and messages.
 *
 * cJSON limits nesting itself (CJSON_NESTING_LIMIT, 1000); text behind the value is refused
 * here. Its allocations go through base/mem.h, so that they are counted and can fail. */
#include "base/json.h"

#include "base/file.h"
#include "base/mem.h"

#include <cjson/cJSON.h>

#include <math.h>
#include <pthread.h>
#include <string.h>

#define FILE_LIMIT ((size_t)64 << 20)
/* Doubles hold every whole number up to here. */
#define EXACT_LIMIT 9007199254740992.0

/* cJSON tells damage and lack of memory apart only through its allocator. */
static _Thread_local bool heap_refused;

static void *hooked_alloc(size_t size)
{
    void *data = mica_mem_alloc(size);
    heap_refused = heap_refused || !data;
    return data;
}

static void set_hooks(void)
{
    cJSON_Hooks hooks = {hooked_alloc, mica_mem_free};
    cJSON_InitHooks(&hooks);
}

mica_status mica_json_parse(mica_json *j, const char *name, const char *text, size_t size,
                            mica_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const char *end = NULL;
    *j = (mica_json){0};
    pthread_once(&once, set_hooks);
    j->name = mica_mem_strdup(name);
    if (!j->name)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", name);
    heap_refused = false;
    j->root = size > 0 ? cJSON_ParseWithLengthOpts(text, size, &end, 0) : NULL;
    const size_t at = end ? (size_t)(end - text) : 0;
    bool whole = j->root != NULL;
    for (size_t i = at; whole && i < size; i++)
        whole = memchr(" \t\r\n", text[i], 5) != NULL; /* a final NUL passes, too */
    if (whole)
        return MICA_OK;
    mica_json_close(j);
    if (heap_refused)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", name);
    return MICA_FAIL(err, MICA_E_FORMAT, "%s: not valid JSON near byte %zu", name, at);
}

mica_status mica_json_open(mica_json *j, const char *path, mica_err *err)
{
    char *text = NULL;
    size_t size = 0;
    *j = (mica_json){0};
    MICA_TRY(mica_file_read(path, FILE_LIMIT, &text, &size, err));
    const mica_status status = mica_json_parse(j, path, text, size, err);
    mica_mem_free(text);
    return status;
}

void mica_json_close(mica_json *j)
{
    cJSON_Delete(j->root);
    mica_mem_free(j->name);
    *j = (mica_json){0};
}

const struct cJSON *mica_json_find(const struct cJSON *object, const char *key)
{
    return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
}

/* Present and not null, or NULL. */
static const cJSON *find_value(const cJSON *object, const char *key)
{
    const cJSON *item = mica_json_find(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

static mica_status fail_absent(const mica_json *j, const char *key, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" is missing", j->name, key);
}

static mica_status read_double(const mica_json *j, const cJSON *item, const char *key, double lo,
                               double hi, double *out, mica_err *err)
{
    if (!cJSON_IsNumber(item))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" must be a number", j->name, key);
    if (!(item->valuedouble >= lo && item->valuedouble <= hi))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" is %g, must be from %g to %g", j->name,
                         key, item->valuedouble, lo, hi);
    *out = item->valuedouble;
    return MICA_OK;
}

static mica_status read_int(const mica_json *j, const cJSON *item, const char *key, int64_t lo,
                            int64_t hi, int64_t *out, mica_err *err)
{
    double value = 0.0;
    const double first = fmax((double)lo, -EXACT_LIMIT), last = fmin((double)hi, EXACT_LIMIT);
    MICA_TRY(read_double(j, item, key, first, last, &value, err));
    if (value != floor(value))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" is %g, must be a whole number", j->name,
                         key, value);
    *out = (int64_t)value;
    return MICA_OK;
}

mica_status mica_json_get_int(const mica_json *j, const struct cJSON *object, const char *key,
                              int64_t lo, int64_t hi, int64_t *out, mica_err *err)
{
    const cJSON *item = find_value(object, key);
    return item ? read_int(j, item, key, lo, hi, out, err) : fail_absent(j, key, err);
}

mica_status mica_json_get_double(const mica_json *j, const struct cJSON *object, const char *key,
                                 double lo, double hi, double *out, mica_err *err)
{
    const cJSON *item = find_value(object, key);
    return item ? read_double(j, item, key, lo, hi, out, err) : fail_absent(j, key, err);
}

mica_status mica_json_get_string(const mica_json *j, const struct cJSON *object, const char *key,
                                 const char **out, mica_err *err)
{
    const cJSON *item = find_value(object, key);
    if (!item)
        return fail_absent(j, key, err);
    if (!cJSON_IsString(item))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" must be a string", j->name, key);
    *out = item->valuestring;
    return MICA_OK;
}

mica_status mica_json_opt_int(const mica_json *j, const struct cJSON *object, const char *key,
                              int64_t lo, int64_t hi, int64_t *out, mica_err *err)
{
    const cJSON *item = find_value(object, key);
    return item ? read_int(j, item, key, lo, hi, out, err) : MICA_OK;
}

mica_status mica_json_opt_double(const mica_json *j, const struct cJSON *object, const char *key,
                                 double lo, double hi, double *out, mica_err *err)
{
    const cJSON *item = find_value(object, key);
    return item ? read_double(j, item, key, lo, hi, out, err) : MICA_OK;
}

mica_status mica_json_opt_bool(const mica_json *j, const struct cJSON *object, const char *key,
                               bool *out, mica_err *err)
{
    const cJSON *item = find_value(object, key);
    if (!item)
        return MICA_OK;
    if (!cJSON_IsBool(item))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" must be true or false", j->name, key);
    *out = cJSON_IsTrue(item);
    return MICA_OK;
}

/* The array `key`, or NULL when it is absent; checks type and length. */
static mica_status find_array(const mica_json *j, const cJSON *object, const char *key, size_t cap,
                              const cJSON **out, mica_err *err)
{
    *out = find_value(object, key);
    if (!*out)
        return MICA_OK;
    if (!cJSON_IsArray(*out))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" must be an array", j->name, key);
    if ((size_t)cJSON_GetArraySize(*out) > cap)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" has %d elements, at most %zu are taken",
                         j->name, key, cJSON_GetArraySize(*out), cap);
    return MICA_OK;
}

mica_status mica_json_opt_ints(const mica_json *j, const struct cJSON *object, const char *key,
                               int64_t *out, size_t cap, size_t *count, mica_err *err)
{
    const cJSON *array = NULL;
    size_t n = 0;
    MICA_TRY(find_array(j, object, key, cap, &array, err));
    if (!array)
        return MICA_OK;
    for (const cJSON *item = array->child; item; item = item->next)
        MICA_TRY(read_int(j, item, key, INT64_MIN, INT64_MAX, &out[n++], err));
    *count = n;
    return MICA_OK;
}

mica_status mica_json_opt_doubles(const mica_json *j, const struct cJSON *object, const char *key,
                                  double *out, size_t cap, size_t *count, mica_err *err)
{
    const cJSON *array = NULL;
    size_t n = 0;
    MICA_TRY(find_array(j, object, key, cap, &array, err));
    if (!array)
        return MICA_OK;
    for (const cJSON *item = array->child; item; item = item->next)
        MICA_TRY(read_double(j, item, key, -HUGE_VAL, HUGE_VAL, &out[n++], err));
    *count = n;
    return MICA_OK;
}
