/* cuda_step.h - launchers of cuda_step.cu and cuda_race.cu; see cuda_kernels.h for the manners. */
#ifndef MICA_BACKEND_CUDA_STEP_H
#define MICA_BACKEND_CUDA_STEP_H

#include "backend/cuda/cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_CUDA_STEP_ROWS   8   /* at most */
#define MICA_CUDA_STEP_BLOCKS 32  /* of the network, at most */
#define MICA_CUDA_STEP_WIDTH  512 /* the released models' */
#define MICA_CUDA_STEP_FFN    2048
#define MICA_CUDA_STEP_HEADS  16
#define MICA_CUDA_STEP_HEAD   2048 /* rows of the head, at most */

/* Device addresses of one block; matrices in the compute type, rows without gaps, vectors f32. */
typedef struct mica_cuda_step_block {
    const void *q, *k, *v, *o, *up, *down;
    const float *q_b, *k_b, *v_b, *o_b, *up_b, *down_b;
    const float *scale_1, *shift_1, *scale_2, *shift_2; /* all of 16-byte alignment */
} mica_cuda_step_block;

typedef struct mica_cuda_step_args {
    const mica_cuda_step_block *blocks; /* device, [count] */
    void *const *caches;                /* device, [rows][count][2] */
    int seen[MICA_CUDA_STEP_ROWS];
    int count, rows;
    float eps;
    mica_cuda_type type; /* of x, matrices and caches */
    void *x;             /* [rows][D]; where neither table nor head is NULL nobody looks at it */
    /* What a step begins with: x[m] = table[ids[m]] + add[m], ids outside take row 0; NULL: with x. */
    const void *table; /* [table_rows][D] */
    int table_rows;
    const int32_t *ids[MICA_CUDA_STEP_ROWS]; /* device */
    const float *add[MICA_CUDA_STEP_ROWS];   /* device, [D], of 8-byte alignment; NULL: nothing */
    /* And ends with: logits[m] = head x[m]; NULL: with x. */
    const void *head; /* [head_rows][D], of 16-byte alignment */
    int head_rows;    /* at most MICA_CUDA_STEP_HEAD */
    float *logits;    /* [rows][logits_ld] */
    int64_t logits_ld;
    const struct mica_cuda_norms
        *norms;      /* of mica_cuda_step_prepare, for the same blocks and head */
    uint64_t *words; /* mica_cuda_step_words of them, 0 before the first step */
    uint32_t round;  /* of the first block of the network, above 0 and those of all steps before */
    int turn;        /* 0 and 1 in turns, from step to step */
    bool cluster;
    bool
        early; /* nobody else launches such steps on this device: this one may begin before the one before it ends */
} mica_cuda_step_args;

/* Rows at once at most, in clusters of 4 blocks of threads or without them; 0 where this device does not hold all
 * blocks of threads at once. */
int mica_cuda_step_rows(int multiprocessors, bool cluster, mica_cuda_type type);
int64_t mica_cuda_step_words(int rows, bool cluster);
/* Rounds that a step of `count` blocks of the network uses. */
static inline uint32_t mica_cuda_step_rounds(int count)
{
    return (uint32_t)count;
}
cudaError_t mica_cuda_step(const mica_cuda_step_args *args, cudaStream_t stream);

/* What weights alone decide of the norms: for every row of q, k, v, up and the head its product with the scale of the
 * norm before it, and that with the shift, with its bias; and the norms in the order in which threads read them. Once
 * for all steps; blocks, count, type, head and head_rows of args are looked at. norms: mica_cuda_step_norms(count)
 * bytes, of 16-byte alignment. */
size_t mica_cuda_step_norms(int count);
cudaError_t mica_cuda_step_prepare(const mica_cuda_step_args *args, void *norms,
                                   cudaStream_t stream);

#define MICA_CUDA_RACE_MOST 2048 /* tokens */
typedef struct mica_cuda_race_row {
    float *logits, *seen;
    int32_t *drawn;
    int top_k, greedy, stored, choices; /* stored: logits that must be finite */
    double top_p;
    float penalty;
    double per_penalty, per_temperature; /* 1 / f32 values */
    int64_t end;
    uint64_t key, noise; /* key: seed, stream and attempt mixed */
    uint64_t
        *told; /* the host's: where it waits for what is drawn, two words as mica_cuda_fetch's */
    uint32_t ticket;
} mica_cuda_race_row;
/* count <= MICA_CUDA_STEP_ROWS. */
cudaError_t mica_cuda_race(const mica_cuda_race_row *rows, int count, cudaStream_t stream);

/* told[i] = ticket << 32 | ids[i], behind what the stream holds; told: the host's memory. */
cudaError_t mica_cuda_fetch(const int32_t *ids, int count, uint64_t *told, uint32_t ticket,
                            cudaStream_t stream);

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
