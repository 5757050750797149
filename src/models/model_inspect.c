/* model_inspect.c - says what a model folder or file is, from headers alone.
 *
 *   Qwen-Image (qwen-image)
 *     transformer   1933 tensors  20.43 B parameters  bf16  40.9 GB  path
 *     ...
 *     memory        ... GB of weights, ... GB of working memory at 1024 x 1024
 *     GPU memory    ... GB with all weights there, ... GB for the largest part alone, ... less streamed
 *     missing       tokenizer
 *
 * The same facts go into one JSON object. A model whose parts are damaged is still described
 * as far as it can be; what opening it would say stands under "problems". A speech folder with two of a
 * part is listed too, as "files", with what has to be chosen. */
#include "models/model_files.h"

#include "base/clock.h"
#include "base/file.h"

#include <stdio.h>
#include <string.h>

#define DEFAULT_SIDE 1024

typedef struct part_facts {
    uint64_t tensors, parameters, bytes;
    uint64_t by_dtype[MICA_DTYPE_COUNT]; /* parameters */
} part_facts;

static mica_status read_facts(const char *path, part_facts *f, mica_err *err)
{
    mica_weights *w = NULL;
    *f = (part_facts){0};
    MICA_TRY(mica_weights_peek(&w, path, err));
    f->tensors = mica_weights_count(w);
    f->parameters = mica_weights_parameters(w);
    f->bytes = mica_weights_bytes(w);
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const mica_tensor *t = mica_weights_tensor(w, i);
        f->by_dtype[t->dtype] += (uint64_t)mica_tensor_count(t);
    }
    mica_weights_close(&w);
    return MICA_OK;
}

/* Bytes of weights of all parts, and of the largest one. */
typedef struct part_bytes {
    uint64_t all, largest;
} part_bytes;

static void add_dtypes_text(const part_facts *f, mica_text *text)
{
    const char *separator = "";
    for (int d = 0; d < MICA_DTYPE_COUNT; d++) {
        if (!f->by_dtype[d])
            continue;
        mica_text_add(text, "%s%s", separator, mica_dtype_get((mica_dtype)d)->name);
        separator = "+";
    }
}

static void add_dtypes_json(const part_facts *f, mica_text *json)
{
    const char *separator = "";
    mica_text_add(json, "{");
    for (int d = 0; d < MICA_DTYPE_COUNT; d++) {
        if (!f->by_dtype[d])
            continue;
        mica_text_add(json, "%s\"%s\":%llu", separator, mica_dtype_get((mica_dtype)d)->name,
                      (unsigned long long)f->by_dtype[d]);
        separator = ",";
    }
    mica_text_add(json, "}");
}

static const char *slot_name(int part)
{
    static const char *const NAMES[MICA_PART_COUNT] = {
        "",          "language_model", "transformer", "text_encoder", "vae",         "tokenizer",
        "scheduler", "index",          "processor",   "semantic",     "synthesizer", "hubert",
        "bert",      "speaker",        "g2pw"};
    return NAMES[part];
}

static void add_part(int part, const char *path, const part_facts *f, mica_text *text,
                     mica_text *json)
{
    const bool is_large = f->parameters >= 1000000000, is_heavy = f->bytes >= 1000000000;
    mica_text_add(text, "  %-13s %llu tensors, %.*f %s parameters, ", mica_model_part_name(part),
                  (unsigned long long)f->tensors, is_large ? 3 : 2,
                  (double)f->parameters * (is_large ? 1e-9 : 1e-6), is_large ? "B" : "M");
    add_dtypes_text(f, text);
    mica_text_add(text, ", %.2f %s: %s\n", (double)f->bytes * (is_heavy ? 1e-9 : 1e-6),
                  is_heavy ? "GB" : "MB", path);
    mica_text_add(json, "\"%s\":{\"path\":", slot_name(part));
    mica_text_add_json_string(json, path);
    mica_text_add(json, ",\"tensors\":%llu,\"parameters\":%llu,\"bytes\":%llu,\"dtypes\":",
                  (unsigned long long)f->tensors, (unsigned long long)f->parameters,
                  (unsigned long long)f->bytes);
    add_dtypes_json(f, json);
    mica_text_add(json, "}");
}

