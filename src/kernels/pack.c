/* pack.c - matrices to the panels that gemm_*.c reads.
 *
 *     unit = what one 32-bit lane of a panel holds: 1 f32 | 2 bf16 | 4 s8, consecutive in k
 *
 *     rows r .. r+W-1, units u .. u+W-1        panel (nb wide)
 *         +-----------------+                  unit u    | r  r+1  ...  r+W-1 | ... nb
 *     r   | u  u+1  ... +W-1|   transpose      unit u+1  | r  r+1  ...        |
 *     r+1 |                 |   in registers   ...
 *         +-----------------+  ───────────►
 *
 * One walk (pack_panels) for all types; a loader turns W units of one row into a vector: widened
 * or rounded and multiplied by the row's factor. Rows and units past the end read as zeros.
 * The walk reads W rows at a time in strips of W units and writes whole vectors, so it is
 * bound by memory once the matrix is larger than the cache. */
#include "kernels/level.h"
#include "kernels/vec.h"

typedef struct matrix {
    const void *data;
    ptrdiff_t ld;
    int rows, k; /* elements of the source */
    const float *row_scale;
} matrix;

/* Units [u, u + W) of a row; `whole`: all of them exist. */
typedef vf load_units(const matrix *m, int row, int u, bool whole);

/* `count` elements of `size` bytes at column i; through the buffer where the row ends before. */
MICA_VEC const void *elements(const matrix *m, int row, int i, int count, size_t size, bool whole,
                              void *buffer)
{
    const char *p = (const char *)m->data + ((ptrdiff_t)row * m->ld + i) * (ptrdiff_t)size;
    if (whole)
        return p;
    const int left = m->k - i;
    memset(buffer, 0, (size_t)count * size);
    if (left > 0)
        memcpy(buffer, p, (size_t)(left < count ? left : count) * size);
    return buffer;
}

MICA_VEC vf scaled(const matrix *m, int row, vf v)
{
    return m->row_scale ? vf_mul(v, vf_set1(m->row_scale[row])) : v;
}
MICA_VEC vf f32_from_f32(const matrix *m, int row, int u, bool whole)
{
    vec_buffer b;
    return scaled(m, row, vf_load((const float *)elements(m, row, u, MICA_W, 4, whole, &b)));
}
MICA_VEC vf f32_from_bf16(const matrix *m, int row, int u, bool whole)
{
    vec_buffer b;
    const void *p = elements(m, row, u, MICA_W, 2, whole, &b);
    return scaled(m, row, vf_from_bf16((const uint16_t *)p));
}
MICA_VEC vf f32_from_f16(const matrix *m, int row, int u, bool whole)
{
    vec_buffer b;
    const void *p = elements(m, row, u, MICA_W, 2, whole, &b);
    return scaled(m, row, vf_from_f16((const uint16_t *)p));
}
MICA_VEC vf f32_from_f8_e4m3(const matrix *m, int row, int u, bool whole)
{
    vec_buffer b;
    const void *p = elements(m, row, u, MICA_W, 1, whole, &b);
    return scaled(m, row, vf_from_f8_e4m3((const uint8_t *)p));
}
MICA_VEC vf f32_from_f8_e5m2(const matrix *m, int row, int u, bool whole)
{
    vec_buffer b;
    const void *p = elements(m, row, u, MICA_W, 1, whole, &b);
    return scaled(m, row, vf_from_f8_e5m2((const uint8_t *)p));
}
MICA_VEC vf pairs_from_f32(const matrix *m, int row, int u, bool whole)
{
    float b[2 * MICA_W];
    const float *p = (const float *)elements(m, row, 2 * u, 2 * MICA_W, 4, whole, b);
    return vf_cast(
        vi_bf16_from_2vf(scaled(m, row, vf_load(p)), scaled(m, row, vf_load(p + MICA_W))));
}
MICA_VEC vf pairs_from_bf16(const matrix *m, int row, int u, bool whole)
{
    uint16_t b[2 * MICA_W];
    const uint16_t *p = (const uint16_t *)elements(m, row, 2 * u, 2 * MICA_W, 2, whole, b);
    return vf_cast(vi_load(p));
}
MICA_VEC vf pairs_from_scaled_bf16(const matrix *m, int row, int u, bool whole)
{
    uint16_t b[2 * MICA_W];
    const uint16_t *p = (const uint16_t *)elements(m, row, 2 * u, 2 * MICA_W, 2, whole, b);
    return vf_cast(vi_bf16_from_2vf(scaled(m, row, vf_from_bf16(p)),
                                    scaled(m, row, vf_from_bf16(p + MICA_W))));
}
MICA_VEC vf quads_from_s8(const matrix *m, int row, int u, bool whole)
{
    int8_t b[4 * MICA_W];
    return vf_cast(vi_load(elements(m, row, 4 * u, 4 * MICA_W, 1, whole, b)));
}

