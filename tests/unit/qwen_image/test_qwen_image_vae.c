/* test_qwen_image_vae.c - the autoencoder against the reference, and what must not change it.
 *
 * Every tensor of the golden case within relative L2 1e-4, then bit for bit the same result for
 * every band height, every picture size and every number of threads. */
#include "vae_testing.h"

#include "models/qwen_image/qwen_image_vae.h"

#define MODEL MICA_TEST_DATA "/qwen_image/model/vae"
#define CASE  MICA_TEST_DATA "/qwen_image/cases/vae/expected.safetensors"

typedef struct fixture {
    mica_weights *files;
    mica_qwen_vae_config config;
    mica_qwen_vae *vae;
    vae_case v;
} fixture;

static mica_status run_decode(void *vae, mica_backend *be, const mica_tensor *z,
                              mica_tensor *picture, const mica_vae_run_args *args, mica_err *err)
{
    return mica_qwen_vae_decode(vae, be, z, picture, args, err);
}

static mica_status run_encode(void *vae, mica_backend *be, const mica_tensor *picture,
                              mica_tensor *mean, mica_tensor *logvar, const mica_vae_run_args *args,
                              mica_err *err)
{
    return mica_qwen_vae_encode(vae, be, picture, mean, logvar, args, err);
}

static void fixture_open(fixture *f, int threads)
{
    mica_err err = {0};
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = threads};
    memset(f, 0, sizeof *f);
    assert_ok(mica_weights_open(&f->files, MODEL, &err), err);
    assert_ok(mica_qwen_vae_config_read(&f->config, MODEL "/config.json", &err), err);
    assert_ok(mica_qwen_vae_open(&f->vae, &f->config, f->files, &err), err);
    f->v = (vae_case){.vae = f->vae,
                      .scale = mica_qwen_vae_scale(&f->config),
                      .z_dim = f->config.z_dim,
                      .decode = run_decode,
                      .encode = run_encode};
    assert_ok(mica_backend_open(&f->v.be, &options, &err), err);
}

static void fixture_close(fixture *f)
{
    mica_backend_close(&f->v.be);
    mica_qwen_vae_close(&f->vae);
    mica_weights_close(&f->files);
}

/* ------------------------------------------------------------------- golden -- */

/* The reference clamps at the end of _decode; here the caller does. */
static void test_golden_decode(void **state)
{
    (void)state;
    fixture f;
    mica_err err = {0};
    probe_sink sink = {0};
    fixture_open(&f, 2);
    assert_ok(mica_weights_open(&sink.expected, CASE, &err), err);
    const mica_tap_sink taps = {compare_probe, wants_probe, &sink};
    const mica_vae_run_args args = {.taps = &taps, .tile_rows = 1};
    compare_decode(&f.v, &sink, "encode.mean", "decode.output", true, &args);
    assert_int_equal(sink.seen,
                     count_probes(sink.expected, "probe.decoder.", "probe.post_quant_conv"));
    compare_decode(&f.v, &sink, "latents2", "decode2.output", true, NULL);
    mica_weights_close(&sink.expected);
    fixture_close(&f);
}

static void test_golden_encode(void **state)
{
    (void)state;
    fixture f;
    mica_err err = {0};
    probe_sink sink = {0};
    fixture_open(&f, 2);
    assert_ok(mica_weights_open(&sink.expected, CASE, &err), err);
    const mica_tap_sink taps = {compare_probe, wants_probe, &sink};
    const mica_vae_run_args args = {.taps = &taps, .tile_rows = 1};
    compare_encode(&f.v, &sink, &args);
    assert_int_equal(sink.seen, count_probes(sink.expected, "probe.encoder.", "probe.quant_conv"));
    mica_weights_close(&sink.expected);
    fixture_close(&f);
}

/* -------------------------------------------------------------------- bands -- */

static void test_bands(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, 2);
    check_bands(&f.v, 4, 6);
    check_bands(&f.v, 1, 1);
    check_bands(&f.v, 2, 5);
    check_bands(&f.v, 17, 3);
    check_bands(&f.v, 40, 2); /* bands in full swing: more rows than the layers lag */
    fixture_close(&f);
}

/* A band of 1 row must need far less memory than the whole picture. */
static void test_bands_save_memory(void **state)
{
    (void)state;
    uint64_t peak[2];
    for (int i = 0; i < 2; i++) {
        fixture f;
        fixture_open(&f, 2);
        peak[i] = decode_peak(&f.v, i ? 1 : -1);
        fixture_close(&f);
    }
    assert_true(peak[1] < peak[0] / 3);
}

static void test_threads(void **state)
{
    (void)state;
    float *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        fixture f;
        size_t count;
        fixture_open(&f, threads);
        float *got = both_ways(&f.v, &count);
        if (first)
            assert_memory_equal(got, first, count * sizeof *got);
        mica_mem_free(first);
        first = got;
        fixture_close(&f);
    }
    mica_mem_free(first);
}

/* ---------------------------------------------------------------- behaviour -- */

static void test_progress_and_cancel(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, 2);
    check_progress(&f.v, 16);
    fixture_close(&f);
}

/* The n-th allocation of a banded run fails: an error, no leak, no crash. */
static void test_run_without_memory(void **state)
{
    (void)state;
    mica_status st = MICA_E_NOMEM;
    int n = 1;
    for (; st != MICA_OK && n < 100000; n += 1 + n / 16) {
        fixture f;
        fixture_open(&f, 1);
        st = decode_failing_at(&f.v, 6, 3, n);
        fixture_close(&f);
    }
    assert_int_equal(st, MICA_OK);
    assert_true(n > 100);
}

/* Latents there and back; and the published numbers in the reference's order of operations. */
static void test_scaling(void **state)
{
    (void)state;
    const mica_qwen_vae_config c = mica_qwen_vae_config_default();
    float *z = new_noise(5 * 16, 1), copy[5 * 16];
    memcpy(copy, z, sizeof copy);
    mica_qwen_vae_denormalize(&c, 1, z, 5);
    for (int i = 0; i < 5 * 16; i++)
        assert_true(fabs(z[i] - (copy[i] * c.latents_std_[i % 16] + c.latents_mean_[i % 16])) <
                    1e-5);
    mica_qwen_vae_normalize(&c, 1, z, 5);
    for (int i = 0; i < 5 * 16; i++)
        assert_true(fabsf(z[i] - copy[i]) < 1e-5f);
    mica_mem_free(z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_decode),
        cmocka_unit_test(test_golden_encode),
        cmocka_unit_test(test_bands),
        cmocka_unit_test(test_bands_save_memory),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_progress_and_cancel),
        cmocka_unit_test(test_run_without_memory),
        cmocka_unit_test(test_scaling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
