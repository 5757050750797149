/* test_mflux_files.c - whole folders as mflux saves them, of the three families.
 *
 *     transformer/0.safetensors, model.safetensors.index.json      mflux's own names, convolutions with channels last
 *     text_encoder/  vae/  tokenizer/                               no model_index.json, no scheduler
 *
 * Names are written down from mflux's weight mappings (models/{qwen,flux2,z_image}/weights), not from the code under
 * test. Every number must be the reference's. The tiny models keep the configurations of what shapes do not tell and
 * released models have by default (groups of norms, rotary bases).
 *
 * Quantised folders (`mflux-save -q 8`) are compared with folders of the numbers that their integers stand for. mflux
 * packs every linear layer and embedding, first and last layers and the attention of the autoencoders included; the
 * tiny ones have 24 channels there, which cannot be packed, so wider ones of random numbers take their place. */
#include "golden_layout.h"

#include "convert_support.h"
#include "nn/kl_vae.h"

#include <stdio.h>
#include <string.h>

typedef struct pair {
    const char *from, *to;
} pair;

/* The first pair whose `from` is in the name. */
static bool replace(const char *name, const pair *pairs, size_t count, char out[256])
{
    for (size_t i = 0; i < count; i++) {
        const char *at = strstr(name, pairs[i].from);
        if (at) {
            snprintf(out, 256, "%.*s%s%s", (int)(at - name), name, pairs[i].to,
                     at + strlen(pairs[i].from));
            return true;
        }
    }
    snprintf(out, 256, "%s", name);
    return false;
}

#define REPLACE(name, pairs, out) replace(name, pairs, MICA_ARRAY_LEN(pairs), out)

