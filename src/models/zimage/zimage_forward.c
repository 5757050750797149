/* zimage_forward.c - the single-stream pass; see zimage_forward.h.
 *
 *   latents ─x_in─► picture ─► noise refiners ────────────────┐
 *                                                             ├─► layers ─► final layer ─► out
 *   text ─norm─cap_in─► caption ─► context refiners ──────────┘   (picture rows only)
 *          └────── once per run, condition_build ──────┘
 *
 *   block   a = RMS(x) * w1 * (1 + scale);  q k v = a W;  RMS norm of q, k;  RoPE;  attention
 *           x += tanh(gate) * RMS(attention W) * w2
 *           b = RMS(x) * w3 * (1 + scale);  x += tanh(gate) * RMS((silu(b W1) * b W3) W2) * w4
 *
 * Reference: diffusers transformer_z_image.py, ZImageTransformer2DModel.forward,
 * ZImageTransformerBlock.forward, ZSingleStreamAttnProcessor. What depends on the timestep alone comes
 * from zimage_modulation.c.
 *
 * All scratch is taken from the step pool between a mark and its release, in the same order
 * and sizes every time: after the first step nothing is allocated. */
#include "models/zimage/zimage_forward.h"

/* Rows that go through the MLP at a time, about, with f32 activations (twice as many of half the size):
 * two hidden layers of 2,048 x 10,240 are 168 MB, and each piece still reads 236 MB of weights for
 * 483 GFLOP of work. */
#define MLP_ROWS 2048

#define QK_NORM_EPS  1e-5f /* not norm_eps: the reference's attention has its own */
#define OUT_NORM_EPS 1e-6f

/* A run of rows of one item. */
typedef struct segment {
    int64_t first, rows;
    int64_t keys; /* rows that attention looks at; those behind them are a trace's padding */
    const mica_rope_table *rope;
} segment;

typedef struct item {
    segment segments[2];
    int count;
} item;

#define MAX_ITEMS 128 /* 64 pictures with guidance */

/* One block at work on a set of rows. */
typedef struct block {
    mica_zimage_weights *w;
    mica_zimage_block *b;
    mica_backend *be;
    const mica_tap_sink *taps; /* NULL: no probes of this block */
    const item *items;
    int item_count;
    const mica_tensor *mod; /* MICA_ZIMAGE_MOD_PARTS vectors; NULL: not modulated */
    const char *stack;      /* "layers": what probes are called */
    int n;
} block;

/* ------------------------------------------------------------------- probes -- */

/* Rows of every item, segments behind each other, as [items, L, D]. All items have the same
 * number of rows when there are probes. */
static void probe(const block *b, const mica_tensor *x_LD, const char *suffix)
{
    const item *it = b->items;
    int64_t rows = 0, at = 0;
    if (!mica_tap_wants(b->taps, "probe.%s.%d%s", b->stack, b->n, suffix))
        return;
    for (int s = 0; s < it[0].count; s++)
        rows += it[0].segments[s].rows;
    const int64_t D = x_LD->shape_[1], shape[] = {b->item_count, rows, D};
    const mica_pool_mark mark = mica_pool_get_mark(b->be, MICA_POOL_STEP);
    mica_tensor all =
        mica_act_tensor(b->be, MICA_POOL_STEP, 2, (const int64_t[]){b->item_count * rows, D});
    for (int i = 0; i < b->item_count; i++)
        for (int s = 0; s < it[i].count; s++) {
            const segment *g = &it[i].segments[s];
            const mica_tensor from = mica_tensor_rows(x_LD, g->first, g->rows);
            mica_tensor to = mica_tensor_rows(&all, at, g->rows);
            mica_copy(b->be, &from, &to);
            at += g->rows;
        }
    mica_tap(b->taps, b->be, &all, 3, shape, "probe.%s.%d%s", b->stack, b->n, suffix);
    mica_pool_release(b->be, MICA_POOL_STEP, mark);
}

/* ---------------------------------------------------------------- attention -- */

