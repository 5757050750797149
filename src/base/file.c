/* file.c - mapped and whole-file reading, atomic writing.
 *
 *     out.png.XXXXXX.tmp ──write──► fsync ──rename──► out.png      abort: unlink
 *
 * The temporary file lies in the folder of the final one, because rename is atomic only inside
 * one file system. Its permissions are those of an ordinary new file (0666 less the umask). */
#include "base/file.h"

#include "base/checked.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------- reading -- */

static mica_status fail_open(const char *path, mica_err *err)
{
    const mica_status status = errno == ENOENT || errno == ENOTDIR ? MICA_E_MISSING : MICA_E_IO;
    return MICA_FAIL(err, status, "%s: cannot open: %s", path, strerror(errno));
}

/* Opens a regular file and tells its size. */
static mica_status open_regular(const char *path, int *fd, size_t *size, mica_err *err)
{
    struct stat info;
    /* Not blocking: a named pipe must be refused, not waited for. */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return fail_open(path, err);
    if (fstat(*fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size < 0) {
        close(*fd);
        return MICA_FAIL(err, MICA_E_IO, "%s: not a regular file", path);
    }
    *size = (size_t)info.st_size;
    return MICA_OK;
}

mica_status mica_file_map_open(mica_file_map *m, const char *path, mica_err *err)
{
    int fd = -1;
    size_t size = 0;
    *m = (mica_file_map){0};
    MICA_TRY(open_regular(path, &fd, &size, err));
    void *data = NULL;
    if (size > 0)
        data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int map_errno = errno;
    close(fd);
    if (data == MAP_FAILED)
        return MICA_FAIL(err, MICA_E_IO, "%s: cannot map %zu bytes: %s", path, size,
                         strerror(map_errno));
    m->data = data;
    m->size = size;
    m->path = mica_mem_strdup(path);
    if (!m->path) {
        mica_file_map_close(m);
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", path);
    }
    return MICA_OK;
}

void mica_file_map_close(mica_file_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    mica_mem_free(m->path);
    *m = (mica_file_map){0};
}

/* Whole pages alone: a neighbour stays. */
void mica_file_map_dontneed(const mica_file_map *m, size_t offset, size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!m->data || offset >= m->size)
        return;
    size_t first = offset, last = size < m->size - offset ? offset + size : m->size;
    first = (first + page - 1) / page * page;
    if (last != m->size)
        last = last / page * page;
    if (first < last)
        (void)madvise((void *)(uintptr_t)(m->data + first), last - first, MADV_DONTNEED);
}

/* Reads until the end or until `cap` bytes are there. Files of /proc tell size 0, so the size
 * is not asked for. */
static mica_status read_all(int fd, const char *path, char *data, size_t cap, size_t *size,
                            mica_err *err)
{
    *size = 0;
    while (*size < cap) {
        const ssize_t got = read(fd, data + *size, cap - *size);
        if (got == 0)
            break;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return MICA_FAIL(err, MICA_E_IO, "%s: cannot read: %s", path, strerror(errno));
        *size += (size_t)got;
    }
    return MICA_OK;
}

mica_status mica_file_read(const char *path, size_t limit, char **data, size_t *size, mica_err *err)
{
    int fd = -1;
    size_t expected = 0, cap = limit + 1; /* one more tells a file that is too long */
    *data = NULL;
    MICA_TRY(open_regular(path, &fd, &expected, err));
    mica_status status = MICA_OK;
    if (expected > limit)
        status = MICA_FAIL(err, MICA_E_FORMAT, "%s: %zu bytes, at most %zu are read", path,
                           expected, limit);
    if (expected > 0)
        cap = expected + 1;
    char *text = status ? NULL : mica_mem_alloc(cap + 1);
    if (!status && !text)
        status = MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", path);
    if (!status)
        status = read_all(fd, path, text, cap, size, err);
    if (!status && (*size > limit || *size == cap))
        status = MICA_FAIL(err, MICA_E_FORMAT, "%s: grew while it was read, or is too long", path);
    close(fd);
    if (status) {
        mica_mem_free(text);
        return status;
    }
    text[*size] = '\0';
    *data = text;
    return MICA_OK;
}

/* ---------------------------------------------------------------- writing -- */

static void forget(mica_file_out *f)
{
    mica_mem_free(f->path);
    mica_mem_free(f->temp_path);
    *f = (mica_file_out){.fd = -1};
}

static char *temporary_name(const char *path)
{
    static const char suffix[] = ".XXXXXX.tmp";
    const size_t length = strlen(path);
    char *name = mica_mem_alloc(length + sizeof suffix);
    if (name) {
        memcpy(name, path, length);
        memcpy(name + length, suffix, sizeof suffix);
    }
    return name;
}

