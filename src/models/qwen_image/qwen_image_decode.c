/* qwen_image_decode.c - the last phase: latents to 8-bit pictures, and the taps of latents.
 *
 *   rows [P, 4 z] ─► unpack [2h, 2w, z] ─► z * std + mean ─► VAE ─► [8*2h, 8*2w, 3] ─► bytes
 *
 * Reference: diffusers pipeline_qwenimage.py, _unpack_latents and the end of __call__;
 * image_processor.py, postprocess: (x / 2 + 0.5) clamped to [0, 1], times 255, rounded half to even. */
#include "models/qwen_image/qwen_image_job.h"

#include "base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

void mica_qwen_image_tap_latents(mica_qwen_image_job *j, const mica_tensor *x_PC,
                                 const char *name_format, ...)
{
    if (!j->run.taps)
        return;
    char name[64];
    va_list args;
    va_start(args, name_format);
    vsnprintf(name, sizeof name, name_format, args);
    va_end(args);
    mica_tap(j->run.taps, j->session->be, x_PC, 3,
             (const int64_t[]){j->plan.pictures, j->plan.P, j->plan.C}, "%s", name);
}

void mica_qwen_image_tap_times(mica_qwen_image_job *j, int e, const char *name)
{
    float times[64]; /* the plan allows 64 pictures */
    if (!j->run.taps)
        return;
    for (int b = 0; b < j->plan.pictures; b++)
        times[b] = j->plan.eval_times[e];
    const mica_tensor t = mica_tensor_1d(times, MICA_DTYPE_F32, j->plan.pictures);
    mica_tap_host(j->run.taps, &t, "%s.timestep", name);
}

/* Buffers of the phase, for all pictures where a tap may want them. */
typedef struct decode_buffers {
    float *latents_PC; /* all pictures, packed */
    float *z_YXz;      /* one picture, channels last */
    float *picture;    /* one picture [Y, X, 3] */
    float *z_taps;     /* [pictures, z, 1, Y, X]; NULL: not wanted */
    float *out_taps;   /* [pictures, 3, 1, Y, X]; NULL: not wanted */
} decode_buffers;

static mica_status buffers_init(decode_buffers *b, const mica_qwen_image_job *j, mica_err *err)
{
    const mica_qwen_image_plan *p = &j->plan;
    const size_t values = (size_t)p->P * (size_t)p->C, n = (size_t)p->pictures;
    const size_t pixels = (size_t)p->width * (size_t)p->height;
    const bool tap_in = mica_tap_wants(j->run.taps, "vae_decode.input");
    const bool tap_out = mica_tap_wants(j->run.taps, "vae_decode.output");
    *b = (decode_buffers){0};
    b->latents_PC = mica_mem_calloc(values * n, sizeof(float));
    b->z_YXz = mica_mem_calloc(values, sizeof(float));
    b->picture = mica_mem_calloc(pixels * 3, sizeof(float));
    b->z_taps = tap_in ? mica_mem_calloc(values * n, sizeof(float)) : NULL;
    b->out_taps = tap_out ? mica_mem_calloc(pixels * 3 * n, sizeof(float)) : NULL;
    j->result->rgb = mica_mem_calloc(pixels * 3, n);
    if (!b->latents_PC || !b->z_YXz || !b->picture || !j->result->rgb || (tap_in && !b->z_taps) ||
        (tap_out && !b->out_taps))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d pictures of %d x %d", p->pictures,
                         p->width, p->height);
    return MICA_OK;
}

static void buffers_deinit(decode_buffers *b)
{
    mica_mem_free(b->latents_PC);
    mica_mem_free(b->z_YXz);
    mica_mem_free(b->picture);
    mica_mem_free(b->z_taps);
    mica_mem_free(b->out_taps);
}

/* Patch rows to channels last: patch (y, x), channel 4c + 2 dy + dx. */
static void unpack(const mica_qwen_image_plan *p, const float *in_PC, float *out_YXz)
{
    const int64_t z = p->C / 4, X = 2 * p->w;
    for (int64_t patch = 0; patch < p->P; patch++)
        for (int64_t k = 0; k < p->C; k++) {
            const int64_t y = 2 * (patch / p->w) + k % 4 / 2, x = 2 * (patch % p->w) + k % 2;
            out_YXz[(y * X + x) * z + k / 4] = in_PC[patch * p->C + k];
        }
}

/* [Y * X, C] to [C, Y * X]. */
static void channels_first(const float *in_PC, int64_t pixels, int64_t C, float *out_CP)
{
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < C; c++)
            out_CP[c * pixels + p] = in_PC[p * C + c];
}

/* The reference's decoder ends so (autoencoder_kl_qwenimage.py, _decode); it shows in the taps only,
 * because to_bytes clamps as well. Here and not in the VAE, where a NaN must stay one. */