static mica_tensor heads(const block *b, const mica_tensor *x_LD, int64_t first, int64_t count)
{
    const mica_zimage_config *c = &b->w->config;
    return mica_tensor_heads(x_LD, first, count, c->heads, c->head_dim);
}

/* Norm of queries and keys and rotation, in place. */
static void norm_and_rotate(const block *b, mica_tensor *q_LHK, mica_tensor *k_LHK,
                            const mica_rope_table *rope)
{
    mica_qk_norm_rope(b->be, &(mica_qk_norm_rope_args){.x_LHK = q_LHK,
                                                       .norm_K = &b->b->norm_q,
                                                       .also_LHK = k_LHK,
                                                       .also_norm_K = &b->b->norm_k,
                                                       .eps = QK_NORM_EPS,
                                                       .cos_Lk = &rope->cos_Lk,
                                                       .sin_Lk = &rope->sin_Lk,
                                                       .layout = MICA_ROPE_INTERLEAVED});
}

/* q, k, v: projections of all rows; out: attention's result. */
static void attend_item(const block *b, const item *it, const mica_tensor *q_LD,
                        const mica_tensor *k_LD, const mica_tensor *v_LD, const mica_tensor *out_LD)
{
    mica_tensor q[2], k[2], v[2], out[2];
    mica_attention_args args = {.segments = it->count};
    for (int s = 0; s < it->count; s++) {
        const segment *g = &it->segments[s];
        /* Rows behind the keys are zero, normed or not. */
        mica_tensor turned = heads(b, q_LD, g->first, g->keys);
        q[s] = heads(b, q_LD, g->first, g->rows);
        k[s] = heads(b, k_LD, g->first, g->keys);
        v[s] = heads(b, v_LD, g->first, g->keys);
        out[s] = heads(b, out_LD, g->first, g->rows);
        norm_and_rotate(b, &turned, &k[s], g->rope);
        args.q_LHK[s] = &q[s];
        args.k_MGK[s] = &k[s];
        args.v_MGK[s] = &v[s];
        args.out_LHK[s] = &out[s];
    }
    mica_attention(b->be, &args);
}

static const mica_tensor *vector(const block *b, int part)
{
    return b->mod ? &b->mod[part] : NULL;
}

static void run_attention(const block *b, mica_tensor *x_LD)
{
    mica_backend *be = b->be;
    const float eps = (float)b->w->config.eps;
    mica_tensor work_LD = mica_act_tensor(be, MICA_POOL_STEP, 2, x_LD->shape_);
    mica_tensor out_LD = mica_act_tensor(be, MICA_POOL_STEP, 2, x_LD->shape_);
    const int64_t shape[] = {x_LD->shape_[0], 3 * x_LD->shape_[1]};
    const mica_tensor qkv_LN = mica_act_tensor(be, MICA_POOL_STEP, 2, shape);
    mica_tensor y[3]; /* q, k, v */
    mica_nn_next_feeds(be, &b->b->q);
    mica_rms_norm_modulate(be, x_LD, &b->b->attn_norm1, vector(b, MICA_ZIMAGE_ATTN_SCALE), eps,
                           &work_LD);
    mica_nn_linears_run(be, (mica_nn_linear *const[]){&b->b->q, &b->b->k, &b->b->v}, 3, &work_LD,
                        &qkv_LN, y);
    for (int i = 0; i < b->item_count; i++)
        attend_item(b, &b->items[i], &y[0], &y[1], &y[2], &work_LD);
    mica_nn_linear_run(be, &b->b->out, &work_LD, MICA_ACT_NONE, &out_LD);
    probe(b, &out_LD, ".attention");
    mica_rms_norm_gated(be, &out_LD, &b->b->attn_norm2, vector(b, MICA_ZIMAGE_ATTN_GATE), eps,
                        x_LD);
}

/* ---------------------------------------------------------------------- MLP -- */

