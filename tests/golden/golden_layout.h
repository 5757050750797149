/* golden_layout.h - the tiny models in other layouts, whole and broken.
 *
 *     <system>/model/transformer ─► renamed, fused, re-encoded, damaged ─► DIR/diffusion_models/a.safetensors
 *
 * An fp8 copy must give what an f32 copy of its decoded values gives: the encoding may cost
 * accuracy, reading it may not. */
#ifndef MICA_TESTS_GOLDEN_LAYOUT_H
#define MICA_TESTS_GOLDEN_LAYOUT_H

#include "golden_copy.h"

typedef enum golden_encoding {
    GOLDEN_KEEP,
    GOLDEN_FP8_PLAIN,
    GOLDEN_FP8_SCALED,
    GOLDEN_FP8_SCALED_AS_F32, /* the values that these two decode to */
    GOLDEN_FP8_PLAIN_AS_F32,
    GOLDEN_MLX8, /* matrices with rows of a multiple of 32, linears and tables alike */
    GOLDEN_MLX8_AS_F32,
    GOLDEN_MLX4,
    GOLDEN_MLX4_AS_F32
} golden_encoding;

/* Tensors whose rows become one: names that end in part[0], part[1], ... */
typedef struct golden_fusion {
    const char *parts[4]; /* NULL behind the last */
    const char *whole;    /* the ending of the fused one */
} golden_fusion;

/* How a copy of a weight file differs from its source. */
typedef struct golden_layout {
    const char *prefix;                              /* put before every name; NULL: none */
    const char *from, *to;                           /* beginning of names replaced; NULL: none */
    void (*rename)(const char *name, char out[256]); /* first of all; NULL: none */
    const golden_fusion *fusion;                     /* of names as in the source; NULL: none */
    golden_encoding encoding;
    const char *encoded; /* which matrices are re-encoded: those with this in their names */
    const char *drop;    /* tensor left out */
    const char *reshape; /* tensor whose last dimension loses one column */
    const char *poison;  /* tensor whose first value becomes NaN */
    const char *extra;   /* tensor added */
    bool channels_last;  /* convolutions as MLX has them; norms of the Qwen VAE flat */
} golden_layout;

/* Writes `to` from a weight file or folder; `from` is relative to the golden data, or begins with a slash. */
void golden_layout_write(const char *from, const char *to, const golden_layout *layout);

/* A folder as ComfyUI has it, made from the model folder `source` (relative to the golden data),
 * with configs beside the files and a scheduler. */
typedef struct golden_comfy {
    char dir[256];
    char transformer[320], text_encoder[320], vae[320], tokenizer[320];
} golden_comfy;
void golden_comfy_make(golden_comfy *c, const char *source, const golden_layout *transformer,
                       const golden_layout *text_encoder, const golden_layout *vae);
/* The config.json that stands beside one of its files goes. */
void golden_comfy_drop_config(const char *weights_path);
mica_engine_options golden_comfy_options(const golden_comfy *c);
void golden_comfy_remove(golden_comfy *c);

/* A folder as mflux saves one: three folders of `0.safetensors` and an index, a tokenizer, no configuration but those
 * that shapes do not tell (`keeps`: folders whose config.json is copied; NULL behind the last). */
void golden_mflux_make(char dir[256], const char *source, const golden_layout *transformer,
                       const golden_layout *text_encoder, const golden_layout *vae,
                       const char *const *keeps);

/* Replaces the weights of one part of such a folder; `from` as above. */
void golden_mflux_replace(const char *dir, const char *part, const char *from,
                          const golden_layout *layout);

/* Opening must fail with this status and a text that holds every word. */
void golden_expect_refused(const mica_engine_options *options, mica_status status,
                           const char *const *words);

#endif
