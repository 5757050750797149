/* vae_testing.h - what the tests of both autoencoders share: noise, comparison with golden tensors,
 * and the checks that hold for any autoencoder.
 *
 * A test wraps its autoencoder in a vae_case; decode and encode then work on host arrays. */
#ifndef MICA_TESTS_VAE_TESTING_H
#define MICA_TESTS_VAE_TESTING_H

#include "golden_file.h"

#include "base/mem.h"
#include "nn/vae_table.h"

#include <math.h>
#include <string.h>

#define VAE_BOUND 1e-4

typedef struct vae_case {
    void *vae;
    mica_backend *be;
    int64_t scale, z_dim;
    mica_status (*decode)(void *vae, mica_backend *be, const mica_tensor *z, mica_tensor *picture,
                          const mica_vae_run_args *args, mica_err *err);
    mica_status (*encode)(void *vae, mica_backend *be, const mica_tensor *picture,
                          mica_tensor *mean, mica_tensor *logvar, const mica_vae_run_args *args,
                          mica_err *err);
} vae_case;

static inline float *new_noise(int64_t count, uint32_t seed)
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
static inline float *new_channels_last(const mica_tensor *t)
{
    const int64_t C = t->shape_[1], pixels = mica_tensor_count(t) / C;
    float *x = mica_mem_alloc((size_t)(pixels * C) * sizeof *x);
    assert_non_null(x);
    for (int64_t c = 0; c < C; c++)
        for (int64_t p = 0; p < pixels; p++)
            x[p * C + c] = mica_tensor_read_f32(t, c * pixels + p);
    return x;
}

static inline void assert_near(const char *name, const float *got, const float *expected,
                               int64_t count)
{
    double d = 0.0, norm = 0.0;
    for (int64_t i = 0; i < count; i++) {
        d += ((double)got[i] - expected[i]) * ((double)got[i] - expected[i]);
        norm += (double)expected[i] * expected[i];
    }
    if (!(norm > 0.0) || !(sqrt(d / norm) <= VAE_BOUND))
        fail_msg("%s: relative L2 %.3g", name, sqrt(d / norm));
}

/* z [Y, X, z_dim] to a picture, on the heap. */
static inline float *decode(const vae_case *v, const float *z, int64_t Y, int64_t X,
                            const mica_vae_run_args *args)
{
    mica_err err = {0};
    const int64_t s = v->scale;
    const mica_pool_mark mark = mica_pool_get_mark(v->be, MICA_POOL_SESSION);
    const mica_tensor in =
        mica_state_tensor(v->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y, X, v->z_dim});
    mica_tensor out =
        mica_state_tensor(v->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y * s, X * s, 3});
    float *picture = mica_mem_calloc((size_t)(Y * X * s * s * 3), sizeof *picture);
    mica_upload_f32(v->be, &in, z);
    assert_ok(v->decode(v->vae, v->be, &in, &out, args, &err), err);
    mica_download_f32(v->be, picture, &out);
    assert_ok(mica_backend_check(v->be, &err), err);
    mica_pool_release(v->be, MICA_POOL_SESSION, mark);
    return picture;
}

/* Picture [Y, X, 3] to mean and logvar, one behind the other, on the heap. */
static inline float *encode(const vae_case *v, const float *picture, int64_t Y, int64_t X,
                            const mica_vae_run_args *args)
{
    mica_err err = {0};
    const int64_t z[] = {Y / v->scale, X / v->scale, v->z_dim}, count = z[0] * z[1] * z[2];
    const mica_pool_mark mark = mica_pool_get_mark(v->be, MICA_POOL_SESSION);
    const mica_tensor in =
        mica_state_tensor(v->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y, X, 3});
    mica_tensor mean = mica_state_tensor(v->be, MICA_POOL_SESSION, 3, z);
    mica_tensor logvar = mica_state_tensor(v->be, MICA_POOL_SESSION, 3, z);
    float *both = mica_mem_calloc((size_t)count * 2, sizeof *both);
    mica_upload_f32(v->be, &in, picture);
    assert_ok(v->encode(v->vae, v->be, &in, &mean, &logvar, args, &err), err);
    mica_download_f32(v->be, both, &mean);
    mica_download_f32(v->be, both + count, &logvar);
    assert_ok(mica_backend_check(v->be, &err), err);
    mica_pool_release(v->be, MICA_POOL_SESSION, mark);
    return both;
}

