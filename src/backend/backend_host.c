/* backend_host.c - a mixture of experts on the CPU, for a device that has no room for them.
 *
 *     device   ... norm ─► x ─► router ─► logits ┐              ┌► y ─► next layer ...
 *     copies              x, logits, y           ▼              │ y
 *     CPU                        experts of backend_experts.c, weights from their mapping
 *
 * A token of 8x7B copies 3 x 16 KB a layer and waits for both sides, some 50 us; its two experts are 0.2 GB in
 * 4 bits, which the CPU reads from memory in 1 to 5 ms and PCIe would bring in 4 to 7. */
#include "backend/backend_ops.h"

mica_status mica_backend_open_host(mica_backend **out, const mica_backend *be, mica_err *err)
{
    mica_backend_options o = be->options;
    o.device = MICA_DEVICE_CPU;
    o.vram_limit = 0;
    if (o.precision == MICA_PRECISION_FP8)
        o.precision = MICA_PRECISION_BF16;
    return mica_backend_open(out, &o, err);
}

/* A twin in the host's memory, with the device's numbers. */
static mica_tensor fetch(mica_backend *be, mica_backend *host, const mica_tensor *t)
{
    const mica_tensor twin = mica_state_tensor(host, MICA_POOL_STEP, t->ndim, t->shape_);
    if (!mica_backend_failed(host))
        mica_download_f32(be, twin.data, t);
    return twin;
}

void mica_experts_on_host(mica_backend *be, const mica_experts_args *args)
{
    mica_backend *host = args->host;
    mica_err err = {0};
    const mica_pool_mark mark = mica_pool_get_mark(host, MICA_POOL_STEP);
    const mica_tensor x = fetch(be, host, args->x_LD), logits = fetch(be, host, args->logits_LE);
    mica_tensor y = fetch(be, host, args->y_LD);
    mica_experts_args here = *args;
    here.host = NULL;
    here.x_LD = &x;
    here.logits_LE = &logits;
    here.y_LD = &y;
    if (!mica_backend_failed(be))
        mica_experts(host, &here);
    const mica_status st = mica_backend_check(host, &err);
    if (st)
        mica_backend_fail(be, st, "%s", err.text);
    else
        mica_upload_f32(be, args->y_LD, y.data);
    mica_pool_release(host, MICA_POOL_STEP, mark);
}
