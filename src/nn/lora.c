/* lora.c - opens a LoRA file: keys to targets, factors checked against each other; see lora.h.
 *
 *     tensors ─parse─► (target, role, tensor) ─sort─► one mica_lora_target per run of equal targets
 *
 * Only headers and the alphas are read. Numbers of ranks and sizes come from the shapes alone. */
#include "nn/lora_internal.h"

#include "base/json.h"
#include "base/mem.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ELEMENTS ((int64_t)1 << 30) /* of a layer: no product of sizes can overflow */
#define MOST_MIX      ((int64_t)1 << 20) /* elements of w1, the small part of a LoKr */

/* --------------------------------------------------------------- grouping -- */

typedef struct keyed {
    const char *target;
    bool is_flat, is_text;
    mica_lora_role role;
    size_t index;
} keyed;

static int compare(const void *a, const void *b)
{
    const keyed *x = a, *y = b;
    const int c = strcmp(x->target, y->target);
    if (c)
        return c;
    if (x->is_flat != y->is_flat)
        return x->is_flat ? 1 : -1;
    return x->is_text != y->is_text ? (x->is_text ? 1 : -1) : (int)x->role - (int)y->role;
}

static bool same_target(const keyed *a, const keyed *b)
{
    return a->is_flat == b->is_flat && a->is_text == b->is_text &&
           strcmp(a->target, b->target) == 0;
}

static mica_status no_memory(const mica_lora *l, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its layers",
                     mica_weights_path(l->files));
}

static mica_status parse_keys(mica_lora *l, keyed *keys, size_t *count, mica_err *err)
{
    const size_t n = mica_weights_count(l->files);
    *count = 0;
    for (size_t i = 0; i < n; i++) {
        mica_lora_key key;
        const char *name = mica_weights_name(l->files, i);
        mica_lora_key_parse(name, &key);
        if (key.role == MICA_LORA_UNKNOWN) {
            l->facts.first_unknown = l->facts.unknown++ ? l->facts.first_unknown : name;
            continue;
        }
        const char *target = mica_arena_strndup(&l->arena, key.target, strlen(key.target));
        if (!target)
            return no_memory(l, err);
        keys[(*count)++] = (keyed){target, key.is_flat, key.is_text, key.role, i};
    }
    qsort(keys, *count, sizeof *keys, compare);
    return MICA_OK;
}

static mica_status take_targets(mica_lora *l, const keyed *keys, size_t count, mica_err *err)
{
    l->targets = mica_arena_calloc(&l->arena, count ? count : 1, sizeof *l->targets);
    if (!l->targets)
        return no_memory(l, err);
    for (size_t i = 0; i < count; i++) {
        const keyed *k = &keys[i];
        if (i == 0 || !same_target(k, &keys[i - 1]))
            l->targets[l->count++] =
                (mica_lora_target){.name = k->target, .is_flat = k->is_flat, .is_text = k->is_text};
        mica_lora_target *t = &l->targets[l->count - 1];
        if (t->tensors[k->role])
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: layer %s has two tensors that are its %s",
                             mica_weights_path(l->files), t->name, mica_lora_role_name(k->role));
        t->tensors[k->role] = mica_weights_tensor(l->files, k->index);
    }
    return MICA_OK;
}

/* ----------------------------------------------------------------- shapes -- */

/* A matrix of floats; further dimensions of 1 (convolutions of one pixel) are left out. */
static bool as_matrix(const mica_tensor *t, mica_tensor *out)
{
    const mica_dtype d = t->dtype;
    if (t->ndim < 2 || d == MICA_DTYPE_F64 || !mica_dtype_get(d)->is_float ||
        !mica_tensor_is_contiguous(t) || t->shape_[0] < 1 || t->shape_[1] < 1)
        return false;
    for (int i = 2; i < t->ndim; i++)
        if (t->shape_[i] != 1)
            return false;
    *out = mica_tensor_2d(t->data, d, t->shape_[0], t->shape_[1]);
    out->scale = t->scale;
    return true;
}

static mica_status bad_target(const mica_lora *l, const mica_lora_target *t, const char *what,
                              mica_err *err)
{
    return MICA_FAIL(err, MICA_E_FORMAT, "%s: layer %s: %s", mica_weights_path(l->files), t->name,
                     what);
}

