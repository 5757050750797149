/* convert_plan.c - what is written, under which names, in which files; see convert.h.
 *
 *     input ─open─► names and views that the model knows ─► items ─► tensors of the output ─► files
 *
 * Experts of a Mixtral become stacks where readers want them so: in GGUF, and packed in MLX's layout. GGUF files
 * of FLUX.2 and Z-Image have ComfyUI's names, with fused q, k and v. */
#include "models/convert.h"

#include "base/file.h"
#include "format/safetensors.h"
#include "models/flux2/flux2_config.h"
#include "models/gpt_sovits/gpt_sovits_convert.h"
#include "models/mixtral/mixtral_convert.h"
#include "models/model_files.h"
#include "models/qwen_image/qwen_image_config.h"
#include "models/zimage/zimage_config.h"
#include "nn/lm_config.h"
#include "nn/lm_gguf.h"
#include "nn/qwen3.h"

#include <stdio.h>
#include <string.h>

mica_status mica_convert_no_memory(const mica_convert_plan *p, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to plan its conversion", p->input);
}

const mica_weights *mica_convert_tensors(const mica_convert_source *s)
{
    return s->view ? s->view : s->weights;
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static const char *joined(mica_convert_plan *p, const char *stem, size_t n, const char *suffix)
{
    char *s = mica_arena_calloc(&p->arena, n + strlen(suffix) + 1, 1);
    if (s)
        snprintf(s, n + strlen(suffix) + 1, "%.*s%s", (int)n, stem, suffix);
    return s;
}

/* -------------------------------------------------------------- the output -- */

static void add_tensor(mica_convert_plan *p, const char *name, mica_dtype dtype, int ndim,
                       const int64_t *shape)
{
    mica_stream_tensor *t = &p->tensors[p->tensor_count++];
    *t = (mica_stream_tensor){.name = name, .dtype = dtype, .ndim = ndim};
    memcpy(t->shape_, shape, (size_t)ndim * sizeof *shape);
}

/* The tensors that an item becomes; at most three. */
static mica_status add_outputs(mica_convert_plan *p, mica_convert_item *item, mica_err *err)
{
    const char *name = item->name;
    const size_t stem = ends_with(name, ".weight") ? strlen(name) - strlen(".weight") : 0;
    int64_t shape[MICA_MAX_DIMS];
    memcpy(shape, item->shape_, sizeof shape);
    item->first = p->tensor_count;
    const int last = item->ndim - 1;
    if (item->form == MICA_CONVERT_GROUPS) {
        shape[last] = item->shape_[last] * (mica_dtype_get(item->dtype)->size / 4) / 32;
        add_tensor(p, name, MICA_DTYPE_U32, item->ndim, shape);
        shape[last] = item->shape_[last] / item->group;
        add_tensor(p, joined(p, name, stem, ".scales"), MICA_DTYPE_BF16, item->ndim, shape);
        add_tensor(p, joined(p, name, stem, ".biases"), MICA_DTYPE_BF16, item->ndim, shape);
    } else
        add_tensor(p, name, item->dtype, item->ndim, shape);
    if (item->form == MICA_CONVERT_INT8)
        add_tensor(p, joined(p, name, stem, ".weight_scale"), MICA_DTYPE_F32, 2,
                   (const int64_t[]){shape[0], 1});
    if (item->form == MICA_CONVERT_FP8) {
        add_tensor(p, joined(p, name, stem, ".weight_scale"), MICA_DTYPE_F32, 0, shape);
        add_tensor(p, joined(p, name, stem, ".comfy_quant"), MICA_DTYPE_U8, 1,
                   (const int64_t[]){(int64_t)strlen(MICA_CONVERT_FP8_FORMAT)});
    }
    for (size_t i = item->first; i < p->tensor_count; i++)
        if (!p->tensors[i].name)
            return mica_convert_no_memory(p, err);
    return MICA_OK;
}

/* ------------------------------------------------------------------- items -- */

/* stacked: matrices of one shape get a dimension in front; else rows behind each other. */
static mica_status add_item(mica_convert_plan *p, int source, const char *name,
                            const mica_tensor *const *parts, int count, bool stacked, mica_err *err)
{
    mica_convert_item *item = &p->items[p->item_count++];
    const mica_tensor *t = parts[0];
    *item = (mica_convert_item){.name = joined(p, name, strlen(name), ""),
                                .parts = parts,
                                .part_count = count,
                                .source = source,
                                .ndim = t->ndim + stacked};
    if (!item->name)
        return mica_convert_no_memory(p, err);
    item->shape_[0] = count;
    memcpy(item->shape_ + stacked, t->shape_, (size_t)t->ndim * sizeof t->shape_[0]);
    for (int i = 1; i < count; i++) {
        const mica_tensor *other = parts[i];
        const int64_t *shape = other->shape_;
        bool same = other->ndim == t->ndim && other->dtype == t->dtype &&
                    memcmp(shape + 1, t->shape_ + 1, sizeof t->shape_ - sizeof *shape) == 0;
        if (stacked)
            same = same && shape[0] == t->shape_[0];
        else
            item->shape_[0] += shape[0];
        if (!same)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: the parts of %s differ in shape or type",
                             p->input, name);
    }
    return MICA_OK;
}

