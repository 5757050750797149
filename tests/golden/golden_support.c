/* golden_support.c - see golden_support.h. */
#include "golden_support.h"

#include "base/file.h"

#include <cjson/cJSON.h>

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void assert_ok(mica_status st, const mica_err *err)
{
    if (st)
        fail_msg("%s: %s", mica_status_name(st), err->text);
}

/* A case with a seed draws its noise; one without brings it. */
static void read_seed(golden_case *c, const struct cJSON *call)
{
    mica_err err = {0};
    int64_t seed = 0;
    if (!mica_json_find(call, "seed"))
        return;
    assert_ok(mica_json_get_int(&c->manifest, call, "seed", 0, INT64_MAX, &seed, &err), &err);
    c->options.seed = (uint64_t)seed;
    c->options.noise_path = NULL;
}

/* The path of a file beside the case's manifest. */
static const char *beside(golden_case *c, int slot, const char *name)
{
    const size_t folder = (size_t)(strrchr(c->expected_path, '/') + 1 - c->expected_path);
    snprintf(c->input_paths[slot], sizeof c->input_paths[slot], "%.*s%s", (int)folder,
             c->expected_path, name);
    return c->input_paths[slot];
}

/* Areas that the reference's pipelines were patched to scale pictures to. */
static void read_areas(golden_case *c, const struct cJSON *inputs)
{
    const struct cJSON *areas = mica_json_find(inputs, "area_override");
    mica_err err = {0};
    int64_t vae = 0, vision = 0;
    assert_ok(mica_json_opt_int(&c->manifest, areas, "vae_image_area", 1, 1 << 24, &vae, &err),
              &err);
    assert_ok(
        mica_json_opt_int(&c->manifest, areas, "condition_image_area", 1, 1 << 24, &vision, &err),
        &err);
    c->options.ref_pixels = (int)vae;
    c->options.vision_pixels = (int)vision;
}

static void read_inputs(golden_case *c, const struct cJSON *call)
{
    mica_err err = {0};
    const char *mask = NULL;
    const struct cJSON *inputs = mica_json_find(c->manifest.root, "inputs");
    const struct cJSON *name = NULL, *names = mica_json_find(call, "images");
    mica_image_options *o = &c->options;
    if (!names)
        names = mica_json_find(inputs, "images");
    read_areas(c, inputs);
    cJSON_ArrayForEach(name, names)
    {
        assert_in_range(o->input_count, 0, 3);
        c->inputs[o->input_count].path = beside(c, o->input_count, name->valuestring);
        o->input_count++;
    }
    o->inputs = c->inputs;
    assert_ok(mica_json_opt_double(&c->manifest, call, "strength", 0, 1, &o->strength, &err), &err);
    if (!mica_json_find(call, "mask"))
        return;
    assert_ok(mica_json_get_string(&c->manifest, call, "mask", &mask, &err), &err);
    c->mask.path = beside(c, 4, mask);
    o->mask = &c->mask;
}

/* True guidance, or the embedded or added scale of other pipelines, where 0 is none (the
 * library's 0 is the default); `true` is a limit of 1. */
static void read_guidance(golden_case *c, const struct cJSON *call)
{
    mica_err err = {0};
    mica_image_options *o = &c->options;
    const struct cJSON *limit = mica_json_find(call, "cfg_normalization");
    assert_ok(
        mica_json_opt_double(&c->manifest, call, "true_cfg_scale", 0, 100, &o->guidance, &err),
        &err);
    assert_ok(
        mica_json_opt_double(&c->manifest, call, "guidance_scale", 0, 100, &o->guidance, &err),
        &err);
    if (mica_json_find(call, "guidance_scale") && o->guidance == 0.0)
        o->guidance = -1.0;
    assert_ok(
        mica_json_opt_double(&c->manifest, call, "cfg_truncation", 0, 1, &o->cfg_truncation, &err),
        &err);
    o->cfg_normalization = cJSON_IsTrue(limit)     ? 1.0
                           : cJSON_IsNumber(limit) ? limit->valuedouble
                                                   : 0;
}

/* What only FLUX.2-klein's calls have; its folder says distilled, some cases are not. */
static void read_flux2(golden_case *c, const struct cJSON *call)
{
    const struct cJSON *inputs = mica_json_find(c->manifest.root, "inputs");
    mica_err err = {0};
    int64_t tokens = 0;
    bool distilled = false;
    if (!mica_json_find(inputs, "is_distilled"))
        return;
    assert_ok(mica_json_opt_int(&c->manifest, call, "max_sequence_length", 1, 4096, &tokens, &err),
              &err);
    assert_ok(mica_json_opt_bool(&c->manifest, inputs, "is_distilled", &distilled, &err), &err);
    c->options.max_text_tokens = (int)tokens;
    c->options.distilled = distilled ? MICA_CHOICE_YES : MICA_CHOICE_NO;
}

