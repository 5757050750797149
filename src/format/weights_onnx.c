/* weights_onnx.c - the initialisers of an ONNX file in the directory.
 *
 *     item of onnx.c ──aligned──► a view into the mapping
 *                    ──else─────► a copy: protocol buffers align nothing
 *                    ──turned───► a copy as [out, in], as every other format has it
 *
 * The copies are most of a file; converted once to safetensors it is mapped as it is. */
#include "format/onnx.h"
#include "format/weights_internal.h"

#include <string.h>

#define TILE 32 /* rows and columns of a turn: both sides stay in the nearest cache */

static void turn_tile(const uint8_t *from, uint8_t *to, size_t unit, int64_t rows, int64_t columns,
                      int64_t row, int64_t column)
{
    const int64_t last_row = MICA_MIN(row + TILE, rows),
                  last_column = MICA_MIN(column + TILE, columns);
    for (int64_t c = column; c < last_column; c++)
        for (int64_t r = row; r < last_row; r++)
            memcpy(to + (size_t)(c * rows + r) * unit, from + (size_t)(r * columns + c) * unit,
                   unit);
}

static void turn(const uint8_t *from, uint8_t *to, size_t unit, int64_t rows, int64_t columns)
{
    for (int64_t row = 0; row < rows; row += TILE)
        for (int64_t column = 0; column < columns; column += TILE)
            turn_tile(from, to, unit, rows, columns, row, column);
}

static mica_status take_item(mica_weights *w, size_t file, const mica_onnx_item *item,
                             mica_err *err)
{
    const mica_file_map *map = &w->files[file].map;
    const uint8_t *p = map->data + item->begin;
    const size_t unit = (size_t)mica_dtype_get(item->dtype)->size, size = (size_t)item->size;
    const int64_t *s = item->shape_, turned[] = {s[1], s[0]};
    mica_weights_entry *e = mica_arena_calloc(&w->arena, 1, sizeof *e);
    if (!e)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", w->path);
    void *data = (void *)(uintptr_t)p;
    if (size > 0 && !w->is_peek && ((uintptr_t)p % unit != 0 || item->is_transposed)) {
        MICA_TRY(mica_weights_new_copy(w, map->path, item->name, size, &data, err));
        if (item->is_transposed)
            turn(p, data, unit, s[0], s[1]);
        else
            memcpy(data, p, size);
    }
    e->tensor = mica_tensor_make(data, item->dtype, item->ndim, item->is_transposed ? turned : s);
    e->name = e->source = item->name;
    e->file = file;
    w->list[w->count++] = e;
    return MICA_OK;
}

mica_status mica_weights_take_onnx(mica_weights *w, size_t file, mica_err *err)
{
    const mica_file_map *map = &w->files[file].map;
    mica_onnx o;
    MICA_TRY(mica_onnx_parse(&o, map->path, map->data, map->size, &w->arena, err));
    if (!mica_weights_reserve(w, o.count))
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", w->path);
    for (size_t i = 0; i < o.count; i++)
        MICA_TRY(take_item(w, file, &o.items[i], err));
    return MICA_OK;
}