/* Two hidden layers of one piece; the second becomes the piece's result. */
static void run_mlp_piece(const block *b, const mica_tensor *x_LD, mica_tensor *y_LD,
                          mica_tensor *gate_LF, mica_tensor *up_LF)
{
    mica_backend *be = b->be;
    mica_nn_next_feeds(be, &b->b->mlp_gate);
    mica_rms_norm_modulate(be, x_LD, &b->b->ffn_norm1, vector(b, MICA_ZIMAGE_MLP_SCALE),
                           (float)b->w->config.eps, y_LD);
    mica_nn_next_feeds(be, &b->b->mlp_down);
    mica_nn_swiglu_run(be, (mica_nn_linear *const[]){&b->b->mlp_gate, &b->b->mlp_up}, 2, y_LD,
                       (const mica_tensor[]){*gate_LF, *up_LF}, gate_LF);
    mica_nn_linear_run(be, &b->b->mlp_down, gate_LF, MICA_ACT_NONE, y_LD);
}

static void run_mlp(const block *b, mica_tensor *x_LD)
{
    const int64_t L = x_LD->shape_[0];
    const int64_t most = mica_nn_piece(L, MLP_ROWS * 4 / mica_act_size(b->be));
    const int64_t hidden[] = {most, b->w->config.ffn};
    const mica_tensor y_all = mica_act_tensor(b->be, MICA_POOL_STEP, 2, x_LD->shape_);
    const mica_tensor gate = mica_act_tensor(b->be, MICA_POOL_STEP, 2, hidden);
    const mica_tensor up = mica_act_tensor(b->be, MICA_POOL_STEP, 2, hidden);
    for (int64_t first = 0; first < L; first += most) {
        const int64_t count = MICA_MIN(most, L - first);
        const mica_tensor x = mica_tensor_rows(x_LD, first, count);
        mica_tensor y = mica_tensor_rows(&y_all, first, count);
        mica_tensor gate_LF = mica_tensor_rows(&gate, 0, count);
        mica_tensor up_LF = mica_tensor_rows(&up, 0, count);
        run_mlp_piece(b, &x, &y, &gate_LF, &up_LF);
    }
    probe(b, &y_all, ".feed_forward");
    mica_rms_norm_gated(b->be, &y_all, &b->b->ffn_norm2, vector(b, MICA_ZIMAGE_MLP_GATE),
                        (float)b->w->config.eps, x_LD);
}

static void run_block(const block *b, mica_tensor *x_LD)
{
    const mica_pool_mark mark = mica_pool_get_mark(b->be, MICA_POOL_STEP);
    run_attention(b, x_LD);
    mica_pool_release(b->be, MICA_POOL_STEP, mark);
    run_mlp(b, x_LD);
    mica_pool_release(b->be, MICA_POOL_STEP, mark);
    probe(b, x_LD, "");
}

/* ------------------------------------------------------------------- padding -- */

/* `count` rows from `first` on become a learned token. */
static void write_padding(mica_backend *be, mica_weight *token_1D, const mica_tensor *x_LD,
                          int64_t first, int64_t count)
{
    static const int32_t ids[MICA_ZIMAGE_GROUP] = {0};
    mica_tensor rows = mica_tensor_rows(x_LD, first, count);
    mica_embed_rows(be, token_1D, ids, count, &rows);
}

/* What the reference's linear gives for padding: it repeats the last token there. */
static void repeat_last(mica_backend *be, const mica_tensor *x_LD, int64_t first, int64_t count)
{
    const mica_tensor last = mica_tensor_rows(x_LD, first - 1, 1);
    for (int64_t i = 0; i < count; i++) {
        mica_tensor row = mica_tensor_rows(x_LD, first + i, 1);
        mica_copy(be, &last, &row);
    }
}

/* ------------------------------------------------------------------- caption -- */

static mica_status refine_caption(mica_zimage_weights *w, mica_backend *be, mica_run *run,
                                  const mica_tap_sink *taps, mica_tensor *x_TD, mica_err *err)
{
    const int refiners = (int)w->config.refiners;
    const int64_t T = x_TD->shape_[0];
    mica_rope_table rope;
    MICA_TRY(mica_zimage_rope_caption(be, MICA_POOL_STEP, &w->config, T, &rope, err));
    const item whole = {.segments = {{0, T, T, &rope}}, .count = 1};
    block b = {.w = w,
               .be = be,
               .taps = taps,
               .items = &whole,
               .item_count = 1,
               .stack = "context_refiner"};
    for (b.n = 0; b.n < refiners; b.n++) {
        b.b = &w->context[b.n];
        run_block(&b, x_TD);
        MICA_TRY(mica_run_block(run, be, b.n + 1, refiners, err));
    }
    return mica_backend_check(be, err);
}

