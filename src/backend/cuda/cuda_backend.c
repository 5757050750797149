/* cuda_backend.c - the library's one entry: what it is, whether this machine can use it, opening.
 *
 *     dlopen(libmica_cuda.so) ──► mica_cuda_module ──► version, usable(), open()
 *
 * The library holds its own copy of the few base functions it needs and exports this one symbol;
 * backend_module.h says what both sides must agree on. */
#include "backend/backend_module.h"
#include "backend/cuda/cuda_backend.h"
#include "base/mem.h"

#include <stdio.h>

#define ORDINAL          0  /* the first GPU that CUDA shows this process */
#define LEAST_CAPABILITY 80 /* bf16 tensor cores: Ampere */

/* --------------------------------------------------------------- lifetime -- */

static void cuda_close(mica_backend *base)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    for (int i = 0; i < 2; i++)
        if (be->streams[i])
            (void)cudaStreamSynchronize(be->streams[i]);
    if (be->copies)
        (void)cudaStreamSynchronize(be->copies);
    if (be->device)
        mica_cuda_weight_drop(be, NULL);
    mica_cuda_stream_deinit(be);
    mica_cuda_sdpa_close(be);
    mica_cuda_dnn_conv_close(be);
    mica_cuda_lt_close(be);
    mica_cuda_profile_deinit(be);
    mica_cuda_twin_deinit(be);
    mica_cuda_graph_deinit(be);
    mica_cuda_tokens_deinit(be);
    mica_cuda_told_deinit(be);
    mica_cuda_watch_deinit(be);
    mica_mem_free(be->seen);
    mica_cuda_experts_deinit(be);
    mica_cuda_pool_deinit(be);
    for (int i = 0; i < 2; i++)
        mica_cuda_free(be, be->scratch[i]);
    mica_cuda_free(be, be->stage_dev);
    mica_cuda_free(be, be->flag);
    mica_cuda_stage_deinit(be);
    if (be->copies)
        (void)cudaStreamDestroy(be->copies);
    mica_cuda_branch_close(be);
    mica_cuda_device_close(be);
    mica_mem_free(be);
}

static void cuda_drop_weights(mica_backend *be, mica_weight *const *weights, int count)
{
    mica_err ignored; /* a failure of the device comes up with the next operation */
    for (int i = 0; i < 2; i++)
        (void)mica_cuda_residual_settle(mica_cuda_from(be), i, &ignored);
    for (int i = 0; i < count; i++)
        if (!weights[i]->constant)
            mica_cuda_weight_drop(mica_cuda_from(be), weights[i]);
}

/* A slot that backend_ops.h gains must not be forgotten here: it would be NULL. */
enum { SLOTS = 62 };
_Static_assert(sizeof(mica_backend_ops) == SLOTS * sizeof(void (*)(void)), "implement new slots");

static const mica_backend_ops cuda_ops = {
    .close = cuda_close,
    .pool_alloc = mica_cuda_pool_alloc,
    .pool_get_mark = mica_cuda_pool_get_mark,
    .pool_release = mica_cuda_pool_release,
    .pool_trim = mica_cuda_pool_trim,
    .pool_peak = mica_cuda_pool_peak,
    .buffer_alloc = mica_cuda_buffer_alloc,
    .buffer_free = mica_cuda_buffer_free,
    .upload_f32 = mica_cuda_op_upload_f32,
    .download_f32 = mica_cuda_op_download_f32,
    .download_pixels = mica_cuda_op_download_pixels,
    .get_memory = mica_cuda_get_memory,
    .prefetch_weights = mica_cuda_prefetch_weights,
    .drop_weights = cuda_drop_weights,
    .release_pages = NULL, /* after the upload nobody reads them */
    .linear = mica_cuda_op_linear,
    .linears = mica_cuda_op_linears,
    .linear_swiglu = mica_cuda_op_linear_swiglu,
    .layer_norm_modulate = mica_cuda_op_layer_norm_modulate,
    .rms_norm_modulate = mica_cuda_op_rms_norm_modulate,
    .rms_norm_gated = mica_cuda_op_rms_norm_gated,
    .l2_norm_channels = mica_cuda_op_l2_norm_channels,
    .group_moments = mica_cuda_op_group_moments,
    .group_norm = mica_cuda_op_group_norm,
    .qk_norm_rope = mica_cuda_op_qk_norm_rope,
    .attention = mica_cuda_op_attention,
    .silu = mica_cuda_op_silu,
    .tanh = mica_cuda_op_tanh,
    .swiglu = mica_cuda_op_swiglu,
    .add = mica_cuda_op_add,
    .mul = mica_cuda_op_mul,
    .embed_rows = mica_cuda_op_embed_rows,
    .gather_rows = mica_cuda_op_gather_rows,
    .add_rows = mica_cuda_op_add_rows,
    .conv2d = mica_cuda_op_conv2d,
    .upsample_nearest2 = mica_cuda_op_upsample_nearest2,
    .conv1d = mica_cuda_op_conv1d,
    .apply = mica_cuda_op_apply,
    .gate = mica_cuda_op_gate,
    .relative_attention = mica_cuda_op_relative_attention,
    .copy = mica_cuda_op_copy,
    .linear_combination = mica_cuda_op_linear_combination,
    .cfg_combine = mica_cuda_op_cfg_combine,
    .limit_norm = mica_cuda_op_limit_norm,
    .all_finite = mica_cuda_op_all_finite,
    .watch = mica_cuda_op_watch,
    .watched = mica_cuda_op_watched,
    .measure_peak = mica_cuda_op_measure_peak,
    .measure_bandwidth = mica_cuda_op_measure_bandwidth,
    .settle = mica_cuda_op_settle,
    .replay = mica_cuda_op_replay,
    .embed_drawn = mica_cuda_op_embed_drawn,
    .race_draw = mica_cuda_op_race_draw,
    .fetch_start = mica_cuda_op_fetch_start,
    .fetch_finish = mica_cuda_op_fetch_finish,
    .post_norm_step = mica_cuda_op_post_norm_step,
    .experts = mica_cuda_op_experts,
    .mixture_layer = mica_cuda_op_mixture_layer,
    .largest = mica_cuda_op_largest,
    .branch = mica_cuda_op_branch,
    .profile_mark = mica_cuda_op_profile_mark,
    .profile_read = mica_cuda_op_profile_read,
};

