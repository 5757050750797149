/* diffusion_plan.c - options of a run to definite numbers; see mica_diffusion_plan.
 *
 * Reference: diffusers, __call__ and check_inputs of the pipelines (defaults, guidance), and
 * get_timesteps of their img2img forms (strength). Where the reference warns or resizes silently
 * we give a notice. */
#include "diffusion/diffusion_internal.h"

#include "base/clock.h"
#include "base/half.h"

#include <math.h>

#define MAX_SIDE     8192
#define MAX_PICTURES 64

/* ----------------------------------------------------------------------- size -- */

static mica_status resolve_side(const char *name, int asked, int multiple, int otherwise, int *out,
                                mica_run *run, mica_err *err)
{
    const int side = asked ? asked : otherwise;
    if (side < multiple || side > MAX_SIDE)
        return MICA_FAIL(err, MICA_E_USAGE, "%s %d is out of range; it must be %d to %d", name,
                         side, multiple, MAX_SIDE);
    *out = side / multiple * multiple;
    if (*out != side)
        mica_run_notice(run, "%s %d rounded down to %d, a multiple of %d", name, side, *out,
                        multiple);
    return MICA_OK;
}

/* The start picture as it is: the size that is computed is the next multiple, the borders beyond
 * it are computed and cut off again, so that what the mask protects need not be resized. */
static mica_status keep_size(mica_diffusion *d, int multiple, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    mica_diffusion_canvas_size(d, &p->out_width, &p->out_height);
    if (p->out_width > MAX_SIDE || p->out_height > MAX_SIDE)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "the picture to start from is %d x %d; the longest side is %d (-W and -H "
                         "choose a smaller size)",
                         p->out_width, p->out_height, MAX_SIDE);
    p->width = (p->out_width + multiple - 1) / multiple * multiple;
    p->height = (p->out_height + multiple - 1) / multiple * multiple;
    return MICA_OK;
}

/* One side given: the other follows the start picture's shape. */
static void follow_shape(const mica_diffusion *d, int *width, int *height)
{
    int w, h;
    if (!d->from_picture || (!*width && !*height))
        return;
    mica_diffusion_canvas_size(d, &w, &h);
    if (!*width)
        *width = (int)MICA_MAX(1.0, rint((double)w * *height / h));
    if (!*height)
        *height = (int)MICA_MAX(1.0, rint((double)h * *width / w));
}

static mica_status resolve_size(mica_diffusion *d, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    const mica_diffusion_traits *t = &d->traits;
    const int multiple = t->scale * t->patch;
    int width = d->options->width, height = d->options->height;
    if (d->from_picture && !width && !height) {
        MICA_TRY(keep_size(d, multiple, err));
    } else {
        follow_shape(d, &width, &height);
        MICA_TRY(resolve_side("width", width, multiple, t->default_width, &p->width, &d->run, err));
        MICA_TRY(
            resolve_side("height", height, multiple, t->default_height, &p->height, &d->run, err));
        p->out_width = p->width;
        p->out_height = p->height;
    }
    p->w = p->width / multiple;
    p->h = p->height / multiple;
    p->P = (int64_t)p->h * p->w;
    p->C = (int64_t)t->channels * t->patch * t->patch;
    return MICA_OK;
}

/* --------------------------------------------------------------------- counts -- */

/* The composite and its layers are denoised together. */
static mica_status resolve_layers(mica_diffusion *d, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    if (!d->traits.layers)
        return MICA_OK;
    if (p->pictures > 1)
        return MICA_FAIL(err, MICA_E_USAGE, "batch %d: layers are made of one picture at a time",
                         p->pictures);
    if (d->traits.layers < 1 || d->traits.layers >= MAX_PICTURES)
        return MICA_FAIL(err, MICA_E_USAGE, "%d layers are out of range; it must be 1 to %d",
                         d->traits.layers, MAX_PICTURES - 1);
    if (d->from_picture)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "layers are made of a whole picture: strength, mask and extension do not "
                         "apply");
    p->pictures = 1 + d->traits.layers;
    p->hidden = 1;
    return MICA_OK;
}