/* ------------------------------------------------------------------- golden -- */

typedef struct probe_sink {
    mica_weights *expected;
    int seen;
} probe_sink;

static inline bool wants_probe(void *user, const char *name)
{
    const probe_sink *s = user;
    return mica_weights_find(s->expected, name) != NULL;
}

static inline void compare_probe(void *user, const char *name, const mica_tensor *got)
{
    probe_sink *s = user;
    const mica_tensor *expected = mica_weights_find(s->expected, name);
    assert_non_null(expected);
    assert_int_equal(got->ndim, expected->ndim);
    assert_memory_equal(got->shape_, expected->shape_, (size_t)got->ndim * sizeof(int64_t));
    assert_near(name, got->data, expected->data, mica_tensor_count(got));
    s->seen++;
}

static inline int count_probes(const mica_weights *w, const char *a, const char *b)
{
    int count = 0;
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const char *name = mica_weights_name(w, i);
        count += strncmp(name, a, strlen(a)) == 0 || strcmp(name, b) == 0;
    }
    return count;
}

/* Latents and pictures have their sides last. */
static inline void compare_decode(const vae_case *v, const probe_sink *sink, const char *latents,
                                  const char *output, bool clamped, const mica_vae_run_args *args)
{
    const mica_tensor *z = mica_weights_find(sink->expected, latents);
    const mica_tensor *out = mica_weights_find(sink->expected, output);
    float *in = new_channels_last(z), *want = new_channels_last(out);
    float *got = decode(v, in, z->shape_[z->ndim - 2], z->shape_[z->ndim - 1], args);
    for (int64_t i = 0; clamped && i < mica_tensor_count(out); i++)
        got[i] = fmaxf(-1.0f, fminf(1.0f, got[i]));
    assert_near(output, got, want, mica_tensor_count(out));
    mica_mem_free(in);
    mica_mem_free(want);
    mica_mem_free(got);
}

static inline void compare_encode(const vae_case *v, const probe_sink *sink,
                                  const mica_vae_run_args *args)
{
    const mica_tensor *image = mica_weights_find(sink->expected, "image");
    const mica_tensor *mean = mica_weights_find(sink->expected, "encode.mean");
    const int64_t count = mica_tensor_count(mean);
    float *in = new_channels_last(image), *want_mean = new_channels_last(mean);
    float *want_logvar = new_channels_last(mica_weights_find(sink->expected, "encode.logvar"));
    float *got = encode(v, in, image->shape_[2], image->shape_[3], args);
    assert_near("encode.mean", got, want_mean, count);
    assert_near("encode.logvar", got + count, want_logvar, count);
    mica_mem_free(in);
    mica_mem_free(want_mean);
    mica_mem_free(want_logvar);
    mica_mem_free(got);
}

/* -------------------------------------------------------------- any autoencoder -- */

