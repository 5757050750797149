/* qwen_image_plan.c - options of a run to definite numbers; see qwen_image_plan.h.
 *
 * Reference: diffusers pipeline_qwenimage.py __call__ (defaults, true_cfg_scale with a negative
 * prompt, calculate_shift) and check_inputs. Where the reference warns we give a notice; where it
 * would resize silently (sides that are not multiples of 16) as well. */
#include "models/qwen_image/qwen_image_plan.h"

#include "base/clock.h"
#include "base/half.h"

#include <math.h>

#define DEFAULT_SIDE     128 /* latents; the reference's default_sample_size */
#define DEFAULT_STEPS    50
#define DEFAULT_GUIDANCE 4.0
#define MAX_SIDE         8192
#define MAX_PICTURES     64

static mica_status resolve_side(const char *name, int asked, int multiple, int otherwise, int *out,
                                mica_run *run, mica_err *err)
{
    if (asked == 0) {
        *out = otherwise;
        return MICA_OK;
    }
    if (asked < multiple || asked > MAX_SIDE)
        return MICA_FAIL(err, MICA_E_USAGE, "%s %d is out of range; it must be %d to %d", name,
                         asked, multiple, MAX_SIDE);
    *out = asked / multiple * multiple;
    if (*out != asked)
        mica_run_notice(run, "%s %d rounded down to %d, a multiple of %d", name, asked, *out,
                        multiple);
    return MICA_OK;
}

static mica_status resolve_size(mica_qwen_image_plan *p, const mica_qwen_image *m, mica_run *run,
                                mica_err *err)
{
    const int scale = mica_qwen_vae_scale(&m->vae_config), multiple = 2 * scale;
    const int side = DEFAULT_SIDE * scale;
    MICA_TRY(resolve_side("width", p->options->width, multiple, side, &p->width, run, err));
    MICA_TRY(resolve_side("height", p->options->height, multiple, side, &p->height, run, err));
    p->w = p->width / multiple;
    p->h = p->height / multiple;
    p->P = (int64_t)p->h * p->w;
    p->C = m->transformer.config.in_channels;
    return MICA_OK;
}

static mica_status resolve_counts(mica_qwen_image_plan *p, mica_err *err)
{
    const mica_image_options *o = p->options;
    p->pictures = o->batch ? o->batch : 1;
    if (p->pictures < 1 || p->pictures > MAX_PICTURES)
        return MICA_FAIL(err, MICA_E_USAGE, "batch %d is out of range; it must be 1 to %d",
                         o->batch, MAX_PICTURES);
    p->steps = o->sigma_count ? o->sigma_count : o->steps ? o->steps : DEFAULT_STEPS;
    if (p->steps < 1 || p->steps > MICA_MAX_STEPS)
        return MICA_FAIL(err, MICA_E_USAGE, "%d steps are out of range; it must be 1 to %d",
                         p->steps, MICA_MAX_STEPS);
    if (o->sigma_count && o->steps && o->steps != o->sigma_count)
        return MICA_FAIL(err, MICA_E_USAGE, "%d sigmas were given for %d steps", o->sigma_count,
                         o->steps);
    p->max_tokens = o->max_text_tokens ? o->max_text_tokens : MICA_QWEN_IMAGE_MAX_TOKENS;
    if (p->max_tokens < 1 || p->max_tokens > MICA_QWEN_IMAGE_MAX_TOKENS)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a limit of %d text tokens is out of range; it must be 1 to %d",
                         o->max_text_tokens, MICA_QWEN_IMAGE_MAX_TOKENS);
    if (o->vae_tile < -1)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "VAE tile height %d is out of range; it must be -1 or more", o->vae_tile);
    if (o->sigma_count < 0 || (o->sigma_count && !o->sigmas))
        return MICA_FAIL(err, MICA_E_USAGE, "%d sigmas announced, none given", o->sigma_count);
    return MICA_OK;
}

static mica_status resolve_guidance(mica_qwen_image_plan *p, mica_run *run, mica_err *err)
{
    const mica_image_options *o = p->options;
    if (!isfinite(o->guidance) || o->guidance < 0.0 || o->guidance > 1000.0)
        return MICA_FAIL(err, MICA_E_USAGE, "guidance %g is out of range; it must be 0 to 1000",
                         o->guidance);
    p->guidance = o->guidance > 0.0 ? o->guidance : DEFAULT_GUIDANCE;
    p->guided = p->guidance > 1.0 && o->negative_prompt;
    if (o->guidance > 1.0 && !o->negative_prompt)
        mica_run_notice(run, "guidance %g has no effect without a negative prompt (\" \" will do)",
                        o->guidance);
    if (p->guidance <= 1.0 && o->negative_prompt)
        mica_run_notice(run, "the negative prompt has no effect at guidance %g", p->guidance);
    if (!p->guided)
        p->guidance = 1.0;
    return MICA_OK;
}

