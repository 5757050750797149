/* test_flux2_files.c - FLUX.2-klein in the other layouts users have, and broken ones.
 *
 * Single files are made from the tiny model of the golden vectors: BFL's names with q, k and v fused
 * and the last modulation's halves the other way round, in bf16 and fp8. An fp8 copy must give
 * what an f32 copy of its decoded values gives. */
#include "golden_layout.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOURCE MICA_TEST_DATA "/flux2_klein/model"

typedef enum encoding { KEEP, FP8_PLAIN, FP8_SCALED, FP8_PLAIN_AS_F32, FP8_SCALED_AS_F32 } encoding;

/* How the transformer's copy differs from its source. */
typedef struct spec {
    bool bfl; /* names and fused tensors of BFL; otherwise diffusers' */
    const char *prefix;
    encoding encoding;
    const char *drop;   /* tensor left out (source name) */
    const char *poison; /* tensor whose first value becomes NaN (source name) */
    const char *extra;  /* tensor added */
} spec;

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

/* --------------------------------------------------------------------- BFL files -- */

/* Written down from the published flux-2-klein-4b.safetensors and BFL's model.py, not from the
 * code under test. %d: the block. */
static const char *const NAMES[][2] = {
    {"x_embedder.weight", "img_in.weight"},
    {"context_embedder.weight", "txt_in.weight"},
    {"time_guidance_embed.timestep_embedder.linear_1.weight", "time_in.in_layer.weight"},
    {"time_guidance_embed.timestep_embedder.linear_2.weight", "time_in.out_layer.weight"},
    {"double_stream_modulation_img.linear.weight", "double_stream_modulation_img.lin.weight"},
    {"double_stream_modulation_txt.linear.weight", "double_stream_modulation_txt.lin.weight"},
    {"single_stream_modulation.linear.weight", "single_stream_modulation.lin.weight"},
    {"proj_out.weight", "final_layer.linear.weight"},
};
static const char *const DOUBLE_NAMES[][2] = {
    {"attn.norm_q.weight", "img_attn.norm.query_norm.scale"},
    {"attn.norm_k.weight", "img_attn.norm.key_norm.scale"},
    {"attn.to_out.0.weight", "img_attn.proj.weight"},
    {"ff.linear_in.weight", "img_mlp.0.weight"},
    {"ff.linear_out.weight", "img_mlp.2.weight"},
    {"attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"},
    {"attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"},
    {"attn.to_add_out.weight", "txt_attn.proj.weight"},
    {"ff_context.linear_in.weight", "txt_mlp.0.weight"},
    {"ff_context.linear_out.weight", "txt_mlp.2.weight"},
};
static const char *const SINGLE_NAMES[][2] = {
    {"attn.to_qkv_mlp_proj.weight", "linear1.weight"},
    {"attn.to_out.weight", "linear2.weight"},
    {"attn.norm_q.weight", "norm.query_norm.scale"},
    {"attn.norm_k.weight", "norm.key_norm.scale"},
};
static const char *const FUSED[][4] = {
    {"attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight", "img_attn.qkv.weight"},
    {"attn.add_q_proj.weight", "attn.add_k_proj.weight", "attn.add_v_proj.weight",
     "txt_attn.qkv.weight"},
};

static void add_as(golden_copy *f, const spec *s, const char *name, const mica_tensor *t)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", or_empty(s->prefix), name);
    const bool encoded = s->encoding != KEEP && t->ndim == 2 && strstr(name, "blocks.");
    if (encoded)
        golden_copy_add_fp8(f, full, t,
                            s->encoding == FP8_SCALED || s->encoding == FP8_SCALED_AS_F32,
                            s->encoding == FP8_PLAIN_AS_F32 || s->encoding == FP8_SCALED_AS_F32);
    else
        golden_copy_add(f, full, t);
}

