/* speech_cut.c - a text to pieces that are spoken one by one (GPT-SoVITS TTS_infer_pack,
 * text_segmentation_method.py and TextPreprocessor.py).
 *
 *     runs of ! ? … , . - become their first; a short first stretch gets a full stop before it
 *     cut0..cut5 put a line end behind each piece
 *     lines without a letter or digit go; lines below five characters join the next
 *     a full stop ends each piece; above 510 characters a piece is cut at punctuation */
#include "speech/speech_cut.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <string.h>
#include <utf8proc.h>

#define FULL_STOP  0x3002u /* 。 */
#define LONGEST    510     /* characters of a piece: BERT has 512 places */
#define SHORTEST   5
#define SHORT_HEAD 4

typedef struct letters {
    uint32_t *at;
    size_t size, cap;
} letters;

static bool is_split(uint32_t cp)
{
    return mica_utf8_holds("，。？！,.?!~:：—…", cp);
}

static bool is_mark(uint32_t cp)
{
    return mica_utf8_holds("!?…,.-", cp);
}

static bool is_digit(uint32_t cp)
{
    return cp >= '0' && cp <= '9';
}

static bool is_spoken(uint32_t cp)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
    return cp == '_' || (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

static bool has_speech(const letters *l, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (is_spoken(l->at[i]))
            return true;
    return false;
}

/* Buffers are as large as any step can make the text: twice, and a few marks. */
static void put(letters *l, uint32_t cp)
{
    if (l->size < l->cap)
        l->at[l->size++] = cp;
}

static bool all_in(const letters *l, size_t begin, size_t end, const char *set)
{
    for (size_t i = begin; i < end; i++)
        if (!mica_utf8_holds(set, l->at[i]))
            return false;
    return true;
}

/* One item of a cut, with a line end; items of nothing but `empty` go. */
static void put_item(letters *out, const letters *in, size_t begin, size_t end, const char *empty)
{
    if (all_in(in, begin, end, empty))
        return;
    for (size_t i = begin; i < end; i++)
        put(out, in->at[i]);
    put(out, '\n');
}

#define EMPTY_MARKS "!?…,.- "
#define EMPTY_CUT5  ",.;?!、，。？！;：…"

/* ---- the cuts ---- */

/* …… to 。, —— to ，, and a 。 at the end: what cut1 and cut2 count in. */
static void prepare(const letters *in, letters *out)
{
    for (size_t i = 0; i < in->size; i++) {
        const bool twice = i + 1 < in->size && in->at[i] == in->at[i + 1];
        if (twice && (in->at[i] == 0x2026 || in->at[i] == 0x2014)) {
            put(out, in->at[i] == 0x2026 ? FULL_STOP : 0xff0c);
            i++;
        } else
            put(out, in->at[i]);
    }
    if (out->size > 0 && !is_split(out->at[out->size - 1]))
        put(out, FULL_STOP);
}

static size_t stretch_end(const letters *l, size_t begin)
{
    while (begin < l->size && !is_split(l->at[begin]))
        begin++;
    return MICA_MIN(begin + 1, l->size);
}

/* Every four stretches; the last piece takes what is left over. */
static void cut_four(const letters *in, const letters *prepared, letters *out)
{
    size_t stretches = 0, at = 0, begin = 0, groups = 0;
    for (size_t i = 0; i < prepared->size; i = stretch_end(prepared, i))
        stretches++;
    if (stretches <= 4) {
        put_item(out, in, 0, in->size, EMPTY_MARKS);
        return;
    }
    const size_t most = (stretches + 3) / 4 - 1;
    for (size_t n = 0; at < prepared->size; n++) {
        if (n > 0 && n % 4 == 0 && groups + 1 < most) {
            put_item(out, prepared, begin, at, EMPTY_MARKS);
            begin = at;
            groups++;
        }
        at = stretch_end(prepared, at);
    }
    put_item(out, prepared, begin, prepared->size, EMPTY_MARKS);
}

static void cut_fifty(const letters *in, const letters *prepared, letters *out)
{
    size_t begin = 0, last = 0, stretches = 0;
    for (size_t at = 0; at < prepared->size; stretches++)
        at = stretch_end(prepared, at);
    if (stretches < 2) {
        put_item(out, in, 0, in->size, "");
        return;
    }
    /* a last piece below 50 joins the one before: cut only where 50 more follow or it is full */
    for (size_t at = 0; at < prepared->size;) {
        at = stretch_end(prepared, at);
        if (at - begin <= 50)
            continue;
        if (last > 0 || begin > 0)
            put_item(out, prepared, last, begin, EMPTY_MARKS);
        last = begin;
        begin = at;
    }
    if (prepared->size - begin >= 50 || begin == 0) {
        if (begin > 0)
            put_item(out, prepared, last, begin, EMPTY_MARKS);
        put_item(out, prepared, begin, prepared->size, EMPTY_MARKS);
    } else
        put_item(out, prepared, last, prepared->size, EMPTY_MARKS);
}

/* At every `stop`, which goes; digits: not between two of them. */
static void cut_stops(const letters *in, letters *out, uint32_t stop, bool digits)
{
    size_t begin = 0;
    for (size_t i = 0; i <= in->size; i++) {
        const bool between = digits && i > 0 && i + 1 < in->size &&
                             (is_digit(in->at[i - 1]) || is_digit(in->at[i + 1]));
        if (i < in->size && (in->at[i] != stop || between))
            continue;
        put_item(out, in, begin, i, EMPTY_MARKS);
        begin = i + 1;
    }
}

static void cut_marks(const letters *in, letters *out)
{
    size_t begin = 0;
    for (size_t i = 0; i < in->size; i++) {
        const bool decimal = in->at[i] == '.' && i > 0 && i + 1 < in->size &&
                             is_digit(in->at[i - 1]) && is_digit(in->at[i + 1]);
        if (!mica_utf8_holds(EMPTY_CUT5, in->at[i]) || decimal)
            continue;
        put_item(out, in, begin, i + 1, EMPTY_CUT5);
        begin = i + 1;
    }
    put_item(out, in, begin, in->size, EMPTY_CUT5);
}

static void cut(const letters *in, letters *prepared, letters *out, mica_speech_cut how)
{
    switch (how) {
    case MICA_SPEECH_CUT_NONE:
        put_item(out, in, 0, in->size, EMPTY_MARKS);
        break;
    case MICA_SPEECH_CUT_FOUR:
        prepare(in, prepared);
        cut_four(in, prepared, out);
        break;
    case MICA_SPEECH_CUT_FIFTY:
        prepare(in, prepared);
        cut_fifty(in, prepared, out);
        break;
    case MICA_SPEECH_CUT_ZH_STOP:
        cut_stops(in, out, FULL_STOP, false);
        break;
    case MICA_SPEECH_CUT_EN_STOP:
        cut_stops(in, out, '.', true);
        break;
    case MICA_SPEECH_CUT_PUNCTUATION:
        cut_marks(in, out);
        break;
    }
}

/* ---- around the cuts ---- */

static bool letters_init(letters *l, size_t cap, mica_arena *arena)
{
    *l = (letters){mica_arena_alloc(arena, cap * sizeof *l->at), 0, cap};
    return l->at != NULL;
}

/* Decodes, collapses runs of marks, drops line ends at both ends, and begins a short first stretch
 * with a full stop: a very short first stretch is often swallowed. */
static void read_text(const char *text, size_t size, bool english, letters *plain, letters *out)
{
    for (size_t at = 0; at < size;) {
        uint32_t cp;
        at += mica_utf8_decode(text + at, size - at, &cp);
        if (!(is_mark(cp) && plain->size > 0 && is_mark(plain->at[plain->size - 1])))
            put(plain, cp);
    }
    size_t begin = 0, end = plain->size, head = 0;
    while (begin < end && (plain->at[begin] == '\n' || plain->at[begin] == '\r'))
        begin++;
    while (end > begin && (plain->at[end - 1] == '\n' || plain->at[end - 1] == '\r'))
        end--;
    while (begin + head < end && !is_split(plain->at[begin + head]))
        head++;
    if (begin < end && head > 0 && head < SHORT_HEAD)
        put(out, english ? '.' : FULL_STOP);
    for (size_t i = begin; i < end; i++)
        put(out, plain->at[i]);
}

static bool emit(const letters *l, size_t begin, size_t end, uint32_t stop, mica_arena *arena,
                 mica_cut_piece *out)
{
    out->text = mica_arena_alloc(arena, 4 * (end - begin + 1) + 1);
    out->size = 0;
    if (out->text == NULL)
        return false;
    for (size_t i = begin; i < end; i++)
        out->size += mica_utf8_encode(l->at[i], out->text + out->size);
    if (stop != 0)
        out->size += mica_utf8_encode(stop, out->text + out->size);
    out->text[out->size] = '\0';
    return true;
}

/* Behind the last blank of a stretch; its end without one. */
static size_t last_blank(const letters *l, size_t begin, size_t end)
{
    for (size_t at = end; at > begin; at--)
        if (l->at[at - 1] == ' ')
            return at;
    return end;
}

/* A line as one piece, or several when it is too long for the network. */
static bool emit_line(const letters *l, size_t begin, size_t end, uint32_t stop, mica_arena *arena,
                      mica_cut_piece *pieces, size_t *count)
{
    while (end - begin > LONGEST) {
        size_t at = begin + LONGEST;
        while (at > begin && !is_split(l->at[at - 1]))
            at--;
        if (at == begin) /* no punctuation, where upstream gives up: between words, or anywhere */
            at = last_blank(l, begin, begin + LONGEST);
        if (!emit(l, begin, at, 0, arena, &pieces[(*count)++]))
            return false;
        begin = at;
    }
    return begin == end ||
           emit(l, begin, end, is_split(l->at[end - 1]) ? 0 : stop, arena, &pieces[(*count)++]);
}

/* Joins lines below SHORTEST characters to the next, the last one to the one before; line ends go. */
static size_t join_lines(letters *l, size_t *ends)
{
    size_t kept = 0, line = 0, count = 0, own = 0; /* own: of this line alone */
    for (size_t i = 0; i <= l->size; i++) {
        if (i < l->size && l->at[i] != '\n' && l->at[i] != '\r') {
            l->at[kept++] = l->at[i];
            line++;
            own++;
            continue;
        }
        if (own == 1 && l->at[kept - 1] == ' ') { /* a line of one blank is none */
            kept--;
            line--;
        }
        own = 0;
        if (line >= SHORTEST || (i >= l->size && count == 0)) {
            ends[count++] = kept;
            line = 0;
        }
    }
    if (line > 0 && count > 0)
        ends[count - 1] = kept;
    l->size = kept;
    return count;
}

mica_status mica_speech_cut_text(const char *text, size_t size, const mica_speech_text_options *o,
                                 mica_arena *arena, mica_cut_piece **pieces, size_t *count,
                                 mica_err *err)
{
    letters work[4];
    const bool english = o->language == MICA_SPEECH_EN;
    bool ok = true;
    *count = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(work); i++)
        ok = letters_init(&work[i], 2 * size + 16, arena) && ok;
    size_t *ends = mica_arena_alloc(arena, (2 * size + 17) * sizeof *ends);
    *pieces = mica_arena_alloc(arena, (size + 17) * sizeof **pieces);
    if (!ok || ends == NULL || *pieces == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to cut a text of %zu bytes", size);
    read_text(text, size, english, &work[0], &work[1]);
    cut(&work[1], &work[2], &work[3], o->cut);
    const size_t lines = join_lines(&work[3], ends);
    for (size_t i = 0, begin = 0; ok && i < lines; begin = ends[i++])
        if (has_speech(&work[3], begin, ends[i]))
            ok = emit_line(&work[3], begin, ends[i], english ? '.' : FULL_STOP, arena, *pieces,
                           count);
    return ok ? MICA_OK
              : MICA_FAIL(err, MICA_E_NOMEM, "no memory to cut a text of %zu bytes", size);
}

mica_status mica_speech_close_text(const char *text, size_t size, bool english, mica_arena *arena,
                                   mica_cut_piece *out, mica_err *err)
{
    letters plain, clean;
    if (!letters_init(&plain, size + 4, arena) || !letters_init(&clean, size + 4, arena))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a transcript");
    for (size_t at = 0; at < size;) {
        uint32_t cp;
        at += mica_utf8_decode(text + at, size - at, &cp);
        put(&clean, cp == '\n' || cp == '\r' ? ' ' : cp);
    }
    while (clean.size > 0 && clean.at[clean.size - 1] == ' ')
        clean.size--;
    if (!has_speech(&clean, 0, clean.size))
        return MICA_FAIL(err, MICA_E_USAGE, "the transcript of the voice has nothing that is said");
    const bool ended = clean.size > 0 && is_split(clean.at[clean.size - 1]);
    if (!emit(&clean, 0, clean.size, ended ? 0 : english ? '.' : FULL_STOP, arena, out))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a transcript");
    return MICA_OK;
}
