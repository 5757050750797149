/* cmd_image.c - `mica image`: text, or text and pictures, to pictures.
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

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

bool image_is_pipe(const image_args *a)
{
    return a->output && strcmp(a->output, "-") == 0;
}

static const char *output_path(const image_args *a)
{
    return a->output ? a->output : "out.png";
}

static bool makes_picture(const image_args *a)
{
    return !a->tokens || a->output;
}

/* "-": one PNG to standard output, which then belongs to it alone. */
static mica_status check_pipe(const image_args *a, mica_err *err)
{
    const bool several = (a->prompts.count > 1 || a->batch > 1) && !a->sheet;
    if (several)
        return MICA_FAIL(err, MICA_E_USAGE, "-o - takes one picture; --sheet makes one of several");
    if (a->common.json || a->show || a->show_as || a->tokens)
        return MICA_FAIL(err, MICA_E_USAGE, "-o - and %s both want standard output",
                         a->common.json ? "--json"
                         : a->tokens    ? "--tokens"
                                        : "--show");
    if (isatty(STDOUT_FILENO))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "-o - writes a PNG to standard output; send it to a file or program");
    return MICA_OK;
}

static mica_status check_output(const image_args *a, mica_err *err)
{
    return image_is_pipe(a) ? check_pipe(a, err) : cli_output_check(output_path(a), err);
}

static mica_status check_inputs(const image_args *a, mica_err *err)
{
    const char *what = a->mask ? "--mask" : a->expand.count ? "--expand" : "--strength";
    if (!a->inputs.count && (a->mask || a->expand.count || a->strength > 0.0))
        return MICA_FAIL(err, MICA_E_USAGE, "%s needs a picture to start from: -i FILE", what);
    for (int i = 0; i < a->inputs.count; i++)
        if (!mica_path_is_file(a->inputs.values[i]))
            return MICA_FAIL(err, MICA_E_MISSING, "input picture '%s' does not exist",
                             a->inputs.values[i]);
    if (a->mask && !mica_path_is_file(a->mask))
        return MICA_FAIL(err, MICA_E_MISSING, "mask '%s' does not exist", a->mask);
    if (a->expand.count != 0 && a->expand.count != 1 && a->expand.count != 4)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "--expand takes one number, or left,top,right,bottom; got %d numbers",
                         a->expand.count);
    for (int i = 0; i < a->expand.count; i++)
        if (a->expand.values[i] != floor(a->expand.values[i]))
            return MICA_FAIL(err, MICA_E_USAGE, "--expand takes whole pixels; got %g",
                             a->expand.values[i]);
    return MICA_OK;
}

/* The texts of a recipe are no names of anything. */
static bool is_literal(const image_args *a, const char *text)
{
    return text && (text == a->literal_prompt || text == a->literal_negative);
}

static bool is_from_input(const image_args *a, const char *text)
{
    return text && !is_literal(a, text) && strcmp(text, "-") == 0;
}

static mica_status check_prompts(const image_args *a, mica_err *err)
{
    int from_input = is_from_input(a, a->negative);
    if (!a->prompts.count)
        return MICA_FAIL(err, MICA_E_USAGE, "image needs a prompt: -p TEXT");
    for (int i = 0; i < a->prompts.count; i++)
        from_input += is_from_input(a, a->prompts.values[i]);
    if (from_input > 1)
        return MICA_FAIL(err, MICA_E_USAGE, "only one of -p and -n can read standard input");
    if (a->trace && a->prompts.count > 1)
        return MICA_FAIL(err, MICA_E_USAGE, "--trace takes one prompt, not %d", a->prompts.count);
    if (a->tokens && a->prompts.count > 1)
        return MICA_FAIL(err, MICA_E_USAGE, "--tokens takes one prompt, not %d", a->prompts.count);
    if ((a->show || a->show_as) && a->common.json)
        return MICA_FAIL(err, MICA_E_USAGE, "--show and --json both want standard output");
    return MICA_OK;
}

