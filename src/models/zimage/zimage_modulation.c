/* zimage_modulation.c - modulation vectors of many steps in one product per block; see
 * zimage_modulation.h.
 *
 * Reference: diffusers transformer_z_image.py, TimestepEmbedder, the adaLN_modulation of
 * ZImageTransformerBlock (no SiLU in front) and of FinalLayer (SiLU in front). */
#include "models/zimage/zimage_modulation.h"

#include "base/mem.h"
#include "nn/step_table.h"
#include "nn/timestep.h"

#define SINUSOIDS 256

mica_status mica_zimage_modulation_init(mica_zimage_modulation *m, mica_zimage_weights *w,
                                        mica_backend *be, mica_arena *arena, const float *times,
                                        int evaluations, bool once, mica_err *err)
{
    const int64_t D = w->config.width;
    const int blocks = mica_zimage_step_blocks(w);
    *m =
        (mica_zimage_modulation){.w = w, .times = times, .evaluations = evaluations, .current = -1};
    m->capacity = once ? MICA_MIN(evaluations, MICA_ZIMAGE_MODULATION_STEPS) : 1;
    m->block_S4D = mica_arena_calloc(arena, (size_t)blocks, sizeof *m->block_S4D);
    if (!m->block_S4D)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for modulation tables");
    const int64_t rows = (m->capacity + 1) * MICA_ZIMAGE_MOD_PARTS, all[] = {blocks * rows, D};
    m->all_BS4D = mica_state_tensor(be, MICA_POOL_SESSION, 2, all);
    for (int n = 0; n < blocks; n++)
        m->block_S4D[n] = mica_tensor_rows(&m->all_BS4D, n * rows, rows);
    m->out_SD = mica_state_tensor(be, MICA_POOL_SESSION, 2, (const int64_t[]){m->capacity + 1, D});
    return mica_backend_check(be, err);
}

/* What adaLN reads, [count, A]. The reference multiplies the time by 1000 first and by the
 * frequency then. */
static mica_status embed_times(mica_zimage_modulation *m, mica_backend *be, mica_run *run,
                               mica_tensor *out_SA, mica_err *err)
{
    const float scale = (float)m->w->config.time_scale;
    float *host = mica_mem_calloc((size_t)m->count * SINUSOIDS, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d timestep features", m->count);
    for (int s = 0; s < m->count; s++)
        mica_timestep_features(m->times[m->first + s] * scale, 1.0f, SINUSOIDS, false,
                               host + (size_t)s * SINUSOIDS);
    const int64_t x[] = {m->count, SINUSOIDS}, hidden[] = {m->count, m->w->config.time_hidden};
    mica_tensor x_SS = mica_act_tensor(be, MICA_POOL_STEP, 2, x);
    mica_tensor hidden_SN = mica_act_tensor(be, MICA_POOL_STEP, 2, hidden);
    mica_upload_f32(be, &x_SS, host);
    mica_mem_free(host);
    mica_nn_linear_run(be, &m->w->time_1, &x_SS, MICA_ACT_SILU, &hidden_SN);
    mica_nn_linear_run(be, &m->w->time_2, &hidden_SN, MICA_ACT_NONE, out_SA);
    if (m->first == 0) {
        const mica_tensor row = mica_tensor_rows(out_SA, 0, 1);
        mica_tap(run->taps, be, &row, 0, NULL, "probe.t_embedder");
    }
    return mica_backend_check(be, err);
}

/* The gates of all steps: every second row. */
static mica_tensor gates_of(const mica_tensor *table_S4D, int64_t count)
{
    mica_tensor gates = mica_tensor_rows(table_S4D, MICA_ZIMAGE_ATTN_GATE, 2 * count);
    gates.stride_[0] *= 2;
    return gates;
}

static void prefetch(mica_zimage_weights *w, mica_backend *be, int n)
{
    mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS];
    if (n < mica_zimage_step_blocks(w))
        mica_backend_prefetch_weights(
            be, list, mica_zimage_list_modulation(mica_zimage_step_block(w, n), list));
}

