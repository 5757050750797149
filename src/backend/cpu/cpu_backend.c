/* cpu_backend.c - opening and closing the CPU backend, its threads and its scratch.
 *
 * Threads are the backend's own (cpu_team.c), so that two sessions with different thread counts can live in
 * one process and the host program's settings are left alone. Which path a linear takes is decided here
 * once:
 *
 *     precision   bf16 unit   sensitive linear   other linears
 *     f32         any         f32                f32
 *     bf16        yes / no    bf16 / f32         bf16 / f32
 *     int8        yes / no    bf16 / f32         int8 */
#include "backend/cpu/cpu_backend.h"

#include "backend/cpu/cpu_dnnl.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define BIG_BLOCK   ((size_t)1 << 20)
#define HUGE_PAGE   ((size_t)2 << 20)
#define MAX_THREADS 1024

/* -------------------------------------------------------------- scratch -- */

void *mica_cpu_alloc(mica_cpu_backend *be, size_t size)
{
    be->base.counters.allocations++;
    const size_t align = size >= HUGE_PAGE ? HUGE_PAGE : size >= BIG_BLOCK ? 4096 : 64;
    void *p = mica_mem_alloc_aligned(size, align);
#if defined(__linux__)
    /* Packed panels and activations are walked in large strides: 4 KiB pages would cost a
     * page walk every few rows. Advice only; failure changes nothing. */
    if (p && size >= HUGE_PAGE)
        (void)madvise(p, size, MADV_HUGEPAGE);
#endif
    return p;
}

void mica_cpu_free(void *p)
{
    mica_mem_free(p);
}

static mica_status buffer_reserve(mica_cpu_backend *be, mica_cpu_buffer *b, size_t size,
                                  mica_err *err)
{
    if (size <= b->size)
        return MICA_OK;
    mica_cpu_free(b->data);
    /* A little more than asked, so that prompts growing token by token do not reallocate. */
    const size_t wanted = size + size / 8;
    b->data = mica_cpu_alloc(be, wanted);
    b->size = b->data ? wanted : 0;
    if (!b->data)
        return MICA_FAIL(err, MICA_E_NOMEM, "%zu bytes of scratch memory could not be had", wanted);
    return MICA_OK;
}

mica_status mica_cpu_scratch_reserve(mica_cpu_backend *be, size_t shared_size, size_t thread_size,
                                     mica_err *err)
{
    be->kept.x = NULL;
    MICA_TRY(buffer_reserve(be, &be->shared, shared_size, err));
    for (int i = 0; i < be->threads; i++)
        MICA_TRY(buffer_reserve(be, &be->per_thread[i], thread_size, err));
    return MICA_OK;
}

static void buffer_free(mica_cpu_buffer *b)
{
    mica_cpu_free(b->data);
    b->data = NULL;
    b->size = 0;
}

void mica_cpu_scratch_trim(mica_cpu_backend *be)
{
    be->kept.x = NULL;
    buffer_free(&be->shared);
    for (int i = 0; be->per_thread && i < be->threads; i++)
        buffer_free(&be->per_thread[i]);
}

/* ------------------------------------------------------------- lifetime -- */

static void cpu_close(mica_backend *base)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    mica_cpu_prefetch_close(be);
    mica_cpu_team_close(be);
    mica_cpu_prepared_drop_all(be);
    mica_cpu_pool_deinit(be);
    mica_cpu_scratch_trim(be);
    mica_dnnl_close(&be->dnnl);
    mica_mem_free(be->per_thread);
    mica_mem_free(be);
}

static void cpu_prefetch_weights(mica_backend *be, mica_weight *const *weights, int count)
{
    mica_cpu_prefetch(mica_cpu_from(be), weights, count);
}

static void cpu_drop_weights(mica_backend *be, mica_weight *const *weights, int count)
{
    for (int i = 0; i < count; i++) {
        if (weights[i]->constant)
            continue;
        mica_cpu_prepared_drop(mica_cpu_from(be), weights[i]);
        mica_cpu_drop_pages(weights[i]);
    }
}

static void cpu_release_pages(mica_backend *be, mica_weight *const *weights, int count)
{
    (void)be;
    for (int i = 0; i < count; i++)
        mica_cpu_drop_pages(weights[i]);
}

static mica_status cpu_buffer_alloc(mica_backend *base, size_t size, void **out, mica_err *err)
{
    *out = mica_cpu_alloc(mica_cpu_from(base), size);
    if (!*out)
        return MICA_FAIL(err, MICA_E_NOMEM, "%zu bytes could not be had", size);
    return MICA_OK;
}

static void cpu_buffer_free(mica_backend *be, void *buffer)
{
    (void)be;
    mica_cpu_free(buffer);
}