/* W rows of the matrix (n of them real) to W columns of a panel. */
MICA_VEC void pack_columns(const matrix *m, int row, int n, int units, int per_unit, int nb,
                           float *dst, load_units *load)
{
    const int whole = n == MICA_W ? m->k / per_unit / MICA_W * MICA_W : 0;
    vf r[MICA_W];
    int u = 0;
    for (; u < whole; u += MICA_W) {
        MICA_UNROLL(16)
        for (int i = 0; i < MICA_W; i++)
            r[i] = load(m, row + i, u, true);
        vf_transpose(r);
        MICA_UNROLL(16)
        for (int i = 0; i < MICA_W; i++)
            vf_store(dst + (ptrdiff_t)(u + i) * nb, r[i]);
    }
    for (; u < units; u += MICA_W) {
        for (int i = 0; i < MICA_W; i++)
            r[i] = i < n ? load(m, row + i, u, false) : vf_zero();
        vf_transpose(r);
        const int end = units - u < MICA_W ? units - u : MICA_W;
        for (int i = 0; i < end; i++)
            vf_store(dst + (ptrdiff_t)(u + i) * nb, r[i]);
    }
}

MICA_VEC void pack_panels(const matrix *m, int per_unit, int nb, float *dst, load_units *load)
{
    const int units = (m->k + per_unit - 1) / per_unit;
    for (int first = 0; first < m->rows; first += nb, dst += (ptrdiff_t)units * nb) {
        for (int j = 0; j < nb; j += MICA_W) {
            const int left = m->rows - first - j;
            const int n = left < 0 ? 0 : left < MICA_W ? left : MICA_W;
            pack_columns(m, first + j, n, units, per_unit, nb, dst + j, load);
        }
    }
}

void MICA_K(pack_f32_from_f32)(int rows, int k, const float *src, ptrdiff_t ld,
                               const float *row_scale, int nb, float *dst)
{
    const matrix m = {src, ld, rows, k, row_scale};
    pack_panels(&m, 1, nb, dst, f32_from_f32);
}
void MICA_K(pack_f32_from_bf16)(int rows, int k, const uint16_t *src, ptrdiff_t ld,
                                const float *row_scale, int nb, float *dst)
{
    const matrix m = {src, ld, rows, k, row_scale};
    pack_panels(&m, 1, nb, dst, f32_from_bf16);
}
void MICA_K(pack_f32_from_f16)(int rows, int k, const uint16_t *src, ptrdiff_t ld,
                               const float *row_scale, int nb, float *dst)
{
    const matrix m = {src, ld, rows, k, row_scale};
    pack_panels(&m, 1, nb, dst, f32_from_f16);
}
void MICA_K(pack_f32_from_f8_e4m3)(int rows, int k, const uint8_t *src, ptrdiff_t ld,
                                   const float *row_scale, int nb, float *dst)
{
    const matrix m = {src, ld, rows, k, row_scale};
    pack_panels(&m, 1, nb, dst, f32_from_f8_e4m3);
}
void MICA_K(pack_f32_from_f8_e5m2)(int rows, int k, const uint8_t *src, ptrdiff_t ld,
                                   const float *row_scale, int nb, float *dst)
{
    const matrix m = {src, ld, rows, k, row_scale};
    pack_panels(&m, 1, nb, dst, f32_from_f8_e5m2);
}
/* The panels of the two narrow types are walked as 32-bit lanes; vf_store moves bits only. */
void MICA_K(pack_bf16_from_f32)(int rows, int k, const float *src, ptrdiff_t ld,
                                const float *row_scale, int nb, uint16_t *dst)
{
    const matrix m = {src, ld, rows, k, row_scale};
    pack_panels(&m, 2, nb, (float *)(void *)dst, pairs_from_f32);
}
void MICA_K(pack_bf16_from_bf16)(int rows, int k, const uint16_t *src, ptrdiff_t ld,
                                 const float *row_scale, int nb, uint16_t *dst)
{
    const matrix m = {src, ld, rows, k, row_scale};
    if (row_scale)
        pack_panels(&m, 2, nb, (float *)(void *)dst, pairs_from_scaled_bf16);
    else
        pack_panels(&m, 2, nb, (float *)(void *)dst, pairs_from_bf16);
}
void MICA_K(pack_s8)(int rows, int k, const int8_t *src, ptrdiff_t ld, int nb, int8_t *dst)
{
    const matrix m = {src, ld, rows, k, NULL};
    pack_panels(&m, 4, nb, (float *)(void *)dst, quads_from_s8);
}

/* ---------------------------------------------------------------- k-major -- */

MICA_VEC vf load_part(const float *p, int n)
{
    return n >= MICA_W ? vf_load(p) : n > 0 ? vf_load_n(p, n) : vf_zero();
}

void MICA_K(pack_f32_from_kmajor)(int k, int n, const float *src, ptrdiff_t ld, int nb, float *dst)
{
    for (int first = 0; first < n; first += nb) {
        for (int kk = 0; kk < k; kk++, dst += nb) {
            const float *row = src + kk * ld;
            for (int j = 0; j < nb; j += MICA_W)
                vf_store(dst + j, load_part(row + first + j, n - first - j));
        }
    }
}

void MICA_K(pack_bf16_from_kmajor)(int k, int n, const float *src, ptrdiff_t ld, int nb,
                                   uint16_t *dst)
{
    for (int first = 0; first < n; first += nb) {
        for (int kk = 0; kk < k; kk += 2, dst += 2 * (ptrdiff_t)nb) {
            const float *a = src + kk * ld;
            const bool pair = kk + 1 < k;
            for (int j = 0; j < nb; j += MICA_W) {
                const int left = n - first - j;
                const vf low = load_part(a + first + j, left);
                const vf high = pair ? load_part(a + ld + first + j, left) : vf_zero();
                vi_store(dst + 2 * j, vi_bf16_pairs(low, high));
            }
        }
    }
}
