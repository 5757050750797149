/* golden_support.h - opens models, runs cases of the golden vectors and compares tensors.
 *
 * Everything asserts through cmocka: a failure names the tensor and the number. */
#ifndef MICA_TESTS_GOLDEN_SUPPORT_H
#define MICA_TESTS_GOLDEN_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "models/model.h"
#include "models/model_files.h"
#include "nn/trace.h"

/* How a run is to be made; zero means f32, two threads, every technique on. */
typedef struct golden_setup {
    mica_precision precision; /* AUTO: f32 */
    int threads;
    mica_diffusion_switches switches;
    bool ablate_fusion;
    bool no_trace;
    void (*change_backend)(mica_backend *be); /* called once it is open; NULL: left as it is */
} golden_setup;

/* A case of the vectors: its call, its expected tensors, its manifest. */
typedef struct golden_case {
    mica_json manifest;
    mica_weights *expected;
    char expected_path[512];
    mica_image_options options;
    mica_image_input inputs[4], mask; /* pictures of the call, in the case's folder */
    char input_paths[5][512];
} golden_case;
void golden_case_open(golden_case *c, const char *system, const char *name);
void golden_case_close(golden_case *c);

/* What a run left behind. */
typedef struct golden_run {
    mica_status status;
    mica_err err;
    mica_trace *trace; /* NULL when the setup has no_trace */
    mica_diffusion_result result;
} golden_run;
void golden_run_close(golden_run *r);

mica_model *golden_model_open(const mica_engine_options *options);
void golden_model_close(mica_model **m);
/* The model folder `path`, relative to the golden data. */
mica_model *golden_model_open_folder(const char *path);

/* One session, one picture run. */
void golden_generate(golden_run *r, const mica_model *m, const golden_setup *setup,
                     const mica_image_options *options);
/* The same, and it must succeed. */
void golden_generate_ok(golden_run *r, const mica_model *m, const golden_setup *setup,
                        const mica_image_options *options);

double golden_relative_l2(const mica_tensor *got, const mica_tensor *expected);
/* Fails unless shapes agree and the relative L2 distance is at most `bound`. */
void golden_assert_near(const char *name, const mica_tensor *got, const mica_tensor *expected,
                        double bound);
/* Fails unless shape, dtype size and every integer agree. */
void golden_assert_equal(const char *name, const mica_tensor *got, const mica_tensor *expected);

/* The largest difference of two byte arrays. */
int golden_largest_difference(const uint8_t *a, const uint8_t *b, size_t n);
/* Every tensor of the case but image_u8: f32 within `bound`, integers equal. */
void golden_assert_case(const golden_case *c, const mica_trace *trace, double bound);

/* A picture case from start to end in one precision. f32: every tensor within relative L2 1e-4, the
 * picture within one level. bf16: the bounds of the manifest. */
void golden_check_f32(const char *system, const char *model, const char *name);
void golden_check_bf16(const char *system, const char *model, const char *name);

/* A fresh folder under the system's temporary one, and its removal with everything in it. */
void golden_temp_folder(char *out, size_t size);
void golden_remove_folder(const char *path);

#endif
