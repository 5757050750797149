/* test_kl_vae_files.c - what files the KL autoencoder takes: LDM/BFL names with 1x1 convolutions in
 * the attention, old diffusers names, sizes without a config.json, halves of different widths, and
 * what it refuses. */
#include "golden_file.h"

#include "base/mem.h"
#include "nn/kl_vae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL MICA_TEST_DATA "/flux2_klein/model/vae"

static mica_weights *open_model(void)
{
    mica_err err = {0};
    mica_weights *w = NULL;
    assert_ok(mica_weights_open(&w, MODEL, &err), err);
    return w;
}

static mica_kl_vae_config tiny_config(void)
{
    mica_err err = {0};
    mica_kl_vae_config c;
    assert_ok(mica_kl_vae_config_read(&c, MODEL "/config.json", &err), err);
    return c;
}

/* -------------------------------------------------------------------- names -- */

/* diffusers to the names of BFL's flux2-vae.safetensors, written down from the published
 * autoencoder.py and not from the code under test. The model has four resolutions. */
static void to_bfl(const char *name, char *out, size_t cap)
{
    static const char *const parts[][2] = {
        {"mid_block.resnets.0.", "mid.block_1."},
        {"mid_block.resnets.1.", "mid.block_2."},
        {"mid_block.attentions.0.group_norm.", "mid.attn_1.norm."},
        {"mid_block.attentions.0.to_q.", "mid.attn_1.q."},
        {"mid_block.attentions.0.to_k.", "mid.attn_1.k."},
        {"mid_block.attentions.0.to_v.", "mid.attn_1.v."},
        {"mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."},
        {"conv_norm_out.", "norm_out."},
        {"conv_shortcut.", "nin_shortcut."},
        {"down_blocks.", "down."},
        {"up_blocks.0.", "up.3."},
        {"up_blocks.1.", "up.2."},
        {"up_blocks.2.", "up.1."},
        {"up_blocks.3.", "up.0."},
        {".resnets.", ".block."},
        {"downsamplers.0.conv.", "downsample.conv."},
        {"upsamplers.0.conv.", "upsample.conv."},
    };
    snprintf(out, cap, "%s", name);
    for (size_t i = 0; i < MICA_ARRAY_LEN(parts); i++)
        replace_first(out, cap, parts[i][0], parts[i][1]);
    if (strncmp(name, "quant_conv.", 11) == 0)
        snprintf(out, cap, "encoder.%s", name);
    if (strncmp(name, "post_quant_conv.", 16) == 0)
        snprintf(out, cap, "decoder.%s", name);
}

static void to_old_diffusers(const char *name, char *out, size_t cap)
{
    snprintf(out, cap, "vae.%s", name);
    replace_first(out, cap, ".to_q.", ".query.");
    replace_first(out, cap, ".to_k.", ".key.");
    replace_first(out, cap, ".to_v.", ".value.");
    replace_first(out, cap, ".to_out.0.", ".proj_attn.");
}

/* The model's tensors under other names; `as_conv` gives the attention's matrices 1x1 kernels. */
static mica_weights *renamed(const mica_weights *from, void (*map)(const char *, char *, size_t),
                             bool as_conv)
{
    mica_err err = {0};
    mica_weights *w = NULL;
    assert_ok(mica_weights_open_empty(&w, &err), err);
    for (size_t i = 0; i < mica_weights_count(from); i++) {
        char name[192];
        mica_tensor t = *mica_weights_tensor(from, i);
        map(mica_weights_name(from, i), name, sizeof name);
        if (as_conv && t.ndim == 2)
            t = mica_tensor_4d(t.data, t.dtype, t.shape_[0], t.shape_[1], 1, 1);
        assert_ok(mica_weights_add(w, name, &t, &err), err);
    }
    return w;
}

