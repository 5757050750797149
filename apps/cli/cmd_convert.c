/* cmd_convert.c - `mica convert IN OUT --type T`: weights in another type, in a file of their own.
 *
 * Prints what became of the layers: for people a summary, with --json every layer with its error. */
#include "cli.h"

#include <string.h>

typedef struct convert_args {
    cli_common_args common;
    const char *type;
} convert_args;

#define AT(field) offsetof(convert_args, field)
static const cli_option convert_table[] = {
    {.name = "type",
     .kind = CLI_TEXT,
     .offset = AT(type),
     .value = "T",
     .help = "what weights become: q8, q6, q5, q4 (packed), bf16; in .safetensors also fp8, int8"},
    {.name = "json",
     .kind = CLI_FLAG,
     .offset = AT(common.json),
     .help = "every layer with its relative error, as one JSON object"},
    {.name = "quiet", .kind = CLI_FLAG, .offset = AT(common.quiet), .help = "errors only"},
    {.name = "help",
     .letter = 'h',
     .kind = CLI_HELP,
     .offset = AT(common.help),
     .help = "this page"},
};
#undef AT

static int run(const convert_args *args, const char *input, const char *output)
{
    cli_progress bar;
    mica_report *report = NULL;
    cli_progress_init(&bar, args->common.quiet);
    cli_signals_install();
    const mica_convert_options options = {.size = sizeof options,
                                          .input = input,
                                          .output = output,
                                          .type = args->type,
                                          .progress = cli_progress_update,
                                          .progress_user = &bar};
    const mica_status status = mica_convert(&options, &report);
    int exit_status = CLI_OK;
    cli_progress_end(&bar);
    if (status == MICA_E_CANCELLED && cli_signals_caught())
        exit_status = cli_signals_exit();
    else if (status)
        exit_status = cli_report(status, report ? mica_report_errmsg(report) : NULL);
    else if (args->common.json) {
        exit_status = cli_print(mica_report_json(report));
        exit_status = exit_status ? exit_status : cli_print("\n");
    } else if (!args->common.quiet)
        exit_status = cli_print(mica_report_text(report));
    mica_report_close(&report);
    return exit_status;
}

int cmd_convert(int argc, char **argv)
{
    convert_args args = {.type = NULL};
    const cli_group groups[] = {{"Options", convert_table, MICA_ARRAY_LEN(convert_table), &args}};
    const cli_spec spec = {
        .name = "mica convert",
        .usage = "IN OUT --type T [--json]",
        .about =
            "Writes the weights of one part of a model (a transformer, a text encoder) in another\n"
            "type: OUT.gguf, or OUT.safetensors in MLX's layout, which other programs read too. IN "
            "is\n"
            "a weight file of any kind or the folder of the part. Layers that the model is "
            "sensitive\n"
            "to keep more bits. OUT appears when it is whole.",
        .groups = groups,
        .group_count = MICA_ARRAY_LEN(groups),
        .operand_limit = 2,
        .operand_name = "IN or OUT"};
    const char *operands[2] = {NULL, NULL};
    mica_err err = {0};
    if (cli_parse(&spec, argc, argv, operands, &err))
        return cli_report_err(&err);
    if (args.common.help)
        return cli_print_help(&spec);
    if (!operands[0] || !operands[1])
        return cli_report(MICA_E_USAGE, "convert needs IN and OUT; see 'mica convert --help'");
    if (!args.type)
        return cli_report(MICA_E_USAGE, "convert needs --type; see 'mica convert --help'");
    return run(&args, operands[0], operands[1]);
}
