/* cpu_linear.c - y = residual + gate * act(x w^T + bias) from weights as they lie in their file.
 *
 *              n: outputs, in groups of columns
 *            +-------+-------+--    one task = one group for a range of rows; for each block
 *     m rows | block | block |      of mb rows
 *     in     +-------+-------+--        for each slice of depth
 *     blocks |       |       |              expand the slice of w   columns x 256: 512 KiB, L2
 *     of mb  +-------+-------+--            acc += x w^T            mb x columns: 2 MiB, L3
 *                                       epilogue from acc; write y
 *
 *     path   x as          w as                             where
 *     f32    f32, in place f32 panels, thread scratch       everywhere
 *     bf16   bf16, shared  in place, whole depth at once    cpu_bf16.c, through oneDNN
 *     int8   u8, shared    s8 panels, prepared once         cpu_int8.c, through oneDNN on AMX
 *     few    digits or f32 in place, packed or not          cpu_packed.c
 *
 * A group is as wide as a strip of the micro-kernels (512): they copy a few rows of x to L1 for
 * every strip, which is a quarter of the work for 32 columns and 2 % for 512. Expanding slice by
 * slice keeps the panels in L2: the expansion of a group costs as much as 20 rows of x,
 * against 45 when all of its depth is written at once. Nothing is shared between tasks, so
 * there is no barrier. The micro-kernels promise that an element does not depend on how rows,
 * columns or depth are cut: the cut may follow the thread count, the bytes do not, and a
 * batch equals its single rows. */
#include "backend/cpu/cpu_linear.h"

#include "backend/cpu/cpu_dnnl.h"

#include <string.h>

#define ROW_BLOCK      1120 /* rows of a block at most: each block expands w anew */
#define ROW_BLOCK_INT8 196  /* nothing to expand: keep the sums in L2 */
#define MOST           512  /* columns of a group at most: a strip of the kernels */
#define LEAST          128  /* and at least, so that copying x stays below 8 % */
#define SLICE          MICA_CPU_SLICE

/* ---------------------------------------------------------------- plan -- */

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static mica_cpu_path choose_path(const mica_cpu_backend *be, const mica_linear_args *args,
                                 int64_t rows)
{
    if (mica_cpu_is_few(args, rows))
        return MICA_CPU_FEW;
    if (args->w_OD->exact)
        return MICA_CPU_F32;
    if (be->use_int8 && !args->w_OD->sensitive)
        return MICA_CPU_INT8;
    return be->use_bf16 ? MICA_CPU_BF16 : MICA_CPU_F32;
}

static void plan(mica_cpu_linear_job *j)
{
    const mica_kernels *k = j->k;
    const bool f32 = j->path == MICA_CPU_F32;
    const int mr = f32 ? k->gemm_f32_mr : k->gemm_s8_mr;
    j->depth_pad = j->slice = (j->depth + 3) / 4 * 4;
    j->slices = 1;
    if (j->path == MICA_CPU_FEW) {
        mica_cpu_few_plan(j);
        return;
    }
    if (j->path == MICA_CPU_BF16) {
        mica_cpu_bf16_plan(j);
        return;
    }
    if (j->by_dnnl) {
        mica_cpu_int8_plan_dnnl(j);
        return;
    }
    /* Four tasks a thread keep the tail short. Cutting rows would expand w repeatedly, so it is
     * done only when columns do not give enough tasks. */
    const int wanted = 4 * j->be->threads;
    const int columns = MICA_MAX(LEAST, MICA_MIN(MOST, j->n / wanted));
    const int most_rows = f32 ? ROW_BLOCK : ROW_BLOCK_INT8;
    const int blocks = (j->m + most_rows - 1) / most_rows;
    j->nb = f32 ? k->gemm_f32_nb : k->gemm_s8_nb;
    j->columns = MICA_MAX(1, columns / j->nb) * j->nb;
    j->groups = (j->n + j->columns - 1) / j->columns;
    j->mb = ((j->m + blocks - 1) / blocks + mr - 1) / mr * mr;
    j->cuts = (wanted + j->groups - 1) / j->groups;
    if (f32 && j->cuts > blocks && j->groups < j->be->threads) {
        /* More threads than groups: smaller blocks, though each expands w again. */
        j->mb = MICA_MAX(8 * mr, ((j->m + j->cuts - 1) / j->cuts + mr - 1) / mr * mr);
    }
    j->cuts = MICA_MAX(1, MICA_MIN(j->cuts, (j->m + j->mb - 1) / j->mb));
}

