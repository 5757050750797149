/* flux2_modulation.c - modulation vectors of many steps in one product each; see
 * flux2_modulation.h.
 *
 * Reference: diffusers transformer_flux2.py, Flux2TimestepGuidanceEmbeddings, Flux2Modulation, and
 * AdaLayerNormContinuous (normalization.py), whose halves are (scale, shift) where the blocks have
 * (shift, scale, gate). The reference multiplies the timestep by 1000 before the frequencies. */
#include "models/flux2/flux2_modulation.h"

#include "base/mem.h"
#include "nn/step_table.h"
#include "nn/timestep.h"

#define SINUSOIDS 256

mica_status mica_flux2_modulation_init(mica_flux2_modulation *m, mica_flux2_weights *w,
                                       mica_backend *be, const float *timesteps, int evaluations,
                                       bool once, mica_err *err)
{
    const int64_t D = w->config.width;
    *m = (mica_flux2_modulation){
        .w = w, .timesteps = timesteps, .evaluations = evaluations, .current = -1};
    m->capacity = once ? MICA_MIN(evaluations, MICA_FLUX2_MODULATION_STEPS) : 1;
    const int64_t rows = m->capacity + 1;
    const int64_t six[] = {rows * 6, D}, three[] = {rows * 3, D}, one[] = {rows, D};
    m->img_S6D = mica_state_tensor(be, MICA_POOL_SESSION, 2, six);
    m->txt_S6D = mica_state_tensor(be, MICA_POOL_SESSION, 2, six);
    m->mix_S3D = mica_state_tensor(be, MICA_POOL_SESSION, 2, three);
    m->scale_SD = mica_state_tensor(be, MICA_POOL_SESSION, 2, one);
    m->shift_SD = mica_state_tensor(be, MICA_POOL_SESSION, 2, one);
    return mica_backend_check(be, err);
}

/* silu of the timestep embedding, [count, D]. */
static mica_status embed_timesteps(mica_flux2_modulation *m, mica_backend *be,
                                   const mica_tap_sink *taps, mica_tensor *out_SD, mica_err *err)
{
    const int64_t D = m->w->config.width;
    float *host = mica_mem_calloc((size_t)m->count * SINUSOIDS, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %d timestep features", m->count);
    for (int s = 0; s < m->count; s++)
        mica_timestep_features(m->timesteps[m->first + s] * 1000.0f, 1.0f, SINUSOIDS, m->round_bf16,
                               host + (size_t)s * SINUSOIDS);
    mica_tensor x_ST =
        mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){m->count, SINUSOIDS});
    mica_tensor hidden_SD = mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){m->count, D});
    mica_upload_f32(be, &x_ST, host);
    mica_mem_free(host);
    mica_nn_linear_run(be, &m->w->time_1, &x_ST, MICA_ACT_SILU, &hidden_SD);
    mica_nn_linear_run(be, &m->w->time_2, &hidden_SD, MICA_ACT_NONE, out_SD);
    if (m->first == 0) {
        const mica_tensor row = mica_tensor_rows(out_SD, 0, 1);
        mica_tap(taps, be, &row, 0, NULL, "probe.time_guidance_embed");
    }
    mica_silu(be, out_SD, out_SD);
    return mica_backend_check(be, err);
}

/* One linear for all evaluations of the tables. `name` (may be NULL): the tap of the first one. */
static void fill(mica_flux2_modulation *m, mica_backend *be, const mica_tap_sink *taps,
                 mica_nn_linear *linear, const mica_tensor *temb_SD, int parts,
                 const mica_tensor *table, const char *name)
{
    const int64_t width = parts * m->w->config.width;
    const mica_tensor rows = mica_tensor_rows(table, 0, (int64_t)m->count * parts);
    mica_tensor out = mica_tensor_reshape(&rows, 2, (const int64_t[]){m->count, width});
    mica_nn_linear_run(be, linear, temb_SD, MICA_ACT_NONE, &out);
    m->matmuls++;
    const mica_tensor first = mica_tensor_rows(&out, 0, 1);
    if (name && m->first == 0)
        mica_tap(taps, be, &first, 0, NULL, "%s", name);
}

mica_status mica_flux2_modulation_prepare(mica_flux2_modulation *m, mica_backend *be,
                                          const mica_tap_sink *taps, int e, mica_err *err)
{
    mica_flux2_weights *w = m->w;
    if (e >= m->first && e < m->first + m->count)
        return MICA_OK;
    m->first = e;
    m->count = MICA_MIN(m->capacity, m->evaluations - e);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor temb_SD =
        mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){m->count, w->config.width});
    mica_status st = embed_timesteps(m, be, taps, &temb_SD, err);
    if (!st) {
        fill(m, be, taps, &w->mod_img, &temb_SD, 6, &m->img_S6D,
             "probe.double_stream_modulation_img");
        fill(m, be, taps, &w->mod_txt, &temb_SD, 6, &m->txt_S6D,
             "probe.double_stream_modulation_txt");
        fill(m, be, taps, &w->mod_single, &temb_SD, 3, &m->mix_S3D,
             "probe.single_stream_modulation");
        fill(m, be, taps, &w->norm_scale, &temb_SD, 1, &m->scale_SD, NULL);
        fill(m, be, taps, &w->norm_shift, &temb_SD, 1, &m->shift_SD, NULL);
        st = mica_backend_check(be, err);
    }
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

void mica_flux2_modulation_select(mica_flux2_modulation *m, mica_backend *be, int e)
{
    const struct {
        const mica_tensor *table;
        int parts;
    } tables[] = {
        {&m->img_S6D, 6}, {&m->txt_S6D, 6}, {&m->mix_S3D, 3}, {&m->scale_SD, 1}, {&m->shift_SD, 1}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(tables); i++) {
        const int64_t parts = tables[i].parts;
        mica_step_table_select(be, tables[i].table, 1, (m->capacity + 1) * parts,
                               (e - m->first) * parts, m->capacity * parts, parts);
    }
    m->current = e;
}

mica_tensor mica_flux2_modulation_row(const mica_flux2_modulation *m, const mica_tensor *table,
                                      int parts, int e, int part)
{
    const int64_t s = e == m->current ? m->capacity : e - m->first;
    const mica_tensor row = mica_tensor_rows(table, s * parts + part, 1);
    return mica_tensor_reshape(&row, 1, (const int64_t[]){m->w->config.width});
}
