/* cuda_memory.c - the memory of a GPU: what this process has taken, what it may take, and who goes
 * when there is no room.
 *
 *     mica_cuda_device (one per GPU in use)
 *        gpu               what launches ask of it
 *        used, peak        bytes of all backends on it
 *        forms             weights on it, shared by the backends (cuda_prepare.c)
 *     backend ─► alloc ─► fits below limit and driver? ─► memory
 *                   └ no: chunks of this backend's pools that hold nothing go first; then weights that
 *                         were dropped, the oldest before the others; then blocks of this backend
 *                         are streamed from now on (cuda_stream.c); then it fails
 *
 * Dropped weights stay until their room is needed: the next picture of a session finds its text
 * encoder where it was. The limit is --vram, or what the device has. */
#include "backend/cuda/cuda_backend.h"

#include "base/mem.h"

#include <cuda.h>

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static mica_cuda_device *devices; /* those with open backends */

/* --------------------------------------------------------------- lifetime -- */

#define MPS_ENABLED                                                                                \
    ((enum cudaDeviceAttr)133) /* cudaDevAttrMpsEnabled, which older toolkits do not have */

static bool is_shared(int ordinal)
{
    int value = 0;
    if (cudaDeviceGetAttribute(&value, MPS_ENABLED, ordinal) == cudaSuccess)
        return value != 0;
    (void)cudaGetLastError(); /* nor do older drivers */
    return false;
}

static mica_status describe(int ordinal, mica_cuda_gpu *gpu, mica_err *err)
{
    int major = 0, minor = 0, cooperates = 0;
    const struct {
        enum cudaDeviceAttr of;
        int *value;
    } ask[] = {{cudaDevAttrComputeCapabilityMajor, &major},
               {cudaDevAttrComputeCapabilityMinor, &minor},
               {cudaDevAttrMultiProcessorCount, &gpu->multiprocessors},
               {cudaDevAttrMaxSharedMemoryPerBlockOptin, &gpu->shared_most},
               {cudaDevAttrCooperativeLaunch, &cooperates}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(ask); i++)
        MICA_TRY(mica_cuda_check(cudaDeviceGetAttribute(ask[i].value, ask[i].of, ordinal),
                                 "asking the GPU", err));
    gpu->ordinal = ordinal;
    gpu->capability = 10 * major + minor;
    gpu->cooperates = cooperates != 0;
    gpu->is_shared = is_shared(ordinal);
    return MICA_OK;
}

static mica_cuda_device *device_make(const mica_cuda_gpu *gpu)
{
    pthread_mutexattr_t recursive;
    mica_cuda_device *d = mica_mem_calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->gpu = *gpu;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&d->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    d->next = devices;
    devices = d;
    return d;
}

/* Under the lock. */
static mica_cuda_device *find(int ordinal)
{
    mica_cuda_device *d = devices;
    while (d && d->gpu.ordinal != ordinal)
        d = d->next;
    return d;
}

mica_cuda_gpu mica_cuda_gpu_current(void)
{
    mica_cuda_gpu gpu = {0};
    int ordinal;
    if (cudaGetDevice(&ordinal) != cudaSuccess)
        return gpu;
    pthread_mutex_lock(&devices_lock);
    const mica_cuda_device *d = find(ordinal);
    if (d)
        gpu = d->gpu;
    pthread_mutex_unlock(&devices_lock);
    return gpu;
}

mica_status mica_cuda_device_open(mica_cuda_backend *be, int ordinal, mica_err *err)
{
    size_t free_bytes = 0, total = 0;
    mica_cuda_gpu gpu = {0};
    MICA_TRY(mica_cuda_check(cudaSetDevice(ordinal), "choosing the GPU", err));
    MICA_TRY(mica_cuda_check(cudaMemGetInfo(&free_bytes, &total), "asking for memory", err));
    MICA_TRY(describe(ordinal, &gpu, err));
    pthread_mutex_lock(&devices_lock);
    mica_cuda_device *d = find(ordinal);
    if (!d)
        d = device_make(&gpu);
    if (d)
        d->users++;
    pthread_mutex_unlock(&devices_lock);
    if (!d)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a device's header");
    be->device = d;
    be->total = total;
    be->limit = be->base.options.vram_limit ? MICA_MIN(be->base.options.vram_limit, total) : total;
    return MICA_OK;
}