/* Factors `up` [p, r] and `down` [r, q]. */
static bool take_pair(const mica_lora_target *t, mica_lora_role up, mica_lora_role down,
                      mica_tensor *up_out, mica_tensor *down_out)
{
    return t->tensors[up] && t->tensors[down] && as_matrix(t->tensors[up], up_out) &&
           as_matrix(t->tensors[down], down_out) && up_out->shape_[1] == down_out->shape_[0];
}

static bool has_any(const mica_lora_target *t, mica_lora_role first, mica_lora_role last)
{
    for (int r = first; r <= (int)last; r++)
        if (t->tensors[r])
            return true;
    return false;
}

/* kron(w1, w2): w2 becomes up and down, w1 the mix, of which only the size is known here. */
static bool take_lokr(mica_lora_target *t, int64_t *rank)
{
    mica_adapter *a = &t->adapter;
    mica_tensor w1 = {0}, w1_b = {0};
    *rank = 0;
    if (t->tensors[MICA_LORA_LOKR_W1]) {
        if (!as_matrix(t->tensors[MICA_LORA_LOKR_W1], &w1))
            return false;
        w1_b = w1;
    } else if (take_pair(t, MICA_LORA_LOKR_W1_A, MICA_LORA_LOKR_W1_B, &w1, &w1_b)) {
        *rank = w1_b.shape_[0];
    } else {
        return false;
    }
    if (t->tensors[MICA_LORA_LOKR_W2]) {
        if (!as_matrix(t->tensors[MICA_LORA_LOKR_W2], &a->up[0]))
            return false;
    } else if (take_pair(t, MICA_LORA_LOKR_W2_A, MICA_LORA_LOKR_W2_B, &a->up[0], &a->down[0])) {
        *rank = a->down[0].shape_[0];
    } else {
        return false;
    }
    a->mix = mica_tensor_2d(NULL, MICA_DTYPE_F32, w1.shape_[0], w1_b.shape_[1]);
    return w1.shape_[0] <= MOST_MIX && w1_b.shape_[1] <= MOST_MIX / w1.shape_[0];
}

static bool take_loha(mica_lora_target *t, int64_t *rank)
{
    mica_adapter *a = &t->adapter;
    const bool fit =
        take_pair(t, MICA_LORA_HADA_W1_A, MICA_LORA_HADA_W1_B, &a->up[0], &a->down[0]) &&
        take_pair(t, MICA_LORA_HADA_W2_A, MICA_LORA_HADA_W2_B, &a->up[1], &a->down[1]) &&
        a->up[0].shape_[0] == a->up[1].shape_[0] && a->down[0].shape_[1] == a->down[1].shape_[1];
    *rank = fit ? a->down[0].shape_[0] : 0;
    return fit;
}

/* The whole of what is added, [rows, columns]. */
static bool take_size(mica_lora_target *t)
{
    const mica_adapter *a = &t->adapter;
    const int64_t p = a->up[0].shape_[0];
    const int64_t q = t->form == MICA_LORA_FORM_DIFF || !a->down[0].ndim ? a->up[0].shape_[1]
                                                                         : a->down[0].shape_[1];
    const bool kron = t->form == MICA_LORA_FORM_LOKR;
    const int64_t rows = kron ? a->mix.shape_[0] : 1, columns = kron ? a->mix.shape_[1] : 1;
    if (p > MOST_ELEMENTS || q > MOST_ELEMENTS || rows > MOST_ELEMENTS / p ||
        columns > MOST_ELEMENTS / q || rows * p > MOST_ELEMENTS / (columns * q))
        return false;
    t->rows = rows * p;
    t->columns = columns * q;
    return true;
}

/* A difference of a vector: a norm's weight. */
static bool is_vector(const mica_tensor *t)
{
    return t->ndim == 1 && mica_dtype_get(t->dtype)->is_float && t->shape_[0] >= 1;
}

