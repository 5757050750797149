/* gpt_sovits_stream.c - sound of a sentence while its codes are still being made.
 *
 *     codes      |---- chunk ----|---- chunk ----|-- chunk --|
 *     frames     given out       | overlap | new      | held back |
 *     decoded           | context | overlap | new      | held back |
 *                                 ^ sine cross-fade between the last decoding and this one
 *
 * Every chunk runs the prior over all codes so far and decodes the frames that are new, with CONTEXT frames
 * before them (the flow sees 32 frames to each side, the released vocoders 13). The newest HELD frames wait: what
 * comes next still changes them. Frames are cut exactly, none is sent twice (upstream's streaming sends
 * those behind a cut again); the seam is a cross-fade between two decodings of the same frames.
 *
 * A sentence of one chunk is what it would be without streaming, bit for bit. At another speed frames of several
 * chunks are `speed` apart; those of a sentence in one piece are spread over it, up to one frame later.
 *
 * What was given out cannot be taken back, so sentences are not made anew here, only marked. */
#include "models/gpt_sovits/gpt_sovits_job.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define CONTEXT 34 /* frames, beside what the vocoder sees; 50 a second */
#define HELD    16
#define OVERLAP 4

static const double half_pi = 1.57079632679489661923;

typedef struct stream {
    mica_gs_job *job;
    mica_gs_session *s;
    mica_run *run;
    const mica_gs_style *style;
    const mica_gs_request *r;
    mica_speech_result *result;
    size_t first;  /* sample of the result where the sentence begins */
    int64_t given; /* frames given out */
    float *tail;   /* OVERLAP frames behind them, of the last decoding */
    bool has_tail;
} stream;

static mica_status tell(stream *t, size_t from, bool last, mica_err *err)
{
    const mica_speech_chunk chunk = {.samples = t->result->samples + from,
                                     .count = t->result->count - from,
                                     .rate = t->result->rate,
                                     .sentence = t->job->index,
                                     .last = last && t->job->index + 1 == t->r->count};
    if (t->r->chunk && !t->r->chunk(t->r->chunk_user, &chunk))
        return MICA_FAIL(err, MICA_E_CANCELLED, "stopped");
    return MICA_OK;
}

/* The last decoding goes out while this one comes in. */
static void fade(const stream *t, float *samples, size_t count)
{
    const size_t n = MICA_MIN((size_t)(OVERLAP * t->s->synth.config.hop), count);
    for (size_t i = 0; t->has_tail && i < n; i++) {
        const double in = sin(half_pi * ((double)i + 0.5) / (double)n);
        const float share = (float)(in * in);
        samples[i] = share * samples[i] + (1.0f - share) * t->tail[i];
    }
}

/* Frames [given, end) from sound that begins at frame `begin`, to the result. */
static mica_status give(stream *t, const float *sound, int64_t begin, int64_t end, int64_t frames,
                        mica_err *err)
{
    const int64_t hop = t->s->synth.config.hop;
    const size_t from = t->result->count, n = (size_t)((end - t->given) * hop);
    if (!mica_gs_result_grow(t->result, n))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu samples", from + n);
    float *out = t->result->samples + from;
    memcpy(out, sound + (t->given - begin) * hop, n * sizeof *out);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(out[i]))
            return MICA_FAIL(err, MICA_E_NUMERIC, "NaN or infinity in the sound, sample %zu", i);
    fade(t, out, n);
    const int64_t rest = MICA_MIN(frames - end, (int64_t)OVERLAP);
    memset(t->tail, 0, (size_t)(OVERLAP * hop) * sizeof *t->tail);
    memcpy(t->tail, sound + (end - begin) * hop, (size_t)(rest * hop) * sizeof *t->tail);
    t->has_tail = rest == OVERLAP;
    t->result->count += n;
    t->given = end;
    return MICA_OK;
}

/* Decodes what is new of `l` and gives out all but what is held back. */
static mica_status decode(stream *t, const mica_gs_latent *l, bool last, mica_err *err)
{
    const int64_t inter = t->s->synth.config.inter, hop = t->s->synth.config.hop;
    const int64_t end = last ? l->frames : l->frames - HELD;
    const int64_t context = CONTEXT + mica_gs_vocoder_halo(&t->s->synth.config);
    const int64_t begin = MICA_MAX(t->given - context, (int64_t)0), n = l->frames - begin;
    if (end <= t->given)
        return MICA_OK;
    float *sound = mica_mem_alloc((size_t)(n * hop) * sizeof *sound);
    if (!sound)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld frames", (long long)n);
    mica_status st = mica_gs_synth_sound(&t->s->synth, t->s->be, t->run, t->style,
                                         l->m + begin * inter, n, sound, err);
    if (!st)
        st = give(t, sound, begin, end, l->frames, err);
    mica_mem_free(sound);
    return st;
}

