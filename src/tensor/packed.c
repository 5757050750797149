/* packed.c - blocks of packed weights to numbers, plainly; packed.h has the table.
 *
 * Every function decodes one block in the order of its numbers. Fields are read by byte offset: blocks
 * have odd sizes and lie unaligned. Speed is not meant; see src/kernels/packed_rows.c for that. */
#include "tensor/packed.h"

#include "base/half.h"

#include <string.h>

static const int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
static const int8_t E2M1_TWICE[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static float half_at(const uint8_t *p)
{
    return mica_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

/* ------------------------------------------------------- blocks of 32 -- */

/* out[j], out[j + 16] from byte j: scale * (nibble, fifth bit in place) + offset. */
static void read_nibbles(const uint8_t *qs, uint32_t fifth, float scale, float offset, float *out)
{
    for (int j = 0; j < 16; j++) {
        const int low = (qs[j] & 15) | (int)(fifth >> j & 1) << 4;
        const int high = qs[j] >> 4 | (int)(fifth >> (j + 16) & 1) << 4;
        out[j] = scale * (float)low + offset;
        out[j + 16] = scale * (float)high + offset;
    }
}

static uint32_t word_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void read_table(const uint8_t *qs, const int8_t *table, float scale, float *out)
{
    for (int j = 0; j < 16; j++) {
        out[j] = scale * (float)table[qs[j] & 15];
        out[j + 16] = scale * (float)table[qs[j] >> 4];
    }
}

static void read_q8_0(const uint8_t *b, float *out)
{
    for (int j = 0; j < 32; j++)
        out[j] = half_at(b) * (float)(int8_t)b[2 + j];
}

/* 2^(e - 128): half of the shared scale, as the table holds twice the e2m1 numbers. */
static float half_of_e8m0(uint8_t e)
{
    const uint32_t bits = e < 2 ? UINT32_C(0x00200000) << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* ------------------------------------------------------ blocks of 256 -- */

static void read_q2_k(const uint8_t *b, float *out)
{
    const float d = half_at(b + 80), least = half_at(b + 82);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, plane = i % 128 / 32, l = i % 32;
        const uint8_t s = b[i / 16];
        const int q = b[16 + 32 * half + l] >> 2 * plane & 3;
        out[i] = d * (float)(s & 15) * (float)q - least * (float)(s >> 4);
    }
}

/* Scale i of 16, 6 bits: low nibbles in bytes 0-7, pairs of high bits in bytes 8-11. */
static int q3_k_scale(const uint8_t *s, int i)
{
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    return (low | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32;
}

static void read_q3_k(const uint8_t *b, float *out)
{
    const float d = half_at(b + 108);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, plane = i % 128 / 32, l = i % 32;
        const int q = (b[32 + 32 * half + l] >> 2 * plane & 3) - (b[l] >> (i / 32) & 1 ? 0 : 4);
        out[i] = d * (float)q3_k_scale(b + 96, i / 16) * (float)q;
    }
}

/* Scale and minimum j of 8, 6 bits each, of 12 bytes. */
static void k4_scale(const uint8_t *s, int j, int *scale, int *least)
{
    *scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    *least = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
}

/* q4_k, and q5_k with its plane of fifth bits. */
static void read_q45_k(const uint8_t *b, const uint8_t *fifth, const uint8_t *qs, float *out)
{
    const float d = half_at(b), dmin = half_at(b + 2);
    for (int i = 0; i < 256; i++) {
        const int part = i / 32, l = i % 32;
        int scale, least, q = qs[32 * (part / 2) + l] >> 4 * (part % 2) & 15;
        if (fifth)
            q |= (fifth[l] >> part & 1) << 4;
        k4_scale(b + 4, part, &scale, &least);
        out[i] = d * (float)scale * (float)q - dmin * (float)least;
    }
}

static void read_q6_k(const uint8_t *b, float *out)
{
    const float d = half_at(b + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, plane = i % 128 / 32, l = i % 32;
        const int low = b[64 * half + 32 * (plane % 2) + l] >> 4 * (plane / 2) & 15;
        const int high = b[128 + 32 * half + l] >> 2 * plane & 3;
        out[i] = d * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

static void read_iq4_xs(const uint8_t *b, float *out)
{
    const float d = half_at(b);
    const int high = b[2] | b[3] << 8;
    for (int j = 0; j < 8; j++) {
        const int scale = (b[4 + j / 2] >> 4 * (j % 2) & 15) | (high >> 2 * j & 3) << 4;
        read_table(b + 8 + 16 * j, IQ4_VALUES, d * (float)(scale - 32), out + 32 * j);
    }
}

static void read_affine(int bits, const uint8_t *b, float *out)
{
    for (int i = 0; i < 32; i++) {
        const int at = i * bits / 8, shift = i * bits % 8;
        const int two = b[at] | (shift + bits > 8 ? b[at + 1] << 8 : 0);
        out[i] = (float)(two >> shift & ((1 << bits) - 1));
    }
}

void mica_packed_read_block(mica_dtype dtype, const void *block, float *out)
{
    const uint8_t *b = block;
    const float d = half_at(b);
    switch (dtype) {
    case MICA_DTYPE_Q8_0:
        read_q8_0(b, out);
        break;
    case MICA_DTYPE_Q4_0:
        read_nibbles(b + 2, 0, d, -8.0f * d, out);
        break;
    case MICA_DTYPE_Q4_1:
        read_nibbles(b + 4, 0, d, half_at(b + 2), out);
        break;
    case MICA_DTYPE_Q5_0:
        read_nibbles(b + 6, word_at(b + 2), d, -16.0f * d, out);
        break;
    case MICA_DTYPE_Q5_1:
        read_nibbles(b + 8, word_at(b + 4), d, half_at(b + 2), out);
        break;
    case MICA_DTYPE_Q2_K:
        read_q2_k(b, out);
        break;
    case MICA_DTYPE_Q3_K:
        read_q3_k(b, out);
        break;
    case MICA_DTYPE_Q4_K:
        read_q45_k(b, NULL, b + 16, out);
        break;
    case MICA_DTYPE_Q5_K:
        read_q45_k(b, b + 16, b + 48, out);
        break;
    case MICA_DTYPE_Q6_K:
        read_q6_k(b, out);
        break;
    case MICA_DTYPE_IQ4_NL:
        read_table(b + 2, IQ4_VALUES, d, out);
        break;
    case MICA_DTYPE_IQ4_XS:
        read_iq4_xs(b, out);
        break;
    case MICA_DTYPE_MXFP4:
        read_table(b + 1, E2M1_TWICE, half_of_e8m0(b[0]), out);
        break;
    default:
        read_affine(mica_dtype_get(dtype)->size / 4, b, out);
    }
}

float mica_packed_read(mica_dtype dtype, const void *data, int64_t i)
{
    const mica_dtype_info *info = mica_dtype_get(dtype);
    float block[MICA_PACKED_BLOCK];
    mica_packed_read_block(dtype, (const uint8_t *)data + i / info->block * info->size, block);
    return block[i % info->block];
}
