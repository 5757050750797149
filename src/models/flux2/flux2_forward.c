/* flux2_forward.c - the transformer pass; see flux2_forward.h.
 *
 *   latents ─x_embedder─► img ┐                                     ┌► norm_out ─► proj_out ─► velocity
 *                             ├─► doubles ─► [txt; img] ─► singles ─┤
 *   text features ──────► txt ┘                                     └► (dropped)
 *
 *   double  each stream alone:  a = (1 + scale) * LayerNorm(x) + shift;  q k v = a W;  RMS norm of q, k; RoPE
 *           both together:      softmax([q_txt; q_img] [k_txt; k_img]^T) [v_txt; v_img]
 *           each stream alone:  x += gate * out W;  x += gate * (silu(g) * u) W,  g u = (modulated x) W
 *   single  one stream:         a = modulated x;  q k v g u = a W
 *                               x += gate * [attention(q, k, v); silu(g) * u] W
 *
 * Reference: diffusers transformer_flux2.py, Flux2Transformer2DModel.forward, Flux2TransformerBlock,
 * Flux2SingleTransformerBlock, _flux2_kv_causal_attention. Modulation is the same in every block.
 *
 * All scratch is taken from the step pool between a mark and its release, in the same order
 * and sizes every time: after the first step nothing is allocated. */
#include "models/flux2/flux2_forward.h"

#include <stdio.h>

#define NORM_EPS 1e-6f
#define PROBED   2 /* blocks of each kind whose taps are told */

enum { TXT = 0, IMG = 1 }; /* the order of attention's segments */

/* One stream: its rows of x and of the tensors that a block makes of them. */
typedef struct side {
    mica_flux2_stream *w; /* double blocks */
    mica_tensor x_LD;
    mica_tensor work_LD; /* modulated input of q, k, v; then attention's output */
    mica_tensor q_LD, k_LD, v_LD;
    mica_weight *norm_q, *norm_k;
    mica_tensor mod[6]; /* shift, scale, gate of attention, then of the MLP */
    const mica_rope_table *rope;
    int64_t rows; /* of one item */
} side;

typedef struct state {
    mica_flux2_pass *pass;
    mica_tensor x_LD; /* all rows */
    side sides[2];
    mica_tensor mix[3]; /* shift, scale, gate of single blocks */
    int block;          /* of all */
} state;

mica_status mica_flux2_kv_init(mica_flux2_kv *kv, const mica_flux2_config *c, mica_backend *be,
                               mica_arena *arena, int64_t R, mica_err *err)
{
    const int blocks = mica_flux2_block_count(c);
    const int64_t shape[] = {R, c->width};
    *kv = (mica_flux2_kv){.R = R};
    kv->k_RD = mica_arena_calloc(arena, (size_t)blocks, sizeof *kv->k_RD);
    kv->v_RD = mica_arena_calloc(arena, (size_t)blocks, sizeof *kv->v_RD);
    if (!kv->k_RD || !kv->v_RD)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for keys of %d blocks", blocks);
    for (int n = 0; n < blocks; n++) {
        kv->k_RD[n] = mica_act_tensor(be, MICA_POOL_SESSION, 2, shape);
        kv->v_RD[n] = mica_act_tensor(be, MICA_POOL_SESSION, 2, shape);
    }
    return mica_backend_check(be, err);
}

/* Few rows beside many: the text's operations are queued first, next to the picture's. */
static const int BRANCH_OF[2] = {[TXT] = 1, [IMG] = 0};

static mica_tensor scratch(const state *s, int64_t rows, int64_t columns)
{
    return mica_act_tensor(s->pass->be, MICA_POOL_STEP, 2, (const int64_t[]){rows, columns});
}

/* Rows of L that go through an MLP at a time. */
static int64_t piece_of(const mica_flux2_pass *p, int64_t L)
{
    return mica_nn_piece(L, MICA_FLUX2_MLP_ROWS * 4 / mica_act_size(p->be));
}

/* ------------------------------------------------------------------- probes -- */

/* Rows of item 0 as [1, L, D]. */
static void probe_side(const state *s, int which, const char *name)
{
    const mica_flux2_pass *p = s->pass;
    const int64_t L = s->sides[which].rows;
    if (!p->probes || L == 0)
        return;
    const mica_tensor rows = mica_tensor_rows(&s->sides[which].x_LD, 0, L);
    mica_tap(p->run->taps, p->be, &rows, 3, (const int64_t[]){1, L, p->w->config.width}, "%s",
             name);
}

