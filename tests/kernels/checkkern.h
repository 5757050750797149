/* checkkern.h - what the kernel checks share: seeded numbers, fenced buffers, verdicts, timing.
 *
 *     [ canary ........ | the buffer | tail canary, 0..60 bytes ][ page without access ]
 *
 * Half of the buffers end exactly at the forbidden page, so that one byte read or written too
 * far ends the program; the others start at any address and are followed by a canary.
 * Outputs are filled with a pattern first, and what lies between the rows of a matrix must
 * still hold it afterwards.
 *
 * Every slot of MICA_KERNEL_LIST and MICA_KERNEL_LIST_BYTES has check_<slot> and bench_<slot>; the lists
 * build the table of entries in checkkern.c, so a slot without them does not link. */
#ifndef MICA_TESTS_CHECKKERN_H
#define MICA_TESTS_CHECKKERN_H

#include "kernels/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct ck {
    const mica_kernels *k; /* the table under test */
    const char *slot;
    uint64_t rng;
    long passed, failed;
    bool case_failed;
    int buffers;          /* handed out in this case */
    double bench_base_ns; /* bench: time of the baseline, 0: this is the baseline */
    double bench_ns;
} ck;

typedef void ck_function(ck *c);
#define CK_DECLARE(slot) ck_function check_##slot, bench_##slot;
MICA_KERNEL_LIST(CK_DECLARE)
MICA_KERNEL_LIST_BYTES(CK_DECLARE)
#undef CK_DECLARE

/* --------------------------------------------------------------- numbers -- */

uint64_t ck_random(ck *c);
int ck_int(ck *c, int low, int high); /* both ends included */
double ck_uniform(ck *c, double low, double high);
double ck_normal(ck *c);
/* A length around the edges of vectors and tiles, up to `most`. */
int ck_length(ck *c, int most);
void ck_fill_normal(ck *c, int64_t n, float *x, double scale);
void ck_fill_ints(ck *c, int64_t n, float *x, int most); /* whole numbers in [-most, most] */
/* Puts zeros of both signs, denormals, extremes, infinities and NaN at random places. */
void ck_sprinkle(ck *c, int64_t n, float *x);
extern const float ck_specials[];
extern const int ck_special_count;

/* --------------------------------------------------------------- buffers -- */

/* At most CK_BUFFERS per case and CK_BUFFER_SIZE bytes each; filled with the pattern. */
#define CK_BUFFERS     16
#define CK_BUFFER_SIZE ((size_t)24 << 20)
void *ck_buffer(ck *c, size_t count, size_t size);
float *ck_floats(ck *c, int64_t count);
/* A matrix of which [rows x n] is used: exactly (rows - 1) * ld + n elements. */
size_t ck_matrix_count(int rows, int n, ptrdiff_t ld);
/* Gaps between the rows still hold the pattern. */
void ck_gaps(ck *c, const void *p, int rows, int n, ptrdiff_t ld, size_t size);
/* A stride >= n. */
ptrdiff_t ck_stride(ck *c, int n);

/* -------------------------------------------------------------- verdicts -- */

void ck_begin(ck *c);                 /* frees the buffers of the case before */
void ck_end(ck *c, const char *what); /* verifies the canaries and counts the case */
/* got == want within tol (absolute); NaN equals NaN; what overflows f32 is infinite. */
void ck_near(ck *c, const char *what, int64_t index, double got, double want, double tol);
void ck_equal(ck *c, const char *what, int64_t index, int64_t got, int64_t want);
void ck_same_bytes(ck *c, const char *what, const void *a, const void *b, size_t size);

/* ---------------------------------------------------------------- timing -- */

typedef void ck_run(const mica_kernels *k, const void *problem);
/* Best of 120 runs of at least 0.5 ms (short ones find the gaps between other people's work);
 * prints ns, GB/s and GFLOP/s (0: not shown). */
void ck_bench(ck *c, ck_run *run, const void *problem, double bytes, double flops);

/* ---------------------------------------------------- formats, as in f64 -- */

double ck_decode_bf16(uint16_t h);
double ck_decode_f16(uint16_t h);
double ck_decode_e4m3(uint8_t b);
double ck_decode_e5m2(uint8_t b);
/* Nearest number with `bits` of precision and least exponent `least` (of the unit in the last
 * place), ties to even; infinite above `most`. */
double ck_round_to(double x, int bits, int least, double most);
double ck_round_bf16(double x);
double ck_round_f16(double x);
uint16_t ck_encode_bf16(double x);

#endif
