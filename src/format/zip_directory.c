/* zip_directory.c - the central directory of a zip archive, checked; see zip_directory.h.
 *
 * Reference: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (central directory),
 * 4.3.14 and 4.3.15 (ZIP64 end and locator), 4.3.16 (end record), 4.5.3 (ZIP64 extra field). */
#include "format/zip_directory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define END_SIZE     22
#define LOCATOR_SIZE 20
#define END64_SIZE   56
#define CENTRAL_SIZE 46
#define LOCAL_SIZE   30
#define COMMENT_MAX  65535
#define ENCRYPTED    1

typedef struct reader {
    const char *path;
    const uint8_t *data;
    uint64_t size;
    mica_arena *arena;
    mica_err *err;
} reader;

static uint64_t number(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static bool is_signature(const uint8_t *p, uint8_t a, uint8_t b)
{
    return p[0] == 'P' && p[1] == 'K' && p[2] == a && p[3] == b;
}

bool mica_zip_probe(const uint8_t *data, size_t size)
{
    if (size < 4 || data[2] != 3 || data[3] != 4)
        return false;
    const bool is_version = data[0] == '0' && data[1] >= '0' && data[1] <= '9';
    return is_version || (data[0] == 'P' && data[1] == 'K');
}

static mica_status damaged(const reader *r, const char *what)
{
    return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: truncated or damaged: %s; download the file again",
                     r->path, what);
}

/* Position of the end record: the last one that its comment's length confirms. */
static bool find_end(const reader *r, uint64_t *at)
{
    if (r->size < END_SIZE)
        return false;
    const uint64_t most = r->size - END_SIZE;
    const uint64_t least = most > COMMENT_MAX ? most - COMMENT_MAX : 0;
    for (uint64_t i = most + 1; i-- > least;)
        if (is_signature(r->data + i, 5, 6) && number(r->data + i + 20, 2) == most - i) {
            *at = i;
            return true;
        }
    return false;
}

typedef struct central {
    uint64_t begin, size, count;
} central;

static mica_status read_end(const reader *r, central *c)
{
    uint64_t end = 0;
    if (!find_end(r, &end))
        return damaged(r, "the zip archive has no end record");
    const uint8_t *p = r->data + end;
    *c = (central){number(p + 16, 4), number(p + 12, 4), number(p + 10, 2)};
    const bool is_64 = c->begin == UINT32_MAX || c->size == UINT32_MAX || c->count == UINT16_MAX;
    if (is_64 && end >= LOCATOR_SIZE && is_signature(p - LOCATOR_SIZE, 6, 7)) {
        const uint64_t at = number(p - LOCATOR_SIZE + 8, 8);
        if (at > end || end - at < END64_SIZE || !is_signature(r->data + at, 6, 6))
            return damaged(r, "the ZIP64 end record is not where it should be");
        p = r->data + at;
        *c = (central){number(p + 48, 8), number(p + 40, 8), number(p + 32, 8)};
    }
    if (c->begin > end || c->size > end - c->begin)
        return damaged(r, "the zip directory lies outside the file");
    if (c->count > MICA_ZIP_MAX_ENTRIES || c->count > c->size / CENTRAL_SIZE)
        return damaged(r, "the zip directory has too many entries");
    return MICA_OK;
}

/* The 64-bit fields that stand in for sizes and offset where those are all ones. */
static bool read_extra(const uint8_t *extra, uint64_t size, uint64_t *plain, uint64_t *packed,
                       uint64_t *offset)
{
    uint64_t *const wide[] = {plain, packed, offset};
    while (size >= 4) {
        const uint64_t id = number(extra, 2), n = number(extra + 2, 2);
        if (n > size - 4)
            return false;
        uint64_t at = 4;
        for (size_t i = 0; i < MICA_ARRAY_LEN(wide) && id == 1; i++) {
            if (*wide[i] != UINT32_MAX)
                continue;
            if (at + 8 > 4 + n)
                return false;
            *wide[i] = number(extra + at, 8);
            at += 8;
        }
        extra += 4 + n;
        size -= 4 + n;
    }
    return true;
}

