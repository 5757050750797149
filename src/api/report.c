/* report.c - mica_inspect: what a model folder, a weight file, a LoRA, a voice or a picture is. */
#include "api/api.h"

#include "media/picture.h"
#include "models/gpt_sovits/gpt_sovits_voice_file.h"
#include "models/model_files.h"

#include <string.h>

static const char *find_text(const mica_picture_text *texts, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(texts[i].key, key) == 0)
            return texts[i].value;
    return NULL;
}

/* The recipe goes into the report as it stands in the file, once it is known to be JSON. */
static void add_recipe(mica_report *r, const char *path, const char *recipe)
{
    mica_json json;
    if (!recipe || mica_json_parse(&json, path, recipe, strlen(recipe), NULL))
        return;
    mica_json_close(&json);
    mica_text_add(&r->json, ",\"recipe\":%s", recipe);
}

static mica_status inspect_picture(mica_report *r, const char *kind, const char *path)
{
    mica_picture_text *texts = NULL;
    size_t count = 0;
    mica_picture picture = {0};
    MICA_TRY(mica_picture_read(&picture, path, &r->err));
    const int width = picture.width, height = picture.height;
    mica_picture_deinit(&picture);
    MICA_TRY(mica_picture_read_texts(path, &texts, &count, &r->err));
    const char *parameters = find_text(texts, count, "parameters");
    mica_text_add(&r->text, "%s picture, %d x %d\n", kind, width, height);
    mica_text_add(&r->json, "{\"kind\":\"picture\",\"format\":\"%s\",\"width\":%d,\"height\":%d",
                  kind, width, height);
    if (parameters)
        mica_text_add(&r->text, "%s\n", parameters);
    else
        mica_text_add(&r->text, "no recipe inside\n");
    add_recipe(r, path, find_text(texts, count, "mica"));
    if (parameters) {
        mica_text_add(&r->json, ",\"parameters\":");
        mica_text_add_json_string(&r->json, parameters);
    }
    mica_text_add(&r->json, "}");
    mica_mem_free(texts);
    return MICA_OK;
}

static mica_status inspect_voice(mica_report *r, const char *path)
{
    mica_gs_voice v;
    MICA_TRY(mica_gs_voice_read(&v, path, &r->err));
    mica_text_add(&r->text, "voice for GPT-SoVITS models with decoder %s, %lld codes\n%s\n", v.hash,
                  (long long)v.code_count, v.text ? v.text : "no transcript inside");
    mica_text_add(&r->json,
                  "{\"kind\":\"voice\",\"model_hash\":\"%s\",\"codes\":%lld,\"text\":", v.hash,
                  (long long)v.code_count);
    mica_text_add_json_string(&r->json, v.text ? v.text : "");
    mica_text_add(&r->json, ",\"language\":");
    mica_text_add_json_string(&r->json, v.language ? v.language : "");
    mica_text_add(&r->json, "}");
    mica_gs_voice_deinit(&v);
    return MICA_OK;
}

mica_status mica_inspect(const char *path, mica_report **out)
{
    mica_report *r = mica_mem_calloc(1, sizeof *r);
    *out = r;
    if (!r)
        return MICA_E_NOMEM;
    if (!path)
        return MICA_FAIL(&r->err, MICA_E_USAGE, "no path to inspect");
    const char *kind = mica_picture_kind(path);
    if (kind)
        MICA_TRY(inspect_picture(r, kind, path));
    else if (mica_gs_voice_is_file(path))
        MICA_TRY(inspect_voice(r, path));
    else if (mica_lora_is_file(path))
        MICA_TRY(mica_lora_inspect(path, &r->text, &r->json, &r->err));
    else
        MICA_TRY(mica_model_inspect(path, &r->text, &r->json, &r->err));
    if (r->text.failed || r->json.failed)
        return MICA_FAIL(&r->err, MICA_E_NOMEM, "%s: no memory to describe it", path);
    return MICA_OK;
}

const char *mica_report_text(const mica_report *report)
{
    return report && report->text.data ? report->text.data : "";
}

const char *mica_report_json(const mica_report *report)
{
    return report && report->json.data ? report->json.data : "{}";
}

const char *mica_report_errmsg(const mica_report *report)
{
    return report ? report->err.text : mica_status_name(MICA_E_NOMEM);
}

void mica_report_close(mica_report **report)
{
    mica_report *r = report ? *report : NULL;
    if (!r)
        return;
    mica_text_deinit(&r->text);
    mica_text_deinit(&r->json);
    mica_mem_free(r);
    *report = NULL;
}
