/* gpt_sovits_chain.c - a voice from recordings, and sentences from tokens to sound.
 *
 *     sentences of a batch:  prefix each ─► steps together ─► tokens
 *     each sentence:         prior ─► m + noise e^logs ─► flow, vocoder ─► peak rule ─► + pause
 *
 * A sentence is decoded by itself, so neither the batch nor its neighbours change it; upstream decodes
 * the sentences of a batch in one call at the usual speed, where cross attention looks into the
 * neighbours' phones. The peak rule and the pause are upstream's (TTS.py audio_postprocess).
 *
 * A sentence whose tokens do not fit its phones (gpt_sovits_check.c) is drawn again, with noise of its own, at
 * most `retries` times; then the best attempt is kept and marked. */
#include "models/gpt_sovits/gpt_sovits_job.h"

#include "base/clock.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

#define NOISE_STREAM 0x80000000u /* beside the sampler's, per sentence */

void mica_gs_voice_deinit(mica_gs_voice *voice)
{
    mica_mem_free(voice->codes);
    mica_mem_free(voice->style);
    mica_mem_free(voice->text);
    mica_mem_free(voice->language);
    *voice = (mica_gs_voice){0};
}

/* ------------------------------------------------------------------- voice -- */

/* Told before any network runs. */
static mica_status check_parts(const mica_gs_model *m, const mica_gs_audio *first, mica_err *err)
{
    if (first->samples_16k && !m->directory[MICA_GS_HUBERT])
        return MICA_FAIL(err, MICA_E_MISSING,
                         "HuBERT is needed to hear a recording; give it with --hubert FOLDER");
    if (m->facts.wants_speaker && !m->directory[MICA_GS_SPEAKER])
        return MICA_FAIL(
            err, MICA_E_MISSING,
            "%s needs the speaker network ERes2NetV2 to hear a recording; give it with "
            "--speaker FILE",
            m->facts.version == MICA_GS_V2PRO_PLUS ? "v2ProPlus" : "v2Pro");
    return MICA_OK;
}

static mica_status find_codes(mica_gs_session *s, mica_run *run, const mica_gs_audio *a,
                              mica_gs_voice *out, mica_err *err)
{
    const int64_t rows = mica_gs_hubert_frames(&s->hubert, a->sample_count);
    const mica_pool_mark mark = mica_pool_get_mark(s->be, MICA_POOL_SESSION);
    mica_tensor ssl = mica_act_tensor(s->be, MICA_POOL_SESSION, 2,
                                      (const int64_t[]){rows, s->hubert.stack.width});
    mica_status st =
        mica_gs_hubert_run(&s->hubert, s->be, run, a->samples_16k, a->sample_count, &ssl, err);
    if (!st)
        st = mica_gs_synth_codes(&s->synth, s->be, run, &ssl, &out->codes, &out->code_count, err);
    mica_pool_release(s->be, MICA_POOL_SESSION, mark);
    mica_gs_hubert_drop(&s->hubert, s->be);
    return st;
}

/* The vector that v2Pro adds; *out stays NULL for models without. mica_mem_free. */
static mica_status find_speaker(mica_gs_session *s, mica_run *run, const mica_gs_audio *a,
                                float **out, mica_err *err)
{
    *out = NULL;
    if (!s->model->facts.wants_speaker)
        return MICA_OK;
    if (!a->fbank_RC)
        return MICA_FAIL(err, MICA_E_INTERNAL, "a recording without filter banks");
    *out = mica_mem_calloc((size_t)mica_gs_speaker_width(&s->speaker), sizeof **out);
    if (!*out)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a speaker vector");
    return mica_gs_speaker_run(&s->speaker, s->be, run, a->fbank_RC, a->fbank_frames, *out, err);
}

static mica_status add_style(mica_gs_session *s, mica_run *run, const mica_gs_audio *a, float *one,
                             mica_gs_voice *out, mica_err *err)
{
    float *speaker;
    mica_status st = find_speaker(s, run, a, &speaker, err);
    if (!st)
        st = mica_gs_synth_style(&s->synth, s->be, run, a->spectrum_RC, a->frames,
                                 s->model->facts.spectrum_bins, speaker, one, err);
    mica_mem_free(speaker);
    MICA_TRY(st);
    for (int64_t g = 0; g < out->style_width; g++)
        out->style[g] += one[g];
    return MICA_OK;
}

