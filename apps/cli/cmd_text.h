/* cmd_text.h - what `mica complete` and `mica chat` share.
 *
 *     cmd_text_options.c   tables of options and what they become
 *     cmd_complete.c       texts that are continued
 *     cmd_chat.c           a conversation */
#ifndef MICA_CLI_CMD_TEXT_H
#define MICA_CLI_CMD_TEXT_H

#include "cli.h"

#define TEXT_UNSET (-1.0)

typedef struct text_args {
    cli_common_args common;
    cli_engine_args engine;
    /* answers */
    int max_tokens, context, chunk, cache_type;
    cli_texts stops;
    const char *grammar, *json_schema, *chat_template;
    bool ignore_eos;
    /* choice of tokens */
    double temperature, top_p, min_p, typical_p, repetition, frequency, presence;
    int top_k, window;
    uint64_t seed;
    cli_texts bias; /* ID=BIAS */
    /* of one command */
    cli_texts prompts;
    const char *cache, *trace, *system, *history;
    int logprobs;
    bool tokens, no_bos;
} text_args;

extern const cli_option text_answer_table[], text_choice_table[];
/* The groups of both commands, behind a group of each one's own and before the end. */
#define TEXT_GROUPS                                                                                \
    {"Answer", text_answer_table, 0}, {"Choice of tokens", text_choice_table, 0},                  \
        {"Parts of the model", cli_language_table, offsetof(text_args, engine)},                   \
        {"Model", cli_engine_table, offsetof(text_args, engine)},                                  \
    {                                                                                              \
        "Common", cli_common_table, offsetof(text_args, common)                                    \
    }

/* Options as the library takes them, and what they point to. */
typedef struct text_settings {
    mica_text_options options;
    mica_logit_bias bias[CLI_MAX_TEXTS];
    char *grammar, *json_schema, *chat_template;
} text_settings;
void text_args_init(text_args *args);
mica_status text_settings_make(text_settings *s, const text_args *args, mica_err *err);
void text_settings_deinit(text_settings *s);

/* Engine and session of a command. */
typedef struct text_model {
    mica_engine *engine;
    mica_session *session;
    double open_seconds;
} text_model;
mica_status text_model_open(text_model *m, const text_args *args, const char *name, mica_err *err);
void text_model_close(text_model *m);
mica_status text_take(mica_status status, const char *text, mica_err *err);

/* An answer on its way to standard output: a bar while prompts are read, then the text as it comes. Both are the
 * callbacks of a run, and end it on a signal or when standard output takes no more. */
typedef struct text_writer {
    cli_progress progress;
    int broken; /* standard output takes no more: its errno; 0: it does */
} text_writer;
bool text_write_token(void *writer, const mica_text_token *token); /* a mica_text_fn */
bool text_follow(void *writer, const mica_progress *now);          /* a mica_progress_fn */

#endif
