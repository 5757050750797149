/* lora_internal.h - the inside of mica_lora, shared by lora.c and lora_attach.c. */
#ifndef MICA_NN_LORA_INTERNAL_H
#define MICA_NN_LORA_INTERNAL_H

#include "nn/lora.h"
#include "nn/lora_keys.h"

typedef enum mica_lora_form {
    MICA_LORA_FORM_NONE = 0, /* a bias alone */
    MICA_LORA_FORM_LORA,
    MICA_LORA_FORM_LOHA,
    MICA_LORA_FORM_LOKR,
    MICA_LORA_FORM_DIFF
} mica_lora_form;

/* One layer of the file. */
typedef struct mica_lora_target {
    const char *name;
    bool is_flat, is_text;
    mica_lora_form form;
    const mica_tensor *tensors[MICA_LORA_ROLE_COUNT];
    /* Set by mica_lora_open. up, down and mix are two-dimensional views; mix of a factored w1 is made. */
    mica_adapter adapter;  /* scale: alpha / rank */
    int64_t rows, columns; /* of what is added; columns 0: a vector (norm), or no weight at all */
    const mica_tensor *bias;
    float bias_scale;
} mica_lora_target;

struct mica_lora {
    mica_weights *files;
    mica_arena arena;
    const char *name;
    char hash[17];
    mica_lora_target *targets;
    size_t count;
    mica_lora_facts facts;
};

/* lora_dora.c: hangs `a` on `w` and multiplies what is there by the rows' factors. `scale`: all of it,
 * alpha / rank times what the user asks for; `skip`: the target's row that is the weight's first. */
mica_status mica_lora_decompose(mica_lora *lora, const mica_lora_target *t, int64_t skip,
                                double scale, mica_adapter *a, mica_weight *w, mica_err *err);

#endif
