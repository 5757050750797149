/* flux2_run.c - what FLUX.2-klein supplies to a run (diffusion/diffusion.h).
 *
 *     prompt ─► embeds [T, 3 E] ─► context_embedder [T, D] ──┐
 *     references ─► VAE ─► rows [R, C] ──────────────────────┤
 *     times ─► modulation of all blocks ─────────────────────┼─► forward ─► velocity [P, C]
 *     sizes ─► rotary tables ────────────────────────────────┘
 *
 * Prompts are padded to the longest length; padding has features of its own and is part of the
 * sequence, as in training. Reference: diffusers pipeline_flux2_klein.py __call__, and for
 * references whose keys are kept pipeline_flux2_klein_kv.py. */
#include "models/common/qwen3_text.h"
#include "models/flux2/flux2.h"
#include "models/flux2/flux2_forward.h"
#include "models/flux2/flux2_reference.h"

#include "base/mem.h"

#define DEFAULT_SIDE     128 /* latents; the reference's default_sample_size */
#define BASE_STEPS       50
#define DISTILLED_STEPS  4
#define DEFAULT_GUIDANCE 4.0
#define DEFAULT_STRENGTH 0.8 /* pipeline_flux2_klein_inpaint.py */

typedef struct flux2_run {
    mica_diffusion base;
    mica_flux2_session *session;
    mica_flux2_modulation mod;
    mica_tensor txt_TD[2];
    mica_rope_table txt_rope, img_rope;
    mica_flux2_grid grids[1 + MICA_FLUX2_MAX_REFERENCES]; /* the output, then the references */
    mica_tensor reference_RC;
    int64_t R; /* rows of all references */
    mica_flux2_kv kv;
} flux2_run;

static flux2_run *from(mica_diffusion *d)
{
    return (flux2_run *)d;
}

static const mica_flux2 *model_of(const mica_diffusion *d)
{
    return (const mica_flux2 *)((const flux2_run *)d)->session->base.model;
}

static int prompt_count(const mica_diffusion *d)
{
    return d->plan.guided ? 2 : 1;
}

static bool keeps_keys(const mica_diffusion *d)
{
    return model_of(d)->variant.kv && d->reference_count > 0;
}

/* ------------------------------------------------------------------------ plan -- */

static bool is_distilled(mica_diffusion *d)
{
    const mica_flux2_variant *v = &model_of(d)->variant;
    const mica_choice asked = d->options->distilled;
    if (asked == MICA_CHOICE_AUTO && !v->known && model_of(d)->base.tokenizer)
        mica_run_notice(&d->run, "the files do not say whether this checkpoint is distilled; "
                                 "taking it for distilled (--distilled no: 50 steps, guidance)");
    return asked == MICA_CHOICE_AUTO ? v->distilled : asked == MICA_CHOICE_YES;
}

/* Without a size the output takes the first reference's. */
static mica_status default_size(mica_diffusion *d, mica_diffusion_traits *t, mica_err *err)
{
    t->default_width = t->default_height = DEFAULT_SIDE * t->scale;
    if (d->input_count == 0 || d->from_picture)
        return MICA_OK;
    return mica_flux2_reference_size(d->inputs[0].width, d->inputs[0].height,
                                     d->options->ref_pixels, &t->default_width, &t->default_height,
                                     err);
}

