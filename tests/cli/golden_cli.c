/* golden_cli.c - one golden case through the command line, as a user would run it.
 *
 *     golden_cli MICA CASE_DIR MODEL_DIR f32|bf16|fp8 WORK_DIR [EXTRA...]
 *
 *     manifest.json ──► mica image MODEL -p ... --noise expected --trace trace -o picture
 *                                                 │
 *     expected.safetensors ◄── compared with ── trace.safetensors, picture.png
 *
 * f32: every tensor of the reference must be in the trace, integers equal, floats within the
 * manifest's relative L2, the written picture within its largest difference. bf16: the tensors
 * for which the manifest gives a bound, and the picture's mean difference. fp8: what the network gives
 * at each step of these (within 5e-2 at the first; later ones start from what came before and get as much
 * more as bf16 gets), and the picture within thrice that mean difference. Prints one line per tensor that
 * fails and the worst one at the end. EXTRA words are handed to mica. */
#include "base/json.h"
#include "base/mem.h"
#include "format/weights.h"
#include "media/picture.h"

#include <cjson/cJSON.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

#define PATH_CAP 4096
#define WORD_CAP 48

typedef struct golden_case {
    mica_json manifest;
    const struct cJSON *call, *tolerance;
    char expected_path[PATH_CAP], trace_path[PATH_CAP], picture_path[PATH_CAP];
    mica_weights *expected, *trace;
    bool is_f32, is_fp8;
    int compared, failed;
    double worst;
    const char *worst_name;
} golden_case;

static void stop(const char *what, const char *detail)
{
    fprintf(stderr, "golden_cli: %s: %s\n", what, detail);
    exit(1);
}

static double number(const struct cJSON *object, const char *key, double fallback)
{
    const struct cJSON *item = object ? mica_json_find(object, key) : NULL;
    return cJSON_IsNumber(item) ? item->valuedouble : fallback;
}

