/* fuzz_prompt.c - bytes as a prompt: encoded and decoded with the tokenizer of a golden model.
 *
 * Byte-level BPE loses nothing: without added tokens in it, the text comes back in NFC, with
 * U+FFFD for what was not UTF-8. With added tokens it still encodes, in range. */
#include "text/tokenizer.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ADDED 900 /* of this vocabulary */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const mica_tokenizer *get_tokenizer(void)
{
    static mica_tokenizer *t; /* lives as long as the process */
    mica_err err = {0};
    if (t == NULL &&
        mica_tokenizer_open(&t, MICA_TEST_DATA "/qwen_image/model/tokenizer", &err) != MICA_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return t;
}

static bool has_added(const mica_tokenizer *t, const int32_t *ids, size_t count)
{
    bool added = false;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= mica_tokenizer_vocab_size(t))
            abort();
        added |= ids[i] >= FIRST_ADDED;
    }
    return added;
}

static void check_round_trip(const uint8_t *data, size_t size, const char *back, size_t back_size)
{
    mica_err err = {0};
    char *clean = NULL, *form = NULL;
    size_t clean_size = 0, form_size = 0;
    if (mica_utf8_sanitize((const char *)data, size, &clean, &clean_size, &err) != MICA_OK ||
        mica_utf8_nfc(clean, clean_size, &form, &form_size, &err) != MICA_OK)
        abort();
    if (form_size != back_size || memcmp(form, back, back_size) != 0)
        abort();
    mica_mem_free(clean);
    mica_mem_free(form);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const mica_tokenizer *t = get_tokenizer();
    mica_err err = {0};
    int32_t *ids = NULL;
    char *back = NULL;
    size_t count = 0, back_size = 0;
    if (mica_tokenizer_encode(t, (const char *)data, size, &ids, &count, &err) != MICA_OK ||
        mica_tokenizer_decode(t, ids, count, false, &back, &back_size, &err) != MICA_OK)
        abort();
    if (!has_added(t, ids, count))
        check_round_trip(data, size, back, back_size);
    mica_mem_free(back);
    mica_mem_free(ids);
    return 0;
}
