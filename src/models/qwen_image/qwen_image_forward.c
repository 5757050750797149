/* qwen_image_forward.c - the MMDiT pass; see qwen_image_forward.h.
 *
 *   latents ─img_in─► img ┐                                          ┌► norm_out ─► proj_out ─► velocity
 *   references ─────► img ┼─► block 0 ─► block 1 ─► ... ─► block N-1 ┤
 *   text features ──► txt ┘                                          └► (dropped)
 *
 *   block   each stream alone:  a = (1 + scale) * LayerNorm(x) + shift;  q k v = a W;  RMS norm of q, k; RoPE
 *           both together:      softmax([q_txt; q_img] [k_txt; k_img]^T) [v_txt; v_img]
 *           each stream alone:  x += gate * out W;  x += gate * MLP((1 + scale) * LayerNorm(x) + shift)
 *
 * Reference: diffusers transformer_qwenimage.py, QwenImageTransformer2DModel.forward,
 * QwenImageTransformerBlock.forward, QwenDoubleStreamAttnProcessor2_0. What depends on the timestep alone
 * comes from qwen_image_modulation.c, what depends on the prompt alone from condition_build.
 *
 * All scratch is taken from the step pool between a mark and its release, in the same order
 * and sizes every time: after the first step nothing is allocated. */
#include "models/qwen_image/qwen_image_forward.h"

/* Rows that go through the MLP at a time, about. At 2,048 x 2,048 pixels with guidance the hidden
 * layer would be 32,768 x 12,288 (1.6 GB); in pieces it is 200 MB, and each piece still reads
 * 150 MB of weights for 310 GFLOP of work. */
#define MLP_ROWS 4096

#define NORM_EPS 1e-6f

enum { TXT = 0, IMG = 1 };
/* Few rows beside many: the text's operations are queued first, next to the picture's. */
static const int BRANCH_OF[2] = {[TXT] = 1, [IMG] = 0};

/* Rows of a stream that lie together in `joint` as well. */
typedef struct span {
    int64_t first, count; /* in the stream's x_LD */
    int64_t at;           /* in joint */
} span;

/* One stream during one block. */
typedef struct side {
    mica_qwen_image_stream *w;
    mica_tensor x_LD; /* residual stream, rows of all items */
    span spans[2];
    int span_count;
    /* shift, scale, gate of attention, then of the MLP; [1]: at timestep 0, for references */
    mica_tensor mod[2][6];
    const mica_rope_table *rope;
} side;

/* Rows of both streams, for attention. Up to two items lie in one piece each, so that it needs no
 * copies, and all pictures together, so that they stay one product:
 *
 *     one item    txt0 img0          two    txt0 img0 img1 txt1          more    txt0 txt1 .. img0 img1 .. */
typedef struct joint {
    mica_tensor work_LD; /* modulated input of q, k, v; then attention's output */
    mica_tensor qkv_LN;  /* side by side */
    mica_tensor q_LD, k_LD, v_LD;
} joint;

typedef struct block {
    mica_qwen_image_pass *pass;
    side sides[2];
    joint joint;
    int n;
} block;

static int64_t rows_of_item(const mica_qwen_image_pass *p, int s, int condition)
{
    return s == IMG ? p->P + p->R : p->conditions[condition]->T;
}

static bool has_time_zero(const mica_qwen_image_pass *p, int s)
{
    return s == IMG && p->R > 0 && p->w->config.zero_cond_t;
}

/* How many rows from `first` on, at most `count`, have one modulation, and which. */
static int64_t span_of(const block *b, int s, int64_t first, int64_t count, int *time)
{
    const mica_qwen_image_pass *p = b->pass;
    *time = 0;
    if (!has_time_zero(p, s))
        return count;
    const int64_t at = first % (p->P + p->R);
    *time = at >= p->P;
    return MICA_MIN(count, (*time ? p->P + p->R : p->P) - at);
}

/* Rows [first, first + rows of x) of side s: x to out by the norm of attention (part 0) or MLP (3). */
static void modulate(const block *b, int s, int part, int64_t first, const mica_tensor *x_LD,
                     mica_tensor *out_LD)
{
    const int64_t L = x_LD->shape_[0];
    for (int64_t done = 0, n; done < L; done += n) {
        int time;
        n = span_of(b, s, first + done, L - done, &time);
        const mica_tensor *mod = &b->sides[s].mod[time][part];
        if (n == L)
            mica_next_is_operand(b->pass->be);
        const mica_tensor x = mica_tensor_rows(x_LD, done, n);
        mica_tensor out = mica_tensor_rows(out_LD, done, n);
        mica_layer_norm_modulate(b->pass->be, &x, &mod[MICA_MOD_SCALE], &mod[MICA_MOD_SHIFT],
                                 NORM_EPS, &out);
    }
}

