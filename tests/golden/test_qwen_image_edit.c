/* test_qwen_image_edit.c - editing with Qwen-Image-Edit, -2509 and -2511 against the reference's numbers;
 * what must not change them; which files and requests are refused. */
#include "golden_support.h"

#include "base/arena.h"
#include "base/mem.h"
#include "media/picture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYSTEM    "qwen_image"
#define MODEL     "qwen_image/edit_model"
#define ZERO_COND "qwen_image/edit_model_zero_cond"
#define DATA      MICA_TEST_DATA "/qwen_image/"

static const golden_setup F32 = {0};

/* The folder of the first case says Edit-Plus; the case was made by the other pipeline. */
static const struct edit_case {
    const char *name, *model;
    mica_edit edit;
    mica_positions positions;
    bool has_bf16; /* bounds */
} CASES[] = {{"edit", MODEL, MICA_EDIT_SINGLE, MICA_POSITIONS_SEQUENCE, true},
             {"edit_plus", MODEL, MICA_EDIT_AUTO, MICA_POSITIONS_SEQUENCE, true},
             {"edit_plus_zero_cond", ZERO_COND, MICA_EDIT_AUTO, MICA_POSITIONS_SEQUENCE, true},
             {"edit_plus_grid", MODEL, MICA_EDIT_AUTO, MICA_POSITIONS_GRID, false}};

static void open_case(golden_case *c, const struct edit_case *e)
{
    golden_case_open(c, SYSTEM, e->name);
    c->options.edit = e->edit;
    c->options.picture_positions = e->positions;
}

/* ----------------------------------------------------------- against the reference -- */

static void test_f32(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++) {
        golden_case c;
        golden_run r;
        mica_model *m = golden_model_open_folder(CASES[i].model);
        open_case(&c, &CASES[i]);
        golden_generate_ok(&r, m, &F32, &c.options);
        golden_assert_case(&c, r.trace, 1e-4);
        const mica_tensor *picture = mica_weights_find(c.expected, "image_u8");
        assert_int_equal(mica_tensor_size(picture), 3 * r.result.width * r.result.height);
        assert_in_range(
            golden_largest_difference(r.result.rgb, picture->data, mica_tensor_size(picture)), 0,
            1);
        golden_run_close(&r);
        golden_case_close(&c);
        golden_model_close(&m);
    }
}

static void test_bf16(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES) && CASES[i].has_bf16; i++) {
        golden_case c;
        golden_run r;
        mica_model *m = golden_model_open_folder(CASES[i].model);
        open_case(&c, &CASES[i]);
        const struct cJSON *tolerance = mica_json_find(c.manifest.root, "tolerance");
        const struct cJSON *bounds =
            mica_json_find(mica_json_find(tolerance, "bfloat16_compute"), "per_tensor");
        int compared = 0;
        golden_generate_ok(&r, m, &(golden_setup){.precision = MICA_PRECISION_BF16}, &c.options);
        for (size_t t = 0; t < mica_weights_count(c.expected); t++) {
            const char *name = mica_weights_name(c.expected, t);
            double bound = 0.0;
            mica_err err = {0};
            assert_int_equal(mica_json_opt_double(&c.manifest, bounds, name, 0, 1, &bound, &err),
                             0);
            if (bound == 0.0)
                continue;
            golden_assert_near(name, mica_trace_find(r.trace, name),
                               mica_weights_tensor(c.expected, t), bound);
            compared++;
        }
        assert_true(compared >= 5);
        golden_run_close(&r);
        golden_case_close(&c);
        golden_model_close(&m);
    }
}

