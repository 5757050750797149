/* zimage_run.c - what Z-Image supplies to a run (diffusion/diffusion.h).
 *
 *     prompt ─► embeds [T, E] ─► caption [T, D] ────┐
 *     times ─► modulation of every block ───────────┼─► forward ─► output [P, 64], sign turned
 *     size ─► rotary tables ────────────────────────┘
 *
 * Reference: diffusers pipeline_z_image.py __call__. Its time runs from 0 (noise) to 1, and the
 * network's output points from noise to picture: the velocity dx/dsigma is its opposite. Its
 * guidance is cond + scale * (cond - uncond). */
#include "models/common/qwen3_text.h"
#include "models/zimage/zimage.h"
#include "models/zimage/zimage_forward.h"
#include "models/zimage/zimage_probe.h"

#define DEFAULT_SIDE     1024 /* pixels */
#define TURBO_STEPS      9    /* the last one is small; 8 do nearly as well */
#define BASE_STEPS       50   /* the reference's call */
#define BASE_GUIDANCE    5.0
#define DEFAULT_STRENGTH 0.6 /* pipeline_z_image_img2img.py */
#define MAX_LIMIT        1000.0

typedef struct zimage_run {
    mica_diffusion base;
    mica_zimage_session *session;
    mica_zimage_condition conditions[2];
    mica_zimage_modulation mod;
} zimage_run;

static zimage_run *from(mica_diffusion *d)
{
    return (zimage_run *)d;
}

static const mica_zimage *model_of(const mica_diffusion *d)
{
    return (const mica_zimage *)((const zimage_run *)d)->session->base.model;
}

static int prompt_count(const mica_diffusion *d)
{
    return d->plan.guided ? 2 : 1;
}

/* ------------------------------------------------------------------- options -- */

static mica_status check_limits(const mica_image_options *o, mica_err *err)
{
    if (!(o->cfg_normalization >= 0.0 && o->cfg_normalization <= MAX_LIMIT))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "guidance normalization %g is out of range; it must be 0 to %g",
                         o->cfg_normalization, MAX_LIMIT);
    if (!(o->cfg_truncation >= 0.0 && o->cfg_truncation <= 1.0))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "guidance truncation %g is out of range; it must be above 0, at most 1",
                         o->cfg_truncation);
    return MICA_OK;
}

static mica_status describe(mica_diffusion *d, mica_diffusion_traits *t, mica_err *err)
{
    const mica_zimage *m = model_of(d);
    const mica_image_options *o = d->options;
    const bool turbo =
        o->distilled == MICA_CHOICE_AUTO ? m->distilled : o->distilled == MICA_CHOICE_YES;
    *t = (mica_diffusion_traits){.scale = mica_kl_vae_scale(&m->vae_config),
                                 .patch = MICA_ZIMAGE_PATCH,
                                 .channels = (int)m->transformer.config.channels,
                                 .packing = MICA_PACK_CHANNELS_INNER,
                                 .drawn = MICA_LATENT_PIXELS,
                                 .initial = MICA_LATENT_PIXELS,
                                 .latents = MICA_LATENT_PIXELS,
                                 .velocity = MICA_LATENT_ITEMS,
                                 .vae = MICA_LATENT_PIXELS,
                                 .samples_posterior = true,
                                 .default_width = DEFAULT_SIDE,
                                 .default_height = DEFAULT_SIDE,
                                 .default_steps = turbo ? TURBO_STEPS : BASE_STEPS,
                                 .default_guidance = turbo ? 0.0 : BASE_GUIDANCE,
                                 .neutral_guidance = 0.0,
                                 .default_strength = DEFAULT_STRENGTH,
                                 .default_negative = "",
                                 .times_per_item = true,
                                 .default_tokens = MICA_ZIMAGE_MAX_TOKENS,
                                 .max_tokens = MICA_ZIMAGE_MAX_TOKENS,
                                 .knows = MICA_KNOWS_DISTILLED | MICA_KNOWS_CFG_LIMITS,
                                 .caching = MICA_CACHING_OUTPUT,
                                 .schedule = &m->base.schedule};
    return check_limits(o, err);
}

static float time_of(float timestep)
{
    return (1000.0f - timestep) / 1000.0f;
}

/* The block's scratch with f32 activations: the residual, then either modulated input, q, k and v of
 * every row or the branch and two hidden layers of one piece of the MLP (zimage_forward.c). */
