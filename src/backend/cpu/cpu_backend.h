/* cpu_backend.h - the CPU backend's insides, shared by the files of this folder.
 *
 *     mica_cpu_backend
 *       base          vtable, options, counters, first failure (backend_ops.h)
 *       kernels       row kernels and micro-kernels of the chosen ISA level
 *       dnnl          the only door to oneDNN (cpu_dnnl.h)
 *       pool[2]       stacks of tensors (cpu_pool.c)
 *       scratch       one block for everybody + one per thread, grown and kept
 *       prepared      references to packed or quantised weights (cpu_prepare.c)
 *
 * Activations are f32 always. Work is cut into tiles whose shape depends on the shapes
 * of the tensors alone; threads take tiles in any order and each result is computed
 * by exactly one thread in a fixed order, so the bytes do not depend on the thread count.
 *
 * No operation allocates when it runs a second time with the same shapes: scratch only
 * grows, oneDNN primitives are cached by shape. Every heap call made here is counted in
 * base.counters.allocations through mica_cpu_alloc. */
#ifndef MICA_BACKEND_CPU_BACKEND_H
#define MICA_BACKEND_CPU_BACKEND_H

#include "backend/backend_ops.h"

typedef struct mica_dnnl mica_dnnl;
typedef struct mica_cpu_pool_chunk mica_cpu_pool_chunk;
typedef struct mica_cpu_prepared mica_cpu_prepared;
typedef struct mica_cpu_prepared_ref mica_cpu_prepared_ref;
typedef struct mica_cpu_prefetcher mica_cpu_prefetcher;
typedef struct mica_cpu_team mica_cpu_team; /* the threads of a backend, cpu_team.c */

/* A stack of page-aligned chunks; see cpu_pool.c. */
typedef struct mica_cpu_pool {
    mica_cpu_pool_chunk *first, *current;
    size_t in_use, peak;
} mica_cpu_pool;

typedef struct mica_cpu_buffer {
    void *data;
    size_t size;
} mica_cpu_buffer;

/* What the shared scratch holds of a linear's input (cpu_linear.c), until anybody else takes it. */
typedef struct mica_cpu_kept_input {
    const void *x; /* NULL: nothing */
    const void *base;
    ptrdiff_t ldx;
    int path, m, depth, depth_pad, slice;
    int form;     /* digits: how many, and the dtype of the weight, whose order they have */
    int outliers; /* a result, not part of the key */
} mica_cpu_kept_input;

typedef struct mica_cpu_backend {
    mica_backend base;
    int threads;
    bool use_bf16; /* products of bf16 operands (the processor has the instruction) */
    bool use_int8; /* insensitive linears in 8-bit integers */
    /* Attention of bf16 operands and int8 linears as products of oneDNN: the processor has a matrix
     * unit (AMX), which only oneDNN drives, or full-rate bf16 products. Tests set it. */
    bool use_dnnl;
    bool fuse; /* false: epilogues and QK-norm+RoPE as separate passes (ablation) */
    const struct mica_kernels *kernels;
    mica_dnnl *dnnl;
    mica_cpu_pool pool[MICA_POOL_COUNT];
    mica_cpu_buffer shared;      /* scratch of the running operation */
    mica_cpu_kept_input kept;    /* and what the last linear left in it */
    mica_cpu_buffer *per_thread; /* [threads] scratch of each thread */
    mica_cpu_prepared_ref *prepared;
    mica_cpu_prefetcher *prefetcher;
    mica_cpu_team *team;
} mica_cpu_backend;

static inline mica_cpu_backend *mica_cpu_from(mica_backend *be)
{
    return (mica_cpu_backend *)be; /* base is the first member */
}

mica_status mica_cpu_backend_open(mica_backend **out, const mica_backend_options *options,
                                  mica_err *err);

/* ------------------------------------------------------------- threads -- */

/* Runs fn(user, index, thread) for every index in [0, count), by be->threads threads at
 * most; thread in [0, be->threads) says whose scratch to use. Indices are taken in any
 * order: fn(index) must write what no other index writes. Not to be nested. */
typedef void (*mica_cpu_task_fn)(void *user, int64_t index, int thread);
void mica_cpu_parallel(mica_cpu_backend *be, int64_t count, mica_cpu_task_fn fn, void *user);
mica_status mica_cpu_team_open(mica_cpu_backend *be, mica_err *err);
void mica_cpu_team_close(mica_cpu_backend *be);

/* ------------------------------------------------------------- scratch -- */

/* Makes the shared block at least shared_size and every thread's block at least
 * thread_size bytes, 64-byte aligned; contents are lost. Call it once at the start of an
 * operation, before mica_cpu_parallel; pointers are valid until the next call. */
