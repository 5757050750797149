/* test_qwen_image_vae_files.c - what files the autoencoder takes: both spellings of the names,
 * configurations, damaged tensor lists, files without an encoder. */
#include "golden_file.h"

#include "base/mem.h"
#include "models/qwen_image/qwen_image_vae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL MICA_TEST_DATA "/qwen_image/model/vae"

static mica_weights *open_model(void)
{
    mica_err err = {0};
    mica_weights *w = NULL;
    assert_ok(mica_weights_open(&w, MODEL, &err), err);
    return w;
}

static mica_qwen_vae_config tiny_config(void)
{
    mica_err err = {0};
    mica_qwen_vae_config c;
    assert_ok(mica_qwen_vae_config_read(&c, MODEL "/config.json", &err), err);
    return c;
}

/* -------------------------------------------------------------------- names -- */

/* diffusers to Wan, written down from the published Wan 2.1 file and not from the code under
 * test: levels of the decoder are four entries long. */
static bool to_wan(void *user, const char *name, char *out, size_t cap)
{
    static const char *const parts[][2] = {
        {"mid_block.resnets.0.", "middle.0."},
        {"mid_block.resnets.1.", "middle.2."},
        {"mid_block.attentions.0.", "middle.1."},
        {".norm1.gamma", ".residual.0.gamma"},
        {".conv1.", ".residual.2."},
        {".norm2.gamma", ".residual.3.gamma"},
        {".conv2.", ".residual.6."},
        {".conv_shortcut.", ".shortcut."},
        {"down_blocks.", "downsamples."},
        {".conv_in.", ".conv1."},
        {".norm_out.", ".head.0."},
        {".conv_out.", ".head.2."},
    };
    char bare[192], from[64], to[64];
    snprintf(bare, sizeof bare, "%s", name);
    for (size_t i = 0; i < MICA_ARRAY_LEN(parts); i++)
        replace_first(bare, sizeof bare, parts[i][0], parts[i][1]);
    for (int n = 0; n < 16; n++) {
        snprintf(to, sizeof to, "upsamples.%d.", n);
        if (n % 4 == 3)
            snprintf(from, sizeof from, "up_blocks.%d.upsamplers.0.", n / 4);
        else
            snprintf(from, sizeof from, "up_blocks.%d.resnets.%d.", n / 4, n % 4);
        replace_first(bare, sizeof bare, from, to);
    }
    if (!replace_first(bare, sizeof bare, "post_quant_conv", "conv2"))
        replace_first(bare, sizeof bare, "quant_conv", "conv1");
    snprintf(out, cap, "%s%s", (const char *)user, bare);
    return true;
}

static void assert_same_directory(const mica_weights *a, const mica_weights *b)
{
    assert_int_equal(mica_weights_count(a), mica_weights_count(b));
    for (size_t i = 0; i < mica_weights_count(a); i++) {
        const mica_tensor *x = mica_weights_tensor(a, i);
        const mica_tensor *y = mica_weights_find(b, mica_weights_name(a, i));
        if (!y)
            fail_msg("%s is missing", mica_weights_name(a, i));
        assert_int_equal(mica_tensor_size(x), mica_tensor_size(y));
        assert_memory_equal(x->data, y->data, mica_tensor_size(x));
    }
}

static void check_spelling(mica_name_map_fn map, char *prefix, const char *probe)
{
    mica_err err = {0};
    mica_weights *w = open_model(), *original = open_model();
    assert_ok(mica_weights_rename(w, map, prefix, &err), err);
    if (!mica_weights_find(w, probe))
        fail_msg("the test's own renaming gives no %s", probe);
    assert_true(mica_qwen_vae_probe(w));
    assert_ok(mica_qwen_vae_rename(w, &err), err);
    assert_same_directory(original, w);
    assert_ok(mica_qwen_vae_rename(w, &err), err); /* again: nothing to do */
    assert_same_directory(original, w);
    mica_weights_close(&w);
    mica_weights_close(&original);
}

static bool add_prefix(void *user, const char *name, char *out, size_t cap)
{
    snprintf(out, cap, "%s%s", (const char *)user, name);
    return true;
}

