/* fuzz_weight_names.c - arbitrary lines as the names of tensors, through every renaming.
 *
 *     line ──► tensor of that name ──► FLUX.2, Z-Image, Qwen-Image, their autoencoders and text encoders
 *              [12, 4], or [12, 3, 3, 4], a convolution as MLX has it, behind a name of odd length
 *
 * Beyond "no crash": a refusal has a text and loses no tensor; what was renamed stays as it is when it is
 * renamed again; probes look at any names. */
#include "format/weights.h"
#include "models/flux2/flux2_config.h"
#include "models/qwen_image/qwen_image_config.h"
#include "models/qwen_image/qwen_image_vae.h"
#include "models/zimage/zimage_config.h"
#include "nn/kl_vae.h"
#include "nn/qwen3.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef mica_status rename_fn(mica_weights *w, mica_err *err);

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* Every line that can be a name; twice the same one is refused by the directory. */
static mica_weights *make_directory(const uint8_t *data, size_t size)
{
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    if (mica_weights_open_empty(&w, &err) != MICA_OK)
        return NULL;
    for (size_t i = 0; i < size && mica_weights_count(w) < 200;) {
        const uint8_t *end = memchr(data + i, '\n', size - i);
        const size_t n = end ? (size_t)(end - (data + i)) : size - i;
        char name[1024];
        if (n > 0 && n < sizeof name && !memchr(data + i, '\0', n)) {
            static float values[12 * 3 * 3 * 4];
            const int64_t shape[] = {12, 3, 3, 4};
            const mica_tensor t = n % 2 ? mica_tensor_make(values, MICA_DTYPE_F32, 4, shape)
                                        : mica_tensor_2d(values, MICA_DTYPE_F32, 12, 4);
            memcpy(name, data + i, n);
            name[n] = '\0';
            (void)mica_weights_add(w, name, &t, &err);
        }
        i += n + 1;
    }
    return w;
}

static void check(const uint8_t *data, size_t size, rename_fn *rename)
{
    mica_err err = {.status = MICA_OK};
    mica_weights *w = make_directory(data, size);
    if (!w)
        return;
    const size_t before = mica_weights_count(w);
    (void)mica_flux2_is_transformer(w);
    (void)mica_zimage_is_transformer(w);
    (void)mica_qwen3_probe(w);
    require(mica_kl_vae_probe(w) >= 0);
    (void)mica_qwen_image_is_transformer(w);
    (void)mica_qwen_image_is_text_encoder(w);
    (void)mica_qwen_vae_probe(w);
    if (rename(w, &err) == MICA_OK) {
        const size_t after = mica_weights_count(w);
        require(after >= before);
        require(rename(w, &err) != MICA_OK || mica_weights_count(w) >= after);
    } else {
        require(err.text[0] != '\0' && mica_weights_count(w) >= before);
    }
    mica_weights_close(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size, mica_flux2_rename);
    check(data, size, mica_zimage_rename);
    check(data, size, mica_kl_vae_rename);
    check(data, size, mica_qwen3_rename);
    check(data, size, mica_qwen_image_rename);
    check(data, size, mica_qwen_image_text_rename);
    check(data, size, mica_qwen_vae_rename);
    return 0;
}