static mica_status finish_item(mica_convert_plan *p, const mica_convert_source *s, mica_err *err)
{
    mica_convert_item *item = &p->items[p->item_count - 1];
    mica_convert_choose(item, s->part, p->type, p->gguf);
    for (int i = 0; i < item->part_count; i++)
        p->numbers += (uint64_t)mica_tensor_count(item->parts[i]);
    return add_outputs(p, item, err);
}

static mica_status add_plain(mica_convert_plan *p, int source, const char *name,
                             const mica_tensor *t, mica_err *err)
{
    const mica_tensor **parts = mica_arena_alloc(&p->arena, sizeof *parts);
    if (!parts)
        return mica_convert_no_memory(p, err);
    *parts = t;
    return add_item(p, source, name, parts, 1, false, err);
}

/* ---- language models ---- */

static mica_status add_stack(mica_convert_plan *p, int source, const mica_mixtral_expert *first,
                             int experts, mica_err *err)
{
    char name[MICA_TENSOR_NAME_MAX + 1];
    const mica_weights *w = mica_convert_tensors(&p->sources[source]);
    const mica_tensor **parts = mica_arena_calloc(&p->arena, (size_t)experts, sizeof *parts);
    if (!parts)
        return mica_convert_no_memory(p, err);
    for (int e = 0; e < experts; e++) {
        const mica_mixtral_expert at = {first->layer, e, first->part};
        mica_mixtral_expert_name(&at, name, sizeof name);
        parts[e] = mica_weights_find(w, name);
        if (!parts[e])
            return MICA_FAIL(err, MICA_E_MISSING, "%s: tensor %s is missing", p->input, name);
    }
    mica_mixtral_stack_name(first, p->gguf, name, sizeof name);
    return add_item(p, source, name, parts, experts, true, err);
}

static mica_status add_language(mica_convert_plan *p, int source, const mica_mixtral_config *c,
                                const char *name, const mica_tensor *t, mica_err *err)
{
    const mica_convert_source *s = &p->sources[source];
    mica_mixtral_expert expert;
    char text[MICA_TENSOR_NAME_MAX + 1];
    if ((p->gguf || p->type->bits) && mica_mixtral_is_expert(name, &expert)) {
        if (expert.index > 0)
            return MICA_OK;
        MICA_TRY(add_stack(p, source, &expert, (int)c->experts, err));
        return finish_item(p, s, err);
    }
    const bool known = !p->gguf || mica_mixtral_gguf_name(name, text, sizeof text);
    if (!known) {
        p->left_out++;
        return MICA_OK;
    }
    MICA_TRY(add_plain(p, source, p->gguf ? text : name, t, err));
    mica_convert_item *item = &p->items[p->item_count - 1];
    item->heads = c->interleaved == p->gguf ? 0 : mica_mixtral_rotary_heads(c, name);
    if (item->heads > 0)
        item->turn = p->gguf ? MICA_CONVERT_TO_NEIGHBOURS : MICA_CONVERT_TO_HALVES;
    return finish_item(p, s, err);
}

/* ---- all ---- */

static mica_status add_other(mica_convert_plan *p, int source, const char *name,
                             const mica_tensor *t, mica_err *err)
{
    const mica_convert_source *s = &p->sources[source];
    char text[MICA_TENSOR_NAME_MAX + 1];
    const bool renamed = p->gguf && s->part == MICA_PART_TEXT_ENCODER;
    if (renamed && !mica_lm_gguf_name(name, text, sizeof text)) {
        p->left_out++;
        return MICA_OK;
    }
    MICA_TRY(add_plain(p, source, renamed ? text : name, t, err));
    return finish_item(p, s, err);
}

