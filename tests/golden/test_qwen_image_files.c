/* test_qwen_image_files.c - Qwen-Image in the other layouts users have, and broken ones.
 *
 * Layouts are made from the tiny model of the golden vectors by renaming and re-encoding its
 * tensors. An fp8 copy must give what an f32 copy of its decoded values gives: the encoding may
 * cost accuracy, reading it may not. */
#include "golden_support.h"

#include "base/arena.h"
#include "base/file.h"
#include "base/half.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOURCE MICA_TEST_DATA "/qwen_image/model"

/* How a copy of a weight file differs from its source. */
typedef enum encoding { KEEP, FP8_PLAIN, FP8_SCALED, FP8_SCALED_AS_F32, FP8_PLAIN_AS_F32 } encoding;
typedef struct copy_spec {
    const char *prefix;    /* put before every name; NULL: none */
    const char *from, *to; /* beginning of names replaced; NULL: none */
    encoding encoding;
    const char *drop;    /* tensor left out */
    const char *reshape; /* tensor whose last dimension loses one column */
    const char *poison;  /* tensor whose first value becomes NaN */
    const char *extra;   /* tensor added */
} copy_spec;

/* ------------------------------------------------------------------ re-encoding -- */

static uint8_t nearest_f8(float x)
{
    uint8_t best = 0;
    float distance = INFINITY;
    for (int code = 0; code < 256; code++) {
        const float v = mica_f8_e4m3_to_f32((uint8_t)code);
        if (!isnan(v) && fabsf(v - x) < distance) {
            distance = fabsf(v - x);
            best = (uint8_t)code;
        }
    }
    return best;
}

/* Matrices of the blocks, as the published fp8 files have it. */
static bool is_encoded(const char *name, const mica_tensor *t)
{
    return t->ndim == 2 && strstr(name, "transformer_blocks.") && strstr(name, "weight");
}

typedef struct copy_file {
    mica_safetensors_entry *entries;
    mica_tensor *tensors;
    size_t count, cap;
    mica_arena arena; /* entries and re-encoded tensors */
} copy_file;

static void *new_bytes(copy_file *f, size_t n)
{
    void *p = mica_arena_calloc(&f->arena, 1, n ? n : 1);
    assert_non_null(p);
    return p;
}

static void add(copy_file *f, const char *name, mica_tensor t)
{
    assert_true(f->count < f->cap);
    f->tensors[f->count] = t;
    f->entries[f->count] = (mica_safetensors_entry){
        mica_arena_strndup(&f->arena, name, strlen(name)), &f->tensors[f->count]};
    f->count++;
}

static void add_encoded(copy_file *f, const char *name, const mica_tensor *t, encoding e)
{
    const int64_t n = mica_tensor_count(t);
    const bool scaled = e == FP8_SCALED || e == FP8_SCALED_AS_F32;
    const bool as_f32 = e == FP8_SCALED_AS_F32 || e == FP8_PLAIN_AS_F32;
    float most = 0.0f;
    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(mica_tensor_read_f32(t, i)));
    const float scale = scaled ? most / 448.0f : 1.0f;
    uint8_t *codes = new_bytes(f, (size_t)n);
    float *values = new_bytes(f, (size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) {
        codes[i] = nearest_f8(mica_tensor_read_f32(t, i) / scale);
        values[i] = mica_f8_e4m3_to_f32(codes[i]) * scale;
    }
    add(f, name,
        as_f32 ? mica_tensor_make(values, MICA_DTYPE_F32, 2, t->shape_)
               : mica_tensor_make(codes, MICA_DTYPE_F8_E4M3, 2, t->shape_));
    if (scaled && !as_f32) {
        char scale_name[256];
        float *s = new_bytes(f, sizeof *s);
        *s = scale;
        snprintf(scale_name, sizeof scale_name, "%.*sscale_weight",
                 (int)(strlen(name) - strlen("weight")), name);
        add(f, scale_name, mica_tensor_make(s, MICA_DTYPE_F32, 0, NULL));
    }
}

static void new_name(const copy_spec *spec, const char *name, char out[256])
{
    if (spec->from && strncmp(name, spec->from, strlen(spec->from)) == 0)
        snprintf(out, 256, "%s%s", spec->to, name + strlen(spec->from));
    else
        snprintf(out, 256, "%s%s", spec->prefix ? spec->prefix : "", name);
}

