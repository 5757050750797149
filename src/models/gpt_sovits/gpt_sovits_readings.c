/* gpt_sovits_readings.c - see gpt_sovits_readings.h.
 *
 * Sixteen characters around the first and the last that is asked about go into the network, all questions
 * of a sentence at once; a sentence longer than BERT takes is cut around each question. */
#include "models/gpt_sovits/gpt_sovits_readings.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "speech/bopomofo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AROUND     16 /* characters of context */
#define MAX_LIST   ((size_t)4 << 20)
#define MAX_ROWS   20000
#define MAX_LABELS 8192

/* ---- lists ---- */

/* A line: character and reading, as they stand in the file. */
typedef struct row {
    uint32_t cp;
    const char *character, *label; /* NUL-terminated, inside the text */
} row;

typedef struct list {
    char *text;
    row *rows; /* in the arena */
    size_t count;
} list;

static mica_status no_memory(mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the lists of g2pW");
}

/* folder of a file, or the folder itself; with `name`. mica_mem_free. */
static char *beside(const char *path, const char *name)
{
    if (mica_path_is_dir(path))
        return mica_path_join(path, name);
    const char *slash = strrchr(path, '/');
    char *folder =
        slash ? mica_mem_strndup(path, MICA_MAX((size_t)(slash - path), 1)) : mica_mem_strdup(".");
    char *joined = folder ? mica_path_join(folder, name) : NULL;
    mica_mem_free(folder);
    return joined;
}

static mica_status read_rows(list *l, const char *path, size_t size, mica_arena *arena,
                             mica_err *err)
{
    size_t lines = 1;
    for (size_t i = 0; i < size; i++)
        lines += l->text[i] == '\n';
    if (lines > MAX_ROWS)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %zu lines; at most %d are read", path, lines,
                         MAX_ROWS);
    l->rows = mica_arena_calloc(arena, lines, sizeof *l->rows);
    if (!l->rows)
        return no_memory(err);
    for (char *at = l->text; *at;) {
        char *end = at + strcspn(at, "\n"), *next = *end ? end + 1 : end;
        *end = '\0';
        end[end > at && end[-1] == '\r' ? -1 : 0] = '\0';
        char *tab = strchr(at, '\t');
        if (*at && !tab)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: a line without a tab between character and reading", path);
        if (tab) {
            row *r = &l->rows[l->count++];
            *tab = '\0';
            *r = (row){.character = at, .label = tab + 1};
            if (mica_utf8_decode(at, strlen(at), &r->cp) != strlen(at))
                return MICA_FAIL(err, MICA_E_FORMAT, "%s: line %zu does not begin with a character",
                                 path, l->count);
        }
        at = next;
    }
    return MICA_OK;
}

/* needed false: a list that is not there is empty. l->text is freed with mica_mem_free. */
static mica_status read_list(list *l, const char *path, const char *name, bool needed,
                             mica_arena *arena, mica_err *err)
{
    size_t size = 0;
    char *file = beside(path, name);
    *l = (list){.text = NULL};
    if (!file)
        return no_memory(err);
    mica_status st = MICA_OK;
    if (mica_path_is_file(file))
        st = mica_file_read(file, MAX_LIST, &l->text, &size, err);
    else if (needed)
        st = MICA_FAIL(err, MICA_E_MISSING,
                       "%s: it is not there; g2pW cannot be used without its list of characters",
                       file);
    if (!st && l->text)
        st = read_rows(l, file, size, arena, err);
    mica_mem_free(file);
    return st;
}

/* config.py says so in a line of its own. */
static mica_status read_config(const char *path, bool *use_mask, mica_err *err)
{
    char *file = beside(path, "config.py"), *text = NULL;
    size_t size;
    *use_mask = true;
    if (!file)
        return no_memory(err);
    mica_status st =
        mica_path_is_file(file) ? mica_file_read(file, MAX_LIST, &text, &size, err) : MICA_OK;
    for (const char *at = text; at && *at; at += strcspn(at, "\n"), at += *at == '\n') {
        char value[8] = "";
        if (sscanf(at, "use_mask = %7[A-Za-z]", value) == 1)
            *use_mask = strcmp(value, "False") != 0;
    }
    mica_mem_free(text);
    mica_mem_free(file);
    return st;
}

/* ---- numbers ---- */

static int compare_labels(const void *a, const void *b)
{
    return strcmp(((const row *)a)->label, ((const row *)b)->label);
}

