/* qwen_image_pipeline.c - text to pictures with Qwen-Image.
 *
 *   TEXT      prompts ─► ids ─► text encoder ─► features            encoder weights let go
 *   PREPARE   noise ─► latents; rotary, modulation and text tables  modulation weights let go
 *   DENOISE   for each evaluation: transformer ─► guidance ─► solver step
 *   DECODE    latents ─► VAE ─► 8 bits (qwen_image_decode.c)
 *
 * Reference: diffusers pipeline_qwenimage.py __call__. Latents are [pictures * P, C] rows in f32
 * from the first noise to the VAE; the velocity too. Every phase ends with a look for NaN and Inf. */
#include "models/qwen_image/qwen_image_job.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

/* ---------------------------------------------------------------------- text -- */

static mica_status encode_text(mica_qwen_image_job *j, mica_err *err)
{
    mica_qwen_image_session *s = j->session;
    const mica_image_options *o = j->plan.options;
    const char *const texts[2] = {o->prompt, o->negative_prompt};
    const int count = j->plan.guided ? 2 : 1;
    mica_qwen_image_prompt prompts[2] = {{0}, {0}};
    mica_status st = MICA_OK;
    for (int i = 0; i < count && !st; i++) {
        st = s->model->tokenizer
                 ? mica_qwen_image_tokenize(s->model->tokenizer, texts[i], &prompts[i], err)
                 : mica_qwen_image_synthetic_prompt(texts[i], &prompts[i], err);
        const size_t most = (size_t)MICA_QWEN_IMAGE_DROPPED + (size_t)j->plan.max_tokens;
        if (!st && prompts[i].full_count > most)
            mica_run_notice(&j->run, "the %s is cut from %zu to %d tokens",
                            i ? "negative prompt" : "prompt",
                            prompts[i].full_count - MICA_QWEN_IMAGE_DROPPED, j->plan.max_tokens);
    }
    if (!st)
        st = mica_qwen_image_encode(&s->text_encoder, s->be, &j->run, prompts, count,
                                    j->plan.max_tokens, j->embeds_TE, err);
    for (int i = 0; i < 2; i++)
        mica_qwen_image_prompt_deinit(&prompts[i]);
    if (!s->switches.ablate_trim) {
        mica_lm_drop(&s->text_encoder, s->be);
        mica_pool_trim(s->be);
    }
    return st;
}

/* ------------------------------------------------------------------- prepare -- */

/* Noise of one picture, drawn in the order of the unpacked latents [C/4, 2h, 2w] and packed into
 * patches: row (y, x), channel 4c + 2 dy + dx (prepare_latents, _pack_latents). */
static void pack_noise(const mica_qwen_image_plan *p, const float *noise_CYX, float *out_PC)
{
    const int64_t Y = 2 * p->h, X = 2 * p->w;
    for (int64_t c = 0; c < p->C / 4; c++)
        for (int64_t y = 0; y < Y; y++)
            for (int64_t x = 0; x < X; x++) {
                const int64_t patch = (y / 2) * p->w + x / 2;
                out_PC[patch * p->C + 4 * c + 2 * (y % 2) + x % 2] = noise_CYX[(c * Y + y) * X + x];
            }
}

static mica_status draw_noise(const mica_qwen_image_plan *p, float *out_PC, mica_err *err)
{
    const size_t n = (size_t)p->P * (size_t)p->C;
    float *noise = mica_mem_calloc(n, sizeof *noise);
    if (!noise)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for noise of %zu values", n);
    for (int b = 0; b < p->pictures; b++) {
        const uint64_t seed = p->options->seed + (uint64_t)b;
        if (p->options->noise_rng == MICA_NOISE_RNG_TORCH211_BF16)
            mica_noise_bf16_torch211(seed, noise, n);
        else
            mica_noise_f32(seed, noise, n);
        pack_noise(p, noise, out_PC + (size_t)b * n);
    }
    mica_mem_free(noise);
    return MICA_OK;
}

/* [pictures, P, C], or [P, C] for one picture. */
static bool noise_fits(const mica_qwen_image_plan *p, const mica_tensor *t)
{
    const int64_t *s = t->shape_;
    if (t->ndim == 2)
        return p->pictures == 1 && s[0] == p->P && s[1] == p->C;
    return t->ndim == 3 && s[0] == p->pictures && s[1] == p->P && s[2] == p->C;
}