static mica_status take_form(mica_lora *l, mica_lora_target *t, int64_t *rank, mica_err *err)
{
    const bool lora = has_any(t, MICA_LORA_UP, MICA_LORA_DOWN);
    const bool loha = has_any(t, MICA_LORA_HADA_W1_A, MICA_LORA_HADA_W2_B);
    const bool lokr = has_any(t, MICA_LORA_LOKR_W1, MICA_LORA_LOKR_W2_B);
    const mica_tensor *diff = t->tensors[MICA_LORA_DIFF];
    *rank = 0;
    if (lora + loha + lokr + (diff != NULL) > 1)
        return bad_target(l, t, "it has tensors of several kinds of adapter", err);
    if (lora) {
        t->form = MICA_LORA_FORM_LORA;
        if (!take_pair(t, MICA_LORA_UP, MICA_LORA_DOWN, &t->adapter.up[0], &t->adapter.down[0]))
            return bad_target(l, t, "its up and down do not make a product [O, r] [r, D]", err);
        *rank = t->adapter.down[0].shape_[0];
    } else if (loha) {
        t->form = MICA_LORA_FORM_LOHA;
        if (!take_loha(t, rank))
            return bad_target(l, t, "its four hada_ factors do not make two products of one size",
                              err);
    } else if (lokr) {
        t->form = MICA_LORA_FORM_LOKR;
        if (!take_lokr(t, rank))
            return bad_target(l, t, "its lokr_ factors do not make a Kronecker product", err);
    } else if (diff) {
        t->form = MICA_LORA_FORM_DIFF;
        if (is_vector(diff)) {
            t->rows = diff->shape_[0];
            return MICA_OK;
        }
        if (!as_matrix(diff, &t->adapter.up[0]))
            return bad_target(l, t, "its diff is no matrix or vector of floats", err);
    } else {
        return MICA_OK;
    }
    return take_size(t) ? MICA_OK : bad_target(l, t, "its sizes are beyond any layer's", err);
}

/* ------------------------------------------------------------------ alpha -- */

/* peft's own settings, where a file carries them (diffusers lora_base.py,
 * LORA_ADAPTER_METADATA_KEY): keys may begin with "transformer.". */
typedef struct settings {
    mica_json json;
    double alpha; /* 0: not said */
    bool rank_stabilised, decomposed;
    const struct cJSON *patterns;
} settings;

static const struct cJSON *find_setting(const settings *s, const char *key)
{
    char prefixed[64];
    snprintf(prefixed, sizeof prefixed, "transformer.%s", key);
    const struct cJSON *v = mica_json_find(s->json.root, prefixed);
    return v ? v : mica_json_find(s->json.root, key);
}

static mica_status number_setting(const mica_lora *l, const struct cJSON *v, const char *key,
                                  double *out, mica_err *err)
{
    if (cJSON_IsNumber(v) && isfinite(v->valuedouble) && fabs(v->valuedouble) <= 1e6)
        *out = v->valuedouble;
    else if (v && !cJSON_IsNull(v))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its metadata's %s is not a number",
                         mica_weights_path(l->files), key);
    return MICA_OK;
}

static mica_status read_settings(const mica_lora *l, settings *s, mica_err *err)
{
    const char *text = mica_weights_metadata(l->files, "lora_adapter_metadata");
    *s = (settings){.alpha = 0.0};
    if (!text)
        return MICA_OK;
    MICA_TRY(mica_json_parse(&s->json, mica_weights_path(l->files), text, strlen(text), err));
    s->rank_stabilised = cJSON_IsTrue(find_setting(s, "use_rslora"));
    s->patterns = find_setting(s, "alpha_pattern");
    s->decomposed = cJSON_IsTrue(find_setting(s, "use_dora"));
    return number_setting(l, find_setting(s, "lora_alpha"), "lora_alpha", &s->alpha, err);
}

/* Alpha of a target without a tensor for it: a pattern is a name or the end of one. */
static mica_status alpha_of(const mica_lora *l, const settings *s, const mica_lora_target *t,
                            double rank, double *out, mica_err *err)
{
    *out = s->alpha != 0.0 ? s->alpha : rank;
    for (const struct cJSON *p = s->patterns ? s->patterns->child : NULL; p; p = p->next) {
        const size_t n = strlen(t->name), m = p->string ? strlen(p->string) : n + 1;
        if (m <= n && strcmp(t->name + n - m, p->string) == 0 &&
            (m == n || t->name[n - m - 1] == '.'))
            MICA_TRY(number_setting(l, p, "alpha_pattern", out, err));
    }
    return MICA_OK;
}

