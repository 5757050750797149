/* diffusion.c - the phases of a run and the denoising loop; see diffusion.h.
 *
 * Every phase ends with a look for NaN and Inf, and so does every step: there the device looks, and the host
 * hears of it one step later (mica_watch). */
#include "diffusion/diffusion_internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

void mica_diffusion_result_deinit(mica_diffusion_result *r)
{
    mica_mem_free(r->rgb);
    *r = (mica_diffusion_result){0};
}

void mica_diffusion_note_cut(mica_diffusion *d, int prompt, int64_t given, int64_t kept)
{
    if (given > kept)
        mica_run_notice(&d->run, "the %s is cut from %lld to %lld tokens",
                        prompt ? "negative prompt" : "prompt", (long long)given, (long long)kept);
}

static void finish_phase(mica_diffusion *d, mica_phase phase)
{
    if (d->switches->ablate_trim)
        return;
    if (d->ops->drop)
        d->ops->drop(d, phase);
    mica_pool_trim(d->be);
}

/* ------------------------------------------------------------------- prepare -- */

static mica_status make_latents(mica_diffusion *d, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const int64_t rows = p->pictures * p->P, shape[] = {rows, p->C};
    d->latents_PC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, shape);
    if (d->from_picture) {
        MICA_TRY(mica_diffusion_start(d, err));
    } else {
        float *host = mica_mem_calloc((size_t)(rows * p->C), sizeof *host);
        if (!host)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory for latents");
        const mica_status st = mica_latents_draw(d, NULL, host, err);
        if (!st)
            mica_upload_f32(d->be, &d->latents_PC, host);
        mica_mem_free(host);
        MICA_TRY(st);
    }
    mica_diffusion_tap(d, &d->latents_PC, d->traits.initial, "initial_latents");
    return mica_backend_check(d->be, err);
}

static void tap_schedule(mica_diffusion *d)
{
    const mica_diffusion_plan *p = &d->plan;
    const mica_tensor sigmas = mica_tensor_1d(p->sigmas, MICA_DTYPE_F32, p->steps + 1);
    const mica_tensor timesteps = mica_tensor_1d(p->timesteps, MICA_DTYPE_F32, p->steps);
    mica_tap_host(d->run.taps, &sigmas, "sigmas");
    mica_tap_host(d->run.taps, &timesteps, "timesteps");
}

static mica_status build_rope(mica_diffusion *d, mica_err *err)
{
    d->rope_builds++;
    return d->ops->build_rope(d, err);
}

static mica_status init_caches(mica_diffusion *d, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const mica_image_options *o = d->options;
    const bool joined = p->guided && !d->switches->ablate_batched_cfg;
    mica_caching_method method = o->caching_method;
    if (method < MICA_CACHING_AUTO || method > MICA_CACHING_FIRST_BLOCK)
        return MICA_FAIL(err, MICA_E_USAGE, "unknown caching method %d", (int)method);
    if (method == MICA_CACHING_FIRST_BLOCK && !d->ops->hidden)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "this model has no caching by its first block; use "
                         "--cache-method output");
    if (method == MICA_CACHING_AUTO)
        method = d->traits.caching;
    d->caches_blocks =
        o->step_caching != MICA_STEP_CACHING_OFF && method == MICA_CACHING_FIRST_BLOCK;
    MICA_TRY(mica_step_cache_init(&d->step_cache,
                                  d->caches_blocks ? MICA_STEP_CACHING_OFF : o->step_caching,
                                  p->pictures * p->P * p->C, &d->arena, err));
    for (int i = 0; d->caches_blocks && i < (p->guided && !joined ? 2 : 1); i++) {
        int64_t width;
        const int64_t rows = d->ops->hidden(d, joined ? 2 : 1, &width);
        MICA_TRY(mica_block_cache_init(&d->block_cache[i], d->be, o->step_caching, rows, width,
                                       &d->arena, err));
    }
    return MICA_OK;
}

