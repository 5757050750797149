/* tokenizer_added.c - added tokens of all files into one vocabulary and two search sets.
 *
 *     tokenizer.json          added_tokens: [{"id", "content", flags}]
 *     tokenizer_config.json   added_tokens_decoder: {"id": {"content", flags}}
 *     added_tokens.json       {"content": id}           (no flags: tokenizer_folder.c)
 *
 * Ids are those the files write. The reference numbers new tokens by their order and warns
 * when the file says otherwise; a file in which the two differ is refused here, because an
 * embedding row would be looked up that was trained for another token. */
#include "text/tokenizer_parts.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/sentence_pieces.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <string.h>

/* A `normalized` token is looked for, and decoded, in its normal form. */
static mica_status push_normal_form(mica_tokenizer *t, const char *name, const char *content,
                                    const mica_added_token *token, bool *respelled, mica_err *err)
{
    char *form = NULL;
    size_t size = 0;
    if (t->sentence.on)
        MICA_TRY(
            mica_sentence_form(&t->sentence, content, strlen(content), true, &form, &size, err));
    else
        MICA_TRY(mica_utf8_nfc(content, strlen(content), &form, &size, err));
    const mica_status status = mica_added_set_push(&t->normalized, name, form, size, token, err);
    *respelled = size != strlen(content) || memcmp(form, content, size) != 0;

    mica_mem_free(form);
    return status;
}

/* The entry of the content with this id, entered if the vocabulary does not have it. */
static mica_status enter_vocab(mica_tokenizer *t, const char *name, const char *content,
                               size_t size, int64_t id, mica_vocab_entry **out, mica_err *err)
{
    *out = mica_vocab_find(&t->vocab, content, size);
    if (*out == NULL) {
        MICA_TRY(mica_vocab_add(&t->vocab, name, content, size, id, err));
        *out = mica_vocab_get(&t->vocab, id);
    }
    if ((*out)->id != id)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: added token \"%s\" has id %" PRId64 ", the vocabulary gives it "
                         "%" PRId32,
                         name, mica_token_printable(content, size).text, id, (*out)->id);
    return MICA_OK;
}

mica_status mica_tokenizer_add_token(mica_tokenizer *t, const char *name, const char *content,
                                     int64_t id, const mica_added_options *options, mica_err *err)
{
    const size_t size = strlen(content);
    mica_vocab_entry *e;
    const mica_added_token token = {.id = (int32_t)id,
                                    .single_word = options->single_word,
                                    .lstrip = options->lstrip,
                                    .rstrip = options->rstrip};
    MICA_TRY(enter_vocab(t, name, content, size, id, &e, err));
    e->special |= options->special;
    if (e->added)
        return MICA_OK;
    e->added = true;
    if (options->normalized && (t->nfc || t->sentence.normalizer))
        return push_normal_form(t, name, content, &token, &e->respelled, err);
    return mica_added_set_push(options->normalized ? &t->normalized : &t->raw, name, content, size,
                               &token, err);
}

mica_status mica_tokenizer_read_flags(const mica_json *j, const struct cJSON *object,
                                      mica_added_options *options, mica_err *err)
{
    MICA_TRY(mica_json_opt_bool(j, object, "single_word", &options->single_word, err));
    MICA_TRY(mica_json_opt_bool(j, object, "lstrip", &options->lstrip, err));
    MICA_TRY(mica_json_opt_bool(j, object, "rstrip", &options->rstrip, err));
    MICA_TRY(mica_json_opt_bool(j, object, "normalized", &options->normalized, err));
    return mica_json_opt_bool(j, object, "special", &options->special, err);
}

/* "151643" as a number; the whole string, at most nine digits. */
static mica_status parse_id(const mica_json *j, const char *key, int64_t *id, mica_err *err)
{
    const size_t digits = strspn(key, "0123456789");
    if (digits == 0 || digits > 9 || key[digits] != '\0')
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: added_tokens_decoder has the key \"%s\", "
                         "expected a token id",
                         j->name, mica_token_printable(key, strlen(key)).text);
    *id = 0;
    for (size_t i = 0; i < digits; i++)
        *id = *id * 10 + (key[i] - '0');
    return MICA_OK;
}

mica_status mica_tokenizer_read_added_decoder(mica_tokenizer *t, const mica_json *config,
                                              mica_err *err)
{
    const cJSON *decoder = mica_json_find(config->root, "added_tokens_decoder");
    if (decoder == NULL || cJSON_IsNull(decoder))
        return MICA_OK;
    if (!cJSON_IsObject(decoder))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: added_tokens_decoder is not an object",
                         config->name);
    for (const cJSON *item = decoder->child; item != NULL; item = item->next) {
        mica_added_options options = {.normalized = true}; /* AddedToken's default */
        const char *content = NULL;
        int64_t id = 0;
        MICA_TRY(parse_id(config, item->string, &id, err));
        MICA_TRY(mica_json_get_string(config, item, "content", &content, err));
        MICA_TRY(mica_tokenizer_read_flags(config, item, &options, err));
        MICA_TRY(mica_tokenizer_add_token(t, config->name, content, id, &options, err));
    }
    return MICA_OK;
}
