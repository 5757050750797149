/* qwen_image_modulation.c - modulation vectors of many steps in one product per block; see
 * qwen_image_modulation.h.
 *
 * Reference: diffusers transformer_qwenimage.py, QwenTimestepProjEmbeddings, the img_mod and txt_mod
 * of QwenImageTransformerBlock, and AdaLayerNormContinuous (normalization.py), whose halves are
 * (scale, shift) where the blocks have (shift, scale, gate). With zero_cond_t the reference makes a
 * second vector at timestep 0 for the rows of reference pictures; here it is one more row, behind
 * those of the evaluations. */
#include "models/qwen_image/qwen_image_modulation.h"

#include "base/mem.h"
#include "nn/step_table.h"
#include "nn/timestep.h"

#define SINUSOIDS 256

static mica_tensor rows_of(const mica_tensor *table, int first, int count, int64_t width)
{
    const mica_tensor rows = mica_tensor_rows(table, first, count);
    return mica_tensor_reshape(&rows, 2,
                               (const int64_t[]){mica_tensor_count(&rows) / width, width});
}

/* Evaluations and timestep 0, then both of the current one. */
static int64_t rows_per_table(const mica_qwen_image_modulation *m)
{
    return m->capacity + 1 + 2 * m->zero;
}

mica_status mica_qwen_image_modulation_init(mica_qwen_image_modulation *m,
                                            mica_qwen_image_weights *w, mica_backend *be,
                                            mica_arena *arena, const float *timesteps,
                                            int evaluations, bool once, bool zero, mica_err *err)
{
    const int64_t D = w->config.width, layers = w->config.layers;
    *m = (mica_qwen_image_modulation){.w = w,
                                      .timesteps = timesteps,
                                      .evaluations = evaluations,
                                      .zero = zero,
                                      .current = MICA_QWEN_IMAGE_TIME_NONE};
    m->capacity = once ? MICA_MIN(evaluations, MICA_QWEN_IMAGE_MODULATION_STEPS) : 1;
    m->img_S6D = mica_arena_calloc(arena, (size_t)layers, sizeof *m->img_S6D);
    m->txt_S6D = mica_arena_calloc(arena, (size_t)layers, sizeof *m->txt_S6D);
    if (!m->img_S6D || !m->txt_S6D)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for modulation tables");
    const int64_t rows = rows_per_table(m) * 6, all[] = {layers * rows, D};
    m->img_BS6D = mica_state_tensor(be, MICA_POOL_SESSION, 2, all);
    m->txt_BS6D = mica_state_tensor(be, MICA_POOL_SESSION, 2, all);
    for (int64_t n = 0; n < layers; n++) {
        m->img_S6D[n] = mica_tensor_rows(&m->img_BS6D, n * rows, rows);
        m->txt_S6D[n] = mica_tensor_rows(&m->txt_BS6D, n * rows, rows);
    }
    const int64_t out[] = {rows_per_table(m) * 2, D};
    m->out_S2D = mica_state_tensor(be, MICA_POOL_SESSION, 2, out);
    return mica_backend_check(be, err);
}

/* The first evaluation's embedding, and timestep 0's under it. */
static void tap_embedding(const mica_qwen_image_modulation *m, mica_backend *be, mica_run *run,
                          const mica_tensor *temb_SD)
{
    const int64_t D = m->w->config.width;
    if (m->first != 0 || !mica_tap_wants(run->taps, "probe.time_text_embed"))
        return;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor rows = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){1 + m->zero, D});
    for (int i = 0; i < 1 + m->zero; i++) {
        const mica_tensor src = mica_tensor_rows(temb_SD, i ? m->count : 0, 1);
        mica_tensor dst = mica_tensor_rows(&rows, i, 1);
        mica_copy(be, &src, &dst);
    }
    mica_tap(run->taps, be, &rows, 0, NULL, "probe.time_text_embed");
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

/* Layered: row 0 of a small table beside the timestep's embedding; it says that the pictures have
 * transparency (is_rgb of the reference's pipeline). */
static void add_condition(mica_qwen_image_modulation *m, mica_backend *be, mica_tensor *temb_SD)
{
    static const int32_t HAS_ALPHA[MICA_QWEN_IMAGE_MODULATION_STEPS + 1] = {0};
    if (!m->w->config.layered)
        return;
    mica_tensor rows = mica_act_tensor(be, MICA_POOL_STEP, 2, temb_SD->shape_);
    mica_embed_rows(be, &m->w->addition, HAS_ALPHA, temb_SD->shape_[0], &rows);
    mica_add(be, temb_SD, &rows, temb_SD);
}

/* silu of the timestep embedding, [count (+ zero), D]. */
static mica_status embed_timesteps(mica_qwen_image_modulation *m, mica_backend *be, mica_run *run,
                                   mica_tensor *out_SD, mica_err *err)
{
    const int64_t D = m->w->config.width, S = m->count + m->zero;
    float *host = mica_mem_calloc((size_t)S * SINUSOIDS, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d timestep features", (int)S);
    for (int s = 0; s < S; s++)
        mica_timestep_features(s < m->count ? m->timesteps[m->first + s] : 0.0f, 1000.0f, SINUSOIDS,
                               m->round_bf16, host + (size_t)s * SINUSOIDS);
    mica_tensor x_ST = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){S, SINUSOIDS});
    mica_tensor hidden_SD = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){S, D});
    mica_upload_f32(be, &x_ST, host);
    mica_mem_free(host);
    mica_nn_linear_run(be, &m->w->time_1, &x_ST, MICA_ACT_SILU, &hidden_SD);
    mica_nn_linear_run(be, &m->w->time_2, &hidden_SD, MICA_ACT_NONE, out_SD);
    add_condition(m, be, out_SD);
    tap_embedding(m, be, run, out_SD);
    mica_silu(be, out_SD, out_SD);
    return mica_backend_check(be, err);
}