/* Weight parts with numbers, the others with their path. */
static mica_status add_parts(const mica_model_parts *p, mica_text *text, mica_text *json,
                             part_bytes *bytes, mica_err *err)
{
    const char *separator = "";
    mica_text_add(json, ",\"parts\":{");
    for (int part = MICA_PART_LANGUAGE; part < MICA_PART_COUNT; part++) {
        part_facts f;
        if (!p->path[part])
            continue;
        mica_text_add(json, "%s", separator);
        separator = ",";
        if (mica_model_part_is_weights(part)) {
            MICA_TRY(read_facts(p->path[part], &f, err));
            bytes->all += f.bytes;
            bytes->largest = MICA_MAX(bytes->largest, f.bytes);
            add_part(part, p->path[part], &f, text, json);
            continue;
        }
        mica_text_add(text, "  %-13s %s\n", mica_model_part_name(part), p->path[part]);
        mica_text_add(json, "\"%s\":{\"path\":", slot_name(part));
        mica_text_add_json_string(json, p->path[part]);
        mica_text_add(json, "}");
    }
    mica_text_add(json, "}");
    return MICA_OK;
}

/* also: a part of the model's version, or NONE. */
static bool add_missing(const mica_model_parts *p, bool speaks, mica_model_part also,
                        mica_text *text, mica_text *json)
{
    const char *separator = "";
    const int first = speaks ? MICA_PART_SEMANTIC : MICA_PART_TRANSFORMER;
    const int last = speaks ? MICA_PART_BERT : MICA_PART_TOKENIZER;
    bool any = false;
    mica_text_add(json, ",\"missing\":[");
    for (int part = first; part < MICA_PART_COUNT; part++) {
        /* A language model is whole but for its tokenizer, which GGUF files hold themselves. */
        if (p->path[part] || p->path[MICA_PART_LANGUAGE] || (part > last && part != (int)also))
            continue;
        mica_text_add(text, "%s%s", any ? ", " : "  missing       ", mica_model_part_name(part));
        mica_text_add(json, "%s\"%s\"", separator, slot_name(part));
        separator = ",";
        any = true;
    }
    mica_text_add(json, "]");
    if (any)
        mica_text_add(text, "\n");
    return any;
}

/* On a GPU activations are half as wide as on the CPU (bf16), and the parts of a run need not be there at
 * the same time; with --vram not even all blocks of one. */
static void add_gpu_memory(const part_bytes *bytes, uint64_t scratch, mica_text *text,
                           mica_text *json)
{
    const uint64_t all = bytes->all + scratch / 2, largest = bytes->largest + scratch / 2;
    mica_text_add(text,
                  "  GPU memory    %.2f GB with all weights there, %.2f GB for the largest part "
                  "alone; less with --vram\n",
                  (double)all * 1e-9, (double)largest * 1e-9);
    mica_text_add(json, ",\"gpu_memory\":{\"all\":%llu,\"largest_part\":%llu}",
                  (unsigned long long)all, (unsigned long long)largest);
}

static void add_memory(const mica_model *m, const part_bytes *parts, mica_text *text,
                       mica_text *json)
{
    const uint64_t bytes = parts->all;
    const uint64_t scratch = m->kind->scratch_bytes(m, DEFAULT_SIDE, DEFAULT_SIDE);
    const uint64_t free_now = mica_clock_available_memory();
    char where[96] = "";
    if (m->kind->complete)
        snprintf(where, sizeof where, " for 4096 tokens of context");
    else if (!m->kind->speak)
        snprintf(where, sizeof where, " at %d x %d with guidance", DEFAULT_SIDE, DEFAULT_SIDE);
    mica_text_add(text,
                  "  memory        %.2f GB of weights (mapped), %.2f GB to work in%s; %.1f GB are "
                  "free\n",
                  (double)bytes * 1e-9, (double)scratch * 1e-9, where, (double)free_now * 1e-9);
    mica_text_add(json,
                  ",\"hash\":\"%s\",\"memory\":{\"weights\":%llu,\"scratch\":%llu,"
                  "\"available\":%llu}",
                  m->hash, (unsigned long long)bytes, (unsigned long long)scratch,
                  (unsigned long long)free_now);
    if (!m->kind->speak)
        add_gpu_memory(parts, scratch, text, json);
}

