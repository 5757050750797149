/* backend_module.h - what a separately loaded backend and this library agree on.
 *
 *     libmica.so ──dlopen──► libmica_cuda.so ──dlsym──► const mica_backend_module mica_cuda_module
 *
 * A backend's library is built with this one and shares its structs, not only its interface: the
 * version's text and the sizes of the structs must be equal, or it is refused. Private to
 * src/backend. */
#ifndef MICA_BACKEND_MODULE_H
#define MICA_BACKEND_MODULE_H

#include "backend/backend_ops.h"

#define MICA_MODULE_TEXT_2(a, b, c) #a "." #b "." #c
#define MICA_MODULE_TEXT(a, b, c)   MICA_MODULE_TEXT_2(a, b, c)
#define MICA_BACKEND_MODULE_VERSION                                                                \
    MICA_MODULE_TEXT(MICA_VERSION_MAJOR, MICA_VERSION_MINOR, MICA_VERSION_PATCH)

typedef struct mica_backend_module {
    size_t size; /* of this struct */
    const char *version;
    size_t ops_size, backend_size; /* of the structs of backend_ops.h */
    /* MICA_OK, or why this machine cannot: no driver, no device, too old. */
    mica_status (*usable)(mica_err *err);
    mica_status (*open)(mica_backend **out, const mica_backend_options *options, mica_err *err);
} mica_backend_module;

/* The CUDA module beside this library or program, or on the system's path; *out is valid for
 * the life of the process. MICA_E_UNSUPPORTED with the reason when there is none. */
mica_status mica_backend_cuda_module(const mica_backend_module **out, mica_err *err);

#endif
