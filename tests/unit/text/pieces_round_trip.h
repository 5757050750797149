/* pieces_round_trip.h - a tokenizer written as pieces with scores and read back, as a GGUF file does it; and as a
 * tokenizer.json, as it goes from a GGUF file into a folder. */
#ifndef TESTS_PIECES_ROUND_TRIP_H
#define TESTS_PIECES_ROUND_TRIP_H

#include "base/mem.h"
#include "text/tokenizer_pieces.h"

#include <string.h>

/* *out is NULL where there was no memory, or the tokenizer has no pieces. */
static inline mica_status pieces_round_trip(const mica_tokenizer *t, mica_tokenizer **out,
                                            mica_err *err)
{
    const size_t n = (size_t)mica_tokenizer_vocab_size(t);
    char **texts = mica_mem_calloc(n, sizeof *texts);
    float *scores = mica_mem_calloc(n, sizeof *scores);
    int32_t *kinds = mica_mem_calloc(n, sizeof *kinds);
    mica_status st = mica_tokenizer_get_scores(t, scores, n, err);
    for (size_t i = 0; i < n; i++) {
        size_t size = 0;
        const char *text = mica_tokenizer_get_spelling(t, (int32_t)i, &size);
        texts[i] = text ? mica_mem_strndup(text, size) : mica_mem_strdup("[unused]");
        kinds[i] = (int32_t)mica_tokenizer_get_kind(t, (int32_t)i);
    }
    const mica_pieces pieces = {.texts = (const char *const *)texts,
                                .scores = scores,
                                .kinds = kinds,
                                .count = n,
                                .no_space_prefix = !mica_tokenizer_puts_space(t),
                                .bos = mica_tokenizer_bos(t),
                                .eos = mica_tokenizer_eos(t)};
    *out = NULL;
    if (!st)
        st = mica_tokenizer_open_pieces(out, "pieces", &pieces, err);
    for (size_t i = 0; i < n; i++)
        mica_mem_free(texts[i]);
    mica_mem_free(texts);
    mica_mem_free(scores);
    mica_mem_free(kinds);
    return st;
}
static inline mica_status json_round_trip(const mica_tokenizer *t, mica_tokenizer **out,
                                          mica_err *err)
{
    mica_text text = {0};
    *out = NULL;
    mica_status st = mica_tokenizer_write_json(t, &text, err);
    if (!st)
        st = mica_tokenizer_open_json(out, "written", text.data, text.size, err);
    mica_text_deinit(&text);
    return st;
}

#endif