/* The same rows: x += gate * (in w^T + b). */
static void add_gated(const block *b, int s, int part, int64_t first, mica_nn_linear *l,
                      const mica_tensor *in, mica_tensor *x_LD)
{
    const int64_t L = x_LD->shape_[0];
    for (int64_t done = 0, n; done < L; done += n) {
        int time;
        n = span_of(b, s, first + done, L - done, &time);
        const mica_tensor rows = mica_tensor_rows(in, done, n);
        mica_tensor x = mica_tensor_rows(x_LD, done, n);
        mica_nn_linear_gated(b->pass->be, l, &rows, &b->sides[s].mod[time][part + MICA_MOD_GATE],
                             &x);
    }
}

/* ------------------------------------------------------------------- probes -- */

/* Rows of item 0 as [1, L, ...] under probe.transformer_blocks.N.`name`. */
static void probe(const block *b, int s, const mica_tensor *x_LD, const char *name)
{
    mica_qwen_image_pass *p = b->pass;
    const int64_t L = rows_of_item(p, s, 0);
    const mica_tensor rows = mica_tensor_rows(x_LD, 0, L);
    if (p->probes)
        mica_tap(p->run->taps, p->be, &rows, 3, (const int64_t[]){1, L, x_LD->shape_[1]},
                 "probe.transformer_blocks.%d.%s", b->n, name);
}

/* Whether somebody wants what the fused path never holds. The first two blocks tell a port
 * what it needs to know; sixty would make a trace of gigabytes. */
static bool wants(const block *b, const char *name)
{
    return b->pass->probes && b->n < 2 &&
           mica_tap_wants(b->pass->run->taps, "probe.transformer_blocks.%d.%s", b->n, name);
}

/* The linear's own result, before gate and residual: computed once more, for the probe alone. */
static void probe_linear(const block *b, int s, mica_nn_linear *l, const mica_tensor *in_LD,
                         int64_t rows, const char *name)
{
    mica_backend *be = b->pass->be;
    if (!wants(b, name))
        return;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_tensor in = mica_tensor_rows(in_LD, 0, rows);
    mica_tensor out =
        mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){rows, l->w.tensor.shape_[0]});
    mica_nn_linear_run(be, l, &in, MICA_ACT_NONE, &out);
    probe(b, s, &out, name);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

/* ---------------------------------------------------------------- attention -- */

static void lay_out(block *b, int64_t text_rows, int64_t image_rows)
{
    const int items = b->pass->condition_count * b->pass->pictures;
    const int64_t first = items == 2 ? rows_of_item(b->pass, TXT, 0) : text_rows;
    side *txt = &b->sides[TXT], *img = &b->sides[IMG];
    txt->spans[0] = (span){0, first, 0};
    txt->spans[1] = (span){first, text_rows - first, first + image_rows};
    txt->span_count = items == 2 ? 2 : 1;
    img->spans[0] = (span){0, image_rows, first};
    img->span_count = 1;
}

static void project(const block *b, mica_qwen_image_stream *w, const span *sp,
                    const mica_tensor *in_LD)
{
    const mica_tensor all = mica_tensor_rows(&b->joint.qkv_LN, sp->at, sp->count);
    mica_tensor y[3];
    mica_nn_linears_run(b->pass->be, (mica_nn_linear *const[]){&w->q, &w->k, &w->v}, 3, in_LD, &all,
                        y);
}

static void modulate_span(const block *b, int s, const span *sp)
{
    const mica_tensor x = mica_tensor_rows(&b->sides[s].x_LD, sp->first, sp->count);
    mica_tensor in = mica_tensor_rows(&b->joint.work_LD, sp->at, sp->count);
    modulate(b, s, 0, sp->first, &x, &in);
}

/* The picture's rows are one span, modulated already. */
static void project_qkv(block *b, int s)
{
    side *sd = &b->sides[s];
    for (const span *sp = sd->spans; sp < sd->spans + sd->span_count; sp++) {
        const mica_tensor in = mica_tensor_rows(&b->joint.work_LD, sp->at, sp->count);
        if (s == TXT)
            modulate_span(b, s, sp);
        project(b, sd->w, sp, &in);
    }
}