/* -------------------------------------------------------------- panels -- */

/* Formats without a packer: their slices become plain rows first. */
static bool needs_rows(const mica_tensor *w)
{
    return w->dtype == MICA_DTYPE_F64 || w->dtype == MICA_DTYPE_I8 ||
           mica_dtype_is_packed(w->dtype);
}

/* The slice as plain rows of f32, scales applied. */
static void slice_to_f32(const mica_kernels *k, const mica_cpu_slice *s, float *temp)
{
    if (s->w->dtype != MICA_DTYPE_F64) {
        mica_packed_rows w = mica_cpu_packed_rows(s->w, s->row, s->rows, s->from, s->depth, NULL);
        w.row_scale = s->scale; /* of the slice's own rows */
        k->unpack_f32(&w, temp, s->depth);
        return;
    }
    for (int r = 0; r < s->rows; r++)
        mica_cpu_weight_to_f32(s->w, (int64_t)(s->row + r) * s->w->shape_[1] + s->from, s->depth,
                               temp + (ptrdiff_t)r * s->depth);
}

void mica_cpu_pack_slice(const mica_kernels *k, const mica_cpu_slice *s, int nb, float *dst,
                         float *temp)
{
    const mica_tensor *w = s->w;
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    const size_t first = (size_t)s->row * (size_t)w->stride_[0] + (size_t)s->from;
    const void *data = needs_rows(w) ? NULL : (const uint8_t *)w->data + first * size;
    const ptrdiff_t ld = (ptrdiff_t)w->stride_[0];
    switch (w->dtype) {
    case MICA_DTYPE_F32:
        k->pack_f32_from_f32(s->rows, s->depth, data, ld, s->scale, nb, dst);
        break;
    case MICA_DTYPE_BF16:
        k->pack_f32_from_bf16(s->rows, s->depth, data, ld, s->scale, nb, dst);
        break;
    case MICA_DTYPE_F16:
        k->pack_f32_from_f16(s->rows, s->depth, data, ld, s->scale, nb, dst);
        break;
    case MICA_DTYPE_F8_E4M3:
        k->pack_f32_from_f8_e4m3(s->rows, s->depth, data, ld, s->scale, nb, dst);
        break;
    case MICA_DTYPE_F8_E5M2:
        k->pack_f32_from_f8_e5m2(s->rows, s->depth, data, ld, s->scale, nb, dst);
        break;
    default:
        slice_to_f32(k, s, temp);
        k->pack_f32_from_f32(s->rows, s->depth, temp, s->depth, NULL, nb, dst);
    }
}

/* Thread scratch: [adapters][sums of a block][f32: panels of a slice, plain rows of f64 | path's own]. */
typedef struct task_scratch {
    float *acc; /* mb x columns; int32 sums on the int8 path */
    float *panels, *temp;
    mica_cpu_int8_scratch int8;
    mica_cpu_bf16_scratch bf16;
    mica_cpu_side_scratch side;
} task_scratch;

static size_t scratch_layout(const mica_cpu_linear_job *j, uint8_t *base, task_scratch *s)
{
    const size_t side = mica_cpu_side_scratch_layout(j, base, &s->side);
    base = base ? base + side : NULL;
    const size_t acc = side + align64((size_t)j->mb * (size_t)j->columns * sizeof(float));
    const size_t slice = align64((size_t)j->columns * SLICE * sizeof(float));
    uint8_t *rest = base ? base + acc - side : NULL;
    if (base)
        s->acc = (float *)(void *)base;
    if (j->path == MICA_CPU_FEW)
        return acc;
    if (j->path == MICA_CPU_INT8)
        return acc + mica_cpu_int8_scratch_layout(j, rest, &s->int8);
    if (j->path == MICA_CPU_BF16)
        return acc + mica_cpu_bf16_scratch_layout(j, rest, &s->bf16);
    if (base) {
        s->panels = (float *)(void *)rest;
        s->temp = (float *)(void *)(rest + slice);
    }
    return acc + slice + (needs_rows(j->w) ? slice : 0);
}

