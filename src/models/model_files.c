/* model_files.c - finds the parts of a model on disk; see model_files.h.
 *
 * Order: the layout of `model` decides what lies where; then parts given one by one replace
 * what was found; then a tokenizer and configs are looked for beside them. */
#include "models/model_files.h"

#include "base/file.h"
#include "base/names.h"
#include "format/safetensors.h"
#include "nn/lm_gguf.h"

#include <stdio.h>
#include <string.h>

const char *mica_model_part_name(mica_model_part part)
{
    static const char *const NAMES[MICA_PART_COUNT] = {
        "nothing",     "language model", "transformer", "text encoder",    "VAE",
        "tokenizer",   "scheduler",      "index",       "processor",       "text-to-semantic model",
        "synthesizer", "HuBERT",         "BERT",        "speaker network", "g2pW"};
    return part >= 0 && part < MICA_PART_COUNT ? NAMES[part] : NAMES[0];
}

const char *mica_model_part_option(mica_model_part part)
{
    static const char *const OPTIONS[MICA_PART_COUNT] = {[MICA_PART_TRANSFORMER] = "transformer",
                                                         [MICA_PART_TEXT_ENCODER] = "text-encoder",
                                                         [MICA_PART_VAE] = "vae",
                                                         [MICA_PART_SEMANTIC] = "semantic",
                                                         [MICA_PART_SYNTHESIZER] = "synthesizer",
                                                         [MICA_PART_HUBERT] = "hubert",
                                                         [MICA_PART_BERT] = "bert",
                                                         [MICA_PART_SPEAKER] = "speaker",
                                                         [MICA_PART_G2PW] = "g2pw"};
    const char *option = part >= 0 && part < MICA_PART_COUNT ? OPTIONS[part] : NULL;
    return option ? option : "";
}

void mica_model_parts_deinit(mica_model_parts *parts)
{
    for (int i = 0; i < MICA_PART_COUNT; i++) {
        mica_mem_free(parts->path[i]);
        mica_mem_free(parts->config[i]);
    }
    *parts = (mica_model_parts){0};
}

static mica_status out_of_memory(mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "no memory to look for the parts of the model");
}

/* Folder part of a path, "." without one; mica_mem_free. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? mica_mem_strndup(path, slash == path ? 1 : (size_t)(slash - path))
                 : mica_mem_strdup(".");
}

/* dir/name into *out when it is there (as a folder or file, as asked); *out else untouched. */
static mica_status take_if(char **out, const char *dir, const char *name, bool folder,
                           mica_err *err)
{
    char *path = mica_path_join(dir, name);
    if (!path)
        return out_of_memory(err);
    if (!*out && (folder ? mica_path_is_dir(path) : mica_path_is_file(path)))
        *out = path;
    else
        mica_mem_free(path);
    return MICA_OK;
}

/* --------------------------------------------------------------- one file's part -- */

static const mica_model_kind *classify(const mica_weights *w, mica_model_part *part)
{
    const mica_model_kind *kind;
    for (int i = 0; (kind = mica_model_kind_at(i)) != NULL; i++) {
        *part = kind->classify(w);
        if (*part != MICA_PART_NONE)
            return kind;
    }
    *part = MICA_PART_NONE;
    return NULL;
}

/* What a file of no known part calls itself: " (GGUF architecture 'sd3')". */
typedef struct stranger_text {
    char text[96];
} stranger_text;

static void note_stranger(const mica_weights *w, stranger_text *s)
{
    const char *name = mica_weights_metadata(w, "general.architecture");
    if (name)
        snprintf(s->text, sizeof s->text, " (GGUF architecture '%.64s')",
                 mica_printable_text(name));
}

static mica_status classify_path(const char *path, const mica_model_kind **kind,
                                 bool is[MICA_PART_COUNT], stranger_text *stranger, mica_err *err)
{
    mica_weights *w = NULL;
    mica_model_part first;
    MICA_TRY(mica_lm_weights_open(&w, path, err));
    *kind = classify(w, &first);
    if (!*kind)
        note_stranger(w, stranger);
    for (int part = MICA_PART_NONE + 1; *kind && part < MICA_PART_COUNT; part++)
        is[part] =
            part == (int)first || ((*kind)->holds && (*kind)->holds(w, (mica_model_part)part));
    mica_weights_close(&w);
    return MICA_OK;
}

