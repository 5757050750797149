/* cuda_lt.c - the only door to cuBLASLt: plans by shape, one call to run.
 *
 *     mica_cuda_gemm ──► key (sizes, strides, types, epilogue) ──► plan ──► cublasLtMatmul
 *                                                                   └ descriptors and the
 *                                                                     algorithm its heuristics chose
 *
 * A plan is made when a shape appears for the first time (about 0.1 ms) and kept: a pass that
 * repeats its shapes asks no heuristics and allocates nothing. Every operand starts on 16 bytes and
 * has leading dimensions that are multiples of them (the caller pads), so one plan serves any
 * pointers. Sums are in f32; f32 operands are multiplied in f32 (CUBLAS_COMPUTE_32F, no TF32).
 *
 * Napkin for an H100: 725-770 TFLOP/s bf16, so 4,352 x 12,288 x 3,072 takes 0.45 ms. */
#include "backend/cuda/cuda_backend.h"

#include "base/mem.h"

#include <cublasLt.h>
#include <stdio.h>
#include <string.h>

/* CUDA 12.9 */
#define MICA_CUDA_HAS_ROW_SCALES (CUBLAS_VERSION >= 120900)

#define WORKSPACE ((size_t)32 << 20) /* what cuBLAS itself takes on Hopper */

/* Compared as bytes: zeroed before it is filled. */
typedef struct plan_key {
    int64_t m, n, k, lda, ldb, ldc, ldd, a_step, b_step, d_step;
    int32_t batch, transpose_a, type, d_type, add_c, epilogue;
} plan_key;

typedef struct plan {
    plan_key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c, d;
    cublasLtMatmulAlgo_t algo;
    cublasStatus_t status; /* not success: there is no algorithm for the key */
} plan;

struct mica_cuda_lt {
    cublasLtHandle_t handle;
    void *workspace[2]; /* per branch */
    plan **plans;       /* open addressing, capacity a power of two */
    size_t count, capacity;
};

static mica_status check(cublasStatus_t status, const char *name, const char *what, mica_err *err)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return MICA_OK;
    return MICA_FAIL(err, status == CUBLAS_STATUS_ALLOC_FAILED ? MICA_E_NOMEM : MICA_E_INTERNAL,
                     "%s: cuBLASLt failed to %s: %s", name, what, cublasLtGetStatusString(status));
}

static cudaDataType data_type(int32_t t)
{
    return t == MICA_CUDA_BF16 ? CUDA_R_16BF : t == MICA_CUDA_F8_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

mica_status mica_cuda_lt_open(mica_cuda_backend *be, mica_err *err)
{
    be->lt = mica_mem_calloc(1, sizeof *be->lt);
    if (!be->lt)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for cuBLASLt's plans");
    MICA_TRY(check(cublasLtCreate(&be->lt->handle), "open", "start", err));
    for (int i = 0; i < 2; i++)
        MICA_TRY(
            mica_cuda_alloc(be, WORKSPACE, "cuBLASLt's workspace", &be->lt->workspace[i], err));
    return MICA_OK;
}

bool mica_cuda_lt_has_fp8(void)
{
    return MICA_CUDA_HAS_ROW_SCALES;
}

/* ------------------------------------------------------------------ plans -- */

static void plan_free(plan *p)
{
    if (!p)
        return;
    const cublasLtMatrixLayout_t layouts[] = {p->a, p->b, p->c, p->d};
    for (size_t i = 0; i < MICA_ARRAY_LEN(layouts); i++)
        if (layouts[i])
            (void)cublasLtMatrixLayoutDestroy(layouts[i]);
    if (p->desc)
        (void)cublasLtMatmulDescDestroy(p->desc);
    mica_mem_free(p);
}

void mica_cuda_lt_close(mica_cuda_backend *be)
{
    mica_cuda_lt *lt = be->lt;
    if (!lt)
        return;
    for (size_t i = 0; i < lt->capacity; i++)
        plan_free(lt->plans[i]);
    mica_mem_free(lt->plans);
    for (int i = 0; i < 2; i++)
        mica_cuda_free(be, lt->workspace[i]);
    if (lt->handle)
        (void)cublasLtDestroy(lt->handle);
    mica_mem_free(lt);
    be->lt = NULL;
}

/* FNV-1a over the key. */
static size_t hash_of(const plan_key *key)
{
    const uint8_t *bytes = (const uint8_t *)key;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *key; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 29);
}