static void test_spellings(void **state)
{
    (void)state;
    char none[] = "", vae[] = "vae.", stage[] = "first_stage_model.";
    check_spelling(to_wan, none, "decoder.upsamples.14.residual.6.weight");
    check_spelling(to_wan, none, "conv2.bias");
    check_spelling(to_wan, vae, "vae.encoder.downsamples.2.resample.1.weight");
    check_spelling(to_wan, stage, "first_stage_model.decoder.middle.1.to_qkv.weight");
    check_spelling(add_prefix, none, "decoder.norm_out.gamma");
    check_spelling(add_prefix, vae, "vae.post_quant_conv.weight");
    check_spelling(add_prefix, stage, "first_stage_model.quant_conv.weight");
}

static void test_probe_refuses_others(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *w = NULL;
    float one = 1.0f;
    const mica_tensor t = mica_tensor_1d(&one, MICA_DTYPE_F32, 1);
    assert_ok(mica_weights_open_empty(&w, &err), err);
    assert_ok(mica_weights_add(w, "decoder.up_blocks.0.resnets.0.conv1.weight", &t, &err), err);
    assert_ok(mica_weights_add(w, "decoder.mid_block.attentions.0.to_q.weight", &t, &err), err);
    assert_ok(mica_weights_add(w, "post_quant_conv.weight", &t, &err), err);
    assert_false(mica_qwen_vae_probe(w));
    mica_weights_close(&w);
}

/* ---------------------------------------------------------------- directories -- */

/* A copy of the model's directory without names that contain `without`, and with `misshapen`
 * one dimension short. */
static mica_weights *open_damaged(mica_weights *model, const char *without, const char *misshapen)
{
    mica_err err = {0};
    mica_weights *w = NULL;
    assert_ok(mica_weights_open_empty(&w, &err), err);
    for (size_t i = 0; i < mica_weights_count(model); i++) {
        const char *name = mica_weights_name(model, i);
        mica_tensor t = *mica_weights_tensor(model, i);
        if (without && strstr(name, without))
            continue;
        if (misshapen && strcmp(name, misshapen) == 0)
            t = mica_tensor_1d(t.data, t.dtype, 1); /* no tensor has that */
        assert_ok(mica_weights_add(w, name, &t, &err), err);
    }
    return w;
}

static void check_refused(const char *without, const char *misshapen, const char *count,
                          const char *text)
{
    mica_err err = {0};
    mica_qwen_vae *vae = NULL;
    const mica_qwen_vae_config c = tiny_config();
    mica_weights *model = open_model(), *w = open_damaged(model, without, misshapen);
    assert_int_equal(mica_qwen_vae_open(&vae, &c, w, &err), MICA_E_FORMAT);
    assert_null(vae);
    if (!strstr(err.text, count) || !strstr(err.text, text))
        fail_msg("no \"%s\" or \"%s\" in: %s", count, text, err.text);
    mica_weights_close(&w);
    mica_weights_close(&model);
}

static void test_problems_are_listed(void **state)
{
    (void)state;
    check_refused("decoder.conv_out.weight", NULL, "1 of its tensors is",
                  "decoder.conv_out.weight: missing, expected [3, 4, 3, 3, 3]");
    check_refused("encoder.norm_out", "decoder.conv_in.bias", "2 of its tensors",
                  "decoder.conv_in.bias: got [1]");
    check_refused("encoder.norm_out", "decoder.conv_in.bias", "2 of its tensors",
                  "encoder.norm_out.gamma: missing, expected [16, 1, 1, 1]");
    /* Never computed, but its absence means another model. */
    check_refused("up_blocks.0.upsamplers.0.time_conv.bias", NULL, "1 of its tensors is",
                  "time_conv.bias: missing");
    check_refused("gamma", NULL, "tensors are", "norm1.gamma: missing");
}

static void test_every_tensor_is_required(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_qwen_vae *vae = NULL;
    const mica_qwen_vae_config c = tiny_config();
    mica_weights *model = open_model();
    for (size_t i = 0; i < mica_weights_count(model); i++) {
        const char *name = mica_weights_name(model, i);
        mica_weights *w = open_damaged(model, NULL, name);
        assert_int_equal(mica_qwen_vae_open(&vae, &c, w, &err), MICA_E_FORMAT);
        if (!strstr(err.text, name))
            fail_msg("%s is not named in: %s", name, err.text);
        mica_weights_close(&w);
    }
    mica_weights_close(&model);
}