static void probe_double(const state *s)
{
    char name[64];
    for (int which = 0; which < 2 && s->block < PROBED; which++) {
        snprintf(name, sizeof name, "probe.transformer_blocks.%d.%d", s->block, which);
        probe_side(s, which, name);
    }
}

/* Text and picture rows of item 0 behind each other. */
static void probe_single(const state *s)
{
    const mica_flux2_pass *p = s->pass;
    const int n = s->block - (int)p->w->config.layers;
    const int64_t T = s->sides[TXT].rows, S = s->sides[IMG].rows, D = p->w->config.width;
    if (!p->probes || n >= PROBED ||
        !mica_tap_wants(p->run->taps, "probe.single_transformer_blocks.%d", n))
        return;
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    const mica_tensor both = scratch(s, T + S, D);
    for (int which = 0; which < 2; which++) {
        const mica_tensor from = mica_tensor_rows(&s->sides[which].x_LD, 0, s->sides[which].rows);
        mica_tensor to = mica_tensor_rows(&both, which == TXT ? 0 : T, s->sides[which].rows);
        mica_copy(p->be, &from, &to);
    }
    mica_tap(p->run->taps, p->be, &both, 3, (const int64_t[]){1, T + S, D},
             "probe.single_transformer_blocks.%d", n);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
}

/* ---------------------------------------------------------------- attention -- */

static mica_tensor heads(const state *s, const mica_tensor *x_LD, int64_t first, int64_t count)
{
    const mica_flux2_config *c = &s->pass->w->config;
    return mica_tensor_heads(x_LD, first, count, c->heads, c->head_dim);
}

static void norm_and_rotate(const state *s, const side *sd, mica_tensor *q_LHK, mica_tensor *k_LHK)
{
    mica_qk_norm_rope(s->pass->be, &(mica_qk_norm_rope_args){.x_LHK = q_LHK,
                                                             .norm_K = sd->norm_q,
                                                             .also_LHK = k_LHK,
                                                             .also_norm_K = sd->norm_k,
                                                             .eps = NORM_EPS,
                                                             .cos_Lk = &sd->rope->cos_Lk,
                                                             .sin_Lk = &sd->rope->sin_Lk,
                                                             .layout = MICA_ROPE_INTERLEAVED});
}

/* Own rows, then those of the references, in one tensor: attention takes two segments, and the
 * text is the other. */
static mica_tensor join(const state *s, const mica_tensor *own_MGK, const mica_tensor *kept_RD)
{
    const int64_t own = own_MGK->shape_[0], R = kept_RD->shape_[0];
    const mica_tensor both = scratch(s, own + R, s->pass->w->config.width);
    mica_tensor all = heads(s, &both, 0, own + R);
    mica_tensor head = mica_tensor_rows(&all, 0, own), tail = mica_tensor_rows(&all, own, R);
    const mica_tensor kept = heads(s, kept_RD, 0, R);
    mica_copy(s->pass->be, own_MGK, &head);
    mica_copy(s->pass->be, &kept, &tail);
    return all;
}

static void keep(const state *s, const mica_tensor *k_MGK, const mica_tensor *v_MGK)
{
    const mica_flux2_kv *kv = s->pass->kv;
    mica_tensor k = heads(s, &kv->k_RD[s->block], 0, kv->R);
    mica_tensor v = heads(s, &kv->v_RD[s->block], 0, kv->R);
    mica_copy(s->pass->be, k_MGK, &k);
    mica_copy(s->pass->be, v_MGK, &v);
}

static void rotate(const state *s, const side *sd)
{
    const mica_flux2_pass *p = s->pass;
    for (int item = 0; item < p->condition_count * p->pictures && sd->rows > 0; item++) {
        mica_tensor q = heads(s, &sd->q_LD, item * sd->rows, sd->rows);
        mica_tensor k = heads(s, &sd->k_LD, item * sd->rows, sd->rows);
        norm_and_rotate(s, sd, &q, &k);
    }
}

