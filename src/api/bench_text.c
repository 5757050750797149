/* bench_text.c - a language model measured: reading a prompt, writing an answer, and what memory allows.
 *
 *     rounds of { memory's reading rate, a run in a fresh session }        the best of each counts
 *
 *     read    tokens of the prompt a second, and their arithmetic's rate
 *     write   tokens a second; each reads `token bytes` of weights, which gives GB/s and the share of what
 *             this machine reads from memory: the backend's look for NaN over 512 MB, a device's copy of 1 GiB
 *
 * The prompt has `text_tokens` tokens (512), the answer 32. Its first token comes from the prompt's logits, so
 * 31 passes are timed. */
#include "api/bench.h"

#include "base/clock.h"
#include "completion/completion.h"

#include <math.h>
#include <stdio.h>

#define DEFAULT_TOKENS 512
#define ANSWER         32
#define DEFAULT_ROUNDS 3
#define MEMORY         ((int64_t)128 << 20) /* floats */

typedef struct text_cost {
    double read_seconds, write_seconds; /* best */
    double bytes_per_second;            /* of memory, best */
    double flops, linear_seconds;       /* of the whole run that read fastest */
    size_t read_tokens, write_tokens;
    uint64_t token_bytes, cache_bytes;
} text_cost;

static mica_status measure_memory(const api_bench *b, mica_backend *be, text_cost *c)
{
    if (mica_backend_is_queued(be)) {
        c->bytes_per_second = fmax(c->bytes_per_second, mica_backend_measure_bandwidth(be));
        return mica_backend_check(be, &b->report->err);
    }
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_tensor t = mica_state_tensor(be, MICA_POOL_SESSION, 1, (const int64_t[]){MEMORY});
    const mica_tensor *terms[] = {&t};
    mica_linear_combination(be, 1, (const float[]){0.0f}, terms, &t); /* touches every page */
    for (int i = 0; i < 4 && !mica_backend_failed(be); i++) {
        const double start = mica_clock_seconds();
        (void)mica_all_finite(be, &t);
        const double seconds = mica_clock_seconds() - start;
        c->bytes_per_second = fmax(c->bytes_per_second, (double)MEMORY * 4.0 / seconds);
    }
    mica_pool_release(be, MICA_POOL_SESSION, mark);
    mica_pool_trim(be);
    return mica_backend_check(be, &b->report->err);
}

/* Weights go to a device when they are used first: two short prompts, which leave nothing of the next
 * prompt behind. */
static mica_status warm_up(const api_bench *b, mica_session *s)
{
    const char *const prompts[] = {"tokens=256", "tokens=256"};
    const mica_text_options o = {.size = sizeof o,
                                 .prompts = prompts,
                                 .prompt_count = 2,
                                 .max_tokens = 2,
                                 .greedy = true,
                                 .ignore_eos = true};
    mica_completion_result r;
    MICA_TRY(s->engine->kind->complete(s->run, &o, NULL, &r, &b->report->err));
    mica_completion_result_deinit(&r);
    return MICA_OK;
}

static void keep_least(double *to, double value)
{
    *to = *to == 0.0 || value < *to ? value : *to;
}

/* Of a model with a tokenizer about as many: words of the sentence are nearly a token each. */
static void write_prompt(const api_bench *b, char *prompt, size_t size, int tokens)
{
    static const char sentence[] =
        "the fox sat on a red rock in the low light of the day and then ";
    size_t used = 0;
    if (b->engine.synthetic) {
        snprintf(prompt, size, "tokens=%d", tokens);
        return;
    }
    for (int i = 0; i < tokens && used + sizeof sentence < size; i += 16)
        used += (size_t)snprintf(prompt + used, size - used, "%s", sentence);
}

static mica_status run_once(const api_bench *b, mica_session *s, text_cost *c)
{
    char prompt[32768];
    const int tokens = b->options.text_tokens ? b->options.text_tokens : DEFAULT_TOKENS;
    const char *const prompts[] = {prompt};
    const mica_text_options o = {.size = sizeof o,
                                 .prompts = prompts,
                                 .prompt_count = 1,
                                 .max_tokens = ANSWER,
                                 .greedy = true,
                                 .ignore_eos = true};
    mica_completion_result r;
    write_prompt(b, prompt, sizeof prompt, tokens);
    const mica_backend_counters before = mica_backend_get_counters(s->be);
    MICA_TRY(s->engine->kind->complete(s->run, &o, NULL, &r, &b->report->err));
    const mica_backend_counters after = mica_backend_get_counters(s->be);
    keep_least(&c->read_seconds, r.read_seconds);
    keep_least(&c->write_seconds, r.write_seconds);
    keep_least(&c->linear_seconds, after.linear_seconds - before.linear_seconds);
    c->flops = after.linear_flops - before.linear_flops;
    c->read_tokens = r.read_tokens;
    c->write_tokens = r.write_tokens;
    c->token_bytes = r.token_bytes;
    c->cache_bytes = r.cache_bytes;
    mica_completion_result_deinit(&r);
    return MICA_OK;
}

