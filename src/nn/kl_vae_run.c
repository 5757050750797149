/* kl_vae_run.c - latents to pixels and back: the layers in order.
 *
 *   decode  z ─► h (post_quant) ─► x: conv_in, mid, [res..., twice the size]... ─► norm, conv_out ─► picture
 *   encode  picture ─► x: conv_in, [res..., half the size]..., mid ─► norm, conv_out ─► h ─► (quant) x
 *                                                          channels [0, z) mean, [z, 2 z) logvar ◄─┘
 *
 * Both are run twice, counting and computing (kl_vae_internal.h). No sample is drawn.
 * Reference: diffusers models/autoencoders/vae.py Encoder, Decoder, UNetMidBlock2D;
 * autoencoder_kl.py AutoencoderKL._encode, _decode. */
#include "nn/kl_vae_internal.h"

#include <string.h>

static mica_status run_mid(mica_kl_run *r, mica_kl_half *half, const char *name)
{
    const int64_t C = r->x.C;
    MICA_TRY(mica_kl_res_run(r, &half->mid.res[0], C));
    if (r->vae->config.mid_attention)
        MICA_TRY(mica_kl_attention(r, &half->mid));
    MICA_TRY(mica_kl_res_run(r, &half->mid.res[1], C));
    mica_kl_tap(r, &r->x, "probe.%s.mid_block", name);
    return MICA_OK;
}

static mica_status run_decoder(mica_kl_run *r, mica_kl_plane *z, mica_kl_plane *picture)
{
    mica_kl_half *half = &r->vae->half[MICA_KL_VAE_DECODER];
    const mica_kl_vae_config *c = &r->vae->config;
    const mica_kl_vae_half decoder = MICA_KL_VAE_DECODER;
    if (c->post_quant_conv) {
        MICA_TRY(mica_kl_conv_1x1(r, &half->quant, c->z_dim, z, &r->h));
        mica_kl_tap(r, &r->h, "probe.post_quant_conv");
        z = &r->h;
    }
    const mica_kl_layer first = {.conv = &half->conv_in, .out = mica_kl_mid_channels(c, decoder)};
    MICA_TRY(mica_kl_conv(r, &first, z, &r->x));
    mica_kl_tap(r, &r->x, "probe.decoder.conv_in");
    MICA_TRY(run_mid(r, half, "decoder"));
    for (int i = 0; i < c->levels; i++) {
        mica_kl_level *level = &half->level[i];
        const int64_t out = mica_kl_level_out(c, decoder, i);
        for (int b = 0; b < mica_kl_level_blocks(c, decoder); b++)
            MICA_TRY(mica_kl_res_run(r, &level->res[b], out));
        const mica_kl_layer up = {.conv = &level->resample, .out = out, .size = MICA_KL_TWICE};
        if (i < c->levels - 1) {
            MICA_TRY(mica_kl_conv(r, &up, &r->x, &r->x));
            mica_kl_leave_slots(r);
        }
        mica_kl_tap(r, &r->x, "probe.decoder.up_blocks.%d", i);
    }
    const mica_kl_layer last = {
        .norm = &half->norm_out, .conv = &half->conv_out, .out = c->picture_channels};
    return mica_kl_conv(r, &last, &r->x, picture);
}

