/* cmd_text_options.c - options of the commands that write text. */
#include "cmd_text.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const cli_word no_limit[] = {{"-1", 0}, {NULL, 0}};
static const cli_word cache_words[] = {{"f32", 0}, {"q8", 1}, {NULL, 0}};

/* What llama.cpp's programs call an option: taken, but not listed in help. */
#define ALSO(spelling, of, least, most, or_words)                                                  \
    {                                                                                              \
        .name = spelling, .kind = CLI_INT, .offset = AT(of), .lo = least, .hi = most,              \
        .words = or_words, .value = "N"                                                            \
    }

/* What they have and is spelled otherwise here. */
#define ELSEWHERE(theirs, ours)                                                                    \
    {                                                                                              \
        .name = theirs, .kind = CLI_ELSEWHERE, .value = ours                                       \
    }

#define AT(field) offsetof(text_args, field)
const cli_option text_answer_table[] = {
    {.name = "max-tokens",
     .letter = 'n',
     .kind = CLI_INT,
     .offset = AT(max_tokens),
     .lo = 1,
     .hi = 10000000,
     .words = no_limit,
     .value = "N",
     .help = "end an answer after so many tokens; its own end or that of the context"},
    {.name = "stop",
     .kind = CLI_TEXTS,
     .offset = AT(stops),
     .value = "TEXT",
     .help = "end an answer before this text; may be repeated"},
    {.name = "grammar",
     .kind = CLI_TEXT,
     .offset = AT(grammar),
     .value = "TEXT",
     .help = "answers follow this grammar (docs/TEXT.md); @FILE reads a file"},
    {.name = "json-schema",
     .kind = CLI_TEXT,
     .offset = AT(json_schema),
     .value = "TEXT",
     .help = "answers are JSON of this schema, {}: any; @FILE reads a file"},
    {.name = "ignore-eos",
     .kind = CLI_FLAG,
     .offset = AT(ignore_eos),
     .help = "write on where the model would end its answer"},
    {.name = "context",
     .letter = 'c',
     .kind = CLI_INT,
     .offset = AT(context),
     .lo = 2,
     .hi = 16777216,
     .value = "N",
     .help = "tokens of prompt and answer together; the model's"},
    {.name = "cache-type",
     .kind = CLI_WORD,
     .offset = AT(cache_type),
     .words = cache_words,
     .value = "T",
     .help = "keys and values of the context: q8 takes a quarter of the memory"},
    {.name = "chunk",
     .kind = CLI_INT,
     .offset = AT(chunk),
     .lo = 1,
     .hi = 65536,
     .value = "N",
     .help = "tokens of a prompt that are read at a time (1024)"},
    ALSO("n-predict", max_tokens, 1, 10000000, no_limit),
    ALSO("predict", max_tokens, 1, 10000000, no_limit),
    ALSO("ctx-size", context, 2, 16777216, NULL),
    ALSO("batch-size", chunk, 1, 65536, NULL),
    CLI_END,
};

