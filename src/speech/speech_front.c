/* speech_front.c - the front end: pieces, spans, ids.
 *
 * A piece of fewer than six phones is read again with a full stop before it, an English span of fewer than
 * four gets a comma: very short inputs are where the networks stumble (TextPreprocessor.py,
 * cleaner.py). */
#include "speech/speech_text.h"

#include "speech/chinese.h"
#include "speech/english.h"
#include "speech/speech_cut.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <string.h>

#define ARENA_CHUNK (64 * 1024)
#define FEW_PHONES  6
#define FEW_ENGLISH 4
#define TRANSCRIPT  510            /* characters: BERT has 512 places, and ten seconds have 100 */
#define FULL_STOP   "\xe3\x80\x82" /* 。, which cutting may have put before a short beginning */
#define MAX_PHONES  4096           /* of one piece given by name */

struct mica_speech_front {
    mica_symbols symbols;
    mica_english english;
    mica_chinese chinese;
    int32_t comma, sp2, sp3;
};

void mica_speech_front_close(mica_speech_front **f)
{
    if (*f == NULL)
        return;
    mica_english_deinit(&(*f)->english);
    mica_chinese_deinit(&(*f)->chinese);
    mica_mem_free(*f);
    *f = NULL;
}

mica_status mica_speech_front_open(mica_speech_front **out, mica_err *err)
{
    mica_speech_front *f = mica_mem_calloc(1, sizeof *f);
    *out = NULL;
    if (f == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the text front end");
    mica_status status = mica_symbols_init(&f->symbols, err);
    if (status == MICA_OK)
        status = mica_english_init(&f->english, &f->symbols, err);
    if (status == MICA_OK)
        status = mica_chinese_init(&f->chinese, &f->symbols, err);
    f->comma = mica_symbols_find(&f->symbols, MICA_SYMBOLS_V1, ",", 1);
    f->sp2 = mica_symbols_find(&f->symbols, MICA_SYMBOLS_V1, "SP2", 3);
    f->sp3 = mica_symbols_find(&f->symbols, MICA_SYMBOLS_V1, "SP3", 3);
    if (status != MICA_OK)
        mica_speech_front_close(&f);
    *out = f;
    return status;
}

mica_status mica_speech_language_find(const char *name, mica_speech_language *out, mica_err *err)
{
    static const struct {
        const char *name;
        mica_speech_language language;
    } known[] = {{"auto", MICA_SPEECH_AUTO},
                 {"zh", MICA_SPEECH_ZH},
                 {"all_zh", MICA_SPEECH_ZH},
                 {"en", MICA_SPEECH_EN}};
    static const char *const others[][2] = {
        {"ja", "Japanese"},        {"all_ja", "Japanese"}, {"ko", "Korean"},
        {"all_ko", "Korean"},      {"yue", "Cantonese"},   {"all_yue", "Cantonese"},
        {"auto_yue", "Cantonese"},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(known); i++)
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].language;
            return MICA_OK;
        }
    for (size_t i = 0; i < MICA_ARRAY_LEN(others); i++)
        if (strcmp(name, others[i][0]) == 0)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "%s (%s) is not spoken yet; auto, zh and en are", others[i][1], name);
    return MICA_FAIL(err, MICA_E_USAGE, "no language \"%s\" (auto, zh, en)", name);
}

mica_status mica_speech_cut_find(const char *name, mica_speech_cut *out, mica_err *err)
{
    if (strlen(name) == 4 && memcmp(name, "cut", 3) == 0 && name[3] >= '0' && name[3] <= '5') {
        *out = (mica_speech_cut)(name[3] - '0');
        return MICA_OK;
    }
    return MICA_FAIL(err, MICA_E_USAGE, "no way to cut \"%s\" (cut0 to cut5)", name);
}

void mica_speech_pieces_deinit(mica_speech_pieces *p)
{
    mica_arena_deinit(&p->arena);
    memset(p, 0, sizeof *p);
}

const char *mica_speech_phone_name(const mica_speech_front *f, int phone_count, int32_t id)
{
    if (phone_count != MICA_SYMBOLS_V1 && phone_count != MICA_SYMBOLS_V2)
        return NULL;
    return id >= 0 && id < phone_count ? f->symbols.names[id] : NULL;
}

int mica_speech_reading(const mica_speech_front *f, const char *pinyin, int tone)
{
    return tone >= 1 && tone <= 5 ? mica_chinese_dict_reading_of(&f->chinese.dict, pinyin, tone)
                                  : -1;
}

