/* qwen_image_vae_encode.c - pixels to latents.
 *
 *   bands:  8 N rows of the picture ─► conv_in ─► down blocks ─► N rows of [Y, X, C]
 *   whole:  that ─► mid ─► norm SiLU conv_out ─► quant ─► mean, logvar [Y, X, z]
 *
 * The mirror of the decoder. A convolution of stride 2 keeps the one or two rows that its next output
 * begins with. No sample is drawn: mean and logvar are returned.
 * Reference: autoencoder_kl_qwenimage.py QwenImageEncoder3d.forward, AutoencoderKLQwenImage._encode;
 * vae.py DiagonalGaussianDistribution. */
#include "models/qwen_image/qwen_image_vae_internal.h"

/* Slots for N rows of latents at once through the down blocks; Y, X in latents. */
static mica_vae_slot_sizes band_sizes(const mica_qwen_vae_config *c, int64_t Y, int64_t X,
                                      int64_t N)
{
    const mica_qwen_vae_half half = MICA_QWEN_VAE_ENCODER;
    const int64_t head = mica_vae_head_rows(c);
    mica_vae_slot_sizes s = {0, 0};
    int64_t lag = 1; /* conv_in; all late rows arrive in the last band */
    for (int l = 0; l < c->levels; l++) {
        const int shift = c->levels - 1 - l;
        const int64_t in = mica_vae_level_in(c, half, l), out = mica_vae_level_out(c, half, l);
        const int64_t most = MICA_MAX(MICA_MAX(in, out), l ? 0 : c->picture_channels);
        lag += 2 * mica_vae_level_blocks(c, half);
        const int64_t rows = MICA_MIN(Y << shift, (N << shift) + lag) + head;
        s.narrow = MICA_MAX(s.narrow, rows * (X << shift) * most);
        lag = lag / 2 + 1;
    }
    s.wide = s.narrow;
    return s;
}

static mica_vae_slot_sizes whole_sizes(const mica_qwen_vae_config *c, int64_t Y, int64_t X)
{
    const int64_t C = MICA_MAX(mica_vae_mid_channels(c), 2 * c->z_dim);
    const int64_t count = (Y + mica_vae_head_rows(c)) * X * C;
    return (mica_vae_slot_sizes){count, count};
}

/* Taps carry the index of the flat list of down blocks. */
static mica_status run_band(mica_vae_run *r, mica_vae_half *half)
{
    const mica_qwen_vae_config *c = &r->vae->config;
    int block = 0;
    mica_vae_conv(r, &half->conv_in);
    mica_vae_tap(r, "probe.encoder.conv_in");
    for (int l = 0; l < c->levels; l++) {
        mica_vae_level *level = &half->level[l];
        for (int b = 0; b < c->num_res_blocks; b++) {
            mica_vae_res_run(r, &level->res[b]);
            mica_vae_tap(r, "probe.encoder.down_blocks.%d", block++);
        }
        if (l < c->levels - 1) {
            mica_vae_downsample(r, &level->resample);
            mica_vae_tap(r, "probe.encoder.down_blocks.%d", block++);
        }
        MICA_TRY(mica_vae_run_step(r));
    }
    return MICA_OK;
}

static mica_status run_bands(mica_vae_run *r, mica_vae_half *half, const mica_tensor *picture_YXC,
                             int64_t N, mica_tensor *mid_YXC)
{
    const int64_t scale = mica_qwen_vae_scale(&r->vae->config), Y = mid_YXC->shape_[0];
    int64_t done = 0; /* rows of latents */
    MICA_TRY(mica_vae_run_slots(r, band_sizes(&r->vae->config, Y, mid_YXC->shape_[1], N)));
    for (int64_t y = 0; y < Y; y += N) {
        const int64_t rows = MICA_MIN(N, Y - y);
        const mica_tensor src = mica_tensor_rows(picture_YXC, y * scale, rows * scale);
        mica_vae_run_load(r, &src, y + rows == Y);
        MICA_TRY(run_band(r, half));
        if (r->x.rows == 0)
            continue;
        const mica_tensor x = mica_vae_band_view(r, &r->x);
        mica_tensor out = mica_tensor_rows(mid_YXC, done, r->x.rows);
        mica_copy(r->be, &x, &out);
        done += r->x.rows;
    }
    return mica_backend_check(r->be, r->err);
}

/* Channels [first, first + z) of the network's output. */
static void copy_half(mica_vae_run *r, int64_t first, mica_tensor *out_YXC)
{
    mica_tensor x = mica_vae_band_view(r, &r->x);
    if (mica_backend_failed(r->be))
        return;
    x.data = (char *)x.data + first * mica_dtype_get(x.dtype)->size;
    x.shape_[2] = r->vae->config.z_dim;
    mica_copy(r->be, &x, out_YXC);
}

