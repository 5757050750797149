/* lora_keys.h - what a tensor name in a LoRA file means.
 *
 *     base_model.model.transformer_blocks.3.attn.to_q.lora_A.default.weight
 *     '-- prefix ----' '-- target ------------------' '-- role -----------'
 *
 *     lora_unet_transformer_blocks_3_attn_to_q.alpha        a flat target: dots became underscores
 *     text_encoder.model.layers.0.self_attn.q_proj.lora_B.weight     not for the picture model
 *
 * Names alone are looked at. Which layer a target is, lora_attach.c finds out from a model's tables. */
#ifndef MICA_NN_LORA_KEYS_H
#define MICA_NN_LORA_KEYS_H

#include "format/safetensors.h"

typedef enum mica_lora_role {
    MICA_LORA_UNKNOWN = 0, /* no key of an adapter */
    MICA_LORA_UP,          /* [O, r] */
    MICA_LORA_DOWN,        /* [r, D] */
    MICA_LORA_ALPHA,       /* one number */
    MICA_LORA_HADA_W1_A,   /* LoHa: (w1_a w1_b) * (w2_a w2_b) element by element */
    MICA_LORA_HADA_W1_B,
    MICA_LORA_HADA_W2_A,
    MICA_LORA_HADA_W2_B,
    MICA_LORA_LOKR_W1, /* LoKr: kron(w1, w2), each whole or w_a w_b */
    MICA_LORA_LOKR_W1_A,
    MICA_LORA_LOKR_W1_B,
    MICA_LORA_LOKR_W2,
    MICA_LORA_LOKR_W2_A,
    MICA_LORA_LOKR_W2_B,
    MICA_LORA_DIFF,      /* of the weight itself */
    MICA_LORA_DIFF_BIAS, /* of the bias, without alpha */
    MICA_LORA_UP_BIAS,   /* of the bias, with alpha */
    MICA_LORA_MAGNITUDE, /* DoRA of peft: length of each row, [O] */
    MICA_LORA_DORA,      /* dora_scale of LyCORIS; MAGNITUDE where it has a number a row */
    MICA_LORA_TUCKER,
    MICA_LORA_OFT,
    MICA_LORA_ROLE_COUNT
} mica_lora_role;

typedef struct mica_lora_key {
    mica_lora_role role;
    char target[MICA_TENSOR_NAME_MAX + 1]; /* without prefix and role; "" when unknown */
    bool is_flat;
    bool is_text; /* of a text encoder */
} mica_lora_key;

void mica_lora_key_parse(const char *name, mica_lora_key *out);
/* "lora_up", "hada_w1_a", ...; static storage. */
const char *mica_lora_role_name(mica_lora_role role);

#endif