static mica_status take_scale(const mica_lora *l, const settings *s, mica_lora_target *t,
                              int64_t rank, mica_err *err)
{
    const mica_tensor *alpha = t->tensors[MICA_LORA_ALPHA];
    double value = 1.0;
    t->adapter.scale = t->bias_scale = 1.0f;
    if (rank == 0)
        return MICA_OK;
    MICA_TRY(alpha_of(l, s, t, (double)rank, &value, err));
    if (alpha) {
        if (!mica_dtype_get(alpha->dtype)->is_float || mica_tensor_count(alpha) != 1)
            return bad_target(l, t, "its alpha is not one number of a float type", err);
        value = (double)mica_tensor_read_f32(alpha, 0);
    }
    const double scale = value / (s->rank_stabilised && !alpha ? sqrt((double)rank) : (double)rank);
    if (!isfinite(scale) || fabs(scale) > 1e6)
        return bad_target(l, t, "its alpha is not a sensible number", err);
    t->adapter.scale = (float)scale;
    t->bias_scale = t->tensors[MICA_LORA_UP_BIAS] ? (float)scale : 1.0f;
    return MICA_OK;
}

/* ---------------------------------------------------------------- targets -- */

static mica_status refuse(const mica_lora *l, const mica_lora_target *t, mica_err *err)
{
    static const struct {
        mica_lora_role role;
        const char *text;
    } NOT_HERE[] = {
        {MICA_LORA_TUCKER, "a factorised convolution (Tucker core)"},
        {MICA_LORA_OFT, "an orthogonal fine-tuning (OFT)"},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(NOT_HERE); i++)
        if (t->tensors[NOT_HERE[i].role])
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "%s: layer %s is %s, which is not supported; only LoRA, LoHa, LoKr "
                             "and differences are",
                             mica_weights_path(l->files), t->name, NOT_HERE[i].text);
    return MICA_OK;
}

static mica_status take_bias(const mica_lora *l, mica_lora_target *t, mica_err *err)
{
    const mica_tensor *diff = t->tensors[MICA_LORA_DIFF_BIAS], *up = t->tensors[MICA_LORA_UP_BIAS];
    if (diff && up)
        return bad_target(l, t, "it has two differences of its bias", err);
    t->bias = diff ? diff : up;
    if (t->bias && !is_vector(t->bias))
        return bad_target(l, t, "the difference of its bias is no vector of floats", err);
    if (!t->bias && t->form == MICA_LORA_FORM_NONE)
        return bad_target(l, t, "it has an alpha and nothing else", err);
    return MICA_OK;
}

/* dora_scale [O, 1] is what peft calls lora_magnitude_vector [O]; diffusers reads it so as well. */
static mica_status take_dora_scale(const mica_lora *l, mica_lora_target *t, mica_err *err)
{
    const mica_tensor *m = t->tensors[MICA_LORA_DORA];
    if (!m)
        return MICA_OK;
    if (t->tensors[MICA_LORA_MAGNITUDE])
        return bad_target(l, t, "it has a dora_scale and a lora_magnitude_vector", err);
    const bool by_columns = m->shape_[0] == 1 && mica_tensor_count(m) > 1;
    if (by_columns || t->form != MICA_LORA_FORM_LORA)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: layer %s is a DoRA %s, which is not supported; a dora_scale of one "
                         "number for each output beside a LoRA is",
                         mica_weights_path(l->files), t->name,
                         by_columns ? "over the inputs of the weight (dora_scale [1, inputs])"
                                    : "of another form than LoRA");
    t->tensors[MICA_LORA_MAGNITUDE] = m;
    return MICA_OK;
}

/* The lengths of a DoRA's rows, which it must have where the file says that it is one. */
static mica_status check_magnitude(const mica_lora *l, const settings *s, mica_lora_target *t,
                                   mica_err *err)
{
    MICA_TRY(take_dora_scale(l, t, err));
    const mica_tensor *m = t->tensors[MICA_LORA_MAGNITUDE];
    if (!m && s->decomposed && t->form == MICA_LORA_FORM_LORA)
        return bad_target(l, t,
                          "the file says that it is a DoRA, but it has no "
                          "lora_magnitude_vector",
                          err);
    if (m && t->form != MICA_LORA_FORM_LORA)
        return bad_target(l, t, "a lora_magnitude_vector belongs to lora_up and lora_down", err);
    if (m && (!mica_dtype_get(m->dtype)->is_float || !mica_tensor_is_contiguous(m) ||
              mica_tensor_count(m) != t->rows))
        return bad_target(
            l, t, "its lora_magnitude_vector or dora_scale is not one float for each row", err);
    return MICA_OK;
}

