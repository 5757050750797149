/* cmd_inspect.c - `mica inspect PATH`: what a folder, a weight file or a picture is.
 *
 * Prints the library's report as it is: for people, or with --json as one object. Only headers
 * are read, so that a 40 GB model answers at once. */
#include "cli.h"

#define AT(field) offsetof(cli_common_args, field)
static const cli_option inspect_table[] = {
    {.name = "json", .kind = CLI_FLAG, .offset = AT(json), .help = "the report as one JSON object"},
    {.name = "quiet", .kind = CLI_FLAG, .offset = AT(quiet), .help = "errors only"},
    {.name = "help", .letter = 'h', .kind = CLI_HELP, .offset = AT(help), .help = "this page"},
};
#undef AT

static int print_report(const mica_report *report, const cli_common_args *args)
{
    const char *text = args->json ? mica_report_json(report) : mica_report_text(report);
    mica_text page = {0};
    if (args->quiet && !args->json)
        return CLI_OK;
    mica_text_add(&page, "%s", text ? text : "");
    if (page.size && page.data[page.size - 1] != '\n')
        mica_text_add(&page, "\n");
    const int exit_status =
        page.failed ? cli_report(MICA_E_NOMEM, NULL) : cli_print(page.data ? page.data : "");
    mica_text_deinit(&page);
    return exit_status;
}

int cmd_inspect(int argc, char **argv)
{
    cli_common_args args = {0};
    const cli_group groups[] = {{"Options", inspect_table, MICA_ARRAY_LEN(inspect_table), &args}};
    const cli_spec spec = {
        .name = "mica inspect",
        .usage = "PATH [--json]",
        .about =
            "Says what PATH is. A model folder or weight file: family, parts, parameters, dtypes,\n"
            "memory needed, what is missing. A LoRA: rank, layers, which family it fits. A picture "
            "made\n"
            "by mica: its recipe.",
        .groups = groups,
        .group_count = MICA_ARRAY_LEN(groups),
        .operand_limit = 1,
        .operand_name = "PATH"};
    const char *path = NULL;
    mica_err err = {0};
    if (cli_parse(&spec, argc, argv, &path, &err))
        return cli_report_err(&err);
    if (args.help)
        return cli_print_help(&spec);
    if (!path)
        return cli_report(MICA_E_USAGE, "inspect needs a PATH; see 'mica inspect --help'");

    mica_report *report = NULL;
    const mica_status status = mica_inspect(path, &report);
    const int exit_status = status ? cli_report(status, report ? mica_report_errmsg(report) : NULL)
                                   : print_report(report, &args);
    mica_report_close(&report);
    return exit_status;
}
