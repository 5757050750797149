/* tokenizer_write.c - a SentencePiece-style tokenizer as the tokenizer.json that its models were published with.
 *
 *     added tokens, Prepend and Replace, TemplateProcessing around one text, ByteFallback, BPE with vocab and merges
 *
 * Whoever reads the file encodes and decodes as this tokenizer does. Merges are written as pairs, as the reference
 * library has done since its version 0.20. */
#include "text/tokenizer_pieces.h"

#include "base/mem.h"
#include "text/sentence_pieces.h"
#include "text/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

static void add_string(mica_text *out, const mica_tokenizer *t, int32_t id)
{
    size_t size;
    const char *text = mica_tokenizer_get_spelling(t, id, &size);
    char *copy = text ? mica_mem_strndup(text, size) : NULL;
    out->failed |= copy == NULL;
    mica_text_add_json_string(out, copy ? copy : "");
    mica_mem_free(copy);
}

static const char *flag(bool on)
{
    return on ? "true" : "false";
}

static void add_added(mica_text *out, const mica_tokenizer *t)
{
    bool first = true;
    mica_text_add(out, "  \"added_tokens\": [");
    for (int32_t id = 0; id < mica_tokenizer_vocab_size(t); id++) {
        const mica_added_token *raw = mica_added_set_get(&t->raw, id);
        const mica_added_token *a = raw ? raw : mica_added_set_get(&t->normalized, id);
        if (!a)
            continue;
        mica_text_add(out, "%s\n    {\"id\": %d, \"content\": ", first ? "" : ",", (int)id);
        add_string(out, t, id);
        mica_text_add(out,
                      ", \"single_word\": %s, \"lstrip\": %s, \"rstrip\": %s, \"normalized\": %s, "
                      "\"special\": %s}",
                      flag(a->single_word), flag(a->lstrip), flag(a->rstrip), flag(!raw),
                      flag(mica_tokenizer_is_special(t, id)));
        first = false;
    }
    mica_text_add(out, "\n  ],\n");
}

static void add_special(mica_text *out, const mica_tokenizer *t, int32_t id)
{
    mica_text_add(out, "{\"SpecialToken\": {\"id\": ");
    add_string(out, t, id);
    mica_text_add(out, ", \"type_id\": 0}}");
}

static void add_entry(mica_text *out, const mica_tokenizer *t, int32_t id)
{
    add_string(out, t, id);
    mica_text_add(out, ": {\"id\": ");
    add_string(out, t, id);
    mica_text_add(out, ", \"ids\": [%d], \"tokens\": [", (int)id);
    add_string(out, t, id);
    mica_text_add(out, "]}");
}

static void add_template(mica_text *out, const mica_tokenizer *t)
{
    static const char *const SEQUENCE[] = {"{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}",
                                           "{\"Sequence\": {\"id\": \"B\", \"type_id\": 0}}"};
    mica_text_add(out, "  \"post_processor\": {\"type\": \"TemplateProcessing\"");
    for (int pair = 0; pair < 2; pair++) {
        mica_text_add(out, ", \"%s\": [", pair ? "pair" : "single");
        for (int i = 0; i <= pair; i++) {
            mica_text_add(out, "%s", i ? ", " : "");
            if (t->bos >= 0) {
                add_special(out, t, t->bos);
                mica_text_add(out, ", ");
            }
            mica_text_add(out, "%s", SEQUENCE[i]);
            if (t->eos >= 0) {
                mica_text_add(out, ", ");
                add_special(out, t, t->eos);
            }
        }
        mica_text_add(out, "]");
    }
    mica_text_add(out, ", \"special_tokens\": {");
    if (t->bos >= 0)
        add_entry(out, t, t->bos);
    if (t->eos >= 0 && t->eos != t->bos) {
        mica_text_add(out, t->bos >= 0 ? ", " : "");
        add_entry(out, t, t->eos);
    }
    mica_text_add(out, "}},\n");
}

static void add_rules(mica_text *out, const mica_tokenizer *t)
{
    const char *prepend =
        t->sentence.prepend ? "{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}, " : "";
    mica_text_add(out,
                  "  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [%s{\"type\": "
                  "\"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}]},\n"
                  "  \"pre_tokenizer\": null,\n",
                  prepend);
    add_template(out, t);
    mica_text_add(out,
                  "  \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "
                  "\"pattern\": {\"String\": \"\\u2581\"}, \"content\": \" \"}, {\"type\": "
                  "\"ByteFallback\"}, {\"type\": \"Fuse\"}%s]},\n",
                  t->sentence.strip ? ", {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, "
                                      "\"stop\": 0}"
                                    : "");
}

static int compare_ranks(const void *a, const void *b)
{
    const mica_bpe_merge *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* The table's merges in order; NULL: no memory. */
static mica_bpe_merge *sorted_merges(const mica_bpe *b)
{
    mica_bpe_merge *list = mica_mem_calloc(b->count + 1, sizeof *list);
    size_t n = 0;
    for (size_t i = 0; list && i < b->slot_count && n < b->count; i++)
        if (b->slots[i].pair != MICA_BPE_FREE_PAIR)
            list[n++] = b->slots[i];
    if (list && n > 0)
        qsort(list, n, sizeof *list, compare_ranks);
    return list;
}

static void add_merges(mica_text *out, const mica_tokenizer *t)
{
    mica_bpe_merge *list = sorted_merges(&t->bpe);
    out->failed |= list == NULL;
    for (size_t i = 0; list && i < t->bpe.count; i++) {
        mica_text_add(out, "%s\n      [", i ? "," : "");
        add_string(out, t, (int32_t)(list[i].pair >> 32));
        mica_text_add(out, ", ");
        add_string(out, t, (int32_t)(list[i].pair & UINT32_MAX));
        mica_text_add(out, "]");
    }
    mica_mem_free(list);
}

static void add_model(mica_text *out, const mica_tokenizer *t)
{
    bool first = true, fallback = false;
    for (int i = 0; i < 256; i++)
        fallback |= t->bpe.byte_id[i] >= 0;
    mica_text_add(out, "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": ");
    if (t->bpe.unknown >= 0)
        add_string(out, t, t->bpe.unknown);
    else
        mica_text_add(out, "null");
    mica_text_add(out,
                  ", \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
                  "\"fuse_unk\": %s, \"byte_fallback\": %s, \"ignore_merges\": %s,\n"
                  "    \"vocab\": {",
                  flag(t->bpe.fuse_unknown), flag(fallback), flag(t->bpe.ignore_merges));
    for (int32_t id = 0; id < mica_tokenizer_vocab_size(t); id++)
        if (mica_vocab_get(&t->vocab, id)) {
            mica_text_add(out, "%s\n      ", first ? "" : ",");
            add_string(out, t, id);
            mica_text_add(out, ": %d", (int)id);
            first = false;
        }
    mica_text_add(out, "\n    },\n    \"merges\": [");
    add_merges(out, t);
    mica_text_add(out, "\n    ]\n  }\n}\n");
}

mica_status mica_tokenizer_write_json(const mica_tokenizer *t, mica_text *out, mica_err *err)
{
    if (!t->sentence.on || !t->sentence.normalizer)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "a tokenizer.json is written of SentencePiece-style vocabularies alone");
    mica_text_add(out,
                  "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    add_added(out, t);
    add_rules(out, t);
    add_model(out, t);
    return out->failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for a tokenizer.json") : MICA_OK;
}
