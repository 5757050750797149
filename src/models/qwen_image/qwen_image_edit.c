/* qwen_image_edit.c - references of an editing run; see qwen_image_edit.h.
 *
 * Reference: diffusers pipeline_qwenimage_edit.py, pipeline_qwenimage_edit_plus.py and
 * pipeline_qwenimage_layered.py, __call__ and prepare_latents. All resize with Lanczos first; the
 * processor of the text encoder resizes once more (qwen_vision_pixels.h). */
#include "models/qwen_image/qwen_image_edit.h"

#include "base/mem.h"
#include "media/resize.h"
#include "models/qwen_image/qwen_image_forward.h"

#include <math.h>
#include <string.h>

#define OUTPUT_AREA (1024 * 1024)
#define VAE_AREA    (1024 * 1024)
#define VISION_AREA (384 * 384)
#define LAYERS_AREA (640 * 640)
#define LAYERS      4
#define MULTIPLE    32
#define MAX_SIDE    8192

mica_status mica_qwen_image_fit_area(int area, int width, int height, mica_qwen_image_area *out,
                                     mica_err *err)
{
    const double ratio = (double)width / (double)height;
    const double w = sqrt((double)area * ratio), h = w / ratio;
    const double W = rint(w / MULTIPLE) * MULTIPLE, H = rint(h / MULTIPLE) * MULTIPLE;
    if (!(W >= MULTIPLE && H >= MULTIPLE && W <= MAX_SIDE && H <= MAX_SIDE))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a picture of %d x %d scaled to an area of %d pixels becomes %.0f x %.0f; "
                         "sides must be %d to %d",
                         width, height, area, W, H, MULTIPLE, MAX_SIDE);
    *out = (mica_qwen_image_area){(int)W, (int)H};
    return MICA_OK;
}

/* -------------------------------------------------------------------- the request -- */

/* The weights of Edit and Edit-Plus have the same tensors, and folders that say Plus are run by both of
 * the reference's pipelines. What the call tells: Edit's takes one picture and shows the text encoder
 * what it shows the VAE, so equal areas asked for are its. With `zero_cond_t` it is Plus (2511). */
static bool asks_for_single(mica_diffusion *d, const mica_qwen_image *m)
{
    const mica_image_options *o = d->options;
    if (m->editing != MICA_EDIT_PLUS || m->transformer.config.zero_cond_t || d->input_count != 1 ||
        o->ref_pixels <= 0 || o->ref_pixels != o->vision_pixels)
        return false;
    mica_run_notice(&d->run, "one picture of one area for both encoders: edited as Qwen-Image-Edit "
                             "does (--edit plus: as 2509 does)");
    return true;
}

static mica_status resolve_kind(mica_qwen_image_edit *e, mica_diffusion *d,
                                const mica_qwen_image *m, mica_err *err)
{
    e->kind = d->options->edit;
    if (e->kind < MICA_EDIT_AUTO || e->kind > MICA_EDIT_PLUS)
        return MICA_FAIL(err, MICA_E_USAGE, "there is no way %d of editing", (int)e->kind);
    if (d->options->picture_positions < MICA_POSITIONS_AUTO ||
        d->options->picture_positions > MICA_POSITIONS_GRID)
        return MICA_FAIL(err, MICA_E_USAGE, "there is no way %d of placing pictures",
                         (int)d->options->picture_positions);
    if (e->kind == MICA_EDIT_AUTO)
        e->kind = asks_for_single(d, m) ? MICA_EDIT_SINGLE : m->editing;
    if (e->kind == MICA_EDIT_AUTO && d->input_count && !d->from_picture)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "the model's files do not tell Qwen-Image from Qwen-Image-Edit; say what "
                         "the picture is for: --edit single (Edit), --edit plus (2509, 2511), or "
                         "--strength (start from it)");
    if (d->options->edit > MICA_EDIT_OFF && !d->input_count)
        return MICA_FAIL(err, MICA_E_USAGE, "editing needs a picture (-i)");
    if (e->kind > MICA_EDIT_OFF && !d->input_count)
        mica_run_notice(&d->run, "this model edits pictures (-i); without one it follows the text "
                                 "alone");
    if (e->kind == MICA_EDIT_AUTO || !d->input_count)
        e->kind = MICA_EDIT_OFF;
    return MICA_OK;
}

