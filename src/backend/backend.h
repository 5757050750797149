/* backend.h - the whole-tensor operations that models are written in.
 *
 *      model code  ──►  mica_<op>(be, args)  ──►  be->ops-><op>   cpu | cuda
 *
 * Operations run when called, in order (on a device: are queued in order). They have
 * no dtype or device in their names: activations have the dtype that the backend
 * likes (CPU: f32), weights the dtype of their file, and the backend brings them together.
 *
 * Errors. Operations return nothing. The first failure (a refused allocation, a library
 * error) is kept in the backend; later operations do nothing. Drivers ask once per block
 * with mica_backend_check. A forward pass therefore reads like the paper.
 *
 * Shapes are the caller's promise: operations assert them in debug builds; a model
 * checks everything that comes from a file before its first operation.
 *
 * Threads. One backend belongs to one session and one host thread at a time; inside,
 * it uses as many as it was opened with. Results do not depend on that number. */
#ifndef MICA_BACKEND_BACKEND_H
#define MICA_BACKEND_BACKEND_H

#include "base/status.h"
#include "tensor/tensor.h"

typedef struct mica_backend mica_backend;

typedef struct mica_backend_options {
    mica_device device; /* resolved, not AUTO */
    mica_precision precision;
    int threads; /* 0: all */
    bool ablate_fusion;
    bool ablate_joining;  /* mica_linears one by one */
    bool ablate_branches; /* everything in one queue */
    bool ablate_replays;  /* nothing is recorded */
    uint64_t vram_limit;  /* bytes to take of a device's memory; 0: what is free */
    int host_experts; /* for models: layers whose experts the CPU computes beside a device; 0: as
                            many as do not fit, -1: none */
} mica_backend_options;

/* Something that is added to a linear's weight without touching it: a LoRA and its kin (nn/lora.h
 * makes them). The weight's rows [first, first + count) get `scale` times rows [skip, skip + count) of
 *
 *     kron(mix, delta)      delta = up0 down0,  or  (up0 down0) * (up1 down1) element by element
 *
 *     up [p, r], down [r, q]   any float dtype, rows contiguous; down0 absent: delta is up0, [p, q]
 *     mix [a, b] f32           absent: the number 1
 *
 * so the whole is [a p, b q], and b q is the width of the weight. Absent: data == NULL. A backend computes
 * products with it beside those with the weight, from its factors, so that they join before bias and
 * activation, or adds it to a form of its own. Lives as long as the weight, its numbers do not change. */
typedef struct mica_adapter {
    const struct mica_adapter *next;
    int64_t first, skip, count;
    float scale;
    mica_tensor up[2], down[2], mix;
    /* nn/lora_dora.c alone: what this adapter multiplied the weight's rows by; in the scales already. */
    const float *row_factor;
} mica_adapter;

/* A weight as a session holds it. `tensor` views the file; `prepared` is the backend's
 * own form (packed, quantised, device copy), made at first use and let go by
 * mica_backend_drop_weights or with the backend. Weights that view the same tensor share
 * one form, whichever session they belong to; the numbers must not change meanwhile. */
typedef struct mica_weight {
    mica_tensor tensor;
    const char *name; /* canonical name, for messages; borrowed */
    bool sensitive;   /* never computed below bf16 (norm-adjacent, first and last layers) */
    bool exact;       /* linears and conv1d: in f32 whatever the precision; not of packed numbers */
    bool constant;    /* shared by several users, keep when dropping; outlives the backend */
    bool mapped;      /* data lies in a read-only file mapping: its pages may be dropped and
                          come back from the file. False (memory of its own): never touched */
    bool lasting;     /* the numbers stay where they are while a backend that saw them is open:
                          a dropped form may be kept for the next use */
    void *prepared;
    void *group; /* the backend's: weights that were prefetched together, or NULL */
    const mica_adapter *adapters; /* of a linear; NULL: none. Borrowed */
} mica_weight;

typedef enum mica_act {
    MICA_ACT_NONE = 0,
    MICA_ACT_SILU,
    MICA_ACT_GELU_TANH,
    MICA_ACT_GELU_ERF
} mica_act;

/* ------------------------------------------------------------- lifetime -- */

