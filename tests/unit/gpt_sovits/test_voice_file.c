/* test_voice_file.c - voices to disk and back; files that are none. */
#include "golden_file.h"

#include "base/mem.h"
#include "models/gpt_sovits/gpt_sovits_voice_file.h"

#include <math.h>
#include <unistd.h>

static char folder[64], path[128];

static int open_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/mica_voice_XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/a.voice", folder);
    return 0;
}

static int close_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static int32_t codes[] = {5, 0, 1023, 7};
static float style[] = {0.5f, -1.25f, 3e-7f};
static char text[] = "你好, \"world\"", language[] = "zh";

static mica_gs_voice sample(void)
{
    return (mica_gs_voice){"0123456789abcdef", codes, 4, style, 3, text, language};
}

static void test_there_and_back(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_gs_voice out, in = sample();
    assert_int_equal(mica_gs_voice_write(&in, path, &err), MICA_OK);
    if (mica_gs_voice_read(&out, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    assert_string_equal(out.hash, in.hash);
    assert_int_equal(out.code_count, 4);
    assert_memory_equal(out.codes, codes, sizeof codes);
    assert_int_equal(out.style_width, 3);
    assert_memory_equal(out.style, style, sizeof style);
    assert_string_equal(out.text, text);
    assert_string_equal(out.language, "zh");
    mica_gs_voice_deinit(&out);
}

static void test_without_transcript(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_gs_voice out, in = sample();
    in.text = in.language = NULL;
    assert_int_equal(mica_gs_voice_write(&in, path, &err), MICA_OK);
    assert_int_equal(mica_gs_voice_read(&out, path, &err), MICA_OK);
    assert_null(out.text);
    assert_null(out.language);
    mica_gs_voice_deinit(&out);
}

static void expect_refusal(const char *part)
{
    mica_err err = {0};
    mica_gs_voice out;
    assert_int_not_equal(mica_gs_voice_read(&out, path, &err), MICA_OK);
    assert_null(out.codes);
    assert_null(out.style);
    if (strstr(err.text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

static void write_broken(mica_gs_voice v, const char *part)
{
    mica_err err = {0};
    assert_int_equal(mica_gs_voice_write(&v, path, &err), MICA_OK);
    expect_refusal(part);
}

static void test_refusals(void **state)
{
    (void)state;
    static int32_t negative[] = {1, -1};
    static float broken[] = {0.0f, NAN};
    mica_err err = {0};
    mica_gs_voice v = sample();
    v.codes = negative;
    v.code_count = 2;
    write_broken(v, "code 1 is negative");
    v = sample();
    v.style = broken;
    v.style_width = 2;
    write_broken(v, "style value 1 is not a number");
    v = sample();
    memcpy(v.hash, "0123456789ABCDEF", 16);
    write_broken(v, "which model");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("no voice at all, only text", file);
    fclose(file);
    expect_refusal("a.voice");
    const mica_tensor t = mica_tensor_1d(style, MICA_DTYPE_F32, 3);
    const mica_safetensors_entry entry = {"style", &t};
    assert_int_equal(mica_safetensors_write(path, &entry, 1, NULL, &err), MICA_OK);
    expect_refusal("not a voice");
    unlink(path);
    expect_refusal("a.voice");
}

static void test_names(void **state)
{
    (void)state;
    assert_true(mica_gs_voice_is_file("x/anna.voice"));
    assert_true(mica_gs_voice_is_file("ANNA.VOICE"));
    assert_false(mica_gs_voice_is_file(".voice"));
    assert_false(mica_gs_voice_is_file("anna.wav"));
}

static void test_no_memory(void **state)
{
    (void)state;
    mica_err err = {0};
    const mica_gs_voice v = sample();
    assert_int_equal(mica_gs_voice_write(&v, path, &err), MICA_OK);
    for (uint64_t n = 1; n < 200; n++) {
        mica_gs_voice out;
        mica_mem_fail_at(n);
        const mica_status status = mica_gs_voice_read(&out, path, &err);
        mica_mem_fail_at(0);
        if (status == MICA_OK) {
            mica_gs_voice_deinit(&out);
            return;
        }
        assert_null(out.codes);
    }
    fail_msg("200 allocations were not enough");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_without_transcript),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