/* The place of `key` in the table: its plan or the free slot where it belongs. */
static plan **find(plan **plans, size_t capacity, const plan_key *key)
{
    size_t i = hash_of(key) & (capacity - 1);
    while (plans[i] && memcmp(&plans[i]->key, key, sizeof *key) != 0)
        i = (i + 1) & (capacity - 1);
    return &plans[i];
}

static mica_status grow(mica_cuda_lt *lt, mica_err *err)
{
    if (lt->count + 1 <= lt->capacity / 2)
        return MICA_OK;
    const size_t capacity = lt->capacity ? 2 * lt->capacity : 64;
    plan **plans = mica_mem_calloc(capacity, sizeof *plans);
    if (!plans)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for cuBLASLt's plans");
    for (size_t i = 0; i < lt->capacity; i++)
        if (lt->plans[i])
            *find(plans, capacity, &lt->plans[i]->key) = lt->plans[i];
    mica_mem_free(lt->plans);
    lt->plans = plans;
    lt->capacity = capacity;
    return MICA_OK;
}

static cublasStatus_t make_layout(cublasLtMatrixLayout_t *out, int32_t type, int64_t rows,
                                  int64_t cols, int64_t ld, int32_t batch, int64_t step)
{
    cublasStatus_t st =
        cublasLtMatrixLayoutCreate(out, data_type(type), (uint64_t)rows, (uint64_t)cols, ld);
    if (st != CUBLAS_STATUS_SUCCESS || batch == 1)
        return st;
    st = cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                          sizeof batch);
    if (st != CUBLAS_STATUS_SUCCESS)
        return st;
    return cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                            &step, sizeof step);
}

/* A scale per row of both operands, and sums of 14 bits between those of 32. */
static cublasStatus_t set_scaling(cublasLtMatmulDesc_t desc)
{
#if MICA_CUDA_HAS_ROW_SCALES
    const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const int8_t fast = 1;
    cublasStatus_t st =
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode,
                                            sizeof mode);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast,
                                            sizeof fast);
    return st;
#else
    (void)desc;
    return CUBLAS_STATUS_NOT_SUPPORTED;
#endif
}

static cublasStatus_t set_scales(cublasLtMatmulDesc_t desc, const float *a, const float *b)
{
    const cublasStatus_t st =
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &a, sizeof a);
    return st == CUBLAS_STATUS_SUCCESS
               ? cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &b,
                                                sizeof b)
               : st;
}

static cublasStatus_t make_desc(plan *p)
{
    const plan_key *k = &p->key;
    cublasStatus_t st = cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const int32_t op = k->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op, sizeof op);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &k->epilogue,
                                            sizeof k->epilogue);
    return st == CUBLAS_STATUS_SUCCESS && k->type == MICA_CUDA_F8_E4M3 ? set_scaling(p->desc) : st;
}

static cublasStatus_t make_layouts(plan *p)
{
    const plan_key *k = &p->key;
    const int64_t a_rows = k->transpose_a ? k->k : k->m, a_cols = k->transpose_a ? k->m : k->k;
    cublasStatus_t st = make_layout(&p->a, k->type, a_rows, a_cols, k->lda, k->batch, k->a_step);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = make_layout(&p->b, k->type, k->k, k->n, k->ldb, k->batch, k->b_step);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = make_layout(&p->c, k->d_type, k->m, k->n, k->ldc, k->batch, k->d_step);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = make_layout(&p->d, k->d_type, k->m, k->n, k->ldd, k->batch, k->d_step);
    return st;
}

static cublasStatus_t choose_algorithm(mica_cuda_lt *lt, plan *p)
{
    cublasLtMatmulPreference_t wish = NULL;
    const uint64_t workspace = WORKSPACE;
    const uint32_t align = 16;
    static const cublasLtMatmulPreferenceAttributes_t ALIGN[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasStatus_t st = cublasLtMatmulPreferenceCreate(&wish);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &workspace, sizeof workspace);
    for (size_t i = 0; st == CUBLAS_STATUS_SUCCESS && i < MICA_ARRAY_LEN(ALIGN); i++)
        st = cublasLtMatmulPreferenceSetAttribute(wish, ALIGN[i], &align, sizeof align);
    cublasLtMatmulHeuristicResult_t result = {0};
    int found = 0;
    if (st == CUBLAS_STATUS_SUCCESS)
        st = cublasLtMatmulAlgoGetHeuristic(lt->handle, p->desc, p->a, p->b, p->c, p->d, wish, 1,
                                            &result, &found);
    if (st == CUBLAS_STATUS_SUCCESS && found < 1)
        st = CUBLAS_STATUS_NOT_SUPPORTED;
    p->algo = result.algo;
    if (wish)
        (void)cublasLtMatmulPreferenceDestroy(wish);
    return st;
}