mica_block_cache *mica_diffusion_block_cache(mica_diffusion *d, int first)
{
    return d->caches_blocks ? &d->block_cache[first] : NULL;
}

static mica_status prepare(mica_diffusion *d, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    MICA_TRY(make_latents(d, err));
    tap_schedule(d);
    MICA_TRY(d->ops->prepare(d, err));
    MICA_TRY(
        mica_solver_init(&d->solver, d->be, p->solver, p->steps, p->sigmas, &d->latents_PC, err));
    const int64_t rows = p->pictures * p->P * (p->guided ? 2 : 1), shape[] = {rows, p->C};
    d->velocity_PC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, shape);
    MICA_TRY(init_caches(d, err));
    /* The rotary tables come last: the ablation that rebuilds them releases down to this mark. */
    d->rope_mark = mica_pool_get_mark(d->be, MICA_POOL_SESSION);
    MICA_TRY(build_rope(d, err));
    return mica_backend_check(d->be, err);
}

/* ------------------------------------------------------------------- denoise -- */

/* "step3" or, for the second prediction of a Heun step, "step3.stage1". */
static void name_evaluation(const mica_diffusion *d, char name[32])
{
    if (d->solver.stage)
        snprintf(name, 32, "step%d.stage%d", d->solver.step, d->solver.stage);
    else
        snprintf(name, 32, "step%d", d->solver.step);
}

/* What the network gets as the time: once per item of the reference's batch. */
static void tap_times(mica_diffusion *d, int e, const char *name, int items)
{
    float times[2 * 64]; /* the plan allows 64 pictures */
    for (int i = 0; i < items; i++)
        times[i] = d->plan.eval_times[e];
    const mica_tensor t = mica_tensor_1d(times, MICA_DTYPE_F32, items);
    mica_tap_host(d->run.taps, &t, "%s.timestep", name);
}

/* A pass over given conditions is the same at every step: what the step changes stands at fixed places (the
 * models' `begin`). Not so when the host looks inside, or when tables are made anew. */
static uint64_t replay_key(mica_diffusion *d, const mica_block_cache *cache, int first, int count)
{
    uint64_t *key = &d->replay_keys[first + count - 1 + (first > 0)];
    if (cache || !d->ops->begin || d->switches->ablate_rope_once)
        return 0;
    if (!*key)
        *key = mica_replay_new_key(d->be);
    return *key;
}

static mica_status run_pass(mica_diffusion *d, int e, double scale, int first, int count,
                            mica_tensor *velocity_PC, mica_err *err)
{
    mica_block_cache *cache = mica_diffusion_block_cache(d, first);
    if (cache)
        mica_block_cache_begin(cache, e, d->plan.evaluations, scale);
    mica_status st = MICA_OK;
    mica_replay replay = mica_replay_begin(replay_key(d, cache, first, count));
    while (mica_replay_more(d->be, &replay, &st))
        st = d->ops->predict(d, e, first, count, velocity_PC, err);
    if (st)
        return st;
    MICA_TRY(mica_backend_check(d->be, err));
    d->passes += !cache || !cache->was_cut;
    return MICA_OK;
}

static void guide(mica_diffusion *d, double scale, mica_tensor *cond_PC, const mica_tensor *uncond)
{
    if (d->ops->guide)
        d->ops->guide(d, scale, cond_PC, uncond);
    else if (uncond)
        mica_cfg_combine(d->be, cond_PC, uncond, (float)scale, false, cond_PC);
}

