/* kl_vae_internal.h - what the files of the autoencoder share.
 *
 *   _config.c   sizes from config.json or from tensor shapes
 *   _names.c    LDM/BFL names to diffusers names
 *   _weights.c  the table of all tensors, binding
 *   _layers.c   one layer over a whole picture, in bands of rows
 *   _run.c      the layers in order: decode, encode
 *
 * Two pictures (planes) are in memory, x between blocks and h inside a block, each with the moments
 * of its rows, from which the norm that reads it takes mean and variance:
 *
 *      x ─norm1 SiLU─► |band + a row above and below| ─conv1─► h, moments of h
 *      h ─norm2 SiLU─► |band + a row above and below| ─conv2─► + shortcut of x ─► x, moments of x
 *
 * Only the normed band is scratch. Layers that change the size work in place as well: from the top
 * when rows get smaller, from the bottom when they grow, so that no row is overwritten unread.
 *
 * Where a block of the decoder halves the channels at least, x has room for both: band by band its rows give way
 * to those of its shortcut and of h (slots), and both stay there until the level ends. At the last level x is the
 * largest that there is, so it and a band are all the memory that a decode takes; before, h lies at the end of
 * x's store. On devices, with whole pictures and with taps every plane has a store of its own.
 *
 *      rows of x |<- n rows, 2 C channels ->|<-            ->|...      n: rows of a band
 *                | n rows of s | n rows of h| n rows of s |  |...      s: x of the block's end, in place
 *
 * A run goes through its layers twice: counting (planes and scratch: how large; progress: how many
 * layers), then computing. So there is one description of the network. */
#ifndef MICA_NN_KL_VAE_INTERNAL_H
#define MICA_NN_KL_VAE_INTERNAL_H

#include "nn/kl_vae.h"

#define MICA_KL_VAE_MAX_RES 8 /* residual blocks of one level of the decoder */
#define MICA_KL_VAE_EPS     1e-6f

/* ------------------------------------------------------------------ weights -- */

typedef struct mica_kl_norm {
    mica_weight gamma, beta;
} mica_kl_norm;

/* Convolutions are [O, C, 3, 3], the 1x1 ones 2-D views [O, C]. */
typedef struct mica_kl_res {
    mica_kl_norm norm1, norm2;
    mica_nn_linear conv1, conv2, shortcut; /* shortcut.w.name == NULL: the input itself */
} mica_kl_res;

typedef struct mica_kl_mid {
    mica_kl_res res[2];
    mica_kl_norm norm;
    mica_nn_linear q, k, v, out; /* absent without attention */
} mica_kl_mid;

typedef struct mica_kl_level {
    mica_kl_res res[MICA_KL_VAE_MAX_RES];
    mica_nn_linear resample; /* absent in the last level */
} mica_kl_level;

typedef struct mica_kl_half {
    mica_nn_linear conv_in, conv_out;
    mica_nn_linear quant; /* decoder: post_quant_conv; may be absent */
    mica_kl_norm norm_out;
    mica_kl_mid mid;
    mica_kl_level level[MICA_KL_VAE_MAX_LEVELS]; /* in order of use */
} mica_kl_half;

struct mica_kl_vae {
    mica_vae_base base; /* its lists by mica_kl_vae_half */
    mica_kl_vae_config config;
    mica_kl_half half[2]; /* likewise */
};

/* Channels that enter and leave level `i` (in order of use) of a half. */
int mica_kl_level_in(const mica_kl_vae_config *c, mica_kl_vae_half half, int i);
int mica_kl_level_out(const mica_kl_vae_config *c, mica_kl_vae_half half, int i);
/* Channels of the mid block. */
int mica_kl_mid_channels(const mica_kl_vae_config *c, mica_kl_vae_half half);
/* Residual blocks of one level. */
int mica_kl_level_blocks(const mica_kl_vae_config *c, mica_kl_vae_half half);
/* Every size within the limits of the tables and of later products. */
mica_status mica_kl_config_check(const mica_kl_vae_config *c, const char *source, mica_err *err);

/* --------------------------------------------------------------------- runs -- */

typedef struct mica_kl_plane {
    mica_tensor store;   /* [elements]; the picture fills its beginning */
    mica_tensor moments; /* [rows, G, 2]; data NULL: not wanted */
    int64_t Y, X, C;
    int64_t most, most_rows; /* counted: elements and rows it ever holds */
    /* Rows in slots of `band` rows, `pitch` elements from one to the next, the first at `offset` of the store;
     * band 0: all behind each other. */
    int64_t band, pitch, offset;
} mica_kl_plane;

typedef struct mica_kl_run {
    mica_kl_vae *vae;
    mica_backend *be;
    const mica_vae_run_args *args; /* never NULL */
    mica_err *err;
    bool counting;
    mica_kl_plane x, h;
    mica_tensor scratch; /* [elements] */
    int64_t most_scratch;
    bool shares;           /* x and h have one store */
    mica_tensor h_store;   /* h's when it has none of x's slots */
    int64_t most_beside_h; /* elements of x while h lies behind it */
    int64_t latent_rows; /* of the picture under way: a tile of N of them is N rows in this many */
    int64_t most_band;   /* elements of scratch that an automatic band may take */
    int done, total;
} mica_kl_run;

typedef enum mica_kl_size { MICA_KL_SAME = 0, MICA_KL_TWICE, MICA_KL_HALF } mica_kl_size;

/* One 3x3 convolution with what stands before and behind it. */
typedef struct mica_kl_layer {
    mica_kl_norm *norm; /* norm and SiLU in front; NULL: none */
    mica_nn_linear *conv;
    int64_t out;              /* channels */
    mica_kl_size size;        /* TWICE: nearest neighbours, then conv; HALF: stride 2 */
    const mica_kl_plane *add; /* added to the result; NULL: nothing */
    mica_nn_linear *shortcut; /* 1x1 on `add`; NULL: added as it is */
} mica_kl_layer;

/* `to` may be `from` when the size changes, and `add`. */
mica_status mica_kl_conv(mica_kl_run *r, const mica_kl_layer *l, mica_kl_plane *from,
                         mica_kl_plane *to);
/* 1x1 convolution of a whole plane. */
mica_status mica_kl_conv_1x1(mica_kl_run *r, mica_nn_linear *conv, int64_t out,
                             const mica_kl_plane *from, mica_kl_plane *to);
/* Residual block on x, `out` channels behind it. */
mica_status mica_kl_res_run(mica_kl_run *r, mica_kl_res *res, int64_t out);
/* After the last block of a level: h leaves x's slots. */
void mica_kl_leave_slots(mica_kl_run *r);
/* Single-head attention over all pixels of x. */
mica_status mica_kl_attention(mica_kl_run *r, mica_kl_mid *mid);
/* A plane as a tensor [Y, X, C]. */
mica_tensor mica_kl_plane_view(const mica_kl_plane *p);
/* `p` under the reference's layout [1, C, Y, X]; nothing while counting. */
void mica_kl_tap(mica_kl_run *r, const mica_kl_plane *p, const char *format, ...) MICA_PRINTF(3, 4);

#endif