uint64_t mica_zimage_scratch(const mica_zimage *m, int width, int height, int items)
{
    const mica_zimage_config *c = &m->transformer.config;
    const uint64_t multiple = MICA_ZIMAGE_PATCH * (uint64_t)mica_kl_vae_scale(&m->vae_config);
    const uint64_t w = (uint64_t)width / multiple, h = (uint64_t)height / multiple;
    const uint64_t rows = (uint64_t)items * (w * h + MICA_ZIMAGE_GROUP + MICA_ZIMAGE_MAX_TOKENS);
    const uint64_t D = (uint64_t)c->width, attention = 4 * rows * D;
    const uint64_t mlp =
        rows * D + 2 * (uint64_t)mica_nn_piece((int64_t)rows, 2048) * (uint64_t)c->ffn;
    const uint64_t blocks = 4 * (rows * D + MICA_MAX(attention, mlp));
    return MICA_MAX(blocks, mica_kl_vae_decode_bytes(&m->vae_config, (int64_t)h * MICA_ZIMAGE_PATCH,
                                                     (int64_t)w * MICA_ZIMAGE_PATCH));
}

static uint64_t scratch(const mica_diffusion *d, int width, int height, int items)
{
    return mica_zimage_scratch(model_of(d), width, height, items);
}

/* ---------------------------------------------------------------------- text -- */

static mica_status encode_text(mica_diffusion *d, mica_err *err)
{
    static const mica_qwen3_text text = {.thinking = true};
    return mica_qwen3_text_encode(d, &from(d)->session->base, &text, err);
}

/* ------------------------------------------------------------------- prepare -- */

static mica_status begin(mica_diffusion *d, int e, mica_err *err)
{
    zimage_run *r = from(d);
    MICA_TRY(mica_zimage_modulation_prepare(&r->mod, d->be, &d->run, e, err));
    d->modulation_matmuls = r->mod.matmuls;
    mica_zimage_modulation_select(&r->mod, d->be, e);
    return MICA_OK;
}

/* Captions are refined once in a run. */
static void drop_context(mica_zimage_weights *w, mica_backend *be)
{
    mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS];
    for (int n = 0; n < (int)w->config.refiners; n++)
        mica_backend_drop_weights(be, list, mica_zimage_list_block(&w->context[n], list));
}

static mica_status prepare(mica_diffusion *d, mica_err *err)
{
    zimage_run *r = from(d);
    const mica_diffusion_plan *p = &d->plan;
    mica_zimage_weights *w = &r->session->transformer;
    for (int i = 0; i < prompt_count(d); i++)
        MICA_TRY(mica_zimage_condition_build(w, d->be, &d->run, i == 0, &d->text[i].embeds_TE,
                                             &r->conditions[i], err));
    if (!d->switches->ablate_trim)
        drop_context(w, d->be);
    MICA_TRY(mica_zimage_modulation_init(&r->mod, w, d->be, &d->arena, p->eval_times,
                                         p->evaluations, !d->switches->ablate_modulation_once,
                                         err));
    return begin(d, 0, err);
}

static mica_status build_rope(mica_diffusion *d, mica_err *err)
{
    zimage_run *r = from(d);
    const mica_zimage_config *c = &r->session->transformer.config;
    for (int i = 0; i < prompt_count(d); i++) {
        mica_zimage_condition *condition = &r->conditions[i];
        MICA_TRY(mica_zimage_rope_picture(d->be, MICA_POOL_SESSION, c, d->plan.h, d->plan.w,
                                          condition->T, &condition->picture, err));
        MICA_TRY(mica_zimage_rope_caption(d->be, MICA_POOL_SESSION, c, condition->T,
                                          &condition->caption, err));
    }
    return d->rope_builds == 1 ? mica_zimage_probe_rope(d, c, err) : MICA_OK;
}

/* ------------------------------------------------------------------- denoise -- */