static mica_status run_encoder(mica_kl_run *r, mica_kl_plane *picture)
{
    mica_kl_half *half = &r->vae->half[MICA_KL_VAE_ENCODER];
    const mica_kl_vae_config *c = &r->vae->config;
    const mica_kl_vae_half encoder = MICA_KL_VAE_ENCODER;
    const mica_kl_layer first = {.conv = &half->conv_in, .out = c->encoder_dim_[0]};
    MICA_TRY(mica_kl_conv(r, &first, picture, &r->x));
    mica_kl_tap(r, &r->x, "probe.encoder.conv_in");
    for (int i = 0; i < c->levels; i++) {
        mica_kl_level *level = &half->level[i];
        const int64_t out = mica_kl_level_out(c, encoder, i);
        for (int b = 0; b < mica_kl_level_blocks(c, encoder); b++)
            MICA_TRY(mica_kl_res_run(r, &level->res[b], out));
        const mica_kl_layer down = {.conv = &level->resample, .out = out, .size = MICA_KL_HALF};
        if (i < c->levels - 1)
            MICA_TRY(mica_kl_conv(r, &down, &r->x, &r->x));
        mica_kl_tap(r, &r->x, "probe.encoder.down_blocks.%d", i);
    }
    MICA_TRY(run_mid(r, half, "encoder"));
    const mica_kl_layer last = {
        .norm = &half->norm_out, .conv = &half->conv_out, .out = 2 * (int64_t)c->z_dim};
    MICA_TRY(mica_kl_conv(r, &last, &r->x, &r->h));
    mica_kl_tap(r, &r->h, "probe.encoder.conv_out");
    if (c->quant_conv) {
        MICA_TRY(mica_kl_conv_1x1(r, &half->quant, 2 * (int64_t)c->z_dim, &r->h, &r->x));
        mica_kl_tap(r, &r->x, "probe.quant_conv");
    }
    return MICA_OK;
}

/* -------------------------------------------------------------------- memory -- */

/* A tensor of the caller as a plane. */
static mica_kl_plane plane_of(const mica_tensor *t_YXC)
{
    const int64_t *n = t_YXC->shape_;
    return (mica_kl_plane){.store = *t_YXC, .Y = n[0], .X = n[1], .C = n[2]};
}

static void make_plane(const mica_kl_run *r, mica_kl_plane *p, bool has_store)
{
    const int64_t moments[] = {p->most_rows, r->vae->config.groups, 2};
    p->band = p->offset = 0;
    if (has_store)
        p->store = mica_act_tensor(r->be, MICA_POOL_STEP, 1, &p->most);
    p->moments = mica_state_tensor(r->be, MICA_POOL_STEP, 3, moments);
}

/* The elements of a store for both planes: x alone in its slots, or x and h at its end. */
static int64_t shared_size(const mica_kl_run *r)
{
    return MICA_MAX(r->x.most, r->most_beside_h + r->h.most);
}

/* The moments of a picture are those of its rows and no others. */
static mica_status make_planes(mica_kl_run *r)
{
    if (r->shares)
        r->x.most = shared_size(r);
    make_plane(r, &r->x, true);
    make_plane(r, &r->h, !r->shares);
    if (r->shares) {
        const mica_tensor end = mica_tensor_rows(&r->x.store, r->x.most - r->h.most, r->h.most);
        r->h.store = end;
    }
    r->h_store = r->h.store;
    r->scratch = mica_act_tensor(r->be, MICA_POOL_STEP, 1, &r->most_scratch);
    r->counting = false;
    return mica_backend_check(r->be, r->err);
}

/* Whether x and h have one store: on the CPU, in bands, where nobody wants to see whole planes. */
static bool can_share(mica_backend *be, const mica_vae_run_args *args)
{
    const mica_backend_memory m =
        be ? mica_backend_get_memory(be, false) : (mica_backend_memory){0};
    return !m.total && args->tile_rows >= 0 && !args->taps;
}

/* Scratch of a band when nothing else is asked. On the CPU larger bands save nothing, a layer's weights
 * are prepared once, and smaller ones norm more rows twice. A device is kept busy by whole pictures. */
#define AUTO_BAND_BYTES ((int64_t)32 << 20)

static int64_t most_band(mica_backend *be)
{
    const mica_backend_memory m =
        be ? mica_backend_get_memory(be, false) : (mica_backend_memory){0};
    if (!m.total)
        return AUTO_BAND_BYTES / (int64_t)sizeof(float);
    return (int64_t)(m.available / 4) / mica_dtype_get(mica_backend_act_dtype(be))->size;
}

static mica_kl_run begin(mica_kl_vae *vae, mica_backend *be, const mica_vae_run_args *args,
                         int64_t latent_rows, mica_err *err)
{
    static const mica_vae_run_args none = {0};
    return (mica_kl_run){.vae = vae,
                         .be = be,
                         .args = args ? args : &none,
                         .err = err,
                         .counting = true,
                         .latent_rows = latent_rows,
                         .most_band = most_band(be)};
}