const cli_option text_choice_table[] = {
    {.name = "temp",
     .kind = CLI_DOUBLE,
     .offset = AT(temperature),
     .lo = 0,
     .hi = 100,
     .value = "T",
     .help = "temperature (0.7); 0: the likeliest token always"},
    {.name = "top-k",
     .kind = CLI_INT,
     .offset = AT(top_k),
     .lo = 0,
     .hi = 1000000,
     .value = "K",
     .help = "among the K likeliest tokens; 0: all (0)"},
    {.name = "top-p",
     .kind = CLI_DOUBLE,
     .offset = AT(top_p),
     .lo = 1e-6,
     .hi = 1,
     .value = "P",
     .help = "among the likeliest tokens that together have this probability (1)"},
    {.name = "min-p",
     .kind = CLI_DOUBLE,
     .offset = AT(min_p),
     .lo = 0,
     .hi = 1,
     .value = "M",
     .help = "among tokens at least M times as likely as the likeliest (0)"},
    {.name = "typical-p",
     .kind = CLI_DOUBLE,
     .offset = AT(typical_p),
     .lo = 1e-6,
     .hi = 1,
     .value = "P",
     .help = "among the most typical tokens that together have this probability (1)"},
    {.name = "repeat-penalty",
     .kind = CLI_DOUBLE,
     .offset = AT(repetition),
     .lo = 0.01,
     .hi = 100,
     .value = "R",
     .help = "above 1: tokens that came lately are less likely (1)"},
    {.name = "frequency-penalty",
     .kind = CLI_DOUBLE,
     .offset = AT(frequency),
     .lo = -100,
     .hi = 100,
     .value = "F",
     .help = "taken from a token's logit for each time it came lately (0)"},
    {.name = "presence-penalty",
     .kind = CLI_DOUBLE,
     .offset = AT(presence),
     .lo = -100,
     .hi = 100,
     .value = "F",
     .help = "taken once from the logits of tokens that came lately (0)"},
    {.name = "penalty-window",
     .kind = CLI_INT,
     .offset = AT(window),
     .lo = -1,
     .hi = 10000000,
     .value = "N",
     .help = "how many tokens are \"lately\"; -1: all (64)"},
    {.name = "logit-bias",
     .kind = CLI_TEXTS,
     .offset = AT(bias),
     .value = "ID=BIAS",
     .help = "added to a token's logit; may be repeated"},
    {.name = "seed",
     .kind = CLI_SEED,
     .offset = AT(seed),
     .value = "S",
     .help = "of the draws (0), or random; prompt k draws with S + k - 1"},
    ALSO("repeat-last-n", window, -1, 10000000, NULL),
    {.letter = 'f', .kind = CLI_ELSEWHERE, .value = "-p @FILE"},
    {.letter = 'm', .kind = CLI_ELSEWHERE, .value = "an operand: mica complete MODEL"},
    {.letter = 't', .kind = CLI_ELSEWHERE, .value = "--threads"},
    {.letter = 's', .kind = CLI_ELSEWHERE, .value = "--seed"},
    {.letter = 'r', .kind = CLI_ELSEWHERE, .value = "--stop"},
    {.letter = 'j', .kind = CLI_ELSEWHERE, .value = "--json-schema"},
    {.letter = 'b', .kind = CLI_ELSEWHERE, .value = "--chunk"},
    {.letter = 'i', .kind = CLI_ELSEWHERE, .value = "mica chat"},
    ELSEWHERE("model", "an operand: mica complete MODEL"),
    ELSEWHERE("file", "-p @FILE"),
    ELSEWHERE("reverse-prompt", "--stop"),
    ELSEWHERE("grammar-file", "--grammar @FILE"),
    ELSEWHERE("json-schema-file", "--json-schema @FILE"),
    ELSEWHERE("chat-template-file", "--chat-template @FILE, of mica chat"),
    ELSEWHERE("system-prompt", "--system, of mica chat"),
    ELSEWHERE("interactive", "mica chat"),
    ELSEWHERE("conversation", "mica chat"),
    ELSEWHERE("temperature", "--temp"),
    ELSEWHERE("typical", "--typical-p"),
    ELSEWHERE("n-probs", "--logprobs"),
    ELSEWHERE("verbose-prompt", "--tokens"),
    ELSEWHERE("gpu-layers", "--device, with --vram and --cpu-experts"),
    ELSEWHERE("n-gpu-layers", "--device, with --vram and --cpu-experts"),
    ELSEWHERE("override-tensor", "--cpu-experts"),
    ELSEWHERE("cpu-moe", "--cpu-experts all"),
    ELSEWHERE("cache-type-k", "--cache-type"),
    ELSEWHERE("cache-type-v", "--cache-type"),
    ELSEWHERE("flash-attn", "not needed: always so"),
    ELSEWHERE("no-display-prompt", "not needed: always so"),
    ELSEWHERE("mlock", "not there: weights are mapped"),
    ELSEWHERE("no-mmap", "not there: weights are mapped"),
    CLI_END,
};
#undef AT

void text_args_init(text_args *args)
{
    *args = (text_args){.temperature = TEXT_UNSET, .logprobs = -1};
}

/* ID=BIAS, or ID+BIAS and ID-BIAS as llama.cpp has it. */
static mica_status read_bias(const char *text, mica_logit_bias *out, mica_err *err)
{
    char *end = NULL;
    const long id = strtol(text, &end, 10);
    const char *number = *end == '=' ? end + 1 : end;
    bool fine = end > text && id >= 0 && id < INT32_MAX && strchr("=+-", *end) && *end;
    double bias = 0.0;
    if (fine) {
        bias = strtod(number, &end);
        fine = end > number && *end == '\0' && isfinite(bias);
    }
    if (!fine)
        return MICA_FAIL(err, MICA_E_USAGE, "--logit-bias takes ID=BIAS, as in 1234=-5; got '%s'",
                         text);
    *out = (mica_logit_bias){(int32_t)id, bias};
    return MICA_OK;
}

