/* check_support.c - numbers, buffers, verdicts and timing of checkkern (see checkkern.h). */
#include "checkkern.h"

#include <float.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* --------------------------------------------------------------- numbers -- */

uint64_t ck_random(ck *c) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = c->rng += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

int ck_int(ck *c, int low, int high)
{
    return low + (int)(ck_random(c) % (uint64_t)(high - low + 1));
}

double ck_uniform(ck *c, double low, double high)
{
    return low + (high - low) * (double)(ck_random(c) >> 11) * 0x1p-53;
}

double ck_normal(ck *c)
{
    const double u = ck_uniform(c, 1e-12, 1.0), v = ck_uniform(c, 0.0, 6.283185307179586);
    return sqrt(-2.0 * log(u)) * cos(v);
}

int ck_length(ck *c, int most)
{
    static const int edges[] = {1,  2,  3,  4,  7,  8,  9,  13, 14, 15, 16,  17,  28,  29,
                                31, 32, 33, 42, 47, 48, 63, 64, 65, 96, 127, 128, 129, 256};
    const int n = edges[ck_int(c, 0, (int)(sizeof(edges) / sizeof(edges[0])) - 1)];
    return ck_int(c, 0, 2) && n <= most ? n : ck_int(c, 1, most);
}

void ck_fill_normal(ck *c, int64_t n, float *x, double scale)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(ck_normal(c) * scale);
}

void ck_fill_ints(ck *c, int64_t n, float *x, int most)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)ck_int(c, -most, most);
}

const float ck_specials[] = {0.0f,    -0.0f,    1e-45f,   -1e-45f,   1e-39f,  FLT_MIN,
                             FLT_MAX, -FLT_MAX, INFINITY, -INFINITY, NAN,     -NAN,
                             88.0f,   -88.0f,   89.5f,    -103.0f,   -105.0f, 1e10f,
                             -1e10f,  3e-5f,    65504.0f, 65520.0f,  1e20f,   -1e20f};
const int ck_special_count = (int)(sizeof(ck_specials) / sizeof(ck_specials[0]));

void ck_sprinkle(ck *c, int64_t n, float *x)
{
    for (int64_t i = 0; i < n; i++)
        if (ck_int(c, 0, 2) == 0)
            x[i] = ck_specials[ck_int(c, 0, ck_special_count - 1)];
}

/* --------------------------------------------------------------- buffers -- */

#define PATTERN 0xa5
#define CANARY  64

static struct {
    unsigned char *base; /* CANARY + CK_BUFFER_SIZE bytes, then a page without access */
    unsigned char *data;
    size_t size;
} buffers[CK_BUFFERS];
static size_t buffer_span;

static void give_up(const char *why)
{
    fprintf(stderr, "checkkern: %s\n", why);
    exit(2);
}

static void map_buffer(int i)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    buffer_span = (CK_BUFFER_SIZE + CANARY + page - 1) / page * page;
    void *p =
        mmap(NULL, buffer_span + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect((unsigned char *)p + buffer_span, page, PROT_NONE) != 0)
        give_up("cannot map a buffer");
    buffers[i].base = p;
}

void *ck_buffer(ck *c, size_t count, size_t size)
{
    if (c->buffers == CK_BUFFERS || count * size > CK_BUFFER_SIZE - 64)
        give_up("a check asks for more buffers or bytes than CK_BUFFERS and CK_BUFFER_SIZE");
    const int i = c->buffers++;
    if (!buffers[i].base)
        map_buffer(i);
    const size_t tail = ck_int(c, 0, 1) ? (size_t)ck_int(c, 0, 60 / (int)size) * size : 0;
    unsigned char *end = buffers[i].base + buffer_span - tail;
    buffers[i].size = count * size;
    buffers[i].data = end - count * size;
    memset(buffers[i].data - CANARY, PATTERN, count * size + CANARY + tail);
    return buffers[i].data;
}

float *ck_floats(ck *c, int64_t count)
{
    return ck_buffer(c, (size_t)count, sizeof(float));
}

size_t ck_matrix_count(int rows, int n, ptrdiff_t ld)
{
    return rows == 0 ? 0 : (size_t)(rows - 1) * (size_t)ld + (size_t)n;
}

ptrdiff_t ck_stride(ck *c, int n)
{
    return n + (ck_int(c, 0, 1) ? ck_int(c, 0, 19) : 0);
}

static void check_pattern(ck *c, const unsigned char *p, size_t size, const char *where)
{
    for (size_t i = 0; i < size; i++) {
        if (p[i] != PATTERN) {
            if (!c->case_failed)
                printf("%s [%s]: wrote %s\n", c->slot, c->k->name, where);
            c->case_failed = true;
            return;
        }
    }
}

void ck_gaps(ck *c, const void *p, int rows, int n, ptrdiff_t ld, size_t size)
{
    for (int i = 0; i + 1 < rows; i++)
        check_pattern(c, (const unsigned char *)p + ((size_t)i * (size_t)ld + (size_t)n) * size,
                      ((size_t)ld - (size_t)n) * size, "between rows");
}

/* -------------------------------------------------------------- verdicts -- */

void ck_begin(ck *c)
{
    c->buffers = 0;
    c->case_failed = false;
}