static mica_status check_args(const image_args *a, mica_err *err)
{
    MICA_TRY(check_prompts(a, err));
    MICA_TRY(check_sigmas(a, err));
    MICA_TRY(check_inputs(a, err));
    if (makes_picture(a))
        MICA_TRY(check_output(a, err));
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
    for (int i = 0; i < run->image_count; i++)
        mica_image_close(&run->images[i]);
    mica_image_close(&run->sheet);
    mica_session_close(&run->session);
    mica_engine_close(&run->engine);
    cli_loras_deinit(&run->loras);
    mica_mem_free(run->cache);
    for (int i = 0; i < run->args->prompts.count; i++)
        mica_mem_free(run->prompts[i]);
    mica_mem_free(run->negative);
}

static mica_status read_text(const image_args *a, const char *argument, char **out, mica_err *err)
{
    if (!is_literal(a, argument))
        return cli_text_read(argument, out, err);
    *out = mica_mem_strdup(argument);
    return *out ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
}

static mica_status read_prompts(image_run *run, mica_err *err)
{
    for (int i = 0; i < run->args->prompts.count; i++) {
        MICA_TRY(read_text(run->args, run->args->prompts.values[i], &run->prompts[i], err));
        cli_note_invalid_text("prompt", run->prompts[i], run->args->common.quiet);
    }
    MICA_TRY(read_text(run->args, run->args->negative, &run->negative, err));
    cli_note_invalid_text("negative prompt", run->negative, run->args->common.quiet);
    return MICA_OK;
}

/* Where the system keeps caches: $XDG_CACHE_HOME, else ~/.cache. Relative paths there are to be
 * ignored (XDG base directory specification). Without either there is no cache. */
static mica_status find_cache(image_run *run, mica_err *err)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const bool has_base = base && base[0] == '/';
    if (run->args->no_cache || (!has_base && !(home && home[0] == '/')))
        return MICA_OK;
    run->cache =
        mica_path_join(has_base ? base : home, has_base ? "mica/prompts" : ".cache/mica/prompts");
    return run->cache ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
}

static mica_status open_model(image_run *run, mica_err *err)
{
    mica_engine_options options;
    const double start = mica_clock_seconds();
    cli_engine_fill(&run->args->engine, run->model, &options);
    options.loras = run->loras.inputs;
    options.lora_count = run->loras.count;
    mica_status status = mica_engine_open(&run->engine, &options);
    if (status)
        return image_take_text(status, run->engine ? mica_engine_errmsg(run->engine) : NULL, err);
    if (!run->args->common.quiet)
        cli_note_lines(mica_engine_notes(run->engine));
    status = mica_session_open(&run->session, run->engine);
    run->open_seconds = mica_clock_seconds() - start;
    MICA_TRY(image_take_text(status, run->session ? mica_session_errmsg(run->session) : NULL, err));
    if (mica_session_channels(run->session) == 4 && makes_picture(run->args) &&
        cli_output_is_jpeg(output_path(run->args)))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "output '%s': a JPEG cannot hold the transparency of layers; use .png or "
                         ".webp",
                         output_path(run->args));
    return MICA_OK;
}

static void fill_inputs(image_run *run, mica_image_options *out)
{
    const image_args *a = run->args;
    for (int i = 0; i < a->inputs.count; i++)
        run->inputs[i].path = a->inputs.values[i];
    run->mask.path = a->mask;
    out->inputs = run->inputs;
    out->input_count = a->inputs.count;
    out->mask = a->mask ? &run->mask : NULL;
    for (int i = 0; i < 4 && a->expand.count; i++)
        out->expand_[i] = (int)a->expand.values[a->expand.count == 1 ? 0 : i];
}

