/* diffusion_start.c - runs that start from a picture: img2img, inpainting, outpainting.
 *
 *     picture ─► canvas (new borders repeat the edge) ─► VAE ─► start [P, C]
 *     mask    ─► canvas mask (borders white)          ─► [P, C] of 0 and 1
 *
 *     before the loop   x = s0 noise + (1 - s0) start          s0: the first sigma that runs
 *     after a step      x = mask x + (1 - mask) (s' noise + (1 - s') start)
 *     at the end        pixels that the mask protects are copied from the canvas
 *
 * Reference: pipeline_qwenimage_inpaint.py, pipeline_z_image_inpaint.py and
 * pipeline_flux2_klein_inpaint.py; scale_noise of the flow-match scheduler. Two things differ on
 * purpose. The reference asks only the upper left pixel of a latent's 8 x 8 block whether it is
 * repainted, so that thin strokes get lost; here one white pixel is enough. And protected pixels come back
 * as they were, not through the VAE; grey pixels of the mask mix both. */
#include "diffusion/diffusion_internal.h"

#include "base/mem.h"
#include "media/resize.h"

#include <math.h>
#include <string.h>

/* --------------------------------------------------------------------- canvas -- */

static mica_status picture_init(mica_picture *p, int width, int height, mica_err *err)
{
    *p = (mica_picture){.width = width, .height = height, .channels = 3};
    p->pixels = mica_mem_calloc((size_t)width * (size_t)height, 3);
    return p->pixels
               ? MICA_OK
               : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a picture of %d x %d", width, height);
}

