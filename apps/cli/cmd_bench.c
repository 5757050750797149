/* cmd_bench.c - `mica bench`: what this machine does with a model, a synthetic one or single operations.
 *
 * The library measures and tells each figure as a line while it goes; with --json the lines are
 * kept back and the report follows as one object. */
#include "cli.h"

#include <stdio.h>

typedef struct bench_args {
    cli_common_args common;
    cli_engine_args engine;
    const char *synthetic;
    int width, height, steps, text_tokens;
    bool ablate, kernels, caching, unguided, profile;
} bench_args;

#define AT(field) offsetof(bench_args, field)
static const cli_option bench_table[] = {
    {.name = "synthetic",
     .kind = CLI_TEXT,
     .offset = AT(synthetic),
     .value = "SPEC",
     .help =
         "random full-width weights made in memory instead of MODEL: qwen-image, mixtral-8x7b, or "
         "with fewer blocks qwen-image:layers=2"},
    {.name = "ablate",
     .kind = CLI_FLAG,
     .offset = AT(ablate),
     .help = "measure again with each technique switched off"},
    {.name = "cache",
     .kind = CLI_FLAG,
     .offset = AT(caching),
     .help = "whole runs (of 20 steps) with step caching off, balanced and fast: evaluations left "
             "out, and how far the latents move"},
    {.name = "kernels",
     .kind = CLI_FLAG,
     .offset = AT(kernels),
     .help = "measure linears and attention at Qwen-Image's shapes instead of a model"},
    {.name = "profile",
     .kind = CLI_FLAG,
     .offset = AT(profile),
     .help = "then one more run (of one step), with the time of every operation by its sizes"},
    {.name = "unguided",
     .kind = CLI_FLAG,
     .offset = AT(unguided),
     .help = "one pass a step, without guidance; else two in one batch where the model is guided"},
    {.name = "width",
     .letter = 'W',
     .kind = CLI_INT,
     .offset = AT(width),
     .lo = 16,
     .hi = 16384,
     .value = "N",
     .help = "picture width in pixels (512)"},
    {.name = "height",
     .letter = 'H',
     .kind = CLI_INT,
     .offset = AT(height),
     .lo = 16,
     .hi = 16384,
     .value = "N",
     .help = "picture height in pixels (512)"},
    {.name = "steps",
     .kind = CLI_INT,
     .offset = AT(steps),
     .lo = 1,
     .hi = 1000,
     .value = "N",
     .help = "rounds of two denoising steps, of which the best second one counts (3)"},
    {.name = "text-tokens",
     .kind = CLI_INT,
     .offset = AT(text_tokens),
     .lo = 1,
     .hi = 100000,
     .value = "N",
     .help = "length of the made-up prompt (20; of a language model 512)"},
    CLI_END,
};
#undef AT

static const cli_group groups[] = {
    {"What to measure", bench_table, 0},
    {"Parts of the model", cli_picture_table, offsetof(bench_args, engine)},
    {"Model", cli_engine_table, offsetof(bench_args, engine)},
    {"Common", cli_common_table, offsetof(bench_args, common)},
    {.title = NULL}};
const cli_spec cmd_bench_spec = {
    .name = "mica bench",
    .usage = "[MODEL] [options]",
    .about = "Measures time, arithmetic rate and the share of this machine's own matrix-product "
             "peak, phase by phase.",
    .groups = groups,
    .operand_limit = 1,
    .operand_name = "MODEL"};

static void print_bench_line(void *user, const char *text)
{
    const bool *is_silent = user;
    if (*is_silent)
        return;
    fputs(text, stdout);
    fputs("\n", stdout);
    fflush(stdout);
}

static int measure(const mica_bench_options *options, bool json)
{
    mica_report *report = NULL;
    const mica_status status = mica_bench_run(options, &report);
    int exit_status = CLI_OK;
    if (status) {
        exit_status = cli_report(status, report ? mica_report_errmsg(report) : NULL);
    } else if (json) {
        exit_status = cli_print(mica_report_json(report));
        if (!exit_status)
            exit_status = cli_print("\n");
    }
    mica_report_close(&report);
    return exit_status;
}

static int run_bench(const bench_args *args, const char *model)
{
    bool is_silent = args->common.json || args->common.quiet;
    mica_engine_options engine;
    const mica_bench_options options = {.size = sizeof options,
                                        .engine = &engine,
                                        .width = args->width,
                                        .height = args->height,
                                        .steps = args->steps,
                                        .text_tokens = args->text_tokens,
                                        .ablate = args->ablate,
                                        .kernels = args->kernels,
                                        .caching = args->caching,
                                        .unguided = args->unguided,
                                        .profile = args->profile,
                                        .line = print_bench_line,
                                        .user = &is_silent};
    cli_loras loras;
    mica_err err = {0};
    cli_engine_fill(&args->engine, model, &engine);
    engine.synthetic = args->synthetic;
    if (cli_loras_read(&args->engine, &loras, &err)) {
        cli_loras_deinit(&loras);
        return cli_report_err(&err);
    }
    engine.loras = loras.inputs;
    engine.lora_count = loras.count;

    const int exit_status = measure(&options, args->common.json);
    cli_loras_deinit(&loras);
    return exit_status;
}

int cmd_bench(int argc, char **argv)
{
    bench_args args = {0};
    const char *model = NULL;
    const int over = cli_begin(&cmd_bench_spec, argc, argv, &args, &model);
    if (over != CLI_GO)
        return over;
    if ((model != NULL) + (args.synthetic != NULL) + args.kernels > 1)
        return cli_report(MICA_E_USAGE,
                          "bench measures one of MODEL, --synthetic and --kernels at a time");
    return run_bench(&args, model);
}