/* ----------------------------------------------------------------- device -- */

static mica_status usable(mica_err *err)
{
    int count = 0, major = 0, minor = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess)
        (void)cudaGetLastError();
    if (error == cudaErrorInsufficientDriver)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "device cuda: there is no NVIDIA driver, or it is older than CUDA %d.%d",
                         CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "device cuda: the driver shows no GPU");
    if (error != cudaSuccess)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "device cuda: %s", cudaGetErrorString(error));
    MICA_TRY(
        mica_cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ORDINAL),
                        "asking the GPU", err));
    MICA_TRY(
        mica_cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ORDINAL),
                        "asking the GPU", err));
    if (10 * major + minor < LEAST_CAPABILITY)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "device cuda: the GPU has compute capability %d.%d, at least %d.%d is "
                         "needed (bf16)",
                         major, minor, LEAST_CAPABILITY / 10, LEAST_CAPABILITY % 10);
    return MICA_OK;
}

static mica_status check_fp8(mica_err *err)
{
    int major = 0;
    if (!mica_cuda_lt_has_fp8())
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "precision fp8: this build's cuBLAS has no scales per row; CUDA 12.9 has");
    MICA_TRY(
        mica_cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ORDINAL),
                        "asking the GPU", err));
    if (major != 9)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "precision fp8: products with a scale per row need compute capability "
                         "9.x (Hopper), this GPU has %d.x; use bf16",
                         major);
    return MICA_OK;
}

static mica_status describe(mica_cuda_backend *be, mica_err *err)
{
    struct cudaDeviceProp p;
    const int v = mica_cuda_sdpa_version();
    char attention[32] = "";
    MICA_TRY(mica_cuda_check(cudaGetDeviceProperties(&p, be->device->gpu.ordinal), "asking the GPU",
                             err));
    if (be->sdpa)
        snprintf(attention, sizeof attention, ", cuDNN %d.%d.%d", v / 10000, v / 100 % 100,
                 v % 100);
    snprintf(be->base.name, sizeof be->base.name, "cuda %.40s, %s%s", p.name,
             be->fp8    ? "fp8"
             : be->bf16 ? "bf16"
                        : "f32",
             attention);
    return MICA_OK;
}

static mica_status open_parts(mica_cuda_backend *be, mica_err *err)
{
    void *flag;
    MICA_TRY(mica_cuda_device_open(be, ORDINAL, err));
    MICA_TRY(mica_cuda_branch_open(be, err));
    MICA_TRY(mica_cuda_check(cudaStreamCreateWithFlags(&be->copies, cudaStreamNonBlocking),
                             "creating a stream", err));
    MICA_TRY(mica_cuda_alloc(be, sizeof(int), "a flag", &flag, err));
    be->flag = flag;
    MICA_TRY(mica_cuda_lt_open(be, err));
    mica_cuda_sdpa_open(be);
    mica_cuda_dnn_conv_open(be);
    return describe(be, err);
}

static mica_status cuda_open(mica_backend **out, const mica_backend_options *options, mica_err *err)
{
    *out = NULL;
    MICA_TRY(usable(err));
    if (options->precision == MICA_PRECISION_INT8)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "precision int8 is not there on device cuda; use bf16 or fp8");
    if (options->precision == MICA_PRECISION_FP8)
        MICA_TRY(check_fp8(err));
    mica_cuda_backend *be = mica_mem_calloc(1, sizeof *be);
    if (!be)
        return MICA_FAIL(err, MICA_E_NOMEM, "the CUDA backend could not be allocated");
    be->base.ops = &cuda_ops;
    be->base.options = *options;
    if (options->precision == MICA_PRECISION_AUTO)
        be->base.options.precision = MICA_PRECISION_BF16;
    be->fp8 = be->base.options.precision == MICA_PRECISION_FP8;
    be->bf16 = be->fp8 || be->base.options.precision == MICA_PRECISION_BF16;
    be->base.takes_adapters = true;
    be->base.act_dtype = be->bf16 ? MICA_DTYPE_BF16 : MICA_DTYPE_F32;
    be->fuse = !options->ablate_fusion;
    const mica_status st = open_parts(be, err);
    if (st) {
        cuda_close(&be->base);
        return st;
    }
    *out = &be->base;
    return MICA_OK;
}

MICA_API const mica_backend_module mica_cuda_module = {
    .size = sizeof(mica_backend_module),
    .version = MICA_BACKEND_MODULE_VERSION,
    .ops_size = sizeof(mica_backend_ops),
    .backend_size = sizeof(mica_backend),
    .usable = usable,
    .open = cuda_open,
};
