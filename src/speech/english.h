/* english.h - the English part of the front end. */
#ifndef MICA_SPEECH_ENGLISH_H
#define MICA_SPEECH_ENGLISH_H

#include "base/json.h"
#include "speech/english_dict.h"
#include "speech/phone_list.h"
#include "speech/speech_rules.h"
#include "speech/speech_symbols.h"

typedef struct mica_english {
    mica_english_dict dict;
    mica_rules *rules;
    int32_t ids[MICA_ENGLISH_PHONES]; /* symbol of each phone code */
    int32_t comma, stop, question, exclamation, dash, ellipsis;
} mica_english;

mica_status mica_english_init(mica_english *e, const mica_symbols *symbols, mica_err *err);
void mica_english_deinit(mica_english *e);

/* The rules of english_normalize.c, for mica_rules_open. */
const mica_rule *mica_english_rules(size_t *count);
/* Numbers, units, money, abbreviations to words; letters, ' , . ? ! - and blanks stay, the rest goes. */
mica_status mica_english_normalize(const mica_english *e, const char *text, size_t size,
                                   mica_text *out, mica_err *err);
/* Phones of a normalised text, appended. */
void mica_english_read(const mica_english *e, const char *text, size_t size, mica_phone_list *out);

/* ---- parts of mica_english_read ---- */

/* A word among its neighbours, as homographs need it. */
typedef struct mica_english_context {
    const char *const *words; /* lower case */
    size_t count, at;
} mica_english_context;
/* Phones of a word that is said in two ways, by its neighbours; NULL: it is not one. */
const char *mica_english_homograph(const mica_english_context *c);

#endif