static mica_status read_noise(const mica_qwen_image_plan *p, float *out_PC, mica_err *err)
{
    const char *path = p->options->noise_path;
    char have[128];
    mica_weights *file = NULL;
    MICA_TRY(mica_weights_open(&file, path, err));
    const mica_tensor *t = mica_weights_find(file, "initial_latents");
    mica_status st = MICA_OK;
    if (!t)
        st = MICA_FAIL(err, MICA_E_MISSING, "%s: it has no tensor initial_latents", path);
    else if (!mica_dtype_get(t->dtype)->is_float || !noise_fits(p, t))
        st = MICA_FAIL(err, MICA_E_FORMAT,
                       "%s: initial_latents is %s, expected [%d, %lld, %lld] of a float type for "
                       "%d x %d pixels",
                       path, mica_tensor_describe(t, have, sizeof have), p->pictures,
                       (long long)p->P, (long long)p->C, p->width, p->height);
    for (int64_t i = 0; !st && i < mica_tensor_count(t); i++) {
        out_PC[i] = mica_tensor_read_f32(t, i);
        if (!isfinite(out_PC[i]))
            st = MICA_FAIL(err, MICA_E_NUMERIC, "%s: initial_latents holds NaN or Inf", path);
    }
    mica_weights_close(&file);
    return st;
}

