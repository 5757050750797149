/* fuzz_wordpiece.c - bytes as a tokenizer.json of a BERT model and a text for it.
 *
 *     tokenizer.json NUL text        or, without a NUL: a text for the golden vocabulary
 *
 * Beyond "no crash": ids are in the vocabulary and stand between [CLS] and [SEP]. */
#include "base/mem.h"
#include "text/wordpiece.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_encode(const mica_wordpiece *w, const char *text, size_t size)
{
    mica_err err = {.status = MICA_OK};
    int32_t *ids;
    size_t count;
    if (mica_wordpiece_encode(w, text, size, &ids, &count, &err) != MICA_OK) {
        require(err.text[0] && !ids);
        return;
    }
    require(count >= 2);
    for (size_t i = 0; i < count; i++)
        require(ids[i] >= 0 && ids[i] < mica_wordpiece_vocab_size(w));
    mica_mem_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static mica_wordpiece *golden;
    mica_err err = {.status = MICA_OK};
    if (!golden)
        require(mica_wordpiece_open(&golden, MICA_TEST_DATA "/speech/wordpiece", &err) == MICA_OK);
    const uint8_t *split = size > 0 ? memchr(data, 0, size) : NULL;
    if (!split) {
        check_encode(golden, (const char *)data, size);
        return 0;
    }
    mica_wordpiece *w = NULL;
    const size_t head = (size_t)(split - data);
    if (mica_wordpiece_open_json(&w, "input", (const char *)data, head, &err) == MICA_OK)
        check_encode(w, (const char *)split + 1, size - head - 1);
    else
        require(err.text[0] && !w);
    mica_wordpiece_close(&w);
    return 0;
}