mica_status mica_backend_open(mica_backend **out, const mica_backend_options *options,
                              mica_err *err);
/* MICA_OK when device cuda can be opened here; else MICA_E_UNSUPPORTED and why: the library of
 * the backend is absent, no driver, no GPU, too old a one. */
mica_status mica_backend_cuda_usable(mica_err *err);
/* Whether this machine has NVIDIA's driver, whatever comes of it. */
bool mica_backend_cuda_has_driver(void);
/* A CPU backend beside `be`, with its precision (fp8: bf16) and threads. */
mica_status mica_backend_open_host(mica_backend **out, const mica_backend *be, mica_err *err);
void mica_backend_close(mica_backend **be);
/* First failure since the last call, then forgotten. */
mica_status mica_backend_check(mica_backend *be, mica_err *err);
/* True once an operation failed and mica_backend_check was not called yet. */
bool mica_backend_failed(const mica_backend *be);
/* Records a failure as an operation would; for nn code that finds one itself. */
void mica_backend_fail(mica_backend *be, mica_status status, const char *format, ...)
    MICA_PRINTF(3, 4);
mica_precision mica_backend_precision(const mica_backend *be);
int mica_backend_host_experts(const mica_backend *be); /* as in the options */
const char *mica_backend_name(const mica_backend *be); /* "cpu v4+vnni, 2 threads" */
/* True when operations return before they are done (a device): a clock around one tells how long it
 * took to queue it, and the seconds of the counters below mean no more than that. */
bool mica_backend_is_queued(const mica_backend *be);

typedef struct mica_backend_counters {
    uint64_t allocations; /* heap or device allocations made by this backend */
    uint64_t waits; /* times the host waited for all that was queued, so that the device ran dry */
    uint64_t follows; /* times it waited for an earlier point of the queue (mica_watched) */
    uint64_t ops;
    uint64_t replays;         /* recordings run */
    uint64_t prompt_products; /* of 9 to 128 rows by a kernel made for them; devices only */
    double linear_flops;      /* 2*M*N*K summed over linears */
    double linear_seconds;
    double attention_flops, attention_seconds;
    double conv_flops, conv_seconds;
    double row_bytes; /* weights, keys and values that products by row have read; CPU only */
} mica_backend_counters;
mica_backend_counters mica_backend_get_counters(const mica_backend *be);

/* Seconds of every operation, by name and sizes, for benchmarks: start, run, stop. Operations of a device
 * are timed by its own clock, so the host waits only at the end; what lies between two operations counts
 * to the later one. */
typedef struct mica_profile_row {
    char what[64]; /* "linear 4096 x 3072 x 12288" */
    uint64_t calls;
    double seconds; /* of all calls */
} mica_profile_row;
mica_status mica_backend_profile_start(mica_backend *be, mica_err *err);
/* The longest first; how many rows there are, at most `most`. 0 after a failure, which is kept. */
int mica_backend_profile_stop(mica_backend *be, mica_profile_row *rows, int most);

/* --------------------------------------------------------------- memory -- */

/* Two stacks of tensors. SESSION: conditioning, latents, tables. STEP: scratch of one
 * pass. Tensors are valid until their stack is released below their mark. */
typedef enum mica_pool { MICA_POOL_SESSION = 0, MICA_POOL_STEP, MICA_POOL_COUNT } mica_pool;
typedef struct mica_pool_mark {
    void *chunk;
    size_t used, in_use;
} mica_pool_mark;
/* Activation tensor in the backend's own dtype. After a failure: data may be NULL and no
 * operation will touch it. Not zeroed. */
mica_tensor mica_act_tensor(mica_backend *be, mica_pool pool, int ndim, const int64_t *shape);
/* Bytes of an element of such a tensor: 4 or 2; for those who plan memory. */
int64_t mica_act_size(const mica_backend *be);
/* f32 tensor for things that need it: latents, modulation, rotary tables. */
mica_tensor mica_state_tensor(mica_backend *be, mica_pool pool, int ndim, const int64_t *shape);
mica_pool_mark mica_pool_get_mark(mica_backend *be, mica_pool pool);
void mica_pool_release(mica_backend *be, mica_pool pool, mica_pool_mark mark);
/* Gives unused chunks of both stacks back; between phases (technique 8). */
void mica_pool_trim(mica_backend *be);
uint64_t mica_pool_peak(const mica_backend *be, mica_pool pool);

