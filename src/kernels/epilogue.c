/* epilogue.c - what follows a matmul, on a tile that is still in the cache:
 *
 *     y = residual + gate * act(acc + bias)          acc f32, or s32 with its scales
 *
 * The activation is chosen once per tile; each case is its own loop. */
#include "kernels/level.h"
#include "kernels/vec_math.h"

/* Everything one vector of a row needs. n == MICA_W: whole, else the first n lanes. */
MICA_VEC vf load_part(const float *p, int n)
{
    return n == MICA_W ? vf_load(p) : vf_load_n(p, n);
}

MICA_VEC void finish(const mica_epilogue *e, mica_kernel_act act, int i, int j, int n, vf v)
{
    v = vf_act(v, act);
    if (e->gate && e->residual)
        v = vf_fma(load_part(e->gate + j, n), v, load_part(e->residual + i * e->ldres + j, n));
    else if (e->gate)
        v = vf_mul(load_part(e->gate + j, n), v);
    else if (e->residual)
        v = vf_add(load_part(e->residual + i * e->ldres + j, n), v);
    if (n == MICA_W)
        vf_store(e->y + i * e->ldy + j, v);
    else
        vf_store_n(e->y + i * e->ldy + j, v, n);
}

MICA_VEC void tile_f32(const mica_epilogue *e, mica_kernel_act act)
{
    for (int i = 0; i < e->m; i++) {
        const float *acc = e->acc + i * e->ldacc;
        int j = 0;
        for (; j + MICA_W <= e->n; j += MICA_W) {
            const vf v = vf_load(acc + j);
            finish(e, act, i, j, MICA_W, e->bias ? vf_add(v, vf_load(e->bias + j)) : v);
        }
        if (j < e->n) {
            const int n = e->n - j;
            const vf v = vf_load_n(acc + j, n);
            finish(e, act, i, j, n, e->bias ? vf_add(v, vf_load_n(e->bias + j, n)) : v);
        }
    }
}

void MICA_K(epilogue_tile)(const mica_epilogue *e)
{
    switch (e->act) {
    case MICA_KERNEL_ACT_SILU:
        tile_f32(e, MICA_KERNEL_ACT_SILU);
        break;
    case MICA_KERNEL_ACT_GELU_TANH:
        tile_f32(e, MICA_KERNEL_ACT_GELU_TANH);
        break;
    case MICA_KERNEL_ACT_GELU_ERF:
        tile_f32(e, MICA_KERNEL_ACT_GELU_ERF);
        break;
    case MICA_KERNEL_ACT_NONE:
        tile_f32(e, MICA_KERNEL_ACT_NONE);
        break;
    }
}

/* The correction of the zero point is done in integers, where it is exact: with 8-bit operands
 * and k <= 65536 both terms stay below 2^31 in magnitude, and so does their difference,
 * which is a sum of k products of (u8 - zero) and s8. */
MICA_VEC vf dequantized(const mica_epilogue_s32 *s, int i, int j, int n)
{
    const bool whole = n == MICA_W;
    const int32_t *acc = s->acc + i * s->ldacc + j;
    vi sum = whole ? vi_load(acc) : vi_load_n(acc, n);
    if (s->row_zero) {
        const int32_t *p = s->col_sum + j;
        sum = vi_sub(sum, vi_mul(vi_set1(s->row_zero[i]), whole ? vi_load(p) : vi_load_n(p, n)));
    }
    const vf scale = vf_mul(vf_set1(s->row_scale[i]), load_part(s->col_scale + j, n));
    const vf bias = s->e.bias ? load_part(s->e.bias + j, n) : vf_zero();
    return vf_fma(scale, vf_from_vi(sum), bias);
}

MICA_VEC void tile_s32(const mica_epilogue_s32 *s, mica_kernel_act act)
{
    for (int i = 0; i < s->e.m; i++) {
        int j = 0;
        for (; j + MICA_W <= s->e.n; j += MICA_W)
            finish(&s->e, act, i, j, MICA_W, dequantized(s, i, j, MICA_W));
        if (j < s->e.n)
            finish(&s->e, act, i, j, s->e.n - j, dequantized(s, i, j, s->e.n - j));
    }
}

void MICA_K(epilogue_s32_tile)(const mica_epilogue_s32 *s)
{
    switch (s->e.act) {
    case MICA_KERNEL_ACT_SILU:
        tile_s32(s, MICA_KERNEL_ACT_SILU);
        break;
    case MICA_KERNEL_ACT_GELU_TANH:
        tile_s32(s, MICA_KERNEL_ACT_GELU_TANH);
        break;
    case MICA_KERNEL_ACT_GELU_ERF:
        tile_s32(s, MICA_KERNEL_ACT_GELU_ERF);
        break;
    case MICA_KERNEL_ACT_NONE:
        tile_s32(s, MICA_KERNEL_ACT_NONE);
        break;
    }
}
