/* picture_pixels.c - whether two pictures hold the same pixels, whatever their metadata.
 *
 *     picture_pixels A B      status 0: equal; 1: not, with the first difference told */
#include "media/picture.h"

#include <stdio.h>

static bool is_equal(const mica_picture *a, const mica_picture *b)
{
    if (a->width != b->width || a->height != b->height || a->channels != b->channels) {
        fprintf(stderr, "picture_pixels: sizes differ\n");
        return false;
    }
    const size_t count = (size_t)a->width * (size_t)a->height * (size_t)a->channels;
    for (size_t i = 0; i < count; i++) {
        if (a->pixels[i] != b->pixels[i]) {
            fprintf(stderr, "picture_pixels: byte %zu is %d and %d\n", i, a->pixels[i],
                    b->pixels[i]);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    mica_picture a, b;
    mica_err err = {0};
    if (argc != 3 || mica_picture_read(&a, argv[1], &err)) {
        fprintf(stderr, "picture_pixels: %s\n", err.text);
        return 1;
    }
    if (mica_picture_read(&b, argv[2], &err)) {
        fprintf(stderr, "picture_pixels: %s\n", err.text);
        mica_picture_deinit(&a);
        return 1;
    }
    const bool equal = is_equal(&a, &b);
    mica_picture_deinit(&a);
    mica_picture_deinit(&b);
    return equal ? 0 : 1;
}
