/* sentence_pieces.c - visible spaces and byte tokens; see sentence_pieces.h.
 *
 * Prepend (a normalizer) puts its space before every gap between added tokens, whatever the gap
 * begins with. Metaspace puts one only where the gap does not begin with a space, and with the
 * scheme "first" only at the beginning of the text. */
#include "text/sentence_pieces.h"

#include "base/checked.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <string.h>

static const char SPACE[] = MICA_SENTENCE_SPACE;

static bool starts_with_space(const char *text, size_t size)
{
    return size > 0 && (text[0] == ' ' || (size >= MICA_SENTENCE_SPACE_SIZE &&
                                           memcmp(text, SPACE, MICA_SENTENCE_SPACE_SIZE) == 0));
}

static bool wants_prefix(const mica_sentence_rules *r, const char *text, size_t size, bool first)
{
    if (!r->prepend || size == 0)
        return false;
    return r->normalizer || (!starts_with_space(text, size) && (first || !r->only_first));
}

mica_status mica_sentence_form(const mica_sentence_rules *rules, const char *text, size_t size,
                               bool first, char **out, size_t *out_size, mica_err *err)
{
    size_t bound, n = 0;
    char *form = NULL;
    if (mica_mul_size(size + 1, MICA_SENTENCE_SPACE_SIZE, &bound))
        form = mica_mem_alloc(bound);
    if (form == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to encode %zu bytes of text", size);
    if (wants_prefix(rules, text, size, first)) {
        memcpy(form, SPACE, MICA_SENTENCE_SPACE_SIZE);
        n = MICA_SENTENCE_SPACE_SIZE;
    }
    for (size_t i = 0; i < size; i++)
        if (text[i] == ' ') {
            memcpy(form + n, SPACE, MICA_SENTENCE_SPACE_SIZE);
            n += MICA_SENTENCE_SPACE_SIZE;
        } else
            form[n++] = text[i];
    *out = form;
    *out_size = n;
    return MICA_OK;
}

mica_status mica_sentence_split(const mica_sentence_rules *rules, const char *form, size_t size,
                                mica_status (*emit)(void *user, const char *piece, size_t size,
                                                    mica_err *err),
                                void *user, mica_err *err)
{
    size_t start = 0;
    for (size_t i = 1; rules->split && i < size; i++)
        if (starts_with_space(form + i, size - i)) {
            MICA_TRY(emit(user, form + start, i - start, err));
            start = i;
        }
    return size > start ? emit(user, form + start, size - start, err) : MICA_OK;
}

/* ---- decoding ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0xE2>" as 0xE2; -1: no byte token. */
static int byte_of(const char *spelling, size_t size)
{
    if (size != 6 || memcmp(spelling, "<0x", 3) != 0 || spelling[5] != '>')
        return -1;
    const int high = hex_digit(spelling[3]), low = hex_digit(spelling[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

static size_t show_spaces(const char *spelling, size_t size, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        if (size - i >= MICA_SENTENCE_SPACE_SIZE &&
            memcmp(spelling + i, SPACE, MICA_SENTENCE_SPACE_SIZE) == 0) {
            out[n++] = ' ';
            i += MICA_SENTENCE_SPACE_SIZE;
        } else
            out[n++] = spelling[i++];
    }
    return n;
}

size_t mica_sentence_piece(const char *spelling, size_t size, char *out)
{
    const int byte = byte_of(spelling, size);
    if (byte < 0)
        return show_spaces(spelling, size, out);
    out[0] = (char)byte;
    return 1;
}

/* The run of byte tokens ends: what is not UTF-8 becomes one U+FFFD a byte. */
static void end_run(mica_sentence_decoder *d)
{
    const size_t count = d->size - d->run;
    if (d->in_run && !mica_utf8_is_valid(d->out + d->run, count)) {
        d->size = d->run;
        for (size_t i = 0; i < count; i++)
            d->size += mica_utf8_encode(0xFFFD, d->out + d->size);
    }
    d->in_run = false;
}

void mica_sentence_decoder_add(mica_sentence_decoder *d, const char *spelling, size_t size)
{
    if (byte_of(spelling, size) < 0) {
        end_run(d);
        d->size += show_spaces(spelling, size, d->out + d->size);
        return;
    }
    if (!d->in_run)
        d->run = d->size;
    d->in_run = true;
    d->size += mica_sentence_piece(spelling, size, d->out + d->size);
}

size_t mica_sentence_decoder_finish(mica_sentence_decoder *d, bool strip)
{
    end_run(d);
    if (strip && d->size > 0 && d->out[0] == ' ')
        memmove(d->out, d->out + 1, --d->size);
    return d->size;
}