static mica_status take_part(mica_model_parts *parts, const char *path, mica_model_part part,
                             mica_err *err)
{
    if (parts->path[part])
        return MICA_FAIL(err, MICA_E_USAGE, "%s and %s are both a %s; choose one with --%s",
                         parts->path[part], path, mica_model_part_name(part),
                         mica_model_part_option(part));
    parts->path[part] = mica_mem_strdup(path);
    return parts->path[part] ? MICA_OK : out_of_memory(err);
}

/* Files that are nobody's part (adapters, upscalers) are passed over, unless one is all there is. */
static mica_status take_file(mica_model_parts *parts, const char *path, bool is_only, mica_err *err)
{
    const mica_model_kind *kind;
    bool is[MICA_PART_COUNT] = {false};
    stranger_text stranger = {""};
    MICA_TRY(classify_path(path, &kind, is, &stranger, err));
    if (!kind && is_only)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: its tensors%s belong to no model that is known here", path,
                         stranger.text);
    for (int part = 0; kind && part < MICA_PART_COUNT; part++)
        if (is[part])
            MICA_TRY(take_part(parts, path, (mica_model_part)part, err));
    return MICA_OK;
}

static bool is_weight_file(const char *name)
{
    const char *of = strstr(name, "-of-");
    if (mica_name_ends(name, ".safetensors"))
        return true;
    /* Of a GGUF file in numbered parts the first stands for all. */
    return mica_name_ends(name, ".gguf") &&
           (!of || of - name < 5 || strncmp(of - 5, "00001", 5) == 0);
}

/* Every .safetensors and .gguf of a folder; a folder without any is no error. */
static mica_status take_files(mica_model_parts *parts, const char *dir, mica_err *err)
{
    char **names = NULL;
    size_t count = 0;
    if (!mica_path_is_dir(dir))
        return MICA_OK;
    mica_status st = mica_path_list(dir, &names, &count, err);
    for (size_t i = 0; i < count && !st; i++) {
        if (!is_weight_file(names[i]))
            continue;
        char *path = mica_path_join(dir, names[i]);
        st = path ? take_file(parts, path, false, err) : out_of_memory(err);
        mica_mem_free(path);
    }
    mica_path_list_free(&names, count);
    return st;
}

/* ------------------------------------------------------------------ the layouts -- */

static mica_status resolve_diffusers(mica_model_parts *p, const char *dir, mica_err *err)
{
    MICA_TRY(take_if(&p->path[MICA_PART_TRANSFORMER], dir, "transformer", true, err));
    MICA_TRY(take_if(&p->path[MICA_PART_TEXT_ENCODER], dir, "text_encoder", true, err));
    MICA_TRY(take_if(&p->path[MICA_PART_VAE], dir, "vae", true, err));
    MICA_TRY(take_if(&p->path[MICA_PART_TOKENIZER], dir, "tokenizer", true, err));
    MICA_TRY(take_if(&p->path[MICA_PART_TOKENIZER], dir, "processor", true, err));
    MICA_TRY(take_if(&p->path[MICA_PART_INDEX], dir, "model_index.json", false, err));
    MICA_TRY(take_if(&p->path[MICA_PART_PROCESSOR], dir, "processor/preprocessor_config.json",
                     false, err));
    return take_if(&p->path[MICA_PART_SCHEDULER], dir, "scheduler/scheduler_config.json", false,
                   err);
}

static mica_status resolve_loose(mica_model_parts *p, const char *dir, mica_err *err)
{
    static const char *const FOLDERS[] = {"diffusion_models", "unet", "text_encoders", "clip",
                                          "vae"};
    MICA_TRY(take_files(p, dir, err));
    for (size_t i = 0; i < MICA_ARRAY_LEN(FOLDERS); i++) {
        char *sub = mica_path_join(dir, FOLDERS[i]);
        const mica_status st = sub ? take_files(p, sub, err) : out_of_memory(err);
        mica_mem_free(sub);
        MICA_TRY(st);
    }
    MICA_TRY(take_if(&p->path[MICA_PART_TOKENIZER], dir, "tokenizer", true, err));
    MICA_TRY(take_if(&p->path[MICA_PART_TOKENIZER], dir, "processor", true, err));
    return take_if(&p->path[MICA_PART_SCHEDULER], dir, "scheduler_config.json", false, err);
}

/* A folder with an index is one part by itself. */
static mica_status has_index(const char *dir, bool *found, mica_err *err)
{
    char **names = NULL;
    size_t count = 0;
    *found = false;
    if (!mica_path_is_dir(dir))
        return MICA_OK;
    MICA_TRY(mica_path_list(dir, &names, &count, err));
    for (size_t i = 0; i < count; i++)
        *found |= mica_name_ends(names[i], ".safetensors.index.json");
    mica_path_list_free(&names, count);
    return MICA_OK;
}

