/* cpu_linear.h - one linear layer under way; shared by cpu_linear.c, cpu_bf16.c and cpu_int8.c. */
#ifndef MICA_BACKEND_CPU_LINEAR_H
#define MICA_BACKEND_CPU_LINEAR_H

#include "backend/cpu/cpu_backend.h"
#include "kernels/kernels.h"

#include <stdatomic.h>

typedef enum mica_cpu_path {
    MICA_CPU_F32 = 0,
    MICA_CPU_BF16,
    MICA_CPU_INT8,
    MICA_CPU_FEW
} mica_cpu_path;

#define MICA_CPU_SLICE 256 /* depth expanded at a time, as the kernels cut it */

/* An adapter under way: y[row] += t[row] of each block times up^T, see cpu_adapter.c. */
typedef struct mica_cpu_side {
    const mica_adapter *adapter;
    mica_tensor up; /* [p, depth] */
    const float *t; /* m rows of blocks * depth floats */
    ptrdiff_t ldt;
    int blocks, p, depth;
} mica_cpu_side;

typedef struct mica_cpu_linear_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    const mica_linear_args *args;
    const mica_tensor *w;
    mica_cpu_path path;
    int m, n, depth;           /* y is m x n, w is n x depth */
    ptrdiff_t ldx, ldy, ldres; /* row strides in floats */
    int nb;                    /* columns of a panel; bf16: 0 without panels */
    int columns;               /* columns of a task, whole panels */
    int groups, cuts;          /* tasks across and down */
    int mb;                    /* rows of a block */
    int depth_pad;             /* depth as the packed form has it */
    int slice, slices;         /* depth of one product of oneDNN (the last may be less); how many */
    /* In the shared scratch; NULL where the path has none. */
    float *bias, *row_scale;
    uint16_t *x_bf16; /* m x depth_pad, slice after slice */
    uint8_t *x_q;     /* m x depth_pad, likewise */
    int8_t *x_digits; /* m x MICA_DIGITS_SIZE(depth, digits), few rows alone */
    int digits;
    float *x_scale;   /* m */
    int32_t *x_zero;  /* m */
    float *x_max;     /* depth: largest magnitude of each channel */
    int32_t *channel; /* MICA_CPU_INT8_OUTLIERS: channels kept in 16 bits */
    uint8_t *x_high;  /* m x MICA_CPU_INT8_OUTLIERS: their upper digits + 128 */
    int outliers;     /* channels chosen */
    /* Products of oneDNN: blocks by [last row block][last group][first, inner, last slice], their
     * scratch, first failure. */
    bool by_dnnl; /* int8 blocks are products of oneDNN too */
    struct mica_dnnl_op *op[2][2][3], *outlier_op[2][2][3];
    size_t dnnl_scratch;
    atomic_int dnnl_status;
    float *unfused;             /* m x n, ablation only */
    const mica_cpu_side *sides; /* adapters of the weight */
    int side_count;
    /* int8 weights, prepared (not of packed ones): panels, then one scale and one sum per output. */
    const int8_t *w_q;
    const float *w_scale;
    const int32_t *w_sum;
} mica_cpu_linear_job;

/* Rows [row, row + rows) and depth [from, from + depth) of a weight; scale: one factor per row of the
 * slice, or NULL. */
typedef struct mica_cpu_slice {
    const mica_tensor *w;
    int row, rows, from, depth;
    const float *scale;
} mica_cpu_slice;
/* Into the panels of gemm_f32, nb wide. temp: rows * depth floats (weights of f64, int8 and packed
 * types only, which apply a scale of groups themselves). */
void mica_cpu_pack_slice(const mica_kernels *k, const mica_cpu_slice *s, int nb, float *dst,
                         float *temp);

/* y = ... of one linear, with `sides` for its adapters. */
mica_status mica_cpu_linear_with(mica_cpu_backend *be, const mica_linear_args *args,
                                 const mica_cpu_side *sides, int side_count, mica_err *err);

/* Everything that a linear's adapters need before its tiles run; memory from the step pool. */
mica_status mica_cpu_sides_make(mica_cpu_backend *be, const mica_linear_args *args,
                                const mica_cpu_side **sides, int *count, mica_err *err);
typedef struct mica_cpu_side_scratch {
    float *sums;   /* mb x columns, int8 only: the block in f32 */
    float *panels; /* a slice of `up` */
    float *scale;  /* columns */
} mica_cpu_side_scratch;
size_t mica_cpu_side_scratch_layout(const mica_cpu_linear_job *j, uint8_t *base,
                                    mica_cpu_side_scratch *s);
/* acc[rows x columns] += what the adapters say. */
void mica_cpu_sides_add(const mica_cpu_linear_job *j, int column, int columns, int row, int rows,
                        const mica_cpu_side_scratch *s, float *acc, ptrdiff_t ld);

/* Runs one product of oneDNN; a failure is kept in dnnl_status. */
void mica_cpu_linear_run(mica_cpu_linear_job *j, struct mica_dnnl_op *op, int thread,
                         const void *src, const void *weights, void *dst, void *scratch);
