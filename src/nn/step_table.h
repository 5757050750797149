/* step_table.h - tables with a row for every step, and the row of the step under way at a fixed place.
 *
 *     group 0    step 0 | step 1 | ... | current        a group per block of the network, `rows` long
 *     group 1    step 0 | step 1 | ... | current
 *
 * A pass that reads `current` reads the same addresses at every step, so that a backend may record it
 * once and run the recording (mica_replay). */
#ifndef MICA_NN_STEP_TABLE_H
#define MICA_NN_STEP_TABLE_H

#include "backend/backend.h"

/* In each of `groups` groups of `rows` rows of `all`: rows [from, from + count) to [to, to + count). */
void mica_step_table_select(mica_backend *be, const mica_tensor *all, int64_t groups, int64_t rows,
                            int64_t from, int64_t to, int64_t count);

#endif
