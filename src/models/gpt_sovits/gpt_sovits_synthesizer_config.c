/* gpt_sovits_synthesizer_config.c - sizes, settings and version of a SoVITS checkpoint.
 *
 *     tensors          every width, kernel and count
 *     "config" of the  heads, rates of the vocoder, dilations, sampling rate; where a file has none
 *      checkpoint      (converted ones), the released values, which the kernels confirm
 *     version          322 phones: v1; a speaker vector: v2Pro; with it 768 channels, the header 06 or
 *                      the settings' word: v2ProPlus, which differs in sizes alone
 *
 * Upstream tells versions by the size of the file and the digest of its beginning
 * (process_ckpt.py); tensors cannot be mistaken. */
#include "models/gpt_sovits/gpt_sovits_convert.h"
#include "models/gpt_sovits/gpt_sovits_semantic.h"
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

#include <stdio.h>
#include <string.h>

#define PHONES_V1 322
#define PLUS      768 /* channels of v2ProPlus's vocoder */

/* "v3", "v4" or "v3 or v4" where the decoder is a diffusion transformer, whole or an adapter of it; else NULL. */
static const char *flow_matching(const mica_weights *files)
{
    const char *header = mica_weights_header(files);
    char said[8];
    bool has_cfm = false;
    if (strcmp(header, "03") == 0)
        return "v3";
    if (strcmp(header, "04") == 0)
        return "v4";
    for (size_t i = 0; i < mica_weights_count(files) && !has_cfm; i++)
        has_cfm = strncmp(mica_weights_name(files, i), "cfm.", 4) == 0;
    if (!has_cfm)
        return NULL;
    const bool is_said = mica_weights_find_text(files, "config.model.version", said, sizeof said);
    return is_said && strcmp(said, "v3") == 0   ? "v3"
           : is_said && strcmp(said, "v4") == 0 ? "v4"
                                                : "v3 or v4";
}

bool mica_gs_synth_is_refused(const mica_weights *files)
{
    return flow_matching(files) != NULL;
}

bool mica_gs_synth_probe(const mica_weights *files)
{
    return (mica_weights_find(files, "enc_p.ssl_proj.weight") &&
            mica_weights_find(files, "enc_p.text_embedding.weight")) ||
           flow_matching(files);
}

/* What training alone needs, and what a voice file holds of the other network. */
static bool rename_tensor(void *user, const char *name, char *out, size_t cap)
{
    static const char *const UNUSED[] = {"enc_q.", "quantizer.vq.layers.0._codebook.inited",
                                         "quantizer.vq.layers.0._codebook.cluster_size",
                                         "quantizer.vq.layers.0._codebook.embed_avg"};
    bool unused = mica_gs_is_semantic_name(name);
    (void)user;
    for (size_t i = 0; i < MICA_ARRAY_LEN(UNUSED) && !unused; i++)
        unused = strncmp(name, UNUSED[i], strlen(UNUSED[i])) == 0;
    if (unused && cap)
        *out = '\0';
    return unused;
}

static mica_status refuse_flow_matching(const mica_weights *files, mica_err *err)
{
    const char *version = flow_matching(files);
    if (!version)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                     "%s: GPT-SoVITS %s%s: its flow-matching decoder and its vocoder are not there "
                     "yet; v1, v2, v2Pro and v2ProPlus are",
                     mica_weights_path(files), version,
                     mica_weights_find(files, "enc_p.ssl_proj.weight") ? ""
                                                                       : " (an adapter for it)");
}

mica_status mica_gs_synth_directory(mica_weights **out, const mica_weights *files,
                                    mica_arena *arena, mica_err *err)
{
    MICA_TRY(refuse_flow_matching(files, err));
    return mica_gs_directory(out, files, rename_tensor, arena, err);
}

mica_status mica_gs_synth_folded(mica_weights **out, const mica_weights *files, mica_arena *arena,
                                 mica_err *err)
{
    MICA_TRY(refuse_flow_matching(files, err));
    return mica_gs_folded(out, files, rename_tensor, arena, err);
}

/* ------------------------------------------------------------------- sizes -- */

