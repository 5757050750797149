/* backend_tokens.c - steps of models that write token by token: what a backend has no slot for.
 *
 *     race_draw, fetch, largest    without a slot memory is the host's: plain code
 *     post_norm_step               as a whole, where the slot takes it; else embedding, blocks, head: blocks by
 *                                  the slot, or mica_linear, mica_attention and norms, block by block, `by_row`
 *
 * On a device one kernel runs a step (cuda_step.cu): 24 blocks of width 512 are 151 MB of weights, 50 us of an
 * H100's memory, but some 300 launches. */
#include "backend/backend_ops.h"
#include "backend/backend_race.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static bool is_ids(const mica_tensor *t)
{
    return t->dtype == MICA_DTYPE_I32 && t->ndim == 1 && mica_tensor_is_contiguous(t);
}

static bool defect(mica_backend *be, const char *op, const mica_tensor *t)
{
    char text[96];
    mica_backend_fail(be, MICA_E_INTERNAL, "%s: %s does not fit", op,
                      mica_tensor_describe(t, text, sizeof text));
    return false;
}

static void keep_status(mica_backend *be, mica_status status)
{
    if (status != MICA_OK)
        mica_backend_fail(be, status, "the backend failed without a message");
}

/* ------------------------------------------------------------------- draws -- */

static bool check_race(mica_backend *be, const mica_race_args *a)
{
    if (mica_backend_failed(be))
        return false;
    if (a->logits_V.dtype != MICA_DTYPE_F32 || a->logits_V.shape_[0] < a->choices ||
        a->choices < 1 || a->race.top_k < 1)
        return defect(be, "race_draw", &a->logits_V);
    if (a->seen_V->dtype != MICA_DTYPE_F32 || a->seen_V->shape_[0] < a->choices)
        return defect(be, "race_draw", a->seen_V);
    return is_ids(a->drawn_2) && a->drawn_2->shape_[0] == 2 ? true
                                                            : defect(be, "race_draw", a->drawn_2);
}

static bool all_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static void draw_on_host(mica_backend *be, const mica_race_args *a)
{
    int32_t *drawn = a->drawn_2->data;
    float *logits = a->logits_V.data, *seen = a->seen_V->data;
    bool is_end = false;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor work = mica_state_tensor(be, MICA_POOL_STEP, 1, &a->choices);
    if (mica_backend_failed(be))
        return;
    drawn[0] = all_finite(logits, a->logits_V.shape_[0])
                   ? mica_race_next(a, logits, seen, work.data, &is_end)
                   : -1;
    drawn[1] = is_end;
    if (drawn[0] >= 0 && !is_end)
        seen[drawn[0]] = 1.0f;
    memcpy(be->fetched[a->ticket % MICA_FETCH_TICKETS], drawn, 2 * sizeof *drawn);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

void mica_race_draw(mica_backend *be, mica_race_args *rows, int count)
{
    for (int i = 0; i < count; i++) {
        rows[i].ticket = ++be->last_ticket;
        if (!check_race(be, &rows[i]))
            return;
    }
    mica_backend_settle(be);
    be->counters.ops++;
    if (count > MICA_RACE_ROWS) {
        mica_backend_fail(be, MICA_E_INTERNAL, "race_draw: %d rows at once", count);
    } else if (be->ops->race_draw && count > 0) {
        keep_status(be, be->ops->race_draw(be, rows, count, &be->error));
        if (be->profile)
            mica_profile_note(be, "race_draw");
    } else {
        for (int i = 0; i < count; i++)
            draw_on_host(be, &rows[i]);
    }
}

uint64_t mica_fetch_start(mica_backend *be, const mica_tensor *ids, int count)
{
    const uint64_t ticket = ++be->last_ticket;
    if (mica_backend_failed(be))
        return ticket;
    if (!is_ids(ids) || count < 1 || count > MICA_FETCH_MOST || count > ids->shape_[0])
        (void)defect(be, "fetch", ids);
    else if (be->ops->fetch_start)
        keep_status(be, be->ops->fetch_start(be, ticket, ids, count, &be->error));
    else
        memcpy(be->fetched[ticket % MICA_FETCH_TICKETS], ids->data,
               (size_t)count * sizeof(int32_t));
    return ticket;
}

void mica_fetch_finish(mica_backend *be, uint64_t ticket, int32_t *out, int count)
{
    memset(out, 0, (size_t)count * sizeof *out);
    if (mica_backend_failed(be))
        return;
    if (count < 1 || count > MICA_FETCH_MOST || ticket > be->last_ticket ||
        be->last_ticket - ticket >= MICA_FETCH_TICKETS)
        mica_backend_fail(be, MICA_E_INTERNAL, "fetch: ticket %" PRIu64 " of %" PRIu64, ticket,
                          be->last_ticket);
    else if (be->ops->fetch_finish)
        keep_status(be, be->ops->fetch_finish(be, ticket, out, count, &be->error));
    else
        memcpy(out, be->fetched[ticket % MICA_FETCH_TICKETS], (size_t)count * sizeof *out);
}

/* ----------------------------------------------------------------- largest -- */

static int32_t largest_of(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return -1;
        best = x[i] > x[best] ? i : best;
    }
    return (int32_t)best;
}