/* 8-bit operands in the transformer's large linears; vision tower and text encoder keep theirs. */
static void test_int8(void **state)
{
    (void)state;
    golden_case c;
    golden_run r;
    mica_model *m = golden_model_open_folder(ZERO_COND);
    open_case(&c, &CASES[2]);
    golden_generate_ok(&r, m, &(golden_setup){.precision = MICA_PRECISION_INT8}, &c.options);
    golden_assert_near("prompt.embeds", mica_trace_find(r.trace, "prompt.embeds"),
                       mica_weights_find(c.expected, "prompt.embeds"), 3e-2);
    golden_assert_near("step0.cond", mica_trace_find(r.trace, "step0.cond"),
                       mica_weights_find(c.expected, "step0.cond"), 3e-2);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

/* -------------------------------------------------------------- what must not matter -- */

/* Two runs of a case; bound 0: the same bytes. */
static void compare_setups(const struct edit_case *e, const golden_setup *plain,
                           const golden_setup *setup, double bound)
{
    static const char *const NAMES[] = {"prompt.embeds", "step0.cond", "step1.latents"};
    golden_case c;
    golden_run a, b;
    mica_model *m = golden_model_open_folder(e->model);
    open_case(&c, e);
    golden_generate_ok(&a, m, plain, &c.options);
    golden_generate_ok(&b, m, setup, &c.options);
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES); i++) {
        const mica_tensor *x = mica_trace_find(a.trace, NAMES[i]);
        const mica_tensor *y = mica_trace_find(b.trace, NAMES[i]);
        if (bound == 0.0)
            golden_assert_equal(NAMES[i], y, x);
        else
            golden_assert_near(NAMES[i], y, x, bound);
    }
    golden_run_close(&a);
    golden_run_close(&b);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_setups(void **state)
{
    (void)state;
    const golden_setup one = {.threads = 1}, three = {.threads = 3};
    const golden_setup rope = {.switches = {.ablate_rope_once = true}};
    const golden_setup trim = {.switches = {.ablate_trim = true}};
    const golden_setup modulation = {.switches = {.ablate_modulation_once = true}};
    const golden_setup apart = {.switches = {.ablate_batched_cfg = true}};
    const golden_setup plain = {.ablate_fusion = true};
    for (size_t i = 1; i < 3; i++) {
        compare_setups(&CASES[i], &one, &three, 0.0);
        compare_setups(&CASES[i], &F32, &rope, 0.0);
        compare_setups(&CASES[i], &F32, &trim, 0.0);
        compare_setups(&CASES[i], &F32, &modulation, 1e-5);
        compare_setups(&CASES[i], &F32, &apart, 1e-5);
        compare_setups(&CASES[i], &F32, &plain, 1e-5);
    }
}

