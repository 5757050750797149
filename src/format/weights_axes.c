/* weights_axes.c - convolutions whose channels stand last, as MLX stores them.
 *
 *     [O, Y, X, C]  or  [O, T, Y, X, C]   ──►   [O, C, Y, X]  or  [O, C, T, Y, X]
 *
 * What reads weights knows one order of axes. The moved tensors are copies: autoencoders and first layers of
 * vision towers, some 250 MB at most, are the only networks with convolutions that such files hold. */
#include "format/weights_internal.h"

#include <string.h>

bool mica_weights_is_channels_last(const mica_tensor *t)
{
    const int n = t ? t->ndim : 0;
    return n >= 4 && n <= 5 && t->shape_[n - 3] == t->shape_[n - 2] &&
           t->shape_[n - 1] != t->shape_[n - 2];
}

/* [O, K, C] as [O, C, K], elements of `unit` bytes. */
static void turn(const uint8_t *from, uint8_t *to, int64_t O, int64_t K, int64_t C, size_t unit)
{
    for (int64_t o = 0; o < O; o++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t k = 0; k < K; k++, to += unit)
                memcpy(to, from + (size_t)((o * K + k) * C + c) * unit, unit);
}

static mica_status move_channels(mica_weights *w, mica_weights_entry *e, mica_err *err)
{
    mica_tensor *t = &e->tensor;
    int64_t shape[MICA_MAX_DIMS] = {t->shape_[0], t->shape_[t->ndim - 1]}, K = 1;
    for (int i = 1; i < t->ndim - 1; i++) {
        shape[i + 1] = t->shape_[i];
        K *= t->shape_[i];
    }
    const size_t size = mica_tensor_size(t);
    void *data = t->data;
    if (size > 0 && !w->is_peek) {
        MICA_TRY(mica_weights_new_copy(w, mica_weights_file_path(w, e), e->name, size, &data, err));
        turn(t->data, data, shape[0], K, shape[1], (size_t)mica_dtype_get(t->dtype)->size);
    }
    *t = mica_tensor_make(data, t->dtype, t->ndim, shape);
    return MICA_OK;
}

mica_status mica_weights_channels_first(mica_weights *w, mica_err *err)
{
    for (size_t i = 0; i < w->count; i++) {
        const mica_tensor *t = &w->list[i]->tensor;
        if ((t->ndim == 4 || t->ndim == 5) && !mica_dtype_is_packed(t->dtype) && !t->scale.data)
            MICA_TRY(move_channels(w, w->list[i], err));
    }
    return MICA_OK;
}