static mica_status check_options(const mica_speech_text_options *o, size_t size, mica_err *err)
{
    if (o->phone_count != MICA_SYMBOLS_V1 && o->phone_count != MICA_SYMBOLS_V2)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "a model with %d phones; tables of 322 (v1) and 732 (v2) are known",
                         o->phone_count);
    if (size > MICA_SPEECH_MAX_TEXT)
        return MICA_FAIL(err, MICA_E_USAGE, "a text of %zu bytes; at most %d at a time", size,
                         MICA_SPEECH_MAX_TEXT);
    return MICA_OK;
}

/* ---- spans ---- */

static int32_t *keep_ids(mica_arena *arena, const mica_phone_list *l)
{
    int32_t *ids = mica_arena_alloc(arena, (l->count + 1) * sizeof *ids);
    if (ids != NULL && l->count > 0)
        memcpy(ids, l->ids, l->count * sizeof *ids);
    return ids;
}

static mica_status keep_span(mica_arena *arena, const mica_text *text,
                             const mica_phone_list *phones, const mica_phone_list *counts,
                             mica_speech_span *span, mica_err *err)
{
    span->text = mica_arena_strndup(arena, text->data != NULL ? text->data : "", text->size);
    span->phones = keep_ids(arena, phones);
    span->phone_count = phones->count;
    span->char_count = counts->count;
    span->phones_of_char = counts->count > 0 ? keep_ids(arena, counts) : NULL;
    if (phones->failed || counts->failed || span->text == NULL || span->phones == NULL ||
        (counts->count > 0 && span->phones_of_char == NULL))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the phones of a text");
    return MICA_OK;
}

static mica_status read_english(const mica_speech_front *f, const char *text, size_t size,
                                mica_arena *arena, mica_speech_span *span, mica_err *err)
{
    mica_text normal = {0};
    mica_phone_list phones = {0}, all = {0}, none = {0};
    mica_status status = mica_english_normalize(&f->english, text, size, &normal, err);
    if (status == MICA_OK && normal.size > 0) {
        mica_english_read(&f->english, normal.data, normal.size, &phones);
        if (phones.count > 0 && phones.count < FEW_ENGLISH)
            mica_phone_list_add(&all, f->comma);
        for (size_t i = 0; i < phones.count; i++)
            mica_phone_list_add(&all, phones.ids[i]);
        all.failed |= phones.failed;
    }
    span->language = MICA_SPEECH_EN;
    if (status == MICA_OK)
        status = keep_span(arena, &normal, &all, &none, span, err);
    mica_text_deinit(&normal);
    mica_mem_free(phones.ids);
    mica_mem_free(all.ids);
    return status;
}

/* ￥ and ^ ask for longer pauses: every comma of the span becomes SP2 or SP3 then. Before a digit
 * ￥ is money. */
static int32_t find_pauses(const mica_speech_front *f, const char *text, size_t size,
                           mica_text *out)
{
    static const char wide_yen[] = "\xef\xbf\xa5";
    bool sp2 = false, sp3 = false;
    for (size_t at = 0; at < size;) {
        const bool yen = at + 3 <= size && memcmp(text + at, wide_yen, 3) == 0;
        const bool money = yen && at + 3 < size && text[at + 3] >= '0' && text[at + 3] <= '9';
        sp2 |= yen && !money;
        sp3 |= text[at] == '^';
        mica_text_add_bytes(out,
                            money                    ? "\xc2\xa5"
                            : yen || text[at] == '^' ? ","
                                                     : text + at,
                            money ? 2 : 1);
        at += yen ? 3 : 1;
    }
    return sp2 ? f->sp2 : sp3 ? f->sp3 : -1;
}

/* Letters behind a number that make it an amount: 256GB, 500G; not 1080P, 737MAX. */
static bool begins_with_unit(const char *text, size_t size)
{
    static const char *const units[] = {"GB", "MB", "KB", "TB", "G", "M", "K", "T", "A"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(units); i++) {
        const size_t n = strlen(units[i]);
        if (size < n || memcmp(text, units[i], n) != 0)
            continue;
        const char next = size > n ? text[n] : ' ';
        return !((next | 32) >= 'a' && (next | 32) <= 'z') && !(next >= '0' && next <= '9');
    }
    return false;
}

