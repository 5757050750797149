/* test_kl_vae.c - the KL autoencoder against the reference (FLUX.2's and FLUX.1's), and what must
 * not change it: bit for bit the same result for every band height and number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "nn/kl_vae.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLUX2  MICA_TEST_DATA "/flux2_klein"
#define ZIMAGE MICA_TEST_DATA "/z_image"
#define BOUND  1e-4

#define assert_ok(expr, err)                                                                       \
    do {                                                                                           \
        if ((expr) != MICA_OK)                                                                     \
            fail_msg("%s", (err).text);                                                            \
    } while (0)

typedef struct fixture {
    mica_weights *files, *expected;
    mica_kl_vae_config config;
    mica_kl_vae *vae;
    mica_backend *be;
} fixture;

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
    assert_ok(mica_backend_open(&f->be, &options, &err), err);
}

static void fixture_close(fixture *f)
{
    mica_backend_close(&f->be);
    mica_kl_vae_close(&f->vae);
    mica_weights_close(&f->files);
    mica_weights_close(&f->expected);
}

/* ------------------------------------------------------------------ numbers -- */

static float *new_noise(int64_t count, uint32_t seed)
{
    float *x = mica_mem_alloc((size_t)count * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

/* [C, Y * X] of a file to [Y * X, C]. */
static float *new_channels_last(const mica_tensor *t)
{
    const int64_t C = t->shape_[1], pixels = mica_tensor_count(t) / C;
    float *x = mica_mem_alloc((size_t)(pixels * C) * sizeof *x);
    assert_non_null(x);
    for (int64_t c = 0; c < C; c++)
        for (int64_t p = 0; p < pixels; p++)
            x[p * C + c] = mica_tensor_read_f32(t, c * pixels + p);
    return x;
}

static void assert_near(const char *name, const float *got, const float *expected, int64_t count)
{
    double d = 0.0, norm = 0.0;
    for (int64_t i = 0; i < count; i++) {
        d += ((double)got[i] - expected[i]) * ((double)got[i] - expected[i]);
        norm += (double)expected[i] * expected[i];
    }
    if (!(norm > 0.0) || !(sqrt(d / norm) <= BOUND))
        fail_msg("%s: relative L2 %.3g", name, sqrt(d / norm));
}

/* z [Y, X, z_dim] to a picture, on the heap. */
static float *decode(fixture *f, const float *z, int64_t Y, int64_t X,
                     const mica_kl_vae_run_args *args)
{
    mica_err err = {0};
    const int64_t s = mica_kl_vae_scale(&f->config), C = f->config.z_dim;
    const mica_pool_mark mark = mica_pool_get_mark(f->be, MICA_POOL_SESSION);
    const mica_tensor in =
        mica_state_tensor(f->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y, X, C});
    mica_tensor out =
        mica_state_tensor(f->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y * s, X * s, 3});
    float *picture = mica_mem_calloc((size_t)(Y * X * s * s * 3), sizeof *picture);
    mica_upload_f32(f->be, &in, z);
    assert_ok(mica_kl_vae_decode(f->vae, f->be, &in, &out, args, &err), err);
    mica_download_f32(f->be, picture, &out);
    assert_ok(mica_backend_check(f->be, &err), err);
    mica_pool_release(f->be, MICA_POOL_SESSION, mark);
    return picture;
}

