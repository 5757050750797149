/* fuzz_gguf.c - arbitrary bytes as a GGUF file.
 *
 *     "GGUF" + bytes ──► open ──► every tensor's ends, every value, hash ──► close
 *
 * What was accepted must hold: tensors inside the input, rows of whole blocks, arrays that can be walked
 * to their count. */
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

static void check_tensor(const mica_weights *w, size_t i, const uint8_t *data, size_t size)
{
    const mica_tensor *t = mica_weights_tensor(w, i);
    const size_t bytes = mica_tensor_size(t);
    const uint8_t *p = t->data;
    static volatile uint8_t sink;
    require(mica_weights_find(w, mica_weights_name(w, i)) == t);
    require(mica_tensor_count(t) % mica_dtype_get(t->dtype)->block == 0);
    if (bytes == 0)
        return;
    if (mica_dtype_is_packed(t->dtype)) /* others may be copies */
        require(p >= data && bytes <= size && (size_t)(p - data) <= size - bytes);
    sink = p[0];
    sink = p[bytes - 1];
    (void)sink;
    if (mica_tensor_is_weight(t))
        (void)mica_tensor_read_f32(t, mica_tensor_count(t) - 1);
}

static void walk_array(const mica_meta *m)
{
    size_t at = 0, length, n = 0;
    const char *text;
    if (m->element == MICA_META_STRING) {
        while (mica_meta_next_string(m, &at, &text, &length)) {
            require(at <= m->size && text + length <= (const char *)m->data + m->size);
            n++;
        }
        require(n == m->count);
    } else if (m->count > 0) {
        (void)mica_meta_number_at(m, 0);
        (void)mica_meta_number_at(m, m->count - 1);
    }
}

static void check_values(const mica_weights *w)
{
    static const char *const KEYS[] = {"general.architecture", "general.alignment", "k", "tokens"};
    for (size_t i = 0; i < sizeof KEYS / sizeof KEYS[0]; i++) {
        const mica_meta *m = mica_weights_meta(w, KEYS[i]);
        if (m && m->type == MICA_META_STRING)
            require(mica_weights_metadata(w, KEYS[i]) != NULL);
        if (m && m->type == MICA_META_ARRAY)
            walk_array(m);
        (void)mica_weights_meta_int(w, KEYS[i], 0);
        (void)mica_weights_meta_number(w, KEYS[i], 0.0);
    }
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
    for (size_t i = 0; i < mica_weights_count(w); i++)
        check_tensor(w, i, data, size);
    check_values(w);
    mica_weights_hash(w, hash);
    require(mica_weights_bytes(w) <= size);
    mica_weights_close(&w);
    return 0;
}