/* Velocity of the pictures, guided or not, in the first rows of velocity_PC. */
static mica_status predict(mica_diffusion *d, int e, mica_tensor *velocity_PC, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const mica_latent_form form = d->traits.velocity;
    const int64_t rows = p->pictures * p->P;
    const double scale = p->guided && d->ops->guidance ? d->ops->guidance(d, e) : p->guidance;
    const bool guided = scale > d->traits.neutral_guidance, apart = d->switches->ablate_batched_cfg;
    mica_tensor cond = mica_tensor_rows(&d->velocity_PC, 0, rows);
    char name[32];
    name_evaluation(d, name);
    *velocity_PC = cond;
    if (mica_step_cache_may_skip(&d->step_cache, d->be, e, p->evaluations, scale, &d->latents_PC))
        return MICA_OK; /* the velocity of the evaluation before still stands there */
    tap_times(d, e, name,
              (p->pictures - p->hidden * d->traits.layers) *
                  (guided && d->traits.times_per_item ? 2 : 1));
    if (!guided) {
        MICA_TRY(run_pass(d, e, scale, 0, 1, &cond, err));
        mica_diffusion_tap(d, &cond, form, "%s.cond", name);
        guide(d, scale, &cond, NULL);
        mica_step_cache_update(&d->step_cache, d->be, scale, &d->latents_PC, &cond);
        return MICA_OK;
    }
    mica_tensor uncond = mica_tensor_rows(&d->velocity_PC, rows, rows);
    MICA_TRY(apart ? run_pass(d, e, scale, 0, 1, &cond, err)
                   : run_pass(d, e, scale, 0, 2, &d->velocity_PC, err));
    if (apart)
        MICA_TRY(run_pass(d, e, scale, 1, 1, &uncond, err));
    mica_diffusion_tap(d, &cond, form, "%s.cond", name);
    mica_diffusion_tap(d, &uncond, form, "%s.uncond", name);
    guide(d, scale, &cond, &uncond);
    mica_step_cache_update(&d->step_cache, d->be, scale, &d->latents_PC, &cond);
    return MICA_OK;
}

/* `bad`: the first step that left NaN or Inf, or -1. */
static mica_status check_watched(mica_diffusion *d, int bad, mica_err *err)
{
    MICA_TRY(mica_backend_check(d->be, err));
    if (bad < 0)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_NUMERIC,
                     "denoising: after step %d of %d the latents hold NaN or Inf; the weights "
                     "are damaged or the precision is too low (try f32)",
                     bad + 1, d->plan.steps);
}

/* `step` is done, on the device too. */
static mica_status leave_step(mica_diffusion *d, int step, mica_err *err)
{
    MICA_TRY(check_watched(d, mica_watched(d->be, step, true), err));
    return mica_run_step(&d->run, d->be, step + 1, d->plan.steps, err);
}

static mica_status finish_step(mica_diffusion *d, int step, mica_err *err)
{
    mica_diffusion_keep_masked(d, step);
    mica_diffusion_tap(d, &d->latents_PC, d->traits.latents, "step%d.latents", step);
    mica_watch(d->be, &d->latents_PC, step);
    MICA_TRY(mica_backend_check(d->be, err));
    if (!mica_backend_is_queued(d->be))
        return leave_step(d, step, err);
    /* The host stays one step ahead, so that a device never runs dry and progress is told as it is made.
     * Without somebody to tell it to, nobody waits for a step. */
    if (d->run.progress && step > d->first_step)
        return leave_step(d, step - 1, err);
    return check_watched(d, mica_watched(d->be, step, false), err);
}

static mica_status denoise(mica_diffusion *d, mica_err *err)
{
    uint64_t waits = 0;
    int last = -1;
    d->first_step = d->solver.step;
    MICA_TRY(mica_run_step(&d->run, d->be, 0, d->plan.steps, err));
    for (int e = 0; !mica_solver_is_done(&d->solver); e++) {
        const int step = d->solver.step;
        bool done = false;
        mica_tensor velocity_PC;
        if (e > 0 && d->switches->ablate_rope_once) {
            mica_pool_release(d->be, MICA_POOL_SESSION, d->rope_mark);
            MICA_TRY(build_rope(d, err));
        }
        if (d->ops->begin)
            MICA_TRY(d->ops->begin(d, e, err));
        MICA_TRY(predict(d, e, &velocity_PC, err));
        mica_solver_step(&d->solver, d->be, &velocity_PC, &d->latents_PC, &done);
        if (done)
            MICA_TRY(finish_step(d, step, err));
        if (done && last < 0) /* weights, plans and recordings exist now */
            waits = mica_backend_get_counters(d->be).waits;
        last = done ? step : last;
    }
    d->step_waits = last < 0 ? 0 : mica_backend_get_counters(d->be).waits - waits;
    return last >= 0 && mica_backend_is_queued(d->be) ? leave_step(d, last, err) : MICA_OK;
}

