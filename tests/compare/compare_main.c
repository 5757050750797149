/* compare_main.c - every operation of backend.h on two backends, on random shapes.
 *
 *     compare_backends A B [--rounds N] [--seed S] [--op NAME]     status 1 when they disagree
 *     compare_backends --bench A                                   timings
 *     compare_backends --bench-pictures A                          the autoencoders'
 *     compare_backends --bench-steps A [B]                         tokens of speech, of A and B at once
 *
 * A and B are DEVICE:PRECISION[:unfused], e.g. cpu:f32 cuda:bf16. Prints a line per operation with
 * its worst relative L2, and one per case that is outside of its bound. */
#include "compare.h"

#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ----------------------------------------------------------------- random -- */

uint32_t cmp_u32(cmp *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return (uint32_t)(c->random >> 32);
}

int cmp_int(cmp *c, int lo, int hi)
{
    return lo + (int)(cmp_u32(c) % (uint32_t)(hi - lo + 1));
}

float cmp_normal(cmp *c)
{
    double s = -6.0;
    for (int i = 0; i < 12; i++)
        s += cmp_u32(c) / 4294967296.0;
    return (float)s;
}

void *cmp_alloc(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (!p) {
        fprintf(stderr, "compare_backends: out of memory\n");
        exit(1);
    }
    return p;
}

/* ---------------------------------------------------------------- tensors -- */

static cmp_tensor make(cmp *c, bool state, int ndim, const int64_t *shape, const float *values)
{
    cmp_tensor t;
    for (int i = 0; i < 2; i++) {
        t.t[i] = state ? mica_state_tensor(c->be[i], MICA_POOL_STEP, ndim, shape)
                       : mica_act_tensor(c->be[i], MICA_POOL_STEP, ndim, shape);
        mica_upload_f32(c->be[i], &t.t[i], values);
    }
    return t;
}

static cmp_tensor make_random(cmp *c, bool state, float scale, int ndim, const int64_t *shape)
{
    const mica_tensor plain = mica_tensor_make(NULL, MICA_DTYPE_F32, ndim, shape);
    const int64_t count = mica_tensor_count(&plain);
    float *values = cmp_alloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        values[i] = scale * cmp_normal(c);
        if (c->bf16 && !state)
            values[i] = mica_bf16_to_f32(mica_f32_to_bf16(values[i]));
    }
    const cmp_tensor t = make(c, state, ndim, shape, values);
    free(values);
    return t;
}

cmp_tensor cmp_act(cmp *c, float scale, int ndim, const int64_t *shape)
{
    return make_random(c, false, scale, ndim, shape);
}

cmp_tensor cmp_state(cmp *c, float scale, int ndim, const int64_t *shape)
{
    return make_random(c, true, scale, ndim, shape);
}

cmp_tensor cmp_output(cmp *c, bool state, int ndim, const int64_t *shape)
{
    const mica_tensor plain = mica_tensor_make(NULL, MICA_DTYPE_F32, ndim, shape);
    const int64_t count = mica_tensor_count(&plain);
    float *values = cmp_alloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = NAN;
    const cmp_tensor t = make(c, state, ndim, shape, values);
    free(values);
    return t;
}

static void store(cmp *c, mica_tensor *t, int64_t i, float v)
{
    switch (t->dtype) {
    case MICA_DTYPE_F32:
        ((float *)t->data)[i] = v;
        break;
    case MICA_DTYPE_F64:
        ((double *)t->data)[i] = (double)v;
        break;
    case MICA_DTYPE_BF16:
        ((uint16_t *)t->data)[i] = mica_f32_to_bf16(v);
        break;
    case MICA_DTYPE_F16:
        ((uint16_t *)t->data)[i] = mica_f32_to_f16(v);
        break;
    default: /* sign and magnitude below 1 in both f8 formats */
        ((uint8_t *)t->data)[i] = (uint8_t)((cmp_u32(c) & 0x80) | (cmp_u32(c) % 0x38));
    }
}

