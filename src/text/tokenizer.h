/* tokenizer.h - text to token ids and back.
 *
 * Reads what users have: a tokenizer.json (Hugging Face tokenizers), or vocab.json +
 * merges.txt + added_tokens.json / tokenizer_config.json. Byte-level BPE exactly as the
 * Qwen files ask: added tokens cut out first, NFC, the pre-tokenizer's regex (PCRE2), byte
 * alphabet, merges by rank. A tokenizer.json that asks for something else is refused by name.
 *
 * Input bytes that are not UTF-8 become U+FFFD (maximal subparts) before anything else.
 * A tokenizer does not change after open: any number of threads may encode with one. */
#ifndef MICA_TEXT_TOKENIZER_H
#define MICA_TEXT_TOKENIZER_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MICA_TOKENIZER_MAX_TEXT (64 * 1024 * 1024) /* bytes that encode takes */

typedef struct mica_tokenizer mica_tokenizer;

/* path: the folder or the tokenizer.json. */
mica_status mica_tokenizer_open(mica_tokenizer **out, const char *path, mica_err *err);
/* The same from memory; for fuzzing and embedded tokenizers. */
mica_status mica_tokenizer_open_json(mica_tokenizer **out, const char *name, const char *text,
                                     size_t size, mica_err *err);
void mica_tokenizer_close(mica_tokenizer **t);

/* Appends nothing, adds no BOS/EOS. Added tokens (<|im_start|> ...) in `text` are recognised,
 * as the reference tokenizers do. *ids is freed with mica_mem_free. */
mica_status mica_tokenizer_encode(const mica_tokenizer *t, const char *text, size_t size,
                                  int32_t **ids, size_t *count, mica_err *err);
/* Bytes of the ids; skip_special leaves special tokens out. Byte sequences that are not
 * UTF-8 become U+FFFD as the reference decoder does. Ids that name no token (models have
 * rows beyond the vocabulary) give nothing; a negative one is MICA_E_USAGE. Freed with
 * mica_mem_free. */
mica_status mica_tokenizer_decode(const mica_tokenizer *t, const int32_t *ids, size_t count,
                                  bool skip_special, char **text, size_t *size, mica_err *err);
int32_t mica_tokenizer_find(const mica_tokenizer *t, const char *token); /* -1: absent */
int32_t mica_tokenizer_vocab_size(const mica_tokenizer *t);              /* largest id + 1 */

#endif
