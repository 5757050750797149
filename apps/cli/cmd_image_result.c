/* cmd_image_result.c - what `mica image` prints when it is done.
 *
 * For people: one line per picture and one of times. With --json: one object, documented in
 * docs/CLI.md. With --tokens: the ids, one line per text, before anything else. */
#include "cmd_image.h"

#include "base/clock.h"
#include "cli_show.h"

#include <inttypes.h>

mica_status image_take_text(mica_status status, const char *text, mica_err *err)
{
    if (status)
        MICA_FAIL(err, status, "%s", text && text[0] ? text : mica_status_name(status));
    return status;
}

static mica_status add_tokens(image_run *run, const char *text, const char *before,
                              const char *between, const char *after, mica_text *out, mica_err *err)
{
    const int32_t *ids = NULL;
    size_t count = 0;
    const mica_status status = mica_session_tokens(run->session, text, &ids, &count);
    MICA_TRY(image_take_text(status, mica_session_errmsg(run->session), err));
    mica_text_add(out, "%s", before);
    for (size_t i = 0; i < count; i++)
        mica_text_add(out, "%s%" PRId32, i ? between : "", ids[i]);
    mica_text_add(out, "%s", after);
    return MICA_OK;
}

static mica_status add_tokens_json(image_run *run, mica_text *out, mica_err *err)
{
    MICA_TRY(add_tokens(run, run->prompts[0], ",\"tokens\":{\"prompt\":[", ",", "]", out, err));
    if (run->negative)
        MICA_TRY(add_tokens(run, run->negative, ",\"negative\":[", ",", "]", out, err));
    mica_text_add(out, "}");
    return MICA_OK;
}

static mica_status add_tokens_plain(image_run *run, mica_text *out, mica_err *err)
{
    MICA_TRY(add_tokens(run, run->prompts[0], "", " ", "\n", out, err));
    if (run->negative)
        MICA_TRY(add_tokens(run, run->negative, "", " ", "\n", out, err));
    return MICA_OK;
}

/* Which prompt a picture is of. */
static int prompt_of(const image_run *run, const mica_image *image)
{
    int i = 0;
    while (run->images[i] != image)
        i++;
    return i;
}

static void add_outputs_json(const image_run *run, mica_text *out)
{
    mica_text_add(out, ",\"output\":");
    mica_text_add_json_string(out, run->paths[0]);
    mica_text_add(out, ",\"outputs\":[");
    for (int i = 0; i < run->path_count; i++) {
        int within;
        const mica_image *image = image_picture(run, i, &within);
        mica_text_add(out, "%s{\"path\":", i ? "," : "");
        mica_text_add_json_string(out, run->paths[i]);
        if (!run->sheet) {
            mica_text_add(out, ",\"prompt\":");
            mica_text_add_json_string(out, run->prompts[prompt_of(run, image)]);
        }
        mica_text_add(out, ",\"seed\":%" PRIu64 ",\"width\":%d,\"height\":%d}",
                      mica_image_seed(image, within), mica_image_width(image),
                      mica_image_height(image));
    }
    mica_text_add(out, "]");
}

static void add_stats_json(const image_run *run, mica_text *out)
{
    const mica_run_stats *s = &run->stats;
    mica_text_add(out,
                  ",\"seconds\":{\"open\":%.6f,\"text\":%.6f,\"prepare\":%.6f,\"denoise\":%.6f,"
                  "\"decode\":%.6f,\"write\":%.6f,\"total\":%.6f}",
                  run->open_seconds, s->seconds[MICA_PHASE_TEXT], s->seconds[MICA_PHASE_PREPARE],
                  s->seconds[MICA_PHASE_DENOISE], s->seconds[MICA_PHASE_DECODE], run->write_seconds,
                  mica_clock_seconds() - run->start);
    mica_text_add(out,
                  ",\"steps_per_second\":%.6f,\"peak_memory\":%" PRIu64
                  ",\"device_memory\":%" PRIu64 ",\"streamed_weights\":%" PRIu64,
                  s->steps_per_second, s->peak_memory, s->device_memory, s->streamed_weights);
    mica_text_add(out,
                  ",\"counters\":{\"block_allocations\":%" PRIu64 ",\"block_waits\":%" PRIu64
                  ",\"step_waits\":%" PRIu64 ",\"rope_builds\":%" PRIu64
                  ",\"modulation_matmuls\":%" PRIu64 ",\"prompt_cache_hits\":%" PRIu64
                  ",\"skipped_evaluations\":%" PRIu64 "}",
                  s->block_allocations, s->block_waits, s->step_waits, s->rope_builds,
                  s->modulation_matmuls, s->prompt_cache_hits, s->skipped_evaluations);
}