static void attend_item(state *s, int item)
{
    const mica_flux2_pass *p = s->pass;
    mica_tensor q[2], k[2], v[2], out[2];
    mica_attention_args args = {0};
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    for (int i = 0; i < 2; i++) {
        side *sd = &s->sides[i];
        const int64_t first = item * sd->rows;
        if (sd->rows == 0) /* no text in a pass over references */
            continue;
        q[i] = heads(s, &sd->q_LD, first, sd->rows);
        k[i] = heads(s, &sd->k_LD, first, sd->rows);
        v[i] = heads(s, &sd->v_LD, first, sd->rows);
        out[i] = heads(s, &sd->work_LD, first, sd->rows);
        if (p->fills_kv) {
            keep(s, &k[i], &v[i]);
        } else if (p->kv && i == IMG) {
            k[i] = join(s, &k[i], &p->kv->k_RD[s->block]);
            v[i] = join(s, &v[i], &p->kv->v_RD[s->block]);
        }
        args.q_LHK[args.segments] = &q[i];
        args.k_MGK[args.segments] = &k[i];
        args.v_MGK[args.segments] = &v[i];
        args.out_LHK[args.segments++] = &out[i];
    }
    mica_attention(p->be, &args);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
}

static void attend(state *s)
{
    const mica_flux2_pass *p = s->pass;
    for (int item = 0; item < p->condition_count * p->pictures; item++)
        attend_item(s, item);
}

/* ------------------------------------------------------------- double blocks -- */

/* qkv_LN: where q, k and v of these rows lie side by side. */
static void project_qkv(const state *s, side *sd, const mica_tensor *qkv_LN)
{
    mica_backend *be = s->pass->be;
    mica_tensor y[3];
    mica_next_is_operand(be);
    mica_layer_norm_modulate(be, &sd->x_LD, &sd->mod[MICA_FLUX2_SCALE], &sd->mod[MICA_FLUX2_SHIFT],
                             NORM_EPS, &sd->work_LD);
    mica_nn_linears_run(be, (mica_nn_linear *const[]){&sd->w->q, &sd->w->k, &sd->w->v}, 3,
                        &sd->work_LD, qkv_LN, y);
    sd->q_LD = y[0];
    sd->k_LD = y[1];
    sd->v_LD = y[2];
}

static void run_mlp(const state *s, side *sd)
{
    mica_backend *be = s->pass->be;
    const int64_t L = sd->x_LD.shape_[0], most = piece_of(s->pass, L);
    const int64_t D = s->pass->w->config.width, F = s->pass->w->config.ffn;
    const mica_tensor norm = scratch(s, most, D), hidden = scratch(s, most, 2 * F);
    for (int64_t first = 0; first < L; first += most) {
        const int64_t count = MICA_MIN(most, L - first);
        mica_tensor x_LD = mica_tensor_rows(&sd->x_LD, first, count);
        mica_tensor norm_LD = mica_tensor_rows(&norm, 0, count);
        mica_tensor hidden_LG = mica_tensor_rows(&hidden, 0, count);
        mica_tensor gate_LF = mica_tensor_columns(&hidden_LG, 0, F);
        mica_next_is_operand(be);
        mica_layer_norm_modulate(be, &x_LD, &sd->mod[3 + MICA_FLUX2_SCALE],
                                 &sd->mod[3 + MICA_FLUX2_SHIFT], NORM_EPS, &norm_LD);
        mica_next_is_operand(be);
        mica_nn_swiglu_run(be, (mica_nn_linear *const[]){&sd->w->mlp_in}, 1, &norm_LD, &hidden_LG,
                           &gate_LF);
        mica_nn_linear_gated(be, &sd->w->mlp_out, &gate_LF, &sd->mod[3 + MICA_FLUX2_GATE], &x_LD);
    }
}

static void run_double(state *s)
{
    mica_backend *be = s->pass->be;
    mica_flux2_double *w = &s->pass->w->doubles[s->block];
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const int64_t L = s->x_LD.shape_[0], D = s->x_LD.shape_[1];
    /* Text and picture behind each other, as the single blocks have them: attention on one item
     * then finds its segments joined. */
    const mica_tensor work = scratch(s, L, D), qkv = scratch(s, L, 3 * D);
    for (int i = 0; i < 2; i++) {
        side *sd = &s->sides[i];
        const int64_t count = sd->x_LD.shape_[0], first = i == TXT ? 0 : L - count;
        sd->w = i == TXT ? &w->txt : &w->img;
        sd->norm_q = &sd->w->norm_q;
        sd->norm_k = &sd->w->norm_k;
        const mica_tensor qkv_LN = mica_tensor_rows(&qkv, first, count);
        sd->work_LD = mica_tensor_rows(&work, first, count);
        mica_branch(be, BRANCH_OF[i]);
        project_qkv(s, sd, &qkv_LN);
        rotate(s, sd);
    }
    mica_join(be);
    attend(s);
    for (int i = 0; i < 2; i++) {
        side *sd = &s->sides[i];
        mica_branch(be, BRANCH_OF[i]);
        mica_nn_linear_gated(be, &sd->w->out, &sd->work_LD, &sd->mod[MICA_FLUX2_GATE], &sd->x_LD);
        run_mlp(s, sd);
    }
    mica_join(be);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    probe_double(s);
}

