/* gpt_sovits_speaker.c - weights of ERes2NetV2; see gpt_sovits_speaker.h.
 *
 *     conv [O, C, y, x], batch norm ──► conv w / sqrt(var + eps), bias     f32, in the arena
 *     1 x 1 without stride          ──► [O, C]: a linear over pixels
 *
 * Reference: eres2net/ERes2NetV2.py, fusion.py. */
#include "models/gpt_sovits/gpt_sovits_speaker.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NORM_EPS 1e-5

typedef struct reader {
    const mica_weights *w;
    mica_arena *arena;
    mica_text problems;
    int count;
    bool out_of_memory;
} reader;

bool mica_gs_speaker_probe(const mica_weights *files)
{
    return mica_weights_find(files, "layer3_ds.weight") &&
           mica_weights_find(files, "fuse34.local_att.0.weight");
}

mica_status mica_gs_speaker_directory(mica_weights **out, const mica_weights *files,
                                      mica_arena *arena, mica_err *err)
{
    return mica_gs_directory(out, files, NULL, arena, err);
}

/* -------------------------------------------------------------------- folding -- */

static const mica_tensor *find(reader *r, const char *name, const char *suffix)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", name, suffix);
    const mica_tensor *t = mica_weights_find(r->w, full);
    if (t && mica_dtype_get(t->dtype)->is_float)
        return t;
    mica_text_add(&r->problems, "\n  %s: %s", full, t ? "not of a float type" : "missing");
    r->count++;
    return NULL;
}

/* scale[o] and shift[o] of a batch norm; 1 and 0 without one. */
static bool read_norm(reader *r, const char *norm, int64_t O, double *scale, double *shift)
{
    for (int64_t o = 0; o < O; o++) {
        scale[o] = 1.0;
        shift[o] = 0.0;
    }
    if (!norm)
        return true;
    const mica_tensor *g = find(r, norm, ".weight"), *b = find(r, norm, ".bias");
    const mica_tensor *m = find(r, norm, ".running_mean"), *v = find(r, norm, ".running_var");
    if (!g || !b || !m || !v)
        return false;
    if (mica_tensor_count(g) != O || mica_tensor_count(b) != O || mica_tensor_count(m) != O ||
        mica_tensor_count(v) != O) {
        mica_text_add(&r->problems, "\n  %s: not of %lld channels", norm, (long long)O);
        r->count++;
        return false;
    }
    for (int64_t o = 0; o < O; o++) {
        scale[o] = (double)mica_tensor_read_f32(g, o) /
                   sqrt((double)mica_tensor_read_f32(v, o) + NORM_EPS);
        shift[o] =
            (double)mica_tensor_read_f32(b, o) - (double)mica_tensor_read_f32(m, o) * scale[o];
    }
    return true;
}

/* conv (with a bias of its own or not) and norm (NULL: none) into l. */
static void fold(reader *r, const char *conv, const char *norm, bool as_linear, mica_nn_linear *l)
{
    char bias_name[160];
    const mica_tensor *w = find(r, conv, ".weight");
    snprintf(bias_name, sizeof bias_name, "%s.bias", conv);
    const mica_tensor *bias = mica_weights_find(r->w, bias_name);
    if (!w || w->ndim != 4) {
        r->count += w != NULL;
        return;
    }
    const int64_t O = w->shape_[0], n = mica_tensor_count(w) / O;
    float *to = mica_arena_alloc(r->arena, (size_t)(O * (n + 1)) * sizeof *to);
    double *scale = mica_arena_alloc(r->arena, 2 * (size_t)O * sizeof *scale);
    char *name = mica_arena_strndup(r->arena, conv, strlen(conv));
    if (!to || !scale || !name) {
        r->out_of_memory = true;
        return;
    }
    if (!read_norm(r, norm, O, scale, scale + O))
        return;
    for (int64_t o = 0; o < O; o++) {
        const double b = bias ? (double)mica_tensor_read_f32(bias, o) : 0.0;
        for (int64_t i = 0; i < n; i++)
            to[o * n + i] = (float)((double)mica_tensor_read_f32(w, o * n + i) * scale[o]);
        to[O * n + o] = (float)(b * scale[o] + scale[O + o]);
    }
    *l = (mica_nn_linear){
        .w = {.tensor = mica_tensor_make(to, MICA_DTYPE_F32, 4, w->shape_), .name = name},
        .b = {.tensor = mica_tensor_1d(to + O * n, MICA_DTYPE_F32, O), .name = name}};
    if (as_linear)
        l->w.tensor = mica_tensor_2d(to, MICA_DTYPE_F32, O, n);
}

