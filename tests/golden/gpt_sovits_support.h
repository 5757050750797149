/* gpt_sovits_support.h - one network at a time: its files, a backend, its taps and what the reference
 * computed. Everything asserts through cmocka. */
#ifndef MICA_TESTS_GPT_SOVITS_SUPPORT_H
#define MICA_TESTS_GPT_SOVITS_SUPPORT_H

#include "golden_support.h"

#include "models/gpt_sovits/gpt_sovits_layers.h"

typedef struct gs_bench {
    mica_backend *be;
    mica_arena arena;
    mica_trace *trace;
    mica_run run;
    mica_weights *files, *directory, *expected;
} gs_bench;

typedef mica_status (*gs_directory_fn)(mica_weights **out, const mica_weights *files,
                                       mica_arena *arena, mica_err *err);

/* model, case: below gpt_sovits/; threads 0: 2. */
void gs_open(gs_bench *b, const char *model, gs_directory_fn directory, const char *name,
             mica_precision precision, int threads);
/* CPU, or what MICA_TEST_DEVICE says ("cuda"): the same tests on a GPU. */
mica_device gs_device(void);
/* Samples that two ways of computing the same must give: the same bytes on the CPU; on a GPU, where sums
 * have another order for every number of rows, as near as f32 is. */
void gs_same_samples(const float *got, const float *expected, size_t count);
void gs_close(gs_bench *b);
void gs_ok(mica_status st, const mica_err *err);
const mica_tensor *gs_expected(const gs_bench *b, const char *name);
/* The traced tensor `got` against the expected `name`, shapes compared without dimensions of 1. */
void gs_near(const gs_bench *b, const char *got, const char *name, double bound);
/* Host numbers against the expected tensor. */
void gs_near_host(const gs_bench *b, const float *got, int64_t count, const char *name,
                  double bound);
void gs_equal_ids(const gs_bench *b, const int32_t *got, int64_t count, const char *name);

#endif
