/* gpt_sovits_run.c - the options of a run, its files and its text, to a request of the chain.
 *
 *     voices       .wav ... ─► 16 kHz, spectrum ─► codes, style      .voice ─► the same, ready
 *     text         front end ─► sentences of spans ─► WordPiece ids of Chinese ones
 *     *_path       phones, codes or tokens of a file instead (exact runs)
 *
 * Everything that can be wrong with the call is told before a network runs. */
#include "models/gpt_sovits/gpt_sovits.h"

#include "base/mem.h"
#include "models/gpt_sovits/gpt_sovits_input.h"
#include "models/gpt_sovits/gpt_sovits_voice_file.h"
#include "speech/phone_list.h"

#include <stdio.h>
#include <string.h>

#define DEFAULT_TOP_K   15
#define DEFAULT_PENALTY 1.35
#define DEFAULT_NOISE   0.5
#define DEFAULT_PAUSE   0.3
#define DEFAULT_RETRIES 2
#define DEFAULT_TOKENS  1500
#define DEFAULT_BATCH   4 /* a stream: 1, so that its first sentence waits for no other */

static double or_default(double value, double other)
{
    return value == 0.0 ? other : value;
}

static void fill_numbers(mica_gs_request *r, const mica_speech_options *o)
{
    r->sampling = (mica_gs_sampling){.top_k = o->top_k > 0 ? o->top_k : DEFAULT_TOP_K,
                                     .top_p = or_default(o->top_p, 1.0),
                                     .temperature = or_default(o->temperature, 1.0),
                                     .penalty = or_default(o->repetition_penalty, DEFAULT_PENALTY),
                                     .greedy = o->greedy,
                                     .seed = o->seed,
                                     .most = o->max_tokens > 0 ? o->max_tokens : DEFAULT_TOKENS};
    r->noise_scale = o->noise_scale < 0.0 ? 0.0 : or_default(o->noise_scale, DEFAULT_NOISE);
    r->speed = or_default(o->speed, 1.0);
    r->pause = o->pause < 0.0 ? 0.0 : or_default(o->pause, DEFAULT_PAUSE);
    r->batch = o->batch ? o->batch : o->chunk ? 1 : DEFAULT_BATCH;
    r->retries = o->retries < 0 ? 0 : o->retries ? o->retries : DEFAULT_RETRIES;
    r->chunk_tokens = o->chunk_tokens;
    r->chunk = o->chunk;
    r->chunk_user = o->chunk_user;
}

/* Phones of sentence n, all spans in one row. */
static void tap_phones(const mica_tap_sink *taps, const mica_gs_text *text, int n)
{
    mica_phone_list all = {0};
    char name[32];
    for (int i = 0; i < text->span_count; i++)
        for (int64_t k = 0; k < text->spans[i].phone_count; k++)
            mica_phone_list_add(&all, text->spans[i].phones[k]);
    snprintf(name, sizeof name, "phones.%d", n);
    if (!all.failed && all.count > 0)
        mica_gs_tap_ids(taps, all.ids, 1, (const int64_t[]){(int64_t)all.count}, name);
    mica_mem_free(all.ids);
}

static void tap_inputs(const mica_tap_sink *taps, const mica_gs_input *in)
{
    const mica_gs_voice *v = &in->voice;
    if (in->given_phones)
        mica_gs_tap_ids(taps, in->given_phones, 2, (const int64_t[]){1, in->given_phone_count},
                        "phone_ids");
    if (v->code_count > 0)
        mica_gs_tap_ids(taps, v->codes, 2, (const int64_t[]){1, v->code_count}, "prompt_tokens");
    if (v->style) {
        const mica_tensor t = mica_tensor_3d(v->style, MICA_DTYPE_F32, 1, v->style_width, 1);
        mica_tap_host(taps, &t, "style");
    }
}

/* Who makes a sentence ready. */
typedef struct preparer {
    mica_gs_input *in;
    mica_gs_session *s;
    mica_run *run;
} preparer;

static mica_status prepare(void *user, int index, mica_err *err)
{
    const preparer *p = user;
    MICA_TRY(mica_gs_input_ask(p->in, p->s, p->run, index, err));
    if (p->run->taps)
        tap_phones(p->run->taps, &p->in->texts[index], index);
    return MICA_OK;
}