static mica_status make_voice(mica_gs_session *s, mica_run *run, const mica_gs_audio *a, int count,
                              mica_gs_voice *out, mica_err *err)
{
    const size_t G = (size_t)s->model->synth.gin;
    float *one = mica_mem_calloc(G, sizeof *one);
    out->style = mica_mem_calloc(G, sizeof *out->style);
    out->style_width = (int64_t)G;
    mica_status st =
        one && out->style ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a voice");
    if (!st && a[0].samples_16k)
        st = find_codes(s, run, &a[0], out, err);
    for (int i = 0; i < count && !st; i++)
        st = add_style(s, run, &a[i], one, out, err);
    for (size_t g = 0; g < G && !st; g++)
        out->style[g] /= (float)count;
    mica_gs_speaker_drop(&s->speaker, s->be);
    mica_mem_free(one);
    return st;
}

mica_status mica_gs_voice_make(mica_gs_session *s, mica_run *run, const mica_gs_audio *recordings,
                               int count, mica_gs_voice *out, mica_err *err)
{
    *out = (mica_gs_voice){0};
    MICA_TRY(check_parts(s->model, &recordings[0], err));
    memcpy(out->hash, s->model->base.hash, sizeof out->hash);
    const mica_status st = make_voice(s, run, recordings, count, out, err);
    if (st)
        mica_gs_voice_deinit(out);
    return st;
}

/* ---------------------------------------------------------------- features -- */

static int64_t phones_of(const mica_gs_text *t)
{
    int64_t n = 0;
    for (int i = 0; t && i < t->span_count; i++)
        n += t->spans[i].phone_count;
    return n;
}

/* The rows of one span: each character's features as often as it has phones. */
static mica_status span_features(mica_gs_session *s, mica_run *run, const mica_gs_span *span,
                                 float *out_TB, mica_err *err)
{
    const int64_t B = s->bert.stack.width;
    if (span->id_count != span->character_count + 2)
        return MICA_FAIL(err, MICA_E_INTERNAL, "%lld characters became %lld tokens of BERT",
                         (long long)span->character_count, (long long)span->id_count - 2);
    float *rows = mica_mem_calloc((size_t)(span->character_count * B), sizeof *rows);
    if (!rows)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for features of BERT");
    const mica_status st =
        mica_gs_bert_run(&s->bert, s->be, run, span->bert_ids, span->id_count, rows, err);
    int64_t at = 0;
    for (int64_t c = 0; c < span->character_count && !st; c++)
        for (int32_t k = 0; k < span->word2ph[c] && at < span->phone_count; k++, at++)
            memcpy(out_TB + at * B, rows + c * B, (size_t)B * sizeof *rows);
    mica_mem_free(rows);
    return st;
}

mica_status mica_gs_features(mica_gs_session *s, mica_run *run, const mica_gs_text *text,
                             float **out, mica_err *err)
{
    const int64_t B = s->semantic.bert_width, T = phones_of(text);
    bool any = text->features_TD != NULL;
    *out = NULL;
    for (int i = 0; i < text->span_count; i++)
        any |= text->spans[i].bert_ids != NULL;
    if (!any)
        return MICA_OK;
    if (!text->features_TD && !s->model->directory[MICA_GS_BERT])
        return MICA_FAIL(err, MICA_E_MISSING, "Chinese needs BERT; give it with --bert FOLDER");
    float *all = mica_mem_calloc((size_t)(T * B), sizeof *all);
    if (!all)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for features of BERT");
    mica_status st = MICA_OK;
    if (text->features_TD)
        memcpy(all, text->features_TD, (size_t)(T * B) * sizeof *all);
    int64_t at = 0;
    for (int i = 0; i < text->span_count && !st && !text->features_TD; i++) {
        const mica_gs_span *span = &text->spans[i];
        if (span->bert_ids)
            st = span_features(s, run, span, all + at * B, err);
        at += span->phone_count;
    }
    if (st)
        mica_mem_free(all);
    else
        *out = all;
    return st;
}

/* ---------------------------------------------------------------- sentence -- */

typedef mica_gs_job job;

