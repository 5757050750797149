/* cuda_backend.h - the CUDA backend's insides, shared by the C files of this folder.
 *
 *     mica_cuda_backend
 *       base         vtable, options, counters, first failure (backend_ops.h)
 *       device       the GPU's accounts, its limit and the weights on it (cuda_memory.c)
 *       stream       operations are queued here, in order: the main stream, or in a fork the side one
 *                    (cuda_branch.c)
 *       copies       weights come on this one and are waited for by `stream` at first use
 *       lt           cuBLASLt: plans by shape (cuda_lt.c)
 *       sdpa         cuDNN: attention plans by shape (cuda_cudnn.c), or NULL
 *       conv         cuDNN: convolution plans by shape (cuda_dnn_conv.c), or NULL
 *       pool[2]      stacks of tensors in device chunks (cuda_pool.c)
 *       scratch      one device block per branch for the running operation, grown and kept
 *       stage        pinned memory through which everything from the host goes (cuda_stage.c)
 *       prepared     references to weights on the device (cuda_prepare.c)
 *       pending      per branch: a sum that waits for the norm behind it (cuda_residual.c)
 *       watch        looks for NaN that nobody waits for (cuda_watch.c), or NULL
 *       groups       blocks as they are prefetched; those that do not fit pass through windows
 *
 * One stream in order makes the memory simple: a block of a stack or of scratch may be reused as
 * soon as the operation before it is queued. Only downloads and all_finite wait for the device,
 * and staging when its ring is full; every wait is counted. All device and pinned allocations are
 * counted in base.counters.allocations. Operations and a capture of the stream into a CUDA graph
 * are compatible once weights and plans exist; embed_rows and uploads belong outside of it.
 *
 *     precision   activations   products                                      refused
 *     f32         f32           f32 sums, TF32 off                            int8
 *     bf16        bf16          bf16 operands, f32 sums
 *     fp8         bf16          e4m3 operands where weights allow, f32 sums   below capability 9.0
 *
 * The device is the first one that CUDA shows this process. Nothing of a GPU is kept but in its mica_cuda_device. */
#ifndef MICA_BACKEND_CUDA_BACKEND_H
#define MICA_BACKEND_CUDA_BACKEND_H

#include "backend/backend_ops.h"
#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/cuda_residual.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct mica_cuda_chunk mica_cuda_chunk;
typedef struct mica_cuda_lt mica_cuda_lt;
typedef struct mica_cuda_sdpa mica_cuda_sdpa;
typedef struct mica_cuda_dnn_conv mica_cuda_dnn_conv;
typedef struct mica_cuda_prepared mica_cuda_prepared;
typedef struct mica_cuda_ref mica_cuda_ref;
typedef struct mica_cuda_group mica_cuda_group;
typedef struct mica_cuda_product mica_cuda_product;
typedef struct mica_cuda_graph mica_cuda_graph;
typedef struct mica_cuda_tokens mica_cuda_tokens;
typedef struct mica_cuda_slab mica_cuda_slab;
typedef struct mica_cuda_watch mica_cuda_watch;
typedef struct mica_cuda_expert_table mica_cuda_expert_table;

typedef struct mica_cuda_pool {
    mica_cuda_chunk *first, *current;
    size_t in_use, peak;
} mica_cuda_pool;

#define MICA_CUDA_STAGE_SLOTS 4
#define MICA_CUDA_STAGE_SIZE  ((size_t)16 << 20)

typedef struct mica_cuda_slot {
    void *host;          /* pinned, MICA_CUDA_STAGE_SIZE */
    cudaEvent_t settled; /* the copies out of it are done */
    bool busy;
} mica_cuda_slot;

#define MICA_CUDA_BUCKETS 4096

/* A GPU as the backends of this process share it: its accounts and the weights on it. */
typedef struct mica_cuda_device {
    struct mica_cuda_device *next;
    mica_cuda_gpu gpu;
    int users;
    pthread_mutex_t lock; /* recursive; of what follows but the accounts */
    _Atomic uint64_t used, peak;
    _Atomic int steppers; /* backends that run steps of cuda_step.cu */
    mica_cuda_prepared *buckets[MICA_CUDA_BUCKETS];
    uint64_t clock; /* counts drops: the oldest goes first */
} mica_cuda_device;

/* Where blocks pass through that do not fit (cuda_stream.c). */
#define MICA_CUDA_WINDOWS 2
typedef struct mica_cuda_window {
    void *data;
    size_t size;
    mica_cuda_group *group; /* that is in it, or NULL */
    cudaEvent_t loaded;     /* by the copy stream */
    cudaEvent_t used;       /* by operations: may be written over */
} mica_cuda_window;

