/* cuda_dnn.c - from a graph of cuDNN's backend API to a plan, and its runs; see cuda_dnn.h.
 *
 *     graph ──► heuristics of a mode ──► configurations, the best guess first ──► execution plan
 *     plan + {unique id, pointer}... + workspace ──► variant pack ──► run, queued on the handle's stream */
#include "backend/cuda/cuda_backend.h"

#if MICA_CUDA_CUDNN

#include "backend/cuda/cuda_dnn.h"

#define MOST_CONFIGS 8

cudnnHandle_t mica_dnn_open(cudaStream_t stream)
{
    cudnnHandle_t handle = NULL;
    if (cudnnGetVersion() < 91301)
        return NULL;
    if (cudnnCreate(&handle) == CUDNN_STATUS_SUCCESS &&
        cudnnSetStream(handle, stream) == CUDNN_STATUS_SUCCESS)
        return handle;
    if (handle)
        (void)cudnnDestroy(handle);
    return NULL;
}

bool mica_dnn_graph(mica_dnn *out, cudnnHandle_t handle, const mica_dnn *ops, int count)
{
    return mica_dnn_create(out, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) &&
           mica_dnn_set(*out, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle) &&
           mica_dnn_set(*out, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count,
                        ops) &&
           mica_dnn_finalize(*out);
}

/* ------------------------------------------------------------------ plans -- */

typedef struct choice {
    mica_dnn heuristics, config[MOST_CONFIGS];
} choice;

static int list_configs(choice *c, mica_dnn graph, cudnnBackendHeurMode_t mode, int most)
{
    int64_t found = 0;
    if (!mica_dnn_create(&c->heuristics, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) ||
        !mica_dnn_set_descriptor(c->heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph) ||
        !mica_dnn_set(c->heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode) ||
        !mica_dnn_finalize(c->heuristics))
        return 0;
    for (int i = 0; i < most; i++)
        if (!mica_dnn_create(&c->config[i], CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
            return 0;
    if (cudnnBackendGetAttribute(c->heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &found,
                                 c->config) != CUDNN_STATUS_SUCCESS)
        return 0;
    return (int)MICA_MIN(found, (int64_t)most);
}

static bool plan_of(mica_dnn_plan *out, cudnnHandle_t handle, mica_dnn config, int64_t room)
{
    int64_t filled = 0;
    return mica_dnn_create(&out->plan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) &&
           mica_dnn_set(out->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                        &handle) &&
           mica_dnn_set_descriptor(out->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config) &&
           mica_dnn_finalize(out->plan) &&
           cudnnBackendGetAttribute(out->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                    CUDNN_TYPE_INT64, 1, &filled,
                                    &out->workspace) == CUDNN_STATUS_SUCCESS &&
           out->workspace <= room;
}

bool mica_dnn_plan_make(mica_dnn_plan *out, cudnnHandle_t handle, mica_dnn graph,
                        cudnnBackendHeurMode_t mode, int most, int64_t room)
{
    choice c = {0};
    bool made = false;
    const int count = list_configs(&c, graph, mode, MICA_MIN(most, MOST_CONFIGS));
    for (int i = 0; i < count && !made; i++) {
        made = plan_of(out, handle, c.config[i], room);
        if (!made)
            mica_dnn_destroy(&out->plan);
    }
    for (int i = 0; i < MOST_CONFIGS; i++)
        mica_dnn_destroy(&c.config[i]);
    mica_dnn_destroy(&c.heuristics);
    return made;
}

cudnnStatus_t mica_dnn_plan_run(const mica_dnn_plan *p, cudnnHandle_t handle, int count,
                                const int64_t *uids, const void *const *pointers, void *workspace)
{
    mica_dnn pack = NULL;
    const bool ready =
        p->plan && mica_dnn_create(&pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR) &&
        mica_dnn_set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids) &&
        mica_dnn_set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count,
                     pointers) &&
        mica_dnn_set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace) &&
        mica_dnn_finalize(pack);
    const cudnnStatus_t status =
        ready ? cudnnBackendExecute(handle, p->plan, pack) : CUDNN_STATUS_NOT_INITIALIZED;
    mica_dnn_destroy(&pack);
    return status;
}

#endif
