/* golden_invariants.h - what must not change a picture, for any model: checks over golden_support.h. */
#ifndef MICA_TESTS_GOLDEN_INVARIANTS_H
#define MICA_TESTS_GOLDEN_INVARIANTS_H

#include "golden_support.h"

/* A golden case of a model, and the tensors by which two runs of it are compared (NULL at the end). */
typedef struct golden_subject {
    const char *system, *model, *name;
    const char *const *tensors;
} golden_subject;

/* Runs the case as both setups ask; bound 0: the same bytes, pictures included, else within `bound`
 * and one level. */
void golden_compare_setups(const golden_subject *s, const golden_setup *plain,
                           const golden_setup *other, double bound);
/* f32, bf16 and int8 give the same bytes for one, two and three threads. */
void golden_check_threads(const golden_subject *s);
/* Each technique switched off: the same bytes where the same numbers are computed at another time, within
 * 1e-5 where sums take another order. `plain` is the run with all of them. */
void golden_check_ablations(const golden_subject *s, const golden_setup *plain);
/* 8-bit operands in the large linears: the subject's tensors within 3e-2 of the reference. The text
 * encoder keeps its precision: `embeds` bounds prompt.embeds, 0: not compared. */
void golden_check_int8(const golden_subject *s, const golden_setup *setup, double embeds);

/* Pictures of a batch do not see each other: two of seeds S and S + 1 against two runs. */
void golden_check_batch(const mica_model *m, const golden_setup *setup, mica_image_options o);

/* Caching by the first block looks and keeps, but a run of two steps leaves nothing out: same bytes, also
 * with the guided pair taken apart. */
void golden_check_block_cache(const mica_model *m, const golden_setup *setup, mica_image_options o);

/* Counters of a run of 4 steps with everything on, and with rotary tables, modulation and the guided
 * pair recomputed or taken apart each step. `products`: modulation products of one evaluation. */
void golden_check_counters(const mica_model *m, int threads, mica_image_options plain,
                           mica_image_options guided, int products);

#endif