/* Memory that no stack holds: a key and value cache grows and goes by itself. 64-byte aligned, not zeroed;
 * NULL after a failure. Freed before the backend closes; free waits for queued work that uses it. */
void *mica_backend_buffer_alloc(mica_backend *be, size_t size);
void mica_backend_buffer_free(mica_backend *be, void *buffer);
mica_dtype mica_backend_act_dtype(const mica_backend *be); /* of mica_act_tensor */

/* Memory of the device that computes, in bytes; all zero where that is the host's. */
typedef struct mica_backend_memory {
    uint64_t total, limit; /* what there is, and what may be taken of it */
    uint64_t available;    /* may still be taken, weights that may go counted as gone */
    uint64_t used,
        peak;          /* taken by this process, and at the worst moment since it was asked last */
    uint64_t streamed; /* of weights that do not fit: copied for every use */
} mica_backend_memory;
/* `restart`: the peak is counted anew from here. */
mica_backend_memory mica_backend_get_memory(mica_backend *be, bool restart);

/* Host <-> tensor. Both wait for queued work; sizes must match; src/dst are f32. */
void mica_upload_f32(mica_backend *be, const mica_tensor *dst, const float *src);
void mica_download_f32(mica_backend *be, float *dst, const mica_tensor *src);
/* A picture of -1 .. 1 as bytes: dst[Y][X][C] = round(255 clamp(src / 2 + 1/2)), halves to even, NaN is 0; every
 * backend gives the same byte for the same f32. src: contiguous rows of pixels (X C numbers), stride_[0] may be more.
 * Waits for queued work. */
void mica_download_pixels(mica_backend *be, uint8_t *dst, const mica_tensor *src_YXC);

/* Hints that the weights are needed soon / not any more. drop frees prepared forms and
 * tells the page cache; a dropped weight may be used again (it is prepared anew). */
void mica_backend_prefetch_weights(mica_backend *be, mica_weight *const *weights, int count);
void mica_backend_drop_weights(mica_backend *be, mica_weight *const *weights, int count);
/* The weights will be needed again, but not soon: pages of a file mapping may leave the process.
 * They come back from the system's cache of the file at the next use, or from the disk where
 * memory is short. Prepared forms stay. */
void mica_backend_release_pages(mica_backend *be, mica_weight *const *weights, int count);

/* Work that may run side by side on a device:
 *
 *     mica_branch(be, 1); operations...   mica_branch(be, 0); operations...   mica_join(be);
 *
 * Operations belong to the branch named last. Until the join no branch reads or writes what another
 * one writes, every tensor of both is taken before or between (nothing is released), and no value is
 * read back. Where operations are done when they return this changes nothing. */
void mica_branch(mica_backend *be, int branch);
void mica_join(mica_backend *be);

/* The same operations on the same tensors, run again and again (a denoising step): a device may record them
 * and run the recording, which costs the host one call.
 *
 *     mica_replay r = mica_replay_begin(key);
 *     while (mica_replay_more(be, &r, &st))
 *         st = operations...
 *
 * The first time the body runs, and once more to be recorded, while the device still works at the first;
 * later it does not run. st is that of the body where it ran. key: from mica_replay_new_key, one per
 * sequence; all that the operations are given (addresses, sizes, numbers) must be the same whenever a key
 * is used. 0: never recorded. A body that uploads, reads back, waits or allocates a second time cannot be
 * recorded, which costs nothing but the attempt. */
typedef struct mica_replay {
    uint64_t key;
    int state;
    mica_status st; /* of the body that counted */
} mica_replay;
uint64_t mica_replay_new_key(mica_backend *be);
static inline mica_replay mica_replay_begin(uint64_t key)
{
    const mica_replay r = {key, 0, MICA_OK};
    return r;
}
bool mica_replay_more(mica_backend *be, mica_replay *r, mica_status *st);

/* A promise: what the next operation makes is read by the linears that come right behind it in its branch, as
 * their x, and by nobody else. The tensor itself need not get the values then. */
void mica_next_is_operand(mica_backend *be);

