/* diffusion_inputs.c - the pictures of a run: reading them, and what each is for.
 *
 *     strength, mask or expand       inputs[0] is where denoising starts, the others are references
 *     none of them, model refers     all are references
 *     none of them, model does not   inputs[0] is where denoising starts
 *
 * Transparency is dropped, or opacity added, as the reference pipelines' convert("RGB") and
 * convert("RGBA") do. */
#include "diffusion/diffusion_internal.h"

#include "base/checked.h"
#include "base/mem.h"

#include <string.h>

#define MAX_INPUTS 64
#define MAX_BORDER 8192
#define MAX_CANVAS ((int64_t)1 << 28) /* pixels, as many as a picture file may have */

static void drop_alpha(mica_picture *p)
{
    const size_t n = (size_t)p->width * (size_t)p->height;
    if (p->channels != 4)
        return;
    for (size_t i = 1; i < n; i++)
        memmove(p->pixels + 3 * i, p->pixels + 4 * i, 3);
    p->channels = 3;
}

static mica_status add_alpha(mica_picture *p, mica_err *err)
{
    const size_t n = (size_t)p->width * (size_t)p->height;
    if (p->channels == 4)
        return MICA_OK;
    uint8_t *pixels = mica_mem_calloc(n, 4);
    if (!pixels)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a picture of %d x %d", p->width,
                         p->height);
    for (size_t i = 0; i < n; i++) {
        memcpy(pixels + 4 * i, p->pixels + 3 * i, 3);
        pixels[4 * i + 3] = 255;
    }
    mica_mem_free(p->pixels);
    p->pixels = pixels;
    p->channels = 4;
    return MICA_OK;
}

static mica_status set_channels(mica_diffusion *d, mica_err *err)
{
    drop_alpha(&d->mask);
    for (int i = 0; i < d->input_count; i++) {
        if (d->traits.picture_channels == 4)
            MICA_TRY(add_alpha(&d->inputs[i], err));
        else
            drop_alpha(&d->inputs[i]);
    }
    return MICA_OK;
}

static mica_status copy_pixels(const mica_image_input *in, mica_picture *out, mica_err *err)
{
    size_t bytes;
    if (!in->rgb || in->width < 1 || in->height < 1 || in->width > 65535 || in->height > 65535 ||
        !mica_mul_size((size_t)in->width * 3, (size_t)in->height, &bytes))
        return MICA_FAIL(err, MICA_E_USAGE, "an input picture has neither a path nor pixels");
    *out = (mica_picture){.width = in->width, .height = in->height, .channels = 3};
    out->pixels = mica_mem_calloc(bytes, 1);
    if (!out->pixels)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a picture of %d x %d", in->width,
                         in->height);
    memcpy(out->pixels, in->rgb, bytes);
    return MICA_OK;
}

static mica_status read_input(const mica_image_input *in, mica_picture *out, mica_err *err)
{
    if (!in->path)
        return copy_pixels(in, out, err);
    return mica_picture_read(out, in->path, err);
}

static bool expands(const mica_image_options *o)
{
    return o->expand_[0] || o->expand_[1] || o->expand_[2] || o->expand_[3];
}

mica_status mica_diffusion_inputs_read(mica_diffusion *d, mica_err *err)
{
    const mica_image_options *o = d->options;
    if (o->input_count < 0 || o->input_count > MAX_INPUTS || (o->input_count && !o->inputs))
        return MICA_FAIL(err, MICA_E_USAGE, "%d input pictures; it must be 0 to %d", o->input_count,
                         MAX_INPUTS);
    if (!o->input_count && (o->strength != 0.0 || o->mask || expands(o)))
        return MICA_FAIL(err, MICA_E_USAGE, "%s needs a picture to start from",
                         o->mask      ? "a mask"
                         : expands(o) ? "an extension"
                                      : "a strength");
    d->from_picture = o->input_count && (o->strength != 0.0 || o->mask || expands(o));
    d->inputs = o->input_count ? mica_mem_calloc((size_t)o->input_count, sizeof *d->inputs) : NULL;
    if (o->input_count && !d->inputs)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for input pictures");
    for (int i = 0; i < o->input_count; i++) {
        MICA_TRY(read_input(&o->inputs[i], &d->inputs[i], err));
        d->input_count++;
    }
    return o->mask ? read_input(o->mask, &d->mask, err) : MICA_OK;
}

void mica_diffusion_canvas_size(const mica_diffusion *d, int *width, int *height)
{
    const int *e = d->options->expand_;
    *width = d->inputs[0].width + e[0] + e[2];
    *height = d->inputs[0].height + e[1] + e[3];
}

static mica_status check_borders(const mica_diffusion *d, mica_err *err)
{
    const mica_image_options *o = d->options;
    for (int i = 0; i < 4; i++)
        if (o->expand_[i] < 0 || o->expand_[i] > MAX_BORDER)
            return MICA_FAIL(err, MICA_E_USAGE,
                             "a border of %d pixels is out of range; it must be 0 to %d",
                             o->expand_[i], MAX_BORDER);
    if (!d->input_count)
        return MICA_OK;
    int width, height;
    mica_diffusion_canvas_size(d, &width, &height);
    if ((int64_t)width * height > MAX_CANVAS)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "the start picture with its borders is %d x %d, more than %lld pixels",
                         width, height, (long long)MAX_CANVAS);
    return MICA_OK;
}

mica_status mica_diffusion_inputs_assign(mica_diffusion *d, mica_err *err)
{
    const int most = d->traits.max_references;
    MICA_TRY(set_channels(d, err));
    MICA_TRY(check_borders(d, err));
    if (d->input_count && !most && !d->from_picture) {
        d->from_picture = true;
        mica_run_notice(&d->run,
                        "this model takes no reference pictures: denoising starts from "
                        "the picture, at strength %g",
                        d->traits.default_strength);
    }
    const int used = d->from_picture && !d->traits.refers_to_start ? 1 : 0;
    d->references = d->inputs + used;
    d->reference_count = d->input_count - used;
    if (d->reference_count > most && !most)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%d pictures were given; this model starts from one and refers to none",
                         d->input_count);
    if (d->reference_count > most)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%d reference pictures were given; this model takes at most %d",
                         d->reference_count, most);
    return MICA_OK;
}

void mica_diffusion_inputs_deinit(mica_diffusion *d)
{
    for (int i = 0; i < d->options->input_count && d->inputs; i++)
        mica_picture_deinit(&d->inputs[i]);
    mica_mem_free(d->inputs);
    mica_picture_deinit(&d->mask);
    mica_picture_deinit(&d->canvas);
    mica_picture_deinit(&d->canvas_mask);
    d->inputs = NULL;
    d->input_count = 0;
}
