/* bench_caching.c - what step caching saves and what it costs, on the model at hand.
 *
 *     run with off; balanced and fast by each method ─► evaluations left out, seconds of denoising,
 *                                                       relative L2 of the last latents against off
 *
 * On random weights the last figure means nothing: their output does not settle. */
#include "api/bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_STEPS 20

/* The latents after the last step. */
typedef struct last_latents {
    char name[32];
    float *values;
    int64_t count;
} last_latents;

static bool wants(void *user, const char *name)
{
    const last_latents *l = user;
    return strcmp(name, l->name) == 0;
}

/* A tensor that cannot be kept leaves `values` NULL, which the caller tells. */
static void keep(void *user, const char *name, const mica_tensor *host)
{
    last_latents *l = user;
    if (!wants(user, name))
        return;
    l->count = mica_tensor_count(host);
    l->values = mica_mem_calloc((size_t)l->count, sizeof *l->values);
    if (l->values)
        memcpy(l->values, host->data, (size_t)l->count * sizeof *l->values);
}

static double relative_l2(const last_latents *got, const last_latents *full)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < full->count; i++) {
        const double f = (double)full->values[i], d = (double)got->values[i] - f;
        difference += d * d;
        size += f * f;
    }
    return size > 0.0 ? sqrt(difference / size) : 0.0;
}

typedef struct caching_mode {
    const char *name, *method_name;
    mica_step_caching mode;
    mica_caching_method method;
} caching_mode;

static mica_status run_mode(const api_bench *b, mica_session *s, const caching_mode *mode,
                            last_latents *l, mica_diffusion_result *r)
{
    const int steps = b->options.steps ? b->options.steps : DEFAULT_STEPS;
    char prompt[64];
    mica_image_options o = api_bench_picture(b, prompt, steps);
    const mica_tap_sink sink = {.write = keep, .wants = wants, .user = l};
    o.step_caching = mode->mode;
    o.caching_method = mode->method;
    snprintf(l->name, sizeof l->name, "step%d.latents", steps - 1);
    MICA_TRY(s->engine->kind->generate(s->run, &o, &sink, r, &b->report->err));
    if (!l->values)
        return MICA_FAIL(&b->report->err, MICA_E_NOMEM, "no memory to compare latents");
    return MICA_OK;
}

static void say_mode(const api_bench *b, const caching_mode *mode, const mica_diffusion_result *r,
                     double error)
{
    const double seconds = r->seconds[MICA_PHASE_DENOISE];
    const uint64_t all = r->skipped_evaluations + (uint64_t)r->passes;
    api_bench_say(b,
                  "  %-11s %-9s %4" PRIu64 " of %4" PRIu64
                  " evaluations left out  denoise %8.2f s  relative L2 %.4f",
                  mode->method_name, mode->name, r->skipped_evaluations, all, seconds, error);
    mica_text_add(&b->report->json,
                  "%s{\"caching\":\"%s\",\"method\":\"%s\",\"skipped\":%" PRIu64
                  ",\"skip_ratio\":%.4f,"
                  "\"denoise_seconds\":%.6f,\"relative_l2\":%.6f}",
                  mode->mode == MICA_STEP_CACHING_OFF ? "" : ",", mode->name, mode->method_name,
                  r->skipped_evaluations, all ? (double)r->skipped_evaluations / (double)all : 0.0,
                  seconds, error);
}

mica_status api_bench_caching(const api_bench *b, mica_engine *e)
{
    static const caching_mode MODES[] = {
        {"off", "", MICA_STEP_CACHING_OFF, MICA_CACHING_AUTO},
        {"balanced", "output", MICA_STEP_CACHING_BALANCED, MICA_CACHING_OUTPUT},
        {"fast", "output", MICA_STEP_CACHING_FAST, MICA_CACHING_OUTPUT},
        {"balanced", "first-block", MICA_STEP_CACHING_BALANCED, MICA_CACHING_FIRST_BLOCK},
        {"fast", "first-block", MICA_STEP_CACHING_FAST, MICA_CACHING_FIRST_BLOCK}};
    last_latents full = {.values = NULL};
    mica_session *s = NULL;
    mica_status st = mica_session_open(&s, e);
    if (st && s)
        b->report->err = s->err;
    if (!st)
        api_bench_say(b, "step caching: %s, %s", e->name, mica_backend_name(s->be));
    for (size_t i = 0; !st && i < MICA_ARRAY_LEN(MODES); i++) {
        last_latents now = {.values = NULL};
        mica_diffusion_result r = {0};
        st = run_mode(b, s, &MODES[i], &now, &r);
        if (st == MICA_E_USAGE && MODES[i].method == MICA_CACHING_FIRST_BLOCK) {
            b->report->err = (mica_err){0};
            st = MICA_OK; /* a model without this method has been measured with the other */
            break;
        }
        if (!st)
            say_mode(b, &MODES[i], &r, i ? relative_l2(&now, &full) : 0.0);
        mica_diffusion_result_deinit(&r);
        if (i == 0)
            full = now;
        else
            mica_mem_free(now.values);
    }
    mica_mem_free(full.values);
    mica_session_close(&s);
    return st;
}
