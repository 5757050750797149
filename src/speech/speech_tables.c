/* speech_tables.c - where speech_tables.S put the tables. */
#include "speech/speech_tables.h"

extern const uint8_t mica_speech_english_begin[], mica_speech_english_end[];
extern const uint8_t mica_speech_letters_begin[], mica_speech_letters_end[];
extern const uint8_t mica_speech_chinese_begin[], mica_speech_chinese_end[];
extern const uint8_t mica_speech_hmm_begin[], mica_speech_hmm_end[];
extern const uint8_t mica_speech_traditional_begin[], mica_speech_traditional_end[];

static mica_speech_table table_of(const uint8_t *begin, const uint8_t *end)
{
    return (mica_speech_table){begin, (size_t)((uintptr_t)end - (uintptr_t)begin)};
}

mica_speech_table mica_speech_table_english(void)
{
    return table_of(mica_speech_english_begin, mica_speech_english_end);
}

mica_speech_table mica_speech_table_letters(void)
{
    return table_of(mica_speech_letters_begin, mica_speech_letters_end);
}

mica_speech_table mica_speech_table_chinese(void)
{
    return table_of(mica_speech_chinese_begin, mica_speech_chinese_end);
}

mica_speech_table mica_speech_table_hmm(void)
{
    return table_of(mica_speech_hmm_begin, mica_speech_hmm_end);
}

mica_speech_table mica_speech_table_traditional(void)
{
    return table_of(mica_speech_traditional_begin, mica_speech_traditional_end);
}
