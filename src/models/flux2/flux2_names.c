/* flux2_names.c - the spellings of the FLUX.2 transformer's tensors.
 *
 *     double_blocks.3.img_attn.proj.weight ──► transformer_blocks.3.attn.to_out.0.weight
 *     BFL, ComfyUI: fused q, k, v              diffusers, mflux: one tensor each
 *
 * Fused tensors become views of their rows (format/weights.h), so that one table binds both.
 * Reference: diffusers loaders/single_file_utils.py, convert_flux2_transformer_checkpoint_to_diffusers. */
#include "models/flux2/flux2_config.h"

#include "base/names.h"

#include <stdio.h>
#include <string.h>

typedef struct name_pair {
    const char *from, *to;
} name_pair;

static const name_pair PREFIXES[] = {
    {"model.diffusion_model.", ""}, {"diffusion_model.", ""}, {"transformer.", ""}};

/* Beginnings of names outside the blocks. */
static const name_pair REST[] = {
    {"img_in.", "x_embedder."},
    {"txt_in.", "context_embedder."},
    {"time_in.in_layer.", "time_guidance_embed.timestep_embedder.linear_1."},
    {"time_in.out_layer.", "time_guidance_embed.timestep_embedder.linear_2."},
    {"guidance_in.in_layer.", "time_guidance_embed.guidance_embedder.linear_1."},
    {"guidance_in.out_layer.", "time_guidance_embed.guidance_embedder.linear_2."},
    {"double_stream_modulation_img.lin.", "double_stream_modulation_img.linear."},
    {"double_stream_modulation_txt.lin.", "double_stream_modulation_txt.linear."},
    {"single_stream_modulation.lin.", "single_stream_modulation.linear."},
    {"time_guidance_embed.linear_1.",
     "time_guidance_embed.timestep_embedder.linear_1."}, /* mflux */
    {"time_guidance_embed.linear_2.", "time_guidance_embed.timestep_embedder.linear_2."},
    {"final_layer.linear.", "proj_out."},
    {"final_layer.adaLN_modulation.1.", "norm_out.shift_scale."},
};

/* Behind "double_blocks.N.". */
static const name_pair DOUBLE[] = {
    {"img_attn.norm.query_norm.", "attn.norm_q."},
    {"img_attn.norm.key_norm.", "attn.norm_k."},
    {"img_attn.proj.", "attn.to_out.0."},
    {"img_mlp.0.", "ff.linear_in."},
    {"img_mlp.2.", "ff.linear_out."},
    {"txt_attn.norm.query_norm.", "attn.norm_added_q."},
    {"txt_attn.norm.key_norm.", "attn.norm_added_k."},
    {"txt_attn.proj.", "attn.to_add_out."},
    {"txt_mlp.0.", "ff_context.linear_in."},
    {"txt_mlp.2.", "ff_context.linear_out."},
    {"img_attn.qkv.", "attn.to_qkv."},
    {"txt_attn.qkv.", "attn.to_added_qkv."},
};

/* Behind "transformer_blocks.N.". */
static const name_pair MFLUX[] = {{"attn.to_out.weight", "attn.to_out.0.weight"}};

/* Behind "single_blocks.N.". */
static const name_pair SINGLE[] = {
    {"linear1.", "attn.to_qkv_mlp_proj."},
    {"linear2.", "attn.to_out."},
    {"norm.query_norm.", "attn.norm_q."},
    {"norm.key_norm.", "attn.norm_k."},
};

static const char *without_prefix(const char *name)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(PREFIXES); i++) {
        const char *rest = mica_name_behind(name, PREFIXES[i].from);
        if (rest)
            return rest;
    }
    return name;
}

/* `from` of the pair that `name` begins with is replaced; norms call their weight "scale". */
static bool map_begin(const name_pair *pairs, size_t count, const char *name, char *out, size_t cap)
{
    for (size_t i = 0; i < count; i++) {
        const char *rest = mica_name_behind(name, pairs[i].from);
        if (rest)
            return (size_t)snprintf(out, cap, "%s%s", pairs[i].to,
                                    strcmp(rest, "scale") == 0 ? "weight" : rest) < cap;
    }
    return false;
}

/* "N.rest" behind a list's name into "to.N.mapped". */
static bool map_block(const char *name, const char *to, const name_pair *pairs, size_t count,
                      char *out, size_t cap)
{
    const size_t digits = strspn(name, "0123456789");
    const size_t used = (size_t)snprintf(out, cap, "%s.%.*s.", to, (int)digits, name);
    return digits > 0 && name[digits] == '.' && used < cap &&
           map_begin(pairs, count, name + digits + 1, out + used, cap - used);
}

