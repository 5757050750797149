/* cpu_peak.c - the machine's own matrix-product rate, the yardstick of benchmarks.
 *
 *     dst[1024, 3072] = src[1024, 3072] * w[3072, 3072]^T     oneDNN, weights packed as it likes
 *
 * The operand type is what the precision computes in on this CPU: bf16 only where the CPU has
 * a bf16 unit (oneDNN emulates it elsewhere at a quarter of the f32 rate), u8 x s8 for int8 where
 * it has VNNI. Not for the hot path: it allocates and runs for a quarter of a second. */
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_dnnl.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/mem.h"

#include <string.h>

#define PEAK_M       1024
#define PEAK_N       3072
#define PEAK_K       3072
#define PEAK_SECONDS 0.25

typedef struct peak_buffers {
    void *src, *weights, *dst, *scratch;
} peak_buffers;

static mica_dnnl_key peak_key(mica_precision precision)
{
    mica_dnnl_key key = {.kind = MICA_DNNL_MATMUL,
                         .parallel = 1,
                         .packed = MICA_DNNL_PACKED,
                         .m = PEAK_M,
                         .n = PEAK_N,
                         .k = PEAK_K,
                         .ld_src = PEAK_K,
                         .ld_weight = PEAK_K,
                         .ld_dst = PEAK_N};
    key.src_type = key.weight_type = key.dst_type = MICA_DNNL_F32;
    if (precision == MICA_PRECISION_INT8 && mica_cpu_has_vnni()) {
        key.src_type = MICA_DNNL_U8;
        key.weight_type = MICA_DNNL_S8;
        key.dst_type = MICA_DNNL_S32;
    } else if (precision != MICA_PRECISION_F32 && mica_cpu_has_bf16()) {
        key.src_type = key.weight_type = MICA_DNNL_BF16;
    }
    return key;
}

static void buffers_free(peak_buffers *b)
{
    mica_mem_free(b->src);
    mica_mem_free(b->weights);
    mica_mem_free(b->dst);
    mica_mem_free(b->scratch);
}

static bool buffers_make(peak_buffers *b, const mica_dnnl_op *op)
{
    const size_t weight_size = mica_dnnl_weight_size(op);
    b->src = mica_mem_alloc_aligned((size_t)PEAK_M * PEAK_K * 4, 64);
    b->weights = mica_mem_alloc_aligned(weight_size, 64);
    b->dst = mica_mem_alloc_aligned((size_t)PEAK_M * PEAK_N * 4, 64);
    b->scratch = mica_mem_alloc_aligned(mica_dnnl_scratch_size(op) + 64, 64);
    if (!b->src || !b->weights || !b->dst || !b->scratch)
        return false;
    memset(b->src, 0, (size_t)PEAK_M * PEAK_K * 4);
    memset(b->weights, 0, weight_size);
    return true;
}

mica_status mica_cpu_measure_peak(mica_backend *base, mica_precision precision, double *flops,
                                  mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const mica_dnnl_key key = peak_key(precision);
    peak_buffers b = {0};
    mica_dnnl_op *op;
    MICA_TRY(mica_dnnl_get(be->dnnl, &key, &op, err));
    mica_status st = MICA_OK;
    double best = 0.0;
    if (!buffers_make(&b, op))
        st = MICA_FAIL(err, MICA_E_NOMEM, "no memory to measure the matrix-product rate");
    const double start = mica_clock_seconds();
    while (!st && (best == 0.0 || mica_clock_seconds() - start < PEAK_SECONDS)) {
        const double t = mica_clock_seconds();
        st = mica_dnnl_run(be->dnnl, op, 0, b.src, b.weights, NULL, b.dst, b.scratch, err);
        const double rate = 2.0 * PEAK_M * PEAK_N * PEAK_K / (mica_clock_seconds() - t);
        best = MICA_MAX(best, rate);
    }
    buffers_free(&b);
    *flops = best;
    return st;
}
