/* qwen_vision.c - the pass through the vision tower; see qwen_vision.h.
 *
 * Reference: transformers models/qwen2_5_vl/modeling_qwen2_5_vl.py,
 * Qwen2_5_VisionTransformerPretrainedModel (rot_pos_emb, get_window_index, forward). The rotary table
 * has rows and columns of the picture side by side, a quarter of the head each, and pairs (i, i + K/2).
 *
 * Rows are sorted by window on the host, before they are uploaded; the tokens are put back in reading
 * order as they leave. */
#include "models/qwen_image/qwen_vision.h"

#include "base/checked.h"
#include "base/mem.h"
#include "nn/rope.h"

#include <math.h>
#include <string.h>

#define NORM_EPS 1e-6f
#define THETA    10000.0f

/* The MLP goes through in pieces of this many rows, as in nn/decoder_lm.c. */
#define MLP_ROWS 1024

typedef struct pass {
    mica_qwen_vision *v;
    mica_backend *be;
    mica_run *run;
    const mica_qwen_pixels *pixels;
    int64_t L;       /* rows: patches */
    int64_t N;       /* tokens */
    int64_t *tokens; /* [N] token of the picture at each place of the sorted order */
    int64_t *starts; /* [windows + 1] first row of each window */
    int windows;
    mica_rope_table rope;
} pass;

int64_t mica_qwen_vision_tokens(const mica_qwen_vision_config *c, const mica_qwen_pixels *pixels)
{
    return pixels->h / c->merge * (pixels->w / c->merge);
}

/* ----------------------------------------------------------------------- order -- */

/* Windows in reading order, tokens in reading order inside each; those at the right and lower edge
 * are smaller. */
static void sort_windows(pass *p, int64_t side)
{
    const mica_qwen_vision_config *c = &p->v->config;
    const int64_t h = p->pixels->h / c->merge, w = p->pixels->w / c->merge;
    int64_t n = 0;
    p->windows = 0;
    for (int64_t top = 0; top < h; top += side)
        for (int64_t left = 0; left < w; left += side) {
            p->starts[p->windows++] = n * c->merge * c->merge;
            for (int64_t y = top; y < MICA_MIN(h, top + side); y++)
                for (int64_t x = left; x < MICA_MIN(w, left + side); x++)
                    p->tokens[n++] = y * w + x;
        }
    p->starts[p->windows] = p->L;
}

static mica_status make_order(pass *p, mica_err *err)
{
    const mica_qwen_vision_config *c = &p->v->config;
    p->tokens = mica_mem_calloc((size_t)p->N, sizeof *p->tokens);
    p->starts = mica_mem_calloc((size_t)p->N + 1, sizeof *p->starts);
    if (!p->tokens || !p->starts)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld picture tokens", (long long)p->N);
    sort_windows(p, c->window / c->merge / c->patch);
    return MICA_OK;
}

/* Angles of every row: half of the columns turn with the patch's row, half with its column. */
static void fill_rope(const pass *p, float *cos_Lk, float *sin_Lk, const float *freq)
{
    const mica_qwen_vision_config *c = &p->v->config;
    const int64_t half = c->width / c->heads / 2, quarter = half / 2, merge = c->merge;
    const int64_t across = p->pixels->w / merge, per_token = merge * merge;
    for (int64_t l = 0; l < p->L; l++) {
        const int64_t token = p->tokens[l / per_token], in = l % per_token;
        const float y = (float)(token / across * merge + in / merge);
        const float x = (float)(token % across * merge + in % merge);
        for (int64_t i = 0; i < half; i++) {
            const float angle = i < quarter ? y * freq[i] : x * freq[i - quarter];
            cos_Lk[l * half + i] = cosf(angle);
            sin_Lk[l * half + i] = sinf(angle);
        }
    }
}

static mica_status build_rope(pass *p, mica_err *err)
{
    const int64_t half = p->v->config.width / p->v->config.heads / 2;
    size_t count;
    float *host = NULL;
    if (mica_mul_size((size_t)p->L * 2 + 1, (size_t)half, &count))
        host = mica_mem_calloc(count, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a rotary table of %lld patches",
                         (long long)p->L);
    float *cos_Lk = host + half, *sin_Lk = cos_Lk + p->L * half;
    mica_rope_frequencies(THETA, (int)half, host);
    fill_rope(p, cos_Lk, sin_Lk, host);
    mica_rope_table_upload(p->be, MICA_POOL_STEP, p->L, (int)half, cos_Lk, sin_Lk, &p->rope);
    mica_mem_free(host);
    return MICA_OK;
}

