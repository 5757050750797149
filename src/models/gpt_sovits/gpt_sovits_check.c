/* gpt_sovits_check.c - whether the codes of a sentence can be its text.
 *
 *     number      1.5 to 3 codes a phone: far fewer lost words, far more do not end
 *     loops       the same stretch over and over
 *     attention   the codes are read once more, all in one pass, and heads that follow the text tell
 *                 which phones they passed: words left out, words said again
 *
 * Nobody says which heads follow a text, and checkpoints differ. The voice says it: its transcript and its
 * codes are known to belong together, so the heads that read that transcript once from end to end are the ones
 * to ask, and where there are none (no transcript, a wrong one, a model that has learnt nothing) attention is
 * not asked. They are sought in the prompt alone, so that they do not depend on the sentence, and kept for the
 * next run with the same voice.
 *
 * A pass over finished codes costs less than a tenth of making them, needs nothing of the steps and is the same
 * on every device. */
#include "models/gpt_sovits/gpt_sovits_job.h"

#include "base/mem.h"

#include <string.h>

/* ------------------------------------------------------- number, loops -- */

/* The same stretch of up to PERIOD codes over and over: at least three times, and a second long. Sampled codes of
 * a word that is said twice on purpose are not equal one by one. */
#define PERIOD 50 /* two seconds */
#define SECOND 24

static bool has_loop(const int32_t *c, int64_t n)
{
    for (int64_t period = 1; period <= PERIOD; period++) {
        int64_t run = 0;
        for (int64_t i = period; i < n; i++) {
            run = c[i] == c[i - period] ? run + 1 : 0;
            if (run >= MICA_MAX((int64_t)SECOND, 2 * period))
                return true;
        }
    }
    return false;
}

/* Codes of speech: 1.5 to 3 for a phone. */
unsigned mica_gs_job_count_doubts(const mica_gs_job *j)
{
    const mica_gs_sentence *t = &j->sentence;
    const int64_t n = t->count, own = j->phone_count - j->prompt_phones;
    unsigned doubts = 2 * n < own ? MICA_SPEECH_TOO_SHORT : 0;
    if (n > 12 * own + 75 || n >= t->sampler.options.most)
        doubts |= MICA_SPEECH_TOO_LONG;
    if (has_loop(t->codes + t->prompt_count, n))
        doubts |= MICA_SPEECH_LOOP;
    return doubts;
}

/* --------------------------------------------------------------- heads -- */

#define LEAST_CODES  25 /* a second */
#define LEAST_PHONES 10

typedef struct search {
    mica_gs_followers *heads;
    float *shares_RT; /* of one head */
    int64_t codes, phones, width;
} search;

static bool wants_all(void *user, int layer)
{
    (void)user;
    (void)layer;
    return true;
}

static void keep_best(mica_gs_followers *h, int layer, int head, float score)
{
    int at = h->count;
    while (at > 0 && h->best[at - 1].score < score)
        at--;
    if (score <= 0.0f || at == MICA_GS_HEADS)
        return;
    h->count = MICA_MIN(h->count + 1, MICA_GS_HEADS);
    for (int i = h->count - 1; i > at; i--)
        h->best[i] = h->best[i - 1];
    h->best[at].layer = layer;
    h->best[at].head = head;
    h->best[at].score = score;
}

static mica_status score_layer(void *user, int layer, const float *shares_LHT, mica_err *err)
{
    search *s = user;
    for (int64_t h = 0; h < s->width; h++) {
        float score;
        for (int64_t i = 0; i < s->codes; i++)
            memcpy(s->shares_RT + i * s->phones, shares_LHT + (i * s->width + h) * s->phones,
                   (size_t)s->phones * sizeof(float));
        MICA_TRY(mica_gs_alignment_score(s->shares_RT, s->codes, s->phones, &score, err));
        keep_best(s->heads, layer, (int)h, score);
    }
    return MICA_OK;
}

/* The transcript as the text of a sentence, the recording's codes as what was made of it. */
static mica_status search_prompt(search *find, mica_gs_session *s, mica_run *run,
                                 const mica_gs_job *j, const int32_t *codes, mica_err *err)
{
    mica_gs_sentence t = {0};
    const mica_gs_prefix prefix = {
        .phones = j->phones, .phone_count = j->prompt_phones, .features_TB = j->features};
    const mica_gs_sampling once = {
        .top_k = 1, .top_p = 1.0, .temperature = 1.0, .penalty = 1.0, .greedy = true, .most = 1};
    const mica_gs_watch watch = {.phones = j->prompt_phones,
                                 .layers = s->semantic.stack.count,
                                 .wants = wants_all,
                                 .seen = score_layer,
                                 .user = find};
    mica_status st = mica_gs_sentence_begin(&t, &s->semantic, s->be, run, &prefix, &once, err);
    if (!st)
        st = mica_gs_sentence_watch(&t, &s->semantic, s->be, codes, find->codes, &watch, err);
    mica_gs_sentence_deinit(&t);
    return st;
}

