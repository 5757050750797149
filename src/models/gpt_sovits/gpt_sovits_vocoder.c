/* gpt_sovits_vocoder.c - latent frames to samples (HiFi-GAN).
 *
 *     z [R, I] ─conv 7─ + style ─► C0 ─┬─ leaky, up by 10 ─► three residual blocks, added ─┐
 *                                      │       8, 2, 2, 2                                  │
 *                                      └◄──────────────────────────────────────────────────┘
 *              ─ leaky, conv 7 ─ tanh ─► R * hop samples
 *
 *     up: [R, C] ─► [R + taps - 1, rate * O], which read as [.., O] is the transposed convolution, with
 *         (kernel - rate) / 2 rows too many at the left: a view, no copy
 *
 * A residual block is six convolutions with the leaky ReLU before each inside the operation. Stages
 * halve the channels and multiply the rows: the work is where rows are many and narrow, the same number of
 * values in every stage. Five buffers of that size serve all of them:
 *
 *     x (sums) ─► wide: up ─► part, work ─► the other sums ─► x of the next stage
 *
 * All but `work`, which only a convolution reads, are f32 everywhere: rounding them on the way cost 3 dB
 * on a GPU.
 *
 * Chunks. Long latents go through in equal pieces of at most CHUNK frames (CHUNK_DEVICE where a
 * launch costs more than a frame) with a halo of frames around; what a piece's edge cannot know lies in the
 * halo and is cut off. The receptive field of the released vocoders is 13 frames to each side, others have
 * what their kernels and dilations make: pieces make the same samples up to rounding. The pieces do not
 * depend on threads. Pieces of 48 computed 1.7 times the frames.
 *
 * Reference: module/models.py Generator.forward; module/modules.py ResBlock1. */
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define CHUNK        192
#define CHUNK_DEVICE 1024

static const float LEAKY = 0.1f, LEAKY_LAST = 0.01f;

/* Rows to each side that a residual block's row depends on. */
static int reach(const mica_gs_synth_config *c, int j)
{
    int rows = 0;
    for (int k = 0; k < (c->is_short ? 2 : MICA_GS_DILATIONS); k++)
        rows += (c->kernels[j] - 1) / 2 * (c->dilations[j][k] + (c->is_short ? 0 : 1));
    return rows;
}

int64_t mica_gs_vocoder_halo(const mica_gs_synth_config *c)
{
    double frames = 3.0, rows = 1.0; /* conv_pre; rows of a frame */
    for (int i = 0; i < c->ups; i++) {
        int most = 0;
        for (int j = 0; j < c->kernel_count; j++)
            most = MICA_MAX(most, reach(c, j));
        frames += (double)c->up_kernels[i] / c->rates[i] / rows;
        rows *= c->rates[i];
        frames += most / rows;
    }
    return (int64_t)ceil(frames + 3.0 / rows) + 1;
}

static void run_resblock(mica_backend *be, const mica_gs_synth_config *c, int j,
                         mica_gs_resblock *b, const mica_tensor *x, mica_tensor *work,
                         mica_tensor *y)
{
    const int *dilations = c->dilations[j];
    if (c->is_short) {
        mica_gs_conv_same(be, &b->convs1[0], x, dilations[0], &LEAKY, x, work);
        mica_gs_conv_same(be, &b->convs1[1], work, dilations[1], &LEAKY, work, y);
        return;
    }
    for (int k = 0; k < MICA_GS_DILATIONS; k++) {
        const mica_tensor *from = k ? y : x;
        mica_gs_conv_same(be, &b->convs1[k], from, dilations[k], &LEAKY, NULL, work);
        mica_gs_conv_same(be, &b->convs2[k], work, 1, &LEAKY, from, y);
    }
}

/* Buffers of a piece, for the largest stage. */
typedef struct buffers {
    mica_tensor wide, part, work, sums[2];
} buffers;

static int64_t taps_of(const mica_gs_synth *s, int i)
{
    return s->ups[i].w.tensor.shape_[3];
}

static buffers make_buffers(mica_gs_synth *s, mica_backend *be, int64_t frames)
{
    const mica_gs_synth_config *c = &s->config;
    int64_t rows = frames, values = frames * c->channels[0], wide = 0;
    for (int i = 0; i < c->ups; i++) {
        wide = MICA_MAX(wide, (rows + taps_of(s, i) - 1) * c->rates[i] * c->channels[i + 1]);
        rows *= c->rates[i];
        values = MICA_MAX(values, rows * c->channels[i + 1]);
    }
    buffers b = {.wide = mica_gs_state(be, 1, wide),
                 .part = mica_gs_state(be, 1, values),
                 .work = mica_gs_scratch(be, 1, values)};
    for (int i = 0; i < 2; i++)
        b.sums[i] = mica_gs_state(be, 1, values);
    return b;
}

static mica_tensor shaped(const mica_tensor *buffer, int64_t rows, int64_t columns)
{
    return mica_tensor_2d(buffer->data, buffer->dtype, rows, columns);
}

