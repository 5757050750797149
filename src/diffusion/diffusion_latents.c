/* diffusion_latents.c - latents between rows and the shapes that files, seeds and traces have.
 *
 *     ROWS [P, C]    PATCHES [C, h, w]    PIXELS [c, Y, X]      (one picture; P = h w, Y = patch h)
 *
 * References: pipeline_qwenimage.py _pack_latents, pipeline_flux2_klein.py _pack_latents and
 * _patchify_latents, transformer_z_image.py patchify_and_embed. */
#include "diffusion/diffusion_internal.h"

#include "base/mem.h"
#include "format/weights.h"
#include "sample/noise.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Place in its row of latent channel c at (dy, dx) of a patch. */
static int64_t column(const mica_diffusion_traits *t, int64_t c, int64_t dy, int64_t dx)
{
    return t->packing == MICA_PACK_CHANNELS_OUTER ? (c * t->patch + dy) * t->patch + dx
                                                  : (dy * t->patch + dx) * t->channels + c;
}

/* Index into rows of latent (c, y, x) of a picture w patches wide. */
static int64_t place(const mica_diffusion *d, int w, int64_t c, int64_t y, int64_t x)
{
    const mica_diffusion_traits *t = &d->traits;
    return (y / t->patch * w + x / t->patch) * d->plan.C + column(t, c, y % t->patch, x % t->patch);
}

/* Index into rows of value i of a picture in `form`. */
static int64_t row_index(const mica_diffusion *d, mica_latent_form form, int h, int w, int64_t i)
{
    const int64_t P = (int64_t)h * w, X = (int64_t)w * d->traits.patch;
    const int64_t pixels = P * d->traits.patch * d->traits.patch;
    if (form == MICA_LATENT_ROWS)
        return i;
    if (form == MICA_LATENT_PATCHES)
        return i % P * d->plan.C + i / P;
    return place(d, w, i / pixels, i % pixels / X, i % X);
}

void mica_latents_to_rows(const mica_diffusion *d, mica_latent_form form, const float *in, int h,
                          int w, float *rows_PC)
{
    const int64_t n = (int64_t)h * w * d->plan.C;
    for (int64_t i = 0; i < n; i++)
        rows_PC[row_index(d, form, h, w, i)] = in[i];
}

void mica_latents_from_rows(const mica_diffusion *d, mica_latent_form form, const float *rows_PC,
                            int h, int w, float *out)
{
    const int64_t n = (int64_t)h * w * d->plan.C;
    for (int64_t i = 0; i < n; i++)
        out[i] = rows_PC[row_index(d, form, h, w, i)];
}

void mica_latents_unpack(const mica_diffusion *d, const float *rows_PC, int h, int w, float *z_YXc)
{
    const int64_t Y = (int64_t)h * d->traits.patch, X = (int64_t)w * d->traits.patch;
    for (int64_t y = 0; y < Y; y++)
        for (int64_t x = 0; x < X; x++)
            for (int64_t c = 0; c < d->traits.channels; c++)
                z_YXc[(y * X + x) * d->traits.channels + c] = rows_PC[place(d, w, c, y, x)];
}

void mica_latents_pack(const mica_diffusion *d, const float *z_YXc, int h, int w, float *rows_PC)
{
    const int64_t Y = (int64_t)h * d->traits.patch, X = (int64_t)w * d->traits.patch;
    for (int64_t y = 0; y < Y; y++)
        for (int64_t x = 0; x < X; x++)
            for (int64_t c = 0; c < d->traits.channels; c++)
                rows_PC[place(d, w, c, y, x)] = z_YXc[(y * X + x) * d->traits.channels + c];
}

int mica_latents_shape(const mica_diffusion *d, mica_latent_form form, int n, int h, int w,
                       int64_t shape[5])
{
    const mica_diffusion_traits *t = &d->traits;
    const int64_t Y = (int64_t)h * t->patch, X = (int64_t)w * t->patch, P = (int64_t)h * w;
    const int joined = t->layers ? n : 1; /* rows of layers stand behind each other */
    const int64_t shapes[][5] = {[MICA_LATENT_ROWS] = {n / joined, joined * P, d->plan.C},
                                 [MICA_LATENT_PATCHES] = {n, d->plan.C, h, w},
                                 [MICA_LATENT_PIXELS] = {n, t->channels, Y, X},
                                 [MICA_LATENT_FRAMES] = {n, t->channels, 1, Y, X},
                                 [MICA_LATENT_ITEMS] = {t->channels, 1, Y, X}};
    static const int ndim[] = {3, 4, 4, 5, 4};
    if (form == MICA_LATENT_ITEMS && n > 1)
        form = MICA_LATENT_FRAMES;
    memcpy(shape, shapes[form], sizeof shapes[form]);
    return ndim[form];
}

/* ----------------------------------------------------------------------- taps -- */

static void tap_as(mica_diffusion *d, const mica_tensor *x_PC, mica_latent_form form,
                   const char *name)
{
    const mica_diffusion_plan *p = &d->plan;
    const int64_t n = p->P * p->C;
    int64_t shape[5];
    const int ndim = mica_latents_shape(d, form, p->pictures, p->h, p->w, shape);
    float *rows = mica_mem_calloc((size_t)(p->pictures * n), sizeof *rows);
    float *out = mica_mem_calloc((size_t)(p->pictures * n), sizeof *out);
    if (rows && out) {
        mica_download_f32(d->be, rows, x_PC);
        for (int b = 0; b < p->pictures; b++)
            mica_latents_from_rows(d, form, rows + b * n, p->h, p->w, out + b * n);
        const mica_tensor t = mica_tensor_make(out, MICA_DTYPE_F32, ndim, shape);
        mica_tap_host(d->run.taps, &t, "%s", name);
    } else {
        mica_backend_fail(d->be, MICA_E_NOMEM, "no memory to trace %s", name);
    }
    mica_mem_free(rows);
    mica_mem_free(out);
}