static mica_status run_whole(mica_vae_run *r, mica_vae_half *half, const mica_tensor *mid_YXC,
                             mica_tensor *mean_YXC, mica_tensor *logvar_YXC)
{
    MICA_TRY(mica_vae_run_slots(
        r, whole_sizes(&r->vae->config, mid_YXC->shape_[0], mid_YXC->shape_[1])));
    mica_vae_run_load(r, mid_YXC, true);
    MICA_TRY(mica_vae_mid_run(r, half, "encoder"));
    mica_vae_head(r, &half->norm_out, &half->conv_out, "probe.encoder.norm_out");
    mica_vae_tap(r, "probe.encoder.conv_out");
    mica_vae_conv_1x1(r, &half->quant);
    mica_vae_tap(r, "probe.quant_conv");
    copy_half(r, 0, mean_YXC);
    if (logvar_YXC)
        copy_half(r, r->vae->config.z_dim, logvar_YXC);
    return mica_vae_run_step(r);
}

/* A tap is of the whole picture. */
static bool wants_local_tap(const mica_vae_run *r)
{
    const mica_qwen_vae_config *c = &r->vae->config;
    for (int i = 0; i < c->levels * (c->num_res_blocks + 1) - 1; i++)
        if (mica_tap_wants(r->args->taps, "probe.encoder.down_blocks.%d", i))
            return true;
    return mica_tap_wants(r->args->taps, "probe.encoder.conv_in");
}

static mica_status encode(mica_vae_run *r, const mica_tensor *picture_YXC, mica_tensor *mean_YXC,
                          mica_tensor *logvar_YXC)
{
    const mica_qwen_vae_config *c = &r->vae->config;
    const int64_t Y = mean_YXC->shape_[0], X = mean_YXC->shape_[1];
    mica_vae_half *half = &r->vae->half[MICA_QWEN_VAE_ENCODER];
    const int64_t N = wants_local_tap(r) ? Y : mica_vae_band_rows(r, band_sizes, Y, X);
    r->total = 4 + (int)((Y + N - 1) / N) * c->levels;
    mica_tensor mid_YXC = mica_act_tensor(r->be, MICA_POOL_STEP, 3,
                                          (const int64_t[]){Y, X, mica_vae_mid_channels(c)});
    MICA_TRY(mica_backend_check(r->be, r->err));
    const mica_pool_mark mark = mica_pool_get_mark(r->be, MICA_POOL_STEP);
    MICA_TRY(run_bands(r, half, picture_YXC, N, &mid_YXC));
    mica_pool_release(r->be, MICA_POOL_STEP, mark);
    if (N < Y) /* the slots of the mid block do not fit into the chunks of the bands */
        mica_pool_trim(r->be);
    return run_whole(r, half, &mid_YXC, mean_YXC, logvar_YXC);
}

static bool is_latent_of(const mica_qwen_vae_config *c, const mica_tensor *z,
                         const mica_tensor *picture)
{
    const int64_t scale = mica_qwen_vae_scale(c);
    return z->ndim == 3 && picture->ndim == 3 && z->shape_[0] > 0 && z->shape_[1] > 0 &&
           z->shape_[2] == c->z_dim && picture->shape_[0] == z->shape_[0] * scale &&
           picture->shape_[1] == z->shape_[1] * scale && picture->shape_[2] == c->picture_channels;
}

mica_status mica_qwen_vae_encode(mica_qwen_vae *vae, mica_backend *be,
                                 const mica_tensor *picture_YXC, mica_tensor *mean_YXC,
                                 mica_tensor *logvar_YXC, const mica_vae_run_args *args,
                                 mica_err *err)
{
    mica_vae_run r;
    char a[96], b[96];
    if (!vae->base.has_encoder)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "the VAE file holds no encoder, which reading pictures needs; use the "
                         "whole VAE");
    if (!is_latent_of(&vae->config, mean_YXC, picture_YXC) ||
        (logvar_YXC && !is_latent_of(&vae->config, logvar_YXC, picture_YXC)))
        return MICA_FAIL(err, MICA_E_INTERNAL, "vae: a picture %s does not give latents %s",
                         mica_tensor_describe(picture_YXC, a, sizeof a),
                         mica_tensor_describe(mean_YXC, b, sizeof b));
    mica_vae_run_init(&r, vae, be, args, err);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = encode(&r, picture_YXC, mean_YXC, logvar_YXC);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}
