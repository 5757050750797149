/* fuzz_onnx.c - arbitrary bytes as an ONNX file.
 *
 *     bytes ──► parse ──► every item: inside the file, as large as its shape says
 *     bytes ──► the same as weights: aligned, contiguous, readable */
#include "format/onnx.h"
#include "format/weights.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_items(const uint8_t *data, size_t size)
{
    mica_arena arena;
    mica_onnx o;
    mica_err err = {.status = MICA_OK};
    mica_arena_init(&arena, 1 << 16);
    const mica_status st = mica_onnx_parse(&o, "input", data, size, &arena, &err);
    require(err.status == st && (st == MICA_OK || err.text[0] != '\0'));
    for (size_t i = 0; st == MICA_OK && i < o.count; i++) {
        const mica_onnx_item *item = &o.items[i];
        require(item->begin <= size && item->size <= size - item->begin);
        require(!item->is_transposed || item->ndim == 2);
        uint64_t bytes = (uint64_t)mica_dtype_get(item->dtype)->size;
        for (int k = 0; k < item->ndim; k++)
            bytes *= (uint64_t)item->shape_[k];
        require(bytes == item->size && item->name[0] != '\0');
    }
    mica_arena_deinit(&arena);
}

static void check_weights(const uint8_t *data, size_t size)
{
    static volatile uint8_t sink;
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    if (!mica_onnx_is_image(data, size) ||
        mica_weights_open_memory(&w, "input", data, size, &err) != MICA_OK)
        return;
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const mica_tensor *t = mica_weights_tensor(w, i);
        const size_t bytes = mica_tensor_size(t);
        require(mica_weights_find(w, mica_weights_name(w, i)) == t);
        if (bytes == 0)
            continue;
        require((uintptr_t)t->data % (size_t)mica_dtype_get(t->dtype)->size == 0);
        sink = ((const uint8_t *)t->data)[0];
        sink = ((const uint8_t *)t->data)[bytes - 1];
    }
    (void)sink;
    mica_weights_close(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_items(data, size);
    check_weights(data, size);
    return 0;
}
