/* cmd_complete.c - `mica complete`: texts that a language model continues.
 *
 *     one prompt     its continuation, as it is written
 *     several        written together, shown one after the other when all are done
 *     --json         one object: for one prompt `text`, `tokens`, ...; always `answers`
 *
 * The prompt itself is not repeated. */
#include "cmd_text.h"

#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(text_args, field)
static const cli_option complete_table[] = {
    {.name = "prompt",
     .letter = 'p',
     .kind = CLI_TEXTS,
     .offset = AT(prompts),
     .value = "TEXT",
     .help = "text to continue, may be repeated; @FILE reads a file, - standard input, @@... is a "
             "text that begins with @"},
    {.name = "no-bos",
     .kind = CLI_FLAG,
     .offset = AT(no_bos),
     .help = "no token for the beginning of a text before the prompt"},
    {.name = "prompt-cache",
     .kind = CLI_TEXT,
     .offset = AT(cache),
     .value = "FILE",
     .help = "keep what was computed of the prompt in FILE, and go on from it next time"},
    {.name = "logprobs",
     .kind = CLI_INT,
     .offset = AT(logprobs),
     .lo = 0,
     .hi = MICA_MAX_LOGPROBS,
     .value = "N",
     .help = "tell with --json how likely each token was, and the N likeliest instead"},
    {.name = "tokens",
     .kind = CLI_FLAG,
     .offset = AT(tokens),
     .help = "print the token ids of the prompts instead of continuing them"},
    {.name = "trace",
     .kind = CLI_TEXT,
     .offset = AT(trace),
     .value = "FILE",
     .help = "write input_ids, hidden states, router logits and logits of the prompt "
             "(safetensors)"},
    CLI_END,
};
#undef AT

static const cli_group groups[] = {{"Text", complete_table, 0}, TEXT_GROUPS, {.title = NULL}};
const cli_spec cmd_complete_spec = {
    .name = "mica complete",
    .usage = "[MODEL] -p TEXT [options]",
    .about = "Continues texts with a language model; without MODEL with the demo model, which "
             "knows the words of a small dictionary.",
    .groups = groups,
    .operand_limit = 1,
    .operand_name = "MODEL"};

typedef struct complete_run {
    const text_args *args;
    text_model model;
    text_settings settings;
    char *prompts[CLI_MAX_TEXTS];
    mica_completion *done;
    text_writer writer;
} complete_run;

/* ---------------------------------------------------------------------- output -- */

static void add_ids(mica_text *out, const char *name, const int32_t *ids, size_t count)
{
    mica_text_add(out, "\"%s\":[", name);
    for (size_t i = 0; i < count; i++)
        mica_text_add(out, "%s%d", i ? "," : "", (int)ids[i]);
    mica_text_add(out, "]");
}

static void add_logprobs(mica_text *out, const mica_text_answer *a)
{
    mica_text_add(out, ",\"logprobs\":[");
    for (size_t i = 0; i < a->count; i++) {
        mica_text_add(out, "%s{\"id\":%d,\"logprob\":%.6f,\"likeliest\":[", i ? "," : "",
                      (int)a->ids[i], a->logprobs[i]);
        for (int k = 0; k < a->chance_count; k++) {
            const mica_token_chance *c = &a->chances[i * (size_t)a->chance_count + (size_t)k];
            mica_text_add(out, "%s{\"id\":%d,\"logprob\":%.6f,\"text\":", k ? "," : "", (int)c->id,
                          c->logprob);
            mica_text_add_json_string(out, c->text);
            mica_text_add(out, "}");
        }
        mica_text_add(out, "]}");
    }
    mica_text_add(out, "]");
}