static void clamp(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] < -1.0f ? -1.0f : x[i] > 1.0f ? 1.0f : x[i];
}

static void to_bytes(const float *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        const float v = x[i] * 0.5f + 0.5f;
        out[i] = (uint8_t)rintf((v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v) * 255.0f);
    }
}

static bool on_progress(void *user, int done, int total)
{
    mica_qwen_image_job *j = user;
    return mica_run_block(&j->run, NULL, done, total, NULL) == MICA_OK;
}

/* z_YXz (in the VAE's own range) to picture. */
static mica_status run_vae(mica_qwen_image_job *j, decode_buffers *b, int index, mica_err *err)
{
    const mica_qwen_image_plan *p = &j->plan;
    mica_backend *be = j->session->be;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    const mica_tensor z_YXC = mica_state_tensor(be, MICA_POOL_SESSION, 3,
                                                (const int64_t[]){2 * p->h, 2 * p->w, p->C / 4});
    mica_tensor picture_YXC =
        mica_state_tensor(be, MICA_POOL_SESSION, 3, (const int64_t[]){p->height, p->width, 3});
    const mica_qwen_vae_run_args args = {.tile_rows = p->options->vae_tile,
                                         .progress = on_progress,
                                         .progress_user = j,
                                         .taps = index == 0 ? j->run.taps : NULL};
    mica_upload_f32(be, &z_YXC, b->z_YXz);
    mica_status st = mica_qwen_vae_decode(j->session->vae, be, &z_YXC, &picture_YXC, &args, err);
    if (!st && !mica_all_finite(be, &picture_YXC) && !mica_backend_failed(be))
        st = MICA_FAIL(err, MICA_E_NUMERIC,
                       "VAE: the decoded picture holds NaN or Inf; the weights are damaged or the "
                       "precision is too low (try f32)");
    mica_download_f32(be, b->picture, &picture_YXC);
    if (!st)
        st = mica_backend_check(be, err);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
    return st;
}

static mica_status decode_one(mica_qwen_image_job *j, decode_buffers *b, int index, mica_err *err)
{
    const mica_qwen_image_plan *p = &j->plan;
    const int64_t z = p->C / 4, latent_pixels = 4 * p->P;
    const int64_t pixels = (int64_t)p->width * p->height;
    unpack(p, b->latents_PC + (int64_t)index * p->P * p->C, b->z_YXz);
    mica_qwen_vae_denormalize(&j->session->model->vae_config, b->z_YXz, latent_pixels);
    if (b->z_taps)
        channels_first(b->z_YXz, latent_pixels, z, b->z_taps + index * latent_pixels * z);
    MICA_TRY(run_vae(j, b, index, err));
    clamp(b->picture, (size_t)pixels * 3);
    if (b->out_taps)
        channels_first(b->picture, pixels, 3, b->out_taps + index * pixels * 3);
    to_bytes(b->picture, (size_t)pixels * 3, j->result->rgb + (size_t)index * (size_t)pixels * 3);
    return MICA_OK;
}

static void tap_pictures(mica_qwen_image_job *j, const decode_buffers *b)
{
    const mica_qwen_image_plan *p = &j->plan;
    const mica_tap_sink *taps = j->run.taps;
    const int64_t n = p->pictures, bytes[] = {n, p->height, p->width, 3};
    if (!taps)
        return;
    if (b->z_taps) {
        const int64_t shape[] = {n, p->C / 4, 1, 2 * p->h, 2 * p->w};
        const mica_tensor t = mica_tensor_make(b->z_taps, MICA_DTYPE_F32, 5, shape);
        mica_tap_host(taps, &t, "vae_decode.input");
    }
    if (b->out_taps) {
        const int64_t shape[] = {n, 3, 1, p->height, p->width};
        const mica_tensor t = mica_tensor_make(b->out_taps, MICA_DTYPE_F32, 5, shape);
        mica_tap_host(taps, &t, "vae_decode.output");
    }
    const mica_tensor u8 = n == 1 ? mica_tensor_make(j->result->rgb, MICA_DTYPE_U8, 3, bytes + 1)
                                  : mica_tensor_make(j->result->rgb, MICA_DTYPE_U8, 4, bytes);
    mica_tap_host(taps, &u8, "image_u8");
}

mica_status mica_qwen_image_decode(mica_qwen_image_job *j, mica_err *err)
{
    decode_buffers b;
    mica_status st = buffers_init(&b, j, err);
    if (!st) {
        mica_download_f32(j->session->be, b.latents_PC, &j->latents_PC);
        st = mica_backend_check(j->session->be, err);
    }
    for (int i = 0; i < j->plan.pictures && !st; i++)
        st = decode_one(j, &b, i, err);
    if (!st)
        tap_pictures(j, &b);
    buffers_deinit(&b);
    return st;
}
