/* cuda_dnn_conv.c - convolution of a channels-last bf16 picture by cuDNN's backend graph API.
 *
 *     x [1, C, Y, X]   w [O, C, KY, KX]        strides of [Y, X, C] and [O, KY, KX, C]
 *         └── convolution, f32 sums ──┐
 *            residual [1, O, Y', X'] ─┴─ + ──┐
 *                          bias [1, O, 1, 1] ─ + ─► y          without either where not asked for
 *
 * A plan is made when a shape appears first and kept, also the knowledge that there is none: then the
 * caller takes the convolution alone, and without that the product with patches.
 *
 * The order of the sums and a bias in bf16 are what cuDNN 9.19 has compiled kernels for on compute
 * capability 9.0: no time to make a plan, 0.37 ms for 1,024 x 1,024 pixels of 96 channels with bias and
 * residual. With the bias first or in f32 it compiles one, 0.3 to 0.7 s each, that takes 0.50 ms. */
#include "backend/cuda/cuda_backend.h"

#if MICA_CUDA_CUDNN

#include "backend/cuda/cuda_dnn.h"
#include "base/mem.h"

#include <string.h>

#define MOST_ENGINES   8
#define MOST_WORKSPACE ((int64_t)512 << 20)

enum { UID_X = 1, UID_W, UID_BIAS, UID_RESIDUAL, UID_Y, UID_SUM, UID_SUMS };

typedef struct conv_plan {
    struct conv_plan *next;
    mica_cuda_conv_shape shape;
    mica_dnn_plan plan;
} conv_plan;

struct mica_cuda_dnn_conv {
    cudnnHandle_t handle;
    conv_plan *plans; /* an autoencoder has some twenty */
};

/* ------------------------------------------------------------------ graph -- */

typedef struct conv_parts {
    mica_dnn tensor[7], conv, add[2], op[3], graph;
    int ops;
} conv_parts;

static void parts_destroy(conv_parts *p)
{
    mica_dnn_destroy(&p->graph);
    for (int i = 0; i < 3; i++)
        mica_dnn_destroy(&p->op[i]);
    for (int i = 0; i < 2; i++)
        mica_dnn_destroy(&p->add[i]);
    mica_dnn_destroy(&p->conv);
    for (size_t i = 0; i < MICA_ARRAY_LEN(p->tensor); i++)
        mica_dnn_destroy(&p->tensor[i]);
}

/* [n, c, y, x] over memory [n, y, x, c]. */
static bool make_tensor(conv_parts *p, int uid, cudnnDataType_t type, int64_t n, int64_t c,
                        int64_t y, int64_t x)
{
    const int64_t dim[4] = {n, c, y, x}, stride[4] = {y * x * c, 1, x * c, c};
    return mica_dnn_tensor(&p->tensor[uid - 1], uid, type, dim, stride, uid >= UID_SUM);
}

static bool make_tensors(conv_parts *p, const mica_cuda_conv_shape *s)
{
    const cudnnDataType_t half = CUDNN_DATA_BFLOAT16, full = CUDNN_DATA_FLOAT;
    return make_tensor(p, UID_X, half, 1, s->C, s->Y, s->X) &&
           make_tensor(p, UID_W, half, s->O, s->C, s->KY, s->KX) &&
           make_tensor(p, UID_Y, half, 1, s->O, s->out_Y, s->out_X) &&
           (!s->bias || make_tensor(p, UID_BIAS, half, 1, s->O, 1, 1)) &&
           (!s->residual || make_tensor(p, UID_RESIDUAL, half, 1, s->O, s->out_Y, s->out_X)) &&
           make_tensor(p, UID_SUM, full, 1, s->O, s->out_Y, s->out_X) &&
           make_tensor(p, UID_SUMS, full, 1, s->O, s->out_Y, s->out_X);
}

static bool make_conv(conv_parts *p, const mica_cuda_conv_shape *s, int to)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t one[2] = {1, 1}, stride[2] = {s->stride, s->stride};
    const int64_t before[2] = {s->pad_top, s->pad_left}, after[2] = {s->pad_bottom, s->pad_right};
    const float alpha = 1.0f, beta = 0.0f;
    mica_dnn *c = &p->conv, *op = &p->op[p->ops++];
    return mica_dnn_create(c, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR) &&
           mica_dnn_set_int(*c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2) &&
           mica_dnn_set(*c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type) &&
           mica_dnn_set(*c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
                        &mode) &&
           mica_dnn_set(*c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, one) &&
           mica_dnn_set(*c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride) &&
           mica_dnn_set(*c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, before) &&
           mica_dnn_set(*c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, after) &&
           mica_dnn_finalize(*c) &&
           mica_dnn_create(op, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                                   p->tensor[UID_X - 1]) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                                   p->tensor[UID_W - 1]) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                                   p->tensor[to - 1]) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, *c) &&
           mica_dnn_set(*op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1,
                        &alpha) &&
           mica_dnn_set(*op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1,
                        &beta) &&
           mica_dnn_finalize(*op);
}

