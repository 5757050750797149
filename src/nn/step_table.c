/* step_table.c - see step_table.h. */
#include "nn/step_table.h"

static mica_tensor groups_of(const mica_tensor *all, int64_t groups, int64_t rows, int64_t first,
                             int64_t count)
{
    const int64_t width = all->shape_[1];
    mica_tensor t = mica_tensor_2d(all->data, all->dtype, groups, count * width);
    if (t.data)
        t.data = (char *)t.data + first * width * mica_dtype_get(t.dtype)->size;
    t.stride_[0] = rows * width;
    return t;
}

void mica_step_table_select(mica_backend *be, const mica_tensor *all, int64_t groups, int64_t rows,
                            int64_t from, int64_t to, int64_t count)
{
    const mica_tensor src = groups_of(all, groups, rows, from, count);
    mica_tensor dst = groups_of(all, groups, rows, to, count);
    mica_copy(be, &src, &dst);
}
