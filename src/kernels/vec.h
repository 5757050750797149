/* vec.h - the small vector language the kernels are written in.
 *
 *     vf   MICA_W floats          4 (any CPU), 8 (AVX2), 16 (AVX-512)
 *     vi   MICA_W 32-bit integers
 *     vm   MICA_W truth values
 *
 * The three vec_*.h give the same operations, so that a family has one source. Operations
 * act on lanes as IEEE arithmetic does, with these agreements:
 *   vf_fma(a, b, c)   a*b + c, fused where the machine can
 *   vf_max, vf_min    (a > b ? a : b), (a < b ? a : b): the second operand when either is NaN
 *   vf_round          to nearest even; |x| < 2^22
 *   vf_scale2(x, n)   x * 2^n for whole n in [-160, 160], denormal results included
 *   *_load_n, *_store_n  the first n lanes, 0 <= n < MICA_W; loads fill with zeros
 *   vf_from_<type>    MICA_W stored numbers to floats, exact
 *   vi_from_words(w, v)  bytes v * MICA_W ... of 16 that are four words in registers (through memory they
 *                     would wait for each other)
 *   vi_bits(p, b, v)  numbers v * MICA_W ... of 32 that are a stream of b bits each, low first; exactly
 *                     the stream's 4 * b bytes are read; b is 2 to 6
 *   vi_nibbles(p, v)  the same of 4 bits for vec_table and vec_even: the rest of the lane is anything
 *   vi_bit(w, v)      bits v * MICA_W ... of a word, one a lane
 *   vec_table         16 floats times a factor, vf_table looks them up by the lowest 4 bits of a lane
 *   vec_even          16 floats scale * i + bias, the same
 *   vec_f16           one f16, at any address
 * Also here: the register tile of gemm_*.c, which depends on the register file: MICA_TILE_MR rows
 * of MICA_TILE_NV vectors, and MICA_TILES(X), which lists all tiles up to that size. */
#ifndef MICA_KERNELS_VEC_H
#define MICA_KERNELS_VEC_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) && !defined(__clang__)
#error "the kernels need GCC or clang (vector types)"
#endif
#define MICA_VEC           static inline __attribute__((always_inline))
#define MICA_PRAGMA_(text) _Pragma(#text)
/* Before a loop of a constant number of iterations, at most n: all of them, early enough for
 * arrays indexed by the counter to become registers (clang takes a count later than that). */
#ifdef __clang__
#define MICA_UNROLL(n) MICA_PRAGMA_(clang loop unroll(full))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MICA_UNROLL(                                                                               \
    n) /* these builds are slow anyway, and at -O1 gcc complains of loops it dissolved */
#else
#define MICA_UNROLL(n) MICA_PRAGMA_(GCC unroll n)
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/vec_avx2.h"
#else
#include "kernels/vec_generic.h"
#endif

/* The first n elements of `size` bytes at p, zero-filled to a vector, through a buffer: for the
 * ends of rows of narrow types. */
typedef union vec_buffer {
    float f32[MICA_W];
    int32_t s32[MICA_W];
    uint16_t u16[MICA_W];
    uint8_t u8[MICA_W];
} vec_buffer;
MICA_VEC void vec_buffer_load(vec_buffer *b, const void *p, int n, size_t size)
{
    memset(b, 0, sizeof(*b));
    memcpy(b, p, (size_t)n * size);
}

#endif