/* Members of one answer, without braces. */
static void add_answer(mica_text *out, const mica_text_answer *a)
{
    mica_text_add(out, "\"text\":");
    mica_text_add_json_string(out, a->text);
    mica_text_add(out, ",\"finish\":\"%s\",", mica_finish_name(a->finish));
    add_ids(out, "tokens", a->ids, a->count);
    mica_text_add(out, ",");
    add_ids(out, "prompt_tokens", a->prompt_ids, a->prompt_count);
    mica_text_add(out, ",\"reused_tokens\":%zu", a->reused);
    if (a->logprobs)
        add_logprobs(out, a);
}

static double rate(size_t count, double seconds)
{
    return seconds > 0.0 ? (double)count / seconds : 0.0;
}

static void describe(const complete_run *r, mica_text *out)
{
    mica_text_stats s = {.size = sizeof s};
    const int count = mica_completion_count(r->done);
    mica_completion_stats(r->done, &s);
    mica_text_add(out, "{\"command\":\"complete\",\"version\":\"%s\",\"device\":\"%s\",",
                  mica_version(), mica_engine_device(r->model.engine));
    for (int i = -(count == 1); i < count; i++) {
        mica_text_answer a = {.size = sizeof a};
        mica_completion_get(r->done, i < 0 ? 0 : i, &a);
        mica_text_add(out, i < 0 ? "" : i == 0 ? "\"answers\":[{" : ",{");
        add_answer(out, &a);
        mica_text_add(out, i < 0 ? "," : "}");
    }
    mica_text_add(out,
                  "],\"seed\":%llu,\"seconds\":{\"open\":%.6f,\"read\":%.6f,\"write\":%.6f},"
                  "\"read_tokens\":%zu,\"write_tokens\":%zu,\"read_per_second\":%.3f,"
                  "\"write_per_second\":%.3f,\"token_bytes\":%llu,\"cache_bytes\":%llu,"
                  "\"peak_memory\":%llu,\"cpu_expert_layers\":%d}\n",
                  (unsigned long long)r->args->seed, r->model.open_seconds, s.read_seconds,
                  s.write_seconds, s.read_tokens, s.write_tokens,
                  rate(s.read_tokens, s.read_seconds), rate(s.write_tokens, s.write_seconds),
                  (unsigned long long)s.token_bytes, (unsigned long long)s.cache_bytes,
                  (unsigned long long)s.peak_memory, s.cpu_expert_layers);
}

static int print_done(const complete_run *r)
{
    mica_text out = {0};
    const int count = mica_completion_count(r->done);
    if (r->args->common.json)
        describe(r, &out);
    else if (count == 1)
        mica_text_add(&out, "\n");
    for (int i = 0; i < count && count > 1 && !r->args->common.json; i++) {
        mica_text_answer a = {.size = sizeof a};
        mica_completion_get(r->done, i, &a);
        mica_text_add(&out, "%s[%d]%s\n", i ? "\n" : "", i + 1, a.text);
    }
    return cli_print_text(&out);
}

/* Why a text ends where nobody asked it to. */
static void note_finish(const complete_run *r)
{
    for (int i = 0; i < mica_completion_count(r->done); i++) {
        mica_text_answer a = {.size = sizeof a};
        mica_completion_get(r->done, i, &a);
        if (a.finish == MICA_FINISH_CONTEXT && !r->args->common.quiet)
            cli_note("the context is full, so the text ends here");
    }
}

/* ------------------------------------------------------------------------- run -- */

static void add_prompt_ids(mica_text *out, const int32_t *ids, size_t count, bool json)
{
    mica_text_add(out, json ? "[" : "");
    for (size_t k = 0; k < count; k++)
        mica_text_add(out, "%s%d", k == 0 ? "" : json ? "," : " ", (int)ids[k]);
    mica_text_add(out, json ? "]" : "\n");
}

static mica_status unwritten(int number, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_IO, "cannot write to standard output: %s", strerror(number));
}

