/* gpt_sovits_input.c - recordings to what the networks hear, and stages given by files.
 *
 *     file ─mono─┬─ soxr, 16 kHz ─ + 9600 zeros ──────────────────► HuBERT
 *                └─ sinc, 32 kHz ─ peak rule ─┬─ spectrum 2048/640 ──► style
 *                                             └─ sinc, 16 kHz ─ filter banks ──► speaker network
 *
 * Reference: TTS_infer_pack/TTS.py _set_prompt_semantic and _get_ref_spec. The 9,600 zeros are 0.3 s at
 * 32 kHz, appended to the signal at 16 kHz, where they are 0.6 s; models were used so ever since. */
#include "models/gpt_sovits/gpt_sovits_input.h"

#include "base/file.h"
#include "base/mem.h"
#include "media/audio_resample.h"
#include "media/audio_window.h"
#include "media/spectrum.h"
#include "models/gpt_sovits/gpt_sovits_voice_file.h"

#include <math.h>
#include <string.h>

#define SILENCE 9600 /* zeros behind the recording that HuBERT hears */

void mica_gs_input_init(mica_gs_input *in)
{
    *in = (mica_gs_input){0};
    mica_arena_init(&in->arena, 1 << 16);
}

void mica_gs_input_deinit(mica_gs_input *in)
{
    mica_gs_voice_deinit(&in->voice);
    mica_speech_pieces_deinit(&in->pieces);
    mica_speech_pieces_deinit(&in->prompt_pieces);
    mica_text_deinit(&in->notes);
    mica_arena_deinit(&in->arena);
    *in = (mica_gs_input){0};
}

static mica_status no_memory(const char *what, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %s", what);
}

/* ------------------------------------------------------------- given stages -- */

/* Whole numbers of a tensor (any shape, i32 or i64) as i32 in the arena. */
static mica_status copy_ids(const mica_weights *w, const char *name, mica_arena *arena,
                            const int32_t **out, int64_t *count, mica_err *err)
{
    const mica_tensor *t = mica_weights_find(w, name);
    if (!t || (t->dtype != MICA_DTYPE_I32 && t->dtype != MICA_DTYPE_I64))
        return MICA_FAIL(err, MICA_E_MISSING, "%s: it has no tensor %s of whole numbers",
                         mica_weights_path(w), name);
    const int64_t n = mica_tensor_count(t);
    int32_t *ids = mica_arena_calloc(arena, (size_t)n + 1, sizeof *ids);
    if (!ids)
        return no_memory(name, err);
    for (int64_t i = 0; i < n; i++) {
        const int64_t v = t->dtype == MICA_DTYPE_I32 ? ((const int32_t *)t->data)[i]
                                                     : ((const int64_t *)t->data)[i];
        if (v < 0 || v > INT32_MAX)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s holds %lld", mica_weights_path(w), name,
                             (long long)v);
        ids[i] = (int32_t)v;
    }
    *out = ids;
    *count = n;
    return MICA_OK;
}

static mica_status read_ids(const char *path, const char *name, mica_arena *arena,
                            const int32_t **out, int64_t *count, mica_err *err)
{
    mica_weights *w = NULL;
    MICA_TRY(mica_weights_open(&w, path, err));
    const mica_status st = copy_ids(w, name, arena, out, count, err);
    mica_weights_close(&w);
    return st;
}

/* `bert_features` [1, width, phones] turned to [phones][width]; absent: none. */
static mica_status copy_features(const mica_weights *w, int64_t phones, int64_t width,
                                 mica_arena *arena, const float **out, mica_err *err)
{
    const mica_tensor *t = mica_weights_find(w, "bert_features");
    *out = NULL;
    if (!t)
        return MICA_OK;
    if (t->dtype != MICA_DTYPE_F32 || t->ndim != 3 || t->shape_[0] != 1 || t->shape_[1] != width ||
        t->shape_[2] != phones)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: bert_features must be [1, %lld, %lld] f32",
                         mica_weights_path(w), (long long)width, (long long)phones);
    float *rows = mica_arena_calloc(arena, (size_t)(phones * width), sizeof *rows);
    if (!rows)
        return no_memory("bert_features", err);
    for (int64_t c = 0; c < width; c++)
        for (int64_t p = 0; p < phones; p++)
            rows[p * width + c] = ((const float *)t->data)[c * phones + p];
    *out = rows;
    return MICA_OK;
}

