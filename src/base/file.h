/* file.h - files in: mapped read-only; files out: whole or not at all. */
#ifndef MICA_BASE_FILE_H
#define MICA_BASE_FILE_H

#include "base/status.h"

typedef struct mica_file_map {
    const uint8_t *data; /* NULL for an empty file */
    size_t size;
    char *path; /* owned */
} mica_file_map;

mica_status mica_file_map_open(mica_file_map *m, const char *path, mica_err *err);
void mica_file_map_close(mica_file_map *m);
/* Lets the whole pages of a range go, which come back from the file; never fails visibly. */
void mica_file_map_dontneed(const mica_file_map *m, size_t offset, size_t size);

/* Whole file into memory, NUL-terminated behind its size bytes; at most `limit` bytes.
 * *data is freed with mica_mem_free. */
mica_status mica_file_read(const char *path, size_t limit, char **data, size_t *size,
                           mica_err *err);

/* A file under construction beside its final path. commit: flush, fsync, rename.
 * abort (or commit's failure) removes it. The temporary name also disappears on SIGINT
 * because only the run loop ends on cancel, and then abort is called. A path that is a folder, a device or a
 * pipe is MICA_E_IO: renaming would take its place. */
typedef struct mica_file_out {
    int fd;
    char *path, *temp_path;
} mica_file_out;
mica_status mica_file_out_open(mica_file_out *f, const char *path, mica_err *err);
mica_status mica_file_out_write(mica_file_out *f, const void *data, size_t size, mica_err *err);
/* At a place of its own; the sequential position stays where it is. */
mica_status mica_file_out_write_at(mica_file_out *f, uint64_t offset, const void *data, size_t size,
                                   mica_err *err);
/* Gives the file this length; what was not written reads as zeros. Tells a full disk early where the
 * system can. */
mica_status mica_file_out_resize(mica_file_out *f, uint64_t size, mica_err *err);
mica_status mica_file_out_commit(mica_file_out *f, mica_err *err);
void mica_file_out_abort(mica_file_out *f);

/* Size in bytes and time of the last change in seconds; false when there is no such file. */
bool mica_file_stat(const char *path, uint64_t *size, double *changed);
/* Sets that time to now. Failures do no harm and are not told. */
void mica_file_touch(const char *path);
void mica_file_remove(const char *path);
/* Makes the folder and those above it that are missing; those that are there are fine. */
mica_status mica_path_make_dirs(const char *path, mica_err *err);

bool mica_path_is_dir(const char *path);
bool mica_path_is_file(const char *path);
/* "a/b" from parts; NULL when memory ran out. Freed with mica_mem_free. */
char *mica_path_join(const char *a, const char *b);
/* Names (not paths) of a folder's entries, sorted; freed with mica_path_list_free. */
mica_status mica_path_list(const char *dir, char ***names, size_t *count, mica_err *err);
void mica_path_list_free(char ***names, size_t count);

#endif