/* Picture [Y, X, 3] to mean and logvar, one behind the other, on the heap. */
static float *encode(fixture *f, const float *picture, int64_t Y, int64_t X,
                     const mica_kl_vae_run_args *args)
{
    mica_err err = {0};
    const int64_t s = mica_kl_vae_scale(&f->config);
    const int64_t z[] = {Y / s, X / s, f->config.z_dim}, count = z[0] * z[1] * z[2];
    const mica_pool_mark mark = mica_pool_get_mark(f->be, MICA_POOL_SESSION);
    const mica_tensor in =
        mica_state_tensor(f->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y, X, 3});
    mica_tensor mean = mica_state_tensor(f->be, MICA_POOL_SESSION, 3, z);
    mica_tensor logvar = mica_state_tensor(f->be, MICA_POOL_SESSION, 3, z);
    float *both = mica_mem_calloc((size_t)count * 2, sizeof *both);
    mica_upload_f32(f->be, &in, picture);
    assert_ok(mica_kl_vae_encode(f->vae, f->be, &in, &mean, &logvar, args, &err), err);
    mica_download_f32(f->be, both, &mean);
    mica_download_f32(f->be, both + count, &logvar);
    assert_ok(mica_backend_check(f->be, &err), err);
    mica_pool_release(f->be, MICA_POOL_SESSION, mark);
    return both;
}

/* ------------------------------------------------------------------- golden -- */

typedef struct probe_sink {
    mica_weights *expected;
    int seen;
} probe_sink;

static bool wants_probe(void *user, const char *name)
{
    const probe_sink *s = user;
    return mica_weights_find(s->expected, name) != NULL;
}

static void compare_probe(void *user, const char *name, const mica_tensor *got)
{
    probe_sink *s = user;
    const mica_tensor *expected = mica_weights_find(s->expected, name);
    assert_non_null(expected);
    assert_int_equal(got->ndim, expected->ndim);
    assert_memory_equal(got->shape_, expected->shape_, (size_t)got->ndim * sizeof(int64_t));
    assert_near(name, got->data, expected->data, mica_tensor_count(got));
    s->seen++;
}

static int count_probes(const mica_weights *w, const char *a, const char *b)
{
    int count = 0;
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const char *name = mica_weights_name(w, i);
        count += strncmp(name, a, strlen(a)) == 0 || strcmp(name, b) == 0;
    }
    return count;
}

static void compare_decode(fixture *f, const char *latents, const char *output,
                           const mica_kl_vae_run_args *args)
{
    const mica_tensor *z = mica_weights_find(f->expected, latents);
    const mica_tensor *out = mica_weights_find(f->expected, output);
    float *in = new_channels_last(z), *want = new_channels_last(out);
    float *got = decode(f, in, z->shape_[2], z->shape_[3], args);
    assert_near(output, got, want, mica_tensor_count(out));
    mica_mem_free(in);
    mica_mem_free(want);
    mica_mem_free(got);
}

static void compare_encode(fixture *f, const mica_kl_vae_run_args *args)
{
    const mica_tensor *image = mica_weights_find(f->expected, "image");
    const mica_tensor *mean = mica_weights_find(f->expected, "encode.mean");
    const int64_t count = mica_tensor_count(mean);
    float *in = new_channels_last(image), *want_mean = new_channels_last(mean);
    float *want_logvar = new_channels_last(mica_weights_find(f->expected, "encode.logvar"));
    float *got = encode(f, in, image->shape_[2], image->shape_[3], args);
    assert_near("encode.mean", got, want_mean, count);
    assert_near("encode.logvar", got + count, want_logvar, count);
    mica_mem_free(in);
    mica_mem_free(want_mean);
    mica_mem_free(want_logvar);
    mica_mem_free(got);
}