static void test_decoder_alone(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_qwen_vae *vae = NULL;
    mica_backend *be = NULL;
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = 1};
    const mica_qwen_vae_config c = tiny_config();
    int count = -1;
    mica_weights *model = open_model(), *w = open_damaged(model, "encoder.", NULL);
    assert_ok(mica_qwen_vae_open(&vae, &c, w, &err), err);
    assert_false(mica_qwen_vae_has_encoder(vae));
    assert_int_equal(mica_qwen_vae_get_config(vae)->base_dim, 4);
    mica_qwen_vae_weights(vae, MICA_QWEN_VAE_ENCODER, &count);
    assert_int_equal(count, 0);
    assert_ok(mica_backend_open(&be, &options, &err), err);
    mica_tensor picture = mica_state_tensor(be, MICA_POOL_SESSION, 3, (const int64_t[]){8, 8, 3});
    mica_tensor mean = mica_state_tensor(be, MICA_POOL_SESSION, 3, (const int64_t[]){1, 1, 16});
    assert_int_equal(mica_qwen_vae_encode(vae, be, &picture, &mean, NULL, NULL, &err),
                     MICA_E_MISSING);
    mica_backend_close(&be);
    mica_qwen_vae_close(&vae);
    mica_weights_close(&w);
    mica_weights_close(&model);
}

/* Each half lists what it computes with, each tensor once, none of the time convolutions. */
static void test_weight_lists(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_qwen_vae *vae = NULL;
    const mica_qwen_vae_config c = tiny_config();
    mica_weights *w = open_model();
    int count[2], time = 0;
    assert_ok(mica_qwen_vae_open(&vae, &c, w, &err), err);
    mica_weight *const *decoder = mica_qwen_vae_weights(vae, MICA_QWEN_VAE_DECODER, &count[0]);
    mica_weight *const *encoder = mica_qwen_vae_weights(vae, MICA_QWEN_VAE_ENCODER, &count[1]);
    for (size_t i = 0; i < mica_weights_count(w); i++)
        time += strstr(mica_weights_name(w, i), "time_conv") != NULL;
    assert_int_equal(time, 8);
    assert_int_equal(count[0] + count[1] + time, mica_weights_count(w));
    assert_string_equal(decoder[0]->name, "post_quant_conv.weight");
    assert_string_equal(decoder[count[0] - 1]->name, "decoder.conv_out.bias");
    assert_string_equal(encoder[0]->name, "encoder.conv_in.weight");
    assert_string_equal(encoder[count[1] - 1]->name, "quant_conv.bias");
    for (int i = 0; i < count[0]; i++)
        assert_null(strstr(decoder[i]->name, "time_conv"));
    mica_qwen_vae_close(&vae);
    mica_weights_close(&w);
}

/* ------------------------------------------------------------ configurations -- */

static void assert_same_config(const mica_qwen_vae_config *a, const mica_qwen_vae_config *b)
{
    assert_int_equal(a->base_dim, b->base_dim);
    assert_int_equal(a->z_dim, b->z_dim);
    assert_int_equal(a->levels, b->levels);
    assert_int_equal(a->num_res_blocks, b->num_res_blocks);
    assert_int_equal(a->picture_channels, b->picture_channels);
    for (int l = 0; l < a->levels; l++) {
        assert_int_equal(a->dim_mult_[l], b->dim_mult_[l]);
        assert_int_equal(a->temporal_[l], b->temporal_[l]);
    }
    for (int z = 0; z < a->z_dim; z++) {
        assert_true(a->latents_mean_[z] == b->latents_mean_[z]);
        assert_true(a->latents_std_[z] == b->latents_std_[z]);
    }
}

static void test_config_from_shapes(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_qwen_vae_config derived, read = tiny_config();
    mica_weights *w = open_model();
    assert_ok(mica_qwen_vae_config_derive(&derived, w, &err), err);
    assert_same_config(&derived, &read);
    assert_int_equal(mica_qwen_vae_scale(&derived), 8);
    mica_weights *bad = open_damaged(w, NULL, "decoder.conv_in.weight");
    assert_int_equal(mica_qwen_vae_config_derive(&derived, bad, &err), MICA_E_FORMAT);
    mica_weights_close(&bad);
    mica_weights_close(&w);
}

