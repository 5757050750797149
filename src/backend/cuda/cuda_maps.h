/* cuda_maps.h - tensor maps, see cuda_maps.c. */
#ifndef MICA_BACKEND_CUDA_MAPS_H
#define MICA_BACKEND_CUDA_MAPS_H

#include "backend/cuda/cuda_backend.h"

#include <cuda.h>

#define MICA_CUDA_MAP_DEPTH 64 /* columns of a box: 128 bytes, in the swizzle of 128 bytes */

/* Whether this driver makes maps. */
bool mica_cuda_maps_exist(mica_cuda_backend *be);
/* The map of a bf16 matrix whose rows are ld apart, in boxes of `box` <= 256 rows. data and rows start at multiples of
 * 16 bytes. */
mica_status mica_cuda_map_make(mica_cuda_backend *be, CUtensorMap *map, const void *data,
                               int64_t rows, int64_t columns, int64_t ld, int box, mica_err *err);

#endif