/* ------------------------------------------------------ blocks of oneDNN -- */

/* The last block's rows, or the last group's columns. */
static int last_of(int count, int size)
{
    return count - (count - 1) / size * size;
}

int mica_cpu_slice_depth(const mica_cpu_linear_job *j, int slice)
{
    return MICA_MIN(j->slice, j->depth_pad - slice * j->slice);
}

mica_status mica_cpu_linear_get_ops(mica_cpu_linear_job *j, mica_cpu_get_op_fn get, int slices,
                                    mica_dnnl_op *ops[2][2][3], mica_err *err)
{
    const int shapes = MICA_MIN(slices, 3);
    for (int i = 0; i < 4 * shapes; i++) {
        const int r = i / 2 % 2, c = i % 2, at = i / 4 == 0 ? 0 : i / 4 + 3 - shapes;
        const int slice = at == 2 ? slices - 1 : at;
        MICA_TRY(get(j, r ? last_of(j->m, j->mb) : j->mb,
                     c ? last_of(j->n, j->columns) : j->columns, slice, &ops[r][c][at], err));
        j->dnnl_scratch = MICA_MAX(j->dnnl_scratch, mica_dnnl_scratch_size(ops[r][c][at]));
    }
    return MICA_OK;
}

void mica_cpu_linear_run(mica_cpu_linear_job *j, mica_dnnl_op *op, int thread, const void *src,
                         const void *weights, void *dst, void *scratch)
{
    mica_err err = {0};
    int expected = MICA_OK;
    const mica_status st =
        mica_dnnl_run(j->be->dnnl, op, thread, src, weights, NULL, dst, scratch, &err);
    if (st != MICA_OK)
        atomic_compare_exchange_strong(&j->dnnl_status, &expected, (int)st);
}

void mica_cpu_linear_run_slice(mica_cpu_linear_job *j, int thread, const mica_cpu_block *b,
                               int slice, void *dst, void *scratch)
{
    const int at = slice == 0 ? 0 : slice < j->slices - 1 ? 1 : 2;
    const size_t before = (size_t)slice * (size_t)j->slice;
    const size_t x =
        before * (size_t)j->m + (size_t)b->row * (size_t)mica_cpu_slice_depth(j, slice);
    mica_cpu_linear_run(j, j->op[b->rows != j->mb][b->columns != j->columns][at], thread,
                        (const uint8_t *)b->x + x * b->size,
                        (const uint8_t *)b->weights + before * (size_t)b->stride * b->size, dst,
                        scratch);
}

/* ---------------------------------------------------------------- tiles -- */

/* acc = x w^T for one block, slice by slice. */
static void block_f32(const mica_cpu_linear_job *j, int column, int columns, int row, int rows,
                      const task_scratch *s)
{
    int from = 0;
    do { /* once for an empty depth: the sums become zeros */
        const mica_cpu_slice w = {.w = j->w,
                                  .row = column,
                                  .rows = columns,
                                  .from = from,
                                  .depth = MICA_MIN(SLICE, j->depth - from),
                                  .scale = j->row_scale ? j->row_scale + column : NULL};
        const mica_gemm_f32 g = {.m = rows,
                                 .n = columns,
                                 .k = w.depth,
                                 .a = (const float *)j->args->x_MD->data + row * j->ldx + from,
                                 .lda = j->ldx,
                                 .b = s->panels,
                                 .c = s->acc,
                                 .ldc = j->columns,
                                 .accumulate = from > 0};
        mica_cpu_pack_slice(j->k, &w, j->nb, s->panels, s->temp);
        j->k->gemm_f32(&g);
        from += w.depth;
    } while (from < j->depth);
}

static mica_epilogue epilogue_of(const mica_cpu_linear_job *j, int row, int rows, int col, int cols,
                                 const float *acc)
{
    const mica_linear_args *a = j->args;
    mica_epilogue e = {.m = rows,
                       .n = cols,
                       .acc = acc,
                       .ldacc = j->columns,
                       .bias = j->bias ? j->bias + col : NULL,
                       .act = (mica_kernel_act)a->act,
                       .gate = a->gate_O ? (const float *)a->gate_O->data + col : NULL,
                       .y = (float *)a->y_MO->data + row * j->ldy + col,
                       .ldy = j->ldy};
    if (a->residual_MO) {
        e.residual = (const float *)a->residual_MO->data + row * j->ldres + col;
        e.ldres = j->ldres;
    }
    return e;
}

