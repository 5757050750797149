/* token_grammar.h - a grammar (grammar.h) over the tokens of a vocabulary.
 *
 * A token is allowed when its bytes are; the ids that end an answer are when the text may end; other
 * special tokens never. Vocabularies of SentencePiece spell the first word of a text with a space
 * before it, which is no part of the text: at the beginning one is passed over. */
#ifndef MICA_SAMPLE_TOKEN_GRAMMAR_H
#define MICA_SAMPLE_TOKEN_GRAMMAR_H

#include "sample/grammar.h"
#include "text/tokenizer.h"

typedef struct mica_token_grammar mica_token_grammar;

/* One of grammar and json_schema; the other is NULL. */
mica_status mica_token_grammar_open(mica_token_grammar **out, const char *grammar,
                                    const char *json_schema, const mica_tokenizer *t, int64_t vocab,
                                    const int64_t *ends, size_t end_count, mica_err *err);
void mica_token_grammar_close(mica_token_grammar **g);
bool mica_token_grammar_allows(mica_token_grammar *g, int32_t id);
void mica_token_grammar_take(mica_token_grammar *g, int32_t id);

#endif
