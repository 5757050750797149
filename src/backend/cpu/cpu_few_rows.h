/* cpu_few_rows.h - a weight as products of few rows read it; shared by cpu_few_rows.c and cpu_post_norm.c. */
#ifndef MICA_BACKEND_CPU_FEW_ROWS_H
#define MICA_BACKEND_CPU_FEW_ROWS_H

#include "backend/cpu/cpu_linear.h"

#include "kernels/kernels.h"

/* As it lies, or in 8 bits with a scale per row (int8 precision, small weights). Borrowed. */
typedef struct mica_cpu_row_weight {
    const mica_tensor *tensor;
    const int8_t *q; /* rows behind each other; NULL: as it lies */
    const float *scale;
    int n, depth, row_bytes;
} mica_cpu_row_weight;

/* Whether a weight can be had so. */
bool mica_cpu_row_weight_fits(const mica_weight *weight);
mica_status mica_cpu_row_weight_get(mica_cpu_backend *be, mica_weight *weight,
                                    mica_cpu_row_weight *out, mica_err *err);
/* Where a row begins. */
const void *mica_cpu_row_weight_at(const mica_cpu_row_weight *w, int row);
/* y[i][c] of outputs [column, column + columns) for `rows` rows of x. */
void mica_cpu_row_weight_multiply(const mica_kernels *k, const mica_cpu_row_weight *w, int column,
                                  int columns, int rows, const float *x, ptrdiff_t ldx, float *y,
                                  ptrdiff_t ldy);
/* The same of x in digits (digits_from_f32 for MICA_PACKED_S8), for weights in 8 bits. */
void mica_cpu_row_weight_multiply_digits(const mica_kernels *k, const mica_cpu_row_weight *w,
                                         int column, int columns, int digits, int rows,
                                         const int8_t *x, float *y, ptrdiff_t ldy);

#endif