/* ------------------------------------------------------------------- the run -- */

static mica_status resolve(mica_diffusion *d, mica_err *err)
{
    if (!d->options->prompt)
        return MICA_FAIL(err, MICA_E_USAGE, "a prompt is needed; it may be empty");
    MICA_TRY(mica_diffusion_inputs_read(d, err));
    MICA_TRY(d->ops->describe(d, &d->traits, err));
    if (!d->traits.picture_channels)
        d->traits.picture_channels = 3;
    MICA_TRY(mica_diffusion_inputs_assign(d, err));
    return mica_diffusion_plan_make(d, err);
}

static mica_status run_phases(mica_diffusion *d, mica_err *err)
{
    MICA_TRY(resolve(d, err));
    mica_run_set_phase(&d->run, MICA_PHASE_TEXT);
    const mica_status text = d->ops->encode_text(d, err);
    finish_phase(d, MICA_PHASE_TEXT);
    MICA_TRY(text);
    mica_run_set_phase(&d->run, MICA_PHASE_PREPARE);
    MICA_TRY(prepare(d, err));
    mica_run_set_phase(&d->run, MICA_PHASE_DENOISE);
    MICA_TRY(denoise(d, err));
    mica_run_set_phase(&d->run, MICA_PHASE_DECODE);
    finish_phase(d, MICA_PHASE_DENOISE);
    MICA_TRY(mica_diffusion_decode(d, err));
    mica_run_set_phase(&d->run, MICA_PHASE_COUNT);
    return MICA_OK;
}

static void fill_result(const mica_diffusion *d, mica_diffusion_result *r)
{
    const mica_diffusion_plan *p = &d->plan;
    r->count = p->pictures - p->hidden;
    r->channels = d->traits.picture_channels;
    r->one_seed = d->traits.layers > 0;
    r->width = p->out_width;
    r->height = p->out_height;
    r->steps = p->steps_asked;
    r->guidance = p->guidance;
    r->guided = p->guided;
    r->solver = p->solver;
    r->strength = p->strength;
    memcpy(r->seconds, d->run.seconds, sizeof r->seconds);
    r->block_allocations = d->block_allocations;
    r->block_waits = d->block_waits;
    r->step_waits = d->step_waits;
    r->rope_builds = d->rope_builds;
    r->modulation_matmuls = d->modulation_matmuls;
    r->prompt_cache_hits = d->prompt_cache_hits;
    r->skipped_evaluations = d->step_cache.skipped + d->block_cache[0].cut + d->block_cache[1].cut;
    r->passes = d->passes;
}

/* After a failure: no picture, and a clean backend for the next run of the session. */
static void abandon(mica_diffusion *d)
{
    mica_err told_already;
    (void)mica_backend_check(d->be, &told_already);
    mica_diffusion_result_deinit(d->result);
}

mica_status mica_diffusion_run(mica_diffusion *d, const mica_diffusion_ops *ops, mica_backend *be,
                               const mica_diffusion_switches *switches,
                               const mica_image_options *options, const mica_tap_sink *taps,
                               mica_diffusion_result *result, mica_err *err)
{
    d->ops = ops;
    d->be = be;
    d->switches = switches;
    d->options = options;
    d->result = result;
    *result = (mica_diffusion_result){0};
    mica_arena_init(&d->arena, 1 << 14);
    mica_run_init(&d->run, options->progress, options->progress_user, taps);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    const mica_status st = run_phases(d, err);
    if (!st)
        fill_result(d, result);
    else
        abandon(d);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
    if (!switches->ablate_trim)
        mica_pool_trim(be);
    mica_diffusion_inputs_deinit(d);
    mica_arena_deinit(&d->arena);
    return st;
}