/* The reference hands the transformer timestep / 1000, which is not always the sigma it came
 * from in the last bit; in its bf16 runs both numbers are rounded. */
static float eval_time(float sigma, int num_train_timesteps, bool round_bf16)
{
    const float t = sigma * (float)num_train_timesteps;
    if (!round_bf16)
        return t / 1000.0f;
    return mica_bf16_to_f32(mica_f32_to_bf16(mica_bf16_to_f32(mica_f32_to_bf16(t)) / 1000.0f));
}

static mica_status make_schedule(mica_qwen_image_plan *p, const mica_qwen_image *m,
                                 mica_arena *arena, mica_err *err)
{
    const mica_image_options *o = p->options;
    const size_t n = (size_t)p->steps;
    mica_schedule_config c = m->schedule;
    p->sigmas = mica_arena_calloc(arena, n + 1, sizeof *p->sigmas);
    p->timesteps = mica_arena_calloc(arena, n + 1, sizeof *p->timesteps);
    p->eval_times = mica_arena_calloc(arena, 2 * n, sizeof *p->eval_times);
    if (!p->sigmas || !p->timesteps || !p->eval_times)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a schedule of %d steps", p->steps);
    if (o->schedule)
        MICA_TRY(mica_schedule_config_set_named(&c, o->schedule, err));
    const double mu = mica_schedule_mu(&c, (int)p->P);
    MICA_TRY(mica_schedule_run(&c, p->steps, mu, o->sigma_count ? o->sigmas : NULL, p->sigmas,
                               p->timesteps, err));
    p->solver = o->solver ? o->solver : c.solver ? c.solver : MICA_SOLVER_EULER;
    p->evaluations = mica_solver_plan(p->solver, p->steps, p->sigmas, p->eval_times);
    for (int e = 0; e < p->evaluations; e++)
        p->eval_times[e] =
            eval_time(p->eval_times[e], c.num_train_timesteps, o->round_timesteps_bf16);
    return MICA_OK;
}

/* Refuses what cannot fit before an hour of work goes into it. */
static mica_status check_memory(const mica_qwen_image_plan *p, const mica_qwen_image *m,
                                mica_err *err)
{
    const uint64_t have = mica_clock_available_memory();
    const uint64_t need =
        mica_qwen_image_scratch(m, p->width, p->height, p->pictures * (p->guided ? 2 : 1));
    if (have && need > have)
        return MICA_FAIL(err, MICA_E_NOMEM,
                         "%d picture%s of %d x %d need about %.1f GB of working memory, %.1f GB "
                         "are free; choose a smaller size or batch",
                         p->pictures, p->pictures == 1 ? "" : "s", p->width, p->height,
                         (double)need * 1e-9, (double)have * 1e-9);
    return MICA_OK;
}

mica_status mica_qwen_image_plan_make(mica_qwen_image_plan *p, const mica_qwen_image *model,
                                      const mica_image_options *options, mica_run *run,
                                      mica_arena *arena, mica_err *err)
{
    *p = (mica_qwen_image_plan){.options = options};
    if (!options->prompt)
        return MICA_FAIL(err, MICA_E_USAGE, "a prompt is needed; it may be empty");
    MICA_TRY(resolve_counts(p, err));
    MICA_TRY(resolve_size(p, model, run, err));
    MICA_TRY(resolve_guidance(p, run, err));
    MICA_TRY(make_schedule(p, model, arena, err));
    return check_memory(p, model, err);
}

/* The block's scratch with f32 activations: residual, modulated input, q, k and v of every row,
 * and one piece of the MLP (qwen_image_forward.c). Text rows are few beside the picture's. */
uint64_t mica_qwen_image_scratch(const mica_qwen_image *m, int width, int height, int items)
{
    const mica_qwen_image_config *c = &m->transformer.config;
    const uint64_t multiple = 2 * (uint64_t)mica_qwen_vae_scale(&m->vae_config);
    const uint64_t rows =
        (uint64_t)items * ((uint64_t)width / multiple * ((uint64_t)height / multiple) + 512);
    const uint64_t piece = MICA_MIN(rows, 4096) * (uint64_t)(c->width + c->ffn);
    return 4 * (rows * (uint64_t)c->width * 5 + piece);
}