static int compare_pairs(const void *a, const void *b)
{
    const row *x = a, *y = b;
    const int order = strcmp(x->character, y->character);
    return order ? order : strcmp(x->label, y->label);
}

static int compare_characters(const void *a, const void *b)
{
    const mica_gs_character *x = a, *y = b;
    return (x->cp > y->cp) - (x->cp < y->cp);
}

static int compare_singles(const void *a, const void *b)
{
    const mica_gs_single *x = a, *y = b;
    return (x->cp > y->cp) - (x->cp < y->cp);
}

static size_t drop_equal(row *rows, size_t count, int (*compare)(const void *, const void *))
{
    size_t kept = 0;
    qsort(rows, count, sizeof *rows, compare);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || compare(&rows[kept - 1], &rows[i]) != 0)
            rows[kept++] = rows[i];
    return kept;
}

/* The number of a character; -1: not in the list. */
static int64_t find_character(const mica_gs_readings *r, uint32_t cp)
{
    const mica_gs_character key = {.cp = cp};
    const mica_gs_character *c =
        bsearch(&key, r->characters, (size_t)r->character_count, sizeof key, compare_characters);
    return c ? c - r->characters : -1;
}

/* Characters that upstream takes off the lists again: their readings in context are made by rules
 * (一, 不), or the network is not trusted with them. */
static bool is_left_out(uint32_t cp, bool of_singles)
{
    static const char POLY[] = "一不和咋嗲剖差攢倒難奔勁拗肖瘙誒泊听噢", MONO[] = "似攢";
    return mica_utf8_holds(of_singles ? MONO : POLY, cp);
}

static int reading_of(const mica_speech_front *front, const char *label)
{
    char pinyin[MICA_PINYIN_MAX];
    int tone;
    return mica_bopomofo_read(label, strlen(label), pinyin, &tone)
               ? mica_speech_reading(front, pinyin, tone)
               : -1;
}

static mica_status take_characters(mica_gs_readings *r, const list *l, mica_arena *arena,
                                   mica_err *err)
{
    r->characters = mica_arena_calloc(arena, l->count + 1, sizeof *r->characters);
    if (!r->characters)
        return no_memory(err);
    for (size_t i = 0; i < l->count; i++)
        r->characters[i] = (mica_gs_character){l->rows[i].cp, !is_left_out(l->rows[i].cp, false)};
    qsort(r->characters, l->count, sizeof *r->characters, compare_characters);
    for (size_t i = 0; i < l->count; i++)
        if (i == 0 || r->characters[i - 1].cp != r->characters[i].cp)
            r->characters[r->character_count++] = r->characters[i];
    return MICA_OK;
}

/* The readings in the order of their numbers, sorted by label or by character and label: how many the
 * network has tells which. */
static mica_status take_labels(mica_gs_readings *r, const list *l, int64_t wanted, row **labels,
                               bool *by_pair, mica_arena *arena, mica_err *err)
{
    row *one = mica_arena_calloc(arena, l->count + 1, sizeof *one);
    row *two = mica_arena_calloc(arena, l->count + 1, sizeof *two);
    if (!one || !two)
        return no_memory(err);
    memcpy(one, l->rows, l->count * sizeof *one);
    memcpy(two, l->rows, l->count * sizeof *two);
    const int64_t singles = (int64_t)drop_equal(one, l->count, compare_labels);
    const int64_t pairs = (int64_t)drop_equal(two, l->count, compare_pairs);
    *by_pair = singles != wanted;
    *labels = *by_pair ? two : one;
    r->reading_count = *by_pair ? pairs : singles;
    return MICA_OK;
}

/* The list's numbers must be the network's. */
static mica_status check_sizes(const mica_gs_readings *r, const char *path,
                               const mica_gs_list_sizes *sizes, mica_err *err)
{
    if (r->reading_count != sizes->readings || r->character_count != sizes->characters)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: its POLYPHONIC_CHARS.txt has %lld characters with %lld readings, the "
                         "network %lld with %lld: the list belongs to another",
                         path, (long long)r->character_count, (long long)r->reading_count,
                         (long long)sizes->characters, (long long)sizes->readings);
    if (r->reading_count > MAX_LABELS)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %lld readings; at most %d are known", path,
                         (long long)r->reading_count, MAX_LABELS);
    return MICA_OK;
}