static mica_status has_entry(const char *dir, const char *name, bool *found, mica_err *err)
{
    char *path = mica_path_join(dir, name);
    if (!path)
        return out_of_memory(err);
    *found |= mica_path_is_dir(path) || mica_path_is_file(path);
    mica_mem_free(path);
    return MICA_OK;
}

/* A folder without a part of a picture model may be a speech model's. */
static mica_status resolve_folder(mica_model_parts *p, const mica_engine_options *o, mica_err *err)
{
    const bool given[MICA_PART_COUNT] = {[MICA_PART_SEMANTIC] = o->semantic != NULL,
                                         [MICA_PART_SYNTHESIZER] = o->synthesizer != NULL,
                                         [MICA_PART_HUBERT] = o->hubert != NULL,
                                         [MICA_PART_BERT] = o->bert != NULL,
                                         [MICA_PART_SPEAKER] = o->speaker != NULL,
                                         [MICA_PART_G2PW] = o->g2pw != NULL};
    MICA_TRY(resolve_loose(p, o->model, err));
    for (int part = MICA_PART_TRANSFORMER; part <= MICA_PART_VAE; part++)
        if (p->path[part])
            return MICA_OK;
    return mica_speech_parts_find(p, o->model, given, err);
}

static mica_status resolve_model(mica_model_parts *p, const mica_engine_options *o, mica_err *err)
{
    const char *model = o->model;
    bool is_part = false, is_diffusers = false;
    MICA_TRY(has_index(model, &is_part, err));
    if (is_part || mica_path_is_file(model))
        return take_file(p, model, true, err);
    if (!mica_path_is_dir(model))
        return MICA_FAIL(err, MICA_E_MISSING, "%s: there is no such model folder or file", model);
    MICA_TRY(has_entry(model, "model_index.json", &is_diffusers, err));
    MICA_TRY(has_entry(model, "transformer", &is_diffusers, err));
    return is_diffusers ? resolve_diffusers(p, model, err) : resolve_folder(p, o, err);
}

/* --------------------------------------------------------------------- the rest -- */

static mica_status replace(char **slot, const char *path, mica_err *err)
{
    if (!path)
        return MICA_OK;
    if (!mica_path_is_dir(path) && !mica_path_is_file(path))
        return MICA_FAIL(err, MICA_E_MISSING, "%s: there is no such file or folder", path);
    mica_mem_free(*slot);
    *slot = mica_mem_strdup(path);
    return *slot ? MICA_OK : out_of_memory(err);
}

/* A tokenizer beside the text encoder or the language model, or one folder up. */
static mica_status find_tokenizer(mica_model_parts *p, mica_err *err)
{
    const char *encoder = p->path[MICA_PART_TEXT_ENCODER] ? p->path[MICA_PART_TEXT_ENCODER]
                                                          : p->path[MICA_PART_LANGUAGE];
    char **slot = &p->path[MICA_PART_TOKENIZER];
    if (*slot || !encoder)
        return MICA_OK;
    char *dir = mica_path_is_dir(encoder) ? mica_mem_strdup(encoder) : folder_of(encoder);
    if (!dir)
        return out_of_memory(err);
    mica_status st = take_if(slot, dir, "tokenizer.json", false, err);
    if (!st)
        st = take_if(slot, dir, "tokenizer", true, err);
    if (!st)
        st = take_if(slot, dir, "../tokenizer", true, err);
    mica_mem_free(dir);
    return st;
}

/* The processor's settings lie beside the tokenizer in the text encoder's own repository. */
static mica_status find_processor(mica_model_parts *p, mica_err *err)
{
    const char *tokenizer = p->path[MICA_PART_TOKENIZER];
    if (!tokenizer)
        return MICA_OK;
    char *dir = mica_path_is_dir(tokenizer) ? mica_mem_strdup(tokenizer) : folder_of(tokenizer);
    if (!dir)
        return out_of_memory(err);
    const mica_status st =
        take_if(&p->path[MICA_PART_PROCESSOR], dir, "preprocessor_config.json", false, err);
    mica_mem_free(dir);
    return st;
}

/* Folder that holds a part's weights. */
static char *home_of(const mica_model_parts *p, int part)
{
    const char *path = p->path[part];
    return mica_path_is_dir(path) ? mica_mem_strdup(path) : folder_of(path);
}

