/* bench.c - mica_bench_run: a model measured phase by phase, against this machine's own peak.
 *
 *     run of one step ─► (peak ─► run of two steps) x S     best of each: peak, phase, step, operations
 *
 * The first run prepares weights. What counts as a step is the second one of a run: the first also
 * makes the working memory, which a real run does once in 20 or 50 steps. Linears and attention
 * are those of that step, convolutions the decoder's.
 *
 * Machines are shared, and a neighbour can take half of one: rounds of the yardstick and of the
 * model take turns and the best of each counts.
 *
 * A line per phase with its seconds; for the denoiser also seconds a step, and for linears,
 * attention and convolutions the arithmetic done (2 per multiply-add), its rate and its share of
 * the peak of its own operand type. A run is guided, two passes in one batch, where the model is and
 * unless `unguided`. With `ablate` it
 * is repeated once for every technique switched off. `kernels` measures single operations at
 * Qwen-Image's shapes instead. */
#include "api/bench.h"

#include "base/clock.h"
#include "base/half.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_SIDE        512
#define DEFAULT_STEPS       3
#define DEFAULT_TEXT_TOKENS 20
#define MIN_SECONDS         0.4 /* per single operation */

void api_bench_say(const api_bench *b, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    mica_text_add(&b->report->text, "%s\n", line);
    if (b->options.line)
        b->options.line(b->options.user, line);
}

/* ----------------------------------------------------------------- model -- */

typedef struct measured {
    mica_run_stats stats;           /* each phase in its best round */
    mica_backend_counters counters; /* of one round; seconds of the best */
    mica_backend_counters step;     /* of its second step, likewise */
    double step_seconds;
    double peak;       /* of the linears' precision */
    double float_peak; /* attention and convolutions stay at bf16 or f32 */
} measured;

static mica_backend_counters difference(mica_backend_counters c, mica_backend_counters before)
{
    c.allocations -= before.allocations;
    c.ops -= before.ops;
    c.replays -= before.replays;
    c.linear_flops -= before.linear_flops;
    c.linear_seconds -= before.linear_seconds;
    c.attention_flops -= before.attention_flops;
    c.attention_seconds -= before.attention_seconds;
    c.conv_flops -= before.conv_flops;
    c.conv_seconds -= before.conv_seconds;
    return c;
}

/* Synthetic models have no tokenizer: they take a length. Real ones get a text. */
mica_image_options api_bench_picture(const api_bench *b, char prompt[64], int steps)
{
    const int tokens = b->options.text_tokens ? b->options.text_tokens : DEFAULT_TEXT_TOKENS;
    if (b->engine.synthetic)
        snprintf(prompt, 64, "tokens=%d", tokens);
    else
        snprintf(prompt, 64, "a red fox sitting in fresh snow under a pine tree");
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = prompt,
                                .negative_prompt = b->engine.synthetic ? "tokens=6" : " ",
                                .width = b->options.width ? b->options.width : DEFAULT_SIDE,
                                .height = b->options.height ? b->options.height : DEFAULT_SIDE,
                                .guidance = b->options.unguided ? -1.0 : 0.0,
                                .steps = steps};
}

/* The clock and the counters whenever a step has ended. */
typedef struct step_watch {
    const mica_backend *be;
    mica_backend_counters counters[3]; /* by finished steps */
    double seconds[3];
} step_watch;

static bool watch_step(void *user, const mica_progress *p)
{
    step_watch *w = user;
    if (p->phase == MICA_PHASE_DENOISE && p->step_count && p->block == 0 && !p->notice &&
        p->step < (int)MICA_ARRAY_LEN(w->seconds)) {
        w->counters[p->step] = mica_backend_get_counters(w->be);
        w->seconds[p->step] = p->seconds;
    }
    return true;
}

static mica_status run_once(const api_bench *b, mica_session *s, int steps, step_watch *watch)
{
    char prompt[64];
    mica_image_options o = api_bench_picture(b, prompt, steps);
    *watch = (step_watch){.be = s->be};
    o.progress = watch_step;
    o.progress_user = watch;
    mica_image *image = NULL;
    const mica_status st = mica_image_generate(s, &o, &image);
    if (st)
        b->report->err = s->err;
    mica_image_close(&image);
    return st;
}

mica_status api_bench_once(const api_bench *b, mica_session *s, int steps)
{
    step_watch unused;
    return run_once(b, s, steps, &unused);
}

