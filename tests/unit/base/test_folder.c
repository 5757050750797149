/* test_folder.c - folders that appear whole or not at all, and what lies in what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/folder.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct place {
    char dir[64], out[96], inner[160];
} place;

static place open_place(void)
{
    place p;
    snprintf(p.dir, sizeof p.dir, "/tmp/mica-folder-XXXXXX");
    assert_non_null(mkdtemp(p.dir));
    snprintf(p.out, sizeof p.out, "%s/out", p.dir);
    snprintf(p.inner, sizeof p.inner, "%s/out/inner", p.dir);
    return p;
}

static void write_file(const char *folder, const char *name, const char *text)
{
    mica_err err = {0};
    mica_file_out f;
    char *path = mica_path_join(folder, name);
    assert_int_equal(mica_file_out_open(&f, path, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&f, text, strlen(text), &err), MICA_OK);
    assert_int_equal(mica_file_out_commit(&f, &err), MICA_OK);
    mica_mem_free(path);
}

static size_t count_entries(const char *folder)
{
    char **names = NULL;
    size_t count = 0;
    mica_err err = {0};
    assert_int_equal(mica_path_list(folder, &names, &count, &err), MICA_OK);
    mica_path_list_free(&names, count);
    return count;
}

static bool has(const char *folder, const char *name)
{
    char *path = mica_path_join(folder, name);
    const bool found = mica_path_is_file(path);
    mica_mem_free(path);
    return found;
}

static void test_commit(void **state)
{
    (void)state;
    place p = open_place();
    mica_folder_out f;
    mica_err err = {0};
    struct stat info;
    char slashed[110];
    snprintf(slashed, sizeof slashed, "%s///", p.out);
    assert_int_equal(mica_folder_out_open(&f, slashed, &err), MICA_OK);
    assert_false(mica_path_is_dir(p.out));
    write_file(f.temp_path, "a", "1");
    assert_int_equal(mica_folder_out_commit(&f, false, &err), MICA_OK);
    assert_true(has(p.out, "a"));
    assert_int_equal(count_entries(p.dir), 1);
    const mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(p.out, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0777 & ~mask);
    /* once more: only with leave to replace */
    assert_int_equal(mica_folder_out_open(&f, p.out, &err), MICA_OK);
    write_file(f.temp_path, "b", "2");
    assert_int_equal(mica_folder_out_commit(&f, false, &err), MICA_E_IO);
    assert_true(has(p.out, "a") && !has(p.out, "b"));
    assert_int_equal(count_entries(p.dir), 1);
    assert_int_equal(mica_folder_out_open(&f, p.out, &err), MICA_OK);
    write_file(f.temp_path, "b", "2");
    assert_int_equal(mica_folder_out_commit(&f, true, &err), MICA_OK);
    assert_true(!has(p.out, "a") && has(p.out, "b"));
    assert_int_equal(count_entries(p.dir), 1);
    mica_folder_remove(p.dir);
    assert_false(mica_path_is_dir(p.dir));
}

static void test_abort(void **state)
{
    (void)state;
    place p = open_place();
    mica_folder_out f;
    mica_err err = {0};
    assert_int_equal(mica_folder_out_open(&f, p.out, &err), MICA_OK);
    char *deep = mica_path_join(f.temp_path, "x/y/z");
    assert_int_equal(mica_path_make_dirs(deep, &err), MICA_OK);
    write_file(deep, "a", "1");
    mica_mem_free(deep);
    mica_folder_out_abort(&f);
    mica_folder_out_abort(&f); /* harmless */
    assert_int_equal(count_entries(p.dir), 0);
    mica_folder_remove(p.dir);
    assert_int_equal(mica_folder_out_open(&f, p.out, &err), MICA_E_IO);
    assert_non_null(strstr(err.text, "cannot create"));
}

/* A link in a folder that goes away is cut, what it leads to stays. */
static void test_links(void **state)
{
    (void)state;
    place p = open_place(), other = open_place();
    write_file(other.dir, "kept", "1");
    assert_int_equal(mkdir(p.out, 0777), 0);
    assert_int_equal(symlink(other.dir, p.inner), 0);
    mica_folder_remove(p.out);
    assert_int_equal(count_entries(p.dir), 0);
    assert_true(has(other.dir, "kept"));
    mica_folder_remove(other.dir);
    mica_folder_remove(p.dir);
}

static bool stop_behind(void *user, uint64_t bytes)
{
    return bytes < *(uint64_t *)user;
}

static void test_copy(void **state)
{
    (void)state;
    place p = open_place();
    mica_err err = {0};
    char from[96], to[96];
    char *text = mica_mem_calloc(1, 3000001), *back = NULL;
    size_t size = 0;
    memset(text, 'x', 3000000);
    text[2999999] = 'y';
    write_file(p.dir, "from", text);
    snprintf(from, sizeof from, "%s/from", p.dir);
    snprintf(to, sizeof to, "%s/to", p.dir);
    assert_int_equal(mica_file_copy(from, to, NULL, NULL, &err), MICA_OK);
    assert_int_equal(mica_file_read(to, 1 << 22, &back, &size, &err), MICA_OK);
    assert_int_equal(size, 3000000);
    assert_memory_equal(back, text, size);
    unlink(to);
    uint64_t limit = 2000000;
    assert_int_equal(mica_file_copy(from, to, stop_behind, &limit, &err), MICA_E_CANCELLED);
    assert_int_equal(count_entries(p.dir), 1);
    assert_int_equal(mica_file_copy(to, from, NULL, NULL, &err), MICA_E_MISSING);
    mica_mem_free(text);
    mica_mem_free(back);
    mica_folder_remove(p.dir);
}

static void test_inside(void **state)
{
    (void)state;
    place p = open_place();
    char beside[110], link[110];
    mica_err err = {0};
    assert_int_equal(mica_path_make_dirs(p.inner, &err), MICA_OK);
    snprintf(beside, sizeof beside, "%s/outside", p.dir);
    snprintf(link, sizeof link, "%s/link", p.dir);
    assert_int_equal(symlink(p.inner, link), 0);
    assert_true(mica_path_is_inside(p.inner, p.out));
    assert_true(mica_path_is_inside(p.out, p.out));
    assert_true(mica_path_is_inside(link, p.out));
    assert_false(mica_path_is_inside(p.out, p.inner));
    assert_false(mica_path_is_inside(beside, p.out)); /* not there: judged by its folder */
    assert_false(mica_path_is_inside("/nowhere/at/all", p.out));
    assert_true(mica_path_is_same(p.inner, link));
    assert_false(mica_path_is_same(p.out, p.inner));
    assert_true(mica_folder_room(p.out) > 0);
    assert_true(mica_folder_room(beside) != UINT64_MAX);
    assert_true(mica_folder_room("/nowhere/at/all") == UINT64_MAX);
    mica_folder_remove(p.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit), cmocka_unit_test(test_abort),  cmocka_unit_test(test_links),
        cmocka_unit_test(test_copy),   cmocka_unit_test(test_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