/* A line of ids for each prompt, or one object with a list of lists. */
static mica_status print_tokens(complete_run *r, mica_err *err)
{
    mica_text out = {0};
    const int32_t *ids;
    size_t first = 0, count;
    const bool json = r->args->common.json;
    mica_status st = MICA_OK;
    if (r->args->no_bos) /* an empty text has what stands before any */
        st = mica_session_tokens(r->model.session, "", &ids, &first);
    mica_text_add(&out, json ? "{\"tokens\":[" : "");
    for (int i = 0; i < r->args->prompts.count && !st; i++) {
        st = mica_session_tokens(r->model.session, r->prompts[i], &ids, &count);
        if (st)
            break;
        mica_text_add(&out, json && i ? "," : "");
        add_prompt_ids(&out, ids + first, count - first, json);
    }
    mica_text_add(&out, json ? "]}\n" : "");
    if (st)
        st = text_take(st, mica_session_errmsg(r->model.session), err);
    else if (out.failed)
        st = MICA_FAIL(err, MICA_E_NOMEM, "no memory for the tokens");
    else if (fputs(out.data, stdout) == EOF || fflush(stdout) == EOF)
        st = unwritten(errno, err);
    mica_text_deinit(&out);
    return st;
}

static mica_status run(complete_run *r, const char *name, mica_err *err)
{
    const text_args *args = r->args;
    for (int i = 0; i < args->prompts.count; i++) {
        MICA_TRY(cli_text_read(args->prompts.values[i], &r->prompts[i], err));
        cli_note_invalid_text("prompt", r->prompts[i], args->common.quiet);
    }
    MICA_TRY(text_settings_make(&r->settings, args, err));
    if (args->trace)
        MICA_TRY(cli_output_check_folder(args->trace, err));
    if (args->cache)
        MICA_TRY(cli_output_check_folder(args->cache, err));
    MICA_TRY(text_model_open(&r->model, args, name, err));
    if (args->tokens)
        return print_tokens(r, err);
    mica_text_options *o = &r->settings.options;
    o->prompts = (const char *const *)r->prompts;
    o->prompt_count = args->prompts.count;
    o->progress = text_follow;
    o->progress_user = &r->writer;
    const bool streams = args->prompts.count == 1 && !args->common.json;
    o->token = streams ? text_write_token : NULL;
    o->token_user = &r->writer;
    const mica_status st = mica_text_generate(r->model.session, o, &r->done);
    cli_progress_end(&r->writer.progress);
    return text_take(st, mica_session_errmsg(r->model.session), err);
}

static int complete(const text_args *args, const char *name)
{
    complete_run r = {.args = args};
    mica_err err = {0};
    cli_progress_init(&r.writer.progress, args->common.quiet || args->common.json);
    cli_signals_install();
    const mica_status st = run(&r, name, &err);
    int status = CLI_OK;
    if (st == MICA_E_CANCELLED && cli_signals_caught())
        status = cli_signals_exit();
    else if (st)
        status = cli_report_err(&err);
    else if (r.writer.broken)
        status = cli_report(unwritten(r.writer.broken, &err), err.text);
    else if (r.done) {
        status = print_done(&r);
        note_finish(&r);
        if (!status && cli_signals_caught())
            status = cli_signals_exit();
    }
    mica_completion_close(&r.done);
    text_model_close(&r.model);
    text_settings_deinit(&r.settings);
    for (int i = 0; i < args->prompts.count; i++)
        mica_mem_free(r.prompts[i]);
    return status;
}

int cmd_complete(int argc, char **argv)
{
    text_args args;
    text_args_init(&args);
    const char *model = NULL;
    const int over = cli_begin(&cmd_complete_spec, argc, argv, &args, &model);
    if (over != CLI_GO)
        return over;
    if (args.prompts.count == 0)
        return cli_report(MICA_E_USAGE, "complete needs a text to continue: -p TEXT");
    if (args.logprobs >= 0 && !args.common.json)
        return cli_report(MICA_E_USAGE, "--logprobs is told with --json");
    return complete(&args, model);
}