static void largest_by_device(mica_backend *be, const mica_tensor *logits, int32_t *ids)
{
    const int64_t L = logits->shape_[0];
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_tensor room = mica_state_tensor(be, MICA_POOL_STEP, 1, &L);
    mica_tensor places = mica_tensor_1d(room.data, MICA_DTYPE_I32, L);
    if (!mica_backend_failed(be))
        keep_status(be, be->ops->largest(be, logits, &places, &be->error));
    if (be->profile)
        mica_profile_note(be, "largest");
    for (int64_t l = 0; l < L && !mica_backend_failed(be); l += MICA_FETCH_MOST) {
        const int count = (int)MICA_MIN(L - l, (int64_t)MICA_FETCH_MOST);
        const mica_tensor part = mica_tensor_rows(&places, l, count);
        mica_fetch_finish(be, mica_fetch_start(be, &part, count), ids + l, count);
    }
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

void mica_largest(mica_backend *be, const mica_tensor *logits_LV, int32_t *ids)
{
    const mica_tensor *x = logits_LV;
    if (mica_backend_failed(be))
        return;
    if (x->ndim != 2 || x->dtype != MICA_DTYPE_F32 || !mica_tensor_is_contiguous(x) ||
        x->shape_[1] < 1 || x->shape_[1] >= INT32_MAX) {
        (void)defect(be, "largest", x);
        return;
    }
    mica_backend_settle(be);
    be->counters.ops++;
    if (be->ops->largest) {
        largest_by_device(be, x, ids);
        return;
    }
    for (int64_t l = 0; l < x->shape_[0]; l++)
        ids[l] = largest_of((const float *)x->data + l * x->shape_[1], x->shape_[1]);
}

/* ------------------------------------------------------------------ blocks -- */

static void linear(mica_backend *be, mica_weight *w, mica_weight *b, const mica_tensor *x,
                   mica_tensor *y, const mica_tensor *residual)
{
    mica_linear(
        be,
        &(mica_linear_args){
            .x_MD = x, .w_OD = w, .bias_O = b, .residual_MO = residual, .y_MO = y, .by_row = true});
}

/* Columns [first, first + heads * width) of row l as [1, heads, width]. */
static mica_tensor heads_of(const mica_tensor *x, int64_t l, int64_t first, int64_t heads,
                            int64_t width)
{
    const mica_tensor columns = mica_tensor_columns(x, first, heads * width);
    return mica_tensor_heads(&columns, l, 1, heads, width);
}

/* Row l: its keys and values into the cache of its sequence, its queries over all of them. */
static void attend(mica_backend *be, const mica_post_norm_args *a, int n, int64_t l,
                   const mica_tensor *qkv, const mica_tensor *out)
{
    const int64_t D = a->x_LD->shape_[1], H = a->heads, K = D / H, seen = a->seen[l];
    const mica_tensor *cache = a->caches[l][n];
    const mica_tensor q = heads_of(qkv, l, 0, H, K);
    const mica_tensor k = heads_of(qkv, l, D, H, K), v = heads_of(qkv, l, 2 * D, H, K);
    mica_tensor to_k = mica_tensor_rows(&cache[0], seen, 1);
    mica_tensor to_v = mica_tensor_rows(&cache[1], seen, 1);
    mica_tensor out_LHK = heads_of(out, l, 0, H, K);
    mica_copy(be, &k, &to_k);
    mica_copy(be, &v, &to_v);
    const mica_tensor keys = mica_tensor_rows(&cache[0], 0, seen + 1);
    const mica_tensor values = mica_tensor_rows(&cache[1], 0, seen + 1);
    mica_attention(be, &(mica_attention_args){.segments = 1,
                                              .q_LHK = {&q},
                                              .k_MGK = {&keys},
                                              .v_MGK = {&values},
                                              .out_LHK = {&out_LHK},
                                              .by_row = true});
}

static void run_block(mica_backend *be, const mica_post_norm_args *a, int n)
{
    const mica_post_norm_block *b = &a->blocks[n];
    mica_tensor *x = a->x_LD;
    const int64_t L = x->shape_[0], D = x->shape_[1], F = b->up_w->tensor.shape_[0];
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor qkv = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){L, 3 * D});
    mica_tensor out = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){L, D});
    mica_tensor hidden = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){L, F});
    if (b->qkv_w[1]) {
        for (int i = 0; i < 3; i++) {
            mica_tensor part = qkv;
            if (part.data)
                part.data = (char *)part.data + i * D * mica_dtype_get(part.dtype)->size;
            part.shape_[1] = D;
            linear(be, b->qkv_w[i], b->qkv_b[i], x, &part, NULL);
        }
    } else
        linear(be, b->qkv_w[0], b->qkv_b[0], x, &qkv, NULL);
    for (int64_t l = 0; l < L && !mica_backend_failed(be); l++)
        attend(be, a, n, l, &qkv, &out);
    linear(be, b->o_w, b->o_b, &out, x, x);
    mica_layer_norm_modulate(be, x, b->scale_1, b->shift_1, a->eps, x);
    linear(be, b->up_w, b->up_b, x, &hidden, NULL);
    mica_apply(be, MICA_FUNCTION_LEAKY_RELU, 0.0f, &hidden, NULL, &hidden); /* ReLU */
    linear(be, b->down_w, b->down_b, &hidden, x, x);
    mica_layer_norm_modulate(be, x, b->scale_2, b->shift_2, a->eps, x);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

