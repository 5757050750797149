/* folder.h - folders out: whole or not at all; files copied.
 *
 *     out.tmp.XXXXXX/ ──files──► sync ──rename──► out/        abort: removed with all that is in it
 *
 * Beside the final one, because rename is atomic only inside one file system. */
#ifndef MICA_BASE_FOLDER_H
#define MICA_BASE_FOLDER_H

#include "base/status.h"

#include <stdint.h>

typedef struct mica_folder_out {
    char *path, *temp_path;
} mica_folder_out;
mica_status mica_folder_out_open(mica_folder_out *f, const char *path, mica_err *err);
/* replace: what is there under the name goes away once the new folder is in its place; without it only an empty
 * folder may be there. */
mica_status mica_folder_out_commit(mica_folder_out *f, bool replace, mica_err *err);
void mica_folder_out_abort(mica_folder_out *f);

/* Bytes that a copy has got to; false: stop, with MICA_E_CANCELLED. */
typedef bool (*mica_copy_fn)(void *user, uint64_t bytes);
/* A regular file's bytes under another name; links are followed. */
mica_status mica_file_copy(const char *from, const char *to, mica_copy_fn progress, void *user,
                           mica_err *err);

/* The folder and everything in it; links are removed, not followed. Failures are not told. */
void mica_folder_remove(const char *path);
/* Bytes free for files in the folder `path` or, if it is not there, in that above; UINT64_MAX: not known. */
uint64_t mica_folder_room(const char *path);
/* Whether `inner` is `outer` or lies in it, links resolved; what is not there is judged by its folder. */
bool mica_path_is_inside(const char *inner, const char *outer);
/* Whether both are one file, under whatever names. */
bool mica_path_is_same(const char *a, const char *b);

#endif
