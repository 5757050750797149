/* qwen_image_run.c - what Qwen-Image supplies to a run (diffusion/diffusion.h).
 *
 *     prompt ─► embeds [T, E] ─► condition [T, D] ──┐
 *     times ─► modulation of every block ───────────┼─► forward ─► velocity [P, 64]
 *     size ─► rotary tables ────────────────────────┤
 *     references (qwen_image_edit.h) ─► [R, D] ─────┘
 *
 * Reference: diffusers pipeline_qwenimage.py __call__. */
#include "diffusion/prompt_cache.h"
#include "models/qwen_image/qwen_image.h"
#include "models/qwen_image/qwen_image_edit.h"
#include "models/qwen_image/qwen_image_forward.h"

#include <math.h>

#define DEFAULT_SIDE     128 /* latents; the reference's default_sample_size */
#define DEFAULT_STEPS    50
#define DEFAULT_GUIDANCE 4.0
#define DEFAULT_STRENGTH 0.6 /* pipeline_qwenimage_img2img.py */
#define PATCH            2
#define MOST_GRIDS       80 /* 64 pictures in a plan, references */

typedef struct qwen_image_run {
    mica_diffusion base;
    mica_qwen_image_session *session;
    mica_qwen_image_edit edit;
    mica_qwen_image_condition conditions[2];
    mica_qwen_image_modulation mod;
    mica_qwen_image_rope rope;
} qwen_image_run;

static qwen_image_run *from(mica_diffusion *d)
{
    return (qwen_image_run *)d;
}

static const mica_qwen_image *model_of(const mica_diffusion *d)
{
    return (const mica_qwen_image *)((const qwen_image_run *)d)->session->base.model;
}

static int prompt_count(const mica_diffusion *d)
{
    return d->plan.guided ? 2 : 1;
}

static mica_status describe(mica_diffusion *d, mica_diffusion_traits *t, mica_err *err)
{
    const mica_qwen_image *m = model_of(d);
    const int scale = mica_qwen_vae_scale(&m->vae_config);
    *t = (mica_diffusion_traits){.scale = scale,
                                 .patch = PATCH,
                                 .channels = m->vae_config.z_dim,
                                 .packing = MICA_PACK_CHANNELS_OUTER,
                                 .drawn = MICA_LATENT_PIXELS,
                                 .initial = MICA_LATENT_ROWS,
                                 .latents = MICA_LATENT_ROWS,
                                 .velocity = MICA_LATENT_ROWS,
                                 .vae = MICA_LATENT_FRAMES,
                                 .clamps = true,
                                 .samples_posterior = true,
                                 .default_width = DEFAULT_SIDE * scale,
                                 .default_height = DEFAULT_SIDE * scale,
                                 .default_steps = DEFAULT_STEPS,
                                 .default_guidance = DEFAULT_GUIDANCE,
                                 .neutral_guidance = 1.0,
                                 .default_strength = DEFAULT_STRENGTH,
                                 .default_tokens = MICA_QWEN_IMAGE_MAX_TOKENS,
                                 .max_tokens = MICA_QWEN_IMAGE_MAX_TOKENS,
                                 .caching = MICA_CACHING_OUTPUT,
                                 .schedule = &m->base.schedule};
    return mica_qwen_image_edit_describe(&from(d)->edit, d, m, t, err);
}

/* The block's scratch with f32 activations: residual, modulated input, q, k and v of every row,
 * and one piece of the MLP (qwen_image_forward.c). Text rows are few beside the picture's. */
uint64_t mica_qwen_image_scratch(const mica_qwen_image *m, int width, int height,
                                 int64_t references, int items)
{
    const mica_qwen_image_config *c = &m->transformer.config;
    const uint64_t multiple = PATCH * (uint64_t)mica_qwen_vae_scale(&m->vae_config);
    const uint64_t picture = (uint64_t)width / multiple * ((uint64_t)height / multiple);
    const uint64_t rows = (uint64_t)items * (picture + (uint64_t)references + 512);
    const uint64_t piece =
        (uint64_t)mica_nn_piece((int64_t)rows, 4096) * (uint64_t)(c->width + c->ffn);
    return 4 * (rows * (uint64_t)c->width * 5 + piece);
}