static bool map_name(void *user, const char *name, char *out, size_t cap)
{
    const char *bare = without_prefix(name), *rest;
    (void)user;
    if ((rest = mica_name_behind(bare, "double_blocks.")) &&
        map_block(rest, "transformer_blocks", DOUBLE, MICA_ARRAY_LEN(DOUBLE), out, cap))
        return true;
    if ((rest = mica_name_behind(bare, "single_blocks.")) &&
        map_block(rest, "single_transformer_blocks", SINGLE, MICA_ARRAY_LEN(SINGLE), out, cap))
        return true;
    if ((rest = mica_name_behind(bare, "transformer_blocks.")) &&
        map_block(rest, "transformer_blocks", MFLUX, MICA_ARRAY_LEN(MFLUX), out, cap))
        return true;
    if (map_begin(REST, MICA_ARRAY_LEN(REST), bare, out, cap))
        return true;
    return bare != name && (size_t)snprintf(out, cap, "%s", bare) < cap;
}

/* ------------------------------------------------------------------- splits -- */

/* Rows of `block`.`fused`.weight under `block`.`names[i]`.weight; sizes 0: equal parts. A tensor
 * that does not divide stays fused, and the table says what it should be. */
static mica_status split(mica_weights *w, const char *block, const char *fused,
                         const char *const *names, const int64_t *sizes, size_t count,
                         mica_err *err)
{
    char full[160], part[3][160];
    mica_weights_part parts[3];
    snprintf(full, sizeof full, "%s%s.weight", block, fused);
    const mica_tensor *t = mica_weights_find(w, full);
    int64_t sum = 0;
    if (!t || t->ndim != 2)
        return MICA_OK;
    for (size_t i = 0; i < count; i++) {
        snprintf(part[i], sizeof part[i], "%s%s.weight", block, names[i]);
        parts[i] = (mica_weights_part){part[i], sizes ? sizes[i] : t->shape_[0] / (int64_t)count};
        if (parts[i].rows < 1)
            return MICA_OK;
        sum += parts[i].rows;
    }
    return sum == t->shape_[0] ? mica_weights_split(w, full, parts, count, err) : MICA_OK;
}

