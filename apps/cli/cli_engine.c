/* cli_engine.c - the options that every command with a model takes, and the parts that only
 * those with a picture or a language model take: to the others they are wrong usage. */
#include "cli.h"

#include "base/file.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const cli_word device_words[] = {
    {"auto", MICA_DEVICE_AUTO}, {"cpu", MICA_DEVICE_CPU}, {"cuda", MICA_DEVICE_CUDA}, {NULL, 0}};
static const cli_word precision_words[] = {
    {"auto", MICA_PRECISION_AUTO}, {"f32", MICA_PRECISION_F32}, {"bf16", MICA_PRECISION_BF16},
    {"int8", MICA_PRECISION_INT8}, {"fp8", MICA_PRECISION_FP8}, {NULL, 0}};
static const cli_word auto_word[] = {{"auto", 0}, {NULL, 0}};

#define AT(field) offsetof(cli_engine_args, field)
#define TOKENIZER                                                                                  \
    {                                                                                              \
        .name = "tokenizer", .kind = CLI_TEXT, .offset = AT(tokenizer), .value = "PATH",           \
        .help = "tokenizer folder or tokenizer.json"                                               \
    }
const cli_option cli_picture_table[] = {
    {.name = "transformer",
     .kind = CLI_TEXT,
     .offset = AT(transformer),
     .value = "PATH",
     .help = "transformer weights: a file, an index or a folder; replaces MODEL's"},
    {.name = "text-encoder",
     .kind = CLI_TEXT,
     .offset = AT(text_encoder),
     .value = "PATH",
     .help = "text-encoder weights, likewise"},
    {.name = "vae",
     .kind = CLI_TEXT,
     .offset = AT(vae),
     .value = "PATH",
     .help = "VAE weights, likewise"},
    TOKENIZER,
    {.name = "lora",
     .kind = CLI_TEXTS,
     .offset = AT(loras),
     .value = "FILE[:SCALE]",
     .help = "a LoRA, DoRA, LoHa or LoKr file, SCALE times (1); may be repeated"},
    CLI_END,
};

static const cli_word expert_words[] = {{"auto", 0}, {"none", -1}, {"all", 100000}, {NULL, 0}};
const cli_option cli_language_table[] = {
    TOKENIZER,
    {.name = "cpu-experts",
     .kind = CLI_INT,
     .offset = AT(cpu_experts),
     .lo = 1,
     .hi = 100000,
     .words = expert_words,
     .value = "N",
     .help =
         "beside a GPU: layers, from the last, whose experts the CPU computes; auto: those that do "
         "not fit"},
    {.name = "n-cpu-moe", /* as llama.cpp calls it; not listed */
     .kind = CLI_INT,
     .offset = AT(cpu_experts),
     .lo = 1,
     .hi = 100000,
     .value = "N"},
    CLI_END,
};

const cli_option cli_engine_table[] = {
    {.name = "device",
     .kind = CLI_WORD,
     .offset = AT(device),
     .words = device_words,
     .value = "D",
     .help = "where to compute"},
    {.name = "precision",
     .kind = CLI_WORD,
     .offset = AT(precision),
     .words = precision_words,
     .value = "P",
     .help = "arithmetic of the large matrices (auto is bf16)"},
    {.name = "vram",
     .kind = CLI_BYTES,
     .offset = AT(vram),
     .value = "LIMIT",
     .help = "GPU memory to take at most, like 8G; blocks that do not fit are streamed"},
    {.name = "threads",
     .kind = CLI_INT,
     .offset = AT(threads),
     .lo = 1,
     .hi = 1024,
     .words = auto_word,
     .value = "N",
     .help = "threads; one per available core by default"},
    {.name = "cpu-level",
     .kind = CLI_CPU_LEVEL,
     .offset = AT(cpu_level),
     .value = "L",
     .help = "highest instruction-set level to use"},
    CLI_END,
};
#undef AT

#define AT(field) offsetof(cli_common_args, field)
const cli_option cli_common_table[] = {
    {.name = "json",
     .kind = CLI_FLAG,
     .offset = AT(json),
     .help = "write one JSON object to standard output and nothing else"},
    {.name = "quiet",
     .kind = CLI_FLAG,
     .offset = AT(quiet),
     .help = "no progress, notes or summary; errors only"},
    {.name = "help", .letter = 'h', .kind = CLI_HELP, .help = "this page"},
    CLI_END,
};
#undef AT

void cli_engine_fill(const cli_engine_args *args, const char *model, mica_engine_options *out)
{
    *out = (mica_engine_options){.size = sizeof *out,
                                 .model = model,
                                 .transformer = args->transformer,
                                 .text_encoder = args->text_encoder,
                                 .vae = args->vae,
                                 .tokenizer = args->tokenizer,
                                 .device = (mica_device)args->device,
                                 .precision = (mica_precision)args->precision,
                                 .cpu_level = (mica_cpu_level)args->cpu_level,
                                 .threads = args->threads,
                                 .vram_limit = args->vram,
                                 .host_experts = args->cpu_experts};
}

/* ------------------------------------------------------------------ LoRA -- */

/* "FILE:SCALE" into path and scale. A file whose own name is the whole text wins, so that colons in
 * names do no harm. */
static mica_status read_lora(const char *text, mica_lora_input *out, mica_err *err)
{
    const char *colon = strrchr(text, ':');
    char *end = NULL, *path = NULL;
    double scale = 1.0;
    size_t length = strlen(text);
    if (colon && !strchr(colon, '/') && !mica_path_is_file(text)) {
        length = (size_t)(colon - text);
        scale = strspn(colon + 1, "+-.0123456789eE") ? strtod(colon + 1, &end) : 0.0;
        if (!end || *end || !isfinite(scale) || scale == 0.0 || fabs(scale) > 100.0)
            return MICA_FAIL(err, MICA_E_USAGE,
                             "--lora takes FILE or FILE:SCALE with a SCALE from -100 to 100 that "
                             "is not 0; got '%s'",
                             text);
    }
    if (length == 0)
        return MICA_FAIL(err, MICA_E_USAGE, "--lora takes FILE[:SCALE]; got '%s'", text);
    path = mica_mem_strndup(text, length);
    *out = (mica_lora_input){path, scale};
    return path ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a file name");
}

mica_status cli_loras_read(const cli_engine_args *args, cli_loras *out, mica_err *err)
{
    out->count = 0;
    for (int i = 0; i < args->loras.count; i++) {
        MICA_TRY(read_lora(args->loras.values[i], &out->inputs[i], err));
        out->count++;
    }
    return MICA_OK;
}

void cli_loras_deinit(cli_loras *loras)
{
    for (int i = 0; i < loras->count; i++)
        mica_mem_free((char *)(uintptr_t)loras->inputs[i].path);
    loras->count = 0;
}
