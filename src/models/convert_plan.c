/* convert_plan.c - what is written, under which names, in which files; see convert.h.
 *
 *     input ─open─► names and views that the model knows ─► items ─► tensors of the output ─► files
 *
 * Experts of a Mixtral become stacks where readers want them so: in GGUF, and packed in MLX's layout. GGUF files
 * of FLUX.2 and Z-Image have ComfyUI's names, with fused q, k and v. */
#include "models/convert.h"

#include "base/names.h"
#include "format/safetensors.h"
#include "models/mixtral/mixtral_convert.h"
#include "models/qwen_image/qwen_image_config.h"
#include "nn/lm_config.h"
#include "nn/lm_gguf.h"

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

const char *mica_convert_join(mica_convert_plan *p, const char *stem, size_t n, const char *suffix)
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
    const size_t stem = mica_name_ends(name, ".weight") ? strlen(name) - strlen(".weight") : 0;
    int64_t shape[MICA_MAX_DIMS];
    memcpy(shape, item->shape_, sizeof shape);
    item->first = p->tensor_count;
    const int last = item->ndim - 1;
    if (item->form == MICA_CONVERT_GROUPS) {
        shape[last] = item->shape_[last] * (mica_dtype_get(item->dtype)->size / 4) / 32;
        add_tensor(p, name, MICA_DTYPE_U32, item->ndim, shape);
        shape[last] = item->shape_[last] / item->group;
        add_tensor(p, mica_convert_join(p, name, stem, ".scales"), MICA_DTYPE_BF16, item->ndim,
                   shape);
        add_tensor(p, mica_convert_join(p, name, stem, ".biases"), MICA_DTYPE_BF16, item->ndim,
                   shape);
    } else
        add_tensor(p, name, item->dtype, item->ndim, shape);
    if (item->form == MICA_CONVERT_INT8)
        add_tensor(p, mica_convert_join(p, name, stem, ".weight_scale"), MICA_DTYPE_F32, 2,
                   (const int64_t[]){shape[0], 1});
    if (item->form == MICA_CONVERT_FP8) {
        add_tensor(p, mica_convert_join(p, name, stem, ".weight_scale"), MICA_DTYPE_F32, 0, shape);
        add_tensor(p, mica_convert_join(p, name, stem, ".comfy_quant"), MICA_DTYPE_U8, 1,
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
    *item = (mica_convert_item){.name = mica_convert_join(p, name, strlen(name), ""),
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
        p->files[i] = stem ? mica_convert_join(p, name, strlen(name), "") : p->output;
        if (!p->files[i])
            return mica_convert_no_memory(p, err);
    }
    return p->files ? MICA_OK : mica_convert_no_memory(p, err);
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
    const char *is = mica_weights_metadata(w, "general.architecture");
    return MICA_FAIL(
        err, MICA_E_UNSUPPORTED,
        "%s%s%s%s: GGUF is written of Mixtral, of the transformers of picture models and of "
        "Qwen2.5-VL and Qwen3 text encoders; write a .safetensors file instead",
        p->input, is ? " (architecture '" : "", is ? is : "", is ? "')" : "");
}

static mica_status make(mica_convert_plan *p, const mica_convert_request *r, mica_err *err)
{
    p->gguf = !r->stem && mica_stream_is_gguf(r->output);
    MICA_TRY(mica_convert_open_sources(p, r, err));
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
    p->input = mica_convert_join(p, request->input, strlen(request->input), "");
    p->output = mica_convert_join(p, request->output, strlen(request->output), "");
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
