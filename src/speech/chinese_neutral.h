/* chinese_neutral.h - words whose last syllable is light. */
#ifndef MICA_SPEECH_CHINESE_NEUTRAL_H
#define MICA_SPEECH_CHINESE_NEUTRAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The two characters are such a word (朋友, 明白), beyond those that the dictionary marks. */
bool mica_chinese_is_light(uint32_t first, uint32_t second);

#endif
