/* fuzz_png.c - arbitrary bytes as a PNG: its pixels, its texts.
 *
 * Beyond "no crash": a refusal has a text and leaves no pixels; every pixel of a success can
 * be read; every text is valid UTF-8. Large pictures are left out, they are only slow. */
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

static uint64_t get32(const uint8_t *p)
{
    return (uint64_t)p[0] << 24 | (uint64_t)p[1] << 16 | (uint64_t)p[2] << 8 | p[3];
}

static void check_pixels(mica_picture *p)
{
    static volatile uint8_t sink;
    const size_t n = (size_t)p->width * (size_t)p->height * (size_t)p->channels;
    uint8_t all = 0;
    for (size_t i = 0; i < n; i++)
        all ^= p->pixels[i];
    sink = all;
    (void)sink;
    require(p->channels == 3 || p->channels == 4);
    mica_picture_deinit(p);
}

static void check_texts(const uint8_t *data, size_t size)
{
    mica_picture_text *texts = NULL;
    size_t count = 0;
    mica_err err = {.status = MICA_OK};
    if (mica_png_read_texts("input", data, size, &texts, &count, &err) != MICA_OK)
        require(!texts && err.text[0]);
    for (size_t i = 0; i < count; i++) {
        require(strlen(texts[i].key) >= 1 && strlen(texts[i].key) <= 79);
        require(mica_utf8_is_valid(texts[i].value, strlen(texts[i].value)));
    }
    mica_mem_free(texts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!mica_png_probe(data, size))
        return 0;
    if (size >= 24 && get32(data + 16) * get32(data + 20) > MOST_PIXELS)
        return 0;
    mica_picture p;
    mica_err err = {.status = MICA_OK};
    if (mica_picture_decode(&p, "input", data, size, &err) == MICA_OK)
        check_pixels(&p);
    else
        require(!p.pixels && err.text[0]);
    check_texts(data, size);
    return 0;
}