static mica_status decode(mica_kl_run *r, const mica_tensor *z_YXC, mica_tensor *picture_YXC)
{
    mica_kl_plane z = plane_of(z_YXC), picture = plane_of(picture_YXC);
    r->shares = can_share(r->be, r->args);
    MICA_TRY(run_decoder(r, &z, &picture));
    MICA_TRY(make_planes(r));
    return run_decoder(r, &z, &picture);
}

/* Channels [first, first + z) of what the encoder left. */
static void copy_half(mica_kl_run *r, int64_t first, mica_tensor *out_YXC)
{
    mica_tensor t = mica_kl_plane_view(r->vae->config.quant_conv ? &r->x : &r->h);
    t.data = (char *)t.data + first * mica_dtype_get(t.dtype)->size;
    t.shape_[2] = r->vae->config.z_dim;
    mica_copy(r->be, &t, out_YXC);
}

static mica_status encode(mica_kl_run *r, const mica_tensor *picture_YXC, mica_tensor *mean_YXC,
                          mica_tensor *logvar_YXC)
{
    mica_kl_plane picture = plane_of(picture_YXC);
    MICA_TRY(run_encoder(r, &picture));
    MICA_TRY(make_planes(r));
    MICA_TRY(run_encoder(r, &picture));
    copy_half(r, 0, mean_YXC);
    if (logvar_YXC)
        copy_half(r, r->vae->config.z_dim, logvar_YXC);
    return mica_backend_check(r->be, r->err);
}

/* ---------------------------------------------------------------------- runs -- */

static mica_status check_shapes(const mica_kl_vae_config *c, const mica_tensor *z,
                                const mica_tensor *picture, mica_err *err)
{
    const int64_t scale = mica_kl_vae_scale(c);
    char a[96], b[96];
    if (z->ndim == 3 && picture->ndim == 3 && z->shape_[0] > 0 && z->shape_[1] > 0 &&
        z->shape_[2] == c->z_dim && picture->shape_[0] == z->shape_[0] * scale &&
        picture->shape_[1] == z->shape_[1] * scale && picture->shape_[2] == c->picture_channels &&
        mica_tensor_is_contiguous(z) && mica_tensor_is_contiguous(picture))
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_INTERNAL, "vae: latents %s do not belong to a picture %s",
                     mica_tensor_describe(z, a, sizeof a),
                     mica_tensor_describe(picture, b, sizeof b));
}

mica_status mica_kl_vae_decode(mica_kl_vae *vae, mica_backend *be, const mica_tensor *z_YXC,
                               mica_tensor *picture_YXC, const mica_vae_run_args *args,
                               mica_err *err)
{
    MICA_TRY(check_shapes(&vae->config, z_YXC, picture_YXC, err));
    mica_kl_run r = begin(vae, be, args, z_YXC->shape_[0], err);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = decode(&r, z_YXC, picture_YXC);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

mica_status mica_kl_vae_encode(mica_kl_vae *vae, mica_backend *be, const mica_tensor *picture_YXC,
                               mica_tensor *mean_YXC, mica_tensor *logvar_YXC,
                               const mica_vae_run_args *args, mica_err *err)
{
    if (!vae->base.has_encoder)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "the VAE file holds no encoder, which reading pictures needs; use the "
                         "whole VAE");
    MICA_TRY(check_shapes(&vae->config, mean_YXC, picture_YXC, err));
    if (logvar_YXC)
        MICA_TRY(check_shapes(&vae->config, logvar_YXC, picture_YXC, err));
    mica_kl_run r = begin(vae, be, args, mean_YXC->shape_[0], err);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = encode(&r, picture_YXC, mean_YXC, logvar_YXC);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

uint64_t mica_kl_vae_decode_bytes(const mica_kl_vae_config *config, int64_t Y, int64_t X)
{
    mica_kl_vae vae = {.config = *config};
    mica_kl_run r = begin(&vae, NULL, NULL, Y, NULL);
    mica_kl_plane z = {.Y = Y, .X = X, .C = config->z_dim}, picture = {0};
    r.shares = true;
    if (run_decoder(&r, &z, &picture))
        return 0;
    return (uint64_t)(shared_size(&r) + r.most_scratch) * sizeof(float);
}
