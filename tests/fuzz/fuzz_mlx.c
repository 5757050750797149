/* fuzz_mlx.c - what MLX files say of their packed layers: shapes, and the JSON of `quantization`.
 *
 *     rows, words, groups, dtype, level (a byte each) + text ──► a file of two packed layers ──► open ──► every number
 *
 * The text is the metadata's `quantization`, as `mica convert` writes it and config.json holds it. What is accepted
 * must fit: bits and group that make the width out of the words, numbers readable to the last. */
#include "base/json.h"
#include "base/mem.h"
#include "format/weights.h"
#include "tensor/packed.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MOST_BYTES 65536

static void require(bool condition)
{
    if (!condition)
        abort();
}

typedef struct layer {
    unsigned rows, words, groups;
    const char *dtype; /* of scales and biases */
    size_t unit;
} layer;

static size_t add_tensor(mica_text *header, const char *name, const char *dtype, unsigned rows,
                         unsigned columns, size_t unit, size_t at)
{
    const size_t end = at + (size_t)rows * columns * unit;
    mica_text_add(header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}",
                  name, dtype, rows, columns, at, end);
    return end;
}

static size_t add_layer(mica_text *header, const layer *l, const char *name, size_t at)
{
    static const char *const ENDS[] = {"weight", "scales", "biases"};
    for (int i = 0; i < 3; i++) {
        char full[32];
        strcpy(full, name);
        strcat(full, ".");
        strcat(full, ENDS[i]);
        at = i == 0 ? add_tensor(header, full, "U32", l->rows, l->words, 4, at)
                    : add_tensor(header, full, l->dtype, l->rows, l->groups, l->unit, at);
    }
    return at;
}

/* The whole file; freed with mica_mem_free. NULL: no memory. */
static uint8_t *make_file(const layer *l, char level, char *text, size_t *size)
{
    mica_text header = {0};
    mica_text_add(&header,
                  "{\"__metadata__\":{\"quantization_level\":\"%c\",\"quantization\":", level);
    mica_text_add_json_string(&header, text);
    mica_text_add(&header, "}");
    size_t end = add_layer(&header, l, "x", 0);
    end = add_layer(&header, l, "a.y", end);
    mica_text_add(&header, "}");
    uint8_t *file = header.failed ? NULL : mica_mem_calloc(8 + header.size + end, 1);
    if (file) {
        const uint64_t n = header.size;
        for (int i = 0; i < 8; i++)
            file[i] = (uint8_t)(n >> (8 * i));
        memcpy(file + 8, header.data, header.size);
        *size = 8 + header.size + end;
    }
    mica_text_deinit(&header);
    return file;
}

static void check_layer(const mica_weights *w, const layer *l, const char *name)
{
    const mica_tensor *t = mica_weights_find(w, name);
    require(t && t->ndim == 2 && t->shape_[0] == (int64_t)l->rows);
    require(mica_dtype_is_packed(t->dtype) && t->scale.data && t->scale.bias);
    const int bits = mica_dtype_get(t->dtype)->size / 4; /* of 32 numbers */
    require(t->scale.group == 32 || t->scale.group == 64 || t->scale.group == 128);
    require(t->shape_[1] == (int64_t)l->groups * t->scale.group);
    require(t->shape_[1] * bits == (int64_t)l->words * 32);
    for (int64_t i = 0; i < mica_tensor_count(t); i++)
        require(mica_tensor_read_f32(t, i) == 0.0f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const DTYPES[] = {"BF16", "F16", "F32", "U8"};
    static const size_t UNITS[] = {2, 2, 4, 1};
    if (size < 5 || size > MOST_BYTES)
        return 0;
    const layer l = {.rows = data[0] % 4u,
                     .words = data[1],
                     .groups = data[2] % 32u,
                     .dtype = DTYPES[data[3] % 4],
                     .unit = UNITS[data[3] % 4]};
    const char level = (char)('0' + data[4] % 12);
    char *text = mica_mem_strndup((const char *)data + 5, size - 5);
    size_t bytes = 0;
    uint8_t *file = text ? make_file(&l, level, text, &bytes) : NULL;
    mica_weights *w = NULL;
    mica_err err = {0};
    if (file && mica_weights_open_memory(&w, "input", file, bytes, &err) == MICA_OK) {
        require(mica_weights_count(w) == 2);
        check_layer(w, &l, "x.weight");
        check_layer(w, &l, "a.y.weight");
    } else if (file)
        require(w == NULL && err.text[0] != '\0');
    mica_weights_close(&w);
    mica_mem_free(file);
    mica_mem_free(text);
    return 0;
}
