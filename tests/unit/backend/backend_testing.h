/* backend_testing.h - what the backend's tests share: a fixed random sequence, tensors in the
 * test's own memory, f64 references' helpers and the golden files.
 *
 * Everything is static: each test is one program. Memory is taken with test_malloc (cmocka
 * reports leaks) and freed by host_free. */
#ifndef MICA_TESTS_BACKEND_TESTING_H
#define MICA_TESTS_BACKEND_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "base/cpu.h"
#include "base/half.h"
#include "base/mem.h"

#if defined(__GNUC__)
#define TEST_UNUSED __attribute__((unused))
#else
#define TEST_UNUSED
#endif

/* --------------------------------------------------------------- random -- */

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static TEST_UNUSED uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static TEST_UNUSED int random_int(int lo, int hi)
{
    return lo + (int)(random_u32() % (uint32_t)(hi - lo + 1));
}

/* Close to N(0, 1): the sum of 12 uniforms. */
static TEST_UNUSED float random_normal(void)
{
    double s = -6.0;
    for (int i = 0; i < 12; i++)
        s += random_u32() / 4294967296.0;
    return (float)s;
}

/* -------------------------------------------------------------- tensors -- */

static TEST_UNUSED mica_tensor host_tensor(mica_dtype dtype, int ndim, const int64_t *shape)
{
    mica_tensor t = mica_tensor_make(NULL, dtype, ndim, shape);
    const size_t size = mica_tensor_size(&t);
    t.data = test_malloc(size ? size : 1);
    memset(t.data, 0xff, size); /* NaN in every float format: reading too much shows */
    return t;
}

static TEST_UNUSED void host_free(mica_tensor *t)
{
    test_free(t->data);
    t->data = NULL;
}

static TEST_UNUSED float *floats(const mica_tensor *t)
{
    return t->data;
}

static TEST_UNUSED mica_tensor host_random(float scale, int ndim, const int64_t *shape)
{
    mica_tensor t = host_tensor(MICA_DTYPE_F32, ndim, shape);
    for (int64_t i = 0, n = mica_tensor_count(&t); i < n; i++)
        floats(&t)[i] = scale * random_normal();
    return t;
}

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})

/* Random weight of any float dtype. f8 codes are drawn directly and never NaN or infinite. */
static TEST_UNUSED mica_weight host_weight(mica_dtype dtype, float scale, int ndim,
                                           const int64_t *shape)
{
    mica_weight w = {.tensor = host_tensor(dtype, ndim, shape), .name = "test.weight"};
    const int64_t n = mica_tensor_count(&w.tensor);
    for (int64_t i = 0; i < n; i++) {
        const float v = scale * random_normal();
        switch (dtype) {
        case MICA_DTYPE_F32:
            ((float *)w.tensor.data)[i] = v;
            break;
        case MICA_DTYPE_F64:
            ((double *)w.tensor.data)[i] = v;
            break;
        case MICA_DTYPE_BF16:
            ((uint16_t *)w.tensor.data)[i] = mica_f32_to_bf16(v);
            break;
        case MICA_DTYPE_F16:
            ((uint16_t *)w.tensor.data)[i] = mica_f32_to_f16(v);
            break;
        default: /* sign and magnitude below 1.0 in both f8 formats (0x38 is 1.0 or 0.5) */
            ((uint8_t *)w.tensor.data)[i] =
                (uint8_t)((random_u32() & 0x80) | (random_u32() % 0x38));
        }
    }
    return w;
}

static TEST_UNUSED double weight_at(const mica_weight *w, int64_t i)
{
    return (double)mica_tensor_read_f32(&w->tensor, i);
}

static TEST_UNUSED void weight_free(mica_weight *w)
{
    test_free((void *)(uintptr_t)w->tensor.scale.data);
    test_free(w->tensor.data);
    *w = (mica_weight){0};
}

/* -------------------------------------------------------------- backend -- */