static int64_t size_of(const mica_weights *w, const char *name, int dim)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim ? t->shape_[dim] : 0;
}

static int64_t indexed_size(const mica_weights *w, const char *pattern, int index, int dim)
{
    char name[96];
    const mica_weight_row row = {.pattern = pattern};
    char full[MICA_WEIGHT_NAME];
    mica_weight_row_name(&row, index, full);
    snprintf(name, sizeof name, "%.95s", full);
    return size_of(w, name, dim);
}

static void read_sizes(mica_gs_synth_config *c, const mica_weights *w)
{
    c->hidden = size_of(w, "enc_p.ssl_proj.weight", 0);
    c->ssl = size_of(w, "enc_p.ssl_proj.weight", 1);
    c->filter = size_of(w, "enc_p.encoder_text.ffn_layers.0.conv_1.weight", 0);
    c->window = size_of(w, "enc_p.encoder_text.attn_layers.0.emb_rel_k", 0);
    c->mrte = size_of(w, "enc_p.mrte.c_pre.weight", 0);
    c->style = size_of(w, "ref_enc.spectral.0.fc.weight", 0);
    c->style_bins = size_of(w, "ref_enc.spectral.0.fc.weight", 1);
    c->gin = size_of(w, "ref_enc.fc.fc.weight", 0);
    c->inter = size_of(w, "enc_p.proj.weight", 0) / 2;
    c->codes = size_of(w, "quantizer.vq.layers.0._codebook.embed", 0);
    c->phones = size_of(w, "enc_p.text_embedding.weight", 0);
    c->speaker = size_of(w, "sv_emb.weight", 1);
    const mica_tensor *filter =
        mica_weights_find(w, "enc_p.encoder_text.ffn_layers.0.conv_1.weight");
    c->filter_kernel = filter && filter->ndim == 4 ? filter->shape_[3] : 1;
    const mica_tensor *code = mica_weights_find(w, "ssl_proj.weight");
    c->code_kernel = code && code->ndim == 4 ? code->shape_[3] : 1;
    c->layers_ssl = mica_weight_count_blocks(w, "enc_p.encoder_ssl.norm_layers_1.");
    c->layers_text = mica_weight_count_blocks(w, "enc_p.encoder_text.norm_layers_1.");
    c->layers_2 = mica_weight_count_blocks(w, "enc_p.encoder2.norm_layers_1.");
    c->ups = mica_weight_count_blocks(w, "dec.ups.");
    c->channels[0] = size_of(w, "dec.conv_pre.weight", 0);
    for (int i = 0; i < c->ups && i < MICA_GS_UPS; i++) {
        c->channels[i + 1] = indexed_size(w, "dec.ups.%d.weight", i, 1);
        c->up_kernels[i] = (int)indexed_size(w, "dec.ups.%d.weight", i, 3);
    }
    c->is_short = mica_weights_find(w, "dec.resblocks.0.convs.0.weight") != NULL;
    c->kernel_count = c->ups > 0 ? mica_weight_count_blocks(w, "dec.resblocks.") / c->ups : 0;
    for (int j = 0; j < c->kernel_count && j < MICA_GS_KERNELS; j++)
        c->kernels[j] = (int)indexed_size(
            w, c->is_short ? "dec.resblocks.%d.convs.0.weight" : "dec.resblocks.%d.convs1.0.weight",
            j, 3);
}

/* ---------------------------------------------------------------- settings -- */

static int64_t setting(const mica_weights *files, const char *path, int64_t other)
{
    int64_t value = other;
    mica_weights_find_int(files, mica_gs_settings_path(files, MICA_PART_SYNTHESIZER, path).text,
                          &value);
    return value;
}

/* A list of dilations for each residual block of a stage; 0 where the settings say what no block has. */
static void read_dilations(mica_gs_synth_config *c, const mica_weights *files)
{
    static const int DILATIONS[MICA_GS_DILATIONS] = {1, 3, 5};
    for (int j = 0; j < MICA_GS_KERNELS; j++)
        for (int k = 0; k < MICA_GS_DILATIONS; k++) {
            char path[48];
            int64_t dilation = DILATIONS[k];
            snprintf(path, sizeof path, "model.resblock_dilation_sizes.%d", j);
            mica_weights_find_item(files,
                                   mica_gs_settings_path(files, MICA_PART_SYNTHESIZER, path).text,
                                   (size_t)k, &dilation);
            c->dilations[j][k] = dilation > 0 && dilation <= 64 ? (int)dilation : 0;
        }
}