static void read_call(golden_case *c)
{
    const struct cJSON *call = mica_json_find(c->manifest.root, "call");
    mica_err err = {0};
    int64_t width = 0, height = 0, steps = 0;
    mica_image_options *o = &c->options;
    *o = (mica_image_options){.size = sizeof *o, .noise_path = c->expected_path};
    assert_non_null(call);
    assert_ok(mica_json_get_string(&c->manifest, call, "prompt", &o->prompt, &err), &err);
    assert_ok(mica_json_get_int(&c->manifest, call, "width", 1, 4096, &width, &err), &err);
    assert_ok(mica_json_get_int(&c->manifest, call, "height", 1, 4096, &height, &err), &err);
    assert_ok(mica_json_get_int(&c->manifest, call, "num_inference_steps", 1, 100, &steps, &err),
              &err);
    read_guidance(c, call);
    read_flux2(c, call);
    if (mica_json_find(call, "negative_prompt"))
        assert_ok(
            mica_json_get_string(&c->manifest, call, "negative_prompt", &o->negative_prompt, &err),
            &err);
    o->width = (int)width;
    o->height = (int)height;
    o->steps = (int)steps;
    read_seed(c, call);
    read_inputs(c, call);
}

void golden_case_open(golden_case *c, const char *system, const char *name)
{
    char path[512];
    mica_err err = {0};
    *c = (golden_case){0};
    snprintf(path, sizeof path, "%s/%s/cases/%s/manifest.json", MICA_TEST_DATA, system, name);
    assert_ok(mica_json_open(&c->manifest, path, &err), &err);
    snprintf(c->expected_path, sizeof c->expected_path, "%s/%s/cases/%s/expected.safetensors",
             MICA_TEST_DATA, system, name);
    assert_ok(mica_weights_open(&c->expected, c->expected_path, &err), &err);
    read_call(c);
}

void golden_case_close(golden_case *c)
{
    mica_weights_close(&c->expected);
    mica_json_close(&c->manifest);
}

mica_model *golden_model_open(const mica_engine_options *options)
{
    mica_model_parts parts;
    const mica_model_kind *kind;
    mica_model *m = NULL;
    mica_err err = {0};
    assert_ok(mica_model_parts_resolve(&parts, &kind, options, &err), &err);
    assert_ok(kind->open(&m, &parts, &err), &err);
    mica_model_parts_deinit(&parts);
    return m;
}

void golden_model_close(mica_model **m)
{
    (*m)->kind->close(m);
}

mica_model *golden_model_open_folder(const char *path)
{
    char full[512];
    snprintf(full, sizeof full, "%s/%s", MICA_TEST_DATA, path);
    return golden_model_open(
        &(mica_engine_options){.size = sizeof(mica_engine_options), .model = full});
}

void golden_generate(golden_run *r, const mica_model *m, const golden_setup *setup,
                     const mica_image_options *options)
{
    const mica_backend_options be_options = {.device = MICA_DEVICE_CPU,
                                             .precision = setup->precision ? setup->precision
                                                                           : MICA_PRECISION_F32,
                                             .threads = setup->threads ? setup->threads : 2,
                                             .ablate_fusion = setup->ablate_fusion};
    mica_backend *be = NULL;
    mica_model_session *s = NULL;
    *r = (golden_run){0};
    assert_ok(mica_backend_open(&be, &be_options, &r->err), &r->err);
    if (setup->change_backend)
        setup->change_backend(be);
    assert_ok(m->kind->session_open(&s, m, be, &setup->switches, &r->err), &r->err);
    if (!setup->no_trace)
        assert_ok(mica_trace_open(&r->trace, &r->err), &r->err);
    r->status = m->kind->generate(s, options, r->trace ? mica_trace_sink(r->trace) : NULL,
                                  &r->result, &r->err);
    m->kind->session_close(&s);
    mica_backend_close(&be);
}

void golden_generate_ok(golden_run *r, const mica_model *m, const golden_setup *setup,
                        const mica_image_options *options)
{
    golden_generate(r, m, setup, options);
    assert_ok(r->status, &r->err);
}

void golden_run_close(golden_run *r)
{
    mica_trace_close(&r->trace);
    mica_diffusion_result_deinit(&r->result);
}

static void assert_same_shape(const char *name, const mica_tensor *got, const mica_tensor *expected)
{
    char a[128], b[128];
    bool same = got->ndim == expected->ndim;
    for (int i = 0; same && i < got->ndim; i++)
        same = got->shape_[i] == expected->shape_[i];
    if (!same)
        fail_msg("%s: got %s, expected %s", name, mica_tensor_describe(got, a, sizeof a),
                 mica_tensor_describe(expected, b, sizeof b));
}

double golden_relative_l2(const mica_tensor *got, const mica_tensor *expected)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < mica_tensor_count(expected); i++) {
        const double e = mica_tensor_read_f32(expected, i), g = mica_tensor_read_f32(got, i);
        difference += (g - e) * (g - e);
        norm += e * e;
    }
    return sqrt(difference) / (norm > 0.0 ? sqrt(norm) : 1.0);
}