cmp_weight cmp_weight_make(cmp *c, mica_dtype dtype, float scale, int scale_kind, int ndim,
                           const int64_t *shape)
{
    cmp_weight w;
    mica_tensor t = mica_tensor_make(NULL, dtype, ndim, shape);
    const int64_t count = mica_tensor_count(&t), rows = scale_kind == 2 ? shape[0] : 1;
    t.data = cmp_alloc(mica_tensor_size(&t));
    for (int64_t i = 0; i < count; i++)
        store(c, &t, i, scale * cmp_normal(c));
    if (scale_kind) {
        float *s = cmp_alloc((size_t)rows * sizeof *s);
        for (int64_t i = 0; i < rows; i++)
            s[i] = 0.1f + 0.001f * (float)cmp_int(c, 0, 100);
        t.scale =
            (mica_tensor_scale){.data = s, .dtype = MICA_DTYPE_F32, .per_row = scale_kind == 2};
    }
    for (int i = 0; i < 2; i++)
        w.w[i] = (mica_weight){.tensor = t, .name = "weight"};
    return w;
}

void cmp_weight_free(cmp *c, cmp_weight *w)
{
    for (int i = 0; i < 2; i++) {
        mica_weight *const list[] = {&w->w[i]};
        mica_backend_drop_weights(c->be[i], list, 1);
    }
    free((void *)(uintptr_t)w->w[0].tensor.scale.data);
    free(w->w[0].tensor.data);
}

/* ---------------------------------------------------------------- results -- */

void cmp_fail(cmp *c, const char *why, double value, double bound)
{
    c->failures++;
    printf("  FAILED %s, %s: %s %.3g, allowed %.3g\n", c->op, c->what, why, value, bound);
}

static bool both_fine(cmp *c)
{
    bool fine = true;
    for (int i = 0; i < 2; i++) {
        mica_err err = {0};
        if (mica_backend_check(c->be[i], &err) == MICA_OK)
            continue;
        fine = false;
        c->failures++;
        printf("  FAILED %s, %s: %s says: %s\n", c->op, c->what, mica_backend_name(c->be[i]),
               err.text);
    }
    return fine;
}

void cmp_result(cmp *c, const cmp_tensor *t, double bound_f32, double bound_bf16)
{
    const double bound = c->bf16 ? bound_bf16 : bound_f32;
    const int64_t count = mica_tensor_count(&t->t[0]);
    float *v[2];
    for (int i = 0; i < 2; i++) {
        v[i] = cmp_alloc((size_t)count * sizeof *v[i]);
        mica_download_f32(c->be[i], v[i], &t->t[i]);
    }
    c->cases++;
    if (both_fine(c)) {
        double diff = 0.0, norm = 0.0;
        int64_t bad = 0;
        for (int64_t i = 0; i < count; i++) {
            const double d = (double)v[1][i] - (double)v[0][i];
            bad += isnan(v[0][i]) != isnan(v[1][i]);
            diff += isnan(d) ? 0.0 : d * d;
            norm += isnan(v[0][i]) ? 0.0 : (double)v[0][i] * (double)v[0][i];
        }
        const double r = norm > 0.0 ? sqrt(diff / norm) : sqrt(diff);
        c->worst = fmax(c->worst, r);
        if (bad)
            cmp_fail(c, "NaN on one side only, elements", (double)bad, 0.0);
        else if (!(r <= bound))
            cmp_fail(c, "relative L2", r, bound);
    }
    free(v[0]);
    free(v[1]);
}

/* ------------------------------------------------------------------- main -- */

static int usage(void)
{
    fprintf(stderr, "usage: compare_backends A B [--rounds N] [--seed S] [--op NAME]\n"
                    "       compare_backends --bench A | --bench-pictures A | --bench-steps A [B]\n"
                    "A, B: cpu|cuda:f32|bf16|fp8[:unfused]\n");
    return 2;
}

static bool open_named(const char *text, mica_backend **out, bool *bf16)
{
    mica_backend_options o = {.device = strncmp(text, "cuda", 4) == 0 ? MICA_DEVICE_CUDA
                                                                      : MICA_DEVICE_CPU,
                              .precision = MICA_PRECISION_F32};
    const char *colon = strchr(text, ':');
    mica_err err = {0};
    const bool fp8 = colon && strncmp(colon + 1, "fp8", 3) == 0;
    *bf16 = fp8 || (colon && strncmp(colon + 1, "bf16", 4) == 0);
    if (*bf16)
        o.precision = fp8 ? MICA_PRECISION_FP8 : MICA_PRECISION_BF16;
    o.ablate_fusion = strstr(text, ":unfused") != NULL;
    if (mica_backend_open(out, &o, &err) == MICA_OK)
        return true;
    fprintf(stderr, "compare_backends: %s: %s\n", text, err.text);
    return false;
}

