/* qwen_image_text.c - template, token limit and text encoder of Qwen-Image; see qwen_image_text.h.
 *
 * Reference: diffusers pipeline_qwenimage.py, _get_qwen_prompt_embeds and encode_prompt. The encoder
 * is causal, so features do not depend on tokens behind them: cutting ids before the encoder
 * and cutting features behind it give the same rows. */
#include "models/qwen_image/qwen_image_text.h"

#include "base/json.h"
#include "base/mem.h"

#include <string.h>

static const char BEFORE[] =
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n";
static const char AFTER[] = "<|im_end|>\n<|im_start|>assistant\n";

mica_status mica_qwen_image_tokenize(const mica_tokenizer *tokenizer, const char *text,
                                     mica_qwen_image_prompt *out, mica_err *err)
{
    mica_text all = {0};
    mica_text_add_bytes(&all, BEFORE, sizeof BEFORE - 1);
    mica_text_add_bytes(&all, text, strlen(text));
    mica_text_add_bytes(&all, AFTER, sizeof AFTER - 1);
    *out = (mica_qwen_image_prompt){0};
    mica_status st = all.failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the prompt")
                                : mica_tokenizer_encode(tokenizer, all.data, all.size, &out->ids,
                                                        &out->full_count, err);
    mica_text_deinit(&all);
    if (st)
        return st;
    out->dropped = MICA_QWEN_IMAGE_DROPPED;
    out->count = MICA_MIN(out->full_count, out->dropped + MICA_QWEN_IMAGE_MAX_TOKENS);
    if (out->count <= MICA_QWEN_IMAGE_DROPPED) {
        const size_t got = out->count;
        mica_qwen_image_prompt_deinit(out);
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the tokenizer turns the prompt template into %zu tokens, expected more "
                         "than %d; it is not Qwen-Image's",
                         got, MICA_QWEN_IMAGE_DROPPED);
    }
    return MICA_OK;
}

void mica_qwen_image_prompt_deinit(mica_qwen_image_prompt *p)
{
    mica_mem_free(p->ids);
    mica_mem_free(p->positions_L3);
    *p = (mica_qwen_image_prompt){0};
}

static mica_status tap_ids(const mica_tap_sink *taps, const mica_qwen_image_prompt *p,
                           const char *name, mica_err *err)
{
    if (!taps)
        return MICA_OK;
    int32_t *ones = mica_mem_calloc(p->count, sizeof *ones);
    if (!ones)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to trace %zu token ids", p->count);
    for (size_t i = 0; i < p->count; i++)
        ones[i] = 1;
    const int64_t n = (int64_t)p->count;
    const mica_tensor ids = mica_tensor_2d(p->ids, MICA_DTYPE_I32, 1, n);
    const mica_tensor mask = mica_tensor_2d(ones, MICA_DTYPE_I32, 1, n);
    mica_tap_host(taps, &ids, "%s.input_ids", name);
    mica_tap_host(taps, &mask, "%s.attention_mask", name);
    mica_mem_free(ones);
    return MICA_OK;
}

/* Rows of prompt i: its ids up to the limit, and the pictures at their places. */
static mica_lm_prompt rows_of(const mica_qwen_image_prompt *p, int max_tokens,
                              const mica_tensor *pictures_ND, mica_lm_insert *inserts)
{
    const size_t most = p->dropped + p->picture_rows + (size_t)max_tokens;
    for (int i = 0; i < p->picture_count; i++)
        inserts[i] = (mica_lm_insert){p->picture_at_[i], pictures_ND[i]};
    return (mica_lm_prompt){.ids = p->ids,
                            .count = (int64_t)MICA_MIN(p->count, most),
                            .inserts = inserts,
                            .insert_count = p->picture_count,
                            .positions_L3 = p->positions_L3};
}

mica_status mica_qwen_image_encode(mica_lm *lm, mica_backend *be, mica_run *run,
                                   const mica_qwen_image_prompt *prompts, int count, int max_tokens,
                                   const mica_tensor *pictures_ND, mica_tensor embeds_TE[2],
                                   mica_err *err)
{
    static const char *const NAMES[2] = {"prompt", "negative"};
    mica_lm_insert inserts[2][MICA_QWEN_IMAGE_PICTURES];
    mica_lm_prompt rows[2];
    int64_t L = 0;
    for (int i = 0; i < count; i++) {
        MICA_TRY(tap_ids(run->taps, &prompts[i], NAMES[i], err));
        rows[i] = rows_of(&prompts[i], max_tokens, pictures_ND, inserts[i]);
        L += rows[i].count;
    }
    mica_tensor hidden_LE =
        mica_act_tensor(be, MICA_POOL_SESSION, 2, (const int64_t[]){L, lm->config.width});
    MICA_TRY(mica_lm_run(lm, be, run, rows, count, &hidden_LE, err));
    int64_t first = 0;
    for (int i = 0; i < count; i++) {
        const int64_t dropped = (int64_t)prompts[i].dropped, T = rows[i].count - dropped;
        embeds_TE[i] = mica_tensor_rows(&hidden_LE, first + dropped, T);
        first += rows[i].count;
        mica_tap(run->taps, be, &embeds_TE[i], 3, (const int64_t[]){1, T, lm->config.width},
                 "%s.embeds", NAMES[i]);
        if (!mica_all_finite(be, &embeds_TE[i]) && !mica_backend_failed(be))
            return MICA_FAIL(err, MICA_E_NUMERIC,
                             "text encoder: the features of the %s hold NaN or Inf; the weights "
                             "are damaged or the precision is too low",
                             i ? "negative prompt" : "prompt");
    }
    return mica_backend_check(be, err);
}
