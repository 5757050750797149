/* json.h - configuration files, read with suspicion; thin over cJSON.
 *
 * Getters name the file, the key, what was expected and what was found. Numbers must
 * be finite and, for integers, whole and in range. Depth and size are limited. */
#ifndef MICA_BASE_JSON_H
#define MICA_BASE_JSON_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct cJSON;
typedef struct mica_json {
    struct cJSON *root;
    char *name; /* for messages, usually the path */
} mica_json;

mica_status mica_json_parse(mica_json *j, const char *name, const char *text, size_t size,
                            mica_err *err);
mica_status mica_json_open(mica_json *j, const char *path, mica_err *err); /* 64 MiB at most */
void mica_json_close(mica_json *j);

/* Member of an object or NULL. */
const struct cJSON *mica_json_find(const struct cJSON *object, const char *key);
/* Required members: MICA_E_FORMAT with file and key when absent, of another type or out of [lo, hi]. */
mica_status mica_json_get_int(const mica_json *j, const struct cJSON *object, const char *key,
                              int64_t lo, int64_t hi, int64_t *out, mica_err *err);
mica_status mica_json_get_double(const mica_json *j, const struct cJSON *object, const char *key,
                                 double lo, double hi, double *out, mica_err *err);
mica_status mica_json_get_string(const mica_json *j, const struct cJSON *object, const char *key,
                                 const char **out, mica_err *err);
/* Optional members: *out keeps its value when the key is absent or null. */
mica_status mica_json_opt_int(const mica_json *j, const struct cJSON *object, const char *key,
                              int64_t lo, int64_t hi, int64_t *out, mica_err *err);
mica_status mica_json_opt_double(const mica_json *j, const struct cJSON *object, const char *key,
                                 double lo, double hi, double *out, mica_err *err);
mica_status mica_json_opt_bool(const mica_json *j, const struct cJSON *object, const char *key,
                               bool *out, mica_err *err);
/* Array of whole numbers or numbers; *count receives the length, at most `cap`. */
mica_status mica_json_opt_ints(const mica_json *j, const struct cJSON *object, const char *key,
                               int64_t *out, size_t cap, size_t *count, mica_err *err);
mica_status mica_json_opt_doubles(const mica_json *j, const struct cJSON *object, const char *key,
                                  double *out, size_t cap, size_t *count, mica_err *err);

/* A growing text that can write JSON (used for reports, recipes, --json). After a
 * failed allocation it stays empty and `failed` is set; check once at the end. */
typedef struct mica_text {
    char *data; /* NUL-terminated when not NULL */
    size_t size, cap;
    bool failed;
} mica_text;
void mica_text_deinit(mica_text *t);
void mica_text_add(mica_text *t, const char *format, ...) MICA_PRINTF(2, 3);
void mica_text_add_bytes(mica_text *t, const char *s, size_t n);
/* A JSON string with quotes and escapes; invalid UTF-8 becomes U+FFFD. */
void mica_text_add_json_string(mica_text *t, const char *s);

#endif
