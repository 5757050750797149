/* tokenizer_folder.c - the files of a tokenizer folder.
 *
 *     tokenizer.json                 says everything; tokenizer_config.json may add tokens
 *  or vocab.json + merges.txt        the vocabulary and the merges
 *     tokenizer_config.json          the class, which implies the splitting; added tokens
 *     added_tokens.json              added tokens of older folders, without their flags
 *     special_tokens_map.json        which of those are special
 *
 * The second form is what transformers' Qwen2Tokenizer writes. Its class is the only place
 * that tells how text is split, so a folder that names another class, or none and has not
 * the Qwen control tokens either, is refused instead of guessed at. */
#include "text/tokenizer_parts.h"

#include "base/file.h"
#include "base/mem.h"

#include <cjson/cJSON.h>
#include <string.h>

#define MERGES_MAX_SIZE (64u * 1024 * 1024)

typedef struct folder {
    const char *dir;
    mica_json config, special_map, added; /* root NULL: the file is absent */
} folder;

static mica_status open_member(const folder *f, const char *file, bool required, mica_json *out,
                               mica_err *err)
{
    char *path = mica_path_join(f->dir, file);
    mica_status status = MICA_OK;
    if (path == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the path of %s", f->dir, file);
    if (required || mica_path_is_file(path))
        status = mica_json_open(out, path, err);
    mica_mem_free(path);
    if (status == MICA_OK && out->root != NULL && !cJSON_IsObject(out->root))
        status = MICA_FAIL(err, MICA_E_FORMAT, "%s: the file is not a JSON object", out->name);
    return status;
}

static bool has_file(const char *dir, const char *file)
{
    char *path = mica_path_join(dir, file);
    const bool has = path != NULL && mica_path_is_file(path);
    mica_mem_free(path);
    return has;
}

/* ---- merges.txt ---- */

static mica_status read_merge_line(mica_tokenizer *t, const char *path, const char *line,
                                   size_t size, mica_err *err)
{
    const char *space = memchr(line, ' ', size);
    const size_t left = space != NULL ? (size_t)(space - line) : size;
    if (space == NULL || memchr(space + 1, ' ', size - left - 1) != NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: merge %u is not \"left right\": \"%s\"", path,
                         (unsigned)t->bpe.next_rank, mica_token_printable(line, size).text);
    return mica_bpe_add_merge(&t->bpe, &t->vocab, path, line, left, space + 1, size - left - 1,
                              err);
}

static mica_status read_merge_lines(mica_tokenizer *t, const char *path, const char *text,
                                    size_t size, mica_err *err)
{
    for (size_t at = 0; at < size;) {
        const char *line = text + at, *newline = memchr(line, '\n', size - at);
        size_t n = newline != NULL ? (size_t)(newline - line) : size - at;
        const bool header = at == 0 && n >= 8 && memcmp(line, "#version", 8) == 0;
        at += n + 1;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n > 0 && !header)
            MICA_TRY(read_merge_line(t, path, line, n, err));
    }
    return MICA_OK;
}