/* ------------------------------------------------------------- single blocks -- */

/* The MLP's half of the product and the product itself, in pieces of rows.
 *
 *     one piece     work_LD still holds the modulated input, joined_LM attention's output in its left columns
 *     several       work_LD holds attention's output; the modulated input is made again rather than kept */
static void run_single_mlp(const state *s, mica_flux2_single *w, const mica_tensor *work_LD,
                           const mica_tensor *joined)
{
    mica_backend *be = s->pass->be;
    const int64_t L = s->x_LD.shape_[0], most = joined->shape_[0];
    const int64_t D = s->pass->w->config.width, F = s->pass->w->config.ffn;
    const mica_tensor hidden = scratch(s, most, 2 * F);
    const mica_tensor norm = most == L ? *work_LD : scratch(s, most, D);
    for (int64_t first = 0; first < L; first += most) {
        const int64_t count = MICA_MIN(most, L - first);
        mica_tensor x_LD = mica_tensor_rows(&s->x_LD, first, count);
        mica_tensor norm_LD = mica_tensor_rows(&norm, 0, count);
        mica_tensor hidden_LG = mica_tensor_rows(&hidden, 0, count);
        const mica_tensor joined_LM = mica_tensor_rows(joined, 0, count);
        const mica_tensor attended_LD = mica_tensor_rows(work_LD, first, count);
        mica_tensor left_LD = mica_tensor_columns(&joined_LM, 0, D),
                    right_LF = mica_tensor_columns(&joined_LM, D, F);
        if (most < L) {
            mica_layer_norm_modulate(be, &x_LD, &s->mix[MICA_FLUX2_SCALE],
                                     &s->mix[MICA_FLUX2_SHIFT], NORM_EPS, &norm_LD);
            mica_copy(be, &attended_LD, &left_LD);
        }
        mica_nn_swiglu_run(be, (mica_nn_linear *const[]){&w->mlp}, 1, &norm_LD, &hidden_LG,
                           &right_LF);
        mica_nn_linear_gated(be, &w->out, &joined_LM, &s->mix[MICA_FLUX2_GATE], &x_LD);
    }
}

static void run_single(state *s)
{
    mica_backend *be = s->pass->be;
    const int64_t D = s->pass->w->config.width, L = s->x_LD.shape_[0];
    const int64_t most = piece_of(s->pass, L);
    mica_flux2_single *w = &s->pass->w->singles[s->block - (int)s->pass->w->config.layers];
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor work_LD = scratch(s, L, D), qkv_L3D = scratch(s, L, 3 * D);
    const mica_tensor joined_LM = scratch(s, most, D + s->pass->w->config.ffn);
    const mica_tensor attended_LD = most == L ? mica_tensor_columns(&joined_LM, 0, D) : work_LD;
    mica_layer_norm_modulate(be, &s->x_LD, &s->mix[MICA_FLUX2_SCALE], &s->mix[MICA_FLUX2_SHIFT],
                             NORM_EPS, &work_LD);
    mica_nn_linear_run(be, &w->qkv, &work_LD, MICA_ACT_NONE, &qkv_L3D);
    for (int i = 0; i < 2; i++) {
        side *sd = &s->sides[i];
        const int64_t count = sd->x_LD.shape_[0], first = i == TXT ? 0 : L - count;
        const mica_tensor rows = mica_tensor_rows(&qkv_L3D, first, count);
        sd->q_LD = mica_tensor_columns(&rows, 0, D);
        sd->k_LD = mica_tensor_columns(&rows, D, D);
        sd->v_LD = mica_tensor_columns(&rows, 2 * D, D);
        sd->work_LD = mica_tensor_rows(&attended_LD, first, count);
        sd->norm_q = &w->norm_q;
        sd->norm_k = &w->norm_k;
        rotate(s, sd);
    }
    attend(s);
    run_single_mlp(s, w, &work_LD, &joined_LM);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    probe_single(s);
}