static float *decode(mica_weights *w, const mica_kl_vae_config *c)
{
    mica_err err = {0};
    mica_backend *be = NULL;
    mica_kl_vae *vae = NULL;
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = 1};
    assert_ok(mica_kl_vae_open(&vae, c, w, &err), err);
    assert_ok(mica_backend_open(&be, &options, &err), err);
    const mica_tensor z = mica_state_tensor(be, MICA_POOL_SESSION, 3, (const int64_t[]){2, 3, 32});
    mica_tensor out = mica_state_tensor(be, MICA_POOL_SESSION, 3, (const int64_t[]){16, 24, 3});
    float in[2 * 3 * 32], *picture = mica_mem_calloc(16 * 24 * 3, sizeof *picture);
    for (int i = 0; i < 2 * 3 * 32; i++)
        in[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
    mica_upload_f32(be, &z, in);
    assert_ok(mica_kl_vae_decode(vae, be, &z, &out, NULL, &err), err);
    mica_download_f32(be, picture, &out);
    assert_ok(mica_backend_check(be, &err), err);
    mica_backend_close(&be);
    mica_kl_vae_close(&vae);
    return picture;
}

static void test_other_names(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *files = open_model();
    mica_kl_vae_config c = tiny_config(), derived;
    float *want = decode(files, &c);
    for (int i = 0; i < 2; i++) {
        mica_weights *w = renamed(files, i ? to_old_diffusers : to_bfl, i == 0);
        assert_int_equal(mica_kl_vae_probe(w), 32);
        assert_ok(mica_kl_vae_rename(w, &err), err);
        assert_non_null(mica_weights_find(w, "bn.running_mean"));
        assert_ok(mica_kl_vae_rename(w, &err), err); /* nothing left to do */
        float *got = decode(w, &c);
        assert_memory_equal(got, want, 16 * 24 * 3 * sizeof *got);
        mica_mem_free(got);
        /* Everything but the groups is in the shapes; 32 do not divide these widths. */
        assert_int_equal(mica_kl_vae_config_derive(&derived, w, &err), MICA_E_FORMAT);
        assert_non_null(strstr(err.text, "16 channels"));
        derived.groups = c.groups;
        assert_memory_equal(derived.encoder_dim_, c.encoder_dim_, sizeof c.encoder_dim_);
        assert_memory_equal(derived.decoder_dim_, c.decoder_dim_, sizeof c.decoder_dim_);
        assert_true(derived.levels == 4 && derived.num_res_blocks == 1 && derived.quant_conv);
        mica_weights_close(&w);
    }
    mica_mem_free(want);
    mica_weights_close(&files);
}

static bool drop_encoder(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    return strncmp(name, "encoder.", 8) == 0 && snprintf(out, cap, "x%s", name) > 0;
}

static void test_decoder_alone(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *files = open_model();
    const mica_kl_vae_config c = tiny_config();
    mica_kl_vae *vae = NULL;
    assert_ok(mica_weights_rename(files, drop_encoder, NULL, &err), err);
    assert_ok(mica_kl_vae_open(&vae, &c, files, &err), err);
    assert_false(mica_kl_vae_has_encoder(vae));
    const mica_tensor t = mica_tensor_3d(NULL, MICA_DTYPE_F32, 8, 8, 3);
    mica_tensor mean = mica_tensor_3d(NULL, MICA_DTYPE_F32, 1, 1, 32);
    assert_int_equal(mica_kl_vae_encode(vae, NULL, &t, &mean, NULL, NULL, &err), MICA_E_MISSING);
    mica_kl_vae_close(&vae);
    mica_weights_close(&files);
}

static void test_damage_is_listed(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *files = open_model();
    mica_kl_vae_config c = tiny_config();
    mica_kl_vae *vae = NULL;
    c.decoder_dim_[0] = 8; /* as if the file were another */
    assert_int_equal(mica_kl_vae_open(&vae, &c, files, &err), MICA_E_FORMAT);
    assert_null(vae);
    assert_non_null(strstr(err.text, "decoder.conv_out.weight: got [3, 16, 3, 3]"));
    assert_non_null(strstr(err.text, "expected [3, 8, 3, 3]"));
    mica_weights_close(&files);
}