static mica_status make_chunk(stream *t, const int32_t *codes, int64_t count, bool last,
                              mica_err *err)
{
    const mica_gs_job *j = t->job;
    const mica_gs_pace pace = {.speed = t->r->speed, .is_open = !last || t->given > 0};
    mica_gs_latent latent;
    const size_t from = t->result->count;
    mica_run_set_phase(t->run, MICA_PHASE_DECODE);
    MICA_TRY(mica_gs_synth_prior(&t->s->synth, t->s->be, t->run, t->style, codes, count,
                                 j->phones + j->prompt_phones, j->phone_count - j->prompt_phones,
                                 &pace, &latent, err));
    mica_gs_job_add_noise(t->r, j, &latent, t->s->synth.config.inter);
    const mica_status st = decode(t, &latent, last, err);
    mica_mem_free(latent.m);
    mica_run_set_phase(t->run, MICA_PHASE_DENOISE);
    MICA_TRY(st);
    return last || t->result->count == from ? MICA_OK : tell(t, from, false, err);
}

/* The last chunk, the sentence's part, the pause; told together, so that nothing follows `last`. */
static mica_status finish(stream *t, const int32_t *codes, int64_t count, mica_err *err)
{
    const size_t from = t->result->count;
    const size_t pause = (size_t)(MICA_MAX(t->r->pause, 0.0) * t->s->synth.config.rate);
    mica_gs_tap_ids(t->run->taps, codes, 3, (const int64_t[]){1, 1, count}, "semantic_tokens");
    MICA_TRY(make_chunk(t, codes, count, true, err));
    if (!t->r->tokens)
        MICA_TRY(mica_gs_job_check(t->job, t->s, t->run, t->r, err));
    MICA_TRY(mica_gs_result_part(t->result, t->s, t->r, t->job, t->first,
                                 t->result->count - t->first, count, err));
    if (!mica_gs_result_grow(t->result, pause))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a pause");
    memset(t->result->samples + t->result->count, 0, pause * sizeof(float));
    t->result->count += pause;
    const mica_tensor all = mica_tensor_3d(t->result->samples + t->first, MICA_DTYPE_F32, 1, 1,
                                           (int64_t)(t->result->count - pause - t->first));
    mica_tap_host(t->run->taps, &all, "waveform");
    return tell(t, from, true, err);
}

/* Codes that a file gives, as if they came one by one. */
static mica_status stream_given(stream *t, mica_err *err)
{
    const mica_gs_request *r = t->r;
    for (int64_t n = r->chunk_tokens; n < r->token_count; n += r->chunk_tokens)
        MICA_TRY(make_chunk(t, r->tokens, n, false, err));
    return finish(t, r->tokens, r->token_count, err);
}

static mica_status stream_sampled(stream *t, mica_err *err)
{
    mica_gs_job *j = t->job;
    mica_gs_sentence *const list[] = {&j->sentence};
    const int most = (int)t->r->sampling.most;
    int64_t next = t->r->chunk_tokens;
    MICA_TRY(mica_gs_job_begin(j, t->s, t->run, t->r, err));
    while (!j->sentence.finished) {
        MICA_TRY(mica_gs_sentences_step(list, 1, &t->s->semantic, t->s->be, t->run, err));
        MICA_TRY(mica_run_block(t->run, t->s->be, (int)MICA_MIN(j->sentence.count, (int64_t)most),
                                most, err));
        if (j->sentence.count < next || j->sentence.finished)
            continue;
        MICA_TRY(make_chunk(t, j->sentence.codes + j->sentence.prompt_count, j->sentence.count,
                            false, err));
        next = j->sentence.count + t->r->chunk_tokens;
    }
    return finish(t, j->sentence.codes + j->sentence.prompt_count, j->sentence.count, err);
}

mica_status mica_gs_job_stream(mica_gs_job *j, mica_gs_session *s, mica_run *run,
                               const mica_gs_style *style, const mica_gs_request *r,
                               mica_speech_result *result, mica_err *err)
{
    stream t = {j, s, run, style, r, result, result->count, 0, NULL, false};
    t.tail = mica_mem_calloc((size_t)(OVERLAP * s->synth.config.hop), sizeof *t.tail);
    if (!t.tail)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a stream");
    const mica_status st = r->tokens ? stream_given(&t, err) : stream_sampled(&t, err);
    mica_mem_free(t.tail);
    return st;
}
