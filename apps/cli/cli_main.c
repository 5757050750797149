/* cli_main.c - the `mica` program: finds the command, runs it, returns its exit status.
 *
 *     mica COMMAND ...      0 success   1 the work failed   2 wrong usage
 *                           130 interrupted (Ctrl-C)        143 terminated
 *                           129 its terminal closed
 *
 * SIGPIPE and SIGXFSZ are ignored, so that a closed pipe or a file-size limit comes back as an
 * error of the write, with a message and without half a file, instead of ending the process. */
#include "cli.h"
#include "cli_pages.h"

#include <string.h>

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
    {"image", "make pictures from text", cmd_image},
    {"speak", "say a text with the voice of a recording", cmd_speak},
    {"voice", "make and list voices for mica speak", cmd_voice},
    {"complete", "continue texts", cmd_complete},
    {"chat", "talk with a language model", cmd_chat},
    {"inspect", "say what a model folder, weight file or picture is", cmd_inspect},
    {"convert", "write weights in another type: 4 to 8 bits, bf16, fp8", cmd_convert},
    {"bench", "measure a model, a synthetic one or single operations", cmd_bench},
};

static const cli_spec *const specs[] = {&cmd_image_spec,      &cmd_speak_spec,
                                        &cmd_voice_make_spec, &cmd_voice_list_spec,
                                        &cmd_complete_spec,   &cmd_chat_spec,
                                        &cmd_inspect_spec,    &cmd_convert_spec,
                                        &cmd_bench_spec,      NULL};

/* Names the command line reserves; they come with later versions. */
static const char *const reserved_names[] = {"serve", "pull"};

static const command *find_command(const char *name)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int print_overview(void)
{
    mica_text page = {0};
    mica_text_add(&page,
                  "mica %s: multimodal inference in C\n\nUsage: mica COMMAND ...\n\nCommands\n",
                  mica_version());
    for (size_t i = 0; i < MICA_ARRAY_LEN(commands); i++)
        mica_text_add(&page, "  %-12s %s\n", commands[i].name, commands[i].summary);
    mica_text_add(&page,
                  "\n'mica COMMAND --help' lists the options of a command; 'mica --version' tells\n"
                  "the version.\n");
    return cli_print_text(&page);
}

static int print_version(void)
{
    mica_text line = {0};
    mica_text_add(&line, "mica %s\n", mica_version());
    return cli_print_text(&line);
}

/* For packages and for `make install`. */
static int print_man_page(void)
{
    mica_text page = {0};
    cli_man_page(specs, mica_version(), &page);
    return cli_print_text(&page);
}

static int print_completion(const char *shell)
{
    mica_text script = {0};
    if (!shell || strcmp(shell, "bash") != 0)
        return cli_report(MICA_E_USAGE, "--completion takes the name of a shell: bash");
    cli_bash_completion(specs, &script);
    return cli_print_text(&script);
}

static int fail_command(const char *name)
{
    const char *names[MICA_ARRAY_LEN(commands)];
    mica_err err = {0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(reserved_names); i++) {
        if (strcmp(reserved_names[i], name) == 0) {
            MICA_FAIL(&err, MICA_E_USAGE, "this version has no '%s' command", name);
            return cli_report_err(&err);
        }
    }
    for (size_t i = 0; i < MICA_ARRAY_LEN(commands); i++)
        names[i] = commands[i].name;
    const char *close = cli_suggest(name, names, MICA_ARRAY_LEN(names));
    if (close)
        MICA_FAIL(&err, MICA_E_USAGE, "unknown command '%s'; did you mean '%s'?", name, close);
    else
        MICA_FAIL(&err, MICA_E_USAGE, "unknown command '%s'; 'mica --help' lists them", name);
    return cli_report_err(&err);
}

static int run_help(int argc, char **argv)
{
    char help[] = "--help";
    char *arguments[] = {help, NULL};
    if (argc == 0)
        return print_overview();
    const command *c = find_command(argv[0]);
    return c ? c->run(1, arguments) : fail_command(argv[0]);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2)
        return cli_report(MICA_E_USAGE, "a command is needed; 'mica --help' lists them");
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return print_overview();
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        return print_version();
    if (strcmp(name, "--man") == 0)
        return print_man_page();
    if (strcmp(name, "--completion") == 0)
        return print_completion(argv[2]);
    if (strcmp(name, "help") == 0)
        return run_help(argc - 2, argv + 2);
    const command *c = find_command(name);
    return c ? c->run(argc - 2, argv + 2) : fail_command(name);
}