/* Names of the qwen-image autoencoder are not this one's. */
static void test_probe(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *w = NULL;
    assert_ok(mica_weights_open(&w, MICA_TEST_DATA "/qwen_image/model/vae", &err), err);
    assert_int_equal(mica_kl_vae_probe(w), 0);
    mica_weights_close(&w);
    assert_ok(mica_weights_open(&w, MICA_TEST_DATA "/z_image/model/vae", &err), err);
    assert_int_equal(mica_kl_vae_probe(w), 16);
    mica_weights_close(&w);
}

/* ------------------------------------------------------------ configuration -- */

static mica_status read_text(const char *text, mica_kl_vae_config *c, mica_err *err)
{
    char path[] = "/tmp/mica_kl_vae_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    const mica_status st = mica_kl_vae_config_read(c, path, err);
    unlink(path);
    return st;
}

static void test_config(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_kl_vae_config c;
    assert_ok(read_text("{}", &c, &err), err);
    assert_true(c.z_dim == 32 && c.levels == 4 && c.decoder_dim_[0] == 128 && c.quant_conv);
    assert_ok(read_text("{\"decoder_block_out_channels\": [96, 192, 384, 384]}", &c, &err), err);
    assert_true(c.decoder_dim_[0] == 96 && c.encoder_dim_[0] == 128);
    assert_ok(mica_kl_vae_config_read(&c, MICA_TEST_DATA "/z_image/model/vae/config.json", &err),
              err);
    assert_true(c.scaling_factor == 0.3611 && c.shift_factor == 0.1159 && !c.quant_conv);
}

static void test_config_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"act_fn\": \"relu\"}", "act_fn"},
        {"{\"latents_mean\": [0.1]}", "latents_mean"},
        {"{\"norm_num_groups\": 48}", "groups"},
        {"{\"norm_num_groups\": 0}", "norm_num_groups"},
        {"{\"layers_per_block\": 8}", "layers_per_block"},
        {"{\"latent_channels\": 100000}", "latent_channels"},
        {"{\"block_out_channels\": [32, 0]}", "block_out_channels"},
        {"{\"block_out_channels\": [32, 64]}", NULL},
        {"{\"decoder_block_out_channels\": [32, 64]}", "decoder_block_out_channels"},
        {"{\"down_block_types\": [\"DownEncoderBlock2D\"]}", "down_block_types"},
        {"{\"up_block_types\": [\"AttnUpDecoderBlock2D\", \"UpDecoderBlock2D\", "
         "\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}",
         "up_block_types"},
        {"{\"scaling_factor\": 0}", "scaling_factor"},
        {"{\"use_quant_conv\": 3}", "use_quant_conv"},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        mica_err err = {0};
        mica_kl_vae_config c;
        const mica_status st = read_text(cases[i][0], &c, &err);
        if (!cases[i][1])
            assert_int_equal(st, MICA_OK);
        else if (st == MICA_OK || !strstr(err.text, cases[i][1]))
            fail_msg("%s: status %d, %s", cases[i][0], (int)st, err.text);
    }
}

/* ---------------------------------------------------------------- synthetic -- */

static void test_fill(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *w = NULL;
    mica_arena arena;
    mica_kl_vae *vae = NULL;
    const mica_kl_vae_config c = tiny_config();
    mica_arena_init(&arena, 1 << 16);
    assert_ok(mica_weights_open_empty(&w, &err), err);
    assert_ok(mica_kl_vae_fill(&c, w, &arena, &err), err);
    assert_ok(mica_kl_vae_open(&vae, &c, w, &err), err);
    assert_true(mica_kl_vae_has_encoder(vae));
    int counts[2];
    for (int h = 0; h < 2; h++) {
        mica_weight *const *list = mica_kl_vae_weights(vae, (mica_kl_vae_half)h, &counts[h]);
        for (int i = 0; i < counts[h]; i++)
            assert_true(list[i]->name && list[i]->tensor.data && list[i]->sensitive);
    }
    assert_int_equal((size_t)counts[0] + (size_t)counts[1], mica_weights_count(w));
    mica_kl_vae_close(&vae);
    mica_weights_close(&w);
    mica_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_names),
        cmocka_unit_test(test_decoder_alone),
        cmocka_unit_test(test_damage_is_listed),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_refused),
        cmocka_unit_test(test_fill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
