/* convert_index.c - the small files beside converted weights: the index of shards, config.json, the tokenizer that
 * came inside a GGUF file. */
#include "models/convert_folder.h"

#include "base/file.h"
#include "models/mixtral/mixtral_convert.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

static mica_status write_text(const char *folder, const char *name, const char *text, size_t size,
                              mica_err *err)
{
    mica_file_out out;
    char *path = mica_path_join(folder, name);
    if (!path)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", name);
    mica_status st = mica_file_out_open(&out, path, err);
    mica_mem_free(path);
    MICA_TRY(st);
    st = mica_file_out_write(&out, text, size, err);
    if (!st)
        return mica_file_out_commit(&out, err);
    mica_file_out_abort(&out);
    return st;
}

/* The index of shards, as transformers, diffusers and mlx-lm read it. */
mica_status mica_convert_write_index(const mica_convert_plan *p, const char *folder, mica_err *err)
{
    char name[96];
    mica_text t = {0};
    if (p->file_count < 2)
        return MICA_OK;
    snprintf(name, sizeof name, "%.*s.safetensors.index.json",
             (int)(strlen(p->files[0]) - strlen("-00001-of-00001.safetensors")), p->files[0]);
    mica_text_add(&t, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {",
                  (unsigned long long)p->bytes);
    for (size_t file = 0; file < p->file_count; file++)
        for (size_t i = p->file_first[file]; i < p->file_first[file + 1]; i++) {
            mica_text_add(&t, "%s\n    ", i ? "," : "");
            mica_text_add_json_string(&t, p->tensors[i].name);
            mica_text_add(&t, ": \"%s\"", p->files[file]);
        }
    mica_text_add(&t, "\n  }\n}\n");
    const mica_status st = t.failed
                               ? MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its index", folder)
                               : write_text(folder, name, t.data, t.size, err);
    mica_text_deinit(&t);
    return st;
}

static bool set(cJSON *object, const char *key, const char *json)
{
    cJSON_DeleteItemFromObjectCaseSensitive(object, key);
    cJSON *value = json ? cJSON_Parse(json) : NULL;
    return !json || (value && cJSON_AddItemToObject(object, key, value));
}

/* The types that readers load unpacked numbers in. */
static void set_dtype(cJSON *object, const mica_convert_type *type)
{
    static const char *const KEYS[] = {"torch_dtype", "dtype"};
    const char *name = strcmp(type->name, "f32") == 0   ? "float32"
                       : strcmp(type->name, "f16") == 0 ? "float16"
                                                        : "bfloat16";
    for (size_t i = 0; i < MICA_ARRAY_LEN(KEYS); i++)
        if (cJSON_IsString(cJSON_GetObjectItemCaseSensitive(object, KEYS[i])))
            cJSON_ReplaceItemInObjectCaseSensitive(object, KEYS[i], cJSON_CreateString(name));
}

/* config.json with `quantization`, where mlx-lm and its like look for it, or without. */
mica_status mica_convert_write_config(const mica_convert_plan *p, const char *folder, mica_err *err)
{
    const char *text = p->sources[0].config;
    mica_json j = {0};
    if (!text)
        return MICA_OK;
    MICA_TRY(mica_json_parse(&j, p->input, text, strlen(text), err));
    const bool is_object = cJSON_IsObject(j.root);
    const bool fine = is_object && set(j.root, "quantization", p->quantization) &&
                      set(j.root, "quantization_config", p->quantization);
    if (fine)
        set_dtype(j.root, p->type);
    char *out = fine ? cJSON_Print(j.root) : NULL;
    mica_status st = MICA_OK;
    if (!is_object)
        st = MICA_FAIL(err, MICA_E_FORMAT, "%s: its config.json is no object", p->input);
    else if (!out)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its config.json", p->input);
    else
        st = write_text(folder, "config.json", out, strlen(out), err);
    cJSON_free(out);
    mica_json_close(&j);
    return st;
}

mica_status mica_convert_write_tokenizer(const mica_convert_plan *p, const char *folder,
                                         mica_err *err)
{
    mica_text tokenizer = {0}, config = {0};
    mica_status st = mica_mixtral_write_tokenizer(p->sources[0].weights, &tokenizer, &config, err);
    if (!st)
        st = write_text(folder, "tokenizer.json", tokenizer.data, tokenizer.size, err);
    if (!st)
        st = write_text(folder, "tokenizer_config.json", config.data, config.size, err);
    mica_text_deinit(&tokenizer);
    mica_text_deinit(&config);
    return st;
}

/* It is written anew at the end: what is wrong with it is told at the beginning. */
mica_status mica_convert_check_config(const mica_convert_plan *p, mica_err *err)
{
    const char *text = p->sources[0].config;
    mica_json j = {0};
    if (!text)
        return MICA_OK;
    MICA_TRY(mica_json_parse(&j, p->input, text, strlen(text), err));
    const bool fine = cJSON_IsObject(j.root);
    mica_json_close(&j);
    return fine ? MICA_OK
                : MICA_FAIL(err, MICA_E_FORMAT, "%s: its config.json is no object", p->input);
}