static int clamp_index(int i, int n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* dst(x, y) = src(x - left, y - top), beyond its edges the nearest pixel. */
static void place(const mica_picture *src, int left, int top, mica_picture *dst)
{
    for (int y = 0; y < dst->height; y++) {
        const uint8_t *row =
            src->pixels + (size_t)clamp_index(y - top, src->height) * (size_t)src->width * 3;
        uint8_t *out = dst->pixels + (size_t)y * (size_t)dst->width * 3;
        for (int x = 0; x < dst->width; x++)
            memcpy(out + 3 * x, row + 3 * clamp_index(x - left, src->width), 3);
    }
}

/* White where dst lies outside src placed at (left, top). */
static void whiten_borders(int width, int height, int left, int top, mica_picture *dst)
{
    for (int y = 0; y < dst->height; y++)
        for (int x = 0; x < dst->width; x++)
            if (x < left || x >= left + width || y < top || y >= top + height)
                memset(dst->pixels + ((size_t)y * (size_t)dst->width + (size_t)x) * 3, 255, 3);
}

/* The canvas at the size that is computed: as it is with its edges repeated, or resized. */
static mica_status fit(const mica_diffusion *d, mica_picture *canvas, mica_picture *out,
                       mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    if (canvas->width != p->out_width || canvas->height != p->out_height)
        return mica_picture_resize(canvas, p->width, p->height, MICA_RESAMPLE_LANCZOS, out, err);
    MICA_TRY(picture_init(out, p->width, p->height, err));
    place(canvas, 0, 0, out);
    return MICA_OK;
}

static mica_status make_canvas(mica_diffusion *d, mica_err *err)
{
    const int *e = d->options->expand_;
    mica_picture whole = {0};
    int width, height;
    mica_diffusion_canvas_size(d, &width, &height);
    mica_status st = picture_init(&whole, width, height, err);
    if (!st) {
        place(&d->inputs[0], e[0], e[1], &whole);
        st = fit(d, &whole, &d->canvas, err);
    }
    mica_picture_deinit(&whole);
    return st;
}

/* The mask at the start picture's size. */
static mica_status sized_mask(mica_diffusion *d, mica_picture *out, mica_err *err)
{
    const mica_picture *picture = &d->inputs[0];
    if (!d->mask.pixels)
        return picture_init(out, picture->width, picture->height, err);
    if (d->mask.width != picture->width || d->mask.height != picture->height)
        mica_run_notice(&d->run, "the mask is resized from %d x %d to the picture's %d x %d",
                        d->mask.width, d->mask.height, picture->width, picture->height);
    return mica_picture_resize(&d->mask, picture->width, picture->height, MICA_RESAMPLE_LANCZOS,
                               out, err);
}

static mica_status make_canvas_mask(mica_diffusion *d, mica_err *err)
{
    const int *e = d->options->expand_;
    mica_picture mask = {0}, whole = {0};
    int width, height;
    mica_diffusion_canvas_size(d, &width, &height);
    mica_status st = sized_mask(d, &mask, err);
    if (!st)
        st = picture_init(&whole, width, height, err);
    if (!st) {
        place(&mask, e[0], e[1], &whole);
        whiten_borders(mask.width, mask.height, e[0], e[1], &whole);
        st = fit(d, &whole, &d->canvas_mask, err);
    }
    mica_picture_deinit(&mask);
    mica_picture_deinit(&whole);
    return st;
}

/* ITU-R 601 luma in 16 bits, as Pillow's convert("L"). */
static int luma(const uint8_t *rgb)
{
    return (int)((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >> 16);
}

/* --------------------------------------------------------------------- latents -- */

/* 1 for each latent that has a pixel to repaint, as rows. */
static void mask_rows(const mica_diffusion *d, float *z_YXc, float *rows_PC)
{
    const mica_diffusion_plan *p = &d->plan;
    const int scale = d->traits.scale, c = d->traits.channels;
    const int X = p->w * d->traits.patch;
    memset(z_YXc, 0, (size_t)(p->P * p->C) * sizeof *z_YXc);
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++) {
            const uint8_t *pixel =
                d->canvas_mask.pixels + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
            float *z = z_YXc + ((int64_t)(y / scale) * X + x / scale) * c;
            if (luma(pixel) >= 128)
                for (int i = 0; i < c; i++)
                    z[i] = 1.0f;
        }
    mica_latents_pack(d, z_YXc, p->h, p->w, rows_PC);
}

/* Host arrays of the start, each [pictures * P, C]. */
typedef struct start_buffers {
    float *mean, *logvar; /* one picture, channels last */
    float *posterior, *noise, *start, *rows;
} start_buffers;

static mica_status buffers_init(start_buffers *b, const mica_diffusion *d, mica_err *err)
{
    const size_t one = (size_t)(d->plan.P * d->plan.C), all = one * (size_t)d->plan.pictures;
    *b = (start_buffers){.mean = mica_mem_calloc(one, sizeof(float)),
                         .logvar = mica_mem_calloc(one, sizeof(float)),
                         .posterior = mica_mem_calloc(all, sizeof(float)),
                         .noise = mica_mem_calloc(all, sizeof(float)),
                         .start = mica_mem_calloc(all, sizeof(float)),
                         .rows = mica_mem_calloc(one, sizeof(float))};
    if (b->mean && b->logvar && b->posterior && b->noise && b->start && b->rows)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the latents of the start picture");
}

static void buffers_deinit(start_buffers *b)
{
    mica_mem_free(b->mean);
    mica_mem_free(b->logvar);
    mica_mem_free(b->posterior);
    mica_mem_free(b->noise);
    mica_mem_free(b->start);
    mica_mem_free(b->rows);
}

/* mean + exp(logvar / 2) z, logvar within [-30, 20] (vae.py, DiagonalGaussianDistribution). */
static void sample_posterior(const mica_diffusion *d, start_buffers *b, int index)
{
    const mica_diffusion_plan *p = &d->plan;
    const int64_t n = p->P * p->C;
    float *start = b->start + index * n;
    mica_latents_pack(d, b->mean, p->h, p->w, start);
    mica_latents_pack(d, b->logvar, p->h, p->w, b->rows);
    for (int64_t i = 0; d->traits.samples_posterior && i < n; i++) {
        const float logvar = b->rows[i] < -30.0f ? -30.0f : b->rows[i] > 20.0f ? 20.0f : b->rows[i];
        start[i] += expf(0.5f * logvar) * b->posterior[index * n + i];
    }
    d->ops->scale_latents(d, start, p->P, false);
}

static void upload(mica_diffusion *d, const start_buffers *b)
{
    const mica_diffusion_plan *p = &d->plan;
    const int64_t shape[] = {p->pictures * p->P, p->C};
    const float sigma = p->sigmas[0], coef[] = {sigma, 1.0f - sigma};
    d->noise_PC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, shape);
    d->start_PC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, shape);
    mica_upload_f32(d->be, &d->noise_PC, b->noise);
    mica_upload_f32(d->be, &d->start_PC, b->start);
    const mica_tensor *const terms[] = {&d->noise_PC, &d->start_PC};
    mica_linear_combination(d->be, 2, coef, terms, &d->latents_PC);
}

