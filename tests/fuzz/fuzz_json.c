/* fuzz_json.c - arbitrary bytes as a configuration file.
 *
 *     bytes ──► every getter with every key of the table
 *           ──► a scheduler configuration ──► a schedule
 *
 * Beyond "no crash": a refusal has a text; numbers keep their range; a configuration that was
 * accepted gives sigmas that decrease to 0, or a refusal with a text; a string written as JSON
 * and read again is the same string (damaged UTF-8 excepted). */
#include "base/json.h"
#include "base/utf8.h"
#include "sample/schedule.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_string(const char *value)
{
    mica_text text = {0};
    mica_text_add_bytes(&text, "{\"s\":", 5);
    mica_text_add_json_string(&text, value);
    mica_text_add_bytes(&text, "}", 1);
    require(!text.failed);
    mica_json again;
    mica_err err = {.status = MICA_OK};
    const char *back = NULL;
    require(mica_json_parse(&again, "again", text.data, text.size, &err) == MICA_OK);
    require(mica_json_get_string(&again, again.root, "s", &back, &err) == MICA_OK);
    if (mica_utf8_is_valid(value, strlen(value)))
        require(strcmp(back, value) == 0);
    mica_json_close(&again);
    mica_text_deinit(&text);
}

static void check_getters(const mica_json *j, const char *key)
{
    mica_err err = {.status = MICA_OK};
    int64_t i = 3, ints[4];
    double d = 0.5, doubles[4];
    bool b = false;
    const char *s = NULL;
    size_t n = 0;
    if (mica_json_get_int(j, j->root, key, -5, 70000, &i, &err) == MICA_OK)
        require(i >= -5 && i <= 70000);
    if (mica_json_get_double(j, j->root, key, -1e3, 1e3, &d, &err) == MICA_OK)
        require(d >= -1e3 && d <= 1e3);
    if (mica_json_get_string(j, j->root, key, &s, &err) == MICA_OK)
        check_string(s);
    else
        require(err.text[0] != '\0');
    i = 3;
    d = 0.5;
    (void)mica_json_opt_int(j, j->root, key, 0, 9, &i, &err);
    (void)mica_json_opt_double(j, j->root, key, 0.0, 1.0, &d, &err);
    require(i >= 0 && i <= 9 && d >= 0.0 && d <= 1.0);
    (void)mica_json_opt_bool(j, j->root, key, &b, &err);
    if (mica_json_opt_ints(j, j->root, key, ints, MICA_ARRAY_LEN(ints), &n, &err) == MICA_OK)
        require(n <= MICA_ARRAY_LEN(ints));
    n = 0;
    if (mica_json_opt_doubles(j, j->root, key, doubles, MICA_ARRAY_LEN(doubles), &n, &err) ==
        MICA_OK)
        require(n <= MICA_ARRAY_LEN(doubles));
}

static void check_schedule(const uint8_t *data, size_t size)
{
    enum { STEPS = 7 };
    mica_schedule_config c;
    mica_err err = {.status = MICA_OK};
    float sigmas[STEPS + 1], timesteps[STEPS];
    if (mica_schedule_config_parse(&c, "input", (const char *)data, size, &err) != MICA_OK) {
        require(err.text[0] != '\0');
        return;
    }
    if (mica_schedule_run(&c, STEPS, mica_schedule_mu(&c, 4096), NULL, sigmas, timesteps, &err) !=
        MICA_OK) {
        require(err.text[0] != '\0');
        return;
    }
    for (int i = 0; i < STEPS; i++)
        require(sigmas[i] > sigmas[i + 1] && sigmas[i] <= 1.0f);
    require(sigmas[STEPS] == 0.0f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"_class_name", "shift", "text",  "list",
                                       "nested",      "flag",  "_size", ""};
    mica_json j;
    mica_err err = {.status = MICA_OK};
    if (mica_json_parse(&j, "input", (const char *)data, size, &err) == MICA_OK) {
        for (size_t i = 0; i < MICA_ARRAY_LEN(keys); i++)
            check_getters(&j, keys[i]);
        mica_json_close(&j);
    } else {
        require(err.text[0] != '\0');
    }
    check_schedule(data, size);
    return 0;
}