static TEST_UNUSED mica_backend *open_backend(mica_precision precision, int threads)
{
    const mica_backend_options options = {
        .device = MICA_DEVICE_CPU, .precision = precision, .threads = threads};
    mica_backend *be = NULL;
    mica_err err = {0};
    const mica_status st = mica_backend_open(&be, &options, &err);
    if (st != MICA_OK)
        fail_msg("open: %s", err.text);
    return be;
}

/* The products of oneDNN in attention and int8 linears, as on processors with a matrix unit.
 * Without one it has the same products in AVX-512, given its bf16 and VNNI parts. */
static TEST_UNUSED bool use_dnnl(mica_backend *be)
{
    mica_cpu_from(be)->use_dnnl = mica_cpu_has_bf16() && mica_cpu_has_vnni();
    return mica_cpu_from(be)->use_dnnl;
}

static TEST_UNUSED void assert_fine(mica_backend *be)
{
    mica_err err = {0};
    if (mica_backend_check(be, &err) != MICA_OK)
        fail_msg("backend: %s", err.text);
}

/* --------------------------------------------------------------- errors -- */

/* ||got - want|| / ||want||; NaN in `got` gives infinity. */
static TEST_UNUSED double relative_l2(const float *got, const double *want, int64_t n)
{
    double diff = 0.0, norm = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)got[i] - want[i];
        diff += d * d;
        norm += want[i] * want[i];
    }
    const double r = norm > 0.0 ? sqrt(diff / norm) : sqrt(diff);
    return isnan(r) ? INFINITY : r;
}

static TEST_UNUSED void assert_close(const char *what, const float *got, const double *want,
                                     int64_t n, double bound)
{
    const double r = relative_l2(got, want, n);
    if (!(r <= bound))
        fail_msg("%s: relative L2 %.3g, allowed %.3g", what, r, bound);
}

/* ---------------------------------------------------------------- golden -- */

#include "base/file.h"
#include "base/json.h"

#include <cjson/cJSON.h>

/* A safetensors file of the test data, trusted. */
typedef struct golden {
    char *data;
    size_t size, start;
    mica_json header;
} golden;

static TEST_UNUSED golden golden_open(const char *name)
{
    golden g = {0};
    char path[1024];
    mica_err err = {0};
    snprintf(path, sizeof path, "%s/primitives/%s", MICA_TEST_DATA, name);
    if (mica_file_read(path, (size_t)64 << 20, &g.data, &g.size, &err) != MICA_OK)
        fail_msg("%s", err.text);
    uint64_t length = 0;
    memcpy(&length, g.data, 8);
    g.start = 8 + (size_t)length;
    if (mica_json_parse(&g.header, name, g.data + 8, (size_t)length, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return g;
}

static TEST_UNUSED void golden_close(golden *g)
{
    mica_json_close(&g->header);
    mica_mem_free(g->data);
}

/* Copy of CASE.NAME; false when the case has no such tensor. */
static TEST_UNUSED bool golden_find(const golden *g, const char *test_case, const char *name,
                                    mica_tensor *out)
{
    char key[256];
    snprintf(key, sizeof key, "%s.%s", test_case, name);
    const struct cJSON *entry = mica_json_find(g->header.root, key);
    if (!entry)
        return false;
    const char *dtype_name = mica_json_find(entry, "dtype")->valuestring;
    mica_dtype dtype;
    assert_true(mica_dtype_from_safetensors(dtype_name, strlen(dtype_name), &dtype));
    const struct cJSON *shape = mica_json_find(entry, "shape");
    int64_t dims[MICA_MAX_DIMS];
    int ndim = 0;
    for (const struct cJSON *d = shape->child; d; d = d->next)
        dims[ndim++] = (int64_t)d->valuedouble;
    *out = host_tensor(dtype, ndim, dims);
    const size_t first = (size_t)mica_json_find(entry, "data_offsets")->child->valuedouble;
    memcpy(out->data, g->data + g->start + first, mica_tensor_size(out));
    return true;
}

/* The tensor as doubles, for assert_close. */
static TEST_UNUSED double *as_doubles(const mica_tensor *t)
{
    const int64_t n = mica_tensor_count(t);
    double *d = test_malloc((size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++)
        d[i] = (double)mica_tensor_read_f32(t, i);
    return d;
}

#endif
