/* convert_source.c - what is converted: files opened, told apart, named as the model knows them; see convert.h.
 *
 *     a file, a folder of one network ──► one source
 *     two checkpoints, their folder, or a voice file ──► two, whose tensors go into one file
 */
#include "models/convert.h"

#include "base/file.h"
#include "models/flux2/flux2_config.h"
#include "models/gpt_sovits/gpt_sovits_convert.h"
#include "models/mixtral/mixtral_convert.h"
#include "models/model_files.h"
#include "models/qwen_image/qwen_image_config.h"
#include "models/zimage/zimage_config.h"
#include "nn/lm_gguf.h"
#include "nn/qwen3.h"

#include <stdio.h>
#include <string.h>

static void classify(mica_convert_source *s)
{
    const mica_model_kind *kind;
    for (int i = 0; !s->kind && (kind = mica_model_kind_at(i)) != NULL; i++) {
        s->part = kind->classify(s->weights);
        s->kind = s->part == MICA_PART_NONE ? NULL : kind;
    }
}

/* Readers of GGUF know the layouts of ComfyUI: BFL's of FLUX.2, fused q, k, v of Z-Image. */
static mica_status canonical_transformer(const mica_convert_plan *p, mica_convert_source *s,
                                         mica_err *err)
{
    if (!p->gguf)
        return MICA_OK;
    if (mica_flux2_is_transformer(s->weights)) {
        s->spell = mica_flux2_bfl_name;
        return mica_flux2_rename(s->weights, err);
    }
    if (mica_zimage_is_transformer(s->weights)) {
        s->spell = mica_zimage_comfy_name;
        return mica_zimage_rename(s->weights, err);
    }
    return mica_qwen_image_is_transformer(s->weights) ? mica_qwen_image_rename(s->weights, err)
                                                      : MICA_OK;
}

/* Names, views and sizes as the model knows them. */
static mica_status canonical(mica_convert_plan *p, mica_convert_source *s, mica_err *err)
{
    if (s->part == MICA_PART_TEXT_ENCODER)
        return mica_qwen_image_is_text_encoder(s->weights)
                   ? mica_qwen_image_text_rename(s->weights, err)
                   : mica_qwen3_rename(s->weights, err);
    if (s->part == MICA_PART_TRANSFORMER)
        return canonical_transformer(p, s, err);
    if (s->part >= MICA_PART_SEMANTIC)
        return mica_gs_convert_view(&s->view, s->weights, s->part, &p->arena, err);
    if (s->part != MICA_PART_LANGUAGE)
        return MICA_OK;
    mica_mixtral_config *c = mica_arena_calloc(&p->arena, 1, sizeof *c);
    s->language = c;
    return c ? mica_mixtral_prepare(c, s->weights, s->config_path, &p->arena, err)
             : mica_convert_no_memory(p, err);
}

/* config.json in the folder, or NAME.json beside NAME.safetensors; its text, or that in the metadata. */
static mica_status find_config(mica_convert_plan *p, mica_convert_source *s, const char *input,
                               mica_err *err)
{
    const char *dot = strrchr(input, '.');
    char *path = mica_path_is_dir(input) ? mica_path_join(input, "config.json") : NULL;
    if (!path && dot) {
        const char *name = mica_convert_join(p, input, (size_t)(dot - input), ".json");
        path = name ? mica_mem_strdup(name) : NULL;
    }
    s->config = mica_weights_metadata(s->weights, "config");
    if (!path || !mica_path_is_file(path)) {
        mica_mem_free(path);
        return MICA_OK;
    }
    char *data = NULL;
    size_t size = 0;
    mica_status st = mica_file_read(path, (size_t)1 << 20, &data, &size, err);
    if (!st) {
        s->config_path = mica_convert_join(p, path, strlen(path), "");
        s->config = mica_arena_strndup(&p->arena, data, size);
        if (!s->config || !s->config_path)
            st = mica_convert_no_memory(p, err);
    }
    mica_mem_free(data);
    mica_mem_free(path);
    return st;
}

/* part NONE: the first one that the file is. */
static mica_status open_source(mica_convert_plan *p, const char *path, mica_model_part part,
                               mica_err *err)
{
    mica_convert_source *s = &p->sources[p->source_count++];
    MICA_TRY(mica_lm_weights_open(&s->weights, path, err));
    classify(s);
    if (part != MICA_PART_NONE)
        s->part = part;
    MICA_TRY(find_config(p, s, path, err));
    return canonical(p, s, err);
}

/* Both checkpoints of a voice, in either order. */
static mica_status check_voice(const mica_convert_plan *p, mica_err *err)
{
    const mica_model_part a = p->sources[0].part, b = p->sources[1].part;
    if ((a == MICA_PART_SEMANTIC && b == MICA_PART_SYNTHESIZER) ||
        (b == MICA_PART_SEMANTIC && a == MICA_PART_SYNTHESIZER))
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_USAGE,
                     "%s and %s: a voice is a text-to-semantic model (s1*.ckpt) and a synthesizer "
                     "(s2G*.pth)",
                     mica_weights_path(p->sources[0].weights),
                     mica_weights_path(p->sources[1].weights));
}

/* A folder of checkpoints: those of a voice. Strings of *parts are owned. */
static mica_status find_voice(const mica_convert_request *r, mica_model_parts *parts, mica_err *err)
{
    char *config = mica_path_join(r->input, "config.json");
    const bool network = !config || mica_path_is_file(config);
    const bool given[MICA_PART_COUNT] = {[MICA_PART_SEMANTIC] = r->semantic != NULL,
                                         [MICA_PART_SYNTHESIZER] = r->synthesizer != NULL};
    mica_mem_free(config);
    *parts = (mica_model_parts){0};
    if (network || r->stem || !mica_path_is_dir(r->input))
        return MICA_OK;
    return mica_speech_parts_find(parts, r->input, given, err);
}

/* The second part of a voice file; NONE: it is no such file. */
static mica_model_part other_of_voice(const mica_convert_source *s)
{
    const mica_model_part other = s->part == MICA_PART_SEMANTIC      ? MICA_PART_SYNTHESIZER
                                  : s->part == MICA_PART_SYNTHESIZER ? MICA_PART_SEMANTIC
                                                                     : MICA_PART_NONE;
    return other != MICA_PART_NONE && s->kind->holds(s->weights, other) ? other : MICA_PART_NONE;
}

mica_status mica_convert_open_sources(mica_convert_plan *p, const mica_convert_request *r,
                                      mica_err *err)
{
    mica_model_parts found;
    mica_status st = find_voice(r, &found, err);
    const char *first = r->semantic ? r->semantic : found.path[MICA_PART_SEMANTIC];
    const char *second = r->synthesizer;
    if (first && !second)
        second = found.path[MICA_PART_SYNTHESIZER];
    if (!st)
        st = open_source(p, first ? first : r->input, MICA_PART_NONE, err);
    const mica_convert_source *s = &p->sources[0];
    const mica_model_part other = st ? MICA_PART_NONE : other_of_voice(s);
    if (other != MICA_PART_NONE)
        st = open_source(p, mica_weights_path(s->weights), other, err);
    else if (!st && second) {
        st = open_source(p, second, MICA_PART_NONE, err);
        st = st ? st : check_voice(p, err);
    }
    mica_model_parts_deinit(&found);
    return st;
}
