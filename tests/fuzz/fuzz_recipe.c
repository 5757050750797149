/* fuzz_recipe.c - arbitrary bytes as what a picture tells of how it was made (mica image --recipe).
 *
 * Beyond "no crash": a refusal has a text; options of what was accepted are values that the
 * command line takes, files are the user's alone, and texts are those of the recipe. */
#include "cmd_image.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_accepted(const image_recipe *r, const image_args *a)
{
    require(a->width == 0 || (a->width >= 16 && a->width <= 16384));
    require(a->height == 0 || (a->height >= 16 && a->height <= 16384));
    require(a->steps >= 0 && a->steps <= 1000);
    require(a->guidance == IMAGE_GUIDANCE_UNSET || (a->guidance >= 0.0 && a->guidance <= 1000.0));
    require(!a->output && !a->mask && !a->noise && !a->inputs.count && !a->prompts.count);
    require(r->prompt != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *json = mica_mem_alloc(size + 1);
    mica_err err = {.status = MICA_OK};
    image_recipe r = {.prompt = NULL};
    image_args args;
    require(json != NULL);
    if (size)
        memcpy(json, data, size);
    json[size] = '\0';
    image_args_init(&args);
    args.recipe = "input";
    if (image_recipe_follow(&r, json, &args, &err) != MICA_OK)
        require(err.text[0] != '\0');
    else
        check_accepted(&r, &args);
    image_recipe_deinit(&r);
    mica_mem_free(json);
    return 0;
}