/* Whether no other part has its weights in `home`. */
static mica_status is_alone(const mica_model_parts *p, int part, const char *home, bool *alone,
                            mica_err *err)
{
    *alone = true;
    for (int other = MICA_PART_LANGUAGE; other <= MICA_PART_VAE; other++) {
        if (other == part || !p->path[other])
            continue;
        char *there = home_of(p, other);
        if (!there)
            return out_of_memory(err);
        *alone &= strcmp(there, home) != 0;
        mica_mem_free(there);
    }
    return MICA_OK;
}

/* NAME.json beside NAME.safetensors or NAME.gguf, or config.json where no other part lies. */
static mica_status find_config(mica_model_parts *p, int part, mica_err *err)
{
    const char *path = p->path[part];
    if (!path)
        return MICA_OK;
    const char *ext = mica_name_ends(path, ".gguf") ? ".gguf" : ".safetensors";
    if (mica_name_ends(path, ext)) {
        char *json = mica_mem_alloc(strlen(path) + 1);
        if (!json)
            return out_of_memory(err);
        snprintf(json, strlen(path) + 1, "%.*s.json", (int)(strlen(path) - strlen(ext)), path);
        if (mica_path_is_file(json)) {
            p->config[part] = json;
            return MICA_OK;
        }
        mica_mem_free(json);
    }
    char *home = home_of(p, part);
    if (!home)
        return out_of_memory(err);
    bool alone;
    mica_status st = is_alone(p, part, home, &alone, err);
    if (!st && alone)
        st = take_if(&p->config[part], home, "config.json", false, err);
    mica_mem_free(home);
    return st;
}

static mica_status find_kind(const mica_model_parts *p, const mica_model_kind **kind,
                             const char *model, mica_err *err)
{
    *kind = NULL;
    for (int part = MICA_PART_LANGUAGE; part < MICA_PART_COUNT && !*kind; part++) {
        bool is[MICA_PART_COUNT];
        if (!p->path[part] || !mica_model_part_is_weights(part))
            continue;
        stranger_text stranger = {""};
        MICA_TRY(classify_path(p->path[part], kind, is, &stranger, err));
        if (!*kind)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "%s: its tensors%s belong to no model that is known here",
                             p->path[part], stranger.text);
    }
    if (!*kind)
        return MICA_FAIL(err, MICA_E_MISSING, "%s: it holds no part of a model that is known here",
                         model ? model : "model");
    return MICA_OK;
}

static mica_status resolve(mica_model_parts *p, const mica_model_kind **kind,
                           const mica_engine_options *o, mica_err *err)
{
    if (o->model)
        MICA_TRY(resolve_model(p, o, err));
    MICA_TRY(replace(&p->path[MICA_PART_TRANSFORMER], o->transformer, err));
    MICA_TRY(replace(&p->path[MICA_PART_TEXT_ENCODER], o->text_encoder, err));
    MICA_TRY(replace(&p->path[MICA_PART_VAE], o->vae, err));
    MICA_TRY(replace(&p->path[MICA_PART_TOKENIZER], o->tokenizer, err));
    MICA_TRY(replace(&p->path[MICA_PART_SEMANTIC], o->semantic, err));
    MICA_TRY(replace(&p->path[MICA_PART_SYNTHESIZER], o->synthesizer, err));
    MICA_TRY(replace(&p->path[MICA_PART_HUBERT], o->hubert, err));
    MICA_TRY(replace(&p->path[MICA_PART_BERT], o->bert, err));
    MICA_TRY(replace(&p->path[MICA_PART_SPEAKER], o->speaker, err));
    MICA_TRY(replace(&p->path[MICA_PART_G2PW], o->g2pw, err));
    MICA_TRY(find_tokenizer(p, err));
    MICA_TRY(find_processor(p, err));
    for (int part = MICA_PART_LANGUAGE; part < MICA_PART_COUNT; part++)
        if (mica_model_part_is_weights(part))
            MICA_TRY(find_config(p, part, err));
    return find_kind(p, kind, o->model, err);
}

mica_status mica_model_parts_resolve(mica_model_parts *parts, const mica_model_kind **kind,
                                     const mica_engine_options *options, mica_err *err)
{
    *parts = (mica_model_parts){0};
    *kind = NULL;
    const mica_status st = resolve(parts, kind, options, err);
    if (st)
        mica_model_parts_deinit(parts);
    return st;
}
