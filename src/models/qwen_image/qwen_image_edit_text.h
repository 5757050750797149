/* qwen_image_edit_text.h - prompts that refer to pictures.
 *
 *     "<|im_start|>system ... <|im_start|>user\n"                   64 tokens, dropped after the encoder
 *     "Picture 1: <|vision_start|>" [N1 rows] "<|vision_end|>" ...  Edit-Plus; Edit: without the words
 *     PROMPT "<|im_end|>\n<|im_start|>assistant\n"
 *
 * Where the picture's rows stand is a choice. In sequence they count on as text does. In a grid, positions
 * have three axes: text counts on all three together; a picture of h x w tokens stands still in time
 * and has rows and columns; what follows continues behind its longer side:
 *
 *     token      a  b  [ 2 x 3 picture ]   c
 *     time       0  1   2 2 2 2 2 2        5
 *     row        0  1   2 2 2 3 3 3        5
 *     column     0  1   2 3 4 2 3 4        5
 *
 * The grid is what Qwen2.5-VL was trained with. diffusers 0.40 leaves it to transformers to find the
 * pictures, and transformers 5 wants to be told (mm_token_type_ids): that stack, which made the golden
 * vectors, places pictures in sequence, earlier ones in a grid.
 */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_EDIT_TEXT_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_EDIT_TEXT_H

#include "models/qwen_image/qwen_image_text.h"

#define MICA_QWEN_IMAGE_EDIT_DROPPED 64

/* Size of a picture in tokens of the text encoder. */
typedef struct mica_qwen_image_tokens {
    int h, w;
} mica_qwen_image_tokens;

typedef struct mica_qwen_image_edit_prompt {
    const char *text;
    const mica_qwen_image_tokens *pictures;
    int count;      /* 1 to MICA_QWEN_IMAGE_PICTURES */
    bool numbered;  /* introduced as "Picture N: " (Edit-Plus) */
    bool grid;      /* positions in a grid */
    int max_tokens; /* rows beside the pictures' */
} mica_qwen_image_edit_prompt;

mica_status mica_qwen_image_edit_tokenize(const mica_tokenizer *tokenizer,
                                          const mica_qwen_image_edit_prompt *prompt,
                                          mica_qwen_image_prompt *out, mica_err *err);

#endif
