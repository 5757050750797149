/* bench_speech.c - a speech model measured: how long a sentence takes, part by part.
 *
 *     rounds of { peak of the machine, the sentence }        the best of each counts
 *
 *     text        front end and BERT
 *     tokens      tokens a second; of the steps behind the pass over the prompt, which is told by itself: what they
 *                 read of weights and cache, GB/s, share of what memory gives
 *     together    tokens a second of four sentences in one batch, which read the weights once for all
 *     sound       seconds of the decoder, its convolutions' GFLOP/s and share of the peak
 *     first sound from the call to the first second of a stream, of a text of a length that was not seen
 *                 before: what is made for a length, plans of a device above all, is in it
 *     real time   all of it over the length of the sound; the voice is not counted
 *
 * The sentence is 30 Chinese characters, the tokens are as many as `text_tokens` says (200: 8 s). */
#include "api/bench.h"
#include "base/clock.h"

#include <math.h>

#define DEFAULT_TOKENS 200
#define TOGETHER       4
#define FIRST_CODES    25 /* a second */
#define SENTENCE       "今天天气很好，我们一起去公园散步，看看花，听听鸟叫，晒晒太阳吧。"

typedef struct speech_cost {
    double text, tokens, sound, conv_flops, conv_seconds, peak;
    double prefix;               /* of tokens, in that round: the pass over the prompt */
    double first;                /* seconds until the first sound of a stream */
    double together;             /* seconds of TOGETHER sentences' tokens */
    double row_bytes, bandwidth; /* read by all tokens; of memory, bytes a second. 0: not known */
    int count;
    double length; /* seconds of sound */
} speech_cost;

static void keep_least(double *to, double value)
{
    *to = *to == 0.0 || value < *to ? value : *to;
}

static mica_status run_sentences(const api_bench *b, mica_session *s, const char *text, int tokens,
                                 mica_speech_result *r)
{
    const mica_speech_options o = {.size = sizeof o,
                                   .text = text,
                                   .language = "zh",
                                   .cut = "cut3",
                                   .retries = -1,
                                   .batch = TOGETHER,
                                   .max_tokens = tokens};
    return s->engine->kind->speak(s->run, &o, NULL, r, &b->report->err);
}

static mica_status run_once(const api_bench *b, mica_session *s, speech_cost *c)
{
    const mica_backend_counters before = mica_backend_get_counters(s->be);
    mica_speech_result r;
    MICA_TRY(run_sentences(b, s, SENTENCE, c->count, &r));
    const mica_backend_counters after = mica_backend_get_counters(s->be);
    keep_least(&c->text, r.seconds[MICA_PHASE_TEXT]);
    if (c->tokens == 0.0 || r.seconds[MICA_PHASE_DENOISE] < c->tokens) {
        c->tokens = r.seconds[MICA_PHASE_DENOISE];
        c->prefix = r.prefix_seconds;
    }
    keep_least(&c->sound, r.seconds[MICA_PHASE_DECODE]);
    keep_least(&c->conv_seconds, after.conv_seconds - before.conv_seconds);
    c->row_bytes = after.row_bytes - before.row_bytes;
    c->conv_flops = after.conv_flops - before.conv_flops;
    c->length = r.part_count ? (double)r.parts[0].count / r.rate : 0.0;
    mica_speech_result_deinit(&r);
    return MICA_OK;
}

static mica_status run_profiled(const api_bench *b, mica_session *s, void *user)
{
    speech_cost unused = {.count = *(const int *)user};
    return run_once(b, s, &unused);
}

static mica_status run_together(const api_bench *b, mica_session *s, speech_cost *c)
{
    mica_speech_result r;
    MICA_TRY(run_sentences(b, s, SENTENCE SENTENCE SENTENCE SENTENCE, c->count, &r));
    if (r.part_count == TOGETHER)
        keep_least(&c->together, r.seconds[MICA_PHASE_DENOISE]);
    mica_speech_result_deinit(&r);
    return MICA_OK;
}

static bool stop_at_first(void *user, const mica_speech_chunk *chunk)
{
    (void)chunk;
    *(double *)user = mica_clock_seconds();
    return false;
}

/* `skipped` characters less than the sentence, of 3 bytes each. */
static mica_status run_first(const api_bench *b, mica_session *s, int skipped, speech_cost *c)
{
    double end = 0.0;
    const mica_speech_options o = {.size = sizeof o,
                                   .text = &SENTENCE[3 * skipped],
                                   .language = "zh",
                                   .cut = "cut0",
                                   .retries = -1,
                                   .max_tokens = c->count,
                                   .chunk_tokens = FIRST_CODES,
                                   .chunk = stop_at_first,
                                   .chunk_user = &end};
    mica_speech_result r = {0};
    const double start = mica_clock_seconds();
    const mica_status st = s->engine->kind->speak(s->run, &o, NULL, &r, &b->report->err);
    mica_speech_result_deinit(&r);
    if (st != MICA_OK && st != MICA_E_CANCELLED)
        return st;
    b->report->err = (mica_err){0};
    keep_least(&c->first, end - start);
    return MICA_OK;
}

