/* test_mflux_files.c - whole folders as mflux saves them, of the three families.
 *
 *     transformer/0.safetensors, model.safetensors.index.json      mflux's own names, convolutions with channels last
 *     text_encoder/  vae/  tokenizer/                               no model_index.json, no scheduler
 *
 * Names are written down from mflux's weight mappings (models/{qwen,flux2,z_image}/weights), not from the code under
 * test. Every number must be the reference's. The tiny models keep the configurations of what shapes do not tell and
 * released models have by default (groups of norms, rotary bases). */
#include "golden_layout.h"

#include "convert_support.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_z_image),
        cmocka_unit_test(test_flux2),
        cmocka_unit_test(test_qwen_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