/* ----------------------------------------------------------- operations -- */

/* y = residual + gate * act(x w^T + bias); leave residual/gate NULL for y = act(...).
 *   x_MD      activations, contiguous rows (stride_[0] >= D allowed)
 *   w         [O, D], floats, packed or int8 with scales, with what its adapters add; bias: [O] weight or NULL
 *   gate_O    f32 state tensor; needs residual
 *   y_MO      activations or f32 state; may be the residual itself (in place), not x
 *   by_row    for the few rows of a model that writes text: the weight is read once, as it lies, and on
 *             the CPU a row's result does not depend on how many rows there are (f32 sums, x not rounded)
 *   same_x    a hint: x_MD is that of the linear before, unchanged since, so that what was made of it
 *             (rounded, quantised rows) may serve again; the result is the same without */
typedef struct mica_linear_args {
    const mica_tensor *x_MD;
    mica_weight *w_OD;
    mica_weight *bias_O;
    mica_act act;
    const mica_tensor *gate_O;
    const mica_tensor *residual_MO;
    mica_tensor *y_MO;
    bool by_row, same_x;
} mica_linear_args;
void mica_linear(mica_backend *be, const mica_linear_args *args);

/* Several linears of one input, none of which reads what another writes: mica_linear with each of
 * args[0, count). Where their y are columns of one tensor, side by side in this order, a device may run
 * them as one product, for which their weights lie behind each other in its memory. */
void mica_linears(mica_backend *be, const mica_linear_args *args, int count);

/* y = silu(gate) * up of one input, where count linears make gate and up: two of them one each, [M, F], or one both as
 * columns of its [M, 2 F], gate first. The linears have no epilogue, x_MD is all that they read, and what they
 * themselves make is undefined afterwards: a device may do everything at once and write y alone. y_MF may be the
 * place of gate or of up. A promise (mica_next_is_operand) is about y_MF. */
void mica_linear_swiglu(mica_backend *be, const mica_linear_args *args, int count,
                        mica_tensor *y_MF);

/* Adaptive norm: y = LayerNorm(x) * (1 + scale) + shift, no affine part of its own.
 * scale_D, shift_D: f32 state. y may be x. Statistics in f32 (two-pass). */
void mica_layer_norm_modulate(mica_backend *be, const mica_tensor *x_MD, const mica_tensor *scale_D,
                              const mica_tensor *shift_D, float eps, mica_tensor *y_MD);
/* y = x / sqrt(mean(x^2) + eps) * w. y may be x. */
void mica_rms_norm(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D, float eps,
                   mica_tensor *y_MD);
/* The same with the vectors of an adaptive norm, f32 state; NULL: without.
 *     modulate   y  = x / sqrt(mean(x^2) + eps) * w * (1 + scale);   y may be x
 *     gated      y += gate * x / sqrt(mean(x^2) + eps) * w;          y apart from x */
void mica_rms_norm_modulate(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D,
                            const mica_tensor *scale_D, float eps, mica_tensor *y_MD);
void mica_rms_norm_gated(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D,
                         const mica_tensor *gate_D, float eps, mica_tensor *y_MD);
/* y = act(x / max(||x||_2, 1e-12) * sqrt(C) * gamma) over the last dimension: the
 * Qwen-Image VAE's norm (autoencoder_kl_qwenimage.py QwenImageRMS_norm) on channels-last data. */
void mica_l2_norm_channels(mica_backend *be, const mica_tensor *x_MC, mica_weight *gamma_C,
                           mica_act act, mica_tensor *y_MC);

/* Group norm of a channels-last picture that may pass in bands of rows. First the moments of every
 * row: moments_YG2[y][g] = mean of group g (channels [g C/G, (g + 1) C/G)) over row y, and the sum of
 * its squared differences from that mean. f32 state; x contiguous, G divides C. */
void mica_group_moments(mica_backend *be, const mica_tensor *x_YXC, mica_tensor *moments_YG2);
/* Then, on any rows x of the picture:
 *     y = act((x - mean) / sqrt(var + eps) * gamma + beta),    act NONE or SILU
 * with mean and (biased) variance of the group over the whole picture, whose rows' moments are all
 * in moments_YG2. They are added in f64 and in the order of rows, so the bands do not matter. y may be x. */