static void check_json(const char *text, mica_status status, const char *message)
{
    char path[] = "/tmp/mica-vae-config-XXXXXX";
    const int fd = mkstemp(path);
    mica_err err = {0};
    mica_qwen_vae_config c;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    const mica_status got = mica_qwen_vae_config_read(&c, path, &err);
    unlink(path);
    if (got != status || (message && !strstr(err.text, message)))
        fail_msg("%s: status %d, %s", text, (int)got, err.text);
    if (status == MICA_OK) {
        const mica_qwen_vae_config d = mica_qwen_vae_config_default();
        assert_same_config(&c, &d);
    }
}

static void test_config_json(void **state)
{
    (void)state;
    check_json("{}", MICA_OK, NULL);
    check_json("{\"temperal_downsample\": [false, true, true], \"attn_scales\": []}", MICA_OK,
               NULL);
    check_json("{\"temperal_downsample\": [false, true]}", MICA_E_FORMAT, "2 entries");
    check_json("{\"temperal_downsample\": [0, 1, 1]}", MICA_E_FORMAT, "neither true nor false");
    check_json("{\"temperal_downsample\": 3}", MICA_E_FORMAT, "not an array");
    check_json("{\"attn_scales\": [0.5]}", MICA_E_UNSUPPORTED, "attn_scales");
    check_json("{\"dim_mult\": [1, 2, 4, 4, 4, 4, 4, 4, 4]}", MICA_E_FORMAT, "dim_mult");
    check_json("{\"dim_mult\": [1, 0, 4, 4]}", MICA_E_FORMAT, "dim_mult");
    check_json("{\"base_dim\": 9000}", MICA_E_FORMAT, "width");
    check_json("{\"base_dim\": -1}", MICA_E_FORMAT, "base_dim");
    check_json("{\"num_res_blocks\": 1000000}", MICA_E_FORMAT, "num_res_blocks");
    check_json("{\"z_dim\": 8}", MICA_E_FORMAT, "latents_mean");
    check_json("{\"latents_std\": [1, 2]}", MICA_E_FORMAT, "latents_std");
    check_json("{\"latents_std\": [0,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", MICA_E_FORMAT, "positive");
}

/* Filled directories open, whatever the sizes: other depths, narrow middles, one level. */
static void test_fill(void **state)
{
    (void)state;
    static const struct {
        int levels, blocks, mult[4];
    } shapes[] = {{4, 2, {1, 2, 4, 4}}, {1, 1, {2}}, {3, 3, {1, 1, 2}}, {2, 7, {2, 1}}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(shapes); i++) {
        mica_err err = {0};
        mica_qwen_vae_config c = tiny_config();
        mica_qwen_vae *vae = NULL;
        mica_weights *w = NULL;
        mica_arena arena;
        c.levels = shapes[i].levels;
        c.num_res_blocks = shapes[i].blocks;
        memcpy(c.dim_mult_, shapes[i].mult, sizeof shapes[i].mult);
        mica_arena_init(&arena, 1 << 20);
        assert_ok(mica_weights_open_empty(&w, &err), err);
        assert_ok(mica_qwen_vae_fill(&c, w, &arena, &err), err);
        assert_true(mica_qwen_vae_probe(w));
        assert_ok(mica_qwen_vae_open(&vae, &c, w, &err), err);
        assert_true(mica_qwen_vae_has_encoder(vae));
        mica_qwen_vae_close(&vae);
        mica_weights_close(&w);
        mica_arena_deinit(&arena);
    }
}

/* The n-th allocation of open fails, for every n. */
static void test_open_without_memory(void **state)
{
    (void)state;
    const mica_qwen_vae_config c = tiny_config();
    mica_weights *w = open_model();
    mica_status st = MICA_E_NOMEM;
    int n = 0;
    while (st != MICA_OK && ++n < 10000) {
        mica_err err = {0};
        mica_qwen_vae *vae = NULL;
        mica_mem_fail_at((uint64_t)n);
        st = mica_qwen_vae_open(&vae, &c, w, &err);
        mica_mem_fail_at(0);
        assert_true(st == MICA_OK || (st == MICA_E_NOMEM && !vae));
        mica_qwen_vae_close(&vae);
    }
    assert_int_equal(st, MICA_OK);
    assert_true(n > 2);
    mica_weights_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_probe_refuses_others),
        cmocka_unit_test(test_problems_are_listed),
        cmocka_unit_test(test_every_tensor_is_required),
        cmocka_unit_test(test_decoder_alone),
        cmocka_unit_test(test_weight_lists),
        cmocka_unit_test(test_config_from_shapes),
        cmocka_unit_test(test_config_json),
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_open_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
