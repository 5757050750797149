/* cmd_convert.c - `mica convert IN OUT --type T`: weights in another type, as a file or a folder.
 *
 * Prints what became of the layers: for people a summary, with --json every layer with its error. */
#include "cli.h"

#include <string.h>

typedef struct convert_args {
    cli_common_args common;
    const char *type, *synthesizer, *semantic;
    uint64_t shard;
    bool force;
} convert_args;

#define AT(field) offsetof(convert_args, field)
static const cli_option convert_table[] = {
    {.name = "type",
     .kind = CLI_TEXT,
     .offset = AT(type),
     .value = "T",
     .help = "what weights become: q8, q6, q5, q4 (packed), f32, f16, bf16; in .safetensors also "
             "fp8, int8"},
    {.name = "synthesizer",
     .kind = CLI_TEXT,
     .offset = AT(synthesizer),
     .value = "FILE",
     .help = "of a voice: the SoVITS checkpoint (.pth) that goes into one file with the GPT "
             "checkpoint IN (.ckpt)"},
    {.name = "semantic",
     .kind = CLI_TEXT,
     .offset = AT(semantic),
     .value = "FILE",
     .help = "of a speech model's folder with several: the GPT checkpoint to take"},
    {.name = "shard-size",
     .kind = CLI_BYTES,
     .offset = AT(shard),
     .value = "SIZE",
     .help = "into a folder: about the largest file of weights, like 2G (default 5 GB)"},
    {.name = "force",
     .kind = CLI_FLAG,
     .offset = AT(force),
     .help = "replace a folder OUT that is there already (a file is replaced anyway)"},
    CLI_END,
};
#undef AT

static const cli_group groups[] = {{"Options", convert_table, 0},
                                   {"Common", cli_common_table, offsetof(convert_args, common)},
                                   {.title = NULL}};
const cli_spec cmd_convert_spec = {
    .name = "mica convert",
    .usage = "IN OUT --type T [options]",
    .about =
        "Writes weights in another type. A part of a model (a transformer, a text encoder, a "
        "language model; a file of any kind or a folder) becomes OUT.gguf, or OUT.safetensors in "
        "MLX's layout. A whole model folder becomes the folder OUT: its networks converted, the "
        "rest copied. A GPT-SoVITS voice becomes one OUT.safetensors. Layers that a model is "
        "sensitive to keep more bits. OUT appears when it is whole. --json tells every layer and "
        "its relative error.",
    .groups = groups,
    .operand_limit = 2,
    .operand_name = "IN or OUT"};

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
                                          .progress_user = &bar,
                                          .synthesizer = args->synthesizer,
                                          .semantic = args->semantic,
                                          .shard_bytes = args->shard,
                                          .replace = args->force};
    const mica_status status = mica_convert(&options, &report);
    int exit_status = CLI_OK;
    cli_progress_end(&bar);
    if (status == MICA_E_CANCELLED && cli_signals_caught()) {
        (void)cli_report(status, report ? mica_report_errmsg(report) : NULL);
        exit_status = cli_signals_exit();
    } else if (status)
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
    const char *operands[2] = {NULL, NULL};
    const int over = cli_begin(&cmd_convert_spec, argc, argv, &args, operands);
    if (over != CLI_GO)
        return over;
    if (!operands[0] || !operands[1])
        return cli_report(MICA_E_USAGE, "convert needs IN and OUT; see 'mica convert --help'");
    if (!args.type)
        return cli_report(MICA_E_USAGE, "convert needs --type; see 'mica convert --help'");
    return run(&args, operands[0], operands[1]);
}
