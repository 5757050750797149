/* qwen_image_text.h - prompts to what the transformer reads.
 *
 *     "<|im_start|>system ... <|im_start|>user\n" PROMPT "<|im_end|>\n<|im_start|>assistant\n"
 *      └────── 34 tokens, dropped after the encoder ──────┘
 */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_TEXT_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_TEXT_H

#include "nn/decoder_lm.h"
#include "text/tokenizer.h"

#define MICA_QWEN_IMAGE_DROPPED    34   /* whatever the tokenizer makes of the template */
#define MICA_QWEN_IMAGE_MAX_TOKENS 1024 /* of a prompt, closing tokens of the template included */

typedef struct mica_qwen_image_prompt {
    int32_t *ids; /* mica_mem_free */
    size_t
        count; /* cut to MICA_QWEN_IMAGE_DROPPED + MICA_QWEN_IMAGE_MAX_TOKENS, as the reference does */
    size_t full_count; /* before the cut */
} mica_qwen_image_prompt;

mica_status mica_qwen_image_tokenize(const mica_tokenizer *tokenizer, const char *text,
                                     mica_qwen_image_prompt *out, mica_err *err);
void mica_qwen_image_prompt_deinit(mica_qwen_image_prompt *p);

/* Runs the encoder over up to two prompts at once; embeds_TE[i] are session-pool views of the
 * features of prompt i, first 34 rows dropped, at most max_tokens rows. Taps `prompt` and `negative`. */
mica_status mica_qwen_image_encode(mica_lm *lm, mica_backend *be, mica_run *run,
                                   const mica_qwen_image_prompt *prompts, int count, int max_tokens,
                                   mica_tensor embeds_TE[2], mica_err *err);

#endif
