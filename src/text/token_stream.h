/* token_stream.h - ids to text one by one, in whole characters.
 *
 *     id ─► bytes ─► held: an unfinished character (up to three bytes) ─► text
 *
 * A character may be spread over several tokens; its bytes are held back until it is whole. Bytes that
 * cannot become one are U+FFFD. The joined text is that of mica_tokenizer_decode for ids that give
 * valid UTF-8. */
#ifndef MICA_TEXT_TOKEN_STREAM_H
#define MICA_TEXT_TOKEN_STREAM_H

#include "base/json.h"
#include "text/tokenizer.h"

typedef struct mica_token_stream {
    const mica_tokenizer *tokenizer;
    bool skip_special; /* special tokens give no text */
    bool strip;        /* one space at the very beginning is left out */
    char held[4];
    size_t held_size;
} mica_token_stream;

/* Appends the characters that become whole with this id; `out` knows when memory ran out. */
void mica_token_stream_add(mica_token_stream *s, int32_t id, mica_text *out);
/* Nothing follows: what is held becomes U+FFFD. */
void mica_token_stream_finish(mica_token_stream *s, mica_text *out);

#endif
