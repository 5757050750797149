/* onnx.h - the weights of an ONNX file; the graph itself is not run.
 *
 *     ModelProto ─ graph ─┬─ initializer: name, sizes, dtype, bytes   ──► items
 *                         └─ node: MatMul(x, A) ─► Add(x, "a.b.bias") ──► A is "a.b.weight", turned
 *
 * torch's exporter turns the weights of linear layers, folds them and gives them numbers for names
 * ("onnx::MatMul_1543"); the bias added next to the product keeps its name and tells whose weight it
 * was. Reference: onnx/onnx.proto (ModelProto, GraphProto, NodeProto, TensorProto) and the encoding
 * of protocol buffers. Weights in files beside the .onnx are refused by name. */
#ifndef MICA_FORMAT_ONNX_H
#define MICA_FORMAT_ONNX_H

#include "base/arena.h"
#include "base/status.h"
#include "tensor/tensor.h"

typedef struct mica_onnx_item {
    const char *name;
    mica_dtype dtype;
    int ndim;
    int64_t shape_[MICA_MAX_DIMS];
    uint64_t begin; /* in the file; of any alignment */
    uint64_t size;  /* in bytes: what shape and dtype make */
    bool
        is_transposed; /* a matrix that lies [in, out] and is used as [out, in]: shape_ is as it lies */
} mica_onnx_item;

typedef struct mica_onnx {
    mica_onnx_item *items; /* in the order of the file; names differ */
    size_t count;
} mica_onnx;

/* By the first bytes: a message that begins with a version of ONNX. */
bool mica_onnx_is_image(const uint8_t *data, size_t size);
/* All memory comes from `arena`; items point into data by offset only. Initialisers of other kinds than
 * dense numbers (texts, sizes kept as varints) are left out. */
mica_status mica_onnx_parse(mica_onnx *o, const char *path, const uint8_t *data, size_t size,
                            mica_arena *arena, mica_err *err);

#endif
