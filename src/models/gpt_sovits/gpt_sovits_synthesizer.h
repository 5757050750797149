/* gpt_sovits_synthesizer.h - semantic codes and phones to sound, in the voice of a reference (VITS).
 *
 *     spectrum ──style──► ge [G] ───────────────────────┬───────────┬──────────┐
 *       (v2Pro: + speaker vector, PReLU)                │           │          │
 *     codes ─codebook, twice─► prior: encoders, cross ──┴─► m, logs │          │
 *     phones ────────────────►        attention             │ noise │          │
 *                                                           ▼       ▼          ▼
 *                                                          z_p ─► flow^-1 ─► vocoder ─► samples
 *
 * Frames come 50 a second; a frame is `hop` samples. All sizes are read off the tensors, except
 * rates, dilations and heads, which the checkpoint's settings say (or the released values). */
#ifndef MICA_MODELS_GPT_SOVITS_SYNTHESIZER_H
#define MICA_MODELS_GPT_SOVITS_SYNTHESIZER_H

#include "models/gpt_sovits/gpt_sovits_chain.h"
#include "models/gpt_sovits/gpt_sovits_layers.h"

#define MICA_GS_UPS       8 /* stages of the vocoder at most */
#define MICA_GS_KERNELS   6 /* residual blocks of a stage at most */
#define MICA_GS_DILATIONS 3 /* of a residual block; the short kind has two */
#define MICA_GS_FLOWS     4
#define MICA_GS_WN        4 /* layers of a flow's network */

typedef struct mica_gs_synth_config {
    mica_gs_version version;
    int64_t ssl, hidden, filter, heads, window; /* window: rows of relative keys, 2 W + 1 */
    int64_t mrte, mrte_heads, style, style_heads, style_bins, gin, inter, codes, phones;
    int64_t speaker;       /* width of the speaker vector; 0: none */
    int64_t code_kernel;   /* 2: codes come 25 a second, 1: 50 */
    int64_t filter_kernel; /* of the encoders' hidden layers */
    int layers_ssl, layers_text, layers_2;
    int ups, rates[MICA_GS_UPS], up_kernels[MICA_GS_UPS];
    int kernel_count, kernels[MICA_GS_KERNELS]; /* residual blocks of a stage */
    int dilations[MICA_GS_KERNELS][MICA_GS_DILATIONS];
    bool is_short; /* ResBlock2: two convolutions, each added, in place of three pairs */
    int64_t channels[MICA_GS_UPS + 1]; /* [0]: of conv_pre; [i + 1]: behind stage i */
    int rate, hop;                     /* hop: samples of a frame */
    int fft, fft_hop, fft_window;      /* of the reference's spectrum */
} mica_gs_synth_config;

typedef struct mica_gs_encoder_layer {
    mica_nn_linear q, k, v, o;
    mica_weight rel_k, rel_v;
    mica_gs_norm norm_1, norm_2;
    mica_nn_linear conv_1, conv_2;
} mica_gs_encoder_layer;
typedef struct mica_gs_encoder {
    mica_gs_encoder_layer *layers;
    int count;
} mica_gs_encoder;

typedef struct mica_gs_flow {
    mica_nn_linear pre, post, cond;
    mica_nn_linear in[MICA_GS_WN], res[MICA_GS_WN], skip[MICA_GS_WN];
} mica_gs_flow;

typedef struct mica_gs_resblock {
    mica_nn_linear convs1[MICA_GS_DILATIONS]; /* the short kind has the first two of these */
    mica_nn_linear convs2[MICA_GS_DILATIONS];
} mica_gs_resblock;

typedef struct mica_gs_synth {
    mica_gs_synth_config config;
    mica_nn_linear code_conv; /* ssl_proj: HuBERT's rows to those that are quantised */
    mica_weight codebook;
    /* prior */
    mica_nn_linear ssl_in, proj;
    mica_weight text_embed;
    mica_gs_encoder encoder_ssl, encoder_text, encoder_2;
    mica_nn_linear c_pre, text_pre, cross_q, cross_k, cross_v, cross_o, c_post;
    /* style */
    mica_nn_linear style_1, style_2, glu_1, glu_2, style_q, style_k, style_v, style_o, style_out;
    mica_nn_linear speaker, ge_to_mrte;
    mica_weight prelu;
    mica_gs_flow flows[MICA_GS_FLOWS]; /* in the order of the checkpoint; run backwards */
    /* vocoder */
    mica_nn_linear conv_pre, cond, conv_post;
    mica_nn_linear ups[MICA_GS_UPS]; /* as stride-one convolutions with rate * O outputs */
    mica_gs_resblock resblocks[MICA_GS_UPS * MICA_GS_KERNELS];
} mica_gs_synth;

