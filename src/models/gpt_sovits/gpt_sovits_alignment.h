/* gpt_sovits_alignment.h - what codes say of a text, seen from where they looked.
 *
 *     phones    n i h ao , sh i j ie            q: the phone that a code looked at
 *     codes     0 0 1 1 2 2 3 3 4 ...           read once from end to end
 *               0 0 1 1 2 2 7 7 8 8             three phones nobody looked at: dropped
 *               0 1 2 3 4 5 1 2 3 4 5 6         back and on again from there: repeated
 *               3 3 3 3 3 3 3 3 3 3 3           stalled
 *
 * Attention of one head, or the mean of several; no network here. The bounds are wide: a sentence that
 * is drawn anew without need costs time, one that is let through may still be good. */
#ifndef MICA_MODELS_GPT_SOVITS_GPT_SOVITS_ALIGNMENT_H
#define MICA_MODELS_GPT_SOVITS_GPT_SOVITS_ALIGNMENT_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct mica_gs_alignment {
    bool followed; /* enough codes looked at some phone for certain; else the rest is 0 */
    int64_t dropped, first_dropped; /* the longest stretch of phones that nobody looked at */
    int64_t repeated;               /* codes of the longest way that was gone again */
    int64_t again, first_again;     /* its phones */
    int64_t stalled;                /* codes of the longest stay */
} mica_gs_alignment;

/* shares_RT [rows][phones]: of each code's attention what goes to each phone; a row sums up to at most 1. */
mica_status mica_gs_alignment_read(const float *shares_RT, int64_t rows, int64_t phones,
                                   mica_gs_alignment *out, mica_err *err);
bool mica_gs_alignment_has_dropped(const mica_gs_alignment *a);
bool mica_gs_alignment_has_repeated(const mica_gs_alignment *a); /* or stalled */

/* How well a head follows a text known to have been read once from end to end: 0 not at all, up to 1. */
mica_status mica_gs_alignment_score(const float *shares_RT, int64_t rows, int64_t phones,
                                    float *score, mica_err *err);

#endif
