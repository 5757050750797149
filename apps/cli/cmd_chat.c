/* cmd_chat.c - `mica chat`: a conversation in the terminal, or line by line from a pipe.
 *
 *     > hello                 a line is a turn; a line that ends with \ goes on in the next
 *     Hello! ...              written as it comes; Ctrl-C ends the answer, not the conversation
 *     > /reset /undo /system TEXT /save FILE /help /quit (or the end of input)
 *
 * The whole conversation is given to the library each time; what the model has read stays in the
 * session, so only the new turn is computed. --history keeps it in a JSON file. */
#include "cmd_text.h"

#include "base/file.h"
#include "base/mem.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_TURNS 4096

#define AT(field) offsetof(text_args, field)
static const cli_option chat_table[] = {
    {.name = "system",
     .kind = CLI_TEXT,
     .offset = AT(system),
     .value = "TEXT",
     .help = "what the model is told before the conversation; @FILE reads a file"},
    {.name = "history",
     .kind = CLI_TEXT,
     .offset = AT(history),
     .value = "FILE",
     .help = "go on with the conversation in FILE, and keep it there after each answer (JSON)"},
    {.name = "chat-template",
     .kind = CLI_TEXT,
     .offset = AT(chat_template),
     .value = "TEXT",
     .help = "Jinja template instead of the model's; @FILE reads a file"},
    {.name = "prompt", .letter = 'p', .kind = CLI_ELSEWHERE, .value = "a line of input"},
    {.name = "tokens", .kind = CLI_ELSEWHERE, .value = "an option of mica complete"},
    {.name = "logprobs", .kind = CLI_ELSEWHERE, .value = "an option of mica complete"},
    CLI_END,
};
#undef AT

static const cli_group groups[] = {{"Conversation", chat_table, 0}, TEXT_GROUPS, {.title = NULL}};
const cli_spec cmd_chat_spec = {
    .name = "mica chat",
    .usage = "[MODEL] [options]",
    .about = "Talks with a language model, one line a turn; without MODEL with the demo model, "
             "which explains words. Lines may come from a pipe.",
    .groups = groups,
    .operand_limit = 1,
    .operand_name = "MODEL"};

typedef struct chat {
    const text_args *args;
    text_model model;
    text_settings settings;
    mica_message turns[MOST_TURNS]; /* strings are owned */
    int count;
    text_writer writer;
    bool terminal;
} chat;

/* ----------------------------------------------------------------------- turns -- */

static void forget(chat *c, int kept)
{
    for (; c->count > kept; c->count--) {
        mica_mem_free((char *)(uintptr_t)c->turns[c->count - 1].role);
        mica_mem_free((char *)(uintptr_t)c->turns[c->count - 1].content);
    }
}

static mica_status add_turn(chat *c, const char *role, const char *content, mica_err *err)
{
    char *r = mica_mem_strdup(role), *text = mica_mem_strdup(content);
    if (c->count == MOST_TURNS || !r || !text) {
        mica_mem_free(r);
        mica_mem_free(text);
        return MICA_FAIL(err, MICA_E_NOMEM, "the conversation is too long");
    }
    c->turns[c->count++] = (mica_message){r, text};
    return MICA_OK;
}

static bool has_system(const chat *c)
{
    return c->count > 0 && strcmp(c->turns[0].role, "system") == 0;
}

static mica_status set_system(chat *c, const char *text, mica_err *err)
{
    forget(c, 0);
    return text && *text ? add_turn(c, "system", text, err) : MICA_OK;
}

/* --------------------------------------------------------------------- history -- */

static mica_status load(chat *c, const char *path, mica_err *err)
{
    mica_json j = {0};
    if (!mica_path_is_file(path))
        return MICA_OK;
    MICA_TRY(mica_json_open(&j, path, err));
    mica_status st = MICA_OK;
    if (!cJSON_IsArray(j.root))
        st = MICA_FAIL(err, MICA_E_FORMAT, "%s: it is no conversation", path);
    for (const cJSON *item = st ? NULL : j.root->child; item && !st; item = item->next) {
        const char *role = NULL, *content = NULL;
        st = mica_json_get_string(&j, item, "role", &role, err);
        if (!st)
            st = mica_json_get_string(&j, item, "content", &content, err);
        if (!st)
            st = add_turn(c, role, content, err);
    }
    mica_json_close(&j);
    return st;
}

