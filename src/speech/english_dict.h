/* english_dict.h - English words to phones: a dictionary, and trees for what is not in it.
 *
 * Phones are codes 0..68: the 15 vowels with stress 0, 1, 2 (AA0 AA1 AA2 AE0 ...), then 24
 * consonants in order of their names (mica_english_phone_name). */
#ifndef MICA_SPEECH_ENGLISH_DICT_H
#define MICA_SPEECH_ENGLISH_DICT_H

#include "speech/speech_tables.h"

#define MICA_ENGLISH_PHONES   69
#define MICA_ENGLISH_VOWELS   45 /* codes below are vowels; code % 3 is the stress */
#define MICA_ENGLISH_MOST     96 /* phones of one word */
#define MICA_ENGLISH_MAX_WORD 64 /* letters */

typedef struct mica_english_dict {
    mica_speech_table words, letters;
    uint32_t block_count, pair_count;
    const uint8_t *pairs, *offsets, *nodes;
    uint32_t node_count;
} mica_english_dict;

/* Checks the shapes of the two tables; MICA_E_INTERNAL when they do not hold together. */
mica_status mica_english_dict_init(mica_english_dict *d, mica_speech_table words,
                                   mica_speech_table letters, mica_err *err);
/* Phones of a lower-case word; 0: not in the dictionary. */
size_t mica_english_dict_find(const mica_english_dict *d, const char *word, size_t size,
                              uint8_t phones[MICA_ENGLISH_MOST]);
/* What the letters suggest: one tree per letter, asked with four letters on both sides. `word` is a..z only;
 * words without a vowel phone give 0. The first stressed vowel keeps its stress; one is given
 * to the first vowel when the trees stress none. */
size_t mica_english_dict_guess(const mica_english_dict *d, const char *word, size_t size,
                               uint8_t phones[MICA_ENGLISH_MOST]);
/* "AH0"; NULL: no such code. */
const char *mica_english_phone_name(int code);
int mica_english_phone_find(const char *name, size_t size); /* -1: no such phone */

#endif
