/* qwen3.h - Qwen3 as the text encoder of picture models (FLUX.2-klein, Z-Image): how its files are
 * told from others', its sizes, its chat template.
 *
 *     "<|im_start|>user\n" TEXT "<|im_end|>\n<|im_start|>assistant\n"     thinking
 *                               ... "<think>\n\n</think>\n\n"             no thinking
 *
 * Many files look like it. Qwen3-VL-4B has the very shapes of Qwen3-4B and other weights, so that
 * it would give pictures of something else; it is refused by its names. */
#ifndef MICA_NN_QWEN3_H
#define MICA_NN_QWEN3_H

#include "nn/lm_config.h"
#include "text/tokenizer.h"

#define MICA_QWEN3_WIDTH_4B 2560
#define MICA_QWEN3_WIDTH_8B 4096

/* The released model of that width; 4B for widths that no release has. sensitive is set. */
mica_lm_config mica_qwen3_config_default(int64_t width);
/* "Qwen3-4B" by the hidden size; NULL: none of the family is so wide. */
const char *mica_qwen3_name(int64_t width);

/* True for any decoder language model that is or is often taken for Qwen3: a text encoder. */
bool mica_qwen3_probe(const mica_weights *w);
/* Refuses, by name, what is not a Qwen3: Qwen2.5-VL, Qwen3-VL and others. `w` has the names of its
 * file; json_path may be NULL. `model` and `width` say in the message what is needed. */
mica_status mica_qwen3_check(const mica_weights *w, const char *json_path, const char *model,
                             int64_t width, mica_err *err);
/* Canonical names: ComfyUI's and transformers' prefixes. */
mica_status mica_qwen3_rename(mica_weights *w, mica_err *err);
/* All of it: opens, checks, renames and reads the sizes, which must have `width` (0: any). c->states
 * are left to the caller. *files is the caller's to close, on failure too. */
mica_status mica_qwen3_open(mica_weights **files, mica_lm_config *c, const char *path,
                            const char *json_path, const char *model, int64_t width, mica_err *err);

typedef struct mica_qwen3_prompt {
    int32_t *ids;  /* mica_mem_free; `length` of them, <|endoftext|> behind the text */
    int64_t count; /* of the text with its template, cut to length */
    int64_t length;
    int64_t full_count; /* before the cut */
} mica_qwen3_prompt;

mica_status mica_qwen3_tokenize(const mica_tokenizer *tokenizer, const char *text, bool thinking,
                                int64_t length, mica_qwen3_prompt *out, mica_err *err);
/* Made-up ids for a model without tokenizer: as many as the text "tokens=N" asks for, otherwise one
 * per four bytes. */
mica_status mica_qwen3_prompt_synthetic(const char *text, int64_t length, mica_qwen3_prompt *out,
                                        mica_err *err);
void mica_qwen3_prompt_deinit(mica_qwen3_prompt *p);
/* `name`.input_ids and `name`.attention_mask, [1, length]. */
mica_status mica_qwen3_prompt_tap(const mica_qwen3_prompt *p, const mica_tap_sink *taps,
                                  const char *name, mica_err *err);

#endif
