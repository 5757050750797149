/* kernel_levels.h - the symbols of all compilations, for the tables in kernels.c alone. */
#ifndef MICA_KERNELS_KERNEL_LEVELS_H
#define MICA_KERNELS_KERNEL_LEVELS_H

#include "kernels/kernels.h"

#define MICA_KERNEL_DECLARE(slot) mica_kernel_##slot mica_##slot##__base;
MICA_KERNEL_LIST(MICA_KERNEL_DECLARE)
#undef MICA_KERNEL_DECLARE

#ifdef MICA_KERNELS_X86
#define MICA_KERNEL_DECLARE(slot)                                                                  \
    mica_kernel_##slot mica_##slot##__v2, mica_##slot##__v3, mica_##slot##__v4;
MICA_KERNEL_LIST(MICA_KERNEL_DECLARE)
#undef MICA_KERNEL_DECLARE
mica_kernel_gemm_s8 mica_gemm_s8__vnni;
mica_kernel_digits_from_f32 mica_digits_from_f32__bytes;
mica_kernel_dot_digits mica_dot_digits__bytes;
mica_kernel_gemm_bf16 mica_gemm_bf16__bf16;
mica_kernel_softmax_step_bf16 mica_softmax_step_bf16__bf16;
#endif

#endif
