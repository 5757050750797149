/* diffusion_decode.c - between pixels and latents: the last phase, and pictures on their way in.
 *
 *   rows [P, C] ─► scale_latents ─► [Y, X, c] ─► decode ─► [8Y, 8X, 3 or 4] ─► bytes, cut to size
 *   bytes ─► resize ─► [8Y, 8X, 3 or 4] ─► encode ─► [Y, X, c] ─► rows ─► scale_latents
 *
 * Reference: the end of the pipelines' __call__; image_processor.py, preprocess (Lanczos, x / 127.5 -
 * 1 written as 2 (x / 255) - 1) and postprocess: (x / 2 + 0.5) clamped to [0, 1], times 255, rounded
 * half to even. */
#include "diffusion/diffusion_internal.h"

#include "base/mem.h"
#include "media/resize.h"

#include <stdio.h>

static bool vae_progress(void *user, int done, int total)
{
    mica_diffusion *d = user;
    return mica_run_block(&d->run, NULL, done, total, NULL) == MICA_OK;
}

mica_vae_run_args mica_diffusion_vae_args(mica_diffusion *d, const mica_tap_sink *taps)
{
    return (mica_vae_run_args){.tile_rows = d->options->vae_tile,
                               .progress = vae_progress,
                               .progress_user = d,
                               .taps = taps};
}

static void channels_first(const float *in_PC, int64_t pixels, int64_t C, float *out_CP)
{
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < C; c++)
            out_CP[c * pixels + p] = in_PC[p * C + c];
}

/* Channels-last host data as a tap of n pictures' shape in the VAE's form. */
static mica_status tap_channels_last(mica_diffusion *d, const float *x_YXC, int n, int C, int Y,
                                     int X, const char *name, mica_err *err)
{
    const int64_t values = (int64_t)C * Y * X;
    const int64_t frames[] = {n, C, 1, Y, X}, pixels[] = {n, C, Y, X};
    const bool framed = d->traits.vae == MICA_LATENT_FRAMES;
    if (!d->run.taps || !mica_tap_wants(d->run.taps, "%s", name))
        return MICA_OK;
    float *out = mica_mem_calloc((size_t)(n * values), sizeof *out);
    if (!out)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to trace %s", name);
    for (int b = 0; b < n; b++)
        channels_first(x_YXC + b * values, (int64_t)Y * X, C, out + b * values);
    const mica_tensor t =
        mica_tensor_make(out, MICA_DTYPE_F32, framed ? 5 : 4, framed ? frames : pixels);
    mica_tap_host(d->run.taps, &t, "%s", name);
    mica_mem_free(out);
    return MICA_OK;
}

/* --------------------------------------------------------------------- decode -- */

/* Host buffers of the phase. */
typedef struct decode_buffers {
    float *rows_PC;  /* all pictures */
    float *z_YXc;    /* all pictures, channels last */
    float *pictures; /* all that are decoded [Y, X, 3 or 4] where a tap wants them, or NULL */
} decode_buffers;

static mica_status buffers_init(decode_buffers *b, const mica_diffusion *d, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const size_t n = (size_t)p->pictures, values = (size_t)(p->P * p->C);
    const size_t channels = (size_t)d->traits.picture_channels, shown = n - (size_t)p->hidden;
    const size_t pixels = (size_t)p->width * (size_t)p->height;
    const size_t out = (size_t)p->out_width * (size_t)p->out_height;
    const bool keeps_pictures = mica_tap_wants(d->run.taps, "vae_decode.output");
    *b = (decode_buffers){0};
    b->rows_PC = mica_mem_calloc(values * n, sizeof(float));
    b->z_YXc = mica_mem_calloc(values * n, sizeof(float));
    if (keeps_pictures)
        b->pictures = mica_mem_calloc(pixels * channels * shown, sizeof(float));
    d->result->rgb = mica_mem_calloc(out * channels, shown);
    if (!b->rows_PC || !b->z_YXc || (keeps_pictures && !b->pictures) || !d->result->rgb)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d pictures of %d x %d", p->pictures,
                         p->width, p->height);
    return MICA_OK;
}

static void buffers_deinit(decode_buffers *b)
{
    mica_mem_free(b->rows_PC);
    mica_mem_free(b->z_YXc);
    mica_mem_free(b->pictures);
}

/* Some of the reference's decoders end so; it shows in the taps only, because bytes clamp as well.
 * Here and not in the VAE, where a NaN must stay one. */
static void clamp(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] < -1.0f ? -1.0f : x[i] > 1.0f ? 1.0f : x[i];
}