static void project_out(block *b, int s)
{
    side *sd = &b->sides[s];
    for (const span *sp = sd->spans; sp < sd->spans + sd->span_count; sp++) {
        const mica_tensor in = mica_tensor_rows(&b->joint.work_LD, sp->at, sp->count);
        mica_tensor x = mica_tensor_rows(&sd->x_LD, sp->first, sp->count);
        add_gated(b, s, 0, sp->first, &sd->w->out, &in, &x);
    }
}

static mica_tensor heads(const block *b, const mica_tensor *x_LD, int64_t first, int64_t count)
{
    const mica_qwen_image_config *c = &b->pass->w->config;
    return mica_tensor_heads(x_LD, first, count, c->heads, c->head_dim);
}

/* Norm and rotation of one item's queries and keys, in place. */
static void norm_and_rotate(const block *b, const side *sd, mica_tensor *q_LHK, mica_tensor *k_LHK,
                            const mica_rope_table *rope)
{
    mica_qk_norm_rope(b->pass->be, &(mica_qk_norm_rope_args){.x_LHK = q_LHK,
                                                             .norm_K = &sd->w->norm_q,
                                                             .also_LHK = k_LHK,
                                                             .also_norm_K = &sd->w->norm_k,
                                                             .eps = NORM_EPS,
                                                             .cos_Lk = &rope->cos_Lk,
                                                             .sin_Lk = &rope->sin_Lk,
                                                             .layout = MICA_ROPE_INTERLEAVED});
}

/* What the norm alone gives, when it is wanted: made of a copy, for the probe. */
static void probe_norm(const block *b, const mica_tensor *x_LHK, mica_weight *norm_K,
                       const char *name)
{
    mica_backend *be = b->pass->be;
    if (!wants(b, name))
        return;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor x = mica_act_tensor(be, MICA_POOL_STEP, 3, x_LHK->shape_);
    mica_copy(be, x_LHK, &x);
    mica_qk_norm_rope(be,
                      &(mica_qk_norm_rope_args){.x_LHK = &x, .norm_K = norm_K, .eps = NORM_EPS});
    mica_tap(b->pass->run->taps, be, &x, 4,
             (const int64_t[]){1, x.shape_[0], x.shape_[1], x.shape_[2]},
             "probe.transformer_blocks.%d.%s", b->n, name);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

/* Where item's rows of side s lie in joint. */
static int64_t place_of(const block *b, int s, int item)
{
    const mica_qwen_image_pass *p = b->pass;
    const side *sd = &b->sides[s];
    if (sd->span_count == 2)
        return sd->spans[item].at;
    int64_t at = sd->spans[0].at;
    for (int i = 0; i < item; i++)
        at += rows_of_item(p, s, i / p->pictures);
    return at;
}

static void rotate(const block *b, int s)
{
    static const char *const NAMES[2][2] = {{"attn.norm_added_q", "attn.norm_added_k"},
                                            {"attn.norm_q", "attn.norm_k"}};
    const mica_qwen_image_pass *p = b->pass;
    const side *sd = &b->sides[s];
    for (int item = 0; item < p->condition_count * p->pictures; item++) {
        const int64_t first = place_of(b, s, item);
        const int64_t count = rows_of_item(p, s, item / p->pictures);
        const mica_rope_table rope = mica_rope_table_rows(sd->rope, count);
        mica_tensor q = heads(b, &b->joint.q_LD, first, count);
        mica_tensor k = heads(b, &b->joint.k_LD, first, count);
        if (item == 0) {
            probe_norm(b, &q, &sd->w->norm_q, NAMES[s][0]);
            probe_norm(b, &k, &sd->w->norm_k, NAMES[s][1]);
        }
        norm_and_rotate(b, sd, &q, &k, &rope);
    }
}

static void attend_item(block *b, int item)
{
    const mica_qwen_image_pass *p = b->pass;
    mica_tensor q[2], k[2], v[2], out[2];
    mica_attention_args args = {.segments = 2};
    for (int s = 0; s < 2; s++) {
        const int64_t first = place_of(b, s, item);
        const int64_t count = rows_of_item(p, s, item / p->pictures);
        q[s] = heads(b, &b->joint.q_LD, first, count);
        k[s] = heads(b, &b->joint.k_LD, first, count);
        v[s] = heads(b, &b->joint.v_LD, first, count);
        out[s] = heads(b, &b->joint.work_LD, first, count);
        /* As they lie: the order only matters to sums in floating point, since attention does not
         * see it but through the rotation. */
        const int segment = place_of(b, TXT, item) < place_of(b, IMG, item) ? s : 1 - s;
        args.q_LHK[segment] = &q[s];
        args.k_MGK[segment] = &k[s];
        args.v_MGK[segment] = &v[s];
        args.out_LHK[segment] = &out[s];
    }
    mica_attention(b->pass->be, &args);
}

static void run_attention(block *b)
{
    const mica_qwen_image_pass *p = b->pass;
    const int64_t text_rows = b->sides[TXT].x_LD.shape_[0], D = p->w->config.width;
    const int64_t image_rows = b->sides[IMG].x_LD.shape_[0];
    const int64_t shape[] = {text_rows + image_rows, D};
    mica_tensor *const columns[] = {&b->joint.q_LD, &b->joint.k_LD, &b->joint.v_LD};
    b->joint.work_LD = mica_act_tensor(p->be, MICA_POOL_STEP, 2, shape);
    b->joint.qkv_LN = mica_act_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){shape[0], 3 * D});
    for (int i = 0; i < 3; i++)
        *columns[i] = mica_tensor_columns(&b->joint.qkv_LN, i * D, D);
    lay_out(b, text_rows, image_rows);
    /* Right behind the sum that made its input: a device does both at once. */
    modulate_span(b, IMG, &b->sides[IMG].spans[0]);
    for (int s = 0; s < 2; s++) {
        mica_branch(p->be, BRANCH_OF[s]);
        project_qkv(b, s);
        rotate(b, s);
    }
    mica_join(p->be);
    for (int item = 0; item < p->condition_count * p->pictures; item++)
        attend_item(b, item);
}

