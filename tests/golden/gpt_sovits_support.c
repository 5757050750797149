/* gpt_sovits_support.c - see gpt_sovits_support.h. */
#include "gpt_sovits_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void gs_ok(mica_status st, const mica_err *err)
{
    if (st != MICA_OK)
        fail_msg("%s", err->text);
}

mica_device gs_device(void)
{
    const char *name = getenv("MICA_TEST_DEVICE");
    return name && strcmp(name, "cuda") == 0 ? MICA_DEVICE_CUDA : MICA_DEVICE_CPU;
}

void gs_same_samples(const float *got, const float *expected, size_t count)
{
    if (gs_device() == MICA_DEVICE_CPU) {
        assert_memory_equal(got, expected, count * sizeof *got);
        return;
    }
    double apart = 0.0, all = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double d = (double)got[i] - (double)expected[i];
        apart += d * d;
        all += (double)expected[i] * (double)expected[i];
    }
    if (!(sqrt(apart / all) <= 1e-4))
        fail_msg("samples: relative L2 distance %.3g, at most 1e-4 allowed", sqrt(apart / all));
}

void gs_open(gs_bench *b, const char *model, gs_directory_fn directory, const char *name,
             mica_precision precision, int threads)
{
    char path[512];
    mica_err err = {0};
    const mica_backend_options options = {.device = gs_device(),
                                          .precision = precision ? precision : MICA_PRECISION_F32,
                                          .threads = threads ? threads : 2};
    memset(b, 0, sizeof *b);
    mica_arena_init(&b->arena, 1 << 16);
    gs_ok(mica_backend_open(&b->be, &options, &err), &err);
    gs_ok(mica_trace_open(&b->trace, &err), &err);
    mica_run_init(&b->run, NULL, NULL, mica_trace_sink(b->trace));
    snprintf(path, sizeof path, "%s/gpt_sovits/%s", MICA_TEST_DATA, model);
    gs_ok(mica_weights_open(&b->files, path, &err), &err);
    gs_ok(directory(&b->directory, b->files, &b->arena, &err), &err);
    snprintf(path, sizeof path, "%s/gpt_sovits/cases/%s/expected.safetensors", MICA_TEST_DATA,
             name);
    gs_ok(mica_weights_open(&b->expected, path, &err), &err);
}

void gs_close(gs_bench *b)
{
    mica_trace_close(&b->trace);
    mica_backend_close(&b->be);
    mica_weights_close(&b->directory);
    mica_weights_close(&b->files);
    mica_weights_close(&b->expected);
    mica_arena_deinit(&b->arena);
}

const mica_tensor *gs_expected(const gs_bench *b, const char *name)
{
    const mica_tensor *t = mica_weights_find(b->expected, name);
    if (!t)
        fail_msg("the case has no %s", name);
    return t;
}

/* Sizes above 1, in order, are equal. */
static bool same_extent(const mica_tensor *a, const mica_tensor *b)
{
    int i = 0, j = 0;
    for (;;) {
        while (i < a->ndim && a->shape_[i] == 1)
            i++;
        while (j < b->ndim && b->shape_[j] == 1)
            j++;
        if (i == a->ndim || j == b->ndim)
            return i == a->ndim && j == b->ndim;
        if (a->shape_[i++] != b->shape_[j++])
            return false;
    }
}

void gs_near(const gs_bench *b, const char *got, const char *name, double bound)
{
    const mica_tensor *t = mica_trace_find(b->trace, got), *want = gs_expected(b, name);
    char have[96], wanted[96];
    if (!t)
        fail_msg("no tap wrote %s", got);
    if (!same_extent(t, want))
        fail_msg("%s: %s, expected %s", got, mica_tensor_describe(t, have, sizeof have),
                 mica_tensor_describe(want, wanted, sizeof wanted));
    gs_near_host(b, t->data, mica_tensor_count(t), name, bound);
}

void gs_near_host(const gs_bench *b, const float *got, int64_t count, const char *name,
                  double bound)
{
    const mica_tensor *want = gs_expected(b, name);
    double diff = 0.0, norm = 0.0;
    if (mica_tensor_count(want) != count)
        fail_msg("%s: %lld numbers, expected %lld", name, (long long)count,
                 (long long)mica_tensor_count(want));
    for (int64_t i = 0; i < count; i++) {
        const double w = (double)mica_tensor_read_f32(want, i), d = (double)got[i] - w;
        diff += d * d;
        norm += w * w;
    }
    const double r = sqrt(diff / norm);
    if (!(r <= bound))
        fail_msg("%s: relative L2 %.3g, allowed %.3g", name, r, bound);
}

void gs_equal_ids(const gs_bench *b, const int32_t *got, int64_t count, const char *name)
{
    const mica_tensor *want = gs_expected(b, name);
    assert_int_equal(mica_tensor_count(want), count);
    for (int64_t i = 0; i < count; i++)
        if (got[i] != ((const int32_t *)want->data)[i])
            fail_msg("%s[%lld]: %d, expected %d", name, (long long)i, got[i],
                     ((const int32_t *)want->data)[i]);
}
