/* cmd_image_options.c - the command line of `mica image`: tables and what they become. */
#include "cmd_image.h"

#include "base/mem.h"
#include "cli_show.h"

#include <string.h>

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
static const cli_word choice_words[] = {
    {"auto", MICA_CHOICE_AUTO}, {"yes", MICA_CHOICE_YES}, {"no", MICA_CHOICE_NO}, {NULL, 0}};
static const cli_word edit_words[] = {{"auto", MICA_EDIT_AUTO},
                                      {"off", MICA_EDIT_OFF},
                                      {"single", MICA_EDIT_SINGLE},
                                      {"plus", MICA_EDIT_PLUS},
                                      {NULL, 0}};
static const cli_word position_words[] = {{"auto", MICA_POSITIONS_AUTO},
                                          {"sequence", MICA_POSITIONS_SEQUENCE},
                                          {"grid", MICA_POSITIONS_GRID},
                                          {NULL, 0}};
static const cli_word method_words[] = {{"auto", MICA_CACHING_AUTO},
                                        {"output", MICA_CACHING_OUTPUT},
                                        {"first-block", MICA_CACHING_FIRST_BLOCK},
                                        {NULL, 0}};
static const cli_word caching_words[] = {{"off", MICA_STEP_CACHING_OFF},
                                         {"balanced", MICA_STEP_CACHING_BALANCED},
                                         {"fast", MICA_STEP_CACHING_FAST},
                                         {NULL, 0}};
static const cli_word rounding_words[] = {{"none", 0}, {"bf16", 1}, {NULL, 0}};
static const cli_word protocol_words[] = {{"auto", CLI_PROTOCOL_NONE},
                                          {"kitty", CLI_PROTOCOL_KITTY},
                                          {"iterm2", CLI_PROTOCOL_ITERM2},
                                          {"sixel", CLI_PROTOCOL_SIXEL},
                                          {NULL, 0}};
static const cli_word sheet_words[] = {{"auto", -1}, {NULL, 0}};
static const cli_word tile_words[] = {{"auto", 0}, {"off", -1}, {NULL, 0}};