static void fill_block(mica_zimage_modulation *m, mica_backend *be, const mica_tensor *time_SA,
                       int n)
{
    const int64_t wide[] = {m->count, MICA_ZIMAGE_MOD_PARTS * m->w->config.width};
    const mica_tensor *table = &m->block_S4D[n];
    const mica_tensor rows = mica_tensor_rows(table, 0, (int64_t)m->count * MICA_ZIMAGE_MOD_PARTS);
    mica_tensor out = mica_tensor_reshape(&rows, 2, wide), gates = gates_of(table, m->count);
    mica_nn_linear_run(be, &mica_zimage_step_block(m->w, n)->mod, time_SA, MICA_ACT_NONE, &out);
    mica_tanh(be, &gates, &gates);
    m->matmuls++;
}

static mica_status fill_tables(mica_zimage_modulation *m, mica_backend *be, mica_run *run,
                               mica_tensor *time_SA, bool drop, mica_err *err)
{
    const int blocks = mica_zimage_step_blocks(m->w);
    prefetch(m->w, be, 0);
    for (int n = 0; n < blocks; n++) {
        mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS];
        prefetch(m->w, be, n + 1);
        fill_block(m, be, time_SA, n);
        if (drop)
            mica_backend_drop_weights(
                be, list, mica_zimage_list_modulation(mica_zimage_step_block(m->w, n), list));
        MICA_TRY(mica_run_block(run, be, n + 1, blocks, err));
    }
    mica_tensor out = mica_tensor_rows(&m->out_SD, 0, m->count);
    mica_silu(be, time_SA, time_SA);
    mica_nn_linear_run(be, &m->w->out_mod, time_SA, MICA_ACT_NONE, &out);
    m->matmuls++;
    return mica_backend_check(be, err);
}

mica_status mica_zimage_modulation_prepare(mica_zimage_modulation *m, mica_backend *be,
                                           mica_run *run, int e, mica_err *err)
{
    if (e >= m->first && e < m->first + m->count)
        return MICA_OK;
    m->first = e;
    m->count = MICA_MIN(m->capacity, m->evaluations - e);
    /* One at a time means that every step reads the weights again, as without the technique. */
    const bool drop = m->capacity > 1 && e + m->count == m->evaluations;
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const int64_t shape[] = {m->count, m->w->config.time_width};
    mica_tensor time_SA = mica_act_tensor(be, MICA_POOL_STEP, 2, shape);
    mica_status st = embed_times(m, be, run, &time_SA, err);
    if (!st)
        st = fill_tables(m, be, run, &time_SA, drop, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

static mica_tensor row_of(const mica_zimage_modulation *m, const mica_tensor *table, int64_t row)
{
    const mica_tensor one = mica_tensor_rows(table, row, 1);
    return mica_tensor_reshape(&one, 1, (const int64_t[]){m->w->config.width});
}

void mica_zimage_modulation_select(mica_zimage_modulation *m, mica_backend *be, int e)
{
    const int64_t parts = MICA_ZIMAGE_MOD_PARTS, rows = m->capacity + 1, s = e - m->first;
    mica_step_table_select(be, &m->all_BS4D, mica_zimage_step_blocks(m->w), rows * parts, s * parts,
                           m->capacity * parts, parts);
    mica_step_table_select(be, &m->out_SD, 1, rows, s, m->capacity, 1);
    m->current = e;
}

/* Where the rows of evaluation e begin. */
static int64_t place_of(const mica_zimage_modulation *m, int e)
{
    return e == m->current ? m->capacity : e - m->first;
}

mica_tensor mica_zimage_modulation_row(const mica_zimage_modulation *m, int n, int e, int part)
{
    return row_of(m, &m->block_S4D[n], place_of(m, e) * MICA_ZIMAGE_MOD_PARTS + part);
}

mica_tensor mica_zimage_modulation_out(const mica_zimage_modulation *m, int e)
{
    return row_of(m, &m->out_SD, place_of(m, e));
}