/* Lower times of two rounds in *c; what is counted is equal in every round. */
static void keep_best(mica_backend_counters *c, const mica_backend_counters *best)
{
    c->linear_seconds = MICA_MIN(c->linear_seconds, best->linear_seconds);
    c->attention_seconds = MICA_MIN(c->attention_seconds, best->attention_seconds);
    c->conv_seconds = MICA_MIN(c->conv_seconds, best->conv_seconds);
}

static void take_round(measured *m, const mica_backend_counters *c, const mica_run_stats *stats,
                       const step_watch *watch)
{
    const measured best = *m;
    const bool is_first = best.stats.size == 0;
    m->counters = *c;
    m->stats = *stats;
    m->step = difference(watch->counters[2], watch->counters[1]);
    m->step_seconds = watch->seconds[2] - watch->seconds[1];
    if (is_first)
        return;
    keep_best(&m->counters, &best.counters);
    keep_best(&m->step, &best.step);
    m->step_seconds = MICA_MIN(m->step_seconds, best.step_seconds);
    for (int i = 0; i < MICA_PHASE_COUNT; i++)
        m->stats.seconds[i] = MICA_MIN(stats->seconds[i], best.stats.seconds[i]);
    m->stats.block_allocations += best.stats.block_allocations;
    m->stats.block_waits += best.stats.block_waits;
    m->stats.step_waits += best.stats.step_waits;
}

static mica_status measure_round(const api_bench *b, mica_session *s, measured *m)
{
    const mica_precision precision = mica_backend_precision(s->be);
    mica_run_stats stats = {.size = sizeof stats};
    m->peak = MICA_MAX(m->peak, mica_backend_measure_peak(s->be, precision));
    if (precision == MICA_PRECISION_INT8)
        m->float_peak =
            MICA_MAX(m->float_peak, mica_backend_measure_peak(s->be, MICA_PRECISION_BF16));
    step_watch watch;
    const mica_backend_counters start = mica_backend_get_counters(s->be);
    MICA_TRY(run_once(b, s, 2, &watch));
    const mica_backend_counters c = difference(mica_backend_get_counters(s->be), start);
    MICA_TRY(mica_session_stats(s, &stats));
    take_round(m, &c, &stats, &watch);
    return mica_backend_check(s->be, &b->report->err);
}

static mica_status measure(const api_bench *b, mica_session *s, measured *m)
{
    const int rounds = b->options.steps ? b->options.steps : DEFAULT_STEPS;
    MICA_TRY(api_bench_once(b, s, 1));
    for (int i = 0; i < rounds; i++)
        MICA_TRY(measure_round(b, s, m));
    if (m->float_peak == 0.0)
        m->float_peak = m->peak;
    return MICA_OK;
}

static void say_rate(const api_bench *b, const char *what, double flops, double seconds,
                     double peak, const char *key)
{
    if (seconds <= 0.0)
        return;
    api_bench_say(b, "  %-12s %8.2f s  %8.1f GFLOP  %7.1f GFLOP/s  %3.0f %% of peak", what, seconds,
                  flops * 1e-9, flops / seconds * 1e-9, 100.0 * flops / seconds / peak);
    mica_text_add(
        &b->report->json,
        ",\"%s\":{\"seconds\":%.6f,\"gflop\":%.3f,\"gflops\":%.3f,\"share_of_peak\":%.4f}", key,
        seconds, flops * 1e-9, flops / seconds * 1e-9, flops / seconds / peak);
}