#define AT(field) offsetof(image_args, field)
static const cli_option picture_table[] = {
    {.name = "prompt",
     .letter = 'p',
     .kind = CLI_TEXTS,
     .offset = AT(prompts),
     .value = "TEXT",
     .help = "what to draw, may be repeated; @FILE reads a file, - standard input, @@... is a text "
             "that begins with @"},
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
     .help = "picture to write, .png, .jpg or .webp (out.png); several become FILE-1, FILE-2"},
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
     .help = "scale of classifier-free guidance; 1 or less: off (Z-Image, which counts from 0: 0)"},
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
     .help = "number of pictures of a prompt (1)"},
    {.name = "sheet",
     .kind = CLI_INT,
     .offset = AT(sheet),
     .lo = 1,
     .hi = 64,
     .words = sheet_words,
     .value = "COLUMNS",
     .help = "write all pictures as one contact sheet, in so many columns or"},
    {.name = "show",
     .kind = CLI_FLAG,
     .offset = AT(show),
     .help = "draw what was written in the terminal, if it speaks kitty's, iTerm2's or the sixel "
             "protocol"},
    {.name = "show-as",
     .kind = CLI_WORD,
     .offset = AT(show_as),
     .words = protocol_words,
     .value = "P",
     .help = "likewise, by this protocol whatever the terminal says; one of"},
};
static const cli_option input_table[] = {
    {.name = "input",
     .letter = 'i',
     .kind = CLI_TEXTS,
     .offset = AT(inputs),
     .value = "FILE",
     .help = "a picture the prompt refers to, may be repeated; with --strength, --mask or "
             "--expand, or with a model that takes no references, the first one is where "
             "denoising starts"},
    {.name = "strength",
     .kind = CLI_DOUBLE,
     .offset = AT(strength),
     .lo = 0.001,
     .hi = 1,
     .value = "X",
     .help = "how much of the start picture changes, up to 1: all of it"},
    {.name = "mask",
     .kind = CLI_TEXT,
     .offset = AT(mask),
     .value = "FILE",
     .help = "repaint where this picture is white; black comes back untouched"},
    {.name = "expand",
     .kind = CLI_DOUBLES,
     .offset = AT(expand),
     .lo = 0,
     .hi = 8192,
     .value = "N|L,T,R,B",
     .help = "paint a new border of N pixels, or left, top, right, bottom"},
    {.name = "ref-pixels",
     .kind = CLI_INT,
     .offset = AT(ref_pixels),
     .lo = 256,
     .hi = 67108864,
     .value = "N",
     .help = "area references are scaled to; the model's"},
    {.name = "vision-pixels",
     .kind = CLI_INT,
     .offset = AT(vision_pixels),
     .lo = 256,
     .hi = 67108864,
     .value = "N",
     .help = "the same for what the text encoder sees"},
    {.name = "edit",
     .kind = CLI_WORD,
     .offset = AT(edit),
     .words = edit_words,
     .value = "E",
     .help = "what Qwen-Image takes pictures for: single (Edit), plus (2509, 2511), off, or what "
             "the model's files say; one of"},
    {.name = "layers",
     .kind = CLI_INT,
     .offset = AT(layers),
     .lo = 1,
     .hi = 63,
     .value = "N",
     .help = "pictures that Qwen-Image-Layered takes one apart into (4)"},
    {.name = "picture-positions",
     .kind = CLI_WORD,
     .offset = AT(picture_positions),
     .words = position_words,
     .value = "P",
     .help = "where Qwen-Image's text encoder places pictures: in sequence, as the reference with "
             "transformers 5 (auto), or in a grid, as with 4 and in training; one of"},
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
    {.name = "distilled",
     .kind = CLI_WORD,
     .offset = AT(distilled),
     .words = choice_words,
     .value = "D",
     .help =
         "few steps without guidance (FLUX.2-klein, Z-Image); auto: what the model's files say"},
    {.name = "cfg-normalization",
     .kind = CLI_DOUBLE,
     .offset = AT(cfg_normalization),
     .lo = 0,
     .hi = 1000,
     .value = "X",
     .help = "limit the guided prediction to X times the prompt's length (Z-Image); 0: off"},
    {.name = "cfg-truncation",
     .kind = CLI_DOUBLE,
     .offset = AT(cfg_truncation),
     .lo = 0.001,
     .hi = 1,
     .value = "X",
     .help = "no guidance from this part of the run on (Z-Image); 1: never"},
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
    {.name = "cache",
     .kind = CLI_WORD,
     .offset = AT(step_caching),
     .words = caching_words,
     .value = "C",
     .help = "leave evaluations of the network out where its output hardly changes; one of"},
    {.name = "cache-method",
     .kind = CLI_WORD,
     .offset = AT(caching_method),
     .words = method_words,
     .value = "M",
     .help = "how --cache knows: by the output of the steps before, or by what the first block of "
             "the network adds; one of"},
    {.name = "no-cache",
     .kind = CLI_FLAG,
     .offset = AT(no_cache),
     .help = "neither read nor keep the text features of prompts on disk"},
    {.name = "cache-size",
     .kind = CLI_INT,
     .offset = AT(cache_megabytes),
     .lo = 1,
     .hi = 1000000,
     .value = "MB",
     .help = "what they may take on disk (512); those not used for longest go first"},
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

static const char ABOUT[] =
    "Makes pictures from text, or from text and pictures. MODEL is a model folder or weight\n"
    "file; without it the demo model is used.";

mica_status image_parse(image_args *args, int argc, char **argv, const char **model,
                        int *help_status, mica_err *err)
{
    const cli_group groups[] = {
        {"Picture", picture_table, MICA_ARRAY_LEN(picture_table), args},
        {"From pictures", input_table, MICA_ARRAY_LEN(input_table), args},
        {"Sampling", sampling_table, MICA_ARRAY_LEN(sampling_table), args},
        {"Model", cli_engine_table, cli_engine_table_count, &args->engine},
        {"For porting and checking", porting_table, MICA_ARRAY_LEN(porting_table), args},
        {"Common", cli_common_table, cli_common_table_count, &args->common}};
    const cli_spec spec = {.name = "mica image",
                           .usage = "[MODEL] -p PROMPT [options]",
                           .about = ABOUT,
                           .groups = groups,
                           .group_count = MICA_ARRAY_LEN(groups),
                           .operand_limit = 1,
                           .operand_name = "MODEL"};
    *args = (image_args){.guidance = IMAGE_GUIDANCE_UNSET};
    *help_status = -1;
    MICA_TRY(cli_parse(&spec, argc, argv, model, err));
    if (args->common.help)
        *help_status = cli_print_help(&spec);
    return MICA_OK;
}

const char *image_schedule_name(int word)
{
    return schedule_names[word];
}
