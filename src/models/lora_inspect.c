/* lora_inspect.c - says what a LoRA file is: form, ranks, layers, and which family it fits.
 *
 *   LoRA for Qwen-Image: lightning, hash 0123456789abcdef
 *     layers        720 (720 LoRA), rank 32
 *     fits          Qwen-Image 720 of 720
 *     not used      12 layers of a text encoder
 *
 * Headers and alphas are read, nothing else. */
#include "models/model_files.h"

#include "base/file.h"

bool mica_lora_is_file(const char *path)
{
    mica_weights *w = NULL;
    if (!mica_path_is_file(path) || mica_weights_open(&w, path, NULL))
        return false;
    bool is = mica_lora_is_lora(w);
    for (int i = 0; is && mica_model_kind_at(i); i++)
        is = mica_model_kind_at(i)->classify(w) == MICA_PART_NONE;
    mica_weights_close(&w);
    return is;
}

static void add_forms(const mica_lora_facts *f, mica_text *text, mica_text *json)
{
    const struct {
        const char *title, *key;
        int count;
    } forms[] = {{"LoRA", "lora", f->loras},
                 {"DoRA", "dora", f->doras},
                 {"LoHa", "loha", f->lohas},
                 {"LoKr", "lokr", f->lokrs},
                 {"difference", "diff", f->diffs}};
    const char *before = "";
    mica_text_add(text, "  layers        %d (", f->targets);
    mica_text_add(json, ",\"targets\":%d,\"forms\":{", f->targets);
    for (size_t i = 0; i < MICA_ARRAY_LEN(forms); i++) {
        if (!forms[i].count)
            continue;
        mica_text_add(text, "%s%d %s", before[0] ? ", " : "", forms[i].count, forms[i].title);
        mica_text_add(json, "%s\"%s\":%d", before, forms[i].key, forms[i].count);
        before = ",";
    }
    mica_text_add(text, ")");
    mica_text_add(json, "},\"rank_min\":%d,\"rank_max\":%d", f->rank_min, f->rank_max);
    if (f->rank_max && f->rank_min == f->rank_max)
        mica_text_add(text, ", rank %d", f->rank_max);
    else if (f->rank_max)
        mica_text_add(text, ", ranks %d to %d", f->rank_min, f->rank_max);
    mica_text_add(text, "\n");
}

/* The family with most layers; NULL: none has any. */
static const mica_model_kind *add_families(const mica_lora *l, int targets, mica_text *text,
                                           mica_text *json)
{
    const mica_model_kind *kind, *best = NULL;
    int most = 0;
    mica_text_add(json, ",\"fits\":{");
    for (int i = 0; (kind = mica_model_kind_at(i)) != NULL; i++) {
        const int matched = kind->lora ? mica_lora_count_matches(l, kind->lora).matched : 0;
        if (!matched)
            continue;
        mica_text_add(text, "  fits          %s %d of %d\n", kind->title, matched, targets);
        mica_text_add(json, "%s\"%s\":%d", best ? "," : "", kind->id, matched);
        if (matched > most)
            best = kind;
        most = MICA_MAX(most, matched);
    }
    mica_text_add(json, "}");
    if (!best)
        mica_text_add(text, "  fits          no model that is known here\n");
    return best;
}

static void add_rest(const mica_lora_facts *f, mica_text *text, mica_text *json)
{
    if (f->text_targets)
        mica_text_add(text, "  not used      %d layers of a text encoder\n", f->text_targets);
    if (f->unknown)
        mica_text_add(text, "  unknown       %d tensors (the first: %s)\n", f->unknown,
                      f->first_unknown);
    mica_text_add(json, ",\"text_encoder_targets\":%d,\"unknown_tensors\":%d", f->text_targets,
                  f->unknown);
}

mica_status mica_lora_inspect(const char *path, mica_text *text, mica_text *json, mica_err *err)
{
    mica_lora *l = NULL;
    mica_text details = {0};
    MICA_TRY(mica_lora_open(&l, path, err));
    const mica_lora_facts f = mica_lora_get_facts(l);
    mica_text_add(json, "{\"kind\":\"lora\",\"name\":");
    mica_text_add_json_string(json, mica_lora_name(l));
    mica_text_add(json, ",\"hash\":\"%s\",\"parameters\":%llu,\"bytes\":%llu", mica_lora_hash(l),
                  (unsigned long long)f.parameters, (unsigned long long)f.bytes);
    add_forms(&f, &details, json);
    const mica_model_kind *kind = add_families(l, f.targets, &details, json);
    add_rest(&f, &details, json);
    mica_text_add(json, ",\"family\":");
    if (kind)
        mica_text_add_json_string(json, kind->id);
    mica_text_add(json, kind ? "}" : "null}");
    mica_text_add(text, "LoRA%s%s: %s, hash %s, %.2f GB\n%s", kind ? " for " : "",
                  kind ? kind->title : "", mica_lora_name(l), mica_lora_hash(l),
                  (double)f.bytes * 1e-9, details.data ? details.data : "");
    const bool failed = details.failed || text->failed || json->failed;
    mica_text_deinit(&details);
    mica_lora_close(&l);
    return failed ? MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to describe it", path) : MICA_OK;
}
