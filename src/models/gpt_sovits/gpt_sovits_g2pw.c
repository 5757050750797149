/* gpt_sovits_g2pw.c - the network; see gpt_sovits_g2pw.h.
 *
 * BERT and the two linear layers run on the backend; what is left is a few thousand numbers per
 * question, which are added up here. Settings of the training (param_conditional) are read off the tensors:
 * a table that is there is used, one as wide as BERT multiplies h. */
#include "models/gpt_sovits/gpt_sovits_g2pw.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define EPS 1e-6f /* probabilities are kept this far from 0 and 1 */

#define AT(field) offsetof(mica_gs_g2pw, field)
static const mica_weight_row ROWS[] = {
    {"classifier.weight", "RD", AT(classifier.w), 0},
    {"classifier.bias", "R", AT(classifier.b), 0},
    {"pos_classifier.weight", "KD", AT(pos.w), MICA_WEIGHT_OPTIONAL},
    {"pos_classifier.bias", "K", AT(pos.b), MICA_WEIGHT_OPTIONAL},
    {"descriptor_bias.weight", "1A", AT(bias), MICA_WEIGHT_OPTIONAL},
    {"char_descriptor.weight", "CA", AT(chars), MICA_WEIGHT_OPTIONAL},
    {"pos_descriptor.weight", "KA", AT(classes), MICA_WEIGHT_OPTIONAL},
    {"second_order_descriptor.weight", "PA", AT(pairs), MICA_WEIGHT_OPTIONAL},
};
#undef AT

/* Variants of the training whose tables nobody has published. */
static const char *const OTHERS[] = {"second_lowrank_descriptor.0.weight",
                                     "second_fm_char_emb.0.weight", "char_fix_emb",
                                     "char_pos_fix_emb"};

bool mica_gs_g2pw_probe(const mica_weights *files)
{
    return mica_gs_bert_probe(files) && mica_weights_find(files, "classifier.weight") &&
           (mica_weights_find(files, "char_descriptor.weight") ||
            mica_weights_find(files, "second_order_descriptor.weight"));
}

static int64_t size_of(const mica_weights *w, const char *name, int dim)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim ? t->shape_[dim] : 0;
}

static mica_status find_sizes(mica_gs_g2pw *g, const mica_weights *w, mica_weight_dims *dims,
                              mica_err *err)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(OTHERS); i++)
        if (mica_weights_find(w, OTHERS[i]))
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "g2pW %s: a variant with %s, which is not here", mica_weights_path(w),
                             OTHERS[i]);
    const char *table = mica_weights_find(w, "char_descriptor.weight")
                            ? "char_descriptor.weight"
                            : "second_order_descriptor.weight";
    g->class_count = size_of(w, "pos_classifier.weight", 0);
    g->char_count = size_of(w, table, 0);
    if (table[0] == 's')
        g->char_count = g->class_count ? g->char_count / g->class_count : 0;
    g->readings = size_of(w, "classifier.weight", 0);
    dims->of['D'] = g->bert.stack.width;
    dims->of['R'] = g->readings;
    dims->of['K'] = g->class_count;
    dims->of['C'] = g->char_count;
    dims->of['P'] = g->char_count * g->class_count;
    dims->of['A'] = size_of(w, table, 1);
    dims->of['1'] = 1;
    g->on_hidden = dims->of['A'] == g->bert.stack.width && dims->of['A'] != g->readings;
    return MICA_OK;
}

mica_status mica_gs_g2pw_open(mica_gs_g2pw *g, const mica_weights *w, int64_t heads,
                              mica_arena *arena, mica_err *err)
{
    mica_weight_dims dims = {{0}};
    mica_weight_binder b;
    *g = (mica_gs_g2pw){.readings = 0};
    MICA_TRY(mica_gs_bert_open(&g->bert, w, heads, 0, arena, err));
    MICA_TRY(find_sizes(g, w, &dims, err));
    mica_weight_binder_init(&b, w, "g2pW", &dims, arena);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 0, g);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    if (!g->readings || !g->char_count ||
        (dims.of['A'] != g->readings && dims.of['A'] != g->bert.stack.width) ||
        (!g->pos.w.name && (g->classes.name || g->pairs.name)))
        return MICA_FAIL(err, MICA_E_FORMAT, "g2pW %s: its tables do not fit its classifier",
                         mica_weights_path(w));
    return MICA_OK;
}

mica_status mica_gs_g2pw_upload(mica_gs_g2pw *g, mica_backend *be, mica_err *err)
{
    return mica_gs_bert_upload(&g->bert, be, err);
}

/* --------------------------------------------------------------------- pass -- */

/* One sentence on its way; the numbers are on the host, a row per question. */
typedef struct sentence {
    mica_gs_g2pw *g;
    mica_backend *be;
    mica_run *run;
    const int32_t *ids;
    int64_t id_count;
    const mica_gs_question *questions;
    int64_t count;
    int32_t *places;
    float *hidden_ND, *logits_NR, *classes_NK, *weights_A, *probs_R;
} sentence;

static void add_row(const mica_weight *w, int64_t row, int64_t width, float *sum_A)
{
    for (int64_t i = 0; w->name && i < width; i++)
        sum_A[i] += mica_tensor_read_f32(&w->tensor, row * width + i);
}

static int64_t likeliest(const float *values, int64_t count)
{
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        best = values[i] > values[best] ? i : best;
    return best;
}