static uint64_t scratch(const mica_diffusion *d, int width, int height, int items)
{
    const mica_qwen_image_edit *e = &((const qwen_image_run *)d)->edit;
    const int64_t references = e->R / (1 + e->layers);
    return mica_qwen_image_scratch(model_of(d), width, height, references, items);
}

/* ---------------------------------------------------------------------- text -- */

static mica_status tokenize(mica_diffusion *d, int i, mica_qwen_image_prompt *out, mica_err *err)
{
    const mica_tokenizer *tokenizer = model_of(d)->base.tokenizer;
    const char *text = i ? d->plan.negative : d->options->prompt;
    MICA_TRY(tokenizer ? mica_qwen_image_tokenize(tokenizer, text, out, err)
                       : mica_qwen_image_synthetic_prompt(text, out, err));
    mica_diffusion_note_cut(d, i, (int64_t)(out->full_count - out->dropped), d->plan.max_tokens);
    return MICA_OK;
}

/* Ids up to the limit, which is counted behind the template. */
static mica_prompt_key key_of(const mica_diffusion *d, const mica_qwen_image_prompt *prompts)
{
    mica_prompt_key key = {.family = mica_qwen_image_kind.id,
                           .encoder = model_of(d)->base.text_files,
                           .width = model_of(d)->base.text_encoder.config.width,
                           .count = prompt_count(d)};
    for (int i = 0; i < key.count; i++) {
        const size_t most = prompts[i].dropped + (size_t)d->plan.max_tokens;
        key.prompts[i].ids = prompts[i].ids;
        key.prompts[i].count = key.prompts[i].valid = (int64_t)MICA_MIN(prompts[i].count, most);
        key.prompts[i].rows = key.prompts[i].count - (int64_t)prompts[i].dropped;
    }
    return key;
}

static mica_status encode_text(mica_diffusion *d, mica_err *err)
{
    mica_qwen_image_prompt prompts[2] = {{0}, {0}};
    mica_tensor embeds_TE[2];
    mica_status st = MICA_OK;
    if (from(d)->edit.kind > MICA_EDIT_OFF)
        return mica_qwen_image_edit_encode_text(&from(d)->edit, d, from(d)->session, err);
    for (int i = 0; i < prompt_count(d) && !st; i++)
        st = tokenize(d, i, &prompts[i], err);
    const mica_prompt_key key = key_of(d, prompts);
    const bool found = !st && mica_prompt_cache_find(d, &key);
    if (!st && !found)
        st = mica_qwen_image_encode(&from(d)->session->base.text_encoder, d->be, &d->run, prompts,
                                    prompt_count(d), d->plan.max_tokens, NULL, embeds_TE, err);
    for (int i = 0; i < prompt_count(d) && !st && !found; i++)
        d->text[i] = (mica_diffusion_text){embeds_TE[i], embeds_TE[i].shape_[0]};
    if (!st && !found)
        mica_prompt_cache_keep(d, &key);
    for (int i = 0; i < 2; i++)
        mica_qwen_image_prompt_deinit(&prompts[i]);
    return st;
}

/* ------------------------------------------------------------------- prepare -- */

static mica_status begin(mica_diffusion *d, int e, mica_err *err)
{
    qwen_image_run *r = from(d);
    MICA_TRY(mica_qwen_image_modulation_prepare(&r->mod, d->be, &d->run, e, err));
    d->modulation_matmuls = r->mod.matmuls;
    mica_qwen_image_modulation_select(&r->mod, d->be, e);
    return MICA_OK;
}

