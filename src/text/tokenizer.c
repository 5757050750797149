/* tokenizer.c - mica_tokenizer: open, encode, decode.
 *
 * encode keeps everything it changes in a `run` on the stack and its own allocations; the
 * tokenizer itself is not written, so any number of threads may encode with one. There is no
 * cache of words: a prompt is a few hundred words, and most of them occur once. */
#include "text/tokenizer_parts.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/byte_alphabet.h"
#include "text/sentence_pieces.h"

#include <inttypes.h>
#include <string.h>

typedef struct run {
    const mica_tokenizer *t;
    mica_splitter_run splitter;
    mica_bpe_scratch scratch;
    mica_id_list ids;
    const char *begin; /* of the whole text */
    const char *first; /* where the gap at hand begins if it is the first of the text, else NULL */
} run;

/* ---- open, close ---- */

void mica_tokenizer_close(mica_tokenizer **t)
{
    if (t == NULL || *t == NULL)
        return;
    mica_vocab_deinit(&(*t)->vocab);
    mica_bpe_deinit(&(*t)->bpe);
    mica_added_set_deinit(&(*t)->raw);
    mica_added_set_deinit(&(*t)->normalized);
    mica_splitter_deinit(&(*t)->splitter);
    mica_mem_free(*t);
    *t = NULL;
}

static mica_tokenizer *new_tokenizer(const char *name, mica_err *err)
{
    mica_tokenizer *t = mica_mem_calloc(1, sizeof *t);
    if (t == NULL)
        mica_err_set(err, MICA_E_NOMEM, "%s: no memory for a tokenizer", name);
    else
        t->bos = t->eos = -1;
    return t;
}

/* Hands out what was read, or closes it. */
static mica_status finish_open(mica_tokenizer **out, mica_tokenizer *t, mica_status status)
{
    if (status == MICA_OK) {
        mica_added_set_finish(&t->raw);
        mica_added_set_finish(&t->normalized);
    } else
        mica_tokenizer_close(&t);
    *out = t;
    return status;
}

mica_status mica_tokenizer_open(mica_tokenizer **out, const char *path, mica_err *err)
{
    mica_json j = {0};
    *out = NULL;
    mica_tokenizer *t = new_tokenizer(path, err);
    if (t == NULL)
        return MICA_E_NOMEM;
    if (mica_path_is_dir(path))
        return finish_open(out, t, mica_tokenizer_read_folder(t, path, err));
    mica_status status = mica_json_open(&j, path, err);
    if (status == MICA_OK)
        status = mica_tokenizer_read_json(t, &j, err);
    mica_json_close(&j);
    return finish_open(out, t, status);
}

mica_status mica_tokenizer_open_json(mica_tokenizer **out, const char *name, const char *text,
                                     size_t size, mica_err *err)
{
    mica_json j = {0};
    *out = NULL;
    mica_tokenizer *t = new_tokenizer(name, err);
    if (t == NULL)
        return MICA_E_NOMEM;
    mica_status status = mica_json_parse(&j, name, text, size, err);
    if (status == MICA_OK)
        status = mica_tokenizer_read_json(t, &j, err);
    mica_json_close(&j);
    return finish_open(out, t, status);
}

mica_status mica_tokenizer_open_pieces(mica_tokenizer **out, const char *name,
                                       const mica_pieces *pieces, mica_err *err)
{
    *out = NULL;
    mica_tokenizer *t = new_tokenizer(name, err);
    if (t == NULL)
        return MICA_E_NOMEM;
    return finish_open(out, t, mica_tokenizer_read_pieces(t, name, pieces, err));
}

/* ---- encode ---- */

static mica_status emit_piece(void *user, const char *piece, size_t size, mica_err *err)
{
    run *r = user;
    return mica_bpe_encode(&r->t->bpe, &r->t->vocab, piece, size, &r->scratch, &r->ids, err);
}

typedef mica_status (*gap_fn)(run *r, const char *text, size_t size, mica_err *err);

/* Ids of the set's tokens in the text; what lies between them goes to `gap`. */
static mica_status cut(run *r, const mica_added_set *set, const char *text, size_t size, gap_fn gap,
                       mica_err *err)
{
    mica_added_cursor cursor = {0};
    mica_added_match match;
    size_t done = 0;
    while (mica_added_set_find(set, text, size, &cursor, &match)) {
        if (match.start > done)
            MICA_TRY(gap(r, text + done, match.start - done, err));
        MICA_TRY(mica_id_list_push(&r->ids, match.id, err));
        done = match.end;
    }
    return size > done ? gap(r, text + done, size - done, err) : MICA_OK;
}

