/* kernels.c - the tables: which compilation of each kernel a level uses.
 *
 *     base      any CPU               v2   x86-64-v2      v3   AVX2, FMA, F16C      v4   AVX-512
 *     vnni      v4 + AVX512_VNNI      gemm_s8 alone
 *     bytes     v4 + VNNI, VBMI, GFNI digits_from_f32 and dot_digits
 *     bf16      v4 + AVX512_BF16      gemm_bf16 and softmax_step_bf16
 *
 * A level's table is constant; V4 has three, because VNNI came one generation later than the rest and
 * VBMI with GFNI one more, and V4_BF16_VNNI too, because not every AVX512_BF16 is faster than f32 and not
 * every such processor has VBMI (Cooper Lake). The choice is made at every call from base/cpu.h and costs a
 * few loads: callers keep the pointer. */
#include "kernels/kernel_levels.h"

#include "base/cpu.h"

/* Register tile of gemm_*.c per compilation: MICA_TILE_MR and NV * W of vec_*.h. */
#define TILE(mr, nb)                                                                               \
    .gemm_f32_mr = (mr), .gemm_f32_nb = (nb), .gemm_bf16_mr = (mr), .gemm_bf16_nb = (nb),          \
    .gemm_s8_mr = (mr), .gemm_s8_nb = (nb)

#define NO_BYTES .digits_from_f32 = NULL, .dot_digits = NULL
#define BYTES    .digits_from_f32 = mica_digits_from_f32__bytes, .dot_digits = mica_dot_digits__bytes

/* clang-format off */
#define USE_BASE(slot) .slot = mica_##slot##__base,
static const mica_kernels table_base = {
    .level = MICA_CPU_LEVEL_BASELINE, .name = "baseline", TILE(3, 16),
    MICA_KERNEL_LIST(USE_BASE)
};

#ifdef MICA_KERNELS_X86
#define USE_V2(slot) .slot = mica_##slot##__v2,
#define USE_V3(slot) .slot = mica_##slot##__v3,
#define USE_V4(slot) .slot = mica_##slot##__v4,
static const mica_kernels table_v2 = {
    .level = MICA_CPU_LEVEL_V2, .name = "v2", TILE(3, 16),
    MICA_KERNEL_LIST(USE_V2)
};
static const mica_kernels table_v3 = {
    .level = MICA_CPU_LEVEL_V3, .name = "v3", TILE(6, 16),
    MICA_KERNEL_LIST(USE_V3)
};
static const mica_kernels table_v4 = {
    .level = MICA_CPU_LEVEL_V4, .name = "v4", TILE(8, 48),
    MICA_KERNEL_LIST(USE_V4)
};
/* VNNI alone, then with VBMI and GFNI. */
#define TABLE_VNNI(what)                                                                           \
    .level = MICA_CPU_LEVEL_V4, .name = (what), TILE(8, 48), MICA_KERNEL_LIST_PLAIN(USE_V4)        \
    .softmax_step_bf16 = mica_softmax_step_bf16__v4, .gemm_bf16 = mica_gemm_bf16__v4,              \
    .gemm_s8 = mica_gemm_s8__vnni
static const mica_kernels table_v4_vnni = {TABLE_VNNI("v4+vnni"), NO_BYTES};
static const mica_kernels table_v4_vbmi = {TABLE_VNNI("v4+vnni+vbmi"), BYTES};
#define TABLE_BF16(what, gemm)                                                                     \
    .level = MICA_CPU_LEVEL_V4_BF16_VNNI, .name = (what), TILE(8, 48),                             \
    MICA_KERNEL_LIST_PLAIN(USE_V4) .softmax_step_bf16 = mica_softmax_step_bf16__bf16,              \
    .gemm_bf16 = (gemm), .gemm_s8 = mica_gemm_s8__vnni
static const mica_kernels table_v4_bf16_vnni = {
    TABLE_BF16("v4+bf16+vnni", mica_gemm_bf16__bf16), .has_bf16_dot = true, BYTES};
/* Intel's AVX512_BF16 runs at half the rate of f32 multiply-adds (84 GFLOP/s against 126 for the
 * widened form on an Emerald Rapids core), AMD's at twice. */
static const mica_kernels table_v4_bf16_intel = {
    TABLE_BF16("v4+bf16+vnni, bf16 widened", mica_gemm_bf16__v4), BYTES};
static const mica_kernels table_v4_bf16_old = {
    TABLE_BF16("v4+bf16+vnni, bf16 widened, no vbmi", mica_gemm_bf16__v4), NO_BYTES};
#endif
/* clang-format on */

#ifdef MICA_KERNELS_X86
static bool has_slow_bf16(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
}
#endif

/* The table of exactly this level, whether the machine has it or not. */
static const mica_kernels *find_table(mica_cpu_level level)
{
    switch (level) {
    case MICA_CPU_LEVEL_BASELINE:
        return &table_base;
#ifdef MICA_KERNELS_X86
    case MICA_CPU_LEVEL_V2:
        return &table_v2;
    case MICA_CPU_LEVEL_V3:
        return &table_v3;
    case MICA_CPU_LEVEL_V4:
        return mica_cpu_has_vbmi()   ? &table_v4_vbmi
               : mica_cpu_has_vnni() ? &table_v4_vnni
                                     : &table_v4;
    case MICA_CPU_LEVEL_V4_BF16_VNNI:
    case MICA_CPU_LEVEL_V4_AMX: /* the matrix unit is oneDNN's */
        if (!mica_cpu_has_vbmi())
            return &table_v4_bf16_old;
        return has_slow_bf16() ? &table_v4_bf16_intel : &table_v4_bf16_vnni;
#endif
    default:
        return NULL;
    }
}

const mica_kernels *mica_kernels_get(void)
{
    const mica_kernels *k = find_table(mica_cpu_get_level());
    return k ? k : &table_base;
}

int mica_kernels_list(const mica_kernels *tables[MICA_KERNELS_MAX])
{
    int n = 0;
    tables[n++] = &table_base;
#ifdef MICA_KERNELS_X86
    const mica_cpu_level best = mica_cpu_best_level();
    if (best >= MICA_CPU_LEVEL_V2)
        tables[n++] = &table_v2;
    if (best >= MICA_CPU_LEVEL_V3)
        tables[n++] = &table_v3;
    if (best >= MICA_CPU_LEVEL_V4)
        tables[n++] = &table_v4;
    if (best >= MICA_CPU_LEVEL_V4 && mica_cpu_has_vnni())
        tables[n++] = &table_v4_vnni;
    if (best >= MICA_CPU_LEVEL_V4 && mica_cpu_has_vbmi())
        tables[n++] = &table_v4_vbmi;
    if (best >= MICA_CPU_LEVEL_V4_BF16_VNNI && mica_cpu_has_vbmi())
        tables[n++] = &table_v4_bf16_vnni;
#endif
    return n;
}
