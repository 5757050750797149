/* zimage_probe.c - positions and rotations of all items behind each other, for traces.
 *
 *     image     item 0: h w tokens, padding    item 1: ...
 *     caption   item 0: T rows, then as many rows at (0, 0, 0) as it has padding    item 1: ...
 *
 * The reference numbers the padded caption and then appends positions for its padding once more
 * (transformer_z_image.py, patchify_and_embed and _pad_with_ids); what is too much is cut off
 * before use, but it is in the tables. */
#include "models/zimage/zimage_probe.h"

#include "base/mem.h"
#include "models/zimage/zimage_rope.h"

typedef struct rope_probe {
    int32_t *ids_L3;
    float *cos_Lk, *sin_Lk;
    int64_t rows;
} rope_probe;

static void add_row(rope_probe *t, const mica_zimage_config *c, const int position[3])
{
    const int64_t half = c->head_dim / 2;
    for (int a = 0; a < 3; a++)
        t->ids_L3[3 * t->rows + a] = position[a];
    mica_zimage_rotation(c, position, t->cos_Lk + t->rows * half, t->sin_Lk + t->rows * half);
    t->rows++;
}

static void write_probe(const mica_diffusion *d, const rope_probe *t, int64_t half,
                        const char *name)
{
    const mica_tensor ids = mica_tensor_2d(t->ids_L3, MICA_DTYPE_I32, t->rows, 3);
    const mica_tensor cos = mica_tensor_2d(t->cos_Lk, MICA_DTYPE_F32, t->rows, half);
    const mica_tensor sin = mica_tensor_2d(t->sin_Lk, MICA_DTYPE_F32, t->rows, half);
    mica_tap_host(d->run.taps, &ids, "probe.rope.%s_ids", name);
    mica_tap_host(d->run.taps, &cos, "probe.rope.%s.cos", name);
    mica_tap_host(d->run.taps, &sin, "probe.rope.%s.sin", name);
}

static void add_picture(const mica_diffusion *d, const mica_zimage_config *c, int64_t T,
                        rope_probe *t)
{
    for (int64_t r = 0; r < mica_zimage_padded(d->plan.P); r++) {
        int position[3];
        mica_zimage_place_picture(r, d->plan.h, d->plan.w, T, position);
        add_row(t, c, position);
    }
}

static void add_caption(const mica_zimage_config *c, int64_t tokens, rope_probe *t)
{
    const int64_t T = mica_zimage_padded(tokens);
    for (int64_t r = 0; r < T + (T - tokens); r++) {
        int position[3] = {0, 0, 0};
        if (r < T)
            mica_zimage_place_caption(r, position);
        add_row(t, c, position);
    }
}

mica_status mica_zimage_probe_rope(mica_diffusion *d, const mica_zimage_config *c, mica_err *err)
{
    const int conditions = d->plan.guided ? 2 : 1, items = conditions * d->plan.pictures;
    const int64_t half = c->head_dim / 2;
    int64_t most = mica_zimage_padded(d->plan.P);
    if (!mica_tap_wants(d->run.taps, "probe.rope.image_ids"))
        return MICA_OK;
    for (int i = 0; i < conditions; i++)
        most = MICA_MAX(most, 2 * mica_zimage_padded(d->text[i].valid));
    const size_t rows = (size_t)(items * most);
    rope_probe t = {.ids_L3 = mica_mem_calloc(rows * 3, sizeof *t.ids_L3),
                    .cos_Lk = mica_mem_calloc(rows * (size_t)half, sizeof *t.cos_Lk),
                    .sin_Lk = mica_mem_calloc(rows * (size_t)half, sizeof *t.sin_Lk)};
    mica_status st = MICA_OK;
    if (!t.ids_L3 || !t.cos_Lk || !t.sin_Lk) {
        st = MICA_FAIL(err, MICA_E_NOMEM, "no memory to trace %zu positions", rows);
    } else {
        for (int i = 0; i < items; i++)
            add_picture(d, c, mica_zimage_padded(d->text[i / d->plan.pictures].valid), &t);
        write_probe(d, &t, half, "image");
        t.rows = 0;
        for (int i = 0; i < items; i++)
            add_caption(c, d->text[i / d->plan.pictures].valid, &t);
        write_probe(d, &t, half, "caption");
    }
    mica_mem_free(t.ids_L3);
    mica_mem_free(t.cos_Lk);
    mica_mem_free(t.sin_Lk);
    return st;
}
