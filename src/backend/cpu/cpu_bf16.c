/* cpu_bf16.c - linears with bf16 operands, on CPUs that multiply bf16 in hardware.
 *
 *     x f32 ──► x bf16, rounded once per call (shared scratch)
 *     w bf16 in its file ──────────────────────► oneDNN matmul ──► acc f32 ──► epilogue
 *     w in another format ──► bf16 rows of the group (thread scratch) ──┘
 *
 * oneDNN takes row-major bf16 weights at 94-99 % of the speed of packed ones (Zen 4, two
 * cores, 423 GFLOP/s), so nothing is prepared and start-up costs nothing; where the processor has
 * tile instructions it uses them. Its order of summation may depend on the shape of a matmul:
 * blocks here depend on the shapes of the tensors alone, never on the thread count. A linear has
 * up to four shapes of block, inner and last ones, each a serial primitive found by its key. */
#include "backend/cpu/cpu_linear.h"

#include "backend/cpu/cpu_dnnl.h"

#define ROWS    512
#define COLUMNS 256

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

void mica_cpu_bf16_plan(mica_cpu_linear_job *j)
{
    const int blocks = (j->m + ROWS - 1) / ROWS;
    j->mb = (j->m + blocks - 1) / blocks;
    j->columns = MICA_MIN(COLUMNS, j->n);
    j->groups = (j->n + j->columns - 1) / j->columns;
    j->cuts = blocks;
}

/* Weights that oneDNN can read where they are. */
static bool in_place(const mica_cpu_linear_job *j)
{
    return j->w->dtype == MICA_DTYPE_BF16 && !j->w->scale.data &&
           (uintptr_t)j->w->data % sizeof(uint16_t) == 0;
}

static mica_status get_op(mica_cpu_linear_job *j, int rows, int columns, mica_dnnl_op **out,
                          mica_err *err)
{
    mica_dnnl_key key = {0};
    key.kind = MICA_DNNL_MATMUL;
    key.src_type = key.weight_type = MICA_DNNL_BF16;
    key.dst_type = MICA_DNNL_F32;
    key.m = rows;
    key.n = columns;
    key.k = j->depth;
    key.ld_src = j->depth_pad;
    key.ld_weight = in_place(j) ? (int32_t)j->w->stride_[0] : j->depth;
    key.ld_dst = j->columns;
    MICA_TRY(mica_dnnl_get(j->be->dnnl, &key, out, err));
    return MICA_OK;
}

mica_status mica_cpu_bf16_prepare(mica_cpu_linear_job *j, mica_err *err)
{
    return mica_cpu_linear_get_ops(j, get_op, j->op, err);
}

size_t mica_cpu_bf16_scratch_layout(const mica_cpu_linear_job *j, uint8_t *base,
                                    mica_cpu_bf16_scratch *s)
{
    const size_t weights =
        in_place(j) ? 0 : align64((size_t)j->columns * (size_t)j->depth * sizeof(uint16_t));
    const size_t row = in_place(j) ? 0 : align64((size_t)j->depth * sizeof(float));
    if (base) {
        s->weights = (uint16_t *)(void *)base;
        s->row = (float *)(void *)(base + weights);
        s->dnnl = base + weights + row;
    }
    return weights + row + j->dnnl_scratch;
}

void mica_cpu_bf16_begin(const mica_cpu_linear_job *j, int column, int columns,
                         mica_cpu_bf16_scratch *s)
{
    if (in_place(j)) {
        s->source = (const uint16_t *)j->w->data + (ptrdiff_t)column * j->w->stride_[0];
        return;
    }
    for (int i = 0; i < columns; i++) {
        mica_cpu_weight_to_f32(j->w, (int64_t)(column + i) * j->depth, j->depth, s->row);
        j->k->bf16_from_f32(j->depth, s->row, 1.0f, s->weights + (ptrdiff_t)i * j->depth);
    }
    s->source = s->weights;
}

void mica_cpu_bf16_block(mica_cpu_linear_job *j, int thread, int row, int rows, int columns,
                         const mica_cpu_bf16_scratch *s, float *acc)
{
    mica_cpu_linear_run(j, j->op[rows != j->mb][columns != j->columns], thread,
                        j->x_bf16 + (ptrdiff_t)row * j->depth_pad, s->source, acc, s->dnnl);
}