static void check_golden(const char *folder)
{
    for (int tile = -1; tile < 2; tile++) {
        fixture f;
        fixture_open(&f, folder, 2);
        probe_sink sink = {f.expected, 0};
        const mica_tap_sink taps = {compare_probe, wants_probe, &sink};
        const mica_kl_vae_run_args args = {.taps = &taps, .tile_rows = tile};
        compare_decode(&f, "encode.mean", "decode.output", &args);
        assert_int_equal(sink.seen,
                         count_probes(f.expected, "probe.decoder.", "probe.post_quant_conv"));
        assert_true(sink.seen >= 3);
        compare_decode(&f, "latents2", "decode2.output", NULL);
        sink.seen = 0;
        compare_encode(&f, &args);
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

static void check_bands(fixture *f, int64_t Y, int64_t X)
{
    static const int rows[] = {1, 2, 3, 5, 8, 13, 100, 0};
    const int64_t s = mica_kl_vae_scale(&f->config), pixels = Y * X * s * s, C = f->config.z_dim;
    const mica_kl_vae_run_args whole = {.tile_rows = -1};
    float *z = new_noise(Y * X * C, 7), *picture = new_noise(pixels * 3, 9);
    float *decoded = decode(f, z, Y, X, &whole);
    float *encoded = encode(f, picture, Y * s, X * s, &whole);
    for (size_t i = 0; i < MICA_ARRAY_LEN(rows); i++) {
        const mica_kl_vae_run_args banded = {.tile_rows = rows[i]};
        float *d = decode(f, z, Y, X, &banded), *e = encode(f, picture, Y * s, X * s, &banded);
        if (memcmp(d, decoded, (size_t)(pixels * 3) * sizeof *d) != 0)
            fail_msg("decode %d x %d in bands of %d differs", (int)Y, (int)X, rows[i]);
        if (memcmp(e, encoded, (size_t)(2 * Y * X * C) * sizeof *e) != 0)
            fail_msg("encode %d x %d in bands of %d differs", (int)Y, (int)X, rows[i]);
        mica_mem_free(d);
        mica_mem_free(e);
    }
    mica_mem_free(z);
    mica_mem_free(picture);
    mica_mem_free(decoded);
    mica_mem_free(encoded);
}

static void test_bands(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        fixture f;
        fixture_open(&f, i ? ZIMAGE : FLUX2, 2);
        check_bands(&f, 4, 6);
        check_bands(&f, 1, 1);
        check_bands(&f, 2, 5);
        check_bands(&f, 17, 3);
        fixture_close(&f);
    }
}

/* Bands save the normed copies and the doubled pictures; two pictures stay. */
static void test_bands_save_memory(void **state)
{
    (void)state;
    uint64_t peak[2];
    float *z = new_noise(96 * 8 * 32, 3);
    for (int i = 0; i < 2; i++) {
        fixture f;
        fixture_open(&f, FLUX2, 2);
        const mica_kl_vae_run_args args = {.tile_rows = i ? 1 : -1};
        mica_mem_free(decode(&f, z, 96, 8, &args));
        peak[i] = mica_pool_peak(f.be, MICA_POOL_STEP);
        fixture_close(&f);
    }
    assert_true(peak[1] < peak[0] * 3 / 4);
    mica_mem_free(z);
}

/* What the plan of a run is told is what the run takes. */
static void test_memory_is_known(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, FLUX2, 1);
    float *z = new_noise(24 * 16 * 32, 3);
    mica_mem_free(decode(&f, z, 24, 16, NULL));
    const uint64_t told = mica_kl_vae_decode_bytes(&f.config, 24, 16);
    const uint64_t took = mica_pool_peak(f.be, MICA_POOL_STEP);
    assert_true(told <= took && took < told + told / 8);
    mica_mem_free(z);
    fixture_close(&f);
}

static void test_threads(void **state)
{
    (void)state;
    float *z = new_noise(9 * 7 * 32, 5), *picture = new_noise(72 * 56 * 3, 6);
    float *first[2] = {NULL, NULL};
    for (int threads = 1; threads <= 3; threads++) {
        fixture f;
        fixture_open(&f, FLUX2, threads);
        float *d = decode(&f, z, 9, 7, NULL), *e = encode(&f, picture, 72, 56, NULL);
        if (threads == 1) {
            first[0] = d;
            first[1] = e;
        } else {
            assert_memory_equal(d, first[0], 72 * 56 * 3 * sizeof *d);
            assert_memory_equal(e, first[1], 9 * 7 * 64 * sizeof *e);
            mica_mem_free(d);
            mica_mem_free(e);
        }
        fixture_close(&f);
    }
    mica_mem_free(first[0]);
    mica_mem_free(first[1]);
    mica_mem_free(z);
    mica_mem_free(picture);
}

