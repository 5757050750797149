/* fuzz_tokenizer.c - bytes as a tokenizer.json: opened, used for one text, written again where that is possible.
 *
 * Whatever opens must encode and decode within its own numbering: every id found is one the
 * vocabulary has. A pattern may give up on the text (its steps are limited); it may not hang. What was written opens
 * and gives the same ids. */
#include "text/tokenizer_pieces.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ids(const mica_tokenizer *t, const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= mica_tokenizer_vocab_size(t))
            abort();
}

/* JSON is UTF-8; spellings that are not cannot be written. */
static void check_written(const mica_tokenizer *t, const char *text, size_t size,
                          const int32_t *ids, size_t count)
{
    mica_text out = {0};
    mica_err err = {0};
    mica_tokenizer *again = NULL;
    int32_t *same = NULL;
    size_t n = 0;
    if (mica_tokenizer_write_json(t, &out, &err) == MICA_OK) {
        if (mica_tokenizer_open_json(&again, "written", out.data, out.size, &err) != MICA_OK ||
            mica_tokenizer_encode(again, text, size, &same, &n, &err) != MICA_OK || n != count ||
            (n > 0 && memcmp(ids, same, n * sizeof *ids) != 0))
            abort();
    }
    mica_mem_free(same);
    mica_tokenizer_close(&again);
    mica_text_deinit(&out);
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
        if (mica_utf8_is_valid((const char *)data, size))
            check_written(t, text, sizeof text - 1, ids, count);
    }
    mica_mem_free(back);
    mica_mem_free(ids);
    mica_tokenizer_close(&t);
    return 0;
}