/* What a plan is made with; its pointers only tell the heuristics what there will be. */
static cublasStatus_t build(mica_cuda_lt *lt, plan *p, const mica_cuda_gemm *g)
{
    cublasStatus_t st = make_desc(p);
    if (st == CUBLAS_STATUS_SUCCESS && g->bias)
        st = cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias,
                                            sizeof g->bias);
    if (st == CUBLAS_STATUS_SUCCESS && g->a_scale)
        st = set_scales(p->desc, g->a_scale, g->b_scale);
    if (st == CUBLAS_STATUS_SUCCESS)
        st = make_layouts(p);
    return st == CUBLAS_STATUS_SUCCESS ? choose_algorithm(lt, p) : st;
}

static void key_of(const mica_cuda_gemm *g, plan_key *key)
{
    memset(key, 0, sizeof *key);
    key->m = g->m;
    key->n = g->n;
    key->k = g->k;
    key->lda = g->lda;
    key->ldb = g->ldb;
    key->ldc = g->c ? g->ldc : g->ldd;
    key->ldd = g->ldd;
    key->batch = MICA_MAX(g->batch, 1);
    key->a_step = key->batch > 1 ? g->a_step : 0;
    key->b_step = key->batch > 1 ? g->b_step : 0;
    key->d_step = key->batch > 1 ? g->d_step : 0;
    key->transpose_a = g->transpose_a;
    key->type = (int32_t)g->type;
    key->d_type = (int32_t)g->d_type;
    key->add_c = g->c != NULL;
    key->epilogue = g->bias ? (g->gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS)
                            : (g->gelu ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT);
}

/* The plan of g's key, which may say that there is none. */
static mica_status plan_get(mica_cuda_backend *be, const mica_cuda_gemm *g, plan **out,
                            mica_err *err)
{
    mica_cuda_lt *lt = be->lt;
    plan_key key;
    key_of(g, &key);
    MICA_TRY(grow(lt, err));
    plan **place = find(lt->plans, lt->capacity, &key);
    if (!*place) {
        plan *p = mica_mem_calloc(1, sizeof *p);
        if (!p)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a plan of a product");
        be->base.counters.allocations++;
        p->key = key;
        p->status = build(lt, p, g);
        *place = p;
        lt->count++;
    }
    *out = *place;
    return MICA_OK;
}

bool mica_cuda_gemm_exists(mica_cuda_backend *be, const mica_cuda_gemm *g)
{
    plan *p = NULL;
    mica_err ignored;
    return plan_get(be, g, &p, &ignored) == MICA_OK && p->status == CUBLAS_STATUS_SUCCESS;
}

/* -------------------------------------------------------------------- run -- */

mica_status mica_cuda_gemm_run(mica_cuda_backend *be, const mica_cuda_gemm *g, const char *name,
                               mica_err *err)
{
    plan *p = NULL;
    MICA_TRY(plan_get(be, g, &p, err));
    if (p->status != CUBLAS_STATUS_SUCCESS) {
        char what[160];
        snprintf(what, sizeof what, "plan a product of %lld x %lld x %lld", (long long)g->m,
                 (long long)g->n, (long long)g->k);
        return check(p->status, name, what, err);
    }
    if (g->bias)
        MICA_TRY(check(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                      &g->bias, sizeof g->bias),
                       name, "set the bias", err));
    if (g->a_scale)
        MICA_TRY(check(set_scales(p->desc, g->a_scale, g->b_scale), name, "set the scales", err));
    const float alpha = 1.0f, beta = g->c ? 1.0f : 0.0f;
    return check(cublasLtMatmul(be->lt->handle, p->desc, &alpha, g->a, p->a, g->b, p->b, &beta,
                                g->c ? g->c : g->d, p->c, g->d, p->d, &p->algo,
                                be->lt->workspace[be->branch], WORKSPACE, be->stream),
                 name, "run a product", err);
}