/* ------------------------------------------------------------ whole steps -- */

static bool check_blocks(mica_backend *be, const mica_post_norm_args *a)
{
    const mica_tensor *x = a->x_LD;
    if (x->ndim != 2 || a->heads < 1 || x->shape_[1] % a->heads != 0)
        return defect(be, "post_norm_step", x);
    for (int64_t l = 0; l < x->shape_[0]; l++)
        for (int n = 0; n < a->count; n++)
            for (int half = 0; half < 2; half++) {
                const mica_tensor *t = &a->caches[l][n][half];
                if (t->ndim != 3 || t->shape_[0] <= a->seen[l] || t->shape_[1] != a->heads ||
                    t->shape_[1] * t->shape_[2] != x->shape_[1])
                    return defect(be, "post_norm_step", t);
            }
    return true;
}

static bool check_ends(mica_backend *be, const mica_post_norm_args *a)
{
    const mica_tensor *x = a->x_LD, *add = a->add_RD, *logits = a->logits_LV;
    const mica_weight *ends[] = {a->table_VD, a->head_VD};
    for (int i = 0; i < 2; i++)
        if (ends[i] && (ends[i]->tensor.ndim != 2 || ends[i]->tensor.shape_[1] != x->shape_[1]))
            return defect(be, "post_norm_step", &ends[i]->tensor);
    if (add && (add->ndim != 2 || add->dtype != MICA_DTYPE_F32 || add->shape_[1] != x->shape_[1]))
        return defect(be, "post_norm_step", add);
    for (int64_t l = 0; l < x->shape_[0] && a->table_VD; l++) {
        if (!is_ids(a->ids[l]) || a->ids[l]->shape_[0] < 1)
            return defect(be, "post_norm_step", a->ids[l]);
        if (add && (a->places[l] < 0 || a->places[l] >= add->shape_[0]))
            return defect(be, "post_norm_step", add);
    }
    return !a->head_VD || (logits->ndim == 2 && logits->dtype == MICA_DTYPE_F32 &&
                           logits->shape_[0] == x->shape_[0] &&
                           logits->shape_[1] == a->head_VD->tensor.shape_[0])
               ? true
               : defect(be, "post_norm_step", logits);
}

