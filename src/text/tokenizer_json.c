/* tokenizer_json.c - reads the tokenizer.json of Hugging Face tokenizers.
 *
 *     normalizer      NFC, or none
 *     pre_tokenizer   ByteLevel, or Sequence of Split (Isolated) ending in ByteLevel
 *     model           BPE with vocab {"token": id} and merges ["a b"] or [["a", "b"]]
 *     added_tokens    [{"id": .., "content": .., flags}]
 *     decoder         ByteLevel
 *
 * or SentencePiece's style, told by the decoder (tokenizer_sentence.c). Anything else is refused by
 * name. Of the post_processor only the ids around a text are read, which encode does not add by
 * itself; truncation and padding are not read (the pipelines set these in each call). */
#include "text/tokenizer_parts.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <string.h>

static bool is_absent(const cJSON *item)
{
    return item == NULL || cJSON_IsNull(item);
}

mica_status mica_tokenizer_refuse(const mica_json *j, const char *what, const char *type,
                                  mica_err *err)
{
    return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                     "%s: %s \"%s\" is not supported; this reader takes byte-level and "
                     "SentencePiece BPE",
                     j->name, what, mica_token_printable(type, strlen(type)).text);
}

static mica_status refuse(const mica_json *j, const char *what, const char *type, mica_err *err)
{
    return mica_tokenizer_refuse(j, what, type, err);
}

static mica_status get_object(const mica_json *j, const cJSON *parent, const char *key,
                              const cJSON **out, mica_err *err)
{
    *out = mica_json_find(parent, key);
    if (!cJSON_IsObject(*out))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is %s, expected an object", j->name, key,
                         is_absent(*out) ? "absent" : "something else");
    return MICA_OK;
}

/* ---- normalizer ---- */

static mica_status read_normalizer(mica_tokenizer *t, const mica_json *j, const cJSON *item,
                                   int depth, mica_err *err)
{
    const char *type = NULL;
    if (is_absent(item))
        return MICA_OK;
    MICA_TRY(mica_json_get_string(j, item, "type", &type, err));
    if (strcmp(type, "NFC") == 0) {
        t->nfc = true;
        return MICA_OK;
    }
    const cJSON *list = mica_json_find(item, "normalizers");
    if (strcmp(type, "Sequence") != 0 || !cJSON_IsArray(list) || depth > 0)
        return refuse(j, "normalizer", type, err);
    for (const cJSON *part = list->child; part != NULL; part = part->next)
        MICA_TRY(read_normalizer(t, j, part, depth + 1, err));
    return MICA_OK;
}

/* ---- pre-tokenizer ---- */

static mica_status read_split(mica_tokenizer *t, const mica_json *j, const cJSON *item,
                              mica_err *err)
{
    const cJSON *pattern;
    const char *behavior = NULL, *regex = NULL;
    bool invert = false;
    MICA_TRY(mica_json_get_string(j, item, "behavior", &behavior, err));
    if (strcmp(behavior, "Isolated") != 0)
        return refuse(j, "Split behavior", behavior, err);
    MICA_TRY(mica_json_opt_bool(j, item, "invert", &invert, err));
    if (invert)
        return refuse(j, "Split option", "invert", err);
    MICA_TRY(get_object(j, item, "pattern", &pattern, err));
    if (mica_json_find(pattern, "String") != NULL)
        return refuse(j, "Split pattern kind", "String", err);
    MICA_TRY(mica_json_get_string(j, pattern, "Regex", &regex, err));
    return mica_splitter_add(&t->splitter, j->name, regex, err);
}

static mica_status read_byte_level(mica_tokenizer *t, const mica_json *j, const cJSON *item,
                                   mica_err *err)
{
    bool prefix_space = true, use_regex = true; /* defaults of byte_level.rs */
    MICA_TRY(mica_json_opt_bool(j, item, "add_prefix_space", &prefix_space, err));
    MICA_TRY(mica_json_opt_bool(j, item, "use_regex", &use_regex, err));
    if (prefix_space)
        return refuse(j, "ByteLevel option", "add_prefix_space", err);
    return use_regex ? mica_splitter_add(&t->splitter, j->name, MICA_GPT2_PATTERN, err) : MICA_OK;
}

static mica_status read_pre_tokenizer(mica_tokenizer *t, const mica_json *j, const cJSON *item,
                                      mica_err *err)
{
    const char *type = NULL;
    if (is_absent(item))
        return refuse(j, "pre-tokenizer", "none", err);
    MICA_TRY(mica_json_get_string(j, item, "type", &type, err));
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(t, j, item, err);
    const cJSON *list = mica_json_find(item, "pretokenizers");
    if (strcmp(type, "Sequence") != 0 || !cJSON_IsArray(list))
        return refuse(j, "pre-tokenizer", type, err);
    for (const cJSON *part = list->child; part != NULL; part = part->next) {
        MICA_TRY(mica_json_get_string(j, part, "type", &type, err));
        if (strcmp(type, "ByteLevel") == 0 && part->next == NULL)
            return read_byte_level(t, j, part, err);
        if (strcmp(type, "Split") != 0)
            return refuse(j, "pre-tokenizer", type, err);
        MICA_TRY(read_split(t, j, part, err));
    }
    return refuse(j, "pre-tokenizer", "Sequence without ByteLevel at its end", err);
}

static mica_status check_decoder(const mica_json *j, const cJSON *item, mica_err *err)
{
    const char *type = NULL;
    if (is_absent(item))
        return refuse(j, "decoder", "none", err);
    MICA_TRY(mica_json_get_string(j, item, "type", &type, err));
    return strcmp(type, "ByteLevel") == 0 ? MICA_OK : refuse(j, "decoder", type, err);
}