static mica_status check_area(int area, const char *name, mica_err *err)
{
    if (area < 0)
        return MICA_FAIL(err, MICA_E_USAGE, "an area of %d pixels for %s is out of range", area,
                         name);
    return MICA_OK;
}

static mica_status resolve_areas(mica_qwen_image_edit *e, const mica_diffusion *d, mica_err *err)
{
    const mica_image_options *o = d->options;
    MICA_TRY(check_area(o->ref_pixels, "references", err));
    MICA_TRY(check_area(o->vision_pixels, "the vision part", err));
    const int vae = o->ref_pixels ? o->ref_pixels : VAE_AREA;
    const int vision = e->kind == MICA_EDIT_SINGLE ? vae
                       : o->vision_pixels          ? o->vision_pixels
                                                   : VISION_AREA;
    e->R = 0;
    for (int i = 0; i < e->count; i++) {
        const mica_picture *p = &d->inputs[i];
        MICA_TRY(mica_qwen_image_fit_area(vae, p->width, p->height, &e->vae_[i], err));
        MICA_TRY(mica_qwen_image_fit_area(vision, p->width, p->height, &e->vision_[i], err));
        const int multiple = d->traits.scale * d->traits.patch;
        e->R += (int64_t)(e->vae_[i].width / multiple) * (e->vae_[i].height / multiple);
    }
    return MICA_OK;
}

static mica_status check_sight(const mica_qwen_image *m, const mica_image_options *o, mica_err *err)
{
    const mica_qwen_vision_config *c = &m->vision.config;
    const mica_qwen_pixels_config *p = &m->pixels;
    if (m->vision_problem.status)
        return MICA_FAIL(err, m->vision_problem.status, "%s", m->vision_problem.text);
    if (p->patch != c->patch || p->merge != c->merge || p->frames != c->frames)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the picture processor cuts patches of %lld pixels, %lld x %lld to a "
                         "token, the vision tower takes %lld, %lld x %lld; they belong to "
                         "different models",
                         (long long)p->patch, (long long)p->merge, (long long)p->merge,
                         (long long)c->patch, (long long)c->merge, (long long)c->merge);
    const int *s = m->base.text_encoder.config.sections;
    if (o->picture_positions == MICA_POSITIONS_GRID && s[0] + s[1] + s[2] == 0)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "the text encoder's configuration has no mrope_section, which placing "
                         "pictures in a grid needs; put its config.json beside the weights");
    return MICA_OK;
}

/* Whoever takes a picture apart describes it: the reference would let its text encoder write the
 * caption, which needs a language model that goes on writing. */
static mica_status describe_layered(mica_qwen_image_edit *e, mica_diffusion *d,
                                    mica_diffusion_traits *t, mica_err *err)
{
    const mica_image_options *o = d->options;
    const int area = o->ref_pixels ? o->ref_pixels : LAYERS_AREA;
    if (!d->input_count)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "Qwen-Image-Layered takes a picture apart; give one with -i");
    if (o->prompt[strspn(o->prompt, " ")] == '\0')
        return MICA_FAIL(err, MICA_E_USAGE,
                         "Qwen-Image-Layered needs a prompt that describes the whole picture");
    if (o->edit != MICA_EDIT_AUTO)
        mica_run_notice(&d->run, "a way of editing has no effect with this model");
    t->max_references = 1;
    t->picture_channels = 4;
    t->layers = e->layers = o->layers ? o->layers : LAYERS;
    t->knows |= MICA_KNOWS_LAYERS | MICA_KNOWS_EDIT;
    if (d->input_count > 1)
        return MICA_OK; /* refused with the number by the caller */
    e->count = 1;
    MICA_TRY(check_area(o->ref_pixels, "references", err));
    MICA_TRY(
        mica_qwen_image_fit_area(area, d->inputs[0].width, d->inputs[0].height, &e->vae_[0], err));
    const int multiple = t->scale * t->patch;
    e->R = (int64_t)(e->vae_[0].width / multiple) * (e->vae_[0].height / multiple);
    t->default_width = e->vae_[0].width;
    t->default_height = e->vae_[0].height;
    return MICA_OK;
}

