/* test_weights.c - the directory itself: find, add, rename, hash, alignment, speed of lookups. */
#include "format_fixture.h"

#include <time.h>

#define THREE                                                                                      \
    "{\"__metadata__\":{\"format\":\"pt\",\"author\":\"A \\\"B\\\"\"},"                            \
    "\"net.b.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"                \
    "\"net.a.weight\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]},"                \
    "\"net.c\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[22,24]}}    "

static mica_weights *open_image(const image *m)
{
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    expect_ok(mica_weights_open_memory(&w, "mem", m->data, m->size, &err), &err);
    return w;
}

static void test_directory(void **state)
{
    (void)state;
    image m = image_make(THREE, 24);
    mica_weights *w = open_image(&m);
    assert_int_equal(mica_weights_count(w), 3);
    assert_string_equal(mica_weights_name(w, 0), "net.b.weight"); /* file order, not by name */
    assert_string_equal(mica_weights_name(w, 1), "net.a.weight");
    assert_string_equal(mica_weights_name(w, 2), "net.c");
    for (size_t i = 0; i < 3; i++)
        assert_ptr_equal(mica_weights_find(w, mica_weights_name(w, i)), mica_weights_tensor(w, i));
    const mica_tensor *b = mica_weights_find(w, "net.b.weight");
    assert_int_equal(b->ndim, 2);
    assert_int_equal(b->dtype, MICA_DTYPE_F32);
    assert_int_equal(((const uint8_t *)b->data)[15], image_byte(15));
    assert_null(mica_weights_find(w, "net"));
    assert_null(mica_weights_find(w, ""));
    assert_null(mica_weights_find(w, "zzz"));
    assert_null(mica_weights_find(w, "__metadata__"));
    assert_int_equal(mica_weights_bytes(w), 24);
    assert_int_equal(mica_weights_parameters(w), 9);
    assert_string_equal(mica_weights_path(w), "mem");
    assert_string_equal(mica_weights_metadata(w, "author"), "A \"B\"");
    assert_null(mica_weights_metadata(w, "absent"));
    mica_weights_dontneed(w, b); /* nothing mapped: must do nothing */
    assert_false(mica_weights_is_mapped(w, b));
    mica_weights_close(&w);
    assert_null(w);
    mica_weights_close(&w);
    free(m.data);
}

static void test_add(void **state)
{
    (void)state;
    float values[6] = {1, 2, 3, 4, 5, 6};
    mica_weights *w;
    mica_err err;
    mica_tensor t = mica_tensor_2d(values, MICA_DTYPE_F32, 2, 3);
    expect_ok(mica_weights_open_empty(&w, &err), &err);
    assert_int_equal(mica_weights_count(w), 0);
    assert_null(mica_weights_find(w, "m"));
    assert_null(mica_weights_metadata(w, "m"));
    expect_ok(mica_weights_add(w, "m", &t, &err), &err);
    const mica_tensor *m = mica_weights_find(w, "m");
    for (int i = 0; i < 300; i++) { /* growth must not move what was handed out */
        char name[16];
        snprintf(name, sizeof name, "%d", 7 * i % 300);
        expect_ok(mica_weights_add(w, name, &t, &err), &err);
    }
    assert_ptr_equal(mica_weights_find(w, "m"), m);
    assert_int_equal(mica_weights_count(w), 301);
    assert_string_equal(mica_weights_name(w, 2), "7");
    for (int i = 0; i < 300; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        assert_non_null(mica_weights_find(w, name));
    }
    expect_failure(mica_weights_add(w, "m", &t, &err), &err, MICA_E_USAGE,
                   "tensor m is there already");
    expect_failure(mica_weights_add(w, "a\nb", &t, &err), &err, MICA_E_USAGE, "not valid");
    t.stride_[0] = 1;
    t.stride_[1] = 2;
    expect_failure(mica_weights_add(w, "t", &t, &err), &err, MICA_E_USAGE,
                   "tensor t is not contiguous");
    assert_int_equal(mica_weights_count(w), 301);
    mica_weights_close(&w);
}

/* ---- rename ---- */

static bool strip_net(void *user, const char *name, char *out, size_t cap)
{
    ++*(int *)user;
    if (strncmp(name, "net.", 4) != 0)
        return false;
    snprintf(out, cap, "%s", name + 4);
    return true;
}