typedef struct mica_group_norm_args {
    const mica_tensor *x_YXC;
    const mica_tensor *moments_YG2;
    mica_weight *gamma_C, *beta_C;
    float eps;
    mica_act act;
    mica_tensor *y_YXC;
} mica_group_norm_args;
void mica_group_norm(mica_backend *be, const mica_group_norm_args *args);

/* Rotary tables: cos/sin of [L, K/2] f32 state tensors. */
typedef enum mica_rope_layout {
    MICA_ROPE_INTERLEAVED = 0, /* pairs (2i, 2i+1) */
    MICA_ROPE_HALF             /* pairs (i, i + K/2) */
} mica_rope_layout;
/* In place on x_LHK: per-head RMS norm with w_K (NULL: none), then rotation (cos NULL: none). */
typedef struct mica_qk_norm_rope_args {
    mica_tensor *x_LHK;
    mica_weight *norm_K;
    mica_tensor *also_LHK; /* the same with another norm: keys beside queries; NULL: none */
    mica_weight *also_norm_K;
    float eps;
    const mica_tensor *cos_Lk, *sin_Lk;
    mica_rope_layout layout;
} mica_qk_norm_rope_args;
void mica_qk_norm_rope(mica_backend *be, const mica_qk_norm_rope_args *args);

/* softmax(scale * q k^T) v for one item. Queries, keys, values and outputs come in up to
 * two segments that are joined in order ([text; image] of the MMDiT) without a copy:
 * segment s has q[s] L_s x H x K, k[s], v[s] L_s x G x K, out[s] L_s x H x K.
 * Query head h reads key head h / (H / G). causal: query i sees keys <= i (+ M - L); with a window, the
 * last `window` of them (0: all).
 * by_row: a few queries over a cache, one segment: keys and values are read once, as they lie, and a
 * query's result does not depend on how many there are (on the CPU: f32).
 * once: the sizes follow a text and will hardly come again: nothing may be compiled for them (a device's
 * fused kernel can take a second to make for each). */
typedef struct mica_attention_args {
    int segments;
    const mica_tensor *q_LHK[2], *k_MGK[2], *v_MGK[2];
    mica_tensor *out_LHK[2];
    float scale; /* 0: 1 / sqrt(K) */
    bool causal, by_row, once;
    int64_t window; /* with causal alone */
} mica_attention_args;
void mica_attention(mica_backend *be, const mica_attention_args *args);

void mica_silu(mica_backend *be, const mica_tensor *x, mica_tensor *y); /* y may be x */
void mica_tanh(mica_backend *be, const mica_tensor *x, mica_tensor *y); /* y may be x */
/* silu(gate) * up; y may be either */
void mica_swiglu(mica_backend *be, const mica_tensor *gate, const mica_tensor *up, mica_tensor *y);
void mica_add(mica_backend *be, const mica_tensor *a, const mica_tensor *b,
              mica_tensor *y); /* y may be a or b */
void mica_mul(mica_backend *be, const mica_tensor *a, const mica_tensor *b,
              mica_tensor *y); /* y may be a or b */
/* y_LD = rows ids[l] of w_VD; ids on the host, checked by the caller. */
void mica_embed_rows(mica_backend *be, mica_weight *w_VD, const int32_t *ids, int64_t count,
                     mica_tensor *y_LD);

/* y[i] = x[rows[i]]; rows on the host, checked. */
void mica_gather_rows(mica_backend *be, const mica_tensor *x_MD, const int32_t *rows, int64_t count,
                      mica_tensor *y_ND);
/* y[rows[i]] += share[i] * x[i]; no row twice. rows, share on the host. */
void mica_add_rows(mica_backend *be, const mica_tensor *x_ND, const int32_t *rows,
                   const float *share, int64_t count, mica_tensor *y_MD);

/* Mixture of experts behind its router:
 *     y += sum over the A largest of logits[l] of  share * down_e(silu(gate_e x) * up_e x)
 *     share = softmax of logits[l] over all experts, divided by the sum of the A chosen
 * x is not y; experts are matrices of their own (views of a stack, or one tensor each in the file): nothing
 * is copied together. Rows are sorted by expert and each expert's matrices read once. Of equal logits
 * the lower expert is chosen. The choice is taken on the host, so a device is waited for, but for a token's few
 * rows where the device has kernels that choose by themselves.
 * host: a CPU backend that computes the experts instead; x, logits and y are copied over and y back. */
