/* cuda_maps.c - tensor maps: what the copies of Hopper (cuda_hopper.cuh) are told of a matrix.
 *
 *     [rows][ld] bf16 ──► where it lies, its sizes, boxes of `box` rows x 64 columns, zeros where it ends
 *
 * The driver makes a map on the host, in less than a microsecond; it goes with the launch, and so into a recorded
 * step. */
#include "backend/cuda/cuda_maps.h"

#include <string.h>

typedef CUresult(encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                            const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                            const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* cuTensorMapEncodeTiled of the driver, which this library does not link; NULL: too old for it. */
static encode_fn *find_encode(mica_cuda_backend *be)
{
    encode_fn *encode = NULL;
    void *found = be->encode_tiled;
    enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    if (!found) {
#if CUDART_VERSION >= 12050
        const cudaError_t error = cudaGetDriverEntryPointByVersion(
            "cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
        const cudaError_t error =
            cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
        if (error != cudaSuccess || result != cudaDriverEntryPointSuccess)
            return NULL;
        be->encode_tiled = found;
    }
    memcpy(&encode, &found, sizeof encode);
    return encode;
}

bool mica_cuda_maps_exist(mica_cuda_backend *be)
{
    return find_encode(be) != NULL;
}

mica_status mica_cuda_map_make(mica_cuda_backend *be, CUtensorMap *map, const void *data,
                               int64_t rows, int64_t columns, int64_t ld, int box, mica_err *err)
{
    const cuuint64_t sizes[] = {(cuuint64_t)columns, (cuuint64_t)rows}, step = (cuuint64_t)ld * 2;
    const cuuint32_t boxes[] = {MICA_CUDA_MAP_DEPTH, (cuuint32_t)box}, every[] = {1, 1};
    void *at = (void *)(uintptr_t)data; /* only read, but for results */
    encode_fn *encode = find_encode(be);
    const CUresult status =
        encode ? encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, at, sizes, &step, boxes, every,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
               : CUDA_ERROR_NOT_FOUND;
    if (status == CUDA_SUCCESS)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_INTERNAL,
                     "cuda: the driver makes no map of %lld x %lld numbers (error %d)",
                     (long long)rows, (long long)columns, (int)status);
}
