/* cuda_tiles.h - launchers of cuda_tiles.cu and cuda_decode.cu; see cuda_kernels.h for the manners. */
#ifndef MICA_BACKEND_CUDA_TILES_H
#define MICA_BACKEND_CUDA_TILES_H

#include "backend/cuda/cuda_mixture.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A matrix of MLX's 4 bits in groups of 64: rows a multiple of 16, n of 256; scales and biases bf16 or f16. */
#define MICA_CUDA_TILE_NUMBERS 32768 /* n at most: a row of x in shared memory */
bool mica_cuda_tiles_fit(const mica_cuda_packed_rows *w);

#define MICA_CUDA_TILE_ROWS 8
/* A norm of rows, x / sqrt(mean(x^2) + eps) * w, taken where x is read. w: [n] f32, or NULL: none. */
typedef struct mica_cuda_tile_norm {
    const float *w;
    float eps;
} mica_cuda_tile_norm;

/* A router of the normed rows that a linear makes: logits are sums over tiles of 16 outputs, times the norm's factor.
 *     partials[m][e][tile]   of (y * norm.w) w[e]        e < E
 *     partials[m][E][tile]   of y^2                      y as stored */
typedef struct mica_cuda_tile_router {
    const void *w; /* [E][outputs]; NULL: no router */
    mica_cuda_type type;
    int E;
    mica_cuda_tile_norm norm;
    float *partials; /* [m][E + 1][outputs / 16] */
} mica_cuda_tile_router;

/* y[m] = residual[m] + norm(x[m]) w^T + bias for m <= 8 rows of bf16 x, rows ldx apart; y and residual bf16 or f32. */
typedef struct mica_cuda_tile_linear {
    mica_cuda_matrix w;
    mica_cuda_type scales; /* of all that run at once */
    int64_t rows, n;
    const void *x;
    int64_t ldx;
    int m;
    mica_cuda_view y, residual; /* residual.data NULL: none */
    const float *bias;          /* [rows] or NULL */
} mica_cuda_tile_linear;
/* Up to MICA_CUDA_TILE_PARTS of them at once, with one norm of their x; router: of a single one, whose y is bf16. */
#define MICA_CUDA_TILE_PARTS 3
typedef struct mica_cuda_tile_extra {
    mica_cuda_tile_norm norm;
    mica_cuda_tile_router router;
} mica_cuda_tile_extra;
cudaError_t mica_cuda_tile_linears_run(const mica_cuda_tile_linear *args, int count,
                                       const mica_cuda_tile_extra *extra, cudaStream_t stream);

/* Experts of up to 8 rows of x behind their router's logits; the choice is taken by every block itself:
 *     h[m][a] = silu(gate_e x[m]) * up_e x[m]     for the A largest logits e of row m
 *     y[m] += sum over a of share[a] down_e h[m][a] */
typedef struct mica_cuda_tile_experts {
    const mica_cuda_matrix *experts; /* device: [E][3], gate, up, down */
    mica_cuda_type scales;           /* of all of them */
    const float *logits;             /* [m][E]; NULL: by partials, and x comes without its norm */
    const float *partials;           /* [m][E + 1][D / 16], of a mica_cuda_tile_router */
    mica_cuda_tile_norm norm;
    int m, E, A;
    int64_t D, F;
    const void *x; /* bf16, rows ldx apart */
    int64_t ldx;
    void *hidden; /* mica_cuda_tile_hidden_size(m A, F) bytes */
    mica_cuda_view y;
} mica_cuda_tile_experts;
/* Whether x and hidden rows have room in shared memory. */
bool mica_cuda_tile_experts_fit(int A, int64_t D, int64_t F);
/* bf16 [rows][F] in the order that products take them, then the sum of every 16. */
size_t mica_cuda_tile_hidden_size(int rows, int64_t F);
cudaError_t mica_cuda_tile_experts_run(const mica_cuda_tile_experts *args, cudaStream_t stream);

/* A query, and a key and a value that the cache does not have yet: both heads are turned by the angles of the position
 * first, as mica_qk_norm_rope turns them, and the key then stands in row M - 1 of the cache with the value. bf16, and
 * not more than MICA_CUDA_DECODE_SHARE query heads for a key head. */
#define MICA_CUDA_DECODE_SHARE 4
typedef struct mica_cuda_decode_fresh {
    const void *k, *v;      /* [G, K]; k NULL: everything is in the cache, and q is turned */
    const float *cos, *sin; /* [K / 2] */
    bool interleaved;
} mica_cuda_decode_fresh;

/* One query per head over M < 2^31 keys of a cache, bf16 or f32: splits of the keys, then joined. K 64 or 128. */
#define MICA_CUDA_DECODE_SPLITS 32
#define MICA_CUDA_HEADS_MOST    256
typedef struct mica_cuda_decode_args {
    const void *q;
    void *k, *v; /* q [H, K]; k, v [M, G, K], written in row M - 1 alone and with `fresh` */
    void *out;   /* [H, K] */
    mica_cuda_type type;
    int64_t M, q_stride, out_stride;  /* of heads */
    int64_t k_stride[2], v_stride[2]; /* token, head */
    int H, G, K;
    float scale;
    float *work;       /* mica_cuda_decode_floats of them */
    unsigned *arrived; /* [MICA_CUDA_HEADS_MOST], zeros; zeros again afterwards */
    mica_cuda_decode_fresh fresh;
} mica_cuda_decode_args;
int64_t mica_cuda_decode_floats(int H, int K);
cudaError_t mica_cuda_decode(const mica_cuda_decode_args *args, cudaStream_t stream);

/* y[m] = residual[m] + act(x[m] w^T + bias) for up to 8 rows of x with a plain matrix, rows ld apart (a
 * multiple of 8; zeros behind D, where x has D = ld numbers); x wide. */
typedef struct mica_cuda_few_args {
    const void *w;
    mica_cuda_type type;
    int64_t outputs, ld;
    mica_cuda_view x, y, residual; /* residual.data NULL: none */
    const float *bias;             /* or NULL */
    mica_cuda_act act;
} mica_cuda_few_args;
cudaError_t mica_cuda_few(const mica_cuda_few_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
