/* cmd_image.c - `mica image`: text to picture.
 *
 *     parse ──► check (prompt, output path, files) ──► open model ──► generate ──► write
 *                     nothing slow before this                 progress, Ctrl-C
 *
 * Whatever can be known to be wrong from the command line and the file system is told before
 * the model opens. Pictures appear under their names whole or not at all. */
#include "cmd_image.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <string.h>

#define GUIDANCE_UNSET (-1.0)

static const cli_word solver_words[] = {
    {"default", MICA_SOLVER_DEFAULT},   {"euler", MICA_SOLVER_EULER}, {"heun", MICA_SOLVER_HEUN},
    {"dpmpp-2m", MICA_SOLVER_DPMPP_2M}, {"unipc", MICA_SOLVER_UNIPC}, {NULL, 0}};
/* Values index schedule_names. */
static const cli_word schedule_words[] = {{"default", 0},     {"linear", 1}, {"karras", 2},
                                          {"exponential", 3}, {"beta", 4},   {"lightning", 5},
                                          {NULL, 0}};
static const char *const schedule_names[] = {NULL,          "linear", "karras",
                                             "exponential", "beta",   "lightning"};
static const cli_word noise_rng_words[] = {
    {"f32", MICA_NOISE_RNG_F32}, {"torch2.11-bf16", MICA_NOISE_RNG_TORCH211_BF16}, {NULL, 0}};
static const cli_word rounding_words[] = {{"none", 0}, {"bf16", 1}, {NULL, 0}};
static const cli_word tile_words[] = {{"auto", 0}, {"off", -1}, {NULL, 0}};

#define AT(field) offsetof(image_args, field)
static const cli_option picture_table[] = {
    {.name = "prompt",
     .letter = 'p',
     .kind = CLI_TEXT,
     .offset = AT(prompt),
     .value = "TEXT",
     .help = "what to draw; @FILE reads a file, - standard input, @@... is a text that begins "
             "with @"},
    {.name = "negative",
     .letter = 'n',
     .kind = CLI_TEXT,
     .offset = AT(negative),
     .value = "TEXT",
     .help = "what to keep away from; without it there is no guidance"},
    {.name = "output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = AT(output),
     .value = "FILE",
     .help = "picture to write, .png, .jpg or .webp (out.png); with --batch 2 FILE-1, FILE-2"},
    {.name = "width",
     .letter = 'W',
     .kind = CLI_INT,
     .offset = AT(width),
     .lo = 16,
     .hi = 16384,
     .value = "N",
     .help = "pixels; rounded down to what the model can do"},
    {.name = "height",
     .letter = 'H',
     .kind = CLI_INT,
     .offset = AT(height),
     .lo = 16,
     .hi = 16384,
     .value = "N",
     .help = "likewise"},
    {.name = "steps",
     .kind = CLI_INT,
     .offset = AT(steps),
     .lo = 1,
     .hi = 1000,
     .value = "N",
     .help = "denoising steps; the model's default"},
    {.name = "guidance",
     .kind = CLI_DOUBLE,
     .offset = AT(guidance),
     .lo = 0,
     .hi = 1000,
     .value = "G",
     .help = "scale of classifier-free guidance; 1 or less: off"},
    {.name = "seed",
     .kind = CLI_UINT64,
     .offset = AT(seed),
     .value = "S",
     .help = "start noise (0); picture k of a batch uses S + k - 1"},
    {.name = "batch",
     .kind = CLI_INT,
     .offset = AT(batch),
     .lo = 1,
     .hi = 64,
     .value = "N",
     .help = "number of pictures (1)"},
    {.letter = 'i', .kind = CLI_ABSENT},
    {.name = "strength", .kind = CLI_ABSENT},
    {.name = "mask", .kind = CLI_ABSENT},
    {.name = "lora", .kind = CLI_ABSENT},
};
static const cli_option sampling_table[] = {
    {.name = "solver",
     .kind = CLI_WORD,
     .offset = AT(solver),
     .words = solver_words,
     .value = "S",
     .help = "one of"},
    {.name = "schedule",
     .kind = CLI_WORD,
     .offset = AT(schedule),
     .words = schedule_words,
     .value = "S",
     .help = "spacing of the noise levels"},
    {.name = "sigmas",
     .kind = CLI_DOUBLES,
     .offset = AT(sigmas),
     .lo = 0,
     .hi = 1,
     .value = "A,B,...",
     .help = "own noise levels, falling, instead of --steps"},
    {.name = "noise-rng",
     .kind = CLI_WORD,
     .offset = AT(noise_rng),
     .words = noise_rng_words,
     .value = "R",
     .help = "how a seed becomes noise"},
    {.name = "timestep-rounding",
     .kind = CLI_WORD,
     .offset = AT(round_timesteps),
     .words = rounding_words,
     .value = "R",
     .help = "round timesteps as the reference's bf16 runs do"},
    {.name = "max-text-tokens",
     .kind = CLI_INT,
     .offset = AT(max_text_tokens),
     .lo = 1,
     .hi = 100000,
     .value = "N",
     .help = "longest prompt; the model's limit"},
    {.name = "vae-tile",
     .kind = CLI_INT,
     .offset = AT(vae_tile),
     .lo = 1,
     .hi = 16384,
     .words = tile_words,
     .value = "N",
     .help = "rows of latents decoded at a time, to save memory, or one of"},
};
static const cli_option porting_table[] = {
    {.name = "noise",
     .kind = CLI_TEXT,
     .offset = AT(noise),
     .value = "FILE",
     .help = "start from tensor initial_latents of a safetensors file instead of the seed"},
    {.name = "trace",
     .kind = CLI_TEXT,
     .offset = AT(trace),
     .value = "FILE",
     .help = "write every named intermediate tensor to a safetensors file"},
    {.name = "tokens",
     .kind = CLI_FLAG,
     .offset = AT(tokens),
     .help = "print the token ids of prompt and negative prompt, one line each; a picture is "
             "then made only with -o"},
};
#undef AT