static void add_copy(copy_file *f, const copy_spec *spec, const char *name, const mica_tensor *t)
{
    char renamed[256];
    new_name(spec, name, renamed);
    if (spec->drop && strcmp(name, spec->drop) == 0)
        return;
    if (spec->encoding != KEEP && is_encoded(name, t)) {
        add_encoded(f, renamed, t, spec->encoding);
        return;
    }
    mica_tensor copy = *t;
    if (spec->reshape && strcmp(name, spec->reshape) == 0) {
        int64_t shape[MICA_MAX_DIMS];
        memcpy(shape, t->shape_, sizeof shape);
        shape[t->ndim - 1]--;
        copy = mica_tensor_make(t->data, t->dtype, t->ndim, shape);
    }
    if (spec->poison && strcmp(name, spec->poison) == 0) {
        uint16_t *data = new_bytes(f, mica_tensor_size(t));
        memcpy(data, t->data, mica_tensor_size(t));
        data[0] = 0x7fc0;
        copy.data = data;
    }
    add(f, renamed, copy);
}

/* Writes `to` from the weight file or folder `from` (relative to the model). */
static void write_copy(const char *from, const char *to, const copy_spec *spec)
{
    char path[512];
    mica_weights *w = NULL;
    mica_err err = {0};
    snprintf(path, sizeof path, SOURCE "/%s", from);
    assert_int_equal(mica_weights_open(&w, path, &err), MICA_OK);
    copy_file f = {.cap = 2 * mica_weights_count(w) + 8};
    mica_arena_init(&f.arena, 1 << 16);
    f.entries = new_bytes(&f, f.cap * sizeof *f.entries);
    f.tensors = new_bytes(&f, f.cap * sizeof *f.tensors);
    for (size_t i = 0; i < mica_weights_count(w); i++)
        add_copy(&f, spec, mica_weights_name(w, i), mica_weights_tensor(w, i));
    if (spec->encoding == FP8_SCALED) {
        char marker[128];
        snprintf(marker, sizeof marker, "%sscaled_fp8", spec->prefix ? spec->prefix : "");
        add(&f, marker,
            mica_tensor_make(new_bytes(&f, 1), MICA_DTYPE_F8_E4M3, 1, (const int64_t[]){0}));
    }
    if (spec->extra)
        add(&f, spec->extra,
            mica_tensor_make(new_bytes(&f, 8), MICA_DTYPE_F32, 1, (const int64_t[]){2}));
    const mica_status st = mica_safetensors_write(to, f.entries, f.count, NULL, &err);
    if (st)
        fail_msg("%s", err.text);
    mica_weights_close(&w);
    mica_arena_deinit(&f.arena);
}

static void copy_text(const char *from, const char *to)
{
    char path[512], *data = NULL;
    size_t size = 0;
    mica_file_out out;
    mica_err err = {0};
    snprintf(path, sizeof path, SOURCE "/%s", from);
    assert_int_equal(mica_file_read(path, 1 << 20, &data, &size, &err), MICA_OK);
    assert_int_equal(mica_file_out_open(&out, to, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&out, data, size, &err), MICA_OK);
    assert_int_equal(mica_file_out_commit(&out, &err), MICA_OK);
    mica_mem_free(data);
}

/* ----------------------------------------------------------------- a Comfy folder -- */

typedef struct comfy {
    char dir[256];
    char transformer[320], text_encoder[320], vae[320];
} comfy;

