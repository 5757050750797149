/* fuzz_defaults.c - arbitrary bytes as the file mica.json of a model's folder.
 *
 * Beyond "no crash": a refusal has a text and leaves nothing behind; what was accepted fills options
 * with values the options themselves may have, and never replaces one that was given. */
#include "models/model_defaults.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_open(const mica_model_defaults *d)
{
    mica_image_options o = {.size = sizeof o, .prompt = "a"};
    mica_model_defaults_apply(d, &o);
    require(o.width == 0 || (o.width >= 16 && o.width <= 16384));
    require(o.height == 0 || (o.height >= 16 && o.height <= 16384));
    require(o.steps >= 0 && o.steps <= MICA_MAX_STEPS);
    require(o.guidance >= 0.0 && o.guidance <= 1000.0);
}

static void check_given(const mica_model_defaults *d)
{
    const double sigmas[] = {1.0, 0.5};
    mica_image_options o = {.size = sizeof o,
                            .prompt = "a",
                            .negative_prompt = "b",
                            .width = 32,
                            .height = 48,
                            .guidance = 2.0,
                            .sigmas = sigmas,
                            .sigma_count = 2};
    mica_model_defaults_apply(d, &o);
    require(o.width == 32 && o.height == 48 && o.steps == 0 && o.guidance == 2.0);
    require(strcmp(o.negative_prompt, "b") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_model_defaults d;
    mica_err err = {.status = MICA_OK};
    if (mica_model_defaults_parse(&d, "input", (const char *)data, size, &err) != MICA_OK) {
        require(err.text[0] != '\0');
        require(!d.negative_prompt && !d.width && !d.steps);
        return 0;
    }
    check_open(&d);
    check_given(&d);
    mica_model_defaults_deinit(&d);
    return 0;
}