static const mica_backend_ops cpu_ops = {
    .close = cpu_close,
    .pool_alloc = mica_cpu_pool_alloc,
    .pool_get_mark = mica_cpu_pool_get_mark,
    .pool_release = mica_cpu_pool_release,
    .pool_trim = mica_cpu_pool_trim,
    .pool_peak = mica_cpu_pool_peak,
    .buffer_alloc = cpu_buffer_alloc,
    .buffer_free = cpu_buffer_free,
    .upload_f32 = mica_cpu_upload_f32,
    .download_f32 = mica_cpu_download_f32,
    .download_pixels = mica_cpu_download_pixels,
    .prefetch_weights = cpu_prefetch_weights,
    .drop_weights = cpu_drop_weights,
    .release_pages = cpu_release_pages,
    .linear = mica_cpu_linear,
    .layer_norm_modulate = mica_cpu_layer_norm_modulate,
    .rms_norm_modulate = mica_cpu_rms_norm_modulate,
    .rms_norm_gated = mica_cpu_rms_norm_gated,
    .l2_norm_channels = mica_cpu_l2_norm_channels,
    .group_moments = mica_cpu_group_moments,
    .group_norm = mica_cpu_group_norm,
    .qk_norm_rope = mica_cpu_qk_norm_rope,
    .attention = mica_cpu_attention,
    .silu = mica_cpu_silu,
    .tanh = mica_cpu_tanh,
    .swiglu = mica_cpu_swiglu,
    .add = mica_cpu_add,
    .mul = mica_cpu_mul,
    .embed_rows = mica_cpu_embed_rows,
    .gather_rows = mica_cpu_gather_rows,
    .add_rows = mica_cpu_add_rows,
    .conv2d = mica_cpu_conv2d,
    .upsample_nearest2 = mica_cpu_upsample_nearest2,
    .conv1d = mica_cpu_conv1d,
    .apply = mica_cpu_apply,
    .gate = mica_cpu_gate,
    .relative_attention = mica_cpu_relative_attention,
    .copy = mica_cpu_copy,
    .linear_combination = mica_cpu_linear_combination,
    .cfg_combine = mica_cpu_cfg_combine,
    .limit_norm = mica_cpu_limit_norm,
    .all_finite = mica_cpu_all_finite,
    .measure_peak = mica_cpu_measure_peak,
    .measure_bandwidth = mica_cpu_measure_bandwidth,
    .post_norm_step = mica_cpu_post_norm_step,
};

static void describe(mica_cpu_backend *be)
{
    static const char *const precision[] = {"auto", "f32", "bf16", "int8", "fp8"};
    const char *how = precision[be->base.options.precision];
    if (be->base.options.precision == MICA_PRECISION_BF16 && !be->use_bf16)
        how = "f32 sums of bf16 weights";
    snprintf(be->base.name, sizeof be->base.name, "cpu %s%s, %s, %d thread%s", be->kernels->name,
             mica_cpu_has_amx() ? "+amx" : "", how, be->threads, be->threads == 1 ? "" : "s");
}

mica_status mica_cpu_backend_open(mica_backend **out, const mica_backend_options *options,
                                  mica_err *err)
{
    *out = NULL;
    mica_cpu_backend *be = mica_mem_calloc(1, sizeof *be);
    if (!be)
        return MICA_FAIL(err, MICA_E_NOMEM, "the CPU backend could not be allocated");
    const int threads = options->threads > 0 ? options->threads : mica_cpu_count();
    be->base.ops = &cpu_ops;
    be->base.options = *options;
    be->base.act_dtype = MICA_DTYPE_F32;
    be->base.takes_adapters = true;
    if (options->precision == MICA_PRECISION_AUTO)
        be->base.options.precision = MICA_PRECISION_BF16;
    be->threads = MICA_MAX(1, MICA_MIN(threads, MAX_THREADS));
    be->base.options.threads = be->threads;
    be->kernels = mica_kernels_get();
    be->use_bf16 = mica_cpu_has_bf16() && be->base.options.precision != MICA_PRECISION_F32;
    be->use_int8 = be->base.options.precision == MICA_PRECISION_INT8;
    be->use_dnnl = mica_cpu_has_amx() || be->kernels->has_bf16_dot;
    be->fuse = !options->ablate_fusion;
    describe(be);
    be->per_thread = mica_mem_calloc((size_t)be->threads, sizeof *be->per_thread);
    mica_status st = MICA_OK;
    if (!be->per_thread)
        st = MICA_FAIL(err, MICA_E_NOMEM, "scratch for %d threads could not be allocated",
                       be->threads);
    if (!st)
        st = mica_cpu_team_open(be, err);
    if (!st)
        st = mica_dnnl_open(&be->dnnl, be, err);
    if (st) {
        cpu_close(&be->base);
        return st;
    }
    *out = &be->base;
    return MICA_OK;
}
