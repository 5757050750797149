/* gpt_sovits_speaker_run.c - the pass of ERes2NetV2.
 *
 *     picture [frequency, time, channels]
 *     block:   in ─ cut into parts ─ part 0: conv;  part i: conv of part i with result i - 1 ─ join
 *              ─ out + shortcut            "with": a sum, or a fusion (stages 3 and 4)
 *     fusion:  x + y + t (x - y),  t = tanh(up(SiLU(down([x, y]))))
 *
 * Activations are clamped to 0..20 (Hardtanh), but for the first, a plain ReLU. Reference:
 * eres2net/ERes2NetV2.py forward3, BasicBlockERes2NetV2AFF; fusion.py AFF. */
#include "models/gpt_sovits/gpt_sovits_speaker.h"

#include "base/mem.h"

#include <string.h>

#define MOST 20.0f

typedef struct picture {
    mica_tensor t; /* [Y, X, C] */
} picture;

static picture make(mica_backend *be, int64_t Y, int64_t X, int64_t C)
{
    return (picture){mica_act_tensor(be, MICA_POOL_STEP, 3, (const int64_t[]){Y, X, C})};
}

/* [Y X, C] */
static mica_tensor pixels(const picture *p)
{
    const int64_t *s = p->t.shape_;
    return mica_tensor_reshape(&p->t, 2, (const int64_t[]){s[0] * s[1], s[2]});
}

static picture convolve(mica_backend *be, mica_nn_linear *l, const picture *x, int stride)
{
    const mica_tensor *w = &l->w.tensor;
    const int64_t *s = x->t.shape_;
    if (w->ndim == 2) {
        picture y = make(be, s[0], s[1], w->shape_[0]);
        const mica_tensor in = pixels(x);
        mica_tensor out = pixels(&y);
        mica_nn_linear_run(be, l, &in, MICA_ACT_NONE, &out);
        return y;
    }
    const int pad = (int)(w->shape_[2] - 1) / 2;
    picture y = make(be, (s[0] - 1) / stride + 1, (s[1] - 1) / stride + 1, w->shape_[0]);
    mica_conv2d(be, &(mica_conv2d_args){.x_YXC = &x->t,
                                        .w_OCYX = &l->w,
                                        .bias_O = &l->b,
                                        .stride = stride,
                                        .pad_top = pad,
                                        .pad_bottom = pad,
                                        .pad_left = pad,
                                        .pad_right = pad,
                                        .y_YXO = &y.t});
    return y;
}

static void clamp(mica_backend *be, picture *p)
{
    mica_apply(be, MICA_FUNCTION_CLAMP, MOST, &p->t, NULL, &p->t);
}

/* Channels [first, first + count) as a picture of their own, and back. */
static picture take(mica_backend *be, const picture *x, int64_t first, int64_t count)
{
    picture y = make(be, x->t.shape_[0], x->t.shape_[1], count);
    const mica_tensor all = pixels(x), from = mica_tensor_columns(&all, first, count);
    mica_tensor to = pixels(&y);
    mica_copy(be, &from, &to);
    return y;
}

static void put(mica_backend *be, const picture *x, const picture *all, int64_t first)
{
    const mica_tensor from = pixels(x), whole = pixels(all);
    mica_tensor to = mica_tensor_columns(&whole, first, x->t.shape_[2]);
    mica_copy(be, &from, &to);
}

/* x = x + y + t (x - y); sums in f32. */
static void fuse(mica_backend *be, mica_gs_fusion *f, picture *x, const picture *y)
{
    const int64_t *s = x->t.shape_, C = s[2];
    picture both = make(be, s[0], s[1], 2 * C);
    put(be, x, &both, 0);
    put(be, y, &both, C);
    picture hidden = convolve(be, &f->down, &both, 1);
    mica_silu(be, &hidden.t, &hidden.t);
    picture t = convolve(be, &f->up, &hidden, 1);
    mica_tanh(be, &t.t, &t.t);
    mica_tensor a = mica_state_tensor(be, MICA_POOL_STEP, 3, s);
    mica_tensor b = mica_state_tensor(be, MICA_POOL_STEP, 3, s);
    mica_tensor d = mica_state_tensor(be, MICA_POOL_STEP, 3, s);
    mica_copy(be, &x->t, &a);
    mica_copy(be, &y->t, &b);
    mica_linear_combination(be, 2, (const float[]){1.0f, -1.0f},
                            (const mica_tensor *const[]){&a, &b}, &d);
    mica_mul(be, &d, &t.t, &d);
    mica_linear_combination(be, 3, (const float[]){1.0f, 1.0f, 1.0f},
                            (const mica_tensor *const[]){&a, &b, &d}, &a);
    mica_copy(be, &a, &x->t);
}