/* is_amount: a number at the end has its unit in the next span. */
static mica_status read_chinese(const mica_speech_front *f, const char *text, size_t size,
                                bool is_amount, const mica_speech_reader *reader, mica_arena *arena,
                                mica_speech_span *span, mica_err *err)
{
    mica_text marked = {0}, normal = {0};
    mica_phone_list phones = {0}, counts = {0};
    const int32_t pauses = find_pauses(f, text, size, &marked);
    mica_status status = MICA_OK;
    if (is_amount)
        mica_text_add(&marked, "%s", MICA_CHINESE_AMOUNT);
    if (marked.failed)
        status = MICA_FAIL(err, MICA_E_NOMEM, "no memory for the text");
    else if (marked.size > 0)
        status = mica_chinese_normalize(&f->chinese, marked.data, marked.size, &normal, err);
    if (status == MICA_OK && normal.size > 0)
        status = mica_chinese_read(&f->chinese, normal.data, normal.size, pauses, reader, &phones,
                                   &counts, err);
    span->language = MICA_SPEECH_ZH;
    if (status == MICA_OK)
        status = keep_span(arena, &normal, &phones, &counts, span, err);
    mica_text_deinit(&marked);
    mica_text_deinit(&normal);
    mica_mem_free(phones.ids);
    mica_mem_free(counts.ids);
    return status;
}

/* ---- pieces ---- */

static mica_status read_spans(const mica_speech_front *f, const char *text, size_t size,
                              const mica_speech_text_options *o, mica_arena *arena,
                              mica_speech_piece *piece, mica_err *err)
{
    mica_language_run *runs;
    size_t count;
    MICA_TRY(mica_speech_find_languages(text, size, o->language, arena, &runs, &count, err));
    piece->spans = mica_arena_calloc(arena, count + 1, sizeof *piece->spans);
    if (piece->spans == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a text of %zu bytes", size);
    piece->span_count = piece->phone_count = 0;
    for (size_t i = 0; i < count; i++) {
        mica_speech_span *span = &piece->spans[piece->span_count];
        const char *run = text + runs[i].begin;
        MICA_TRY(runs[i].language == MICA_SPEECH_EN
                     ? read_english(f, run, runs[i].size, arena, span, err)
                     : read_chinese(f, run, runs[i].size,
                                    i + 1 < count && begins_with_unit(text + runs[i + 1].begin,
                                                                      runs[i + 1].size),
                                    o->reader, arena, span, err));
        piece->phone_count += span->phone_count;
        piece->span_count += span->phone_count > 0;
    }
    return MICA_OK;
}

static mica_status read_piece(const mica_speech_front *f, const mica_cut_piece *cut,
                              const mica_speech_text_options *o, mica_arena *arena,
                              mica_speech_piece *piece, mica_err *err)
{
    piece->source = cut->text + strspn(cut->text, " \t.");
    while (strncmp(piece->source, FULL_STOP, sizeof FULL_STOP - 1) == 0)
        piece->source += sizeof FULL_STOP - 1;
    piece->text = cut->text;
    MICA_TRY(read_spans(f, cut->text, cut->size, o, arena, piece, err));
    if (piece->phone_count >= FEW_PHONES || piece->phone_count == 0)
        return MICA_OK;
    char *again = mica_arena_alloc(arena, cut->size + 2);
    if (again == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a text of %zu bytes", cut->size);
    again[0] = '.';
    memcpy(again + 1, cut->text, cut->size + 1);
    return read_spans(f, again, cut->size + 1, o, arena, piece, err);
}

static mica_status read_pieces(const mica_speech_front *f, const mica_cut_piece *cuts, size_t count,
                               const mica_speech_text_options *o, mica_speech_pieces *out,
                               mica_err *err)
{
    out->pieces = mica_arena_calloc(&out->arena, count + 1, sizeof *out->pieces);
    if (out->pieces == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu pieces of text", count);
    for (size_t i = 0; i < count; i++) {
        mica_speech_piece *piece = &out->pieces[out->count];
        MICA_TRY(read_piece(f, &cuts[i], o, &out->arena, piece, err));
        out->count += piece->phone_count > 0;
    }
    if (out->count == 0)
        return MICA_FAIL(err, MICA_E_USAGE, "the text has nothing to say");
    return MICA_OK;
}

mica_status mica_speech_front_reread(const mica_speech_front *f, const mica_speech_text_options *o,
                                     mica_speech_pieces *p, size_t index, mica_err *err)
{
    mica_speech_piece *piece = &p->pieces[index];
    const mica_cut_piece cut = {piece->text, strlen(piece->text)};
    MICA_TRY(check_options(o, cut.size, err));
    return read_piece(f, &cut, o, &p->arena, piece, err);
}

static mica_status start(const mica_speech_text_options *o, const char *text, size_t size,
                         char **clean, size_t *clean_size, mica_speech_pieces *out, mica_err *err)
{
    memset(out, 0, sizeof *out);
    *clean = NULL;
    MICA_TRY(check_options(o, size, err));
    MICA_TRY(mica_utf8_sanitize(text, size, clean, clean_size, err));
    mica_arena_init(&out->arena, ARENA_CHUNK);
    return MICA_OK;
}

mica_status mica_speech_front_run(const mica_speech_front *f, const char *text, size_t size,
                                  const mica_speech_text_options *o, mica_speech_pieces *out,
                                  mica_err *err)
{
    char *clean;
    mica_cut_piece *cuts = NULL;
    size_t count = 0;
    MICA_TRY(start(o, text, size, &clean, &size, out, err));
    mica_status status = mica_speech_cut_text(clean, size, o, &out->arena, &cuts, &count, err);
    if (status == MICA_OK)
        status = read_pieces(f, cuts, count, o, out, err);
    mica_mem_free(clean);
    if (status != MICA_OK)
        mica_speech_pieces_deinit(out);
    return status;
}

mica_status mica_speech_front_run_transcript(const mica_speech_front *f, const char *text,
                                             size_t size, const mica_speech_text_options *o,
                                             mica_speech_pieces *out, mica_err *err)
{
    char *clean;
    mica_cut_piece cut;
    MICA_TRY(start(o, text, size, &clean, &size, out, err));
    size_t characters = 0;
    for (size_t i = 0; i < size; i++)
        characters += ((uint8_t)clean[i] & 0xc0) != 0x80;
    if (characters > TRANSCRIPT) {
        mica_mem_free(clean);
        mica_speech_pieces_deinit(out);
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "a transcript of %zu characters; what is said in ten seconds has at most %d",
            characters, TRANSCRIPT);
    }
    mica_status status =
        mica_speech_close_text(clean, size, o->language == MICA_SPEECH_EN, &out->arena, &cut, err);
    if (status == MICA_OK)
        status = read_pieces(f, &cut, 1, o, out, err);
    mica_mem_free(clean);
    if (status != MICA_OK)
        mica_speech_pieces_deinit(out);
    return status;
}

/* ---- phones by name ---- */

static mica_status parse_names(const mica_speech_front *f, const char *names, size_t size,
                               int phone_count, mica_phone_list *out, mica_err *err)
{
    for (size_t at = 0; at < size;) {
        size_t n = 0;
        while (at + n < size && strchr(" \t\r\n", names[at + n]) == NULL)
            n++;
        if (n == 0) {
            at++;
            continue;
        }
        const int32_t id = mica_symbols_find(&f->symbols, phone_count, names + at, n);
        if (id < 0)
            return MICA_FAIL(err, MICA_E_USAGE,
                             "phone %zu, \"%.*s\", is not one of the %d of the model",
                             out->count + 1, (int)MICA_MIN(n, (size_t)32), names + at, phone_count);
        if (out->count >= MAX_PHONES)
            return MICA_FAIL(err, MICA_E_USAGE, "more than %d phones at a time", MAX_PHONES);
        mica_phone_list_add(out, id);
        at += n;
    }
    return out->count > 0 ? MICA_OK : MICA_FAIL(err, MICA_E_USAGE, "no phones are there");
}

/* As a subtitle shows it: line breaks become spaces, none at the end. Returns what is left of the size. */
static size_t join_lines(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] == '\n' || text[i] == '\r' || text[i] == '\t')
            text[i] = ' ';
    while (size > 0 && text[size - 1] == ' ')
        size--;
    return size;
}

