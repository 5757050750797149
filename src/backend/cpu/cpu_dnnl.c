/* cpu_dnnl.c - oneDNN 2.x and 3.x behind one set of calls; see cpu_dnnl.h.
 *
 *     md_owned   a memory desc this file made       2.x: a struct     3.x: a handle
 *     md_ref     a memory desc to look at           2.x: pointer      3.x: const handle
 *
 * Everything that differs between the two stands in the first section. Threads: oneDNN asks
 * OpenMP for the maximum of the calling thread, when a primitive is made and when it runs;
 * with_threads sets that number for the duration of a call and restores it, so the host's
 * setting is never changed for good. */
#include "backend/cpu/cpu_dnnl.h"

#include "base/cpu.h"
#include "base/mem.h"

#include <dnnl.h>
#include <omp.h>
#include <string.h>

/* --------------------------------------------------------- 2.x and 3.x -- */

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t md_ref;
typedef dnnl_memory_desc_t md_owned;
static md_ref md_get(const md_owned *md)
{
    return *md;
}
static void md_free(md_owned *md)
{
    if (*md)
        dnnl_memory_desc_destroy(*md);
}
static dnnl_status_t md_tag(md_owned *md, int n, const int64_t *dims, dnnl_data_type_t type,
                            dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(md, n, dims, type, tag);
}
static dnnl_status_t md_strides(md_owned *md, int n, const int64_t *dims, dnnl_data_type_t type,
                                const int64_t *strides)
{
    return dnnl_memory_desc_create_with_strides(md, n, dims, type, strides);
}
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, md_ref src,
                                 md_ref weights, md_ref bias, md_ref dst,
                                 const_dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, engine, src, weights, bias, dst, attr);
}
static dnnl_status_t conv_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, md_ref src,
                               md_ref weights, md_ref bias, md_ref dst, const int64_t *strides,
                               const int64_t *pad_l, const int64_t *pad_r,
                               const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t dilation = {0, 0};
    return dnnl_convolution_forward_primitive_desc_create(
        pd, engine, dnnl_forward_inference, dnnl_convolution_direct, src, weights, bias, dst,
        strides, dilation, pad_l, pad_r, attr);
}
static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}
static uint64_t mix(uint64_t h, const void *data, size_t size);
static uint64_t md_hash(md_ref md)
{
    dnnl_dims_t values;
    const dnnl_query_t lists[] = {dnnl_query_padded_dims, dnnl_query_strides, dnnl_query_inner_blks,
                                  dnnl_query_inner_idxs};
    int counts[4] = {0, 0, 0, 0};
    const dnnl_dims_t *list = NULL;
    uint64_t h = dnnl_memory_desc_get_size(md);
    dnnl_memory_desc_query(md, dnnl_query_ndims_s32, &counts[0]);
    dnnl_memory_desc_query(md, dnnl_query_inner_nblks_s32, &counts[2]);
    counts[1] = counts[0];
    counts[3] = counts[2];
    for (size_t i = 0; i < MICA_ARRAY_LEN(lists); i++)
        if (dnnl_memory_desc_query(md, lists[i], (void *)&list) == dnnl_success && list) {
            memcpy(values, list, (size_t)counts[i] * sizeof values[0]);
            h = mix(h, values, (size_t)counts[i] * sizeof values[0]);
        }
    return h;
}
#else
typedef const dnnl_memory_desc_t *md_ref;
typedef dnnl_memory_desc_t md_owned;
static md_ref md_get(const md_owned *md)
{
    return md;
}
static void md_free(md_owned *md)
{
    (void)md;
}
static dnnl_status_t md_tag(md_owned *md, int n, const int64_t *dims, dnnl_data_type_t type,
                            dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(md, n, dims, type, tag);
}
static dnnl_status_t md_strides(md_owned *md, int n, const int64_t *dims, dnnl_data_type_t type,
                                const int64_t *strides)
{
    return dnnl_memory_desc_init_by_strides(md, n, dims, type, strides);
}
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, md_ref src,
                                 md_ref weights, md_ref bias, md_ref dst,
                                 const_dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t d;
    const dnnl_status_t st = dnnl_matmul_desc_init(&d, src, weights, bias, dst);
    return st != dnnl_success ? st : dnnl_primitive_desc_create(pd, &d, attr, engine, NULL);
}
static dnnl_status_t conv_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, md_ref src,
                               md_ref weights, md_ref bias, md_ref dst, const int64_t *strides,
                               const int64_t *pad_l, const int64_t *pad_r,
                               const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t d;
    const dnnl_status_t st =
        dnnl_convolution_forward_desc_init(&d, dnnl_forward_inference, dnnl_convolution_direct, src,
                                           weights, bias, dst, strides, pad_l, pad_r);
    return st != dnnl_success ? st : dnnl_primitive_desc_create(pd, &d, attr, engine, NULL);
}
static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f);
}
static uint64_t mix(uint64_t h, const void *data, size_t size);
static uint64_t md_hash(md_ref md)
{
    const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
    const size_t dims = (size_t)md->ndims, blocks = (size_t)b->inner_nblks;
    uint64_t h = dnnl_memory_desc_get_size(md);
    h = mix(h, md->padded_dims, dims * sizeof md->padded_dims[0]);
    h = mix(h, b->strides, dims * sizeof b->strides[0]);
    h = mix(h, b->inner_blks, blocks * sizeof b->inner_blks[0]);
    return mix(h, b->inner_idxs, blocks * sizeof b->inner_idxs[0]);
}
#endif

