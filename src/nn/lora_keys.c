/* lora_keys.c - spellings of LoRA tensor names; see lora_keys.h.
 *
 * Found in files of peft and diffusers (lora_A, lora_B, lora.down), kohya's trainers (lora_down, flat
 * names), LyCORIS (hada_, lokr_, diff) and ComfyUI (diff_b). */
#include "nn/lora_keys.h"

#include "base/compiler.h"
#include "base/names.h"

#include <string.h>

typedef struct suffix {
    const char *text;
    mica_lora_role role;
} suffix;

/* The longest that fits counts; no text here is the end of another. */
static const suffix SUFFIXES[] = {
    {".lora_A.weight", MICA_LORA_DOWN},
    {".lora_B.weight", MICA_LORA_UP},
    {".lora_A", MICA_LORA_DOWN},
    {".lora_B", MICA_LORA_UP},
    {".lora_B.bias", MICA_LORA_UP_BIAS},
    {".lora_down.weight", MICA_LORA_DOWN},
    {".lora_up.weight", MICA_LORA_UP},
    {".lora_up.bias", MICA_LORA_UP_BIAS},
    {".lora.down.weight", MICA_LORA_DOWN},
    {".lora.up.weight", MICA_LORA_UP},
    {".lora.up.bias", MICA_LORA_UP_BIAS},
    {".alpha", MICA_LORA_ALPHA},
    {".hada_w1_a", MICA_LORA_HADA_W1_A},
    {".hada_w1_b", MICA_LORA_HADA_W1_B},
    {".hada_w2_a", MICA_LORA_HADA_W2_A},
    {".hada_w2_b", MICA_LORA_HADA_W2_B},
    {".lokr_w1", MICA_LORA_LOKR_W1},
    {".lokr_w1_a", MICA_LORA_LOKR_W1_A},
    {".lokr_w1_b", MICA_LORA_LOKR_W1_B},
    {".lokr_w2", MICA_LORA_LOKR_W2},
    {".lokr_w2_a", MICA_LORA_LOKR_W2_A},
    {".lokr_w2_b", MICA_LORA_LOKR_W2_B},
    {".diff", MICA_LORA_DIFF},
    {".diff_b", MICA_LORA_DIFF_BIAS},
    {".w_norm", MICA_LORA_DIFF},
    {".b_norm", MICA_LORA_DIFF_BIAS},
    {".dora_scale", MICA_LORA_DORA},
    {".lora_magnitude_vector", MICA_LORA_MAGNITUDE},
    {".lora_magnitude_vector.weight", MICA_LORA_MAGNITUDE},
    {".lora_mid.weight", MICA_LORA_TUCKER},
    {".hada_t1", MICA_LORA_TUCKER},
    {".hada_t2", MICA_LORA_TUCKER},
    {".lokr_t2", MICA_LORA_TUCKER},
    {".oft_blocks", MICA_LORA_OFT},
    {".oft_diag", MICA_LORA_OFT},
    {".oft_R.weight", MICA_LORA_OFT},
};

/* Prefixes that say no more than "of the picture model". */
static const char *const PREFIXES[] = {"base_model.model.", "model.diffusion_model.",
                                       "diffusion_model.", "transformer."};
static const char *const FLAT_PREFIXES[] = {"lora_unet_", "lora_transformer_", "lycoris_"};
static const char *const TEXT_PREFIXES[] = {"text_encoder", "lora_te", "te_model.", "text_model."};

/* Removes a suffix of SUFFIXES from text[0..n); 0 when none fits. */
static size_t cut_suffix(const char *text, size_t n, mica_lora_role *role)
{
    size_t best = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(SUFFIXES); i++) {
        const size_t m = strlen(SUFFIXES[i].text);
        if (m > best && m < n && memcmp(text + n - m, SUFFIXES[i].text, m) == 0) {
            best = m;
            *role = SUFFIXES[i].role;
        }
    }
    return best ? n - best : 0;
}

/* peft puts an adapter's name in: "X.lora_A.default.weight" becomes "X.lora_A.weight". */
static void drop_adapter_name(char *text)
{
    static const char *const marks[] = {".lora_A.", ".lora_B.", ".lora_magnitude_vector."};
    for (size_t i = 0; i < MICA_ARRAY_LEN(marks); i++) {
        char *at = strstr(text, marks[i]), *dot = at ? strchr(at + strlen(marks[i]), '.') : NULL;
        if (!dot || strchr(dot + 1, '.'))
            continue;
        memmove(at + strlen(marks[i]), dot + 1, strlen(dot + 1) + 1);
    }
}

static const char *skip_prefixes(const char *name, mica_lora_key *out)
{
    const char *rest;
    for (size_t i = 0; i < MICA_ARRAY_LEN(PREFIXES); i++)
        if ((rest = mica_name_behind(name, PREFIXES[i])))
            return skip_prefixes(rest, out);
    for (size_t i = 0; i < MICA_ARRAY_LEN(FLAT_PREFIXES); i++)
        if ((rest = mica_name_behind(name, FLAT_PREFIXES[i]))) {
            out->is_flat = true;
            return rest;
        }
    for (size_t i = 0; i < MICA_ARRAY_LEN(TEXT_PREFIXES); i++)
        out->is_text |= mica_name_behind(name, TEXT_PREFIXES[i]) != NULL;
    return name;
}

void mica_lora_key_parse(const char *name, mica_lora_key *out)
{
    out->role = MICA_LORA_UNKNOWN;
    out->is_flat = out->is_text = false;
    out->target[0] = '\0';
    if (strlen(name) > MICA_TENSOR_NAME_MAX)
        return;
    char text[MICA_TENSOR_NAME_MAX + 1];
    const char *rest = skip_prefixes(name, out);
    memcpy(text, rest, strlen(rest) + 1);
    drop_adapter_name(text);
    const size_t n = cut_suffix(text, strlen(text), &out->role);
    memcpy(out->target, text, n);
    out->target[n] = '\0';
}

const char *mica_lora_role_name(mica_lora_role role)
{
    static const char *const NAMES[MICA_LORA_ROLE_COUNT] = {
        "unknown",    "lora_up",      "lora_down",
        "alpha",      "hada_w1_a",    "hada_w1_b",
        "hada_w2_a",  "hada_w2_b",    "lokr_w1",
        "lokr_w1_a",  "lokr_w1_b",    "lokr_w2",
        "lokr_w2_a",  "lokr_w2_b",    "diff",
        "diff_b",     "lora_up.bias", "lora_magnitude_vector",
        "dora_scale", "Tucker",       "OFT"};
    return NAMES[role];
}