/* [rows, O] of stage i from x: the rows of the transposed convolution. */
static mica_tensor run_up(mica_gs_synth *s, mica_backend *be, int i, const mica_tensor *x,
                          const mica_tensor *buffer)
{
    const mica_gs_synth_config *c = &s->config;
    const int64_t R = x->shape_[0], O = c->channels[i + 1], u = c->rates[i], taps = taps_of(s, i);
    mica_tensor wide = shaped(buffer, R + taps - 1, u * O);
    mica_conv1d(be, &(mica_conv1d_args){.x_RC = x,
                                        .w_OCYX = &s->ups[i].w,
                                        .bias_O = &s->ups[i].b,
                                        .stride = 1,
                                        .dilation = 1,
                                        .pad_left = (int)taps - 1,
                                        .pad_right = (int)taps - 1,
                                        .leaky = true,
                                        .slope = LEAKY,
                                        .y_RO = &wide});
    const mica_tensor rows = shaped(buffer, (R + taps - 1) * u, O);
    return mica_tensor_rows(&rows, (c->up_kernels[i] - u) / 2, R * u);
}

static mica_tensor run_stage(mica_gs_synth *s, mica_backend *be, const mica_tap_sink *taps, int i,
                             const mica_tensor *x, const buffers *b)
{
    const mica_tensor up = run_up(s, be, i, x, &b->wide);
    const int64_t R = up.shape_[0], O = up.shape_[1];
    mica_tensor sum = shaped(&b->sums[i % 2], R, O), part = shaped(&b->part, R, O);
    mica_tensor work = shaped(&b->work, R, O);
    mica_gs_tap(taps, be, &up, true, "probe.dec.ups.%d", i);
    for (int j = 0; j < s->config.kernel_count; j++) {
        const int n = i * s->config.kernel_count + j;
        run_resblock(be, &s->config, j, &s->resblocks[n], &up, &work, j ? &part : &sum);
        mica_gs_tap(taps, be, j ? &part : &sum, true, "probe.dec.resblocks.%d", n);
        if (j)
            mica_add(be, &sum, &part, &sum);
    }
    return sum;
}

/* All rows of z at once; R * hop samples. */
static void run_piece(mica_gs_synth *s, mica_backend *be, const mica_tap_sink *taps,
                      const mica_gs_style *style, const mica_tensor *z, float *out)
{
    const mica_gs_synth_config *c = &s->config;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const buffers b = make_buffers(s, be, z->shape_[0]);
    mica_tensor x = shaped(&b.sums[1], z->shape_[0], c->channels[0]);
    mica_gs_conv_same(be, &s->conv_pre, z, 1, NULL, NULL, &x);
    mica_gs_tap(taps, be, &x, true, "probe.dec.conv_pre");
    mica_apply(be, MICA_FUNCTION_IDENTITY, 0.0f, &x, &style->vocoder_C, &x);
    for (int i = 0; i < c->ups; i++)
        x = run_stage(s, be, taps, i, &x, &b);
    mica_tensor samples = shaped(&b.part, x.shape_[0], 1);
    mica_gs_conv_same(be, &s->conv_post, &x, 1, &LEAKY_LAST, NULL, &samples);
    mica_tanh(be, &samples, &samples);
    mica_download_f32(be, out, &samples);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

void mica_gs_vocoder_run(mica_gs_synth *s, mica_backend *be, mica_run *run,
                         const mica_gs_style *style, const mica_tensor *z, float *out)
{
    const int64_t R = z->shape_[0], hop = s->config.hop, halo = mica_gs_vocoder_halo(&s->config);
    const int64_t most = mica_backend_is_queued(be) ? CHUNK_DEVICE : CHUNK;
    const int64_t pieces = (R + most - 1) / most, size = (R + pieces - 1) / pieces;
    if (pieces == 1 || mica_tap_wants(run->taps, "probe.dec.conv_pre")) {
        run_piece(s, be, run->taps, style, z, out);
        return;
    }
    float *piece = mica_mem_calloc((size_t)((size + 2 * halo) * hop), sizeof *piece);
    if (!piece) {
        mica_backend_fail(be, MICA_E_NOMEM, "no memory for a piece of sound");
        return;
    }
    for (int64_t at = 0; at < R && !mica_backend_failed(be); at += size) {
        const int64_t first = MICA_MAX(at - halo, 0), last = MICA_MIN(at + size + halo, R);
        const int64_t count = MICA_MIN(size, R - at);
        const mica_tensor rows = mica_tensor_rows(z, first, last - first);
        run_piece(s, be, NULL, style, &rows, piece);
        memcpy(out + at * hop, piece + (at - first) * hop, (size_t)(count * hop) * sizeof *out);
    }
    mica_mem_free(piece);
}

/* ------------------------------------------------------------------- sound -- */

mica_status mica_gs_synth_sound(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const mica_gs_style *style, const float *z, int64_t frames,
                                float *out, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor latent = mica_gs_state(be, frames, s->config.inter);
    mica_upload_f32(be, &latent, z);
    mica_gs_flow_run(s, be, style, &latent);
    mica_gs_tap(run->taps, be, &latent, true, "probe.flow");
    mica_status st = mica_run_block(run, be, 2, 3, err);
    if (!st) {
        mica_gs_vocoder_run(s, be, run, style, &latent, out);
        st = mica_run_block(run, be, 3, 3, err);
    }
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}