static bool same_name(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    if (strcmp(name, "net.c") == 0)
        return false;
    snprintf(out, cap, "all");
    return true;
}

static bool empty_name(void *user, const char *name, char *out, size_t cap)
{
    (void)user, (void)name, (void)cap;
    out[0] = '\0';
    return true;
}

static void test_rename(void **state)
{
    (void)state;
    image m = image_make(THREE, 24);
    mica_weights *w = open_image(&m);
    mica_err err;
    char before[17], after[17];
    int calls = 0;
    const mica_tensor *c = mica_weights_find(w, "net.c");
    mica_weights_hash(w, before);
    expect_ok(mica_weights_rename(w, strip_net, &calls, &err), &err);
    assert_int_equal(calls, 3);
    assert_ptr_equal(mica_weights_find(w, "c"), c);
    assert_non_null(mica_weights_find(w, "a.weight"));
    assert_null(mica_weights_find(w, "net.c"));
    assert_string_equal(mica_weights_name(w, 0), "b.weight");
    mica_weights_hash(w, after);
    assert_string_equal(before, after);
    mica_weights_close(&w);
    free(m.data);
}

static void test_rename_collision_changes_nothing(void **state)
{
    (void)state;
    image m = image_make(THREE, 24);
    mica_weights *w = open_image(&m);
    mica_err err;
    mica_status st = mica_weights_rename(w, same_name, NULL, &err);
    expect_failure(st, &err, MICA_E_FORMAT, "are both all to this model");
    assert_non_null(strstr(err.text, "net.a.weight"));
    assert_non_null(strstr(err.text, "net.b.weight"));
    st = mica_weights_rename(w, empty_name, NULL, &err);
    expect_failure(st, &err, MICA_E_FORMAT, "tensor net.b.weight would get an invalid name");
    assert_non_null(mica_weights_find(w, "net.a.weight"));
    assert_non_null(mica_weights_find(w, "net.b.weight"));
    assert_null(mica_weights_find(w, "all"));
    mica_weights_close(&w);
    free(m.data);
}

/* ---- hash ---- */

static void hash_of(const char *header, size_t data_size, size_t flip, char out[17])
{
    image m = image_make(header, data_size);
    if (flip != SIZE_MAX)
        m.data[m.size - data_size + flip] ^= 1;
    mica_weights *w = open_image(&m);
    mica_weights_hash(w, out);
    mica_weights_close(&w);
    free(m.data);
}

#define ONE(name, dtype, shape)                                                                    \
    "{\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[0,4096]}}"

static void test_hash(void **state)
{
    (void)state;
    char base[17], other[17];
    const char *header = ONE("a", "F32", "[32,32]");
    hash_of(header, 4096, SIZE_MAX, base);
    assert_int_equal(strlen(base), 16);
    assert_int_equal(strspn(base, "0123456789abcdef"), 16);
    hash_of(header, 4096, SIZE_MAX, other);
    assert_string_equal(base, other);
    const size_t sampled[] = {0, 47, 4048, 4095};
    for (size_t i = 0; i < MICA_ARRAY_LEN(sampled); i++) {
        hash_of(header, 4096, sampled[i], other);
        assert_string_not_equal(base, other);
    }
    hash_of(header, 4096, 1000, other); /* not sampled, as documented: the data is not read */
    assert_string_equal(base, other);
    hash_of(ONE("b", "F32", "[32,32]"), 4096, SIZE_MAX, other);
    assert_string_not_equal(base, other);
    hash_of(ONE("a", "I32", "[32,32]"), 4096, SIZE_MAX, other);
    assert_string_not_equal(base, other);
    hash_of(ONE("a", "F32", "[64,16]"), 4096, SIZE_MAX, other);
    assert_string_not_equal(base, other);
}

/* ---- alignment ---- */