/* ---------------------------------------------------------------------- layers -- */

static mica_tensor scratch(const pass *p, int64_t rows, int64_t columns)
{
    return mica_act_tensor(p->be, MICA_POOL_STEP, 2, (const int64_t[]){rows, columns});
}

static mica_tensor heads(const pass *p, const mica_tensor *x_LD, int64_t first, int64_t count)
{
    const mica_qwen_vision_config *c = &p->v->config;
    const mica_tensor rows = mica_tensor_rows(x_LD, first, count);
    return mica_tensor_reshape(&rows, 3, (const int64_t[]){count, c->heads, c->width / c->heads});
}

static void attend(const pass *p, const mica_tensor *q, const mica_tensor *k, const mica_tensor *v,
                   mica_tensor *out, int64_t first, int64_t count)
{
    const mica_tensor q_LHK = heads(p, q, first, count), k_MGK = heads(p, k, first, count);
    const mica_tensor v_MGK = heads(p, v, first, count);
    mica_tensor out_LHK = heads(p, out, first, count);
    mica_attention(p->be, &(mica_attention_args){.segments = 1,
                                                 .q_LHK = {&q_LHK},
                                                 .k_MGK = {&k_MGK},
                                                 .v_MGK = {&v_MGK},
                                                 .out_LHK = {&out_LHK}});
}

static void rotate(const pass *p, mica_tensor *x_LD)
{
    mica_tensor x_LHK = heads(p, x_LD, 0, p->L);
    mica_qk_norm_rope(p->be, &(mica_qk_norm_rope_args){.x_LHK = &x_LHK,
                                                       .cos_Lk = &p->rope.cos_Lk,
                                                       .sin_Lk = &p->rope.sin_Lk,
                                                       .layout = MICA_ROPE_HALF});
}

static void run_attention(const pass *p, mica_qwen_vision_layer *w, bool whole, mica_tensor *x_LD)
{
    const int64_t D = p->v->config.width;
    mica_tensor norm_LD = scratch(p, p->L, D), q = scratch(p, p->L, D), k = scratch(p, p->L, D);
    mica_tensor v = scratch(p, p->L, D);
    mica_rms_norm(p->be, x_LD, &w->norm_1, NORM_EPS, &norm_LD);
    mica_nn_linear_run(p->be, &w->q, &norm_LD, MICA_ACT_NONE, &q);
    mica_nn_linear_again(p->be, &w->k, &norm_LD, MICA_ACT_NONE, &k);
    mica_nn_linear_again(p->be, &w->v, &norm_LD, MICA_ACT_NONE, &v);
    rotate(p, &q);
    rotate(p, &k);
    if (whole)
        attend(p, &q, &k, &v, &norm_LD, 0, p->L);
    for (int i = 0; !whole && i < p->windows; i++)
        attend(p, &q, &k, &v, &norm_LD, p->starts[i], p->starts[i + 1] - p->starts[i]);
    mica_nn_linear_gated(p->be, &w->proj, &norm_LD, NULL, x_LD);
}

static void run_mlp(const pass *p, mica_qwen_vision_layer *w, mica_tensor *x_LD)
{
    const int64_t D = p->v->config.width, F = p->v->config.ffn, most = MICA_MIN(p->L, MLP_ROWS);
    const mica_tensor norm = scratch(p, most, D), gate = scratch(p, most, F),
                      up = scratch(p, most, F);
    for (int64_t first = 0; first < p->L; first += most) {
        const int64_t n = MICA_MIN(most, p->L - first);
        mica_tensor x = mica_tensor_rows(x_LD, first, n), norm_LD = mica_tensor_rows(&norm, 0, n);
        mica_tensor gate_LF = mica_tensor_rows(&gate, 0, n), up_LF = mica_tensor_rows(&up, 0, n);
        mica_rms_norm(p->be, &x, &w->norm_2, NORM_EPS, &norm_LD);
        mica_nn_linear_run(p->be, &w->gate, &norm_LD, MICA_ACT_NONE, &gate_LF);
        mica_nn_linear_again(p->be, &w->up, &norm_LD, MICA_ACT_NONE, &up_LF);
        mica_swiglu(p->be, &gate_LF, &up_LF, &gate_LF);
        mica_nn_linear_gated(p->be, &w->down, &gate_LF, NULL, &x);
    }
}

