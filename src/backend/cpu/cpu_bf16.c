/* cpu_bf16.c - linears with bf16 operands, on CPUs that multiply bf16 in hardware.
 *
 *     x f32 ──► x bf16, rounded once per call (shared scratch)
 *     w bf16, few rows of x ───────────────────► oneDNN matmul ──► acc f32 ──► epilogue
 *     w bf16 ──► panels of the group (thread scratch) ──┤
 *     w in another format, packed ones too              │
 *         many rows ──► a slice as bf16 rows ──► panels ┤
 *         few rows ──► bf16 rows of the group ──────────┘
 *
 * Nothing is prepared, so start-up costs nothing. oneDNN turns row-major weights itself, for
 * every block anew: 5 % of a block's time on Zen 5, more where a matrix unit multiplies. A task
 * packs the weights of its group once and runs all its rows on them; a few rows are not
 * worth it. oneDNN's order of summation may depend on the shape of a matmul: blocks here depend
 * on the shapes of the tensors alone, never on the thread count. A linear has up to four shapes
 * of block, inner and last ones, each a serial primitive found by its key. */
#include "backend/cpu/cpu_linear.h"

#include "backend/cpu/cpu_dnnl.h"

#define ROWS        512
#define PANEL_ROWS  256 /* packed weights cost a block nothing: keep sums and x in L2 */
#define PANEL_LEAST 64  /* fewest rows that repay packing */
#define COLUMNS     256
#define PANEL_DEPTH 32  /* bf16 of depth that oneDNN's panels are made of */
#define PANEL_SLICE 512 /* with 256 rows and columns, 768 KiB: the smallest L2 that matters */

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Weights that oneDNN can read where they are. */
static bool in_place(const mica_cpu_linear_job *j)
{
    return j->w->dtype == MICA_DTYPE_BF16 && !j->w->scale.data &&
           (uintptr_t)j->w->data % sizeof(uint16_t) == 0;
}

/* Row stride of the sums of `columns` outputs; from panels oneDNN wants no gaps. */
static int sum_stride(const mica_cpu_linear_job *j, int columns)
{
    return j->nb ? (columns + j->nb - 1) / j->nb * j->nb : j->columns;
}

void mica_cpu_bf16_plan(mica_cpu_linear_job *j)
{
    const bool panels = j->be->use_dnnl && j->w->dtype != MICA_DTYPE_F64 && j->m >= PANEL_LEAST &&
                        j->depth > 0 && j->depth % PANEL_DEPTH == 0;
    const int most = panels ? PANEL_ROWS : ROWS, blocks = (j->m + most - 1) / most;
    j->nb = panels ? MICA_DNNL_PANEL : 0;
    j->mb = (j->m + blocks - 1) / blocks;
    j->columns = panels ? COLUMNS : MICA_MIN(COLUMNS, j->n);
    j->groups = (j->n + j->columns - 1) / j->columns;
    if (panels) {
        j->slice = MICA_MIN(PANEL_SLICE, j->depth);
        j->slices = (j->depth + j->slice - 1) / j->slice;
    }
    j->cuts = panels ? MICA_MIN(blocks, (4 * j->be->threads + j->groups - 1) / j->groups) : blocks;
}

static mica_status get_op(mica_cpu_linear_job *j, int rows, int columns, int slice,
                          mica_dnnl_op **out, mica_err *err)
{
    mica_dnnl_key key = {0};
    key.kind = MICA_DNNL_MATMUL;
    key.src_type = key.weight_type = MICA_DNNL_BF16;
    key.dst_type = MICA_DNNL_F32;
    key.m = rows;
    key.n = j->nb ? sum_stride(j, columns) : columns;
    key.packed = j->nb ? MICA_DNNL_PANELS : MICA_DNNL_PLAIN;
    key.k = j->nb ? mica_cpu_slice_depth(j, slice) : j->depth;
    key.ld_src = mica_cpu_slice_depth(j, slice);
    key.sum = slice > 0;
    key.ld_weight = in_place(j) ? (int32_t)j->w->stride_[0] : j->depth;
    key.ld_dst = sum_stride(j, columns);
    return mica_dnnl_get(j->be->dnnl, &key, out, err);
}

