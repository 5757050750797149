/* line_corpus.h - compares a tokenizer with what the reference library made of the corpus.
 *
 *     golden/tokenizer/lines.txt        one escaped text a line (tools/tokenizer_reference)
 *     golden/tokenizer/NAME.expected    one row a line:
 *         17 f9cdbb530bb660f9 02fcd26f 02fcd26f
 *         |  ids: FNV-1a 64    |        decoded without special tokens, low half of the hash
 *         number of ids        decoded whole
 *
 * Hashes instead of ids keep four vocabularies within 600 KB; a line that differs is printed
 * with the ids found, and `node reference.js` prints those expected. */
#ifndef TESTS_TEXT_LINE_CORPUS_H
#define TESTS_TEXT_LINE_CORPUS_H

#include "base/file.h"
#include "base/mem.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define CORPUS_MIN_LINES 2000
#define CORPUS_MAX_SIZE  (8u << 20)

typedef struct corpus_result {
    size_t lines, wrong;
} corpus_result;

static inline uint64_t corpus_hash(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        h = (h ^ bytes[i]) * 0x100000001b3u;
    return h;
}

/* As if the ids lay little-endian in memory, whatever the machine. */
static inline uint64_t corpus_hash_ids(const int32_t *ids, size_t count)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        for (int shift = 0; shift < 32; shift += 8)
            h = (h ^ ((uint32_t)ids[i] >> shift & 0xFF)) * 0x100000001b3u;
    return h;
}

static inline int corpus_hex_digit(char c)
{
    return c >= 'a' ? c - 'a' + 10 : c - '0';
}

/* Undoes escape.js in place; returns the new size. */
static inline size_t corpus_unescape(char *s, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        if (s[i] != '\\' || i + 1 == size) {
            s[n++] = s[i];
            continue;
        }
        const char kind = s[++i];
        if (kind == 'x' && i + 2 < size) {
            s[n++] = (char)(corpus_hex_digit(s[i + 1]) * 16 + corpus_hex_digit(s[i + 2]));
            i += 2;
        } else
            s[n++] = kind == 'n' ? '\n' : kind == 'r' ? '\r' : kind == 't' ? '\t' : kind;
    }
    return n;
}

/* Low half of the hash of the decoded text, or false. */
static inline bool corpus_decode(const mica_tokenizer *t, const int32_t *ids, size_t count,
                                 bool skip_special, uint32_t *hash, mica_err *err)
{
    char *text = NULL;
    size_t size = 0;
    if (mica_tokenizer_decode(t, ids, count, skip_special, &text, &size, err) != MICA_OK)
        return false;
    *hash = (uint32_t)corpus_hash(text, size);
    mica_mem_free(text);
    return true;
}

static inline bool corpus_line_agrees(const mica_tokenizer *t, const char *text, size_t size,
                                      const char *row, bool report)
{
    mica_err err = {0};
    int32_t *ids = NULL;
    size_t count = 0, expected_count = 0;
    uint64_t expected_ids = 0;
    uint32_t expected_all = 0, expected_plain = 0, all = 0, plain = 0;
    if (sscanf(row, "%zu %" SCNx64 " %" SCNx32 " %" SCNx32, &expected_count, &expected_ids,
               &expected_all, &expected_plain) != 4) {
        printf("damaged row: %.80s\n", row);
        return false;
    }
    bool same = mica_tokenizer_encode(t, text, size, &ids, &count, &err) == MICA_OK &&
                count == expected_count && corpus_hash_ids(ids, count) == expected_ids;
    const bool same_ids = same;
    same = same && corpus_decode(t, ids, count, false, &all, &err) && all == expected_all &&
           corpus_decode(t, ids, count, true, &plain, &err) && plain == expected_plain;
    if (!same && report) {
        printf("  %s %s; %zu ids, expected %zu:", same_ids ? "decoding differs" : "ids differ",
               err.text, count, expected_count);
        for (size_t i = 0; i < count && i < 40; i++)
            printf(" %" PRId32, ids[i]);
        printf("\n");
    }
    mica_mem_free(ids);
    return same;
}

/* Every line of the corpus; the first `reports` that differ are printed. False: a file could not be
 * read, or they do not belong together. */
static inline bool corpus_compare(const mica_tokenizer *t, const char *expected_path,
                                  size_t reports, corpus_result *result)
{
    mica_err err = {0};
    char *lines = NULL, *rows = NULL;
    size_t lines_size = 0, rows_size = 0;
    *result = (corpus_result){0};
    if (mica_file_read(MICA_TEST_DATA "/tokenizer/lines.txt", CORPUS_MAX_SIZE, &lines, &lines_size,
                       &err) != MICA_OK ||
        mica_file_read(expected_path, CORPUS_MAX_SIZE, &rows, &rows_size, &err) != MICA_OK) {
        printf("%s\n", err.text);
        mica_mem_free(lines);
        return false;
    }
    const char *row = rows;
    for (char *line = lines; line < lines + lines_size && row != NULL;) {
        char *end = strchr(line, '\n');
        if (end == NULL)
            break;
        const bool report = result->wrong < reports;
        const size_t shown = (size_t)(end - line) < 100 ? (size_t)(end - line) : 100;
        char copy[101];
        memcpy(copy, line, shown);
        copy[shown] = '\0';
        result->lines++;
        if (!corpus_line_agrees(t, line, corpus_unescape(line, (size_t)(end - line)), row,
                                report)) {
            if (report)
                printf("  line %zu: %s\n", result->lines, copy);
            result->wrong++;
        }
        line = end + 1;
        row = strchr(row, '\n');
        row = row != NULL && row[1] != '\0' ? row + 1 : NULL;
    }
    const bool whole = row == NULL; /* as many rows as lines */
    mica_mem_free(lines);
    mica_mem_free(rows);
    return whole && result->lines >= CORPUS_MIN_LINES;
}

#endif