/* The parts of x one by one into `joined`. */
static void run_parts(mica_backend *be, mica_gs_speaker_block *b, const picture *x, picture *joined)
{
    const int64_t width = x->t.shape_[2] / b->scale;
    picture before = {0};
    for (int i = 0; i < b->scale; i++) {
        picture part = take(be, x, i * width, width);
        if (i > 0 && b->fuse[i].down.w.name) {
            fuse(be, &b->fuse[i], &before, &part);
            part = before;
        } else if (i > 0) {
            mica_add(be, &before.t, &part.t, &part.t);
        }
        before = convolve(be, &b->part[i], &part, 1);
        clamp(be, &before);
        put(be, &before, joined, i * width);
    }
}

/* y: made before the block's scratch. */
static void run_block(mica_backend *be, mica_gs_speaker_block *b, const picture *x, picture *y)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    picture in = convolve(be, &b->in, x, b->stride);
    clamp(be, &in);
    picture joined = make(be, in.t.shape_[0], in.t.shape_[1], in.t.shape_[2]);
    run_parts(be, b, &in, &joined);
    const picture out = convolve(be, &b->out, &joined, 1);
    const picture side = b->shortcut.w.name ? convolve(be, &b->shortcut, x, b->stride) : *x;
    mica_add(be, &out.t, &side.t, &y->t);
    clamp(be, y);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

static mica_status run_stage(mica_gs_speaker *s, mica_backend *be, mica_run *run, int i, picture *x,
                             mica_err *err)
{
    for (int n = 0; n < s->counts[i]; n++) {
        mica_gs_speaker_block *b = &s->blocks[i][n];
        picture y = make(be, (x->t.shape_[0] - 1) / b->stride + 1,
                         (x->t.shape_[1] - 1) / b->stride + 1, b->out.w.tensor.shape_[0]);
        run_block(be, b, x, &y);
        *x = y;
        MICA_TRY(mica_run_block(run, be, i * 8 + n + 1, 32, err));
    }
    return MICA_OK;
}

/* [Y, X, C] to out[c * Y + y], the mean over x. */
static mica_status average(mica_backend *be, const picture *p, float *out, mica_err *err)
{
    const int64_t Y = p->t.shape_[0], X = p->t.shape_[1], C = p->t.shape_[2];
    float *values = mica_mem_calloc((size_t)(Y * X * C), sizeof *values);
    if (!values)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a speaker vector");
    mica_download_f32(be, values, &p->t);
    for (int64_t c = 0; c < C; c++)
        for (int64_t y = 0; y < Y; y++) {
            double sum = 0.0;
            for (int64_t x = 0; x < X; x++)
                sum += (double)values[(y * X + x) * C + c];
            out[c * Y + y] = (float)(sum / (double)X);
        }
    mica_mem_free(values);
    return mica_backend_check(be, err);
}

static mica_status run_network(mica_gs_speaker *s, mica_backend *be, mica_run *run,
                               const float *turned, int64_t frames, float *out, mica_err *err)
{
    picture x = make(be, MICA_GS_SPEAKER_BINS, frames, 1);
    mica_upload_f32(be, &x.t, turned);
    x = convolve(be, &s->conv, &x, 1);
    mica_apply(be, MICA_FUNCTION_LEAKY_RELU, 0.0f, &x.t, NULL, &x.t);
    for (int i = 0; i < 3; i++)
        MICA_TRY(run_stage(s, be, run, i, &x, err));
    const picture down = convolve(be, &s->down, &x, 2);
    MICA_TRY(run_stage(s, be, run, 3, &x, err));
    fuse(be, &s->fuse, &x, &down);
    return average(be, &x, out, err);
}

mica_status mica_gs_speaker_run(mica_gs_speaker *s, mica_backend *be, mica_run *run,
                                const float *fbank_RB, int64_t frames, float *out, mica_err *err)
{
    if (frames < 1)
        return MICA_FAIL(err, MICA_E_USAGE, "the recording is too short for a speaker vector");
    float *turned = mica_mem_calloc((size_t)(frames * MICA_GS_SPEAKER_BINS), sizeof *turned);
    if (!turned)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for filter banks");
    for (int64_t r = 0; r < frames; r++)
        for (int64_t b = 0; b < MICA_GS_SPEAKER_BINS; b++)
            turned[b * frames + r] = fbank_RB[r * MICA_GS_SPEAKER_BINS + b];
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_status st = run_network(s, be, run, turned, frames, out, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    mica_mem_free(turned);
    if (!st) {
        const mica_tensor t = mica_tensor_2d(out, MICA_DTYPE_F32, 1, mica_gs_speaker_width(s));
        mica_tap_host(run->taps, &t, "sv_emb");
    }
    return st;
}
