/* wordpiece_parts.h - what the reader of its files and the encoder share. */
#ifndef MICA_TEXT_WORDPIECE_PARTS_H
#define MICA_TEXT_WORDPIECE_PARTS_H

#include "text/vocab.h"
#include "text/wordpiece.h"

#define MICA_WORDPIECE_PREFIX_MAX 16

struct mica_wordpiece {
    mica_vocab vocab;
    char prefix[MICA_WORDPIECE_PREFIX_MAX]; /* before pieces that continue a word: "##" */
    size_t prefix_size;
    size_t max_word; /* characters; a longer word is unknown */
    int32_t unknown, cls, sep;
    bool clean, cjk, lowercase, strip_accents;
};

/* Appends the text as the normaliser leaves it. */
bool mica_wordpiece_normalize(const mica_wordpiece *w, const char *text, size_t size, char **out,
                              size_t *out_size);

#endif
