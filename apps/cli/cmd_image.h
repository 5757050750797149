/* cmd_image.h - what the parts of `mica image` share.
 *
 *     cmd_image_options.c   the command line
 *     cmd_image_recipe.c    the one of a picture that is made again (--recipe)
 *     cmd_image.c           checks, the run itself
 *     cmd_image_result.c    what is printed about it: summary, token ids, JSON */
#ifndef MICA_CLI_CMD_IMAGE_H
#define MICA_CLI_CMD_IMAGE_H

#include "base/json.h"
#include "cli.h"

#define IMAGE_GUIDANCE_UNSET (-1.0)

typedef struct image_args {
    cli_common_args common;
    cli_engine_args engine;
    cli_texts prompts;
    const char *negative, *output, *noise, *trace;
    const char *recipe; /* picture whose options are taken first */
    const char *literal_prompt,
        *literal_negative; /* its texts: where they are used, nothing is read */
    int sheet;             /* columns; 0: none, -1: about as many as rows */
    int width, height, steps, batch, solver, schedule, noise_rng, round_timesteps, vae_tile;
    int max_text_tokens;
    int distilled, ref_pixels, vision_pixels, edit, picture_positions, layers;
    double guidance, strength, cfg_normalization, cfg_truncation;
    cli_texts inputs;
    const char *mask;
    cli_doubles expand;
    uint64_t seed;
    cli_doubles sigmas;
    bool tokens, show, no_cache;
    int cache_megabytes; /* 0: the library's default */
    int show_as;         /* cli_protocol; NONE: what the terminal draws */
    int step_caching, caching_method;
} image_args;

/* One run and what it leaves behind; every member is released by run_deinit. */
typedef struct image_run {
    const image_args *args;
    const char *model;
    char *prompts[CLI_MAX_TEXTS], *negative;
    mica_engine *engine;
    mica_session *session;
    mica_image *images[CLI_MAX_TEXTS]; /* one a prompt, each of --batch pictures */
    int image_count;
    mica_image *sheet;    /* NULL: none */
    mica_run_stats stats; /* of all prompts together */
    mica_image_input inputs[CLI_MAX_TEXTS], mask;
    cli_loras loras;
    char *cache;  /* folder of cached prompts; NULL: none */
    char **paths; /* written pictures */
    int path_count;
    cli_progress progress;
    double start, open_seconds, write_seconds;
} image_run;

void image_args_init(image_args *args);

/* cmd_image_recipe.c */
typedef struct image_recipe {
    mica_json json;
    const struct cJSON *recipe;
    const char *prompt, *negative; /* borrowed from json */
} image_recipe;
/* args: as argv was parsed once, so that `recipe` is known; becomes what the recipe says, and argv over it. Texts
 * of args are borrowed from *r, which image_recipe_deinit frees, also after a failure. */
mica_status image_recipe_read(image_recipe *r, image_args *args, int argc, char **argv,
                              mica_err *err);
/* The middle of it: `json`, what mica inspect tells of the picture, to *args, which on entry has the user's own
 * options. Errors: MICA_E_FORMAT, MICA_E_MISSING, MICA_E_UNSUPPORTED (a sheet), MICA_E_USAGE (files to be given). */
mica_status image_recipe_follow(image_recipe *r, const char *json, image_args *args, mica_err *err);
/* A note when the recipe of what was made, `made`, names another model. */
void image_recipe_compare(const image_recipe *r, const image_args *args, const char *made);
void image_recipe_deinit(image_recipe *r);

/* Whether -o - sends the picture to standard output. */
bool image_is_pipe(const image_args *args);
/* Name of a --schedule word for the library; NULL: the checkpoint's. */
const char *image_schedule_name(int word);
/* Picture `index` of all that are written: its image, and the index there. */
const mica_image *image_picture(const image_run *run, int index, int *within);
/* Moves the text of a handle's failure into err; returns status. */
mica_status image_take_text(mica_status status, const char *text, mica_err *err);
/* Appends what standard output receives after a run. */
mica_status image_describe(image_run *run, mica_text *out, mica_err *err);

#endif
