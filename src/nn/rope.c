/* rope.c - rotary tables on the host; see rope.h.
 *
 * Angles are products of f32 numbers, as in the reference, and only then go through cos and
 * sin: at position 4,000 a frequency off by one unit in the last place moves an angle by
 * 2e-4, a frequency in f64 by more than the tolerance of a golden vector. */
#include "nn/rope.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>

void mica_rope_frequencies(float theta, int dim, float *out)
{
    for (int i = 0; i < dim / 2; i++) {
        const float power = (float)pow((double)theta, (double)((float)(2 * i) / (float)dim));
        out[i] = 1.0f / power;
    }
}

void mica_rope_table_upload(mica_backend *be, mica_pool pool, int64_t rows, int half,
                            const float *cos, const float *sin, mica_rope_table *out)
{
    out->cos_Lk = mica_state_tensor(be, pool, 2, (const int64_t[]){rows, half});
    out->sin_Lk = mica_state_tensor(be, pool, 2, (const int64_t[]){rows, half});
    mica_upload_f32(be, &out->cos_Lk, cos);
    mica_upload_f32(be, &out->sin_Lk, sin);
}

mica_rope_table mica_rope_table_rows(const mica_rope_table *t, int64_t count)
{
    return (mica_rope_table){mica_tensor_rows(&t->cos_Lk, 0, count),
                             mica_tensor_rows(&t->sin_Lk, 0, count)};
}

/* Host memory: frequencies [half], then cos and sin [rows, half]. */
static float *alloc_table(int64_t rows, int half, mica_err *err)
{
    size_t count;
    float *host = NULL;
    if (mica_mul_size((size_t)rows * 2 + 1, (size_t)half, &count))
        host = mica_mem_calloc(count, sizeof *host);
    if (!host)
        mica_err_set(err, MICA_E_NOMEM, "no memory for a rotary table of %lld positions",
                     (long long)rows);
    return host;
}

mica_status mica_rope_build_lm(mica_backend *be, mica_pool pool, int64_t rows, int head_dim,
                               double theta, mica_rope_table *out, mica_err *err)
{
    const int half = head_dim / 2;
    float *host = alloc_table(rows, half, err);
    if (!host)
        return MICA_E_NOMEM;
    float *freq = host, *cos_Lk = host + half, *sin_Lk = cos_Lk + rows * half;
    mica_rope_frequencies((float)theta, head_dim, freq);
    for (int64_t l = 0; l < rows; l++)
        for (int i = 0; i < half; i++) {
            const float angle = (float)l * freq[i];
            cos_Lk[l * half + i] = cosf(angle);
            sin_Lk[l * half + i] = sinf(angle);
        }
    mica_rope_table_upload(be, pool, rows, half, cos_Lk, sin_Lk, out);
    mica_mem_free(host);
    return MICA_OK;
}

mica_status mica_rope_build_sections(mica_backend *be, mica_pool pool, const int32_t *positions_L3,
                                     int64_t rows, const int pairs[3], double theta,
                                     mica_rope_table *out, mica_err *err)
{
    const int half = pairs[0] + pairs[1] + pairs[2];
    float *host = alloc_table(rows, half, err);
    if (!host)
        return MICA_E_NOMEM;
    float *freq = host, *cos_Lk = host + half, *sin_Lk = cos_Lk + rows * half;
    mica_rope_frequencies((float)theta, 2 * half, freq);
    for (int64_t l = 0; l < rows; l++)
        for (int i = 0; i < half; i++) {
            const int axis = i < pairs[0] ? 0 : i < pairs[0] + pairs[1] ? 1 : 2;
            const float angle = (float)positions_L3[3 * l + axis] * freq[i];
            cos_Lk[l * half + i] = cosf(angle);
            sin_Lk[l * half + i] = sinf(angle);
        }
    mica_rope_table_upload(be, pool, rows, half, cos_Lk, sin_Lk, out);
    mica_mem_free(host);
    return MICA_OK;
}
