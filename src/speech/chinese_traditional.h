/* chinese_traditional.h - simplified characters to traditional ones, as they are written in Taiwan.
 *
 * The network that reads characters with several readings (g2pW) was trained on such text. One
 * character becomes one character. */
#ifndef MICA_SPEECH_CHINESE_TRADITIONAL_H
#define MICA_SPEECH_CHINESE_TRADITIONAL_H

#include "speech/speech_tables.h"

typedef struct mica_traditional {
    mica_speech_table table;
    uint32_t char_count, block_count;
    const uint8_t *chars, *offsets;
} mica_traditional;

mica_status mica_traditional_init(mica_traditional *t, mica_speech_table table, mica_err *err);
/* size characters; `out` may not be `text`. */
void mica_traditional_convert(const mica_traditional *t, const uint32_t *text, size_t size,
                              uint32_t *out);

#endif