static const char *text(const struct cJSON *object, const char *key)
{
    const struct cJSON *item = mica_json_find(object, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* --------------------------------------------------------------- running -- */

typedef struct command {
    char *words[WORD_CAP];
    char storage[WORD_CAP][32];
    char pictures[4][PATH_CAP];
    int count;
} command;

static void add(command *c, const char *word)
{
    if (c->count + 1 >= WORD_CAP)
        stop("too many words", word);
    c->words[c->count++] = (char *)(uintptr_t)word;
    c->words[c->count] = NULL;
}

static void add_pair(command *c, const char *option, const char *value)
{
    add(c, option);
    add(c, value);
}

static void add_number(command *c, const char *option, double value)
{
    char *place = c->storage[c->count];
    snprintf(place, sizeof c->storage[0], "%.17g", value);
    add_pair(c, option, place);
}

/* True guidance, or the embedded or added scale of other pipelines, where 0 is none; `true` is a
 * limit of 1. */
static void add_guidance(command *c, const golden_case *g)
{
    const struct cJSON *limit = mica_json_find(g->call, "cfg_normalization");
    const double scale = number(g->call, "true_cfg_scale", number(g->call, "guidance_scale", 1));
    add_number(c, "--guidance", scale);
    if (limit)
        add_number(c, "--cfg-normalization",
                   cJSON_IsTrue(limit) ? 1 : number(g->call, "cfg_normalization", 0));
    if (mica_json_find(g->call, "cfg_truncation"))
        add_number(c, "--cfg-truncation", number(g->call, "cfg_truncation", 1));
}

/* References beside the manifest, and the areas the reference scaled them to. */
static void add_pictures(command *c, const golden_case *g)
{
    const struct cJSON *inputs = mica_json_find(g->manifest.root, "inputs");
    const struct cJSON *areas = mica_json_find(inputs, "area_override"), *name = NULL;
    const struct cJSON *names = mica_json_find(inputs, "images");
    const size_t folder = (size_t)(strrchr(g->expected_path, '/') + 1 - g->expected_path);
    size_t count = 0;
    cJSON_ArrayForEach(name, names)
    {
        if (count == sizeof c->pictures / sizeof c->pictures[0])
            stop("too many pictures", g->expected_path);
        snprintf(c->pictures[count], PATH_CAP, "%.*s%s", (int)folder, g->expected_path,
                 name->valuestring);
        add_pair(c, "-i", c->pictures[count++]);
    }
    if (areas)
        add_number(c, "--ref-pixels", number(areas, "vae_image_area", 0));
    if (number(areas, "condition_image_area", 0) > 0)
        add_number(c, "--vision-pixels", number(areas, "condition_image_area", 0));
}

/* What only FLUX.2-klein's calls have; the folder says distilled, some cases are not. */
static void add_flux2(command *c, const golden_case *g)
{
    const struct cJSON *inputs = mica_json_find(g->manifest.root, "inputs");
    const double tokens = number(g->call, "max_sequence_length", 0);
    if (!mica_json_find(inputs, "is_distilled"))
        return;
    add_number(c, "--max-text-tokens", tokens);
    if (cJSON_IsFalse(mica_json_find(inputs, "is_distilled")))
        add_pair(c, "--distilled", "no");
}

static void build_command(command *c, const golden_case *g, const char *program, const char *model,
                          const char *precision)
{
    const char *negative = text(g->call, "negative_prompt");
    add(c, program);
    add(c, "image");
    add(c, model);
    add_pair(c, "-p", text(g->call, "prompt"));
    if (negative)
        add_pair(c, "-n", negative);
    add_number(c, "-W", number(g->call, "width", 0));
    add_number(c, "-H", number(g->call, "height", 0));
    add_number(c, "--steps", number(g->call, "num_inference_steps", 0));
    add_guidance(c, g);
    add_flux2(c, g);
    add_pictures(c, g);
    if (number(g->call, "layers", 0) > 0)
        add_number(c, "--layers", number(g->call, "layers", 0));
    if (mica_json_find(g->call, "seed"))
        add_number(c, "--seed", number(g->call, "seed", 0));
    else
        add_pair(c, "--noise", g->expected_path);
    add_pair(c, "--precision", precision);
    add_pair(c, "--trace", g->trace_path);
    add_pair(c, "-o", g->picture_path);
    add(c, "--quiet");
}

static void run_command(const command *c)
{
    pid_t child = 0;
    int status = 0;
    const int failure = posix_spawn(&child, c->words[0], NULL, NULL, c->words, environ);
    if (failure)
        stop(c->words[0], strerror(failure));
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            stop("waitpid", strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        stop(c->words[0], "did not succeed");
}

/* ------------------------------------------------------------- comparing -- */

static bool is_same_shape(const mica_tensor *a, const mica_tensor *b)
{
    bool same = a->ndim == b->ndim;
    for (int i = 0; same && i < a->ndim; i++)
        same = a->shape_[i] == b->shape_[i];
    return same;
}

static bool is_integer(const mica_tensor *t)
{
    return !mica_dtype_get(t->dtype)->is_float;
}

static int64_t read_integer(const mica_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case MICA_DTYPE_I64:
        return ((const int64_t *)t->data)[i];
    case MICA_DTYPE_I32:
        return ((const int32_t *)t->data)[i];
    case MICA_DTYPE_U8:
        return ((const uint8_t *)t->data)[i];
    default:
        stop("integer dtype not expected", mica_dtype_get(t->dtype)->name);
        return 0;
    }
}

/* Largest difference of two integer tensors. */
static double integer_error(const mica_tensor *a, const mica_tensor *b)
{
    double worst = 0.0;
    for (int64_t i = 0; i < mica_tensor_count(a); i++)
        worst = fmax(worst, fabs((double)(read_integer(a, i) - read_integer(b, i))));
    return worst;
}

/* |a - b| / |b| in the L2 norm; NaN stays NaN and fails every bound. */
static double relative_l2(const mica_tensor *a, const mica_tensor *b)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < mica_tensor_count(b); i++) {
        const double x = mica_tensor_read_f32(a, i), y = mica_tensor_read_f32(b, i);
        difference += (x - y) * (x - y);
        norm += y * y;
    }
    return norm > 0.0 ? sqrt(difference / norm) : sqrt(difference);
}

static void judge(golden_case *g, const char *name, double error, double bound)
{
    g->compared++;
    if (!(error <= bound)) {
        printf("FAIL %-44s %.3g, allowed %.3g\n", name, error, bound);
        g->failed++;
    }
    if (bound > 0.0 && !(error / bound <= g->worst)) {
        g->worst = error / bound;
        g->worst_name = name;
    }
}

/* Allowed of one step alone. */
#define BF16_STEP 2e-2
#define FP8_STEP  5e-2

/* Bound of one tensor; negative: the manifest gives none for this precision. */
static double bound_of(const golden_case *g, const char *name)
{
    if (g->is_f32)
        return number(mica_json_find(g->tolerance, "float32_compute"), "rel_l2", -1.0);
    const struct cJSON *bf16 = mica_json_find(g->tolerance, "bfloat16_compute");
    const double bound = number(bf16 ? mica_json_find(bf16, "per_tensor") : NULL, name, -1.0);
    if (!g->is_fp8)
        return bound;
    return strncmp(name, "step", 4) == 0 ? bound * FP8_STEP / BF16_STEP : -1.0;
}