static mica_status prepare(mica_diffusion *d, mica_err *err)
{
    qwen_image_run *r = from(d);
    const mica_diffusion_plan *p = &d->plan;
    if (r->edit.count)
        MICA_TRY(mica_qwen_image_edit_prepare(&r->edit, d, r->session, err));
    else
        mica_diffusion_tap(d, &d->latents_PC, MICA_LATENT_ROWS, "transformer_input");
    for (int i = 0; i < prompt_count(d); i++)
        mica_qwen_image_condition_build(&r->session->transformer, d->be,
                                        i == 0 ? d->run.taps : NULL, &d->text[i].embeds_TE,
                                        &r->conditions[i]);
    MICA_TRY(mica_qwen_image_modulation_init(
        &r->mod, &r->session->transformer, d->be, &d->arena, p->eval_times, p->evaluations,
        !d->switches->ablate_modulation_once,
        r->edit.R && r->session->transformer.config.zero_cond_t, err));
    r->mod.round_bf16 = d->options->round_timesteps_bf16;
    return begin(d, 0, err);
}

/* The tables as the first item sees them. */
static void tap_rope(mica_diffusion *d)
{
    const qwen_image_run *r = from(d);
    const mica_rope_table txt = mica_rope_table_rows(&r->rope.txt, r->conditions[0].T);
    const mica_tap_sink *taps = d->run.taps;
    mica_tap(taps, d->be, &r->rope.img.cos_Lk, 0, NULL, "probe.pos_embed.0.cos");
    mica_tap(taps, d->be, &r->rope.img.sin_Lk, 0, NULL, "probe.pos_embed.0.sin");
    mica_tap(taps, d->be, &txt.cos_Lk, 0, NULL, "probe.pos_embed.1.cos");
    mica_tap(taps, d->be, &txt.sin_Lk, 0, NULL, "probe.pos_embed.1.sin");
}

/* Image rows, references included: text rows end with the last block. */
static int64_t hidden(const mica_diffusion *d, int count, int64_t *width)
{
    const qwen_image_run *r = (const qwen_image_run *)d;
    const int joined = r->edit.layers ? d->plan.pictures : 1;
    *width = r->session->transformer.config.width;
    return count * (d->plan.pictures / joined) * (d->plan.P * joined + r->edit.R);
}

static mica_status build_rope(mica_diffusion *d, mica_err *err)
{
    qwen_image_run *r = from(d);
    const int multiple = d->traits.scale * d->traits.patch;
    mica_qwen_image_grid grids[MOST_GRIDS];
    const int made = r->edit.layers ? d->plan.pictures : 1;
    int64_t longest = 0;
    for (int i = 0; i < made; i++)
        grids[i] = (mica_qwen_image_grid){d->plan.h, d->plan.w, i};
    for (int i = 0; i < prompt_count(d); i++)
        longest = MICA_MAX(longest, r->conditions[i].T);
    for (int i = 0; i < r->edit.count; i++)
        grids[made + i] = (mica_qwen_image_grid){r->edit.vae_[i].height / multiple,
                                                 r->edit.vae_[i].width / multiple,
                                                 r->edit.layers ? -1 : made + i};
    MICA_TRY(mica_qwen_image_rope_build(d->be, MICA_POOL_SESSION,
                                        r->session->transformer.config.axes, grids,
                                        made + r->edit.count, (int)longest, &r->rope, err));
    if (d->rope_builds == 1)
        tap_rope(d);
    return MICA_OK;
}

/* ------------------------------------------------------------------- denoise -- */

static mica_status predict(mica_diffusion *d, int e, int first, int count, mica_tensor *velocity_PC,
                           mica_err *err)
{
    qwen_image_run *r = from(d);
    const int joined = r->edit.layers ? d->plan.pictures : 1; /* layers see each other */
    mica_qwen_image_pass pass = {.w = &r->session->transformer,
                                 .be = d->be,
                                 .run = &d->run,
                                 .rope = &r->rope,
                                 .mod = &r->mod,
                                 .conditions = {&r->conditions[first], &r->conditions[1]},
                                 .condition_count = count,
                                 .pictures = d->plan.pictures / joined,
                                 .P = d->plan.P * joined,
                                 .refs_RD = &r->edit.refs_RD,
                                 .R = r->edit.R,
                                 .probes = e == 0 && first == 0,
                                 .cache = mica_diffusion_block_cache(d, first)};
    MICA_TRY(mica_qwen_image_forward(&pass, e, &d->latents_PC, velocity_PC, err));
    /* The first evaluation fills the scratch pool; from then on both counters must stand still. */
    if (e > 0) {
        d->block_allocations += pass.allocations;
        d->block_waits += pass.waits;
    }
    return MICA_OK;
}

