/* gpt_sovits_text.c - pieces of the front end to sentences of the chain.
 *
 *     piece: spans of one language ─► phones
 *            Chinese ones          ─► characters ─WordPiece─► one id each, with [CLS] and [SEP] around
 *
 * Everything lives in the input's arena. */
#include "models/gpt_sovits/gpt_sovits_input.h"

#include "base/mem.h"

#include <string.h>

static mica_status no_memory(mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the sentences of a text");
}

/* Ids of a Chinese span's characters, copied to the arena. */
static mica_status find_ids(mica_gs_input *in, const mica_gs_model *m, const mica_speech_span *from,
                            mica_gs_span *to, mica_err *err)
{
    int32_t *ids = NULL;
    size_t count = from->char_count + 2;
    if (m->is_synthetic)
        ids = mica_mem_calloc(count, sizeof *ids);
    else if (!m->vocabulary)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "Chinese needs BERT with its vocabulary (tokenizer.json or vocab.txt); "
                         "give it with --bert FOLDER");
    else
        MICA_TRY(mica_wordpiece_encode(m->vocabulary, from->text, strlen(from->text), &ids, &count,
                                       err));
    if (count != from->char_count + 2) {
        mica_mem_free(ids);
        return MICA_FAIL(err, MICA_E_INTERNAL, "\"%s\": %zu characters became %zu tokens of BERT",
                         from->text, from->char_count, count - 2);
    }
    int32_t *copy = mica_arena_alloc(&in->arena, count * sizeof *copy);
    if (copy && ids)
        memcpy(copy, ids, count * sizeof *copy);
    mica_mem_free(ids);
    to->bert_ids = copy;
    to->id_count = (int64_t)count;
    to->word2ph = from->phones_of_char;
    to->character_count = (int64_t)from->char_count;
    return copy ? MICA_OK : no_memory(err);
}

static mica_status take_piece(mica_gs_input *in, const mica_gs_model *m,
                              const mica_speech_piece *from, mica_gs_text *to, mica_err *err)
{
    mica_gs_span *spans = mica_arena_calloc(&in->arena, from->span_count + 1, sizeof *spans);
    if (!spans)
        return no_memory(err);
    for (size_t i = 0; i < from->span_count; i++) {
        const mica_speech_span *span = &from->spans[i];
        spans[i].phones = span->phones;
        spans[i].phone_count = (int64_t)span->phone_count;
        if (span->language == MICA_SPEECH_ZH)
            MICA_TRY(find_ids(in, m, span, &spans[i], err));
    }
    *to = (mica_gs_text){.spans = spans, .span_count = (int)from->span_count, .text = from->source};
    return MICA_OK;
}

static mica_status fill_options(const mica_gs_model *m, const char *language, const char *cut,
                                mica_speech_text_options *out, mica_err *err)
{
    *out = (mica_speech_text_options){.phone_count = m->facts.phone_count};
    MICA_TRY(mica_speech_language_find(language ? language : "auto", &out->language, err));
    return mica_speech_cut_find(cut ? cut : "cut5", &out->cut, err);
}

mica_status mica_gs_input_check_language(const char *language, mica_err *err)
{
    mica_speech_language found;
    return mica_speech_language_find(language ? language : "auto", &found, err);
}

mica_status mica_gs_input_take_pieces(mica_gs_input *in, const mica_gs_model *m, mica_err *err)
{
    for (size_t i = 0; i < in->pieces.count; i++)
        MICA_TRY(take_piece(in, m, &in->pieces.pieces[i], &in->texts[i], err));
    in->text_count = (int)in->pieces.count;
    return MICA_OK;
}

/* g2pW, where it can be asked; NULL: it cannot. */
static const mica_speech_reader *find_reader(mica_gs_session *s, mica_run *run,
                                             mica_gs_asker *asker, mica_speech_reader *reader)
{
    const mica_gs_model *m = s->model;
    *asker = (mica_gs_asker){&m->readings, &s->g2pw, m->vocabulary, s->be, run};
    *reader = (mica_speech_reader){mica_gs_ask, asker};
    return m->directory[MICA_GS_G2PW] && m->vocabulary ? reader : NULL;
}

mica_status mica_gs_input_read_text(mica_gs_input *in, mica_gs_session *s, const char *text,
                                    const char *language, const char *cut, mica_err *err)
{
    const mica_gs_model *m = s->model;
    MICA_TRY(fill_options(m, language, cut, &in->options, err));
    MICA_TRY(mica_speech_front_run(m->front, text, strlen(text), &in->options, &in->pieces, err));
    in->is_asked = m->directory[MICA_GS_G2PW] && m->vocabulary;
    in->texts = mica_arena_calloc(&in->arena, in->pieces.count + 1, sizeof *in->texts);
    if (!in->texts)
        return no_memory(err);
    return mica_gs_input_take_pieces(in, m, err);
}

mica_status mica_gs_input_ask(mica_gs_input *in, mica_gs_session *s, mica_run *run, int index,
                              mica_err *err)
{
    mica_gs_asker asker;
    mica_speech_reader reader;
    if (!in->is_asked)
        return MICA_OK;
    mica_speech_text_options o = in->options;
    o.reader = find_reader(s, run, &asker, &reader);
    MICA_TRY(mica_speech_front_reread(s->model->front, &o, &in->pieces, (size_t)index, err));
    return take_piece(in, s->model, &in->pieces.pieces[index], &in->texts[index], err);
}

mica_status mica_gs_input_read_transcript(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                          const char *text, const char *language, mica_err *err)
{
    const mica_gs_model *m = s->model;
    mica_speech_text_options o;
    mica_gs_asker asker;
    mica_speech_reader reader;
    MICA_TRY(fill_options(m, language, NULL, &o, err));
    o.reader = find_reader(s, run, &asker, &reader);
    MICA_TRY(mica_speech_front_run_transcript(m->front, text, strlen(text), &o, &in->prompt_pieces,
                                              err));
    in->has_prompt = in->prompt_pieces.count > 0;
    return in->has_prompt ? take_piece(in, m, &in->prompt_pieces.pieces[0], &in->prompt, err)
                          : MICA_OK;
}