static void compare_tensor(golden_case *g, const char *name, const mica_tensor *expected)
{
    const mica_tensor *got = mica_weights_find(g->trace, name);
    const double bound = bound_of(g, name);
    if (strcmp(name, "image_u8") == 0 || (bound < 0.0 && !is_integer(expected)))
        return; /* the picture itself is compared below */
    if (!got) {
        printf("FAIL %-44s not in the trace\n", name);
        g->failed++;
    } else if (!is_same_shape(got, expected)) {
        char a[128], b[128];
        printf("FAIL %-44s is %s, expected %s\n", name, mica_tensor_describe(got, a, sizeof a),
               mica_tensor_describe(expected, b, sizeof b));
        g->failed++;
    } else if (is_integer(expected)) {
        judge(g, name, is_integer(got) ? integer_error(got, expected) : INFINITY, 0.0);
    } else {
        judge(g, name, relative_l2(got, expected), bound);
    }
}

/* expected: [height, width, channels] */
static void compare_picture(golden_case *g, const char *path, const mica_tensor *expected,
                            const struct cJSON *bounds)
{
    mica_picture picture;
    mica_err err = {0};
    if (mica_picture_read(&picture, path, &err))
        stop(path, err.text);
    if (picture.channels != expected->shape_[2] || picture.height != expected->shape_[0] ||
        picture.width != expected->shape_[1])
        stop(path, "wrong size");
    const size_t count = (size_t)mica_tensor_count(expected);
    double sum = 0.0, largest = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double d = abs(picture.pixels[i] - ((const uint8_t *)expected->data)[i]);
        sum += d;
        largest = fmax(largest, d);
    }
    if (g->is_f32)
        judge(g, "picture (largest difference)", largest, number(bounds, "float32_max_abs", 0));
    else
        judge(g, "picture (mean difference)", sum / (double)count,
              number(bounds, "bfloat16_mean_abs", 0) * (g->is_fp8 ? 3 : 1));
    mica_picture_deinit(&picture);
}

/* One picture, or as many as the tensor holds: picture-1.png, picture-2.png, ... */
static void compare_pictures(golden_case *g)
{
    const mica_tensor *all = mica_weights_find(g->expected, "image_u8");
    const struct cJSON *bounds = mica_json_find(g->tolerance, "image_u8");
    if (!all || !bounds || all->dtype != MICA_DTYPE_U8 || all->ndim < 3)
        stop("no picture to compare with", g->expected_path);
    if (all->ndim == 3)
        compare_picture(g, g->picture_path, all, bounds);
    for (int64_t i = 0; all->ndim == 4 && i < all->shape_[0]; i++) {
        char path[PATH_CAP];
        const mica_tensor rows = mica_tensor_rows(all, i, 1);
        const mica_tensor one = mica_tensor_reshape(&rows, 3, all->shape_ + 1);
        snprintf(path, sizeof path, "%.*s-%" PRId64 ".png",
                 (int)(strlen(g->picture_path) - strlen(".png")), g->picture_path, i + 1);
        compare_picture(g, path, &one, bounds);
    }
}

static void compare(golden_case *g)
{
    mica_err err = {0};
    if (mica_weights_open(&g->expected, g->expected_path, &err) ||
        mica_weights_open(&g->trace, g->trace_path, &err))
        stop("cannot open", err.text);
    for (size_t i = 0; i < mica_weights_count(g->expected); i++)
        compare_tensor(g, mica_weights_name(g->expected, i), mica_weights_tensor(g->expected, i));
    compare_pictures(g);
}

int main(int argc, char **argv)
{
    static golden_case g;
    static command c;
    char manifest_path[PATH_CAP];
    mica_err err = {0};
    if (argc < 6)
        stop("usage", "golden_cli MICA CASE_DIR MODEL_DIR f32|bf16|fp8 WORK_DIR [EXTRA...]");
    snprintf(manifest_path, sizeof manifest_path, "%s/manifest.json", argv[2]);
    snprintf(g.expected_path, sizeof g.expected_path, "%s/expected.safetensors", argv[2]);
    snprintf(g.trace_path, sizeof g.trace_path, "%s/trace.safetensors", argv[5]);
    snprintf(g.picture_path, sizeof g.picture_path, "%s/picture.png", argv[5]);
    if (mica_json_open(&g.manifest, manifest_path, &err))
        stop("manifest", err.text);
    g.call = mica_json_find(g.manifest.root, "call");
    g.tolerance = mica_json_find(g.manifest.root, "tolerance");
    if (!g.call || !g.tolerance)
        stop(manifest_path, "lacks call or tolerance");
    g.is_f32 = strcmp(argv[4], "f32") == 0;
    g.is_fp8 = strcmp(argv[4], "fp8") == 0;

    build_command(&c, &g, argv[1], argv[3], argv[4]);
    for (int i = 6; i < argc; i++)
        add(&c, argv[i]);
    run_command(&c);
    compare(&g);
    printf("%s: %d compared, %d failed; nearest to its bound: %s at %.2f of it\n",
           text(g.manifest.root, "case"), g.compared, g.failed, g.worst_name ? g.worst_name : "-",
           g.worst);
    mica_weights_close(&g.expected);
    mica_weights_close(&g.trace);
    mica_json_close(&g.manifest);
    return g.failed == 0 && g.compared > 0 ? 0 : 1;
}
