/* speech_tables.h - the data of the front end, part of the library's read-only pages.
 *
 * Made by tools/speech_tables (which describes the layouts) and laid into the library by
 * speech_tables.S, so that nothing has to be found at run time. Readers check a table once,
 * at open: a damaged build must not become a crash. */
#ifndef MICA_SPEECH_SPEECH_TABLES_H
#define MICA_SPEECH_SPEECH_TABLES_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mica_speech_table {
    const uint8_t *data;
    size_t size;
} mica_speech_table;

mica_speech_table mica_speech_table_english(void);     /* words and their phones */
mica_speech_table mica_speech_table_letters(void);     /* trees for other words */
mica_speech_table mica_speech_table_chinese(void);     /* words, classes, readings */
mica_speech_table mica_speech_table_hmm(void);         /* models of unknown words */
mica_speech_table mica_speech_table_traditional(void); /* simplified to traditional */

static inline uint32_t mica_table_u16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static inline int32_t mica_table_i16(const uint8_t *p)
{
    return (int16_t)mica_table_u16(p);
}
static inline uint32_t mica_table_u32(const uint8_t *p)
{
    return mica_table_u16(p) | mica_table_u16(p + 2) << 16;
}
/* The row that begins with `key`, of `count` rows of `size` bytes sorted by that 16-bit number; NULL: none. */
static inline const uint8_t *mica_table_find_row(const uint8_t *rows, uint32_t count, size_t size,
                                                 uint32_t key)
{
    for (uint32_t low = 0, high = count; low < high;) {
        const uint32_t middle = low + (high - low) / 2;
        const uint8_t *row = rows + size * middle;
        const uint32_t is = mica_table_u16(row);
        if (is == key)
            return row;
        if (key < is)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
/* The second number of a pair of them that begins with `key`; key itself where there is none. */
static inline uint32_t mica_table_map(const uint8_t *pairs, uint32_t count, uint32_t key)
{
    const uint8_t *pair = mica_table_find_row(pairs, count, 4, key);
    return pair ? mica_table_u16(pair + 2) : key;
}
/* Words stand sorted in blocks; `offsets` has where each block begins and the last ends. false: damaged. */
static inline bool mica_table_block(const mica_speech_table *t, const uint8_t *offsets,
                                    uint32_t block, const uint8_t **begin, const uint8_t **end)
{
    const uint32_t first = mica_table_u32(offsets + 4 * (size_t)block);
    const uint32_t last = mica_table_u32(offsets + 4 * ((size_t)block + 1));
    if (first > last || last > t->size)
        return false;
    *begin = t->data + first;
    *end = t->data + last;
    return true;
}
/* Below 0, 0 or above: word a of a_size characters before, like or behind b. */
static inline int mica_table_compare(const uint32_t *a, size_t a_size, const uint32_t *b,
                                     size_t b_size)
{
    for (size_t i = 0; i < a_size && i < b_size; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return (a_size > b_size) - (a_size < b_size);
}

#endif
