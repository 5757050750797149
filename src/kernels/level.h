/* level.h - the names of one compilation of a kernel source.
 *
 * CMakeLists.txt compiles each family once per level with
 *     -DMICA_KERNEL_SUFFIX=v3        the suffix of its symbols
 *     -march=...                     what vec.h builds on
 * MICA_K(silu) is then mica_silu__v3. Files compiled this way include headers of this folder
 * and libc only, and no header defines a function that is not static: the linker keeps one
 * copy of an inline function with external linkage, and that could be the AVX-512 one. */
#ifndef MICA_KERNELS_LEVEL_H
#define MICA_KERNELS_LEVEL_H

#include "kernels/kernels.h"

#ifndef MICA_KERNEL_SUFFIX
#error "kernel sources are compiled by src/kernels/CMakeLists.txt, which names the level"
#endif

#define MICA_K_JOIN_(name, suffix) mica_##name##__##suffix
#define MICA_K_JOIN(name, suffix)  MICA_K_JOIN_(name, suffix)
#define MICA_K(name)               MICA_K_JOIN(name, MICA_KERNEL_SUFFIX)

/* Prototypes of this level, so that a definition that differs from its contract's type is an error. */
#define MICA_KERNEL_PROTOTYPE(slot) mica_kernel_##slot MICA_K(slot);
MICA_KERNEL_LIST(MICA_KERNEL_PROTOTYPE)
MICA_KERNEL_LIST_BYTES(MICA_KERNEL_PROTOTYPE)
#undef MICA_KERNEL_PROTOTYPE

#endif