/* Metaspace: spaces made visible behind the added tokens. */
static mica_status sentence_gap(run *r, const char *text, size_t size, mica_err *err)
{
    const mica_sentence_rules *rules = &r->t->sentence;
    char *form = NULL;
    size_t form_size = 0;
    if (rules->normalizer)
        return mica_sentence_split(rules, text, size, emit_piece, r, err);
    MICA_TRY(mica_sentence_form(rules, text, size, text == r->first, &form, &form_size, err));
    const mica_status status = mica_sentence_split(rules, form, form_size, emit_piece, r, err);
    mica_mem_free(form);
    return status;
}

static mica_status split_gap(run *r, const char *text, size_t size, mica_err *err)
{
    if (r->t->sentence.on)
        return sentence_gap(r, text, size, err);
    return mica_splitter_run_text(&r->splitter, text, size, err);
}

/* Every character below U+0300 is its own NFC and composes with none before it. Their UTF-8
 * begins with a byte below 0xCC, which spares most text the normalisation. */
static bool is_surely_nfc(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((uint8_t)text[i] >= 0xCC)
            return false;
    return true;
}

static mica_status normalize_gap(run *r, const char *text, size_t size, mica_err *err)
{
    char *form = NULL;
    size_t form_size = 0;
    const mica_sentence_rules *rules = &r->t->sentence;
    r->first = text == r->begin ? text : NULL;
    if (!rules->normalizer && (!r->t->nfc || is_surely_nfc(text, size)))
        return cut(r, &r->t->normalized, text, size, split_gap, err);
    if (rules->normalizer)
        MICA_TRY(mica_sentence_form(rules, text, size, r->first != NULL, &form, &form_size, err));
    else
        MICA_TRY(mica_utf8_nfc(text, size, &form, &form_size, err));
    r->first = r->first != NULL ? form : NULL;
    const mica_status status = cut(r, &r->t->normalized, form, form_size, split_gap, err);
    mica_mem_free(form);
    return status;
}

static mica_status encode_valid(run *r, const char *text, size_t size, mica_err *err)
{
    mica_status status = mica_splitter_run_init(&r->splitter, &r->t->splitter, err);
    r->splitter.emit = emit_piece;
    r->splitter.user = r;
    r->begin = text;
    if (status == MICA_OK)
        status = cut(r, &r->t->raw, text, size, normalize_gap, err);
    mica_splitter_run_deinit(&r->splitter);
    mica_bpe_scratch_deinit(&r->scratch);
    return status;
}

mica_status mica_tokenizer_encode(const mica_tokenizer *t, const char *text, size_t size,
                                  int32_t **ids, size_t *count, mica_err *err)
{
    run r = {.t = t};
    char *clean = NULL;
    *ids = NULL;
    *count = 0;
    if (size > MICA_TOKENIZER_MAX_TEXT)
        return MICA_FAIL(err, MICA_E_USAGE, "the text has %zu bytes, at most %d are taken", size,
                         MICA_TOKENIZER_MAX_TEXT);
    if (!mica_utf8_is_valid(text, size)) {
        MICA_TRY(mica_utf8_sanitize(text, size, &clean, &size, err));
        text = clean;
    }
    mica_status status = MICA_OK;
    if (!mica_array_reserve((void **)&r.ids.ids, &r.ids.cap, size / 4 + 1, sizeof *r.ids.ids))
        status = MICA_FAIL(err, MICA_E_NOMEM, "no memory to encode %zu bytes of text", size);
    if (status == MICA_OK)
        status = encode_valid(&r, text, size, err);
    mica_mem_free(clean);
    if (status != MICA_OK) {
        mica_mem_free(r.ids.ids);
        return status;
    }
    *ids = r.ids.ids;
    *count = r.ids.count;
    return MICA_OK;
}

/* ---- decode ---- */

/* The bytes a spelling stands for. One character outside the byte alphabet makes the whole
 * spelling plain text, as in ByteLevel::decode_chain. Returns bytes written, at most size. */
static size_t spelled_bytes(const char *spelling, size_t size, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        uint32_t cp;
        i += mica_utf8_decode(spelling + i, size - i, &cp);
        const int byte = mica_symbol_to_byte(cp);
        if (byte < 0) {
            memcpy(out, spelling, size);
            return size;
        }
        out[n++] = (char)byte;
    }
    return n;
}

