/* test_backend_module.c - finding the CUDA backend's library, and saying why there is none.
 *
 *     test_backend_module                 whatever this machine has
 *     test_backend_module old|refuses     LD_LIBRARY_PATH leads to a fake libmica_cuda.so
 *
 * The fakes are fake_cuda_module.c: one of another version, one whose machine is unusable. */
#include "backend_testing.h"

static const char *wanted;

static mica_status open_cuda(mica_err *err)
{
    const mica_backend_options options = {.device = MICA_DEVICE_CUDA,
                                          .precision = MICA_PRECISION_F32};
    mica_backend *be = NULL;
    const mica_status st = mica_backend_open(&be, &options, err);
    assert_true((st == MICA_OK) == (be != NULL));
    mica_backend_close(&be);
    return st;
}

/* Open and usable agree; a refusal is one line that begins with the device. */
static void test_open(void **state)
{
    mica_err open_err = {0}, usable_err = {0};
    (void)state;
    const mica_status opened = open_cuda(&open_err);
    assert_int_equal(mica_backend_cuda_usable(&usable_err), opened);
    assert_int_equal(mica_backend_cuda_usable(NULL), opened);
    if (opened == MICA_OK) {
        assert_null(wanted);
        return;
    }
    assert_int_equal(opened, MICA_E_UNSUPPORTED);
    assert_string_equal(open_err.text, usable_err.text);
    assert_int_equal(strncmp(open_err.text, "device cuda: ", 13), 0);
    assert_null(strchr(open_err.text, '\n'));
    if (wanted && !strstr(open_err.text, wanted))
        fail_msg("'%s' does not say '%s'", open_err.text, wanted);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open)};
    if (argc > 1)
        wanted = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