/* Without fusion: the sums go to a matrix of their own, the rest is done in later passes. */
static void store_unfused(const mica_cpu_linear_job *j, int row, int rows, int col, int cols,
                          mica_epilogue_s32 *e)
{
    mica_epilogue plain = {.m = rows,
                           .n = cols,
                           .acc = e->e.acc,
                           .ldacc = e->e.ldacc,
                           .y = j->unfused + (ptrdiff_t)row * j->n + col,
                           .ldy = j->n};
    e->e = plain;
}

/* Integer sums of a block as floats in s->side.sums, so that adapters can be added. */
static void block_int8_to_f32(mica_cpu_linear_job *j, int thread, int columns, int row, int rows,
                              const task_scratch *s)
{
    mica_epilogue_s32 e = {.e = {.m = rows, .n = columns, .y = s->side.sums, .ldy = j->columns}};
    mica_cpu_int8_block(j, thread, row, (int32_t *)(void *)s->acc, &s->int8, &e);
}

static void run_block(mica_cpu_linear_job *j, int thread, int column, int row, int rows,
                      const task_scratch *s)
{
    const int columns = MICA_MIN(j->columns, j->n - column);
    float *acc = j->path == MICA_CPU_INT8 && j->side_count ? s->side.sums : s->acc;
    mica_epilogue_s32 e = {.e = epilogue_of(j, row, rows, column, columns, acc)};
    if (j->unfused)
        store_unfused(j, row, rows, column, columns, &e);
    if (j->path == MICA_CPU_INT8 && !j->side_count) {
        mica_cpu_int8_block(j, thread, row, (int32_t *)(void *)s->acc, &s->int8, &e);
        return;
    }
    if (j->path == MICA_CPU_INT8)
        block_int8_to_f32(j, thread, columns, row, rows, s);
    else if (j->path == MICA_CPU_FEW)
        mica_cpu_few_block(j, column, columns, s->acc);
    else if (j->path == MICA_CPU_BF16)
        mica_cpu_bf16_block(j, thread, row, rows, columns, &s->bf16, s->acc, &e.e);
    else
        block_f32(j, column, columns, row, rows, s);
    mica_cpu_sides_add(j, column, columns, row, rows, &s->side, acc, e.e.ldacc);
    j->k->epilogue_tile(&e.e);
}

static void run_task(void *user, int64_t index, int thread)
{
    mica_cpu_linear_job *j = user;
    const int column = (int)(index / j->cuts) * j->columns, cut = (int)(index % j->cuts);
    const int blocks = (j->m + j->mb - 1) / j->mb;
    const int first = (int)((int64_t)blocks * cut / j->cuts) * j->mb;
    const int last = MICA_MIN(j->m, (int)((int64_t)blocks * (cut + 1) / j->cuts) * j->mb);
    const int columns = MICA_MIN(j->columns, j->n - column);
    task_scratch s = {0};
    scratch_layout(j, mica_cpu_thread_scratch(j->be, thread), &s);
    if (j->path == MICA_CPU_BF16)
        mica_cpu_bf16_begin(j, column, columns, &s.bf16);
    if (j->path == MICA_CPU_INT8)
        mica_cpu_int8_begin(j, column, columns, &s.int8);
    for (int row = first; row < last; row += j->mb)
        run_block(j, thread, column, row, MICA_MIN(j->mb, last - row), &s);
}

/* --------------------------------------------------------------- inputs -- */

static void convert_row(void *user, int64_t row, int thread)
{
    const mica_cpu_linear_job *j = user;
    const float *x = (const float *)j->args->x_MD->data + row * j->ldx;
    (void)thread;
    for (int s = 0; s < j->slices; s++) {
        const int from = s * j->slice, depth = mica_cpu_slice_depth(j, s);
        uint16_t *out = j->x_bf16 + (ptrdiff_t)from * j->m + row * depth;
        const int there = MICA_MIN(depth, j->depth - from);
        j->k->bf16_from_f32(there, x + from, 1.0f, out);
        for (int i = there; i < depth; i++)
            out[i] = 0;
    }
}