/* FNV-1a over bytes. */
static uint64_t mix(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;
    h ^= 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* -------------------------------------------------------------- objects -- */

enum { ARG_SRC, ARG_WEIGHTS, ARG_BIAS, ARG_DST, ARG_SCRATCH, ARG_COUNT };

/* Memory objects carry their data pointer, so every thread needs its own. */
typedef struct arg_set {
    dnnl_memory_t memory[ARG_COUNT];
} arg_set;

struct mica_dnnl_op {
    mica_dnnl_op *next;
    mica_dnnl_key key;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    arg_set *args; /* [arg_sets] */
    int arg_sets;
    size_t weight_size, scratch_size;
};

struct mica_dnnl {
    mica_cpu_backend *be;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    mica_dnnl_op *ops;
};

static mica_status failed(dnnl_status_t st, const char *what, mica_err *err)
{
    const mica_status status = st == dnnl_out_of_memory   ? MICA_E_NOMEM
                               : st == dnnl_unimplemented ? MICA_E_UNSUPPORTED
                                                          : MICA_E_INTERNAL;
    return MICA_FAIL(err, status, "oneDNN %d.%d: %s failed with status %d", DNNL_VERSION_MAJOR,
                     DNNL_VERSION_MINOR, what, (int)st);
}

/* Returns the number to restore. */
static int with_threads(int n)
{
    const int before = omp_get_max_threads();
    if (before != n)
        omp_set_num_threads(n);
    return before;
}

static void limit_isa(void)
{
    /* Only the first backend of a process can do this, and the level is a process-wide setting
     * too. A refusal means that oneDNN already started with the same mask. */
    switch (mica_cpu_get_level()) {
    case MICA_CPU_LEVEL_BASELINE:
    case MICA_CPU_LEVEL_V2:
        (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
        break;
    case MICA_CPU_LEVEL_V3:
        (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
        break;
    case MICA_CPU_LEVEL_V4:
        (void)dnnl_set_max_cpu_isa(mica_cpu_has_vnni() ? dnnl_cpu_isa_avx512_core_vnni
                                                       : dnnl_cpu_isa_avx512_core);
        break;
    case MICA_CPU_LEVEL_V4_BF16_VNNI:
        (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core_bf16);
        break;
    default:
        break;
    }
}

mica_status mica_dnnl_open(mica_dnnl **out, mica_cpu_backend *be, mica_err *err)
{
    *out = NULL;
    mica_dnnl *d = mica_mem_calloc(1, sizeof *d);
    if (!d)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the oneDNN context");
    d->be = be;
    if (mica_cpu_get_level() != mica_cpu_best_level())
        limit_isa();
    dnnl_status_t st = dnnl_engine_create(&d->engine, dnnl_cpu, 0);
    if (st == dnnl_success)
        st = dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags);
    if (st != dnnl_success) {
        mica_dnnl_close(&d);
        return failed(st, "opening the CPU engine", err);
    }
    *out = d;
    return MICA_OK;
}

static void op_free(mica_dnnl_op *op)
{
    for (int t = 0; op->args && t < op->arg_sets; t++)
        for (int i = 0; i < ARG_COUNT; i++)
            if (op->args[t].memory[i])
                dnnl_memory_destroy(op->args[t].memory[i]);
    if (op->primitive)
        dnnl_primitive_destroy(op->primitive);
    if (op->desc)
        dnnl_primitive_desc_destroy(op->desc);
    mica_mem_free(op->args);
    mica_mem_free(op);
}

void mica_dnnl_trim(mica_dnnl *d)
{
    while (d->ops) {
        mica_dnnl_op *op = d->ops;
        d->ops = op->next;
        op_free(op);
    }
}

void mica_dnnl_close(mica_dnnl **dnnl)
{
    mica_dnnl *d = *dnnl;
    if (!d)
        return;
    mica_dnnl_trim(d);
    if (d->stream)
        dnnl_stream_destroy(d->stream);
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    mica_mem_free(d);
    *dnnl = NULL;
}

/* ------------------------------------------------------------- creation -- */

static dnnl_data_type_t type_of(int32_t type)
{
    static const dnnl_data_type_t of[] = {dnnl_f32, dnnl_bf16, dnnl_s32, dnnl_s8, dnnl_u8};
    return of[type];
}

typedef struct op_descs {
    md_owned src, weights, bias, dst;
} op_descs;

static void descs_free(op_descs *d)
{
    md_free(&d->src);
    md_free(&d->weights);
    md_free(&d->bias);
    md_free(&d->dst);
}

/* Columns in panels of 64; in a panel groups of k that fill 4 bytes, 16 of these to a block. */
static dnnl_format_tag_t packed_tag(const mica_dnnl_key *k)
{
    if (k->packed != MICA_DNNL_PANELS)
        return dnnl_format_tag_any;
    return k->weight_type == MICA_DNNL_S8 ? dnnl_BA16a64b4a : dnnl_BA16a64b2a;
}

static dnnl_status_t matmul_descs(op_descs *d, const mica_dnnl_key *k)
{
    const dnnl_dims_t src = {k->m, k->k}, weights = {k->k, k->n}, dst = {k->m, k->n};
    const dnnl_dims_t src_strides = {k->ld_src, 1}, dst_strides = {k->ld_dst, 1};
    const dnnl_dims_t weight_strides = {1, k->ld_weight}, bias = {1, k->n};
    dnnl_status_t st = md_strides(&d->src, 2, src, type_of(k->src_type), src_strides);
    if (!st)
        st = k->packed
                 ? md_tag(&d->weights, 2, weights, type_of(k->weight_type), packed_tag(k))
                 : md_strides(&d->weights, 2, weights, type_of(k->weight_type), weight_strides);
    if (!st)
        st = md_strides(&d->dst, 2, dst, type_of(k->dst_type), dst_strides);
    if (!st && k->bias)
        st = md_tag(&d->bias, 2, bias, dnnl_f32, dnnl_ab);
    return st;
}

static dnnl_status_t conv_descs(op_descs *d, const mica_dnnl_key *k)
{
    const dnnl_dims_t src = {1, k->c, k->y, k->x}, weights = {k->o, k->c, k->ky, k->kx};
    const dnnl_dims_t dst = {1, k->o, k->out_y, k->out_x}, bias = {k->o};
    dnnl_status_t st = md_tag(&d->src, 4, src, type_of(k->src_type), dnnl_nhwc);
    if (!st)
        st = md_tag(&d->weights, 4, weights, type_of(k->weight_type),
                    k->packed ? dnnl_format_tag_any : dnnl_oihw);
    if (!st)
        st = md_tag(&d->dst, 4, dst, type_of(k->dst_type), dnnl_nhwc);
    if (!st && k->bias)
        st = md_tag(&d->bias, 1, bias, dnnl_f32, dnnl_a);
    return st;
}

static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, const mica_dnnl_key *k)
{
    dnnl_status_t st = dnnl_primitive_attr_create(attr);
    if (!st)
        st = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (!st && k->sum) {
        dnnl_post_ops_t ops = NULL;
        st = dnnl_post_ops_create(&ops);
        if (!st)
            st = append_sum(ops);
        if (!st)
            st = dnnl_primitive_attr_set_post_ops(*attr, ops);
        if (ops)
            dnnl_post_ops_destroy(ops);
    }
    return st;
}

static dnnl_status_t make_desc(mica_dnnl *d, mica_dnnl_op *op)
{
    const mica_dnnl_key *k = &op->key;
    op_descs descs;
    dnnl_primitive_attr_t attr = NULL;
    memset(&descs, 0, sizeof descs);
    dnnl_status_t st =
        k->kind == MICA_DNNL_MATMUL ? matmul_descs(&descs, k) : conv_descs(&descs, k);
    if (!st)
        st = make_attr(&attr, k);
    if (!st) {
        const md_ref src = md_get(&descs.src), weights = md_get(&descs.weights);
        const md_ref bias = k->bias ? md_get(&descs.bias) : NULL, dst = md_get(&descs.dst);
        const dnnl_dims_t stride = {k->stride, k->stride};
        const dnnl_dims_t pad_l = {k->pad_top, k->pad_left}, pad_r = {k->pad_bottom, k->pad_right};
        st = k->kind == MICA_DNNL_MATMUL
                 ? matmul_desc(&op->desc, d->engine, src, weights, bias, dst, attr)
                 : conv_desc(&op->desc, d->engine, src, weights, bias, dst, stride, pad_l, pad_r,
                             attr);
    }
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    descs_free(&descs);
    return st;
}

static dnnl_status_t make_args(mica_dnnl *d, mica_dnnl_op *op)
{
    static const dnnl_query_t queries[ARG_COUNT] = {dnnl_query_src_md, dnnl_query_weights_md,
                                                    dnnl_query_weights_md, dnnl_query_dst_md,
                                                    dnnl_query_scratchpad_md};
    for (int t = 0; t < op->arg_sets; t++)
        for (int i = 0; i < ARG_COUNT; i++) {
            if (i == ARG_BIAS && !op->key.bias)
                continue;
            const md_ref md = dnnl_primitive_desc_query_md(op->desc, queries[i], i == ARG_BIAS);
            const dnnl_status_t st =
                dnnl_memory_create(&op->args[t].memory[i], md, d->engine, DNNL_MEMORY_NONE);
            if (st)
                return st;
        }
    op->weight_size =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(op->desc, dnnl_query_weights_md, 0));
    op->scratch_size = dnnl_memory_desc_get_size(
        dnnl_primitive_desc_query_md(op->desc, dnnl_query_scratchpad_md, 0));
    return dnnl_success;
}

