/* test_base_system.c - files in and out, paths, processor levels, clock, generator. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static int enter_folder(void **state)
{
    static char folder[] = "/tmp/mica-base-XXXXXX";
    *state = mkdtemp(folder);
    return *state && chdir(folder) == 0 ? 0 : -1;
}

static int leave_folder(void **state)
{
    return rmdir(*state);
}

static void write_file(const char *path, const char *text)
{
    mica_file_out f;
    mica_err err = {0};
    assert_int_equal(mica_file_out_open(&f, path, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&f, text, strlen(text), &err), MICA_OK);
    assert_int_equal(mica_file_out_commit(&f, &err), MICA_OK);
}

static size_t entry_count(void)
{
    char **names = NULL;
    size_t count = 0;
    mica_err err = {0};
    assert_int_equal(mica_path_list(".", &names, &count, &err), MICA_OK);
    for (size_t i = 1; i < count; i++)
        assert_true(strcmp(names[i - 1], names[i]) < 0);
    mica_path_list_free(&names, count);
    return count;
}

static void test_atomic_writing(void **state)
{
    (void)state;
    mica_file_out f;
    mica_err err = {0};
    char *data = NULL;
    size_t size = 0;
    struct stat info;
    write_file("a", "old");
    assert_int_equal(mica_file_out_open(&f, "a", &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&f, "new", 3, &err), MICA_OK);
    mica_file_out_abort(&f);
    assert_int_equal(entry_count(), 1);
    assert_int_equal(mica_file_read("a", 100, &data, &size, &err), MICA_OK);
    assert_string_equal(data, "old");
    mica_mem_free(data);
    const mode_t mask = umask(022);
    write_file("a", "new");
    umask(mask);
    assert_int_equal(stat("a", &info), 0);
    assert_int_equal(info.st_mode & 0777, 0644);
    assert_int_equal(mica_file_out_open(&f, "no/such/a", &err), MICA_E_IO);
    assert_non_null(strstr(err.text, "no/such/a"));
    assert_int_equal(mkfifo("pipe", 0600), 0); /* stands for /dev/null, which root could replace */
    assert_int_equal(mica_file_out_open(&f, "pipe", &err), MICA_E_IO);
    assert_non_null(strstr(err.text, "pipe: it is a device or a pipe"));
    assert_int_equal(mica_file_out_open(&f, ".", &err), MICA_E_IO);
    unlink("pipe");
    for (uint64_t n = 1; n <= 2; n++) {
        mica_mem_fail_at(n);
        assert_int_equal(mica_file_out_open(&f, "b", &err), MICA_E_NOMEM);
        mica_mem_fail_at(0);
    }
    unlink("a");
    assert_int_equal(entry_count(), 0);
}

static void test_reading(void **state)
{
    (void)state;
    mica_err err = {0};
    char *data = NULL;
    size_t size = 9;
    assert_int_equal(mica_file_read("none", 10, &data, &size, &err), MICA_E_MISSING);
    assert_int_equal(mica_file_read(".", 10, &data, &size, &err), MICA_E_IO);
    assert_int_equal(mica_file_read("/dev/zero", 10, &data, &size, &err), MICA_E_IO);
    write_file("a", "0123456789");
    assert_int_equal(mica_file_read("a", 9, &data, &size, &err), MICA_E_FORMAT);
    assert_null(data);
    assert_int_equal(mica_file_read("a", 10, &data, &size, &err), MICA_OK);
    assert_int_equal(size, 10);
    assert_int_equal(data[10], 0);
    mica_mem_free(data);
    write_file("a", "");
    assert_int_equal(mica_file_read("a", 10, &data, &size, &err), MICA_OK);
    assert_int_equal(size, 0);
    mica_mem_free(data);
    unlink("a");
}

