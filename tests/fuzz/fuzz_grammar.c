/* fuzz_grammar.c - bytes as a grammar, and as a JSON schema; what is taken is asked about texts.
 *
 * A text that is allowed as a whole is allowed byte by byte. */
#include "base/json.h"
#include "base/mem.h"
#include "sample/grammar.h"
#include "sample/json_grammar.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_text(const mica_grammar *g, const char *text, size_t size)
{
    mica_err err = {0};
    mica_grammar_state s = {0};
    if (mica_grammar_state_init(&s, g, &err) == MICA_OK) {
        const bool whole = mica_grammar_allows(&s, text, size);
        bool single = size > 0;
        for (size_t i = 0; single && i < size; i++)
            single = mica_grammar_advance(&s, text + i, 1);
        if (single != whole && !s.overflow && single)
            abort();
        (void)mica_grammar_is_whole(&s);
    }
    mica_grammar_state_deinit(&s);
}

static void try_grammar(const char *text, size_t size)
{
    static const char *const texts[] = {"yes", "{\"a\": [1, true]}", "\xc3\xa9\xe4\xbd\xa0",
                                        "aaaa("};
    mica_err err = {0};
    mica_grammar *g = NULL;
    if (mica_grammar_parse(&g, "fuzz", text, size, &err) != MICA_OK) {
        if (g != NULL || err.text[0] == '\0')
            abort();
        return;
    }
    for (size_t i = 0; i < MICA_ARRAY_LEN(texts); i++)
        try_text(g, texts[i], strlen(texts[i]));
    mica_grammar_close(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_err err = {0};
    mica_text made = {0};
    char *text = mica_mem_strndup((const char *)data, size);
    if (!text)
        return 0;
    try_grammar(text, strlen(text));
    if (mica_json_grammar(text, &made, &err) == MICA_OK)
        try_grammar(made.data, made.size);
    mica_text_deinit(&made);
    mica_mem_free(text);
    return 0;
}
