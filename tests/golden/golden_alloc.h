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

/* path: a model folder. */
void golden_fail_open(const char *path);
void golden_fail_run(const char *path, const mica_image_options *options);

#endif
