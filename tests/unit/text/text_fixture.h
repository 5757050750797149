/* text_fixture.h - what the tokenizer tests share: small tokenizer.json texts and checks. */
#ifndef TESTS_TEXT_FIXTURE_H
#define TESTS_TEXT_FIXTURE_H

#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Members of a tokenizer.json as JSON text; NULL takes the working default below. */
typedef struct small_json {
    const char *added, *normalizer, *pre_tokenizer, *decoder, *model_type, *model_options;
    const char *vocab_extra; /* starts with a comma */
    const char *merges;
} small_json;

#define SMALL_BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SMALL_SPLIT(regex)                                                                         \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                                          \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define SMALL_SEQUENCE(parts) "{\"type\":\"Sequence\",\"pretokenizers\":[" parts "]}"

static inline const char *small_or(const char *given, const char *otherwise)
{
    return given != NULL ? given : otherwise;
}

/* A vocabulary of the 256 bytes, ids 0..255 in order of the byte, and what `s` adds. */
static inline void small_json_write(mica_text *out, const small_json *s)
{
    mica_text_add(
        out, "{\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,",
        small_or(s->added, "[]"), small_or(s->normalizer, "{\"type\":\"NFC\"}"),
        small_or(s->pre_tokenizer, SMALL_SEQUENCE(SMALL_SPLIT(" ?[a-z]+") "," SMALL_BYTE_LEVEL)),
        small_or(s->decoder, "{\"type\":\"ByteLevel\"}"));
    mica_text_add(out, "\"model\":{\"type\":%s%s,\"vocab\":{", small_or(s->model_type, "\"BPE\""),
                  small_or(s->model_options, ""));
    for (int byte = 0; byte < 256; byte++) {
        char spelling[5] = {0};
        mica_utf8_encode(mica_byte_to_symbol((uint8_t)byte), spelling);
        mica_text_add(out, "%s", byte > 0 ? "," : "");
        mica_text_add_json_string(out, spelling);
        mica_text_add(out, ":%d", byte);
    }
    mica_text_add(out, "%s},\"merges\":%s}}",
                  small_or(s->vocab_extra, ",\"th\":256,\"the\":257,\"\xc4\xa0the\":258"),
                  small_or(s->merges, "[\"t h\",[\"th\",\"e\"],\"\xc4\xa0 the\"]"));
    assert_false(out->failed);
}

static inline mica_status small_json_open(const small_json *s, mica_tokenizer **t, mica_err *err)
{
    mica_text text = {0};
    small_json_write(&text, s);
    const mica_status status = mica_tokenizer_open_json(t, "t.json", text.data, text.size, err);
    mica_text_deinit(&text);
    assert_true((status == MICA_OK) == (*t != NULL));
    return status;
}

/* Prints both lists before failing, so that a difference can be read off. */
static inline void expect_ids(const char *what, const int32_t *ids, size_t count,
                              const int32_t *expected, size_t expected_count)
{
    if (count == expected_count && (count == 0 || memcmp(ids, expected, count * sizeof *ids) == 0))
        return;
    print_error("%s\n  got     :", what);
    for (size_t i = 0; i < count; i++)
        print_error(" %d", (int)ids[i]);
    print_error("\n  expected:");
    for (size_t i = 0; i < expected_count; i++)
        print_error(" %d", (int)expected[i]);
    print_error("\n");
    fail();
}

static inline void expect_encoding(const mica_tokenizer *t, const char *text, size_t size,
                                   const int32_t *expected, size_t expected_count)
{
    mica_err err = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    if (mica_tokenizer_encode(t, text, size, &ids, &count, &err) != MICA_OK)
        fail_msg("%s: %s", text, err.text);
    expect_ids(text, ids, count, expected, expected_count);
    mica_mem_free(ids);
}

static inline void expect_decoding(const mica_tokenizer *t, const int32_t *ids, size_t count,
                                   bool skip_special, const char *expected)
{
    mica_err err = {0};
    char *text = NULL;
    size_t size = 0;
    if (mica_tokenizer_decode(t, ids, count, skip_special, &text, &size, &err) != MICA_OK)
        fail_msg("%s", err.text);
    assert_string_equal(text, expected);
    assert_int_equal(size, strlen(expected));
    mica_mem_free(text);
}

#endif
