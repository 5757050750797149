/* chinese_dict.h - Chinese words: frequency, class, readings; characters: readings, simplified form.
 *
 * Texts here are arrays of code points U+4E00..U+9FA5 (others are in no word). A reading is a number:
 * syllable * 5 + tone - 1; tone 5 is the neutral one. */
#ifndef MICA_SPEECH_CHINESE_DICT_H
#define MICA_SPEECH_CHINESE_DICT_H

#include "speech/speech_tables.h"

#define MICA_HAN_FIRST        0x4e00u
#define MICA_HAN_LAST         0x9fa5u
#define MICA_CHINESE_LONGEST  8          /* characters of the longest word */
#define MICA_CHINESE_ALL      60101967.0 /* sum of all frequencies of the dictionary */
#define MICA_CHINESE_NO_CLASS 255

typedef struct mica_chinese_dict {
    mica_speech_table table;
    uint32_t block_count, char_count, syllable_count, class_count, traditional_count;
    const uint8_t *syllables, *classes, *chars, *starts, *readings, *traditional, *offsets;
    uint32_t reading_count;
} mica_chinese_dict;

typedef struct mica_chinese_word {
    double frequency;
    uint8_t word_class;                      /* of mica_chinese_class_name */
    uint16_t readings[MICA_CHINESE_LONGEST]; /* of each character */
} mica_chinese_word;

mica_status mica_chinese_dict_init(mica_chinese_dict *d, mica_speech_table table, mica_err *err);
/* A word of 1..MICA_CHINESE_LONGEST characters; false: unknown. */
bool mica_chinese_dict_find(const mica_chinese_dict *d, const uint32_t *text, size_t size,
                            mica_chinese_word *out);
/* The n-th reading of a character, the usual one first; -1: there is none. */
int mica_chinese_dict_reading(const mica_chinese_dict *d, uint32_t cp, size_t n);
/* Reading by name, "hao" and 3; -1: no such syllable. */
int mica_chinese_dict_reading_of(const mica_chinese_dict *d, const char *syllable, int tone);
/* "hao" of a reading; NULL: none. */
const char *mica_chinese_dict_syllable(const mica_chinese_dict *d, int reading);
/* "n", "v", "nr", ...; "" when unknown. At most 4 bytes and a NUL are used of `out`. */
void mica_chinese_class_name(const mica_chinese_dict *d, uint8_t word_class, char out[8]);
/* Simplified form of a character; itself when it has none. */
uint32_t mica_chinese_dict_simplify(const mica_chinese_dict *d, uint32_t cp);

static inline bool mica_is_han(uint32_t cp)
{
    return cp >= MICA_HAN_FIRST && cp <= MICA_HAN_LAST;
}

#endif