static mica_status save(const chat *c, const char *path, mica_err *err)
{
    mica_text out = {0};
    mica_file_out file;
    mica_text_add(&out, "[");
    for (int i = 0; i < c->count; i++) {
        mica_text_add(&out, "%s\n{\"role\":", i ? "," : "");
        mica_text_add_json_string(&out, c->turns[i].role);
        mica_text_add(&out, ",\"content\":");
        mica_text_add_json_string(&out, c->turns[i].content);
        mica_text_add(&out, "}");
    }
    mica_text_add(&out, "\n]\n");
    mica_status st = out.failed ? MICA_FAIL(err, MICA_E_NOMEM, "out of memory")
                                : mica_file_out_open(&file, path, err);
    if (!st) {
        st = mica_file_out_write(&file, out.data, out.size, err);
        if (st)
            mica_file_out_abort(&file);
        else
            st = mica_file_out_commit(&file, err);
    }
    mica_text_deinit(&out);
    return st;
}

/* ---------------------------------------------------------------------- answers -- */

static void note_end(const chat *c, const mica_text_answer *a)
{
    if (c->args->common.quiet)
        return;
    if (a->finish == MICA_FINISH_CONTEXT)
        cli_note("the context is full; /reset begins anew, /undo takes the last turn back");
    else if (a->finish == MICA_FINISH_CALLER)
        cli_note("the answer was ended");
}

/* One answer to all turns so far. A failure takes the question back, so that it can be put again. */
static mica_status answer(chat *c, mica_err *err)
{
    mica_text_options o = c->settings.options;
    mica_completion *done = NULL;
    mica_text_answer a = {.size = sizeof a};
    o.messages = c->turns;
    o.message_count = c->count;
    o.token = text_write_token;
    o.progress = text_follow;
    o.token_user = o.progress_user = &c->writer;
    cli_progress_init(&c->writer.progress, c->args->common.quiet);
    cli_signals_install();
    mica_status st = mica_text_generate(c->model.session, &o, &done);
    cli_progress_end(&c->writer.progress);
    const bool stopped = cli_signals_caught() == SIGINT;
    if (st == MICA_OK && (fputs("\n", stdout) == EOF || fflush(stdout) == EOF))
        c->writer.broken = errno;
    if (c->writer.broken) {
        st = MICA_FAIL(err, MICA_E_IO, "cannot write to standard output: %s",
                       strerror(c->writer.broken));
    } else if (st == MICA_OK) {
        mica_completion_get(done, 0, &a);
        st = add_turn(c, "assistant", a.text, err);
        note_end(c, &a);
    } else {
        text_take(st, mica_session_errmsg(c->model.session), err);
        forget(c, c->count - 1);
        if (st == MICA_E_CANCELLED && stopped)
            st = MICA_OK;
    }
    mica_completion_close(&done);
    /* At the prompt a signal ends the program, as it does between the lines of a pipe. */
    if (!cli_signals_caught() || (stopped && c->terminal))
        cli_signals_clear();
    return st;
}

/* ----------------------------------------------------------------------- input -- */

/* A line without its end, joined with the next while it ends with a backslash; NULL: no more. */
static char *read_turn(const chat *c)
{
    mica_text turn = {0};
    char *line = NULL;
    size_t cap = 0;
    bool more = true, any = false;
    while (more) {
        if (c->terminal) {
            fputs(any ? ". " : "> ", stdout);
            fflush(stdout);
        }
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0)
            break;
        any = true;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        more = n > 0 && line[n - 1] == '\\';
        mica_text_add_bytes(&turn, line, (size_t)(n - more));
        if (more)
            mica_text_add(&turn, "\n");
    }
    free(line);
    char *text =
        any && !turn.failed ? mica_mem_strndup(turn.size ? turn.data : "", turn.size) : NULL;
    mica_text_deinit(&turn);
    return text;
}

static const char help_text[] = "/reset        forget the conversation (not the system text)\n"
                                "/undo         take the last question and answer back\n"
                                "/system TEXT  begin anew with this system text\n"
                                "/save FILE    write the conversation (JSON)\n"
                                "/quit         end; so does the end of input\n";

