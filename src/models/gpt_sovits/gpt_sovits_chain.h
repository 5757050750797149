/* gpt_sovits_chain.h - from what the front ends made to sound, without files, text or options.
 *
 *     recording ──► mica_gs_audio ──HuBERT, quantiser──► codes ─┐
 *       (src/media)      └──style encoder, speaker network──► style ─┤  mica_gs_voice
 *     transcript ──► mica_gs_text ─────────────────────────────┘
 *
 *     mica_gs_text (src/text: phones, characters, word2ph)
 *        │ BERT of Chinese spans, zeros elsewhere
 *        ▼
 *     prompt phones + phones, prompt codes ──text to semantic──► tokens ──decoder, style──► samples
 *
 * Everything here is host memory. Sizes are the model's: ask mica_gs_facts. */
#ifndef MICA_MODELS_GPT_SOVITS_CHAIN_H
#define MICA_MODELS_GPT_SOVITS_CHAIN_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum mica_gs_version {
    MICA_GS_V1 = 0,
    MICA_GS_V2,
    MICA_GS_V2PRO,
    MICA_GS_V2PRO_PLUS
} mica_gs_version;

/* What the front ends must know of a model. */
typedef struct mica_gs_facts {
    mica_gs_version version;
    int phone_count; /* rows of the phone table: 322 (v1) or 732 */
    int bert_width;  /* of a feature; 0: the model is used without BERT */
    int rate;        /* samples per second of the result and of the reference spectrum */
    int fft, hop, window, spectrum_bins; /* 2048, 640, 2048, 1025 */
    int samples_per_code;                /* of the result: 1280 */
    bool wants_speaker;                  /* v2Pro, v2ProPlus: fbank features are needed */
} mica_gs_facts;

/* A stretch of a text in one language. */
typedef struct mica_gs_span {
    const int32_t *phones; /* ids, each below phone_count */
    int64_t phone_count;
    /* Chinese: what BERT sees, and how many phones each character has. ids are those of WordPiece with
     * [CLS] and [SEP] around; one id per character, so id_count == character_count + 2 and the
     * word2ph add up to phone_count. NULL: features are zeros. */
    const int32_t *bert_ids;
    int64_t id_count;
    const int32_t *word2ph;
    int64_t character_count;
} mica_gs_span;

/* One sentence (or a transcript): its spans in order. */
typedef struct mica_gs_text {
    const mica_gs_span *spans;
    int span_count;
    const char *text; /* normalised, for messages and the result; may be NULL */
    /* Features given instead of computed, [phones][bert_width]; NULL: BERT as above. */
    const float *features_TD;
} mica_gs_text;

/* A recording as src/media prepares it. */
typedef struct mica_gs_audio {
    const float
        *samples_16k; /* mono, 16 kHz, with 9600 zeros behind, not normalised; NULL: only the
                                 style is wanted */
    int64_t sample_count;
    const float *spectrum_RC; /* magnitudes [frames][spectrum_bins] of the sound at `rate` */
    int64_t frames;
    const float *fbank_RC; /* Kaldi filter banks [fbank_frames][80]; NULL unless wants_speaker */
    int64_t fbank_frames;
} mica_gs_audio;

/* All that a model needs to know of a voice. Plain data that may be kept on disk; it fits the model
 * whose hash it carries. Freed with mica_gs_voice_deinit. */
typedef struct mica_gs_voice {
    char hash[17];  /* of the decoder's weights */
    int32_t *codes; /* semantic codes of the first recording */
    int64_t code_count;
    float *style; /* [style_width]: ge, the mean over the recordings */
    int64_t style_width;
    char *text, *language; /* transcript of the first recording; NULL: not known */
} mica_gs_voice;
void mica_gs_voice_deinit(mica_gs_voice *voice);

#endif