/* Of a transformer whose readers fuse what we hold apart. */
static mica_status add_spelled(mica_convert_plan *p, int source, const char *name, mica_err *err)
{
    const mica_convert_source *s = &p->sources[source];
    mica_fused_name fused;
    s->spell(name, &fused);
    if (fused.count == 0)
        return MICA_OK;
    const mica_tensor **parts = mica_arena_calloc(&p->arena, (size_t)fused.count, sizeof *parts);
    if (!parts)
        return mica_convert_no_memory(p, err);
    for (int i = 0; i < fused.count; i++) {
        parts[i] = mica_weights_find(s->weights, fused.parts[i]);
        if (!parts[i])
            return MICA_FAIL(err, MICA_E_MISSING, "%s: tensor %s is missing", p->input,
                             fused.parts[i]);
    }
    MICA_TRY(add_item(p, source, fused.name, parts, fused.count, false, err));
    return finish_item(p, s, err);
}

static mica_status plan_source(mica_convert_plan *p, int source, mica_err *err)
{
    const mica_convert_source *s = &p->sources[source];
    const mica_weights *w = mica_convert_tensors(s);
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const char *name = mica_weights_name(w, i);
        const mica_tensor *t = mica_weights_tensor(w, i);
        MICA_TRY(s->language ? add_language(p, source, s->language, name, t, err)
                 : s->spell  ? add_spelled(p, source, name, err)
                             : add_other(p, source, name, t, err));
    }
    return MICA_OK;
}

static mica_status plan_items(mica_convert_plan *p, mica_err *err)
{
    size_t count = 0;
    for (int i = 0; i < p->source_count; i++)
        count += mica_weights_count(mica_convert_tensors(&p->sources[i]));
    p->items = mica_arena_calloc(&p->arena, count + 1, sizeof *p->items);
    p->tensors = mica_arena_calloc(&p->arena, 3 * count + 1, sizeof *p->tensors);
    if (!p->items || !p->tensors)
        return mica_convert_no_memory(p, err);
    for (int i = 0; i < p->source_count; i++)
        MICA_TRY(plan_source(p, i, err));
    return MICA_OK;
}

/* ------------------------------------------------------------------- files -- */

static uint64_t bytes_of(const mica_convert_plan *p, size_t first, size_t end)
{
    uint64_t sum = 0;
    for (size_t i = first; i < end; i++) {
        const mica_stream_tensor *t = &p->tensors[i];
        const mica_tensor view = mica_tensor_make(NULL, t->dtype, t->ndim, t->shape_);
        sum += mica_tensor_size(&view);
    }
    return sum;
}

/* An item's tensors stay together; a file holds one at least. */
static mica_status cut(mica_convert_plan *p, uint64_t limit, mica_err *err)
{
    uint64_t used = 0;
    p->file_first = mica_arena_calloc(&p->arena, p->item_count + 2, sizeof *p->file_first);
    if (!p->file_first)
        return mica_convert_no_memory(p, err);
    p->file_count = 1;
    for (size_t i = 0; i < p->item_count; i++) {
        const size_t first = p->items[i].first;
        const size_t end = i + 1 < p->item_count ? p->items[i + 1].first : p->tensor_count;
        const uint64_t size = bytes_of(p, first, end);
        if (limit && used > 0 && used + size > limit) {
            p->file_first[p->file_count++] = first;
            used = 0;
        }
        used += size;
        p->bytes += size;
        p->items[i].file = p->file_count - 1;
    }
    p->file_first[p->file_count] = p->tensor_count;
    return MICA_OK;
}

static mica_status name_files(mica_convert_plan *p, const char *stem, mica_err *err)
{
    p->files = mica_arena_calloc(&p->arena, p->file_count, sizeof *p->files);
    for (size_t i = 0; p->files && i < p->file_count; i++) {
        char name[128];
        if (stem && p->file_count > 1)
            snprintf(name, sizeof name, "%.40s-%05zu-of-%05zu.safetensors", stem, i + 1,
                     p->file_count);
        else if (stem)
            snprintf(name, sizeof name, "%.40s.safetensors", stem);
        p->files[i] = stem ? joined(p, name, strlen(name), "") : p->output;
        if (!p->files[i])
            return mica_convert_no_memory(p, err);
    }
    return p->files ? MICA_OK : mica_convert_no_memory(p, err);
}