/* Each token is scaled back to the length of the prompt's own prediction; not so in Layered. */
static void guide(mica_diffusion *d, double scale, mica_tensor *cond_PC, const mica_tensor *uncond)
{
    if (uncond)
        mica_cfg_combine(d->be, cond_PC, uncond, (float)scale, !from(d)->edit.layers, cond_PC);
}

/* ------------------------------------------------------------------- Layered -- */

/* pipeline_qwenimage_layered.py, __call__: the shift grows with the picture's side. */
static double layered_mu(const mica_diffusion *d)
{
    return sqrt((double)((const qwen_image_run *)d)->edit.R / 256.0);
}

/* numpy.linspace(1, 0, steps + 1) without its end. */
static void layered_unshifted(int steps, double *own)
{
    const double step = -1.0 / steps;
    for (int i = 0; i < steps; i++)
        own[i] = i * step + 1.0;
}

/* ------------------------------------------------------------------------ VAE -- */

static mica_status decode(mica_diffusion *d, const mica_tensor *z_YXC, mica_tensor *picture_YXC,
                          const mica_tap_sink *taps, mica_err *err)
{
    const mica_vae_run_args args = mica_diffusion_vae_args(d, taps);
    return mica_qwen_vae_decode(from(d)->session->vae, d->be, z_YXC, picture_YXC, &args, err);
}

static mica_status encode(mica_diffusion *d, const mica_tensor *picture_YXC, mica_tensor *mean_YXC,
                          mica_tensor *logvar_YXC, const mica_tap_sink *taps, mica_err *err)
{
    const mica_vae_run_args args = mica_diffusion_vae_args(d, taps);
    return mica_qwen_vae_encode(from(d)->session->vae, d->be, picture_YXC, mean_YXC, logvar_YXC,
                                &args, err);
}

static void scale_latents(const mica_diffusion *d, float *rows_PC, int64_t n, bool to_vae)
{
    const mica_qwen_vae_config *c = &model_of(d)->vae_config;
    if (to_vae)
        mica_qwen_vae_denormalize(c, PATCH * PATCH, rows_PC, n);
    else
        mica_qwen_vae_normalize(c, PATCH * PATCH, rows_PC, n);
}

static void drop(mica_diffusion *d, mica_phase phase)
{
    mica_qwen_image_session *s = from(d)->session;
    if (phase == MICA_PHASE_TEXT)
        mica_lm_drop(&s->base.text_encoder, d->be);
    if (phase == MICA_PHASE_TEXT && s->vision.layers)
        mica_qwen_vision_drop(&s->vision, d->be);
}

static const mica_diffusion_ops OPS = {.describe = describe,
                                       .scratch = scratch,
                                       .encode_text = encode_text,
                                       .prepare = prepare,
                                       .build_rope = build_rope,
                                       .hidden = hidden,
                                       .begin = begin,
                                       .predict = predict,
                                       .guide = guide,
                                       .decode = decode,
                                       .encode = encode,
                                       .scale_latents = scale_latents,
                                       .drop = drop};

mica_status mica_qwen_image_generate(mica_model_session *session, const mica_image_options *options,
                                     const mica_tap_sink *taps, mica_diffusion_result *result,
                                     mica_err *err)
{
    mica_qwen_image_session *s = (mica_qwen_image_session *)session;
    qwen_image_run r = {.session = s};
    mica_diffusion_ops ops = OPS;
    if (s->transformer.config.layered) {
        ops.mu = layered_mu;
        ops.unshifted = layered_unshifted;
    }
    return mica_diffusion_run(&r.base, &ops, s->base.be, &s->base.switches, options, taps, result,
                              err);
}