/* FNV-1a */
static uint64_t hash_bytes(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h;
}

/* Of all that heads are found by: codes, phones and features of the prompt. */
static uint64_t key_of(const mica_gs_session *s, const mica_gs_request *r, const mica_gs_job *j)
{
    uint64_t h = UINT64_C(14695981039346656037);
    if (!r->continues)
        return h;
    h = hash_bytes(h, r->voice->codes, (size_t)r->voice->code_count * sizeof *r->voice->codes);
    h = hash_bytes(h, j->phones, (size_t)j->prompt_phones * sizeof *j->phones);
    if (j->features)
        h = hash_bytes(h, j->features,
                       (size_t)(j->prompt_phones * s->semantic.bert_width) * sizeof *j->features);
    return h;
}

static mica_status find_heads(mica_gs_session *s, mica_run *run, const mica_gs_request *r,
                              const mica_gs_job *j, mica_err *err)
{
    mica_gs_followers *h = &s->heads;
    search find = {.heads = h,
                   .codes = r->voice->code_count,
                   .phones = j->prompt_phones,
                   .width = s->semantic.stack.heads};
    const uint64_t key = key_of(s, r, j);
    h->are_sought = true;
    if (h->are_kept && h->key == key)
        return MICA_OK;
    *h = (mica_gs_followers){.are_sought = true, .key = key};
    if (!r->continues || find.codes < LEAST_CODES || find.phones < LEAST_PHONES) {
        h->are_kept = true;
        return MICA_OK;
    }
    find.shares_RT = mica_mem_alloc((size_t)(find.codes * find.phones) * sizeof(float));
    if (!find.shares_RT)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the attention of %lld codes",
                         (long long)find.codes);
    const mica_status st = search_prompt(&find, s, run, j, r->voice->codes, err);
    mica_mem_free(find.shares_RT);
    /* Random weights follow nothing; what asking costs is measured all the same. */
    if (s->model->is_synthetic)
        *h = (mica_gs_followers){.are_sought = true,
                                 .key = key,
                                 .count = 1,
                                 .best = {{.layer = s->semantic.stack.count * 3 / 4}}};
    for (int i = 0; i < h->count; i++)
        h->layers = MICA_MAX(h->layers, h->best[i].layer + 1);
    h->are_kept = st == MICA_OK;
    return st;
}

/* ----------------------------------------------------------- attention -- */

typedef struct reader {
    const mica_gs_followers *heads;
    float *mean_RT;
    int64_t codes, phones, width;
} reader;

static bool wants_chosen(void *user, int layer)
{
    const reader *r = user;
    for (int i = 0; i < r->heads->count; i++)
        if (r->heads->best[i].layer == layer)
            return true;
    return false;
}

static mica_status add_layer(void *user, int layer, const float *shares_LHT, mica_err *err)
{
    const reader *r = user;
    (void)err;
    for (int k = 0; k < r->heads->count; k++) {
        const float *head = shares_LHT + r->heads->best[k].head * r->phones;
        for (int64_t i = 0; i < r->codes && r->heads->best[k].layer == layer; i++)
            for (int64_t p = 0; p < r->phones; p++)
                r->mean_RT[i * r->phones + p] +=
                    head[i * r->width * r->phones + p] / (float)r->heads->count;
    }
    return MICA_OK;
}

static mica_status read_attention(mica_gs_job *j, mica_gs_session *s, mica_err *err)
{
    mica_gs_sentence *t = &j->sentence;
    const int64_t own = j->phone_count - j->prompt_phones;
    reader r = {.heads = &s->heads,
                .codes = t->count,
                .phones = own,
                .width = s->semantic.stack.heads,
                .mean_RT = mica_mem_calloc((size_t)(t->count * own) + 1, sizeof *r.mean_RT)};
    const mica_gs_watch watch = {.first_phone = j->prompt_phones,
                                 .phones = own,
                                 .layers = s->heads.layers,
                                 .wants = wants_chosen,
                                 .seen = add_layer,
                                 .user = &r};
    if (!r.mean_RT)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the attention of %lld codes",
                         (long long)t->count);
    mica_status st = mica_gs_sentence_watch(t, &s->semantic, s->be, t->codes + t->prompt_count,
                                            t->count, &watch, err);
    if (!st)
        st = mica_gs_alignment_read(r.mean_RT, t->count, own, &j->alignment, err);
    mica_mem_free(r.mean_RT);
    if (s->model->is_synthetic)
        j->alignment = (mica_gs_alignment){0};
    return st;
}