typedef struct mica_experts_args {
    const mica_tensor *x_LD;
    const mica_tensor *logits_LE;           /* f32 state */
    int active;                             /* A, 1 to E */
    mica_weight *gate_FD, *up_FD, *down_DF; /* arrays of E */
    mica_tensor *y_LD;
    bool by_row;        /* as in mica_linear_args */
    mica_backend *host; /* or NULL */
} mica_experts_args;
void mica_experts(mica_backend *be, const mica_experts_args *args);

/* A whole layer of a language model with a mixture of experts for one row of each of L sequences, where a backend has
 * kernels for that, as the operations above compute it `by_row`; the router's x is not rounded in between:
 *
 *     x += o(attention(turned q, cache, v))      q, k, v of rms_norm(x) * norm_in; k turned and v into the cache
 *     x += the active experts of m               by router(m), m = rms_norm(x) * norm_post
 *
 * False: not these sizes, types or backend; nothing was done, and the caller takes the operations. */
typedef struct mica_mixture_layer_args {
    mica_weight *norm_in, *q, *k, *v, *o, *norm_post, *router;
    mica_experts_args
        experts; /* its x_LD, in place, matrices and number of active ones; logits_LE, y_LD: NULL */
    int count;   /* of experts */
    int heads, kv_heads;
    float eps;
    const mica_tensor (
        *caches)[2]; /* [L]: keys and values [M, G, K] up to the new ones, which are written */
    const int64_t *positions; /* [L]: rows of the tables */
    const mica_tensor *cos_Lk, *sin_Lk;
    mica_rope_layout layout;
} mica_mixture_layer_args;
bool mica_mixture_layer(mica_backend *be, const mica_mixture_layer_args *args);

/* Channels-last 2-D convolution of one picture: y[Y', X', O] = act(conv(x[Y, X, C]) + bias) + residual.
 * w: [O, C, KY, KX], possibly a strided view of a 5-D weight (last time tap). Padding is zeros
 * and may differ per side (bands, asymmetric downsampling). residual has y's shape or is NULL; may be y. */
typedef struct mica_conv2d_args {
    const mica_tensor *x_YXC;
    mica_weight *w_OCYX;
    mica_weight *bias_O;
    int stride;
    int pad_top, pad_bottom, pad_left, pad_right;
    mica_act act;
    const mica_tensor *residual_YXO;
    mica_tensor *y_YXO;
} mica_conv2d_args;
void mica_conv2d(mica_backend *be, const mica_conv2d_args *args);
void mica_upsample_nearest2(mica_backend *be, const mica_tensor *x_YXC, mica_tensor *y_YXC);

/* Convolution over time of rows of channels:
 *     y[r][o] = residual[r][o] + act(bias[o] + sum over k, c of w[o][c][0][k] * f(x[at][c])),
 *     at      = r * stride - pad_left + k * dilation
 * with zeros outside x, and f the leaky ReLU of that slope (0: ReLU) when `leaky`, else the identity.
 *   x_RC, residual_RO, y_RO   rows may be apart (stride_[0]); y may be the residual, not x
 *   w_OCYX                    [O, C, 1, K], any strides
 *   R' = (R + pad_left + pad_right - dilation (K - 1) - 1) / stride + 1 rows of y; stride > 1 needs dilation 1
 * A transposed convolution of stride u is one of these with u O outputs and ceil(K / u) taps. */
typedef struct mica_conv1d_args {
    const mica_tensor *x_RC;
    mica_weight *w_OCYX;
    mica_weight *bias_O;
    int stride, dilation, pad_left, pad_right; /* stride, dilation: at least 1 */
    bool leaky;
    float slope;
    mica_act act;
    const mica_tensor *residual_RO;
    mica_tensor *y_RO;
} mica_conv1d_args;
void mica_conv1d(mica_backend *be, const mica_conv1d_args *args);

/* y = f(x + shift), shift_D: f32 state of a row's length, or NULL. y may be x.
 * `p` is the slope of LEAKY_RELU (0: ReLU) and the upper bound of CLAMP, whose lower one is 0. */