static void test_misaligned_tensors_are_copied(void **state)
{
    (void)state;
    static const char *const PADS[] = {"", " ", "  ", "   ", "    ", "     ", "      ", "       "};
    for (size_t pad = 0; pad < 8; pad++) { /* every phase of the data section */
        char header[512];
        snprintf(header, sizeof header,
                 "{\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                 "\"f\":{\"dtype\":\"F32\",\"shape\":[5],\"data_offsets\":[3,23]},"
                 "\"h\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[23,27]},"
                 "\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[27,35]}}%s",
                 PADS[pad]);
        image m = image_make(header, 35);
        mica_weights *w = open_image(&m);
        size_t at = 0;
        for (size_t i = 0; i < 4; i++) {
            const mica_tensor *t = mica_weights_tensor(w, i);
            assert_int_equal((uintptr_t)t->data % (size_t)mica_dtype_get(t->dtype)->size, 0);
            for (size_t k = 0; k < mica_tensor_size(t); k++)
                assert_int_equal(((const uint8_t *)t->data)[k], image_byte(at++));
        }
        mica_weights_close(&w);
        free(m.data);
    }
}

static void test_large_misaligned_tensor_is_refused(void **state)
{
    (void)state;
    const size_t size = ((size_t)64 << 20) + 4;
    char header[256];
    const int used =
        snprintf(header, sizeof header,
                 "{\"big\":{\"dtype\":\"F32\",\"shape\":[%zu],\"data_offsets\":[1,%zu]}}", size / 4,
                 size + 1);
    while (strlen(header) % 8 != 0)
        strcat(header, " ");
    assert_true(used > 0 && strlen(header) < 128);
    expect_refused(image_make(header, size + 1), MICA_E_UNSUPPORTED,
                   "tensor big (67108868 bytes) is misaligned or not contiguous and too large");
}

/* ---- speed ---- */

static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static char *many_header(int count)
{
    const size_t cap = (size_t)count * 128 + 16;
    char *header = malloc(cap);
    assert_non_null(header);
    size_t n = (size_t)snprintf(header, cap, "{");
    for (int i = 0; i < count; i++)
        n += (size_t)snprintf(
            header + n, cap - n,
            "%s\"transformer_blocks.%d.attn.to_q.weight\":{\"dtype\":\"U8\",\"shape\":[1],"
            "\"data_offsets\":[%d,%d]}",
            i > 0 ? "," : "", i, i, i + 1);
    snprintf(header + n, cap - n, "}");
    return header;
}

/* Of many tensors a few are sampled, not none and not all: flips every tensor in turn. */
static void test_hash_samples_some(void **state)
{
    (void)state;
    const int count = 2000;
    char *header = many_header(count);
    image m = image_make(header, (size_t)count);
    uint8_t *data = m.data + m.size - (size_t)count;
    char before[17], after[17];
    int seen = 0;
    free(header);
    mica_weights *w = open_image(&m);
    mica_weights_hash(w, before);
    for (int i = 0; i < count; i++) {
        data[i] ^= 0x80;
        mica_weights_hash(w, after);
        seen += strcmp(before, after) != 0;
        data[i] ^= 0x80;
    }
    assert_in_range(seen, 8, 64);
    mica_weights_close(&w);
    free(m.data);
}

/* Bounds that a linear lookup or a quadratic walk of the header misses by 10 x or more, even in
 * an optimised build: 30,000 tensors make 4.5e8 steps of a quadratic walk, 1.5e9 compares of
 * linear lookups. Measured in an address-sanitizer build: 0.3 s and 0.05 s. */
static void test_many_tensors_are_fast(void **state)
{
    (void)state;
    const int count = 30000;
    char *header = many_header(count);
    image m = image_make(header, (size_t)count);
    free(header);
    const double start = cpu_seconds();
    mica_weights *w = open_image(&m);
    const double opened = cpu_seconds();
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < count; i++) {
            char name[64];
            snprintf(name, sizeof name, "transformer_blocks.%d.attn.to_q.weight", i);
            const mica_tensor *t = mica_weights_find(w, name);
            assert_true(t != NULL && *(const uint8_t *)t->data == image_byte((size_t)i));
        }
    const double found = cpu_seconds();
    print_message("%d tensors: open %.3f s, %d lookups %.3f s\n", count, opened - start, 3 * count,
                  found - opened);
    assert_true(opened - start < 2.0);
    assert_true(found - opened < 1.0);
    mica_weights_close(&w);
    free(m.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_add),
        cmocka_unit_test(test_rename),
        cmocka_unit_test(test_rename_collision_changes_nothing),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_misaligned_tensors_are_copied),
        cmocka_unit_test(test_large_misaligned_tensor_is_refused),
        cmocka_unit_test(test_hash_samples_some),
        cmocka_unit_test(test_many_tensors_are_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