static void job_deinit(job *j)
{
    mica_mem_free(j->phones);
    mica_mem_free(j->features);
    mica_mem_free(j->best.codes);
    mica_gs_sentence_deinit(&j->sentence);
    *j = (job){0};
}

static int64_t copy_phones(const mica_gs_text *t, int32_t *out)
{
    int64_t at = 0;
    for (int i = 0; t && i < t->span_count; i++) {
        memcpy(out + at, t->spans[i].phones, (size_t)t->spans[i].phone_count * sizeof *out);
        at += t->spans[i].phone_count;
    }
    return at;
}

static mica_status job_init(job *j, mica_gs_session *s, mica_run *run, const mica_gs_request *r,
                            int index, const float *prompt_features, mica_err *err)
{
    if (r->prepare)
        MICA_TRY(r->prepare(r->prepare_user, index, err));
    const mica_gs_text *text = &r->texts[index];
    const int64_t P = phones_of(r->prompt), T = phones_of(text), B = s->semantic.bert_width;
    float *own = NULL;
    *j = (job){.index = index, .phone_count = P + T, .prompt_phones = P};
    j->phones = mica_mem_calloc((size_t)(P + T) + 1, sizeof *j->phones);
    if (!j->phones)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld phones", (long long)(P + T));
    copy_phones(text, j->phones + copy_phones(r->prompt, j->phones));
    MICA_TRY(mica_gs_features(s, run, text, &own, err));
    if (own || prompt_features) {
        j->features = mica_mem_calloc((size_t)((P + T) * B), sizeof *j->features);
        if (j->features && prompt_features)
            memcpy(j->features, prompt_features, (size_t)(P * B) * sizeof *own);
        if (j->features && own)
            memcpy(j->features + P * B, own, (size_t)(T * B) * sizeof *own);
    }
    mica_mem_free(own);
    return (own || prompt_features) && !j->features
               ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for features of BERT")
               : MICA_OK;
}

mica_status mica_gs_job_begin(job *j, mica_gs_session *s, mica_run *run, const mica_gs_request *r,
                              mica_err *err)
{
    mica_gs_sampling sampling = r->sampling;
    const bool prompted = r->continues;
    sampling.sentence = (uint32_t)j->index;
    sampling.attempt = (uint32_t)j->attempt;
    mica_gs_sentence_deinit(&j->sentence);
    const mica_gs_prefix prefix = {.phones = j->phones,
                                   .phone_count = j->phone_count,
                                   .features_TB = j->features,
                                   .prompt = prompted ? r->voice->codes : NULL,
                                   .prompt_count = prompted ? r->voice->code_count : 0};
    const double start = mica_clock_seconds();
    const mica_status st =
        mica_gs_sentence_begin(&j->sentence, &s->semantic, s->be, run, &prefix, &sampling, err);
    j->prefix_seconds += mica_clock_seconds() - start;
    return st;
}

/* ------------------------------------------------------------------ tokens -- */

static bool is_running(const job *jobs, int count)
{
    for (int i = 0; i < count; i++)
        if (!jobs[i].sentence.finished)
            return true;
    return false;
}

static mica_status step_all(job *jobs, int count, mica_gs_session *s, mica_run *run, int64_t most,
                            mica_err *err)
{
    mica_gs_sentence *list[64];
    for (int i = 0; i < count; i++)
        list[i] = &jobs[i].sentence;
    for (int64_t step = 1; is_running(jobs, count); step++) {
        MICA_TRY(mica_gs_sentences_step(list, count, &s->semantic, s->be, run, err));
        MICA_TRY(mica_run_block(run, s->be, (int)MICA_MIN(step, most), (int)most, err));
    }
    return MICA_OK;
}

static mica_status make_tokens(job *jobs, int count, mica_gs_session *s, mica_run *run,
                               const mica_gs_request *r, mica_err *err)
{
    for (int round = 0; round <= MICA_MAX(r->retries, 0); round++) {
        bool again = false;
        for (int i = 0; i < count; i++)
            if (round == 0 || jobs[i].doubts) {
                if (round > 0)
                    MICA_TRY(mica_gs_job_keep(&jobs[i], err));
                jobs[i].attempt = round;
                MICA_TRY(mica_gs_job_begin(&jobs[i], s, run, r, err));
            }
        MICA_TRY(step_all(jobs, count, s, run, r->sampling.most, err));
        for (int i = 0; i < count; i++) {
            if (jobs[i].attempt == round)
                MICA_TRY(mica_gs_job_check(&jobs[i], s, run, r, err));
            again |= jobs[i].doubts != 0;
        }
        if (!again || r->sampling.greedy) /* which would only repeat itself */
            break;
    }
    for (int i = 0; i < count; i++)
        MICA_TRY(mica_gs_job_take_best(&jobs[i], err));
    return MICA_OK;
}