/* An operand in fp8, see cuda_fp8.c. */
typedef struct mica_cuda_twin {
    mica_cuda_view of; /* whose rows it holds */
    uint64_t op;       /* the last operation of its branch that wrote or read it */
    bool only;         /* the tensor itself was not written */
    void *memory;      /* rows, then scales */
    size_t size;
} mica_cuda_twin;

#define MICA_CUDA_SPARES 512
typedef struct mica_cuda_spare {
    void *data;
    size_t size;
} mica_cuda_spare;

/* How a weight lies on the device. */
typedef enum mica_cuda_form {
    MICA_CUDA_FORM_MATRIX = 0, /* [rows][ld] in the compute type, ld = cols rounded up to 8 */
    MICA_CUDA_FORM_CONV,       /* [O][KY][KX][C] as such a matrix, rows of zeros up to 8 outputs */
    MICA_CUDA_FORM_F32,        /* [1][n] f32: vectors for own kernels */
    MICA_CUDA_FORM_BF16,       /* [1][n] bf16: biases for cuBLASLt's epilogue */
    MICA_CUDA_FORM_FP8,   /* [rows][cols] in e4m3, then a scale per row in f32, 256-byte aligned */
    MICA_CUDA_FORM_PACKED /* bytes: a packed weight as it is, its scales behind it (cuda_packed.c) */
} mica_cuda_form;

/* A form that a weight was given (cuda_prepare.c). */
typedef struct mica_cuda_seen {
    const mica_weight *weight;
    mica_cuda_prepared *prepared;
    uint64_t moves;
    mica_cuda_form form;
} mica_cuda_seen;

typedef struct mica_cuda_backend {
    mica_backend base;
    mica_cuda_device *device;
    uint64_t total, limit; /* device memory: what there is, what may be taken */
    cudaStream_t stream;   /* streams[branch] */
    cudaStream_t streams[2];
    cudaEvent_t meet[2]; /* where streams[i] last waited for the other */
    int branch;          /* whose stream it is */
    int named;           /* the branch named last, forked or not */
    uint64_t ops_before,
        ops_of[2]; /* operations up to the last change of `named`; of each branch */
    bool forked;   /* branch 1 runs beside the main stream */
    bool steady;   /* the last fork allocated nothing */
    uint64_t allocations_before;
    cudaStream_t copies; /* weights on their way to the device, beside the operations */
    bool bf16;           /* type of activations and operands; else f32 */
    bool fp8;            /* linears in fp8 where they may be (cuda_fp8.c); bf16 is true as well */
    bool fuse;           /* false: epilogues as passes of their own (ablation) */
    mica_cuda_lt *lt;
    mica_cuda_sdpa *sdpa;
    mica_cuda_dnn_conv *conv;
    mica_cuda_pool pool[MICA_POOL_COUNT];
    void *scratch[2];
    size_t scratch_size[2];
    size_t side_scratch; /* what branch 1 asked for while it ran on the main stream */
    mica_cuda_slot slots[MICA_CUDA_STAGE_SLOTS];
    int slot;             /* the one to use next */
    void *stage_dev;      /* device twin of a slot, for what is converted on arrival */
    int *flag;            /* device: set by find_nonfinite */
    cudaEvent_t *moments; /* of a profile, or NULL */
    mica_cuda_ref *prepared;
    mica_cuda_seen *seen;                         /* a table, or NULL */
    mica_cuda_group *groups;                      /* all, in the order of a pass */
    mica_cuda_group *previous, *current, *coming; /* queued; running; prefetched last */
    mica_cuda_window windows[MICA_CUDA_WINDOWS];
    bool streaming;    /* some blocks do not fit: their weights move in every pass */
    uint64_t reserve;  /* bytes that blocks had to give to activations */
    uint64_t asked[2]; /* bytes used and drops when no streamed block could come back */
    uint64_t moves; /* grows when a weight's address may have changed: captured graphs are void */

    mica_cuda_twin twins[2];      /* per branch by name */
    mica_cuda_pending pending[2]; /* per branch */
    mica_cuda_watch *watch;       /* made at first use */
    mica_cuda_slab *slab;         /* where weights are placed that are being joined, or NULL */
    mica_cuda_graph *graphs;      /* of the last few keys, the newest first (cuda_graph.c) */
    mica_cuda_graph *capturing;
    bool refused;                             /* something would not be captured */
    uint64_t frees;                           /* pieces of device memory given back so far */
    mica_cuda_spare spares[MICA_CUDA_SPARES]; /* buffers given back (cuda_spare.c) */
    int spare_count;
    size_t spare_bytes;
    mica_cuda_expert_table *experts; /* of layers (cuda_experts.c) */
    void *arrived;      /* device: blocks of a head that are done, MICA_CUDA_HEADS_MOST zeros */
    void *encode_tiled; /* the driver's, of cuda_maps.c; NULL: not asked for yet */
    mica_cuda_tokens *tokens; /* of steps token by token (cuda_tokens.c), or NULL */
    uint64_t *told; /* pinned: words that integers come to the host by (cuda_fetch.c), or NULL */
} mica_cuda_backend;

