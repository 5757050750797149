/* chinese_traditional.c - the reader of traditional.bin (layout: tools/speech_tables/traditional.py).
 *
 *     text ─► the longest phrase that begins here, else one character ─► on behind it
 *
 * OpenCC's way with its configuration s2tw. Every offset is checked where it is used. */
#include "speech/chinese_traditional.h"

#include <string.h>

#define HEADER    16
#define LONGEST   12 /* characters of a phrase */
#define MOST_ROWS 65536u

mica_status mica_traditional_init(mica_traditional *t, mica_speech_table table, mica_err *err)
{
    *t = (mica_traditional){.table = table};
    if (table.size < HEADER || memcmp(table.data, "MZT1", 4) != 0)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the table of traditional characters is damaged");
    t->char_count = mica_table_u32(table.data + 4);
    t->block_count = mica_table_u32(table.data + 12);
    if (t->char_count > MOST_ROWS || t->block_count == 0 || t->block_count > MOST_ROWS)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the table of traditional characters is damaged");
    t->chars = table.data + HEADER;
    t->offsets = t->chars + 4 * (size_t)t->char_count;
    if ((size_t)(t->offsets - table.data) + 4 * ((size_t)t->block_count + 1) > table.size)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the table of traditional characters is cut short");
    return MICA_OK;
}

/* A phrase as it stands in its block, and what is behind it there. */
typedef struct reader {
    const uint8_t *at, *end;
    uint32_t phrase[LONGEST];
    size_t size;
    const uint8_t *odd; /* place, character */
    size_t odd_count;
} reader;

static bool read_entry(reader *r)
{
    if (r->at >= r->end)
        return false;
    const size_t shared = *r->at >> 4, fresh = *r->at & 15;
    r->at++;
    if (shared > r->size || shared + fresh > LONGEST || (size_t)(r->end - r->at) < 2 * fresh + 1)
        return false;
    for (size_t i = 0; i < fresh; i++, r->at += 2)
        r->phrase[shared + i] = mica_table_u16(r->at);
    r->size = shared + fresh;
    r->odd_count = *r->at++;
    r->odd = r->at;
    if ((size_t)(r->end - r->at) < 3 * r->odd_count)
        return false;
    r->at += 3 * r->odd_count;
    return true;
}

static bool open_block(const mica_traditional *t, uint32_t block, reader *r)
{
    *r = (reader){0};
    return mica_table_block(&t->table, t->offsets, block, &r->at, &r->end) && read_entry(r);
}

static int compare(const reader *r, const uint32_t *text, size_t size)
{
    return mica_table_compare(r->phrase, r->size, text, size);
}

static bool find_phrase(const mica_traditional *t, const uint32_t *text, size_t size, reader *r)
{
    uint32_t low = 0, high = t->block_count;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (!open_block(t, middle, r))
            return false;
        if (compare(r, text, size) <= 0)
            low = middle;
        else
            high = middle;
    }
    if (!open_block(t, low, r))
        return false;
    do {
        const int order = compare(r, text, size);
        if (order >= 0)
            return order == 0;
    } while (read_entry(r));
    return false;
}

void mica_traditional_convert(const mica_traditional *t, const uint32_t *text, size_t size,
                              uint32_t *out)
{
    for (size_t at = 0; at < size;) {
        reader r;
        size_t n = MICA_MIN(size - at, (size_t)LONGEST);
        while (n > 1 && !find_phrase(t, text + at, n, &r))
            n--;
        for (size_t i = 0; i < n; i++)
            out[at + i] = mica_table_map(t->chars, t->char_count, text[at + i]);
        for (size_t i = 0; n > 1 && i < r.odd_count; i++)
            if (r.odd[3 * i] < n)
                out[at + r.odd[3 * i]] = mica_table_u16(r.odd + 3 * i + 1);
        at += n;
    }
}