/* ------------------------------------------------------------------- sound -- */

void mica_gs_job_add_noise(const mica_gs_request *r, const job *j, mica_gs_latent *l, int64_t inter)
{
    for (int64_t i = 0; i < l->frames * inter && r->noise_scale > 0.0; i += 2) {
        float n[2];
        mica_gs_normal(r->sampling.seed, NOISE_STREAM + (uint32_t)j->index, 0, (uint64_t)i / 2, n);
        for (int k = 0; k < 2; k++)
            l->m[i + k] += n[k] * expf(l->logs[i + k]) * (float)r->noise_scale;
    }
}

bool mica_gs_result_grow(mica_speech_result *result, size_t more)
{
    float *p = mica_mem_realloc(result->samples, (result->count + more + 1) * sizeof *p);
    if (p)
        result->samples = p;
    return p != NULL;
}

/* Behind what the result holds; peak at most 1; then the pause. */
static mica_status append_sound(mica_gs_session *s, mica_run *run, const mica_gs_style *style,
                                const mica_gs_latent *l, const mica_gs_request *r, size_t *count,
                                mica_speech_result *result, mica_err *err)
{
    const size_t n = (size_t)(l->frames * s->synth.config.hop);
    const size_t pause = (size_t)(MICA_MAX(r->pause, 0.0) * s->synth.config.rate);
    float peak = 0.0f;
    if (!mica_gs_result_grow(result, n + pause))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu samples", result->count + n);
    float *out = result->samples + result->count;
    MICA_TRY(mica_gs_synth_sound(&s->synth, s->be, run, style, l->m, l->frames, out, err));
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(out[i]))
            return MICA_FAIL(err, MICA_E_NUMERIC, "NaN or infinity in the sound, sample %zu", i);
        peak = fmaxf(peak, fabsf(out[i]));
    }
    const mica_tensor t = mica_tensor_3d(out, MICA_DTYPE_F32, 1, 1, (int64_t)n);
    mica_tap_host(run->taps, &t, "waveform");
    for (size_t i = 0; i < n && peak > 1.0f; i++)
        out[i] /= peak;
    memset(out + n, 0, pause * sizeof *out);
    *count = n;
    result->count += n + pause;
    return MICA_OK;
}

mica_status mica_gs_result_part(mica_speech_result *result, const mica_gs_session *s,
                                const mica_gs_request *r, const job *j, size_t first, size_t count,
                                int64_t tokens, mica_err *err)
{
    const char *text = r->texts[j->index].text;
    mica_speech_part *part = &result->parts[result->part_count];
    *part = (mica_speech_part){.text = text ? mica_mem_strdup(text) : NULL,
                               .first = first,
                               .count = count,
                               .tokens = (int)tokens,
                               .retries = j->attempt};
    result->part_count++;
    result->prefix_seconds += j->prefix_seconds;
    MICA_TRY(mica_gs_job_name_doubts(j, s, part, err));
    return !text || part->text ? MICA_OK
                               : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a sentence's text");
}

static mica_status tell_chunk(const mica_gs_request *r, const mica_speech_result *result,
                              size_t first, int sentence, mica_err *err)
{
    const mica_speech_chunk chunk = {.samples = result->samples + first,
                                     .count = result->count - first,
                                     .rate = result->rate,
                                     .sentence = sentence,
                                     .last = sentence + 1 == r->count};
    if (r->chunk && !r->chunk(r->chunk_user, &chunk))
        return MICA_FAIL(err, MICA_E_CANCELLED, "stopped");
    return MICA_OK;
}