static mica_status read_merges(mica_tokenizer *t, const folder *f, mica_err *err)
{
    char *text = NULL, *path = mica_path_join(f->dir, "merges.txt");
    size_t size = 0;
    if (path == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the path of merges.txt", f->dir);
    mica_status status = mica_file_read(path, MERGES_MAX_SIZE, &text, &size, err);
    if (status == MICA_OK)
        status = read_merge_lines(t, path, text, size, err);
    mica_mem_free(text);
    mica_mem_free(path);
    return status;
}

/* ---- added tokens ---- */

/* Is `token` the string, the "content" of the object, or in the array `value`? */
static bool names_token(const cJSON *value, const char *token)
{
    if (cJSON_IsString(value))
        return strcmp(value->valuestring, token) == 0;
    if (cJSON_IsObject(value))
        return names_token(cJSON_GetObjectItemCaseSensitive(value, "content"), token);
    if (cJSON_IsArray(value))
        for (const cJSON *item = value->child; item != NULL; item = item->next)
            if (!cJSON_IsArray(item) && names_token(item, token))
                return true;
    return false;
}

static bool is_special(const folder *f, const char *token)
{
    static const char *const keys[] = {
        "bos_token", "eos_token", "unk_token",  "sep_token",
        "pad_token", "cls_token", "mask_token", "additional_special_tokens"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(keys); i++)
        if (names_token(mica_json_find(f->special_map.root, keys[i]), token) ||
            names_token(mica_json_find(f->config.root, keys[i]), token))
            return true;
    return false;
}

/* Flags as PreTrainedTokenizerBase gives them to tokens of this file. */
static mica_status read_added_json(mica_tokenizer *t, const folder *f, mica_err *err)
{
    if (f->added.root == NULL)
        return MICA_OK;
    for (const cJSON *item = f->added.root->child; item != NULL; item = item->next) {
        int64_t id = 0;
        const bool special = is_special(f, item->string);
        const mica_added_options options = {.special = special, .normalized = !special};
        MICA_TRY(mica_json_get_int(&f->added, f->added.root, item->string, 0, MICA_VOCAB_MAX_ID,
                                   &id, err));
        MICA_TRY(mica_tokenizer_add_token(t, f->added.name, item->string, id, &options, err));
    }
    return MICA_OK;
}

/* ---- the two kinds of folder ---- */

static mica_status check_class(const mica_tokenizer *t, const folder *f, mica_err *err)
{
    const cJSON *class = mica_json_find(f->config.root, "tokenizer_class");
    bool prefix_space = false;
    if (class == NULL) {
        if (mica_tokenizer_find(t, "<|im_start|>") >= 0 &&
            mica_tokenizer_find(t, "<|endoftext|>") >= 0)
            return MICA_OK;
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: vocab.json and merges.txt alone do not say how text is split; add "
                         "tokenizer.json or tokenizer_config.json with its tokenizer_class",
                         f->dir);
    }
    const char *class_name = cJSON_IsString(class) ? class->valuestring : "";
    if (strcmp(class_name, "Qwen2Tokenizer") != 0 && strcmp(class_name, "Qwen2TokenizerFast") != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: tokenizer_class \"%s\" without a tokenizer.json is not supported; "
                         "Qwen2Tokenizer is",
                         f->config.name, mica_token_printable(class_name, strlen(class_name)).text);
    MICA_TRY(
        mica_json_opt_bool(&f->config, f->config.root, "add_prefix_space", &prefix_space, err));
    if (prefix_space)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: add_prefix_space is not supported",
                         f->config.name);
    return MICA_OK;
}

static mica_status read_parts(mica_tokenizer *t, folder *f, mica_err *err)
{
    mica_json vocab = {0};
    mica_status status = open_member(f, "vocab.json", true, &vocab, err);
    if (status == MICA_OK)
        status = mica_tokenizer_read_vocab(t, &vocab, vocab.root, err);
    mica_json_close(&vocab);
    if (status != MICA_OK)
        return status;
    t->nfc = true;
    MICA_TRY(mica_splitter_add(&t->splitter, f->dir, MICA_QWEN2_PATTERN, err));
    MICA_TRY(read_merges(t, f, err));
    MICA_TRY(mica_tokenizer_read_added_decoder(t, &f->config, err));
    MICA_TRY(open_member(f, "special_tokens_map.json", false, &f->special_map, err));
    MICA_TRY(open_member(f, "added_tokens.json", false, &f->added, err));
    MICA_TRY(read_added_json(t, f, err));
    return check_class(t, f, err);
}

/* Tokens of the config that the tokenizer.json lacks are added, as PreTrainedTokenizerFast
 * does when it loads a folder. */
static mica_status read_whole(mica_tokenizer *t, const folder *f, mica_err *err)
{
    mica_json j = {0};
    mica_status status = open_member(f, "tokenizer.json", true, &j, err);
    if (status == MICA_OK)
        status = mica_tokenizer_read_json(t, &j, err);
    mica_json_close(&j);
    return status == MICA_OK ? mica_tokenizer_read_added_decoder(t, &f->config, err) : status;
}

mica_status mica_tokenizer_read_folder(mica_tokenizer *t, const char *dir, mica_err *err)
{
    folder f = {.dir = dir};
    const bool whole = has_file(dir, "tokenizer.json");
    if (!whole && !(has_file(dir, "vocab.json") && has_file(dir, "merges.txt")))
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: has neither tokenizer.json nor vocab.json with merges.txt", dir);
    mica_status status = open_member(&f, "tokenizer_config.json", false, &f.config, err);
    if (status == MICA_OK)
        status = whole ? read_whole(t, &f, err) : read_parts(t, &f, err);
    mica_json_close(&f.config);
    mica_json_close(&f.special_map);
    mica_json_close(&f.added);
    return status;
}