/* Source tensor `block`.`name` under `to`.`as`, unless the spec drops it. */
static void add_renamed(golden_copy *f, const spec *s, const mica_weights *w, const char *block,
                        const char *name, const char *to, const char *as)
{
    char from[192], target[192];
    snprintf(from, sizeof from, "%s%s", block, name);
    snprintf(target, sizeof target, "%s%s", to, as);
    const mica_tensor *t = mica_weights_find(w, from);
    assert_non_null(t);
    mica_tensor copy = *t;
    if (s->drop && strcmp(s->drop, from) == 0)
        return;
    if (s->poison && strcmp(s->poison, from) == 0) {
        uint16_t *data = golden_copy_bytes(f, mica_tensor_size(t));
        memcpy(data, t->data, mica_tensor_size(t));
        data[0] = 0x7fc0;
        copy.data = data;
    }
    add_as(f, s, target, &copy);
}

static void add_double(golden_copy *f, const spec *s, const mica_weights *w, int n)
{
    char from[64], to[64], name[192];
    snprintf(from, sizeof from, "transformer_blocks.%d.", n);
    snprintf(to, sizeof to, "double_blocks.%d.", n);
    for (size_t i = 0; i < MICA_ARRAY_LEN(DOUBLE_NAMES); i++)
        add_renamed(f, s, w, from, DOUBLE_NAMES[i][0], to, DOUBLE_NAMES[i][1]);
    for (size_t i = 0; i < MICA_ARRAY_LEN(FUSED); i++) {
        const mica_tensor *parts[3];
        golden_copy *one = golden_copy_new();
        for (int p = 0; p < 3; p++) {
            snprintf(name, sizeof name, "%s%s", from, FUSED[i][p]);
            parts[p] = mica_weights_find(w, name);
        }
        golden_copy_add_rows(one, "x", parts, 3);
        snprintf(name, sizeof name, "%s%s", to, FUSED[i][3]);
        mica_tensor fused = one->tensors[0];
        fused.data = golden_copy_bytes(f, mica_tensor_size(&fused));
        memcpy(fused.data, one->tensors[0].data, mica_tensor_size(&fused));
        mica_arena_deinit(&one->arena);
        mica_mem_free(one);
        add_as(f, s, name, &fused);
    }
}

/* Shift, then scale. */
static void add_last_modulation(golden_copy *f, const spec *s, const mica_weights *w)
{
    const mica_tensor *t = mica_weights_find(w, "norm_out.linear.weight");
    const int64_t half = t->shape_[0] / 2;
    const mica_tensor scale = mica_tensor_rows(t, 0, half), shift = mica_tensor_rows(t, half, half);
    const mica_tensor *const swapped[] = {&shift, &scale};
    char name[128];
    snprintf(name, sizeof name, "%sfinal_layer.adaLN_modulation.1.weight", or_empty(s->prefix));
    golden_copy_add_rows(f, name, swapped, 2);
}

static void add_bfl(golden_copy *f, const spec *s, const mica_weights *w)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES); i++)
        add_renamed(f, s, w, "", NAMES[i][0], "", NAMES[i][1]);
    add_last_modulation(f, s, w);
    for (int n = 0; n < 2; n++) {
        char from[64], to[64];
        add_double(f, s, w, n);
        snprintf(from, sizeof from, "single_transformer_blocks.%d.", n);
        snprintf(to, sizeof to, "single_blocks.%d.", n);
        for (size_t i = 0; i < MICA_ARRAY_LEN(SINGLE_NAMES); i++)
            add_renamed(f, s, w, from, SINGLE_NAMES[i][0], to, SINGLE_NAMES[i][1]);
    }
}

static void write_transformer(const char *path, const spec *s)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open(&w, SOURCE "/transformer", &err), MICA_OK);
    golden_copy *f = golden_copy_new();
    if (s->bfl)
        add_bfl(f, s, w);
    for (size_t i = 0; i < mica_weights_count(w) && !s->bfl; i++)
        add_renamed(f, s, w, "", mica_weights_name(w, i), "", mica_weights_name(w, i));
    if (s->encoding == FP8_SCALED) {
        char marker[128];
        const mica_tensor none = mica_tensor_1d(golden_copy_bytes(f, 1), MICA_DTYPE_F8_E4M3, 0);
        snprintf(marker, sizeof marker, "%sscaled_fp8", or_empty(s->prefix));
        golden_copy_add(f, marker, &none);
    }
    if (s->extra) {
        const mica_tensor two = mica_tensor_1d(golden_copy_bytes(f, 8), MICA_DTYPE_F32, 2);
        golden_copy_add(f, s->extra, &two);
    }
    golden_copy_write(&f, path);
    mica_weights_close(&w);
}

