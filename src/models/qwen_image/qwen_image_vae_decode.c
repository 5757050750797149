/* qwen_image_vae_decode.c - latents to pixels.
 *
 *   whole:  z [Y, X, z] ─► post_quant ─► conv_in ─► mid ─► [Y, X, C]   attention sees all pixels
 *   bands:  N rows of that ─► up blocks ─► norm SiLU conv_out ─► 8 N rows of the picture
 *
 * Nearly all memory and time are in the second part. What its layers keep between bands makes
 * the picture equal for every N. The lag of all layers together is about 98 rows of the picture, so
 * the first bands give less than 8 N rows and the last one more; slots are sized for that.
 * Reference: autoencoder_kl_qwenimage.py QwenImageDecoder3d.forward, AutoencoderKLQwenImage._decode. */
#include "models/qwen_image/qwen_image_vae_internal.h"

/* Slots for N rows of latents at once through the up blocks. */
static mica_vae_slot_sizes band_sizes(const mica_qwen_vae_config *c, int64_t Y, int64_t X,
                                      int64_t N)
{
    const mica_qwen_vae_half half = MICA_QWEN_VAE_DECODER;
    const int64_t head = mica_vae_head_rows(c);
    mica_vae_slot_sizes s = {0, 0};
    int64_t lag = 0; /* rows that may arrive late, all in the last band */
    for (int i = 0; i < c->levels; i++) {
        const int64_t in = mica_vae_level_in(c, half, i), out = mica_vae_level_out(c, half, i);
        const int64_t most = MICA_MAX(in, out), width = X << i;
        lag += 2 * mica_vae_level_blocks(c, half);
        const int64_t rows = MICA_MIN(Y << i, (N << i) + lag) + head;
        s.narrow = MICA_MAX(s.narrow, rows * width * most);
        s.wide = MICA_MAX(s.wide, rows * width * most);
        if (i == c->levels - 1)
            break;
        const int64_t twice = MICA_MIN(Y << (i + 1), (N << (i + 1)) + 2 * lag) + head;
        s.wide = MICA_MAX(s.wide, twice * 2 * width * out);
        s.narrow = MICA_MAX(s.narrow, twice * 2 * width * (out / 2));
        lag = 2 * lag + 1;
    }
    const int scale = mica_qwen_vae_scale(c);
    const int64_t rows = MICA_MIN(Y * scale, N * scale + lag + 2) + head;
    s.narrow = MICA_MAX(s.narrow, rows * X * scale * c->picture_channels);
    return s;
}

static mica_vae_slot_sizes whole_sizes(const mica_qwen_vae_config *c, int64_t Y, int64_t X)
{
    const int64_t C = MICA_MAX(mica_vae_mid_channels(c), c->z_dim);
    const int64_t count = (Y + mica_vae_head_rows(c)) * X * C;
    return (mica_vae_slot_sizes){count, count};
}

static mica_status run_whole(mica_vae_run *r, mica_vae_half *half, const mica_tensor *z_YXC,
                             mica_tensor *mid_YXC)
{
    MICA_TRY(
        mica_vae_run_slots(r, whole_sizes(&r->vae->config, z_YXC->shape_[0], z_YXC->shape_[1])));
    mica_vae_run_load(r, z_YXC, true);
    mica_vae_conv_1x1(r, &half->quant);
    mica_vae_tap(r, "probe.post_quant_conv");
    mica_vae_conv(r, &half->conv_in);
    mica_vae_tap(r, "probe.decoder.conv_in");
    MICA_TRY(mica_vae_run_step(r));
    MICA_TRY(mica_vae_mid_run(r, half, "decoder"));
    const mica_tensor x = mica_vae_band_view(r, &r->x);
    mica_copy(r->be, &x, mid_YXC);
    return mica_backend_check(r->be, r->err);
}

static mica_status run_band(mica_vae_run *r, mica_vae_half *half)
{
    const mica_qwen_vae_config *c = &r->vae->config;
    for (int i = 0; i < c->levels; i++) {
        mica_vae_level *level = &half->level[i];
        for (int b = 0; b < mica_vae_level_blocks(c, MICA_QWEN_VAE_DECODER); b++)
            mica_vae_res_run(r, &level->res[b]);
        if (i < c->levels - 1)
            mica_vae_upsample(r, &level->resample);
        mica_vae_tap(r, "probe.decoder.up_blocks.%d", i);
        MICA_TRY(mica_vae_run_step(r));
    }
    mica_vae_head(r, &half->norm_out, &half->conv_out, "probe.decoder.norm_out");
    mica_vae_tap(r, "probe.decoder.conv_out");
    return mica_vae_run_step(r);
}

