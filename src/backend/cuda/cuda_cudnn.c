/* cuda_cudnn.c - fused attention by cuDNN's backend graph API.
 *
 *     tensors q [1, H, L, K], k, v [1, G, M, K], out [1, H, L, K]   bf16, any strides
 *     scale [1, 1, 1, 1]                                            f32, passed by value
 *         ──► one operation, SDPA forward ──► graph ──► heuristics ──► execution plan
 *
 * Needs cuDNN 9.13.1, whose graphs know attention as one operation. A plan is made when a shape
 * appears first and kept, also the knowledge that there is none: then attention goes by two products
 * (cuda_attention.c). The engines that 9.19 offers for compute capability 9.0 compile their kernel:
 * 0.04 to 0.07 s for a shape, 0.6 s where the compiler has to come from the disk first. Causal masks
 * are not part of the operation before 9.21 and take the other way too.
 *
 * Napkin: 24 x 4,352 x 128 are 233 GFLOP; 0.41 ms at the 566 TFLOP/s measured on an H100. */
#include "backend/cuda/cuda_backend.h"

#if MICA_CUDA_CUDNN

#include "backend/cuda/cuda_dnn.h"
#include "base/mem.h"

#include <string.h>

#if CUDNN_VERSION < 91301
#error "cuDNN 9.13.1 or newer is needed: configure with -DMICA_CUDA_CUDNN=OFF"
#endif

enum { UID_Q = 1, UID_K, UID_V, UID_OUT, UID_SCALE };

/* Compared as bytes. The scale is data of a run, not of a plan. */
typedef struct sdpa_key {
    int64_t L, M, stride[8];
    int32_t H, G, K, pad;
} sdpa_key;

typedef struct sdpa_plan {
    struct sdpa_plan *next;
    sdpa_key key;
    mica_dnn_plan plan;
} sdpa_plan;

struct mica_cuda_sdpa {
    cudnnHandle_t handle;
    sdpa_plan *plans; /* a model has a handful of shapes */
};

/* ------------------------------------------------------------------ graph -- */

/* [1, heads, rows, K] over memory [rows, heads, K]. */
static bool make_rows(mica_dnn *out, int64_t uid, int64_t heads, int64_t rows, int64_t K,
                      const int64_t stride[2])
{
    const int64_t dim[4] = {1, heads, rows, K};
    const int64_t steps[4] = {rows * stride[0], stride[1], stride[0], 1};
    return mica_dnn_tensor(out, uid, CUDNN_DATA_BFLOAT16, dim, steps, false);
}

typedef struct graph_parts {
    mica_dnn tensor[5], op, graph;
} graph_parts;

static bool make_graph(graph_parts *p, cudnnHandle_t handle, const sdpa_key *k)
{
    return make_rows(&p->tensor[0], UID_Q, k->H, k->L, k->K, k->stride) &&
           make_rows(&p->tensor[1], UID_K, k->G, k->M, k->K, k->stride + 2) &&
           make_rows(&p->tensor[2], UID_V, k->G, k->M, k->K, k->stride + 4) &&
           make_rows(&p->tensor[3], UID_OUT, k->H, k->L, k->K, k->stride + 6) &&
           mica_dnn_number(&p->tensor[4], UID_SCALE) &&
           mica_dnn_create(&p->op, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) &&
           mica_dnn_set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, p->tensor[0]) &&
           mica_dnn_set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, p->tensor[1]) &&
           mica_dnn_set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, p->tensor[2]) &&
           mica_dnn_set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, p->tensor[3]) &&
           mica_dnn_set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, p->tensor[4]) &&
           mica_dnn_finalize(p->op) && mica_dnn_graph(&p->graph, handle, &p->op, 1);
}

