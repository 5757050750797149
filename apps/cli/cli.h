/* cli.h - what the commands of the program share.
 *
 *     cli_main ──► cmd_image | cmd_speak | cmd_inspect | ...      one file per command, or a few
 *                      │
 *                      ├── cli_options, cli_help   tables in, values and pages out
 *                      ├── cli_pages               the manual page and bash's completion
 *                      ├── cli_engine              the options every model command has
 *                      ├── cli_input, cli_output   prompts in; checked paths and messages out
 *                      └── progress                the bar, notices, Ctrl-C
 *
 * The program sees mica.h and src/base, nothing else of the library. */
#ifndef MICA_CLI_H
#define MICA_CLI_H

#include "cli_options.h"

#include <mica/mica.h>

#include <signal.h>

/* Exit statuses; docs/CLI.md is their contract. */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_HUNG_UP = 129,
    CLI_INTERRUPTED = 130,
    CLI_TERMINATED = 143
};

/* Each command and its command line; `mica voice` has two. */
int cmd_image(int argc, char **argv);
int cmd_speak(int argc, char **argv);
int cmd_voice(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_complete(int argc, char **argv);
int cmd_chat(int argc, char **argv);
extern const cli_spec cmd_image_spec, cmd_speak_spec, cmd_voice_make_spec, cmd_voice_list_spec,
    cmd_inspect_spec, cmd_convert_spec, cmd_bench_spec, cmd_complete_spec, cmd_chat_spec;

/* ---- cli_output.c ---- */
/* Prints "mica: TEXT" as one line on stderr and returns the exit status that belongs to
 * `status`. Line breaks in text become "; ", other control characters "?". */
int cli_report(mica_status status, const char *text);
int cli_report_err(const mica_err *err);
/* A remark, "mica: note: TEXT", same cleaning. */
void cli_note(const char *text);
/* The same for every line of text. */
void cli_note_lines(const char *text);
/* Control characters but tabs and line ends become '?': names and recipes come from files
 * nobody trusts. */
void cli_make_printable(mica_text *text);
/* Text to stdout; CLI_FAILED with a message when stdout cannot take it (disk full, closed). */
int cli_print(const char *text);
/* The same for a text that was put together, which is freed; CLI_FAILED when it had no memory. */
int cli_print_text(mica_text *text);
/* How a command ends: a failure is told, and its exit status that of the signal if one stopped the run; else `text` is
 * printed. Frees text. */
int cli_end(mica_status status, const mica_err *err, mica_text *text);
#define CLI_GO (-1)
/* Reads a command line as cli_parse does. CLI_GO: the command goes on. Else it is over, with this exit
 * status: help was asked for and is printed, or the usage was wrong, which is told. */
int cli_begin(const cli_spec *spec, int argc, char **argv, void *args, const char **operand);
/* Whether a picture can be written to path, before any work: known kind, folder there and
 * writable, path itself no folder. */
mica_status cli_output_check(const char *path, mica_err *err);
bool cli_output_is_jpeg(const char *path);
/* The folder part alone, for files of any kind (--trace). */
mica_status cli_output_check_folder(const char *path, mica_err *err);
/* Name of picture `index` of `count`: path itself, or with -1, -2, ... before the extension.
 * Freed with mica_mem_free. */
mica_status cli_output_name(const char *path, int index, int count, char **out, mica_err *err);

/* ---- cli_input.c ---- */
/* Resolves the text of -p and -n: "@FILE" is a file's content, "@@x" is "@x", "-" is standard
 * input; one final line break is dropped. *out is freed with mica_mem_free; NULL stays NULL. */
mica_status cli_text_read(const char *argument, char **out, mica_err *err);
/* A note when a text (NULL: none) is not UTF-8; `what` it is. */
void cli_note_invalid_text(const char *what, const char *text, bool quiet);

/* ---- cli_engine.c ---- */
typedef struct cli_engine_args {
    const char *transformer, *text_encoder, *vae, *tokenizer;
    int device, precision, cpu_level, threads, cpu_experts;
    uint64_t vram;   /* bytes; 0: no limit */
    cli_texts loras; /* FILE[:SCALE] */
} cli_engine_args;
typedef struct cli_common_args {
    bool json, quiet;
} cli_common_args;
extern const cli_option cli_picture_table[], cli_language_table[]; /* parts of such models */
extern const cli_option cli_engine_table[], cli_common_table[];
void cli_engine_fill(const cli_engine_args *args, const char *model, mica_engine_options *out);
/* The files and scales of --lora; paths are freed by cli_loras_deinit. */
typedef struct cli_loras {
    mica_lora_input inputs[CLI_MAX_TEXTS];
    int count;
} cli_loras;
mica_status cli_loras_read(const cli_engine_args *args, cli_loras *out, mica_err *err);
void cli_loras_deinit(cli_loras *loras);

/* ---- progress.c ---- */
typedef struct cli_progress {
    bool draws; /* stderr is a terminal and --quiet was not given */
    bool quiet;
    bool line_open; /* the bar stands on the terminal */
    mica_phase phase;
    double phase_start; /* seconds of the run when the phase was first seen */
    double last_draw;
    double fraction; /* of the phase; never goes back */
} cli_progress;
void cli_progress_init(cli_progress *p, bool quiet);
bool cli_progress_update(void *progress, const mica_progress *now); /* a mica_progress_fn */
void cli_progress_end(cli_progress *p);                             /* removes the bar */
/* From now on SIGINT, SIGTERM and a SIGHUP that was not ignored ask the run to stop; a second one
 * ends the process at once. */
void cli_signals_install(void);
int cli_signals_caught(void); /* the signal, or 0 */
void cli_signals_clear(
    void);                  /* it was dealt with; until the next install signals end the process */
int cli_signals_exit(void); /* exit status that belongs to it */

#endif
