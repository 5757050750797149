/* fuzz_speech_text.c - arbitrary bytes as a text to be spoken.
 *
 *     byte: language, cut, table; then the text
 *
 * Beyond "no crash": a refusal has a text; phones are in the model's table; the characters of Chinese spans
 * account for all their phones. */
#include "base/mem.h"
#include "speech/speech_text.h"

#include <stdlib.h>

#define MOST_BYTES 3000 /* longer ones are only slow */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_span(const mica_speech_span *s, int phone_count)
{
    size_t sum = 0;
    for (size_t i = 0; i < s->phone_count; i++)
        require(s->phones[i] >= 0 && s->phones[i] < phone_count);
    for (size_t i = 0; i < s->char_count; i++)
        sum += (size_t)s->phones_of_char[i];
    require(s->language == MICA_SPEECH_EN ? s->char_count == 0 : sum == s->phone_count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static mica_speech_front *front;
    mica_err err = {.status = MICA_OK};
    mica_speech_pieces p;
    if (!front)
        require(mica_speech_front_open(&front, &err) == MICA_OK);
    if (size == 0 || size > MOST_BYTES)
        return 0;
    const mica_speech_text_options o = {(mica_speech_language)(data[0] % 3),
                                        (mica_speech_cut)(data[0] / 3 % 6),
                                        data[0] & 64 ? 322 : 732, NULL};
    const char *text = (const char *)data + 1;
    if (mica_speech_front_run(front, text, size - 1, &o, &p, &err) == MICA_OK) {
        require(p.count > 0);
        for (size_t i = 0; i < p.count; i++)
            for (size_t j = 0; j < p.pieces[i].span_count; j++)
                check_span(&p.pieces[i].spans[j], o.phone_count);
        mica_speech_pieces_deinit(&p);
    } else
        require(err.text[0]);
    if (mica_speech_parse_phones(front, text, size - 1, o.phone_count, &p, &err) == MICA_OK)
        mica_speech_pieces_deinit(&p);
    return 0;
}