static void fill_options(image_run *run, mica_image_options *out)
{
    const image_args *a = run->args;
    *out = (mica_image_options){.size = sizeof *out,
                                .prompt = run->prompts[run->image_count],
                                .negative_prompt = run->negative,
                                .width = a->width,
                                .height = a->height,
                                .steps = a->steps,
                                .guidance = a->guidance,
                                .seed = a->seed,
                                .batch = a->batch,
                                .solver = (mica_solver)a->solver,
                                .schedule = image_schedule_name(a->schedule),
                                .sigmas = a->sigmas.count ? a->sigmas.values : NULL,
                                .sigma_count = a->sigmas.count,
                                .noise_rng = (mica_noise_rng)a->noise_rng,
                                .round_timesteps_bf16 = a->round_timesteps != 0,
                                .vae_tile = a->vae_tile,
                                .max_text_tokens = a->max_text_tokens,
                                .noise_path = a->noise,
                                .trace_path = a->trace,
                                .progress = cli_progress_update,
                                .progress_user = &run->progress,
                                .strength = a->strength,
                                .ref_pixels = a->ref_pixels,
                                .vision_pixels = a->vision_pixels,
                                .edit = (mica_edit)a->edit,
                                .layers = a->layers,
                                .picture_positions = (mica_positions)a->picture_positions,
                                .distilled = (mica_choice)a->distilled,
                                .cfg_normalization = a->cfg_normalization,
                                .step_caching = (mica_step_caching)a->step_caching,
                                .caching_method = (mica_caching_method)a->caching_method,
                                .prompt_cache = run->cache,
                                .prompt_cache_bytes = (uint64_t)a->cache_megabytes << 20,
                                .cfg_truncation = a->cfg_truncation};
    fill_inputs(run, out);
    /* For the library 0 means the model's default; a user who types 0 means off. */
    if (a->guidance == IMAGE_GUIDANCE_UNSET)
        out->guidance = 0.0;
    else if (a->guidance == 0.0)
        out->guidance = -1.0;
}

static mica_status add_stats(image_run *run, mica_err *err)
{
    mica_run_stats s = {.size = sizeof s}, *all = &run->stats;
    const mica_status status = mica_session_stats(run->session, &s);
    MICA_TRY(image_take_text(status, mica_session_errmsg(run->session), err));
    /* Steps per second of all: steps of all over seconds of all. */
    const double steps = all->steps_per_second * all->seconds[MICA_PHASE_DENOISE] +
                         s.steps_per_second * s.seconds[MICA_PHASE_DENOISE];
    for (int i = 0; i < MICA_PHASE_COUNT; i++)
        all->seconds[i] += s.seconds[i];
    if (all->seconds[MICA_PHASE_DENOISE] > 0.0)
        all->steps_per_second = steps / all->seconds[MICA_PHASE_DENOISE];
    all->peak_memory = MICA_MAX(all->peak_memory, s.peak_memory);
    all->device_memory = MICA_MAX(all->device_memory, s.device_memory);
    all->streamed_weights = MICA_MAX(all->streamed_weights, s.streamed_weights);
    all->block_allocations += s.block_allocations;
    all->block_waits += s.block_waits;
    all->step_waits += s.step_waits;
    all->rope_builds += s.rope_builds;
    all->modulation_matmuls += s.modulation_matmuls;
    all->prompt_cache_hits += s.prompt_cache_hits;
    all->skipped_evaluations += s.skipped_evaluations;
    return MICA_OK;
}

/* One prompt after the other; each begins with the same seed. */
static mica_status generate(image_run *run, mica_err *err)
{
    mica_image_options options;
    cli_signals_install();
    while (run->image_count < run->args->prompts.count) {
        fill_options(run, &options);
        cli_progress_init(&run->progress, run->args->common.quiet);
        const mica_status status =
            mica_image_generate(run->session, &options, &run->images[run->image_count]);
        cli_progress_end(&run->progress);
        MICA_TRY(image_take_text(status, mica_session_errmsg(run->session), err));
        run->image_count++;
        MICA_TRY(add_stats(run, err));
    }
    return MICA_OK;
}

static int picture_count(const image_run *run)
{
    int count = 0;
    for (int i = 0; i < run->image_count && !run->sheet; i++)
        count += mica_image_count(run->images[i]);
    return run->sheet ? 1 : count;
}

const mica_image *image_picture(const image_run *run, int index, int *within)
{
    *within = 0;
    for (int i = 0; i < run->image_count && !run->sheet; i++) {
        const int count = mica_image_count(run->images[i]);
        *within = index;
        if (index < count)
            return run->images[i];
        index -= count;
    }
    return run->sheet;
}