/* What an id is decoded from; size 0: no token has it. */
static const char *find_spelling(const mica_tokenizer *t, const mica_vocab_entry *e, size_t *size)
{
    const mica_added_token *normal =
        e != NULL && e->respelled ? mica_added_set_get(&t->normalized, e->id) : NULL;
    if (normal != NULL) {
        *size = normal->size;
        return normal->text;
    }
    *size = e != NULL ? e->size : 0;
    return e != NULL ? mica_vocab_text(&t->vocab, e) : "";
}

/* Upper bound of the decoded size; ids must not be negative. */
static mica_status measure(const mica_tokenizer *t, const int32_t *ids, size_t count, size_t *size,
                           mica_err *err)
{
    *size = 0;
    for (size_t i = 0; i < count; i++) {
        size_t spelled;
        if (ids[i] < 0)
            return MICA_FAIL(err, MICA_E_USAGE, "token id %" PRId32 " at position %zu is negative",
                             ids[i], i);
        find_spelling(t, mica_vocab_get(&t->vocab, ids[i]), &spelled);
        *size += spelled;
    }
    return MICA_OK;
}

static size_t decode_bytes(const mica_tokenizer *t, const int32_t *ids, size_t count,
                           bool skip_special, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const mica_vocab_entry *e = mica_vocab_get(&t->vocab, ids[i]);
        size_t spelled;
        const char *spelling = find_spelling(t, e, &spelled);
        if (e != NULL && !(skip_special && e->special))
            n += spelled_bytes(spelling, spelled, out + n);
    }
    return n;
}

/* A byte token counts six characters in `measure` and gives at most three bytes here. */
static size_t decode_sentence(const mica_tokenizer *t, const int32_t *ids, size_t count,
                              bool skip_special, char *out)
{
    mica_sentence_decoder d = {.out = out};
    for (size_t i = 0; i < count; i++) {
        const mica_vocab_entry *e = mica_vocab_get(&t->vocab, ids[i]);
        size_t spelled;
        const char *spelling = find_spelling(t, e, &spelled);
        if (e != NULL && !(skip_special && e->special))
            mica_sentence_decoder_add(&d, spelling, spelled);
    }
    return mica_sentence_decoder_finish(&d, t->sentence.strip);
}

mica_status mica_tokenizer_decode(const mica_tokenizer *t, const int32_t *ids, size_t count,
                                  bool skip_special, char **text, size_t *size, mica_err *err)
{
    size_t bound = 0, n = 0;
    *text = NULL;
    *size = 0;
    MICA_TRY(measure(t, ids, count, &bound, err));
    char *bytes = mica_mem_alloc(bound + 1);
    if (bytes == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to decode %zu tokens", count);
    if (t->sentence.on)
        n = decode_sentence(t, ids, count, skip_special, bytes);
    else
        n = decode_bytes(t, ids, count, skip_special, bytes);
    const mica_status status = mica_utf8_sanitize(bytes, n, text, size, err);
    mica_mem_free(bytes);
    return status;
}

/* ---- lookup ---- */

int32_t mica_tokenizer_find(const mica_tokenizer *t, const char *token)
{
    const mica_vocab_entry *e = mica_vocab_find(&t->vocab, token, strlen(token));
    return e != NULL ? e->id : -1;
}

int32_t mica_tokenizer_vocab_size(const mica_tokenizer *t)
{
    return (int32_t)t->vocab.id_count;
}

int32_t mica_tokenizer_bos(const mica_tokenizer *t)
{
    return t->bos;
}

int32_t mica_tokenizer_eos(const mica_tokenizer *t)
{
    return t->eos;
}

bool mica_tokenizer_is_special(const mica_tokenizer *t, int32_t id)
{
    const mica_vocab_entry *e = mica_vocab_get(&t->vocab, id);
    return e != NULL && e->special;
}

size_t mica_tokenizer_piece(const mica_tokenizer *t, int32_t id, char *out, size_t cap)
{
    char bytes[MICA_TOKEN_MAX_SIZE];
    size_t n = 0, spelled;
    const mica_vocab_entry *e = mica_vocab_get(&t->vocab, id);
    const char *spelling = find_spelling(t, e, &spelled);
    if (e != NULL && spelled <= sizeof bytes)
        n = t->sentence.on ? mica_sentence_piece(spelling, spelled, bytes)
                           : spelled_bytes(spelling, spelled, bytes);
    if (out != NULL)
        memcpy(out, bytes, MICA_MIN(n, cap));
    return n;
}