static mica_status predict(mica_diffusion *d, int e, int first, int count, mica_tensor *velocity_PC,
                           mica_err *err)
{
    zimage_run *r = from(d);
    mica_zimage_pass pass = {.w = &r->session->transformer,
                             .be = d->be,
                             .run = &d->run,
                             .mod = &r->mod,
                             .conditions = {&r->conditions[first], &r->conditions[1]},
                             .condition_count = count,
                             .pictures = d->plan.pictures,
                             .P = d->plan.P,
                             .keeps_pages = d->switches->ablate_trim,
                             .probes = e == 0 && first == 0 && d->run.taps};
    MICA_TRY(mica_zimage_forward(&pass, e, &d->latents_PC, velocity_PC, err));
    /* The first evaluation fills the scratch pool; from then on both counters must stand still. */
    if (e > 0) {
        d->block_allocations += pass.allocations;
        d->block_waits += pass.waits;
    }
    return MICA_OK;
}

/* Truncation leaves guidance off from a point of the run on. */
static double guidance(const mica_diffusion *d, int e)
{
    const double truncation = d->options->cfg_truncation > 0.0 ? d->options->cfg_truncation : 1.0;
    return d->plan.eval_times[e] > truncation ? 0.0 : d->plan.guidance;
}

static void guide(mica_diffusion *d, double scale, mica_tensor *cond_PC, const mica_tensor *uncond)
{
    const float limit = (float)d->options->cfg_normalization;
    mica_tensor out = uncond ? *uncond : *cond_PC;
    if (uncond) {
        const int64_t rows[] = {d->plan.pictures, d->plan.P * d->plan.C};
        mica_cfg_combine(d->be, cond_PC, uncond, 1.0f + (float)scale, false, &out);
        if (limit > 0.0f) {
            const mica_tensor cond = mica_tensor_reshape(cond_PC, 2, rows);
            mica_tensor whole = mica_tensor_reshape(&out, 2, rows);
            mica_limit_norm(d->be, &cond, limit, &whole);
        }
    }
    mica_linear_combination(d->be, 1, (const float[]){-1.0f}, (const mica_tensor *[]){&out},
                            cond_PC);
}

/* ------------------------------------------------------------------------ VAE -- */

static mica_status decode(mica_diffusion *d, const mica_tensor *z_YXC, mica_tensor *picture_YXC,
                          const mica_tap_sink *taps, mica_err *err)
{
    const mica_vae_run_args args = mica_diffusion_vae_args(d, taps);
    return mica_kl_vae_decode(from(d)->session->vae, d->be, z_YXC, picture_YXC, &args, err);
}

static mica_status encode(mica_diffusion *d, const mica_tensor *picture_YXC, mica_tensor *mean_YXC,
                          mica_tensor *logvar_YXC, const mica_tap_sink *taps, mica_err *err)
{
    const mica_vae_run_args args = mica_diffusion_vae_args(d, taps);
    return mica_kl_vae_encode(from(d)->session->vae, d->be, picture_YXC, mean_YXC, logvar_YXC,
                              &args, err);
}

static void scale_latents(const mica_diffusion *d, float *rows_PC, int64_t n, bool to_vae)
{
    const mica_kl_vae_config *c = &model_of(d)->vae_config;
    const float scaling = (float)c->scaling_factor, shift = (float)c->shift_factor;
    for (int64_t i = 0; i < n * d->plan.C; i++)
        rows_PC[i] = to_vae ? rows_PC[i] / scaling + shift : (rows_PC[i] - shift) * scaling;
}

static void drop(mica_diffusion *d, mica_phase phase)
{
    if (phase == MICA_PHASE_TEXT)
        mica_lm_drop(&from(d)->session->base.text_encoder, d->be);
}

static const mica_diffusion_ops OPS = {.describe = describe,
                                       .unshifted = mica_schedule_torch_linspace,
                                       .time = time_of,
                                       .scratch = scratch,
                                       .encode_text = encode_text,
                                       .prepare = prepare,
                                       .build_rope = build_rope,
                                       .begin = begin,
                                       .predict = predict,
                                       .guidance = guidance,
                                       .guide = guide,
                                       .decode = decode,
                                       .encode = encode,
                                       .scale_latents = scale_latents,
                                       .drop = drop};

mica_status mica_zimage_generate(mica_model_session *session, const mica_image_options *options,
                                 const mica_tap_sink *taps, mica_diffusion_result *result,
                                 mica_err *err)
{
    mica_zimage_session *s = (mica_zimage_session *)session;
    zimage_run r = {.session = s};
    return mica_diffusion_run(&r.base, &OPS, s->base.be, &s->base.switches, options, taps, result,
                              err);
}