/* Pictures of a batch share the references. */
static void test_batch(void **state)
{
    (void)state;
    golden_case c;
    golden_run both, one;
    mica_model *m = golden_model_open_folder(ZERO_COND);
    open_case(&c, &CASES[2]);
    c.options.noise_path = NULL;
    c.options.batch = 2;
    golden_generate_ok(&both, m, &F32, &c.options);
    c.options.batch = 1;
    for (int i = 0; i < 2; i++) {
        c.options.seed = (uint64_t)i;
        golden_generate_ok(&one, m, &F32, &c.options);
        const mica_tensor mine =
            mica_tensor_rows(mica_trace_find(both.trace, "step1.latents"), i, 1);
        golden_assert_near("step1.latents", &mine, mica_trace_find(one.trace, "step1.latents"),
                           1e-5);
        golden_run_close(&one);
    }
    golden_run_close(&both);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_counters(void **state)
{
    (void)state;
    golden_case c;
    golden_run r;
    mica_model *m = golden_model_open_folder(ZERO_COND);
    open_case(&c, &CASES[2]);
    c.options.steps = 4;
    golden_generate_ok(&r, m, &(golden_setup){.no_trace = true}, &c.options);
    assert_int_equal(r.result.block_allocations, 0);
    assert_int_equal(r.result.block_waits, 0);
    assert_int_equal(r.result.rope_builds, 1);
    assert_int_equal(r.result.modulation_matmuls, 2 * 1 + 1);
    assert_int_equal(r.result.passes, 4);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

/* ------------------------------------------------------------------------ requests -- */

static uint8_t test_pixels[72 * 56 * 3];

static mica_image_options small_options(const mica_image_input *inputs, int count)
{
    for (size_t i = 0; i < sizeof test_pixels; i++)
        test_pixels[i] = (uint8_t)(i * 31 / 7 + i / 216 * 5);
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = "make it night",
                                .width = 32,
                                .height = 32,
                                .steps = 1,
                                .ref_pixels = 4096,
                                .vision_pixels = 4096,
                                .inputs = inputs,
                                .input_count = count};
}

static const mica_image_input PICTURE = {.rgb = test_pixels, .width = 72, .height = 56};

/* Pixels in memory are pixels of a file. */
static void test_memory_input(void **state)
{
    (void)state;
    golden_case c;
    golden_run file, memory;
    mica_err err = {0};
    mica_picture p = {0};
    mica_model *m = golden_model_open_folder(ZERO_COND);
    open_case(&c, &CASES[2]);
    golden_generate_ok(&file, m, &F32, &c.options);
    assert_int_equal(mica_picture_read(&p, c.inputs[0].path, &err), 0);
    const mica_image_input input = {.rgb = p.pixels, .width = p.width, .height = p.height};
    c.options.inputs = &input;
    golden_generate_ok(&memory, m, &F32, &c.options);
    golden_assert_equal("step1.latents", mica_trace_find(memory.trace, "step1.latents"),
                        mica_trace_find(file.trace, "step1.latents"));
    golden_run_close(&file);
    golden_run_close(&memory);
    mica_picture_deinit(&p);
    golden_case_close(&c);
    golden_model_close(&m);
}

/* A mask keeps what it protects; the picture is start and reference. */
static void test_edit_with_mask(void **state)
{
    (void)state;
    static uint8_t black[72 * 56 * 3];
    const mica_image_input mask = {.rgb = black, .width = 72, .height = 56};
    golden_run r;
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options(&PICTURE, 1);
    o.width = o.height = 0;
    o.mask = &mask;
    golden_generate_ok(&r, m, &F32, &o);
    assert_non_null(mica_trace_find(r.trace, "vae_encode.1.mean"));
    assert_int_equal(r.result.width, 72);
    assert_memory_equal(r.result.rgb, test_pixels, sizeof test_pixels);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* Without a picture, and with editing switched off, the model follows the text alone. */
static void test_text_alone(void **state)
{
    (void)state;
    golden_run without, off;
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options(NULL, 0);
    golden_generate_ok(&without, m, &F32, &o);
    o.edit = MICA_EDIT_OFF;
    golden_generate_ok(&off, m, &F32, &o);
    golden_assert_equal("step0.latents", mica_trace_find(off.trace, "step0.latents"),
                        mica_trace_find(without.trace, "step0.latents"));
    assert_null(mica_trace_find(off.trace, "vision.image_grid_thw"));
    golden_run_close(&without);
    golden_run_close(&off);
    golden_model_close(&m);
}

static void expect_fails(const mica_model *m, const mica_image_options *o, mica_status status,
                         const char *word)
{
    golden_run r;
    golden_generate(&r, m, &(golden_setup){.no_trace = true}, o);
    if (r.status != status || !strstr(r.err.text, word))
        fail_msg("got %s (%s), expected %s about \"%s\"", mica_status_name(r.status), r.err.text,
                 mica_status_name(status), word);
    assert_null(r.result.rgb);
    golden_run_close(&r);
}

static void test_bad_requests(void **state)
{
    (void)state;
    mica_image_input many[11];
    static uint8_t line[2000 * 3];
    const mica_image_input thin = {.rgb = line, .width = 2000, .height = 1};
    const mica_image_input absent = {.path = DATA "absent.png"};
    const mica_image_input text = {.path = DATA "README.md"};
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options(&PICTURE, 1);
    for (size_t i = 0; i < MICA_ARRAY_LEN(many); i++)
        many[i] = PICTURE;
    o.prompt = "see <|image_pad|>";
    expect_fails(m, &o, MICA_E_USAGE, "image_pad");
    o = small_options(many, 11);
    expect_fails(m, &o, MICA_E_USAGE, "at most 10");
    o = small_options(many, 2);
    o.edit = MICA_EDIT_SINGLE;
    expect_fails(m, &o, MICA_E_USAGE, "at most 1");
    o = small_options(NULL, 0);
    o.edit = MICA_EDIT_PLUS;
    expect_fails(m, &o, MICA_E_USAGE, "needs a picture");
    o = small_options(&thin, 1);
    expect_fails(m, &o, MICA_E_USAGE, "2000 x 1");
    o = small_options(&absent, 1);
    expect_fails(m, &o, MICA_E_MISSING, "absent.png");
    o = small_options(&text, 1);
    expect_fails(m, &o, MICA_E_FORMAT, "README.md");
    o = small_options(&PICTURE, 1);
    o.ref_pixels = -1;
    expect_fails(m, &o, MICA_E_USAGE, "-1");
    o = small_options(&PICTURE, 1);
    o.ref_pixels = 100;
    expect_fails(m, &o, MICA_E_USAGE, "100 pixels");
    o = small_options(&PICTURE, 1);
    o.edit = (mica_edit)7;
    expect_fails(m, &o, MICA_E_USAGE, "7");
    o = small_options(&PICTURE, 1);
    o.picture_positions = (mica_positions)3;
    expect_fails(m, &o, MICA_E_USAGE, "3");
    o = small_options(many, 10);
    o.max_text_tokens = 20;
    expect_fails(m, &o, MICA_E_USAGE, "no room");
    golden_model_close(&m);
}

static bool stop_in_vision(void *user, const mica_progress *p)
{
    int *blocks = user;
    return p->phase != MICA_PHASE_TEXT || p->block_count != 3 || ++*blocks < 2;
}

/* Between two layers of the vision tower (it has three, the text encoder two). */
static void test_cancel(void **state)
{
    (void)state;
    int blocks = 0;
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options(&PICTURE, 1);
    o.progress = stop_in_vision;
    o.progress_user = &blocks;
    expect_fails(m, &o, MICA_E_CANCELLED, "");
    assert_int_equal(blocks, 2);
    golden_model_close(&m);
}

/* --------------------------------------------------------------------------- files -- */

/* A copy of the edit model by links, but for the parts that a test writes itself. */
typedef struct folder {
    char dir[256];
} folder;

static void link_part(const folder *f, const char *model, const char *name)
{
    char from[512], to[400];
    snprintf(from, sizeof from, DATA "%s/%s", model, name);
    snprintf(to, sizeof to, "%s/%s", f->dir, name);
    assert_int_equal(symlink(from, to), 0);
}

static void folder_make(folder *f, const char *model, const char *without)
{
    static const char *const PARTS[] = {"transformer",     "text_encoder", "vae",
                                        "tokenizer",       "scheduler",    "processor",
                                        "model_index.json"};
    golden_temp_folder(f->dir, sizeof f->dir);
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++)
        if (!without || strcmp(PARTS[i], without) != 0)
            link_part(f, model, PARTS[i]);
}

static void write_text(const folder *f, const char *name, const char *text)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fputs(text, file) < 0, 0);
    assert_int_equal(fclose(file), 0);
}