static mica_status read_texts(text_settings *s, const text_args *args, mica_err *err)
{
    MICA_TRY(cli_text_read(args->grammar, &s->grammar, err));
    MICA_TRY(cli_text_read(args->json_schema, &s->json_schema, err));
    MICA_TRY(cli_text_read(args->chat_template, &s->chat_template, err));
    for (int i = 0; i < args->bias.count; i++)
        MICA_TRY(read_bias(args->bias.values[i], &s->bias[i], err));
    return MICA_OK;
}

mica_status text_settings_make(text_settings *s, const text_args *args, mica_err *err)
{
    *s = (text_settings){0};
    MICA_TRY(read_texts(s, args, err));
    const double t = args->temperature;
    s->options = (mica_text_options){.size = sizeof s->options,
                                     .max_tokens = args->max_tokens,
                                     .context = args->context,
                                     .chunk = args->chunk,
                                     .temperature = t > 0.0 ? t : 0.0,
                                     .greedy = t == 0.0,
                                     .top_k = args->top_k,
                                     .top_p = args->top_p,
                                     .min_p = args->min_p,
                                     .typical_p = args->typical_p,
                                     .repetition_penalty = args->repetition,
                                     .frequency_penalty = args->frequency,
                                     .presence_penalty = args->presence,
                                     .penalty_window = args->window,
                                     .seed = args->seed,
                                     .logit_bias = s->bias,
                                     .logit_bias_count = args->bias.count,
                                     .stops = args->stops.values,
                                     .stop_count = args->stops.count,
                                     .grammar = s->grammar,
                                     .json_schema = s->json_schema,
                                     .chat_template = s->chat_template,
                                     .ignore_eos = args->ignore_eos,
                                     .cache_q8 = args->cache_type == 1,
                                     .no_bos = args->no_bos,
                                     .logprobs = args->logprobs >= 0,
                                     .chances = args->logprobs > 0 ? args->logprobs : 0,
                                     .cache_path = args->cache,
                                     .trace_path = args->trace};
    return MICA_OK;
}

void text_settings_deinit(text_settings *s)
{
    mica_mem_free(s->grammar);
    mica_mem_free(s->json_schema);
    mica_mem_free(s->chat_template);
    *s = (text_settings){0};
}

mica_status text_take(mica_status status, const char *text, mica_err *err)
{
    if (status)
        MICA_FAIL(err, status, "%s", text ? text : mica_status_name(status));
    return status;
}

mica_status text_model_open(text_model *m, const text_args *args, const char *name, mica_err *err)
{
    mica_engine_options options;
    const double start = mica_clock_seconds();
    cli_engine_fill(&args->engine, name, &options);
    options.demo_text = true;
    mica_status status = mica_engine_open(&m->engine, &options);
    MICA_TRY(text_take(status, m->engine ? mica_engine_errmsg(m->engine) : NULL, err));
    if (!args->common.quiet)
        cli_note_lines(mica_engine_notes(m->engine));
    status = mica_session_open(&m->session, m->engine);
    m->open_seconds = mica_clock_seconds() - start;
    if (!status && !args->common.quiet)
        cli_note_lines(mica_session_notes(m->session));
    return text_take(status, m->session ? mica_session_errmsg(m->session) : NULL, err);
}

void text_model_close(text_model *m)
{
    mica_session_close(&m->session);
    mica_engine_close(&m->engine);
}

bool text_write_token(void *writer, const mica_text_token *token)
{
    text_writer *w = writer;
    cli_progress_end(&w->progress);
    if (fputs(token->text, stdout) == EOF || fflush(stdout) == EOF)
        w->broken = errno;
    return !w->broken && !cli_signals_caught();
}

/* The bar is for reading prompts; writing shows itself. */
bool text_follow(void *writer, const mica_progress *now)
{
    text_writer *w = writer;
    if (now->phase == MICA_PHASE_TEXT)
        return cli_progress_update(&w->progress, now);
    cli_progress_end(&w->progress);
    return true;
}
