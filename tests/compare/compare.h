/* compare.h - one operation on two backends: the same numbers in, two results out.
 *
 *     cmp            a: the reference backend      b: the backend under test
 *     cmp_tensor     the same tensor on both; cmp_result compares what they hold now
 *
 * When b computes in bf16, inputs are rounded to bf16 before they are uploaded to either side, so
 * that a difference is the operation's own and its bound can be tight. */
#ifndef MICA_TESTS_COMPARE_H
#define MICA_TESTS_COMPARE_H

#include "backend/backend.h"

typedef struct cmp {
    mica_backend *be[2];
    bool bf16; /* activations of b */
    bool fp8;  /* b multiplies in fp8 */
    uint64_t random;
    const char *op; /* running */
    char what[160]; /* the case */
    double worst;   /* of the running operation */
    int cases, failures, replayed;
    int at_once; /* of the running operation: cases that b did in one instead of several */
    int due,
        own; /* of the running operation: products made for b's kernel of few rows; that it took */
} cmp;

typedef struct cmp_tensor {
    mica_tensor t[2];
} cmp_tensor;

typedef struct cmp_weight {
    mica_weight w[2]; /* one per backend, of the same numbers */
} cmp_weight;

#define CMP_SHAPE(...) ((const int64_t[]){__VA_ARGS__})

uint32_t cmp_u32(cmp *c);
int cmp_int(cmp *c, int lo, int hi);
float cmp_normal(cmp *c); /* about N(0, 1) */
void *cmp_alloc(size_t size);

/* Random tensors of the pools: activations or f32 state. */
cmp_tensor cmp_act(cmp *c, float scale, int ndim, const int64_t *shape);
cmp_tensor cmp_state(cmp *c, float scale, int ndim, const int64_t *shape);
/* Filled with NaN, for results: what an operation leaves unwritten shows. */
cmp_tensor cmp_output(cmp *c, bool state, int ndim, const int64_t *shape);
/* Random weight of any float type; scale_kind 0 none, 1 whole, 2 per row. cmp_weight_free drops it
 * on both sides. */
cmp_weight cmp_weight_make(cmp *c, mica_dtype dtype, float scale, int scale_kind, int ndim,
                           const int64_t *shape);
/* Random weight of any packed type (compare_packed.c), rows of up to `most` blocks or 32s. */
cmp_weight cmp_packed_weight(cmp *c, int rows, int most);
/* The same with rows of `width`, a multiple of 256; and another of a weight's type, sizes and scales. */
cmp_weight cmp_packed_matrix(cmp *c, int rows, int width);
cmp_weight cmp_packed_like(cmp *c, const cmp_weight *w);
void cmp_weight_free(cmp *c, cmp_weight *w);
/* Compares t[0] with t[1]: relative L2 within bound for an f32 and a bf16 backend. */
void cmp_result(cmp *c, const cmp_tensor *t, double bound_f32, double bound_bf16);
void cmp_fail(cmp *c, const char *why, double value, double bound);

typedef struct cmp_op {
    const char *name;
    void (*run)(cmp *c); /* one random case */
    int cases;           /* per round */
} cmp_op;
/* End with name == NULL. */
extern const cmp_op cmp_chain_ops[], cmp_row_ops[], cmp_product_ops[], cmp_sequence_ops[],
    cmp_picture_ops[], cmp_streaming_ops[], cmp_adapter_ops[], cmp_packed_ops[], cmp_token_ops[],
    cmp_fusion_ops[], cmp_gated_ops[], cmp_prompt_ops[];

/* Timings of one backend at Qwen-Image's shapes. */
void cmp_bench(mica_backend *be);
/* Of the autoencoders' operations at 1,024 x 1,024. */
void cmp_bench_pictures(mica_backend *be);
/* Of a token of speech's text to semantic. */
void cmp_bench_steps(mica_backend *be);
/* Of two backends in two threads; returns how many went wrong. */
int cmp_steps_at_once(mica_backend *const be[2]);

#endif
