/* golden_alloc.h - allocations of open, session and run fail one at a time.
 *
 *   for n = 1, 2, ...:  the n-th allocation from the start is refused; everything is closed
 *
 * To open, n goes in growing strides: most allocations are a JSON parser's. Each attempt must
 * end with "out of memory" and a text, or go without and end well. Leaks and wild pointers are
 * the sanitizer build's to find. */
#ifndef MICA_TESTS_GOLDEN_ALLOC_H
#define MICA_TESTS_GOLDEN_ALLOC_H

#include "golden_support.h"

/* One run in a new session; a result must come with MICA_OK and only then. */
typedef mica_status golden_alloc_run(mica_model_session *s, const mica_model_kind *kind,
                                     const void *options, mica_err *err);
/* options: mica_image_options. */
golden_alloc_run golden_alloc_generate;

void golden_fail_open(const mica_engine_options *engine);
/* spread: how many allocations are refused one after the other before n begins to stride;
 * UINT64_MAX: all. */
void golden_fail_run(const mica_engine_options *engine, golden_alloc_run *run, const void *options,
                     uint64_t spread);

#endif