static mica_status make_latents(mica_qwen_image_job *j, mica_err *err)
{
    const mica_qwen_image_plan *p = &j->plan;
    const int64_t rows = p->pictures * p->P;
    float *host = mica_mem_calloc((size_t)rows * (size_t)p->C, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for latents");
    mica_status st = p->options->noise_path ? read_noise(p, host, err) : draw_noise(p, host, err);
    if (!st) {
        j->latents_PC =
            mica_state_tensor(j->session->be, MICA_POOL_SESSION, 2, (const int64_t[]){rows, p->C});
        mica_upload_f32(j->session->be, &j->latents_PC, host);
        mica_qwen_image_tap_latents(j, &j->latents_PC, "initial_latents");
        mica_qwen_image_tap_latents(j, &j->latents_PC, "transformer_input");
    }
    mica_mem_free(host);
    return st;
}

static void tap_schedule(mica_qwen_image_job *j)
{
    const mica_qwen_image_plan *p = &j->plan;
    const mica_tensor sigmas = mica_tensor_1d(p->sigmas, MICA_DTYPE_F32, p->steps + 1);
    const mica_tensor timesteps = mica_tensor_1d(p->timesteps, MICA_DTYPE_F32, p->steps);
    mica_tap_host(j->run.taps, &sigmas, "sigmas");
    mica_tap_host(j->run.taps, &timesteps, "timesteps");
}

static mica_status build_rope(mica_qwen_image_job *j, mica_err *err)
{
    const mica_qwen_image_plan *p = &j->plan;
    int64_t longest = 0;
    for (int i = 0; i < (p->guided ? 2 : 1); i++)
        longest = MICA_MAX(longest, j->conditions[i].T);
    j->rope_builds++;
    return mica_qwen_image_rope_build(j->session->be, MICA_POOL_SESSION,
                                      j->session->transformer.config.axes, p->h, p->w, (int)longest,
                                      &j->rope, err);
}

/* The tables as the first item sees them. */
static void tap_rope(mica_qwen_image_job *j)
{
    const mica_rope_table txt = mica_rope_table_rows(&j->rope.txt, j->conditions[0].T);
    mica_backend *be = j->session->be;
    const mica_tap_sink *taps = j->run.taps;
    mica_tap(taps, be, &j->rope.img.cos_Lk, 0, NULL, "probe.pos_embed.0.cos");
    mica_tap(taps, be, &j->rope.img.sin_Lk, 0, NULL, "probe.pos_embed.0.sin");
    mica_tap(taps, be, &txt.cos_Lk, 0, NULL, "probe.pos_embed.1.cos");
    mica_tap(taps, be, &txt.sin_Lk, 0, NULL, "probe.pos_embed.1.sin");
}

static mica_status prepare(mica_qwen_image_job *j, mica_err *err)
{
    mica_qwen_image_session *s = j->session;
    const mica_qwen_image_plan *p = &j->plan;
    MICA_TRY(make_latents(j, err));
    tap_schedule(j);
    for (int i = 0; i < (p->guided ? 2 : 1); i++)
        mica_qwen_image_condition_build(&s->transformer, s->be, i == 0 ? j->run.taps : NULL,
                                        &j->embeds_TE[i], &j->conditions[i]);
    MICA_TRY(mica_qwen_image_modulation_init(&j->mod, &s->transformer, s->be, &j->arena,
                                             p->eval_times, p->evaluations,
                                             !s->switches.ablate_modulation_once, err));
    j->mod.round_bf16 = p->options->round_timesteps_bf16;
    MICA_TRY(mica_qwen_image_modulation_prepare(&j->mod, s->be, &j->run, 0, err));
    MICA_TRY(
        mica_solver_init(&j->solver, s->be, p->solver, p->steps, p->sigmas, &j->latents_PC, err));
    const int64_t rows = p->pictures * p->P;
    j->velocity_PC = mica_state_tensor(s->be, MICA_POOL_SESSION, 2,
                                       (const int64_t[]){rows * (p->guided ? 2 : 1), p->C});
    /* The rotary tables come last: the ablation that rebuilds them releases down to this mark. */
    j->rope_mark = mica_pool_get_mark(s->be, MICA_POOL_SESSION);
    MICA_TRY(build_rope(j, err));
    tap_rope(j);
    return mica_backend_check(s->be, err);
}

/* ------------------------------------------------------------------- denoise -- */

/* "step3" or, for the second prediction of a Heun step, "step3.stage1". */
static void name_evaluation(const mica_qwen_image_job *j, char name[32])
{
    if (j->solver.stage)
        snprintf(name, 32, "step%d.stage%d", j->solver.step, j->solver.stage);
    else
        snprintf(name, 32, "step%d", j->solver.step);
}

static mica_status run_pass(mica_qwen_image_job *j, int e, int first, int count,
                            mica_tensor *velocity_PC, mica_err *err)
{
    mica_qwen_image_session *s = j->session;
    mica_qwen_image_pass pass = {.w = &s->transformer,
                                 .be = s->be,
                                 .run = &j->run,
                                 .rope = &j->rope,
                                 .mod = &j->mod,
                                 .conditions = {&j->conditions[first], &j->conditions[1]},
                                 .condition_count = count,
                                 .pictures = j->plan.pictures,
                                 .P = j->plan.P,
                                 .probes = e == 0 && first == 0};
    MICA_TRY(mica_qwen_image_forward(&pass, e, &j->latents_PC, velocity_PC, err));
    j->passes++;
    /* The first evaluation fills the scratch pool; from then on both counters must stand still. */
    if (e > 0) {
        j->block_allocations += pass.allocations;
        j->block_waits += pass.waits;
    }
    return MICA_OK;
}

/* Velocity of the pictures, guided or not, in the first rows of velocity_PC. */
static mica_status predict(mica_qwen_image_job *j, int e, mica_tensor *velocity_PC, mica_err *err)
{
    const mica_qwen_image_plan *p = &j->plan;
    const int64_t rows = p->pictures * p->P;
    mica_tensor cond = mica_tensor_rows(&j->velocity_PC, 0, rows);
    char name[32];
    name_evaluation(j, name);
    *velocity_PC = cond;
    mica_qwen_image_tap_times(j, e, name);
    if (!p->guided || j->session->switches.ablate_batched_cfg)
        MICA_TRY(run_pass(j, e, 0, 1, &cond, err));
    else
        MICA_TRY(run_pass(j, e, 0, 2, &j->velocity_PC, err));
    mica_qwen_image_tap_latents(j, &cond, "%s.cond", name);
    if (!p->guided)
        return MICA_OK;
    mica_tensor uncond = mica_tensor_rows(&j->velocity_PC, rows, rows);
    if (j->session->switches.ablate_batched_cfg)
        MICA_TRY(run_pass(j, e, 1, 1, &uncond, err));
    mica_qwen_image_tap_latents(j, &uncond, "%s.uncond", name);
    mica_cfg_combine(j->session->be, &cond, &uncond, (float)p->guidance, true, &cond);
    return MICA_OK;
}

static mica_status finish_step(mica_qwen_image_job *j, int step, mica_err *err)
{
    mica_backend *be = j->session->be;
    mica_qwen_image_tap_latents(j, &j->latents_PC, "step%d.latents", step);
    MICA_TRY(mica_backend_check(be, err));
    if (!mica_all_finite(be, &j->latents_PC) && !mica_backend_failed(be))
        return MICA_FAIL(err, MICA_E_NUMERIC,
                         "denoising: after step %d of %d the latents hold NaN or Inf; the weights "
                         "are damaged or the precision is too low (try f32)",
                         step + 1, j->plan.steps);
    return mica_run_step(&j->run, be, step + 1, j->plan.steps, err);
}

static mica_status denoise(mica_qwen_image_job *j, mica_err *err)
{
    mica_qwen_image_session *s = j->session;
    MICA_TRY(mica_run_step(&j->run, s->be, 0, j->plan.steps, err));
    for (int e = 0; !mica_solver_is_done(&j->solver); e++) {
        const int step = j->solver.step;
        bool done = false;
        mica_tensor velocity_PC;
        if (e > 0 && s->switches.ablate_rope_once) {
            mica_pool_release(s->be, MICA_POOL_SESSION, j->rope_mark);
            MICA_TRY(build_rope(j, err));
        }
        MICA_TRY(mica_qwen_image_modulation_prepare(&j->mod, s->be, &j->run, e, err));
        MICA_TRY(predict(j, e, &velocity_PC, err));
        mica_solver_step(&j->solver, s->be, &velocity_PC, &j->latents_PC, &done);
        if (done)
            MICA_TRY(finish_step(j, step, err));
    }
    return MICA_OK;
}

/* ------------------------------------------------------------------- the run -- */

static mica_status run_phases(mica_qwen_image_job *j, mica_err *err)
{
    mica_qwen_image_session *s = j->session;
    mica_run_set_phase(&j->run, MICA_PHASE_TEXT);
    MICA_TRY(encode_text(j, err));
    mica_run_set_phase(&j->run, MICA_PHASE_PREPARE);
    MICA_TRY(prepare(j, err));
    mica_run_set_phase(&j->run, MICA_PHASE_DENOISE);
    MICA_TRY(denoise(j, err));
    mica_run_set_phase(&j->run, MICA_PHASE_DECODE);
    if (!s->switches.ablate_trim)
        mica_pool_trim(s->be);
    MICA_TRY(mica_qwen_image_decode(j, err));
    mica_run_set_phase(&j->run, MICA_PHASE_COUNT);
    return MICA_OK;
}

static void fill_result(mica_qwen_image_job *j, mica_model_result *r)
{
    const mica_qwen_image_plan *p = &j->plan;
    r->count = p->pictures;
    r->width = p->width;
    r->height = p->height;
    r->steps = p->steps;
    r->guidance = p->guidance;
    r->guided = p->guided;
    r->solver = p->solver;
    memcpy(r->seconds, j->run.seconds, sizeof r->seconds);
    r->block_allocations = j->block_allocations;
    r->block_waits = j->block_waits;
    r->rope_builds = j->rope_builds;
    r->modulation_matmuls = j->mod.matmuls;
    r->passes = j->passes;
}

/* After a failure: no picture, and a clean backend for the next run of the session. */
static void abandon(mica_qwen_image_job *j)
{
    mica_err told_already;
    (void)mica_backend_check(j->session->be, &told_already);
    mica_model_result_deinit(j->result);
}

mica_status mica_qwen_image_generate(mica_model_session *session, const mica_image_options *options,
                                     const mica_tap_sink *taps, mica_model_result *result,
                                     mica_err *err)
{
    mica_qwen_image_session *s = (mica_qwen_image_session *)session;
    mica_qwen_image_job j = {.session = s, .result = result};
    *result = (mica_model_result){0};
    mica_arena_init(&j.arena, 1 << 14);
    mica_run_init(&j.run, options->progress, options->progress_user, taps);
    const mica_pool_mark mark = mica_pool_get_mark(s->be, MICA_POOL_SESSION);
    mica_status st = mica_qwen_image_plan_make(&j.plan, s->model, options, &j.run, &j.arena, err);
    if (!st)
        st = run_phases(&j, err);
    if (!st)
        fill_result(&j, result);
    else
        abandon(&j);
    mica_pool_release(s->be, MICA_POOL_SESSION, mark);
    if (!s->switches.ablate_trim)
        mica_pool_trim(s->be);
    mica_arena_deinit(&j.arena);
    return st;
}