mica_status mica_qwen_image_edit_describe(mica_qwen_image_edit *e, mica_diffusion *d,
                                          const mica_qwen_image *m, mica_diffusion_traits *t,
                                          mica_err *err)
{
    mica_qwen_image_area area;
    if (MULTIPLE % (t->scale * t->patch))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "this VAE makes patches of %d pixels, %d is not a multiple of them",
                         t->scale * t->patch, MULTIPLE);
    if (m->transformer.config.layered)
        return describe_layered(e, d, t, err);
    t->knows |= MICA_KNOWS_EDIT;
    MICA_TRY(resolve_kind(e, d, m, err));
    if (e->kind == MICA_EDIT_OFF)
        return MICA_OK;
    t->max_references = e->kind == MICA_EDIT_SINGLE ? 1 : MICA_QWEN_IMAGE_PICTURES;
    t->refers_to_start = true;
    if (e->kind == MICA_EDIT_PLUS || d->options->vision_pixels == d->options->ref_pixels)
        t->knows |= MICA_KNOWS_VISION_PIXELS;
    if (d->options->picture_positions == MICA_POSITIONS_AUTO)
        mica_run_notice(&d->run,
                        "pictures stand in sequence in the text encoder, as diffusers with "
                        "transformers 5 has them; the model was trained with a grid "
                        "(--picture-positions grid)");
    if (d->input_count > t->max_references)
        return MICA_OK; /* refused with the number by the caller */
    e->count = d->input_count;
    MICA_TRY(check_sight(m, d->options, err));
    MICA_TRY(resolve_areas(e, d, err));
    const mica_picture *last = &d->inputs[e->count - 1]; /* its shape is the result's */
    MICA_TRY(mica_qwen_image_fit_area(OUTPUT_AREA, last->width, last->height, &area, err));
    t->default_width = area.width;
    t->default_height = area.height;
    return MICA_OK;
}

/* ------------------------------------------------------------------ text encoder -- */

static mica_status tap_pixels(mica_diffusion *d, const mica_qwen_pixels *p, int count,
                              mica_err *err)
{
    int32_t grids[MICA_QWEN_IMAGE_PICTURES][3];
    int64_t rows = 0;
    if (!d->run.taps)
        return MICA_OK;
    for (int i = 0; i < count; i++) {
        grids[i][0] = 1;
        grids[i][1] = p[i].h;
        grids[i][2] = p[i].w;
        rows += (int64_t)p[i].h * p[i].w;
    }
    const mica_tensor grid = mica_tensor_2d(grids, MICA_DTYPE_I32, count, 3);
    mica_tap_host(d->run.taps, &grid, "vision.image_grid_thw");
    if (!mica_tap_wants(d->run.taps, "vision.pixel_values"))
        return MICA_OK;
    const size_t columns = (size_t)p[0].columns;
    float *all = mica_mem_calloc((size_t)rows * columns, sizeof *all), *at = all;
    if (!all)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to trace %lld patches", (long long)rows);
    for (int i = 0; i < count; i++) {
        const size_t n = (size_t)p[i].h * (size_t)p[i].w * columns;
        memcpy(at, p[i].rows, n * sizeof *at);
        at += n;
    }
    const mica_tensor values = mica_tensor_2d(all, MICA_DTYPE_F32, rows, (int64_t)columns);
    mica_tap_host(d->run.taps, &values, "vision.pixel_values");
    mica_mem_free(all);
    return MICA_OK;
}

