/* tokenizer_sentence.c - the parts of a tokenizer.json in SentencePiece's style, and vocabularies of
 * pieces with scores.
 *
 *     normalizer      Sequence [Prepend "▁", Replace " " by "▁"]     files of 2023 and 2024
 *  or pre_tokenizer   Metaspace "▁", prepend_scheme, split           later ones
 *     decoder         Sequence [Replace "▁" by " ", ByteFallback, Fuse, Strip " " once]
 *     model           BPE of characters, byte_fallback, unk_token, fuse_unk
 *     post_processor  TemplateProcessing: the tokens around one text
 *
 * Anything else is refused by name. */
#include "text/tokenizer_parts.h"

#include "base/mem.h"
#include "text/sentence_pieces.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *item = object != NULL ? mica_json_find(object, key) : NULL;
    return cJSON_IsString(item) ? item->valuestring : "";
}

static bool is_type(const cJSON *object, const char *type)
{
    return strcmp(text_of(object, "type"), type) == 0;
}

static const cJSON *first_of(const cJSON *sequence, const char *list)
{
    const cJSON *items = is_type(sequence, "Sequence") ? mica_json_find(sequence, list) : NULL;
    return cJSON_IsArray(items) ? items->child : NULL;
}

static bool is_absent(const cJSON *item)
{
    return item == NULL || cJSON_IsNull(item);
}

/* {"type": "Replace", "pattern": {"String": from}, "content": to} */
static bool is_replace(const cJSON *item, const char *from, const char *to)
{
    return is_type(item, "Replace") &&
           strcmp(text_of(mica_json_find(item, "pattern"), "String"), from) == 0 &&
           strcmp(text_of(item, "content"), to) == 0;
}

bool mica_tokenizer_is_sentence(const mica_json *j)
{
    const cJSON *item = first_of(mica_json_find(j->root, "decoder"), "decoders");
    for (; item != NULL; item = item->next)
        if (is_type(item, "ByteFallback"))
            return true;
    return false;
}

static mica_status read_decoder(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    const cJSON *item = first_of(mica_json_find(j->root, "decoder"), "decoders");
    if (!is_replace(item, MICA_SENTENCE_SPACE, " ") || !is_type(item->next, "ByteFallback") ||
        !is_type(item->next->next, "Fuse"))
        return mica_tokenizer_refuse(j, "decoder", text_of(item, "type"), err);
    const cJSON *strip = item->next->next->next;
    int64_t start = 0, stop = 0;
    if (strip == NULL)
        return MICA_OK;
    MICA_TRY(mica_json_opt_int(j, strip, "start", 0, 1, &start, err));
    MICA_TRY(mica_json_opt_int(j, strip, "stop", 0, 0, &stop, err));
    if (!is_type(strip, "Strip") || strcmp(text_of(strip, "content"), " ") != 0 ||
        strip->next != NULL)
        return mica_tokenizer_refuse(j, "decoder", text_of(strip, "type"), err);
    t->sentence.strip = start == 1;
    return MICA_OK;
}

static mica_status read_spaces(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    const cJSON *normalizer = mica_json_find(j->root, "normalizer");
    if (is_absent(normalizer))
        return MICA_OK;
    const cJSON *item = first_of(normalizer, "normalizers");
    t->sentence.normalizer = true;
    if (is_type(item, "Prepend") && strcmp(text_of(item, "prepend"), MICA_SENTENCE_SPACE) == 0) {
        t->sentence.prepend = true;
        item = item->next;
    } else if (is_type(normalizer, "Replace"))
        item = normalizer;
    if (!is_replace(item, " ", MICA_SENTENCE_SPACE) || (item != normalizer && item->next != NULL))
        return mica_tokenizer_refuse(j, "normalizer", text_of(normalizer, "type"), err);
    return MICA_OK;
}

/* Files before 0.15 of the reference have add_prefix_space instead of prepend_scheme. */
static mica_status read_metaspace(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    const cJSON *item = mica_json_find(j->root, "pre_tokenizer");
    bool prefix = true, split = true;
    if (is_absent(item))
        return t->sentence.normalizer ? MICA_OK
                                      : mica_tokenizer_refuse(j, "pre-tokenizer", "none", err);
    if (!is_type(item, "Metaspace") ||
        strcmp(text_of(item, "replacement"), MICA_SENTENCE_SPACE) != 0 || t->sentence.normalizer)
        return mica_tokenizer_refuse(j, "pre-tokenizer", text_of(item, "type"), err);
    MICA_TRY(mica_json_opt_bool(j, item, "add_prefix_space", &prefix, err));
    MICA_TRY(mica_json_opt_bool(j, item, "split", &split, err));
    const char *scheme = text_of(item, "prepend_scheme");
    if (scheme[0] == '\0')
        scheme = prefix ? "always" : "never";
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 &&
        strcmp(scheme, "never") != 0)
        return mica_tokenizer_refuse(j, "Metaspace scheme", scheme, err);
    t->sentence.prepend = strcmp(scheme, "never") != 0;
    t->sentence.only_first = strcmp(scheme, "first") == 0;
    t->sentence.split = split;
    return MICA_OK;
}

mica_status mica_tokenizer_read_sentence(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    t->sentence.on = true;
    MICA_TRY(read_decoder(t, j, err));
    MICA_TRY(read_spaces(t, j, err));
    return read_metaspace(t, j, err);
}

