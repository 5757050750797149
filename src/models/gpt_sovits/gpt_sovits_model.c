/* gpt_sovits_model.c - opening and closing: which file is which part, directories, sessions. */
#include "models/gpt_sovits/gpt_sovits.h"
#include "models/gpt_sovits/gpt_sovits_convert.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <cjson/cJSON.h>
#include <string.h>

typedef struct part_kind {
    const char *name, *option;
    mica_model_part part;
    bool (*probe)(const mica_weights *files);
    mica_status (*directory)(mica_weights **out, const mica_weights *files, mica_arena *arena,
                             mica_err *err);
    const char *heads; /* path among the checkpoint's settings, or in config.json */
} part_kind;

static const part_kind PARTS[MICA_GS_PARTS] = {
    {"text-to-semantic model (s1*.ckpt)", "--semantic", MICA_PART_SEMANTIC, mica_gs_semantic_probe,
     mica_gs_semantic_directory, "model.head"},
    {"synthesizer (s2G*.pth)", "--synthesizer", MICA_PART_SYNTHESIZER, mica_gs_synth_probe,
     mica_gs_synth_directory, NULL},
    {"HuBERT (chinese-hubert-base)", "--hubert", MICA_PART_HUBERT, mica_gs_hubert_probe,
     mica_gs_hubert_directory, "num_attention_heads"},
    {"BERT (chinese-roberta-wwm-ext-large)", "--bert", MICA_PART_BERT, mica_gs_bert_probe,
     mica_gs_bert_directory, "num_attention_heads"},
    {"speaker network (ERes2NetV2)", "--speaker", MICA_PART_SPEAKER, mica_gs_speaker_probe,
     mica_gs_speaker_directory, NULL},
    {"g2pW (G2PWModel)", "--g2pw", MICA_PART_G2PW, mica_gs_g2pw_probe, mica_gs_bert_directory,
     "num_attention_heads"},
};

static mica_model_part classify(const mica_weights *w)
{
    for (int i = MICA_GS_PARTS; i-- > 0;) /* g2pW before BERT, which is in it */
        if (PARTS[i].probe(w))
            return PARTS[i].part;
    return MICA_PART_NONE;
}

/* A voice file is both of its checkpoints. */
static bool holds(const mica_weights *w, mica_model_part part)
{
    if (part == MICA_PART_SEMANTIC)
        return mica_gs_semantic_probe(w);
    return part == MICA_PART_SYNTHESIZER ? mica_gs_synth_probe(w) : part == classify(w);
}

/* -------------------------------------------------------------------- open -- */

/* A whole number of 1 to 4096; 0: it is none. */
static int read_count(const cJSON *n)
{
    return cJSON_IsNumber(n) && n->valuedouble >= 1.0 && n->valuedouble <= 4096.0
               ? (int)n->valuedouble
               : 0;
}

/* Variants of the networks that would run and sound wrong are refused by what the file calls them. */
static mica_status refuse_variants(const cJSON *root, const char *config, mica_err *err)
{
    static const struct {
        const char *key, *expected;
    } TEXTS[] = {{"hidden_act", "gelu"},
                 {"feat_extract_activation", "gelu"},
                 {"feat_extract_norm", "group"},
                 {"position_embedding_type", "absolute"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(TEXTS); i++) {
        const cJSON *item = mica_json_find(root, TEXTS[i].key);
        if (cJSON_IsString(item) && strcmp(item->valuestring, TEXTS[i].expected) != 0)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %s is \"%.40s\"; only \"%s\" is known",
                             config, TEXTS[i].key, item->valuestring, TEXTS[i].expected);
    }
    if (cJSON_IsTrue(mica_json_find(root, "do_stable_layer_norm")))
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: do_stable_layer_norm, norms before the layers as in the large HuBERT, is "
            "not known",
            config);
    return MICA_OK;
}

static mica_status take_config(const cJSON *root, int part, const char *config,
                               mica_gs_settings *out, mica_err *err)
{
    const cJSON *eps = mica_json_find(root, "layer_norm_eps"), *n;
    const cJSON *strides = mica_json_find(root, "conv_stride");
    int i = 0;
    out->heads = read_count(mica_json_find(root, PARTS[part].heads));
    if (cJSON_IsNumber(eps) && eps->valuedouble > 0.0 && eps->valuedouble < 1.0)
        out->eps = eps->valuedouble;
    cJSON_ArrayForEach(n, strides) if (i < MICA_GS_HUBERT_CONVS) out->strides[i++] = read_count(n);
    return refuse_variants(root, config, err);
}