static mica_status take_readings(mica_gs_readings *r, const list *l, const row *labels,
                                 bool by_pair, bool use_mask, const mica_speech_front *front,
                                 mica_arena *arena, mica_err *err)
{
    const size_t R = (size_t)r->reading_count, C = (size_t)r->character_count;
    r->readings = mica_arena_calloc(arena, R + 1, sizeof *r->readings);
    r->may_CR = mica_arena_calloc(arena, R * C + 1, 1);
    if (!r->readings || !r->may_CR)
        return no_memory(err);
    for (size_t i = 0; i < R; i++)
        r->readings[i] = reading_of(front, labels[i].label);
    if (!use_mask)
        memset(r->may_CR, 1, R * C);
    for (size_t i = 0; i < l->count; i++) {
        const row *found = bsearch(&l->rows[i], labels, R, sizeof *labels,
                                   by_pair ? compare_pairs : compare_labels);
        r->may_CR[(size_t)find_character(r, l->rows[i].cp) * R + (size_t)(found - labels)] = 1;
    }
    return MICA_OK;
}

static mica_status take_singles(mica_gs_readings *r, const list *l, const mica_speech_front *front,
                                mica_arena *arena, mica_err *err)
{
    r->singles = mica_arena_calloc(arena, l->count + 1, sizeof *r->singles);
    if (!r->singles)
        return no_memory(err);
    for (size_t i = 0; i < l->count; i++) {
        const int reading = reading_of(front, l->rows[i].label);
        if (reading >= 0 && !is_left_out(l->rows[i].cp, true))
            r->singles[r->single_count++] = (mica_gs_single){l->rows[i].cp, reading};
    }
    qsort(r->singles, (size_t)r->single_count, sizeof *r->singles, compare_singles);
    return MICA_OK;
}

static mica_status read_polyphones(mica_gs_readings *r, const char *path,
                                   const mica_gs_list_sizes *sizes, const list *l,
                                   const mica_speech_front *front, mica_arena *arena, mica_err *err)
{
    row *labels = NULL;
    bool by_pair = false, use_mask = true;
    MICA_TRY(take_characters(r, l, arena, err));
    MICA_TRY(take_labels(r, l, sizes->readings, &labels, &by_pair, arena, err));
    MICA_TRY(check_sizes(r, path, sizes, err));
    MICA_TRY(read_config(path, &use_mask, err));
    return take_readings(r, l, labels, by_pair, use_mask, front, arena, err);
}

mica_status mica_gs_readings_open(mica_gs_readings *r, const char *path,
                                  const mica_gs_list_sizes *sizes, const mica_speech_front *front,
                                  mica_arena *arena, mica_err *err)
{
    list poly, mono = {.text = NULL};
    *r = (mica_gs_readings){.reading_count = 0};
    MICA_TRY(mica_traditional_init(&r->traditional, mica_speech_table_traditional(), err));
    mica_status st = read_list(&poly, path, "POLYPHONIC_CHARS.txt", true, arena, err);
    if (!st)
        st = read_list(&mono, path, "MONOPHONIC_CHARS.txt", false, arena, err);
    if (!st)
        st = read_polyphones(r, path, sizes, &poly, front, arena, err);
    if (!st)
        st = take_singles(r, &mono, front, arena, err);
    mica_mem_free(poly.text);
    mica_mem_free(mono.text);
    return st;
}

/* ---- asking ---- */

/* A sentence as it is asked about. */
typedef struct sentence {
    const mica_gs_asker *who;
    uint32_t *chars; /* traditional */
    size_t size;
    size_t begin, end;           /* characters that the network sees */
    size_t *places;              /* of the questions, among all characters */
    mica_gs_question *questions; /* one more than there are is room for */
    int32_t *best;
    int64_t count;
    int32_t *ids; /* [CLS] characters begin..end [SEP] */
    int64_t id_count;
} sentence;

static void find_questions(sentence *s, int *readings)
{
    const mica_gs_readings *lists = s->who->lists;
    for (size_t i = 0; i < s->size; i++) {
        const int64_t n = find_character(lists, s->chars[i]);
        const mica_gs_single key = {.cp = s->chars[i]};
        const mica_gs_single *single =
            bsearch(&key, lists->singles, (size_t)lists->single_count, sizeof key, compare_singles);
        readings[i] = -1;
        if (n >= 0 && lists->characters[n].is_asked) {
            s->places[s->count] = i;
            s->questions[s->count++] = (mica_gs_question){
                .character = (int32_t)n, .may_R = lists->may_CR + n * lists->reading_count};
        } else if (single)
            readings[i] = single->reading;
    }
    if (s->count == 0)
        return;
    const size_t first = s->places[0], last = s->places[s->count - 1];
    s->begin = first > AROUND ? first - AROUND : 0;
    s->end = MICA_MIN(s->size, last + AROUND + 1);
}