typedef enum mica_function {
    MICA_FUNCTION_IDENTITY = 0,
    MICA_FUNCTION_LEAKY_RELU,
    MICA_FUNCTION_CLAMP,
    MICA_FUNCTION_MISH,
    MICA_FUNCTION_GELU_ERF,
    MICA_FUNCTION_SILU,
    MICA_FUNCTION_TANH,
    MICA_FUNCTION_COUNT
} mica_function;
void mica_apply(mica_backend *be, mica_function f, float p, const mica_tensor *x_MD,
                const mica_tensor *shift_D, mica_tensor *y_MD);
/* y[m][d] = g(x[m][d] + shift[d]) / (1 + e^-(x[m][D + d] + shift[D + d])): gated units with halves of
 * a row of 2 D as value and gate. g: tanh (WaveNet) or identity (GLU). shift_N: f32 state of 2 D, or NULL. */
void mica_gate(mica_backend *be, bool is_tanh, const mica_tensor *x_MN, const mica_tensor *shift_N,
               mica_tensor *y_MD);
/* Self-attention that knows how far apart query and key are (Shaw et al. 2018, as in the text encoder
 * of VITS): for |j - i| <= W, keys of query i get rel_k[j - i + W] and values rel_v[j - i + W] added.
 *     out[i] = sum_j softmax_j(scale * q[i] . (k[j] + rel_k)) (v[j] + rel_v)
 *   q, k, v, out   [L, H, K], tokens and heads may be apart; out may be q
 *   rel_k, rel_v   [2 W + 1, K], shared by the heads
 * In f32 whatever the precision. */
typedef struct mica_relative_attention_args {
    const mica_tensor *q_LHK, *k_LHK, *v_LHK;
    mica_weight *rel_k_NK, *rel_v_NK;
    float scale; /* 0: 1 / sqrt(K) */
    mica_tensor *out_LHK;
} mica_relative_attention_args;
void mica_relative_attention(mica_backend *be, const mica_relative_attention_args *args);

/* General copy with permutation: dst[i...] = src[i...] where both views have the same shape_
 * and any strides (packing, unpacking, transposes, concatenation, dtype change act <-> f32). On the CPU dst
 * may be of the affine type of 8 bits in memory of its own, scales and biases f32 (nn/kv_cache.h): each group
 * of numbers then gets a scale and a bias that reach from its least number to its largest. */
void mica_copy(mica_backend *be, const mica_tensor *src, mica_tensor *dst);

/* y = sum_i coef[i] * x[i], 1 <= n <= 6, f32 state tensors of one size; y may be any x. */
void mica_linear_combination(mica_backend *be, int n, const float *coef,
                             const mica_tensor *const *x, mica_tensor *y);
/* Classifier-free guidance per token row: c = uncond + scale * (cond - uncond); when renorm, each row is
 * rescaled to ||cond||_2 of that row (pipeline_qwenimage.py __call__). f32 or activation inputs, out may be cond. */
void mica_cfg_combine(mica_backend *be, const mica_tensor *cond_PC, const mica_tensor *uncond_PC,
                      float scale, bool renorm, mica_tensor *out_PC);
/* Each row of y that is longer (L2) than limit times the row of `reference` is scaled down to that
 * length (pipeline_z_image.py __call__: cfg_normalization). */
void mica_limit_norm(mica_backend *be, const mica_tensor *reference_PC, float limit,
                     mica_tensor *y_PC);
/* True when every element is finite; waits. */
bool mica_all_finite(mica_backend *be, const mica_tensor *x);

/* The same without waiting: x is looked at when the queue comes there. `mark` counts up from 0 in a run;
 * mark 0 forgets what was found before. */
void mica_watch(mica_backend *be, const mica_tensor *x, int mark);
/* The first mark where NaN or Inf was found, or -1. `wait`: of all up to `mark`, the last one or the one
 * before, which the queue has then reached; else of those that are known by now. */
int mica_watched(mica_backend *be, int mark, bool wait);

/* ------------------------------------------------------- token by token -- */