/* Rows whose ids the host knows. */
static void embed_on_host(mica_backend *be, mica_weight *w, const mica_tensor *id,
                          const mica_tensor *add, mica_tensor *y)
{
    const int32_t drawn = *(const int32_t *)id->data;
    const int32_t row = drawn < 0 || drawn >= w->tensor.shape_[0] ? 0 : drawn;
    mica_embed_rows(be, w, &row, 1, y);
    if (add)
        mica_add(be, y, add, y);
}

static void embed(mica_backend *be, const mica_post_norm_args *a)
{
    for (int64_t l = 0; l < a->x_LD->shape_[0] && !mica_backend_failed(be); l++) {
        const mica_tensor id = mica_tensor_rows(a->ids[l], 0, 1);
        const mica_tensor add =
            a->add_RD ? mica_tensor_rows(a->add_RD, a->places[l], 1) : (mica_tensor){0};
        mica_tensor row = mica_tensor_rows(a->x_LD, l, 1);
        if (!be->ops->embed_drawn) {
            embed_on_host(be, a->table_VD, &id, a->add_RD ? &add : NULL, &row);
            continue;
        }
        mica_backend_settle(be);
        be->counters.ops++;
        keep_status(be, be->ops->embed_drawn(be, a->table_VD, &id, a->add_RD ? &add : NULL, &row,
                                             &be->error));
        if (be->profile)
            mica_profile_note(be, "embed_drawn");
    }
}

static bool run_by_slot(mica_backend *be, const mica_post_norm_args *args)
{
    bool taken = false;
    if (!be->ops->post_norm_step || mica_backend_failed(be))
        return false;
    mica_backend_settle(be);
    be->counters.ops++;
    keep_status(be, be->ops->post_norm_step(be, args, &taken, &be->error));
    if (be->profile && taken)
        mica_profile_note(be, "post_norm_step");
    return taken;
}

void mica_post_norm_step(mica_backend *be, const mica_post_norm_args *args)
{
    mica_post_norm_args blocks = *args;
    const bool has_ends = args->table_VD || args->head_VD;
    if (mica_backend_failed(be) || !check_blocks(be, args) || !check_ends(be, args) ||
        args->x_LD->shape_[0] == 0 || run_by_slot(be, args))
        return;
    if (args->table_VD)
        embed(be, args);
    blocks.table_VD = blocks.head_VD = NULL;
    if (!has_ends || !run_by_slot(be, &blocks))
        for (int n = 0; n < args->count; n++)
            run_block(be, &blocks, n);
    if (args->head_VD)
        mica_linear(be, &(mica_linear_args){.x_MD = args->x_LD,
                                            .w_OD = args->head_VD,
                                            .y_MO = args->logits_LV,
                                            .by_row = true});
}