static void say_measured(const api_bench *b, const mica_session *s, const char *variant,
                         const measured *m)
{
    const mica_backend_counters *c = &m->counters, *step = &m->step;
    api_bench_say(b, "%s: %s, %s", variant, s->engine->name, mica_backend_name(s->be));
    api_bench_say(b, "  %-12s %8.1f GFLOP/s (matrix product of the library, same run)", "peak",
                  m->peak * 1e-9);
    api_bench_say(b, "  %-12s %8.2f s", "text", m->stats.seconds[MICA_PHASE_TEXT]);
    api_bench_say(b, "  %-12s %8.2f s", "prepare", m->stats.seconds[MICA_PHASE_PREPARE]);
    api_bench_say(b, "  %-12s %8.2f s  two steps, the second %.5f s", "denoise",
                  m->stats.seconds[MICA_PHASE_DENOISE], m->step_seconds);
    api_bench_say(b, "  %-12s %8.2f s", "decode", m->stats.seconds[MICA_PHASE_DECODE]);
    mica_text_add(&b->report->json,
                  "{\"variant\":\"%s\",\"peak_gflops\":%.3f,\"text_seconds\":%.6f,"
                  "\"prepare_seconds\":%.6f,\"denoise_seconds\":%.6f,\"step_seconds\":%.6f,"
                  "\"decode_seconds\":%.6f",
                  variant, m->peak * 1e-9, m->stats.seconds[MICA_PHASE_TEXT],
                  m->stats.seconds[MICA_PHASE_PREPARE], m->stats.seconds[MICA_PHASE_DENOISE],
                  m->step_seconds, m->stats.seconds[MICA_PHASE_DECODE]);
    say_rate(b, "whole step", step->linear_flops + step->attention_flops, m->step_seconds, m->peak,
             "step");
    if (mica_backend_is_queued(s->be)) { /* no clock knows how long a single operation took */
        const double *seconds = m->stats.seconds;
        say_rate(b, "arithmetic", c->linear_flops + c->attention_flops + c->conv_flops,
                 seconds[MICA_PHASE_TEXT] + seconds[MICA_PHASE_PREPARE] +
                     seconds[MICA_PHASE_DENOISE] + seconds[MICA_PHASE_DECODE],
                 m->peak, "arithmetic");
    } else {
        say_rate(b, "linears", step->linear_flops, step->linear_seconds, m->peak, "linears");
        say_rate(b, "attention", step->attention_flops, step->attention_seconds, m->float_peak,
                 "attention");
        say_rate(b, "convolutions", c->conv_flops, c->conv_seconds, m->float_peak, "convolutions");
    }
    if (m->stats.device_memory)
        api_bench_say(b, "  %-12s %8.2f GB peak, %.2f GB of weights streamed", "device",
                      (double)m->stats.device_memory * 1e-9,
                      (double)m->stats.streamed_weights * 1e-9);
    api_bench_say(b,
                  "  %-12s %8.2f GB peak, %" PRIu64 " allocations and %" PRIu64
                  " waits in blocks, %" PRIu64 " in the loop",
                  "memory", (double)m->stats.peak_memory * 1e-9, m->stats.block_allocations,
                  m->stats.block_waits, m->stats.step_waits);
    mica_text_add(&b->report->json,
                  ",\"peak_memory\":%" PRIu64 ",\"device_memory\":%" PRIu64
                  ",\"streamed_weights\":%" PRIu64 ",\"block_allocations\":%" PRIu64
                  ",\"block_waits\":%" PRIu64 ",\"step_waits\":%" PRIu64,
                  m->stats.peak_memory, m->stats.device_memory, m->stats.streamed_weights,
                  m->stats.block_allocations, m->stats.block_waits, m->stats.step_waits);
}

static mica_status run_one_step(const api_bench *b, mica_session *s, void *user)
{
    (void)user;
    return api_bench_once(b, s, 1);
}

static mica_status bench_variant(const api_bench *b, mica_engine *e, const char *variant)
{
    mica_session *s = NULL;
    measured m = {0};
    mica_status st = mica_session_open(&s, e);
    if (st && s)
        b->report->err = s->err;
    if (!st)
        st = measure(b, s, &m);
    if (!st)
        say_measured(b, s, variant, &m);
    if (!st && b->options.profile)
        st = api_bench_profile(b, s, run_one_step, NULL);
    mica_text_add(&b->report->json, "}");
    mica_session_close(&s);
    return st;
}

static mica_status bench_ablated(const api_bench *b, mica_engine *e)
{
    mica_engine_options *o = &e->options;
    const struct {
        const char *name;
        bool *flag;
        bool device; /* nothing on the CPU */
    } switches[] = {{"without rope-once", &o->ablate_rope_once, false},
                    {"without modulation-once", &o->ablate_modulation_once, false},
                    {"without fusion", &o->ablate_fusion, false},
                    {"without batched guidance", &o->ablate_batched_cfg, false},
                    {"without trimming", &o->ablate_trim, false},
                    {"without joined linears", &o->ablate_joining, true},
                    {"without a second stream", &o->ablate_branches, true},
                    {"without recorded steps", &o->ablate_replays, true}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(switches); i++) {
        if (switches[i].device && o->device != MICA_DEVICE_CUDA)
            continue;
        *switches[i].flag = true;
        mica_text_add(&b->report->json, ",");
        const mica_status st = bench_variant(b, e, switches[i].name);
        *switches[i].flag = false;
        MICA_TRY(st);
    }
    return MICA_OK;
}

