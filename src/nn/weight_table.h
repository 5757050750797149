/* weight_table.h - what tensors a network needs, one table row each, and their binding.
 *
 *     {"transformer_blocks.%d.attn.to_q.weight", "DD", offsetof(block, q.w), 0}
 *       name, %d: the index given              shape letters     where the mica_weight goes
 *
 * A binder walks tables over a weight directory, fills the mica_weight of each row and
 * collects every problem (absent, misshapen, wrong dtype) instead of stopping at the first.
 * Nothing is read but headers. */
#ifndef MICA_NN_WEIGHT_TABLE_H
#define MICA_NN_WEIGHT_TABLE_H

#include "backend/backend.h"
#include "base/arena.h"
#include "base/json.h"
#include "format/weights.h"

enum {
    MICA_WEIGHT_OPTIONAL = 1, /* absent: the mica_weight keeps name == NULL */
    MICA_WEIGHT_SENSITIVE = 2,
    MICA_WEIGHT_CONSTANT = 4
};

typedef struct mica_weight_row {
    const char *pattern; /* tensor name, may hold one %d */
    const char *shape;   /* one letter per dimension, slowest first */
    size_t offset;       /* of the mica_weight inside the struct that is bound */
    unsigned flags;
} mica_weight_row;

/* Sizes by letter; a letter that a table uses must be set. */
typedef struct mica_weight_dims {
    int64_t of[128];
} mica_weight_dims;

typedef struct mica_weight_binder {
    const mica_weights *weights;
    const char *part; /* "transformer"; begins the message */
    mica_weight_dims dims;
    mica_arena *arena; /* keeps the names; lives as long as the mica_weights */
    size_t bound;      /* tensors found and right */
    int problems;
    mica_text text;
    bool out_of_memory;
} mica_weight_binder;

void mica_weight_binder_init(mica_weight_binder *b, const mica_weights *weights, const char *part,
                             const mica_weight_dims *dims, mica_arena *arena);
/* Binds `count` rows into the struct at `base`; index replaces %d. */
void mica_weight_bind(mica_weight_binder *b, const mica_weight_row *rows, size_t count, int index,
                      void *base);
/* MICA_E_FORMAT with all problems listed, or OK. Ends the binder. */
mica_status mica_weight_binder_finish(mica_weight_binder *b, mica_err *err);

/* The name a pattern gives at `index`. */
#define MICA_WEIGHT_NAME 192
void mica_weight_row_name(const mica_weight_row *row, int index, char out[MICA_WEIGHT_NAME]);
/* 1 + the largest N of the names `prefix`N`.`..., 0 without any; at most 10,000. */
int mica_weight_count_blocks(const mica_weights *weights, const char *prefix);

/* Pointers to the bound weights of one struct, in table order, for prefetch and drop; returns
 * how many. `list` holds `count` entries. */
int mica_weight_list(const mica_weight_row *rows, size_t count, void *base, mica_weight **list);

/* Weight and bias of one linear layer; bias.name == NULL: none. */
typedef struct mica_nn_linear {
    mica_weight w, b;
} mica_nn_linear;
/* y = act(x w^T + b). */
void mica_nn_linear_run(mica_backend *be, mica_nn_linear *l, const mica_tensor *x_MD, mica_act act,
                        mica_tensor *y_MO);
/* The same for the x of the linear before, which nothing has changed since (k and v behind q). */
void mica_nn_linear_again(mica_backend *be, mica_nn_linear *l, const mica_tensor *x_MD,
                          mica_act act, mica_tensor *y_MO);
/* Linears of one input: y[i] = x w[i]^T + b[i] for i < count <= MICA_NN_LINEARS. all_MN has their outputs side
 * by side, N of them; y[i] becomes the view of its columns. */
#define MICA_NN_LINEARS 4
void mica_nn_linears_run(mica_backend *be, mica_nn_linear *const *l, int count,
                         const mica_tensor *x_MD, const mica_tensor *all_MN, mica_tensor *y);
/* y = silu(gate) * up of two linears of one input (count 2: gate, up), or of one with the rows of both (count 1).
 * hidden[i]: room for what linear i makes, in vain where a device does all at once (mica_linear_swiglu). */
void mica_nn_swiglu_run(mica_backend *be, mica_nn_linear *const *l, int count,
                        const mica_tensor *x_MD, const mica_tensor *hidden, mica_tensor *y_MF);
/* A promise about the next operation: l and the linears beside it alone read what it makes (mica_next_is_operand).
 * Without effect for sensitive weights, whose x stays above fp8 as well. */
void mica_nn_next_feeds(mica_backend *be, const mica_nn_linear *l);
/* x += gate * (in w^T + b), in place; gate NULL: x += in w^T + b. */
void mica_nn_linear_gated(mica_backend *be, mica_nn_linear *l, const mica_tensor *in_MD,
                          const mica_tensor *gate_O, mica_tensor *x_MO);

/* How many of L rows go through an MLP at a time: pieces of one length, about `most` rows and at most
 * half as many again, so that none is too short to keep a device busy. */
int64_t mica_nn_piece(int64_t L, int64_t most);

/* Random weights for measurements: adds every required and optional tensor of the rows to a
 * directory opened empty, as bf16 in memory of its own (so that caches see what real weights
 * would do). Matrices ~ N(0, 0.02^2), vectors whose name ends in "norm..." ones. */
mica_status mica_weight_fill(mica_weights *w, const mica_weight_dims *dims, mica_arena *arena,
                             const mica_weight_row *rows, size_t count, int index, mica_err *err);

/* The same for many calls, and packed: bits 4 or 8 are MLX's groups of 64, 16 is bf16. Sensitive rows and
 * vectors stay bf16. windows: see weight_fill.c. */
typedef struct mica_weight_filler {
    mica_weights *w;
    const mica_weight_dims *dims;
    mica_arena *arena;
    int bits;
    bool windows;
    const uint16_t *pool;
    uint8_t *window;
} mica_weight_filler;
mica_status mica_weight_filler_init(mica_weight_filler *f, mica_weights *w,
                                    const mica_weight_dims *dims, mica_arena *arena, int bits,
                                    bool windows, mica_err *err);
mica_status mica_weight_filler_run(const mica_weight_filler *f, const mica_weight_row *rows,
                                   size_t count, int index, mica_err *err);

#endif