static mica_status make_sound(job *j, mica_gs_session *s, mica_run *run, const mica_gs_style *style,
                              const mica_gs_request *r, mica_speech_result *result, mica_err *err)
{
    const mica_gs_sentence *t = &j->sentence;
    const int32_t *codes = r->tokens ? r->tokens : t->codes + t->prompt_count;
    const int64_t count = r->tokens ? r->token_count : t->count;
    const size_t first = result->count;
    size_t samples = 0;
    const mica_gs_pace pace = {.speed = r->speed};
    mica_gs_latent latent;
    mica_gs_tap_ids(run->taps, codes, 3, (const int64_t[]){1, 1, count}, "semantic_tokens");
    MICA_TRY(mica_gs_synth_prior(&s->synth, s->be, run, style, codes, count,
                                 j->phones + j->prompt_phones, j->phone_count - j->prompt_phones,
                                 &pace, &latent, err));
    mica_gs_job_add_noise(r, j, &latent, s->synth.config.inter);
    const mica_status st = append_sound(s, run, style, &latent, r, &samples, result, err);
    mica_mem_free(latent.m);
    MICA_TRY(st);
    MICA_TRY(mica_gs_result_part(result, s, r, j, first, samples, count, err));
    return tell_chunk(r, result, first, j->index, err);
}

/* ------------------------------------------------------------------- chain -- */

static mica_status run_batch(mica_gs_session *s, mica_run *run, const mica_gs_style *style,
                             const mica_gs_request *r, int first, int count,
                             const float *prompt_features, mica_speech_result *result,
                             mica_err *err)
{
    job *jobs = mica_mem_calloc((size_t)count, sizeof *jobs);
    mica_status st = jobs ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a batch");
    mica_run_set_phase(run, MICA_PHASE_TEXT);
    for (int i = 0; i < count && !st; i++)
        st = job_init(&jobs[i], s, run, r, first + i, prompt_features, err);
    mica_run_set_phase(run, MICA_PHASE_DENOISE);
    if (!st && r->chunk_tokens == 0 && !r->tokens)
        st = make_tokens(jobs, count, s, run, r, err);
    mica_run_set_phase(run, MICA_PHASE_DECODE);
    for (int i = 0; i < count && !st; i++)
        st = r->chunk_tokens > 0 ? mica_gs_job_stream(&jobs[i], s, run, style, r, result, err)
                                 : make_sound(&jobs[i], s, run, style, r, result, err);
    for (int i = 0; jobs && i < count; i++)
        job_deinit(&jobs[i]);
    mica_mem_free(jobs);
    return st;
}

static mica_status run_batches(mica_gs_session *s, mica_run *run, const mica_gs_style *style,
                               const mica_gs_request *r, mica_speech_result *result, mica_err *err)
{
    const int batch = r->chunk_tokens > 0 ? 1 : MICA_MIN(MICA_MAX(r->batch, 1), 64);
    float *prompt_features = NULL;
    if (r->prompt)
        MICA_TRY(mica_gs_features(s, run, r->prompt, &prompt_features, err));
    mica_status st = MICA_OK;
    for (int first = 0; first < r->count && !st; first += batch)
        st = run_batch(s, run, style, r, first, MICA_MIN(batch, r->count - first), prompt_features,
                       result, err);
    mica_mem_free(prompt_features);
    return st;
}

mica_status mica_gs_chain_run(mica_gs_session *s, mica_run *run, const mica_gs_request *r,
                              mica_speech_result *result, mica_err *err)
{
    mica_gs_style style;
    *result = (mica_speech_result){.rate = s->synth.config.rate};
    s->heads.are_sought = false;
    if (!r->voice || r->voice->style_width != s->synth.config.gin)
        return MICA_FAIL(
            err, MICA_E_USAGE, "a voice of another model: its style has %lld numbers, not %lld",
            r->voice ? (long long)r->voice->style_width : 0LL, (long long)s->synth.config.gin);
    result->parts = mica_mem_calloc((size_t)r->count + 1, sizeof *result->parts);
    if (!result->parts)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d sentences", r->count);
    const mica_pool_mark mark = mica_pool_get_mark(s->be, MICA_POOL_SESSION);
    mica_status st = mica_gs_style_make(&s->synth, s->be, r->voice->style, &style, err);
    if (!st)
        st = run_batches(s, run, &style, r, result, err);
    mica_pool_release(s->be, MICA_POOL_SESSION, mark);
    if (st)
        mica_speech_result_deinit(result);
    return st;
}