/* --------------------------------------------------------------------- tables -- */

static bool has(const reader *r, const char *name)
{
    return mica_weights_find(r->w, name) != NULL;
}

static void read_fusion(reader *r, const char *name, mica_gs_fusion *f)
{
    char conv[160], norm[160];
    snprintf(conv, sizeof conv, "%s.local_att.0", name);
    snprintf(norm, sizeof norm, "%s.local_att.1", name);
    fold(r, conv, norm, true, &f->down);
    snprintf(conv, sizeof conv, "%s.local_att.3", name);
    snprintf(norm, sizeof norm, "%s.local_att.4", name);
    fold(r, conv, norm, true, &f->up);
}

static void read_block(reader *r, const char *name, int stride, mica_gs_speaker_block *b)
{
    char conv[128], norm[192];
    b->stride = stride;
    snprintf(conv, sizeof conv, "%s.conv1", name);
    snprintf(norm, sizeof norm, "%s.bn1", name);
    fold(r, conv, norm, stride == 1, &b->in);
    snprintf(conv, sizeof conv, "%s.conv3", name);
    snprintf(norm, sizeof norm, "%s.bn3", name);
    fold(r, conv, norm, true, &b->out);
    snprintf(conv, sizeof conv, "%s.convs.", name);
    b->scale = mica_weight_count_blocks(r->w, conv);
    for (int i = 0; i < b->scale && i < MICA_GS_SPEAKER_SCALE; i++) {
        snprintf(conv, sizeof conv, "%s.convs.%d", name, i);
        snprintf(norm, sizeof norm, "%s.bns.%d", name, i);
        fold(r, conv, norm, false, &b->part[i]);
        snprintf(conv, sizeof conv, "%s.fuse_models.%d", name, i - 1);
        snprintf(norm, sizeof norm, "%s.local_att.0.weight", conv);
        if (i > 0 && has(r, norm))
            read_fusion(r, conv, &b->fuse[i]);
    }
    snprintf(norm, sizeof norm, "%s.shortcut.0.weight", name);
    if (!has(r, norm))
        return;
    snprintf(conv, sizeof conv, "%s.shortcut.0", name);
    snprintf(norm, sizeof norm, "%s.shortcut.1", name);
    fold(r, conv, norm, stride == 1, &b->shortcut);
}

static void read_stages(reader *r, mica_gs_speaker *s)
{
    for (int i = 0; i < MICA_GS_SPEAKER_STAGES; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer%d.", i + 1);
        s->counts[i] = mica_weight_count_blocks(r->w, name);
        s->blocks[i] = mica_arena_calloc(r->arena, (size_t)s->counts[i] + 1, sizeof *s->blocks[i]);
        if (!s->blocks[i]) {
            s->counts[i] = 0;
            r->out_of_memory = true;
        }
        for (int n = 0; s->blocks[i] && n < s->counts[i]; n++) {
            snprintf(name, sizeof name, "layer%d.%d", i + 1, n);
            read_block(r, name, i > 0 && n == 0 ? 2 : 1, &s->blocks[i][n]);
        }
    }
}

/* Channels in of a layer agree with channels out of the one before; 0: wrong. */
static bool fits(const mica_nn_linear *l, int64_t in)
{
    return l->w.name && l->w.tensor.shape_[1] == in;
}