static mica_status describe(mica_diffusion *d, mica_diffusion_traits *t, mica_err *err)
{
    const mica_flux2 *m = model_of(d);
    const bool distilled = is_distilled(d);
    *t = (mica_diffusion_traits){.scale = mica_kl_vae_scale(&m->vae_config),
                                 .patch = MICA_FLUX2_PATCH,
                                 .channels = m->vae_config.z_dim,
                                 .packing = MICA_PACK_CHANNELS_OUTER,
                                 .drawn = MICA_LATENT_PATCHES,
                                 .initial = MICA_LATENT_PATCHES,
                                 .latents = MICA_LATENT_ROWS,
                                 .velocity = MICA_LATENT_ROWS,
                                 .vae = MICA_LATENT_PIXELS,
                                 .default_steps = distilled ? DISTILLED_STEPS : BASE_STEPS,
                                 .default_guidance = distilled ? 1.0 : DEFAULT_GUIDANCE,
                                 .neutral_guidance = 1.0,
                                 .default_strength = DEFAULT_STRENGTH,
                                 .default_negative = "",
                                 .ignores_guidance = distilled,
                                 .default_tokens = MICA_FLUX2_MAX_TOKENS,
                                 .max_tokens = MICA_FLUX2_MAX_TOKENS,
                                 .max_references = MICA_FLUX2_MAX_REFERENCES,
                                 .refers_to_start = true,
                                 .knows = MICA_KNOWS_DISTILLED,
                                 .caching = MICA_CACHING_OUTPUT,
                                 .schedule = &m->base.schedule};
    return default_size(d, t, err);
}

static double mu(const mica_diffusion *d)
{
    return mica_schedule_mu_empirical((int)d->plan.P, d->plan.steps_asked);
}

/* A block's scratch with f32 activations: residual, modulated input, q, k and v of every row, and
 * one piece of the MLP (flux2_forward.c). */
uint64_t mica_flux2_scratch(const mica_flux2 *m, int width, int height, int items,
                            int64_t references)
{
    const mica_flux2_config *c = &m->transformer.config;
    const uint64_t multiple = MICA_FLUX2_PATCH * (uint64_t)mica_kl_vae_scale(&m->vae_config);
    const uint64_t picture = (uint64_t)width / multiple * ((uint64_t)height / multiple);
    const uint64_t rows =
        (uint64_t)items * (picture + (uint64_t)references + MICA_FLUX2_MAX_TOKENS);
    const uint64_t piece = (uint64_t)mica_nn_piece((int64_t)rows, MICA_FLUX2_MLP_ROWS) *
                           (uint64_t)(2 * c->width + 3 * c->ffn);
    const uint64_t blocks = 4 * (rows * (uint64_t)c->width * 5 + piece);
    const int scale = mica_kl_vae_scale(&m->vae_config);
    return MICA_MAX(blocks,
                    mica_kl_vae_decode_bytes(&m->vae_config, height / scale, width / scale));
}

static uint64_t scratch(const mica_diffusion *d, int width, int height, int items)
{
    const mica_flux2_config *c = &model_of(d)->transformer.config;
    int64_t rows = 0;
    for (int i = 0; i < d->reference_count; i++) {
        int w = width, h = height;
        mica_err ignored;
        if (!(i == 0 && d->from_picture))
            (void)mica_flux2_reference_size(d->references[i].width, d->references[i].height,
                                            d->options->ref_pixels, &w, &h, &ignored);
        rows += (int64_t)w * h / 256;
    }
    const uint64_t kept =
        keeps_keys(d) ? 8 * (uint64_t)rows * (uint64_t)(c->width * mica_flux2_block_count(c)) : 0;
    return mica_flux2_scratch(model_of(d), width, height, items, rows) + kept;
}

/* ---------------------------------------------------------------------- text -- */

static mica_status encode_text(mica_diffusion *d, mica_err *err)
{
    static const mica_qwen3_text text = {.padded = true};
    return mica_qwen3_text_encode(d, &from(d)->session->base, &text, err);
}

/* ------------------------------------------------------------------- prepare -- */

static mica_status begin(mica_diffusion *d, int e, mica_err *err)
{
    flux2_run *r = from(d);
    MICA_TRY(mica_flux2_modulation_prepare(&r->mod, d->be, d->run.taps, e, err));
    d->modulation_matmuls = r->mod.matmuls;
    mica_flux2_modulation_select(&r->mod, d->be, e);
    return MICA_OK;
}

