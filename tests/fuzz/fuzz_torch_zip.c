/* fuzz_torch_zip.c - arbitrary bytes as a torch checkpoint.
 *
 *     bytes ──► open ──► every tensor: sizes, first and last element; plain data by path ──► close
 *     bytes ──► the same as a pickle alone, without an archive around it
 *
 * Beyond "no crash": a refusal has a text, every listed tensor is contiguous and readable, and no
 * file that names a function of the system is opened. */
#include "format/pickle.h"
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

static void check_tensor(const mica_weights *w, size_t i)
{
    static volatile uint8_t sink;
    const mica_tensor *t = mica_weights_tensor(w, i);
    const size_t size = mica_tensor_size(t);
    const uint8_t *p = t->data;
    require(mica_weights_find(w, mica_weights_name(w, i)) == t);
    require(mica_tensor_is_contiguous(t));
    if (size == 0)
        return;
    require((uintptr_t)p % (size_t)mica_dtype_get(t->dtype)->size == 0);
    sink = p[0];
    sink = p[size - 1];
    (void)sink;
}

static void check_archive(const uint8_t *data, size_t size)
{
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    int64_t number = 0;
    const mica_status st = mica_weights_open_memory(&w, "input", data, size, &err);
    if (st != MICA_OK) {
        require(w == NULL && err.status == st && err.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < mica_weights_count(w); i++)
        check_tensor(w, i);
    (void)mica_weights_find_int(w, "config.model.head", &number);
    (void)mica_weights_find_item(w, "config.model.rates", 1, &number);
    char text[64];
    (void)mica_weights_find_text(w, "info", text, sizeof text);
    mica_text settings = {0};
    (void)mica_weights_write_settings(w, "config", &settings);
    mica_text_deinit(&settings);
    require(strlen(mica_weights_header(w)) <= 2);
    mica_weights_close(&w);
}

static void check_pickle(const uint8_t *data, size_t size)
{
    mica_arena arena;
    mica_pickle_value *root = NULL;
    mica_err err = {.status = MICA_OK};
    mica_arena_init(&arena, 1 << 16);
    const mica_status st = mica_pickle_parse(&root, "input", data, size, &arena, &err);
    require((st == MICA_OK) == (root != NULL) && err.status == st);
    (void)mica_pickle_get(root, "weight");
    mica_arena_deinit(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_archive(data, size);
    check_pickle(data, size);
    return 0;
}