/* The first token is the prompt's, the others have a step each. */
static void report_steps(const api_bench *b, const speech_cost *c)
{
    const int steps = MICA_MAX(1, c->count - 1);
    const double seconds = c->tokens - c->prefix, read = c->row_bytes / seconds;
    api_bench_say(b,
                  "                          %.3f s of it the pass over the prompt; then %.3f ms a "
                  "step, which reads",
                  c->prefix, seconds / steps * 1e3);
    api_bench_say(
        b, "                          %.3f GB: %.1f GB/s, %.0f %% of the %.1f that memory gives",
        c->row_bytes / steps * 1e-9, read * 1e-9, 100.0 * read / c->bandwidth, c->bandwidth * 1e-9);
}

static void report(const api_bench *b, const mica_session *s, const speech_cost *c)
{
    const double all = c->text + c->tokens + c->sound;
    const double rate = c->count / c->tokens;
    api_bench_say(b, "%s", mica_backend_name(s->be));
    api_bench_say(b, "  text       %8.3f s", c->text);
    api_bench_say(b, "  tokens     %8.3f s   %d of them, %.1f a second", c->tokens, c->count, rate);
    if (c->row_bytes > 0.0 && c->bandwidth > 0.0)
        report_steps(b, c);
    if (c->together > 0.0)
        api_bench_say(b, "             %d sentences together: %.3f s, %.1f a second", TOGETHER,
                      c->together, TOGETHER * c->count / c->together);
    api_bench_say(b,
                  "  sound      %8.3f s   %.2f s of it; convolutions %.0f GFLOP in %.3f s: %.0f "
                  "GFLOP/s, %.0f %% of the peak",
                  c->sound, c->length, c->conv_flops * 1e-9, c->conv_seconds,
                  c->conv_flops / c->conv_seconds * 1e-9,
                  100.0 * c->conv_flops / c->conv_seconds / c->peak);
    api_bench_say(
        b, "  first      %8.3f s   until the first sound of a stream, of a length not seen before",
        c->first);
    api_bench_say(b, "  real time  %8.3f     (%.3f s for %.2f s)", all / c->length, all, c->length);
    mica_text_add(&b->report->json,
                  "{\"precision\":\"%s\",\"text_seconds\":%.6f,\"token_seconds\":%.6f,"
                  "\"tokens\":%d,\"sound_seconds\":%.6f,\"length\":%.6f,\"conv_flops\":%.6g,"
                  "\"conv_seconds\":%.6f,\"peak_flops\":%.6g,\"real_time\":%.6f,"
                  "\"first_seconds\":%.6f,\"together_seconds\":%.6f,\"token_bytes\":%.0f,"
                  "\"prefix_seconds\":%.6f,"
                  "\"memory_bytes_per_second\":%.0f",
                  mica_backend_precision(s->be) == MICA_PRECISION_F32 ? "f32" : "bf16", c->text,
                  c->tokens, c->count, c->sound, c->length, c->conv_flops, c->conv_seconds, c->peak,
                  all / c->length, c->first, c->together, c->row_bytes / c->count, c->prefix,
                  c->bandwidth);
}

mica_status api_bench_speech(const api_bench *b, mica_engine *e)
{
    mica_session *s = NULL;
    speech_cost c = {.count = b->options.text_tokens ? b->options.text_tokens : DEFAULT_TOKENS};
    const int rounds = b->options.steps ? b->options.steps : 3;
    mica_status st = mica_session_open(&s, e);
    if (st && s)
        b->report->err = s->err;
    for (int i = 0; i <= rounds && !st; i++) {
        speech_cost first = {.count = c.count};
        st = run_once(b, s, i ? &c : &first); /* the first prepares weights */
        if (!st && i)
            st = run_together(b, s, &c);
        if (!st && i)
            st = run_first(b, s, i, &c);
        const double peak = mica_backend_measure_peak(s->be, mica_backend_precision(s->be));
        c.peak = fmax(c.peak, peak);
        c.bandwidth = fmax(c.bandwidth, mica_backend_measure_bandwidth(s->be));
    }
    if (!st) {
        report(b, s, &c);
        if (b->options.profile)
            st = api_bench_profile(b, s, run_profiled, &c.count);
        mica_text_add(&b->report->json, "}");
    }
    mica_session_close(&s);
    return st;
}