static mica_status op_make(mica_dnnl *d, mica_dnnl_op *op, mica_err *err)
{
    op->arg_sets = op->key.parallel ? 1 : d->be->threads;
    op->args = mica_mem_calloc((size_t)op->arg_sets, sizeof *op->args);
    if (!op->args)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a oneDNN operation");
    const int before = with_threads(op->key.parallel ? d->be->threads : 1);
    dnnl_status_t st = make_desc(d, op);
    if (!st)
        st = dnnl_primitive_create(&op->primitive, op->desc);
    if (!st)
        st = make_args(d, op);
    with_threads(before);
    return st ? failed(st, op->key.kind == MICA_DNNL_MATMUL ? "a matmul" : "a convolution", err)
              : MICA_OK;
}

mica_status mica_dnnl_get(mica_dnnl *d, const mica_dnnl_key *key, mica_dnnl_op **out, mica_err *err)
{
    *out = NULL;
    for (mica_dnnl_op **link = &d->ops; *link; link = &(*link)->next)
        if (memcmp(&(*link)->key, key, sizeof *key) == 0) {
            mica_dnnl_op *found = *link; /* to the front: a forward pass has few shapes */
            *link = found->next;
            found->next = d->ops;
            d->ops = found;
            *out = found;
            return MICA_OK;
        }
    d->be->base.counters.allocations++;
    mica_dnnl_op *op = mica_mem_calloc(1, sizeof *op);
    if (!op)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a oneDNN operation");
    op->key = *key;
    const mica_status st = op_make(d, op, err);
    if (st) {
        op_free(op);
        return st;
    }
    op->next = d->ops;
    d->ops = op;
    *out = op;
    return MICA_OK;
}

