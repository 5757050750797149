/* speech_text.h - text to phones: what a speech model reads.
 *
 *     "我用Python写了3行代码。"
 *        │ pieces (cut0-cut5), spans of one language
 *        ▼
 *     zh 我用 | en Python | zh 写了3行代码。
 *        │ normalise        我用          python       写了三行代码.
 *        │ phones           uo3 iong4     P AY1 TH ..  x ie3 l e5 s an1 h ang2 ...
 *        ▼ ids of the symbol table of the model's version (speech_symbols.h)
 *
 * Chinese and English, alone or mixed. Other languages are refused by name: what their letters
 * would come out as is not speech. The rules follow the front end that the published models were
 * trained with (GPT-SoVITS, text/); where they differ, docs/SPEECH.md says so.
 *
 * A front end does not change after open; any number of threads may use one. */
#ifndef MICA_SPEECH_SPEECH_TEXT_H
#define MICA_SPEECH_SPEECH_TEXT_H

#include "base/arena.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MICA_SPEECH_MAX_TEXT (1024 * 1024) /* bytes */

typedef enum mica_speech_language {
    MICA_SPEECH_AUTO, /* by script: ideographs are Chinese, Latin letters English */
    MICA_SPEECH_ZH,   /* the same; digits between two languages are Chinese */
    MICA_SPEECH_EN,   /* all of it; ideographs are refused */
} mica_speech_language;
/* "auto", "zh", "all_zh", "en"; others ("ja", "ko", "yue", ...) are MICA_E_UNSUPPORTED, unknown names
 * MICA_E_USAGE. */
mica_status mica_speech_language_find(const char *name, mica_speech_language *out, mica_err *err);

/* How a text is cut into pieces that are spoken one by one; upstream's cut0 to cut5. */
typedef enum mica_speech_cut {
    MICA_SPEECH_CUT_NONE,        /* cut0 */
    MICA_SPEECH_CUT_FOUR,        /* cut1: every four stretches between punctuation */
    MICA_SPEECH_CUT_FIFTY,       /* cut2: above 50 characters */
    MICA_SPEECH_CUT_ZH_STOP,     /* cut3: at 。 */
    MICA_SPEECH_CUT_EN_STOP,     /* cut4: at . not between digits */
    MICA_SPEECH_CUT_PUNCTUATION, /* cut5: at every punctuation mark */
} mica_speech_cut;
mica_status mica_speech_cut_find(const char *name, mica_speech_cut *out, mica_err *err);

/* Who is asked how the characters of a Chinese sentence are read, before the rules of tones. Words of
 * the dictionary keep what it says; where there is no answer the dictionary and rules decide too. */
typedef struct mica_speech_reader {
    /* readings[i]: a mica_speech_reading of chars[i], or -1: no answer. */
    mica_status (*ask)(void *user, const uint32_t *chars, size_t size, int *readings,
                       mica_err *err);
    void *user;
} mica_speech_reader;

typedef struct mica_speech_text_options {
    mica_speech_language language;
    mica_speech_cut cut;
    int phone_count;                  /* the model's symbol table: 322 (v1) or 732 (v2 and later) */
    const mica_speech_reader *reader; /* NULL: the dictionary and rules alone */
} mica_speech_text_options;

/* Part of a piece in one language. */
typedef struct mica_speech_span {
    mica_speech_language language; /* ZH or EN */
    char *text;                    /* normalised, UTF-8, NUL-terminated */
    int32_t *phones;               /* ids */
    size_t phone_count;
    /* Chinese: phones of each character of `text`; they add up to phone_count. English: NULL, 0. */
    int32_t *phones_of_char;
    size_t char_count;
} mica_speech_span;

typedef struct mica_speech_piece {
    char *
        source; /* the part of the text, as it was given, for people: with the mark at its end, without
                     blanks and full stops before it */
    char *text; /* as it was cut; NULL: phones by name */
    mica_speech_span *spans;
    size_t span_count;
    size_t phone_count; /* of all spans */
} mica_speech_piece;

typedef struct mica_speech_pieces {
    mica_speech_piece *pieces;
    size_t count;
    mica_arena arena; /* owns everything */
} mica_speech_pieces;
void mica_speech_pieces_deinit(mica_speech_pieces *p);

typedef struct mica_speech_front mica_speech_front;
mica_status mica_speech_front_open(mica_speech_front **out, mica_err *err);
void mica_speech_front_close(mica_speech_front **f);

/* A text to be spoken: cut, split, normalised. Pieces without anything to say are left out; a text
 * without any is MICA_E_USAGE. */
mica_status mica_speech_front_run(const mica_speech_front *f, const char *text, size_t size,
                                  const mica_speech_text_options *o, mica_speech_pieces *out,
                                  mica_err *err);
/* Reads one piece again, with o->reader, which may be slow: so a long text is asked about as it is
 * spoken. Its spans are others then. */
mica_status mica_speech_front_reread(const mica_speech_front *f, const mica_speech_text_options *o,
                                     mica_speech_pieces *p, size_t index, mica_err *err);
/* The transcript of a reference: one piece, ended by a full stop where none is (o->cut is not read). */
mica_status mica_speech_front_run_transcript(const mica_speech_front *f, const char *text,
                                             size_t size, const mica_speech_text_options *o,
                                             mica_speech_pieces *out, mica_err *err);
/* Phones by name ("n i3 h ao3 . HH AH0"), separated by blanks: one piece, one span without
 * characters. An unknown name is MICA_E_USAGE and named. */
mica_status mica_speech_parse_phones(const mica_speech_front *f, const char *names, size_t size,
                                     int phone_count, mica_speech_pieces *out, mica_err *err);
/* The number of a reading by pinyin (ü is "v") and tone, 1 to 5; -1: there is none. */
int mica_speech_reading(const mica_speech_front *f, const char *pinyin, int tone);
/* Name of a phone id in the table of phone_count symbols; NULL: no such id or table. */
const char *mica_speech_phone_name(const mica_speech_front *f, int phone_count, int32_t id);

#endif
