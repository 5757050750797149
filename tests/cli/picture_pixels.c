/* picture_pixels.c - whether two pictures hold the same pixels, or nearly so, whatever their metadata.
 *
 *     picture_pixels A B          status 0: equal; 1: not, with the first difference told
 *     picture_pixels A B LEAST    prints the peak signal-to-noise ratio of A against B in dB and the largest
 *                                 difference; status 0: at least LEAST */
#include "media/picture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static size_t bytes_of(const mica_picture *p)
{
    return (size_t)p->width * (size_t)p->height * (size_t)p->channels;
}

static bool is_equal(const mica_picture *a, const mica_picture *b)
{
    for (size_t i = 0; i < bytes_of(a); i++) {
        if (a->pixels[i] != b->pixels[i]) {
            fprintf(stderr, "picture_pixels: byte %zu is %d and %d\n", i, a->pixels[i],
                    b->pixels[i]);
            return false;
        }
    }
    return true;
}

static bool is_near(const mica_picture *a, const mica_picture *b, double least)
{
    double squares = 0.0;
    int largest = 0;
    for (size_t i = 0; i < bytes_of(a); i++) {
        const int d = abs(a->pixels[i] - b->pixels[i]);
        squares += (double)d * d;
        largest = d > largest ? d : largest;
    }
    const double ratio =
        squares > 0.0 ? 10.0 * log10(255.0 * 255.0 * (double)bytes_of(a) / squares) : INFINITY;
    printf("%.1f dB, largest difference %d\n", ratio, largest);
    return ratio >= least;
}

int main(int argc, char **argv)
{
    mica_picture a, b;
    mica_err err = {0};
    if (argc < 3 || argc > 4 || mica_picture_read(&a, argv[1], &err)) {
        fprintf(stderr, "picture_pixels: %s\n", err.text);
        return 1;
    }
    if (mica_picture_read(&b, argv[2], &err)) {
        fprintf(stderr, "picture_pixels: %s\n", err.text);
        mica_picture_deinit(&a);
        return 1;
    }
    bool good = a.width == b.width && a.height == b.height && a.channels == b.channels;
    if (!good)
        fprintf(stderr, "picture_pixels: sizes differ\n");
    else
        good = argc == 4 ? is_near(&a, &b, atof(argv[3])) : is_equal(&a, &b);
    mica_picture_deinit(&a);
    mica_picture_deinit(&b);
    return good ? 0 : 1;
}
