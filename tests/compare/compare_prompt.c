/* compare_prompt.c - linears of a prompt's few rows with large weights, which a device may do by a kernel of its own.
 *
 * That kernel takes 9 to 128 rows and weights of 8 M numbers (cuda_prompt.c), cuts outputs into tiles of 128 and depth
 * into steps of 64, and shares a tile among up to 8 blocks where tiles are few: the shapes are on both sides of each.
 * What feeds them and what follows is there as well, because the kernels begin before the one before has ended: every
 * case is a norm, linears of one input, SwiGLU or the first of their results, and a linear that adds to x.
 *
 * A product that quietly went to the vendor's library would be as right, so the backend's count is looked at: a case is
 * done by that kernel as the rule says, or by none; gpu_suite.sh wants all of them on the GPU that has it.
 *
 * Bounds as in compare_products.c; of a chain, once more for each rounding. */
#include "compare.h"

#include <stdio.h>

#define NUMBERS ((int64_t)8 << 20)
#define MOST    3                  /* linears of one input */
#define LONGEST ((int64_t)1 << 20) /* side of a weight */

typedef struct prompt {
    int M, D, count;
    int64_t width; /* of each linear */
    bool biased, gated;
    cmp_weight norm_w, w[MOST], bias[MOST], last;
    cmp_tensor x, norm, all, sum;
} prompt;

static int64_t up_to(int64_t n, int64_t step)
{
    return (n + step - 1) / step * step;
}

static void choose_shape(cmp *c, prompt *p)
{
    const int rows[] = {9, 16, 33, 63, 64, 65, 98, 127, 128, 129};
    const int depths[] = {3584, 2560, 4600, 1000, 520, 8};
    p->M = cmp_int(c, 0, 2) ? rows[cmp_int(c, 0, 9)] : cmp_int(c, 1, 140);
    p->D = depths[cmp_int(c, 0, 5)];
    p->count = cmp_int(c, 1, MOST);
    p->gated = p->count == 2 && cmp_u32(c) & 1;
    p->biased = !p->gated && cmp_u32(c) & 1;
    p->width = up_to(NUMBERS / (p->D * p->count) + 1, 16) + 16 * cmp_int(c, 0, 9);
}

static void open_prompt(cmp *c, prompt *p)
{
    p->norm_w = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(p->D));
    for (int i = 0; i < p->count; i++) {
        p->w[i] = cmp_weight_make(c, MICA_DTYPE_BF16, 0.05f, 0, 2, CMP_SHAPE(p->width, p->D));
        p->bias[i] = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(p->width));
    }
    p->last = cmp_weight_make(c, MICA_DTYPE_BF16, 0.02f, 0, 2, CMP_SHAPE(p->D, p->width));
    p->x = cmp_act(c, 1.0f, 2, CMP_SHAPE(p->M, p->D));
    p->norm = cmp_output(c, false, 2, CMP_SHAPE(p->M, p->D));
    p->all = cmp_output(c, false, 2, CMP_SHAPE(p->M, p->width * p->count));
    p->sum = cmp_output(c, false, 2, CMP_SHAPE(p->M, p->D));
}

static void run_prompt(cmp *c, prompt *p, int b)
{
    mica_backend *be = c->be[b];
    mica_linear_args args[MOST];
    mica_tensor y[MOST];
    mica_rms_norm(be, &p->x.t[b], &p->norm_w.w[b], 1e-6f, &p->norm.t[b]);
    for (int i = 0; i < p->count; i++) {
        y[i] = mica_tensor_columns(&p->all.t[b], i * p->width, p->width);
        args[i] = (mica_linear_args){.x_MD = &p->norm.t[b],
                                     .w_OD = &p->w[i].w[b],
                                     .bias_O = p->biased ? &p->bias[i].w[b] : NULL,
                                     .y_MO = &y[i]};
    }
    if (p->gated)
        mica_linear_swiglu(be, args, 2, &y[0]);
    else
        mica_linears(be, args, p->count);
    mica_copy(be, &p->x.t[b], &p->sum.t[b]);
    mica_linear(be, &(mica_linear_args){.x_MD = &y[0],
                                        .w_OD = &p->last.w[b],
                                        .residual_MO = &p->sum.t[b],
                                        .y_MO = &p->sum.t[b]});
    if (p->gated) /* what gate and up were is not told */
        mica_copy(be, &y[0], &y[1]);
}

/* Products of a run that the kernel is for: all linears of one input are one; the last is as large only after one. */
static int products_due(const prompt *p)
{
    if (p->M < 9 || p->M > 128 || p->width * p->count > LONGEST)
        return 0;
    return p->count == 1 ? 2 : 1;
}

/* In fp8 most of them are products of e4m3, which it does not do. */
static void check_products(cmp *c, const prompt *p, uint64_t before)
{
    const int due = c->bf16 && !c->fp8 ? 2 * products_due(p) : 0; /* rounds */
    const int own = (int)(mica_backend_get_counters(c->be[1]).prompt_products - before);
    c->due += due;
    c->own += own;
    if (own != 0 && own != due && !c->fp8)
        cmp_fail(c, "products by their own kernel", own, due);
}

static void prompts(cmp *c)
{
    const uint64_t before = mica_backend_get_counters(c->be[1]).prompt_products;
    prompt p = {0};
    choose_shape(c, &p);
    open_prompt(c, &p);
    snprintf(c->what, sizeof c->what, "%d x %d x %d of %d%s%s", p.M, p.D, p.count, (int)p.width,
             p.biased ? ", biases" : "", p.gated ? ", SwiGLU" : "");
    for (int round = 0; round < 2; round++) { /* weights come in the first */
        for (int b = 0; b < 2; b++)
            run_prompt(c, &p, b);
        cmp_result(c, &p.all, 2e-5, c->fp8 ? 1e-1 : 1e-2);
        cmp_result(c, &p.sum, 4e-5, c->fp8 ? 1e-1 : 1e-2);
    }
    check_products(c, &p, before);
    cmp_weight_free(c, &p.norm_w);
    cmp_weight_free(c, &p.last);
    for (int i = 0; i < p.count; i++) {
        cmp_weight_free(c, &p.w[i]);
        cmp_weight_free(c, &p.bias[i]);
    }
}

const cmp_op cmp_prompt_ops[] = {{"prompts", prompts, 5}, {NULL, NULL, 0}};