mica_status mica_cpu_scratch_reserve(mica_cpu_backend *be, size_t shared_size, size_t thread_size,
                                     mica_err *err);
static inline void *mica_cpu_shared_scratch(mica_cpu_backend *be)
{
    return be->shared.data;
}
static inline void *mica_cpu_thread_scratch(mica_cpu_backend *be, int thread)
{
    return be->per_thread[thread].data;
}
/* Frees all scratch (it comes back on demand); part of mica_pool_trim. */
void mica_cpu_scratch_trim(mica_cpu_backend *be);

/* Counted heap: page-aligned when >= 1 MiB (and then advised to use huge pages). */
void *mica_cpu_alloc(mica_cpu_backend *be, size_t size);
void mica_cpu_free(void *p);

/* ----------------------------------------------------- prepared weights -- */

/* A tensor's own form, made once and shared by every weight and backend that wants the same
 * form of the same tensor: sessions of one engine have tables of their own, but the tensors are
 * the engine's. A weight may have one form of each kind. Preparing holds a process-wide lock. */
typedef enum mica_cpu_prepared_kind {
    MICA_CPU_PREPARED_INT8 = 1, /* cpu_int8.c */
    MICA_CPU_PREPARED_CONV,     /* cpu_conv.c */
    MICA_CPU_PREPARED_CONV1D,   /* cpu_conv1d.c */
    MICA_CPU_PREPARED_INT8_ROWS /* cpu_few_rows.c */
} mica_cpu_prepared_kind;

struct mica_cpu_prepared {
    mica_cpu_prepared_kind kind;
    uint64_t layout; /* chosen by the maker; another layout of one kind is prepared anew */
    size_t size;
    void *data;         /* 64-byte aligned, `size` bytes, filled by the maker */
    mica_tensor tensor; /* what it was made from */
    mica_cpu_prepared_ref *refs;
    mica_cpu_prepared *next; /* in the table of all */
};

/* Fills p->data. Must not touch the shared scratch of its operation before reserving it. */
typedef mica_status (*mica_cpu_prepare_fn)(mica_cpu_backend *be, mica_weight *weight,
                                           mica_cpu_prepared *p, void *user, mica_err *err);
/* The prepared form of `weight`, made by fn (size bytes) unless it exists. *out stays
 * valid until this backend drops the weight or closes. */
mica_status mica_cpu_prepared_get(mica_cpu_backend *be, mica_weight *weight,
                                  mica_cpu_prepared_kind kind, uint64_t layout, size_t size,
                                  mica_cpu_prepare_fn fn, void *user, const mica_cpu_prepared **out,
                                  mica_err *err);
void mica_cpu_prepared_drop(mica_cpu_backend *be, mica_weight *weight);
void mica_cpu_prepared_drop_all(mica_cpu_backend *be);

/* ------------------------------------------------------------- weights -- */

/* Elements [first, first + count) of a weight in row-major order as f32, scales applied. Any
 * float dtype; rows of dimension 0 may be apart (stride_[0]), everything inside is contiguous. */
void mica_cpu_weight_to_f32(const mica_tensor *w, int64_t first, int64_t count, float *out);
/* The scale factors of rows [first, first + count); ones when the weight has none. */
void mica_cpu_weight_scales(const mica_tensor *w, int64_t first, int64_t count, float *out);

/* Rows [row, row + rows) and numbers [from, from + n) of a matrix as the packed kernels take them; from is
 * a multiple of 256 or 0. row_scale: factors of all rows, for a scale that is not in groups, or NULL. Any
 * dtype of a weight but f64. */
struct mica_packed_rows mica_cpu_packed_rows(const mica_tensor *w, int64_t row, int64_t rows,
                                             int64_t from, int64_t n, const float *row_scale);

/* Page-cache read-ahead in a helper thread (cpu_prefetch.c); both may be called with any
 * tensor, also one that does not lie in a file mapping. */
void mica_cpu_prefetch(mica_cpu_backend *be, mica_weight *const *weights, int count);
void mica_cpu_prefetch_close(mica_cpu_backend *be);
void mica_cpu_drop_pages(const mica_weight *weight);

/* -------------------------------------------------- few rows (cpu_few_rows.c) -- */

/* Whether a linear asked for `by_row` can be had from rows of dot products. */
bool mica_cpu_linear_by_row_fits(const mica_linear_args *args);
mica_status mica_cpu_linear_by_row(mica_cpu_backend *be, const mica_linear_args *args,
                                   mica_err *err);
/* Attention asked for `by_row`. */
mica_status mica_cpu_attention_few(mica_cpu_backend *be, const mica_attention_args *args,
                                   mica_err *err);

/* ---------------------------------------------------------------- slots -- */

#define MICA_CPU_SLOT(name, ...)                                                                   \
    mica_status mica_cpu_##name(mica_backend *be, __VA_ARGS__, mica_err *err)
