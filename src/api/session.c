/* session.c - one mutable run behind mica_session: a backend and the model bound to it. */
#include "api/api.h"

#include "base/clock.h"
#include "nn/trace.h"

#include <string.h>

mica_status mica_session_open(mica_session **out, mica_engine *engine)
{
    mica_session *s = mica_mem_calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return MICA_E_NOMEM;
    if (!engine || !engine->model)
        return MICA_FAIL(&s->err, MICA_E_USAGE, "the engine has no open model");
    const mica_engine_options *o = &engine->options;
    const mica_backend_options backend = {.device = o->device,
                                          .precision = api_precision(engine),
                                          .threads = o->threads,
                                          .ablate_fusion = o->ablate_fusion,
                                          .ablate_joining = o->ablate_joining,
                                          .ablate_branches = o->ablate_branches,
                                          .ablate_replays = o->ablate_replays,
                                          .vram_limit = o->vram_limit,
                                          .host_experts = o->host_experts};
    const mica_diffusion_switches switches = {.ablate_rope_once = o->ablate_rope_once,
                                              .ablate_modulation_once = o->ablate_modulation_once,
                                              .ablate_batched_cfg = o->ablate_batched_cfg,
                                              .ablate_trim = o->ablate_trim};
    s->engine = engine;
    MICA_TRY(mica_backend_open(&s->be, &backend, &s->err));
    MICA_TRY(engine->kind->session_open(&s->run, engine->model, s->be, &switches, &s->err));
    if (engine->kind->session_notes) {
        s->notes = mica_mem_strdup(engine->kind->session_notes(s->run));
        if (!s->notes)
            return MICA_FAIL(&s->err, MICA_E_NOMEM, "no memory for remarks");
    }
    return MICA_OK;
}

void mica_session_close(mica_session **session)
{
    mica_session *s = session ? *session : NULL;
    if (!s)
        return;
    if (s->run)
        s->engine->kind->session_close(&s->run);
    mica_backend_close(&s->be);
    mica_mem_free(s->ids);
    mica_mem_free(s->notes);
    mica_mem_free(s);
    *session = NULL;
}

const char *mica_session_errmsg(const mica_session *session)
{
    return session ? session->err.text : mica_status_name(MICA_E_NOMEM);
}

/* -------------------------------------------------------------- generate -- */

static void keep_stats(mica_session *s, const mica_diffusion_result *r)
{
    const double denoise = r->seconds[MICA_PHASE_DENOISE];
    const mica_backend_memory memory = mica_backend_get_memory(s->be, true);
    s->stats = (mica_run_stats){.size = sizeof s->stats,
                                .steps_per_second = denoise > 0.0 ? r->steps / denoise : 0.0,
                                .peak_memory = mica_clock_peak_rss(),
                                .block_allocations = r->block_allocations,
                                .block_waits = r->block_waits,
                                .rope_builds = r->rope_builds,
                                .modulation_matmuls = r->modulation_matmuls,
                                .prompt_cache_hits = r->prompt_cache_hits,
                                .skipped_evaluations = r->skipped_evaluations,
                                .device_memory = memory.peak,
                                .streamed_weights = memory.streamed,
                                .step_waits = r->step_waits};
    memcpy(s->stats.seconds, r->seconds, sizeof s->stats.seconds);
}

static mica_status take_image(mica_session *s, const mica_image_options *options,
                              mica_diffusion_result *r, mica_image **out)
{
    mica_image *image = mica_mem_calloc(1, sizeof *image);
    if (!image)
        return MICA_FAIL(&s->err, MICA_E_NOMEM, "no memory for the pictures");
    image->count = r->count;
    image->width = r->width;
    image->height = r->height;
    image->channels = r->channels;
    image->seed = options->seed;
    image->one_seed = r->one_seed;
    image->rgb = r->rgb;
    r->rgb = NULL;
    const mica_status st = api_recipes(image, s, options, r, &s->err);
    if (st)
        mica_image_close(&image);
    *out = image;
    return st;
}

/* The run, and its trace when one is wanted. */
static mica_status run_traced(mica_session *s, const mica_image_options *o,
                              mica_diffusion_result *r)
{
    mica_trace *trace = NULL;
    if (o->trace_path)
        MICA_TRY(mica_trace_open(&trace, &s->err));
    mica_status st =
        s->engine->kind->generate(s->run, o, trace ? mica_trace_sink(trace) : NULL, r, &s->err);
    if (!st && trace)
        st = mica_trace_write(trace, o->trace_path, &s->err);
    mica_trace_close(&trace);
    return st;
}

mica_status mica_image_generate(mica_session *session, const mica_image_options *options,
                                mica_image **out)
{
    mica_image_options o;
    mica_diffusion_result result = {0};
    *out = NULL;
    if (!session)
        return MICA_E_USAGE;
    session->err = (mica_err){0};
    if (!session->run)
        return MICA_FAIL(&session->err, MICA_E_USAGE, "the session has no open model");
    if (!session->engine->kind->generate)
        return MICA_FAIL(&session->err, MICA_E_UNSUPPORTED, "%s makes no pictures",
                         session->engine->kind->title);
    MICA_TRY(api_options(&o, sizeof o, options, options ? options->size : 0, &session->err));
    if (!o.prompt)
        return MICA_FAIL(&session->err, MICA_E_USAGE, "the options have no prompt");
    mica_model_defaults_apply(&session->engine->defaults, &o);
    mica_status st = run_traced(session, &o, &result);
    if (!st) {
        keep_stats(session, &result);
        st = take_image(session, &o, &result, out);
    }
    mica_diffusion_result_deinit(&result);
    return st;
}

int mica_session_channels(const mica_session *session)
{
    return !session ? 0 : session->engine->model->has_alpha ? 4 : 3;
}

mica_status mica_session_stats(const mica_session *session, mica_run_stats *stats)
{
    if (!session || !stats || stats->size < sizeof(size_t))
        return MICA_E_USAGE;
    const size_t size = MICA_MIN(stats->size, sizeof *stats);
    mica_run_stats known = session->stats;
    known.size = size;
    memcpy(stats, &known, size);
    return MICA_OK;
}

mica_status mica_session_tokens(mica_session *session, const char *text, const int32_t **ids,
                                size_t *count)
{
    *ids = NULL;
    *count = 0;
    if (!session)
        return MICA_E_USAGE;
    session->err = (mica_err){0};
    if (!session->run || !text)
        return MICA_FAIL(&session->err, MICA_E_USAGE, "no open model, or no text");
    mica_mem_free(session->ids);
    session->ids = NULL;
    MICA_TRY(session->engine->kind->tokens(session->engine->model, text, &session->ids, count,
                                           &session->err));
    *ids = session->ids;
    return MICA_OK;
}
