/* pixels.c - pictures: to 8 bits, doubled, copied by rows, transposed.
 *
 * Pictures are channels-last; a row of X pixels of C channels is X*C consecutive floats. */
#include "kernels/level.h"
#include "kernels/vec.h"

/* x/2 + 0.5 is rounded once, as in the references; max with 0 also takes NaN away. */
MICA_VEC vf level_255(vf x)
{
    const vf unit = vf_add(vf_mul(x, vf_set1(0.5f)), vf_set1(0.5f));
    return vf_mul(vf_min(vf_max(unit, vf_zero()), vf_set1(1.0f)), vf_set1(255.0f));
}

void MICA_K(u8_from_f32)(int64_t n, const float *x, uint8_t *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_to_u8(y + i, level_255(vf_load(x + i)));
    if (i < n) {
        uint8_t part[MICA_W];
        vf_to_u8(part, level_255(vf_load_n(x + i, (int)(n - i))));
        memcpy(y + i, part, (size_t)(n - i));
    }
}

MICA_VEC void copy(int n, const float *x, float *y)
{
    int i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_load(x + i));
    if (i < n)
        vf_store_n(y + i, vf_load_n(x + i, n - i), n - i);
}

void MICA_K(upsample2_row)(int pixels, int c, const float *x, float *y)
{
    for (int i = 0; i < pixels; i++, x += c, y += 2 * (ptrdiff_t)c) {
        copy(c, x, y);
        copy(c, x, y + c);
    }
}

void MICA_K(copy_rows)(int rows, int n, const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy)
{
    for (int i = 0; i < rows; i++)
        memcpy(y + i * ldy, x + i * ldx, (size_t)n * sizeof(float));
}

/* Edges of fewer than MICA_W rows or columns. */
static void transpose_edge(int rows, int n, const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++)
            y[j * ldy + i] = x[i * ldx + j];
}

MICA_VEC void transpose_full(const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy)
{
    vf r[MICA_W];
    MICA_UNROLL(MICA_W)
    for (int i = 0; i < MICA_W; i++)
        r[i] = vf_load(x + i * ldx);
    vf_transpose(r);
    MICA_UNROLL(MICA_W)
    for (int i = 0; i < MICA_W; i++)
        vf_store(y + i * ldy, r[i]);
}

void MICA_K(transpose)(int rows, int n, const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy)
{
    for (int i = 0; i < rows; i += MICA_W) {
        for (int j = 0; j < n; j += MICA_W) {
            const float *from = x + i * ldx + j;
            float *to = y + j * ldy + i;
            const int a = rows - i < MICA_W ? rows - i : MICA_W;
            const int b = n - j < MICA_W ? n - j : MICA_W;
            if (a == MICA_W && b == MICA_W)
                transpose_full(from, ldx, to, ldy);
            else
                transpose_edge(a, b, from, ldx, to, ldy);
        }
    }
}
