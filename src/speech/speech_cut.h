/* speech_cut.h - where a text is cut into pieces, and where its languages meet. */
#ifndef MICA_SPEECH_SPEECH_CUT_H
#define MICA_SPEECH_SPEECH_CUT_H

#include "speech/speech_rules.h"
#include "speech/speech_text.h"

/* Offsets behind each piece, in bytes, of a clean UTF-8 text; kept in `arena`. What upstream's web
 * interface and command line do around cut0..cut5 is included: pieces shorter than five
 * characters join the next, those above 510 are cut at punctuation. */
typedef struct mica_cut_piece {
    char *text; /* NUL-terminated, with the full stop that was appended */
    size_t size;
} mica_cut_piece;
mica_status mica_speech_cut_text(const char *text, size_t size, const mica_speech_text_options *o,
                                 mica_arena *arena, mica_cut_piece **pieces, size_t *count,
                                 mica_err *err);
/* Ends a transcript with 。 or . when it has no mark at its end. */
mica_status mica_speech_close_text(const char *text, size_t size, bool english, mica_arena *arena,
                                   mica_cut_piece *out, mica_err *err);
/* Stretches of one language. An unsupported script is MICA_E_UNSUPPORTED and named. */
typedef struct mica_language_run {
    mica_speech_language language; /* ZH or EN */
    size_t begin, size;            /* bytes */
} mica_language_run;
mica_status mica_speech_find_languages(const char *text, size_t size, mica_speech_language language,
                                       mica_arena *arena, mica_language_run **runs, size_t *count,
                                       mica_err *err);

#endif