static void run_ops(cmp *c, const cmp_op *ops, const char *only, int rounds)
{
    for (const cmp_op *op = ops; op->name; op++) {
        const int failures = c->failures;
        if (only && strcmp(only, op->name) != 0)
            continue;
        c->op = op->name;
        c->worst = 0.0;
        c->cases = c->at_once = c->due = c->own = 0;
        for (int i = 0; i < rounds * op->cases; i++) {
            const mica_pool_mark a = mica_pool_get_mark(c->be[0], MICA_POOL_STEP);
            const mica_pool_mark b = mica_pool_get_mark(c->be[1], MICA_POOL_STEP);
            snprintf(c->what, sizeof c->what, "case %d", i);
            op->run(c);
            mica_pool_release(c->be[0], MICA_POOL_STEP, a);
            mica_pool_release(c->be[1], MICA_POOL_STEP, b);
        }
        printf("%-22s %4d results, worst %.3g", op->name, c->cases, c->worst);
        if (c->at_once)
            printf(", %d at once", c->at_once);
        if (c->due)
            printf(", %d of %d by their own kernel", c->own, c->due);
        printf("%s\n", c->failures > failures ? "  FAILED" : "");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    const char *names[2] = {NULL, NULL}, *only = NULL;
    cmp c = {.random = 0x9e3779b97f4a7c15u};
    int rounds = 1, count = 0;
    void (*bench)(mica_backend * be) = NULL;
    bool unused;
    for (int i = 1; i < argc; i++) {
        const bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--rounds") && more)
            rounds = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--seed") && more)
            c.random ^= strtoull(argv[++i], NULL, 10) << 20;
        else if (!strcmp(argv[i], "--op") && more)
            only = argv[++i];
        else if (!strcmp(argv[i], "--bench"))
            bench = cmp_bench;
        else if (!strcmp(argv[i], "--bench-pictures"))
            bench = cmp_bench_pictures;
        else if (!strcmp(argv[i], "--bench-steps"))
            bench = cmp_bench_steps;
        else if (count < 2 && argv[i][0] != '-')
            names[count++] = argv[i];
        else
            return usage();
    }
    if (count != (bench ? 1 : 2) && !(bench == cmp_bench_steps && count == 2))
        return usage();
    if (!open_named(names[0], &c.be[0], &unused))
        return 1;
    if (bench && count == 2) {
        if (!open_named(names[1], &c.be[1], &unused))
            return 1;
        printf("%s and %s\n", mica_backend_name(c.be[0]), mica_backend_name(c.be[1]));
        const int failures = cmp_steps_at_once(c.be);
        mica_backend_close(&c.be[0]);
        mica_backend_close(&c.be[1]);
        return failures > 0;
    }
    if (bench) {
        printf("%s\n", mica_backend_name(c.be[0]));
        bench(c.be[0]);
        mica_backend_close(&c.be[0]);
        return 0;
    }
    if (!open_named(names[1], &c.be[1], &c.bf16))
        return 1;
    c.fp8 = mica_backend_precision(c.be[1]) == MICA_PRECISION_FP8;
    printf("%s against %s\n", mica_backend_name(c.be[1]), mica_backend_name(c.be[0]));
    run_ops(&c, cmp_row_ops, only, rounds);
    run_ops(&c, cmp_product_ops, only, rounds);
    run_ops(&c, cmp_chain_ops, only, rounds);
    run_ops(&c, cmp_fusion_ops, only, rounds);
    run_ops(&c, cmp_gated_ops, only, rounds);
    run_ops(&c, cmp_prompt_ops, only, rounds);
    run_ops(&c, cmp_sequence_ops, only, rounds);
    run_ops(&c, cmp_picture_ops, only, rounds);
    run_ops(&c, cmp_adapter_ops, only, rounds);
    run_ops(&c, cmp_packed_ops, only, rounds);
    run_ops(&c, cmp_token_ops, only, rounds);
    /* Last: a backend that streamed goes on to look for it. */
    run_ops(&c, cmp_streaming_ops, only, rounds);
    printf("%d failures\n", c.failures);
    for (int i = 0; i < 2; i++)
        mica_backend_close(&c.be[i]);
    return c.failures > 0;
}