static mica_status read_byte_level_style(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    MICA_TRY(read_normalizer(t, j, mica_json_find(j->root, "normalizer"), 0, err));
    MICA_TRY(read_pre_tokenizer(t, j, mica_json_find(j->root, "pre_tokenizer"), err));
    return check_decoder(j, mica_json_find(j->root, "decoder"), err);
}

/* ---- model ---- */

mica_status mica_tokenizer_read_vocab(mica_tokenizer *t, const mica_json *j, const cJSON *object,
                                      mica_err *err)
{
    for (const cJSON *item = object->child; item != NULL; item = item->next) {
        const double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(id >= 0 && id <= MICA_VOCAB_MAX_ID) || id != (double)(int64_t)id)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: token \"%s\" of the vocabulary has no id in 0..%d", j->name,
                             mica_token_printable(item->string, strlen(item->string)).text,
                             MICA_VOCAB_MAX_ID);
        MICA_TRY(mica_vocab_add(&t->vocab, j->name, item->string, strlen(item->string), (int64_t)id,
                                err));
    }
    return t->sentence.on ? MICA_OK : mica_bpe_bind_bytes(&t->bpe, &t->vocab, j->name, err);
}

static mica_status bad_merge(const mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_FORMAT,
                     "%s: merge %u is neither \"left right\" nor [\"left\", \"right\"]", j->name,
                     (unsigned)t->bpe.next_rank);
}

static mica_status read_merge(mica_tokenizer *t, const mica_json *j, const cJSON *item,
                              mica_err *err)
{
    const char *left, *right;
    size_t left_size;
    if (cJSON_IsString(item)) {
        left = item->valuestring;
        left_size = strcspn(left, " ");
        if (left[left_size] == '\0' || strchr(left + left_size + 1, ' ') != NULL)
            return bad_merge(t, j, err);
        right = left + left_size + 1;
    } else {
        const cJSON *first = cJSON_IsArray(item) ? item->child : NULL;
        const cJSON *second = first != NULL ? first->next : NULL;
        if (!cJSON_IsString(first) || !cJSON_IsString(second) || second->next != NULL)
            return bad_merge(t, j, err);
        left = first->valuestring;
        left_size = strlen(left);
        right = second->valuestring;
    }
    return mica_bpe_add_merge(&t->bpe, &t->vocab, j->name, left, left_size, right, strlen(right),
                              err);
}

/* Options that change what merges mean, or that only other kinds of BPE use. */
static mica_status check_model_options(const mica_tokenizer *t, const mica_json *j,
                                       const cJSON *model, mica_err *err)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    bool byte_fallback = false;
    double dropout = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(affixes); i++) {
        const cJSON *affix = mica_json_find(model, affixes[i]);
        if (!is_absent(affix) && !(cJSON_IsString(affix) && affix->valuestring[0] == '\0'))
            return refuse(j, "model option", affixes[i], err);
    }
    MICA_TRY(mica_json_opt_bool(j, model, "byte_fallback", &byte_fallback, err));
    if (byte_fallback && !t->sentence.on)
        return refuse(j, "model option", "byte_fallback", err);
    MICA_TRY(mica_json_opt_double(j, model, "dropout", 0, 1, &dropout, err));
    return dropout > 0 ? refuse(j, "model option", "dropout", err) : MICA_OK;
}

static mica_status read_model(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    const cJSON *model, *vocab, *merges;
    MICA_TRY(get_object(j, j->root, "model", &model, err));
    if (mica_json_find(model, "type") != NULL) { /* files of 2020 leave it out for BPE */
        const char *type = NULL;
        MICA_TRY(mica_json_get_string(j, model, "type", &type, err));
        if (strcmp(type, "BPE") != 0)
            return refuse(j, "model", type, err);
    }
    MICA_TRY(check_model_options(t, j, model, err));
    MICA_TRY(mica_json_opt_bool(j, model, "ignore_merges", &t->bpe.ignore_merges, err));
    MICA_TRY(get_object(j, model, "vocab", &vocab, err));
    merges = mica_json_find(model, "merges");
    if (!cJSON_IsArray(merges))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: model.merges is not an array", j->name);
    MICA_TRY(mica_tokenizer_read_vocab(t, j, vocab, err));
    if (t->sentence.on)
        MICA_TRY(mica_tokenizer_bind_sentence(t, j, model, err));
    for (const cJSON *item = merges->child; item != NULL; item = item->next)
        MICA_TRY(read_merge(t, j, item, err));
    return MICA_OK;
}

static mica_status read_added(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    const cJSON *list = mica_json_find(j->root, "added_tokens");
    if (is_absent(list))
        return MICA_OK;
    if (!cJSON_IsArray(list))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: added_tokens is not an array", j->name);
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        mica_added_options options = {.normalized = true};
        const char *content = NULL;
        int64_t id = 0;
        MICA_TRY(mica_json_get_int(j, item, "id", 0, MICA_VOCAB_MAX_ID, &id, err));
        MICA_TRY(mica_json_get_string(j, item, "content", &content, err));
        MICA_TRY(mica_tokenizer_read_flags(j, item, &options, err));
        MICA_TRY(mica_tokenizer_add_token(t, j->name, content, id, &options, err));
    }
    return MICA_OK;
}

mica_status mica_tokenizer_read_json(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    if (!cJSON_IsObject(j->root))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the file is not a JSON object", j->name);
    if (mica_tokenizer_is_sentence(j))
        MICA_TRY(mica_tokenizer_read_sentence(t, j, err));
    else
        MICA_TRY(read_byte_level_style(t, j, err));
    MICA_TRY(read_model(t, j, err));
    MICA_TRY(read_added(t, j, err));
    return mica_tokenizer_read_template(t, j, err);
}