size_t mica_dnnl_weight_size(const mica_dnnl_op *op)
{
    return op->weight_size;
}

size_t mica_dnnl_scratch_size(const mica_dnnl_op *op)
{
    return op->scratch_size;
}

const char *mica_dnnl_implementation(const mica_dnnl_op *op)
{
    const char *name = NULL;
    dnnl_primitive_desc_query(op->desc, dnnl_query_impl_info_str, 0, (void *)&name);
    return name ? name : "unknown";
}

uint64_t mica_dnnl_weight_layout(const mica_dnnl_op *op)
{
    return md_hash(dnnl_primitive_desc_query_md(op->desc, dnnl_query_weights_md, 0));
}

/* ------------------------------------------------------------ execution -- */

static dnnl_status_t reorder(mica_dnnl *d, md_ref from, const void *src, md_ref to, void *dst)
{
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_memory_t a = NULL, b = NULL;
    dnnl_status_t st =
        dnnl_reorder_primitive_desc_create(&desc, from, d->engine, to, d->engine, NULL);
    if (!st)
        st = dnnl_primitive_create(&primitive, desc);
    if (!st)
        st = dnnl_memory_create(&a, from, d->engine, (void *)(uintptr_t)src);
    if (!st)
        st = dnnl_memory_create(&b, to, d->engine, dst);
    if (!st) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, a}, {DNNL_ARG_TO, b}};
        st = dnnl_primitive_execute(primitive, d->stream, 2, args);
    }
    if (!st)
        st = dnnl_stream_wait(d->stream);
    if (a)
        dnnl_memory_destroy(a);
    if (b)
        dnnl_memory_destroy(b);
    if (primitive)
        dnnl_primitive_destroy(primitive);
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    return st;
}