static void read_settings(mica_gs_synth_config *c, const mica_weights *files)
{
    static const int RATES[MICA_GS_UPS] = {10, 8, 2, 2, 2};
    c->heads = setting(files, "model.n_heads", 2);
    c->mrte_heads = 4; /* mrte_model.py and modules.py have no setting for these */
    c->style_heads = 2;
    c->rate = (int)setting(files, "data.sampling_rate", 32000);
    c->fft = (int)setting(files, "data.filter_length", 2048);
    c->fft_window = (int)setting(files, "data.win_length", c->fft);
    c->hop = 1;
    const mica_gs_path rates =
        mica_gs_settings_path(files, MICA_PART_SYNTHESIZER, "model.upsample_rates");
    for (int i = 0; i < c->ups && i < MICA_GS_UPS; i++) {
        int64_t rate = RATES[i];
        mica_weights_find_item(files, rates.text, (size_t)i, &rate);
        c->rates[i] = rate > 0 && rate <= 64 ? (int)rate : 0;
        c->hop *= c->rates[i] ? c->rates[i] : 1;
    }
    c->fft_hop = (int)setting(files, "data.hop_length", c->hop);
    read_dilations(c, files);
}

/* What the settings say, else the file's first bytes, else the metadata of a converted file. */
static bool says_plus(const mica_weights *files)
{
    char said[16];
    const char *kept = mica_weights_metadata(files, "version");
    const mica_gs_path path = mica_gs_settings_path(files, MICA_PART_SYNTHESIZER, "model.version");
    return strcmp(mica_weights_header(files), "06") == 0 ||
           (kept && strcmp(kept, "v2ProPlus") == 0) ||
           (mica_weights_find_text(files, path.text, said, sizeof said) &&
            strcmp(said, "v2ProPlus") == 0);
}

static void find_version(mica_gs_synth_config *c, const mica_weights *files)
{
    const bool is_plus = c->channels[0] == PLUS || says_plus(files);
    c->version = c->phones == PHONES_V1 ? MICA_GS_V1
                 : c->speaker == 0      ? MICA_GS_V2
                 : is_plus              ? MICA_GS_V2PRO_PLUS
                                        : MICA_GS_V2PRO;
}

const char *mica_gs_synth_version(const mica_weights *files, bool *wants_speaker)
{
    static const char *const NAMES[] = {"v1", "v2", "v2Pro", "v2ProPlus"};
    mica_gs_synth_config c = {.phones = size_of(files, "enc_p.text_embedding.weight", 0),
                              .speaker = size_of(files, "sv_emb.weight", 1),
                              .channels = {size_of(files, "dec.conv_pre.weight", 0)}};
    find_version(&c, files);
    *wants_speaker = c.speaker > 0;
    return flow_matching(files) ? "v3 or v4 (not spoken)" : NAMES[c.version];
}

static mica_status check_residual_blocks(const mica_gs_synth_config *c, const char *path,
                                         mica_err *err)
{
    if (c->kernel_count < 1 || c->kernel_count > MICA_GS_KERNELS)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: a stage of the vocoder has %d residual blocks; 1 to %d are known",
                         path, c->kernel_count, MICA_GS_KERNELS);
    for (int j = 0; j < c->kernel_count; j++) {
        if (c->kernels[j] < 1 || c->kernels[j] % 2 == 0)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a residual block has a kernel of %d",
                             path, c->kernels[j]);
        for (int k = 0; k < MICA_GS_DILATIONS; k++)
            if (c->dilations[j][k] < 1)
                return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                                 "%s: a residual block has a dilation outside 1 to 64", path);
    }
    return MICA_OK;
}