static mica_model *folder_open(const folder *f)
{
    return golden_model_open(
        &(mica_engine_options){.size = sizeof(mica_engine_options), .model = f->dir});
}

/* Part `name` without the tensors that begin with `dropped`, with `extra` added; one file. */
static void write_part(const folder *f, const char *name, const char *dropped, const char *extra)
{
    char path[512];
    mica_weights *w = NULL;
    mica_arena arena;
    mica_err err = {0};
    mica_tensor mark = mica_tensor_1d((float[]){0.0f}, MICA_DTYPE_F32, 1);
    size_t count = 0;
    snprintf(path, sizeof path, DATA "edit_model/%s", name);
    assert_int_equal(mica_weights_open(&w, path, &err), 0);
    mica_arena_init(&arena, 1 << 16);
    const size_t all = mica_weights_count(w);
    mica_safetensors_entry *entries = mica_arena_calloc(&arena, all + 1, sizeof *entries);
    for (size_t i = 0; i < all; i++) {
        const char *tensor = mica_weights_name(w, i);
        if (dropped && strncmp(tensor, dropped, strlen(dropped)) == 0)
            continue;
        entries[count++] = (mica_safetensors_entry){tensor, mica_weights_tensor(w, i)};
    }
    if (extra)
        entries[count++] = (mica_safetensors_entry){extra, &mark};
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", f->dir, name);
    assert_int_equal(mica_safetensors_write(path, entries, count, NULL, &err), 0);
    mica_weights_close(&w);
    mica_arena_deinit(&arena);
    char source[512], target[512];
    snprintf(source, sizeof source, DATA "edit_model/%s/config.json", name);
    snprintf(target, sizeof target, "%s/%s/config.json", f->dir, name);
    assert_int_equal(symlink(source, target), 0);
}

