/* tokenizer.h - text to token ids and back.
 *
 * Reads what users have: a tokenizer.json (Hugging Face tokenizers), or vocab.json +
 * merges.txt + added_tokens.json / tokenizer_config.json, or the vocabulary inside a GGUF file.
 *
 *     byte-level      as the Qwen files ask: added tokens cut out first, NFC, the pre-tokenizer's
 *                     regex (PCRE2), byte alphabet, merges by rank
 *     SentencePiece   as the Mistral files ask: added tokens cut out first, spaces made visible,
 *                     merges of characters by rank, bytes for characters without a token
 *
 * A tokenizer.json that asks for something else is refused by name.
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

/* A vocabulary of SentencePiece pieces with their scores, as GGUF files hold it. Pieces merge into the
 * token of highest score; of one token's splits the one with the shorter left part goes first
 * (generate_merges of transformers' convert_slow_tokenizer.py). */
typedef enum mica_piece_kind {
    MICA_PIECE_NORMAL = 1, /* numbers of GGUF's tokenizer.ggml.token_type */
    MICA_PIECE_UNKNOWN,
    MICA_PIECE_CONTROL,
    MICA_PIECE_USER,
    MICA_PIECE_UNUSED,
    MICA_PIECE_BYTE
} mica_piece_kind;
typedef struct mica_pieces {
    const char *const *texts; /* UTF-8, `count` of them */
    const float *scores;
    const int32_t *kinds; /* mica_piece_kind */
    size_t count;
    bool no_space_prefix; /* tokenizer.ggml.add_space_prefix = false */
    int32_t bos, eos;     /* put around a text; -1: none */
} mica_pieces;
mica_status mica_tokenizer_open_pieces(mica_tokenizer **out, const char *name,
                                       const mica_pieces *pieces, mica_err *err);

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
/* Id that the file puts before, behind every text; -1: none. */
int32_t mica_tokenizer_bos(const mica_tokenizer *t);
int32_t mica_tokenizer_eos(const mica_tokenizer *t);
bool mica_tokenizer_is_special(const mica_tokenizer *t, int32_t id);
/* Bytes that one id adds to a text, spaces as spaces: at most `cap` into `out` (may be NULL); returns
 * how many there are. */
size_t mica_tokenizer_piece(const mica_tokenizer *t, int32_t id, char *out, size_t cap);
int32_t mica_tokenizer_vocab_size(const mica_tokenizer *t); /* largest id + 1 */

#endif