static mica_status make_pixels(const mica_qwen_image_edit *e, const mica_diffusion *d,
                               const mica_qwen_image *m, int i, mica_qwen_pixels *out,
                               mica_err *err)
{
    mica_picture sized;
    MICA_TRY(mica_picture_resize(&d->references[i], e->vision_[i].width, e->vision_[i].height,
                                 MICA_RESAMPLE_LANCZOS, &sized, err));
    const mica_status st = mica_qwen_pixels_make(&m->pixels, &sized, out, err);
    mica_picture_deinit(&sized);
    return st;
}

/* Features of every picture, scratch of the caller. */
static mica_status look(const mica_qwen_image_edit *e, mica_diffusion *d,
                        mica_qwen_image_session *s, const mica_qwen_pixels *pixels,
                        mica_tensor *pictures_ND, mica_err *err)
{
    const mica_qwen_vision_config *c = &s->vision.config;
    for (int i = 0; i < e->count; i++) {
        const int64_t shape[] = {mica_qwen_vision_tokens(c, &pixels[i]), c->out_width};
        pictures_ND[i] = mica_act_tensor(d->be, MICA_POOL_STEP, 2, shape);
        MICA_TRY(
            mica_qwen_vision_run(&s->vision, d->be, &d->run, &pixels[i], &pictures_ND[i], err));
    }
    return MICA_OK;
}

static mica_status tokenize(const mica_qwen_image_edit *e, mica_diffusion *d,
                            const mica_qwen_image *m, const mica_qwen_pixels *pixels, int i,
                            mica_qwen_image_prompt *out, mica_err *err)
{
    mica_qwen_image_tokens sizes[MICA_QWEN_IMAGE_PICTURES];
    const int merge = (int)m->vision.config.merge;
    for (int n = 0; n < e->count; n++)
        sizes[n] = (mica_qwen_image_tokens){pixels[n].h / merge, pixels[n].w / merge};
    const mica_qwen_image_edit_prompt prompt = {.text = i ? d->plan.negative : d->options->prompt,
                                                .pictures = sizes,
                                                .count = e->count,
                                                .numbered = e->kind == MICA_EDIT_PLUS,
                                                .grid = d->options->picture_positions ==
                                                        MICA_POSITIONS_GRID,
                                                .max_tokens = d->plan.max_tokens};
    MICA_TRY(mica_qwen_image_edit_tokenize(m->base.tokenizer, &prompt, out, err));
    mica_diffusion_note_cut(d, i, (int64_t)(out->full_count - out->dropped - out->picture_rows),
                            d->plan.max_tokens);
    return MICA_OK;
}

static const mica_qwen_image *model_of(const mica_qwen_image_session *s)
{
    return (const mica_qwen_image *)s->base.model;
}

static mica_status encode(const mica_qwen_image_edit *e, mica_diffusion *d,
                          mica_qwen_image_session *s, const mica_qwen_pixels *pixels,
                          mica_qwen_image_prompt prompts[2], mica_err *err)
{
    const int count = d->plan.guided ? 2 : 1;
    mica_tensor pictures_ND[MICA_QWEN_IMAGE_PICTURES], embeds_TE[2];
    for (int i = 0; i < count; i++)
        MICA_TRY(tokenize(e, d, model_of(s), pixels, i, &prompts[i], err));
    MICA_TRY(tap_pixels(d, pixels, e->count, err));
    MICA_TRY(look(e, d, s, pixels, pictures_ND, err));
    if (!d->switches->ablate_trim)
        mica_qwen_vision_drop(&s->vision, d->be);
    MICA_TRY(mica_qwen_image_encode(&s->base.text_encoder, d->be, &d->run, prompts, count,
                                    d->plan.max_tokens, pictures_ND, embeds_TE, err));
    for (int i = 0; i < count; i++)
        d->text[i] = (mica_diffusion_text){embeds_TE[i], embeds_TE[i].shape_[0]};
    return MICA_OK;
}

