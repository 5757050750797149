/* test_kl_vae.c - the KL autoencoder against the reference (FLUX.2's and FLUX.1's), and what must
 * not change it: bit for bit the same result for every band height and number of threads. */
#include "vae_testing.h"

#include "nn/kl_vae.h"

#include <stdio.h>

#define FLUX2  MICA_TEST_DATA "/flux2_klein"
#define ZIMAGE MICA_TEST_DATA "/z_image"

typedef struct fixture {
    mica_weights *files, *expected;
    mica_kl_vae_config config;
    mica_kl_vae *vae;
    vae_case v;
    mica_arena arena; /* made-up weights */
} fixture;

static mica_status run_decode(void *vae, mica_backend *be, const mica_tensor *z,
                              mica_tensor *picture, const mica_vae_run_args *args, mica_err *err)
{
    return mica_kl_vae_decode(vae, be, z, picture, args, err);
}

static mica_status run_encode(void *vae, mica_backend *be, const mica_tensor *picture,
                              mica_tensor *mean, mica_tensor *logvar, const mica_vae_run_args *args,
                              mica_err *err)
{
    return mica_kl_vae_encode(vae, be, picture, mean, logvar, args, err);
}

static void fixture_open(fixture *f, const char *folder, int threads)
{
    mica_err err = {0};
    char path[1024];
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = threads};
    memset(f, 0, sizeof *f);
    snprintf(path, sizeof path, "%s/model/vae", folder);
    assert_ok(mica_weights_open(&f->files, path, &err), err);
    assert_ok(mica_kl_vae_rename(f->files, &err), err);
    snprintf(path, sizeof path, "%s/model/vae/config.json", folder);
    assert_ok(mica_kl_vae_config_read(&f->config, path, &err), err);
    assert_int_equal(mica_kl_vae_probe(f->files), f->config.z_dim);
    assert_ok(mica_kl_vae_open(&f->vae, &f->config, f->files, &err), err);
    snprintf(path, sizeof path, "%s/cases/vae/expected.safetensors", folder);
    assert_ok(mica_weights_open(&f->expected, path, &err), err);
    f->v = (vae_case){.vae = f->vae,
                      .scale = mica_kl_vae_scale(&f->config),
                      .z_dim = f->config.z_dim,
                      .decode = run_decode,
                      .encode = run_encode};
    assert_ok(mica_backend_open(&f->v.be, &options, &err), err);
}

/* Random weights; levels that halve their channels, as the released models have them, and one that takes a
 * third. x and h share their store there. */
static void fixture_make(fixture *f, mica_precision precision, int dim0, int dim1, int dim2)
{
    mica_err err = {0};
    const mica_backend_options options = {.precision = precision, .threads = 2};
    memset(f, 0, sizeof *f);
    f->config = mica_kl_vae_config_default(16);
    f->config.levels = 3;
    f->config.groups = 8;
    f->config.num_res_blocks = 1;
    for (int i = 0; i < 3; i++)
        f->config.encoder_dim_[i] = f->config.decoder_dim_[i] = i == 0   ? dim0
                                                                : i == 1 ? dim1
                                                                         : dim2;
    mica_arena_init(&f->arena, 1 << 16);
    assert_ok(mica_weights_open_empty(&f->files, &err), err);
    assert_ok(mica_kl_vae_fill(&f->config, f->files, &f->arena, &err), err);
    assert_ok(mica_kl_vae_open(&f->vae, &f->config, f->files, &err), err);
    f->v = (vae_case){
        .vae = f->vae, .scale = 4, .z_dim = 16, .decode = run_decode, .encode = run_encode};
    assert_ok(mica_backend_open(&f->v.be, &options, &err), err);
}

static void fixture_close(fixture *f)
{
    mica_backend_close(&f->v.be);
    mica_kl_vae_close(&f->vae);
    mica_weights_close(&f->files);
    mica_weights_close(&f->expected);
    mica_arena_deinit(&f->arena);
}

/* ------------------------------------------------------------------- golden -- */

