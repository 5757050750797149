/* speech.c - speech behind mica_speech: the run, its trace, and access to what came out.
 *
 *     options ──checked──► kind->speak ──► mica_speech_result ──kept by──► mica_speech
 *                              │ taps                                        + recipe
 *                              └──► trace file */
#include "api/api.h"

#include "nn/trace.h"

#include <string.h>

struct mica_speech {
    mica_speech_result result;
    mica_text recipe;
};

static mica_status check_numbers(const mica_speech_options *o, mica_err *err)
{
    if (o->top_k < 0 || o->top_p < 0.0 || o->top_p > 1.0 || !(o->temperature >= 0.0) ||
        !(o->repetition_penalty >= 0.0))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "sampling: top_k and temperature must not be negative, top_p lies in 0 to "
                         "1, a repetition penalty is above 0");
    if (o->speed != 0.0 && !(o->speed >= 0.25 && o->speed <= 4.0))
        return MICA_FAIL(err, MICA_E_USAGE, "speed %g: it must be 0.25 to 4", o->speed);
    if (!(o->noise_scale <= 2.0) || !(o->pause <= 60.0))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a noise scale is at most 2, a pause at most 60 seconds");
    if (o->batch < 0 || o->batch > 64 || o->max_tokens < 0 || o->max_tokens > 10000)
        return MICA_FAIL(err, MICA_E_USAGE, "batch is at most 64, tokens per sentence 10000");
    if (o->chunk_tokens != 0 && (o->chunk_tokens < 16 || !o->chunk))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "pieces of %d tokens: 16 at least, and somebody who takes them",
                         o->chunk_tokens);
    return MICA_OK;
}

static mica_status check_voices(const mica_speech_options *o, mica_err *err)
{
    if (o->voice_count < 0 || o->voice_count > 16 || (o->voice_count > 0 && !o->voices))
        return MICA_FAIL(err, MICA_E_USAGE, "%d voices; up to 16 can be averaged", o->voice_count);
    for (int i = 0; i < o->voice_count; i++)
        if (!o->voices[i].path)
            return MICA_FAIL(err, MICA_E_USAGE, "voice %d has no path", i);
    return MICA_OK;
}

static mica_status check_options(const mica_speech_options *o, mica_err *err)
{
    if (!o->text && !o->phones_path)
        return MICA_FAIL(err, MICA_E_USAGE, "the options have no text");
    MICA_TRY(check_voices(o, err));
    return check_numbers(o, err);
}

/* The run, and its trace when one is wanted. */
static mica_status run_traced(mica_session *s, const mica_speech_options *o, mica_speech_result *r)
{
    mica_trace *trace = NULL;
    if (o->trace_path)
        MICA_TRY(mica_trace_open(&trace, &s->err));
    mica_status st =
        s->engine->kind->speak(s->run, o, trace ? mica_trace_sink(trace) : NULL, r, &s->err);
    if (!st && trace)
        st = mica_trace_write(trace, o->trace_path, &s->err);
    mica_trace_close(&trace);
    return st;
}

/* What is not as usual: 0 and NULL are. */
static void write_settings(mica_text *t, const mica_speech_options *o)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"top_k", o->top_k},
                   {"top_p", o->top_p},
                   {"temperature", o->temperature},
                   {"repetition_penalty", o->repetition_penalty},
                   {"noise_scale", o->noise_scale},
                   {"pause", o->pause},
                   {"batch", o->batch},
                   {"retries", o->retries},
                   {"max_tokens", o->max_tokens},
                   {"chunk_tokens", o->chunk_tokens}};
    mica_text_add(t, ",\"language\":");
    mica_text_add_json_string(t, o->language ? o->language : "auto");
    mica_text_add(t, ",\"cut\":");
    mica_text_add_json_string(t, o->cut ? o->cut : "cut5");
    for (size_t i = 0; i < MICA_ARRAY_LEN(numbers); i++)
        if (numbers[i].value != 0.0) /* below 0: none */
            mica_text_add(t, ",\"%s\":%.9g", numbers[i].name,
                          numbers[i].value < 0.0 ? 0.0 : numbers[i].value);
    if (o->greedy)
        mica_text_add(t, ",\"greedy\":true");
}

static void write_recipe(mica_text *t, const mica_session *s, const mica_speech_options *o)
{
    mica_text_add(t, "{\"text\":");
    mica_text_add_json_string(t, o->text ? o->text : "");
    mica_text_add(t, ",\"model\":");
    mica_text_add_json_string(t, s->engine->name);
    mica_text_add(t, ",\"model_hash\":\"%s\",\"voice\":", s->engine->model->hash);
    mica_text_add_json_string(t, o->voice_count ? o->voices[0].path : "");
    for (int i = 1; i < o->voice_count; i++) {
        mica_text_add(t, i > 1 ? "," : ",\"more_voices\":[");
        mica_text_add_json_string(t, o->voices[i].path);
    }
    mica_text_add(t, o->voice_count > 1 ? "]" : "");
    if (o->voice_count && o->voices[0].text) {
        mica_text_add(t, ",\"voice_text\":");
        mica_text_add_json_string(t, o->voices[0].text);
    }
    mica_text_add(t, ",\"seed\":%llu,\"speed\":%.9g", (unsigned long long)o->seed,
                  o->speed > 0.0 ? o->speed : 1.0);
    write_settings(t, o);
    mica_text_add(t, ",\"version\":\"%s\"}", mica_version());
}

