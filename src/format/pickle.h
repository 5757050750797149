/* pickle.h - the data of a Python pickle, read without running anything.
 *
 *     bytes ──opcodes──► tree of values        None, numbers, text, lists, dicts,
 *                                              tensors (torch), objects that mean nothing here
 *
 * A pickle is a program for a stack machine whose instructions include "call this". Here a
 * callable is a name and nothing more: a few names are known to mean a dict, a tuple or a
 * tensor (see NAMES in pickle.c), every other call gives an OBJECT with the name and without
 * content. Names that only an attack has a use for (os.system, builtins.eval, ...) refuse the
 * whole file.
 *
 * Trees may share nodes and even contain themselves: whoever walks one bounds its own depth. */
#ifndef MICA_FORMAT_PICKLE_H
#define MICA_FORMAT_PICKLE_H

#include "base/arena.h"
#include "tensor/tensor.h"

#define MICA_PICKLE_MAX_SIZE   ((size_t)64 << 20)
#define MICA_PICKLE_MAX_VALUES ((size_t)1 << 20)

typedef enum mica_pickle_kind {
    MICA_PICKLE_NONE = 0,
    MICA_PICKLE_BOOL,
    MICA_PICKLE_INT,
    MICA_PICKLE_FLOAT,
    MICA_PICKLE_TEXT,   /* str and bytes */
    MICA_PICKLE_LIST,   /* list, tuple and set */
    MICA_PICKLE_DICT,   /* dict, OrderedDict, and utils.HParams as the dict of its attributes */
    MICA_PICKLE_NAME,   /* a class or function */
    MICA_PICKLE_OBJECT, /* what calling an unknown name would give */
    MICA_PICKLE_STORAGE,
    MICA_PICKLE_TENSOR
} mica_pickle_kind;

typedef struct mica_pickle_value mica_pickle_value;

/* Elements of a tensor: entry `key` of the archive. Nothing is checked against it here. */
typedef struct mica_pickle_tensor {
    const char *key;
    mica_dtype dtype;
    int64_t storage_count; /* elements of the storage, >= 0 */
    int64_t offset;        /* in elements, >= 0 */
    int ndim;
    int64_t shape_[MICA_MAX_DIMS], stride_[MICA_MAX_DIMS]; /* >= 0 */
} mica_pickle_tensor;

struct mica_pickle_value {
    mica_pickle_kind kind;
    union {
        int64_t integer; /* BOOL, INT */
        double number;
        struct {
            const char *data; /* NUL-terminated; may hold NULs */
            size_t size;
        } text; /* TEXT; NAME and OBJECT: "module.name" */
        struct {
            mica_pickle_value **items; /* DICT: key, value, key, value, ... */
            size_t count, cap;         /* items */
        } list;
        mica_pickle_tensor *tensor; /* STORAGE (shape unset) and TENSOR */
    } as;
};

/* All memory comes from `arena`, nothing points into data. `path` is for messages. */
mica_status mica_pickle_parse(mica_pickle_value **root, const char *path, const uint8_t *data,
                              size_t size, mica_arena *arena, mica_err *err);

/* The value of a text key of a dict, the last one if it is there twice; NULL: none. */
const mica_pickle_value *mica_pickle_get(const mica_pickle_value *dict, const char *key);

#endif
