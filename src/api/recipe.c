/* recipe.c - how a picture was made, twice: one JSON object, and the text that common web
 * interfaces read from a PNG's `parameters` entry:
 *
 *     a red fox
 *     Negative prompt: blurry
 *     Steps: 20, Sampler: Euler, CFG scale: 4, Seed: 7, Size: 512x512, Model hash: ..., Version: ...
 */
#include "api/api.h"

#include "backend/backend.h"

#include <inttypes.h>
#include <string.h>

static const char *const solver_ids[] = {"default", "euler", "heun", "dpmpp-2m", "unipc"};
static const char *const solver_titles[] = {"Euler", "Euler", "Heun", "DPM++ 2M", "UniPC"};
static const char *const edit_names[] = {"auto", "off", "single", "plus"};
static const char *const precision_names[] = {"auto", "f32", "bf16", "int8", "fp8"};

/* A recipe travels with a picture: it names files without the folders they lay in. */
static void add_file_name(mica_text *t, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t first = n;
    while (first > 0 && path[first - 1] != '/')
        first--;
    char *name = mica_mem_strndup(path + first, n - first);
    if (name)
        mica_text_add_json_string(t, name);
    else
        t->failed = true;
    mica_mem_free(name);
}

/* What else changes a picture and is not what it is when nobody asks. */
static void write_settings(const mica_image_options *o, mica_text *t)
{
    static const char *const caching[] = {"off", "balanced", "fast"};
    static const char *const methods[] = {"auto", "output", "first-block"};
    if (o->max_text_tokens)
        mica_text_add(t, ",\"max_text_tokens\":%d", o->max_text_tokens);
    if (o->distilled != MICA_CHOICE_AUTO)
        mica_text_add(t, ",\"distilled\":\"%s\"", o->distilled == MICA_CHOICE_YES ? "yes" : "no");
    if (o->cfg_normalization > 0.0)
        mica_text_add(t, ",\"cfg_normalization\":%.9g", o->cfg_normalization);
    if (o->cfg_truncation > 0.0)
        mica_text_add(t, ",\"cfg_truncation\":%.9g", o->cfg_truncation);
    if (o->step_caching == MICA_STEP_CACHING_OFF)
        return;
    mica_text_add(t, ",\"cache\":\"%s\"", caching[o->step_caching]);
    if (o->caching_method != MICA_CACHING_AUTO)
        mica_text_add(t, ",\"cache_method\":\"%s\"", methods[o->caching_method]);
}

static void write_inputs(const mica_image_options *o, const mica_diffusion_result *r, mica_text *t)
{
    const int *e = o->expand_;
    for (int i = 0; i < o->input_count; i++) {
        mica_text_add(t, i ? "," : ",\"inputs\":[");
        add_file_name(t, o->inputs[i].path ? o->inputs[i].path : "pixels");
        mica_text_add(t, i + 1 == o->input_count ? "]" : "");
    }
    if (r->strength > 0.0)
        mica_text_add(t, ",\"strength\":%.9g", r->strength);
    if (o->mask) {
        mica_text_add(t, ",\"mask\":");
        add_file_name(t, o->mask->path ? o->mask->path : "pixels");
    }
    if (e[0] || e[1] || e[2] || e[3])
        mica_text_add(t, ",\"expand\":[%d,%d,%d,%d]", e[0], e[1], e[2], e[3]);
    if (o->ref_pixels)
        mica_text_add(t, ",\"ref_pixels\":%d", o->ref_pixels);
    if (o->vision_pixels)
        mica_text_add(t, ",\"vision_pixels\":%d", o->vision_pixels);
    if (o->layers)
        mica_text_add(t, ",\"layers\":%d", o->layers);
    if (o->edit != MICA_EDIT_AUTO)
        mica_text_add(t, ",\"edit\":\"%s\"", edit_names[o->edit]);
    if (o->picture_positions != MICA_POSITIONS_AUTO)
        mica_text_add(t, ",\"picture_positions\":\"%s\"",
                      o->picture_positions == MICA_POSITIONS_GRID ? "grid" : "sequence");
}

static void write_loras(const mica_engine *e, mica_text *t)
{
    for (int i = 0; i < e->lora_count; i++) {
        mica_text_add(t, i ? ",{\"name\":" : ",\"loras\":[{\"name\":");
        mica_text_add_json_string(t, mica_lora_name(e->loras[i].file));
        mica_text_add(t, ",\"scale\":%.9g,\"hash\":\"%s\"}%s", e->loras[i].scale,
                      mica_lora_hash(e->loras[i].file), i + 1 == e->lora_count ? "]" : "");
    }
}