mica_status mica_zimage_condition_build(mica_zimage_weights *w, mica_backend *be, mica_run *run,
                                        bool probes, const mica_tensor *embeds_TE,
                                        mica_zimage_condition *out, mica_err *err)
{
    const mica_tap_sink *taps = probes ? run->taps : NULL;
    const int64_t tokens = embeds_TE->shape_[0], T = mica_zimage_padded(tokens);
    const int64_t shape[] = {T, w->config.width};
    out->T = T;
    out->cap_TD = mica_act_tensor(be, MICA_POOL_SESSION, 2, shape);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor norm_TE = mica_act_tensor(be, MICA_POOL_STEP, 2, embeds_TE->shape_);
    mica_tensor x_TD = mica_tensor_rows(&out->cap_TD, 0, tokens);
    mica_rms_norm(be, embeds_TE, &w->cap_norm, (float)w->config.eps, &norm_TE);
    mica_nn_linear_run(be, &w->cap_in, &norm_TE, MICA_ACT_NONE, &x_TD);
    if (mica_tap_wants(taps, "probe.cap_embedder")) {
        repeat_last(be, &out->cap_TD, tokens, T - tokens);
        mica_tap(taps, be, &out->cap_TD, 0, NULL, "probe.cap_embedder");
    }
    write_padding(be, &w->cap_pad, &out->cap_TD, tokens, T - tokens);
    const mica_status st = refine_caption(w, be, run, taps, &out->cap_TD, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

/* ------------------------------------------------------------------ the pass -- */

/* The rows of a pass. */
typedef struct layout {
    item items[MAX_ITEMS];    /* picture and caption */
    item pictures[MAX_ITEMS]; /* picture alone, for the noise refiners */
    int count;
    int64_t padded;       /* rows of a picture */
    int64_t picture_rows; /* of all items */
    int64_t rows;         /* of everything */
} layout;

static void lay_out(const mica_zimage_pass *p, layout *l)
{
    int64_t longest = 0;
    l->count = p->condition_count * p->pictures;
    l->padded = mica_zimage_padded(p->P);
    l->rows = l->picture_rows = l->count * l->padded;
    for (int c = 0; c < p->condition_count; c++)
        longest = MICA_MAX(longest, p->conditions[c]->T);
    for (int i = 0; i < l->count; i++) {
        const mica_zimage_condition *c = p->conditions[i / p->pictures];
        /* The reference pads captions to the longest; its padding shows in the probes. */
        const int64_t rows = p->probes ? longest : c->T;
        const segment picture = {i * l->padded, l->padded, l->padded, &c->picture};
        l->pictures[i] = (item){.segments = {picture}, .count = 1};
        l->items[i] = (item){.segments = {picture, {l->rows, rows, c->T, &c->caption}}, .count = 2};
        l->rows += rows;
    }
}

/* x_in once per picture; the second condition starts from the same rows. */
static void enter_pictures(const mica_zimage_pass *p, const layout *l,
                           const mica_tensor *latents_PC, mica_tensor *x_LD)
{
    mica_tensor in_PC = mica_act_tensor(p->be, MICA_POOL_STEP, 2, latents_PC->shape_);
    mica_copy(p->be, latents_PC, &in_PC);
    for (int i = 0; i < l->count; i++) {
        mica_tensor rows = mica_tensor_rows(x_LD, i * l->padded, p->P);
        if (i < p->pictures) {
            const mica_tensor in = mica_tensor_rows(&in_PC, i * p->P, p->P);
            mica_nn_linear_run(p->be, &p->w->x_in, &in, MICA_ACT_NONE, &rows);
        } else {
            const mica_tensor same = mica_tensor_rows(x_LD, (i - p->pictures) * l->padded, p->P);
            mica_copy(p->be, &same, &rows);
        }
    }
    if (p->probes && mica_tap_wants(p->run->taps, "probe.all_x_embedder.2-1")) {
        for (int i = 0; i < l->count; i++)
            repeat_last(p->be, x_LD, i * l->padded + p->P, l->padded - p->P);
        const mica_tensor all = mica_tensor_rows(x_LD, 0, l->picture_rows);
        mica_tap(p->run->taps, p->be, &all, 0, NULL, "probe.all_x_embedder.2-1");
    }
    for (int i = 0; i < l->count; i++)
        write_padding(p->be, &p->w->x_pad, x_LD, i * l->padded + p->P, l->padded - p->P);
}

/* Rows [first, + count) become zero: made from the row before them, which is finite. */
static void write_zeros(mica_backend *be, const mica_tensor *x_LD, int64_t first, int64_t count)
{
    if (count < 1)
        return;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_tensor last = mica_tensor_rows(x_LD, first - 1, 1);
    mica_tensor zero = mica_state_tensor(be, MICA_POOL_STEP, 2, last.shape_);
    mica_copy(be, &last, &zero);
    mica_linear_combination(be, 1, (const float[]){0.0f}, (const mica_tensor *[]){&zero}, &zero);
    for (int64_t r = 0; r < count; r++) {
        mica_tensor row = mica_tensor_rows(x_LD, first + r, 1);
        mica_copy(be, &zero, &row);
    }
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

static void enter_captions(const mica_zimage_pass *p, const layout *l, mica_tensor *x_LD)
{
    for (int i = 0; i < l->count; i++) {
        const segment *g = &l->items[i].segments[1];
        mica_tensor rows = mica_tensor_rows(x_LD, g->first, g->keys);
        mica_copy(p->be, &p->conditions[i / p->pictures]->cap_TD, &rows);
        write_zeros(p->be, x_LD, g->first + g->keys, g->rows - g->keys);
    }
}

static void prefetch_block(const mica_zimage_pass *p, int n)
{
    mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS];
    /* Behind the last block comes the first one of the next step. */
    mica_zimage_block *next = mica_zimage_step_block(p->w, n % mica_zimage_step_blocks(p->w));
    mica_backend_prefetch_weights(p->be, list, mica_zimage_list_block(next, list));
}

/* What a pass needs of a block's weights it has had; the next step takes them from the system's file
 * cache. */
static void release_block(const mica_zimage_pass *p, int n)
{
    mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS];
    if (!p->keeps_pages)
        mica_backend_release_pages(p->be, list,
                                   mica_zimage_list_block(mica_zimage_step_block(p->w, n), list));
}

/* Step block n on x_LD. */
static mica_status run_step_block(const mica_zimage_pass *p, int n, int e, const item *items,
                                  int count, mica_tensor *x_LD, mica_err *err)
{
    const int refiners = (int)p->w->config.refiners;
    const bool refines = n < refiners;
    mica_tensor mod[MICA_ZIMAGE_MOD_PARTS];
    for (int part = 0; part < MICA_ZIMAGE_MOD_PARTS; part++)
        mod[part] = mica_zimage_modulation_row(p->mod, n, e, part);
    block b = {.w = p->w,
               .b = mica_zimage_step_block(p->w, n),
               .be = p->be,
               .items = items,
               .item_count = count,
               .mod = mod,
               .stack = refines ? "noise_refiner" : "layers",
               .n = refines ? n : n - refiners};
    /* Two blocks of each kind tell a port what it needs to know; all would make a trace of gigabytes. */
    b.taps = p->probes && b.n < 2 ? p->run->taps : NULL;
    prefetch_block(p, n + 1);
    run_block(&b, x_LD);
    release_block(p, n);
    return mica_run_block(p->run, p->be, n + 1, mica_zimage_step_blocks(p->w), err);
}

/* With guidance both conditions refine the same picture at the same places when their captions are
 * equally long: then once is enough. */
static bool refines_once(const mica_zimage_pass *p)
{
    return p->condition_count == 2 && !p->probes && p->conditions[0]->T == p->conditions[1]->T;
}

static mica_status refine_pictures(const mica_zimage_pass *p, const layout *l, int e,
                                   mica_tensor *x_LD, mica_err *err)
{
    const bool once = refines_once(p);
    const int count = once ? p->pictures : l->count;
    const int64_t rows = count * l->padded;
    mica_tensor x_PD = mica_tensor_rows(x_LD, 0, rows);
    for (int n = 0; n < (int)p->w->config.refiners; n++)
        MICA_TRY(run_step_block(p, n, e, l->pictures, count, &x_PD, err));
    if (once) {
        mica_tensor second = mica_tensor_rows(x_LD, rows, rows);
        mica_copy(p->be, &x_PD, &second);
    }
    return MICA_OK;
}

/* The final layer on `rows` rows from `first` on. */
static void leave_rows(const mica_zimage_pass *p, int e, const mica_tensor *x_LD, int64_t first,
                       int64_t rows, mica_tensor *out_PC)
{
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    const mica_tensor x = mica_tensor_rows(x_LD, first, rows);
    const mica_tensor scale = mica_zimage_modulation_out(p->mod, e);
    mica_tensor norm = mica_act_tensor(p->be, MICA_POOL_STEP, 2, x.shape_);
    mica_layer_norm_modulate(p->be, &x, &scale, NULL, OUT_NORM_EPS, &norm);
    mica_nn_linear_run(p->be, &p->w->out, &norm, MICA_ACT_NONE, out_PC);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
}

static void leave(const mica_zimage_pass *p, const layout *l, int e, const mica_tensor *x_LD,
                  mica_tensor *out_PC)
{
    const int64_t whole[] = {x_LD->shape_[0], p->w->config.patch_width};
    /* Without padding the rows of all items lie together. */
    const int runs = l->padded == p->P ? 1 : l->count;
    const int64_t rows = l->count * p->P / runs;
    if (p->probes && l->count == 1 && mica_tap_wants(p->run->taps, "probe.all_final_layer.2-1")) {
        mica_tensor all = mica_act_tensor(p->be, MICA_POOL_STEP, 2, whole);
        leave_rows(p, e, x_LD, 0, whole[0], &all);
        mica_tap(p->run->taps, p->be, &all, 3, (const int64_t[]){1, whole[0], whole[1]},
                 "probe.all_final_layer.2-1");
    }
    for (int i = 0; i < runs; i++) {
        mica_tensor out = mica_tensor_rows(out_PC, i * rows, rows);
        leave_rows(p, e, x_LD, i * l->padded, rows, &out);
    }
}

static mica_status run_blocks(const mica_zimage_pass *p, int e, const mica_tensor *latents_PC,
                              mica_tensor *out_PC, mica_err *err)
{
    layout l;
    lay_out(p, &l);
    const int64_t shape[] = {l.rows, p->w->config.width};
    mica_tensor x_LD = mica_act_tensor(p->be, MICA_POOL_STEP, 2, shape);
    enter_pictures(p, &l, latents_PC, &x_LD);
    MICA_TRY(refine_pictures(p, &l, e, &x_LD, err));
    enter_captions(p, &l, &x_LD);
    for (int n = (int)p->w->config.refiners; n < mica_zimage_step_blocks(p->w); n++)
        MICA_TRY(run_step_block(p, n, e, l.items, l.count, &x_LD, err));
    leave(p, &l, e, &x_LD, out_PC);
    return mica_backend_check(p->be, err);
}

mica_status mica_zimage_forward(mica_zimage_pass *p, int e, const mica_tensor *latents_PC,
                                mica_tensor *out_PC, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    const mica_backend_counters before = mica_backend_get_counters(p->be);
    const mica_status st = run_blocks(p, e, latents_PC, out_PC, err);
    const mica_backend_counters after = mica_backend_get_counters(p->be);
    p->allocations += after.allocations - before.allocations;
    p->waits += after.waits - before.waits;
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
    return st;
}
