/* path.c - questions about paths, and folders as sorted lists. */
#include "base/file.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool mica_path_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool mica_path_is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

char *mica_path_join(const char *a, const char *b)
{
    const size_t n = strlen(a), m = strlen(b);
    const size_t slash = n > 0 && a[n - 1] != '/';
    char *path = mica_mem_alloc(n + slash + m + 1);
    if (!path)
        return NULL;
    memcpy(path, a, n);
    if (slash)
        path[n] = '/';
    memcpy(path + n + slash, b, m + 1);
    return path;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Appends a copy of name; false when memory ran out. */
static bool append(char ***names, size_t *count, size_t *cap, const char *name)
{
    if (*count == *cap) {
        const size_t larger = *cap ? 2 * *cap : 16;
        char **grown = mica_mem_realloc(*names, larger * sizeof **names);
        if (!grown)
            return false;
        *names = grown;
        *cap = larger;
    }
    (*names)[*count] = mica_mem_strdup(name);
    if (!(*names)[*count])
        return false;
    ++*count;
    return true;
}

mica_status mica_path_list(const char *dir, char ***names, size_t *count, mica_err *err)
{
    size_t cap = 0;
    *names = NULL;
    *count = 0;
    DIR *folder = opendir(dir);
    if (!folder)
        return MICA_FAIL(err, errno == ENOENT || errno == ENOTDIR ? MICA_E_MISSING : MICA_E_IO,
                         "%s: cannot list: %s", dir, strerror(errno));
    bool ok = true;
    for (const struct dirent *e = readdir(folder); ok && e; e = readdir(folder)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        ok = append(names, count, &cap, e->d_name);
    }
    closedir(folder);
    if (!ok) {
        mica_path_list_free(names, *count);
        *count = 0;
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory", dir);
    }
    if (*count > 1)
        qsort(*names, *count, sizeof **names, compare_names);
    return MICA_OK;
}

void mica_path_list_free(char ***names, size_t count)
{
    for (size_t i = 0; *names && i < count; i++)
        mica_mem_free((*names)[i]);
    mica_mem_free(*names);
    *names = NULL;
}