/* From the checkpoint's settings, or config.json beside it. */
static mica_status read_settings(const mica_gs_model *m, int part, const char *config,
                                 mica_gs_settings *out, mica_err *err)
{
    mica_json json;
    *out = (mica_gs_settings){0};
    if (!PARTS[part].heads)
        return MICA_OK;
    const mica_gs_path path =
        mica_gs_settings_path(m->files[part], PARTS[part].part, PARTS[part].heads);
    if (mica_weights_find_int(m->files[part], path.text, &out->heads) || !config)
        return MICA_OK;
    MICA_TRY(mica_json_open(&json, config, err));
    const mica_status st =
        cJSON_IsObject(json.root) ? take_config(json.root, part, config, out, err) : MICA_OK;
    mica_json_close(&json);
    return st;
}

static mica_status open_part(mica_gs_model *m, int part, const char *path, const char *config,
                             mica_err *err)
{
    MICA_TRY(mica_weights_open(&m->files[part], path, err));
    if (!PARTS[part].probe(m->files[part]))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: this is no %s", path, PARTS[part].name);
    mica_status st = PARTS[part].directory(&m->directory[part], m->files[part], &m->arena, err);
    if (!st)
        st = read_settings(m, part, config, &m->settings[part], err);
    return st;
}

static void apply_settings(const mica_gs_settings *o, mica_gs_stack *stack, int *strides)
{
    if (o->eps > 0.0)
        stack->eps = (float)o->eps;
    for (int i = 0; strides && i < MICA_GS_HUBERT_CONVS; i++)
        if (o->strides[i] > 0)
            strides[i] = o->strides[i];
}

/* Binds a part once, so that everything wrong with it is told at the opening. */
static mica_status try_part(const mica_gs_model *m, int part, mica_gs_session *s, mica_err *err)
{
    const mica_weights *w = m->directory[part];
    const mica_gs_settings *o = &m->settings[part];
    mica_status st = MICA_OK;
    if (part == MICA_GS_SEMANTIC)
        st = mica_gs_semantic_open(&s->semantic, w, o->heads, &s->arena, err);
    else if (part == MICA_GS_SYNTHESIZER)
        st = mica_gs_synth_open(&s->synth, &m->synth, w, &s->arena, err);
    else if (part == MICA_GS_HUBERT)
        st = mica_gs_hubert_open(&s->hubert, w, o->heads, &s->arena, err);
    else if (part == MICA_GS_BERT)
        st = mica_gs_bert_open(&s->bert, w, o->heads, MICA_GS_BERT_SKIPPED, &s->arena, err);
    else if (part == MICA_GS_G2PW)
        st = mica_gs_g2pw_open(&s->g2pw, w, o->heads, &s->arena, err);
    else
        st = mica_gs_speaker_open(&s->speaker, w, &s->arena, err);
    if (part == MICA_GS_HUBERT)
        apply_settings(o, &s->hubert.stack, s->hubert.strides);
    else if (part == MICA_GS_BERT)
        apply_settings(o, &s->bert.stack, NULL);
    return st;
}

static mica_status check_widths(const mica_gs_session *s, const mica_gs_model *m, mica_err *err)
{
    if (m->directory[MICA_GS_HUBERT] && s->hubert.stack.width != m->synth.ssl)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: HuBERT is %lld wide, the synthesizer wants %lld",
                         mica_weights_path(m->files[MICA_GS_HUBERT]),
                         (long long)s->hubert.stack.width, (long long)m->synth.ssl);
    if (m->directory[MICA_GS_BERT] && s->bert.stack.width != s->semantic.bert_width)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: BERT is %lld wide, the text-to-semantic model wants %lld",
                         mica_weights_path(m->files[MICA_GS_BERT]), (long long)s->bert.stack.width,
                         (long long)s->semantic.bert_width);
    if (m->directory[MICA_GS_SPEAKER] && m->synth.speaker &&
        mica_gs_speaker_width(&s->speaker) != m->synth.speaker)
        return MICA_FAIL(
            err, MICA_E_FORMAT, "%s: it makes vectors of %lld numbers, the synthesizer wants %lld",
            mica_weights_path(m->files[MICA_GS_SPEAKER]),
            (long long)mica_gs_speaker_width(&s->speaker), (long long)m->synth.speaker);
    if (m->synth.phones > s->semantic.phone_count || m->synth.codes != s->semantic.vocab - 1)
        return MICA_FAIL(
            err, MICA_E_FORMAT,
            "%s and %s do not belong together: %lld and %lld phones, %lld and %lld codes",
            mica_weights_path(m->files[MICA_GS_SEMANTIC]),
            mica_weights_path(m->files[MICA_GS_SYNTHESIZER]), (long long)s->semantic.phone_count,
            (long long)m->synth.phones, (long long)s->semantic.vocab - 1,
            (long long)m->synth.codes);
    return MICA_OK;
}

