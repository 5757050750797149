/* token_stream.c - see token_stream.h. */
#include "text/token_stream.h"

#include "base/utf8.h"
#include "text/vocab.h"

#include <string.h>

/* Bytes at the end of [0, size) that begin a character and do not finish it. */
static size_t unfinished(const char *bytes, size_t size)
{
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        const uint8_t b = (uint8_t)bytes[size - back];
        if ((b & 0xC0) == 0x80)
            continue;
        const size_t need = b >= 0xF0 ? 4 : b >= 0xE0 ? 3 : b >= 0xC0 ? 2 : 1;
        uint32_t cp;
        /* A prefix that can still become right is consumed as one ill-formed subpart. */
        return need > back && mica_utf8_decode(bytes + size - back, back, &cp) == back ? back : 0;
    }
    return 0;
}

static void add_characters(const char *bytes, size_t size, mica_text *out)
{
    for (size_t i = 0; i < size;) {
        uint32_t cp;
        char spelled[4];
        i += mica_utf8_decode(bytes + i, size - i, &cp);
        mica_text_add_bytes(out, spelled, mica_utf8_encode(cp, spelled));
    }
}

void mica_token_stream_add(mica_token_stream *s, int32_t id, mica_text *out)
{
    char bytes[sizeof s->held + MICA_TOKEN_MAX_SIZE];
    if (s->skip_special && mica_tokenizer_is_special(s->tokenizer, id))
        return;
    char *from = bytes;
    memcpy(bytes, s->held, s->held_size);
    size_t size = s->held_size +
                  mica_tokenizer_piece(s->tokenizer, id, bytes + s->held_size, MICA_TOKEN_MAX_SIZE);
    if (s->strip && size > 0) {
        s->strip = false;
        if (bytes[0] == ' ') {
            from++;
            size--;
        }
    }
    s->held_size = unfinished(from, size);
    memcpy(s->held, from + size - s->held_size, s->held_size);
    add_characters(from, size - s->held_size, out);
}

void mica_token_stream_finish(mica_token_stream *s, mica_text *out)
{
    add_characters(s->held, s->held_size, out);
    s->held_size = 0;
}