/* The entry's bytes begin behind the local header, whose name and extra field have lengths of
 * their own. */
static mica_status place(const reader *r, mica_zip_entry *e, uint64_t header, uint64_t size)
{
    if (header > r->size || r->size - header < LOCAL_SIZE)
        return damaged(r, "an entry of the zip archive lies outside the file");
    const uint8_t *p = r->data + header;
    if (!(header == 0 ? mica_zip_probe(p, 4) : is_signature(p, 3, 4)))
        return damaged(r, "an entry of the zip archive has no header");
    e->begin = header + LOCAL_SIZE + number(p + 26, 2) + number(p + 28, 2);
    if (e->begin > r->size || size > r->size - e->begin)
        return damaged(r, "an entry of the zip archive ends outside the file");
    e->end = e->begin + size;
    return MICA_OK;
}

/* One record of the central directory at data[*at..end). */
static mica_status read_entry(const reader *r, uint64_t *at, uint64_t end, mica_zip_entry *e)
{
    const uint8_t *p = r->data + *at;
    if (end - *at < CENTRAL_SIZE || !is_signature(p, 1, 2))
        return damaged(r, "the zip directory holds a bad record");
    const uint64_t name = number(p + 28, 2), extra = number(p + 30, 2), note = number(p + 32, 2);
    uint64_t packed = number(p + 20, 4), plain = number(p + 24, 4), offset = number(p + 42, 4);
    if (end - *at - CENTRAL_SIZE < name + extra + note)
        return damaged(r, "a record of the zip directory is too long");
    if (!read_extra(p + CENTRAL_SIZE + name, extra, &plain, &packed, &offset))
        return damaged(r, "a ZIP64 field is too short");
    if (memchr(p + CENTRAL_SIZE, 0, (size_t)name))
        return damaged(r, "the name of an entry holds a NUL");
    if (number(p + 8, 2) & ENCRYPTED)
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED, "%s: the zip archive is encrypted", r->path);
    e->method = (int)number(p + 10, 2);
    if (e->method == 0 && packed != plain)
        return damaged(r, "a stored entry has two sizes");
    e->name = mica_arena_strndup(r->arena, (const char *)p + CENTRAL_SIZE, (size_t)name);
    if (!e->name)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: out of memory for its directory", r->path);
    *at += CENTRAL_SIZE + name + extra + note;
    return place(r, e, offset, packed);
}

static int compare(const void *a, const void *b)
{
    const mica_zip_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

mica_status mica_zip_directory_read(mica_zip_directory *z, const char *path, const uint8_t *data,
                                    size_t size, mica_arena *arena, mica_err *err)
{
    const reader r = {path, data, size, arena, err};
    central c = {0, 0, 0};
    *z = (mica_zip_directory){0};
    MICA_TRY(read_end(&r, &c));
    mica_zip_entry *entries = mica_arena_calloc(arena, (size_t)c.count + 1, sizeof *entries);
    if (!entries)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for its directory", path);
    uint64_t at = c.begin;
    for (uint64_t i = 0; i < c.count; i++)
        MICA_TRY(read_entry(&r, &at, c.begin + c.size, &entries[i]));
    qsort(entries, (size_t)c.count, sizeof *entries, compare);
    for (uint64_t i = 1; i < c.count; i++)
        if (strcmp(entries[i - 1].name, entries[i].name) == 0)
            return damaged(&r, "two entries of the zip archive have one name");
    z->entries = entries;
    z->count = (size_t)c.count;
    return MICA_OK;
}

const mica_zip_entry *mica_zip_find(const mica_zip_directory *z, const char *name)
{
    const mica_zip_entry key = {.name = name};
    return z->count ? bsearch(&key, z->entries, z->count, sizeof key, compare) : NULL;
}
