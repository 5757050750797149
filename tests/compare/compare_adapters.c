/* compare_adapters.c - linears with LoRA and its kin: every form, several at once, parts of rows; one
 * backend adds them to its form of the weight (of a packed one LoRA beside the product, the others to the
 * expanded weight), the other computes them beside the product.
 *
 * The weight is dropped and used again, so that a form without the adapters or one that has them twice
 * would show. Bound in bf16: as for a weight that is rounded once more. */
#include "compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LORA, LOHA, LOKR, LOKR_FACTORED, DIFF, FORMS };

#define MOST 3

typedef struct drawn {
    cmp_weight part[MOST][5]; /* up, down, up, down, mix; data NULL: absent */
    mica_adapter adapters[MOST];
} drawn;

static int divisor_of(cmp *c, int n)
{
    int d = cmp_int(c, 1, n);
    while (n % d)
        d--;
    return d;
}

/* scale_kind as in cmp_weight_make. */
static mica_tensor factor(cmp *c, cmp_weight *out, mica_dtype dtype, int scale_kind, int rows,
                          int columns)
{
    *out = cmp_weight_make(c, dtype, scale_kind ? 3.0f : 0.3f, scale_kind, 2,
                           CMP_SHAPE(rows, columns));
    return out->w[0].tensor;
}

static void draw(cmp *c, drawn *d, int i, int form, int outputs, int width)
{
    static const mica_dtype TYPES[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16};
    const mica_dtype type = TYPES[cmp_int(c, 0, 2)];
    const bool kron = form == LOKR || form == LOKR_FACTORED;
    const int rows = cmp_int(c, 1, 2 * outputs), b = divisor_of(c, width),
              mix = divisor_of(c, rows);
    const int r = cmp_int(c, 1, 20), p = kron ? rows / mix : rows, q = kron ? width / b : width;
    const bool whole = form == LOKR || form == DIFF;
    mica_adapter *a = &d->adapters[i];
    *a = (mica_adapter){.scale = 0.1f + 0.1f * (float)cmp_int(c, 0, 9)};
    a->up[0] =
        factor(c, &d->part[i][0], type, cmp_int(c, 0, 2), p, whole ? q : r); /* DoRA: per row */
    if (!whole)
        a->down[0] = factor(c, &d->part[i][1], type, 0, r, q);
    if (form == LOHA) {
        a->up[1] = factor(c, &d->part[i][2], type, 0, p, 5);
        a->down[1] = factor(c, &d->part[i][3], type, 0, 5, q);
    }
    if (kron)
        a->mix = factor(c, &d->part[i][4], MICA_DTYPE_F32, 0, mix, b);
    a->first = cmp_int(c, 0, outputs - 1);
    a->skip = cmp_int(c, 0, rows - 1);
    a->count = MICA_MIN(outputs - a->first, rows - a->skip);
    if (i > 0)
        d->adapters[i - 1].next = a;
}

static void drop(cmp *c, cmp_weight *w)
{
    for (int i = 0; i < 2; i++)
        mica_backend_drop_weights(c->be[i], (mica_weight *[]){&w->w[i]}, 1);
}

/* With adapters, then without; frees w. */
static void compare(cmp *c, cmp_weight w, double bf16_bound)
{
    drawn d;
    memset(&d, 0, sizeof d);
    const int O = (int)w.w[0].tensor.shape_[0], D = (int)w.w[0].tensor.shape_[1];
    const int M = cmp_int(c, 1, 40), count = cmp_int(c, 1, MOST), form = cmp_int(c, 0, FORMS - 1);
    snprintf(c->what, sizeof c->what, "%d x %d x %d, %s, form %d and %d more", M, D, O,
             mica_dtype_get(w.w[0].tensor.dtype)->name, form, count - 1);
    for (int i = 0; i < count; i++)
        draw(c, &d, i, i ? cmp_int(c, 0, FORMS - 1) : form, O, D);
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    for (int pass = 0; pass < 2; pass++) {
        cmp_tensor y = cmp_output(c, true, 2, CMP_SHAPE(M, O));
        for (int i = 0; i < 2; i++) {
            w.w[i].adapters = pass ? NULL : d.adapters;
            mica_linear(c->be[i], &(mica_linear_args){.x_MD = &x.t[i],
                                                      .w_OD = &w.w[i],
                                                      .act = MICA_ACT_SILU,
                                                      .y_MO = &y.t[i]});
        }
        cmp_result(c, &y, 2e-5, bf16_bound);
        if (cmp_u32(c) & 1)
            drop(c, &w);
    }
    cmp_weight_free(c, &w);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 5; k++)
            if (d.part[i][k].w[0].tensor.data)
                cmp_weight_free(c, &d.part[i][k]);
}

static void adapters(cmp *c)
{
    const int D = 8 * cmp_int(c, 1, 40), O = cmp_int(c, 1, 200), scaled = cmp_int(c, 0, 2);
    const cmp_weight w =
        cmp_weight_make(c, MICA_DTYPE_BF16, scaled ? 1.0f : 0.1f, scaled, 2, CMP_SHAPE(O, D));
    compare(c, w, 6e-3);
}

static void packed_adapters(cmp *c)
{
    compare(c, cmp_packed_weight(c, cmp_int(c, 1, 200), 6), 1.2e-2); /* seen: 7.4e-3 of 7 numbers */
}

const cmp_op cmp_adapter_ops[] = {
    {"adapters", adapters, 20}, {"packed_adapters", packed_adapters, 30}, {NULL, NULL, 0}};