/* ---------------------------------------------------------------- checks -- */

static mica_status check_sigmas(const image_args *a, mica_err *err)
{
    const cli_doubles *s = &a->sigmas;
    if (s->count && a->steps && a->steps != s->count)
        return MICA_FAIL(err, MICA_E_USAGE, "--steps is %d but --sigmas gives %d", a->steps,
                         s->count);
    for (int i = 0; i + 1 < s->count; i++)
        if (s->values[i] <= s->values[i + 1])
            return MICA_FAIL(err, MICA_E_USAGE, "--sigmas must fall; %g is followed by %g",
                             s->values[i], s->values[i + 1]);
    if (s->count && s->values[s->count - 1] <= 0.0)
        return MICA_FAIL(err, MICA_E_USAGE, "--sigmas must be above 0; the final 0 is implied");
    return MICA_OK;
}

static const char *output_path(const image_args *a)
{
    return a->output ? a->output : "out.png";
}

static bool makes_picture(const image_args *a)
{
    return !a->tokens || a->output;
}

static mica_status check_args(const image_args *a, mica_err *err)
{
    if (!a->prompt)
        return MICA_FAIL(err, MICA_E_USAGE, "image needs a prompt: -p TEXT");
    if (a->negative && strcmp(a->prompt, "-") == 0 && strcmp(a->negative, "-") == 0)
        return MICA_FAIL(err, MICA_E_USAGE, "only one of -p and -n can read standard input");
    MICA_TRY(check_sigmas(a, err));
    if (makes_picture(a))
        MICA_TRY(cli_output_check(output_path(a), err));
    if (a->trace)
        MICA_TRY(cli_output_check_folder(a->trace, err));
    if (a->noise && !mica_path_is_file(a->noise))
        return MICA_FAIL(err, MICA_E_MISSING, "noise file '%s' does not exist", a->noise);
    return MICA_OK;
}

/* --------------------------------------------------------------- running -- */

static void run_deinit(image_run *run)
{
    for (int i = 0; i < run->path_count; i++)
        mica_mem_free(run->paths[i]);
    mica_mem_free(run->paths);
    mica_image_close(&run->image);
    mica_session_close(&run->session);
    mica_engine_close(&run->engine);
    mica_mem_free(run->prompt);
    mica_mem_free(run->negative);
}

static void note_invalid_text(const image_run *run, const char *what, const char *text)
{
    if (!text || run->args->common.quiet || mica_utf8_is_valid(text, strlen(text)))
        return;
    mica_err err = {0};
    MICA_FAIL(&err, MICA_OK, "the %s is not valid UTF-8; bad bytes are read as U+FFFD", what);
    cli_note(err.text);
}

static mica_status read_prompts(image_run *run, mica_err *err)
{
    MICA_TRY(cli_text_read(run->args->prompt, &run->prompt, err));
    MICA_TRY(cli_text_read(run->args->negative, &run->negative, err));
    note_invalid_text(run, "prompt", run->prompt);
    note_invalid_text(run, "negative prompt", run->negative);
    return MICA_OK;
}

static mica_status open_model(image_run *run, mica_err *err)
{
    mica_engine_options options;
    const double start = mica_clock_seconds();
    cli_engine_fill(&run->args->engine, run->model, &options);
    mica_status status = mica_engine_open(&run->engine, &options);
    if (status)
        return image_take_text(status, run->engine ? mica_engine_errmsg(run->engine) : NULL, err);
    status = mica_session_open(&run->session, run->engine);
    run->open_seconds = mica_clock_seconds() - start;
    return image_take_text(status, run->session ? mica_session_errmsg(run->session) : NULL, err);
}