static inline mica_cuda_backend *mica_cuda_from(mica_backend *be)
{
    return (mica_cuda_backend *)be; /* base is the first member */
}

static inline size_t mica_cuda_align(size_t n)
{
    return (n + 255) & ~(size_t)255;
}

/* Room for `size` bytes behind the first *used of `memory`; NULL: they are only counted. */
static inline void *mica_cuda_take(uint8_t *memory, size_t *used, size_t size)
{
    void *const own = memory ? memory + *used : NULL;
    *used += mica_cuda_align(size);
    return own;
}

static inline int64_t mica_cuda_round8(int64_t n)
{
    return (n + 7) / 8 * 8;
}

/* ------------------------------------------------------- errors and types -- */

/* MICA_OK, or the failure of a CUDA call with what was being done. */
mica_status mica_cuda_check(cudaError_t error, const char *what, mica_err *err);
mica_cuda_type mica_cuda_type_of(mica_dtype dtype);
static inline size_t mica_cuda_type_size(mica_cuda_type t)
{
    return t == MICA_CUDA_F32 ? 4 : t == MICA_CUDA_F64 ? 8 : t >= MICA_CUDA_F8_E4M3 ? 1 : 2;
}
static inline mica_cuda_type mica_cuda_compute_type(const mica_cuda_backend *be)
{
    return be->bf16 ? MICA_CUDA_BF16 : MICA_CUDA_F32;
}

/* A tensor (f32 or bf16) as rows. Rows of one element where the last dimension is not
 * contiguous, so that every view is correct if not fast. */
mica_cuda_view mica_cuda_view_of(const mica_tensor *t);
/* `rows` rows of n elements, ld apart. */
mica_cuda_view mica_cuda_view_matrix(void *data, mica_cuda_type type, int64_t rows, int64_t n,
                                     int64_t ld);
/* The views as one row each when all of them are contiguous and of one shape. */
void mica_cuda_flatten(mica_cuda_view *const *views, int count);
mica_status mica_cuda_copy_tensor(mica_cuda_backend *be, const mica_tensor *src,
                                  const mica_tensor *dst, mica_err *err);
/* One of both is a cache in 8 bits; cuda_cache.c. */
mica_status mica_cuda_copy_cache(mica_cuda_backend *be, const mica_tensor *src,
                                 const mica_tensor *dst, mica_err *err);

/* ---------------------------------------------------------------- memory -- */

/* Finds or makes the device's shared part, resolves the limit. Close it last of all. */
mica_status mica_cuda_device_open(mica_cuda_backend *be, int ordinal, mica_err *err);
void mica_cuda_device_close(mica_cuda_backend *be);
void mica_cuda_get_memory(mica_backend *be, bool restart, mica_backend_memory *out);

/* Counted device memory, 256-byte aligned. Lets weights go that are not needed now where there is no
 * room; then MICA_E_NOMEM with what was needed and what to try. */
mica_status mica_cuda_alloc(mica_cuda_backend *be, size_t size, const char *what, void **out,
                            mica_err *err);
/* Waits until the device has done with it (counted). */
void mica_cuda_free(mica_cuda_backend *be, void *p);
size_t mica_cuda_block_size(void *p); /* of what begins at p, as the driver keeps it */
/* The scratch block with at least `size` bytes; contents are lost. Once at the start of an
 * operation: the pointer is valid until the next one. */
mica_status mica_cuda_scratch(mica_cuda_backend *be, size_t size, void **out, mica_err *err);
/* Room for a branch's operations to come; what is in it is lost. */
mica_status mica_cuda_scratch_reserve(mica_cuda_backend *be, int branch, size_t size,
                                      mica_err *err);

/* The next pinned slot, at least MICA_CUDA_STAGE_SIZE bytes, free to write. Queue copies out of it,
 * then close it. */
mica_status mica_cuda_stage_open(mica_cuda_backend *be, void **host, mica_err *err);
mica_status mica_cuda_stage_close(mica_cuda_backend *be, mica_err *err);
/* The same for copies that were queued on another stream. */
mica_status mica_cuda_stage_close_on(mica_cuda_backend *be, cudaStream_t stream, mica_err *err);
void mica_cuda_stage_deinit(mica_cuda_backend *be);
/* Host waits for all queued work; brings up failures of the device. */
mica_status mica_cuda_wait(mica_cuda_backend *be, const char *what, mica_err *err);

/* --------------------------------------------------------------- weights -- */

/* The weight on the device in the form asked for, uploaded at first use. Valid until this
 * backend drops the weight or closes. NULL weight: *out = NULL. */
