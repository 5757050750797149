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
#define MICA_QWEN_IMAGE_PICTURES   10   /* that a prompt may refer to */

typedef struct mica_qwen_image_prompt {
    int32_t *ids; /* mica_mem_free */
    size_t
        count; /* cut to the limit: MICA_QWEN_IMAGE_MAX_TOKENS behind the dropped rows and pictures */
    size_t full_count; /* before the cut */
    size_t dropped;    /* rows of the template that are dropped after the encoder */
    /* Pictures inside the prompt (qwen_image_edit_text.h). */
    int picture_count;
    size_t picture_rows;                           /* of all of them */
    int64_t picture_at_[MICA_QWEN_IMAGE_PICTURES]; /* first row of each */
    int32_t *positions_L3;                         /* mica_mem_free; NULL: text alone */
} mica_qwen_image_prompt;

mica_status mica_qwen_image_tokenize(const mica_tokenizer *tokenizer, const char *text,
                                     mica_qwen_image_prompt *out, mica_err *err);
void mica_qwen_image_prompt_deinit(mica_qwen_image_prompt *p);

/* Runs the encoder over up to two prompts at once; embeds_TE[i] are session-pool views of the
 * features of prompt i, template rows dropped, at most max_tokens rows beside the pictures'.
 * pictures_ND: rows that take the places of each picture, or NULL. Taps `prompt` and `negative`. */
mica_status mica_qwen_image_encode(mica_lm *lm, mica_backend *be, mica_run *run,
                                   const mica_qwen_image_prompt *prompts, int count, int max_tokens,
                                   const mica_tensor *pictures_ND, mica_tensor embeds_TE[2],
                                   mica_err *err);

#endif