static mica_status resolve_counts(mica_diffusion *d, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    const mica_image_options *o = d->options;
    p->pictures = o->batch ? o->batch : 1;
    if (p->pictures < 1 || p->pictures > MAX_PICTURES)
        return MICA_FAIL(err, MICA_E_USAGE, "batch %d is out of range; it must be 1 to %d",
                         o->batch, MAX_PICTURES);
    MICA_TRY(resolve_layers(d, err));
    if (o->sigma_count < 0 || (o->sigma_count && !o->sigmas))
        return MICA_FAIL(err, MICA_E_USAGE, "%d sigmas announced, none given", o->sigma_count);
    p->steps_asked = o->sigma_count ? o->sigma_count
                     : o->steps     ? o->steps
                                    : d->traits.default_steps;
    if (p->steps_asked < 1 || p->steps_asked > MICA_MAX_STEPS)
        return MICA_FAIL(err, MICA_E_USAGE, "%d steps are out of range; it must be 1 to %d",
                         p->steps_asked, MICA_MAX_STEPS);
    if (o->sigma_count && o->steps && o->steps != o->sigma_count)
        return MICA_FAIL(err, MICA_E_USAGE, "%d sigmas were given for %d steps", o->sigma_count,
                         o->steps);
    p->max_tokens = o->max_text_tokens ? o->max_text_tokens : d->traits.default_tokens;
    if (p->max_tokens < 1 || p->max_tokens > d->traits.max_tokens)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a limit of %d text tokens is out of range; it must be 1 to %d",
                         o->max_text_tokens, d->traits.max_tokens);
    if (o->vae_tile < -1)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "VAE tile height %d is out of range; it must be -1 or more", o->vae_tile);
    return MICA_OK;
}

/* ------------------------------------------------------------------- guidance -- */

static void note_guidance(mica_diffusion *d, double asked, bool has_negative)
{
    const mica_image_options *o = d->options;
    const double neutral = d->traits.neutral_guidance;
    if (d->traits.ignores_guidance) {
        if (asked > neutral || o->negative_prompt)
            mica_run_notice(&d->run, "this model is distilled: guidance and negative prompt have "
                                     "no effect");
        return;
    }
    if (asked > neutral && !has_negative)
        mica_run_notice(
            &d->run, "guidance %g has no effect without a negative prompt (\" \" will do)", asked);
    if (d->plan.guidance <= neutral && o->negative_prompt)
        mica_run_notice(&d->run, "the negative prompt has no effect at guidance %g",
                        d->plan.guidance);
}

static mica_status resolve_guidance(mica_diffusion *d, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    const double asked = d->options->guidance, neutral = d->traits.neutral_guidance;
    const char *negative = d->options->negative_prompt;
    if (!isfinite(asked) || asked > 1000.0)
        return MICA_FAIL(err, MICA_E_USAGE, "guidance %g is out of range; it must be 0 to 1000",
                         asked);
    p->guidance = asked > 0.0 ? asked : asked < 0.0 ? neutral : d->traits.default_guidance;
    p->negative = negative ? negative : d->traits.default_negative;
    p->guided = p->guidance > neutral && p->negative && !d->traits.ignores_guidance;
    note_guidance(d, asked, p->negative != NULL);
    if (!p->guided)
        p->guidance = neutral;
    return MICA_OK;
}

/* ------------------------------------------------------------------- schedule -- */

/* In the reference's bf16 runs both the timestep and what becomes of it are rounded. */
static float eval_time(const mica_diffusion *d, float sigma)
{
    const float t = sigma * (float)d->traits.schedule->num_train_timesteps;
    const bool round = d->options->round_timesteps_bf16;
    const float exact = round ? mica_bf16_to_f32(mica_f32_to_bf16(t)) : t;
    const float v = d->ops->time ? d->ops->time(exact) : exact / 1000.0f;
    return round ? mica_bf16_to_f32(mica_f32_to_bf16(v)) : v;
}

static mica_status run_schedule(mica_diffusion *d, const mica_schedule_config *c, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    const mica_image_options *o = d->options;
    const double *own = o->sigma_count ? o->sigmas : NULL;
    const double mu = d->ops->mu ? d->ops->mu(d) : mica_schedule_mu(c, (int)p->P);
    if (!own && d->ops->unshifted && c->spacing == MICA_SPACING_DEFAULT) {
        double *unshifted = mica_arena_calloc(&d->arena, (size_t)p->steps_asked, sizeof *unshifted);
        if (!unshifted)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a schedule");
        d->ops->unshifted(p->steps_asked, unshifted);
        own = unshifted;
    }
    return mica_schedule_run(c, p->steps_asked, mu, own, p->sigmas, p->timesteps, err);
}