/* As web interfaces write them: names and hashes here, names and scales in the prompt's line. */
static void write_lora_hashes(const mica_engine *e, mica_text *t)
{
    for (int i = 0; i < e->lora_count; i++)
        mica_text_add(t, "%s%s: %s%s", i ? ", " : ", Lora hashes: \"",
                      mica_lora_name(e->loras[i].file), mica_lora_hash(e->loras[i].file),
                      i + 1 == e->lora_count ? "\"" : "");
}

static void write_json(const mica_session *s, const mica_image_options *o,
                       const mica_diffusion_result *r, uint64_t seed, mica_text *t)
{
    mica_text_add(t, "{\"prompt\":");
    mica_text_add_json_string(t, o->prompt);
    if (o->negative_prompt) {
        mica_text_add(t, ",\"negative_prompt\":");
        mica_text_add_json_string(t, o->negative_prompt);
    }
    mica_text_add(t,
                  ",\"width\":%d,\"height\":%d,\"steps\":%d,\"guidance\":%.9g,\"guided\":%s,"
                  "\"seed\":%" PRIu64 ",\"solver\":\"%s\"",
                  r->width, r->height, r->steps, r->guidance, r->guided ? "true" : "false", seed,
                  solver_ids[r->solver]);
    if (o->schedule) {
        mica_text_add(t, ",\"schedule\":");
        mica_text_add_json_string(t, o->schedule);
    }
    for (int i = 0; i < o->sigma_count; i++)
        mica_text_add(t, "%s%.9g%s", i ? "," : ",\"sigmas\":[", o->sigmas[i],
                      i + 1 == o->sigma_count ? "]" : "");
    if (o->noise_rng == MICA_NOISE_RNG_TORCH211_BF16)
        mica_text_add(t, ",\"noise_rng\":\"torch2.11-bf16\"");
    if (o->round_timesteps_bf16)
        mica_text_add(t, ",\"timestep_rounding\":\"bf16\"");
    if (o->noise_path) {
        mica_text_add(t, ",\"noise\":");
        add_file_name(t, o->noise_path);
    }
    write_settings(o, t);
    write_inputs(o, r, t);
    write_loras(s->engine, t);
    mica_text_add(t, ",\"precision\":\"%s\",\"family\":\"%s\",\"model\":",
                  precision_names[mica_backend_precision(s->be)], s->engine->kind->id);
    add_file_name(t, s->engine->name);
    mica_text_add(t, ",\"model_hash\":\"%s\",\"version\":\"%s\"}", s->engine->model->hash,
                  mica_version());
}

static void write_parameters(const mica_session *s, const mica_image_options *o,
                             const mica_diffusion_result *r, uint64_t seed, mica_text *t)
{
    mica_text_add(t, "%s", o->prompt);
    for (int i = 0; i < s->engine->lora_count; i++)
        mica_text_add(t, " <lora:%s:%g>", mica_lora_name(s->engine->loras[i].file),
                      s->engine->loras[i].scale);
    mica_text_add(t, "\n");
    if (o->negative_prompt)
        mica_text_add(t, "Negative prompt: %s\n", o->negative_prompt);
    mica_text_add(t, "Steps: %d, Sampler: %s, CFG scale: %g, Seed: %" PRIu64 ", Size: %dx%d",
                  r->steps, solver_titles[r->solver], r->guidance, seed, r->width, r->height);
    if (r->strength > 0.0)
        mica_text_add(t, ", Denoising strength: %g", r->strength);
    write_lora_hashes(s->engine, t);
    mica_text_add(t, ", Model hash: %s, Model: %s, Version: mica %s", s->engine->model->hash,
                  s->engine->kind->title, mica_version());
}

mica_status api_recipes(mica_image *image, const mica_session *session,
                        const mica_image_options *options, const mica_diffusion_result *result,
                        mica_err *err)
{
    const size_t count = (size_t)image->count;
    image->recipes = mica_mem_calloc(count, sizeof *image->recipes);
    image->parameters = mica_mem_calloc(count, sizeof *image->parameters);
    bool ok = image->recipes && image->parameters;
    for (size_t i = 0; ok && i < count; i++) {
        const uint64_t seed = mica_image_seed(image, (int)i);
        mica_text json = {0}, text = {0};
        write_json(session, options, result, seed, &json);
        write_parameters(session, options, result, seed, &text);
        image->recipes[i] = json.data;
        image->parameters[i] = text.data;
        ok = !json.failed && !text.failed;
    }
    return ok ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for the pictures' recipes");
}
