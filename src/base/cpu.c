/* cpu.c - processor features by cpuid, and the level in use.
 *
 * A level is the x86-64 micro-architecture level of the psABI: everything it lists must be there,
 * and the operating system must save the registers (the compiler's builtin checks XCR0). The
 * level in use is one atomic word, written before the first engine opens. */
#include "base/cpu.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

static const char *const level_names[] = {"auto", "baseline",     "v2",    "v3",
                                          "v4",   "v4+bf16+vnni", "v4+amx"};

/* 0 (AUTO): not limited. */
static atomic_int level_limit;

#if defined(__x86_64__) && defined(__GNUC__)
/* Not every compiler's builtin knows F16C: leaf 1, ECX bit 29. cpuid leaves a virtual machine, which takes
 * 20 to 70 us, and levels are asked for by every small operation: looked up once. */
static bool has_f16c(void)
{
    static atomic_int known; /* 0: not yet, 1: no, 2: yes */
    unsigned a, b, c, d;
    int state = atomic_load_explicit(&known, memory_order_relaxed);
    if (state == 0) {
        state = __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29)) ? 2 : 1;
        atomic_store_explicit(&known, state, memory_order_relaxed);
    }
    return state == 2;
}
static bool has_v2(void)
{
    return __builtin_cpu_supports("sse3") && __builtin_cpu_supports("ssse3") &&
           __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("sse4.2") &&
           __builtin_cpu_supports("popcnt");
}
static bool has_v3(void)
{
    return has_v2() && __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("fma") && has_f16c();
}
static bool has_v4(void)
{
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
static bool has_vnni(void)
{
    return has_v4() && __builtin_cpu_supports("avx512vnni");
}
static bool has_vbmi(void)
{
    return has_vnni() && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
}
static bool has_bf16(void)
{
    return has_v4() && __builtin_cpu_supports("avx512bf16");
}
/* Leaf 7, EDX: bits 22 AMX_BF16, 24 AMX_TILE, 25 AMX_INT8. The system must save the tiles too
 * (XCR0 bits 17 and 18); leave to use them is asked for by oneDNN, the only one who does. */
static bool has_amx(void)
{
    const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25, saved = 3u << 17;
    unsigned a, b, c, d, low, high;
    if (!has_vnni() || !has_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (d & wanted) == wanted && (low & saved) == saved;
}
#else
static bool has_v2(void)
{
    return false;
}
static bool has_v3(void)
{
    return false;
}
static bool has_v4(void)
{
    return false;
}
static bool has_vnni(void)
{
    return false;
}
static bool has_vbmi(void)
{
    return false;
}
static bool has_bf16(void)
{
    return false;
}
static bool has_amx(void)
{
    return false;
}
#endif

static mica_cpu_level find_best_level(void)
{
    if (has_amx())
        return MICA_CPU_LEVEL_V4_AMX;
    if (has_vnni() && has_bf16())
        return MICA_CPU_LEVEL_V4_BF16_VNNI;
    if (has_v4())
        return MICA_CPU_LEVEL_V4;
    if (has_v3())
        return MICA_CPU_LEVEL_V3;
    return has_v2() ? MICA_CPU_LEVEL_V2 : MICA_CPU_LEVEL_BASELINE;
}

/* Looked up once too, because of has_amx; whoever comes at the same time finds the same. */
mica_cpu_level mica_cpu_best_level(void)
{
    static atomic_int known; /* AUTO: not yet */
    int best = atomic_load_explicit(&known, memory_order_relaxed);
    if (best == MICA_CPU_LEVEL_AUTO) {
        best = (int)find_best_level();
        atomic_store_explicit(&known, best, memory_order_relaxed);
    }
    return (mica_cpu_level)best;
}

mica_cpu_level mica_cpu_get_level(void)
{
    const int limit = atomic_load(&level_limit);
    return limit == MICA_CPU_LEVEL_AUTO ? mica_cpu_best_level() : (mica_cpu_level)limit;
}

mica_status mica_cpu_set_level(mica_cpu_level level, mica_err *err)
{
    if (level > mica_cpu_best_level())
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "this machine has no CPU level %s; its best is %s",
                         mica_cpu_level_name(level), mica_cpu_level_name(mica_cpu_best_level()));
    atomic_store(&level_limit, (int)level);
    return MICA_OK;
}

bool mica_cpu_has_vnni(void)
{
    return mica_cpu_get_level() >= MICA_CPU_LEVEL_V4 && has_vnni();
}

bool mica_cpu_has_vbmi(void)
{
    return mica_cpu_get_level() >= MICA_CPU_LEVEL_V4 && has_vbmi();
}

bool mica_cpu_has_bf16(void)
{
    return mica_cpu_get_level() >= MICA_CPU_LEVEL_V4_BF16_VNNI && has_bf16();
}

bool mica_cpu_has_amx(void)
{
    return mica_cpu_get_level() == MICA_CPU_LEVEL_V4_AMX && has_amx();
}

const char *mica_cpu_level_name(mica_cpu_level level)
{
    return (size_t)level < MICA_ARRAY_LEN(level_names) ? level_names[level] : "unknown";
}

bool mica_cpu_level_parse(const char *name, mica_cpu_level *out)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(level_names); i++) {
        if (strcmp(level_names[i], name) == 0) {
            *out = (mica_cpu_level)i;
            return true;
        }
    }
    return false;
}

int mica_cpu_count(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
#endif
    const long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
}