static void build(cudnnHandle_t handle, sdpa_plan *plan)
{
    static const cudnnBackendHeurMode_t MODES[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    graph_parts p;
    memset(&p, 0, sizeof p);
    bool made = false;
    if (make_graph(&p, handle, &plan->key))
        for (size_t i = 0; i < MICA_ARRAY_LEN(MODES) && !made; i++)
            made = mica_dnn_plan_make(&plan->plan, handle, p.graph, MODES[i], 1, INT64_MAX);
    mica_dnn_destroy(&p.graph);
    mica_dnn_destroy(&p.op);
    for (size_t i = 0; i < MICA_ARRAY_LEN(p.tensor); i++)
        mica_dnn_destroy(&p.tensor[i]);
}

/* --------------------------------------------------------------- lifetime -- */

void mica_cuda_sdpa_open(mica_cuda_backend *be)
{
    const cudnnHandle_t handle = mica_dnn_open(be->stream);
    be->sdpa = handle ? mica_mem_calloc(1, sizeof *be->sdpa) : NULL;
    if (be->sdpa)
        be->sdpa->handle = handle;
    else if (handle)
        (void)cudnnDestroy(handle);
}

void mica_cuda_sdpa_close(mica_cuda_backend *be)
{
    mica_cuda_sdpa *s = be->sdpa;
    if (!s)
        return;
    while (s->plans) {
        sdpa_plan *p = s->plans;
        s->plans = p->next;
        mica_dnn_destroy(&p->plan.plan);
        mica_mem_free(p);
    }
    (void)cudnnDestroy(s->handle);
    mica_mem_free(s);
    be->sdpa = NULL;
}

int mica_cuda_sdpa_version(void)
{
    return (int)cudnnGetVersion();
}

/* -------------------------------------------------------------------- run -- */

static sdpa_plan *plan_get(mica_cuda_backend *be, const mica_cuda_attend_args *a)
{
    sdpa_key key;
    memset(&key, 0, sizeof key);
    key.L = a->L;
    key.M = a->M;
    key.H = a->H;
    key.G = a->G;
    key.K = a->K;
    const int64_t *const strides[] = {a->q_stride, a->k_stride, a->v_stride, a->out_stride};
    for (int i = 0; i < 4; i++)
        memcpy(key.stride + 2 * i, strides[i], 2 * sizeof(int64_t));
    for (sdpa_plan *p = be->sdpa->plans; p; p = p->next)
        if (memcmp(&p->key, &key, sizeof key) == 0)
            return p;
    sdpa_plan *p = mica_mem_calloc(1, sizeof *p);
    if (!p)
        return NULL;
    be->base.counters.allocations++;
    p->key = key;
    build(be->sdpa->handle, p);
    p->next = be->sdpa->plans;
    be->sdpa->plans = p;
    return p;
}

bool mica_cuda_sdpa_plan(mica_cuda_backend *be, const mica_cuda_attend_args *args,
                         size_t *workspace)
{
    const sdpa_plan *p = plan_get(be, args);
    *workspace = p ? (size_t)p->plan.workspace : 0;
    return p && p->plan.plan;
}

mica_status mica_cuda_sdpa_run(mica_cuda_backend *be, const mica_cuda_attend_args *a,
                               void *workspace, mica_err *err)
{
    const sdpa_plan *p = plan_get(be, a);
    const int64_t uids[] = {UID_Q, UID_K, UID_V, UID_OUT, UID_SCALE};
    float scale = a->scale;
    const void *const pointers[] = {a->q, a->k, a->v, a->out, &scale};
    const cudnnStatus_t status =
        p ? mica_dnn_plan_run(&p->plan, be->sdpa->handle, 5, uids, pointers, workspace)
          : CUDNN_STATUS_ALLOC_FAILED;
    if (status != CUDNN_STATUS_SUCCESS)
        return MICA_FAIL(err, MICA_E_INTERNAL, "attention: cuDNN failed: %s",
                         cudnnGetErrorString(status));
    return MICA_OK;
}

#else

void mica_cuda_sdpa_open(mica_cuda_backend *be)
{
    be->sdpa = NULL;
}

void mica_cuda_sdpa_close(mica_cuda_backend *be)
{
    (void)be;
}

int mica_cuda_sdpa_version(void)
{
    return 0;
}

bool mica_cuda_sdpa_plan(mica_cuda_backend *be, const mica_cuda_attend_args *args,
                         size_t *workspace)
{
    (void)be;
    (void)args;
    *workspace = 0;
    return false;
}

mica_status mica_cuda_sdpa_run(mica_cuda_backend *be, const mica_cuda_attend_args *a,
                               void *workspace, mica_err *err)
{
    (void)be;
    (void)a;
    (void)workspace;
    return MICA_FAIL(err, MICA_E_INTERNAL, "attention: built without cuDNN");
}

#endif
