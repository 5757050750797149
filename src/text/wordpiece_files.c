/* wordpiece_files.c - tokenizer.json, or vocab.txt with tokenizer_config.json.
 *
 *     tokenizer.json   normalizer {type BertNormalizer, ...}   pre_tokenizer {type BertPreTokenizer}
 *                      model {type WordPiece, vocab {piece: id}, unk_token, ...}   added_tokens [...]
 *     vocab.txt        one piece per line, its number is the id
 *
 * A file that asks for another normaliser, splitter or model is refused: guessing would give
 * other ids without a word. */
#include "text/wordpiece_parts.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <string.h>

#define VOCAB_MAX_SIZE (16u * 1024 * 1024)
#define WORD_MAX       128 /* characters; see PIECE_MAX of wordpiece.c */

static mica_wordpiece *new_wordpiece(void)
{
    mica_wordpiece *w = mica_mem_calloc(1, sizeof *w);
    if (w != NULL) {
        memcpy(w->prefix, "##", 2);
        w->prefix_size = 2;
        w->max_word = 100;
        w->clean = w->cjk = w->lowercase = w->strip_accents = true;
    }
    return w;
}

static mica_status find_special(mica_wordpiece *w, const char *name, const char *token, int32_t *id,
                                mica_err *err)
{
    mica_vocab_entry *entry = mica_vocab_find(&w->vocab, token, strlen(token));
    if (entry == NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the vocabulary has no %s", name, token);
    entry->special = true;
    *id = entry->id;
    return MICA_OK;
}

static mica_status find_specials(mica_wordpiece *w, const char *name, mica_err *err)
{
    int32_t ignored;
    MICA_TRY(find_special(w, name, "[CLS]", &w->cls, err));
    MICA_TRY(find_special(w, name, "[SEP]", &w->sep, err));
    (void)find_special(w, name, "[PAD]", &ignored, NULL);
    (void)find_special(w, name, "[MASK]", &ignored, NULL);
    return MICA_OK;
}

/* ---- tokenizer.json ---- */

static mica_status check_type(const mica_json *j, const char *part, const char *expected,
                              const cJSON **out, mica_err *err)
{
    const char *type;
    *out = mica_json_find(j->root, part);
    if (*out == NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: no \"%s\" in it", j->name, part);
    MICA_TRY(mica_json_get_string(j, *out, "type", &type, err));
    if (strcmp(type, expected) != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: \"%s\" is %s; only %s is implemented",
                         j->name, part, type, expected);
    return MICA_OK;
}

static mica_status read_normalizer(mica_wordpiece *w, const mica_json *j, mica_err *err)
{
    const cJSON *part;
    MICA_TRY(check_type(j, "normalizer", "BertNormalizer", &part, err));
    MICA_TRY(mica_json_opt_bool(j, part, "clean_text", &w->clean, err));
    MICA_TRY(mica_json_opt_bool(j, part, "handle_chinese_chars", &w->cjk, err));
    MICA_TRY(mica_json_opt_bool(j, part, "lowercase", &w->lowercase, err));
    w->strip_accents = w->lowercase; /* null: as lowercase */
    return mica_json_opt_bool(j, part, "strip_accents", &w->strip_accents, err);
}

static mica_status read_model(mica_wordpiece *w, const mica_json *j, mica_err *err)
{
    const cJSON *model;
    const char *text;
    int64_t longest = 100;
    MICA_TRY(check_type(j, "model", "WordPiece", &model, err));
    const cJSON *vocab = mica_json_find(model, "vocab");
    if (!cJSON_IsObject(vocab))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: no \"vocab\" in the model", j->name);
    for (const cJSON *item = vocab->child; item != NULL; item = item->next) {
        const double id = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
        if (!(id >= 0.0 && id <= MICA_VOCAB_MAX_ID && id == (double)(int64_t)id))
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: the id of \"%s\" is no whole number", j->name,
                             mica_token_printable(item->string, strlen(item->string)).text);
        MICA_TRY(mica_vocab_add(&w->vocab, j->name, item->string, strlen(item->string), (int64_t)id,
                                err));
    }
    MICA_TRY(mica_json_get_string(j, model, "continuing_subword_prefix", &text, err));
    if (strlen(text) >= sizeof w->prefix)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: a prefix of %zu bytes", j->name, strlen(text));
    w->prefix_size = strlen(text);
    memcpy(w->prefix, text, w->prefix_size);
    MICA_TRY(mica_json_opt_int(j, model, "max_input_chars_per_word", 1, WORD_MAX, &longest, err));
    w->max_word = (size_t)longest;
    MICA_TRY(mica_json_get_string(j, model, "unk_token", &text, err));
    return find_special(w, j->name, text, &w->unknown, err);
}