/* Operations of a run, the longest first: of reading two prompts of half the length, which nothing is known
 * of, or of writing. */
static mica_status profile(const api_bench *b, mica_session *s, bool reading)
{
    mica_profile_row rows[24];
    text_cost ignored = {0};
    char half[32];
    const int tokens = b->options.text_tokens ? b->options.text_tokens : DEFAULT_TOKENS;
    const char *const prompts[] = {half, half};
    const mica_text_options o = {
        .size = sizeof o, .prompts = prompts, .prompt_count = 2, .max_tokens = 1, .greedy = true};
    mica_completion_result r = {0};
    snprintf(half, sizeof half, "tokens=%d", MICA_MAX(tokens / 2, 1));
    MICA_TRY(mica_backend_profile_start(s->be, &b->report->err));
    if (reading)
        MICA_TRY(s->engine->kind->complete(s->run, &o, NULL, &r, &b->report->err));
    else
        MICA_TRY(run_once(b, s, &ignored));
    mica_completion_result_deinit(&r);
    const int count = mica_backend_profile_stop(s->be, rows, 24);
    api_bench_say(b, "  operations of %s", reading ? "reading" : "writing");
    for (int i = 0; i < count; i++)
        api_bench_say(b, "  %9.3f ms %6llu x %8.2f us  %s", rows[i].seconds * 1e3,
                      (unsigned long long)rows[i].calls,
                      rows[i].seconds / (double)rows[i].calls * 1e6, rows[i].what);
    return mica_backend_check(s->be, &b->report->err);
}

/* A fresh session: nothing of the prompt is known. */
static mica_status run_round(const api_bench *b, mica_engine *e, text_cost *c, char name[96])
{
    mica_session *s = NULL;
    mica_status st = mica_session_open(&s, e);
    if (st && s)
        b->report->err = s->err;
    if (!st)
        st = measure_memory(b, s->be, c);
    if (!st && mica_backend_is_queued(s->be) && b->engine.synthetic)
        st = warm_up(b, s);
    if (!st)
        st = run_once(b, s, c);
    if (!st && b->options.profile && b->engine.synthetic)
        st = profile(b, s, true);
    if (!st && b->options.profile)
        st = profile(b, s, false);
    if (!st)
        snprintf(name, 96, "%s", mica_backend_name(s->be));
    mica_session_close(&s);
    return st;
}

static void report(const api_bench *b, const mica_engine *e, const text_cost *c, const char *name)
{
    const double read = (double)c->read_tokens / c->read_seconds;
    const double write = (double)(c->write_tokens - 1) / c->write_seconds;
    const double rate = write * (double)c->token_bytes;
    api_bench_say(b, "%s, %s", e->name, name);
    api_bench_say(b, "  %-10s %8.2f GB/s (reading, same run)", "memory",
                  c->bytes_per_second * 1e-9);
    api_bench_say(b, "  %-10s %8.3f s  %5zu tokens  %9.2f tokens/s", "read", c->read_seconds,
                  c->read_tokens, read);
    api_bench_say(b, "  %-10s %8.3f s  %5zu tokens  %9.2f tokens/s", "write", c->write_seconds,
                  c->write_tokens - 1, write);
    api_bench_say(b, "  %-10s %8.3f GB a token, %.2f GB/s, %.0f %% of what memory gives", "weights",
                  (double)c->token_bytes * 1e-9, rate * 1e-9, 100.0 * rate / c->bytes_per_second);
    api_bench_say(b, "  %-10s %8.3f GB of keys and values; %.2f GB peak", "memory",
                  (double)c->cache_bytes * 1e-9, (double)mica_clock_peak_rss() * 1e-9);
    mica_text_add(&b->report->json,
                  "{\"memory_bytes_per_second\":%.0f,\"read_tokens\":%zu,\"read_seconds\":%.6f,"
                  "\"read_per_second\":%.3f,\"write_tokens\":%zu,\"write_seconds\":%.6f,"
                  "\"write_per_second\":%.3f,\"token_bytes\":%llu,\"weight_bytes_per_second\":%.0f,"
                  "\"share_of_memory\":%.4f,\"cache_bytes\":%llu,\"linear_gflop\":%.3f,"
                  "\"linear_seconds\":%.6f,\"peak_memory\":%llu}",
                  c->bytes_per_second, c->read_tokens, c->read_seconds, read, c->write_tokens - 1,
                  c->write_seconds, write, (unsigned long long)c->token_bytes, rate,
                  rate / c->bytes_per_second, (unsigned long long)c->cache_bytes, c->flops * 1e-9,
                  c->linear_seconds, (unsigned long long)mica_clock_peak_rss());
}

mica_status api_bench_text(const api_bench *b, mica_engine *e)
{
    text_cost c = {0};
    char name[96] = "";
    const int rounds = b->options.steps ? b->options.steps : DEFAULT_ROUNDS;
    for (int i = 0; i < rounds; i++)
        MICA_TRY(run_round(b, e, &c, name));
    report(b, e, &c, name);
    return MICA_OK;
}