/* The upper left part of the picture as bytes; the whole of it as floats where `picture` is not NULL. */
static mica_status run_decoder(mica_diffusion *d, const float *z_YXc, float *picture, uint8_t *rgb,
                               int index, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const mica_pool_mark mark = mica_pool_get_mark(d->be, MICA_POOL_SESSION);
    const int64_t z_shape[] = {(int64_t)p->h * d->traits.patch, (int64_t)p->w * d->traits.patch,
                               d->traits.channels};
    const int64_t shape[] = {p->height, p->width, d->traits.picture_channels};
    const mica_tensor z_YXC = mica_state_tensor(d->be, MICA_POOL_SESSION, 3, z_shape);
    mica_tensor picture_YXC = mica_state_tensor(d->be, MICA_POOL_SESSION, 3, shape);
    mica_upload_f32(d->be, &z_YXC, z_YXc);
    mica_status st = d->ops->decode(d, &z_YXC, &picture_YXC, index == 0 ? d->run.taps : NULL, err);
    if (!st && !mica_all_finite(d->be, &picture_YXC) && !mica_backend_failed(d->be))
        st = MICA_FAIL(err, MICA_E_NUMERIC,
                       "VAE: the decoded picture holds NaN or Inf; the weights are damaged or the "
                       "precision is too low (try f32)");
    if (picture)
        mica_download_f32(d->be, picture, &picture_YXC);
    mica_tensor shown_YXC = mica_tensor_rows(&picture_YXC, 0, p->out_height);
    shown_YXC.shape_[1] = p->out_width;
    mica_download_pixels(d->be, rgb, &shown_YXC);
    if (!st)
        st = mica_backend_check(d->be, err);
    mica_pool_release(d->be, MICA_POOL_SESSION, mark);
    return st;
}

/* index counts what is decoded. */
static mica_status decode_one(mica_diffusion *d, decode_buffers *b, int index, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const int channels = d->traits.picture_channels;
    const int64_t values = (int64_t)p->width * p->height * channels;
    const int64_t out = (int64_t)p->out_width * p->out_height * channels;
    float *picture = b->pictures ? b->pictures + index * values : NULL;
    uint8_t *rgb = d->result->rgb + index * out;
    MICA_TRY(
        run_decoder(d, b->z_YXc + (p->hidden + index) * p->P * p->C, picture, rgb, index, err));
    if (picture && d->traits.clamps)
        clamp(picture, (size_t)values);
    mica_diffusion_restore_masked(d, rgb);
    return MICA_OK;
}

static mica_status tap_pictures(mica_diffusion *d, const decode_buffers *b, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const int n = p->pictures - p->hidden, channels = d->traits.picture_channels;
    const int64_t bytes[] = {n, p->out_height, p->out_width, channels};
    if (b->pictures)
        MICA_TRY(tap_channels_last(d, b->pictures, n, channels, p->height, p->width,
                                   "vae_decode.output", err));
    const mica_tensor u8 = n == 1 ? mica_tensor_make(d->result->rgb, MICA_DTYPE_U8, 3, bytes + 1)
                                  : mica_tensor_make(d->result->rgb, MICA_DTYPE_U8, 4, bytes);
    mica_tap_host(d->run.taps, &u8, "image_u8");
    return MICA_OK;
}

static mica_status unpack_all(mica_diffusion *d, decode_buffers *b, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    mica_download_f32(d->be, b->rows_PC, &d->latents_PC);
    MICA_TRY(mica_backend_check(d->be, err));
    d->ops->scale_latents(d, b->rows_PC, p->pictures * p->P, true);
    for (int i = 0; i < p->pictures; i++)
        mica_latents_unpack(d, b->rows_PC + i * p->P * p->C, p->h, p->w,
                            b->z_YXc + i * p->P * p->C);
    return tap_channels_last(d, b->z_YXc + p->hidden * p->P * p->C, p->pictures - p->hidden,
                             d->traits.channels, p->h * d->traits.patch, p->w * d->traits.patch,
                             "vae_decode.input", err);
}

mica_status mica_diffusion_decode(mica_diffusion *d, mica_err *err)
{
    decode_buffers b;
    mica_status st = buffers_init(&b, d, err);
    if (!st)
        st = unpack_all(d, &b, err);
    for (int i = 0; i < d->plan.pictures - d->plan.hidden && !st; i++)
        st = decode_one(d, &b, i, err);
    if (!st)
        st = tap_pictures(d, &b, err);
    buffers_deinit(&b);
    return st;
}

/* --------------------------------------------------------------------- encode -- */