static void comfy_make(comfy *c, const copy_spec *transformer, const copy_spec *text_encoder)
{
    char path[400];
    static const char *const FOLDERS[] = {"diffusion_models", "text_encoders", "vae"};
    golden_temp_folder(c->dir, sizeof c->dir);
    for (size_t i = 0; i < MICA_ARRAY_LEN(FOLDERS); i++) {
        snprintf(path, sizeof path, "%s/%s", c->dir, FOLDERS[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(c->transformer, sizeof c->transformer, "%s/diffusion_models/a.safetensors", c->dir);
    snprintf(c->text_encoder, sizeof c->text_encoder, "%s/text_encoders/b.safetensors", c->dir);
    snprintf(c->vae, sizeof c->vae, "%s/vae/c.safetensors", c->dir);
    write_copy("transformer", c->transformer, transformer);
    write_copy("text_encoder", c->text_encoder, text_encoder);
    write_copy("vae", c->vae, &(copy_spec){0});
    /* The sizes of the tiny model cannot be told from its tensors alone. */
    snprintf(path, sizeof path, "%s/diffusion_models/a.json", c->dir);
    copy_text("transformer/config.json", path);
    snprintf(path, sizeof path, "%s/text_encoders/b.json", c->dir);
    copy_text("text_encoder/config.json", path);
    snprintf(path, sizeof path, "%s/vae/c.json", c->dir);
    copy_text("vae/config.json", path);
    snprintf(path, sizeof path, "%s/scheduler_config.json", c->dir);
    copy_text("scheduler/scheduler_config.json", path);
}

static mica_engine_options comfy_options(const comfy *c)
{
    return (mica_engine_options){
        .size = sizeof(mica_engine_options), .model = c->dir, .tokenizer = SOURCE "/tokenizer"};
}

static void run_case(golden_run *r, const mica_engine_options *options, golden_case *c)
{
    mica_model *m = golden_model_open(options);
    golden_generate_ok(r, m, &(golden_setup){0}, &c->options);
    golden_model_close(&m);
}

/* The same bytes as the diffusers folder, from renamed tensors. */
static void check_renamed(const mica_engine_options *options)
{
    golden_case c;
    golden_run r;
    golden_case_open(&c, "qwen_image", "t2i_cfg");
    run_case(&r, options, &c);
    golden_assert_near("step2.latents", mica_trace_find(r.trace, "step2.latents"),
                       mica_weights_find(c.expected, "step2.latents"), 1e-4);
    golden_assert_near("vae_decode.output", mica_trace_find(r.trace, "vae_decode.output"),
                       mica_weights_find(c.expected, "vae_decode.output"), 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
}

static void test_comfy_folder(void **state)
{
    (void)state;
    comfy c;
    comfy_make(&c, &(copy_spec){.prefix = "model.diffusion_model."},
               &(copy_spec){.from = "model.", .to = "model.language_model."});
    const mica_engine_options o = comfy_options(&c);
    check_renamed(&o);
    golden_remove_folder(c.dir);
}

static void test_parts_one_by_one(void **state)
{
    (void)state;
    comfy c;
    comfy_make(&c, &(copy_spec){0}, &(copy_spec){.extra = "something.else"});
    const mica_engine_options o = {.size = sizeof o,
                                   .transformer = c.transformer,
                                   .text_encoder = c.text_encoder,
                                   .vae = c.vae,
                                   .tokenizer = SOURCE "/tokenizer/tokenizer.json"};
    check_renamed(&o);
    /* A part given by itself wins over the folder's. */
    const mica_engine_options mixed = {.size = sizeof mixed, .model = SOURCE, .vae = c.vae};
    check_renamed(&mixed);
    golden_remove_folder(c.dir);
}

static void compare_encodings(encoding packed, encoding decoded)
{
    comfy a, b;
    golden_case c;
    golden_run x, y;
    comfy_make(&a, &(copy_spec){.prefix = "model.diffusion_model.", .encoding = packed},
               &(copy_spec){0});
    comfy_make(&b, &(copy_spec){.encoding = decoded}, &(copy_spec){0});
    golden_case_open(&c, "qwen_image", "t2i_cfg");
    const mica_engine_options oa = comfy_options(&a), ob = comfy_options(&b);
    run_case(&x, &oa, &c);
    run_case(&y, &ob, &c);
    golden_assert_near("step2.latents", mica_trace_find(x.trace, "step2.latents"),
                       mica_trace_find(y.trace, "step2.latents"), 1e-5);
    /* And fp8 is fp8: near the original, but not equal to it. */
    const double loss = golden_relative_l2(mica_trace_find(x.trace, "step0.cond"),
                                           mica_weights_find(c.expected, "step0.cond"));
    print_message("relative L2 of step0.cond from fp8 weights: %.3g\n", loss);
    assert_true(loss > 1e-3 && loss < 0.2);
    golden_run_close(&x);
    golden_run_close(&y);
    golden_case_close(&c);
    golden_remove_folder(a.dir);
    golden_remove_folder(b.dir);
}

static void test_fp8_plain(void **state)
{
    (void)state;
    compare_encodings(FP8_PLAIN, FP8_PLAIN_AS_F32);
}

static void test_fp8_scaled(void **state)
{
    (void)state;
    compare_encodings(FP8_SCALED, FP8_SCALED_AS_F32);
}

/* ----------------------------------------------------------------- broken models -- */

static void expect_refused(const mica_engine_options *options, mica_status status,
                           const char *const *words)
{
    mica_model_parts parts;
    const mica_model_kind *kind;
    mica_model *m = NULL;
    mica_err err = {0};
    mica_status st = mica_model_parts_resolve(&parts, &kind, options, &err);
    if (!st) {
        st = kind->open(&m, &parts, &err);
        assert_null(m);
        mica_model_parts_deinit(&parts);
    }
    if (st != status)
        fail_msg("got %s (%s), expected %s", mica_status_name(st), err.text,
                 mica_status_name(status));
    for (; *words; words++)
        if (!strstr(err.text, *words))
            fail_msg("\"%s\" does not say \"%s\"", err.text, *words);
}

/* Two parts are wrong in three ways: one message tells all three. */
static void test_all_problems_listed(void **state)
{
    (void)state;
    comfy c;
    comfy_make(
        &c,
        &(copy_spec){.drop = "transformer_blocks.1.attn.to_k.weight", .reshape = "proj_out.weight"},
        &(copy_spec){.drop = "model.layers.0.mlp.up_proj.weight"});
    const mica_engine_options o = comfy_options(&c);
    expect_refused(&o, MICA_E_FORMAT,
                   (const char *const[]){"transformer_blocks.1.attn.to_k.weight: missing, expected "
                                         "[64, 64]",
                                         "proj_out.weight: got [64, 63] bf16, expected [64, 64]",
                                         "model.layers.0.mlp.up_proj.weight: missing", "2 of its",
                                         NULL});
    golden_remove_folder(c.dir);
}

static void test_missing_parts(void **state)
{
    (void)state;
    const mica_engine_options o = {.size = sizeof o, .transformer = SOURCE "/transformer"};
    expect_refused(&o, MICA_E_MISSING,
                   (const char *const[]){"text encoder", "VAE", "tokenizer", "--vae", NULL});
    const mica_engine_options absent = {.size = sizeof absent, .model = SOURCE "/nothing"};
    expect_refused(&absent, MICA_E_MISSING, (const char *const[]){"nothing", NULL});
    const mica_engine_options mixed = {
        .size = sizeof mixed, .model = SOURCE, .vae = SOURCE "/text_encoder"};
    expect_refused(&mixed, MICA_E_FORMAT, (const char *const[]){"not a Qwen-Image VAE", NULL});
}

static void test_variants_refused(void **state)
{
    (void)state;
    comfy c;
    comfy_make(&c, &(copy_spec){.extra = "time_text_embed.addition_t_embedding.weight"},
               &(copy_spec){0});
    const mica_engine_options o = comfy_options(&c);
    expect_refused(&o, MICA_E_UNSUPPORTED, (const char *const[]){"Layered", NULL});
    golden_remove_folder(c.dir);
}

/* zero_cond_t only concerns reference pictures. */
static void test_zero_cond_model_makes_pictures(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/edit_model_zero_cond");
    golden_run r;
    const mica_image_options o = {
        .size = sizeof o, .prompt = "a fox", .width = 32, .height = 32, .steps = 1};
    golden_generate_ok(&r, m, &(golden_setup){0}, &o);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* ------------------------------------------------------------------- broken runs -- */

static void expect_run_fails(const mica_model *m, const mica_image_options *o, mica_status status,
                             const char *word)
{
    golden_run r;
    golden_generate(&r, m, &(golden_setup){0}, o);
    if (r.status != status || !strstr(r.err.text, word))
        fail_msg("got %s (%s), expected %s about \"%s\"", mica_status_name(r.status), r.err.text,
                 mica_status_name(status), word);
    assert_null(r.result.rgb);
    golden_run_close(&r);
}

static void poison_and_run(const copy_spec *transformer, const copy_spec *text_encoder,
                           const char *word)
{
    comfy c;
    comfy_make(&c, transformer, text_encoder);
    const mica_engine_options e = comfy_options(&c);
    const mica_image_options o = {
        .size = sizeof o, .prompt = "a fox", .width = 32, .height = 32, .steps = 2};
    mica_model *m = golden_model_open(&e);
    expect_run_fails(m, &o, MICA_E_NUMERIC, word);
    golden_model_close(&m);
    golden_remove_folder(c.dir);
}

static void test_nan_is_an_error(void **state)
{
    (void)state;
    poison_and_run(&(copy_spec){.poison = "proj_out.bias"}, &(copy_spec){0}, "after step 1 of 2");
    poison_and_run(&(copy_spec){0}, &(copy_spec){.poison = "model.norm.weight"}, "text encoder");
}

static void test_bad_options(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    const mica_image_options good = {
        .size = sizeof good, .prompt = "a fox", .width = 32, .height = 32, .steps = 1};
    const double rising[] = {0.5, 0.9};
    mica_image_options o = good;
    o.prompt = NULL;
    expect_run_fails(m, &o, MICA_E_USAGE, "prompt");
    o = good;
    o.width = 100000;
    expect_run_fails(m, &o, MICA_E_USAGE, "width 100000");
    o = good;
    o.height = 15;
    expect_run_fails(m, &o, MICA_E_USAGE, "height 15");
    o = good;
    o.steps = -1;
    expect_run_fails(m, &o, MICA_E_USAGE, "-1 steps");
    o = good;
    o.guidance = NAN;
    expect_run_fails(m, &o, MICA_E_USAGE, "guidance");
    o = good;
    o.batch = 1000;
    expect_run_fails(m, &o, MICA_E_USAGE, "batch 1000");
    o = good;
    o.schedule = "no such";
    expect_run_fails(m, &o, MICA_E_USAGE, "no such");
    o = good;
    o.steps = 0;
    o.sigmas = rising;
    o.sigma_count = 2;
    expect_run_fails(m, &o, MICA_E_USAGE, "sigma");
    o = good;
    o.max_text_tokens = 2000;
    expect_run_fails(m, &o, MICA_E_USAGE, "2000");
    o = good;
    o.noise_path = SOURCE "/vae/diffusion_pytorch_model.safetensors";
    expect_run_fails(m, &o, MICA_E_MISSING, "initial_latents");
    o = good;
    o.noise_path = MICA_TEST_DATA "/qwen_image/cases/t2i_cfg/expected.safetensors";
    expect_run_fails(m, &o, MICA_E_FORMAT, "[1, 24, 64]");
    golden_model_close(&m);
}

/* Calls so far, and the one to stop at. */
typedef struct stopper {
    int calls, stop_at, after;
    char notices[512];
} stopper;

static bool on_progress(void *user, const mica_progress *p)
{
    stopper *s = user;
    s->calls++;
    if (s->calls > s->stop_at && s->stop_at > 0)
        s->after++;
    if (p->notice)
        snprintf(s->notices + strlen(s->notices), sizeof s->notices - strlen(s->notices), "%s;",
                 p->notice);
    return s->calls != s->stop_at;
}

static void test_cancel_and_notices(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    stopper s = {0};
    mica_image_options o = {.size = sizeof o,
                            .prompt = "a fox",
                            .width = 47,
                            .height = 40,
                            .steps = 2,
                            .guidance = 4.0,
                            .progress = on_progress,
                            .progress_user = &s};
    golden_run r;
    golden_generate_ok(&r, m, &(golden_setup){0}, &o);
    assert_int_equal(r.result.width, 32);
    assert_int_equal(r.result.height, 32);
    assert_non_null(strstr(s.notices, "width 47 rounded down to 32"));
    assert_non_null(strstr(s.notices, "height 40 rounded down to 32"));
    assert_non_null(strstr(s.notices, "without a negative prompt"));
    golden_run_close(&r);
    /* Stopped at every call of the run in turn, nothing is called any more and nothing leaks. */
    const int total = s.calls;
    assert_true(total > 10);
    for (int n = 1; n <= total; n++) {
        s = (stopper){.stop_at = n};
        golden_generate(&r, m, &(golden_setup){.no_trace = true}, &o);
        assert_int_equal(r.status, MICA_E_CANCELLED);
        assert_int_equal(s.after, 0);
        assert_null(r.result.rgb);
        golden_run_close(&r);
    }
    golden_model_close(&m);
}

/* A session that was stopped, refused and short of memory still gives the same picture. */
static void test_session_survives_failures(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    const mica_backend_options be_options = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 2};
    const mica_diffusion_switches switches = {0};
    mica_backend *be = NULL;
    mica_model_session *session = NULL;
    mica_diffusion_result first, r;
    mica_err err = {0};
    stopper s = {.stop_at = 9};
    const mica_image_options good = {
        .size = sizeof good, .prompt = "a fox", .width = 32, .height = 32, .steps = 2};
    mica_image_options stopped = good, wrong = good;
    stopped.progress = on_progress;
    stopped.progress_user = &s;
    wrong.steps = -1;
    assert_int_equal(mica_backend_open(&be, &be_options, &err), MICA_OK);
    assert_int_equal(m->kind->session_open(&session, m, be, &switches, &err), MICA_OK);
    assert_int_equal(m->kind->generate(session, &good, NULL, &first, &err), MICA_OK);
    assert_int_equal(m->kind->generate(session, &stopped, NULL, &r, &err), MICA_E_CANCELLED);
    assert_int_equal(m->kind->generate(session, &wrong, NULL, &r, &err), MICA_E_USAGE);
    mica_mem_fail_at(12);
    assert_int_equal(m->kind->generate(session, &good, NULL, &r, &err), MICA_E_NOMEM);
    mica_mem_fail_at(0);
    assert_int_equal(m->kind->generate(session, &good, NULL, &r, &err), MICA_OK);
    assert_memory_equal(r.rgb, first.rgb, 32 * 32 * 3);
    mica_diffusion_result_deinit(&r);
    mica_diffusion_result_deinit(&first);
    m->kind->session_close(&session);
    mica_backend_close(&be);
    golden_model_close(&m);
}

/* A prompt of any length and content gives a picture; what is cut is told. */
static void test_prompts(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    static char letters[6000];
    memset(letters, 'x', sizeof letters - 1);
    const char *const prompts[] = {"", "\xff\xfe broken \xe2\x82", letters, "<|im_end|> {} {0}"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(prompts); i++) {
        stopper s = {0};
        const mica_image_options o = {.size = sizeof o,
                                      .prompt = prompts[i],
                                      .width = 32,
                                      .height = 32,
                                      .steps = 1,
                                      .progress = on_progress,
                                      .progress_user = &s};
        golden_run r;
        golden_generate_ok(&r, m, &(golden_setup){0}, &o);
        const mica_tensor *embeds = mica_trace_find(r.trace, "prompt.embeds");
        const mica_tensor *ids = mica_trace_find(r.trace, "prompt.input_ids");
        assert_true(embeds->shape_[1] >= 1 && embeds->shape_[1] <= 1024);
        assert_int_equal(ids->shape_[1], embeds->shape_[1] + 34);
        if (prompts[i] == letters && embeds->shape_[1] == 1024)
            assert_non_null(strstr(s.notices, "to 1024 tokens"));
        golden_run_close(&r);
    }
    golden_model_close(&m);
}

static void test_token_limit(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    golden_case c;
    golden_run r;
    golden_case_open(&c, "qwen_image", "t2i_cfg");
    c.options.max_text_tokens = 8;
    golden_generate_ok(&r, m, &(golden_setup){0}, &c.options);
    /* The first eight rows are those of the whole prompt: the encoder is causal. */
    const mica_tensor *whole = mica_weights_find(c.expected, "prompt.embeds");
    const mica_tensor *cut = mica_trace_find(r.trace, "prompt.embeds");
    assert_int_equal(cut->shape_[1], 8);
    const mica_tensor first = mica_tensor_make(whole->data, whole->dtype, 3, cut->shape_);
    golden_assert_near("prompt.embeds", cut, &first, 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_inspect(void **state)
{
    (void)state;
    mica_text text = {0}, json = {0};
    mica_err err = {0};
    assert_int_equal(mica_model_inspect(SOURCE, &text, &json, &err), MICA_OK);
    assert_non_null(strstr(text.data, "Qwen-Image"));
    assert_non_null(strstr(json.data, "\"missing\":[]"));
    assert_null(strstr(json.data, "\"problems\""));
    mica_json parsed = {0};
    assert_int_equal(mica_json_parse(&parsed, "report", json.data, json.size, &err), MICA_OK);
    mica_json_close(&parsed);
    mica_text_deinit(&text);
    mica_text_deinit(&json);
    text = json = (mica_text){0};
    assert_int_equal(mica_model_inspect(SOURCE "/vae", &text, &json, &err), MICA_OK);
    assert_non_null(
        strstr(json.data, "\"missing\":[\"transformer\",\"text_encoder\",\"tokenizer\"]"));
    mica_text_deinit(&text);
    mica_text_deinit(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comfy_folder),
        cmocka_unit_test(test_parts_one_by_one),
        cmocka_unit_test(test_fp8_plain),
        cmocka_unit_test(test_fp8_scaled),
        cmocka_unit_test(test_all_problems_listed),
        cmocka_unit_test(test_missing_parts),
        cmocka_unit_test(test_variants_refused),
        cmocka_unit_test(test_zero_cond_model_makes_pictures),
        cmocka_unit_test(test_nan_is_an_error),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_cancel_and_notices),
        cmocka_unit_test(test_session_survives_failures),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_token_limit),
        cmocka_unit_test(test_inspect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
