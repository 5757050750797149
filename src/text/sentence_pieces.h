/* sentence_pieces.h - how SentencePiece vocabularies spell text.
 *
 *     "Hello world"  ->  "▁Hello▁world"  ->  [▁Hello] [▁world]
 *     "é" without a token of its own     ->  [<0xC3>] [<0xA9>]
 *
 * U+2581 stands for a space, and one is put before a text so that its first word is spelled like any
 * other. Reference: Hugging Face tokenizers, normalizers/prepend.rs, pre_tokenizers/metaspace.rs,
 * decoders/byte_fallback.rs and strip.rs. */
#ifndef MICA_TEXT_SENTENCE_PIECES_H
#define MICA_TEXT_SENTENCE_PIECES_H

#include "text/tokenizer_parts.h"

#define MICA_SENTENCE_SPACE      "\xe2\x96\x81"
#define MICA_SENTENCE_SPACE_SIZE 3

/* Spaces made visible. first: nothing stands before this text. *out is freed with mica_mem_free. */
mica_status mica_sentence_form(const mica_sentence_rules *rules, const char *text, size_t size,
                               bool first, char **out, size_t *out_size, mica_err *err);
/* Calls emit for each piece of a text in that form. */
mica_status mica_sentence_split(const mica_sentence_rules *rules, const char *form, size_t size,
                                mica_status (*emit)(void *user, const char *piece, size_t size,
                                                    mica_err *err),
                                void *user, mica_err *err);

/* Spellings joined to text. A run of byte tokens that is not UTF-8 gives one U+FFFD a token. */
typedef struct mica_sentence_decoder {
    char *out;        /* room for all spellings */
    size_t size, run; /* written; where the run of byte tokens at the end begins */
    bool in_run;
} mica_sentence_decoder;
void mica_sentence_decoder_add(mica_sentence_decoder *d, const char *spelling, size_t size);
/* strip: without one leading space. Returns the size. */
size_t mica_sentence_decoder_finish(mica_sentence_decoder *d, bool strip);

/* Bytes that one spelling stands for; at most `size`. */
size_t mica_sentence_piece(const char *spelling, size_t size, char *out);

#endif