static mica_status take_phones(mica_gs_input *in, const mica_weights *w, int64_t width,
                               mica_err *err)
{
    mica_gs_span *span = mica_arena_calloc(&in->arena, 1, sizeof *span);
    in->texts = mica_arena_calloc(&in->arena, 1, sizeof *in->texts);
    if (!span || !in->texts)
        return no_memory("phones", err);
    MICA_TRY(copy_ids(w, "phone_ids", &in->arena, &in->given_phones, &in->given_phone_count, err));
    *span = (mica_gs_span){.phones = in->given_phones, .phone_count = in->given_phone_count};
    in->texts[0] = (mica_gs_text){.spans = span, .span_count = 1};
    in->text_count = 1;
    return copy_features(w, in->given_phone_count, width, &in->arena, &in->texts[0].features_TD,
                         err);
}

#define TEXT_MOST ((size_t)64 << 20) /* bytes of phones by name */

/* A safetensors file begins with a length, of which the upper bytes are 0: no text does. */
static bool is_text(const mica_file_map *file)
{
    return file->size < 8 || memchr(file->data, 0, 8) == NULL;
}

static mica_status read_names(mica_gs_input *in, const mica_gs_session *s, const char *path,
                              mica_err *err)
{
    char *data;
    size_t size;
    MICA_TRY(mica_file_read(path, TEXT_MOST, &data, &size, err));
    mica_status st = mica_speech_parse_phones(s->model->front, data, size,
                                              s->model->facts.phone_count, &in->pieces, err);
    mica_mem_free(data);
    MICA_TRY(st);
    in->texts = mica_arena_calloc(&in->arena, in->pieces.count + 1, sizeof *in->texts);
    if (!in->texts)
        return no_memory("phones", err);
    return mica_gs_input_take_pieces(in, s->model, err);
}

/* Phones by name as text, or `phone_ids` of a safetensors file. */
static mica_status read_phones(mica_gs_input *in, const mica_gs_session *s, const char *path,
                               mica_err *err)
{
    mica_weights *w = NULL;
    mica_file_map file;
    MICA_TRY(mica_file_map_open(&file, path, err));
    const bool names = is_text(&file);
    mica_file_map_close(&file);
    if (names)
        return read_names(in, s, path, err);
    MICA_TRY(mica_weights_open(&w, path, err));
    const mica_status st = take_phones(in, w, s->semantic.bert_width, err);
    mica_weights_close(&w);
    return st;
}

/* -------------------------------------------------------------- recordings -- */

/* Buffers behind a mica_gs_audio. */
typedef struct recording {
    mica_audio sound;
    float *samples_16k;
    mica_spectrum spectrum, fbank;
    mica_gs_audio audio;
} recording;

static void recording_deinit(recording *r)
{
    mica_audio_deinit(&r->sound);
    mica_spectrum_deinit(&r->spectrum);
    mica_spectrum_deinit(&r->fbank);
    mica_mem_free(r->samples_16k);
}

/* Peaks above 1 are divided by themselves, at most by 2. */
static void limit_peak(mica_audio *a)
{
    float peak = 0.0f;
    for (size_t i = 0; i < a->count; i++)
        peak = fmaxf(peak, fabsf(a->samples[i]));
    for (size_t i = 0; i < a->count && peak > 1.0f; i++)
        a->samples[i] /= fminf(2.0f, peak);
}

/* Filter banks for the speaker network. Its 16 kHz come from the sound of the spectrum, by the same filter:
 * not what HuBERT hears. */
static mica_status find_fbank(recording *r, const mica_audio *same, mica_err *err)
{
    mica_audio low = {0};
    MICA_TRY(mica_audio_resample_sinc(same, 16000, &low, err));
    const mica_status st =
        mica_spectrum_fbank16k(low.samples, low.count, MICA_GS_SPEAKER_BINS, &r->fbank, err);
    mica_audio_deinit(&low);
    r->audio.fbank_RC = r->fbank.values_RB;
    r->audio.fbank_frames = (int64_t)r->fbank.frames;
    return st;
}

