/* chinese.h - the Chinese part of the front end. */
#ifndef MICA_SPEECH_CHINESE_H
#define MICA_SPEECH_CHINESE_H

#include "base/json.h"
#include "speech/chinese_dict.h"
#include "speech/chinese_hmm.h"
#include "speech/phone_list.h"
#include "speech/speech_rules.h"
#include "speech/speech_symbols.h"
#include "speech/speech_text.h"

typedef struct mica_chinese {
    mica_chinese_dict dict;
    mica_chinese_hmm hmm;
    mica_rules *rules;
    const mica_symbols *symbols; /* borrowed */
    int32_t unknown;             /* symbol UNK */
} mica_chinese;

/* Behind a number at the end of a text: it is an amount, whatever its length (U+2060). */
#define MICA_CHINESE_AMOUNT "\xe2\x81\xa0"
mica_status mica_chinese_init(mica_chinese *c, const mica_symbols *symbols, mica_err *err);
void mica_chinese_deinit(mica_chinese *c);

/* The rules of chinese_normalize.c, for mica_rules_open. */
const mica_rule *mica_chinese_rules(size_t *count);
/* Numbers to characters, traditional to simplified, punctuation to ! ? … , . -; what is neither
 * ideograph nor punctuation goes. */
mica_status mica_chinese_normalize(const mica_chinese *c, const char *text, size_t size,
                                   mica_text *out, mica_err *err);
/* Phones of a normalised text and how many each of its characters has. `pauses`: "," is read as this
 * symbol instead (SP2, SP3); -1: as itself. reader: may be NULL. */
mica_status mica_chinese_read(const mica_chinese *c, const char *text, size_t size, int32_t pauses,
                              const mica_speech_reader *reader, mica_phone_list *phones,
                              mica_phone_list *phones_of_char, mica_err *err);

/* ---- parts, exposed for tests ---- */

typedef struct mica_chinese_token {
    size_t begin, size; /* characters of the text */
    char pos[8];        /* jieba's word class: "n", "v", "ul", "x" for punctuation */
} mica_chinese_token;

typedef struct mica_chinese_text {
    uint32_t *chars;
    int *readings; /* of each character; -1: punctuation */
    int *answers;  /* of the reader, -1: none; NULL: nobody was asked */
    size_t size;
    mica_chinese_token *tokens;
    size_t token_count;
    mica_arena *arena;
} mica_chinese_text;

/* Cuts and tags t->chars into t->tokens (jieba's posseg). false: no memory. */
bool mica_chinese_segment(const mica_chinese *c, mica_chinese_text *t);
/* The shortest word that the search mode of jieba finds in a word: its place and size. false: no memory. */
bool mica_chinese_split(const mica_chinese *c, const uint32_t *word, size_t size,
                        mica_arena *scratch, size_t *first, size_t *length);
/* Readings of all tokens by dictionary and context. */
void mica_chinese_find_readings(const mica_chinese *c, mica_chinese_text *t);
/* Joins tokens that change their tones together (不, 一, repeated words, third tones, 儿). */
void mica_chinese_merge(mica_chinese_text *t);
/* Tone sandhi, neutral tones and erhua of every token. false: no memory. */
bool mica_chinese_sandhi(const mica_chinese *c, mica_chinese_text *t);

static inline int mica_tone(int reading) /* 1..5; 0: punctuation */
{
    return reading < 0 ? 0 : reading % 5 + 1;
}
static inline int mica_with_tone(int reading, int tone)
{
    return reading < 0 ? reading : reading - reading % 5 + tone - 1;
}

#endif