static void fill_options(image_run *run, mica_image_options *out)
{
    const image_args *a = run->args;
    *out = (mica_image_options){.size = sizeof *out,
                                .prompt = run->prompt,
                                .negative_prompt = run->negative,
                                .width = a->width,
                                .height = a->height,
                                .steps = a->steps,
                                .guidance = a->guidance,
                                .seed = a->seed,
                                .batch = a->batch,
                                .solver = (mica_solver)a->solver,
                                .schedule = schedule_names[a->schedule],
                                .sigmas = a->sigmas.count ? a->sigmas.values : NULL,
                                .sigma_count = a->sigmas.count,
                                .noise_rng = (mica_noise_rng)a->noise_rng,
                                .round_timesteps_bf16 = a->round_timesteps != 0,
                                .vae_tile = a->vae_tile,
                                .max_text_tokens = a->max_text_tokens,
                                .noise_path = a->noise,
                                .trace_path = a->trace,
                                .progress = cli_progress_update,
                                .progress_user = &run->progress};
    /* For the library 0 means the model's default; a user who types 0 means off. */
    if (a->guidance == GUIDANCE_UNSET)
        out->guidance = 0.0;
    else if (a->guidance == 0.0)
        out->guidance = 1.0;
}

static mica_status generate(image_run *run, mica_err *err)
{
    mica_image_options options;
    fill_options(run, &options);
    cli_progress_init(&run->progress, run->args->common.quiet);
    cli_signals_install();
    const mica_status status = mica_image_generate(run->session, &options, &run->image);
    cli_progress_end(&run->progress);
    return image_take_text(status, mica_session_errmsg(run->session), err);
}

static mica_status write_pictures(image_run *run, mica_err *err)
{
    const int count = mica_image_count(run->image);
    const double start = mica_clock_seconds();
    char message[MICA_ERR_TEXT] = "";
    run->paths = mica_mem_calloc((size_t)count, sizeof *run->paths);
    if (!run->paths)
        return MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
    for (int i = 0; i < count; i++) {
        MICA_TRY(cli_output_name(output_path(run->args), i, count, &run->paths[i], err));
        run->path_count++;
        const mica_status status =
            mica_image_write(run->image, i, run->paths[i], message, sizeof message);
        MICA_TRY(image_take_text(status, message, err));
    }
    run->write_seconds = mica_clock_seconds() - start;
    return MICA_OK;
}

/* --------------------------------------------------------------- command -- */

static mica_status run_image(image_run *run, mica_text *result, mica_err *err)
{
    run->start = mica_clock_seconds();
    MICA_TRY(check_args(run->args, err));
    MICA_TRY(read_prompts(run, err));
    MICA_TRY(open_model(run, err));
    if (makes_picture(run->args)) {
        MICA_TRY(generate(run, err));
        MICA_TRY(write_pictures(run, err));
    }
    MICA_TRY(image_describe(run, result, err));
    return result->failed ? MICA_FAIL(err, MICA_E_NOMEM, "out of memory") : MICA_OK;
}

static int run_and_print(const image_args *args, const char *model)
{
    image_run run = {.args = args, .model = model};
    mica_text result = {0};
    mica_err err = {0};
    int exit_status = CLI_OK;
    if (run_image(&run, &result, &err)) {
        exit_status = cli_report_err(&err);
        if (err.status == MICA_E_CANCELLED && cli_signals_caught())
            exit_status = cli_signals_exit();
    } else if (result.data) {
        exit_status = cli_print(result.data);
    }
    mica_text_deinit(&result);
    run_deinit(&run);
    return exit_status;
}

int cmd_image(int argc, char **argv)
{
    image_args args = {.guidance = GUIDANCE_UNSET};
    const cli_group groups[] = {
        {"Picture", picture_table, MICA_ARRAY_LEN(picture_table), &args},
        {"Sampling", sampling_table, MICA_ARRAY_LEN(sampling_table), &args},
        {"Model", cli_engine_table, cli_engine_table_count, &args.engine},
        {"For porting and checking", porting_table, MICA_ARRAY_LEN(porting_table), &args},
        {"Common", cli_common_table, cli_common_table_count, &args.common}};
    const cli_spec spec = {
        .name = "mica image",
        .usage = "[MODEL] -p PROMPT [options]",
        .about =
            "Makes pictures from text. MODEL is a model folder or weight file; without it the\n"
            "demo model is used.",
        .groups = groups,
        .group_count = MICA_ARRAY_LEN(groups),
        .operand_limit = 1,
        .operand_name = "MODEL"};
    const char *model = NULL;
    mica_err err = {0};
    if (cli_parse(&spec, argc, argv, &model, &err))
        return cli_report_err(&err);
    if (args.common.help)
        return cli_print_help(&spec);
    return run_and_print(&args, model);
}