static mica_status ask_attention(mica_gs_job *j, mica_gs_session *s, const mica_gs_request *r,
                                 mica_err *err)
{
    mica_run quiet; /* no taps: these are not the sentence's */
    j->alignment = (mica_gs_alignment){0};
    mica_run_init(&quiet, NULL, NULL, NULL);
    if (!s->heads.are_sought)
        MICA_TRY(find_heads(s, &quiet, r, j, err));
    if (s->heads.count == 0 || j->sentence.count == 0)
        return MICA_OK;
    MICA_TRY(read_attention(j, s, err));
    if (mica_gs_alignment_has_dropped(&j->alignment))
        j->doubts |= MICA_SPEECH_DROPPED;
    if (mica_gs_alignment_has_repeated(&j->alignment))
        j->doubts |= MICA_SPEECH_REPEATED;
    return MICA_OK;
}

mica_status mica_gs_job_check(mica_gs_job *j, mica_gs_session *s, mica_run *run,
                              const mica_gs_request *r, mica_err *err)
{
    const mica_phase phase = run->now.phase;
    j->doubts = mica_gs_job_count_doubts(j);
    mica_run_set_phase(run, MICA_PHASE_TEXT);
    const mica_status st = ask_attention(j, s, r, err);
    mica_run_set_phase(run, phase);
    return st;
}

/* How bad: first the kinds of doubt, then the phones and codes in question. */
static int64_t badness(unsigned doubts, const mica_gs_alignment *a)
{
    int64_t kinds = 0;
    for (unsigned left = doubts; left; left &= left - 1)
        kinds++;
    return kinds * 100000 + MICA_MIN(a->dropped + a->repeated + a->stalled, (int64_t)99999);
}

mica_status mica_gs_job_keep(mica_gs_job *j, mica_err *err)
{
    const mica_gs_sentence *t = &j->sentence;
    mica_gs_attempt *b = &j->best;
    if (b->codes && badness(b->doubts, &b->alignment) < badness(j->doubts, &j->alignment))
        return MICA_OK;
    int32_t *codes = mica_mem_alloc((size_t)(t->count + 1) * sizeof *codes);
    if (!codes)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld codes", (long long)t->count);
    memcpy(codes, t->codes + t->prompt_count, (size_t)t->count * sizeof *codes);
    mica_mem_free(b->codes);
    *b = (mica_gs_attempt){codes, t->count, j->doubts, j->alignment};
    return MICA_OK;
}

mica_status mica_gs_job_take_best(mica_gs_job *j, mica_err *err)
{
    mica_gs_sentence *t = &j->sentence;
    const mica_gs_attempt *b = &j->best;
    if (!b->codes || badness(b->doubts, &b->alignment) >= badness(j->doubts, &j->alignment))
        return MICA_OK;
    const int64_t all = t->prompt_count + b->count;
    int32_t *codes = mica_mem_realloc(t->codes, (size_t)(all + 1) * sizeof *codes);
    if (!codes)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld codes", (long long)all);
    memcpy(codes + t->prompt_count, b->codes, (size_t)b->count * sizeof *codes);
    t->codes = codes;
    t->cap = all + 1;
    t->count = b->count;
    j->doubts = b->doubts;
    j->alignment = b->alignment;
    return MICA_OK;
}

/* Names of own phones [first, first + count), with blanks between. */
static char *name_phones(const mica_gs_job *j, const mica_gs_model *m, int64_t first, int64_t count)
{
    mica_text names = {0};
    for (int64_t i = first; i < first + count; i++) {
        const char *name =
            mica_speech_phone_name(m->front, m->facts.phone_count, j->phones[j->prompt_phones + i]);
        mica_text_add(&names, "%s%s", i > first ? " " : "", name ? name : "?");
    }
    char *out = names.failed || !names.data ? NULL : mica_mem_strdup(names.data);
    mica_text_deinit(&names);
    return out;
}

mica_status mica_gs_job_name_doubts(const mica_gs_job *j, const mica_gs_session *s,
                                    mica_speech_part *part, mica_err *err)
{
    const mica_gs_alignment *a = &j->alignment;
    const bool has_dropped = (j->doubts & MICA_SPEECH_DROPPED) != 0;
    const bool has_again = (j->doubts & MICA_SPEECH_REPEATED) != 0 && a->again > 0;
    part->doubts = j->doubts;
    part->followed = a->followed;
    if (has_dropped)
        part->dropped = name_phones(j, s->model, a->first_dropped, a->dropped);
    if (has_again)
        part->repeated = name_phones(j, s->model, a->first_again, a->again);
    return (has_dropped && !part->dropped) || (has_again && !part->repeated)
               ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the names of phones")
               : MICA_OK;
}
