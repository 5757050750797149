/* json_get.c - checks that standard input is exactly one JSON value and looks into it.
 *
 *     json_get KEY...    each KEY ("seconds.total", "outputs.0.path") must exist; its value is
 *                        printed, one line each: strings bare, numbers in full
 *
 * Status 1 when the text is not JSON, when anything but white space follows, or a key is absent. */
#include <cjson/cJSON.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_CAP (4u << 20)

static const cJSON *find(const cJSON *value, const char *key)
{
    char name[256];
    while (value && *key) {
        const size_t length = strcspn(key, ".");
        if (length >= sizeof name)
            return NULL;
        memcpy(name, key, length);
        name[length] = '\0';
        value = cJSON_IsArray(value) ? cJSON_GetArrayItem(value, atoi(name))
                                     : cJSON_GetObjectItemCaseSensitive(value, name);
        key += length + (key[length] == '.');
    }
    return value;
}

static int print_value(const cJSON *root, const char *key)
{
    const cJSON *value = find(root, key);
    if (!value) {
        fprintf(stderr, "json_get: no %s\n", key);
        return 1;
    }
    char *printed = cJSON_PrintUnformatted(value);
    puts(cJSON_IsString(value) ? value->valuestring : printed);
    cJSON_free(printed);
    return 0;
}

int main(int argc, char **argv)
{
    static char input[INPUT_CAP];
    const size_t size = fread(input, 1, sizeof input - 1, stdin);
    const char *end = NULL;
    int status = 0;
    cJSON *root = cJSON_ParseWithLengthOpts(input, size, &end, 0);
    if (!root || end[strspn(end, " \t\r\n")] != '\0') {
        fprintf(stderr, "json_get: not exactly one JSON value: %.200s\n", input);
        cJSON_Delete(root);
        return 1;
    }
    for (int i = 1; i < argc; i++)
        status |= print_value(root, argv[i]);
    cJSON_Delete(root);
    return status;
}