mica_status mica_dnnl_pack(mica_dnnl *d, mica_dnnl_op *op, const void *plain, void *packed,
                           mica_err *err)
{
    mica_dnnl_key key = op->key;
    op_descs descs;
    memset(&descs, 0, sizeof descs);
    key.packed = 0;
    key.ld_weight = key.k;
    const int before = with_threads(d->be->threads);
    dnnl_status_t st =
        key.kind == MICA_DNNL_MATMUL ? matmul_descs(&descs, &key) : conv_descs(&descs, &key);
    if (!st)
        st = reorder(d, md_get(&descs.weights), plain,
                     dnnl_primitive_desc_query_md(op->desc, dnnl_query_weights_md, 0), packed);
    descs_free(&descs);
    with_threads(before);
    d->be->base.counters.allocations++;
    return st ? failed(st, "packing weights", err) : MICA_OK;
}

mica_status mica_dnnl_run(mica_dnnl *d, mica_dnnl_op *op, int thread, const void *src,
                          const void *weights, const float *bias, void *dst, void *scratch,
                          mica_err *err)
{
    static const int names[ARG_COUNT] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS,
                                         DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
    void *const data[ARG_COUNT] = {(void *)(uintptr_t)src, (void *)(uintptr_t)weights,
                                   (void *)(uintptr_t)bias, dst, scratch};
    dnnl_exec_arg_t args[ARG_COUNT];
    dnnl_status_t st = dnnl_success;
    int count = 0;
    for (int i = 0; i < ARG_COUNT && !st; i++) {
        dnnl_memory_t m = op->args[thread].memory[i];
        if (!m)
            continue;
        st = dnnl_memory_set_data_handle(m, data[i]);
        args[count++] = (dnnl_exec_arg_t){names[i], m};
    }
    const int before = with_threads(op->key.parallel ? d->be->threads : 1);
    if (!st)
        st = dnnl_primitive_execute(op->primitive, d->stream, count, args);
    with_threads(before);
    return st ? failed(st, "running an operation", err) : MICA_OK;
}