static mica_status read_json(mica_wordpiece *w, const mica_json *j, mica_err *err)
{
    const cJSON *part;
    if (!cJSON_IsObject(j->root))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the file is not a JSON object", j->name);
    MICA_TRY(read_normalizer(w, j, err));
    MICA_TRY(check_type(j, "pre_tokenizer", "BertPreTokenizer", &part, err));
    MICA_TRY(read_model(w, j, err));
    return find_specials(w, j->name, err);
}

static mica_status finish(mica_wordpiece **out, mica_wordpiece *w, mica_status status)
{
    if (status != MICA_OK)
        mica_wordpiece_close(&w);
    *out = w;
    return status;
}

mica_status mica_wordpiece_open_json(mica_wordpiece **out, const char *name, const char *text,
                                     size_t size, mica_err *err)
{
    mica_json j = {0};
    *out = NULL;
    MICA_TRY(mica_json_parse(&j, name, text, size, err));
    mica_wordpiece *w = new_wordpiece();
    const mica_status status =
        w != NULL ? read_json(w, &j, err)
                  : MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the tokenizer", name);
    mica_json_close(&j);
    return finish(out, w, status);
}

/* ---- vocab.txt ---- */

static mica_status read_lines(mica_wordpiece *w, const char *path, const char *text, size_t size,
                              mica_err *err)
{
    int64_t id = 0;
    for (size_t at = 0; at < size; id++) {
        const char *line = text + at, *newline = memchr(line, '\n', size - at);
        size_t n = newline != NULL ? (size_t)(newline - line) : size - at;
        at += n + 1;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n > 0)
            MICA_TRY(mica_vocab_add(&w->vocab, path, line, n, id, err));
    }
    MICA_TRY(find_special(w, path, "[UNK]", &w->unknown, err));
    return find_specials(w, path, err);
}

static mica_status read_config(mica_wordpiece *w, const char *path, mica_err *err)
{
    mica_json j = {0};
    if (!mica_path_is_file(path))
        return MICA_OK;
    MICA_TRY(mica_json_open(&j, path, err));
    mica_status status = MICA_OK;
    if (!cJSON_IsObject(j.root))
        status = MICA_FAIL(err, MICA_E_FORMAT, "%s: the file is not a JSON object", path);
    if (status == MICA_OK)
        status = mica_json_opt_bool(&j, j.root, "do_lower_case", &w->lowercase, err);
    w->strip_accents = w->lowercase;
    if (status == MICA_OK)
        status = mica_json_opt_bool(&j, j.root, "strip_accents", &w->strip_accents, err);
    if (status == MICA_OK)
        status = mica_json_opt_bool(&j, j.root, "tokenize_chinese_chars", &w->cjk, err);
    mica_json_close(&j);
    return status;
}

static mica_status open_vocab(mica_wordpiece **out, const char *vocab, const char *config,
                              mica_err *err)
{
    char *text = NULL;
    size_t size = 0;
    MICA_TRY(mica_file_read(vocab, VOCAB_MAX_SIZE, &text, &size, err));
    mica_wordpiece *w = new_wordpiece();
    mica_status status =
        w != NULL ? read_config(w, config, err)
                  : MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the tokenizer", vocab);
    if (status == MICA_OK)
        status = read_lines(w, vocab, text, size, err);
    mica_mem_free(text);
    return finish(out, w, status);
}

static mica_status open_file(mica_wordpiece **out, const char *path, mica_err *err)
{
    char *text = NULL;
    size_t size = 0;
    MICA_TRY(mica_file_read(path, VOCAB_MAX_SIZE, &text, &size, err));
    const mica_status status = mica_wordpiece_open_json(out, path, text, size, err);
    mica_mem_free(text);
    return status;
}

mica_status mica_wordpiece_open(mica_wordpiece **out, const char *path, mica_err *err)
{
    *out = NULL;
    if (!mica_path_is_dir(path))
        return open_file(out, path, err);
    char *json = mica_path_join(path, "tokenizer.json");
    char *vocab = mica_path_join(path, "vocab.txt");
    char *config = mica_path_join(path, "tokenizer_config.json");
    mica_status status;
    if (json == NULL || vocab == NULL || config == NULL)
        status = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its paths", path);
    else if (mica_path_is_file(json))
        status = open_file(out, json, err);
    else if (mica_path_is_file(vocab))
        status = open_vocab(out, vocab, config, err);
    else
        status = MICA_FAIL(err, MICA_E_MISSING, "%s: neither tokenizer.json nor vocab.txt is there",
                           path);
    mica_mem_free(json);
    mica_mem_free(vocab);
    mica_mem_free(config);
    return status;
}