static mica_status check_spectrum(const mica_gs_synth_config *c, const char *path, mica_err *err)
{
    if (c->rate < 8000 || c->rate > 96000 || c->fft < 256 || c->fft > 65536 ||
        (c->fft & (c->fft - 1)) != 0 || c->fft_hop < 1 || c->fft_hop > c->fft ||
        c->fft_window < 1 || c->fft_window > c->fft)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: no spectrum of %d points under a window of %d every %d samples at %d "
                         "Hz; 256 to 65536 points, a power of two, are known",
                         path, c->fft, c->fft_window, c->fft_hop, c->rate);
    if (c->style_bins > c->fft / 2 + 1)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: its style reads %lld bins, a spectrum of %d points has %d", path,
                         (long long)c->style_bins, c->fft, c->fft / 2 + 1);
    return MICA_OK;
}

static mica_status check(const mica_gs_synth_config *c, const char *path, mica_err *err)
{
    if (c->ups < 1 || c->ups > MICA_GS_UPS)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a vocoder of %d stages; 1 to %d are known",
                         path, c->ups, MICA_GS_UPS);
    for (int i = 0; i < c->ups; i++)
        if (c->rates[i] < 1 || c->up_kernels[i] < c->rates[i] ||
            (c->up_kernels[i] - c->rates[i]) % 2 != 0)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "%s: stage %d of the vocoder has a rate of %d and a kernel of %d; "
                             "what they differ by must be even and not negative",
                             path, i, c->rates[i], c->up_kernels[i]);
    if (c->heads < 1 || c->hidden % c->heads != 0 || c->mrte % c->mrte_heads != 0 ||
        c->style % c->style_heads != 0 || c->inter % 2 != 0 || c->window % 2 == 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: widths of %lld, %lld and %lld do not divide into their heads", path,
                         (long long)c->hidden, (long long)c->mrte, (long long)c->style);
    if (c->code_kernel < 1 || c->code_kernel > 2)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: ssl_proj has a kernel of %lld", path,
                         (long long)c->code_kernel);
    MICA_TRY(check_residual_blocks(c, path, err));
    return check_spectrum(c, path, err);
}

mica_status mica_gs_synth_config_read(mica_gs_synth_config *c, const mica_weights *files,
                                      const mica_weights *directory, mica_err *err)
{
    *c = (mica_gs_synth_config){0};
    read_sizes(c, directory);
    read_settings(c, files);
    find_version(c, files);
    return check(c, mica_weights_path(files), err);
}

/* configs/s2.json, s2v2Pro.json, s2v2ProPlus.json */
void mica_gs_synth_config_default(mica_gs_synth_config *c, mica_gs_version version)
{
    const bool is_pro = version >= MICA_GS_V2PRO;
    *c = (mica_gs_synth_config){.version = version,
                                .ssl = 768,
                                .hidden = 192,
                                .filter = 768,
                                .heads = 2,
                                .window = 9,
                                .mrte = 512,
                                .mrte_heads = 4,
                                .style = 128,
                                .style_heads = 2,
                                .style_bins = 704,
                                .gin = is_pro ? 1024 : 512,
                                .inter = 192,
                                .codes = 1024,
                                .phones = 732,
                                .speaker = is_pro ? 20480 : 0,
                                .code_kernel = 2,
                                .layers_ssl = 3,
                                .layers_text = 6,
                                .layers_2 = 3,
                                .ups = 5,
                                .rates = {10, 8, 2, 2, 2},
                                .up_kernels = {16, 16, 8, 2, 2},
                                .filter_kernel = 3,
                                .dilations = {{1, 3, 5}, {1, 3, 5}, {1, 3, 5}},
                                .kernel_count = 3,
                                .kernels = {3, 7, 11},
                                .rate = 32000,
                                .hop = 640,
                                .fft = 2048,
                                .fft_hop = 640,
                                .fft_window = 2048};
    if (version == MICA_GS_V2PRO_PLUS)
        c->up_kernels[0] = 20;
    for (int i = 0; i <= c->ups; i++)
        c->channels[i] = (version == MICA_GS_V2PRO_PLUS ? PLUS : 512) >> i;
}