static const char *behind(const char *line, const char *command)
{
    const size_t n = strlen(command);
    if (strncmp(line, command, n) != 0 || (line[n] != ' ' && line[n] != '\0'))
        return NULL;
    return line[n] ? line + n + 1 : line + n;
}

/* *quit: the conversation ends. Unknown commands are told. */
static mica_status command(chat *c, const char *line, bool *quit, mica_err *err)
{
    const char *rest;
    *quit = behind(line, "/quit") || behind(line, "/exit");
    if (*quit)
        return MICA_OK;
    if (behind(line, "/reset")) {
        forget(c, has_system(c));
        return MICA_OK;
    }
    if (behind(line, "/undo")) {
        forget(c, MICA_MAX(c->count - 2, (int)has_system(c)));
        return MICA_OK;
    }
    if ((rest = behind(line, "/system")))
        return set_system(c, rest, err);
    if ((rest = behind(line, "/save")) && *rest)
        return save(c, rest, err);
    if (behind(line, "/help"))
        return cli_print(help_text) ? MICA_FAIL(err, MICA_E_IO, "cannot write") : MICA_OK;
    return MICA_FAIL(err, MICA_E_USAGE, "unknown command '%.40s'; /help lists them", line);
}

static mica_status turn(chat *c, const char *line, bool *quit, mica_err *err)
{
    *quit = false;
    if (line[0] == '/')
        return command(c, line, quit, err);
    if (line[strspn(line, " \t\n")] == '\0')
        return MICA_OK;
    MICA_TRY(add_turn(c, "user", line, err));
    MICA_TRY(answer(c, err));
    return c->args->history ? save(c, c->args->history, err) : MICA_OK;
}

/* On a terminal a failed turn is told and the conversation goes on; in a script it ends. What is still caught
 * here ends it everywhere. */
static int converse(chat *c)
{
    bool quit = false;
    int status = CLI_OK;
    while (!quit && status == CLI_OK) {
        mica_err err = {0};
        char *line = read_turn(c);
        if (!line)
            break;
        const mica_status st = turn(c, line, &quit, &err);
        mica_mem_free(line);
        if (cli_signals_caught())
            status = cli_signals_exit();
        else if (st) {
            const int failed = cli_report_err(&err);
            status = c->terminal && !c->writer.broken ? CLI_OK : failed;
        }
    }
    if (c->terminal)
        fputs("\n", stdout);
    return status;
}

static mica_status open_chat(chat *c, const char *name, mica_err *err)
{
    char *system = NULL;
    MICA_TRY(text_settings_make(&c->settings, c->args, err));
    if (c->args->history) {
        MICA_TRY(cli_output_check_folder(c->args->history, err));
        MICA_TRY(load(c, c->args->history, err));
    }
    if (c->args->system) {
        MICA_TRY(cli_text_read(c->args->system, &system, err));
        const mica_status st = set_system(c, system, err);
        mica_mem_free(system);
        MICA_TRY(st);
    }
    return text_model_open(&c->model, c->args, name, err);
}

static int run(const text_args *args, const char *name)
{
    chat *c = mica_mem_calloc(1, sizeof *c);
    mica_err err = {0};
    if (!c)
        return cli_report(MICA_E_NOMEM, NULL);
    c->args = args;
    c->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    const mica_status st = open_chat(c, name, &err);
    if (!st && c->terminal && !args->common.quiet)
        fputs("A line is a turn, Ctrl-C ends an answer, /help lists commands.\n", stdout);
    const int status = st ? cli_report_err(&err) : converse(c);
    forget(c, 0);
    text_model_close(&c->model);
    text_settings_deinit(&c->settings);
    mica_mem_free(c);
    return status;
}

int cmd_chat(int argc, char **argv)
{
    text_args args;
    text_args_init(&args);
    const char *model = NULL;
    const int over = cli_begin(&cmd_chat_spec, argc, argv, &args, &model);
    if (over != CLI_GO)
        return over;
    if (args.common.json)
        return cli_report(MICA_E_USAGE, "chat writes no JSON; complete does");
    return run(&args, model);
}
