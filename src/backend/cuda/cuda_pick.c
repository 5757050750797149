/* cuda_pick.c - rows picked and rows added (cuda_pick.cu), and memory outside the stacks.
 *
 * Row numbers and shares come from the host: they go through the pinned ring into the scratch block, a part
 * of at most PART rows at a time. */
#include "backend/cuda/cuda_backend.h"

#include <string.h>

#define PART 65536

static mica_status pick_part(mica_cuda_backend *be, mica_cuda_pick_args *a, const int32_t *rows,
                             const float *share, void *scratch, mica_err *err)
{
    const size_t size = (size_t)a->count * 4;
    void *host;
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    memcpy(host, rows, size);
    if (share)
        memcpy((char *)host + size, share, size);
    MICA_TRY(mica_cuda_check(
        cudaMemcpyAsync(scratch, host, share ? 2 * size : size, cudaMemcpyHostToDevice, be->stream),
        "copying row numbers", err));
    MICA_TRY(mica_cuda_stage_close(be, err));
    a->rows = scratch;
    a->share = share ? (const float *)(const void *)((const char *)scratch + size) : NULL;
    return mica_cuda_check(mica_cuda_pick(a, be->stream), "picking rows", err);
}

/* x and y as rows; whichever is walked in order moves on with the parts. */
static mica_status pick(mica_cuda_backend *be, const mica_tensor *x, const mica_tensor *y,
                        const int32_t *rows, const float *share, int64_t count, mica_err *err)
{
    void *scratch;
    MICA_TRY(mica_cuda_scratch(be, (size_t)PART * 8, &scratch, err));
    for (int64_t first = 0; first < count; first += PART) {
        const int64_t part = MICA_MIN((int64_t)PART, count - first);
        const mica_tensor in_order = mica_tensor_rows(share ? x : y, first, part);
        mica_cuda_pick_args a = {.x = mica_cuda_view_of(share ? &in_order : x),
                                 .y = mica_cuda_view_of(share ? y : &in_order),
                                 .count = part};
        if (a.x.n != a.y.n)
            return MICA_FAIL(err, MICA_E_INTERNAL, "picking rows: rows are not contiguous");
        MICA_TRY(pick_part(be, &a, rows + first, share ? share + first : NULL, scratch, err));
    }
    return MICA_OK;
}

mica_status mica_cuda_op_gather_rows(mica_backend *be, const mica_tensor *x_MD, const int32_t *rows,
                                     int64_t count, mica_tensor *y_ND, mica_err *err)
{
    return pick(mica_cuda_from(be), x_MD, y_ND, rows, NULL, count, err);
}

mica_status mica_cuda_op_add_rows(mica_backend *be, const mica_tensor *x_ND, const int32_t *rows,
                                  const float *share, int64_t count, mica_tensor *y_MD,
                                  mica_err *err)
{
    return pick(mica_cuda_from(be), x_ND, y_MD, rows, share, count, err);
}