static void prefetch_layer(const pass *p, int64_t n)
{
    mica_weight *list[MICA_QWEN_VISION_LAYER_WEIGHTS];
    if (n < p->v->config.depth)
        mica_backend_prefetch_weights(p->be, list,
                                      mica_qwen_vision_list_layer(&p->v->layers[n], list));
}

/* ---------------------------------------------------------------- in and out -- */

/* Patches into the sorted order and through the first product. */
static mica_status enter(const pass *p, mica_tensor *x_LD, mica_err *err)
{
    const int64_t per_token = p->v->config.merge * p->v->config.merge;
    const size_t group = (size_t)per_token * (size_t)p->pixels->columns;
    float *sorted = mica_mem_calloc((size_t)p->N * group, sizeof *sorted);
    if (!sorted)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld patches", (long long)p->L);
    for (int64_t n = 0; n < p->N; n++)
        memcpy(sorted + (size_t)n * group, p->pixels->rows + (size_t)p->tokens[n] * group,
               group * sizeof *sorted);
    mica_tensor in = scratch(p, p->L, p->pixels->columns);
    mica_upload_f32(p->be, &in, sorted);
    mica_mem_free(sorted);
    mica_nn_linear_run(p->be, &p->v->patch, &in, MICA_ACT_NONE, x_LD);
    return mica_backend_check(p->be, err);
}

/* Rows of a token side by side, through the merger's MLP, back in reading order. */
static void leave(const pass *p, mica_tensor *x_LD, mica_tensor *tokens_ND)
{
    const mica_qwen_vision_config *c = &p->v->config;
    const int64_t M = c->width * c->merge * c->merge;
    mica_rms_norm(p->be, x_LD, &p->v->norm, NORM_EPS, x_LD);
    const mica_tensor x_NM = mica_tensor_reshape(x_LD, 2, (const int64_t[]){p->N, M});
    mica_tensor hidden_NM = scratch(p, p->N, M), out_ND = scratch(p, p->N, c->out_width);
    mica_nn_linear_run(p->be, &p->v->merge_1, &x_NM, MICA_ACT_GELU_ERF, &hidden_NM);
    mica_nn_linear_run(p->be, &p->v->merge_2, &hidden_NM, MICA_ACT_NONE, &out_ND);
    for (int64_t n = 0; n < p->N;) {
        int64_t end = n + 1; /* a row of a window is a row of the picture's tokens */
        while (end < p->N && p->tokens[end] == p->tokens[end - 1] + 1)
            end++;
        const mica_tensor src = mica_tensor_rows(&out_ND, n, end - n);
        mica_tensor dst = mica_tensor_rows(tokens_ND, p->tokens[n], end - n);
        mica_copy(p->be, &src, &dst);
        n = end;
    }
}

static mica_status run_pass(pass *p, mica_tensor *tokens_ND, mica_err *err)
{
    const mica_qwen_vision_config *c = &p->v->config;
    MICA_TRY(make_order(p, err));
    MICA_TRY(build_rope(p, err));
    mica_tensor x_LD = scratch(p, p->L, c->width);
    const mica_pool_mark mark = mica_pool_get_mark(p->be, MICA_POOL_STEP);
    prefetch_layer(p, 0);
    MICA_TRY(enter(p, &x_LD, err));
    mica_pool_release(p->be, MICA_POOL_STEP, mark);
    for (int64_t n = 0; n < c->depth; n++) {
        prefetch_layer(p, n + 1);
        run_attention(p, &p->v->layers[n], c->whole[n], &x_LD);
        mica_pool_release(p->be, MICA_POOL_STEP, mark);
        run_mlp(p, &p->v->layers[n], &x_LD);
        mica_pool_release(p->be, MICA_POOL_STEP, mark);
        MICA_TRY(mica_run_block(p->run, p->be, (int)n + 1, (int)c->depth, err));
    }
    leave(p, &x_LD, tokens_ND);
    return mica_backend_check(p->be, err);
}

mica_status mica_qwen_vision_run(mica_qwen_vision *v, mica_backend *be, mica_run *run,
                                 const mica_qwen_pixels *pixels, mica_tensor *tokens_ND,
                                 mica_err *err)
{
    pass p = {.v = v, .be = be, .run = run, .pixels = pixels};
    p.L = (int64_t)pixels->h * pixels->w;
    p.N = mica_qwen_vision_tokens(&v->config, pixels);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = run_pass(&p, tokens_ND, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    mica_mem_free(p.tokens);
    mica_mem_free(p.starts);
    return st;
}
