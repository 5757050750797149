/* backend_memory.c - a backend from open to close: its failure, its memory, what is uploaded, replayed and
 * branched. The operations are in backend.c. */
#include "backend/backend_calls.h"

#include "backend/backend_module.h"
#include "backend/cpu/cpu_backend.h"
#include "base/checked.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------- lifetime -- */

mica_status mica_backend_open(mica_backend **out, const mica_backend_options *options,
                              mica_err *err)
{
    *out = NULL;
    if (options->device == MICA_DEVICE_CUDA) {
        const mica_backend_module *module;
        MICA_TRY(mica_backend_cuda_module(&module, err));
        return module->open(out, options, err);
    }
    if (options->precision == MICA_PRECISION_FP8)
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "precision fp8 needs a device with fp8 units; use bf16 or int8 on the CPU");
    return mica_cpu_backend_open(out, options, err);
}

mica_status mica_backend_cuda_usable(mica_err *err)
{
    const mica_backend_module *module;
    MICA_TRY(mica_backend_cuda_module(&module, err));
    return module->usable(err);
}

void mica_backend_close(mica_backend **be)
{
    if (!be || !*be)
        return;
    mica_mem_free((*be)->route);
    mica_mem_free((*be)->profile);
    (*be)->ops->close(*be);
    *be = NULL;
}

mica_status mica_backend_check(mica_backend *be, mica_err *err)
{
    const mica_status status = be->error.status;
    if (status == MICA_OK)
        return MICA_OK;
    if (err)
        *err = be->error;
    be->error.status = MICA_OK;
    be->error.text[0] = '\0';
    be->unsettled = false; /* what was begun and failed is not finished */
    return status;
}

bool mica_backend_failed(const mica_backend *be)
{
    return be->error.status != MICA_OK;
}

void mica_backend_fail(mica_backend *be, mica_status status, const char *format, ...)
{
    if (mica_backend_failed(be))
        return;
    char text[MICA_ERR_TEXT];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    mica_err_set(&be->error, status, "%s", text);
}

mica_precision mica_backend_precision(const mica_backend *be)
{
    return be->options.precision;
}

int mica_backend_host_experts(const mica_backend *be)
{
    return be->options.host_experts;
}

const char *mica_backend_name(const mica_backend *be)
{
    return be->name;
}

bool mica_backend_is_queued(const mica_backend *be)
{
    return be->options.device == MICA_DEVICE_CUDA;
}

mica_backend_counters mica_backend_get_counters(const mica_backend *be)
{
    return be->counters;
}

/* --------------------------------------------------------------- calls -- */

void mica_backend_keep_status(mica_backend *be, mica_status status)
{
    if (status != MICA_OK && !mica_backend_failed(be))
        mica_err_set(&be->error, status, "the backend failed without a message");
}

/* "linear 256 x 3072 x 9216" from "be->ops->linear(be, ...)" and the sizes of `x` and `y`. */
static void note(mica_backend *be, const char *call, const char *sizes)
{
    char what[64];
    const char *name =
        strrchr(call, '>') && strstr(call, "ops->") ? strstr(call, "ops->") + 5 : call;
    snprintf(what, sizeof what, "%.*s%s", (int)strcspn(name, "("), name, sizes);
    mica_profile_note(be, what);
}

static void format_sizes(char text[48], int count, const int64_t *sizes)
{
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < count && used < 40; i++)
        used += (size_t)snprintf(text + used, 48 - used, "%s%" PRId64, i ? " x " : " ", sizes[i]);
}

void mica_backend_note_call(mica_backend *be, const char *call, int count, const int64_t *sizes)
{
    char text[48];
    format_sizes(text, count, sizes);
    note(be, call, text);
}

bool mica_backend_begin_unsettled(mica_backend *be)
{
    if (mica_backend_failed(be))
        return false;
    be->counters.ops++;
    be->is_operand = be->next_is_operand;
    be->next_is_operand = false;
    return true;
}

bool mica_backend_begin(mica_backend *be)
{
    mica_backend_settle(be);
    return mica_backend_begin_unsettled(be);
}

/* --------------------------------------------------------------- memory -- */

/* Bytes of a contiguous tensor; false when they cannot be counted. */
static bool count_bytes(mica_dtype dtype, int ndim, const int64_t *shape, size_t *size)
{
    *size = (size_t)mica_dtype_get(dtype)->size;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || !mica_mul_size(*size, (size_t)shape[i], size) || *size > INT64_MAX)
            return false;
    return true;
}

static mica_tensor pool_tensor(mica_backend *be, mica_pool pool, mica_dtype dtype, int ndim,
                               const int64_t *shape)
{
    size_t size = 0;
    if (!count_bytes(dtype, ndim, shape, &size)) {
        mica_backend_fail(be, MICA_E_NOMEM,
                          "a tensor of %d dimensions, the first %" PRId64
                          ", does not fit in memory; use a smaller picture or batch",
                          ndim, shape[0]);
        return mica_tensor_make(NULL, dtype, 0, NULL);
    }
    mica_tensor t = mica_tensor_make(NULL, dtype, ndim, shape);
    if (!mica_backend_failed(be))
        keep(be, be->ops->pool_alloc(be, pool, size, &t.data, &be->error));
    return t;
}