/* The mask and what is left of it, for all pictures. */
static void upload_mask(mica_diffusion *d, start_buffers *b)
{
    const mica_diffusion_plan *p = &d->plan;
    const int64_t n = p->P * p->C, all = p->pictures * n, shape[] = {p->pictures * p->P, p->C};
    mask_rows(d, b->mean, b->rows);
    for (int64_t i = 0; i < all; i++)
        b->noise[i] = b->rows[i % n];
    d->mask_PC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, shape);
    d->keep_PC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, shape);
    d->kept_PC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, shape);
    mica_upload_f32(d->be, &d->mask_PC, b->noise);
    for (int64_t i = 0; i < all; i++)
        b->noise[i] = 1.0f - b->noise[i];
    mica_upload_f32(d->be, &d->keep_PC, b->noise);
}

static mica_status start_latents(mica_diffusion *d, start_buffers *b, mica_err *err)
{
    const bool samples = d->traits.samples_posterior;
    MICA_TRY(mica_diffusion_encode_posterior(d, &d->canvas, 0, b->mean, b->logvar, err));
    MICA_TRY(mica_latents_draw(d, samples ? b->posterior : NULL, b->noise, err));
    for (int i = 0; i < d->plan.pictures; i++)
        sample_posterior(d, b, i);
    upload(d, b);
    if (d->canvas_mask.pixels)
        upload_mask(d, b);
    return mica_backend_check(d->be, err);
}

mica_status mica_diffusion_start(mica_diffusion *d, mica_err *err)
{
    const int *e = d->options->expand_;
    start_buffers b;
    MICA_TRY(make_canvas(d, err));
    if (d->mask.pixels || e[0] || e[1] || e[2] || e[3])
        MICA_TRY(make_canvas_mask(d, err));
    mica_status st = buffers_init(&b, d, err);
    if (!st)
        st = start_latents(d, &b, err);
    buffers_deinit(&b);
    return st;
}

void mica_diffusion_keep_masked(mica_diffusion *d, int step)
{
    const float sigma = d->plan.sigmas[step + 1], coef[] = {sigma, 1.0f - sigma};
    const mica_tensor *const terms[] = {&d->noise_PC, &d->start_PC};
    if (!d->canvas_mask.pixels)
        return;
    mica_linear_combination(d->be, 2, coef, terms, &d->kept_PC);
    mica_mul(d->be, &d->kept_PC, &d->keep_PC, &d->kept_PC);
    mica_mul(d->be, &d->latents_PC, &d->mask_PC, &d->latents_PC);
    mica_add(d->be, &d->latents_PC, &d->kept_PC, &d->latents_PC);
}

void mica_diffusion_restore_masked(const mica_diffusion *d, uint8_t *rgb)
{
    const mica_diffusion_plan *p = &d->plan;
    if (!d->canvas_mask.pixels)
        return;
    for (int y = 0; y < p->out_height; y++)
        for (int x = 0; x < p->out_width; x++) {
            const size_t from = ((size_t)y * (size_t)p->width + (size_t)x) * 3;
            uint8_t *out = rgb + ((size_t)y * (size_t)p->out_width + (size_t)x) * 3;
            const int m = luma(d->canvas_mask.pixels + from);
            for (int i = 0; i < 3; i++) {
                const int kept = d->canvas.pixels[from + (size_t)i];
                out[i] = (uint8_t)((out[i] * m + kept * (255 - m) + 127) / 255);
            }
        }
}