static void count_target(mica_lora_facts *f, const mica_lora_target *t, int rank)
{
    f->targets++;
    const bool dora = t->tensors[MICA_LORA_MAGNITUDE] != NULL;
    f->loras += t->form == MICA_LORA_FORM_LORA && !dora;
    f->doras += dora;
    f->lohas += t->form == MICA_LORA_FORM_LOHA;
    f->lokrs += t->form == MICA_LORA_FORM_LOKR;
    f->diffs += t->form == MICA_LORA_FORM_DIFF || t->form == MICA_LORA_FORM_NONE;
    if (rank && (!f->rank_min || rank < f->rank_min))
        f->rank_min = rank;
    f->rank_max = MICA_MAX(f->rank_max, rank);
}

static mica_status check_targets(mica_lora *l, const settings *s, mica_err *err)
{
    for (size_t i = 0; i < l->count; i++) {
        mica_lora_target *t = &l->targets[i];
        int64_t rank;
        if (t->is_text) {
            l->facts.text_targets++;
            continue;
        }
        MICA_TRY(refuse(l, t, err));
        MICA_TRY(take_form(l, t, &rank, err));
        MICA_TRY(check_magnitude(l, s, t, err));
        MICA_TRY(take_bias(l, t, err));
        MICA_TRY(take_scale(l, s, t, rank, err));
        count_target(&l->facts, t, (int)rank);
    }
    if (l->facts.targets == 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s is no LoRA for a picture model: %s",
                         mica_weights_path(l->files),
                         l->facts.text_targets ? "all its layers are a text encoder's"
                                               : "none of its tensors has a LoRA's name");
    return MICA_OK;
}

static mica_status read_targets(mica_lora *l, mica_err *err)
{
    const size_t n = mica_weights_count(l->files);
    keyed *keys = mica_mem_calloc(n ? n : 1, sizeof *keys);
    settings s = {.alpha = 0.0};
    size_t count;
    if (!keys)
        return no_memory(l, err);
    mica_status st = parse_keys(l, keys, &count, err);
    if (!st)
        st = take_targets(l, keys, count, err);
    if (!st)
        st = read_settings(l, &s, err);
    if (!st)
        st = check_targets(l, &s, err);
    mica_json_close(&s.json);
    mica_mem_free(keys);
    return st;
}

/* ------------------------------------------------------------------- open -- */

static const char *base_name(mica_arena *arena, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    return mica_arena_strndup(arena, name, dot && dot > name ? (size_t)(dot - name) : strlen(name));
}

static mica_status open_files(mica_lora **out, mica_weights *files, mica_err *err)
{
    mica_lora *l = mica_mem_calloc(1, sizeof *l);
    if (!l) {
        mica_weights_close(&files);
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to open a LoRA");
    }
    l->files = files;
    mica_arena_init(&l->arena, 1 << 16);
    l->name = base_name(&l->arena, mica_weights_path(files));
    mica_status st = l->name ? read_targets(l, err) : no_memory(l, err);
    mica_weights_hash(files, l->hash);
    l->facts.parameters = mica_weights_parameters(files);
    l->facts.bytes = mica_weights_bytes(files);
    if (st)
        mica_lora_close(&l);
    *out = l;
    return st;
}

mica_status mica_lora_open(mica_lora **out, const char *path, mica_err *err)
{
    mica_weights *files = NULL;
    *out = NULL;
    MICA_TRY(mica_weights_open(&files, path, err));
    return open_files(out, files, err);
}

mica_status mica_lora_open_memory(mica_lora **out, const char *name, const void *data, size_t size,
                                  mica_err *err)
{
    mica_weights *files = NULL;
    *out = NULL;
    MICA_TRY(mica_weights_open_memory(&files, name, data, size, err));
    return open_files(out, files, err);
}

void mica_lora_close(mica_lora **lora)
{
    mica_lora *l = lora ? *lora : NULL;
    if (!l)
        return;
    mica_weights_close(&l->files);
    mica_arena_deinit(&l->arena);
    mica_mem_free(l);
    *lora = NULL;
}

bool mica_lora_is_lora(const mica_weights *w)
{
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        mica_lora_key key;
        mica_lora_key_parse(mica_weights_name(w, i), &key);
        if (key.role != MICA_LORA_UNKNOWN && key.role != MICA_LORA_ALPHA)
            return true;
    }
    return false;
}

const char *mica_lora_name(const mica_lora *lora)
{
    return lora->name;
}

const char *mica_lora_hash(const mica_lora *lora)
{
    return lora->hash;
}

mica_lora_facts mica_lora_get_facts(const mica_lora *lora)
{
    return lora->facts;
}
