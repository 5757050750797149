/* rope.h - rotary tables, built on the host once per generation.
 *
 *     angle[l, i] = position[l] * theta^(-2i / dim)       i = 0 .. dim/2 - 1
 *
 * A table holds cos and sin of one sequence as [L, K/2] f32 state tensors. Models with several
 * position axes put the axes' columns side by side. */
#ifndef MICA_NN_ROPE_H
#define MICA_NN_ROPE_H

#include "backend/backend.h"

typedef struct mica_rope_table {
    mica_tensor cos_Lk, sin_Lk;
} mica_rope_table;

/* out[i] = theta^(-2i/dim) in f32, i < dim/2, as torch computes it
 * (1.0 / pow(theta, arange(0, dim, 2) / dim)). */
void mica_rope_frequencies(float theta, int dim, float *out);

/* Tensors of both halves of a table and upload of host values [rows, half]. */
void mica_rope_table_upload(mica_backend *be, mica_pool pool, int64_t rows, int half,
                            const float *cos, const float *sin, mica_rope_table *out);
/* Rows [0, count). */
mica_rope_table mica_rope_table_rows(const mica_rope_table *t, int64_t count);

/* One axis, positions 0 .. rows - 1: the table of language models. */
mica_status mica_rope_build_lm(mica_backend *be, mica_pool pool, int64_t rows, int head_dim,
                               double theta, mica_rope_table *out, mica_err *err);
/* Three axes over one range of frequencies (M-RoPE): the first pairs[0] columns turn with
 * positions_L3[l][0], the next pairs[1] with [1], the last with [2]; pairs add up to head_dim / 2. */
mica_status mica_rope_build_sections(mica_backend *be, mica_pool pool, const int32_t *positions_L3,
                                     int64_t rows, const int pairs[3], double theta,
                                     mica_rope_table *out, mica_err *err);

#endif