static mica_status split_double(mica_weights *w, int n, mica_err *err)
{
    static const char *const img[] = {"attn.to_q", "attn.to_k", "attn.to_v"};
    static const char *const txt[] = {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"};
    char block[64];
    snprintf(block, sizeof block, "transformer_blocks.%d.", n);
    MICA_TRY(split(w, block, "attn.to_qkv", img, NULL, 3, err));
    return split(w, block, "attn.to_added_qkv", txt, NULL, 3, err);
}

/* The input width of the projection is D, so its first 3 D rows are q, k and v. */
static mica_status split_single(mica_weights *w, int n, mica_err *err)
{
    static const char *const names[] = {"attn.qkv", "attn.mlp"};
    char block[64], fused[128];
    snprintf(block, sizeof block, "single_transformer_blocks.%d.", n);
    snprintf(fused, sizeof fused, "%sattn.to_qkv_mlp_proj.weight", block);
    const mica_tensor *t = mica_weights_find(w, fused);
    if (!t || t->ndim != 2)
        return MICA_OK;
    const int64_t sizes[] = {3 * t->shape_[1], t->shape_[0] - 3 * t->shape_[1]};
    return split(w, block, "attn.to_qkv_mlp_proj", names, sizes, 2, err);
}

mica_status mica_flux2_rename(mica_weights *w, mica_err *err)
{
    static const char *const diffusers[] = {"norm_out.scale", "norm_out.shift"};
    static const char *const bfl[] = {"norm_out.shift", "norm_out.scale"};
    MICA_TRY(mica_weights_rename(w, map_name, NULL, err));
    MICA_TRY(split(w, "", "norm_out.linear", diffusers, NULL, 2, err));
    MICA_TRY(split(w, "", "norm_out.shift_scale", bfl, NULL, 2, err));
    const int doubles = mica_weight_count_blocks(w, "transformer_blocks.");
    const int singles = mica_weight_count_blocks(w, "single_transformer_blocks.");
    for (int n = 0; n < doubles; n++)
        MICA_TRY(split_double(w, n, err));
    for (int n = 0; n < singles; n++)
        MICA_TRY(split_single(w, n, err));
    return MICA_OK;
}

/* ------------------------------------------------------------------ the way back -- */

/* `to` of the pair that `name` begins with is replaced. Norms call their weight "scale" there. */
static bool map_back(const name_pair *pairs, size_t count, const char *name, char *out, size_t cap)
{
    for (size_t i = 0; i < count; i++) {
        const char *rest = mica_name_behind(name, pairs[i].to);
        if (rest)
            return (size_t)snprintf(out, cap, "%s%s", pairs[i].from,
                                    strstr(pairs[i].from, "_norm.") ? "scale" : rest) < cap;
    }
    return false;
}

typedef struct fusion {
    const char *whole; /* BFL's, behind its block */
    const char *parts[3];
    int count;
} fusion;

static const fusion FUSED_DOUBLE[] = {
    {"img_attn.qkv.weight", {"attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight"}, 3},
    {"txt_attn.qkv.weight",
     {"attn.add_q_proj.weight", "attn.add_k_proj.weight", "attn.add_v_proj.weight"},
     3}};
static const fusion FUSED_SINGLE[] = {
    {"linear1.weight", {"attn.qkv.weight", "attn.mlp.weight"}, 2}};
static const fusion FUSED_REST[] = {{"final_layer.adaLN_modulation.1.weight",
                                     {"norm_out.shift.weight", "norm_out.scale.weight"},
                                     2}};

/* Whether `rest` is a part of a fused tensor; the first one stands for all. */
static bool fuse(const fusion *list, size_t count, const char *rest, const char *to,
                 const char *from, mica_fused_name *out)
{
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < list[i].count; k++) {
            if (strcmp(rest, list[i].parts[k]) != 0)
                continue;
            out->count = k == 0 ? list[i].count : 0;
            snprintf(out->name, sizeof out->name, "%s%s", to, list[i].whole);
            for (int p = 0; p < list[i].count; p++)
                snprintf(out->parts[p], sizeof out->parts[p], "%s%s", from, list[i].parts[p]);
            return true;
        }
    return false;
}

static void spell_block(const char *name, const char *list, const char *to, const name_pair *pairs,
                        size_t count, const fusion *fused, size_t fused_count, mica_fused_name *out)
{
    const char *number = mica_name_behind(name, list);
    const int digits = (int)strspn(number, "0123456789");
    char block[64], from[96];
    if (digits == 0 || digits > 5 || number[digits] != '.')
        return;
    const char *rest = number + digits + 1;
    snprintf(block, sizeof block, "%s%.*s.", to, digits, number);
    snprintf(from, sizeof from, "%s%.*s.", list, digits, number);
    if (fuse(fused, fused_count, rest, block, from, out))
        return;
    char mapped[MICA_FUSED_NAME - sizeof block];
    if (map_back(pairs, count, rest, mapped, sizeof mapped))
        snprintf(out->name, sizeof out->name, "%s%s", block, mapped);
}

void mica_flux2_bfl_name(const char *name, mica_fused_name *out)
{
    *out = (mica_fused_name){.count = 1};
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(out->parts[0], sizeof out->parts[0], "%s", name);
    if (mica_name_behind(name, "transformer_blocks."))
        spell_block(name, "transformer_blocks.", "double_blocks.", DOUBLE, MICA_ARRAY_LEN(DOUBLE),
                    FUSED_DOUBLE, MICA_ARRAY_LEN(FUSED_DOUBLE), out);
    else if (mica_name_behind(name, "single_transformer_blocks."))
        spell_block(name, "single_transformer_blocks.", "single_blocks.", SINGLE,
                    MICA_ARRAY_LEN(SINGLE), FUSED_SINGLE, MICA_ARRAY_LEN(FUSED_SINGLE), out);
    else if (!fuse(FUSED_REST, MICA_ARRAY_LEN(FUSED_REST), name, "", "", out))
        (void)map_back(REST, MICA_ARRAY_LEN(REST), name, out->name, sizeof out->name);
}

/* FLUX.1 has double_blocks too; the modulation that all blocks share is FLUX.2's alone. */
bool mica_flux2_is_transformer(const mica_weights *w)
{
    return mica_config_has_suffix(w, "double_stream_modulation_img.linear.weight") ||
           mica_config_has_suffix(w, "double_stream_modulation_img.lin.weight");
}
