/* gpt_sovits_job.h - a sentence on its way through the chain: what gpt_sovits_chain.c and
 * gpt_sovits_stream.c share. */
#ifndef MICA_MODELS_GPT_SOVITS_JOB_H
#define MICA_MODELS_GPT_SOVITS_JOB_H

#include "models/gpt_sovits/gpt_sovits.h"

/* An attempt at a sentence that was not good, kept in case no later one is better. */
typedef struct mica_gs_attempt {
    int32_t *codes;
    int64_t count;
    unsigned doubts;
    mica_gs_alignment alignment;
} mica_gs_attempt;

typedef struct mica_gs_job {
    int index, attempt;
    int32_t *phones; /* prompt's, then its own */
    int64_t phone_count, prompt_phones;
    float *features;
    mica_gs_sentence sentence;
    double prefix_seconds; /* of all attempts, where nothing is queued */
    unsigned doubts;       /* mica_speech_doubt, or-ed */
    mica_gs_alignment alignment;
    mica_gs_attempt best; /* codes NULL: none */
} mica_gs_job;

/* Reads the prefix and draws the first code. */
mica_status mica_gs_job_begin(mica_gs_job *j, mica_gs_session *s, mica_run *run,
                              const mica_gs_request *r, mica_err *err);
/* Whether its codes can be its text: their number, loops, and where they looked (gpt_sovits_check.c). */
mica_status mica_gs_job_check(mica_gs_job *j, mica_gs_session *s, mica_run *run,
                              const mica_gs_request *r, mica_err *err);
/* Before it is drawn again: keeps it unless an earlier attempt was better. After the last one: takes the best
 * back. Of two alike the later counts. */
mica_status mica_gs_job_keep(mica_gs_job *j, mica_err *err);
mica_status mica_gs_job_take_best(mica_gs_job *j, mica_err *err);
/* The first two alone. */
unsigned mica_gs_job_count_doubts(const mica_gs_job *j);
/* Frame f of the latent gets the same noise, however many frames there are. */
void mica_gs_job_add_noise(const mica_gs_request *r, const mica_gs_job *j, mica_gs_latent *l,
                           int64_t inter);
/* Room for `more` samples behind the result's. */
bool mica_gs_result_grow(mica_speech_result *result, size_t more);
/* The part of the sentence: its text, its codes. The samples' place is the caller's. */
mica_status mica_gs_result_part(mica_speech_result *result, const mica_gs_session *s,
                                const mica_gs_request *r, const mica_gs_job *j, size_t first,
                                size_t count, int64_t tokens, mica_err *err);
/* What is wrong with it, phones by name, to its part. */
mica_status mica_gs_job_name_doubts(const mica_gs_job *j, const mica_gs_session *s,
                                    mica_speech_part *part, mica_err *err);

/* Makes codes and sound in turns and hands the sound out as soon as nothing more can change it much:
 * r->chunk_tokens codes at a time. */
mica_status mica_gs_job_stream(mica_gs_job *j, mica_gs_session *s, mica_run *run,
                               const mica_gs_style *style, const mica_gs_request *r,
                               mica_speech_result *result, mica_err *err);

#endif
