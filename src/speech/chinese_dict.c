/* chinese_dict.c - the reader of chinese.bin (layout: tools/speech_tables/chinese.py).
 *
 * As the English dictionary: front-coded blocks of 32 words in code point order, bisection over their
 * first words, a walk inside. Every offset is checked where it is used. */
#include "speech/chinese_dict.h"

#include <math.h>
#include <string.h>

#define HEADER    28
#define NAME      8 /* bytes of a syllable's name */
#define CLASS     4
#define ONE_BYTE  160
#define TOP       883634.0 /* frequency of code 255 */
#define HAN_COUNT (MICA_HAN_LAST - MICA_HAN_FIRST + 1)
#define MOST_ROWS 65536u

mica_status mica_chinese_dict_init(mica_chinese_dict *d, mica_speech_table table, mica_err *err)
{
    const uint8_t *p = table.data;
    *d = (mica_chinese_dict){.table = table};
    if (table.size < HEADER || memcmp(p, "MZH1", 4) != 0)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the Chinese table is not what it should be");
    d->block_count = mica_table_u32(p + 8);
    d->char_count = mica_table_u32(p + 12);
    d->syllable_count = mica_table_u32(p + 16);
    d->class_count = mica_table_u32(p + 20);
    d->traditional_count = mica_table_u32(p + 24);
    if (d->block_count == 0 || d->block_count > MOST_ROWS || d->char_count > MOST_ROWS ||
        d->syllable_count > MOST_ROWS / 5 || d->class_count >= MICA_CHINESE_NO_CLASS ||
        d->traditional_count > MOST_ROWS)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the Chinese table does not hold together");
    d->syllables = p + HEADER;
    d->classes = d->syllables + (size_t)NAME * d->syllable_count;
    d->chars = d->classes + (size_t)CLASS * d->class_count;
    d->starts = d->chars + 2 * (size_t)d->char_count;
    d->readings = d->starts + 2 * ((size_t)HAN_COUNT + 1);
    if ((size_t)(d->readings - p) > table.size)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the Chinese table is cut short");
    d->reading_count = mica_table_u16(d->readings - 2);
    d->traditional = d->readings + 2 * (size_t)d->reading_count;
    d->offsets = d->traditional + 4 * (size_t)d->traditional_count;
    if ((size_t)(d->offsets - p) + 4 * ((size_t)d->block_count + 1) > table.size)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the Chinese table is cut short");
    return MICA_OK;
}

/* ---- characters ---- */

int mica_chinese_dict_reading(const mica_chinese_dict *d, uint32_t cp, size_t n)
{
    if (!mica_is_han(cp))
        return -1;
    const uint8_t *start = d->starts + 2 * (size_t)(cp - MICA_HAN_FIRST);
    const size_t at = mica_table_u16(start) + n;
    return at < mica_table_u16(start + 2) && at < d->reading_count
               ? (int)mica_table_u16(d->readings + 2 * at)
               : -1;
}

const char *mica_chinese_dict_syllable(const mica_chinese_dict *d, int reading)
{
    return reading >= 0 && (uint32_t)reading / 5 < d->syllable_count
               ? (const char *)d->syllables + (size_t)NAME * ((size_t)reading / 5)
               : NULL;
}

int mica_chinese_dict_reading_of(const mica_chinese_dict *d, const char *syllable, int tone)
{
    for (uint32_t i = 0; i < d->syllable_count; i++)
        if (strncmp((const char *)d->syllables + (size_t)NAME * i, syllable, NAME) == 0)
            return (int)i * 5 + tone - 1;
    return -1;
}

void mica_chinese_class_name(const mica_chinese_dict *d, uint8_t word_class, char out[8])
{
    memset(out, 0, 8);
    if (word_class < d->class_count)
        memcpy(out, d->classes + (size_t)CLASS * word_class, CLASS);
}

uint32_t mica_chinese_dict_simplify(const mica_chinese_dict *d, uint32_t cp)
{
    return mica_table_map(d->traditional, d->traditional_count, cp);
}

/* ---- words ---- */

typedef struct reader {
    const mica_chinese_dict *d;
    const uint8_t *at, *end;
    uint32_t word[MICA_CHINESE_LONGEST];
    size_t size;
    uint8_t frequency, word_class;
    const uint8_t *odd; /* readings that are not the usual ones; NULL: none */
} reader;

static bool read_char(reader *r, uint32_t *cp)
{
    if (r->at >= r->end)
        return false;
    uint32_t rank = *r->at++;
    if (rank >= ONE_BYTE) {
        if (r->at >= r->end)
            return false;
        rank = ONE_BYTE + ((rank - ONE_BYTE) << 8) + *r->at++;
    }
    if (rank >= r->d->char_count)
        return false;
    *cp = mica_table_u16(r->d->chars + 2 * (size_t)rank);
    return true;
}

static bool read_entry(reader *r)
{
    if (r->at >= r->end)
        return false;
    const uint8_t head = *r->at++;
    const size_t shared = head >> 5, fresh = (size_t)(head >> 2 & 7) + 1;
    if (shared > r->size || shared + fresh > MICA_CHINESE_LONGEST)
        return false;
    for (size_t i = 0; i < fresh; i++)
        if (!read_char(r, &r->word[shared + i]))
            return false;
    r->size = shared + fresh;
    if (r->end - r->at < 2)
        return false;
    r->frequency = r->at[0];
    r->word_class = r->at[1];
    r->at += 2;
    r->odd = NULL;
    if ((head & 2) == 0)
        return true;
    r->odd = r->at;
    while (r->at < r->end && (*r->at & 0x80) != 0)
        r->at++;
    return r->at++ < r->end;
}

static bool open_block(const mica_chinese_dict *d, uint32_t block, reader *r)
{
    *r = (reader){.d = d};
    return mica_table_block(&d->table, d->offsets, block, &r->at, &r->end) && read_entry(r);
}

static int compare(const reader *r, const uint32_t *text, size_t size)
{
    return mica_table_compare(r->word, r->size, text, size);
}

static void fill_word(const reader *r, mica_chinese_word *out)
{
    out->frequency = r->frequency < 128
                         ? r->frequency
                         : 128.0 * exp((r->frequency - 128) * log(TOP / 128.0) / 127.0);
    out->word_class = r->word_class;
    for (size_t i = 0; i < r->size; i++) {
        const int usual = mica_chinese_dict_reading(r->d, r->word[i], 0);
        out->readings[i] = (uint16_t)(usual >= 0 ? usual : 0);
    }
    for (const uint8_t *odd = r->odd; odd != NULL; odd = (*odd & 0x80) != 0 ? odd + 1 : NULL) {
        const size_t place = *odd >> 4 & 7;
        const int reading =
            place < r->size ? mica_chinese_dict_reading(r->d, r->word[place], *odd & 15) : -1;
        if (reading >= 0)
            out->readings[place] = (uint16_t)reading;
    }
}

bool mica_chinese_dict_find(const mica_chinese_dict *d, const uint32_t *text, size_t size,
                            mica_chinese_word *out)
{
    reader r;
    uint32_t low = 0, high = d->block_count;
    if (size == 0 || size > MICA_CHINESE_LONGEST)
        return false;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (!open_block(d, middle, &r))
            return false;
        if (compare(&r, text, size) <= 0)
            low = middle;
        else
            high = middle;
    }
    if (!open_block(d, low, &r))
        return false;
    do {
        const int order = compare(&r, text, size);
        if (order == 0)
            fill_word(&r, out);
        if (order >= 0)
            return order == 0;
    } while (read_entry(&r));
    return false;
}