static mica_status keep(mica_session *s, const mica_speech_options *o, mica_speech_result *r,
                        mica_speech **out)
{
    mica_speech *speech = mica_mem_calloc(1, sizeof *speech);
    if (!speech)
        return MICA_FAIL(&s->err, MICA_E_NOMEM, "no memory for the speech");
    write_recipe(&speech->recipe, s, o);
    if (speech->recipe.failed) {
        mica_speech_close(&speech);
        return MICA_FAIL(&s->err, MICA_E_NOMEM, "no memory for the recipe");
    }
    speech->result = *r;
    *r = (mica_speech_result){0};
    *out = speech;
    return MICA_OK;
}

mica_status mica_speech_generate(mica_session *session, const mica_speech_options *options,
                                 mica_speech **out)
{
    mica_speech_options o;
    mica_speech_result result = {0};
    *out = NULL;
    if (!session)
        return MICA_E_USAGE;
    session->err = (mica_err){0};
    if (!session->run)
        return MICA_FAIL(&session->err, MICA_E_USAGE, "the session has no open model");
    if (!session->engine->kind->speak)
        return MICA_FAIL(&session->err, MICA_E_UNSUPPORTED,
                         "%s does not speak; speech needs a GPT-SoVITS model",
                         session->engine->kind->title);
    MICA_TRY(api_options(&o, sizeof o, options, options ? options->size : 0, &session->err));
    MICA_TRY(check_options(&o, &session->err));
    mica_status st = run_traced(session, &o, &result);
    if (!st)
        st = keep(session, &o, &result, out);
    mica_speech_result_deinit(&result);
    return st;
}

static mica_status write_voice(mica_session *s, const mica_speech_options *options,
                               const char *path)
{
    mica_speech_options o;
    if (!s->run || !path)
        return MICA_FAIL(&s->err, MICA_E_USAGE,
                         "the session has no open model, or there is no path");
    if (!s->engine->kind->write_voice)
        return MICA_FAIL(&s->err, MICA_E_UNSUPPORTED,
                         "%s does not speak; voices need a GPT-SoVITS model",
                         s->engine->kind->title);
    MICA_TRY(api_options(&o, sizeof o, options, options ? options->size : 0, &s->err));
    MICA_TRY(check_voices(&o, &s->err));
    if (o.voice_count < 1)
        return MICA_FAIL(&s->err, MICA_E_USAGE, "no recording to make a voice of");
    return s->engine->kind->write_voice(s->run, &o, path, &s->notes, &s->err);
}

mica_status mica_voice_write(mica_session *session, const mica_speech_options *options,
                             const char *path)
{
    if (!session)
        return MICA_E_USAGE;
    session->err = (mica_err){0};
    mica_mem_free(session->notes);
    session->notes = NULL;
    return write_voice(session, options, path);
}

const char *mica_session_notes(const mica_session *session)
{
    return session && session->notes ? session->notes : "";
}

void mica_speech_close(mica_speech **speech)
{
    mica_speech *s = speech ? *speech : NULL;
    if (!s)
        return;
    mica_speech_result_deinit(&s->result);
    mica_text_deinit(&s->recipe);
    mica_mem_free(s);
    *speech = NULL;
}

const float *mica_speech_samples(const mica_speech *speech, size_t *count)
{
    *count = speech ? speech->result.count : 0;
    return speech ? speech->result.samples : NULL;
}

int mica_speech_rate(const mica_speech *speech)
{
    return speech ? speech->result.rate : 0;
}

int mica_speech_sentence_count(const mica_speech *speech)
{
    return speech ? speech->result.part_count : 0;
}

mica_status mica_speech_get_sentence(const mica_speech *speech, int index,
                                     mica_speech_sentence *sentence)
{
    if (!speech || !sentence || sentence->size < sizeof(size_t) || index < 0 ||
        index >= speech->result.part_count)
        return MICA_E_USAGE;
    const mica_speech_part *p = &speech->result.parts[index];
    const size_t size = MICA_MIN(sentence->size, sizeof *sentence);
    const mica_speech_sentence known = {.size = size,
                                        .text = p->text ? p->text : "",
                                        .first = p->first,
                                        .count = p->count,
                                        .tokens = p->tokens,
                                        .retries = p->retries,
                                        .suspicious = p->doubts != 0,
                                        .doubts = p->doubts,
                                        .followed = p->followed,
                                        .dropped = p->dropped ? p->dropped : "",
                                        .repeated = p->repeated ? p->repeated : ""};
    memcpy(sentence, &known, size);
    return MICA_OK;
}

const char *mica_speech_recipe(const mica_speech *speech)
{
    return speech ? speech->recipe.data : NULL;
}

const char *mica_speech_notes(const mica_speech *speech)
{
    return speech && speech->result.notes ? speech->result.notes : "";
}
