/* fuzz_qwen_config.c - arbitrary bytes as preprocessor_config.json, and a picture cut by what they say.
 *
 *     bytes ──► mica_qwen_pixels_config ──► a 40 x 23 picture ──► rows of patches
 *
 * Beyond "no crash": a refusal has a text; a configuration that was accepted gives rows of
 * finite numbers, whole tokens, and no more pixels than it allows. */
#include "models/qwen_image/qwen_vision_pixels.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WIDTH = 40, HEIGHT = 23, MOST_PIXELS = 1 << 20 };

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_picture(const mica_qwen_pixels_config *c)
{
    static uint8_t rgb[WIDTH * HEIGHT * 3];
    const mica_picture picture = {WIDTH, HEIGHT, 3, rgb};
    const int64_t factor = c->patch * c->merge;
    mica_err err = {.status = MICA_OK};
    mica_qwen_pixels p;
    int width, height;
    for (size_t i = 0; i < sizeof rgb; i++)
        rgb[i] = (uint8_t)(i * 7);
    if (mica_qwen_pixels_fit(c, WIDTH, HEIGHT, &width, &height, &err)) {
        require(err.text[0] != '\0');
        return;
    }
    require(width > 0 && height > 0 && width % factor == 0 && height % factor == 0);
    if ((int64_t)width * height * c->frames > MOST_PIXELS)
        return; /* seconds of work and no news */
    require(mica_qwen_pixels_make(c, &picture, &p, &err) == MICA_OK);
    require(p.h % c->merge == 0 && p.w % c->merge == 0);
    require((int64_t)p.h * p.w * p.columns == 3 * c->frames * (int64_t)width * height);
    for (int64_t i = 0; i < (int64_t)p.h * p.w * p.columns; i++)
        require(isfinite(p.rows[i]));
    mica_qwen_pixels_deinit(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_qwen_pixels_config c;
    mica_err err = {.status = MICA_OK};
    if (mica_qwen_pixels_config_parse(&c, "fuzz", (const char *)data, size, &err))
        require(err.text[0] != '\0');
    else
        check_picture(&c);
    return 0;
}
