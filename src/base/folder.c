/* folder.c - see folder.h. */
#include "base/folder.h"

#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define REMOVE_DEPTH 16
#define COPY_PIECE   ((size_t)1 << 20)

static void forget(mica_folder_out *f)
{
    mica_mem_free(f->path);
    mica_mem_free(f->temp_path);
    *f = (mica_folder_out){0};
}

/* path + suffix; NULL: no memory. */
static char *with_suffix(const char *path, const char *suffix)
{
    const size_t n = strlen(path), m = strlen(suffix) + 1;
    char *s = mica_mem_alloc(n + m);
    if (s) {
        memcpy(s, path, n);
        memcpy(s + n, suffix, m);
    }
    return s;
}

mica_status mica_folder_out_open(mica_folder_out *f, const char *path, mica_err *err)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    f->path = mica_mem_strndup(path, n);
    f->temp_path = f->path ? with_suffix(f->path, ".tmp.XXXXXX") : NULL;
    if (!f->temp_path) {
        forget(f);
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", path);
    }
    if (!mkdtemp(f->temp_path)) {
        const int why = errno;
        forget(f);
        return MICA_FAIL(err, MICA_E_IO, "%s: cannot create: %s", path, strerror(why));
    }
    return MICA_OK;
}

/* mkdtemp gives 0700; an ordinary folder has 0777 less the umask. */
static void set_ordinary_mode(const char *path)
{
    const mode_t mask = umask(0);
    umask(mask);
    (void)!chmod(path, (mode_t)(0777 & ~mask));
}

static void sync_folder(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!fsync(fd);
    close(fd);
}

mica_status mica_folder_out_commit(mica_folder_out *f, bool replace, mica_err *err)
{
    char *old = with_suffix(f->temp_path, ".old");
    set_ordinary_mode(f->temp_path);
    sync_folder(f->temp_path);
    bool moved = false;
    if (old && replace)
        moved = rename(f->path, old) == 0;
    if (!old || rename(f->temp_path, f->path) != 0) {
        MICA_FAIL(err, MICA_E_IO, "%s: cannot put the finished folder there: %s", f->path,
                  old ? strerror(errno) : "out of memory");
        if (moved)
            (void)!rename(old, f->path);
        mica_mem_free(old);
        mica_folder_out_abort(f);
        return MICA_E_IO;
    }
    if (moved)
        mica_folder_remove(old);
    mica_mem_free(old);
    forget(f);
    return MICA_OK;
}

void mica_folder_out_abort(mica_folder_out *f)
{
    if (f->temp_path)
        mica_folder_remove(f->temp_path);
    forget(f);
}

/* ---------------------------------------------------------------- removing -- */

static void remove_tree(const char *path, int depth)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return;
    DIR *d = S_ISDIR(info.st_mode) && depth < REMOVE_DEPTH ? opendir(path) : NULL;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *inner = mica_path_join(path, e->d_name);
        if (inner)
            remove_tree(inner, depth + 1);
        mica_mem_free(inner);
    }
    if (d)
        closedir(d);
    (void)!(S_ISDIR(info.st_mode) ? rmdir(path) : unlink(path));
}

void mica_folder_remove(const char *path)
{
    remove_tree(path, 0);
}

/* ----------------------------------------------------------------- copying -- */

static mica_status copy_pieces(const mica_file_map *from, mica_file_out *to, mica_copy_fn progress,
                               void *user, mica_err *err)
{
    for (size_t at = 0; at < from->size; at += COPY_PIECE) {
        const size_t n = MICA_MIN(COPY_PIECE, from->size - at);
        MICA_TRY(mica_file_out_write(to, from->data + at, n, err));
        mica_file_map_dontneed(from, at, n);
        if (progress && !progress(user, at + n))
            return MICA_FAIL(err, MICA_E_CANCELLED, "stopped");
    }
    return MICA_OK;
}

mica_status mica_file_copy(const char *from, const char *to, mica_copy_fn progress, void *user,
                           mica_err *err)
{
    mica_file_map map;
    mica_file_out out;
    MICA_TRY(mica_file_map_open(&map, from, err));
    mica_status st = mica_file_out_open(&out, to, err);
    if (!st) {
        st = copy_pieces(&map, &out, progress, user, err);
        if (st)
            mica_file_out_abort(&out);
        else
            st = mica_file_out_commit(&out, err);
    }
    mica_file_map_close(&map);
    return st;
}

/* ------------------------------------------------------------------ asking -- */

/* The folder part of a path; mica_mem_free. */
static char *above(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n > 0 ? mica_mem_strndup(path, n) : mica_mem_strdup(".");
}

uint64_t mica_folder_room(const char *path)
{
    struct statvfs info;
    char *dir = mica_path_is_dir(path) ? mica_mem_strdup(path) : above(path);
    const bool known = dir && statvfs(dir, &info) == 0;
    mica_mem_free(dir);
    return known ? (uint64_t)info.f_bavail * info.f_frsize : UINT64_MAX;
}

bool mica_path_is_inside(const char *inner, const char *outer)
{
    char a[PATH_MAX], b[PATH_MAX];
    char *dir = mica_path_is_dir(inner) ? mica_mem_strdup(inner) : above(inner);
    const bool known = dir && realpath(dir, a) && realpath(outer, b);
    mica_mem_free(dir);
    if (!known)
        return false;
    const size_t n = strlen(b);
    return strncmp(a, b, n) == 0 && (a[n] == '\0' || a[n] == '/' || n == 1);
}

bool mica_path_is_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}
