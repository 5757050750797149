/* token_grammar.c - see token_grammar.h. The bytes of all tokens lie behind each other; a test of the
 * whole vocabulary settles most tokens at their first byte, by a table made once a step. */
#include "sample/token_grammar.h"

#include "base/mem.h"
#include "sample/json_grammar.h"
#include "text/vocab.h"

#include <string.h>

struct mica_token_grammar {
    mica_grammar *grammar;
    mica_grammar_state state;
    char *bytes;
    uint32_t *first; /* [vocab + 1]: where each token's bytes begin */
    int64_t vocab;
    int64_t ends[16];
    size_t end_count;
    bool begins;   /* nothing was taken yet */
    bool can[256]; /* first bytes that may come next */
    bool can_is_valid;
};

void mica_token_grammar_close(mica_token_grammar **g)
{
    if (!g || !*g)
        return;
    mica_grammar_state_deinit(&(*g)->state);
    mica_grammar_close(&(*g)->grammar);
    mica_mem_free((*g)->bytes);
    mica_mem_free((*g)->first);
    mica_mem_free(*g);
    *g = NULL;
}

static mica_status read_pieces(mica_token_grammar *g, const mica_tokenizer *t, mica_err *err)
{
    size_t size = 0, cap = 0;
    char piece[MICA_TOKEN_MAX_SIZE];
    g->first = mica_mem_calloc((size_t)g->vocab + 1, sizeof *g->first);
    bool fine = g->first != NULL;
    for (int64_t i = 0; fine && i < g->vocab; i++) {
        const bool special = mica_tokenizer_is_special(t, (int32_t)i);
        const size_t n = special ? 0 : mica_tokenizer_piece(t, (int32_t)i, piece, sizeof piece);
        fine =
            size + n < UINT32_MAX && mica_array_reserve((void **)&g->bytes, &cap, size + n + 1, 1);
        if (fine)
            memcpy(g->bytes + size, piece, n);
        size += n;
        g->first[i + 1] = (uint32_t)size;
    }
    return fine ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for the bytes of all tokens");
}

static mica_status open_grammar(mica_token_grammar *g, const char *grammar, const char *json_schema,
                                mica_err *err)
{
    mica_text made = {0};
    mica_status st = MICA_OK;
    if (json_schema)
        st = mica_json_grammar(json_schema, &made, err);
    const char *text = json_schema ? made.data : grammar;
    if (!st)
        st = mica_grammar_parse(&g->grammar, json_schema ? "json schema" : "grammar", text,
                                strlen(text), err);
    mica_text_deinit(&made);
    return st ? st : mica_grammar_state_init(&g->state, g->grammar, err);
}

mica_status mica_token_grammar_open(mica_token_grammar **out, const char *grammar,
                                    const char *json_schema, const mica_tokenizer *t, int64_t vocab,
                                    const int64_t *ends, size_t end_count, mica_err *err)
{
    mica_token_grammar *g = *out = mica_mem_calloc(1, sizeof *g);
    if (!g)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a grammar");
    g->vocab = vocab;
    g->begins = true;
    g->end_count = MICA_MIN(end_count, MICA_ARRAY_LEN(g->ends));
    memcpy(g->ends, ends, g->end_count * sizeof *ends);
    mica_status st = open_grammar(g, grammar, json_schema, err);
    if (!st)
        st = read_pieces(g, t, err);
    if (st)
        mica_token_grammar_close(out);
    return st;
}

static void find_first_bytes(mica_token_grammar *g)
{
    for (int byte = 0; byte < 256; byte++) {
        const char c = (char)byte;
        g->can[byte] = mica_grammar_allows(&g->state, &c, 1);
    }
    g->can_is_valid = true;
}

static bool allows_bytes(mica_token_grammar *g, const char *bytes, size_t size)
{
    return size > 0 && g->can[(uint8_t)bytes[0]] &&
           (size == 1 || mica_grammar_allows(&g->state, bytes, size));
}

bool mica_token_grammar_allows(mica_token_grammar *g, int32_t id)
{
    if (id < 0 || id >= g->vocab)
        return false;
    for (size_t i = 0; i < g->end_count; i++)
        if (g->ends[i] == id)
            return mica_grammar_is_whole(&g->state);
    if (!g->can_is_valid)
        find_first_bytes(g);
    const char *bytes = g->bytes + g->first[id];
    const size_t size = g->first[id + 1] - g->first[id];
    if (allows_bytes(g, bytes, size))
        return true;
    return g->begins && size > 1 && bytes[0] == ' ' && allows_bytes(g, bytes + 1, size - 1);
}

void mica_token_grammar_take(mica_token_grammar *g, int32_t id)
{
    if (id < 0 || id >= g->vocab)
        return;
    const char *bytes = g->bytes + g->first[id];
    const size_t size = g->first[id + 1] - g->first[id];
    if (!mica_grammar_advance(&g->state, bytes, size) && g->begins && size > 1 && bytes[0] == ' ')
        (void)mica_grammar_advance(&g->state, bytes + 1, size - 1);
    g->begins = false;
    g->can_is_valid = false;
}
