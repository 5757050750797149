/* audio_window.h - which part of a recording a voice is taken from.
 *
 * Reference recordings must be 3 to 10 seconds long. Longer ones are not refused: the stretch of that
 * length that has the most speech in it, begins and ends in a pause and clips least is taken. */
#ifndef MICA_MEDIA_AUDIO_WINDOW_H
#define MICA_MEDIA_AUDIO_WINDOW_H

#include "media/audio.h"

#define MICA_REFERENCE_SHORTEST 3.0 /* seconds */
#define MICA_REFERENCE_LONGEST  10.0

/* [*first, *first + *count) of the samples; all of them when they are few enough. Shorter than 3
 * seconds, or silent throughout: MICA_E_USAGE, with `name` in the text. */
mica_status mica_audio_find_window(const mica_audio *a, const char *name, size_t *first,
                                   size_t *count, mica_err *err);

#endif