/* ---------------------------------------------------------------- behaviour -- */

typedef struct progress_log {
    int calls, done, total, stop_at;
} progress_log;

static bool log_progress(void *user, int done, int total)
{
    progress_log *p = user;
    assert_int_equal(done, p->done + 1);
    assert_true(p->calls == 0 || total == p->total);
    p->calls++;
    p->done = done;
    p->total = total;
    return done != p->stop_at;
}

static void test_progress_and_cancel(void **state)
{
    (void)state;
    fixture f;
    mica_err err = {0};
    fixture_open(&f, FLUX2, 2);
    float *z = new_noise(6 * 2 * 32, 5), *picture = new_noise(48 * 16 * 3, 5);
    progress_log log = {0};
    mica_kl_vae_run_args args = {.tile_rows = 3, .progress = log_progress, .progress_user = &log};
    mica_mem_free(decode(&f, z, 6, 2, &args));
    const int total = log.total;
    assert_true(log.done == log.total && log.total > 6);
    log = (progress_log){0};
    mica_mem_free(encode(&f, picture, 48, 16, &args));
    assert_true(log.done == log.total && log.total > 6);

    const mica_tensor in =
        mica_state_tensor(f.be, MICA_POOL_SESSION, 3, (const int64_t[]){6, 2, 32});
    mica_tensor out = mica_state_tensor(f.be, MICA_POOL_SESSION, 3, (const int64_t[]){48, 16, 3});
    mica_upload_f32(f.be, &in, z);
    for (int stop = 1; stop <= total; stop++) {
        log = (progress_log){.stop_at = stop};
        assert_int_equal(mica_kl_vae_decode(f.vae, f.be, &in, &out, &args, &err), MICA_E_CANCELLED);
        assert_int_equal(log.done, stop);
    }
    mica_tensor wrong = mica_tensor_rows(&out, 0, 40);
    assert_int_equal(mica_kl_vae_decode(f.vae, f.be, &in, &wrong, &args, &err), MICA_E_INTERNAL);
    mica_mem_free(z);
    mica_mem_free(picture);
    fixture_close(&f);
}

/* The n-th allocation of a banded run fails: an error, no leak, no crash. */
static void test_run_without_memory(void **state)
{
    (void)state;
    float *z = new_noise(3 * 1 * 32, 5);
    mica_status st = MICA_E_NOMEM;
    int n = 1;
    for (; st != MICA_OK && n < 100000; n += 1 + n / 16) {
        fixture f;
        mica_err err = {0};
        const mica_kl_vae_run_args args = {.tile_rows = 1};
        fixture_open(&f, FLUX2, 1);
        const mica_tensor in =
            mica_state_tensor(f.be, MICA_POOL_SESSION, 3, (const int64_t[]){3, 1, 32});
        mica_tensor out =
            mica_state_tensor(f.be, MICA_POOL_SESSION, 3, (const int64_t[]){24, 8, 3});
        mica_upload_f32(f.be, &in, z);
        mica_mem_fail_at((uint64_t)n);
        st = mica_kl_vae_decode(f.vae, f.be, &in, &out, &args, &err);
        mica_mem_fail_at(0);
        if (st != MICA_OK && st != MICA_E_NOMEM)
            fail_msg("allocation %d: status %d, %s", n, (int)st, err.text);
        fixture_close(&f);
    }
    assert_int_equal(st, MICA_OK);
    assert_true(n > 100);
    mica_mem_free(z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_flux2),
        cmocka_unit_test(test_golden_flux1),
        cmocka_unit_test(test_bands),
        cmocka_unit_test(test_bands_save_memory),
        cmocka_unit_test(test_memory_is_known),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_progress_and_cancel),
        cmocka_unit_test(test_run_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