void mica_cuda_device_close(mica_cuda_backend *be)
{
    mica_cuda_device *d = be->device;
    be->device = NULL;
    if (!d)
        return;
    pthread_mutex_lock(&devices_lock);
    if (--d->users == 0) {
        mica_cuda_device **link = &devices;
        while (*link != d)
            link = &(*link)->next;
        *link = d->next;
        pthread_mutex_destroy(&d->lock);
        mica_mem_free(d);
    }
    pthread_mutex_unlock(&devices_lock);
}

/* --------------------------------------------------------------- accounts -- */

size_t mica_cuda_block_size(void *p)
{
    typedef CUresult (*range_fn)(CUdeviceptr *, size_t *, CUdeviceptr);
    void *fn = NULL;
    size_t size = 0;
    CUdeviceptr base = 0;
    enum cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &fn, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        !fn || ((range_fn)(uintptr_t)fn)(&base, &size, (CUdeviceptr)(uintptr_t)p) != CUDA_SUCCESS)
        return 0;
    return size;
}

static void count_in(mica_cuda_device *d, size_t size)
{
    const uint64_t used = atomic_fetch_add(&d->used, size) + size;
    uint64_t peak = atomic_load(&d->peak);
    while (used > peak && !atomic_compare_exchange_weak(&d->peak, &peak, used))
        continue;
}

static bool fits(const mica_cuda_backend *be, size_t size)
{
    const uint64_t used = atomic_load(&be->device->used);
    return used <= be->limit && size <= be->limit - used;
}

static mica_status fail_full(const mica_cuda_backend *be, size_t size, const char *what,
                             mica_err *err)
{
    size_t free_bytes = 0, total = 0;
    const double gb = 1e-9;
    (void)cudaMemGetInfo(&free_bytes, &total);
    if (be->base.options.vram_limit && !fits(be, size))
        return MICA_FAIL(err, MICA_E_NOMEM,
                         "%s: %.2f GB of GPU memory are needed, %.2f of the %.2f GB that --vram "
                         "allows are taken; allow more, or choose a smaller picture or batch",
                         what, (double)size * gb, (double)atomic_load(&be->device->used) * gb,
                         (double)be->limit * gb);
    return MICA_FAIL(err, MICA_E_NOMEM,
                     "%s: %.2f GB of GPU memory are needed, %.2f of %.2f GB are free and %.2f are "
                     "taken here; try --vram with less than is free, so that weights are "
                     "streamed, a smaller picture or batch, or --device cpu",
                     what, (double)size * gb, (double)free_bytes * gb, (double)total * gb,
                     (double)atomic_load(&be->device->used) * gb);
}

mica_status mica_cuda_alloc(mica_cuda_backend *be, size_t size, const char *what, void **out,
                            mica_err *err)
{
    const size_t wanted = size ? size : 1;
    *out = NULL;
    MICA_TRY(mica_cuda_refuse_capture(be, what, err));
    be->base.counters.allocations++;
    for (;;) {
        cudaError_t error = cudaErrorMemoryAllocation;
        if (fits(be, wanted))
            error = cudaMalloc(out, wanted);
        if (error == cudaSuccess)
            break;
        *out = NULL;
        if (error != cudaErrorMemoryAllocation)
            return mica_cuda_check(error, what, err);
        (void)cudaGetLastError();
        if (!mica_cuda_weight_give_way(be, wanted))
            return fail_full(be, wanted, what, err);
    }
    count_in(be->device, mica_cuda_block_size(*out));
    return MICA_OK;
}

void mica_cuda_free(mica_cuda_backend *be, void *p)
{
    if (!p)
        return;
    be->base.counters.waits++;
    be->frees++;
    atomic_fetch_sub(&be->device->used, mica_cuda_block_size(p));
    (void)cudaFree(p);
}

void mica_cuda_get_memory(mica_backend *base, bool restart, mica_backend_memory *out)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const uint64_t used = atomic_load(&be->device->used), idle = mica_cuda_weight_idle_bytes(be);
    size_t free_bytes = 0, total = 0;
    (void)cudaMemGetInfo(&free_bytes, &total);
    const uint64_t allowed = be->limit > used ? be->limit - used : 0;
    *out = (mica_backend_memory){.total = be->total,
                                 .limit = be->limit,
                                 .available = MICA_MIN(allowed, (uint64_t)free_bytes) + idle,
                                 .used = used,
                                 .peak = atomic_load(&be->device->peak),
                                 .streamed = mica_cuda_stream_bytes(be)};
    if (restart)
        atomic_store(&be->device->peak, used);
}