static void tap_block(const mica_qwen_image_modulation *m, mica_backend *be, mica_run *run, int n)
{
    const int64_t shape[] = {1, 6 * m->w->config.width};
    if (m->first != 0 || n > 1)
        return;
    const mica_tensor img = mica_tensor_rows(&m->img_S6D[n], 0, 6);
    const mica_tensor txt = mica_tensor_rows(&m->txt_S6D[n], 0, 6);
    mica_tap(run->taps, be, &img, 2, shape, "probe.transformer_blocks.%d.img_mod", n);
    mica_tap(run->taps, be, &txt, 2, shape, "probe.transformer_blocks.%d.txt_mod", n);
}

static void prefetch(mica_qwen_image_weights *w, mica_backend *be, int n)
{
    mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS];
    if (n < (int)w->config.layers)
        mica_backend_prefetch_weights(be, list,
                                      mica_qwen_image_list_modulation(&w->blocks[n], list));
}

static mica_status fill_tables(mica_qwen_image_modulation *m, mica_backend *be, mica_run *run,
                               const mica_tensor *temb_SD, bool drop, mica_err *err)
{
    mica_qwen_image_weights *w = m->w;
    const int64_t D = w->config.width;
    const mica_tensor steps_SD = mica_tensor_rows(temb_SD, 0, m->count); /* without timestep 0 */
    prefetch(w, be, 0);
    for (int n = 0; n < (int)w->config.layers; n++) {
        mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS];
        mica_tensor img = rows_of(&m->img_S6D[n], 0, (m->count + m->zero) * 6, 6 * D);
        mica_tensor txt = rows_of(&m->txt_S6D[n], 0, m->count * 6, 6 * D);
        prefetch(w, be, n + 1);
        mica_nn_linear_run(be, &w->blocks[n].img.mod, temb_SD, MICA_ACT_NONE, &img);
        mica_nn_linear_run(be, &w->blocks[n].txt.mod, &steps_SD, MICA_ACT_NONE, &txt);
        m->matmuls += 2;
        tap_block(m, be, run, n);
        if (drop)
            mica_backend_drop_weights(be, list,
                                      mica_qwen_image_list_modulation(&w->blocks[n], list));
        MICA_TRY(mica_run_block(run, be, n + 1, (int)w->config.layers, err));
    }
    mica_tensor out = rows_of(&m->out_S2D, 0, m->count * 2, 2 * D);
    mica_nn_linear_run(be, &w->norm_out, &steps_SD, MICA_ACT_NONE, &out);
    m->matmuls++;
    return mica_backend_check(be, err);
}

mica_status mica_qwen_image_modulation_prepare(mica_qwen_image_modulation *m, mica_backend *be,
                                               mica_run *run, int e, mica_err *err)
{
    if (e >= m->first && e < m->first + m->count)
        return MICA_OK;
    m->first = e;
    m->count = MICA_MIN(m->capacity, m->evaluations - e);
    /* One at a time means that every step reads the weights again, as without the technique. */
    const bool drop = m->capacity > 1 && e + m->count == m->evaluations;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const int64_t shape[] = {m->count + m->zero, m->w->config.width};
    mica_tensor temb_SD = mica_act_tensor(be, MICA_POOL_STEP, 2, shape);
    mica_status st = embed_timesteps(m, be, run, &temb_SD, err);
    if (!st)
        st = fill_tables(m, be, run, &temb_SD, drop, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

void mica_qwen_image_modulation_select(mica_qwen_image_modulation *m, mica_backend *be, int e)
{
    const int64_t layers = m->w->config.layers, R = rows_per_table(m), s = e - m->first;
    const int64_t to = m->capacity + m->zero;
    mica_step_table_select(be, &m->img_BS6D, layers, R * 6, s * 6, to * 6, 6);
    if (m->zero)
        mica_step_table_select(be, &m->img_BS6D, layers, R * 6, m->count * 6, (to + 1) * 6, 6);
    mica_step_table_select(be, &m->txt_BS6D, layers, R * 6, s * 6, to * 6, 6);
    mica_step_table_select(be, &m->out_S2D, 1, R * 2, s * 2, to * 2, 2);
    m->current = e;
}

/* The row of evaluation e, or of timestep 0. */
static int64_t place_of(const mica_qwen_image_modulation *m, int e)
{
    if (e == MICA_QWEN_IMAGE_TIME_ZERO)
        return m->current == MICA_QWEN_IMAGE_TIME_NONE ? m->count : m->capacity + m->zero + 1;
    return e == m->current ? m->capacity + m->zero : e - m->first;
}

mica_tensor mica_qwen_image_modulation_row(const mica_qwen_image_modulation *m,
                                           const mica_tensor *table, int e, int part)
{
    const int parts = table == &m->out_S2D ? 2 : 6;
    const mica_tensor row = mica_tensor_rows(table, place_of(m, e) * parts + part, 1);
    return mica_tensor_reshape(&row, 1, (const int64_t[]){m->w->config.width});
}
