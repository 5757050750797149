/* pack_weights.h - numbers to packed weights: what `mica convert` writes.
 *
 * GGUF's blocks follow the definitions of packed.h, so any of its readers decodes them; how the scales are
 * found is each writer's own affair. Affine groups are written as mlx.core.quantize lays them out. */
#ifndef MICA_TENSOR_PACK_WEIGHTS_H
#define MICA_TENSOR_PACK_WEIGHTS_H

#include "tensor/tensor.h"

/* One block of finite numbers; x: the type's `block` floats. */
void mica_packed_write_block(mica_dtype dtype, const float *x, void *block);

/* A group of an affine type: 32, 64 or 128 finite numbers into group * bits / 8 bytes of words. scale
 * and bias are bf16 bits, and the integers are the best for their rounded values. */
void mica_affine_write_group(int bits, int group, const float *x, void *words, uint16_t *scale,
                             uint16_t *bias);

#endif