static void test_mapping(void **state)
{
    (void)state;
    mica_file_map m;
    mica_err err = {0};
    assert_int_equal(mica_file_map_open(&m, "none", &err), MICA_E_MISSING);
    write_file("a", "mapped");
    assert_int_equal(mica_file_map_open(&m, "a", &err), MICA_OK);
    assert_int_equal(m.size, 6);
    mica_file_map_dontneed(&m, 0, 6);
    mica_file_map_dontneed(&m, 100, 6);
    assert_memory_equal(m.data, "mapped", 6);
    mica_file_map_close(&m);
    assert_null(m.data);
    write_file("a", "");
    assert_int_equal(mica_file_map_open(&m, "a", &err), MICA_OK);
    assert_null(m.data);
    mica_file_map_close(&m);
    unlink("a");
}

static void test_paths(void **state)
{
    (void)state;
    char *p = mica_path_join("a", "b");
    assert_string_equal(p, "a/b");
    mica_mem_free(p);
    p = mica_path_join("a/", "b");
    assert_string_equal(p, "a/b");
    mica_mem_free(p);
    p = mica_path_join("", "b");
    assert_string_equal(p, "b");
    mica_mem_free(p);
    assert_true(mica_path_is_dir("."));
    assert_false(mica_path_is_file("."));
    assert_false(mica_path_is_dir("none"));
    char **names = NULL;
    size_t count = 0;
    mica_err err = {0};
    assert_int_equal(mica_path_list("none", &names, &count, &err), MICA_E_MISSING);
    for (int i = 0; i < 40; i++)
        write_file((const char[]){'n', (char)('A' + i), '\0'}, "");
    assert_int_equal(entry_count(), 40);
    for (int i = 0; i < 40; i++)
        unlink((const char[]){'n', (char)('A' + i), '\0'});
}

static void test_levels(void **state)
{
    (void)state;
    mica_err err = {0};
    const mica_cpu_level best = mica_cpu_best_level();
    assert_true(best >= MICA_CPU_LEVEL_BASELINE);
    for (int l = MICA_CPU_LEVEL_AUTO; l <= MICA_CPU_LEVEL_V4_AMX; l++) {
        mica_cpu_level parsed = MICA_CPU_LEVEL_AUTO;
        assert_true(mica_cpu_level_parse(mica_cpu_level_name((mica_cpu_level)l), &parsed));
        assert_int_equal(parsed, l);
        const mica_status expected = l <= (int)best ? MICA_OK : MICA_E_UNSUPPORTED;
        assert_int_equal(mica_cpu_set_level((mica_cpu_level)l, &err), expected);
        if (expected == MICA_OK && l != MICA_CPU_LEVEL_AUTO)
            assert_int_equal(mica_cpu_get_level(), l);
        if (l > 0 && l < MICA_CPU_LEVEL_V4 && expected == MICA_OK)
            assert_false(mica_cpu_has_vnni());
        if (l > 0 && l < MICA_CPU_LEVEL_V4_BF16_VNNI && expected == MICA_OK)
            assert_false(mica_cpu_has_bf16());
    }
    assert_int_equal(mica_cpu_set_level(MICA_CPU_LEVEL_AUTO, &err), MICA_OK);
    assert_int_equal(mica_cpu_get_level(), best);
    mica_cpu_level l;
    assert_false(mica_cpu_level_parse("v5", &l));
    assert_true(mica_cpu_count() >= 1);
}

static void test_clock(void **state)
{
    (void)state;
    const double a = mica_clock_seconds();
    assert_true(mica_clock_seconds() >= a);
    assert_true(mica_clock_peak_rss() > 100000);
}

/* The values of std::mt19937 for its default seed: [rand.predef] of the C++ standard names the
 * 10000th. */
static void test_generator(void **state)
{
    (void)state;
    mica_mt19937 g;
    mica_mt19937_init(&g, 5489u);
    assert_int_equal(mica_mt19937_next(&g), 3499211612u);
    for (int i = 2; i < 10000; i++)
        mica_mt19937_next(&g);
    assert_true(mica_mt19937_next(&g) == 4123659995u);
    mica_mt19937_init(&g, (1ull << 32) + 5489u);
    assert_true(mica_mt19937_next(&g) == 3499211612u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_atomic_writing), cmocka_unit_test(test_reading),
        cmocka_unit_test(test_mapping),        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_levels),         cmocka_unit_test(test_clock),
        cmocka_unit_test(test_generator),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