static void leave_attention(block *b, int s)
{
    const int64_t L = rows_of_item(b->pass, s, 0);
    const mica_tensor in = mica_tensor_rows(&b->joint.work_LD, b->sides[s].spans[0].at, L);
    probe_linear(b, s, &b->sides[s].w->out, &in, L, s == IMG ? "attn.0" : "attn.1");
    project_out(b, s);
}

/* ---------------------------------------------------------------------- MLP -- */

/* The MLP's result for item 0, when it is wanted. */
static void probe_mlp(block *b, int s, const mica_tensor *x_LD, const char *name)
{
    const mica_qwen_image_pass *p = b->pass;
    side *sd = &b->sides[s];
    const int64_t L = rows_of_item(p, s, 0);
    if (!wants(b, name))
        return;
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    const mica_tensor x = mica_tensor_rows(x_LD, 0, L);
    mica_tensor norm_LD = mica_act_tensor(p->be, MICA_POOL_STEP, 2, x.shape_);
    mica_tensor hidden_LF =
        mica_act_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){L, p->w->config.ffn});
    modulate(b, s, 3, 0, &x, &norm_LD);
    mica_nn_linear_run(p->be, &sd->w->mlp_in, &norm_LD, MICA_ACT_GELU_TANH, &hidden_LF);
    probe_linear(b, s, &sd->w->mlp_out, &hidden_LF, L, name);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
}

static void run_mlp(block *b, int s)
{
    mica_backend *be = b->pass->be;
    side *sd = &b->sides[s];
    const int64_t L = sd->x_LD.shape_[0], most = mica_nn_piece(L, MLP_ROWS);
    const int64_t D = b->pass->w->config.width, F = b->pass->w->config.ffn;
    const mica_tensor norm = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){most, D});
    const mica_tensor hidden = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){most, F});
    probe_mlp(b, s, &sd->x_LD, s == IMG ? "img_mlp" : "txt_mlp");
    for (int64_t first = 0; first < L; first += most) {
        const int64_t count = MICA_MIN(most, L - first);
        mica_tensor x_LD = mica_tensor_rows(&sd->x_LD, first, count);
        mica_tensor norm_LD = mica_tensor_rows(&norm, 0, count);
        mica_tensor hidden_LF = mica_tensor_rows(&hidden, 0, count);
        modulate(b, s, 3, first, &x_LD, &norm_LD);
        if (!has_time_zero(b->pass, s)) /* else the rows go on in spans */
            mica_next_is_operand(be);
        mica_nn_linear_run(be, &sd->w->mlp_in, &norm_LD, MICA_ACT_GELU_TANH, &hidden_LF);
        add_gated(b, s, 3, first, &sd->w->mlp_out, &hidden_LF, &x_LD);
    }
}

/* ----------------------------------------------------------------- the pass -- */

