/* flux2_forward.h - one evaluation of the FLUX.2 transformer over all items of a step.
 *
 *     item = condition x picture:   text rows [T]   picture rows [P noise, then R of references]
 *
 *     rows of x:   | text of item 0 | text of item 1 | ... | picture of item 0 | picture of item 1 |
 *                   '------ text stream of double blocks ------'---- picture stream ----'
 *                   '------------------- the one stream of single blocks ---------------'
 *
 * Linears see all rows; attention goes item by item, so nothing is padded beyond the text's own
 * padding, which the model was trained with. */
#ifndef MICA_MODELS_FLUX2_FLUX2_FORWARD_H
#define MICA_MODELS_FLUX2_FLUX2_FORWARD_H

#include "diffusion/block_cache.h"
#include "models/flux2/flux2_modulation.h"
#include "nn/rope.h"
#include "nn/run.h"

/* Rotated keys and values of the reference pictures in every block, for checkpoints trained with
 * references that see only each other, at timestep 0 (FLUX.2-klein-9b-kv): the same in every step. */
typedef struct mica_flux2_kv {
    int64_t R;
    mica_tensor *k_RD, *v_RD; /* per block, session pool */
} mica_flux2_kv;
mica_status mica_flux2_kv_init(mica_flux2_kv *kv, const mica_flux2_config *c, mica_backend *be,
                               mica_arena *arena, int64_t R, mica_err *err);

typedef struct mica_flux2_pass {
    mica_flux2_weights *w;
    mica_backend *be;
    mica_run *run;
    const mica_rope_table *txt_rope, *img_rope; /* [T], [P + R] */
    const mica_flux2_modulation *mod;
    const mica_tensor *txt_TD[2]; /* context_embedder of the features, by condition */
    int condition_count, pictures;
    int64_t T, P, R;
    const mica_tensor *reference_RC; /* packed latents of all references; needs R */
    mica_flux2_kv *kv;               /* NULL, or keys and values that every item sees as well */
    bool fills_kv;                   /* this pass is over the references and fills kv: T = R = 0 */
    bool probes;                     /* taps of this pass */
    mica_block_cache *cache;         /* NULL: every block is computed */
    bool keeps_pages;                /* weights stay in the process between steps (ablation) */
    uint64_t allocations, waits;     /* set: what the backend counted meanwhile */
} mica_flux2_pass;

/* e: evaluation, in mod's tables. latents_PC: [pictures * P, C]. velocity_PC: [items * P, C], or
 * NULL with fills_kv. */
mica_status mica_flux2_forward(mica_flux2_pass *p, int e, const mica_tensor *latents_PC,
                               mica_tensor *velocity_PC, mica_err *err);
/* Text features [T, E] to the transformer's width, in the session pool. */
void mica_flux2_enter_text(mica_flux2_weights *w, mica_backend *be, const mica_tensor *embeds_TE,
                           mica_tensor *out_TD);

/* Rows that go through an MLP at a time, about, with f32 activations; twice as many of half the size. */
#define MICA_FLUX2_MLP_ROWS 2048

#endif