/* The passes after an unfused product, one per technique that fusion saves. */
typedef struct late_pass {
    const mica_cpu_linear_job *job;
    int step; /* 0 bias, 1 activation, 2 gate and residual into y */
} late_pass;

static void run_late_pass(void *user, int64_t row, int thread)
{
    const late_pass *p = user;
    const mica_cpu_linear_job *j = p->job;
    float *acc = j->unfused + row * j->n;
    (void)thread;
    mica_epilogue e = epilogue_of(j, (int)row, 1, 0, j->n, acc);
    if (p->step != 0)
        e.bias = NULL;
    if (p->step != 1)
        e.act = MICA_KERNEL_ACT_NONE;
    if (p->step != 2) {
        e.gate = e.residual = NULL;
        e.y = acc;
    }
    j->k->epilogue_tile(&e);
}

static void finish_unfused(mica_cpu_linear_job *j)
{
    for (int step = 0; step < 3; step++) {
        late_pass p = {j, step};
        if ((step == 0 && !j->bias) || (step == 1 && j->args->act == MICA_ACT_NONE))
            continue;
        mica_cpu_parallel(j->be, j->m, run_late_pass, &p);
    }
}

/* ------------------------------------------------------------------ run -- */

static bool has_row_scales(const mica_tensor *w)
{
    return w->scale.data && !w->scale.group;
}

/* Shared scratch: [x in the path's form][bias][row scales][unfused sums]. Sets the job's pointers
 * when base is not NULL; returns bytes. x stands first: another linear finds it there again. */
static size_t shared_layout(mica_cpu_linear_job *j, uint8_t *base)
{
    const size_t vector = align64((size_t)j->n * sizeof(float));
    const size_t bias = j->args->bias_O ? vector : 0, scales = has_row_scales(j->w) ? vector : 0;
    const size_t x = j->path == MICA_CPU_BF16
                         ? align64((size_t)j->m * (size_t)j->depth_pad * sizeof(uint16_t))
                     : j->path == MICA_CPU_INT8 ? align64(mica_cpu_int8_layout(j, base))
                                                : align64(mica_cpu_few_layout(j, base));
    if (base) {
        j->bias = bias ? (float *)(void *)(base + x) : NULL;
        j->row_scale = scales ? (float *)(void *)(base + x + bias) : NULL;
        if (j->path == MICA_CPU_BF16)
            j->x_bf16 = (uint16_t *)(void *)base;
        if (!j->be->fuse)
            j->unfused = (float *)(void *)(base + x + bias + scales);
    }
    return x + bias + scales + (j->be->fuse ? 0 : (size_t)j->m * (size_t)j->n * sizeof(float));
}

static ptrdiff_t row_stride(const mica_tensor *t)
{
    return t->ndim > 1 ? (ptrdiff_t)t->stride_[t->ndim - 2] : (ptrdiff_t)t->shape_[0];
}

static mica_status check_job(const mica_linear_args *a, mica_err *err)
{
    const mica_tensor *w = &a->w_OD->tensor;
    char text[96];
    if (!mica_tensor_is_weight(w) || w->stride_[1] != 1)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: a linear layer needs rows of floats or packed numbers, not %s",
                         a->w_OD->name ? a->w_OD->name : "weight",
                         mica_tensor_describe(w, text, sizeof text));
    if (mica_tensor_count(a->y_MO) / w->shape_[0] > INT32_MAX || w->shape_[0] > INT32_MAX / 64 ||
        w->shape_[1] > INT32_MAX / 64)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %s is too large for a linear layer",
                         a->w_OD->name ? a->w_OD->name : "weight",
                         mica_tensor_describe(w, text, sizeof text));
    return MICA_OK;
}

static bool same_input(const mica_cpu_kept_input *a, const mica_cpu_kept_input *b)
{
    return a->x == b->x && a->base == b->base && a->ldx == b->ldx && a->path == b->path &&
           a->m == b->m && a->depth == b->depth && a->depth_pad == b->depth_pad &&
           a->slice == b->slice && a->form == b->form;
}

/* x in the path's form: what stands there already, when the caller says that x is the same and it
 * belongs to it. */