static void check_case(const char *dir, const char *system, const char *name)
{
    golden_case c;
    golden_run r;
    const mica_engine_options o = {.size = sizeof o, .model = dir};
    golden_case_open(&c, system, name);
    mica_model *m = golden_model_open(&o);
    golden_generate_ok(&r, m, &(golden_setup){0}, &c.options);
    golden_model_close(&m);
    golden_assert_case(&c, r.trace, 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
}

/* ------------------------------------------------------------------------ Z-Image -- */

static void z_transformer(const char *name, char out[256])
{
    static const pair PAIRS[] = {
        {"t_embedder.mlp.0.", "t_embedder.linear1."},
        {"t_embedder.mlp.2.", "t_embedder.linear2."},
        {"all_final_layer.2-1.adaLN_modulation.1.", "all_final_layer.2-1.adaLN_modulation.0."}};
    (void)REPLACE(name, PAIRS, out);
}

static void z_vae(const char *name, char out[256])
{
    static const pair PAIRS[] = {{"encoder.conv_in.", "encoder.conv_in.conv2d."},
                                 {"encoder.conv_out.", "encoder.conv_out.conv2d."},
                                 {"decoder.conv_in.", "decoder.conv_in.conv."},
                                 {"decoder.conv_out.", "decoder.conv_out.conv."},
                                 {"conv_norm_out.", "conv_norm_out.norm."}};
    (void)REPLACE(name, PAIRS, out);
}

static const golden_layout BARE = {.from = "model.", .to = ""};

/* ---------------------------------------------------------------------- quantised -- */

/* An autoencoder whose attention is 64 wide, in diffusers' names. FLUX.2's has its latents' moments beside it. */
static void write_wide_vae(const char *path, const char *source)
{
    char from[512];
    mica_kl_vae_config config;
    mica_weights *made = NULL, *tiny = NULL;
    mica_arena arena;
    mica_err err = {0};
    snprintf(from, sizeof from, MICA_TEST_DATA "/%s/vae", source);
    assert_int_equal(mica_weights_open(&tiny, from, &err), MICA_OK);
    snprintf(from, sizeof from, MICA_TEST_DATA "/%s/vae/config.json", source);
    assert_int_equal(mica_kl_vae_config_read(&config, from, &err), MICA_OK);
    for (int i = 0; i < config.levels; i++)
        config.encoder_dim_[i] = config.decoder_dim_[i] = i < 2 ? 32 : 64;
    mica_arena_init(&arena, 1 << 16);
    assert_int_equal(mica_weights_open_empty(&made, &err), MICA_OK);
    assert_int_equal(mica_kl_vae_fill(&config, made, &arena, &err), MICA_OK);
    golden_copy *f = golden_copy_new();
    for (size_t i = 0; i < mica_weights_count(made); i++)
        golden_copy_add(f, mica_weights_name(made, i), mica_weights_tensor(made, i));
    static const char *const MOMENTS[] = {"bn.running_mean", "bn.running_var"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(MOMENTS); i++)
        if (mica_weights_find(tiny, MOMENTS[i]))
            golden_copy_add(f, MOMENTS[i], mica_weights_find(tiny, MOMENTS[i]));
    golden_copy_write(&f, path);
    mica_weights_close(&made);
    mica_weights_close(&tiny);
    mica_arena_deinit(&arena);
}

typedef struct mflux_model {
    const char *source, *system, *name, *last; /* the last latents of the case */
    golden_layout transformer, text_encoder, vae;
    bool wide_vae;
} mflux_model;

/* The attention of both halves: eight linear layers. */
static void check_vae_is_packed(const char *dir)
{
    char path[300];
    mica_weights *w = NULL;
    mica_err err = {0};
    int packed = 0;
    snprintf(path, sizeof path, "%s/vae", dir);
    assert_int_equal(mica_weights_open(&w, path, &err), MICA_OK);
    for (size_t i = 0; i < mica_weights_count(w); i++)
        packed += mica_dtype_is_packed(mica_weights_tensor(w, i)->dtype);
    assert_int_equal(packed, 8);
    mica_weights_close(&w);
}

static void run_encoded(golden_run *r, const mflux_model *m, golden_encoding e,
                        mica_precision precision, golden_case *c)
{
    static const char *const KEPT[] = {"transformer/config.json", "text_encoder/config.json",
                                       "vae/config.json", NULL};
    char dir[256], vae[300];
    golden_layout part[] = {m->transformer, m->text_encoder, m->vae};
    for (size_t i = 0; i < MICA_ARRAY_LEN(part); i++) {
        part[i].encoding = e;
        part[i].encoded = "";
    }
    golden_mflux_make(dir, m->source, &part[0], &part[1], &part[2], KEPT);
    snprintf(vae, sizeof vae, "%s/wide.safetensors", dir);
    if (m->wide_vae) { /* sizes from shapes, as in a real folder */
        write_wide_vae(vae, m->source);
        golden_mflux_replace(dir, "vae", vae, &part[2]);
        snprintf(vae, sizeof vae, "%s/vae/config.json", dir);
        assert_int_equal(remove(vae), 0);
        if (e == GOLDEN_MLX8 || e == GOLDEN_MLX4)
            check_vae_is_packed(dir);
    }
    const mica_engine_options o = {.size = sizeof o, .model = dir};
    mica_model *model = golden_model_open(&o);
    golden_generate_ok(r, model, &(golden_setup){.precision = precision}, &c->options);
    golden_model_close(&model);
    golden_remove_folder(dir);
}

static double distance(const golden_run *a, const golden_run *b, const char *name)
{
    const mica_tensor *got = mica_trace_find(a->trace, name);
    const mica_tensor *expected = mica_trace_find(b->trace, name);
    assert_non_null(got);
    assert_non_null(expected);
    return golden_relative_l2(got, expected);
}

/* Packed, decoded and original; `cost`: what the packed one's last latents may be from the original's. */
static void check_encoded(const mflux_model *m, golden_encoding packed, golden_encoding decoded,
                          double cost)
{
    golden_case c;
    golden_run a, b, o, half;
    golden_case_open(&c, m->system, m->name);
    run_encoded(&a, m, packed, MICA_PRECISION_F32, &c);
    run_encoded(&b, m, decoded, MICA_PRECISION_F32, &c);
    run_encoded(&o, m, GOLDEN_KEEP, MICA_PRECISION_F32, &c);
    run_encoded(&half, m, packed, MICA_PRECISION_BF16, &c);
    const double near = distance(&a, &b, m->last), far = distance(&a, &o, m->last);
    const double picture = distance(&a, &b, "vae_decode.output");
    print_message("%s: latents %.2g of the decoded, %.2g of the original; picture %.2g, %.2g\n",
                  m->source, near, far, picture, distance(&a, &o, "vae_decode.output"));
    assert_true(near <= 2e-5 && picture <= 2e-5);
    assert_true(far > 1e-4 && far < cost);
    assert_true(distance(&half, &a, "vae_decode.output") < 4e-2);
    golden_run_close(&half);
    golden_run_close(&a);
    golden_run_close(&b);
    golden_run_close(&o);
    golden_case_close(&c);
}

static void check_quantised(const mflux_model *m, double cost8, double cost4)
{
    check_encoded(m, GOLDEN_MLX8, GOLDEN_MLX8_AS_F32, cost8);
    check_encoded(m, GOLDEN_MLX4, GOLDEN_MLX4_AS_F32, cost4);
}

static void test_z_image_quantised(void **state)
{
    (void)state;
    check_quantised(&(mflux_model){.source = "z_image/model",
                                   .system = "z_image",
                                   .name = "turbo",
                                   .last = "step3.latents",
                                   .transformer = {.rename = z_transformer},
                                   .text_encoder = BARE,
                                   .vae = {.rename = z_vae, .channels_last = true},
                                   .wide_vae = true},
                    0.05, 0.5);
}

static void test_z_image(void **state)
{
    (void)state;
    static const char *const KEPT[] = {"transformer/config.json", "text_encoder/config.json",
                                       "vae/config.json", NULL};
    char dir[256];
    golden_mflux_make(dir, "z_image/model", &(golden_layout){.rename = z_transformer}, &BARE,
                      &(golden_layout){.rename = z_vae, .channels_last = true}, KEPT);
    check_case(dir, "z_image", "turbo");
    golden_remove_folder(dir);
}

/* ------------------------------------------------------------------------- FLUX.2 -- */

static void flux_transformer(const char *name, char out[256])
{
    static const pair PAIRS[] = {{"time_guidance_embed.timestep_embedder.", "time_guidance_embed."},
                                 {".attn.to_out.0.", ".attn.to_out."}};
    (void)REPLACE(name, PAIRS, out);
}

static void flux_vae(const char *name, char out[256])
{
    static const pair PAIRS[] = {{"attentions.0.to_out.0.", "attentions.0.to_out."}};
    (void)REPLACE(name, PAIRS, out);
}

static void test_flux2(void **state)
{
    (void)state;
    static const char *const KEPT[] = {"transformer/config.json", "text_encoder/config.json",
                                       "vae/config.json", NULL};
    char dir[256];
    golden_mflux_make(dir, "flux2_klein/model", &(golden_layout){.rename = flux_transformer}, &BARE,
                      &(golden_layout){.rename = flux_vae, .channels_last = true}, KEPT);
    check_case(dir, "flux2_klein", "base_cfg");
    check_case(dir, "flux2_klein", "edit");
    golden_remove_folder(dir);
}

static void test_flux2_quantised(void **state)
{
    (void)state;
    mflux_model m = {.source = "flux2_klein/model",
                     .system = "flux2_klein",
                     .name = "distilled",
                     .last = "step3.latents",
                     .transformer = {.rename = flux_transformer},
                     .text_encoder = BARE,
                     .vae = {.rename = flux_vae, .channels_last = true},
                     .wide_vae = true};
    check_quantised(&m, 0.05, 0.5);
    m.name = "edit"; /* through the packed attention of the encoder */
    m.last = "step1.latents";
    check_quantised(&m, 0.05, 0.5);
}

/* --------------------------------------------------------------------- Qwen-Image -- */

static void qwen_transformer(const char *name, char out[256])
{
    static const pair PAIRS[] = {
        {".attn.to_out.0.", ".attn.attn_to_out.0."}, {".img_mod.1.", ".img_mod_linear."},
        {".txt_mod.1.", ".txt_mod_linear."},         {".img_mlp.net.0.proj.", ".img_ff.mlp_in."},
        {".img_mlp.net.2.", ".img_ff.mlp_out."},     {".txt_mlp.net.0.proj.", ".txt_ff.mlp_in."},
        {".txt_mlp.net.2.", ".txt_ff.mlp_out."}};
    (void)REPLACE(name, PAIRS, out);
}

static void qwen_text(const char *name, char out[256])
{
    static const pair PAIRS[] = {{"visual.merger.mlp.0.", "encoder.visual.merger.mlp_0."},
                                 {"visual.merger.mlp.2.", "encoder.visual.merger.mlp_1."},
                                 {"visual.", "encoder.visual."},
                                 {"model.", "encoder."}};
    (void)REPLACE(name, PAIRS, out);
}

/* The encoder's flat list, of which `period` entries are one resolution; blocks of the decoder by name. */
static void qwen_blocks(const char *name, char out[256], int period)
{
    int n = 0, used = 0;
    if (sscanf(name, "decoder.up_blocks.%d.%n", &n, &used) == 1 && used)
        snprintf(out, 256, "decoder.up_block%d.%s", n, name + used);
    else if (sscanf(name, "encoder.down_blocks.%d.%n", &n, &used) != 1 || !used)
        snprintf(out, 256, "%s", name);
    else if (strstr(name, "resample.") || strstr(name, "time_conv."))
        snprintf(out, 256, "encoder.down_blocks.%d.downsamplers.0.%s", n / period, name + used);
    else
        snprintf(out, 256, "encoder.down_blocks.%d.resnets.%d.%s", n / period, n % period,
                 name + used);
}

static void qwen_vae(const char *name, char out[256])
{
    static const pair PAIRS[] = {{".conv_shortcut.", ".skip_conv.conv3d."},
                                 {".resample.1.", ".resample_conv."},
                                 {".time_conv.", ".time_conv.conv3d."},
                                 {"quant_conv.", "quant_conv.conv3d."},
                                 {".conv_in.", ".conv_in.conv3d."},
                                 {".conv_out.", ".conv_out.conv3d."},
                                 {".conv1.", ".conv1.conv3d."},
                                 {".conv2.", ".conv2.conv3d."},
                                 {".gamma", ".weight"}};
    char blocks[256];
    qwen_blocks(name, blocks, 3); /* two residual blocks and a resampling */
    (void)REPLACE(blocks, PAIRS, out);
}

static void test_qwen_image(void **state)
{
    (void)state;
    static const char *const KEPT[] = {"transformer/config.json", "text_encoder/config.json",
                                       "vae/config.json", NULL};
    char dir[256];
    golden_mflux_make(dir, "qwen_image/model", &(golden_layout){.rename = qwen_transformer},
                      &(golden_layout){.rename = qwen_text},
                      &(golden_layout){.rename = qwen_vae, .channels_last = true}, KEPT);
    check_case(dir, "qwen_image", "t2i_cfg");
    golden_remove_folder(dir);
}

static void test_qwen_image_quantised(void **state)
{
    (void)state;
    check_quantised(&(mflux_model){.source = "qwen_image/model",
                                   .system = "qwen_image",
                                   .name = "t2i_cfg",
                                   .last = "step2.latents",
                                   .transformer = {.rename = qwen_transformer},
                                   .text_encoder = {.rename = qwen_text},
                                   .vae = {.rename = qwen_vae, .channels_last = true}},
                    0.05, 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_z_image),         cmocka_unit_test(test_flux2),
        cmocka_unit_test(test_qwen_image),      cmocka_unit_test(test_z_image_quantised),
        cmocka_unit_test(test_flux2_quantised), cmocka_unit_test(test_qwen_image_quantised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
