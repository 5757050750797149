/* fuzz_jpeg.c - arbitrary bytes as a JPEG with its EXIF orientation and comment.
 *
 * Beyond "no crash": a refusal has a text and leaves no pixels, every pixel of a success
 * can be read, a comment is valid UTF-8. Pictures whose frame header announces many pixels are left
 * out, they are only slow. */
#include "base/mem.h"
#include "base/utf8.h"
#include "media/picture_codec.h"

#include <stdlib.h>
#include <string.h>

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

static void check_comment(const uint8_t *data, size_t size)
{
    size_t n = 0;
    const uint8_t *exif = mica_jpeg_find_exif(data, size, &n);
    require(!exif || (exif >= data && n <= size - (size_t)(exif - data)));
    char *comment = exif ? mica_exif_read_comment(exif, n) : NULL;
    require(!comment || mica_utf8_is_valid(comment, strlen(comment)));
    mica_mem_free(comment);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!mica_jpeg_probe(data, size) || announces_much(data, size))
        return 0;
    check_comment(data, size);
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