void ck_end(ck *c, const char *what)
{
    for (int i = 0; i < c->buffers; i++) {
        const unsigned char *end = buffers[i].data + buffers[i].size;
        check_pattern(c, buffers[i].data - CANARY, CANARY, "before a buffer");
        check_pattern(c, end, (size_t)(buffers[i].base + buffer_span - end), "behind a buffer");
    }
    if (c->case_failed) {
        c->failed++;
        printf("FAILED %s [%s] %s\n", c->slot, c->k->name, what);
    } else {
        c->passed++;
    }
}

void ck_near(ck *c, const char *what, int64_t index, double got, double want, double tol)
{
    if (want > FLT_MAX * (1.0 + 0x1p-25))
        want = INFINITY;
    if (want < -FLT_MAX * (1.0 + 0x1p-25))
        want = -INFINITY;
    const bool same = (isnan(got) && isnan(want)) || got == want;
    /* Near the end of the range a rounding may cross it. */
    const bool edge = isinf(got) && fabs(want) > FLT_MAX * 0.999999 && (got > 0) == (want > 0);
    if (same || edge || fabs(got - want) <= tol)
        return;
    if (!c->case_failed)
        printf("%s [%s]: %s[%lld] is %.9g, expected %.9g +- %.3g\n", c->slot, c->k->name, what,
               (long long)index, got, want, tol);
    c->case_failed = true;
}

void ck_equal(ck *c, const char *what, int64_t index, int64_t got, int64_t want)
{
    if (got == want)
        return;
    if (!c->case_failed)
        printf("%s [%s]: %s[%lld] is %lld, expected %lld\n", c->slot, c->k->name, what,
               (long long)index, (long long)got, (long long)want);
    c->case_failed = true;
}

void ck_same_bytes(ck *c, const char *what, const void *a, const void *b, size_t size)
{
    if (memcmp(a, b, size) == 0)
        return;
    if (!c->case_failed)
        printf("%s [%s]: %s differs\n", c->slot, c->k->name, what);
    c->case_failed = true;
}

/* ---------------------------------------------------------------- timing -- */

/* Processor time of this thread: what others run on the machine costs less of the result. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds_of(ck_run *run, const mica_kernels *k, const void *problem, long repeats)
{
    const double start = now();
    for (long i = 0; i < repeats; i++)
        run(k, problem);
    return now() - start;
}

void ck_bench(ck *c, ck_run *run, const void *problem, double bytes, double flops)
{
    long repeats = 1;
    while (seconds_of(run, c->k, problem, repeats) < 0.0005)
        repeats *= 2;
    double best = INFINITY;
    for (int i = 0; i < 120; i++) {
        const double t = seconds_of(run, c->k, problem, repeats) / (double)repeats;
        best = t < best ? t : best;
    }
    c->bench_ns = best * 1e9;
    printf("%-26s %-13s %12.0f", c->slot, c->k->name, c->bench_ns);
    if (bytes > 0)
        printf(" %9.2f", bytes / c->bench_ns);
    else
        printf(" %9s", "");
    if (flops > 0)
        printf(" %9.2f", flops / c->bench_ns);
    else
        printf(" %9s", "");
    if (c->bench_base_ns > 0)
        printf(" %7.2f", c->bench_base_ns / c->bench_ns);
    printf("\n");
    fflush(stdout);
}

/* --------------------------------------------------------------- formats -- */

static double decode(unsigned bits, int mantissa, int exponent_bits, int bias)
{
    const unsigned magnitude = bits & ((1u << (mantissa + exponent_bits)) - 1u);
    const double sign = bits >> (mantissa + exponent_bits) & 1u ? -1.0 : 1.0;
    const int e = (int)(magnitude >> mantissa);
    const double fraction = (double)(magnitude & ((1u << mantissa) - 1u));
    if (e == 0)
        return sign * ldexp(fraction, 1 - bias - mantissa);
    return sign * ldexp(fraction + ldexp(1.0, mantissa), e - bias - mantissa);
}

double ck_decode_bf16(uint16_t h)
{
    if ((h & 0x7f80) == 0x7f80)
        return h & 0x7f ? (double)NAN : h & 0x8000 ? -INFINITY : INFINITY;
    return decode(h, 7, 8, 127);
}
double ck_decode_f16(uint16_t h)
{
    if ((h & 0x7c00) == 0x7c00)
        return h & 0x3ff ? (double)NAN : h & 0x8000 ? -INFINITY : INFINITY;
    return decode(h, 10, 5, 15);
}
double ck_decode_e4m3(uint8_t b)
{
    return (b & 0x7f) == 0x7f ? (double)NAN : decode(b, 3, 4, 7);
}
double ck_decode_e5m2(uint8_t b)
{
    if ((b & 0x7c) == 0x7c)
        return b & 3 ? (double)NAN : b & 0x80 ? -INFINITY : INFINITY;
    return decode(b, 2, 5, 15);
}

double ck_round_to(double x, int bits, int least, double most)
{
    if (!isfinite(x) || x == 0.0)
        return x;
    int e;
    frexp(x, &e);
    const int unit = e - bits > least ? e - bits : least;
    const double r = ldexp(nearbyint(ldexp(x, -unit)), unit);
    return fabs(r) > most ? copysign(INFINITY, x) : copysign(r, x);
}
double ck_round_bf16(double x)
{
    return ck_round_to(x, 8, -133, 0x1.fep127);
}
double ck_round_f16(double x)
{
    return ck_round_to(x, 11, -24, 65504.0);
}
uint16_t ck_encode_bf16(double x)
{
    const float f = (float)ck_round_bf16(x);
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)(u >> 16);
}
