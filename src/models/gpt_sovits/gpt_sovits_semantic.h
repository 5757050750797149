/* gpt_sovits_semantic.h - text to semantic: a language model that continues the codes of the
 * reference with codes for the text.
 *
 *     phones, features of BERT ──► x [T, D]   every row sees every row of x
 *     codes of the reference   ──► y [P, D]   sees x and what is before it in y
 *                                    │ blocks (post-norm, ReLU), keys and values kept
 *                                    ▼
 *                          logits of the last row ──sampler──► code ──► next row of y ──► ...
 *
 * The prefix of text is bidirectional, so it cannot be reused for another text. */
#ifndef MICA_MODELS_GPT_SOVITS_SEMANTIC_H
#define MICA_MODELS_GPT_SOVITS_SEMANTIC_H

#include "models/gpt_sovits/gpt_sovits_layers.h"
#include "models/gpt_sovits/gpt_sovits_sampler.h"

#include "nn/kv_cache.h"

typedef struct mica_gs_semantic {
    mica_weight phones, codes; /* embeddings */
    mica_nn_linear bert;
    mica_weight phone_alpha, code_alpha; /* [1]: weights of the positions */
    mica_weight head;                    /* [V, D] */
    mica_gs_stack stack;
    int64_t vocab, eos, bert_width, phone_count;
    mica_post_norm_block *steps; /* [stack.count]: the blocks as a step runs them */
    mica_tensor
        positions_RD; /* of codes, weighted; f32 state in a buffer; as many as were needed */
} mica_gs_semantic;

bool mica_gs_semantic_probe(const mica_weights *files);
/* Whether a name of the canonical kind is one of this network's. */
bool mica_gs_is_semantic_name(const char *name);
mica_status mica_gs_semantic_directory(mica_weights **out, const mica_weights *files,
                                       mica_arena *arena, mica_err *err);
/* heads 0: 32 numbers a head, 16 in networks less than 256 wide. */
mica_status mica_gs_semantic_open(mica_gs_semantic *s, const mica_weights *directory, int64_t heads,
                                  mica_arena *arena, mica_err *err);
/* Random weights of `blocks` blocks at the released widths into an empty directory, for measurements. */
mica_status mica_gs_semantic_fill(mica_weights *directory, int blocks, mica_arena *arena,
                                  mica_err *err);
mica_status mica_gs_semantic_upload(mica_gs_semantic *s, mica_backend *be, mica_arena *arena,
                                    mica_err *err);

/* One sentence on its way. Codes are drawn where the blocks run; the host learns them behind. */
#define MICA_GS_QUEUED 2
typedef struct mica_gs_sentence {
    mica_kv_cache cache;
    int64_t text_count, prompt_count;
    int32_t *codes; /* prompt and what was made; prompt_count + count of them */
    int64_t count, cap;
    int queued;                       /* drawn behind those, not known yet */
    uint64_t tickets[MICA_GS_QUEUED]; /* of them */
    int step;                         /* of the sampler */
    bool finished;
    mica_gs_sampler sampler;
    void *buffer; /* of the backend: the two below */
    mica_tensor seen_V, drawn_2;
} mica_gs_sentence;

typedef struct mica_gs_prefix {
    const int32_t *phones;
    int64_t phone_count;
    const float *features_TB; /* [phone_count][bert_width]; NULL: zeros */
    const int32_t *prompt;    /* codes of the reference; may be none */
    int64_t prompt_count;
} mica_gs_prefix;

/* Reads the prefix and draws the first code, which the first step tells. deinit, before the backend
 * closes, also of a zeroed one. */
mica_status mica_gs_sentence_begin(mica_gs_sentence *t, mica_gs_semantic *s, mica_backend *be,
                                   mica_run *run, const mica_gs_prefix *prefix,
                                   const mica_gs_sampling *sampling, mica_err *err);
/* One more code for each of `count` sentences that are not finished. On a device the pass for the code
 * behind it is queued first; what a sentence that ended had queued is dropped. */
mica_status mica_gs_sentences_step(mica_gs_sentence *const *list, int count, mica_gs_semantic *s,
                                   mica_backend *be, mica_run *run, mica_err *err);
void mica_gs_sentence_deinit(mica_gs_sentence *t);

/* Attention of codes over phones, which the steps do not keep. */
typedef struct mica_gs_watch {
    int64_t first_phone, phones; /* which of the sentence's */
    int layers;                  /* that run, from the first */
    bool (*wants)(void *user, int layer);
    /* shares_LHT: [codes][heads][phones] */
    mica_status (*seen)(void *user, int layer, const float *shares_LHT, mica_err *err);
    void *user;
} mica_gs_watch;
/* Reads codes behind the prefix of `t` once more, all in one pass, and tells where they looked. Keys and
 * values of codes made before are gone then; t may be watched again, and deinit. */
mica_status mica_gs_sentence_watch(mica_gs_sentence *t, mica_gs_semantic *s, mica_backend *be,
                                   const int32_t *codes, int64_t count, const mica_gs_watch *watch,
                                   mica_err *err);
void mica_gs_semantic_drop(mica_gs_semantic *s, mica_backend *be);

#endif
