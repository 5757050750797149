/* fuzz_model_config.c - arbitrary bytes as the configuration of each network.
 *
 *     bytes ──► metadata key "config" of a file without tensors ──► every model's sizes
 *
 * Beyond "no crash": a refusal has a text; sizes that were accepted are positive, fit each other,
 * and are small enough that products of three of them do not overflow. */
#include "format/weights.h"
#include "models/flux2/flux2_config.h"
#include "models/qwen_image/qwen_image_config.h"
#include "models/zimage/zimage_config.h"
#include "nn/qwen3.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MOST ((int64_t)1 << 31)

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* True when the sizes were accepted. */
static bool accepted(mica_status st, const mica_err *err)
{
    require(st == MICA_OK || err->text[0] != '\0');
    return st == MICA_OK;
}

static void require_sizes(const int64_t *sizes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        require(sizes[i] > 0 && sizes[i] < MOST);
}

static void check_zimage(const mica_weights *w)
{
    mica_zimage_config c;
    mica_err err = {.status = MICA_OK};
    if (!accepted(mica_zimage_config_read(&c, NULL, w, &err), &err))
        return;
    require_sizes((const int64_t[]){c.layers, c.refiners, c.heads, c.head_dim, c.width, c.ffn,
                                    c.text_width, c.channels, c.patch_width, c.time_hidden,
                                    c.time_width, c.axes[0], c.axes[1], c.axes[2], c.axis_lens[0],
                                    c.axis_lens[1], c.axis_lens[2]},
                  17);
    require(c.width == c.heads * c.head_dim && c.theta >= 1.0);
    require(c.axes[0] + c.axes[1] + c.axes[2] == c.head_dim);
    require(c.axes[0] % 2 == 0 && c.axes[1] % 2 == 0 && c.axes[2] % 2 == 0);
}

static void check_flux2(const mica_weights *w)
{
    mica_flux2_config c;
    mica_err err = {.status = MICA_OK};
    if (!accepted(mica_flux2_config_read(&c, NULL, w, &err), &err))
        return;
    require_sizes((const int64_t[]){c.layers, c.single_layers, c.heads, c.head_dim, c.width, c.ffn,
                                    c.text_width, c.in_channels},
                  8);
    require(c.width == c.heads * c.head_dim);
}

static void check_qwen_image(const mica_weights *w)
{
    mica_qwen_image_config c;
    mica_err err = {.status = MICA_OK};
    if (!accepted(mica_qwen_image_config_read(&c, NULL, w, &err), &err))
        return;
    require_sizes((const int64_t[]){c.layers, c.heads, c.head_dim, c.width, c.ffn, c.text_width,
                                    c.in_channels},
                  7);
    require(c.width == c.heads * c.head_dim);
    require(c.axes[0] + c.axes[1] + c.axes[2] == c.head_dim);
}

static void check_lm(const mica_weights *w)
{
    mica_lm_config c = mica_qwen3_config_default(MICA_QWEN3_WIDTH_4B);
    mica_err err = {.status = MICA_OK};
    if (!accepted(mica_lm_config_read(&c, NULL, w, &err), &err))
        return;
    require_sizes(
        (const int64_t[]){c.vocab, c.width, c.ffn, c.heads, c.kv_heads, c.head_dim, c.layers}, 7);
    require(c.heads % c.kv_heads == 0 && c.head_dim % 2 == 0 && c.theta >= 1.0);
}

/* A safetensors image whose header holds the bytes as a JSON string. */
static bool make_file(const uint8_t *data, size_t size, mica_text *file)
{
    mica_text value = {0}, header = {0};
    mica_text_add_bytes(&value, (const char *)data, strnlen((const char *)data, size));
    mica_text_add(&header, "{\"__metadata__\":{\"config\":");
    mica_text_add_json_string(&header, value.data ? value.data : "");
    mica_text_add(&header, "}}");
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header.size >> (8 * i));
    mica_text_add_bytes(file, (const char *)length, sizeof length);
    mica_text_add_bytes(file, header.data, header.size);
    const bool made = !value.failed && !header.failed && !file->failed;
    mica_text_deinit(&value);
    mica_text_deinit(&header);
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_text file = {0};
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    if (make_file(data, size, &file) &&
        mica_weights_open_memory(&w, "input", file.data, file.size, &err) == MICA_OK) {
        check_zimage(w);
        check_flux2(w);
        check_qwen_image(w);
        check_lm(w);
        mica_weights_close(&w);
    }
    mica_text_deinit(&file);
    return 0;
}
