/* fuzz_safetensors.c - arbitrary bytes as a safetensors file.
 *
 *     bytes ──► open ──► walk every tensor, hash, rename ──► close
 *
 * Beyond "no crash" it holds the directory to its contract: a refusal has a text, every
 * listed name is found again, every tensor lies inside the input (or is an aligned copy) and
 * its first and last bytes can be read. */
#include "format/weights.h"

#include <stdint.h>
#include <stdio.h>
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
    const mica_tensor *t = mica_weights_tensor(w, i);
    const size_t size = mica_tensor_size(t);
    const uint8_t *p = t->data;
    require(mica_weights_find(w, mica_weights_name(w, i)) == t);
    require(t->ndim >= 0 && t->ndim <= MICA_MAX_DIMS);
    if (size == 0)
        return;
    if (!mica_dtype_is_packed(t->dtype))
        require((uintptr_t)p % (size_t)mica_dtype_get(t->dtype)->size == 0);
    static volatile uint8_t sink;
    sink = p[0];
    sink = p[size - 1];
    (void)sink;
    if (mica_tensor_is_weight(t))
        (void)mica_tensor_read_f32(t, mica_tensor_count(t) - 1);
}

/* Settings in the metadata, as converted checkpoints have them. */
static void check_settings(const mica_weights *w)
{
    int64_t number = 0;
    char text[16];
    (void)mica_weights_find_int(w, "config.model.head", &number);
    (void)mica_weights_find_item(w, "config.model.rates", 1, &number);
    if (mica_weights_find_text(w, "config.model.version", text, sizeof text))
        require(memchr(text, 0, sizeof text) != NULL);
}

static bool strip(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    if (strncmp(name, "model.", 6) != 0)
        return false;
    snprintf(out, cap, "%s", name + 6);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    char hash[17];
    const mica_status st = mica_weights_open_memory(&w, "input", data, size, &err);
    if (st != MICA_OK) {
        require(w == NULL && err.status == st && err.text[0] != '\0');
        return 0;
    }
    check_settings(w);
    for (size_t i = 0; i < mica_weights_count(w); i++)
        check_tensor(w, i);
    mica_weights_hash(w, hash);
    require(strlen(hash) == 16);
    require(mica_weights_bytes(w) <= size);
    (void)mica_weights_metadata(w, "format");
    (void)mica_weights_rename(w, strip, NULL, &err);
    for (size_t i = 0; i < mica_weights_count(w); i++)
        require(mica_weights_find(w, mica_weights_name(w, i)) == mica_weights_tensor(w, i));
    mica_weights_close(&w);
    return 0;
}