mica_status mica_file_out_open(mica_file_out *f, const char *path, mica_err *err)
{
    *f = (mica_file_out){.fd = -1};
    struct stat old;
    if (stat(path, &old) == 0 && !S_ISREG(old.st_mode))
        return MICA_FAIL(err, MICA_E_IO, "%s: it is %s, not a file that can be replaced", path,
                         S_ISDIR(old.st_mode) ? "a folder" : "a device or a pipe");
    f->path = mica_mem_strdup(path);
    f->temp_path = temporary_name(path);
    if (!f->path || !f->temp_path) {
        forget(f);
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", path);
    }
    f->fd = mkstemps(f->temp_path, 4);
    if (f->fd < 0) {
        const int open_errno = errno;
        forget(f);
        return MICA_FAIL(err, MICA_E_IO, "%s: cannot create: %s", path, strerror(open_errno));
    }
    return MICA_OK;
}

mica_status mica_file_out_write(mica_file_out *f, const void *data, size_t size, mica_err *err)
{
    const uint8_t *next = data;
    while (size > 0) {
        const ssize_t put = write(f->fd, next, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return MICA_FAIL(err, MICA_E_IO, "%s: cannot write: %s", f->path, strerror(errno));
        next += put;
        size -= (size_t)put;
    }
    return MICA_OK;
}

mica_status mica_file_out_write_at(mica_file_out *f, uint64_t offset, const void *data, size_t size,
                                   mica_err *err)
{
    const uint8_t *next = data;
    while (size > 0) {
        const ssize_t put = pwrite(f->fd, next, size, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return MICA_FAIL(err, MICA_E_IO, "%s: cannot write: %s", f->path, strerror(errno));
        next += put;
        offset += (uint64_t)put;
        size -= (size_t)put;
    }
    return MICA_OK;
}

mica_status mica_file_out_resize(mica_file_out *f, uint64_t size, mica_err *err)
{
    if (size > INT64_MAX || ftruncate(f->fd, (off_t)size) != 0)
        return MICA_FAIL(err, MICA_E_IO, "%s: cannot make it %llu bytes long: %s", f->path,
                         (unsigned long long)size, strerror(errno));
#if defined(__linux__)
    const int full = size > 0 ? posix_fallocate(f->fd, 0, (off_t)size) : 0;
    if (full == ENOSPC || full == EFBIG)
        return MICA_FAIL(err, MICA_E_IO, "%s: there is no room for its %llu bytes", f->path,
                         (unsigned long long)size);
#endif
    return MICA_OK;
}

/* mkstemps gives 0600; an ordinary file has 0666 less the umask. */
static int set_ordinary_mode(int fd)
{
    const mode_t mask = umask(0);
    umask(mask);
    return fchmod(fd, (mode_t)(0666 & ~mask));
}

mica_status mica_file_out_commit(mica_file_out *f, mica_err *err)
{
    int failed = set_ordinary_mode(f->fd) != 0 || fsync(f->fd) != 0;
    const int sync_errno = errno;
    const int close_failed = close(f->fd) != 0;
    f->fd = -1;
    errno = failed ? sync_errno : errno;
    if (!failed && !close_failed)
        failed = rename(f->temp_path, f->path) != 0;
    if (failed || close_failed) {
        MICA_FAIL(err, MICA_E_IO, "%s: cannot write: %s", f->path, strerror(errno));
        mica_file_out_abort(f);
        return MICA_E_IO;
    }
    forget(f);
    return MICA_OK;
}

void mica_file_out_abort(mica_file_out *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->temp_path)
        unlink(f->temp_path);
    forget(f);
}

/* ---------------------------------------------------------------- keeping -- */

bool mica_file_stat(const char *path, uint64_t *size, double *changed)
{
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    *size = (uint64_t)info.st_size;
    *changed = (double)info.st_mtim.tv_sec + 1e-9 * (double)info.st_mtim.tv_nsec;
    return true;
}

void mica_file_touch(const char *path)
{
    (void)!utimensat(AT_FDCWD, path, NULL, 0);
}

void mica_file_remove(const char *path)
{
    (void)!unlink(path);
}

mica_status mica_path_make_dirs(const char *path, mica_err *err)
{
    char *copy = mica_mem_strdup(path);
    int failed = 0;
    if (!copy)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", path);
    for (char *p = copy; *p && !failed; p++) {
        if (p[1] != '/' && p[1] != '\0')
            continue;
        const char next = p[1];
        p[1] = '\0';
        /* Another process may make it at the same time. */
        failed = mkdir(copy, 0777) != 0 && errno != EEXIST && !mica_path_is_dir(copy);
        p[1] = next;
    }
    mica_mem_free(copy);
    return failed || !mica_path_is_dir(path)
               ? MICA_FAIL(err, MICA_E_IO, "%s: cannot make this folder: %s", path,
                           failed ? strerror(errno) : "something else is there")
               : MICA_OK;
}
