/* cuda_cudnn.c - fused attention by cuDNN's backend graph API.
 *
 *     tensors q [1, H, L, K], k, v [1, G, M, K], out [1, H, L, K]   bf16, any strides
 *     scale [1, 1, 1, 1]                                            f32, passed by value
 *         ──► one operation, SDPA forward ──► graph ──► heuristics ──► execution plan
 *
 * Needs cuDNN 9.13.1, whose graphs know attention as one operation. A plan is made when a shape
 * appears first and kept, also the knowledge that there is none: then attention goes by two products
 * (cuda_attention.c). Making one takes about a second, since the engines that 9.19 offers for
 * compute capability 9.0 compile their kernel: a new prompt length costs that once. Causal masks
 * are not part of the operation before 9.21 and take the other way too.
 *
 * Napkin: 24 x 4,352 x 128 are 233 GFLOP; 0.41 ms at the 566 TFLOP/s measured on an H100. */
#include "backend/cuda/cuda_backend.h"

#if MICA_CUDA_CUDNN

#include "base/mem.h"

#include <cudnn.h>
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
    cudnnBackendDescriptor_t plan; /* NULL: there is none for this shape */
    int64_t workspace;
} sdpa_plan;

struct mica_cuda_sdpa {
    cudnnHandle_t handle;
    sdpa_plan *plans; /* a model has a handful of shapes */
};

/* ------------------------------------------------------------ descriptors -- */

typedef cudnnBackendDescriptor_t descriptor;

static void destroy(descriptor *d)
{
    if (*d)
        (void)cudnnBackendDestroyDescriptor(*d);
    *d = NULL;
}

static bool set(descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *value)
{
    return cudnnBackendSetAttribute(d, name, type, count, value) == CUDNN_STATUS_SUCCESS;
}

static bool set_descriptor(descriptor d, cudnnBackendAttributeName_t name, descriptor value)
{
    return set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static bool create(descriptor *d, cudnnBackendDescriptorType_t type)
{
    return cudnnBackendCreateDescriptor(type, d) == CUDNN_STATUS_SUCCESS;
}

static bool finalize(descriptor d)
{
    return cudnnBackendFinalize(d) == CUDNN_STATUS_SUCCESS;
}

static bool make_tensor(descriptor *out, int64_t uid, cudnnDataType_t type, const int64_t dim[4],
                        const int64_t stride[4], bool by_value)
{
    const int64_t align = by_value ? 4 : 16;
    return create(out, CUDNN_BACKEND_TENSOR_DESCRIPTOR) &&
           set(*out, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid) &&
           set(*out, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type) &&
           set(*out, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim) &&
           set(*out, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride) &&
           set(*out, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align) &&
           set(*out, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value) &&
           finalize(*out);
}

/* [1, heads, rows, K] over memory [rows, heads, K]. */
static bool make_rows(descriptor *out, int64_t uid, int64_t heads, int64_t rows, int64_t K,
                      const int64_t stride[2])
{
    const int64_t dim[4] = {1, heads, rows, K};
    const int64_t steps[4] = {rows * stride[0], stride[1], stride[0], 1};
    return make_tensor(out, uid, CUDNN_DATA_BFLOAT16, dim, steps, false);
}

typedef struct graph_parts {
    descriptor tensor[5], op, graph, heuristics, config;
} graph_parts;

static bool make_graph(graph_parts *p, cudnnHandle_t handle, const sdpa_key *k)
{
    static const int64_t one[4] = {1, 1, 1, 1};
    return make_rows(&p->tensor[0], UID_Q, k->H, k->L, k->K, k->stride) &&
           make_rows(&p->tensor[1], UID_K, k->G, k->M, k->K, k->stride + 2) &&
           make_rows(&p->tensor[2], UID_V, k->G, k->M, k->K, k->stride + 4) &&
           make_rows(&p->tensor[3], UID_OUT, k->H, k->L, k->K, k->stride + 6) &&
           make_tensor(&p->tensor[4], UID_SCALE, CUDNN_DATA_FLOAT, one, one, true) &&
           create(&p->op, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) &&
           set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, p->tensor[0]) &&
           set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, p->tensor[1]) &&
           set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, p->tensor[2]) &&
           set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, p->tensor[3]) &&
           set_descriptor(p->op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, p->tensor[4]) &&
           finalize(p->op) && create(&p->graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) &&
           set(p->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle) &&
           set_descriptor(p->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, p->op) && finalize(p->graph);
}

