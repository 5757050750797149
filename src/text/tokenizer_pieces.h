/* tokenizer_pieces.h - a SentencePiece-style tokenizer as pieces with scores, the way GGUF files hold one.
 *
 *     merges by rank  0: "▁ t"  1: "h e"  2: "▁t he"  ...      ──►   scores of "▁t", "he", "▁the": 0, -1, -2
 *
 * Whoever merges the pair of the highest score first then merges in the order of the ranks, as long as the merges
 * that make one piece stand together in the list, which they do in files that came from scores. */
#ifndef MICA_TEXT_TOKENIZER_PIECES_H
#define MICA_TEXT_TOKENIZER_PIECES_H

#include "base/json.h"
#include "text/tokenizer.h"

/* Spelling of an id as the file has it, not NUL-terminated; NULL: no token. */
const char *mica_tokenizer_get_spelling(const mica_tokenizer *t, int32_t id, size_t *size);
/* UNUSED for ids without a token. */
mica_piece_kind mica_tokenizer_get_kind(const mica_tokenizer *t, int32_t id);
/* Whether a space is put before a text. */
bool mica_tokenizer_puts_space(const mica_tokenizer *t);
/* Scores of ids 0 .. count; MICA_E_UNSUPPORTED: a tokenizer of another style. */
mica_status mica_tokenizer_get_scores(const mica_tokenizer *t, float *scores, size_t count,
                                      mica_err *err);
/* The whole of it as a tokenizer.json (tokenizer_write.c); MICA_E_UNSUPPORTED: a tokenizer of another style. */
mica_status mica_tokenizer_write_json(const mica_tokenizer *t, mica_text *out, mica_err *err);

#endif