static void prefetch_block(const mica_qwen_image_pass *p, int n)
{
    mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS];
    mica_qwen_image_block *blocks = p->w->blocks;
    /* Behind the last block comes the first one of the next step. */
    mica_backend_prefetch_weights(
        p->be, list, mica_qwen_image_list_block(&blocks[n % p->w->config.layers], list));
}

static void run_block(block *b, int e)
{
    const mica_qwen_image_pass *p = b->pass;
    mica_qwen_image_block *w = &p->w->blocks[b->n];
    const mica_tensor *const tables[2] = {&p->mod->txt_S6D[b->n], &p->mod->img_S6D[b->n]};
    b->sides[TXT].w = &w->txt;
    b->sides[IMG].w = &w->img;
    for (int s = 0; s < 2; s++)
        for (int time = 0; time < 1 + has_time_zero(p, s); time++)
            for (int part = 0; part < 6; part++)
                b->sides[s].mod[time][part] = mica_qwen_image_modulation_row(
                    p->mod, tables[s], time ? MICA_QWEN_IMAGE_TIME_ZERO : e, part);
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    run_attention(b);
    for (int s = 0; s < 2; s++) {
        mica_branch(p->be, BRANCH_OF[s]);
        leave_attention(b, s);
        run_mlp(b, s);
    }
    mica_join(p->be);
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
    probe(b, TXT, &b->sides[TXT].x_LD, "0");
    probe(b, IMG, &b->sides[IMG].x_LD, "1");
}

/* img_in once per picture; the second condition starts from the same rows. */
static void enter_image(const mica_qwen_image_pass *p, const mica_tensor *latents_PC,
                        mica_tensor *x_PD)
{
    const int64_t D = p->w->config.width, item = p->P + p->R, rows = p->pictures * item;
    mica_tensor in_PC = mica_act_tensor(p->be, MICA_POOL_STEP, 2, latents_PC->shape_);
    mica_copy(p->be, latents_PC, &in_PC);
    for (int n = 0; n < (p->R ? p->pictures : 1); n++) {
        const int64_t count = p->R ? p->P : rows;
        const mica_tensor in = mica_tensor_rows(&in_PC, n * count, count);
        mica_tensor out = mica_tensor_rows(x_PD, n * item, count);
        mica_nn_linear_run(p->be, &p->w->img_in, &in, MICA_ACT_NONE, &out);
        if (p->R) {
            mica_tensor refs = mica_tensor_rows(x_PD, n * item + p->P, p->R);
            mica_copy(p->be, p->refs_RD, &refs);
        }
    }
    const mica_tensor first = mica_tensor_rows(x_PD, 0, rows);
    if (p->condition_count == 2) {
        mica_tensor second = mica_tensor_rows(x_PD, rows, rows);
        mica_copy(p->be, &first, &second);
    }
    const mica_tensor seen = mica_tensor_rows(x_PD, 0, item);
    if (p->probes)
        mica_tap(p->run->taps, p->be, &seen, 3, (const int64_t[]){1, item, D}, "probe.img_in");
}

static void enter_text(const mica_qwen_image_pass *p, mica_tensor *x_TD)
{
    int64_t first = 0;
    for (int item = 0; item < p->condition_count * p->pictures; item++) {
        const mica_qwen_image_condition *c = p->conditions[item / p->pictures];
        mica_tensor rows = mica_tensor_rows(x_TD, first, c->T);
        mica_copy(p->be, &c->txt_TD, &rows);
        first += c->T;
    }
}

/* norm_out of everything as the reference's module gives it; the references' rows go no further. */
static void probe_norm_out(const mica_qwen_image_pass *p, const mica_tensor *scale,
                           const mica_tensor *shift, const mica_tensor *x_PD)
{
    const int64_t item = p->P + p->R, D = p->w->config.width;
    if (!p->probes || !mica_tap_wants(p->run->taps, "probe.norm_out"))
        return;
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    const mica_tensor x = mica_tensor_rows(x_PD, 0, item);
    mica_tensor out = mica_act_tensor(p->be, MICA_POOL_STEP, 2, x.shape_);
    mica_layer_norm_modulate(p->be, &x, scale, shift, NORM_EPS, &out);
    mica_tap(p->run->taps, p->be, &out, 3, (const int64_t[]){1, item, D}, "probe.norm_out");
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
}

