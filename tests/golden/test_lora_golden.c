/* test_lora_golden.c - LoRA files on the tiny models against the reference with merged weights.
 *
 * tests/golden/lora (tools/golden/lora_cases.py): LoRA, LoHa, LoKr, differences, one and two files at a
 * time, fused layers of single-file layouts, the Lightning schedule. Then every spelling of the keys: the
 * same file with other names must give the same bytes. Then what must be refused or told. */
#include "golden_support.h"

#include "base/mem.h"
#include "nn/lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_TENSORS 512

typedef struct system_data {
    const char *name, *test_case, *model;
} system_data;

static const system_data SYSTEMS[] = {{"qwen_image", "t2i_nocfg", "qwen_image/model"},
                                      {"flux2_klein", "distilled", "flux2_klein/model"},
                                      {"z_image", "turbo", "z_image/model"}};

/* A model with up to two LoRA files. */
typedef struct adapted {
    mica_model *model;
    mica_lora *loras[2];
    mica_lora_match match;
} adapted;

static void lora_path(char out[512], const system_data *s, const char *file)
{
    snprintf(out, 512, "%s/lora/%s/%s.safetensors", MICA_TEST_DATA, s->name, file);
}

static mica_status add(adapted *a, int i, const char *path, double scale, mica_err *err)
{
    mica_model *m = a->model;
    MICA_TRY(mica_lora_open(&a->loras[i], path, err));
    return mica_lora_attach(a->loras[i], m->kind->lora, m->kind->lora_weights(m), scale, &a->match,
                            err);
}

static void add_ok(adapted *a, int i, const char *path, double scale)
{
    mica_err err = {0};
    if (add(a, i, path, scale, &err))
        fail_msg("%s", err.text);
    assert_int_equal(a->match.missed, 0);
    assert_int_equal(a->match.matched, mica_lora_get_facts(a->loras[i]).targets);
}

static void close_adapted(adapted *a)
{
    golden_model_close(&a->model);
    mica_lora_close(&a->loras[0]);
    mica_lora_close(&a->loras[1]);
}

static void generate(golden_run *r, const adapted *a, const system_data *s, mica_precision p,
                     const char *schedule)
{
    golden_case c;
    golden_case_open(&c, s->name, s->test_case);
    c.options.noise_path = c.expected_path;
    if (schedule) {
        c.options.schedule = schedule;
        c.options.steps = 4;
    }
    golden_generate_ok(r, a->model, &(golden_setup){.precision = p}, &c.options);
    golden_case_close(&c);
}

static void compare(const golden_run *r, const system_data *s, const char *run, double bound)
{
    char path[512], key[96], name[64];
    mica_weights *expected = NULL;
    int steps = 0;
    lora_path(path, s, "expected");
    assert_int_equal(mica_weights_open(&expected, path, NULL), MICA_OK);
    for (;; steps++) {
        snprintf(name, sizeof name, "step%d.latents", steps);
        snprintf(key, sizeof key, "%s.%s", run, name);
        const mica_tensor *want = mica_weights_find(expected, key);
        if (!want)
            break;
        golden_assert_near(key, mica_trace_find(r->trace, name), want, bound);
    }
    assert_true(steps > 1);
    mica_weights_close(&expected);
}

static void check(const system_data *s, const char *run, const char *const *files,
                  const double *scales, mica_precision p, double bound)
{
    adapted a = {.model = golden_model_open_folder(s->model)};
    golden_run r;
    char path[512];
    for (int i = 0; i < 2 && files[i]; i++) {
        lora_path(path, s, files[i]);
        add_ok(&a, i, path, scales[i]);
    }
    generate(&r, &a, s, p, strcmp(run, "lightning") == 0 ? "lightning" : NULL);
    compare(&r, s, run, bound);
    golden_run_close(&r);
    close_adapted(&a);
}

#define ONE(file) ((const char *[]){file, NULL})