mica_status mica_cuda_weight(mica_cuda_backend *be, mica_weight *w, mica_cuda_form form,
                             const void **out, mica_err *err);
/* Rows and scales of the fp8 form. */
mica_status mica_cuda_weight_fp8(mica_cuda_backend *be, mica_weight *w, const void **rows,
                                 const float **scales, mica_err *err);
#define MICA_CUDA_JOINED_MOST 4
/* Forms that lie behind each other: *first is that of w[0] and the others follow its last byte, as their
 * scales do in fp8 (scales NULL: not asked). Where none of them exists yet they are made so; *first NULL:
 * they exist and lie apart. */
mica_status mica_cuda_weights_join(mica_cuda_backend *be, mica_weight *const *w, int count,
                                   mica_cuda_form form, const void **first, const float **scales,
                                   mica_err *err);
/* Not needed now: kept while there is room where the weight is `lasting`. NULL: all of them go. */
void mica_cuda_weight_drop(mica_cuda_backend *be, mica_weight *w);
/* Frees at least `size` bytes of what nobody needs now, or what there is; false: nothing. */
bool mica_cuda_weight_give_way(mica_cuda_backend *be, size_t size);
uint64_t mica_cuda_weight_idle_bytes(mica_cuda_backend *be);
/* Packed weights and int8 with scales (cuda_packed.c): size of the form, its bytes on their way, products
 * and tables with such weights. */
bool mica_cuda_is_packed(const mica_tensor *t);
mica_status mica_cuda_packed_describe(mica_cuda_prepared *p, const char *name, mica_err *err);
mica_status mica_cuda_packed_upload(mica_cuda_backend *be, mica_cuda_prepared *p, mica_err *err);
mica_cuda_packed_rows mica_cuda_packed_view(const mica_tensor *w, const void *form);
mica_status mica_cuda_packed_linear(mica_cuda_backend *be, const mica_linear_args *args,
                                    mica_cuda_product *p, mica_err *err);
mica_status mica_cuda_packed_embed(mica_cuda_backend *be, const mica_tensor *w, const int32_t *ids,
                                   int64_t count, const mica_tensor *y_LD, const char *name,
                                   mica_err *err);
/* Bytes from the host to a place of a form, slot by slot. */
mica_status mica_cuda_packed_send(mica_cuda_backend *be, uint8_t *to, const void *from, size_t size,
                                  mica_err *err);
/* Adapters of a packed weight (cuda_packed_side.c): the bytes of their factors, on their way, and what a product is
 * told of them. */
size_t mica_cuda_side_size(const mica_cuda_prepared *p);
mica_status mica_cuda_side_upload(mica_cuda_backend *be, const mica_cuda_prepared *p, uint8_t *to,
                                  mica_err *err);
void mica_cuda_side_of(const mica_weight *w, const void *factors, mica_cuda_type type,
                       mica_cuda_product *p);
/* Those of them that are no LoRA (cuda_packed_delta.c): the bytes of their factors, written to the host, scratch for
 * their products, and the expanded weight with them. */
bool mica_cuda_is_lora(const mica_adapter *a);
size_t mica_cuda_delta_size(const mica_adapter *adapters);
void mica_cuda_delta_put(const mica_adapter *adapters, uint8_t *host);
size_t mica_cuda_delta_scratch(const mica_adapter *adapters);
typedef struct mica_cuda_expanded {
    const char *name;
    void *data;
    mica_cuda_type type;
    int64_t cols, ld;
} mica_cuda_expanded;
mica_status mica_cuda_delta_add(mica_cuda_backend *be, const mica_adapter *adapters,
                                const void *factors, const mica_cuda_expanded *w, void *scratch,
                                mica_err *err);
/* The scale factor of row `row`; 1 when the weight has none. */
float mica_cuda_weight_scale(const mica_tensor *w, int64_t row);

/* ------------------------------------------------------------- streaming -- */

/* Forms of a streamed group lie behind each other in a window and move with it. */
struct mica_cuda_prepared {
    mica_cuda_form form;
    mica_cuda_type type;
    mica_tensor tensor;             /* what it was made from */
    const mica_cuda_backend *owner; /* of a streamed form; NULL: shared */
    const mica_adapter *adapters;   /* that are part of the numbers */
    int64_t rows, cols, ld;
    void *data;
    size_t size;
    mica_cuda_slab *slab;              /* of which it is a part, or NULL */
    float *scales;                     /* of an fp8 form in a slab; else they lie behind its rows */
    cudaEvent_t ready;                 /* recorded by the copy stream of whoever made it */
    mica_cuda_group *group;            /* streamed: where it lies, or NULL */
    mica_cuda_prepared *next_of_group; /* in the order of their offsets */
    size_t offset;                     /* in the window */
    mica_cuda_ref *refs;
    mica_cuda_prepared *next; /* in its bucket */
};