/* The text encoder must have eyes, and whole ones; text to picture needs none. */
static void test_vision_must_be_there(void **state)
{
    (void)state;
    static const char *const BROKEN[][2] = {
        {"model.visual.", "no vision tower"},
        {"model.visual.merger.mlp.0.bias", "visual.merger.mlp.0.bias"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(BROKEN); i++) {
        folder f;
        golden_run r;
        folder_make(&f, "edit_model", "text_encoder");
        write_part(&f, "text_encoder", BROKEN[i][0], NULL);
        mica_model *m = folder_open(&f);
        mica_image_options o = small_options(&PICTURE, 1);
        expect_fails(m, &o, i ? MICA_E_FORMAT : MICA_E_MISSING, BROKEN[i][1]);
        o = small_options(NULL, 0);
        golden_generate_ok(&r, m, &F32, &o);
        golden_run_close(&r);
        golden_model_close(&m);
        golden_remove_folder(f.dir);
    }
}

/* Without model_index.json nothing tells what a picture is for. */
static void test_kind_of_single_files(void **state)
{
    (void)state;
    folder f;
    golden_run r;
    folder_make(&f, "edit_model", "model_index.json");
    mica_model *m = folder_open(&f);
    mica_image_options o = small_options(&PICTURE, 1);
    expect_fails(m, &o, MICA_E_USAGE, "--edit");
    o.edit = MICA_EDIT_SINGLE;
    golden_generate_ok(&r, m, &F32, &o);
    golden_run_close(&r);
    o.edit = MICA_EDIT_AUTO;
    o.strength = 1.0; /* a start picture is no question */
    golden_generate_ok(&r, m, &F32, &o);
    assert_null(mica_trace_find(r.trace, "vision.image_grid_thw"));
    golden_run_close(&r);
    golden_model_close(&m);
    golden_remove_folder(f.dir);
}

/* The mark of Edit-2511 in ComfyUI's file does what zero_cond_t does in config.json. */
static void test_zero_cond_mark(void **state)
{
    (void)state;
    folder f;
    golden_case c;
    golden_run r;
    folder_make(&f, "edit_model", "transformer");
    char path[400];
    write_part(&f, "transformer", NULL, "__index_timestep_zero__");
    /* Only shapes and mark: the tiny model's rotary axes still need a configuration. */
    snprintf(path, sizeof path, "%s/transformer/config.json", f.dir);
    assert_int_equal(unlink(path), 0);
    write_text(&f, "transformer/config.json",
               "{\"num_layers\": 1, \"num_attention_heads\": 2, \"attention_head_dim\": 32, "
               "\"joint_attention_dim\": 48, \"axes_dims_rope\": [8, 12, 12]}");
    mica_model *m = folder_open(&f);
    open_case(&c, &CASES[2]);
    golden_generate_ok(&r, m, &F32, &c.options);
    golden_assert_case(&c, r.trace, 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
    golden_remove_folder(f.dir);
}

static void test_index_decides(void **state)
{
    (void)state;
    folder f;
    golden_case c;
    golden_run r;
    folder_make(&f, "edit_model", "model_index.json");
    write_text(&f, "model_index.json", "{\"_class_name\": \"QwenImageEditPipeline\"}");
    mica_model *m = folder_open(&f);
    golden_case_open(&c, SYSTEM, "edit");
    golden_generate_ok(&r, m, &F32, &c.options);
    golden_assert_case(&c, r.trace, 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
    golden_remove_folder(f.dir);
    /* The plain pipeline starts from a picture. */
    folder_make(&f, "edit_model", "model_index.json");
    write_text(&f, "model_index.json", "{\"_class_name\": \"QwenImagePipeline\"}");
    m = folder_open(&f);
    const mica_image_options o = small_options(&PICTURE, 1);
    golden_generate_ok(&r, m, &F32, &o);
    assert_true(r.result.strength > 0.0);
    golden_run_close(&r);
    golden_model_close(&m);
    golden_remove_folder(f.dir);
}

/* A folder that says Plus: one picture with equal areas for both encoders is Edit's call. */
static void test_areas_decide(void **state)
{
    (void)state;
    golden_case c;
    golden_run r;
    mica_model *m = golden_model_open_folder(MODEL);
    golden_case_open(&c, SYSTEM, "edit");
    assert_int_equal(c.options.edit, MICA_EDIT_AUTO);
    assert_true(c.options.ref_pixels > 0 && c.options.ref_pixels == c.options.vision_pixels);
    golden_generate_ok(&r, m, &F32, &c.options);
    golden_assert_case(&c, r.trace, 1e-4);
    const int64_t single = mica_trace_find(r.trace, "prompt.input_ids")->shape_[1];
    golden_run_close(&r);
    c.options.edit = MICA_EDIT_PLUS; /* "Picture 1: " in front */
    golden_generate_ok(&r, m, &F32, &c.options);
    const int64_t plus = mica_trace_find(r.trace, "prompt.input_ids")->shape_[1];
    assert_true(plus > single);
    golden_run_close(&r);
    c.options.edit = MICA_EDIT_AUTO;
    c.options.vision_pixels += 1024;
    golden_generate_ok(&r, m, &F32, &c.options);
    assert_true(mica_trace_find(r.trace, "prompt.input_ids")->shape_[1] > single);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

/* Patches of another size than the tower takes. */
static void test_processor_must_fit(void **state)
{
    (void)state;
    folder f;
    folder_make(&f, "edit_model", "processor");
    char path[400];
    snprintf(path, sizeof path, "%s/processor", f.dir);
    assert_int_equal(mkdir(path, 0700), 0);
    write_text(&f, "processor/preprocessor_config.json", "{\"patch_size\": 16}");
    mica_model *m = folder_open(&f);
    mica_image_options o = small_options(&PICTURE, 1);
    expect_fails(m, &o, MICA_E_FORMAT, "patches of 16");
    golden_model_close(&m);
    write_text(&f, "processor/preprocessor_config.json", "{\"resample\": 0}");
    m = folder_open(&f);
    expect_fails(m, &o, MICA_E_UNSUPPORTED, "resample is 0");
    golden_model_close(&m);
    golden_remove_folder(f.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_setups),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_memory_input),
        cmocka_unit_test(test_edit_with_mask),
        cmocka_unit_test(test_text_alone),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_vision_must_be_there),
        cmocka_unit_test(test_kind_of_single_files),
        cmocka_unit_test(test_zero_cond_mark),
        cmocka_unit_test(test_index_decides),
        cmocka_unit_test(test_areas_decide),
        cmocka_unit_test(test_processor_must_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
