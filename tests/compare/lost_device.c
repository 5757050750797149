/* lost_device.c - a GPU that fails in the middle of work: errors, and no waiting for ever.
 *
 *     open the backend, one product ─► a kernel of this test traps on the same device (driver API)
 *         ─► every further operation fails with a text, downloads and looks for NaN return, closing too
 *
 * A trap ends the context as a fault of the hardware does (Xid): all later calls return errors. This needs
 * a GPU and ends the process's use of it, so it is a program of its own; tests/cuda/gpu_suite.sh runs it
 * under `timeout`. Status 0: as it should be; 77: no GPU here. */
#include "backend/backend.h"
#include "base/clock.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char TRAP[] = ".version 7.0\n.target sm_80\n.address_size 64\n"
                           ".visible .entry lost()\n{\n    trap;\n}\n";

static void *driver;

static void *function(const char *name)
{
    void *f = dlsym(driver, name);
    if (!f) {
        fprintf(stderr, "lost_device: the driver has no %s\n", name);
        exit(1);
    }
    return f;
}

/* In the context that the backend uses: the primary one of device 0. */
static int trap(void)
{
    typedef int (*init_fn)(unsigned);
    typedef int (*retain_fn)(void **, int);
    typedef int (*current_fn)(void *);
    typedef int (*load_fn)(void **, const void *);
    typedef int (*find_fn)(void **, void *, const char *);
    typedef int (*launch_fn)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, void *, void **, void **);
    void *context = NULL, *module = NULL, *kernel = NULL;
    int status = ((init_fn)(uintptr_t)function("cuInit"))(0);
    if (!status)
        status = ((retain_fn)(uintptr_t)function("cuDevicePrimaryCtxRetain"))(&context, 0);
    if (!status)
        status = ((current_fn)(uintptr_t)function("cuCtxSetCurrent"))(context);
    if (!status)
        status = ((load_fn)(uintptr_t)function("cuModuleLoadData"))(&module, TRAP);
    if (!status)
        status = ((find_fn)(uintptr_t)function("cuModuleGetFunction"))(&kernel, module, "lost");
    if (!status)
        status = ((launch_fn)(uintptr_t)function("cuLaunchKernel"))(kernel, 1, 1, 1, 1, 1, 1, 0,
                                                                    NULL, NULL, NULL);
    return status;
}

static int failures;

static void expect(bool good, const char *what, const char *text)
{
    printf("%-6s %s%s%s\n", good ? "ok" : "FAILED", what, text[0] ? ": " : "", text);
    failures += !good;
}

/* Whatever comes after the loss: a failure with a text each time it is asked. */
static void work_on(mica_backend *be, mica_tensor *x, mica_tensor *y, float *host)
{
    mica_err err = {0};
    for (int i = 0; i < 100 && !mica_backend_failed(be); i++)
        mica_add(be, x, x, y);
    mica_download_f32(be, host, y);
    expect(mica_backend_check(be, &err) != MICA_OK && err.text[0], "the next operations fail",
           err.text);
    mica_watch(be, y, 0);
    (void)mica_watched(be, 0, true);
    err.text[0] = '\0';
    expect(mica_backend_check(be, &err) != MICA_OK && err.text[0], "a look for NaN fails",
           err.text);
    mica_upload_f32(be, x, host);
    err.text[0] = '\0';
    expect(mica_backend_check(be, &err) != MICA_OK && err.text[0], "an upload fails", err.text);
}

int main(void)
{
    const mica_backend_options options = {.device = MICA_DEVICE_CUDA,
                                          .precision = MICA_PRECISION_BF16};
    mica_backend *be = NULL;
    mica_err err = {0};
    static float host[4096];
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver || mica_backend_open(&be, &options, &err)) {
        fprintf(stderr, "lost_device: %s\n", driver ? err.text : "no driver");
        return 77;
    }
    const int64_t shape[] = {64, 64};
    mica_tensor x = mica_act_tensor(be, MICA_POOL_STEP, 2, shape);
    mica_tensor y = mica_act_tensor(be, MICA_POOL_STEP, 2, shape);
    mica_upload_f32(be, &x, host);
    mica_watch(be, &x, 0);
    (void)mica_watched(be, 0, true);
    expect(mica_backend_check(be, &err) == MICA_OK, "the device works", "");
    expect(trap() == 0, "a kernel that traps is started", "");
    const double start = mica_clock_seconds();
    work_on(be, &x, &y, host);
    mica_backend_close(&be);
    expect(mica_clock_seconds() - start < 10.0, "and all of it ends within ten seconds", "");
    return failures ? 1 : 0;
}