bool mica_gs_synth_probe(const mica_weights *files);
/* v3 and v4, which the next ones refuse by name. */
bool mica_gs_synth_is_refused(const mica_weights *files);
mica_status mica_gs_synth_directory(mica_weights **out, const mica_weights *files,
                                    mica_arena *arena, mica_err *err);
/* What a converted file holds: weight norm folded, tensors of training left out. Refuses likewise. */
mica_status mica_gs_synth_folded(mica_weights **out, const mica_weights *files, mica_arena *arena,
                                 mica_err *err);
/* Sizes from the directory, the rest from the settings in `files` (may be the directory's own). */
/* "v2Pro", of a file whose headers alone were read; *wants_speaker: whether it adds a speaker vector. */
const char *mica_gs_synth_version(const mica_weights *files, bool *wants_speaker);
mica_status mica_gs_synth_config_read(mica_gs_synth_config *c, const mica_weights *files,
                                      const mica_weights *directory, mica_err *err);
/* The arena keeps the forms that differ from the files' (flows turned, transposed convolutions). */
mica_status mica_gs_synth_open(mica_gs_synth *s, const mica_gs_synth_config *config,
                               const mica_weights *directory, mica_arena *arena, mica_err *err);
/* The released sizes of v2, v2Pro or v2ProPlus, and random weights of them. */
void mica_gs_synth_config_default(mica_gs_synth_config *c, mica_gs_version version);
mica_status mica_gs_synth_fill(mica_weights *directory, const mica_gs_synth_config *c,
                               mica_arena *arena, mica_err *err);
mica_status mica_gs_synth_upload(mica_gs_synth *s, mica_backend *be, mica_err *err);
void mica_gs_synth_drop(mica_gs_synth *s, mica_backend *be);

/* ------------------------------------------------------------- reference -- */

/* Codes of HuBERT's rows ssl_LD (activations). *codes: mica_mem_free. */
mica_status mica_gs_synth_codes(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const mica_tensor *ssl_LD, int32_t **codes, int64_t *count,
                                mica_err *err);
/* ge [gin] of one reference: spectrum_RB has `bins` columns, of which the first style_bins are
 * read; speaker: [config.speaker], or NULL for models without. */
mica_status mica_gs_synth_style(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const float *spectrum_RB, int64_t frames, int64_t bins,
                                const float *speaker, float *ge, mica_err *err);

/* A style on the backend: what every sentence needs of it. f32 state, in SESSION. */
typedef struct mica_gs_style {
    mica_tensor mrte_D;                            /* joins the cross attention */
    mica_tensor flow_N[MICA_GS_FLOWS][MICA_GS_WN]; /* shifts of the gated units */
    mica_tensor vocoder_C;                         /* joins conv_pre */
} mica_gs_style;
mica_status mica_gs_style_make(mica_gs_synth *s, mica_backend *be, const float *ge,
                               mica_gs_style *out, mica_err *err);

/* -------------------------------------------------------------- sentence -- */

typedef struct mica_gs_latent {
    float *m, *logs; /* [frames][inter]; mica_mem_free m, logs lies behind it */
    int64_t frames;
} mica_gs_latent;
/* frames / speed + 1 of them, unless speed is 1: spread over the sentence, as upstream has it, so `speed` less
 * a hair apart. is_open: exactly `speed` apart, so that codes to come move none of them. */
typedef struct mica_gs_pace {
    double speed;
    bool is_open;
} mica_gs_pace;
mica_status mica_gs_synth_prior(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const mica_gs_style *style, const int32_t *codes,
                                int64_t code_count, const int32_t *phones, int64_t phone_count,
                                const mica_gs_pace *pace, mica_gs_latent *out, mica_err *err);
/* z [frames][inter] through the inverse flow and the vocoder: frames * hop samples into out. */
mica_status mica_gs_synth_sound(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const mica_gs_style *style, const float *z, int64_t frames,
                                float *out, mica_err *err);

/* Parts of the above, a file each. */
void mica_gs_encoder_run(mica_backend *be, const mica_gs_synth_config *c, const mica_gs_encoder *e,
                         mica_tensor *x_LD);
void mica_gs_flow_run(mica_gs_synth *s, mica_backend *be, const mica_gs_style *style,
                      mica_tensor *z_RI);
/* Frames to each side that a piece needs for its samples to be those of the whole. */
int64_t mica_gs_vocoder_halo(const mica_gs_synth_config *c);
void mica_gs_vocoder_run(mica_gs_synth *s, mica_backend *be, mica_run *run,
                         const mica_gs_style *style, const mica_tensor *z_RI, float *out);

#endif
