/* compare_chains.c - operations in a row, as a model has them: results that stay in a form of the backend's
 * own between two of them (mica_next_is_operand, operands in fp8), branches,
 * or operations that are recorded (mica_replay).
 *
 *     norm ─► linear, linear      linear with GELU ─► linear, gated      swiglu ─► linear
 *
 * Every chain runs three times, the last time with another input in the same memory: what a backend
 * remembers of the first must not show. Bounds: fp8 3.6e-2 for each product of a chain. */
#include "compare.h"

#include <stdio.h>

enum { BLOCK_WEIGHTS = 6 };

typedef struct chain {
    int M, D, F;
    cmp_weight w[BLOCK_WEIGHTS]; /* q, k, MLP in and out, gate and up */
    cmp_weight bias[2];          /* [F], [D] */
    cmp_tensor scale, shift, gate;
    cmp_tensor x, norm, q, k, hidden, h, up, down;
} chain;

static void open_chain(cmp *c, chain *t)
{
    const int64_t D = t->D, F = t->F, M = t->M;
    const int64_t shapes[BLOCK_WEIGHTS][2] = {{D, D}, {D + 8, D}, {F, D}, {D, F}, {F, D}, {F, D}};
    for (int i = 0; i < BLOCK_WEIGHTS; i++)
        t->w[i] = cmp_weight_make(c, MICA_DTYPE_BF16, 0.1f, 0, 2, shapes[i]);
    t->bias[0] = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(F));
    t->bias[1] = cmp_weight_make(c, MICA_DTYPE_BF16, 1.0f, 0, 1, CMP_SHAPE(D));
    t->scale = cmp_state(c, 0.3f, 1, CMP_SHAPE(D));
    t->shift = cmp_state(c, 0.3f, 1, CMP_SHAPE(D));
    t->gate = cmp_state(c, 0.3f, 1, CMP_SHAPE(D));
    t->x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    t->norm = cmp_output(c, false, 2, CMP_SHAPE(M, D));
    t->q = cmp_output(c, false, 2, CMP_SHAPE(M, D));
    t->k = cmp_output(c, false, 2, CMP_SHAPE(M, D + 8));
    t->hidden = cmp_output(c, false, 2, CMP_SHAPE(M, F));
    t->h = cmp_output(c, false, 2, CMP_SHAPE(M, F));
    t->up = cmp_output(c, false, 2, CMP_SHAPE(M, F));
    t->down = cmp_output(c, false, 2, CMP_SHAPE(M, D));
}

static void close_chain(cmp *c, chain *t)
{
    for (int i = 0; i < BLOCK_WEIGHTS; i++)
        cmp_weight_free(c, &t->w[i]);
    for (int i = 0; i < 2; i++)
        cmp_weight_free(c, &t->bias[i]);
}

static void product(mica_backend *be, int i, cmp_weight *w, cmp_tensor *x, cmp_tensor *y)
{
    mica_linear(be, &(mica_linear_args){.x_MD = &x->t[i], .w_OD = &w->w[i], .y_MO = &y->t[i]});
}

/* The second weight has 8 outputs too many for fp8 and reads the norm as it is, promise or not. */
static void attention_side(mica_backend *be, int i, bool promise, chain *t)
{
    if (promise)
        mica_next_is_operand(be);
    mica_layer_norm_modulate(be, &t->x.t[i], &t->scale.t[i], &t->shift.t[i], 1e-6f, &t->norm.t[i]);
    product(be, i, &t->w[0], &t->norm, &t->q);
    product(be, i, &t->w[1], &t->norm, &t->k);
}

/* x += gate * (gelu(x w^T + b) w^T + b) in place */
static void mlp(mica_backend *be, int i, chain *t)
{
    mica_next_is_operand(be);
    mica_linear(be, &(mica_linear_args){.x_MD = &t->x.t[i],
                                        .w_OD = &t->w[2].w[i],
                                        .bias_O = &t->bias[0].w[i],
                                        .act = MICA_ACT_GELU_TANH,
                                        .y_MO = &t->hidden.t[i]});
    mica_linear(be, &(mica_linear_args){.x_MD = &t->hidden.t[i],
                                        .w_OD = &t->w[3].w[i],
                                        .bias_O = &t->bias[1].w[i],
                                        .gate_O = &t->gate.t[i],
                                        .residual_MO = &t->x.t[i],
                                        .y_MO = &t->x.t[i]});
}

static void gated_mlp(mica_backend *be, int i, chain *t)
{
    product(be, i, &t->w[4], &t->norm, &t->h);
    product(be, i, &t->w[5], &t->norm, &t->up);
    mica_next_is_operand(be);
    mica_swiglu(be, &t->h.t[i], &t->up.t[i], &t->h.t[i]);
    product(be, i, &t->w[3], &t->h, &t->down);
}