void golden_assert_near(const char *name, const mica_tensor *got, const mica_tensor *expected,
                        double bound)
{
    if (!got)
        fail_msg("%s was not written", name);
    assert_same_shape(name, got, expected);
    const double distance = golden_relative_l2(got, expected);
    if (!(distance <= bound))
        fail_msg("%s: relative L2 distance %.3g, at most %.3g allowed", name, distance, bound);
}

void golden_assert_equal(const char *name, const mica_tensor *got, const mica_tensor *expected)
{
    if (!got)
        fail_msg("%s was not written", name);
    assert_same_shape(name, got, expected);
    if (got->dtype != expected->dtype)
        fail_msg("%s: got %s, expected %s", name, mica_dtype_get(got->dtype)->name,
                 mica_dtype_get(expected->dtype)->name);
    if (memcmp(got->data, expected->data, mica_tensor_size(expected)) != 0)
        fail_msg("%s differs", name);
}

void golden_check_f32(const char *system, const char *model, const char *name)
{
    golden_case c;
    golden_run r;
    mica_model *m = golden_model_open_folder(model);
    golden_case_open(&c, system, name);
    golden_generate_ok(&r, m, &(golden_setup){0}, &c.options);
    golden_assert_case(&c, r.trace, 1e-4);
    const mica_tensor *picture = mica_weights_find(c.expected, "image_u8");
    assert_int_equal(mica_tensor_size(picture), 3 * r.result.width * r.result.height);
    assert_in_range(
        golden_largest_difference(r.result.rgb, picture->data, mica_tensor_size(picture)), 0, 1);
    assert_int_equal(r.result.count, 1);
    if (c.options.width) { /* else the references' size, which the picture's size has shown */
        assert_int_equal(r.result.width, c.options.width);
        assert_int_equal(r.result.height, c.options.height);
    }
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

/* Every tensor the manifest gives a bound for. */
static void assert_bf16(const golden_case *c, const mica_trace *trace)
{
    const struct cJSON *bounds =
        mica_json_find(mica_json_find(c->manifest.root, "tolerance"), "bfloat16_compute");
    const struct cJSON *each = mica_json_find(bounds, "per_tensor");
    int compared = 0;
    assert_non_null(each);
    for (size_t i = 0; i < mica_weights_count(c->expected); i++) {
        const char *name = mica_weights_name(c->expected, i);
        double bound = 0.0;
        mica_err err = {0};
        assert_int_equal(mica_json_opt_double(&c->manifest, each, name, 0, 1, &bound, &err), 0);
        if (bound == 0.0)
            continue;
        golden_assert_near(name, mica_trace_find(trace, name), mica_weights_tensor(c->expected, i),
                           bound);
        compared++;
    }
    assert_true(compared >= 5);
}

static double mean_difference(const uint8_t *a, const mica_tensor *b)
{
    double sum = 0.0;
    for (int64_t i = 0; i < mica_tensor_count(b); i++)
        sum += abs(a[i] - ((const uint8_t *)b->data)[i]);
    return sum / (double)mica_tensor_count(b);
}

void golden_check_bf16(const char *system, const char *model, const char *name)
{
    golden_case c;
    golden_run r;
    mica_model *m = golden_model_open_folder(model);
    mica_err err = {0};
    double most = 0.0;
    golden_case_open(&c, system, name);
    golden_generate_ok(&r, m, &(golden_setup){.precision = MICA_PRECISION_BF16}, &c.options);
    assert_bf16(&c, r.trace);
    const struct cJSON *tolerance = mica_json_find(c.manifest.root, "tolerance");
    assert_ok(mica_json_get_double(&c.manifest, mica_json_find(tolerance, "image_u8"),
                                   "bfloat16_mean_abs", 0, 255, &most, &err),
              &err);
    assert_true(mean_difference(r.result.rgb, mica_weights_find(c.expected, "image_u8")) <= most);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

void golden_temp_folder(char *out, size_t size)
{
    const char *base = getenv("TMPDIR");
    snprintf(out, size, "%s/mica-golden-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(out));
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void golden_remove_folder(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

int golden_largest_difference(const uint8_t *a, const uint8_t *b, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++)
        most = MICA_MAX(most, abs(a[i] - b[i]));
    return most;
}

void golden_assert_case(const golden_case *c, const mica_trace *trace, double bound)
{
    for (size_t i = 0; i < mica_weights_count(c->expected); i++) {
        const char *name = mica_weights_name(c->expected, i);
        const mica_tensor *expected = mica_weights_tensor(c->expected, i);
        const mica_tensor *got = mica_trace_find(trace, name);
        if (strcmp(name, "image_u8") == 0)
            continue;
        if (mica_dtype_get(expected->dtype)->is_float)
            golden_assert_near(name, got, expected, bound);
        else
            golden_assert_equal(name, got, expected);
    }
}
