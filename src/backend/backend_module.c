/* backend_module.c - finding the library of the CUDA backend.
 *
 *     folder of this library (or of the program it is linked into)/libmica_cuda.so, if there is a driver
 *     libmica_cuda.so where the system looks (LD_LIBRARY_PATH, ldconfig)
 *
 * Loaded when somebody asks for a GPU and never unloaded: CUDA's libraries keep threads. One
 * installed package therefore starts on machines with and without a driver. */
#include "backend/backend_module.h"

#include "base/file.h"
#include "base/mem.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#if defined(__APPLE__)
#define LIBRARY "libmica_cuda.dylib"
#else
#define LIBRARY "libmica_cuda.so"
#endif
#define DRIVER "libcuda.so.1"

/* LIBRARY beside this code; NULL when the system does not tell. Freed by the caller. */
static char *beside(void)
{
    static const char anchor = 0;
    Dl_info info;
    if (!dladdr(&anchor, &info) || !info.dli_fname)
        return NULL;
    const char *slash = strrchr(info.dli_fname, '/');
    const size_t length = slash ? (size_t)(slash - info.dli_fname) : 0;
    char *folder = slash ? mica_mem_strndup(info.dli_fname, length) : mica_mem_strdup(".");
    char *path = folder ? mica_path_join(folder, LIBRARY) : NULL;
    mica_mem_free(folder);
    return path;
}

static void *load_from(const char *path, char *reason, size_t size)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *text = handle ? NULL : dlerror();
    snprintf(reason, size, "%s", text ? text : "");
    return handle;
}

/* Asked before the backend's library is loaded: the libraries it needs are some hundred megabytes,
 * 0.1 to 0.6 s of every start on a machine that has no GPU. Kept open, as CUDA will open it too. */
bool mica_backend_cuda_has_driver(void)
{
    return dlopen(DRIVER, RTLD_LAZY | RTLD_LOCAL) != NULL;
}

/* On failure reason says why, or is empty when there is no such file anywhere. */
static void *load(char *reason, size_t size)
{
    char *path = beside();
    void *handle = NULL;
    if (path && mica_path_is_file(path)) {
        if (mica_backend_cuda_has_driver())
            handle = load_from(path, reason, size);
        else
            snprintf(reason, size, "there is no NVIDIA driver (" DRIVER ")");
    } else {
        handle = load_from(LIBRARY, reason, size);
        if (strncmp(reason, LIBRARY ": cannot open", strlen(LIBRARY ": cannot open")) == 0)
            reason[0] = 0;
    }
    mica_mem_free(path);
    return handle;
}

mica_status mica_backend_cuda_module(const mica_backend_module **out, mica_err *err)
{
    char reason[512];
    void *handle = load(reason, sizeof reason);
    *out = NULL;
    if (!handle && reason[0])
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "device cuda: " LIBRARY " cannot be used: %s",
                         reason);
    if (!handle)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "device cuda: " LIBRARY " is not installed beside this library; it "
                         "computes on CPUs only (use --device cpu or auto)");
    const mica_backend_module *m = dlsym(handle, "mica_cuda_module");
    if (!m || m->size != sizeof *m || strcmp(m->version, MICA_BACKEND_MODULE_VERSION) != 0 ||
        m->ops_size != sizeof(mica_backend_ops) || m->backend_size != sizeof(mica_backend))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "device cuda: " LIBRARY " belongs to another version of mica (%s, not %s)",
                         m && m->size == sizeof *m ? m->version : "unknown",
                         MICA_BACKEND_MODULE_VERSION);
    *out = m;
    return MICA_OK;
}
