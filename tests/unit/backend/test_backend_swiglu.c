/* test_backend_swiglu.c - gate, up and SwiGLU of one input: the same numbers as by three operations, what a model may
 * not ask for, and who gets a promise. A device's kernel for it is compared in tests/compare. */
#include "backend_testing.h"

#include "backend/backend_ops.h"

#define M 13
#define D 33
#define F 40

typedef struct gated {
    mica_backend *be;
    mica_weight gate, up, both;
    mica_tensor x, hidden, two[2], y, want;
} gated;

static void open_gated(gated *g)
{
    *g = (gated){.gate = host_weight(MICA_DTYPE_BF16, 0.3f, 2, SHAPE(F, D)),
                 .up = host_weight(MICA_DTYPE_BF16, 0.3f, 2, SHAPE(F, D)),
                 .both = host_weight(MICA_DTYPE_BF16, 0.3f, 2, SHAPE(2 * F, D)),
                 .x = host_random(1.0f, 2, SHAPE(M, D)),
                 .hidden = host_random(1.0f, 2, SHAPE(M, 2 * F)),
                 .y = host_random(1.0f, 2, SHAPE(M, F)),
                 .want = host_random(1.0f, 2, SHAPE(M, F))};
    for (int i = 0; i < 2; i++) {
        const mica_weight *from = i ? &g->up : &g->gate;
        g->two[i] = host_random(1.0f, 2, SHAPE(M, F));
        memcpy((uint16_t *)g->both.tensor.data + (size_t)i * F * D, from->tensor.data,
               mica_tensor_size(&from->tensor));
    }
    g->be = open_backend(MICA_PRECISION_F32, 2);
    for (int i = 0; i < 2; i++)
        mica_linear(g->be, &(mica_linear_args){
                               .x_MD = &g->x, .w_OD = i ? &g->up : &g->gate, .y_MO = &g->two[i]});
    mica_swiglu(g->be, &g->two[0], &g->two[1], &g->want);
    assert_fine(g->be);
}

static void close_gated(gated *g)
{
    mica_tensor *const tensors[] = {&g->x, &g->hidden, &g->two[0], &g->two[1], &g->y, &g->want};
    mica_backend_close(&g->be);
    for (size_t i = 0; i < MICA_ARRAY_LEN(tensors); i++)
        host_free(tensors[i]);
    weight_free(&g->gate);
    weight_free(&g->up);
    weight_free(&g->both);
}

static void test_one_and_two_linears(void **state)
{
    (void)state;
    gated g;
    open_gated(&g);
    const mica_linear_args two[] = {{.x_MD = &g.x, .w_OD = &g.gate, .y_MO = &g.two[0]},
                                    {.x_MD = &g.x, .w_OD = &g.up, .y_MO = &g.two[1]}};
    const mica_linear_args one = {.x_MD = &g.x, .w_OD = &g.both, .y_MO = &g.hidden};
    mica_linear_swiglu(g.be, two, 2, &g.y);
    assert_fine(g.be);
    assert_memory_equal(g.y.data, g.want.data, mica_tensor_size(&g.y));
    mica_linear_swiglu(g.be, two, 2, &g.two[0]); /* in the place of gate */
    assert_fine(g.be);
    assert_memory_equal(g.two[0].data, g.want.data, mica_tensor_size(&g.y));
    mica_tensor left = mica_tensor_columns(&g.hidden, 0, F);
    mica_linear_swiglu(g.be, &one, 1, &left);
    assert_fine(g.be);
    for (int64_t r = 0; r < M; r++)
        assert_memory_equal(floats(&left) + r * 2 * F, floats(&g.want) + r * F, F * sizeof(float));
    close_gated(&g);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    gated g;
    open_gated(&g);
    const mica_linear_args one = {.x_MD = &g.x, .w_OD = &g.both, .y_MO = &g.hidden};
    mica_linear_args activated = one, added = one, half = one;
    activated.act = MICA_ACT_SILU;
    added.residual_MO = &g.hidden;
    half.w_OD = &g.gate;
    half.y_MO = &g.two[0];
    const struct {
        const mica_linear_args *args;
        int count;
        const char *words;
    } cases[] = {{&activated, 1, "an epilogue before SwiGLU"},
                 {&added, 1, "an epilogue before SwiGLU"},
                 {&half, 1, "not gate and up of the result"},
                 {&one, 2, "not gate and up of the result"},
                 {&one, 0, "not gate and up of the result"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        mica_err err = {0};
        mica_linear_swiglu(g.be, cases[i].args, cases[i].count, &g.y);
        assert_int_equal(mica_backend_check(g.be, &err), MICA_E_INTERNAL);
        assert_non_null(strstr(err.text, cases[i].words));
    }
    close_gated(&g);
}

/* ------------------------------------------------------- a backend's own way -- */

static bool takes, told_as_operand;
static int asked;

static mica_status own_way(mica_backend *be, const mica_linear_args *args, int count,
                           const mica_tensor *y, bool *taken, mica_err *err)
{
    (void)be, (void)args, (void)count, (void)y, (void)err;
    asked++;
    *taken = takes;
    return MICA_OK;
}

static mica_status (*real_swiglu)(mica_backend *, const mica_tensor *, const mica_tensor *,
                                  mica_tensor *, mica_err *);

static mica_status see_promise(mica_backend *be, const mica_tensor *gate, const mica_tensor *up,
                               mica_tensor *y, mica_err *err)
{
    told_as_operand = be->is_operand;
    return real_swiglu(be, gate, up, y, err);
}

/* Taken: one operation, nothing else runs. Refused: three, and the promise is SwiGLU's. */
static void test_slot(void **state)
{
    (void)state;
    gated g;
    open_gated(&g);
    const mica_backend_ops *real = g.be->ops;
    mica_backend_ops ops = *real;
    real_swiglu = ops.swiglu;
    ops.swiglu = see_promise;
    ops.linear_swiglu = own_way;
    g.be->ops = &ops;
    const mica_linear_args two[] = {{.x_MD = &g.x, .w_OD = &g.gate, .y_MO = &g.two[0]},
                                    {.x_MD = &g.x, .w_OD = &g.up, .y_MO = &g.two[1]}};
    for (int i = 0; i < 2; i++) {
        const mica_backend_counters before = mica_backend_get_counters(g.be);
        takes = i == 0;
        told_as_operand = false;
        mica_next_is_operand(g.be);
        mica_linear_swiglu(g.be, two, 2, &g.y);
        assert_fine(g.be);
        const mica_backend_counters after = mica_backend_get_counters(g.be);
        assert_int_equal(after.ops - before.ops, takes ? 1 : 3);
        assert_true(after.linear_flops - before.linear_flops == 4.0 * M * D * F);
        assert_int_equal(told_as_operand, !takes);
        assert_false(g.be->next_is_operand);
    }
    assert_int_equal(asked, 2);
    assert_memory_equal(g.y.data, g.want.data, mica_tensor_size(&g.y));
    g.be->ops = real;
    close_gated(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_and_two_linears),
                                       cmocka_unit_test(test_what_is_refused),
                                       cmocka_unit_test(test_slot)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