static void make_input(mica_cpu_linear_job *j, const mica_cpu_kept_input *before)
{
    mica_cpu_kept_input now = {.x = j->args->x_MD->data,
                               .base = mica_cpu_shared_scratch(j->be),
                               .ldx = j->ldx,
                               .path = (int)j->path,
                               .m = j->m,
                               .depth = j->depth,
                               .depth_pad = j->depth_pad,
                               .slice = j->slice,
                               .form = j->x_digits ? j->digits << 16 | (int)j->w->dtype : 0};
    if (j->path != MICA_CPU_BF16 && j->path != MICA_CPU_INT8 && !j->x_digits)
        return; /* the others read x in place */
    if (j->args->same_x && same_input(before, &now))
        j->outliers = before->outliers;
    else if (j->path == MICA_CPU_BF16)
        mica_cpu_parallel(j->be, j->m, convert_row, j);
    else if (j->path == MICA_CPU_INT8)
        mica_cpu_int8_inputs(j);
    else
        mica_cpu_few_inputs(j);
    now.outliers = j->outliers;
    j->be->kept = now;
}

mica_status mica_cpu_linear_with(mica_cpu_backend *be, const mica_linear_args *args,
                                 const mica_cpu_side *sides, int side_count, mica_err *err)
{
    MICA_TRY(check_job(args, err));
    const mica_tensor *w = &args->w_OD->tensor;
    const int64_t rows = mica_tensor_count(args->y_MO) / w->shape_[0];
    mica_cpu_linear_job j = {.be = be,
                             .k = be->kernels,
                             .args = args,
                             .w = w,
                             .path = choose_path(be, args, rows),
                             .m = (int)rows,
                             .n = (int)w->shape_[0],
                             .depth = (int)w->shape_[1],
                             .ldx = row_stride(args->x_MD),
                             .ldy = row_stride(args->y_MO),
                             .ldres = args->residual_MO ? row_stride(args->residual_MO) : 0,
                             .sides = sides,
                             .side_count = side_count};
    const mica_cpu_kept_input kept = be->kept; /* reserving scratch forgets it */
    j.by_dnnl = j.path == MICA_CPU_INT8 && be->use_dnnl;
    plan(&j);
    if (j.path == MICA_CPU_INT8)
        MICA_TRY(mica_cpu_int8_prepare(&j, err));
    if (j.path == MICA_CPU_BF16)
        MICA_TRY(mica_cpu_bf16_prepare(&j, err));
    task_scratch unused = {0};
    const size_t row_size = mica_cpu_int8_row_scratch(&j); /* for quantising x */
    MICA_TRY(mica_cpu_scratch_reserve(be, shared_layout(&j, NULL),
                                      MICA_MAX(scratch_layout(&j, NULL, &unused), row_size), err));
    shared_layout(&j, mica_cpu_shared_scratch(be));
    if (j.bias)
        mica_cpu_weight_to_f32(&args->bias_O->tensor, 0, j.n, j.bias);
    if (j.row_scale)
        mica_cpu_weight_scales(w, 0, j.n, j.row_scale);
    make_input(&j, &kept);
    mica_cpu_parallel(be, (int64_t)j.groups * j.cuts, run_task, &j);
    if (j.unfused)
        finish_unfused(&j);
    const int status = atomic_load(&j.dnnl_status);
    if (status != MICA_OK)
        return MICA_FAIL(err, (mica_status)status, "%s: oneDNN failed to run a matmul",
                         args->w_OD->name ? args->w_OD->name : "weight");
    return MICA_OK;
}

mica_status mica_cpu_linear(mica_backend *base, const mica_linear_args *args, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const mica_cpu_side *sides;
    int count;
    if (args->by_row && mica_cpu_linear_by_row_fits(args))
        return mica_cpu_linear_by_row(be, args, err);
    if (!args->w_OD->adapters)
        return mica_cpu_linear_with(be, args, NULL, 0, err);
    const mica_pool_mark mark = mica_cpu_pool_get_mark(base, MICA_POOL_STEP);
    mica_status st = mica_cpu_sides_make(be, args, &sides, &count, err);
    if (!st)
        st = mica_cpu_linear_with(be, args, sides, count, err);
    mica_cpu_pool_release(base, MICA_POOL_STEP, mark);
    return st;
}