/* Where the scales of an fp8 form begin, behind its rows; and where they are. */
static inline size_t mica_cuda_scales_at(const mica_cuda_prepared *p)
{
    return mica_cuda_align((size_t)(p->rows * p->ld));
}
static inline float *mica_cuda_scales_of(const mica_cuda_prepared *p)
{
    return p->slab ? p->scales : (float *)(void *)((uint8_t *)p->data + mica_cuda_scales_at(p));
}
/* What the process has read of a file it need not hold. */
void mica_cuda_release_pages(const mica_weight *w);

void mica_cuda_prefetch_weights(mica_backend *be, mica_weight *const *weights, int count);
/* True: a form of w has to lie in its group's window. */
bool mica_cuda_is_streamed(const mica_weight *w);
/* Room for p->size bytes in the window of w's group; false: none, take memory of its own. */
bool mica_cuda_stream_place(mica_cuda_backend *be, const mica_weight *w, mica_cuda_prepared *p,
                            mica_status *st, mica_err *err);
/* The group is in its window, or on its way there before what is queued next. */
mica_status mica_cuda_stream_enter(mica_cuda_backend *be, mica_cuda_group *group, mica_err *err);
void mica_cuda_stream_forget(mica_cuda_backend *be, mica_cuda_prepared *p);
/* Makes a block streamed whose weights lie on the device; true: `freed` bytes more are free. */
bool mica_cuda_stream_give_way(mica_cuda_backend *be);
uint64_t mica_cuda_stream_bytes(const mica_cuda_backend *be);
void mica_cuda_stream_deinit(mica_cuda_backend *be);
/* Queues the numbers of p on the copy stream. */
mica_status mica_cuda_weight_upload(mica_cuda_backend *be, mica_cuda_prepared *p, const char *name,
                                    mica_err *err);
/* Adds p->adapters to numbers that were uploaded (cuda_adapter.c). */
mica_status mica_cuda_adapters_add(mica_cuda_backend *be, mica_cuda_prepared *p, const char *name,
                                   mica_err *err);
/* Frees the forms of all weights of a group. */
void mica_cuda_weight_drop_group(mica_cuda_backend *be, const mica_cuda_group *group);

/* -------------------------------------------------------------- products -- */

/* d = a' b (+ beta c), column-major as cuBLAS has it: d is m x n. a is k x m and transposed, or
 * m x k; b is k x n. Batches lie `*_step` elements apart. All pointers and leading dimensions are
 * multiples of 16 bytes. */
typedef struct mica_cuda_gemm {
    int64_t m, n, k;
    bool transpose_a;
    mica_cuda_type type, d_type; /* of a and b; of c and d */
    const void *a, *b, *c;       /* c NULL: beta is 0 */
    void *d;
    int64_t lda, ldb, ldc, ldd;
    int batch;
    int64_t a_step, b_step, d_step;
    const void *bias;               /* [m] of d_type, added by the epilogue; NULL: none */
    bool gelu;                      /* tanh-GELU behind the bias */
    const float *a_scale, *b_scale; /* of e4m3: [m] and [n], one per row of the operands */
} mica_cuda_gemm;

mica_status mica_cuda_lt_open(mica_cuda_backend *be, mica_err *err);
bool mica_cuda_lt_has_fp8(void); /* this build's library knows scales per row */
void mica_cuda_lt_close(mica_cuda_backend *be);
mica_status mica_cuda_gemm_run(mica_cuda_backend *be, const mica_cuda_gemm *g, const char *name,
                               mica_err *err);

/* Whether the library has an algorithm for it; g's pointers are not read. */
bool mica_cuda_gemm_exists(mica_cuda_backend *be, const mica_cuda_gemm *g);

/* ------------------------------------------------------------------- fp8 -- */

/* Where an operation may leave `of` in fp8 for the linears behind it, and the scales of its rows;
 * *q NULL: it may not. Stays valid until the next one is opened in this branch. */
mica_status mica_cuda_twin_open(mica_cuda_backend *be, const mica_cuda_view *of, uint8_t **q,
                                float **scale, mica_err *err);
void mica_cuda_twin_deinit(mica_cuda_backend *be);
/* Before a linear that reads the tensor itself: writes what only the twin has. */
mica_status mica_cuda_twin_settle(mica_cuda_backend *be, const mica_cuda_view *x, mica_err *err);
bool mica_cuda_fp8_fits(const mica_cuda_backend *be, const mica_linear_args *args);
mica_status mica_cuda_linear_fp8(mica_cuda_backend *be, const mica_linear_args *args,
                                 mica_err *err);
/* Several such linears without epilogues but a bias as one: y has the columns of all, w and its scales the
 * rows; biases lie behind each other like the weights. args: of the first. */
