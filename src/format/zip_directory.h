/* zip_directory.h - where the entries of a zip archive lie in its file.
 *
 *     | local header, name | bytes of entry 0 | local header ... | central directory | end record |
 *                                                                   ▲ name, sizes, local header
 *
 * Only stored entries (method 0) are of use: their bytes are used where they lie, in the
 * mapping of the file. That is why this is not libzip, whose interface copies every entry
 * out. Nothing is unpacked and no checksum is computed.
 *
 * What an entry says is true of the file: its bytes lie inside it, behind a local header. The
 * first two bytes of the file are not looked at, because GPT-SoVITS writes a version there. */
#ifndef MICA_FORMAT_ZIP_DIRECTORY_H
#define MICA_FORMAT_ZIP_DIRECTORY_H

#include "base/arena.h"
#include "base/status.h"

#define MICA_ZIP_MAX_ENTRIES ((size_t)1 << 20)

typedef struct mica_zip_entry {
    const char *name; /* NUL-terminated, in the arena */
    uint64_t begin, end;
    int method; /* 0: stored */
} mica_zip_entry;

typedef struct mica_zip_directory {
    mica_zip_entry *entries; /* by name; names differ */
    size_t count;
} mica_zip_directory;

/* Whether the bytes begin like a zip archive, or like one with a version for its first two. */
bool mica_zip_probe(const uint8_t *data, size_t size);
mica_status mica_zip_directory_read(mica_zip_directory *z, const char *path, const uint8_t *data,
                                    size_t size, mica_arena *arena, mica_err *err);
const mica_zip_entry *mica_zip_find(const mica_zip_directory *z, const char *name); /* or NULL */

#endif
