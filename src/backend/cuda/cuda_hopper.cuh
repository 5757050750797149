/* cuda_hopper.cuh - instructions of Hopper (sm_90a) that CUDA C++ has no names for.
 *
 *     barrier     mbarrier: counts arrivals of threads and bytes of copies; each use is a phase with a parity
 *     copy        boxes of a tensor map to shared memory, of this block or of both of its cluster, and back
 *     multiply    wgmma: 128 threads multiply 64 x 16 by 16 x 64 or 256, both in shared memory, sums in registers
 *
 * Boxes are 64 bf16 (128 bytes) wide, in the swizzle of 128 bytes: chunk c (16 bytes) of row r lies at c ^ (r % 8),
 * rows behind each other. Addresses of shared memory are 32-bit and in this block's window.
 *
 * PTX ISA 8.0, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate" and "mbarrier". */
#ifndef MICA_BACKEND_CUDA_HOPPER_CUH
#define MICA_BACKEND_CUDA_HOPPER_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>

#define HOPPER static __device__ __forceinline__

HOPPER uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* --------------------------------------------------------------- barriers -- */

HOPPER void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

/* Barriers that were made are seen by copies and by the other block of the cluster. */
HOPPER void barriers_are_made(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives, and this phase waits for so many bytes as well. */
HOPPER void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

/* Arrives at the same barrier of block `rank` of the cluster. Its default scope is the block's: a wider release
 * costs a fence of the whole GPU in every step, and what was read here went by wgmma, which is done. */
HOPPER void barrier_arrive(uint32_t barrier, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}

/* Arrives at a barrier of this block. */
HOPPER void barrier_arrive_here(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Until the phase of this parity has ended. */
HOPPER void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t ended;
    do {
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}"
                     : "=r"(ended)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!ended);
}

HOPPER uint32_t cluster_rank(void)
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of all blocks of the cluster but those that have ended; what was written before is seen behind it. */
HOPPER void cluster_wait(void)
{
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}

/* 128 threads of this block; id 1 to 15, 0 is __syncthreads'. */
HOPPER void warpgroup_wait(int id)
{
    asm volatile("barrier.sync %0, 128;" ::"r"(id) : "memory");
}

/* ----------------------------------------------------------------- copies -- */

/* The box at (column, row), zeros where the tensor ends; its bytes count at the barrier. */
HOPPER void copy_box(uint32_t to, const CUtensorMap *map, int column, int row, uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}

/* What L2 does with the lines of a copy: read once, they go before all others; read by all blocks, they stay. */
#define HOPPER_ONCE  0x12f0000000000000ull
#define HOPPER_OFTEN 0x14f0000000000000ull

HOPPER void copy_box_kept(uint32_t to, const CUtensorMap *map, int column, int row,
                          uint32_t barrier, uint64_t keep)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier), "l"(keep)
                 : "memory");
}

/* 16 bytes at the same place of block `rank` of the cluster. */
HOPPER float4 load_from(uint32_t address, int rank)
{
    float4 v;
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %4, %5;\n"
                 "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n"
                 "}"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address), "r"(rank)
                 : "memory");
    return v;
}

/* The same into both blocks of the cluster, at the same place, with a barrier in each. */
HOPPER void copy_box_to_both(uint32_t to, const CUtensorMap *map, int column, int row,
                             uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier), "h"((uint16_t)3)
                 : "memory");
}

/* Shared memory to the tensor's box, nothing outside of the tensor; part of the thread's group of stores. */
HOPPER void store_box(const CUtensorMap *map, uint32_t from, int column, int row)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
        "r"(from), "r"(column), "r"(row)
        : "memory");
}

HOPPER void stores_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Until this thread's stores have read shared memory. */
HOPPER void stores_have_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* What this thread wrote to shared memory is seen by copies that begin behind a barrier. */
HOPPER void writes_are_for_copies(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Four matrices of 8 x 8 bf16, as wgmma leaves them in a warp; a lane gives the place of one row of 16 bytes. */
HOPPER void store_matrices(uint32_t to, const uint32_t (&v)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

/* --------------------------------------------------------------- multiply -- */

/* Rows of one box (1,024-byte aligned), or of several behind each other, as wgmma is told of them: address, and 1,024
 * bytes from 8 rows to the next 8, in units of 16; swizzle of 128 bytes. 16 columns further on is 2 units more. */
HOPPER uint64_t rows_at(uint32_t address)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

HOPPER void multiply_begins(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

HOPPER void multiply_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING of the groups that were committed are not done. */
template <int PENDING> HOPPER void multiply_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Sums are read behind this: the compiler must not do so before the wait. */
template <int N> HOPPER void sums_are_done(float (&d)[N])
{
    multiply_wait<0>();
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

#define HOPPER_4(d, i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define HOPPER_16(d, i) HOPPER_4(d, i), HOPPER_4(d, i + 4), HOPPER_4(d, i + 8), HOPPER_4(d, i + 12)
#define HOPPER_64(d, i)                                                                            \
    HOPPER_16(d, i), HOPPER_16(d, i + 16), HOPPER_16(d, i + 32), HOPPER_16(d, i + 48)

/* d = a b^T, or d += where add: a 64 rows, b 256 rows of 16 columns (rows_at). d[4 n + 2 h + i] of lane l in warp w
 * is the sum at row 16 w + 8 h + l / 4, column 8 n + 2 (l % 4) + i. */
HOPPER void multiply_64x256(float (&d)[128], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "
                 "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "
                 "%123, %124, %125, %126, %127}, %128, %129, p, 1, 1, 0, 0;\n"
                 "}"
                 : HOPPER_64(d, 0), HOPPER_64(d, 64)
                 : "l"(a), "l"(b), "r"(add));
}

/* The same with 64 rows of b. */
HOPPER void multiply_64x64(float (&d)[32], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n"
                 "}"
                 : HOPPER_16(d, 0), HOPPER_16(d, 16)
                 : "l"(a), "l"(b), "r"(add));
}

#endif