/* Bands of any height change no bit, in either direction. */
static inline void check_bands(const vae_case *v, int64_t Y, int64_t X)
{
    static const int rows[] = {1, 2, 3, 5, 8, 13, 100, 0};
    const int64_t s = v->scale, pixels = Y * X * s * s, C = v->z_dim;
    const mica_vae_run_args whole = {.tile_rows = -1};
    float *z = new_noise(Y * X * C, 7), *picture = new_noise(pixels * 3, 9);
    float *decoded = decode(v, z, Y, X, &whole);
    float *encoded = encode(v, picture, Y * s, X * s, &whole);
    for (size_t i = 0; i < MICA_ARRAY_LEN(rows); i++) {
        const mica_vae_run_args banded = {.tile_rows = rows[i]};
        float *d = decode(v, z, Y, X, &banded), *e = encode(v, picture, Y * s, X * s, &banded);
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

/* Scratch of a decode of 96 x 8 latents in bands of `tile_rows`. */
static inline uint64_t decode_peak(const vae_case *v, int tile_rows)
{
    float *z = new_noise(96 * 8 * v->z_dim, 3);
    const mica_vae_run_args args = {.tile_rows = tile_rows};
    mica_mem_free(decode(v, z, 96, 8, &args));
    mica_mem_free(z);
    return mica_pool_peak(v->be, MICA_POOL_STEP);
}

/* What a decode and an encode of a fixed picture give, one behind the other, for comparing backends of
 * different numbers of threads: 72 x 56 x 3 numbers, then 2 x 9 x 7 x z_dim. */
static inline float *both_ways(const vae_case *v, size_t *count)
{
    const size_t decoded = 72 * 56 * 3, encoded = 2 * 9 * 7 * (size_t)v->z_dim;
    float *z = new_noise(9 * 7 * v->z_dim, 5), *picture = new_noise(72 * 56 * 3, 6);
    float *d = decode(v, z, 9, 7, NULL), *e = encode(v, picture, 72, 56, NULL);
    float *out = mica_mem_alloc((decoded + encoded) * sizeof *out);
    assert_non_null(out);
    memcpy(out, d, decoded * sizeof *d);
    memcpy(out + decoded, e, encoded * sizeof *e);
    *count = decoded + encoded;
    mica_mem_free(z);
    mica_mem_free(picture);
    mica_mem_free(d);
    mica_mem_free(e);
    return out;
}

typedef struct progress_log {
    int calls, done, total, stop_at;
} progress_log;

static inline bool log_progress(void *user, int done, int total)
{
    progress_log *p = user;
    assert_int_equal(done, p->done + 1);
    assert_true(p->calls == 0 || total == p->total);
    p->calls++;
    p->done = done;
    p->total = total;
    return done != p->stop_at;
}

/* Progress is told piece by piece in both directions, and a decode stops at any of them; a picture of
 * another size than the latents' is refused. Y x 2 latents. */
static inline void check_progress(const vae_case *v, int64_t Y)
{
    mica_err err = {0};
    const int64_t s = v->scale;
    float *z = new_noise(Y * 2 * v->z_dim, 5), *picture = new_noise(Y * s * 2 * s * 3, 5);
    progress_log log = {0};
    mica_vae_run_args args = {.tile_rows = 3, .progress = log_progress, .progress_user = &log};
    mica_mem_free(decode(v, z, Y, 2, &args));
    const int total = log.total;
    assert_true(log.done == log.total && log.total > 6);
    log = (progress_log){0};
    mica_mem_free(encode(v, picture, Y * s, 2 * s, &args));
    assert_true(log.done == log.total && log.total > 6);

    const mica_tensor in =
        mica_state_tensor(v->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y, 2, v->z_dim});
    mica_tensor out =
        mica_state_tensor(v->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y * s, 2 * s, 3});
    mica_upload_f32(v->be, &in, z);
    for (int stop = 1; stop <= total; stop++) {
        log = (progress_log){.stop_at = stop};
        assert_int_equal(v->decode(v->vae, v->be, &in, &out, &args, &err), MICA_E_CANCELLED);
        assert_int_equal(log.done, stop);
    }
    mica_tensor wrong = mica_tensor_rows(&out, 0, (Y - 1) * s);
    assert_int_equal(v->decode(v->vae, v->be, &in, &wrong, &args, &err), MICA_E_INTERNAL);
    mica_mem_free(z);
    mica_mem_free(picture);
}

/* A decode of Y x 1 latents whose n-th allocation fails; the status it gave. */
static inline mica_status decode_failing_at(const vae_case *v, int64_t Y, int tile_rows, int n)
{
    mica_err err = {0};
    const int64_t s = v->scale;
    float *z = new_noise(Y * v->z_dim, 5);
    const mica_vae_run_args args = {.tile_rows = tile_rows};
    const mica_tensor in =
        mica_state_tensor(v->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y, 1, v->z_dim});
    mica_tensor out =
        mica_state_tensor(v->be, MICA_POOL_SESSION, 3, (const int64_t[]){Y * s, s, 3});
    mica_upload_f32(v->be, &in, z);
    mica_mem_fail_at((uint64_t)n);
    const mica_status st = v->decode(v->vae, v->be, &in, &out, &args, &err);
    mica_mem_fail_at(0);
    if (st != MICA_OK && st != MICA_E_NOMEM)
        fail_msg("allocation %d: status %d, %s", n, (int)st, err.text);
    mica_mem_free(z);
    return st;
}

#endif