static mica_status bench_model(const api_bench *b)
{
    mica_engine *e = NULL;
    const double start = mica_clock_seconds();
    mica_status st = mica_engine_open(&e, &b->engine);
    if (st && e)
        b->report->err = e->err;
    if (!st) {
        api_bench_say(b, "open: %.3f s, device %s", mica_clock_seconds() - start,
                      mica_engine_device(e));
        if (mica_engine_notes(e)[0])
            api_bench_say(b, "%s", mica_engine_notes(e));
        mica_text_add(&b->report->json, "{\"device\":\"%s\",\"open_seconds\":%.6f,\"runs\":[",
                      mica_engine_device(e), mica_clock_seconds() - start);
        st = e->kind->speak       ? api_bench_speech(b, e)
             : e->kind->complete  ? api_bench_text(b, e)
             : b->options.caching ? api_bench_caching(b, e)
                                  : bench_variant(b, e, "all techniques");
    }
    if (!st && b->options.ablate && !b->options.caching && e->kind->generate)
        st = bench_ablated(b, e);
    mica_text_add(&b->report->json, "]}");
    mica_engine_close(&e);
    return st;
}

/* ------------------------------------------------------------ operations -- */

/* Fills with small numbers of both signs; their values do not matter to the speed. */
static void fill_bf16(uint16_t *data, size_t n)
{
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = mica_f32_to_bf16(((float)(state >> 8) / 16777216.0f - 0.5f) * 0.1f);
    }
}

mica_tensor api_bench_ones(mica_backend *be, int ndim, const int64_t *shape)
{
    mica_tensor t = mica_act_tensor(be, MICA_POOL_SESSION, ndim, shape);
    const int64_t count = mica_tensor_count(&t);
    float *values = mica_mem_calloc((size_t)count, sizeof *values);
    if (!values)
        mica_backend_fail(be, MICA_E_NOMEM, "no memory for an operand");
    for (int64_t i = 0; values && i < count; i++)
        values[i] = 0.01f * (float)(i % 97 - 48);
    if (values)
        mica_upload_f32(be, &t, values);
    mica_mem_free(values);
    return t;
}

/* Waits until `result` is computed, where operations are queued. */
static void settle(mica_backend *be, const mica_tensor *result)
{
    const mica_tensor row = mica_tensor_rows(result, 0, 1);
    if (mica_backend_is_queued(be))
        (void)mica_all_finite(be, &row);
}

/* Seconds of one run of fn: the best of what MIN_SECONDS hold. Queued operations are timed ten at
 * a time, so that the host's wait for the last one does not count. */
static double time_operation(mica_backend *be, void (*fn)(mica_backend *be, const void *args),
                             const void *args, const mica_tensor *result)
{
    const int count = mica_backend_is_queued(be) ? 10 : 1;
    double best = 0.0;
    for (const double start = mica_clock_seconds();
         !mica_backend_failed(be) && (best == 0.0 || mica_clock_seconds() - start < MIN_SECONDS);) {
        const double t = mica_clock_seconds();
        for (int i = 0; i < count; i++)
            fn(be, args);
        settle(be, result);
        const double seconds = (mica_clock_seconds() - t) / count;
        best = best == 0.0 ? seconds : MICA_MIN(best, seconds);
    }
    return best;
}

static void run_linear(mica_backend *be, const void *args)
{
    mica_linear(be, args);
}

double api_bench_time_linear(mica_backend *be, const mica_linear_args *args)
{
    return time_operation(be, run_linear, args, args->y_MO);
}

static void run_attention(mica_backend *be, const void *args)
{
    mica_attention(be, args);
}

static void say_operation(const api_bench *b, const char *name, double flops, double seconds,
                          double peak)
{
    const bool is_first = b->report->json.size == 1;
    api_bench_say(b, "  %-34s %9.2f ms %8.1f GFLOP/s %4.0f %% of peak", name, seconds * 1e3,
                  flops / seconds * 1e-9, 100.0 * flops / seconds / peak);
    mica_text_add(
        &b->report->json,
        "%s{\"operation\":\"%s\",\"seconds\":%.9f,\"gflops\":%.3f,\"share_of_peak\":%.4f}",
        is_first ? "" : ",", name, seconds, flops / seconds * 1e-9, flops / seconds / peak);
}

