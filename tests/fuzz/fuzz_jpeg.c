/* fuzz_jpeg.c - arbitrary bytes as a JPEG with its EXIF orientation.
 *
 * Beyond "no crash": a refusal has a text and leaves no pixels, every pixel of a success
 * can be read. Pictures whose frame header announces many pixels are left out, they are only slow. */
#include "media/picture_codec.h"

#include <stdlib.h>

#define MOST_PIXELS (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* Any SOFn anywhere, whether or not libjpeg would get there. */
static bool announces_much(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 9 <= size; i++) {
        if (data[i] != 0xff || data[i + 1] < 0xc0 || data[i + 1] > 0xcf)
            continue;
        const unsigned h = data[i + 5] * 256u + data[i + 6], w = data[i + 7] * 256u + data[i + 8];
        if (w * h > MOST_PIXELS)
            return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!mica_jpeg_probe(data, size) || announces_much(data, size))
        return 0;
    mica_picture p;
    mica_err err = {.status = MICA_OK};
    if (mica_picture_decode(&p, "input", data, size, &err) != MICA_OK) {
        require(!p.pixels && err.text[0]);
        return 0;
    }
    require(p.channels == 3);
    static volatile uint8_t sink;
    uint8_t all = 0;
    for (size_t i = 0; i < (size_t)p.width * (size_t)p.height * 3; i++)
        all ^= p.pixels[i];
    sink = all;
    (void)sink;
    mica_picture_deinit(&p);
    return 0;
}