/* Rows of the pictures, without those of references, to velocities. */
static void leave(const mica_qwen_image_pass *p, int e, mica_tensor *x_PD, mica_tensor *velocity_PC)
{
    const mica_tensor scale = mica_qwen_image_modulation_row(p->mod, &p->mod->out_S2D, e, 0);
    const mica_tensor shift = mica_qwen_image_modulation_row(p->mod, &p->mod->out_S2D, e, 1);
    const int64_t items = p->condition_count * p->pictures;
    probe_norm_out(p, &scale, &shift, x_PD);
    for (int64_t n = 0; n < (p->R ? items : 1); n++) {
        const int64_t count = p->R ? p->P : items * p->P;
        mica_tensor x = mica_tensor_rows(x_PD, n * (p->P + p->R), count);
        mica_tensor out = mica_tensor_rows(velocity_PC, n * count, count);
        mica_layer_norm_modulate(p->be, &x, &scale, &shift, NORM_EPS, &x);
        mica_nn_linear_run(p->be, &p->w->proj_out, &x, MICA_ACT_NONE, &out);
    }
}

static mica_status run_blocks(mica_qwen_image_pass *p, int e, const mica_tensor *latents_PC,
                              mica_tensor *velocity_PC, mica_err *err)
{
    const int layers = (int)p->w->config.layers, items = p->condition_count * p->pictures;
    int64_t text_rows = 0;
    for (int c = 0; c < p->condition_count; c++)
        text_rows += p->pictures * p->conditions[c]->T;
    block b = {.pass = p};
    const int64_t D = p->w->config.width;
    b.sides[TXT].x_LD = mica_act_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){text_rows, D});
    b.sides[IMG].x_LD =
        mica_act_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){items * (p->P + p->R), D});
    b.sides[TXT].rope = &p->rope->txt;
    b.sides[IMG].rope = &p->rope->img;
    enter_image(p, latents_PC, &b.sides[IMG].x_LD);
    enter_text(p, &b.sides[TXT].x_LD);
    mica_tensor *img_LD = &b.sides[IMG].x_LD;
    mica_block_cache_enter(p->cache, img_LD);
    for (b.n = 0; b.n < layers; b.n++) {
        prefetch_block(p, b.n + 1);
        run_block(&b, e);
        if (b.n == 0 && mica_block_cache_first(p->cache, img_LD))
            b.n = layers - 1;
        MICA_TRY(mica_run_block(p->run, p->be, b.n + 1, layers, err));
    }
    mica_block_cache_last(p->cache, img_LD);
    leave(p, e, &b.sides[IMG].x_LD, velocity_PC);
    return mica_backend_check(p->be, err);
}

mica_status mica_qwen_image_forward(mica_qwen_image_pass *p, int e, const mica_tensor *latents_PC,
                                    mica_tensor *velocity_PC, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    const mica_backend_counters before = mica_backend_get_counters(p->be);
    const mica_status st = run_blocks(p, e, latents_PC, velocity_PC, err);
    const mica_backend_counters after = mica_backend_get_counters(p->be);
    p->allocations += after.allocations - before.allocations;
    p->waits += after.waits - before.waits;
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
    return st;
}

void mica_qwen_image_condition_build(mica_qwen_image_weights *w, mica_backend *be,
                                     const mica_tap_sink *taps, const mica_tensor *embeds_TE,
                                     mica_qwen_image_condition *out)
{
    const int64_t T = embeds_TE->shape_[0], E = w->config.text_width, D = w->config.width;
    out->T = T;
    out->txt_TD = mica_act_tensor(be, MICA_POOL_SESSION, 2, (const int64_t[]){T, D});
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor norm_TE = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){T, E});
    mica_rms_norm(be, embeds_TE, &w->txt_norm, NORM_EPS, &norm_TE);
    mica_tap(taps, be, &norm_TE, 3, (const int64_t[]){1, T, E}, "probe.txt_norm");
    mica_nn_linear_run(be, &w->txt_in, &norm_TE, MICA_ACT_NONE, &out->txt_TD);
    mica_tap(taps, be, &out->txt_TD, 3, (const int64_t[]){1, T, D}, "probe.txt_in");
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

void mica_qwen_image_references_build(mica_qwen_image_weights *w, mica_backend *be,
                                      const mica_tensor *refs_RC, mica_tensor *out_RD)
{
    const int64_t shape[] = {refs_RC->shape_[0], w->config.width};
    *out_RD = mica_act_tensor(be, MICA_POOL_SESSION, 2, shape);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor in_RC = mica_act_tensor(be, MICA_POOL_STEP, 2, refs_RC->shape_);
    mica_copy(be, refs_RC, &in_RC);
    mica_nn_linear_run(be, &w->img_in, &in_RC, MICA_ACT_NONE, out_RD);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}
