/* cuda_step.h - launchers of cuda_step.cu and cuda_race.cu; see cuda_kernels.h for the manners. */
#ifndef MICA_BACKEND_CUDA_STEP_H
#define MICA_BACKEND_CUDA_STEP_H

#include "backend/cuda/cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_CUDA_STEP_ROWS   8
#define MICA_CUDA_STEP_WIDTH  512  /* D at most, a multiple of 8 */
#define MICA_CUDA_STEP_FFN    2048 /* F at most, a multiple of 32 */
#define MICA_CUDA_STEP_SPLITS 4    /* of the keys of a head */

/* Device addresses of one block; matrices in the compute type, rows without gaps, vectors f32. */
typedef struct mica_cuda_step_block {
    const void *q, *k, *v, *o, *up, *down;
    const float *q_b, *k_b, *v_b, *o_b, *up_b, *down_b; /* NULL: zeros */
    const float *scale_1, *shift_1, *scale_2, *shift_2;
} mica_cuda_step_block;

typedef struct mica_cuda_step_args {
    const mica_cuda_step_block *blocks; /* device, [count] */
    void *const *caches;                /* device, [rows][count][2] */
    int seen[MICA_CUDA_STEP_ROWS];
    int count, rows, D, F, H, K; /* K: 16 or 32 */
    float eps;
    mica_cuda_type type; /* of x, matrices and caches */
    void *x;             /* [rows][D] */
    uint64_t *words; /* mica_cuda_step_words of them, never with a round as high as this one's */
    uint32_t round;  /* of the first block of the network; the others follow */
    int grid;        /* blocks, one per multiprocessor */
} mica_cuda_step_args;
int64_t mica_cuda_step_words(int rows, int D, int F, int H);
/* Bytes of shared memory a block takes. */
size_t mica_cuda_step_shared(int rows);
cudaError_t mica_cuda_step(const mica_cuda_step_args *args, cudaStream_t stream);

#define MICA_CUDA_RACE_MOST 2048 /* tokens */
typedef struct mica_cuda_race_row {
    float *logits, *seen;
    int32_t *drawn;
    int top_k, greedy, stored, choices; /* stored: logits that must be finite */
    double top_p;
    float penalty, temperature;
    int64_t end;
    uint64_t key, noise; /* key: seed, stream and attempt mixed */
} mica_cuda_race_row;
/* count <= MICA_CUDA_STEP_ROWS. */
cudaError_t mica_cuda_race(const mica_cuda_race_row *rows, int count, cudaStream_t stream);

/* y[l] = table[ids[l]] + add[l]; ids outside [0, V) take row 0. */
typedef struct mica_cuda_drawn_args {
    const void *table; /* [V][ld] of y's or any activation type */
    mica_cuda_type type;
    int64_t V, ld;
    const int32_t *ids;
    mica_cuda_view add, y; /* add.data NULL: nothing */
} mica_cuda_drawn_args;
cudaError_t mica_cuda_embed_drawn(const mica_cuda_drawn_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
