/* cpu_relative.c - attention with relative keys and values in a window around each query.
 *
 *     per head, once:   keys and values as panels                            shared scratch
 *     per head and block of queries (thread scratch):
 *         S [mq, L]   = q k^T
 *         R [mq, N]   = q rel_k^T            N = 2 W + 1; R[i][n] joins S[i][i + n - W]
 *         P           = softmax(scale * S)
 *         B [mq, N]   = P[i][i + n - W]      0 outside the sequence
 *         out         = P v + B rel_v
 *
 * Sequences are sentences of speech, 50 frames a second: a row of scores is a few thousand numbers
 * and stays in L2 whole, so there is no online softmax. All of it is f32. */
#include "backend/cpu/cpu_backend.h"

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define QUERIES 32

typedef struct relative_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    const mica_relative_attention_args *args;
    int L, H, K, N, W;
    int nb, blocks; /* of queries per head */
    float scale;
    size_t keys_size, values_size; /* floats of one head's panels */
    float *keys, *values;          /* [H] panels */
    float *rel_keys, *rel_values;  /* panels */
} relative_job;

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static const float *head_of(const mica_tensor *t, int64_t row, int64_t head)
{
    return (const float *)t->data + row * t->stride_[0] + head * t->stride_[1];
}

static void pack_head(void *user, int64_t head, int thread)
{
    const relative_job *j = user;
    const mica_tensor *k = j->args->k_LHK, *v = j->args->v_LHK;
    (void)thread;
    j->k->pack_f32_from_f32(j->L, j->K, head_of(k, 0, head), (ptrdiff_t)k->stride_[0], NULL, j->nb,
                            j->keys + (size_t)head * j->keys_size);
    j->k->pack_f32_from_kmajor(j->L, j->K, head_of(v, 0, head), (ptrdiff_t)v->stride_[0], j->nb,
                               j->values + (size_t)head * j->values_size);
}

static void product(const relative_job *j, int m, int n, int k, const float *a, ptrdiff_t lda,
                    const float *b, float *c, ptrdiff_t ldc, bool accumulate)
{
    const mica_gemm_f32 g = {.m = m,
                             .n = n,
                             .k = k,
                             .a = a,
                             .lda = lda,
                             .b = b,
                             .c = c,
                             .ldc = ldc,
                             .accumulate = accumulate};
    j->k->gemm_f32(&g);
}

/* Band of S or P around the diagonal: S += R, or B = P. */
static void add_band(const relative_job *j, int first, int rows, const float *band, float *s)
{
    for (int i = 0; i < rows; i++)
        for (int n = 0; n < j->N; n++) {
            const int key = first + i + n - j->W;
            if (key >= 0 && key < j->L)
                s[(ptrdiff_t)i * j->L + key] += band[i * j->N + n];
        }
}

static void take_band(const relative_job *j, int first, int rows, const float *p, float *band)
{
    for (int i = 0; i < rows; i++)
        for (int n = 0; n < j->N; n++) {
            const int key = first + i + n - j->W;
            band[i * j->N + n] = key >= 0 && key < j->L ? p[(ptrdiff_t)i * j->L + key] : 0.0f;
        }
}

static void run_block(void *user, int64_t index, int thread)
{
    const relative_job *j = user;
    const int64_t head = index / j->blocks;
    const int first = (int)(index % j->blocks) * QUERIES;
    const int rows = MICA_MIN(QUERIES, j->L - first);
    const mica_tensor *q = j->args->q_LHK, *out = j->args->out_LHK;
    const float *queries = head_of(q, first, head);
    float *result = (float *)(uintptr_t)head_of(out, first, head);
    float *s = mica_cpu_thread_scratch(j->be, thread);
    float *band = s + (size_t)QUERIES * (size_t)j->L;
    product(j, rows, j->L, j->K, queries, (ptrdiff_t)q->stride_[0],
            j->keys + (size_t)head * j->keys_size, s, j->L, false);
    product(j, rows, j->N, j->K, queries, (ptrdiff_t)q->stride_[0], j->rel_keys, band, j->N, false);
    add_band(j, first, rows, band, s);
    j->k->softmax_rows(rows, j->L, j->scale, s, j->L, s, j->L);
    take_band(j, first, rows, s, band);
    product(j, rows, j->K, j->L, s, j->L, j->values + (size_t)head * j->values_size, result,
            (ptrdiff_t)out->stride_[0], false);
    product(j, rows, j->K, j->N, band, j->N, j->rel_values, result, (ptrdiff_t)out->stride_[0],
            true);
}

/* Shared scratch: [keys of all heads][values][rel keys][rel values][plain rel rows]. */
static mica_status prepare(relative_job *j, mica_err *err)
{
    const size_t nb = (size_t)j->nb, K = (size_t)j->K, N = (size_t)j->N, L = (size_t)j->L;
    const size_t rel_keys = round_up(N, nb) * K, rel_values = round_up(K, nb) * N;
    j->keys_size = round_up(L, nb) * K;
    j->values_size = round_up(K, nb) * L;
    const size_t all = (size_t)j->H * (j->keys_size + j->values_size);
    const size_t thread = (size_t)QUERIES * (L + N) * sizeof(float);
    MICA_TRY(mica_cpu_scratch_reserve(j->be, (all + rel_keys + rel_values + N * K) * sizeof(float),
                                      thread, err));
    j->keys = mica_cpu_shared_scratch(j->be);
    j->values = j->keys + (size_t)j->H * j->keys_size;
    j->rel_keys = j->keys + all;
    j->rel_values = j->rel_keys + rel_keys;
    float *plain = j->rel_values + rel_values;
    mica_cpu_weight_to_f32(&j->args->rel_k_NK->tensor, 0, (int64_t)(N * K), plain);
    j->k->pack_f32_from_f32(j->N, j->K, plain, j->K, NULL, j->nb, j->rel_keys);
    mica_cpu_weight_to_f32(&j->args->rel_v_NK->tensor, 0, (int64_t)(N * K), plain);
    j->k->pack_f32_from_kmajor(j->N, j->K, plain, j->K, j->nb, j->rel_values);
    return MICA_OK;
}

mica_status mica_cpu_relative_attention(mica_backend *base,
                                        const mica_relative_attention_args *args, mica_err *err)
{
    const mica_tensor *q = args->q_LHK;
    if (q->shape_[0] > INT32_MAX / 64 || q->shape_[2] > INT32_MAX / 64)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "relative_attention: too many rows");
    relative_job j = {.be = mica_cpu_from(base),
                      .args = args,
                      .L = (int)q->shape_[0],
                      .H = (int)q->shape_[1],
                      .K = (int)q->shape_[2],
                      .N = (int)args->rel_k_NK->tensor.shape_[0]};
    j.k = j.be->kernels;
    j.W = j.N / 2;
    j.nb = j.k->gemm_f32_nb;
    j.blocks = (j.L + QUERIES - 1) / QUERIES;
    j.scale = args->scale > 0.0f ? args->scale : 1.0f / sqrtf((float)j.K);
    MICA_TRY(prepare(&j, err));
    mica_cpu_parallel(j.be, j.H, pack_head, &j);
    mica_cpu_parallel(j.be, (int64_t)j.H * j.blocks, run_block, &j);
    return MICA_OK;
}
