/* compiler.h - every compiler extension the project uses, each with a plain-C fallback. */
#ifndef MICA_BASE_COMPILER_H
#define MICA_BASE_COMPILER_H

#if defined(__GNUC__) || defined(__clang__)
#define MICA_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define MICA_LIKELY(x)         __builtin_expect(!!(x), 1)
#define MICA_UNLIKELY(x)       __builtin_expect(!!(x), 0)
#define MICA_RESTRICT          __restrict__
#define MICA_WARN_UNUSED       __attribute__((warn_unused_result))
#define MICA_INLINE            static inline __attribute__((always_inline))
#define MICA_PREFETCH(p)       __builtin_prefetch(p)
#else
#define MICA_PRINTF(fmt, args)
#define MICA_LIKELY(x)   (x)
#define MICA_UNLIKELY(x) (x)
#define MICA_RESTRICT
#define MICA_WARN_UNUSED
#define MICA_INLINE      static inline
#define MICA_PREFETCH(p) ((void)(p))
#endif

/* In a loop that looks at memory until another thread changes it. */
#if defined(__x86_64__) || defined(__i386__)
#define MICA_RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define MICA_RELAX() __asm__ volatile("yield")
#else
#define MICA_RELAX() ((void)0)
#endif

#define MICA_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MICA_MIN(a, b)    ((a) < (b) ? (a) : (b))
#define MICA_MAX(a, b)    ((a) > (b) ? (a) : (b))

#endif
