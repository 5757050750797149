/* cpu_dnnl.h - the one door to oneDNN; no other file includes dnnl.h.
 *
 * oneDNN 2.6 (Debian 12) describes an operation with an op desc and open memory descs;
 * 3.x creates primitive descs directly and hides memory descs. cpu_dnnl.c knows both.
 *
 *     key (shape, dtypes, layout) ──► mica_dnnl_op: primitive + one set of memory
 *                                     objects per thread, found again by its key
 *
 * Serial and parallel. An op with parallel == false runs on the calling thread alone
 * and may be run by several threads at once, each with its own `thread` number: that
 * is how operations cut into tiles use it. An op with parallel == true is run outside
 * mica_cpu_parallel (thread 0) and uses be->threads threads.
 *
 * Nothing is allocated by mica_dnnl_run: scratchpads belong to the caller. Creating an op
 * counts as an allocation. */
#ifndef MICA_BACKEND_CPU_DNNL_H
#define MICA_BACKEND_CPU_DNNL_H

#include "backend/cpu/cpu_backend.h"

typedef enum mica_dnnl_type {
    MICA_DNNL_F32 = 0,
    MICA_DNNL_BF16,
    MICA_DNNL_S32,
    MICA_DNNL_S8,
    MICA_DNNL_U8
} mica_dnnl_type;

typedef enum mica_dnnl_kind {
    MICA_DNNL_MATMUL = 1, /* dst[m, n] = src[m, k] * w[n, k]^T */
    MICA_DNNL_CONV2D      /* channels-last in and out */
} mica_dnnl_kind;

/* How the weights of an op lie in memory. */
typedef enum mica_dnnl_layout {
    MICA_DNNL_PLAIN = 0, /* matmul [n, k] with ld_weight; convolution [o, c, ky, kx] */
    MICA_DNNL_PACKED,    /* what oneDNN likes best, see mica_dnnl_pack */
    MICA_DNNL_PANELS     /* matmul of bf16 or s8: the panels of kernels.h, nb = MICA_DNNL_PANEL,
                          * k padded with zeros to MICA_DNNL_PANEL_BYTES a column: a packing
                          * kernel's work is taken as it is */
} mica_dnnl_layout;
#define MICA_DNNL_PANEL       64
#define MICA_DNNL_PANEL_BYTES 64

/* Zero everything first (mica_dnnl_key k = {0}): keys are compared as bytes. */
typedef struct mica_dnnl_key {
    int32_t kind;
    int32_t parallel;
    int32_t src_type, weight_type, dst_type;
    int32_t packed; /* mica_dnnl_layout */
    /* matmul: rows of src, columns of dst, depth; row strides in elements
     * (ld_weight: of the [n, k] weight when it is plain). */
    int32_t m, n, k, ld_src, ld_weight, ld_dst;
    /* convolution: src [y, x, c], weights [o, c, ky, kx], dst [out_y, out_x, o]. */
    int32_t y, x, c, o, ky, kx, stride, out_y, out_x;
    int32_t pad_top, pad_bottom, pad_left, pad_right;
    int32_t bias; /* f32 bias [o] is added */
    int32_t sum;  /* dst += instead of dst = */
} mica_dnnl_key;

typedef struct mica_dnnl_op mica_dnnl_op;

mica_status mica_dnnl_open(mica_dnnl **out, mica_cpu_backend *be, mica_err *err);
void mica_dnnl_close(mica_dnnl **dnnl);
/* Frees every cached op. */
void mica_dnnl_trim(mica_dnnl *dnnl);

/* The op of a key; created when it is new (not inside mica_cpu_parallel). Borrowed until
 * trim or close. MICA_E_UNSUPPORTED when oneDNN has no implementation. */
mica_status mica_dnnl_get(mica_dnnl *dnnl, const mica_dnnl_key *key, mica_dnnl_op **out,
                          mica_err *err);
size_t mica_dnnl_weight_size(const mica_dnnl_op *op);  /* bytes of the packed weights */
size_t mica_dnnl_scratch_size(const mica_dnnl_op *op); /* bytes of scratch per run */
const char *
mica_dnnl_implementation(const mica_dnnl_op *op); /* "brg:avx512_core", for benchmarks */
/* A number that two ops share when their packed weights have one layout; goes into
 * mica_cpu_prepared.layout. */
uint64_t mica_dnnl_weight_layout(const mica_dnnl_op *op);

/* Packs plain weights ([n, k] or [o, c, ky, kx] contiguous, of the op's weight type) for an op
 * with MICA_DNNL_PACKED. Not for the hot path: may allocate. */
mica_status mica_dnnl_pack(mica_dnnl *dnnl, mica_dnnl_op *op, const void *plain, void *packed,
                           mica_err *err);

/* scratch: mica_dnnl_scratch_size bytes, 64-byte aligned, of this thread alone. bias NULL unless
 * the key asked for it. */
mica_status mica_dnnl_run(mica_dnnl *dnnl, mica_dnnl_op *op, int thread, const void *src,
                          const void *weights, const float *bias, void *dst, void *scratch,
                          mica_err *err);

#endif