static mica_status open_session_parts(mica_gs_session *s, const mica_gs_model *m, mica_err *err)
{
    for (int part = 0; part < MICA_GS_PARTS; part++)
        if (m->directory[part])
            MICA_TRY(try_part(m, part, s, err));
    return check_widths(s, m, err);
}

static mica_status check_parts(mica_gs_model *m, mica_err *err)
{
    mica_gs_session s = {.model = m};
    mica_arena_init(&s.arena, 1 << 20);
    mica_status st = open_session_parts(&s, m, err);
    m->facts =
        (mica_gs_facts){.version = m->synth.version,
                        .phone_count = (int)m->synth.phones,
                        .bert_width = m->directory[MICA_GS_BERT] ? (int)s.semantic.bert_width : 0,
                        .rate = m->synth.rate,
                        .fft = m->synth.fft,
                        .hop = m->synth.fft_hop,
                        .window = m->synth.fft_window,
                        .spectrum_bins = m->synth.fft / 2 + 1,
                        .samples_per_code = (int)m->synth.code_kernel * m->synth.hop,
                        .wants_speaker = m->synth.speaker > 0};
    m->g2pw_sizes = (mica_gs_list_sizes){s.g2pw.char_count, s.g2pw.readings};
    mica_arena_deinit(&s.arena);
    return st;
}

mica_status mica_gs_model_finish(mica_gs_model *m, mica_err *err)
{
    MICA_TRY(check_parts(m, err));
    return mica_speech_front_open(&m->front, err);
}

/* tokenizer.json or vocab.txt in BERT's folder; without one, text that needs it is refused later. */
static mica_status open_vocabulary(mica_gs_model *m, const char *bert, mica_err *err)
{
    static const char *const NAMES[] = {"tokenizer.json", "vocab.txt"};
    bool found = false;
    for (size_t i = 0; bert && mica_path_is_dir(bert) && i < MICA_ARRAY_LEN(NAMES); i++) {
        char *path = mica_path_join(bert, NAMES[i]);
        found |= path && mica_path_is_file(path);
        mica_mem_free(path);
    }
    return found ? mica_wordpiece_open(&m->vocabulary, bert, err) : MICA_OK;
}

static mica_status open_parts(mica_gs_model *m, const mica_model_parts *parts, mica_err *err)
{
    mica_status first = MICA_OK;
    for (int i = 0; i < MICA_GS_PARTS; i++) {
        const char *path = parts->path[PARTS[i].part];
        mica_err one = {0};
        mica_status st = MICA_OK;
        if (path)
            st = open_part(m, i, path, parts->config[PARTS[i].part], &one);
        else if (i <= MICA_GS_SYNTHESIZER)
            st = MICA_FAIL(&one, MICA_E_MISSING, "there is no %s; give it with %s", PARTS[i].name,
                           PARTS[i].option);
        if (st)
            mica_err_join(err, &one);
        first = first ? first : st;
    }
    MICA_TRY(first);
    MICA_TRY(mica_gs_synth_config_read(&m->synth, m->files[MICA_GS_SYNTHESIZER],
                                       m->directory[MICA_GS_SYNTHESIZER], err));
    MICA_TRY(mica_gs_model_finish(m, err));
    MICA_TRY(open_vocabulary(m, parts->path[MICA_PART_BERT], err));
    if (parts->path[MICA_PART_G2PW])
        MICA_TRY(mica_gs_readings_open(&m->readings, parts->path[MICA_PART_G2PW], &m->g2pw_sizes,
                                       m->front, &m->arena, err));
    mica_weights_hash(m->files[MICA_GS_SYNTHESIZER], m->base.hash);
    return MICA_OK;
}

static void close_model(mica_model **model)
{
    mica_gs_model *m = (mica_gs_model *)*model;
    *model = NULL;
    if (!m)
        return;
    for (int i = 0; i < MICA_GS_PARTS; i++) {
        mica_weights_close(&m->directory[i]);
        mica_weights_close(&m->files[i]);
    }
    mica_speech_front_close(&m->front);
    mica_wordpiece_close(&m->vocabulary);
    mica_arena_deinit(&m->arena);
    mica_mem_free(m);
}