static mica_flux2_pass new_pass(flux2_run *r)
{
    mica_diffusion *d = &r->base;
    return (mica_flux2_pass){.w = &r->session->transformer,
                             .be = d->be,
                             .run = &d->run,
                             .txt_rope = &r->txt_rope,
                             .img_rope = &r->img_rope,
                             .mod = &r->mod,
                             .condition_count = 1,
                             .pictures = 1,
                             .keeps_pages = d->switches->ablate_trim};
}

/* Keys and values of the references, once: they see nothing but themselves, at timestep 0. Their
 * rotary rows are a table of their own. */
static mica_status keep_keys(mica_diffusion *d, mica_err *err)
{
    static const float zero = 0.0f;
    flux2_run *r = from(d);
    mica_flux2_weights *w = &r->session->transformer;
    mica_flux2_modulation mod;
    mica_rope_table rope;
    int32_t *positions = NULL;
    int64_t rows;
    MICA_TRY(mica_flux2_kv_init(&r->kv, &w->config, d->be, &d->arena, r->R, err));
    const mica_pool_mark mark = mica_pool_get_mark(d->be, MICA_POOL_SESSION);
    mica_status st = mica_flux2_modulation_init(&mod, w, d->be, &zero, 1, true, err);
    if (!st)
        st = mica_flux2_modulation_prepare(&mod, d->be, NULL, 0, err);
    if (!st)
        st = mica_flux2_positions(r->grids + 1, d->reference_count, 0, &positions, &rows, err);
    if (!st)
        st = mica_flux2_rope_build(d->be, MICA_POOL_SESSION, &w->config, positions, rows, NULL,
                                   NULL, &rope, err);
    mica_mem_free(positions);
    if (!st) {
        mica_flux2_pass pass = new_pass(r);
        pass.txt_rope = pass.img_rope = &rope;
        pass.mod = &mod;
        pass.P = r->R;
        pass.kv = &r->kv;
        pass.fills_kv = true;
        st = mica_flux2_forward(&pass, 0, &r->reference_RC, NULL, err);
    }
    mica_pool_release(d->be, MICA_POOL_SESSION, mark);
    return st;
}

static mica_status prepare(mica_diffusion *d, mica_err *err)
{
    flux2_run *r = from(d);
    const mica_diffusion_plan *p = &d->plan;
    mica_flux2_weights *w = &r->session->transformer;
    r->grids[0] = (mica_flux2_grid){.h = p->h, .w = p->w};
    if (d->reference_count > 0) {
        MICA_TRY(mica_flux2_references_encode(d, r->grids + 1, &r->reference_RC, err));
        r->R = r->reference_RC.shape_[0];
    }
    for (int i = 0; i < prompt_count(d); i++)
        mica_flux2_enter_text(w, d->be, &d->text[i].embeds_TE, &r->txt_TD[i]);
    MICA_TRY(mica_flux2_modulation_init(&r->mod, w, d->be, p->eval_times, p->evaluations,
                                        !d->switches->ablate_modulation_once, err));
    r->mod.round_bf16 = d->options->round_timesteps_bf16;
    if (keeps_keys(d))
        MICA_TRY(keep_keys(d, err));
    return begin(d, 0, err);
}

/* Picture rows: text rows are not read behind the last block. */
static int64_t hidden(const mica_diffusion *d, int count, int64_t *width)
{
    const flux2_run *r = (const flux2_run *)d;
    *width = r->session->transformer.config.width;
    return count * d->plan.pictures * (d->plan.P + (keeps_keys(d) ? 0 : r->R));
}

static void tap_positions(mica_diffusion *d, const int32_t *positions_L4, int64_t rows,
                          const char *name)
{
    const mica_tensor t =
        mica_tensor_3d((void *)(uintptr_t)positions_L4, MICA_DTYPE_I32, 1, rows, MICA_FLUX2_AXES);
    if (d->rope_builds == 1)
        mica_tap_host(d->run.taps, &t, "%s", name);
}