mica_status mica_qwen_image_edit_encode_text(mica_qwen_image_edit *e, mica_diffusion *d,
                                             mica_qwen_image_session *s, mica_err *err)
{
    mica_qwen_pixels pixels[MICA_QWEN_IMAGE_PICTURES] = {{0}};
    mica_qwen_image_prompt prompts[2] = {{0}, {0}};
    const mica_pool_mark mark = mica_pool_get_mark(d->be, MICA_POOL_STEP);
    mica_status st = MICA_OK;
    for (int i = 0; i < e->count && !st; i++)
        st = make_pixels(e, d, model_of(s), i, &pixels[i], err);
    if (!st)
        st = encode(e, d, s, pixels, prompts, err);
    mica_pool_release(d->be, MICA_POOL_STEP, mark);
    for (int i = 0; i < 2; i++)
        mica_qwen_image_prompt_deinit(&prompts[i]);
    for (int i = 0; i < e->count; i++)
        mica_qwen_pixels_deinit(&pixels[i]);
    return st;
}

/* ---------------------------------------------------------------------- latents -- */

/* Noise rows, then reference rows, of every picture (of all layers together). */
static mica_status tap_input(const mica_qwen_image_edit *e, mica_diffusion *d, const float *refs_RC,
                             mica_err *err)
{
    const int64_t n = e->layers ? 1 : d->plan.pictures, C = d->plan.C;
    const int64_t P = d->plan.P * d->plan.pictures / n, L = P + e->R;
    if (!mica_tap_wants(d->run.taps, "transformer_input"))
        return MICA_OK;
    float *noise = mica_mem_calloc((size_t)(n * P * C), sizeof *noise);
    float *all = mica_mem_calloc((size_t)(n * L * C), sizeof *all);
    if (noise && all) {
        mica_download_f32(d->be, noise, &d->latents_PC);
        for (int64_t i = 0; i < n; i++) {
            memcpy(all + i * L * C, noise + i * P * C, (size_t)(P * C) * sizeof *all);
            memcpy(all + (i * L + P) * C, refs_RC, (size_t)(e->R * C) * sizeof *all);
        }
        const mica_tensor t = mica_tensor_3d(all, MICA_DTYPE_F32, n, L, C);
        mica_tap_host(d->run.taps, &t, "transformer_input");
    }
    const bool failed = !noise || !all;
    mica_mem_free(noise);
    mica_mem_free(all);
    return failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory to trace the transformer's input")
                  : MICA_OK;
}

static mica_status encode_references(const mica_qwen_image_edit *e, mica_diffusion *d,
                                     float *refs_RC, mica_err *err)
{
    const int64_t multiple = d->traits.scale * d->traits.patch;
    const int taken = d->from_picture ? 1 : 0; /* the start picture has tap 0 */
    for (int i = 0; i < e->count; i++) {
        const mica_qwen_image_area *a = &e->vae_[i];
        MICA_TRY(mica_diffusion_encode_picture(d, &d->references[i], a->width, a->height, i + taken,
                                               refs_RC, err));
        refs_RC += a->width / multiple * (a->height / multiple) * d->plan.C;
    }
    return MICA_OK;
}

mica_status mica_qwen_image_edit_prepare(mica_qwen_image_edit *e, mica_diffusion *d,
                                         mica_qwen_image_session *s, mica_err *err)
{
    const int64_t shape[] = {e->R, d->plan.C};
    float *host = mica_mem_calloc((size_t)(e->R * d->plan.C), sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld rows of references",
                         (long long)e->R);
    mica_status st = encode_references(e, d, host, err);
    if (!st)
        st = tap_input(e, d, host, err);
    if (!st) {
        const mica_pool_mark mark = mica_pool_get_mark(d->be, MICA_POOL_STEP);
        const mica_tensor refs_RC = mica_state_tensor(d->be, MICA_POOL_STEP, 2, shape);
        mica_upload_f32(d->be, &refs_RC, host);
        mica_qwen_image_references_build(&s->transformer, d->be, &refs_RC, &e->refs_RD);
        mica_pool_release(d->be, MICA_POOL_STEP, mark);
        st = mica_backend_check(d->be, err);
    }
    mica_mem_free(host);
    return st;
}
