/* sheet.c - several pictures as one contact sheet.
 *
 *     +---+---+
 *     | 0 | 1 |    rows from the left, GAP white pixels between pictures and none around them;
 *     +---+---+    what is left of the last row is white
 *     | 2 |
 *     +---+
 *
 * The sheet is a mica_image of one picture, whose recipe lists those of its pictures. */
#include "api/api.h"

#include <stdio.h>
#include <string.h>

#define GAP      8
#define MAX_SIDE 65535

typedef struct layout {
    const mica_image *const *images;
    int images_count, pictures, columns, rows;
} layout;

static mica_status measure(layout *l, const mica_image *const *images, int count, int columns,
                           mica_err *err)
{
    *l = (layout){.images = images, .images_count = count};
    if (count < 1 || columns < 1)
        return MICA_FAIL(err, MICA_E_USAGE, "a sheet of %d images in %d columns is not possible",
                         count, columns);
    for (int i = 0; i < count; i++) {
        const mica_image *a = images[0], *b = images[i];
        if (!b || b->width != a->width || b->height != a->height || b->channels != a->channels)
            return MICA_FAIL(err, MICA_E_USAGE, "pictures of a sheet must be of one size and kind");
        l->pictures += b->count;
    }
    l->columns = MICA_MIN(columns, l->pictures);
    l->rows = (l->pictures + l->columns - 1) / l->columns;
    const int64_t width = (int64_t)l->columns * (images[0]->width + GAP) - GAP;
    const int64_t height = (int64_t)l->rows * (images[0]->height + GAP) - GAP;
    if (width > MAX_SIDE || height > MAX_SIDE)
        return MICA_FAIL(err, MICA_E_USAGE, "the sheet would be %lld x %lld pixels, %d at most",
                         (long long)width, (long long)height, MAX_SIDE);
    return MICA_OK;
}

static void paste(mica_image *sheet, const mica_image *from, int index, int column, int row)
{
    const size_t line = (size_t)from->width * (size_t)from->channels;
    const size_t stride = (size_t)sheet->width * (size_t)sheet->channels;
    const uint8_t *source = mica_image_rgb(from, index);
    uint8_t *place = sheet->rgb + (size_t)row * (size_t)(from->height + GAP) * stride +
                     (size_t)column * (size_t)(from->width + GAP) * (size_t)from->channels;
    for (int y = 0; y < from->height; y++)
        memcpy(place + (size_t)y * stride, source + (size_t)y * line, line);
}

static void fill(mica_image *sheet, const layout *l, mica_text *recipe, mica_text *parameters)
{
    int n = 0;
    mica_text_add(recipe, "{\"columns\":%d,\"pictures\":[", l->columns);
    for (int i = 0; i < l->images_count; i++) {
        const mica_image *from = l->images[i];
        for (int k = 0; k < from->count; k++, n++) {
            paste(sheet, from, k, n % l->columns, n / l->columns);
            mica_text_add(recipe, "%s%s", n ? "," : "", from->recipes[k]);
            mica_text_add(parameters, "%s%s", n ? "\n\n" : "", from->parameters[k]);
        }
    }
    mica_text_add(recipe, "]}");
}

static mica_status make(mica_image *sheet, const layout *l, mica_err *err)
{
    const mica_image *first = l->images[0];
    mica_text recipe = {0}, parameters = {0};
    sheet->width = l->columns * (first->width + GAP) - GAP;
    sheet->height = l->rows * (first->height + GAP) - GAP;
    sheet->channels = first->channels;
    sheet->seed = first->seed;
    const size_t size = (size_t)sheet->width * (size_t)sheet->height * (size_t)sheet->channels;
    sheet->rgb = mica_mem_calloc(size, 1);
    sheet->recipes = mica_mem_calloc(1, sizeof *sheet->recipes);
    sheet->parameters = mica_mem_calloc(1, sizeof *sheet->parameters);
    bool ok = sheet->rgb && sheet->recipes && sheet->parameters;
    if (ok) {
        sheet->count = 1;
        memset(sheet->rgb, 255, size);
        fill(sheet, l, &recipe, &parameters);
        sheet->recipes[0] = recipe.data;
        sheet->parameters[0] = parameters.data;
        ok = !recipe.failed && !parameters.failed;
    }
    return ok ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a contact sheet");
}

mica_status mica_image_sheet(mica_image **out, const mica_image *const *images, int count,
                             int columns, char *message, size_t message_size)
{
    mica_err err = {0};
    layout l;
    *out = NULL;
    mica_status st = measure(&l, images, count, columns, &err);
    if (!st) {
        *out = mica_mem_calloc(1, sizeof **out);
        st = *out ? make(*out, &l, &err) : MICA_FAIL(&err, MICA_E_NOMEM, "no memory for a sheet");
    }
    if (st)
        mica_image_close(out);
    if (message && message_size)
        snprintf(message, message_size, "%s", st ? err.text : "");
    return st;
}
