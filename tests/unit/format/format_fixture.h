/* format_fixture.h - file images and temporary folders for the tests of src/format.
 *
 * image_make builds a safetensors image from the text of its header, so that a test shows
 * the very JSON it is about; byte i of the data section is (7 i + 1) mod 256. */
#ifndef MICA_TEST_FORMAT_FIXTURE_H
#define MICA_TEST_FORMAT_FIXTURE_H

#include "base/file.h"
#include "base/mem.h"
#include "format/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct image {
    uint8_t *data; /* exactly size bytes, so that a sanitizer sees a step beyond */
    size_t size;
} image;

static inline uint8_t image_byte(size_t i)
{
    return (uint8_t)(7 * i + 1);
}

static inline image image_make(const char *header, size_t data_size)
{
    const size_t n = strlen(header);
    image m = {.size = 8 + n + data_size};
    m.data = malloc(m.size);
    assert_non_null(m.data);
    for (int i = 0; i < 8; i++)
        m.data[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(m.data + 8, header, n);
    for (size_t i = 0; i < data_size; i++)
        m.data[8 + n + i] = image_byte(i);
    return m;
}

static inline image image_raw(const void *bytes, size_t size)
{
    image m = {.data = malloc(size + (size == 0)), .size = size};
    assert_non_null(m.data);
    memcpy(m.data, bytes, size);
    return m;
}

/* A failure's status and text; the text must contain `expected` whole. */
static inline void expect_failure(mica_status st, const mica_err *err, mica_status status,
                                  const char *expected)
{
    if (st != status || err->status != status || strstr(err->text, expected) == NULL)
        fail_msg("status %d, expected %d\n  text     %s\n  expected %s", st, status, err->text,
                 expected);
}

static inline void expect_ok(mica_status st, const mica_err *err)
{
    if (st != MICA_OK)
        fail_msg("status %d: %s", st, err->text);
}

/* Opens an image that must be refused, and frees it. */
static inline void expect_refused(image m, mica_status status, const char *expected)
{
    mica_err err = {.status = MICA_OK};
    mica_weights *w = (mica_weights *)&err; /* must be cleared */
    const mica_status st = mica_weights_open_memory(&w, "x.safetensors", m.data, m.size, &err);
    assert_null(w);
    expect_failure(st, &err, status, expected);
    assert_int_equal(strncmp(err.text, "x.safetensors", 13), 0);
    assert_null(strchr(err.text, '\n'));
    free(m.data);
}

/* ---- a folder that lives as long as one test ---- */

typedef struct folder {
    char path[512];
} folder;

static inline folder folder_make(void)
{
    folder f;
    const char *base = getenv("TMPDIR");
    snprintf(f.path, sizeof f.path, "%s/mica-format-XXXXXX", base != NULL ? base : P_tmpdir);
    assert_non_null(mkdtemp(f.path));
    return f;
}

static inline void folder_expect_empty(const folder *f)
{
    char **names = NULL;
    size_t count = 0;
    mica_err err;
    expect_ok(mica_path_list(f->path, &names, &count, &err), &err);
    if (count > 0)
        fail_msg("%s was left in the folder", names[0]);
    mica_path_list_free(&names, count);
}

static inline void folder_remove(const folder *f)
{
    char **names = NULL;
    size_t count = 0;
    mica_err err;
    expect_ok(mica_path_list(f->path, &names, &count, &err), &err);
    for (size_t i = 0; i < count; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", f->path, names[i]);
        assert_int_equal(remove(path), 0);
    }
    mica_path_list_free(&names, count);
    assert_int_equal(rmdir(f->path), 0);
}

/* The path of a name inside the folder; four may be in use at a time. */
static inline const char *folder_path(const folder *f, const char *name)
{
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", f->path, name);
    return path;
}

static inline void folder_write(const folder *f, const char *name, const void *data, size_t size)
{
    FILE *out = fopen(folder_path(f, name), "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
}

static inline void folder_write_text(const folder *f, const char *name, const char *text)
{
    folder_write(f, name, text, strlen(text));
}

static inline void folder_write_image(const folder *f, const char *name, const char *header,
                                      size_t data_size)
{
    image m = image_make(header, data_size);
    folder_write(f, name, m.data, m.size);
    free(m.data);
}

#endif