mica_status mica_cuda_linears_fp8(mica_cuda_backend *be, const mica_linear_args *args,
                                  const mica_cuda_view *y, const void *w, const float *w_scale,
                                  mica_err *err);

/* y = epilogue(x w^T) for `rows` rows of x (any even view) with a prepared matrix; shared by
 * linears and convolutions. The scratch block is taken by the caller, mica_cuda_product_scratch
 * bytes of it. */
struct mica_cuda_product {
    const char *name;
    mica_cuda_view x, y, residual; /* residual.data NULL: none */
    const void *w;
    int64_t ld, outputs; /* of w */
    mica_weight *bias;
    const float *gate;
    mica_act act;
    /* Beside the product, of compute type: sums += (x down^T) up^T, down [side_rank][ld], up [outputs][side_rank];
     * side_rank 0: nothing, else a multiple of 8. */
    const void *down, *up;
    int64_t side_rank;
    const void *
        deltas; /* factors of what is added to the expanded packed weight (cuda_packed_delta.c), or NULL */
    bool exact;  /* computed in f32, of a weight in f32 (mica_weight.exact) */
    bool direct; /* decided by plan */
    bool convert_x;
};
/* Bytes of scratch it needs. */
size_t mica_cuda_product_plan(mica_cuda_backend *be, mica_cuda_product *p);
mica_status mica_cuda_product_run(mica_cuda_backend *be, const mica_cuda_product *p, void *scratch,
                                  mica_err *err);

/* --------------------------------------------------- products of few rows -- */

/* Whether a product of these sizes is one for cuda_prompt.cu. */
bool mica_cuda_prompt_fits(const mica_cuda_backend *be, int64_t rows, int64_t outputs,
                           int64_t depth);
/* A product that could be cuBLASLt's, g, with p's bias; *taken false: it is. */
mica_status mica_cuda_prompt_linear(mica_cuda_backend *be, const mica_cuda_product *p,
                                    const mica_cuda_gemm *g, bool *taken, mica_err *err);
/* y = silu(x w[0]^T) * (x w[1]^T) of sizes that fit; even views with rows of whole vectors. */
mica_status mica_cuda_prompt_swiglu(mica_cuda_backend *be, const mica_cuda_view *x,
                                    const mica_cuda_view *y, const void *const w[2],
                                    const char *name, mica_err *err);

/* --------------------------------------------------------------- residual -- */

/* y = residual + gate * (...) of args is done later, with the norm behind it where one follows at once;
 * false: do it now. */
bool mica_cuda_residual_defer(mica_cuda_backend *be, const mica_cuda_residual_args *args,
                              const char *name);
/* *done: the norm was done together with the sum that waited for it. Else that sum is finished first. */
mica_status mica_cuda_residual_norm(mica_cuda_backend *be, const mica_cuda_norm_args *norm,
                                    bool *done, mica_err *err);
/* Finishes what waits in a branch; on its stream. */
mica_status mica_cuda_residual_settle(mica_cuda_backend *be, int branch, mica_err *err);

/* ------------------------------------------------------- cuDNN attention -- */

/* mica_cuda_attend_args without a mask, K a multiple of 8 up to 128. */
void mica_cuda_sdpa_open(mica_cuda_backend *be); /* leaves be->sdpa NULL where cuDNN cannot do it */
void mica_cuda_sdpa_close(mica_cuda_backend *be);
/* *workspace of a plan for these shapes; false: no plan, use the products. */
bool mica_cuda_sdpa_plan(mica_cuda_backend *be, const mica_cuda_attend_args *args,
                         size_t *workspace);
mica_status mica_cuda_sdpa_run(mica_cuda_backend *be, const mica_cuda_attend_args *args,
                               void *workspace, mica_err *err);
/* 91900 for 9.19.0; 0: built without cuDNN. */
int mica_cuda_sdpa_version(void);

/* ------------------------------------------------------ cuDNN convolution -- */

/* One kernel over bf16 pictures [Y, X, C] and weights [O][KY][KX][C]: y = conv(x) (+ residual)
 * (+ bias, bf16). All data 16-byte aligned, C and O multiples of 8. Compared as bytes: 64-bit fields only. */
typedef struct mica_cuda_conv_shape {
    int64_t Y, X, C, O, KY, KX, out_Y, out_X;
    int64_t stride, pad_top, pad_bottom, pad_left, pad_right;
    int64_t bias, residual; /* 1: added */
} mica_cuda_conv_shape;
typedef struct mica_cuda_conv_data {
    const void *x, *w, *bias, *residual;
    void *y; /* may be the residual */
    void *workspace;
} mica_cuda_conv_data;
void mica_cuda_dnn_conv_open(mica_cuda_backend *be); /* leaves be->conv NULL without cuDNN */
void mica_cuda_dnn_conv_close(mica_cuda_backend *be);
/* *workspace of a plan for this shape; false: there is none. */
bool mica_cuda_dnn_conv_plan(mica_cuda_backend *be, const mica_cuda_conv_shape *shape,
                             size_t *workspace);
