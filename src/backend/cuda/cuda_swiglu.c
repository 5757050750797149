/* cuda_swiglu.c - gate, up and SwiGLU of large inputs as one kernel (cuda_swiglu.cu); when, and with what maps.
 *
 *     mica_linear_swiglu ──► here: bf16 in and out, plain weights, capability 9.0, four tiles a multiprocessor
 *                     │      └──► tensor maps of x, gate, up and y ──► mica_cuda_swiglu_product
 *                     └ else linears through cuBLASLt, then SwiGLU (backend.c)
 *
 * A tensor map tells the copies of Hopper where a matrix lies and how it is cut into boxes. The driver makes it on
 * the host, in less than a microsecond; it goes with the launch, and so into a recorded step.
 *
 * Below four tiles of 128 x 128 a multiprocessor the last round of tiles weighs too much; cuBLASLt has smaller ones.
 * One weight with the rows of both, gate first, is two maps of it. */
#include "backend/cuda/cuda_backend.h"

#include <string.h>

#if MICA_CUDA_HOPPER
#include "backend/cuda/cuda_swiglu.h"

#define FEWEST_TILES 4                  /* a multiprocessor */
#define MOST         ((int64_t)1 << 20) /* rows, columns: tiles are counted in int */

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

/* The map of a bf16 matrix whose rows are ld apart, in boxes of `box` rows. */
static mica_status make_map(encode_fn *encode, CUtensorMap *map, const void *data, int64_t rows,
                            int64_t columns, int64_t ld, uint32_t box, mica_err *err)
{
    const cuuint64_t sizes[] = {(cuuint64_t)columns, (cuuint64_t)rows}, step = (cuuint64_t)ld * 2;
    const cuuint32_t boxes[] = {MICA_CUDA_SWIGLU_DEPTH, box}, every[] = {1, 1};
    void *at = (void *)(uintptr_t)data; /* only read, but for y */
    const CUresult status =
        encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, at, sizes, &step, boxes, every,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status == CUDA_SUCCESS)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_INTERNAL,
                     "linear_swiglu: the driver makes no map of %lld x %lld numbers (error %d)",
                     (long long)rows, (long long)columns, (int)status);
}

static bool is_matrix(const mica_cuda_view *v)
{
    return v->type == MICA_CUDA_BF16 && v->dims == 1 && v->wide && v->rows <= MOST && v->n <= MOST;
}

static int64_t ld_of(const mica_cuda_view *v)
{
    return v->rows > 1 ? v->stride[0] : v->n;
}

static bool is_plain(const mica_linear_args *a, const mica_linear_args *first)
{
    const mica_tensor *w = &a->w_OD->tensor;
    return !a->bias_O && !a->by_row && !a->w_OD->exact && !mica_cuda_is_packed(w) &&
           mica_dtype_get(w->dtype)->is_float && a->x_MD->data == first->x_MD->data;
}

static bool fits(const mica_cuda_backend *be, const mica_linear_args *args, int count,
                 const mica_cuda_view *x, const mica_cuda_view *y)
{
    const int64_t tile = MICA_CUDA_SWIGLU_TILE;
    const int64_t tiles = ((y->rows + tile - 1) / tile) * ((y->n + tile - 1) / tile);
    bool plain = true;
    for (int i = 0; i < count; i++)
        plain = plain && is_plain(&args[i], &args[0]);
    return plain && be->bf16 && !be->fp8 && be->fuse && be->device->gpu.capability == 90 &&
           is_matrix(x) && is_matrix(y) && x->rows == y->rows &&
           tiles >= FEWEST_TILES * be->device->gpu.multiprocessors;
}

mica_status mica_cuda_op_linear_swiglu(mica_backend *base, const mica_linear_args *args, int count,
                                       const mica_tensor *y_MF, bool *taken, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_view x = mica_cuda_view_of(args[0].x_MD), y = mica_cuda_view_of(y_MF);
    const int64_t M = y.rows, F = y.n, D = x.n;
    const void *w[2];
    encode_fn *encode = fits(be, args, count, &x, &y) ? find_encode(be) : NULL;
    *taken = encode != NULL;
    if (!encode)
        return MICA_OK;
    for (int i = 0; i < count; i++)
        MICA_TRY(mica_cuda_weight(be, args[i].w_OD, MICA_CUDA_FORM_MATRIX, &w[i], err));
    if (count == 1)
        w[1] = (const uint16_t *)w[0] + F * D;
    mica_cuda_swiglu_args a = {.rows = (int)M, .columns = (int)F, .depth = (int)D};
    MICA_TRY(make_map(encode, &a.x, x.data, M, D, ld_of(&x), 64, err));
    MICA_TRY(make_map(encode, &a.gate, w[0], F, D, D, MICA_CUDA_SWIGLU_TILE, err));
    MICA_TRY(make_map(encode, &a.up, w[1], F, D, D, MICA_CUDA_SWIGLU_TILE, err));
    MICA_TRY(make_map(encode, &a.y, y.data, M, F, ld_of(&y), 64, err));
    return mica_cuda_check(
        mica_cuda_swiglu_product(&a, be->device->gpu.multiprocessors, be->stream),
        args[0].w_OD->name ? args[0].w_OD->name : "linear_swiglu", err);
}

#else

mica_status mica_cuda_op_linear_swiglu(mica_backend *base, const mica_linear_args *args, int count,
                                       const mica_tensor *y_MF, bool *taken, mica_err *err)
{
    (void)base, (void)args, (void)count, (void)y_MF, (void)err;
    *taken = false;
    return MICA_OK;
}

#endif