static void check_all(mica_precision p, double bound)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(SYSTEMS); i++) {
        const system_data *s = &SYSTEMS[i];
        check(s, "lora", ONE("lora"), (double[]){0.8}, p, bound);
        check(s, "lycoris", ONE("lycoris"), (double[]){0.8}, p, bound);
        check(s, "both", (const char *[]){"lora", "lycoris"}, (double[]){0.5, -0.7}, p, bound);
        if (i > 0)
            check(s, "fused", ONE("fused"), (double[]){0.8}, p, bound);
    }
}

static void test_f32(void **state)
{
    (void)state;
    check_all(MICA_PRECISION_F32, 1e-4);
}

/* Twice the error of the reference's own bf16 runs and more: rounded weights and activations. */
static void test_lower_precisions(void **state)
{
    static const struct {
        mica_precision precision;
        double bound;
    } LOWER[] = {{MICA_PRECISION_BF16, 4e-2}, {MICA_PRECISION_INT8, 8e-2}};
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(LOWER); i++) {
        const mica_precision p = LOWER[i].precision;
        check(&SYSTEMS[0], "lora", ONE("lora"), (double[]){0.8}, p, LOWER[i].bound);
        check(&SYSTEMS[0], "lycoris", ONE("lycoris"), (double[]){0.8}, p, LOWER[i].bound);
        check(&SYSTEMS[2], "fused", ONE("fused"), (double[]){0.8}, p, LOWER[i].bound);
    }
}

static void test_lightning(void **state)
{
    (void)state;
    check(&SYSTEMS[0], "lightning", ONE("lora"), (double[]){1.0}, MICA_PRECISION_F32, 1e-4);
}

/* --------------------------------------------------------------- spellings -- */

typedef struct layout {
    const char *prefix, *down, *up, *up_bias;
    bool flat;
} layout;

static const layout LAYOUTS[] = {
    {"diffusion_model.", ".lora_A.default.weight", ".lora_B.default.weight", ".lora_B.default.bias",
     false},
    {"base_model.model.", ".lora_A.weight", ".lora_B.weight", ".lora_B.bias", false},
    {"base_model.model.transformer.", ".lora.down.weight", ".lora.up.weight", ".lora.up.bias",
     false},
    {"model.diffusion_model.", ".lora_A", ".lora_B", ".lora_B.bias", false},
    {"", ".lora_down.weight", ".lora_up.weight", ".lora_up.bias", false},
    {"lora_unet_", ".lora_down.weight", ".lora_up.weight", ".lora_up.bias", true},
    {"lycoris_", ".lora_A.weight", ".lora_B.weight", ".lora_B.bias", true},
};

/* "transformer.X.lora_A.weight" in another layout; other files' keys only change their prefix. */
static void respell(const layout *l, const char *name, char *out, size_t size)
{
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight", ".lora_B.bias"};
    const char *const to[] = {l->down, l->up, l->up_bias};
    const char *target = strchr(name, '.') + 1, *end = strrchr(name, '.');
    const char *ending = end;
    for (size_t i = 0; i < MICA_ARRAY_LEN(ends); i++) {
        const size_t n = strlen(name), m = strlen(ends[i]);
        if (n > m && strcmp(name + n - m, ends[i]) == 0) {
            end = name + n - m;
            ending = to[i];
        }
    }
    size_t used = (size_t)snprintf(out, size, "%s", l->prefix);
    for (const char *p = target; p < end; p++)
        out[used++] = l->flat && *p == '.' ? '_' : *p;
    snprintf(out + used, size - used, "%s", ending);
}

static void write_respelled(const layout *l, const char *from, const char *to)
{
    static char names[MOST_TENSORS][256];
    mica_safetensors_entry entries[MOST_TENSORS];
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open(&w, from, &err), MICA_OK);
    const size_t n = mica_weights_count(w);
    assert_true(n <= MOST_TENSORS);
    for (size_t i = 0; i < n; i++) {
        respell(l, mica_weights_name(w, i), names[i], sizeof names[i]);
        entries[i] = (mica_safetensors_entry){names[i], mica_weights_tensor(w, i)};
    }
    if (mica_safetensors_write(to, entries, n, NULL, &err))
        fail_msg("%s", err.text);
    mica_weights_close(&w);
}