mica_status mica_cuda_dnn_conv_run(mica_cuda_backend *be, const mica_cuda_conv_shape *shape,
                                   const mica_cuda_conv_data *d, const char *name, mica_err *err);

/* ----------------------------------------------------------------- slots -- */

#define MICA_CUDA_SLOT(name, ...)                                                                  \
    mica_status mica_cuda_op_##name(mica_backend *be, __VA_ARGS__, mica_err *err)
MICA_CUDA_SLOT(linear, const mica_linear_args *args);
MICA_CUDA_SLOT(linears, const mica_linear_args *args, int count);
MICA_CUDA_SLOT(linear_swiglu, const mica_linear_args *args, int count, const mica_tensor *y_MF,
               bool *taken);
MICA_CUDA_SLOT(watch, const mica_tensor *x, int mark);
MICA_CUDA_SLOT(watched, int mark, bool wait, int *first);
void mica_cuda_watch_deinit(mica_cuda_backend *be);
mica_status mica_cuda_op_settle(mica_backend *be, mica_err *err);
MICA_CUDA_SLOT(attention, const mica_attention_args *args);
MICA_CUDA_SLOT(conv2d, const mica_conv2d_args *args);
MICA_CUDA_SLOT(upsample_nearest2, const mica_tensor *x_YXC, mica_tensor *y_YXC);
MICA_CUDA_SLOT(layer_norm_modulate, const mica_tensor *x_MD, const mica_tensor *scale_D,
               const mica_tensor *shift_D, float eps, mica_tensor *y_MD);
MICA_CUDA_SLOT(rms_norm_modulate, const mica_tensor *x_MD, mica_weight *w_D,
               const mica_tensor *scale_D, float eps, mica_tensor *y_MD);
MICA_CUDA_SLOT(rms_norm_gated, const mica_tensor *x_MD, mica_weight *w_D, const mica_tensor *gate_D,
               float eps, mica_tensor *y_MD);
MICA_CUDA_SLOT(l2_norm_channels, const mica_tensor *x_MC, mica_weight *gamma_C, mica_act act,
               mica_tensor *y_MC);
MICA_CUDA_SLOT(group_moments, const mica_tensor *x_YXC, mica_tensor *moments_YG2);
MICA_CUDA_SLOT(group_norm, const mica_group_norm_args *args);
MICA_CUDA_SLOT(qk_norm_rope, const mica_qk_norm_rope_args *args);
MICA_CUDA_SLOT(silu, const mica_tensor *x, mica_tensor *y);
MICA_CUDA_SLOT(tanh, const mica_tensor *x, mica_tensor *y);
MICA_CUDA_SLOT(swiglu, const mica_tensor *gate, const mica_tensor *up, mica_tensor *y);
MICA_CUDA_SLOT(add, const mica_tensor *a, const mica_tensor *b, mica_tensor *y);
MICA_CUDA_SLOT(mul, const mica_tensor *a, const mica_tensor *b, mica_tensor *y);
MICA_CUDA_SLOT(embed_rows, mica_weight *w_VD, const int32_t *ids, int64_t count, mica_tensor *y_LD);
MICA_CUDA_SLOT(gather_rows, const mica_tensor *x_MD, const int32_t *rows, int64_t count,
               mica_tensor *y_ND);
MICA_CUDA_SLOT(add_rows, const mica_tensor *x_ND, const int32_t *rows, const float *share,
               int64_t count, mica_tensor *y_MD);
MICA_CUDA_SLOT(conv1d, const mica_conv1d_args *args);
MICA_CUDA_SLOT(apply, mica_function f, float p, const mica_tensor *x_MD, const mica_tensor *shift_D,
               mica_tensor *y_MD);
MICA_CUDA_SLOT(gate, bool is_tanh, const mica_tensor *x_MN, const mica_tensor *shift_N,
               mica_tensor *y_MD);
MICA_CUDA_SLOT(relative_attention, const mica_relative_attention_args *args);
MICA_CUDA_SLOT(copy, const mica_tensor *src, mica_tensor *dst);
MICA_CUDA_SLOT(linear_combination, int n, const float *coef, const mica_tensor *const *x,
               mica_tensor *y);
MICA_CUDA_SLOT(cfg_combine, const mica_tensor *cond_PC, const mica_tensor *uncond_PC, float scale,
               bool renorm, mica_tensor *out_PC);