/* 2 (v / 255) - 1 in f32, as numpy and torch compute it. */
static void to_floats(const mica_picture *picture, float *out)
{
    const size_t n = (size_t)picture->width * (size_t)picture->height * (size_t)picture->channels;
    for (size_t i = 0; i < n; i++)
        out[i] = 2.0f * ((float)picture->pixels[i] / 255.0f) - 1.0f;
}

/* z_YXc: mean; then, when wanted, logvar. */
static mica_status run_encoder(mica_diffusion *d, const mica_picture *picture, int index,
                               float *floats, float *mean, float *logvar, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(d->be, MICA_POOL_SESSION);
    const int64_t shape[] = {picture->height, picture->width, picture->channels};
    const int64_t z_shape[] = {picture->height / d->traits.scale, picture->width / d->traits.scale,
                               d->traits.channels};
    const mica_tensor picture_YXC = mica_state_tensor(d->be, MICA_POOL_SESSION, 3, shape);
    mica_tensor mean_YXC = mica_state_tensor(d->be, MICA_POOL_SESSION, 3, z_shape);
    mica_tensor logvar_YXC = mean_YXC;
    if (logvar)
        logvar_YXC = mica_state_tensor(d->be, MICA_POOL_SESSION, 3, z_shape);
    mica_upload_f32(d->be, &picture_YXC, floats);
    mica_status st = d->ops->encode(d, &picture_YXC, &mean_YXC, logvar ? &logvar_YXC : NULL,
                                    index == 0 ? d->run.taps : NULL, err);
    mica_download_f32(d->be, mean, &mean_YXC);
    if (logvar)
        mica_download_f32(d->be, logvar, &logvar_YXC);
    if (!st && !mica_all_finite(d->be, &mean_YXC) && !mica_backend_failed(d->be))
        st = MICA_FAIL(err, MICA_E_NUMERIC,
                       "VAE: the latents of picture %d hold NaN or Inf; the "
                       "weights are damaged or the precision is too low (try "
                       "f32)",
                       index + 1);
    if (!st)
        st = mica_backend_check(d->be, err);
    mica_pool_release(d->be, MICA_POOL_SESSION, mark);
    return st;
}

static mica_status encode_sized(mica_diffusion *d, const mica_picture *picture, int index,
                                float *mean_YXc, float *logvar_YXc, mica_err *err)
{
    const int Y = picture->height, X = picture->width, channels = picture->channels;
    char name[48];
    float *floats = mica_mem_calloc((size_t)Y * (size_t)X * (size_t)channels, sizeof *floats);
    if (!floats)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a picture of %d x %d", X, Y);
    to_floats(picture, floats);
    snprintf(name, sizeof name, "vae_encode.%d.input", index);
    mica_status st = tap_channels_last(d, floats, 1, channels, Y, X, name, err);
    if (!st)
        st = run_encoder(d, picture, index, floats, mean_YXc, logvar_YXc, err);
    snprintf(name, sizeof name, "vae_encode.%d.mean", index);
    if (!st)
        st = tap_channels_last(d, mean_YXc, 1, d->traits.channels, Y / d->traits.scale,
                               X / d->traits.scale, name, err);
    mica_mem_free(floats);
    return st;
}

mica_status mica_diffusion_encode_posterior(mica_diffusion *d, const mica_picture *picture,
                                            int index, float *mean_YXc, float *logvar_YXc,
                                            mica_err *err)
{
    if (!d->ops->encode)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "this model's VAE cannot encode pictures");
    return encode_sized(d, picture, index, mean_YXc, logvar_YXc, err);
}

mica_status mica_diffusion_encode_picture(mica_diffusion *d, const mica_picture *picture, int width,
                                          int height, int index, float *rows_PC, mica_err *err)
{
    const int multiple = d->traits.scale * d->traits.patch;
    const int h = height / multiple, w = width / multiple;
    mica_picture sized = {0};
    float *mean = mica_mem_calloc((size_t)h * (size_t)w * (size_t)d->plan.C, sizeof *mean);
    mica_status st =
        mean ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for latents of a picture");
    if (!st)
        st = mica_picture_resize(picture, width, height, MICA_RESAMPLE_LANCZOS, &sized, err);
    if (!st)
        st = mica_diffusion_encode_posterior(d, &sized, index, mean, NULL, err);
    if (!st) {
        mica_latents_pack(d, mean, h, w, rows_PC);
        d->ops->scale_latents(d, rows_PC, (int64_t)h * w, false);
    }
    mica_picture_deinit(&sized);
    mica_mem_free(mean);
    return st;
}