/* The last latents of a run with one file. */
static float *last_latents(const system_data *s, const char *path, size_t *size)
{
    adapted a = {.model = golden_model_open_folder(s->model)};
    golden_run r;
    add_ok(&a, 0, path, 0.8);
    generate(&r, &a, s, MICA_PRECISION_F32, NULL);
    const mica_tensor *t = mica_trace_find(r.trace, "step1.latents");
    assert_non_null(t);
    *size = mica_tensor_size(t);
    float *copy = malloc(*size);
    memcpy(copy, t->data, *size);
    golden_run_close(&r);
    close_adapted(&a);
    return copy;
}

/* Every `stride`-th layout. */
static void check_spellings(const system_data *s, const char *file, const char *folder,
                            size_t stride)
{
    char path[512], other[640];
    size_t size, size_2;
    lora_path(path, s, file);
    float *want = last_latents(s, path, &size);
    for (size_t i = 0; i < MICA_ARRAY_LEN(LAYOUTS); i += stride) {
        snprintf(other, sizeof other, "%s/%zu.safetensors", folder, i);
        write_respelled(&LAYOUTS[i], path, other);
        float *got = last_latents(s, other, &size_2);
        assert_int_equal(size, size_2);
        if (memcmp(want, got, size) != 0)
            fail_msg("%s %s as %s differs", s->name, file, LAYOUTS[i].prefix);
        free(got);
    }
    free(want);
}

static void test_every_spelling(void **state)
{
    char folder[512];
    (void)state;
    golden_temp_folder(folder, sizeof folder);
    for (size_t i = 0; i < MICA_ARRAY_LEN(SYSTEMS); i++) {
        check_spellings(&SYSTEMS[i], "lora", folder, i ? 3 : 1);
        check_spellings(&SYSTEMS[i], "lycoris", folder, 5);
        if (i > 0)
            check_spellings(&SYSTEMS[i], "fused", folder, 5);
    }
    golden_remove_folder(folder);
}

/* ---------------------------------------------------------------- refusals -- */

typedef struct file_tensor {
    const char *name;
    int64_t rows, columns; /* columns 0: a vector; rows 0 too: a number */
    float value;
} file_tensor;

#define MOST_FILE 6
typedef struct bad_file {
    file_tensor tensors[MOST_FILE];
    mica_status status;
    const char *text;
    const char *metadata;
} bad_file;

#define Q "transformer.transformer_blocks.0.attn.to_q"
#define UP(r)                                                                                      \
    {                                                                                              \
        Q ".lora_B.weight", 64, r, 0.1f                                                            \
    }
#define DOWN(r)                                                                                    \
    {                                                                                              \
        Q ".lora_A.weight", r, 64, 0.1f                                                            \
    }

