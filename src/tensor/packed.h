/* packed.h - the packed weight types, one number at a time.
 *
 *     type     block  bytes  bits    what a block holds
 *     q8_0        32     34  8.5     f16 scale; 8-bit integers
 *     q4_0        32     18  4.5     f16 scale; nibbles less 8: byte j has numbers j and j + 16
 *     q4_1        32     20  5       f16 scale and minimum; nibbles
 *     q5_0, q5_1  32  22,24  5.5, 6  the same with a fifth bit from a 32-bit word
 *     q2_k       256     84  2.625   f16 scale and minimum of 16 4-bit scales and minima; 2 bits
 *     q3_k       256    110  3.4375  f16 scale of 16 6-bit scales; 2 bits and a mask of third bits
 *     q4_k, q5_k 256 144,176 4.5,5.5 f16 scale and minimum of 8 6-bit scales and minima
 *     q6_k       256    210  6.5625  f16 scale of 16 8-bit scales; 4 + 2 bits less 32
 *     iq4_nl      32     18  4.5     f16 scale; nibbles choose of 16 uneven numbers
 *     iq4_xs     256    136  4.25    f16 scale of 8 6-bit scales; the same numbers
 *     mxfp4       32     17  4.25    a power of two; nibbles are e2m1 floats
 *     mlx2 .. 8   32   4*bits        a stream of bits, low first, in little-endian 32-bit words;
 *                                    scales and biases are tensors of their own (mica_tensor_scale)
 *
 * GGUF's types as ggml defines them (ggml-common.h, ggml-quants.c dequantize_row_*), MLX's as
 * mlx.core.quantize does. This is the reference that the kernels are tested against, and what small
 * tables and tools use; products run in src/kernels. */
#ifndef MICA_TENSOR_PACKED_H
#define MICA_TENSOR_PACKED_H

#include "tensor/tensor.h"

#define MICA_PACKED_BLOCK 256 /* elements of the largest block */

/* All numbers of a block; of affine types the integers themselves. out: the type's `block` floats. */
void mica_packed_read_block(mica_dtype dtype, const void *block, float *out);
/* Number i of consecutive blocks. */
float mica_packed_read(mica_dtype dtype, const void *data, int64_t i);

#endif
