/* convert.c - rows of one number format to another, with a factor: dst = src * scale.
 *
 * All go through f32 in registers; a load function per source and a store function per
 * destination, inlined into one loop each. The last partial vector goes through a buffer. */
#include "kernels/level.h"
#include "kernels/vec.h"

typedef vf load16(const uint16_t *p);
typedef vf load8(const uint8_t *p);

MICA_VEC void f32_from_16(int64_t n, const uint16_t *src, float scale, float *dst, load16 *load)
{
    const vf s = vf_set1(scale);
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(dst + i, vf_mul(load(src + i), s));
    if (i < n) {
        vec_buffer b;
        vec_buffer_load(&b, src + i, (int)(n - i), sizeof(*src));
        vf_store_n(dst + i, vf_mul(load(b.u16), s), (int)(n - i));
    }
}

MICA_VEC void f32_from_8(int64_t n, const uint8_t *src, float scale, float *dst, load8 *load)
{
    const vf s = vf_set1(scale);
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(dst + i, vf_mul(load(src + i), s));
    if (i < n) {
        vec_buffer b;
        vec_buffer_load(&b, src + i, (int)(n - i), sizeof(*src));
        vf_store_n(dst + i, vf_mul(load(b.u8), s), (int)(n - i));
    }
}

void MICA_K(f32_from_bf16)(int64_t n, const uint16_t *src, float scale, float *dst)
{
    f32_from_16(n, src, scale, dst, vf_from_bf16);
}
void MICA_K(f32_from_f16)(int64_t n, const uint16_t *src, float scale, float *dst)
{
    f32_from_16(n, src, scale, dst, vf_from_f16);
}
void MICA_K(f32_from_f8_e4m3)(int64_t n, const uint8_t *src, float scale, float *dst)
{
    f32_from_8(n, src, scale, dst, vf_from_f8_e4m3);
}
void MICA_K(f32_from_f8_e5m2)(int64_t n, const uint8_t *src, float scale, float *dst)
{
    f32_from_8(n, src, scale, dst, vf_from_f8_e5m2);
}

void MICA_K(bf16_from_f32)(int64_t n, const float *src, float scale, uint16_t *dst)
{
    const vf s = vf_set1(scale);
    int64_t i = 0;
    for (; i + 2 * MICA_W <= n; i += 2 * MICA_W)
        vi_store(dst + i, vi_bf16_from_2vf(vf_mul(vf_load(src + i), s),
                                           vf_mul(vf_load(src + i + MICA_W), s)));
    for (; i < n; i += MICA_W) {
        const int k = n - i < MICA_W ? (int)(n - i) : MICA_W;
        vec_buffer b;
        vec_buffer_load(&b, src + i, k, sizeof(*src));
        vf_to_bf16(b.u16, vf_mul(vf_load(b.f32), s));
        memcpy(dst + i, b.u16, (size_t)k * sizeof(*dst));
    }
}