static mica_status make_sheet(image_run *run, mica_err *err)
{
    const mica_image *images[CLI_MAX_TEXTS];
    char message[MICA_ERR_TEXT] = "";
    for (int i = 0; i < run->image_count; i++)
        images[i] = run->images[i];
    const int columns =
        run->args->sheet > 0 ? run->args->sheet : (int)ceil(sqrt((double)picture_count(run)));
    const mica_status status =
        mica_image_sheet(&run->sheet, images, run->image_count, columns, message, sizeof message);
    return image_take_text(status, message, err);
}

static bool write_bytes(void *user, const void *data, size_t size)
{
    (void)user;
    return fwrite(data, 1, size, stdout) == size;
}

static mica_status write_pipe(image_run *run, mica_err *err)
{
    char message[MICA_ERR_TEXT] = "";
    int within;
    const mica_image *image = image_picture(run, 0, &within);
    if (picture_count(run) != 1)
        return MICA_FAIL(err, MICA_E_USAGE, "-o - takes one picture, and these are %d",
                         picture_count(run));
    const mica_status status =
        mica_image_encode(image, within, "picture.png", write_bytes, NULL, message, sizeof message);
    if (status == MICA_E_IO || (!status && fflush(stdout) == EOF))
        return MICA_FAIL(err, MICA_E_IO, "cannot write to standard output: %s", strerror(errno));
    return image_take_text(status, message, err);
}

static mica_status write_pictures(image_run *run, mica_err *err)
{
    const double start = mica_clock_seconds();
    char message[MICA_ERR_TEXT] = "";
    if (run->args->sheet)
        MICA_TRY(make_sheet(run, err));
    if (image_is_pipe(run->args))
        return write_pipe(run, err);
    const int count = picture_count(run);
    run->paths = mica_mem_calloc((size_t)count, sizeof *run->paths);
    if (!run->paths)
        return MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
    for (int i = 0; i < count; i++) {
        int within;
        const mica_image *image = image_picture(run, i, &within);
        MICA_TRY(cli_output_name(output_path(run->args), i, count, &run->paths[i], err));
        run->path_count++;
        const mica_status status =
            mica_image_write(image, within, run->paths[i], message, sizeof message);
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
    MICA_TRY(cli_loras_read(&run->args->engine, &run->loras, err));
    MICA_TRY(read_prompts(run, err));
    MICA_TRY(find_cache(run, err));
    MICA_TRY(open_model(run, err));
    if (makes_picture(run->args)) {
        MICA_TRY(generate(run, err));
        MICA_TRY(write_pictures(run, err));
    }
    MICA_TRY(image_describe(run, result, err));
    return result->failed ? MICA_FAIL(err, MICA_E_NOMEM, "out of memory") : MICA_OK;
}

static int run_and_print(const image_args *args, const image_recipe *recipe, const char *model)
{
    image_run run = {.args = args, .model = model};
    mica_text result = {0};
    mica_err err = {0};
    const mica_status status = run_image(&run, &result, &err);
    if (!status && recipe && run.image_count)
        image_recipe_compare(recipe, args, mica_image_recipe(run.images[0], 0));
    const int exit_status = cli_end(status, &err, &result);
    run_deinit(&run);
    return exit_status;
}

static int run_again(image_args *args, int argc, char **argv, const char *model)
{
    image_recipe recipe = {.prompt = NULL};
    mica_err err = {0};
    const mica_status st = image_recipe_read(&recipe, args, argc, argv, &err);
    const int exit_status = st ? cli_report_err(&err) : run_and_print(args, &recipe, model);
    image_recipe_deinit(&recipe);
    return exit_status;
}

int cmd_image(int argc, char **argv)
{
    image_args args;
    const char *model = NULL;
    image_args_init(&args);
    const int over = cli_begin(&cmd_image_spec, argc, argv, &args, &model);
    if (over != CLI_GO)
        return over;
    return args.recipe ? run_again(&args, argc, argv, model) : run_and_print(&args, NULL, model);
}