MICA_CPU_SLOT(linear, const mica_linear_args *args);
MICA_CPU_SLOT(attention, const mica_attention_args *args);
MICA_CPU_SLOT(conv2d, const mica_conv2d_args *args);
MICA_CPU_SLOT(upsample_nearest2, const mica_tensor *x_YXC, mica_tensor *y_YXC);
MICA_CPU_SLOT(layer_norm_modulate, const mica_tensor *x_MD, const mica_tensor *scale_D,
              const mica_tensor *shift_D, float eps, mica_tensor *y_MD);
MICA_CPU_SLOT(rms_norm_modulate, const mica_tensor *x_MD, mica_weight *w_D,
              const mica_tensor *scale_D, float eps, mica_tensor *y_MD);
MICA_CPU_SLOT(rms_norm_gated, const mica_tensor *x_MD, mica_weight *w_D, const mica_tensor *gate_D,
              float eps, mica_tensor *y_MD);
MICA_CPU_SLOT(l2_norm_channels, const mica_tensor *x_MC, mica_weight *gamma_C, mica_act act,
              mica_tensor *y_MC);
MICA_CPU_SLOT(group_moments, const mica_tensor *x_YXC, mica_tensor *moments_YG2);
MICA_CPU_SLOT(group_norm, const mica_group_norm_args *args);
MICA_CPU_SLOT(qk_norm_rope, const mica_qk_norm_rope_args *args);
MICA_CPU_SLOT(silu, const mica_tensor *x, mica_tensor *y);
MICA_CPU_SLOT(tanh, const mica_tensor *x, mica_tensor *y);
MICA_CPU_SLOT(swiglu, const mica_tensor *gate, const mica_tensor *up, mica_tensor *y);
MICA_CPU_SLOT(add, const mica_tensor *a, const mica_tensor *b, mica_tensor *y);
MICA_CPU_SLOT(mul, const mica_tensor *a, const mica_tensor *b, mica_tensor *y);
MICA_CPU_SLOT(embed_rows, mica_weight *w_VD, const int32_t *ids, int64_t count, mica_tensor *y_LD);
MICA_CPU_SLOT(gather_rows, const mica_tensor *x_MD, const int32_t *rows, int64_t count,
              mica_tensor *y_ND);
MICA_CPU_SLOT(add_rows, const mica_tensor *x_ND, const int32_t *rows, const float *share,
              int64_t count, mica_tensor *y_MD);
MICA_CPU_SLOT(conv1d, const mica_conv1d_args *args);
MICA_CPU_SLOT(apply, mica_function f, float p, const mica_tensor *x_MD, const mica_tensor *shift_D,
              mica_tensor *y_MD);
MICA_CPU_SLOT(gate, bool is_tanh, const mica_tensor *x_MN, const mica_tensor *shift_N,
              mica_tensor *y_MD);
MICA_CPU_SLOT(relative_attention, const mica_relative_attention_args *args);
MICA_CPU_SLOT(copy, const mica_tensor *src, mica_tensor *dst);
MICA_CPU_SLOT(linear_combination, int n, const float *coef, const mica_tensor *const *x,
              mica_tensor *y);
MICA_CPU_SLOT(cfg_combine, const mica_tensor *cond_PC, const mica_tensor *uncond_PC, float scale,
              bool renorm, mica_tensor *out_PC);
MICA_CPU_SLOT(limit_norm, const mica_tensor *reference_PC, float limit, mica_tensor *y_PC);
MICA_CPU_SLOT(all_finite, const mica_tensor *x, bool *out);
MICA_CPU_SLOT(measure_peak, mica_precision precision, double *flops);
MICA_CPU_SLOT(measure_bandwidth, double *bytes);
MICA_CPU_SLOT(post_norm_step, const mica_post_norm_args *args, bool *taken);
MICA_CPU_SLOT(upload_f32, const mica_tensor *dst, const float *src);

mica_status mica_cpu_download_pixels(mica_backend *be, uint8_t *dst, const mica_tensor *src_YXC,
                                     mica_err *err);
mica_status mica_cpu_download_f32(mica_backend *be, float *dst, const mica_tensor *src,
                                  mica_err *err);
mica_status mica_cpu_pool_alloc(mica_backend *be, mica_pool pool, size_t size, void **out,
                                mica_err *err);
mica_pool_mark mica_cpu_pool_get_mark(mica_backend *be, mica_pool pool);
void mica_cpu_pool_release(mica_backend *be, mica_pool pool, mica_pool_mark mark);
void mica_cpu_pool_trim(mica_backend *be);
uint64_t mica_cpu_pool_peak(const mica_backend *be, mica_pool pool);
void mica_cpu_pool_deinit(mica_cpu_backend *be);

#endif
