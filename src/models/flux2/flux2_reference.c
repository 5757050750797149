/* flux2_reference.c - reference pictures of FLUX.2; see flux2_reference.h.
 *
 * Reference: diffusers pipeline_flux2_klein.py __call__ (4. process images) and
 * prepare_image_latents; image_processor.py Flux2ImageProcessor (check_image_input,
 * _resize_to_target_area, _resize_and_crop); pipeline_flux2_klein_inpaint.py. */
#include "models/flux2/flux2_reference.h"

#include "base/mem.h"
#include "media/resize.h"

#include <math.h>
#include <string.h>

#define MULTIPLE   16 /* pixels of a patch and side */
#define LEAST_SIDE 64
#define MOST_RATIO 8

/* Size before the cut to multiples. */
static void scaled_size(int width, int height, int area, int *w, int *h)
{
    const double pixels = (double)width * height;
    const double limit = area ? area : MICA_FLUX2_REFERENCE_PIXELS;
    const double scale = sqrt(limit / pixels);
    *w = pixels > limit ? (int)(width * scale) : width;
    *h = pixels > limit ? (int)(height * scale) : height;
}

mica_status mica_flux2_reference_size(int width, int height, int area, int *out_width,
                                      int *out_height, mica_err *err)
{
    if (width < LEAST_SIDE || height < LEAST_SIDE)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a reference picture is %d x %d; both sides must be at least %d", width,
                         height, LEAST_SIDE);
    if (width > MOST_RATIO * (int64_t)height || height > MOST_RATIO * (int64_t)width)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a reference picture is %d x %d; its sides may differ %d times at most",
                         width, height, MOST_RATIO);
    scaled_size(width, height, area, out_width, out_height);
    *out_width = *out_width / MULTIPLE * MULTIPLE;
    *out_height = *out_height / MULTIPLE * MULTIPLE;
    if (*out_width < MULTIPLE || *out_height < MULTIPLE)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a reference picture of %d x %d scaled to %d pixels has no patch of %d x "
                         "%d left; use a larger --ref-pixels",
                         width, height, area, MULTIPLE, MULTIPLE);
    return MICA_OK;
}

/* The middle width x height pixels. */
static mica_status crop(const mica_picture *in, int width, int height, mica_picture *out,
                        mica_err *err)
{
    const size_t row = (size_t)width * 3, in_row = (size_t)in->width * 3;
    const size_t left = (size_t)(in->width - width) / 2 * 3;
    const size_t top = (size_t)(in->height - height) / 2;
    *out = (mica_picture){.width = width, .height = height, .channels = 3};
    out->pixels = mica_mem_calloc(row, (size_t)height);
    if (!out->pixels)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a picture of %d x %d", width, height);
    for (size_t y = 0; y < (size_t)height; y++)
        memcpy(out->pixels + y * row, in->pixels + (top + y) * in_row + left, row);
    return MICA_OK;
}

static mica_status encode_one(mica_diffusion *d, const mica_picture *picture, int index, int width,
                              int height, float *rows_PC, mica_err *err)
{
    mica_picture scaled = {0}, middle = {0};
    int w, h;
    scaled_size(picture->width, picture->height, d->options->ref_pixels, &w, &h);
    const bool same = w == picture->width && h == picture->height;
    mica_status st = MICA_OK;
    if (!same)
        st = mica_picture_resize(picture, w, h, MICA_RESAMPLE_LANCZOS, &scaled, err);
    if (!st)
        st = crop(same ? picture : &scaled, width, height, &middle, err);
    if (!st)
        st = mica_diffusion_encode_picture(d, &middle, width, height, index, rows_PC, err);
    mica_picture_deinit(&scaled);
    mica_picture_deinit(&middle);
    return st;
}

/* The start picture, if there is one, is reference 0 and already in the session. */
static int first_to_encode(const mica_diffusion *d)
{
    return d->from_picture ? 1 : 0;
}

static mica_status make_grids(const mica_diffusion *d, mica_flux2_grid *grids, int64_t *rows,
                              mica_err *err)
{
    *rows = 0;
    for (int i = 0; i < d->reference_count; i++) {
        const mica_picture *p = &d->references[i];
        int width = d->plan.width, height = d->plan.height;
        if (i >= first_to_encode(d))
            MICA_TRY(mica_flux2_reference_size(p->width, p->height, d->options->ref_pixels, &width,
                                               &height, err));
        grids[i] = (mica_flux2_grid){.t = MICA_FLUX2_REFERENCE_STEP * (i + 1),
                                     .h = height / MULTIPLE,
                                     .w = width / MULTIPLE};
        *rows += (int64_t)grids[i].h * grids[i].w;
    }
    return MICA_OK;
}

mica_status mica_flux2_references_encode(mica_diffusion *d, mica_flux2_grid *grids,
                                         mica_tensor *rows_RC, mica_err *err)
{
    const int first = first_to_encode(d);
    const int64_t C = d->plan.C;
    int64_t rows, at = first ? d->plan.P : 0;
    MICA_TRY(make_grids(d, grids, &rows, err));
    *rows_RC = mica_state_tensor(d->be, MICA_POOL_SESSION, 2, (const int64_t[]){rows, C});
    float *host = mica_mem_calloc((size_t)(rows * C), sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the latents of reference pictures");
    mica_status st = MICA_OK;
    if (first) {
        const mica_tensor start = mica_tensor_rows(&d->start_PC, 0, d->plan.P);
        mica_download_f32(d->be, host, &start);
    }
    for (int i = first; i < d->reference_count && !st; i++) {
        st = encode_one(d, &d->references[i], i, MULTIPLE * grids[i].w, MULTIPLE * grids[i].h,
                        host + at * C, err);
        at += (int64_t)grids[i].h * grids[i].w;
    }
    if (!st)
        mica_upload_f32(d->be, rows_RC, host);
    mica_mem_free(host);
    return st ? st : mica_backend_check(d->be, err);
}
