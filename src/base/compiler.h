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

/* The thread sanitizer sees no barrier of an OpenMP runtime. A function that hands work to a
 * team is left out (its frame is what the runtime passes on) and says itself what is handed over:
 * what a thread did before RELEASE(p) is seen after another's ACQUIRE(p). */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *p);
void __tsan_release(void *p);
#define MICA_NO_TSAN         __attribute__((no_sanitize("thread")))
#define MICA_TSAN_ACQUIRE(p) __tsan_acquire(p)
#define MICA_TSAN_RELEASE(p) __tsan_release(p)
#else
#define MICA_NO_TSAN
#define MICA_TSAN_ACQUIRE(p) ((void)(p))
#define MICA_TSAN_RELEASE(p) ((void)(p))
#endif

#define MICA_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MICA_MIN(a, b)    ((a) < (b) ? (a) : (b))
#define MICA_MAX(a, b)    ((a) > (b) ? (a) : (b))

#endif