mica_status mica_tokenizer_bind_sentence(mica_tokenizer *t, const mica_json *j,
                                         const struct cJSON *model, mica_err *err)
{
    bool fallback = false;
    MICA_TRY(mica_json_opt_bool(j, model, "byte_fallback", &fallback, err));
    MICA_TRY(mica_json_opt_bool(j, model, "fuse_unk", &t->bpe.fuse_unknown, err));
    return mica_bpe_bind_characters(&t->bpe, &t->vocab, j->name, fallback,
                                    text_of(model, "unk_token"), err);
}

/* ---- post-processor ---- */

static mica_status template_token(const mica_tokenizer *t, const mica_json *j, const cJSON *item,
                                  int32_t *id, mica_err *err)
{
    const char *token = text_of(mica_json_find(item, "SpecialToken"), "id");
    *id = mica_tokenizer_find(t, token);
    if (*id < 0)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: the post-processor adds \"%s\", which is no token", j->name,
                         mica_token_printable(token, strlen(token)).text);
    return MICA_OK;
}

mica_status mica_tokenizer_read_template(mica_tokenizer *t, const mica_json *j, mica_err *err)
{
    const cJSON *post = mica_json_find(j->root, "post_processor");
    const cJSON *single =
        is_type(post, "TemplateProcessing") ? mica_json_find(post, "single") : NULL;
    bool behind = false;
    t->bos = t->eos = -1;
    for (const cJSON *item = single != NULL ? single->child : NULL; item; item = item->next) {
        if (mica_json_find(item, "Sequence") != NULL)
            behind = true;
        else
            MICA_TRY(template_token(t, j, item, behind ? &t->eos : &t->bos, err));
    }
    return MICA_OK;
}

/* ---- pieces with scores ---- */

typedef struct piece_merge {
    float score;
    int32_t token; /* what the merge makes */
    uint32_t left; /* bytes of its left part */
} piece_merge;

/* Higher scores first, then shorter left parts; the token's number keeps the order total. */
static int compare_merges(const void *a, const void *b)
{
    const piece_merge *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

typedef struct merge_list {
    piece_merge *items;
    size_t count, cap;
} merge_list;

/* Every way to cut one piece into two that are pieces themselves. */
static mica_status find_cuts(const mica_tokenizer *t, const char *name, const mica_pieces *p,
                             size_t i, merge_list *list, mica_err *err)
{
    const char *text = p->texts[i];
    const size_t size = strlen(text);
    for (size_t left = 1; left < size; left++) {
        if (((uint8_t)text[left] & 0xC0) == 0x80 || !mica_vocab_find(&t->vocab, text, left) ||
            !mica_vocab_find(&t->vocab, text + left, size - left))
            continue;
        if (!mica_array_reserve((void **)&list->items, &list->cap, list->count + 1,
                                sizeof *list->items))
            return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its merges", name);
        list->items[list->count++] = (piece_merge){p->scores[i], (int32_t)i, (uint32_t)left};
    }
    return MICA_OK;
}

static mica_status add_merges(mica_tokenizer *t, const char *name, const mica_pieces *p,
                              mica_err *err)
{
    merge_list list = {0};
    mica_status st = MICA_OK;
    for (size_t i = 0; i < p->count && !st; i++)
        if (p->kinds[i] == MICA_PIECE_NORMAL && p->scores[i] == p->scores[i])
            st = find_cuts(t, name, p, i, &list, err);
    if (list.count > 0)
        qsort(list.items, list.count, sizeof *list.items, compare_merges);
    for (size_t i = 0; i < list.count && !st; i++) {
        const char *text = p->texts[list.items[i].token];
        const size_t left = list.items[i].left;
        st = mica_bpe_add_merge(&t->bpe, &t->vocab, name, text, left, text + left,
                                strlen(text) - left, err);
    }
    mica_mem_free(list.items);
    return st;
}

static mica_status add_piece(mica_tokenizer *t, const char *name, const mica_pieces *p, size_t i,
                             mica_err *err)
{
    const char *text = p->texts[i];
    const int32_t kind = p->kinds[i];
    if (mica_vocab_find(&t->vocab, text, strlen(text)) || kind == MICA_PIECE_UNUSED)
        return MICA_OK; /* padded vocabularies repeat a filler */
    if (kind != MICA_PIECE_CONTROL && kind != MICA_PIECE_USER && kind != MICA_PIECE_UNKNOWN)
        return mica_vocab_add(&t->vocab, name, text, strlen(text), (int64_t)i, err);
    const mica_added_options options = {.special = kind != MICA_PIECE_USER};
    return mica_tokenizer_add_token(t, name, text, (int64_t)i, &options, err);
}

mica_status mica_tokenizer_read_pieces(mica_tokenizer *t, const char *name, const mica_pieces *p,
                                       mica_err *err)
{
    const char *unknown = NULL;
    t->sentence = (mica_sentence_rules){.on = true,
                                        .normalizer = true,
                                        .prepend = !p->no_space_prefix,
                                        .strip = !p->no_space_prefix};
    for (size_t i = 0; i < p->count; i++) {
        if (p->kinds[i] == MICA_PIECE_UNKNOWN)
            unknown = p->texts[i];
        MICA_TRY(add_piece(t, name, p, i, err));
    }
    t->bpe.fuse_unknown = true;
    t->bos = p->bos;
    t->eos = p->eos;
    MICA_TRY(mica_bpe_bind_characters(&t->bpe, &t->vocab, name, true, unknown, err));
    return add_merges(t, name, p, err);
}
