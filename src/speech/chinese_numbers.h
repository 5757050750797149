/* chinese_numbers.h - digits to Chinese characters, appended. */
#ifndef MICA_SPEECH_CHINESE_NUMBERS_H
#define MICA_SPEECH_CHINESE_NUMBERS_H

#include "base/json.h"
#include "speech/speech_rules.h"

/* 一千零二十四; 10..19 begin with 十. More than 16 digits are read one by one. */
void mica_chinese_cardinal(mica_text *out, mica_slice digits);
/* "3.50": 三点五零 (one zero at the end stays), ".5": 零点五 */
void mica_chinese_number(mica_text *out, mica_slice number);
/* 二零零八; yao: 1 is 幺, as in telephone numbers. */
void mica_chinese_digits(mica_text *out, mica_slice digits, bool yao);

#endif
