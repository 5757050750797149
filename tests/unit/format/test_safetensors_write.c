/* test_safetensors_write.c - what is written opens again as the same; refusals leave no file. */
#include "format_fixture.h"

#include <signal.h>
#include <sys/resource.h>

typedef struct sample {
    uint8_t bytes[5];
    float f32[6];
    uint16_t bf16[4];
    double f64[2];
    mica_tensor tensors[5];
    mica_safetensors_entry entries[5];
} sample;

/* In an order that needs moving: 5 bytes first would leave everything after it misaligned. */
static void sample_make(sample *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 6; i++) {
        s->f32[i] = 0.5f * (float)i;
        s->bf16[i % 4] = (uint16_t)(0x3f80 + i);
        s->bytes[i % 5] = (uint8_t)(200 + i);
        s->f64[i % 2] = i;
    }
    s->tensors[0] = mica_tensor_1d(s->bytes, MICA_DTYPE_U8, 5);
    s->tensors[1] = mica_tensor_2d(s->bf16, MICA_DTYPE_BF16, 2, 2);
    s->tensors[2] = mica_tensor_2d(s->f32, MICA_DTYPE_F32, 2, 3);
    s->tensors[3] = mica_tensor_make(s->f64, MICA_DTYPE_F64, 0, NULL);
    s->tensors[4] = mica_tensor_2d(NULL, MICA_DTYPE_F32, 0, 7);
    static const char *const NAMES[5] = {"bytes", "quote\"\\ \xc3\xa9", "z.weight", "scalar",
                                         "none"};
    for (int i = 0; i < 5; i++)
        s->entries[i] = (mica_safetensors_entry){.name = NAMES[i], .tensor = &s->tensors[i]};
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const METADATA[] = {"format", "pt", "text", "line\nbreak \"q\" \xe2\x82\xac",
                                           NULL};
    folder f = folder_make();
    const char *path = folder_path(&f, "out.safetensors");
    sample s;
    mica_err err;
    mica_weights *w;
    sample_make(&s);
    expect_ok(mica_safetensors_write(path, s.entries, 5, METADATA, &err), &err);
    expect_ok(mica_weights_open(&w, path, &err), &err);
    assert_int_equal(mica_weights_count(w), 5);
    for (int i = 0; i < 5; i++) {
        const mica_tensor *t = mica_weights_find(w, s.entries[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, s.tensors[i].dtype);
        assert_int_equal(t->ndim, s.tensors[i].ndim);
        assert_memory_equal(t->shape_, s.tensors[i].shape_, sizeof t->shape_);
        if (mica_tensor_size(t) > 0)
            assert_memory_equal(t->data, s.tensors[i].data, mica_tensor_size(t));
    }
    assert_string_equal(mica_weights_metadata(w, "text"), METADATA[3]);
    mica_weights_close(&w);
    folder_remove(&f);
}

/* Header length and every tensor's place in the file are multiples of what they must be. */
static void test_file_is_aligned(void **state)
{
    (void)state;
    folder f = folder_make();
    const char *path = folder_path(&f, "out.safetensors");
    sample s;
    mica_err err;
    char *bytes;
    size_t size;
    sample_make(&s);
    expect_ok(mica_safetensors_write(path, s.entries, 5, NULL, &err), &err);
    expect_ok(mica_file_read(path, 1 << 20, &bytes, &size, &err), &err);
    const size_t data = 8 + ((uint8_t)bytes[0] | (size_t)(uint8_t)bytes[1] << 8);
    assert_int_equal(data % 8, 0);
    assert_int_equal(size, data + 8 + 24 + 8 + 5); /* no holes */
    assert_memory_equal(bytes + data, s.f64, 8);
    assert_memory_equal(bytes + data + 8, s.f32, 24);
    assert_memory_equal(bytes + data + 32, s.bf16, 8);
    assert_memory_equal(bytes + data + 40, s.bytes, 5);
    assert_null(strstr(bytes + 8, "__metadata__"));
    mica_mem_free(bytes);
    folder_remove(&f);
}

static void test_empty_file_and_overwrite(void **state)
{
    (void)state;
    folder f = folder_make();
    const char *path = folder_path(&f, "out.safetensors");
    sample s;
    mica_err err;
    mica_weights *w;
    sample_make(&s);
    expect_ok(mica_safetensors_write(path, s.entries, 5, NULL, &err), &err);
    expect_ok(mica_safetensors_write(path, NULL, 0, NULL, &err), &err);
    expect_ok(mica_weights_open(&w, path, &err), &err);
    assert_int_equal(mica_weights_count(w), 0);
    assert_null(mica_weights_find(w, "bytes"));
    mica_weights_close(&w);
    folder_remove(&f);
}

static void expect_not_written(const sample *s, size_t count, const char *const *metadata,
                               mica_status status, const char *text)
{
    folder f = folder_make();
    mica_err err;
    const mica_status st = mica_safetensors_write(folder_path(&f, "no.safetensors"), s->entries,
                                                  count, metadata, &err);
    expect_failure(st, &err, status, text);
    folder_expect_empty(&f);
    folder_remove(&f);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const ODD[] = {"key", NULL};
    static const char *const BROKEN[] = {"key", "\xff", NULL};
    sample s;
    sample_make(&s);
    expect_not_written(&s, 5, ODD, MICA_E_USAGE, "metadata key key has no value");
    expect_not_written(&s, 5, BROKEN, MICA_E_USAGE, "metadata text 1 is not UTF-8");
    s.entries[3].name = "bytes";
    expect_not_written(&s, 5, NULL, MICA_E_USAGE, "two tensors are named bytes");
    s.entries[3].name = "__metadata__";
    expect_not_written(&s, 5, NULL, MICA_E_USAGE, "invalid name");
    sample_make(&s);
    s.tensors[1].stride_[0] = 4;
    expect_not_written(&s, 5, NULL, MICA_E_USAGE, "is not contiguous");
    sample_make(&s);
    s.tensors[2].scale = (mica_tensor_scale){.data = s.f32, .dtype = MICA_DTYPE_F32};
    expect_not_written(&s, 5, NULL, MICA_E_UNSUPPORTED, "tensor z.weight has a scale beside it");
}

static void test_unwritable_place(void **state)
{
    (void)state;
    folder f = folder_make();
    sample s;
    mica_err err;
    sample_make(&s);
    const mica_status st =
        mica_safetensors_write(folder_path(&f, "no/such/x.safetensors"), s.entries, 5, NULL, &err);
    expect_failure(st, &err, MICA_E_IO, "x.safetensors");
    folder_remove(&f);
}

/* The system refuses in the middle of the data: an error, and nothing stays behind. */
static void test_write_fails_midway(void **state)
{
    (void)state;
    folder f = folder_make();
    struct rlimit before, small;
    mica_err err;
    const size_t size = (size_t)1 << 20;
    uint8_t *bytes = calloc(size, 1);
    assert_non_null(bytes);
    const mica_tensor t = mica_tensor_1d(bytes, MICA_DTYPE_U8, (int64_t)size);
    const mica_safetensors_entry entry = {.name = "a", .tensor = &t};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 65536;
    signal(SIGXFSZ, SIG_IGN); /* the write fails with EFBIG instead */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const mica_status st =
        mica_safetensors_write(folder_path(&f, "big.safetensors"), &entry, 1, NULL, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    expect_failure(st, &err, MICA_E_IO, "");
    free(bytes);
    folder_expect_empty(&f);
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_file_is_aligned),
        cmocka_unit_test(test_empty_file_and_overwrite),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_unwritable_place),
        cmocka_unit_test(test_write_fails_midway),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