static mica_status run_bands(mica_vae_run *r, mica_vae_half *half, const mica_tensor *mid_YXC,
                             int64_t N, mica_tensor *picture_YXC)
{
    const int64_t Y = mid_YXC->shape_[0];
    int64_t done = 0; /* rows of the picture */
    MICA_TRY(mica_vae_run_slots(r, band_sizes(&r->vae->config, Y, mid_YXC->shape_[1], N)));
    for (int64_t y = 0; y < Y; y += N) {
        const int64_t rows = MICA_MIN(N, Y - y);
        const mica_tensor src = mica_tensor_rows(mid_YXC, y, rows);
        mica_vae_run_load(r, &src, y + rows == Y);
        MICA_TRY(run_band(r, half));
        if (r->x.rows == 0)
            continue;
        const mica_tensor x = mica_vae_band_view(r, &r->x);
        mica_tensor out = mica_tensor_rows(picture_YXC, done, r->x.rows);
        mica_copy(r->be, &x, &out);
        done += r->x.rows;
    }
    return mica_backend_check(r->be, r->err);
}

/* A tap is of the whole picture. */
static bool wants_local_tap(const mica_vae_run *r)
{
    for (int i = 0; i < r->vae->config.levels; i++)
        if (mica_tap_wants(r->args->taps, "probe.decoder.up_blocks.%d", i))
            return true;
    return mica_tap_wants(r->args->taps, "probe.decoder.norm_out") ||
           mica_tap_wants(r->args->taps, "probe.decoder.conv_out");
}

static mica_status decode(mica_vae_run *r, const mica_tensor *z_YXC, mica_tensor *picture_YXC)
{
    const int64_t Y = z_YXC->shape_[0], X = z_YXC->shape_[1];
    mica_vae_half *half = &r->vae->half[MICA_QWEN_VAE_DECODER];
    const int64_t N = wants_local_tap(r) ? Y : mica_vae_band_rows(r, band_sizes, Y, X);
    const int64_t bands = (Y + N - 1) / N;
    r->total = 4 + (int)bands * (r->vae->config.levels + 1);
    mica_tensor mid_YXC = mica_act_tensor(
        r->be, MICA_POOL_STEP, 3, (const int64_t[]){Y, X, mica_vae_mid_channels(&r->vae->config)});
    MICA_TRY(mica_backend_check(r->be, r->err));
    const mica_pool_mark mark = mica_pool_get_mark(r->be, MICA_POOL_STEP);
    MICA_TRY(run_whole(r, half, z_YXC, &mid_YXC));
    mica_pool_release(r->be, MICA_POOL_STEP, mark);
    if (N < Y) /* the slots of the bands do not fit into the chunks of the mid block */
        mica_pool_trim(r->be);
    return run_bands(r, half, &mid_YXC, N, picture_YXC);
}

static mica_status check_shapes(const mica_qwen_vae_config *c, const mica_tensor *z,
                                const mica_tensor *picture, mica_err *err)
{
    const int64_t scale = mica_qwen_vae_scale(c);
    char a[96], b[96];
    if (z->ndim == 3 && picture->ndim == 3 && z->shape_[0] > 0 && z->shape_[1] > 0 &&
        z->shape_[2] == c->z_dim && picture->shape_[0] == z->shape_[0] * scale &&
        picture->shape_[1] == z->shape_[1] * scale && picture->shape_[2] == c->picture_channels)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_INTERNAL, "vae: latents %s do not give a picture %s",
                     mica_tensor_describe(z, a, sizeof a),
                     mica_tensor_describe(picture, b, sizeof b));
}

mica_status mica_qwen_vae_decode(mica_qwen_vae *vae, mica_backend *be, const mica_tensor *z_YXC,
                                 mica_tensor *picture_YXC, const mica_vae_run_args *args,
                                 mica_err *err)
{
    mica_vae_run r;
    MICA_TRY(check_shapes(&vae->config, z_YXC, picture_YXC, err));
    mica_vae_run_init(&r, vae, be, args, err);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = decode(&r, z_YXC, picture_YXC);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}