/* What will be worse than it need be. */
static void note_transcript(const mica_gs_session *s, const mica_gs_request *r, mica_gs_input *in)
{
    if (r->continues || r->tokens || s->model->is_synthetic)
        return;
    mica_text_add(
        &in->notes,
        "%sthe words of the recording are not known: the voice is imitated less well, and "
        "lost words are found less surely",
        in->notes.data ? "\n" : "");
}

static mica_status speak(mica_gs_session *s, mica_run *run, const mica_speech_options *o,
                         mica_gs_input *in, mica_speech_result *result, mica_err *err)
{
    mica_gs_request r = {0};
    fill_numbers(&r, o);
    mica_run_set_phase(run, MICA_PHASE_PREPARE);
    MICA_TRY(mica_gs_input_texts(in, s, run, o, err));
    MICA_TRY(mica_gs_input_voice(in, s, run, o, err));
    MICA_TRY(mica_gs_input_kept_transcript(in, s, run, err));
    tap_inputs(run->taps, in);
    r.voice = &in->voice;
    r.prompt = in->has_prompt ? &in->prompt : NULL;
    r.continues = in->voice.code_count > 0 && (in->has_prompt || in->given_phones);
    r.texts = in->texts;
    r.count = in->text_count;
    r.prepare = prepare;
    r.prepare_user = &(preparer){in, s, run};
    r.tokens = in->tokens;
    r.token_count = in->token_count;
    note_transcript(s, &r, in);
    if (r.tokens && r.count != 1)
        return MICA_FAIL(err, MICA_E_USAGE, "given tokens are one sentence, the text has %d",
                         r.count);
    MICA_TRY(mica_gs_chain_run(s, run, &r, result, err));
    result->notes = in->notes.data ? mica_mem_strdup(in->notes.data) : NULL;
    return MICA_OK;
}

mica_status mica_gs_speak(mica_model_session *session, const mica_speech_options *options,
                          const mica_tap_sink *taps, mica_speech_result *result, mica_err *err)
{
    mica_gs_session *s = (mica_gs_session *)session;
    mica_gs_input in;
    mica_run run;
    mica_run_init(&run, options->progress, options->progress_user, taps);
    *result = (mica_speech_result){0};
    mica_gs_input_init(&in);
    mica_status st = speak(s, &run, options, &in, result, err);
    mica_gs_input_deinit(&in);
    mica_run_set_phase(&run, MICA_PHASE_COUNT);
    memcpy(result->seconds, run.seconds, sizeof result->seconds);
    if (st)
        mica_speech_result_deinit(result);
    return st;
}

/* ------------------------------------------------------------------- voices -- */

static mica_status set_transcript(mica_gs_voice *v, const mica_voice_input *from, mica_err *err)
{
    if (!from->text)
        return MICA_OK;
    mica_mem_free(v->text);
    mica_mem_free(v->language);
    v->text = mica_mem_strdup(from->text);
    v->language = from->language ? mica_mem_strdup(from->language) : NULL;
    return v->text && (!from->language || v->language)
               ? MICA_OK
               : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a transcript");
}

static mica_status make_voice(mica_gs_session *s, mica_run *run, mica_gs_input *in,
                              const mica_speech_options *o, const char *path, mica_err *err)
{
    const mica_voice_input *first = &o->voices[0];
    if (first->text) /* so that a transcript nobody can read is told now */
        MICA_TRY(mica_gs_input_read_transcript(in, s, run, first->text, first->language, err));
    MICA_TRY(mica_gs_input_voice(in, s, run, o, err));
    MICA_TRY(set_transcript(&in->voice, first, err));
    return mica_gs_voice_write(&in->voice, path, err);
}

mica_status mica_gs_write_voice(mica_model_session *session, const mica_speech_options *options,
                                const char *path, char **notes, mica_err *err)
{
    mica_gs_session *s = (mica_gs_session *)session;
    mica_gs_input in;
    mica_run run;
    mica_run_init(&run, options->progress, options->progress_user, NULL);
    mica_run_set_phase(&run, MICA_PHASE_PREPARE);
    mica_gs_input_init(&in);
    const mica_status st = make_voice(s, &run, &in, options, path, err);
    *notes = !st && in.notes.data ? mica_mem_strdup(in.notes.data) : NULL;
    mica_gs_input_deinit(&in);
    return st;
}
