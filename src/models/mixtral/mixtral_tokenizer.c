/* mixtral_tokenizer.c - the vocabulary inside a GGUF file; see mixtral_tokenizer.h. */
#include "models/mixtral/mixtral_tokenizer.h"

#include "base/mem.h"

#include <string.h>

/* Arrays of a GGUF file as pieces; strings are copied because they have no NUL. */
typedef struct gguf_pieces {
    mica_pieces pieces;
    char **texts;
    float *scores;
    int32_t *kinds;
} gguf_pieces;

static void free_pieces(gguf_pieces *g)
{
    for (size_t i = 0; g->texts && i < g->pieces.count; i++)
        mica_mem_free(g->texts[i]);
    mica_mem_free(g->texts);
    mica_mem_free(g->scores);
    mica_mem_free(g->kinds);
}

static mica_status copy_pieces(gguf_pieces *g, const mica_meta *tokens, const mica_meta *scores,
                               const mica_meta *kinds, const char *path, mica_err *err)
{
    const size_t n = tokens->count;
    size_t at = 0, length;
    const char *text;
    g->texts = mica_mem_calloc(n, sizeof *g->texts);
    g->scores = mica_mem_calloc(n, sizeof *g->scores);
    g->kinds = mica_mem_calloc(n, sizeof *g->kinds);
    bool fine = g->texts && g->scores && g->kinds;
    g->pieces.count = n;
    for (size_t i = 0; fine && i < n && mica_meta_next_string(tokens, &at, &text, &length); i++) {
        g->texts[i] = mica_mem_strndup(text, length);
        g->scores[i] = (float)mica_meta_number_at(scores, i);
        g->kinds[i] = (int32_t)mica_meta_number_at(kinds, i);
        fine = g->texts[i] != NULL;
    }
    if (!fine)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its vocabulary", path);
    return MICA_OK;
}

static bool is_array(const mica_meta *m, size_t count, bool text)
{
    return m && m->type == MICA_META_ARRAY && m->count == count && count > 0 &&
           (m->element == MICA_META_STRING) == text;
}

mica_status mica_mixtral_open_vocabulary(mica_tokenizer **out, const mica_weights *w, mica_err *err)
{
    const mica_meta *tokens = mica_weights_meta(w, "tokenizer.ggml.tokens");
    const mica_meta *scores = mica_weights_meta(w, "tokenizer.ggml.scores");
    const mica_meta *kinds = mica_weights_meta(w, "tokenizer.ggml.token_type");
    const char *kind = mica_weights_metadata(w, "tokenizer.ggml.model"),
               *path = mica_weights_path(w);
    if (!tokens || !kind)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: it is missing its tokenizer (--tokenizer FOLDER with tokenizer.json)",
                         path);
    if (strcmp(kind, "llama") != 0 || !is_array(tokens, tokens->count, true) ||
        !is_array(scores, tokens->count, false) || !is_array(kinds, tokens->count, false))
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: its vocabulary is of the kind \"%s\" or incomplete; the kind \"llama\" "
            "is read, or give --tokenizer FOLDER",
            path, kind);
    gguf_pieces g = {0};
    mica_status st = copy_pieces(&g, tokens, scores, kinds, path, err);
    g.pieces.texts = (const char *const *)g.texts;
    g.pieces.scores = g.scores;
    g.pieces.kinds = g.kinds;
    g.pieces.no_space_prefix = !mica_weights_meta_int(w, "tokenizer.ggml.add_space_prefix", 1);
    g.pieces.bos = mica_weights_meta_int(w, "tokenizer.ggml.add_bos_token", 1)
                       ? (int32_t)mica_weights_meta_int(w, "tokenizer.ggml.bos_token_id", 1)
                       : -1;
    g.pieces.eos = -1;
    if (!st)
        st = mica_tokenizer_open_pieces(out, path, &g.pieces, err);
    free_pieces(&g);
    return st;
}
