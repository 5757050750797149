/* vae_table.c - see vae_table.h. Rows are made twice: counted, then written. */
#include "nn/vae_table.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void *mica_vae_new(size_t size, mica_err *err)
{
    mica_vae_base *vae = mica_mem_calloc(1, size);
    if (vae)
        mica_arena_init(&vae->arena, 1 << 16);
    else
        MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tables");
    return vae;
}

void mica_vae_free(mica_vae_base *vae)
{
    if (vae)
        mica_arena_deinit(&vae->arena);
    mica_mem_free(vae);
}

void mica_vae_table_add(mica_vae_table *t, mica_weight *place, const char *shape,
                        const char *format, ...)
{
    const size_t index = t->count++;
    if (!t->rows)
        return;
    char name[MICA_WEIGHT_NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const char *pattern = mica_arena_strndup(t->arena, name, strlen(name));
    const char *letters = mica_arena_strndup(t->arena, shape, strlen(shape));
    t->out_of_memory |= !pattern || !letters;
    t->rows[index] = (mica_weight_row){.pattern = pattern,
                                       .shape = letters,
                                       .offset = (size_t)((char *)place - (char *)t->vae),
                                       .flags = MICA_WEIGHT_SENSITIVE};
}

void mica_vae_table_conv(mica_vae_table *t, mica_nn_linear *place, char out, char in,
                         const char *kernel, const char *name)
{
    const char bias[] = {out, '\0'};
    char shape[8];
    snprintf(shape, sizeof shape, "%c%c%s", out, in, kernel);
    mica_vae_table_add(t, &place->w, shape, "%s.weight", name);
    mica_vae_table_add(t, &place->b, bias, "%s.bias", name);
}

static mica_status build(mica_vae_table *t, void (*add)(mica_vae_table *), mica_err *err)
{
    for (int pass = 0; pass < 2; pass++) {
        t->count = 0;
        add(t);
        if (pass == 0)
            t->rows = mica_arena_calloc(t->arena, t->count, sizeof *t->rows);
        if (!t->rows || t->out_of_memory)
            return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tensor table");
    }
    return MICA_OK;
}

static mica_status list_half(const mica_vae_layout *layout, const mica_vae_table *t,
                             mica_vae_list *list, mica_err *err)
{
    list->weights = mica_arena_calloc(t->arena, t->count, sizeof *list->weights);
    if (!list->weights)
        return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tensor list");
    for (size_t i = 0; i < t->count; i++) {
        mica_weight *w = (mica_weight *)(void *)((char *)layout->vae + t->rows[i].offset);
        if (layout->view(w))
            list->weights[list->count++] = w;
    }
    return MICA_OK;
}

int mica_vae_size(const mica_weights *w, const char *name, int dim)
{
    const mica_tensor *t = mica_weights_find(w, name);
    const bool good =
        t && dim < t->ndim && t->shape_[dim] > 0 && t->shape_[dim] <= MICA_VAE_MAX_CHANNELS;
    return good ? (int)t->shape_[dim] : 0;
}

static bool has_encoder(const mica_weights *w)
{
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (strncmp(mica_weights_name(w, i), "encoder.", 8) == 0)
            return true;
    return false;
}

mica_status mica_vae_bind(const mica_vae_layout *layout, const mica_weights *w, mica_err *err)
{
    mica_vae_base *vae = layout->vae;
    mica_vae_table tables[2];
    mica_weight_binder b;
    vae->has_encoder = has_encoder(w);
    const int halves = vae->has_encoder ? 2 : 1;
    for (int h = 0; h < halves; h++) {
        tables[h] = (mica_vae_table){.vae = vae, .files = w, .arena = &vae->arena};
        MICA_TRY(build(&tables[h], layout->add[h], err));
    }
    mica_weight_binder_init(&b, w, "vae", &layout->dims, &vae->arena);
    for (int h = 0; h < halves; h++)
        mica_weight_bind(&b, tables[h].rows, tables[h].count, 0, vae);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    for (int h = 0; h < halves; h++)
        MICA_TRY(list_half(layout, &tables[h], &vae->lists[h], err));
    return MICA_OK;
}

mica_status mica_vae_fill(const mica_vae_layout *layout, mica_weights *w, mica_arena *arena,
                          mica_err *err)
{
    for (int h = 0; h < 2; h++) {
        mica_vae_table t = {.vae = layout->vae, .arena = arena};
        MICA_TRY(build(&t, layout->add[h], err));
        MICA_TRY(mica_weight_fill(w, &layout->dims, arena, t.rows, t.count, 0, err));
    }
    return MICA_OK;
}

void mica_vae_drop(const mica_vae_base *vae, mica_backend *be)
{
    for (int h = 0; h < 2; h++)
        mica_backend_drop_weights(be, vae->lists[h].weights, vae->lists[h].count);
}