/* ------------------------------------------------------------------- the folder -- */

typedef struct split {
    char dir[256];
    char transformer[320], text_encoder[320], vae[320];
} split;

static void copy_weights(const char *from, const char *to, const char *drop)
{
    char path[512];
    mica_weights *w = NULL;
    mica_err err = {0};
    snprintf(path, sizeof path, SOURCE "/%s", from);
    assert_int_equal(mica_weights_open(&w, path, &err), MICA_OK);
    golden_copy *f = golden_copy_new();
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (!drop || strncmp(mica_weights_name(w, i), drop, strlen(drop)) != 0)
            golden_copy_add(f, mica_weights_name(w, i), mica_weights_tensor(w, i));
    golden_copy_write(&f, to);
    mica_weights_close(&w);
}

/* Split files as ComfyUI keeps them. The sizes of the tiny parts are not all in their shapes: each has
 * NAME.json beside it, but for the transformer, whose sizes are. */
static void split_make(split *c, const spec *s, const char *drop_text, const char *drop_vae)
{
    static const char *const FOLDERS[] = {"diffusion_models", "text_encoders", "vae"};
    char path[400];
    golden_temp_folder(c->dir, sizeof c->dir);
    for (size_t i = 0; i < MICA_ARRAY_LEN(FOLDERS); i++) {
        snprintf(path, sizeof path, "%s/%s", c->dir, FOLDERS[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(c->transformer, sizeof c->transformer, "%s/diffusion_models/a.safetensors", c->dir);
    snprintf(c->text_encoder, sizeof c->text_encoder, "%s/text_encoders/b.safetensors", c->dir);
    snprintf(c->vae, sizeof c->vae, "%s/vae/c.safetensors", c->dir);
    write_transformer(c->transformer, s);
    copy_weights("text_encoder", c->text_encoder, drop_text);
    copy_weights("vae", c->vae, drop_vae);
    snprintf(path, sizeof path, "%s/text_encoders/b.json", c->dir);
    golden_copy_text(SOURCE "/text_encoder/config.json", path);
    snprintf(path, sizeof path, "%s/vae/c.json", c->dir);
    golden_copy_text(SOURCE "/vae/config.json", path);
}

static mica_engine_options split_options(const split *c)
{
    return (mica_engine_options){
        .size = sizeof(mica_engine_options), .model = c->dir, .tokenizer = SOURCE "/tokenizer"};
}

static void run_case(golden_run *r, const split *s, golden_case *c)
{
    const mica_engine_options o = split_options(s);
    mica_model *m = golden_model_open(&o);
    golden_generate_ok(r, m, &(golden_setup){.threads = 1}, &c->options);
    golden_model_close(&m);
}

static void check_layout(const spec *s)
{
    split c;
    golden_case g;
    golden_run r;
    split_make(&c, s, NULL, NULL);
    golden_case_open(&g, "flux2_klein", "distilled");
    run_case(&r, &c, &g);
    golden_assert_case(&g, r.trace, 1e-4);
    golden_run_close(&r);
    golden_case_close(&g);
    golden_remove_folder(c.dir);
}

static void test_layouts(void **state)
{
    (void)state;
    check_layout(&(spec){.bfl = true});
    check_layout(&(spec){.bfl = true, .prefix = "model.diffusion_model."});
    check_layout(&(spec){.prefix = "transformer.", .extra = "something.else"});
}

static void compare_encodings(bool bfl, encoding packed, encoding decoded)
{
    split a, b;
    golden_case c;
    golden_run x, y;
    split_make(&a, &(spec){.bfl = bfl, .encoding = packed}, NULL, NULL);
    split_make(&b, &(spec){.bfl = bfl, .encoding = decoded}, NULL, NULL);
    golden_case_open(&c, "flux2_klein", "distilled");
    run_case(&x, &a, &c);
    run_case(&y, &b, &c);
    golden_assert_near("step3.latents", mica_trace_find(x.trace, "step3.latents"),
                       mica_trace_find(y.trace, "step3.latents"), 1e-5);
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

static void test_fp8(void **state)
{
    (void)state;
    compare_encodings(true, FP8_PLAIN, FP8_PLAIN_AS_F32);
    compare_encodings(true, FP8_SCALED, FP8_SCALED_AS_F32);
    compare_encodings(false, FP8_SCALED, FP8_SCALED_AS_F32);
}

/* ----------------------------------------------------------------- broken models -- */

static void expect_split_refused(const spec *s, const char *drop_text, const char *drop_vae,
                                 mica_status status, const char *const *words)
{
    split c;
    split_make(&c, s, drop_text, drop_vae);
    const mica_engine_options o = split_options(&c);
    golden_expect_refused(&o, status, words);
    golden_remove_folder(c.dir);
}

static void test_problems_listed(void **state)
{
    (void)state;
    expect_split_refused(
        &(spec){.drop = "single_transformer_blocks.1.attn.to_out.weight"},
        "model.layers.26.mlp.up_proj", "bn.running_var", MICA_E_FORMAT,
        (const char *const[]){"single_transformer_blocks.1.attn.to_out.weight: missing, expected "
                              "[64, 256]",
                              "model.layers.26.mlp.up_proj.weight: missing",
                              "bn.running_var: missing", NULL});
}

/* Layer 27 and the final norm are not needed, so a file without them is whole. */
static void test_unneeded_layers(void **state)
{
    (void)state;
    split c;
    split_make(&c, &(spec){0}, "model.layers.27.", NULL);
    const mica_engine_options o = split_options(&c);
    mica_model *m = golden_model_open(&o);
    golden_model_close(&m);
    golden_remove_folder(c.dir);
}

static void test_variants_refused(void **state)
{
    (void)state;
    expect_split_refused(&(spec){.bfl = true, .extra = "guidance_in.in_layer.weight"}, NULL, NULL,
                         MICA_E_UNSUPPORTED, (const char *const[]){"FLUX.2-dev", NULL});
    const mica_engine_options wrong_vae = {
        .size = sizeof wrong_vae, .model = SOURCE, .vae = MICA_TEST_DATA "/z_image/model/vae"};
    golden_expect_refused(&wrong_vae, MICA_E_UNSUPPORTED,
                          (const char *const[]){"FLUX.1", "16 latent channels", NULL});
    const mica_engine_options wrong_text = {.size = sizeof wrong_text,
                                            .model = SOURCE,
                                            .text_encoder =
                                                MICA_TEST_DATA "/qwen_image/model/text_encoder"};
    golden_expect_refused(&wrong_text, MICA_E_UNSUPPORTED,
                          (const char *const[]){"Qwen2.5-VL", NULL});
    const mica_engine_options no_parts = {.size = sizeof no_parts,
                                          .transformer = SOURCE "/transformer"};
    golden_expect_refused(
        &no_parts, MICA_E_MISSING,
        (const char *const[]){"FLUX.2-klein", "Qwen3-4B", "--vae", "tokenizer", NULL});
}

/* A folder whose model_index.json, or another file, is replaced by `text`. */
static void make_folder(char dir[256], const char *replaced, const char *text)
{
    static const char *const PARTS[] = {"transformer", "text_encoder", "vae", "tokenizer",
                                        "scheduler"};
    char path[512];
    golden_temp_folder(dir, 256);
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++) {
        char source[512];
        snprintf(path, sizeof path, "%s/%s", dir, PARTS[i]);
        snprintf(source, sizeof source, SOURCE "/%s", PARTS[i]);
        assert_int_equal(symlink(source, path), 0);
    }
    snprintf(path, sizeof path, "%s/%s", dir, replaced);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

/* What the index says about the checkpoint, as a run without options takes it. */
static void check_index(const char *text, int steps, bool guided)
{
    char dir[256];
    make_folder(dir, "model_index.json", text);
    const mica_engine_options e = {.size = sizeof e, .model = dir};
    const mica_image_options o = {
        .size = sizeof o, .prompt = "a fox", .width = 16, .height = 16, .max_text_tokens = 16};
    golden_run r;
    mica_model *m = golden_model_open(&e);
    golden_generate_ok(&r, m, &(golden_setup){.threads = 1, .no_trace = true}, &o);
    assert_int_equal(r.result.steps, steps);
    assert_int_equal(r.result.guided, guided);
    golden_run_close(&r);
    golden_model_close(&m);
    golden_remove_folder(dir);
}

static void test_index(void **state)
{
    (void)state;
    char dir[256];
    check_index("{\"_class_name\": \"Flux2KleinPipeline\", \"is_distilled\": true}", 4, false);
    check_index("{\"_class_name\": \"Flux2KleinPipeline\", \"is_distilled\": false}", 50, true);
    check_index("{\"_class_name\": \"Flux2KleinPipeline\"}", 50, true);
    check_index("{\"_class_name\": \"Flux2KleinKVPipeline\"}", 4, false);
    static const char *const BAD[][2] = {
        {"{\"_class_name\": \"Flux2Pipeline\"}", "Flux2Pipeline"},
        {"{\"is_distilled\": \"yes\"}", "is_distilled"},
        {"{", "model_index.json"},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD); i++) {
        make_folder(dir, "model_index.json", BAD[i][0]);
        const mica_engine_options e = {.size = sizeof e, .model = dir};
        golden_expect_refused(&e, i == 0 ? MICA_E_UNSUPPORTED : MICA_E_FORMAT,
                              (const char *const[]){BAD[i][1], NULL});
        golden_remove_folder(dir);
    }
}

/* References whose keys are kept: the numbers of the reference's KV pipeline, and what must not
 * change them. */
static void test_kept_references(void **state)
{
    (void)state;
    static const golden_setup SETUPS[] = {
        {.threads = 1},
        {.threads = 1, .switches = {.ablate_rope_once = true, .ablate_modulation_once = true}}};
    char dir[256];
    make_folder(dir, "model_index.json", "{\"_class_name\": \"Flux2KleinKVPipeline\"}");
    const mica_engine_options e = {.size = sizeof e, .model = dir};
    mica_model *m = golden_model_open(&e);
    golden_case c;
    golden_run r;
    golden_case_open(&c, "flux2_klein", "edit_kv");
    for (size_t i = 0; i < MICA_ARRAY_LEN(SETUPS); i++) {
        golden_generate_ok(&r, m, &SETUPS[i], &c.options);
        golden_assert_case(&c, r.trace, 1e-4);
        const mica_tensor *picture = mica_weights_find(c.expected, "image_u8");
        assert_in_range(
            golden_largest_difference(r.result.rgb, picture->data, mica_tensor_size(picture)), 0,
            1);
        assert_int_equal(r.result.block_allocations, 0);
        golden_run_close(&r);
    }
    /* Each picture of a batch sees the same references. */
    golden_run one;
    c.options.noise_path = NULL;
    c.options.seed = 5;
    golden_generate_ok(&one, m, &SETUPS[0], &c.options);
    c.options.seed = 4;
    c.options.batch = 2;
    golden_generate_ok(&r, m, &SETUPS[0], &c.options);
    const mica_tensor second = mica_tensor_rows(mica_trace_find(r.trace, "step2.latents"), 1, 1);
    golden_assert_near("step2.latents", &second, mica_trace_find(one.trace, "step2.latents"), 1e-5);
    golden_run_close(&r);
    golden_run_close(&one);
    golden_case_close(&c);
    golden_model_close(&m);
    golden_remove_folder(dir);
}

/* ------------------------------------------------------------------- broken runs -- */

static void test_nan_is_an_error(void **state)
{
    (void)state;
    split c;
    golden_run r;
    split_make(&c, &(spec){.poison = "proj_out.weight"}, NULL, NULL);
    const mica_engine_options e = split_options(&c);
    const mica_image_options o = {.size = sizeof o,
                                  .prompt = "a fox",
                                  .width = 32,
                                  .height = 32,
                                  .steps = 2,
                                  .max_text_tokens = 16};
    mica_model *m = golden_model_open(&e);
    golden_generate(&r, m, &(golden_setup){.threads = 1}, &o);
    assert_int_equal(r.status, MICA_E_NUMERIC);
    assert_non_null(strstr(r.err.text, "after step 1 of 2"));
    golden_run_close(&r);
    golden_model_close(&m);
    golden_remove_folder(c.dir);
}

/* A VAE without its encoder makes pictures from text, and says why it cannot read any. */
static void test_vae_without_encoder(void **state)
{
    (void)state;
    static const uint8_t pixels[64 * 64 * 3];
    const mica_image_input input = {.rgb = pixels, .width = 64, .height = 64};
    split c;
    golden_run r;
    split_make(&c, &(spec){0}, NULL, "encoder.");
    const mica_engine_options e = split_options(&c);
    mica_image_options o = {.size = sizeof o,
                            .prompt = "a fox",
                            .width = 16,
                            .height = 16,
                            .steps = 1,
                            .max_text_tokens = 16};
    mica_model *m = golden_model_open(&e);
    golden_generate_ok(&r, m, &(golden_setup){.threads = 1}, &o);
    golden_run_close(&r);
    o.inputs = &input;
    o.input_count = 1;
    golden_generate(&r, m, &(golden_setup){.threads = 1}, &o);
    assert_true(r.status == MICA_E_MISSING && strstr(r.err.text, "encoder"));
    golden_run_close(&r);
    golden_model_close(&m);
    golden_remove_folder(c.dir);
}

/* Calls so far, and the one to stop at. */
typedef struct stopper {
    int calls, stop_at, after;
    char notices[1024];
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
    static const uint8_t pixels[64 * 64 * 3];
    static char letters[2000];
    memset(letters, 'x', sizeof letters - 1);
    const mica_image_input input = {.rgb = pixels, .width = 64, .height = 64};
    split c;
    stopper s = {0};
    mica_image_options o = {.size = sizeof o,
                            .prompt = letters,
                            .width = 47,
                            .height = 16,
                            .steps = 1,
                            .max_text_tokens = 16,
                            .inputs = &input,
                            .input_count = 1,
                            .progress = on_progress,
                            .progress_user = &s};
    golden_run r;
    split_make(&c, &(spec){0}, NULL, NULL);
    const mica_engine_options e = split_options(&c);
    mica_model *m = golden_model_open(&e);
    golden_generate_ok(&r, m, &(golden_setup){.threads = 1}, &o);
    assert_int_equal(r.result.width, 32);
    assert_non_null(strstr(s.notices, "width 47 rounded down to 32"));
    assert_non_null(strstr(s.notices, "do not say whether this checkpoint is distilled"));
    assert_non_null(strstr(s.notices, "to 16 tokens"));
    golden_run_close(&r);
    const int total = s.calls;
    assert_true(total > 60);
    for (int n = 1; n <= total; n += 1 + n / 16) {
        s = (stopper){.stop_at = n};
        golden_generate(&r, m, &(golden_setup){.threads = 1, .no_trace = true}, &o);
        assert_int_equal(r.status, MICA_E_CANCELLED);
        assert_int_equal(s.after, 0);
        assert_null(r.result.rgb);
        golden_run_close(&r);
    }
    golden_model_close(&m);
    golden_remove_folder(c.dir);
}

static void test_inspect(void **state)
{
    (void)state;
    split c;
    mica_text text = {0}, json = {0};
    mica_err err = {0};
    split_make(&c, &(spec){.bfl = true, .encoding = FP8_SCALED}, NULL, NULL);
    assert_int_equal(mica_model_inspect(c.dir, &text, &json, &err), MICA_OK);
    assert_non_null(strstr(text.data, "FLUX.2-klein"));
    assert_non_null(strstr(json.data, "\"missing\":[\"tokenizer\"]"));
    assert_null(strstr(json.data, "\"problems\""));
    mica_text_deinit(&text);
    mica_text_deinit(&json);
    golden_remove_folder(c.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_problems_listed),
        cmocka_unit_test(test_unneeded_layers),
        cmocka_unit_test(test_variants_refused),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_kept_references),
        cmocka_unit_test(test_nan_is_an_error),
        cmocka_unit_test(test_vae_without_encoder),
        cmocka_unit_test(test_cancel_and_notices),
        cmocka_unit_test(test_inspect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