static mica_status bench_linear(const api_bench *b, mica_backend *be, int m, int o, int d,
                                const char *precision, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    const size_t count = (size_t)o * (size_t)d;
    mica_tensor x_MD = api_bench_ones(be, 2, (int64_t[]){m, d});
    mica_tensor y_MO = mica_act_tensor(be, MICA_POOL_SESSION, 2, (int64_t[]){m, o});
    uint16_t *data = mica_mem_alloc_aligned(count * 2, 64);
    if (!data)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a %d x %d weight", o, d);
    fill_bf16(data, count);
    mica_weight w = {.tensor = mica_tensor_2d(data, MICA_DTYPE_BF16, o, d), .name = "bench"};
    mica_weight *const list[] = {&w};
    const mica_linear_args args = {.x_MD = &x_MD, .w_OD = &w, .y_MO = &y_MO};
    const double peak = mica_backend_measure_peak(be, mica_backend_precision(be));
    mica_linear(be, &args); /* prepares the weight */
    settle(be, &y_MO);
    const double best = time_operation(be, run_linear, &args, &y_MO);
    const mica_status st = mica_backend_check(be, err);
    char name[96];
    snprintf(name, sizeof name, "linear %s %d x %d x %d", precision, m, d, o);
    if (!st)
        say_operation(b, name, 2.0 * m * o * d, best, peak);
    mica_backend_drop_weights(be, list, 1);
    mica_mem_free(data);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
    return st;
}

static mica_status bench_attention(const api_bench *b, mica_backend *be, int tokens, int heads,
                                   int width, const char *precision, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    const int64_t shape[] = {tokens, heads, width};
    mica_tensor q = api_bench_ones(be, 3, shape), k = api_bench_ones(be, 3, shape),
                v = api_bench_ones(be, 3, shape);
    mica_tensor out = mica_act_tensor(be, MICA_POOL_SESSION, 3, shape);
    const mica_attention_args args = {
        .segments = 1, .q_LHK = {&q}, .k_MGK = {&k}, .v_MGK = {&v}, .out_LHK = {&out}};
    const double peak = mica_backend_measure_peak(be, mica_backend_precision(be));
    const double best = time_operation(be, run_attention, &args, &out);
    const mica_status st = mica_backend_check(be, err);
    char name[96];
    snprintf(name, sizeof name, "attention %s %d tokens %d x %d", precision, tokens, heads, width);
    if (!st)
        say_operation(b, name, 4.0 * tokens * tokens * heads * width, best, peak);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
    return st;
}

static mica_status bench_precision(const api_bench *b, mica_precision precision, const char *name)
{
    static const int rows[] = {276, 1044, 4352};
    static const int shapes[][2] = {{3072, 3072}, {12288, 3072}, {3072, 12288}};
    const mica_backend_options o = {
        .device = b->engine.device, .precision = precision, .threads = b->engine.threads};
    mica_backend *be = NULL;
    mica_err *err = &b->report->err;
    mica_status st = mica_backend_open(&be, &o, err);
    if (!st)
        api_bench_say(b, "%s, %s", mica_backend_name(be), name);
    for (size_t m = 0; !st && m < MICA_ARRAY_LEN(rows); m++)
        for (size_t i = 0; !st && i < MICA_ARRAY_LEN(shapes); i++)
            st = bench_linear(b, be, rows[m], shapes[i][0], shapes[i][1], name, err);
    for (size_t m = 0; !st && precision != MICA_PRECISION_INT8 && m < MICA_ARRAY_LEN(rows); m++)
        st = bench_attention(b, be, rows[m], 24, 128, name, err);
    mica_backend_close(&be);
    return st;
}

static mica_status bench_operations(api_bench *b)
{
    mica_text notes = {0};
    const mica_status st = api_resolve_device(&b->engine, &notes, &b->report->err);
    if (notes.size)
        api_bench_say(b, "%s", notes.data);
    mica_text_deinit(&notes);
    MICA_TRY(st);
    mica_text_add(&b->report->json, "[");
    MICA_TRY(bench_precision(b, MICA_PRECISION_F32, "f32"));
    MICA_TRY(bench_precision(b, MICA_PRECISION_BF16, "bf16"));
    if (b->engine.device == MICA_DEVICE_CPU)
        MICA_TRY(bench_precision(b, MICA_PRECISION_INT8, "int8"));
    MICA_TRY(api_bench_packed(b));
    mica_text_add(&b->report->json, "]");
    return MICA_OK;
}

mica_status mica_bench_run(const mica_bench_options *options, mica_report **out)
{
    mica_report *r = mica_mem_calloc(1, sizeof *r);
    api_bench b = {.report = r};
    *out = r;
    if (!r)
        return MICA_E_NOMEM;
    MICA_TRY(
        api_options(&b.options, sizeof b.options, options, options ? options->size : 0, &r->err));
    if (b.options.engine)
        MICA_TRY(api_options(&b.engine, sizeof b.engine, b.options.engine, b.options.engine->size,
                             &r->err));
    b.engine.size = sizeof b.engine;
    MICA_TRY(b.options.kernels ? bench_operations(&b) : bench_model(&b));
    if (r->text.failed || r->json.failed)
        return MICA_FAIL(&r->err, MICA_E_NOMEM, "no memory for the report");
    return MICA_OK;
}
