/* fuzz_tokenizer.c - bytes as a tokenizer.json: opened, used for one text, closed.
 *
 * Whatever opens must encode and decode within its own numbering: every id found is one the
 * vocabulary has. A pattern may give up on the text (its steps are limited); it may not hang. */
#include "text/tokenizer.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ids(const mica_tokenizer *t, const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= mica_tokenizer_vocab_size(t))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "It's 42 caf\xc3\xa9 e\xcc\x81<|im_end|> the\r\n\t \xe5\xad\x97\xf0\x9f\x99\x82\xff";
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    int32_t *ids = NULL;
    char *back = NULL;
    size_t count = 0, back_size = 0;
    if (mica_tokenizer_open_json(&t, "fuzz", (const char *)data, size, &err) != MICA_OK) {
        if (t != NULL || err.text[0] == '\0')
            abort(); /* a failure has a message and leaves nothing behind */
        return 0;
    }
    if (mica_tokenizer_encode(t, text, sizeof text - 1, &ids, &count, &err) == MICA_OK) {
        check_ids(t, ids, count);
        if (mica_tokenizer_decode(t, ids, count, true, &back, &back_size, &err) != MICA_OK)
            abort();
    }
    mica_mem_free(back);
    mica_mem_free(ids);
    mica_tokenizer_close(&t);
    return 0;
}