static mica_status find_spectrum(recording *r, const mica_gs_facts *facts, mica_err *err)
{
    mica_audio same = {0};
    MICA_TRY(mica_audio_resample_sinc(&r->sound, facts->rate, &same, err));
    limit_peak(&same);
    mica_status st =
        mica_spectrum_magnitude(same.samples, same.count, (size_t)facts->fft, (size_t)facts->window,
                                (size_t)facts->hop, &r->spectrum, err);
    if (!st && facts->wants_speaker)
        st = find_fbank(r, &same, err);
    mica_audio_deinit(&same);
    r->audio.spectrum_RC = r->spectrum.values_RB;
    r->audio.frames = (int64_t)r->spectrum.frames;
    return st;
}

/* Leaves the stretch of the recording that is used, and a note when it is not all. */
static mica_status choose_window(recording *r, const char *path, mica_text *notes, mica_err *err)
{
    mica_audio *a = &r->sound;
    size_t first, count;
    MICA_TRY(mica_audio_find_window(a, path, &first, &count, err));
    if (count < a->count)
        mica_text_add(
            notes, "%s%s: %.1f s long; %.2f to %.2f s are used, and a transcript must be of those",
            notes->data ? "\n" : "", path, (double)a->count / a->rate, (double)first / a->rate,
            (double)(first + count) / a->rate);
    memmove(a->samples, a->samples + first, count * sizeof *a->samples);
    a->count = count;
    return MICA_OK;
}

/* What HuBERT hears. */
static mica_status find_samples(recording *r, mica_err *err)
{
    mica_audio low = {0};
    MICA_TRY(mica_audio_resample_soxr(&r->sound, 16000, &low, err));
    r->samples_16k = mica_mem_calloc(low.count + SILENCE, sizeof *r->samples_16k);
    if (r->samples_16k)
        memcpy(r->samples_16k, low.samples, low.count * sizeof *low.samples);
    r->audio.samples_16k = r->samples_16k;
    r->audio.sample_count = (int64_t)low.count + SILENCE;
    mica_audio_deinit(&low);
    return r->samples_16k ? MICA_OK : no_memory("a recording", err);
}

/* is_heard: its codes are wanted, so the rule for its length holds. */
static mica_status load_recording(recording *r, const char *path, const mica_gs_facts *facts,
                                  bool is_heard, mica_text *notes, mica_err *err)
{
    MICA_TRY(mica_audio_read(&r->sound, path, err));
    if (is_heard)
        MICA_TRY(choose_window(r, path, notes, err));
    mica_status st = is_heard ? find_samples(r, err) : MICA_OK;
    if (!st)
        st = find_spectrum(r, facts, err);
    if (st)
        mica_err_prefix(err, "%s", path);
    return st;
}

static mica_status hear(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                        const mica_speech_options *o, recording *list, mica_err *err)
{
    mica_gs_audio audios[16];
    for (int i = 0; i < o->voice_count; i++) {
        MICA_TRY(load_recording(&list[i], o->voices[i].path, &s->model->facts,
                                i == 0 && !o->codes_path, &in->notes, err));
        audios[i] = list[i].audio;
    }
    return mica_gs_voice_make(s, run, audios, o->voice_count, &in->voice, err);
}

static mica_status take_codes(mica_gs_input *in, const char *path, mica_err *err)
{
    const int32_t *codes;
    int64_t count;
    MICA_TRY(read_ids(path, "prompt_tokens", &in->arena, &codes, &count, err));
    mica_mem_free(in->voice.codes);
    in->voice.codes = mica_mem_calloc((size_t)count + 1, sizeof *codes);
    if (!in->voice.codes)
        return no_memory("codes", err);
    memcpy(in->voice.codes, codes, (size_t)count * sizeof *codes);
    in->voice.code_count = count;
    return MICA_OK;
}

