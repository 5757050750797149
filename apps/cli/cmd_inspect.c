/* cmd_inspect.c - `mica inspect PATH`: what a folder, a weight file or a picture is.
 *
 * Prints the library's report: for people, or with --json as one object. Only headers
 * are read, so that a 40 GB model answers at once. */
#include "cli.h"

static const cli_group groups[] = {{"Common", cli_common_table, 0}, {.title = NULL}};
const cli_spec cmd_inspect_spec = {
    .name = "mica inspect",
    .usage = "PATH [--json]",
    .about =
        "Says what PATH is. A model folder or weight file: family, parts, parameters, dtypes, "
        "memory needed, what is missing. A LoRA: rank, layers, which family it fits. A picture "
        "made by mica: its recipe.",
    .groups = groups,
    .operand_limit = 1,
    .operand_name = "PATH"};

static int print_report(const mica_report *report, const cli_common_args *args)
{
    const char *text = args->json ? mica_report_json(report) : mica_report_text(report);
    mica_text page = {0};
    if (args->quiet && !args->json)
        return CLI_OK;
    mica_text_add(&page, "%s", text ? text : "");
    if (page.size && page.data[page.size - 1] != '\n')
        mica_text_add(&page, "\n");
    cli_make_printable(&page);
    return cli_print_text(&page);
}

int cmd_inspect(int argc, char **argv)
{
    cli_common_args args = {0};
    const char *path = NULL;
    const int over = cli_begin(&cmd_inspect_spec, argc, argv, &args, &path);
    if (over != CLI_GO)
        return over;
    if (!path)
        return cli_report(MICA_E_USAGE, "inspect needs a PATH; see 'mica inspect --help'");

    mica_report *report = NULL;
    const mica_status status = mica_inspect(path, &report);
    const int exit_status = status ? cli_report(status, report ? mica_report_errmsg(report) : NULL)
                                   : print_report(report, &args);
    mica_report_close(&report);
    return exit_status;
}