static bool make_add(conv_parts *p, int a, int b, int to)
{
    const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    mica_dnn *add = &p->add[p->ops - 1], *op = &p->op[p->ops];
    p->ops++;
    return mica_dnn_create(add, CUDNN_BACKEND_POINTWISE_DESCRIPTOR) &&
           mica_dnn_set(*add, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode) &&
           mica_dnn_set(*add, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type) &&
           mica_dnn_finalize(*add) &&
           mica_dnn_create(op, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, *add) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p->tensor[a - 1]) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, p->tensor[b - 1]) &&
           mica_dnn_set_descriptor(*op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, p->tensor[to - 1]) &&
           mica_dnn_finalize(*op);
}

static bool make_graph(conv_parts *p, cudnnHandle_t handle, const mica_cuda_conv_shape *s)
{
    const int sum = s->bias || s->residual ? UID_SUM : UID_Y;
    const int both = !s->residual ? sum : s->bias ? UID_SUMS : UID_Y;
    return make_tensors(p, s) && make_conv(p, s, sum) &&
           (!s->residual || make_add(p, sum, UID_RESIDUAL, both)) &&
           (!s->bias || make_add(p, both, UID_BIAS, UID_Y)) &&
           mica_dnn_graph(&p->graph, handle, p->op, p->ops);
}

/* ------------------------------------------------------------------- plan -- */

static void build(cudnnHandle_t handle, conv_plan *plan)
{
    conv_parts p;
    memset(&p, 0, sizeof p);
    if (make_graph(&p, handle, &plan->shape))
        (void)mica_dnn_plan_make(&plan->plan, handle, p.graph, CUDNN_HEUR_MODE_A, MOST_ENGINES,
                                 MOST_WORKSPACE);
    parts_destroy(&p);
}

/* --------------------------------------------------------------- lifetime -- */

void mica_cuda_dnn_conv_open(mica_cuda_backend *be)
{
    const cudnnHandle_t handle = mica_dnn_open(be->stream);
    be->conv = handle ? mica_mem_calloc(1, sizeof *be->conv) : NULL;
    if (be->conv)
        be->conv->handle = handle;
    else if (handle)
        (void)cudnnDestroy(handle);
}

void mica_cuda_dnn_conv_close(mica_cuda_backend *be)
{
    mica_cuda_dnn_conv *c = be->conv;
    if (!c)
        return;
    while (c->plans) {
        conv_plan *p = c->plans;
        c->plans = p->next;
        mica_dnn_destroy(&p->plan.plan);
        mica_mem_free(p);
    }
    (void)cudnnDestroy(c->handle);
    mica_mem_free(c);
    be->conv = NULL;
}

/* -------------------------------------------------------------------- run -- */

static conv_plan *plan_get(mica_cuda_backend *be, const mica_cuda_conv_shape *shape)
{
    for (conv_plan *p = be->conv->plans; p; p = p->next)
        if (memcmp(&p->shape, shape, sizeof *shape) == 0)
            return p;
    conv_plan *p = mica_mem_calloc(1, sizeof *p);
    if (!p)
        return NULL;
    be->base.counters.allocations++;
    p->shape = *shape;
    build(be->conv->handle, p);
    p->next = be->conv->plans;
    be->conv->plans = p;
    return p;
}

bool mica_cuda_dnn_conv_plan(mica_cuda_backend *be, const mica_cuda_conv_shape *shape,
                             size_t *workspace)
{
    const conv_plan *p = be->conv ? plan_get(be, shape) : NULL;
    *workspace = p && p->plan.plan ? (size_t)p->plan.workspace : 0;
    return p && p->plan.plan;
}

mica_status mica_cuda_dnn_conv_run(mica_cuda_backend *be, const mica_cuda_conv_shape *shape,
                                   const mica_cuda_conv_data *d, const char *name, mica_err *err)
{
    const conv_plan *p = plan_get(be, shape);
    int64_t uids[5] = {UID_X, UID_W, UID_Y};
    const void *pointers[5] = {d->x, d->w, d->y};
    int count = 3;
    if (shape->bias) {
        uids[count] = UID_BIAS;
        pointers[count++] = d->bias;
    }
    if (shape->residual) {
        uids[count] = UID_RESIDUAL;
        pointers[count++] = d->residual;
    }
    const cudnnStatus_t status =
        p ? mica_dnn_plan_run(&p->plan, be->conv->handle, count, uids, pointers, d->workspace)
          : CUDNN_STATUS_ALLOC_FAILED;
    if (status != CUDNN_STATUS_SUCCESS)
        return MICA_FAIL(err, MICA_E_INTERNAL, "%s: a convolution of cuDNN failed: %s", name,
                         cudnnGetErrorString(status));
    return MICA_OK;
}

#else

void mica_cuda_dnn_conv_open(mica_cuda_backend *be)
{
    be->conv = NULL;
}

void mica_cuda_dnn_conv_close(mica_cuda_backend *be)
{
    (void)be;
}

bool mica_cuda_dnn_conv_plan(mica_cuda_backend *be, const mica_cuda_conv_shape *shape,
                             size_t *workspace)
{
    (void)be;
    (void)shape;
    *workspace = 0;
    return false;
}

mica_status mica_cuda_dnn_conv_run(mica_cuda_backend *be, const mica_cuda_conv_shape *shape,
                                   const mica_cuda_conv_data *d, const char *name, mica_err *err)
{
    (void)be;
    (void)shape;
    (void)d;
    return MICA_FAIL(err, MICA_E_INTERNAL, "%s: built without cuDNN", name);
}

#endif
