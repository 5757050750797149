/* qwen3_text.h - the text of a run in picture models whose text encoder is a Qwen3 (nn/qwen3.h).
 *
 *     prompt, negative prompt ─► ids ─► features kept on disk? ──yes──► d->text
 *                                              └──no──► Qwen3 ─► d->text, kept
 *
 * Families differ in the template and in what padding is: FLUX.2-klein pads every prompt to the
 * longest length and its transformer sees the padding's features; Z-Image pads nothing here. */
#ifndef MICA_MODELS_COMMON_QWEN3_TEXT_H
#define MICA_MODELS_COMMON_QWEN3_TEXT_H

#include "models/common/picture_model.h"
#include "nn/qwen3.h"

typedef struct mica_qwen3_text {
    bool thinking; /* the template (nn/qwen3.h) */
    bool padded;   /* d->plan.max_tokens rows for every prompt, whatever its length */
} mica_qwen3_text;

/* The `encode_text` of a run of session `s`: fills d->text, in session memory. NaN or Inf among the
 * features is an error. Taps: `prompt.input_ids`, `.attention_mask`, `.embeds`, and the same of
 * `negative`. */
mica_status mica_qwen3_text_encode(mica_diffusion *d, mica_picture_session *s,
                                   const mica_qwen3_text *text, mica_err *err);
/* The `tokens` slot of mica_model_kind: ids of `text` in its template, at most `length`, without
 * padding. *ids is freed with mica_mem_free. */
mica_status mica_qwen3_text_tokens(const mica_model *model, const char *text, bool thinking,
                                   int64_t length, int32_t **ids, size_t *count, mica_err *err);

#endif