/* The heuristics' first engine that makes a plan. */
static bool make_plan(graph_parts *p, cudnnHandle_t handle, cudnnBackendHeurMode_t mode,
                      sdpa_plan *out)
{
    int64_t found = 0;
    if (!create(&p->heuristics, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) ||
        !set_descriptor(p->heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, p->graph) ||
        !set(p->heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode) ||
        !finalize(p->heuristics) || !create(&p->config, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR) ||
        cudnnBackendGetAttribute(p->heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &found,
                                 &p->config) != CUDNN_STATUS_SUCCESS ||
        found < 1)
        return false;
    int64_t filled = 0;
    return create(&out->plan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) &&
           set(out->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle) &&
           set_descriptor(out->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, p->config) &&
           finalize(out->plan) &&
           cudnnBackendGetAttribute(out->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                    CUDNN_TYPE_INT64, 1, &filled,
                                    &out->workspace) == CUDNN_STATUS_SUCCESS;
}

static void build(cudnnHandle_t handle, sdpa_plan *plan)
{
    static const cudnnBackendHeurMode_t MODES[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    graph_parts p;
    memset(&p, 0, sizeof p);
    bool made = false;
    if (make_graph(&p, handle, &plan->key))
        for (size_t i = 0; i < MICA_ARRAY_LEN(MODES) && !made; i++) {
            made = make_plan(&p, handle, MODES[i], plan);
            if (!made)
                destroy(&plan->plan);
            destroy(&p.config);
            destroy(&p.heuristics);
        }
    destroy(&p.graph);
    destroy(&p.op);
    for (size_t i = 0; i < MICA_ARRAY_LEN(p.tensor); i++)
        destroy(&p.tensor[i]);
}

/* --------------------------------------------------------------- lifetime -- */

void mica_cuda_sdpa_open(mica_cuda_backend *be)
{
    be->sdpa = NULL;
    if (cudnnGetVersion() < 91301)
        return;
    mica_cuda_sdpa *s = mica_mem_calloc(1, sizeof *s);
    if (!s)
        return;
    if (cudnnCreate(&s->handle) != CUDNN_STATUS_SUCCESS ||
        cudnnSetStream(s->handle, be->stream) != CUDNN_STATUS_SUCCESS) {
        if (s->handle)
            (void)cudnnDestroy(s->handle);
        mica_mem_free(s);
        return;
    }
    be->sdpa = s;
}

void mica_cuda_sdpa_close(mica_cuda_backend *be)
{
    mica_cuda_sdpa *s = be->sdpa;
    if (!s)
        return;
    while (s->plans) {
        sdpa_plan *p = s->plans;
        s->plans = p->next;
        destroy(&p->plan);
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

static sdpa_plan *plan_get(mica_cuda_backend *be, const mica_cuda_sdpa_args *a)
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

bool mica_cuda_sdpa_plan(mica_cuda_backend *be, const mica_cuda_sdpa_args *args, size_t *workspace)
{
    const sdpa_plan *p = plan_get(be, args);
    *workspace = p ? (size_t)p->workspace : 0;
    return p && p->plan;
}

mica_status mica_cuda_sdpa_run(mica_cuda_backend *be, const mica_cuda_sdpa_args *a, void *workspace,
                               mica_err *err)
{
    const sdpa_plan *p = plan_get(be, a);
    const int64_t uids[] = {UID_Q, UID_K, UID_V, UID_OUT, UID_SCALE};
    float scale = a->scale;
    const void *const pointers[] = {a->q, a->k, a->v, a->out, &scale};
    descriptor pack = NULL;
    const bool ready =
        p && p->plan && create(&pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR) &&
        set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 5, uids) &&
        set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 5, pointers) &&
        set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace) &&
        finalize(pack);
    const cudnnStatus_t status =
        ready ? cudnnBackendExecute(be->sdpa->handle, p->plan, pack) : CUDNN_STATUS_NOT_INITIALIZED;
    destroy(&pack);
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

bool mica_cuda_sdpa_plan(mica_cuda_backend *be, const mica_cuda_sdpa_args *args, size_t *workspace)
{
    (void)be;
    (void)args;
    *workspace = 0;
    return false;
}

mica_status mica_cuda_sdpa_run(mica_cuda_backend *be, const mica_cuda_sdpa_args *a, void *workspace,
                               mica_err *err)
{
    (void)be;
    (void)a;
    (void)workspace;
    return MICA_FAIL(err, MICA_E_INTERNAL, "attention: built without cuDNN");
}

#endif
