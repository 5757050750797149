/* fake_cuda_module.c - a libmica_cuda.so without CUDA, for test_backend_module.c: of another version
 * (FAKE_VERSION), or of this one on a machine that cannot be used. */
#include "backend/backend_module.h"

#include <stdio.h>

static mica_status refuse(mica_err *err)
{
    if (err) {
        err->status = MICA_E_UNSUPPORTED;
        snprintf(err->text, sizeof err->text, "device cuda: the fake shows no GPU");
    }
    return MICA_E_UNSUPPORTED;
}

static mica_status open_nothing(mica_backend **out, const mica_backend_options *options,
                                mica_err *err)
{
    (void)options;
    *out = NULL;
    return refuse(err);
}

#ifndef FAKE_VERSION
#define FAKE_VERSION MICA_BACKEND_MODULE_VERSION
#endif

MICA_API extern const mica_backend_module mica_cuda_module;
const mica_backend_module mica_cuda_module = {
    .size = sizeof(mica_backend_module),
    .version = FAKE_VERSION,
    .ops_size = sizeof(mica_backend_ops),
    .backend_size = sizeof(mica_backend),
    .usable = refuse,
    .open = open_nothing,
};