/* A .voice file stands for all recordings; its style must be this model's. */
static mica_status read_voice(mica_gs_input *in, const mica_gs_session *s, const char *path,
                              mica_err *err)
{
    mica_gs_voice *v = &in->voice;
    const mica_gs_synth_config *c = &s->synth.config;
    MICA_TRY(mica_gs_voice_read(v, path, err));
    if (v->style_width != c->gin || strcmp(v->hash, s->model->base.hash) != 0)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "%s: it was made with another synthesizer (%s, here %s); make it anew from "
            "the recording",
            path, v->hash, s->model->base.hash);
    for (int64_t i = 0; i < v->code_count; i++)
        if (v->codes[i] >= c->codes)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: code %d; the model has %lld", path,
                             (int)v->codes[i], (long long)c->codes);
    return MICA_OK;
}

static mica_status hear_all(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                            const mica_speech_options *o, mica_err *err)
{
    for (int i = 0; i < o->voice_count; i++)
        if (mica_gs_voice_is_file(o->voices[i].path))
            return o->voice_count == 1
                       ? read_voice(in, s, o->voices[i].path, err)
                       : MICA_FAIL(err, MICA_E_USAGE,
                                   "%s: a .voice file cannot be joined with other recordings; make "
                                   "one of all of them",
                                   o->voices[i].path);
    recording *list = mica_mem_calloc((size_t)o->voice_count, sizeof *list);
    if (!list)
        return no_memory("recordings", err);
    const mica_status st = hear(in, s, run, o, list, err);
    for (int i = 0; i < o->voice_count; i++)
        recording_deinit(&list[i]);
    mica_mem_free(list);
    return st;
}

/* Five seconds of a voice for models that never heard one. */
static mica_status make_up(mica_gs_voice *v, const mica_gs_synth_config *c, mica_err *err)
{
    v->code_count = 125;
    v->style_width = c->gin;
    v->codes = mica_mem_calloc((size_t)v->code_count, sizeof *v->codes);
    v->style = mica_mem_calloc((size_t)c->gin, sizeof *v->style);
    if (!v->codes || !v->style)
        return no_memory("a voice", err);
    for (int64_t i = 0; i < v->code_count; i++)
        v->codes[i] = (int32_t)(i * 37 % c->codes);
    return MICA_OK;
}

mica_status mica_gs_input_voice(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                const mica_speech_options *o, mica_err *err)
{
    for (int i = 0; i < o->voice_count; i++)
        MICA_TRY(mica_gs_input_check_language(o->voices[i].language, err));
    if (s->model->is_synthetic)
        return make_up(&in->voice, &s->synth.config, err);
    if (o->voice_count < 1)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "no voice to speak with; name a recording or a .voice file");
    MICA_TRY(hear_all(in, s, run, o, err));
    return o->codes_path ? take_codes(in, o->codes_path, err) : MICA_OK;
}

/* ------------------------------------------------------------------- texts -- */

mica_status mica_gs_input_texts(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                const mica_speech_options *o, mica_err *err)
{
    MICA_TRY(mica_gs_input_check_language(o->language, err));
    if (o->tokens_path)
        MICA_TRY(read_ids(o->tokens_path, "semantic_tokens", &in->arena, &in->tokens,
                          &in->token_count, err));
    if (o->phones_path)
        return read_phones(in, s, o->phones_path, err);
    MICA_TRY(mica_gs_input_read_text(in, s, o->text, o->language, o->cut, err));
    const mica_voice_input *voice = o->voice_count ? &o->voices[0] : &(mica_voice_input){0};
    const char *transcript =
        s->model->is_synthetic ? "今天天气很好，我们去公园散步吧。" : voice->text;
    return transcript ? mica_gs_input_read_transcript(in, s, run, transcript, voice->language, err)
                      : MICA_OK;
}

mica_status mica_gs_input_kept_transcript(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                          mica_err *err)
{
    return in->has_prompt || in->given_phones || !in->voice.text
               ? MICA_OK
               : mica_gs_input_read_transcript(in, s, run, in->voice.text, in->voice.language, err);
}