void mica_diffusion_tap(mica_diffusion *d, const mica_tensor *x_PC, mica_latent_form form,
                        const char *name_format, ...)
{
    if (!d->run.taps)
        return;
    char name[64];
    va_list args;
    va_start(args, name_format);
    vsnprintf(name, sizeof name, name_format, args);
    va_end(args);
    if (mica_tap_wants(d->run.taps, "%s", name))
        tap_as(d, x_PC, form, name);
}

/* ---------------------------------------------------------------------- noise -- */

static void draw(const mica_diffusion *d, mica_mt19937 *g, mica_latent_form form, float *scratch,
                 float *rows_PC)
{
    const mica_diffusion_plan *p = &d->plan;
    const size_t n = (size_t)(p->P * p->C);
    if (d->options->noise_rng == MICA_NOISE_RNG_TORCH211_BF16)
        mica_noise_bf16_torch211_next(g, scratch, n);
    else
        mica_noise_f32_next(g, scratch, n);
    mica_latents_to_rows(d, form, scratch, p->h, p->w, rows_PC);
}

/* Each picture has its own generator, so that it does not depend on its neighbours; layers share one. */
static mica_status draw_all(const mica_diffusion *d, float *posterior_PC, float *noise_PC,
                            mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const int64_t n = p->P * p->C;
    float *scratch = mica_mem_calloc((size_t)n, sizeof *scratch);
    if (!scratch)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for noise of %lld values", (long long)n);
    mica_mt19937 g;
    for (int b = 0; b < p->pictures; b++) {
        if (b == 0 || !d->traits.layers)
            mica_mt19937_init(&g, d->options->seed + (uint64_t)b);
        if (posterior_PC)
            draw(d, &g, MICA_LATENT_PIXELS, scratch, posterior_PC + b * n);
        draw(d, &g, d->traits.drawn, scratch, noise_PC + b * n);
    }
    mica_mem_free(scratch);
    return MICA_OK;
}

/* The shape of all pictures, or that of one picture without the first dimension. */
static bool noise_fits(const mica_diffusion *d, const mica_tensor *t)
{
    int64_t shape[5];
    const int ndim =
        mica_latents_shape(d, d->traits.initial, d->plan.pictures, d->plan.h, d->plan.w, shape);
    const int skip = (d->plan.pictures == 1 || d->traits.layers) && t->ndim == ndim - 1;
    if (t->ndim != ndim - skip)
        return false;
    return memcmp(t->shape_, shape + skip, (size_t)t->ndim * sizeof *shape) == 0;
}

static mica_status refuse_noise(const mica_diffusion *d, const mica_tensor *t, mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    int64_t shape[5];
    char have[128], want[128];
    const int ndim = mica_latents_shape(d, d->traits.initial, p->pictures, p->h, p->w, shape);
    const mica_tensor expected = mica_tensor_make(NULL, MICA_DTYPE_F32, ndim, shape);
    return MICA_FAIL(err, MICA_E_FORMAT,
                     "%s: initial_latents is %s, expected %s or another float type, for %d x %d "
                     "pixels",
                     d->options->noise_path, mica_tensor_describe(t, have, sizeof have),
                     mica_tensor_describe(&expected, want, sizeof want), p->width, p->height);
}

static mica_status read_values(const mica_diffusion *d, const mica_tensor *t, float *noise_PC,
                               mica_err *err)
{
    const mica_diffusion_plan *p = &d->plan;
    const int64_t n = p->P * p->C;
    for (int64_t i = 0; i < p->pictures * n; i++) {
        const float v = mica_tensor_read_f32(t, i);
        if (!isfinite(v))
            return MICA_FAIL(err, MICA_E_NUMERIC, "%s: initial_latents holds NaN or Inf",
                             d->options->noise_path);
        noise_PC[i / n * n + row_index(d, d->traits.initial, p->h, p->w, i % n)] = v;
    }
    return MICA_OK;
}

static mica_status read_noise(const mica_diffusion *d, float *noise_PC, mica_err *err)
{
    mica_weights *file = NULL;
    MICA_TRY(mica_weights_open(&file, d->options->noise_path, err));
    const mica_tensor *t = mica_weights_find(file, "initial_latents");
    mica_status st = MICA_OK;
    if (!t)
        st = MICA_FAIL(err, MICA_E_MISSING, "%s: it has no tensor initial_latents",
                       d->options->noise_path);
    else if (!mica_dtype_get(t->dtype)->is_float || !noise_fits(d, t))
        st = refuse_noise(d, t, err);
    else
        st = read_values(d, t, noise_PC, err);
    mica_weights_close(&file);
    return st;
}

mica_status mica_latents_draw(const mica_diffusion *d, float *posterior_PC, float *noise_PC,
                              mica_err *err)
{
    if (!d->options->noise_path)
        return draw_all(d, posterior_PC, noise_PC, err);
    if (posterior_PC)
        memset(posterior_PC, 0,
               (size_t)(d->plan.pictures * d->plan.P * d->plan.C) * sizeof *posterior_PC);
    return read_noise(d, noise_PC, err);
}
