/* tokenizer_parts.h - the inside of a mica_tokenizer, shared by the reader and the runner.
 *
 *     text ─► raw added tokens ─► NFC ─► normalized added tokens ─► splitter ─► bpe ─► ids
 *                                 spaces                            or spaces      (sentence_pieces.h)
 *
 * Filled by tokenizer_json.c or tokenizer_folder.c, read-only afterwards, so that threads may
 * share one. */
#ifndef MICA_TEXT_TOKENIZER_PARTS_H
#define MICA_TEXT_TOKENIZER_PARTS_H

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/splitter.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

/* Where U+2581 (a visible space) is put in SentencePiece's style; sentence_pieces.h. */
typedef struct mica_sentence_rules {
    bool on; /* of this style at all; else byte-level */
    bool
        normalizer; /* Prepend and Replace before the `normalized` added tokens; else Metaspace behind */
    bool prepend;    /* one before the text */
    bool only_first; /* ... but not behind an added token */
    bool split;      /* pieces begin at each; else the text is one piece */
    bool strip;      /* decoding drops one space at the beginning */
} mica_sentence_rules;

struct mica_tokenizer {
    mica_vocab vocab;
    mica_bpe bpe;
    mica_added_set raw, normalized; /* looked for before, after NFC */
    mica_splitter splitter;
    bool nfc;
    mica_sentence_rules sentence;
    int32_t bos, eos; /* what the file puts before and behind a text; -1: nothing */
};

/* The pattern that files without a tokenizer.json imply (Qwen2Tokenizer of transformers). */
#define MICA_QWEN2_PATTERN                                                                         \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"      \
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* What ByteLevel with use_regex splits by (GPT-2; pre_tokenizers/byte_level.rs). */
#define MICA_GPT2_PATTERN                                                                          \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* ---- tokenizer_json.c ---- */
/* Everything a tokenizer.json says, into a zeroed tokenizer. */
mica_status mica_tokenizer_read_json(mica_tokenizer *t, const mica_json *j, mica_err *err);
/* {"token": id, ...} into the vocabulary. */
mica_status mica_tokenizer_read_vocab(mica_tokenizer *t, const mica_json *j,
                                      const struct cJSON *object, mica_err *err);

mica_status mica_tokenizer_refuse(const mica_json *j, const char *what, const char *type,
                                  mica_err *err);

/* ---- tokenizer_sentence.c ---- */
/* Whether the file's decoder is SentencePiece's. */
bool mica_tokenizer_is_sentence(const mica_json *j);
/* Normalizer, pre-tokenizer and decoder of such a file. */
mica_status mica_tokenizer_read_sentence(mica_tokenizer *t, const mica_json *j, mica_err *err);
/* After the vocabulary: byte fallback and the unknown token. */
mica_status mica_tokenizer_bind_sentence(mica_tokenizer *t, const mica_json *j,
                                         const struct cJSON *model, mica_err *err);
mica_status mica_tokenizer_read_pieces(mica_tokenizer *t, const char *name, const mica_pieces *p,
                                       mica_err *err);
/* Tokens that the post-processor puts around one text. */
mica_status mica_tokenizer_read_template(mica_tokenizer *t, const mica_json *j, mica_err *err);

/* ---- tokenizer_added.c ---- */
/* An added token as files describe it; flags as in mica_added_token. */
typedef struct mica_added_options {
    bool single_word, lstrip, rstrip, normalized, special;
} mica_added_options;
/* Enters it into the vocabulary (where it may be already, with the same id) and into the set it
 * belongs to. A token that was added before is left as it is. */
mica_status mica_tokenizer_add_token(mica_tokenizer *t, const char *name, const char *content,
                                     int64_t id, const mica_added_options *options, mica_err *err);
/* The flags of a JSON object; absent ones keep their value. */
mica_status mica_tokenizer_read_flags(const mica_json *j, const struct cJSON *object,
                                      mica_added_options *options, mica_err *err);
/* added_tokens_decoder of a tokenizer_config.json: {"151643": {"content": ..., flags}, ...}. */
mica_status mica_tokenizer_read_added_decoder(mica_tokenizer *t, const mica_json *config,
                                              mica_err *err);

/* ---- tokenizer_folder.c ---- */
/* tokenizer.json if the folder has one, else vocab.json and merges.txt. */
mica_status mica_tokenizer_read_folder(mica_tokenizer *t, const char *dir, mica_err *err);

#endif