static void write_file(const bad_file *f, const char *path)
{
    mica_tensor tensors[MOST_FILE];
    mica_safetensors_entry entries[MOST_FILE];
    const char *const metadata[] = {"lora_adapter_metadata", f->metadata, NULL};
    size_t n = 0;
    mica_err err = {0};
    for (; n < MOST_FILE && f->tensors[n].name; n++) {
        const file_tensor *t = &f->tensors[n];
        const int64_t shape[] = {t->rows, t->columns};
        tensors[n] = mica_tensor_make(NULL, MICA_DTYPE_F32,
                                      t->columns ? 2
                                      : t->rows  ? 1
                                                 : 0,
                                      shape);
        const int64_t count = mica_tensor_count(&tensors[n]);
        float *data = malloc((size_t)count * sizeof *data);
        for (int64_t i = 0; i < count; i++)
            data[i] = t->value;
        tensors[n].data = data;
        entries[n] = (mica_safetensors_entry){t->name, &tensors[n]};
    }
    if (mica_safetensors_write(path, entries, n, f->metadata ? metadata : NULL, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n; i++)
        free(tensors[i].data);
}

static const bad_file REFUSED[] = {
    {{{"x.weight", 4, 4, 1.0f}}, MICA_E_FORMAT, "none of its tensors has a LoRA's name", NULL},
    {{{"lora_te_text_model_x.lora_up.weight", 4, 2, 1.0f}},
     MICA_E_FORMAT,
     "all its layers are a text encoder's",
     NULL},
    {{UP(2)}, MICA_E_FORMAT, "do not make a product", NULL},
    {{UP(2), DOWN(3)}, MICA_E_FORMAT, "do not make a product", NULL},
    {{UP(2), DOWN(2), {Q ".lora_down.weight", 2, 64, 0.1f}}, MICA_E_FORMAT, "two tensors", NULL},
    {{UP(2), DOWN(2), {Q ".diff", 64, 64, 0.1f}}, MICA_E_FORMAT, "several kinds", NULL},
    {{UP(2), DOWN(2), {Q ".dora_scale", 1, 64, 0.1f}},
     MICA_E_UNSUPPORTED,
     "DoRA over the inputs",
     NULL},
    {{UP(2), DOWN(2), {Q ".dora_scale", 60, 1, 0.1f}}, MICA_E_FORMAT, "each row", NULL},
    {{UP(2), DOWN(2), {Q ".dora_scale", 64, 1, NAN}}, MICA_E_NUMERIC, "holds NaN", NULL},
    {{{Q ".dora_scale", 64, 1, 1.0f}, {Q ".diff", 64, 64, 0.1f}},
     MICA_E_UNSUPPORTED,
     "another form than LoRA",
     NULL},
    {{UP(2), DOWN(2), {Q ".dora_scale", 64, 1, 1.0f}, {Q ".lora_magnitude_vector", 64, 0, 1.0f}},
     MICA_E_FORMAT,
     "a dora_scale and a lora_magnitude_vector",
     NULL},
    {{UP(2), DOWN(2)}, MICA_E_FORMAT, "says that it is a DoRA", "{\"transformer.use_dora\": true}"},
    {{UP(2), DOWN(2), {Q ".lora_magnitude_vector", 60, 0, 1.0f}}, MICA_E_FORMAT, "each row", NULL},
    {{{Q ".lora_magnitude_vector", 64, 0, 1.0f}, {Q ".diff", 64, 64, 0.1f}},
     MICA_E_FORMAT,
     "belongs to lora_up",
     NULL},
    {{UP(2), DOWN(2), {Q ".lora_magnitude_vector", 64, 0, NAN}},
     MICA_E_NUMERIC,
     "lora_magnitude_vector holds NaN",
     NULL},
    {{UP(2), DOWN(2)}, MICA_E_FORMAT, "lora_alpha is not a number", "{\"lora_alpha\": \"x\"}"},
    {{UP(2), DOWN(2)}, MICA_E_FORMAT, "", "{"},
    {{{Q ".hada_w1_a", 64, 2, 0.1f}, {Q ".hada_w1_b", 2, 64, 0.1f}}, MICA_E_FORMAT, "hada_", NULL},
    {{{Q ".hada_t1", 2, 2, 0.1f}}, MICA_E_UNSUPPORTED, "Tucker", NULL},
    {{{Q ".lokr_w1", 4, 4, 0.1f}}, MICA_E_FORMAT, "Kronecker", NULL},
    {{{Q ".oft_blocks", 4, 4, 0.1f}}, MICA_E_UNSUPPORTED, "OFT", NULL},
    {{{Q ".alpha", 0, 0, 1.0f}}, MICA_E_FORMAT, "an alpha and nothing else", NULL},
    {{UP(2), DOWN(2), {Q ".alpha", 0, 0, NAN}}, MICA_E_FORMAT, "sensible", NULL},
    {{UP(2), DOWN(2), {Q ".alpha", 3, 0, 1.0f}}, MICA_E_FORMAT, "alpha is not one number", NULL},
    {{{Q ".lora_B.weight", 64, 2, NAN}, DOWN(2)}, MICA_E_NUMERIC, "lora_up holds NaN", NULL},
    {{{Q ".lora_B.weight", 64, 2, INFINITY}, DOWN(2)}, MICA_E_NUMERIC, "holds NaN or Inf", NULL},
    {{{Q ".lora_B.weight", 60, 2, 0.1f}, DOWN(2)}, MICA_E_FORMAT, "[60, 64]", NULL},
    {{UP(2), {Q ".lora_A.weight", 2, 32, 0.1f}}, MICA_E_FORMAT, "[64, 32]", NULL},
    {{{"transformer_blocks.7.attn.to_q.lora_B.weight", 64, 2, 0.1f},
      {"transformer_blocks.7.attn.to_q.lora_A.weight", 2, 64, 0.1f}},
     MICA_E_MISSING,
     "none of its 1 layers (the first: transformer_blocks.7.attn.to_q)",
     NULL},
    {{{"lora_unet_transformer_blocks_0_attn_toq.lora_up.weight", 64, 2, 0.1f},
      {"lora_unet_transformer_blocks_0_attn_toq.lora_down.weight", 2, 64, 0.1f}},
     MICA_E_MISSING,
     "transformer_blocks_0_attn_toq",
     NULL},
};

static void test_refusals(void **state)
{
    char folder[512], path[600];
    (void)state;
    golden_temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/bad.safetensors", folder);
    for (size_t i = 0; i < MICA_ARRAY_LEN(REFUSED); i++) {
        adapted a = {.model = golden_model_open_folder("qwen_image/model")};
        mica_err err = {0};
        write_file(&REFUSED[i], path);
        const mica_status st = add(&a, 0, path, 1.0, &err);
        if (st != REFUSED[i].status || !strstr(err.text, REFUSED[i].text) ||
            !strstr(err.text, "bad.safetensors"))
            fail_msg("file %zu: %d %s", i, st, err.text);
        close_adapted(&a);
    }
    golden_remove_folder(folder);
}

/* What a model does not have is counted, not passed over in silence. */
static void test_partial_match(void **state)
{
    static const bad_file file = {{UP(2),
                                   DOWN(2),
                                   {"transformer.pos_embed.diff", 4, 4, 0.1f},
                                   {"text_encoder.layers.0.q_proj.lora_B.weight", 4, 2, 0.1f},
                                   {"something.else", 3, 0, 0.0f}},
                                  MICA_OK,
                                  "",
                                  "{\"lora_alpha\": 4, \"use_rslora\": true}"};
    char folder[512], path[600];
    (void)state;
    golden_temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/part.safetensors", folder);
    write_file(&file, path);
    adapted a = {.model = golden_model_open_folder("qwen_image/model")};
    mica_err err = {0};
    if (add(&a, 0, path, 0.5, &err))
        fail_msg("%s", err.text);
    const mica_lora_facts f = mica_lora_get_facts(a.loras[0]);
    assert_int_equal(a.match.matched, 1);
    assert_int_equal(a.match.missed, 1);
    assert_string_equal(a.match.first_missed, "pos_embed");
    assert_int_equal(f.text_targets, 1);
    assert_int_equal(f.unknown, 1);
    assert_string_equal(f.first_unknown, "something.else");
    assert_string_equal(mica_lora_name(a.loras[0]), "part");
    close_adapted(&a);
    golden_remove_folder(folder);
}

/* Each file is recognised as its family's and no other's. */
static void test_families(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(SYSTEMS); i++) {
        mica_model *m = golden_model_open_folder(SYSTEMS[i].model);
        for (size_t k = 0; k < MICA_ARRAY_LEN(SYSTEMS); k++) {
            char path[512];
            mica_lora *l = NULL;
            lora_path(path, &SYSTEMS[k], "lora");
            assert_int_equal(mica_lora_open(&l, path, NULL), MICA_OK);
            const mica_lora_match match = mica_lora_count_matches(l, m->kind->lora);
            const int targets = mica_lora_get_facts(l).targets;
            if (i == k)
                assert_int_equal(match.matched, targets);
            else
                assert_true(match.matched <
                            targets); /* "transformer_blocks.0.attn.to_q" is two's */
            mica_lora_close(&l);
        }
        golden_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),       cmocka_unit_test(test_lower_precisions),
        cmocka_unit_test(test_lightning), cmocka_unit_test(test_every_spelling),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_partial_match),
        cmocka_unit_test(test_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