static void compare_chain(cmp *c, bool promised, const chain *t)
{
    const double one = c->fp8 ? 5e-2 : 1e-2, two = c->fp8 ? 8e-2 : 1.5e-2;
    if (!promised)
        cmp_result(c, &t->norm, 2e-5, 6e-3);
    cmp_result(c, &t->q, 2e-5, one);
    cmp_result(c, &t->k, 2e-5, one);
    cmp_result(c, &t->x, 2e-5, two);
    cmp_result(c, &t->down, 5e-5, two);
}

static void operands(cmp *c)
{
    chain t = {.M = cmp_int(c, 1, 150), .D = 16 * cmp_int(c, 1, 24), .F = 16 * cmp_int(c, 1, 40)};
    open_chain(c, &t);
    for (int round = 0; round < 3; round++) {
        snprintf(c->what, sizeof c->what, "%d x %d, %d wide inside, round %d", t.M, t.D, t.F,
                 round);
        for (int i = 0; i < 2; i++) {
            attention_side(c->be[i], i, round == 1, &t);
            gated_mlp(c->be[i], i, &t);
            mlp(c->be[i], i, &t);
        }
        compare_chain(c, round == 1, &t);
        const cmp_tensor fresh = cmp_act(c, 1.0f, 2, CMP_SHAPE(t.M, t.D));
        for (int i = 0; i < 2; i++)
            mica_copy(c->be[i], &fresh.t[i], &t.x.t[i]);
    }
    close_chain(c, &t);
}

/* Two chains side by side, often enough for a backend to trust that nothing is allocated any more. */
static void branches(cmp *c)
{
    chain t[2];
    for (int b = 0; b < 2; b++) {
        t[b] = (chain){.M = b ? cmp_int(c, 1, 60) : cmp_int(c, 100, 400),
                       .D = 16 * cmp_int(c, 1, 24),
                       .F = 16 * cmp_int(c, 1, 40)};
        open_chain(c, &t[b]);
    }
    for (int round = 0; round < 5; round++) {
        snprintf(c->what, sizeof c->what, "%d and %d rows, round %d", t[0].M, t[1].M, round);
        for (int i = 0; i < 2; i++) {
            for (int b = 1; b >= 0; b--) {
                mica_branch(c->be[i], b);
                attention_side(c->be[i], i, false, &t[b]);
                gated_mlp(c->be[i], i, &t[b]);
                mlp(c->be[i], i, &t[b]);
            }
            mica_join(c->be[i]);
        }
    }
    /* x went through five MLPs: its error has added up. */
    for (int b = 0; b < 2; b++)
        cmp_result(c, &t[b].x, 1e-4, c->fp8 ? 2e-1 : 4e-2);
    for (int b = 0; b < 2; b++)
        close_chain(c, &t[b]);
}

/* One chain again and again under a key, with fresh input each time; the seventh time it also reads back,
 * which no recording can hold, under a key of its own. */
static void replays(cmp *c)
{
    chain t = {.M = cmp_int(c, 1, 150), .D = 16 * cmp_int(c, 1, 24), .F = 16 * cmp_int(c, 1, 40)};
    const uint64_t key[2] = {mica_replay_new_key(c->be[0]), mica_replay_new_key(c->be[1])};
    const uint64_t other[2] = {mica_replay_new_key(c->be[0]), mica_replay_new_key(c->be[1])};
    cmp_tensor fresh[9]; /* taken before: a recording wants the stacks as they were */
    for (int round = 0; round < 9; round++)
        fresh[round] = cmp_act(c, 1.0f, 2, CMP_SHAPE(t.M, t.D));
    open_chain(c, &t);
    for (int round = 0; round < 9; round++) {
        const bool reads = round > 5;
        float seen[2] = {0.0f, 0.0f};
        snprintf(c->what, sizeof c->what, "%d x %d, round %d", t.M, t.D, round);
        for (int i = 0; i < 2; i++) {
            mica_copy(c->be[i], &fresh[round].t[i], &t.x.t[i]);
            mica_status st = MICA_OK;
            mica_replay r = mica_replay_begin(reads ? other[i] : key[i]);
            while (mica_replay_more(c->be[i], &r, &st)) {
                const mica_tensor first = mica_tensor_1d(t.x.t[i].data, t.x.t[i].dtype, 1);
                attention_side(c->be[i], i, false, &t);
                if (reads)
                    mica_download_f32(c->be[i], &seen[i], &first);
                gated_mlp(c->be[i], i, &t);
                mlp(c->be[i], i, &t);
            }
        }
        compare_chain(c, false, &t);
        if (reads && seen[0] != seen[1])
            cmp_fail(c, "read back inside", (double)(seen[1] - seen[0]), 0.0);
    }
    close_chain(c, &t);
    if (mica_backend_is_queued(c->be[1]) &&
        mica_backend_get_counters(c->be[1]).replays < 5 * (uint64_t)++c->replayed)
        cmp_fail(c, "recordings run", (double)mica_backend_get_counters(c->be[1]).replays,
                 5.0 * c->replayed);
}

const cmp_op cmp_chain_ops[] = {
    {"operands", operands, 6}, {"branches", branches, 6}, {"replays", replays, 4}, {NULL, NULL, 0}};
