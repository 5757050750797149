/* test_base_memory.c - the heap door, arenas, checked sums, error texts. */
#include "base/arena.h"
#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_nth_allocation_fails(void **state)
{
    (void)state;
    const uint64_t before = mica_mem_count();
    mica_mem_fail_at(2);
    void *a = mica_mem_alloc(1), *b = mica_mem_alloc(1), *c = mica_mem_alloc(1);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    assert_true(mica_mem_count() - before == 3);
    mica_mem_free(a);
    mica_mem_free(c);
    mica_mem_fail_at(1);
    assert_null(mica_mem_calloc(1, 1));
    mica_mem_fail_at(0);
}

static void test_sizes(void **state)
{
    (void)state;
    size_t out = 7;
    assert_false(mica_mul_size(SIZE_MAX, 2, &out));
    assert_false(mica_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(mica_mul_size(SIZE_MAX, 0, &out));
    assert_int_equal(out, 0);
    assert_null(mica_mem_calloc(SIZE_MAX / 2, 3));
    assert_null(mica_mem_alloc_aligned(SIZE_MAX, 64));
    void *p = mica_mem_alloc_aligned(1, 4096);
    assert_int_equal((uintptr_t)p % 4096, 0);
    mica_mem_free(p);
    p = mica_mem_alloc(0);
    assert_non_null(p);
    mica_mem_free(p);
}

static void test_strings(void **state)
{
    (void)state;
    char *s = mica_mem_strndup("abcdef", 3);
    assert_string_equal(s, "abc");
    mica_mem_free(s);
    s = mica_mem_strndup("ab", 30);
    assert_string_equal(s, "ab");
    mica_mem_free(s);
}

static void test_arena_reuses_chunks(void **state)
{
    (void)state;
    mica_arena a;
    mica_arena_init(&a, 1 << 16);
    const mica_arena_mark start = mica_arena_get_mark(&a);
    uint64_t heap_calls = 0;
    for (int round = 0; round < 5; round++) {
        for (size_t i = 0; i < 100; i++) {
            unsigned char *p = mica_arena_alloc(&a, 5000);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % 64, 0);
            memset(p, (int)i, 5000);
        }
        if (round == 0)
            heap_calls = a.heap_calls;
        assert_true(a.heap_calls == heap_calls);
        mica_arena_release(&a, start);
        assert_int_equal(a.in_use, 0);
    }
    assert_true(a.peak >= 500000 && a.peak < 600000);
    mica_arena_deinit(&a);
}

static void test_arena_marks_nest(void **state)
{
    (void)state;
    mica_arena a;
    mica_arena_init(&a, 4096);
    char *kept = mica_arena_strndup(&a, "kept", 4);
    const mica_arena_mark mark = mica_arena_get_mark(&a);
    const size_t in_use = a.in_use;
    assert_non_null(mica_arena_alloc(&a, 100000)); /* its own chunk */
    char *zeros = mica_arena_calloc(&a, 10, 10);
    for (int i = 0; i < 100; i++)
        assert_int_equal(zeros[i], 0);
    mica_arena_release(&a, mark);
    assert_int_equal(a.in_use, in_use);
    assert_string_equal(kept, "kept");
    assert_null(mica_arena_alloc(&a, SIZE_MAX));
    assert_null(mica_arena_alloc(&a, SIZE_MAX - 100));
    assert_null(mica_arena_calloc(&a, SIZE_MAX, 2));
    mica_mem_fail_at(1);
    assert_null(mica_arena_alloc(&a, 1 << 20));
    mica_mem_fail_at(0);
    assert_non_null(mica_arena_alloc(&a, 1 << 20));
    mica_arena_deinit(&a);
}

static void test_error_texts(void **state)
{
    (void)state;
    mica_err err = {0};
    assert_int_equal(mica_err_set(NULL, MICA_E_IO, "x"), MICA_E_IO);
    assert_int_equal(MICA_FAIL(&err, MICA_E_IO, "disk %d", 3), MICA_E_IO);
    mica_err_prefix(&err, "file %s", "a");
    assert_string_equal(err.text, "file a: disk 3");
    assert_int_equal(err.status, MICA_E_IO);
    mica_err_prefix(NULL, "x");
}

/* Texts are cut between characters, wherever the limit falls. */
static void test_long_texts_are_cut_between_characters(void **state)
{
    (void)state;
    static char text[2 * MICA_ERR_TEXT];
    mica_err err = {0};
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 4 < sizeof text; i += 4)
            memcpy(text + i, "\xf0\x9f\xa6\x8a", 4);
        mica_err_set(&err, MICA_E_IO, "%s", text);
        assert_int_equal((strlen(err.text) - shift) % 4, 0);
        assert_true(strlen(err.text) > MICA_ERR_TEXT - 6);
        mica_err_prefix(&err, "p");
        assert_int_equal((strlen(err.text) - shift - 3) % 4, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nth_allocation_fails),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_arena_reuses_chunks),
        cmocka_unit_test(test_arena_marks_nest),
        cmocka_unit_test(test_error_texts),
        cmocka_unit_test(test_long_texts_are_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