static mica_status open_model(mica_model **out, const mica_model_parts *parts, mica_err *err)
{
    mica_gs_model *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a model");
    m->base.kind = &mica_gpt_sovits_kind;
    mica_arena_init(&m->arena, 1 << 20);
    const mica_status st = open_parts(m, parts, err);
    if (st)
        close_model(out);
    return st;
}

/* ----------------------------------------------------------------- session -- */

static void session_close(mica_model_session **session)
{
    mica_gs_session *s = (mica_gs_session *)*session;
    *session = NULL;
    if (!s)
        return;
    mica_gs_semantic_drop(&s->semantic, s->be);
    mica_gs_synth_drop(&s->synth, s->be);
    mica_gs_hubert_drop(&s->hubert, s->be);
    mica_gs_bert_drop(&s->bert, s->be);
    mica_gs_speaker_drop(&s->speaker, s->be);
    mica_gs_g2pw_drop(&s->g2pw, s->be);
    mica_arena_deinit(&s->arena);
    mica_mem_free(s);
}

static mica_status upload(mica_gs_session *s, mica_err *err)
{
    MICA_TRY(mica_gs_semantic_upload(&s->semantic, s->be, &s->arena, err));
    MICA_TRY(mica_gs_synth_upload(&s->synth, s->be, err));
    if (s->model->directory[MICA_GS_HUBERT])
        MICA_TRY(mica_gs_hubert_upload(&s->hubert, s->be, err));
    if (s->model->directory[MICA_GS_BERT])
        MICA_TRY(mica_gs_bert_upload(&s->bert, s->be, err));
    if (s->model->directory[MICA_GS_G2PW])
        MICA_TRY(mica_gs_g2pw_upload(&s->g2pw, s->be, err));
    return MICA_OK;
}

static mica_status session_open(mica_model_session **out, const mica_model *model, mica_backend *be,
                                const mica_diffusion_switches *switches, mica_err *err)
{
    mica_gs_session *s = mica_mem_calloc(1, sizeof *s);
    (void)switches;
    *out = s ? &s->base : NULL;
    if (!s)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a session");
    s->base.kind = &mica_gpt_sovits_kind;
    s->model = (const mica_gs_model *)model;
    s->be = be;
    mica_arena_init(&s->arena, 1 << 20);
    mica_status st = open_session_parts(s, s->model, err);
    if (s->model->is_synthetic)
        s->semantic.eos = -1; /* random weights would end anywhere */
    if (!st)
        st = upload(s, err);
    if (st)
        session_close(out);
    return st;
}

static mica_status tokens(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err)
{
    (void)model;
    (void)text;
    *ids = NULL;
    *count = 0;
    return MICA_FAIL(err, MICA_E_UNSUPPORTED, "a speech model reads phones, not tokens");
}

/* Activations of the widest stage of a piece of sound, and a cache of a minute. */
static uint64_t scratch_bytes(const mica_model *model, int width, int height)
{
    const mica_gs_model *m = (const mica_gs_model *)model;
    (void)width;
    (void)height;
    return (uint64_t)m->synth.hop * 80 * 16 * 4 * 6 + ((uint64_t)64 << 20);
}

static const char *version(const mica_model_parts *parts, mica_model_part *also)
{
    const char *path = parts->path[MICA_PART_SYNTHESIZER];
    mica_weights *w = NULL;
    bool wants_speaker;
    *also = MICA_PART_NONE;
    if (!path || mica_weights_peek(&w, path, NULL))
        return NULL;
    const char *name = mica_gs_synth_version(w, &wants_speaker);
    mica_weights_close(&w);
    if (wants_speaker)
        *also = MICA_PART_SPEAKER;
    return name;
}

const mica_model_kind mica_gpt_sovits_kind = {
    .id = "gpt-sovits",
    .title = "GPT-SoVITS",
    .classify = classify,
    .holds = holds,
    .refuses = mica_gs_synth_is_refused,
    .version = version,
    .open = open_model,
    .open_synthetic = mica_gs_open_synthetic,
    .close = close_model,
    .session_open = session_open,
    .session_close = session_close,
    .speak = mica_gs_speak,
    .write_voice = mica_gs_write_voice,
    .tokens = tokens,
    .scratch_bytes = scratch_bytes,
};