/* Opens the whole model when nothing is missing: the check of every tensor. */
static void add_check(const mica_model_kind *kind, const mica_model_parts *p,
                      const part_bytes *bytes, mica_text *text, mica_text *json)
{
    mica_model *m = NULL;
    mica_err problem = {0};
    if (kind->open(&m, p, &problem)) {
        mica_text_add(text, "  problems      %s\n", problem.text);
        mica_text_add(json, ",\"problems\":");
        mica_text_add_json_string(json, problem.text);
        return;
    }
    add_memory(m, bytes, text, json);
    kind->close(&m);
}

/* ------------------------------------------- a folder with several of one part -- */

/* Files of a folder whose parts cannot be chosen without the user. */
typedef struct choice {
    const mica_model_kind *kind;
    mica_text *text, *json; /* json: the files of all parts, without what is around them */
    size_t count[MICA_PART_COUNT], total;
} choice;

static mica_status add_choice(void *user, mica_model_part part, const char *path, mica_err *err)
{
    choice *c = user;
    part_facts f;
    MICA_TRY(read_facts(path, &f, err));
    mica_text_add(c->json, "%s{", c->total++ ? "," : "");
    add_part(part, path, &f, c->text, c->json);
    mica_text_add(c->json, "}");
    c->count[part]++;
    return MICA_OK;
}

static void add_choices(const choice *c, mica_text *text, mica_text *json)
{
    const char *separator = "";
    mica_text_add(json, ",\"choose\":[");
    for (int part = 0; part < MICA_PART_COUNT; part++)
        if (c->count[part] > 1) {
            mica_text_add(text, "  choose        one %s of %zu, with --%s\n",
                          mica_model_part_name(part), c->count[part], mica_model_part_option(part));
            mica_text_add(json, "%s\"%s\"", separator, slot_name(part));
            separator = ",";
        }
    mica_text_add(json, "]");
}

static const mica_model_kind *speaking_kind(void)
{
    const mica_model_kind *kind;
    for (int i = 0; (kind = mica_model_kind_at(i)) != NULL && !kind->speak; i++)
        continue;
    return kind;
}

/* Lists the parts of a speech folder that holds two of a kind; `why` is what opening it said. */
static mica_status inspect_choices(const char *path, const mica_err *why, mica_text *text,
                                   mica_text *json, mica_err *err)
{
    mica_text lines = {0}, files = {0};
    choice c = {.kind = speaking_kind(), .text = &lines, .json = &files};
    mica_status st = c.kind ? mica_speech_parts_each(path, add_choice, &c, err) : MICA_OK;
    if (!st && c.total == 0)
        st = MICA_FAIL(err, why->status, "%s", why->text);
    if (!st) {
        mica_text_add(text, "%s (%s)\n%s", c.kind->title, c.kind->id, lines.data);
        mica_text_add(json, "{\"kind\":\"model\",\"family\":\"%s\",\"files\":[%s]", c.kind->id,
                      files.data);
        add_choices(&c, text, json);
        mica_text_add(json, "}");
    }
    text->failed |= lines.failed;
    json->failed |= files.failed;
    mica_text_deinit(&lines);
    mica_text_deinit(&files);
    return st;
}

mica_status mica_model_inspect(const char *path, mica_text *text, mica_text *json, mica_err *err)
{
    const mica_engine_options options = {.size = sizeof options, .model = path};
    const mica_model_kind *kind;
    mica_model_parts parts;
    part_bytes bytes = {0};
    mica_err problem = {0};
    if (mica_model_parts_resolve(&parts, &kind, &options, &problem)) {
        if (problem.status == MICA_E_USAGE && mica_path_is_dir(path))
            return inspect_choices(path, &problem, text, json, err);
        return MICA_FAIL(err, problem.status, "%s", problem.text);
    }
    mica_model_part also = MICA_PART_NONE;
    const char *version = kind->version ? kind->version(&parts, &also) : NULL;
    mica_text_add(text, "%s%s%s (%s)\n", kind->title, version ? " " : "", version ? version : "",
                  kind->id);
    mica_text_add(json, "{\"kind\":\"model\",\"family\":\"%s\"", kind->id);
    if (version)
        mica_text_add(json, ",\"version\":\"%s\"", version);
    const mica_status st = add_parts(&parts, text, json, &bytes, err);
    if (!st) {
        if (!add_missing(&parts, kind->speak != NULL, also, text, json))
            add_check(kind, &parts, &bytes, text, json);
        mica_text_add(json, "}");
    }
    mica_model_parts_deinit(&parts);
    if (!st && (text->failed || json->failed))
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to describe it", path);
    return st;
}