static void add_summary(const image_run *run, mica_text *out)
{
    const mica_run_stats *s = &run->stats;
    for (int i = 0; i < run->path_count; i++) {
        int within;
        const mica_image *image = image_picture(run, i, &within);
        mica_text_add(out, "%s: %dx%d, seed %" PRIu64 "\n", run->paths[i], mica_image_width(image),
                      mica_image_height(image), mica_image_seed(image, within));
    }
    mica_text_add(out,
                  "%.2f s (text %.2f, prepare %.2f, denoise %.2f at %.3g steps/s, decode %.2f)",
                  mica_clock_seconds() - run->start, s->seconds[MICA_PHASE_TEXT],
                  s->seconds[MICA_PHASE_PREPARE], s->seconds[MICA_PHASE_DENOISE],
                  s->steps_per_second, s->seconds[MICA_PHASE_DECODE]);
    mica_text_add(out, ", peak memory %.2f GB", (double)s->peak_memory * 1e-9);
    if (s->device_memory)
        mica_text_add(out, ", of the GPU %.2f GB", (double)s->device_memory * 1e-9);
    if (s->streamed_weights)
        mica_text_add(out, ", %.2f GB of weights streamed", (double)s->streamed_weights * 1e-9);
    mica_text_add(out, "\n");
}

static mica_status add_shown(const image_run *run, mica_text *out, mica_err *err)
{
    const cli_protocol protocol = run->args->show_as ? (cli_protocol)run->args->show_as
                                  : run->args->show  ? cli_show_find()
                                                     : CLI_PROTOCOL_NONE;
    if (run->args->show && protocol == CLI_PROTOCOL_NONE && !run->args->common.quiet)
        cli_note(
            "--show: standard output is no terminal that draws pictures (kitty, iTerm2 or sixel)");
    for (int i = 0; i < run->path_count && protocol != CLI_PROTOCOL_NONE; i++) {
        int within;
        const mica_image *image = image_picture(run, i, &within);
        const cli_pixels pixels = {mica_image_rgb(image, within), mica_image_width(image),
                                   mica_image_height(image), mica_image_channels(image)};
        MICA_TRY(cli_show_add(protocol, &pixels, run->paths[i], out, err));
    }
    return MICA_OK;
}

mica_status image_describe(image_run *run, mica_text *out, mica_err *err)
{
    const image_args *a = run->args;
    const bool made = run->path_count > 0;
    if (!a->common.json) {
        if (a->tokens)
            MICA_TRY(add_tokens_plain(run, out, err));
        if (made && !a->common.quiet)
            add_summary(run, out);
        cli_make_printable(out);
        return made ? add_shown(run, out, err) : MICA_OK;
    }
    mica_text_add(out, "{\"command\":\"image\",\"version\":");
    mica_text_add_json_string(out, mica_version());
    mica_text_add(out, ",\"device\":\"%s\"", mica_engine_device(run->engine));
    if (a->tokens)
        MICA_TRY(add_tokens_json(run, out, err));
    if (made) {
        const char *recipe = mica_image_recipe(run->images[0], 0);
        mica_text_add(out, ",\"parameters\":%s", recipe ? recipe : "null");
        add_outputs_json(run, out);
        add_stats_json(run, out);
    }
    mica_text_add(out, "}\n");
    return MICA_OK;
}