/* bias + of the character + of its class + of both. */
static void find_weights(sentence *s, int64_t i)
{
    const mica_gs_g2pw *g = s->g;
    const int64_t width = g->on_hidden ? g->bert.stack.width : g->readings;
    const int64_t character = s->questions[i].character;
    const int64_t class =
        g->class_count ? likeliest(s->classes_NK + i * g->class_count, g->class_count) : 0;
    memset(s->weights_A, 0, (size_t)width * sizeof *s->weights_A);
    add_row(&g->bias, 0, width, s->weights_A);
    add_row(&g->chars, character, width, s->weights_A);
    add_row(&g->classes, class, width, s->weights_A);
    add_row(&g->pairs, character * g->class_count + class, width, s->weights_A);
}

static void weighted_softmax(sentence *s, int64_t i)
{
    const int64_t R = s->g->readings;
    const float *logits_R = s->logits_NR + i * R, most = logits_R[likeliest(logits_R, R)];
    float norm = 0.0f;
    for (int64_t r = 0; r < R; r++) {
        const float weight = s->g->on_hidden ? 1.0f : 1.0f / (1.0f + expf(-s->weights_A[r]));
        s->probs_R[r] = s->questions[i].may_R[r] ? expf(logits_R[r] - most) * weight : 0.0f;
        norm += s->probs_R[r];
    }
    for (int64_t r = 0; r < R; r++)
        s->probs_R[r] = fminf(fmaxf(s->probs_R[r] / norm, EPS), 1.0f - EPS);
}

static void run_linear(mica_backend *be, mica_nn_linear *l, const mica_tensor *x_ND, int64_t out,
                       float *to_NO)
{
    mica_tensor y =
        mica_state_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){x_ND->shape_[0], out});
    mica_nn_linear_run(be, l, x_ND, MICA_ACT_NONE, &y);
    mica_download_f32(be, to_NO, &y);
}

static void weigh_hidden(sentence *s, mica_tensor *h_ND)
{
    const int64_t D = s->g->bert.stack.width;
    mica_download_f32(s->be, s->hidden_ND, h_ND);
    for (int64_t i = 0; i < s->count; i++) {
        find_weights(s, i);
        for (int64_t d = 0; d < D; d++)
            s->hidden_ND[i * D + d] *= s->weights_A[d];
    }
    mica_upload_f32(s->be, h_ND, s->hidden_ND);
}

static mica_status run_network(sentence *s, mica_err *err)
{
    mica_gs_g2pw *g = s->g;
    mica_tensor x, h = mica_gs_scratch(s->be, s->count, g->bert.stack.width);
    MICA_TRY(mica_gs_bert_hidden(&g->bert, s->be, s->run, NULL, s->ids, s->id_count, &x, err));
    for (int64_t i = 0; i < s->count; i++)
        s->places[i] = s->questions[i].place;
    mica_gather_rows(s->be, &x, s->places, s->count, &h);
    if (g->pos.w.name)
        run_linear(s->be, &g->pos, &h, g->class_count, s->classes_NK);
    if (g->on_hidden)
        weigh_hidden(s, &h);
    run_linear(s->be, &g->classifier, &h, g->readings, s->logits_NR);
    return mica_backend_check(s->be, err);
}

static mica_status check_questions(const sentence *s, mica_err *err)
{
    for (int64_t i = 0; i < s->count; i++) {
        const mica_gs_question *q = &s->questions[i];
        if (q->place < 0 || q->place >= s->id_count || q->character < 0 ||
            q->character >= s->g->char_count)
            return MICA_FAIL(err, MICA_E_INTERNAL, "g2pW: question %lld asks outside its sentence",
                             (long long)i);
    }
    return MICA_OK;
}

static mica_status answer(sentence *s, int32_t *best, float *probs_NR, mica_err *err)
{
    const int64_t R = s->g->readings;
    MICA_TRY(run_network(s, err));
    for (int64_t i = 0; i < s->count; i++) {
        if (!s->g->on_hidden)
            find_weights(s, i);
        weighted_softmax(s, i);
        best[i] = (int32_t)likeliest(s->probs_R, R);
        if (probs_NR)
            memcpy(probs_NR + i * R, s->probs_R, (size_t)R * sizeof *probs_NR);
    }
    return MICA_OK;
}

mica_status mica_gs_g2pw_run(mica_gs_g2pw *g, mica_backend *be, mica_run *run, const int32_t *ids,
                             int64_t id_count, const mica_gs_question *questions, int64_t count,
                             int32_t *best, float *probs_NR, mica_err *err)
{
    const int64_t D = g->bert.stack.width, R = g->readings, K = g->class_count;
    sentence s = {g, be, run, ids, id_count, questions, count, .places = NULL};
    MICA_TRY(check_questions(&s, err));
    float *memory =
        mica_mem_calloc((size_t)(count * (D + R + K) + MICA_MAX(D, R) + R), sizeof *memory);
    s.places = mica_mem_calloc((size_t)count, sizeof *s.places);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_status st = MICA_OK;
    if (memory && s.places) {
        s.hidden_ND = memory;
        s.logits_NR = s.hidden_ND + count * D;
        s.classes_NK = s.logits_NR + count * R;
        s.weights_A = s.classes_NK + count * K;
        s.probs_R = s.weights_A + MICA_MAX(D, R);
        st = answer(&s, best, probs_NR, err);
    } else
        st = MICA_FAIL(err, MICA_E_NOMEM, "no memory for the readings of a sentence");
    mica_pool_release(be, MICA_POOL_STEP, mark);
    mica_mem_free(s.places);
    mica_mem_free(memory);
    return st;
}

void mica_gs_g2pw_drop(mica_gs_g2pw *g, mica_backend *be)
{
    mica_weight *list[MICA_ARRAY_LEN(ROWS)];
    mica_gs_bert_drop(&g->bert, be);
    mica_backend_drop_weights(be, list, mica_weight_list(ROWS, MICA_ARRAY_LEN(ROWS), g, list));
}