MICA_CUDA_SLOT(limit_norm, const mica_tensor *reference_PC, float limit, mica_tensor *y_PC);
MICA_CUDA_SLOT(all_finite, const mica_tensor *x, bool *out);
MICA_CUDA_SLOT(measure_peak, mica_precision precision, double *flops);
MICA_CUDA_SLOT(measure_bandwidth, double *bytes);
MICA_CUDA_SLOT(replay, uint64_t key, int *state);
MICA_CUDA_SLOT(embed_drawn, mica_weight *w_VD, const mica_tensor *ids_L, const mica_tensor *add_LD,
               mica_tensor *y_LD);
MICA_CUDA_SLOT(race_draw, const mica_race_args *rows, int count);
MICA_CUDA_SLOT(fetch_start, uint64_t ticket, const mica_tensor *ids, int count);
MICA_CUDA_SLOT(fetch_finish, uint64_t ticket, int32_t *out, int count);
MICA_CUDA_SLOT(post_norm_step, const mica_post_norm_args *args, bool *taken);
void mica_cuda_tokens_deinit(mica_cuda_backend *be);
/* Where the device writes what a ticket of mica_fetch_finish waits for: MICA_FETCH_MOST words. */
mica_status mica_cuda_told(mica_cuda_backend *be, uint64_t ticket, uint64_t **out, mica_err *err);
void mica_cuda_told_deinit(mica_cuda_backend *be);
MICA_CUDA_SLOT(experts, const mica_experts_args *args, bool *taken);
MICA_CUDA_SLOT(largest, const mica_tensor *x_LV, mica_tensor *ids_L);
MICA_CUDA_SLOT(mixture_layer, const mica_mixture_layer_args *args, bool *taken);
/* Several linears of a few rows as one. */
mica_status mica_cuda_tile_linears(mica_cuda_backend *be, const mica_linear_args *args, int count,
                                   bool *taken, mica_err *err);
/* Linears of a few rows and attention of one query, by kernels of their own; *taken false: not these. */
mica_status mica_cuda_few_rows(mica_cuda_backend *be, const mica_linear_args *args,
                               const mica_cuda_product *p, bool *taken, mica_err *err);
mica_status mica_cuda_attend_one(mica_cuda_backend *be, const mica_attention_args *args,
                                 bool *taken, mica_err *err);
void mica_cuda_experts_deinit(mica_cuda_backend *be);
/* Where a layer's experts lie, on the device: mica_cuda_matrix [E][3], gate, up and down. */
mica_status mica_cuda_expert_addresses(mica_cuda_backend *be, const mica_experts_args *args, int E,
                                       const void **out, mica_err *err);
/* Experts of any type by a choice taken on the device (cuda_mixture.c). */
mica_status mica_cuda_mixture(mica_cuda_backend *be, const mica_experts_args *args, bool *taken,
                              mica_err *err);
/* What cannot be part of a graph begins with this. */
mica_status mica_cuda_refuse_capture(mica_cuda_backend *be, const char *what, mica_err *err);
void mica_cuda_graph_deinit(mica_cuda_backend *be);
MICA_CUDA_SLOT(branch, int branch);
/* Operations that the named branch has begun. */
static inline uint64_t mica_cuda_branch_ops(const mica_cuda_backend *be)
{
    return be->ops_of[be->named] + be->base.counters.ops - be->ops_before;
}
mica_status mica_cuda_branch_open(mica_cuda_backend *be, mica_err *err);
void mica_cuda_branch_close(mica_cuda_backend *be);
MICA_CUDA_SLOT(profile_mark, int index);
MICA_CUDA_SLOT(profile_read, int count, double *seconds);
void mica_cuda_profile_deinit(mica_cuda_backend *be);
MICA_CUDA_SLOT(upload_f32, const mica_tensor *dst, const float *src);
mica_status mica_cuda_op_download_f32(mica_backend *be, float *dst, const mica_tensor *src,
                                      mica_err *err);
mica_status mica_cuda_op_download_pixels(mica_backend *be, uint8_t *dst, const mica_tensor *src_YXC,
                                         mica_err *err);

mica_status mica_cuda_buffer_alloc(mica_backend *be, size_t size, void **out, mica_err *err);
void mica_cuda_buffer_free(mica_backend *be, void *buffer);
mica_status mica_cuda_pool_alloc(mica_backend *be, mica_pool pool, size_t size, void **out,
                                 mica_err *err);
mica_pool_mark mica_cuda_pool_get_mark(mica_backend *be, mica_pool pool);
void mica_cuda_pool_release(mica_backend *be, mica_pool pool, mica_pool_mark mark);
void mica_cuda_pool_trim(mica_backend *be);
uint64_t mica_cuda_pool_peak(const mica_backend *be, mica_pool pool);
/* Frees chunks that hold nothing now; false: there are none. */
bool mica_cuda_pool_give_way(mica_cuda_backend *be);
bool mica_cuda_spare_give_way(mica_cuda_backend *be); /* cuda_spare.c; true: something was freed */
void mica_cuda_pool_deinit(mica_cuda_backend *be);

#endif