mica_status mica_speech_parse_phones(const mica_speech_front *f, const char *names, size_t size,
                                     int phone_count, mica_speech_pieces *out, mica_err *err)
{
    const mica_speech_text_options o = {.phone_count = phone_count};
    mica_phone_list phones = {0}, none = {0};
    const mica_text no_text = {0};
    char *clean;
    MICA_TRY(start(&o, names, size, &clean, &size, out, err));
    mica_status status = parse_names(f, clean, size, phone_count, &phones, err);
    if (status == MICA_OK) {
        out->pieces = mica_arena_calloc(&out->arena, 1, sizeof *out->pieces);
        mica_speech_span *span = mica_arena_calloc(&out->arena, 1, sizeof *span);
        if (out->pieces == NULL || span == NULL)
            status = MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu phones", phones.count);
        else {
            size = join_lines(clean, size);
            *out->pieces =
                (mica_speech_piece){.source = mica_arena_strndup(&out->arena, clean, size),
                                    .spans = span,
                                    .span_count = 1,
                                    .phone_count = phones.count};
            span->language = MICA_SPEECH_EN;
            out->count = 1;
            status = keep_span(&out->arena, &no_text, &phones, &none, span, err);
        }
    }
    mica_mem_free(clean);
    mica_mem_free(phones.ids);
    if (status != MICA_OK)
        mica_speech_pieces_deinit(out);
    return status;
}