mica_tensor mica_act_tensor(mica_backend *be, mica_pool pool, int ndim, const int64_t *shape)
{
    return pool_tensor(be, pool, be->act_dtype, ndim, shape);
}

int64_t mica_act_size(const mica_backend *be)
{
    return mica_dtype_get(be->act_dtype)->size;
}

mica_tensor mica_state_tensor(mica_backend *be, mica_pool pool, int ndim, const int64_t *shape)
{
    return pool_tensor(be, pool, MICA_DTYPE_F32, ndim, shape);
}

mica_pool_mark mica_pool_get_mark(mica_backend *be, mica_pool pool)
{
    return be->ops->pool_get_mark(be, pool);
}

void mica_pool_release(mica_backend *be, mica_pool pool, mica_pool_mark mark)
{
    be->ops->pool_release(be, pool, mark);
}

void mica_pool_trim(mica_backend *be)
{
    be->ops->pool_trim(be);
}

uint64_t mica_pool_peak(const mica_backend *be, mica_pool pool)
{
    return be->ops->pool_peak(be, pool);
}

void *mica_backend_buffer_alloc(mica_backend *be, size_t size)
{
    void *buffer = NULL;
    if (!mica_backend_failed(be))
        keep(be, be->ops->buffer_alloc(be, size, &buffer, &be->error));
    return buffer;
}

void mica_backend_buffer_free(mica_backend *be, void *buffer)
{
    if (buffer)
        be->ops->buffer_free(be, buffer);
}

mica_dtype mica_backend_act_dtype(const mica_backend *be)
{
    return be->act_dtype;
}

mica_backend_memory mica_backend_get_memory(mica_backend *be, bool restart)
{
    mica_backend_memory memory = {0};
    if (be->ops->get_memory)
        be->ops->get_memory(be, restart, &memory);
    return memory;
}

void mica_upload_f32(mica_backend *be, const mica_tensor *dst, const float *src)
{
    if (mica_backend_begin(be) && mica_tensor_count(dst) > 0)
        keep(be, be->ops->upload_f32(be, dst, src, &be->error));
}

void mica_download_f32(mica_backend *be, float *dst, const mica_tensor *src)
{
    if (mica_backend_begin(be) && mica_tensor_count(src) > 0)
        keep(be, be->ops->download_f32(be, dst, src, &be->error));
}

void mica_download_pixels(mica_backend *be, uint8_t *dst, const mica_tensor *src_YXC)
{
    const int64_t *shape = src_YXC->shape_, *stride = src_YXC->stride_;
    if (!mica_backend_begin(be) || mica_tensor_count(src_YXC) == 0)
        return;
    if (src_YXC->ndim != 3 || src_YXC->dtype != MICA_DTYPE_F32 || stride[2] != 1 ||
        stride[1] != shape[2])
        keep(be, MICA_FAIL(&be->error, MICA_E_INTERNAL, "pixels: rows of f32 must be contiguous"));
    else
        keep(be, be->ops->download_pixels(be, dst, src_YXC, &be->error));
}

void mica_backend_prefetch_weights(mica_backend *be, mica_weight *const *weights, int count)
{
    if (!mica_backend_failed(be))
        be->ops->prefetch_weights(be, weights, count);
}

void mica_backend_drop_weights(mica_backend *be, mica_weight *const *weights, int count)
{
    be->ops->drop_weights(be, weights, count);
}

void mica_backend_release_pages(mica_backend *be, mica_weight *const *weights, int count)
{
    if (be->ops->release_pages)
        be->ops->release_pages(be, weights, count);
}

uint64_t mica_replay_new_key(mica_backend *be)
{
    return ++be->last_key;
}

bool mica_replay_more(mica_backend *be, mica_replay *r, mica_status *st)
{
    const bool may = be->ops->replay && r->key && !be->profile && !mica_backend_failed(be) && !*st;
    const int last = r->state;
    if (last == MICA_REPLAY_FIRST)
        r->st = *st;
    if (last == MICA_REPLAY_RECORD || (may && last != MICA_REPLAY_RUN))
        mica_backend_keep_status(be, be->ops->replay(be, r->key, &r->state, &be->error));
    else
        r->state = last == MICA_REPLAY_START ? MICA_REPLAY_RUN : MICA_REPLAY_DONE;
    if (last == MICA_REPLAY_RECORD)
        *st = r->st;
    return r->state != MICA_REPLAY_DONE;
}

void mica_next_is_operand(mica_backend *be)
{
    be->next_is_operand = true;
}

void mica_branch(mica_backend *be, int branch)
{
    if (be->ops->branch && !mica_backend_failed(be))
        mica_backend_keep_status(be, be->ops->branch(be, branch, &be->error));
}

void mica_join(mica_backend *be)
{
    /* Also after a failure: the main queue is the one that is waited for. */
    mica_err ignored = {0};
    if (be->ops->branch)
        mica_backend_keep_status(
            be, be->ops->branch(be, -1, mica_backend_failed(be) ? &ignored : &be->error));
}
