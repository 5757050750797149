/* mixtral_tokenizer.h - the tokenizer that a GGUF file holds beside its weights.
 *
 *     tokenizer.ggml.tokens, .scores, .token_type  ──►  mica_tokenizer   (text/tokenizer.h, pieces with scores) */
#ifndef MICA_MODELS_MIXTRAL_MIXTRAL_TOKENIZER_H
#define MICA_MODELS_MIXTRAL_MIXTRAL_TOKENIZER_H

#include "format/weights.h"
#include "text/tokenizer.h"

/* MICA_E_MISSING: w holds no vocabulary; MICA_E_UNSUPPORTED: one of another kind than "llama". */
mica_status mica_mixtral_open_vocabulary(mica_tokenizer **out, const mica_weights *w,
                                         mica_err *err);

#endif