static void check_golden(const char *folder)
{
    for (int tile = -1; tile < 2; tile++) {
        fixture f;
        fixture_open(&f, folder, 2);
        probe_sink sink = {f.expected, 0};
        const mica_tap_sink taps = {compare_probe, wants_probe, &sink};
        const mica_vae_run_args args = {.taps = &taps, .tile_rows = tile};
        compare_decode(&f.v, &sink, "encode.mean", "decode.output", false, &args);
        assert_int_equal(sink.seen,
                         count_probes(f.expected, "probe.decoder.", "probe.post_quant_conv"));
        assert_true(sink.seen >= 3);
        compare_decode(&f.v, &sink, "latents2", "decode2.output", false, NULL);
        sink.seen = 0;
        compare_encode(&f.v, &sink, &args);
        assert_int_equal(sink.seen, count_probes(f.expected, "probe.encoder.", "probe.quant_conv"));
        assert_true(sink.seen >= 3);
        fixture_close(&f);
    }
}

static void test_golden_flux2(void **state)
{
    (void)state;
    check_golden(FLUX2);
}

static void test_golden_flux1(void **state)
{
    (void)state;
    check_golden(ZIMAGE);
}

/* -------------------------------------------------------------------- bands -- */

static void test_bands(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        fixture f;
        fixture_open(&f, i ? ZIMAGE : FLUX2, 2);
        check_bands(&f.v, 4, 6);
        check_bands(&f.v, 1, 1);
        check_bands(&f.v, 2, 5);
        check_bands(&f.v, 17, 3);
        fixture_close(&f);
    }
}

static void test_slots(void **state)
{
    (void)state;
    static const int dims[][3] = {
        {8, 16, 32}, {16, 16, 32}, {8, 24, 24}, {8, 32, 64}, {16, 16, 16}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(dims); i++) {
        fixture f;
        fixture_make(&f, i == 1 ? MICA_PRECISION_BF16 : MICA_PRECISION_F32, dims[i][0], dims[i][1],
                     dims[i][2]);
        check_bands(&f.v, 4, 6);
        check_bands(&f.v, 1, 1);
        check_bands(&f.v, 17, 3);
        fixture_close(&f);
    }
}

/* At the last level x of twice the channels is all; with h beside it, half as much again. */
static void test_slots_save_memory(void **state)
{
    (void)state;
    fixture f;
    fixture_make(&f, MICA_PRECISION_F32, 16, 32, 32);
    const uint64_t peak = decode_peak(&f.v, 1), x = 96 * 4 * 8 * 4 * 32 * sizeof(float);
    assert_true(peak >= x && peak < x + x / 4);
    assert_true(mica_kl_vae_decode_bytes(&f.config, 96, 8) >= x);
    fixture_close(&f);
}

/* Bands save the normed copies and the doubled pictures; two pictures stay. */
static void test_bands_save_memory(void **state)
{
    (void)state;
    uint64_t peak[2];
    for (int i = 0; i < 2; i++) {
        fixture f;
        fixture_open(&f, FLUX2, 2);
        peak[i] = decode_peak(&f.v, i ? 1 : -1);
        fixture_close(&f);
    }
    assert_true(peak[1] < peak[0] * 3 / 4);
}

/* What the plan of a run is told is what the run takes. */
static void test_memory_is_known(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, FLUX2, 1);
    float *z = new_noise(24 * 16 * 32, 3);
    mica_mem_free(decode(&f.v, z, 24, 16, NULL));
    const uint64_t told = mica_kl_vae_decode_bytes(&f.config, 24, 16);
    const uint64_t took = mica_pool_peak(f.v.be, MICA_POOL_STEP);
    assert_true(told <= took && took < told + told / 8);
    mica_mem_free(z);
    fixture_close(&f);
}

static void test_threads(void **state)
{
    (void)state;
    float *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        fixture f;
        size_t count;
        fixture_open(&f, FLUX2, threads);
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
    fixture_open(&f, FLUX2, 2);
    check_progress(&f.v, 6);
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
        fixture_open(&f, FLUX2, 1);
        st = decode_failing_at(&f.v, 3, 1, n);
        fixture_close(&f);
    }
    assert_int_equal(st, MICA_OK);
    assert_true(n > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_flux2),
        cmocka_unit_test(test_golden_flux1),
        cmocka_unit_test(test_bands),
        cmocka_unit_test(test_bands_save_memory),
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_slots_save_memory),
        cmocka_unit_test(test_memory_is_known),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_progress_and_cancel),
        cmocka_unit_test(test_run_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