static mica_status resolve_strength(mica_diffusion *d, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    const double asked = d->options->strength;
    if (!isfinite(asked) || asked < 0.0 || asked > 1.0)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "strength %g is out of range; it must be above 0, at "
                         "most 1",
                         asked);
    p->steps = p->steps_asked;
    if (!d->from_picture)
        return MICA_OK;
    /* New borders hold nothing to start from. */
    const int *e = d->options->expand_;
    const bool expands = e[0] || e[1] || e[2] || e[3];
    p->strength = asked > 0.0 ? asked : expands ? 1.0 : d->traits.default_strength;
    const double run = MICA_MIN(p->steps_asked * p->strength, (double)p->steps_asked);
    const int skipped = (int)MICA_MAX(p->steps_asked - run, 0.0); /* leaves one step at least */
    p->steps = p->steps_asked - skipped;
    p->sigmas += skipped;
    p->timesteps += skipped;
    return MICA_OK;
}

static mica_status make_schedule(mica_diffusion *d, mica_err *err)
{
    mica_diffusion_plan *p = &d->plan;
    const mica_image_options *o = d->options;
    const size_t n = (size_t)p->steps_asked;
    mica_schedule_config c = *d->traits.schedule;
    p->sigmas = mica_arena_calloc(&d->arena, n + 1, sizeof *p->sigmas);
    p->timesteps = mica_arena_calloc(&d->arena, n + 1, sizeof *p->timesteps);
    p->eval_times = mica_arena_calloc(&d->arena, 2 * n, sizeof *p->eval_times);
    if (!p->sigmas || !p->timesteps || !p->eval_times)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a schedule of %d steps", p->steps_asked);
    if (o->schedule)
        MICA_TRY(mica_schedule_config_set_named(&c, o->schedule, err));
    MICA_TRY(run_schedule(d, &c, err));
    MICA_TRY(resolve_strength(d, err));
    p->solver = o->solver ? o->solver : c.solver ? c.solver : MICA_SOLVER_EULER;
    p->evaluations = mica_solver_plan(p->solver, p->steps, p->sigmas, p->eval_times);
    for (int e = 0; e < p->evaluations; e++)
        p->eval_times[e] = eval_time(d, p->eval_times[e]);
    return MICA_OK;
}

/* Refuses what cannot fit before an hour of work goes into it. */
static mica_status check_memory(const mica_diffusion *d, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const mica_backend_memory device = mica_backend_get_memory(d->be, false);
    const uint64_t have = device.total ? device.limit : mica_clock_available_memory();
    const uint64_t in_f32 =
        d->ops->scratch(d, p->width, p->height, p->pictures * (p->guided ? 2 : 1));
    const uint64_t size = (uint64_t)mica_dtype_get(mica_backend_act_dtype(d->be))->size;
    const uint64_t need = device.total ? in_f32 / sizeof(float) * size : in_f32;
    if (have && need > have)
        return MICA_FAIL(err, MICA_E_NOMEM,
                         "%d picture%s of %d x %d need about %.1f GB of working memory, %.1f GB "
                         "%s; choose a smaller size or batch",
                         p->pictures, p->pictures == 1 ? "" : "s", p->width, p->height,
                         (double)need * 1e-9, (double)have * 1e-9,
                         device.total ? "of the GPU may be taken" : "are free");
    return MICA_OK;
}

static void note_unknown(mica_diffusion *d, const char *option, bool given, bool known)
{
    if (given && !known)
        mica_run_notice(&d->run, "%s has no effect with this model", option);
}

static void note_unused(mica_diffusion *d)
{
    const mica_image_options *o = d->options;
    const unsigned knows = d->traits.knows;
    note_unknown(d, "the choice of a distilled run", o->distilled != MICA_CHOICE_AUTO,
                 knows & MICA_KNOWS_DISTILLED);
    note_unknown(d, "guidance normalization", o->cfg_normalization != 0.0,
                 knows & MICA_KNOWS_CFG_LIMITS);
    note_unknown(d, "guidance truncation", o->cfg_truncation != 0.0, knows & MICA_KNOWS_CFG_LIMITS);
    note_unknown(d, "a way of editing",
                 o->edit != MICA_EDIT_AUTO || o->picture_positions != MICA_POSITIONS_AUTO,
                 knows & MICA_KNOWS_EDIT);
    note_unknown(d, "a number of layers", o->layers != 0, knows & MICA_KNOWS_LAYERS);
    note_unknown(d, "an area for references", o->ref_pixels != 0, d->traits.max_references > 0);
    note_unknown(d, "an area for the vision part", o->vision_pixels != 0,
                 knows & MICA_KNOWS_VISION_PIXELS);
}

mica_status mica_diffusion_plan_make(mica_diffusion *d, mica_err *err)
{
    MICA_TRY(resolve_counts(d, err));
    MICA_TRY(resolve_size(d, err));
    MICA_TRY(resolve_guidance(d, err));
    MICA_TRY(make_schedule(d, err));
    note_unused(d);
    return check_memory(d, err);
}