/* A block over one slice. x: first element of the input in its form, of `size` bytes each;
 * weights: the group's, slice after slice, `stride` columns wide. */
typedef struct mica_cpu_block {
    int row, rows, columns, stride;
    size_t size;
    const void *x, *weights;
} mica_cpu_block;
void mica_cpu_linear_run_slice(mica_cpu_linear_job *j, int thread, const mica_cpu_block *b,
                               int slice, void *dst, void *scratch);
int mica_cpu_slice_depth(const mica_cpu_linear_job *j, int slice);
/* Calls get for every block shape: inner and last rows, columns and slices. */
typedef mica_status (*mica_cpu_get_op_fn)(mica_cpu_linear_job *j, int rows, int columns, int slice,
                                          struct mica_dnnl_op **out, mica_err *err);
mica_status mica_cpu_linear_get_ops(mica_cpu_linear_job *j, mica_cpu_get_op_fn get, int slices,
                                    struct mica_dnnl_op *ops[2][2][3], mica_err *err);

/* Products with few rows, straight from the weight (cpu_packed.c). */
#define MICA_CPU_FEW_ROWS 8
bool mica_cpu_is_few(const mica_linear_args *args, int64_t rows);
void mica_cpu_few_plan(mica_cpu_linear_job *j);
/* Lays x's digits out from `base` (NULL: only counts), where there are any; returns bytes. */
size_t mica_cpu_few_layout(mica_cpu_linear_job *j, uint8_t *base);
void mica_cpu_few_inputs(mica_cpu_linear_job *j);
/* acc[m x columns] = x w^T, rows j->columns apart. */
void mica_cpu_few_block(const mica_cpu_linear_job *j, int column, int columns, float *acc);

/* Blocks that do not depend on the number of threads. */
void mica_cpu_bf16_plan(mica_cpu_linear_job *j);
/* Finds or makes the matmul of every block shape. */
mica_status mica_cpu_bf16_prepare(mica_cpu_linear_job *j, mica_err *err);
typedef struct mica_cpu_bf16_scratch {
    uint16_t
        *weights;   /* columns x depth: panels, or rows when the weight is not bf16 in its file */
    uint16_t *rows; /* columns x slice on the way to panels, likewise */
    float *row;     /* depth: f64 alone */
    void *dnnl;
    const uint16_t *source; /* the group's weights, set by begin */
} mica_cpu_bf16_scratch;
size_t mica_cpu_bf16_scratch_layout(const mica_cpu_linear_job *j, uint8_t *base,
                                    mica_cpu_bf16_scratch *s);
void mica_cpu_bf16_begin(const mica_cpu_linear_job *j, int column, int columns,
                         mica_cpu_bf16_scratch *s);
/* acc[rows x columns] = x w^T, its stride goes to e; a failure goes to dnnl_status. */
void mica_cpu_bf16_block(mica_cpu_linear_job *j, int thread, int row, int rows, int columns,
                         const mica_cpu_bf16_scratch *s, float *acc, mica_epilogue *e);

#define MICA_CPU_INT8_OUTLIERS 64 /* most channels kept in 16 bits; a panel's depth of oneDNN */

/* Blocks of the route through oneDNN. */
void mica_cpu_int8_plan_dnnl(mica_cpu_linear_job *j);

/* Finds or makes the quantised weight. */
mica_status mica_cpu_int8_prepare(mica_cpu_linear_job *j, mica_err *err);
/* Lays the x_* arrays out from `base` (NULL: only counts); returns bytes. */
size_t mica_cpu_int8_layout(mica_cpu_linear_job *j, uint8_t *base);
/* Quantises x; bytes of thread scratch that it takes. */
size_t mica_cpu_int8_row_scratch(const mica_cpu_linear_job *j);
void mica_cpu_int8_inputs(mica_cpu_linear_job *j);

/* The outlier channels' own part of a task, in thread scratch. */
typedef struct mica_cpu_int8_scratch {
    int32_t *sums;   /* mb x columns */
    int8_t *panels;  /* columns x MICA_CPU_INT8_OUTLIERS: their weights */
    int32_t *offset; /* columns: 256 * 128 * sum of those weights */
    void *dnnl;
    /* The group's weights, set by begin: prepared, or those below. */
    const int8_t *w_q;
    const float *w_scale;
    const int32_t *w_sum;
    /* Of packed weights: the group expanded, and nb rows on their way there. */
    int8_t *group, *rows;
    float *group_scale;
    int32_t *group_sum;
} mica_cpu_int8_scratch;
size_t mica_cpu_int8_scratch_layout(const mica_cpu_linear_job *j, uint8_t *base,
                                    mica_cpu_int8_scratch *s);
/* Once a task: finds or makes the weights of its columns, and collects those of the outlier channels. */
void mica_cpu_int8_begin(const mica_cpu_linear_job *j, int column, int columns,
                         mica_cpu_int8_scratch *s);
/* One block of integer sums through the epilogue that e->e describes. */
void mica_cpu_int8_block(mica_cpu_linear_job *j, int thread, int row, int32_t *acc,
                         const mica_cpu_int8_scratch *s, mica_epilogue_s32 *e);

#endif