/* ----------------------------------------------------------------- the pass -- */

void mica_flux2_enter_text(mica_flux2_weights *w, mica_backend *be, const mica_tensor *embeds_TE,
                           mica_tensor *out_TD)
{
    const int64_t shape[] = {embeds_TE->shape_[0], w->config.width};
    *out_TD = mica_act_tensor(be, MICA_POOL_SESSION, 2, shape);
    mica_nn_linear_run(be, &w->context_embedder, embeds_TE, MICA_ACT_NONE, out_TD);
}

/* Items' picture rows [n, rows of an item, columns], of which each item uses [first, + count). */
static mica_tensor item_rows(const mica_tensor *x, int64_t n, int64_t first, int64_t count)
{
    const int64_t rows = x->shape_[0] / n, width = x->shape_[1];
    mica_tensor t = mica_tensor_3d(x->data, x->dtype, n, rows, width);
    if (t.data)
        t.data = (char *)t.data + first * width * mica_dtype_get(t.dtype)->size;
    t.shape_[1] = count;
    return t;
}

/* x_embedder once per picture; the second condition starts from the same rows. */
static void enter_image(const state *s, const mica_tensor *latents_PC)
{
    const mica_flux2_pass *p = s->pass;
    const int64_t C = p->w->config.in_channels, S = p->P + p->R, rows = p->pictures * S;
    const mica_tensor in_SC = scratch(s, rows, C);
    mica_tensor first = mica_tensor_rows(&s->sides[IMG].x_LD, 0, rows);
    mica_tensor noise = item_rows(&in_SC, p->pictures, 0, p->P);
    const mica_tensor latents = item_rows(latents_PC, p->pictures, 0, p->P);
    mica_copy(p->be, &latents, &noise);
    for (int b = 0; b < p->pictures && p->R > 0; b++) {
        mica_tensor refs = mica_tensor_rows(&in_SC, b * S + p->P, p->R);
        mica_copy(p->be, p->reference_RC, &refs);
    }
    mica_nn_linear_run(p->be, &p->w->x_embedder, &in_SC, MICA_ACT_NONE, &first);
    if (p->condition_count == 2) {
        mica_tensor second = mica_tensor_rows(&s->sides[IMG].x_LD, rows, rows);
        mica_copy(p->be, &first, &second);
    }
    const mica_tensor item = mica_tensor_rows(&in_SC, 0, S);
    if (p->probes)
        mica_tap(p->run->taps, p->be, &item, 3, (const int64_t[]){1, S, C}, "transformer_input");
    probe_side(s, IMG, "probe.x_embedder");
}

static void enter_text(const state *s)
{
    const mica_flux2_pass *p = s->pass;
    for (int item = 0; item < p->condition_count * p->pictures && p->T > 0; item++) {
        mica_tensor rows = mica_tensor_rows(&s->sides[TXT].x_LD, item * p->T, p->T);
        mica_copy(p->be, p->txt_TD[item / p->pictures], &rows);
    }
    probe_side(s, TXT, "probe.context_embedder");
}

/* Of each item the rows of the noise. */
static void leave(const state *s, int e, mica_tensor *velocity_PC)
{
    const mica_flux2_pass *p = s->pass;
    const mica_flux2_modulation *m = p->mod;
    const int64_t items = (int64_t)p->condition_count * p->pictures, D = p->w->config.width;
    const mica_tensor scale = mica_flux2_modulation_row(m, &m->scale_SD, 1, e, 0);
    const mica_tensor shift = mica_flux2_modulation_row(m, &m->shift_SD, 1, e, 0);
    mica_tensor x_LD = s->sides[IMG].x_LD;
    mica_layer_norm_modulate(p->be, &x_LD, &scale, &shift, NORM_EPS, &x_LD);
    probe_side(s, IMG, "probe.norm_out");
    if (p->R > 0) {
        const mica_tensor from = item_rows(&x_LD, items, 0, p->P);
        x_LD = scratch(s, items * p->P, D);
        mica_tensor to = item_rows(&x_LD, items, 0, p->P);
        mica_copy(p->be, &from, &to);
    }
    mica_nn_linear_run(p->be, &p->w->proj_out, &x_LD, MICA_ACT_NONE, velocity_PC);
}