/* ----------------------------------------------------------------- sources -- */

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
    return MICA_OK;
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
        const char *name = joined(p, input, (size_t)(dot - input), ".json");
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
        s->config_path = joined(p, path, strlen(path), "");
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

/* ------------------------------------------------------------------- entry -- */

/* GGUF's name of the network. Only what its readers can make sense of is written so. */
static mica_status find_architecture(mica_convert_plan *p, mica_err *err)
{
    static const struct {
        const char *kind, *name;
    } KNOWN[] = {{"qwen-image", "qwen_image"}, {"flux2-klein", "flux"}, {"z-image", "lumina2"}};
    const mica_convert_source *s = &p->sources[0];
    const mica_weights *w = s->weights;
    if (s->part == MICA_PART_TEXT_ENCODER)
        p->architecture = mica_qwen_image_is_text_encoder(w) ? "qwen2vl"
                          : mica_config_has_suffix(w, "layers.0.self_attn.q_norm.weight") ? "qwen3"
                                                                                          : NULL;
    if (s->part == MICA_PART_LANGUAGE)
        p->architecture = "llama";
    for (size_t i = 0; s->kind && s->part == MICA_PART_TRANSFORMER && i < MICA_ARRAY_LEN(KNOWN);
         i++)
        if (strcmp(s->kind->id, KNOWN[i].kind) == 0)
            p->architecture = KNOWN[i].name;
    if (p->architecture)
        return MICA_OK;
    return MICA_FAIL(
        err, MICA_E_UNSUPPORTED,
        "%s: GGUF is written of Mixtral, of the transformers of picture models and of Qwen2.5-VL "
        "and Qwen3 text encoders; write a .safetensors file instead",
        p->input);
}

/* A folder of checkpoints: those of a voice. Strings of *parts are owned. */
static mica_status find_voice(const mica_convert_request *r, mica_model_parts *parts, mica_err *err)
{
    char *config = mica_path_join(r->input, "config.json");
    const bool network = !config || mica_path_is_file(config);
    const bool given[MICA_PART_COUNT] = {[MICA_PART_SYNTHESIZER] = r->synthesizer != NULL};
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

static mica_status open_sources(mica_convert_plan *p, const mica_convert_request *r, mica_err *err)
{
    mica_model_parts found;
    mica_status st = find_voice(r, &found, err);
    const char *first = found.path[MICA_PART_SEMANTIC], *second = r->synthesizer;
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

static mica_status make(mica_convert_plan *p, const mica_convert_request *r, mica_err *err)
{
    p->gguf = !r->stem && mica_stream_is_gguf(r->output);
    MICA_TRY(open_sources(p, r, err));
    if (p->gguf)
        MICA_TRY(find_architecture(p, err));
    MICA_TRY(plan_items(p, err));
    MICA_TRY(cut(p, r->shard, err));
    MICA_TRY(name_files(p, r->stem, err));
    return mica_convert_add_header(p, err);
}

mica_status mica_convert_plan_make(mica_convert_plan *p, const mica_convert_request *request,
                                   mica_err *err)
{
    *p = (mica_convert_plan){.type = mica_convert_type_find(request->type)};
    mica_arena_init(&p->arena, (size_t)256 << 10);
    mica_status st = MICA_OK;
    p->input = joined(p, request->input, strlen(request->input), "");
    p->output = joined(p, request->output, strlen(request->output), "");
    if (!p->type)
        st = MICA_FAIL(err, MICA_E_USAGE, "type '%s' is not known", request->type);
    else
        st = p->input && p->output ? make(p, request, err) : mica_convert_no_memory(p, err);
    if (st)
        mica_convert_plan_deinit(p);
    return st;
}

void mica_convert_plan_deinit(mica_convert_plan *p)
{
    for (int i = 0; i < p->source_count; i++) {
        mica_weights_close(&p->sources[i].view);
        mica_weights_close(&p->sources[i].weights);
    }
    mica_arena_deinit(&p->arena);
    *p = (mica_convert_plan){0};
}
