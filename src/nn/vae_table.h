/* vae_table.h - tensor tables of autoencoders, made at run time from their sizes, and what runs of every
 * autoencoder are told.
 *
 *     sizes ─add(decoder), add(encoder)─► rows (name, shape letters, place)
 *                                           ├─► mica_vae_bind: every tensor checked, lists in order of use
 *                                           └─► mica_vae_fill: random weights
 *
 * Names have two numbers, hence no static table as in nn/weight_table.h. Everything is sensitive (never
 * below bf16): the network is a small part of a run and its errors are seen directly. */
#ifndef MICA_NN_VAE_TABLE_H
#define MICA_NN_VAE_TABLE_H

#include "nn/tap.h"
#include "nn/weight_table.h"

/* Called after each piece of work; false stops with MICA_E_CANCELLED. */
typedef bool (*mica_vae_progress_fn)(void *user, int done, int total);

typedef struct mica_vae_run_args {
    /* Rows of latents at a time: 0 automatic, -1 all at once, N > 0. The result is the same for every
     * value, only memory and speed differ. */
    int tile_rows;
    mica_vae_progress_fn progress; /* may be NULL */
    void *progress_user;
    const mica_tap_sink *taps; /* may be NULL; `probe.` names */
} mica_vae_run_args;

typedef struct mica_vae_list {
    mica_weight **weights; /* in order of use */
    int count;
} mica_vae_list;

/* First member of an autoencoder's own struct. */
typedef struct mica_vae_base {
    bool has_encoder;       /* else the file can only decode */
    mica_vae_list lists[2]; /* weights of decoder and encoder */
    mica_arena arena;       /* names and lists */
} mica_vae_base;

/* A struct of `size` bytes that begins with a mica_vae_base, the rest zero; NULL: no memory. Freed with
 * mica_vae_free, which accepts NULL. */
void *mica_vae_new(size_t size, mica_err *err);
void mica_vae_free(mica_vae_base *vae);

/* Rows under construction. */
typedef struct mica_vae_table {
    mica_vae_base *vae;        /* the struct that is bound: rows' offsets count from here */
    const mica_weights *files; /* NULL while filling */
    mica_arena *arena;
    mica_weight_row *rows; /* NULL while counting */
    size_t count;
    bool out_of_memory;
} mica_vae_table;

void mica_vae_table_add(mica_vae_table *t, mica_weight *place, const char *shape,
                        const char *format, ...) MICA_PRINTF(4, 5);
/* Weight and bias of a convolution; kernel: the shape letters behind [out, in]. */
void mica_vae_table_conv(mica_vae_table *t, mica_nn_linear *place, char out, char in,
                         const char *kernel, const char *name);

/* What an autoencoder says of itself. */
typedef struct mica_vae_layout {
    mica_vae_base *vae;
    mica_weight_dims dims;
    void (*add[2])(mica_vae_table *t); /* decoder, encoder; the same rows whenever called */
    /* The bound tensor as operations take it; false: checked but never computed. */
    bool (*view)(mica_weight *w);
} mica_vae_layout;

/* More channels than any autoencoder has: a file that says so is damaged. */
#define MICA_VAE_MAX_CHANNELS 16384

/* Dimension `dim` of a tensor, for sizes from shapes; 0 where it is absent or absurd, which the check of the sizes
 * then refuses. */
int mica_vae_size(const mica_weights *w, const char *name, int dim);
/* Binds the decoder and, where the file has any `encoder.` tensor, the encoder; lists all problems. */
mica_status mica_vae_bind(const mica_vae_layout *layout, const mica_weights *w, mica_err *err);
/* Random weights of both halves; `layout->vae` only gives the rows their places. */
mica_status mica_vae_fill(const mica_vae_layout *layout, mica_weights *w, mica_arena *arena,
                          mica_err *err);
/* Frees every prepared form of both halves and lets the pages go. */
void mica_vae_drop(const mica_vae_base *vae, mica_backend *be);

#endif