/* A model that writes tokens one by one needs the last one for the next. On a device it stays there: what
 * is drawn is read by the next step's embedding, and the host reads it behind, while that step runs.
 *
 *     ids, drawn   i32 tensors in memory of mica_backend_buffer_alloc */

/* One row of each of L sequences through `count` blocks with norms behind (speech's text to semantic):
 *
 *     q, k, v = qkv x + b      k, v become row seen[l] of the sequence's cache
 *     x = norm_1(x + o attention(q, rows 0 to seen[l] of the cache) + b)
 *     x = norm_2(x + down relu(up x + b) + b)
 *
 * A step may begin with the embedding of tokens that were drawn and end with logits. A row's result does not depend on
 * the others. x: activations, in place; with a head, what they are afterwards is nobody's. */
typedef struct mica_post_norm_block {
    mica_weight *qkv_w[3], *qkv_b[3]; /* [D, D], [D] each; or [3 D, D] in [0], the others NULL */
    mica_weight *o_w, *o_b, *up_w, *up_b, *down_w, *down_b;
    const mica_tensor *scale_1, *shift_1, *scale_2, *shift_2; /* f32 state: weight - 1, bias */
} mica_post_norm_block;
typedef struct mica_post_norm_args {
    const mica_post_norm_block *blocks;
    int count, heads;
    float eps;
    mica_tensor *x_LD;
    mica_tensor (*const *caches)[2]; /* [L] of [count]: keys and values [capacity, H, K] */
    const int64_t *seen;             /* [L] */
    /* x[l] = table[ids[l]] + add[places[l]], an id outside the table takes row 0. NULL: x is given. */
    mica_weight *table_VD;
    const mica_tensor *const *ids; /* [L]: the first number of each, where the operations run */
    const mica_tensor *add_RD;     /* f32 state; NULL: nothing */
    const int64_t *places;         /* [L] */
    mica_weight *head_VD;          /* logits = x head^T; NULL: x is wanted */
    mica_tensor *logits_LV;        /* f32 state */
} mica_post_norm_args;
void mica_post_norm_step(mica_backend *be, const mica_post_norm_args *args);

/* Draws a token as GPT-SoVITS does (backend_race.h has the arithmetic and its order). */
typedef struct mica_race {
    int top_k; /* above 0 */
    double top_p, temperature, penalty;
    bool greedy;
    uint64_t seed; /* noise depends on these and on an index alone */
    uint32_t stream, attempt;
} mica_race;
typedef struct mica_race_args {
    mica_race race;
    int64_t choices;      /* the first `choices` logits may be drawn */
    int64_t end;          /* the token that ends; below 0: none */
    uint64_t noise;       /* index of the first logit's noise */
    mica_tensor logits_V; /* f32 state; changed */
    mica_tensor *seen_V;  /* f32 state: not 0 where a token was seen; the drawn one is marked */
    mica_tensor
        *drawn_2; /* i32: the token (-1: some logit is not finite); 1 where the end was reached */
    uint64_t ticket; /* of mica_fetch_finish for both; the operation writes it */
} mica_race_args;
#define MICA_RACE_ROWS 8
/* Of `count` sequences, at most MICA_RACE_ROWS. */
void mica_race_draw(mica_backend *be, mica_race_args *rows, int count);

/* Integers to the host behind what was queued, without waiting now: finish waits for them alone. A ticket
 * that is not finished before 256 more were started is void. */
#define MICA_FETCH_MOST 4
uint64_t mica_fetch_start(mica_backend *be, const mica_tensor *ids, int count);
void mica_fetch_finish(mica_backend *be, uint64_t ticket, int32_t *out, int count);
/* ids[l] = place of the largest of row l's logits (f32 state), of equal ones the first; -1 where one is not a finite
 * number. Waits: for L numbers instead of L rows. */
void mica_largest(mica_backend *be, const mica_tensor *logits_LV, int32_t *ids);

/* Operations per second (2 per multiply-add) of the best matrix product this machine's library
 * offers at `precision`; measured now, for benchmarks. 0 after a failure. */
double mica_backend_measure_peak(mica_backend *be, mica_precision precision);
/* Bytes per second that arrive from the device's memory at best, by all its threads; measured now. 0
 * after a failure. */
double mica_backend_measure_bandwidth(mica_backend *be);

#endif