static void prefetch(const mica_flux2_pass *p, int block)
{
    mica_weight *list[MICA_FLUX2_BLOCK_WEIGHTS];
    /* Behind the last block comes the first one of the next step. */
    const int n = block % mica_flux2_block_count(&p->w->config);
    mica_backend_prefetch_weights(p->be, list, mica_flux2_list_block(p->w, n, list));
}

/* What a pass needs of a block's weights it has had. The next step takes them from the system's file
 * cache, which costs 1 us for 64 KB: 0.1 s for the 4B model. */
static void release(const mica_flux2_pass *p, int block)
{
    mica_weight *list[MICA_FLUX2_BLOCK_WEIGHTS];
    if (!p->keeps_pages)
        mica_backend_release_pages(p->be, list, mica_flux2_list_block(p->w, block, list));
}

/* One chunk of the pool for the whole pass: double and single blocks ask for different sizes, which
 * would make the pool grow for another pass or two. */
static void reserve(const mica_flux2_pass *p)
{
    const int64_t D = p->w->config.width, F = p->w->config.ffn;
    const int64_t rows = (int64_t)p->condition_count * p->pictures * (p->T + p->P + p->R);
    const int64_t piece = piece_of(p, rows) * (2 * D + 3 * F);
    const int64_t joined = p->kv && !p->fills_kv ? 2 * (p->P + p->kv->R) * D : 0;
    const int64_t text =
        piece_of(p, (int64_t)p->condition_count * p->pictures * p->T) * (D + 2 * F);
    const int64_t count =
        5 * rows * D + piece + text + joined + 1024; /* and what alignment takes */
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    (void)mica_act_tensor(p->be, MICA_POOL_STEP, 1, &count);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
}

static void begin(state *s, int e)
{
    const mica_flux2_pass *p = s->pass;
    const mica_flux2_modulation *m = p->mod;
    const mica_tensor *const tables[2] = {&m->txt_S6D, &m->img_S6D};
    const int64_t items = (int64_t)p->condition_count * p->pictures;
    const int64_t rows[2] = {p->T, p->P + p->R};
    s->x_LD = scratch(s, items * (rows[TXT] + rows[IMG]), p->w->config.width);
    for (int i = 0; i < 2; i++) {
        side *sd = &s->sides[i];
        sd->rows = rows[i];
        sd->x_LD = mica_tensor_rows(&s->x_LD, i == TXT ? 0 : items * rows[TXT], items * rows[i]);
        sd->rope = i == TXT ? p->txt_rope : p->img_rope;
        for (int part = 0; part < 6; part++)
            sd->mod[part] = mica_flux2_modulation_row(m, tables[i], 6, e, part);
    }
    for (int part = 0; part < 3; part++)
        s->mix[part] = mica_flux2_modulation_row(m, &m->mix_S3D, 3, e, part);
}

static mica_status run_blocks(mica_flux2_pass *p, int e, const mica_tensor *latents_PC,
                              mica_tensor *velocity_PC, mica_err *err)
{
    const int blocks = mica_flux2_block_count(&p->w->config);
    state s = {.pass = p};
    begin(&s, e);
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    enter_image(&s, latents_PC);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
    enter_text(&s);
    mica_tensor *img_LD = &s.sides[IMG].x_LD;
    mica_block_cache_enter(p->cache, img_LD);
    for (s.block = 0; s.block < blocks; s.block++) {
        prefetch(p, s.block + 1);
        if (s.block < (int)p->w->config.layers)
            run_double(&s);
        else
            run_single(&s);
        release(p, s.block);
        if (s.block == 0 && mica_block_cache_first(p->cache, img_LD))
            s.block = blocks - 1;
        MICA_TRY(mica_run_block(p->run, p->be, s.block + 1, blocks, err));
    }
    mica_block_cache_last(p->cache, img_LD);
    if (!p->fills_kv)
        leave(&s, e, velocity_PC);
    return mica_backend_check(p->be, err);
}

mica_status mica_flux2_forward(mica_flux2_pass *p, int e, const mica_tensor *latents_PC,
                               mica_tensor *velocity_PC, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    const mica_backend_counters before = mica_backend_get_counters(p->be);
    reserve(p);
    const mica_status st = run_blocks(p, e, latents_PC, velocity_PC, err);
    const mica_backend_counters after = mica_backend_get_counters(p->be);
    p->allocations = after.allocations - before.allocations;
    p->waits = after.waits - before.waits;
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
    return st;
}