mica_status mica_cpu_bf16_prepare(mica_cpu_linear_job *j, mica_err *err)
{
    return mica_cpu_linear_get_ops(j, get_op, j->slices, j->op, err);
}

size_t mica_cpu_bf16_scratch_layout(const mica_cpu_linear_job *j, uint8_t *base,
                                    mica_cpu_bf16_scratch *s)
{
    const size_t weights = in_place(j) && !j->nb
                               ? 0
                               : align64((size_t)j->columns * (size_t)j->depth * sizeof(uint16_t));
    const size_t rows = in_place(j) || !j->nb
                            ? 0
                            : align64((size_t)j->columns * (size_t)j->slice * sizeof(uint16_t));
    const size_t row =
        j->w->dtype == MICA_DTYPE_F64 ? align64((size_t)j->depth * sizeof(float)) : 0;
    if (base) {
        s->weights = (uint16_t *)(void *)base;
        s->rows = (uint16_t *)(void *)(base + weights);
        s->row = (float *)(void *)(base + weights + rows);
        s->dnnl = base + weights + rows + row;
    }
    return weights + rows + row + j->dnnl_scratch;
}

/* The numbers [from, from + depth) of the group's rows as bf16: where they are, or unpacked. */
static const uint16_t *slice_rows(const mica_cpu_linear_job *j, int column, int columns, int from,
                                  int depth, const mica_cpu_bf16_scratch *s, ptrdiff_t *ld)
{
    *ld = in_place(j) ? (ptrdiff_t)j->w->stride_[0] : depth;
    if (in_place(j))
        return (const uint16_t *)j->w->data + (ptrdiff_t)column * j->w->stride_[0] + from;
    const mica_packed_rows w =
        mica_cpu_packed_rows(j->w, column, columns, from, depth, j->row_scale);
    j->k->unpack_bf16(&w, s->rows, depth);
    return s->rows;
}

static void pack_group(const mica_cpu_linear_job *j, int column, int columns,
                       mica_cpu_bf16_scratch *s)
{
    for (int i = 0; i < j->slices; i++) {
        const int from = i * j->slice, depth = mica_cpu_slice_depth(j, i);
        ptrdiff_t ld;
        const uint16_t *rows = slice_rows(j, column, columns, from, depth, s, &ld);
        j->k->pack_bf16_from_bf16(columns, depth, rows, ld, NULL, j->nb,
                                  s->weights + (ptrdiff_t)from * sum_stride(j, columns));
    }
}

/* Plain rows in thread scratch. */
static void unpack_group(const mica_cpu_linear_job *j, int column, int columns,
                         mica_cpu_bf16_scratch *s)
{
    if (j->w->dtype != MICA_DTYPE_F64) {
        const mica_packed_rows w =
            mica_cpu_packed_rows(j->w, column, columns, 0, j->depth, j->row_scale);
        j->k->unpack_bf16(&w, s->weights, j->depth);
        return;
    }
    for (int i = 0; i < columns; i++) {
        mica_cpu_weight_to_f32(j->w, (int64_t)(column + i) * j->depth, j->depth, s->row);
        j->k->bf16_from_f32(j->depth, s->row, 1.0f, s->weights + (ptrdiff_t)i * j->depth);
    }
}

void mica_cpu_bf16_begin(const mica_cpu_linear_job *j, int column, int columns,
                         mica_cpu_bf16_scratch *s)
{
    if (j->nb)
        pack_group(j, column, columns, s);
    else if (!in_place(j))
        unpack_group(j, column, columns, s);
    s->source = j->nb || !in_place(j)
                    ? s->weights
                    : (const uint16_t *)j->w->data + (ptrdiff_t)column * j->w->stride_[0];
}

void mica_cpu_bf16_block(mica_cpu_linear_job *j, int thread, int row, int rows, int columns,
                         const mica_cpu_bf16_scratch *s, float *acc, mica_epilogue *e)
{
    const mica_cpu_block b = {.row = row,
                              .rows = rows,
                              .columns = columns,
                              .stride = sum_stride(j, columns),
                              .size = sizeof(uint16_t),
                              .x = j->x_bf16,
                              .weights = s->source};
    for (int i = 0; i < j->slices; i++) /* slices after the first add */
        mica_cpu_linear_run_slice(j, thread, &b, i, acc, s->dnnl);
    e->ldacc = sum_stride(j, columns);
}
