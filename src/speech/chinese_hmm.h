/* chinese_hmm.h - cuts and tags stretches that the dictionary does not know.
 *
 * Two hidden Markov models over characters, as jieba has them: one with the states begin, middle,
 * end, single; one with these times a word class (about 220 states). */
#ifndef MICA_SPEECH_CHINESE_HMM_H
#define MICA_SPEECH_CHINESE_HMM_H

#include "base/arena.h"
#include "speech/speech_tables.h"

typedef struct mica_chinese_hmm {
    mica_speech_table table;
    uint32_t cut_count, tag_count, state_count, link_count, emission_count;
    const uint8_t *start, *cut_chars, *states, *links, *tag_chars, *emissions;
    int16_t
        *dense; /* [from][to] of all links: a character that nobody knows asks for 50,000 of them */
} mica_chinese_hmm;

mica_status mica_chinese_hmm_init(mica_chinese_hmm *h, mica_speech_table table, mica_err *err);
void mica_chinese_hmm_deinit(mica_chinese_hmm *h); /* also of a zeroed one */
/* ends[i]: a word ends behind character i. `scratch` is used and released; false: no memory. */
bool mica_chinese_hmm_cut(const mica_chinese_hmm *h, const uint32_t *text, size_t size, bool *ends,
                          mica_arena *scratch);
/* The same with the class of each character's word, as 5-byte names (class[i]; NUL-terminated). */
typedef struct mica_chinese_tag {
    char name[8];
} mica_chinese_tag;
bool mica_chinese_hmm_tag(const mica_chinese_hmm *h, const uint32_t *text, size_t size, bool *ends,
                          mica_chinese_tag *tags, mica_arena *scratch);

#endif
