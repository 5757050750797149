/* cuda_dnn.h - the handful of calls by which descriptors of cuDNN's backend API are made.
 *
 *     create ─► set, set ... ─► finalize     all return false on failure; destroy what was created
 *     operations ─► graph ─► heuristics ─► plan ─► run with pointers                   cuda_dnn.c
 *
 * For the files that include cudnn.h; which operations and which plans are kept is theirs. */
#ifndef MICA_BACKEND_CUDA_DNN_H
#define MICA_BACKEND_CUDA_DNN_H

#include <cudnn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef cudnnBackendDescriptor_t mica_dnn;

static inline bool mica_dnn_create(mica_dnn *d, cudnnBackendDescriptorType_t type)
{
    return cudnnBackendCreateDescriptor(type, d) == CUDNN_STATUS_SUCCESS;
}

static inline void mica_dnn_destroy(mica_dnn *d)
{
    if (*d)
        (void)cudnnBackendDestroyDescriptor(*d);
    *d = NULL;
}

static inline bool mica_dnn_finalize(mica_dnn d)
{
    return cudnnBackendFinalize(d) == CUDNN_STATUS_SUCCESS;
}

static inline bool mica_dnn_set(mica_dnn d, cudnnBackendAttributeName_t name,
                                cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    return cudnnBackendSetAttribute(d, name, type, count, value) == CUDNN_STATUS_SUCCESS;
}

static inline bool mica_dnn_set_descriptor(mica_dnn d, cudnnBackendAttributeName_t name,
                                           mica_dnn value)
{
    return mica_dnn_set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static inline bool mica_dnn_set_int(mica_dnn d, cudnnBackendAttributeName_t name, int64_t value)
{
    return mica_dnn_set(d, name, CUDNN_TYPE_INT64, 1, &value);
}

/* 16-byte aligned; virtual tensors live inside a graph only. */
static inline bool mica_dnn_tensor(mica_dnn *out, int64_t uid, cudnnDataType_t type,
                                   const int64_t dim[4], const int64_t stride[4], bool is_virtual)
{
    return mica_dnn_create(out, CUDNN_BACKEND_TENSOR_DESCRIPTOR) &&
           mica_dnn_set_int(*out, CUDNN_ATTR_TENSOR_UNIQUE_ID, uid) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride) &&
           mica_dnn_set_int(*out, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual) &&
           mica_dnn_finalize(*out);
}

/* A number in f32 that a run is given, not a plan. */
static inline bool mica_dnn_number(mica_dnn *out, int64_t uid)
{
    const int64_t one[4] = {1, 1, 1, 1};
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const bool yes = true;
    return mica_dnn_create(out, CUDNN_BACKEND_TENSOR_DESCRIPTOR) &&
           mica_dnn_set_int(*out, CUDNN_ATTR_TENSOR_UNIQUE_ID, uid) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, one) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, one) &&
           mica_dnn_set_int(*out, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 4) &&
           mica_dnn_set(*out, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes) &&
           mica_dnn_finalize(*out);
}

/* ---------------------------------------------------------- cuda_dnn.c -- */

/* A handle on `stream`; NULL: cuDNN is too old or does not start. */
cudnnHandle_t mica_dnn_open(cudaStream_t stream);

bool mica_dnn_graph(mica_dnn *out, cudnnHandle_t handle, const mica_dnn *ops, int count);

typedef struct mica_dnn_plan {
    mica_dnn plan; /* NULL: there is none */
    int64_t workspace;
} mica_dnn_plan;

/* The first that works of the `most` engines that the heuristics name first, with at most `room` bytes of
 * workspace. Never by timing, so that a machine computes the same bytes every time. */
bool mica_dnn_plan_make(mica_dnn_plan *out, cudnnHandle_t handle, mica_dnn graph,
                        cudnnBackendHeurMode_t mode, int most, int64_t room);
/* pointers[i] is the tensor uids[i]. */
cudnnStatus_t mica_dnn_plan_run(const mica_dnn_plan *p, cudnnHandle_t handle, int count,
                                const int64_t *uids, const void *const *pointers, void *workspace);

#endif
