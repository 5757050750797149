/* qwen_image_edit_text.c - template, picture rows and positions of an editing prompt; see
 * qwen_image_edit_text.h.
 *
 * Reference: diffusers pipeline_qwenimage_edit.py and pipeline_qwenimage_edit_plus.py,
 * _get_qwen_prompt_embeds; transformers models/qwen2_5_vl/processing_qwen2_5_vl.py (one
 * <|image_pad|> becomes as many as the picture has tokens) and modeling_qwen2_5_vl.py, get_rope_index.
 *
 * The reference cuts editing prompts nowhere. Here the text beside the pictures has the limit of the
 * plain pipeline, so that a prompt cannot take all positions. */
#include "models/qwen_image/qwen_image_edit_text.h"

#include "base/json.h"
#include "base/mem.h"

#include <string.h>

static const char BEFORE[] =
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, "
    "texture, "
    "objects, background), then explain how the user's text instruction should alter or modify "
    "the image. Generate a new image that meets the user's requirements while maintaining "
    "consistency with the original input where appropriate.<|im_end|>\n<|im_start|>user\n";
static const char AFTER[] = "<|im_end|>\n<|im_start|>assistant\n";
static const char PAD[] = "<|image_pad|>";

static mica_status encode_template(const mica_tokenizer *tokenizer,
                                   const mica_qwen_image_edit_prompt *prompt, int32_t **ids,
                                   size_t *n, mica_err *err)
{
    mica_text all = {0};
    mica_text_add_bytes(&all, BEFORE, sizeof BEFORE - 1);
    for (int i = 0; i < prompt->count; i++) {
        if (prompt->numbered)
            mica_text_add(&all, "Picture %d: ", i + 1);
        mica_text_add(&all, "<|vision_start|>%s<|vision_end|>", PAD);
    }
    mica_text_add_bytes(&all, prompt->text, strlen(prompt->text));
    mica_text_add_bytes(&all, AFTER, sizeof AFTER - 1);
    const mica_status st = all.failed
                               ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the prompt")
                               : mica_tokenizer_encode(tokenizer, all.data, all.size, ids, n, err);
    mica_text_deinit(&all);
    return st;
}

static mica_status check_template(const int32_t *ids, size_t n, int32_t pad, int count,
                                  mica_err *err)
{
    int found = 0;
    for (size_t i = 0; i < n; i++)
        found += ids[i] == pad;
    if (pad < 0 || found < count || n <= MICA_QWEN_IMAGE_EDIT_DROPPED)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the tokenizer does not know %s or makes %zu tokens of the prompt "
                         "template; it is not Qwen-Image-Edit's",
                         PAD, n);
    if (found > count)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "the prompt holds %s, which stands for a picture; leave it out", PAD);
    return MICA_OK;
}

/* ids with each pad token repeated for every row of its picture. */
static mica_status expand(mica_qwen_image_prompt *p, const int32_t *ids, size_t n, int32_t pad,
                          const mica_qwen_image_tokens *pictures, mica_err *err)
{
    size_t at = 0;
    p->full_count = n - (size_t)p->picture_count + p->picture_rows;
    p->ids = mica_mem_calloc(p->full_count, sizeof *p->ids);
    if (!p->ids)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a prompt of %zu tokens", p->full_count);
    for (size_t i = 0, picture = 0; i < n; i++) {
        size_t rows = 1;
        if (ids[i] == pad) {
            rows = (size_t)pictures[picture].h * (size_t)pictures[picture].w;
            p->picture_at_[picture++] = (int64_t)at;
        }
        while (rows--)
            p->ids[at++] = ids[i];
    }
    return MICA_OK;
}

static mica_status place_in_grid(mica_qwen_image_prompt *p, const mica_qwen_image_tokens *pictures,
                                 mica_err *err)
{
    p->positions_L3 = mica_mem_calloc(3 * p->full_count, sizeof *p->positions_L3);
    if (!p->positions_L3)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu positions", p->full_count);
    int32_t next = 0;
    int picture = 0;
    for (int64_t l = 0; l < (int64_t)p->full_count;) {
        int32_t *row = p->positions_L3 + 3 * l;
        if (picture < p->picture_count && l == p->picture_at_[picture]) {
            const int h = pictures[picture].h, w = pictures[picture].w;
            for (int32_t i = 0; i < h * w; i++) {
                row[3 * i] = next;
                row[3 * i + 1] = next + i / w;
                row[3 * i + 2] = next + i % w;
            }
            next += MICA_MAX(h, w);
            l += h * w;
            picture++;
            continue;
        }
        row[0] = row[1] = row[2] = next++;
        l++;
    }
    return MICA_OK;
}

static mica_status build(mica_qwen_image_prompt *p, const int32_t *ids, size_t n, int32_t pad,
                         const mica_qwen_image_edit_prompt *prompt, mica_err *err)
{
    const mica_qwen_image_tokens *last = &prompt->pictures[prompt->count - 1];
    MICA_TRY(check_template(ids, n, pad, prompt->count, err));
    MICA_TRY(expand(p, ids, n, pad, prompt->pictures, err));
    if (prompt->grid)
        MICA_TRY(place_in_grid(p, prompt->pictures, err));
    p->count = MICA_MIN(p->full_count, p->dropped + p->picture_rows + (size_t)prompt->max_tokens);
    if ((int64_t)p->count < p->picture_at_[prompt->count - 1] + (int64_t)last->h * last->w)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a limit of %d text tokens leaves no room for the words that introduce "
                         "%d pictures",
                         prompt->max_tokens, prompt->count);
    return MICA_OK;
}

mica_status mica_qwen_image_edit_tokenize(const mica_tokenizer *tokenizer,
                                          const mica_qwen_image_edit_prompt *prompt,
                                          mica_qwen_image_prompt *out, mica_err *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    *out = (mica_qwen_image_prompt){.dropped = MICA_QWEN_IMAGE_EDIT_DROPPED,
                                    .picture_count = prompt->count};
    for (int i = 0; i < prompt->count; i++)
        out->picture_rows += (size_t)prompt->pictures[i].h * (size_t)prompt->pictures[i].w;
    MICA_TRY(encode_template(tokenizer, prompt, &ids, &n, err));
    const mica_status st = build(out, ids, n, mica_tokenizer_find(tokenizer, PAD), prompt, err);
    mica_mem_free(ids);
    if (st)
        mica_qwen_image_prompt_deinit(out);
    return st;
}