static bool check_block(const mica_gs_speaker_block *b, int64_t in, int64_t *out)
{
    if (b->scale < 1 || b->scale > MICA_GS_SPEAKER_SCALE || !fits(&b->in, in))
        return false;
    const int64_t all = b->in.w.tensor.shape_[0], width = all / b->scale;
    for (int i = 0; i < b->scale; i++) {
        const mica_tensor *t = &b->part[i].w.tensor;
        if (!fits(&b->part[i], width) || t->shape_[0] != width || t->shape_[2] != 3 ||
            t->shape_[3] != 3)
            return false;
        if (b->fuse[i].down.w.name && (!fits(&b->fuse[i].down, 2 * width) ||
                                       !fits(&b->fuse[i].up, b->fuse[i].down.w.tensor.shape_[0]) ||
                                       b->fuse[i].up.w.tensor.shape_[0] != width))
            return false;
    }
    *out = b->out.w.name ? b->out.w.tensor.shape_[0] : 0;
    return all % b->scale == 0 && fits(&b->out, all) &&
           (b->shortcut.w.name ? fits(&b->shortcut, in) && b->shortcut.w.tensor.shape_[0] == *out
                               : in == *out && b->stride == 1);
}

static bool check(mica_gs_speaker *s)
{
    int64_t channels = s->conv.w.name ? s->conv.w.tensor.shape_[0] : 0, third = 0;
    if (!fits(&s->conv, 1))
        return false;
    for (int i = 0; i < MICA_GS_SPEAKER_STAGES; i++) {
        for (int n = 0; n < s->counts[i]; n++)
            if (!check_block(&s->blocks[i][n], channels, &channels))
                return false;
        third = i == 2 ? channels : third;
    }
    s->channels = channels;
    return s->counts[3] > 0 && fits(&s->down, third) && s->down.w.tensor.shape_[0] == channels &&
           fits(&s->fuse.down, 2 * channels) && s->fuse.up.w.tensor.shape_[0] == channels &&
           fits(&s->fuse.up, s->fuse.down.w.tensor.shape_[0]);
}

mica_status mica_gs_speaker_open(mica_gs_speaker *s, const mica_weights *w, mica_arena *arena,
                                 mica_err *err)
{
    reader r = {.w = w, .arena = arena};
    mica_status st = MICA_OK;
    *s = (mica_gs_speaker){0};
    fold(&r, "conv1", "bn1", false, &s->conv);
    fold(&r, "layer3_ds", NULL, false, &s->down);
    read_fusion(&r, "fuse34", &s->fuse);
    read_stages(&r, s);
    if (r.out_of_memory || r.problems.failed)
        st = MICA_FAIL(err, MICA_E_NOMEM, "speaker network: no memory for its weights");
    else if (r.count)
        st = MICA_FAIL(err, MICA_E_FORMAT, "speaker network: %d of its tensors are wrong:%s",
                       r.count, r.problems.data ? r.problems.data : "");
    else if (!check(s))
        st = MICA_FAIL(err, MICA_E_FORMAT, "speaker network: its layers do not fit together");
    mica_text_deinit(&r.problems);
    return st;
}

int64_t mica_gs_speaker_width(const mica_gs_speaker *s)
{
    return s->channels * (MICA_GS_SPEAKER_BINS / 8);
}

/* ----------------------------------------------------------------------- drop -- */

static void drop(mica_backend *be, mica_nn_linear *l)
{
    if (l->w.name)
        mica_backend_drop_weights(be, (mica_weight *const[]){&l->w, &l->b}, 2);
}

void mica_gs_speaker_drop(mica_gs_speaker *s, mica_backend *be)
{
    drop(be, &s->conv);
    drop(be, &s->down);
    drop(be, &s->fuse.down);
    drop(be, &s->fuse.up);
    for (int i = 0; i < MICA_GS_SPEAKER_STAGES; i++)
        for (int n = 0; n < s->counts[i]; n++) {
            mica_gs_speaker_block *b = &s->blocks[i][n];
            drop(be, &b->in);
            drop(be, &b->out);
            drop(be, &b->shortcut);
            for (int k = 0; k < b->scale && k < MICA_GS_SPEAKER_SCALE; k++) {
                drop(be, &b->part[k]);
                drop(be, &b->fuse[k].down);
                drop(be, &b->fuse[k].up);
            }
        }
}
