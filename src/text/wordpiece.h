/* wordpiece.h - the tokenizer of BERT models: words cut greedily into the longest known pieces.
 *
 * Reads tokenizer.json (normaliser BertNormalizer, pre-tokenizer BertPreTokenizer, model
 * WordPiece; anything else is refused by name) or, in older folders, vocab.txt with
 * tokenizer_config.json. Control characters go, CJK ideographs and punctuation are words of
 * their own, letters lose case and accents where the file says so; a word with a part that no
 * piece covers is one unknown token. Special tokens written out in the text ("[SEP]") are
 * recognised, as the reference does. Does not change after open. */
#ifndef MICA_TEXT_WORDPIECE_H
#define MICA_TEXT_WORDPIECE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MICA_WORDPIECE_MAX_TEXT (1024 * 1024) /* bytes that encode takes */

typedef struct mica_wordpiece mica_wordpiece;

/* path: the folder or the tokenizer.json. */
mica_status mica_wordpiece_open(mica_wordpiece **out, const char *path, mica_err *err);
mica_status mica_wordpiece_open_json(mica_wordpiece **out, const char *name, const char *text,
                                     size_t size, mica_err *err);
void mica_wordpiece_close(mica_wordpiece **w);
/* [CLS] text [SEP]. *ids is freed with mica_mem_free. */
mica_status mica_wordpiece_encode(const mica_wordpiece *w, const char *text, size_t size,
                                  int32_t **ids, size_t *count, mica_err *err);
int32_t mica_wordpiece_vocab_size(const mica_wordpiece *w); /* largest id + 1 */

#endif