static mica_status find_ids(sentence *s, mica_err *err)
{
    mica_text text = {0};
    size_t count = 0;
    for (size_t i = s->begin; i < s->end; i++) {
        char utf8[8] = {0};
        mica_utf8_encode(s->chars[i], utf8);
        mica_text_add_bytes(&text, utf8, strlen(utf8));
    }
    mica_status st = MICA_OK;
    if (text.failed)
        st = no_memory(err);
    else
        st = mica_wordpiece_encode(s->who->vocabulary, text.data, text.size, &s->ids, &count, err);
    mica_text_deinit(&text);
    s->id_count = (int64_t)count;
    if (!st && count != s->end - s->begin + 2)
        st = MICA_FAIL(err, MICA_E_INTERNAL, "%zu characters became %zu tokens for g2pW",
                       s->end - s->begin, count - 2);
    return st;
}

/* The longest stretch around one question that BERT takes, with its own [CLS] and [SEP]. */
static mica_status ask_around(sentence *s, int64_t i, mica_err *err)
{
    const int64_t most = mica_gs_bert_most(&s->who->network->bert), inner = s->id_count - 2;
    const int64_t place = (int64_t)(s->places[i] - s->begin);
    int64_t begin = place - (most - 2) / 2;
    begin = MICA_MAX(MICA_MIN(begin, inner - (most - 2)), 0);
    int32_t *ids = mica_mem_calloc((size_t)most, sizeof *ids);
    if (!ids)
        return no_memory(err);
    memcpy(ids + 1, s->ids + 1 + begin, (size_t)(most - 2) * sizeof *ids);
    ids[0] = s->ids[0];
    ids[most - 1] = s->ids[s->id_count - 1];
    s->questions[i].place = (int32_t)(place - begin + 1);
    const mica_status st = mica_gs_g2pw_run(s->who->network, s->who->be, s->who->run, ids, most,
                                            &s->questions[i], 1, &s->best[i], NULL, err);
    mica_mem_free(ids);
    return st;
}

static mica_status ask(sentence *s, int *readings, mica_err *err)
{
    const mica_gs_asker *a = s->who;
    MICA_TRY(find_ids(s, err));
    if (s->id_count > mica_gs_bert_most(&a->network->bert)) {
        for (int64_t i = 0; i < s->count; i++)
            MICA_TRY(ask_around(s, i, err));
    } else {
        for (int64_t i = 0; i < s->count; i++)
            s->questions[i].place = (int32_t)(s->places[i] - s->begin + 1);
        MICA_TRY(mica_gs_g2pw_run(a->network, a->be, a->run, s->ids, s->id_count, s->questions,
                                  s->count, s->best, NULL, err));
    }
    for (int64_t i = 0; i < s->count; i++)
        readings[s->places[i]] = a->lists->readings[s->best[i]];
    return MICA_OK;
}

mica_status mica_gs_ask(void *user, const uint32_t *chars, size_t size, int *readings,
                        mica_err *err)
{
    mica_arena arena;
    mica_arena_init(&arena, 1 << 16);
    sentence s = {.who = user, .size = size};
    s.chars = mica_arena_calloc(&arena, size + 1, sizeof *s.chars);
    s.places = mica_arena_calloc(&arena, size + 1, sizeof *s.places);
    s.questions = mica_arena_calloc(&arena, size + 1, sizeof *s.questions);
    s.best = mica_arena_calloc(&arena, size + 1, sizeof *s.best);
    mica_status st = MICA_OK;
    if (!s.chars || !s.places || !s.questions || !s.best)
        st = no_memory(err);
    else {
        mica_traditional_convert(&s.who->lists->traditional, chars, size, s.chars);
        find_questions(&s, readings);
    }
    if (!st && s.count > 0)
        st = ask(&s, readings, err);
    mica_mem_free(s.ids);
    mica_arena_deinit(&arena);
    return st;
}