/* Table of the grids or, without any, of the text. */
static mica_status build_table(mica_diffusion *d, int grids, int64_t text, const char *positions,
                               const char *tap, mica_rope_table *out, mica_err *err)
{
    flux2_run *r = from(d);
    int32_t *positions_L4 = NULL;
    int64_t rows;
    MICA_TRY(mica_flux2_positions(r->grids, grids, text, &positions_L4, &rows, err));
    tap_positions(d, positions_L4, rows, positions);
    const mica_status st = mica_flux2_rope_build(
        d->be, MICA_POOL_SESSION, &r->session->transformer.config, positions_L4, rows,
        d->rope_builds == 1 ? d->run.taps : NULL, tap, out, err);
    mica_mem_free(positions_L4);
    return st;
}

static mica_status build_rope(mica_diffusion *d, mica_err *err)
{
    flux2_run *r = from(d);
    const int grids = 1 + (keeps_keys(d) ? 0 : d->reference_count);
    MICA_TRY(build_table(d, grids, 0, "img_ids", "probe.pos_embed", &r->img_rope, err));
    return build_table(d, 0, d->plan.max_tokens, "txt_ids", "probe.pos_embed#1", &r->txt_rope, err);
}

/* ------------------------------------------------------------------- denoise -- */

static mica_status predict(mica_diffusion *d, int e, int first, int count, mica_tensor *velocity_PC,
                           mica_err *err)
{
    flux2_run *r = from(d);
    mica_flux2_pass pass = new_pass(r);
    for (int i = 0; i < count; i++)
        pass.txt_TD[i] = &r->txt_TD[first + i];
    pass.condition_count = count;
    pass.pictures = d->plan.pictures;
    pass.T = d->plan.max_tokens;
    pass.P = d->plan.P;
    pass.probes = e == 0 && first == 0;
    pass.cache = mica_diffusion_block_cache(d, first);
    if (keeps_keys(d)) {
        pass.kv = &r->kv;
    } else {
        pass.R = r->R;
        pass.reference_RC = &r->reference_RC;
    }
    MICA_TRY(mica_flux2_forward(&pass, e, &d->latents_PC, velocity_PC, err));
    /* The first evaluation fills the scratch pool; from then on both counters must stand still. */
    if (e > 0) {
        d->block_allocations += pass.allocations;
        d->block_waits += pass.waits;
    }
    return MICA_OK;
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

/* The latent batch norm, in the reference's order of operations. */
static void scale_latents(const mica_diffusion *d, float *rows_PC, int64_t n, bool to_vae)
{
    const mica_flux2 *m = model_of(d);
    const int64_t C = d->plan.C;
    for (int64_t p = 0; p < n; p++)
        for (int64_t c = 0; c < C; c++) {
            float *v = &rows_PC[p * C + c];
            *v = to_vae ? *v * m->latent_std_C[c] + m->latent_mean_C[c]
                        : (*v - m->latent_mean_C[c]) / m->latent_std_C[c];
        }
}

static void drop(mica_diffusion *d, mica_phase phase)
{
    if (phase == MICA_PHASE_TEXT)
        mica_lm_drop(&from(d)->session->base.text_encoder, d->be);
}

static const mica_diffusion_ops OPS = {.describe = describe,
                                       .mu = mu,
                                       .scratch = scratch,
                                       .encode_text = encode_text,
                                       .prepare = prepare,
                                       .build_rope = build_rope,
                                       .hidden = hidden,
                                       .begin = begin,
                                       .predict = predict,
                                       .decode = decode,
                                       .encode = encode,
                                       .scale_latents = scale_latents,
                                       .drop = drop};

mica_status mica_flux2_generate(mica_model_session *session, const mica_image_options *options,
                                const mica_tap_sink *taps, mica_diffusion_result *result,
                                mica_err *err)
{
    mica_flux2_session *s = (mica_flux2_session *)session;
    flux2_run r = {.session = s};
    return mica_diffusion_run(&r.base, &OPS, s->base.be, &s->base.switches, options, taps, result,
                              err);
}