/* ------------------------------------------------------------------- peak -- */

/* Random numbers of the type (bf16 ones are the upper halves of f32 ones): products of constants draw
 * less power and run faster than any real work. */
static mica_status fill_random(mica_cuda_backend *be, mica_cuda_type type, uint8_t *to, size_t size,
                               mica_err *err)
{
    const uint16_t free_bits = type == MICA_CUDA_F8_E4M3 ? 0x8787 : 0x80ff;
    const uint16_t set_bits = type == MICA_CUDA_F8_E4M3 ? 0x2828 : 0x3e00; /* +-[0.125, 0.5) */
    void *host;
    uint32_t r = 0x9e3779b9u;
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    for (size_t i = 0; i < MICA_CUDA_STAGE_SIZE / 2; i++) {
        r ^= r << 13;
        r ^= r >> 17;
        r ^= r << 5;
        ((uint16_t *)host)[i] = (uint16_t)((r & free_bits) | set_bits);
    }
    for (size_t done = 0; done < size; done += MICA_CUDA_STAGE_SIZE)
        MICA_TRY(mica_cuda_check(cudaMemcpyAsync(to + done, host,
                                                 MICA_MIN(MICA_CUDA_STAGE_SIZE, size - done),
                                                 cudaMemcpyHostToDevice, be->stream),
                                 "filling a matrix", err));
    return mica_cuda_stage_close(be, err);
}

static mica_status time_product(mica_cuda_backend *be, const mica_cuda_gemm *g, cudaEvent_t start,
                                cudaEvent_t end, float *ms, mica_err *err)
{
    MICA_TRY(mica_cuda_check(cudaEventRecord(start, be->stream), "timing", err));
    MICA_TRY(mica_cuda_gemm_run(be, g, "peak", err));
    MICA_TRY(mica_cuda_check(cudaEventRecord(end, be->stream), "timing", err));
    MICA_TRY(mica_cuda_wait(be, "measuring the matrix-product rate", err));
    return mica_cuda_check(cudaEventElapsedTime(ms, start, end), "timing", err);
}

/* 8,192 cubed, best of 20. */
mica_status mica_cuda_op_measure_peak(mica_backend *base, mica_precision precision, double *flops,
                                      mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    enum { N = 8192, ROUNDS = 20 };
    const mica_cuda_type type = precision == MICA_PRECISION_F32   ? MICA_CUDA_F32
                                : precision == MICA_PRECISION_FP8 ? MICA_CUDA_F8_E4M3
                                                                  : MICA_CUDA_BF16;
    const bool fp8 = type == MICA_CUDA_F8_E4M3;
    const size_t size = (size_t)N * N * MICA_MAX(mica_cuda_type_size(type), (size_t)2);
    void *memory = NULL;
    cudaEvent_t start = NULL, end = NULL;
    MICA_TRY(mica_cuda_alloc(be, 3 * size, "measuring the matrix-product rate", &memory, err));
    uint8_t *at = memory;
    const mica_cuda_gemm g = {.m = N,
                              .n = N,
                              .k = N,
                              .transpose_a = true,
                              .type = type,
                              .d_type = fp8 ? MICA_CUDA_BF16 : type,
                              .a_scale = fp8 ? (const float *)(void *)(at + size) : NULL,
                              .b_scale = fp8 ? (const float *)(void *)(at + size) : NULL,
                              .a = at,
                              .b = at + size,
                              .d = at + 2 * size,
                              .lda = N,
                              .ldb = N,
                              .ldd = N};
    /* Scales of fp8: any numbers that are finite will do. */
    mica_status st = fill_random(be, type, at, 2 * size, err);
    if (!st)
        st = mica_cuda_check(cudaEventCreate(&start), "creating an event", err);
    if (!st)
        st = mica_cuda_check(cudaEventCreate(&end), "creating an event", err);
    double best = 0.0;
    for (int i = 0; !st && i < ROUNDS; i++) {
        float ms = 0.0f;
        st = time_product(be, &g, start, end, &ms, err);
        if (!st && ms > 0.0f)
            best = MICA_MAX(best, 2.0 * N * N * N / ((double)ms * 1e-3));
    }
    if (start)
        (void)cudaEventDestroy(start);
    if (end)
        (void)cudaEventDestroy(end);
    mica_cuda_free(be, memory);
    *flops = best;
    return st;
}
