/* test_mixtral_layouts.c - one model in the other layouts that users have: the same greedy tokens.
 *
 *     transformers 5   mlp.experts.gate_up_proj, .down_proj stacked           safetensors
 *     Mistral          layers.N.feed_forward..., rows of q and k permuted      safetensors
 *     GGUF             blk.N.ffn_gate_exps stacked, or one tensor per expert; rows permuted; tokenizer inside
 *
 * The files are written here from the golden bf16 folder, by the published descriptions of the layouts. */
#include "golden_support.h"

#include "base/file.h"
#include "base/mem.h"
#include "completion/completion.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOURCE  MICA_TEST_DATA "/mixtral/hf"
#define LAYERS  2
#define EXPERTS 4
#define HEADS   4
#define KV      2
#define K       32
#define MOST    128

typedef struct files {
    mica_weights *source;
    mica_safetensors_entry entries[MOST];
    mica_tensor tensors[MOST];
    char names[MOST][96];
    void *made[MOST]; /* memory of tensors that are not views */
    int count, made_count;
} files;

static const mica_tensor *get(files *f, const char *name)
{
    const mica_tensor *t = mica_weights_find(f->source, name);
    if (!t)
        fail_msg("%s", name);
    return t;
}

static void add(files *f, const char *name, const mica_tensor *t)
{
    assert_true(f->count < MOST);
    snprintf(f->names[f->count], sizeof f->names[0], "%s", name);
    f->tensors[f->count] = *t;
    f->entries[f->count] = (mica_safetensors_entry){f->names[f->count], &f->tensors[f->count]};
    f->count++;
}

static void *take(files *f, size_t size)
{
    assert_true(f->made_count < MOST);
    return f->made[f->made_count++] = mica_mem_alloc(size);
}

/* Rows of each head in the order 0, K/2, 1, K/2 + 1, ...: pairs become neighbours (llama.cpp's
 * convert_hf_to_gguf.py, permute). */
static mica_tensor permuted(files *f, const mica_tensor *t, int heads)
{
    const size_t row = (size_t)t->shape_[1] * 2;
    uint8_t *out = take(f, (size_t)t->shape_[0] * row);
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < K; i++)
            memcpy(out + (size_t)(h * K + i) * row,
                   (const uint8_t *)t->data + (size_t)(h * K + (i % 2) * (K / 2) + i / 2) * row,
                   row);
    mica_tensor p = *t;
    p.data = out;
    return p;
}

/* Matrices of one shape as a stack; two per expert lie behind each other. */
static mica_tensor stacked(files *f, int layer, const char *first, const char *second)
{
    char name[128];
    const char *const parts[] = {first, second};
    const int per = second ? 2 : 1;
    const mica_tensor *one = NULL;
    uint8_t *out = NULL;
    for (int e = 0; e < EXPERTS * per; e++) {
        snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.experts.%d.%s.weight", layer,
                 e / per, parts[e % per]);
        one = get(f, name);
        if (!out)
            out = take(f, mica_tensor_size(one) * (size_t)(EXPERTS * per));
        memcpy(out + (size_t)e * mica_tensor_size(one), one->data, mica_tensor_size(one));
    }
    return mica_tensor_3d(out, one->dtype, EXPERTS, per * one->shape_[0], one->shape_[1]);
}

typedef struct naming {
    const char *embed, *norm, *head;
    const char *layer;    /* holds %d and %s */
    const char *parts[6]; /* norm_in, norm_post, q, k, v, o */
    const char *router;
    bool permute;
} naming;

static void add_layer_part(files *f, const naming *n, int layer, const char *part,
                           const mica_tensor *t)
{
    char name[96];
    snprintf(name, sizeof name, "%s%d.%s.weight", n->layer, layer, part);
    add(f, name, t);
}

static void add_common(files *f, const naming *n)
{
    static const char *const ours[] = {"input_layernorm",  "post_attention_layernorm",
                                       "self_attn.q_proj", "self_attn.k_proj",
                                       "self_attn.v_proj", "self_attn.o_proj"};
    add(f, n->embed, get(f, "model.embed_tokens.weight"));
    add(f, n->norm, get(f, "model.norm.weight"));
    add(f, n->head, get(f, "lm_head.weight"));
    for (int l = 0; l < LAYERS; l++) {
        char name[128];
        for (int i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, ours[i]);
            mica_tensor t = *get(f, name);
            if (n->permute && (i == 2 || i == 3))
                t = permuted(f, &t, i == 2 ? HEADS : KV);
            add_layer_part(f, n, l, n->parts[i], &t);
        }
        snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.gate.weight", l);
        add_layer_part(f, n, l, n->router, get(f, name));
    }
}

/* Each expert's tensors by themselves; pattern holds two %d (layer, expert) and %s. */
static void add_experts(files *f, const char *pattern, const char *const names[3])
{
    static const char *const ours[] = {"w1", "w2", "w3"};
    for (int i = 0; i < LAYERS * EXPERTS * 3; i++) {
        char name[128], to[96];
        const int l = i / (EXPERTS * 3), e = i / 3 % EXPERTS;
        snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.experts.%d.%s.weight", l, e,
                 ours[i % 3]);
        if (strstr(pattern, "%s.%d"))
            snprintf(to, sizeof to, "blk.%d.%s.%d.weight", l, names[i % 3], e);
        else
            snprintf(to, sizeof to, "layers.%d.feed_forward.experts.%d.%s.weight", l, e,
                     names[i % 3]);
        add(f, to, get(f, name));
    }
}

static void open_source(files *f)
{
    mica_err err = {0};
    memset(f, 0, sizeof *f);
    if (mica_weights_open(&f->source, SOURCE, &err))
        fail_msg("%s", err.text);
}

static void close_source(files *f)
{
    for (int i = 0; i < f->made_count; i++)
        mica_mem_free(f->made[i]);
    mica_weights_close(&f->source);
}

/* ---------------------------------------------------------------------- running -- */

static void copy_file(const char *folder, const char *name)
{
    char from[600], to[600], *data = NULL;
    size_t size;
    mica_err err = {0};
    mica_file_out out;
    snprintf(from, sizeof from, SOURCE "/%s", name);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    assert_int_equal(mica_file_read(from, 1 << 20, &data, &size, &err), MICA_OK);
    assert_int_equal(mica_file_out_open(&out, to, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&out, data, size, &err), MICA_OK);
    assert_int_equal(mica_file_out_commit(&out, &err), MICA_OK);
    mica_mem_free(data);
}

static void expect_tokens(const char *path)
{
    const char *const prompts[] = {
        "The quick brown fox sits on a rock. \xe4\xbd\xa0\xe5\xa5\xbd, what is 42?"};
    const mica_engine_options engine = {.size = sizeof engine, .model = path};
    const mica_backend_options b = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 2};
    const mica_text_options o = {.prompts = prompts,
                                 .prompt_count = 1,
                                 .max_tokens = 24,
                                 .greedy = true,
                                 .ignore_eos = true};
    const mica_diffusion_switches switches = {0};
    mica_err err = {0};
    mica_backend *be = NULL;
    mica_model_session *s = NULL;
    mica_weights *expected = NULL;
    mica_completion_result r;
    mica_model *m = golden_model_open(&engine);
    assert_int_equal(mica_backend_open(&be, &b, &err), MICA_OK);
    assert_int_equal(m->kind->session_open(&s, m, be, &switches, &err), MICA_OK);
    if (m->kind->complete(s, &o, NULL, &r, &err))
        fail_msg("%s: %s", path, err.text);
    assert_int_equal(mica_weights_open(&expected,
                                       MICA_TEST_DATA "/mixtral/cases/hf_bf16/expected.safetensors",
                                       &err),
                     MICA_OK);
    const mica_tensor *ids = mica_weights_find(expected, "input_ids");
    const mica_tensor *tokens = mica_weights_find(expected, "greedy_tokens");
    assert_int_equal(r.answers[0].prompt_count, ids->shape_[1]);
    assert_memory_equal(r.answers[0].prompt_ids, ids->data, mica_tensor_size(ids));
    assert_int_equal(r.answers[0].count, tokens->shape_[0]);
    assert_memory_equal(r.answers[0].ids, tokens->data, mica_tensor_size(tokens));
    mica_completion_result_deinit(&r);
    mica_weights_close(&expected);
    m->kind->session_close(&s);
    mica_backend_close(&be);
    golden_model_close(&m);
}

static void run_safetensors(files *f, const char *file)
{
    char folder[512], path[600];
    mica_err err = {0};
    golden_temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    if (mica_safetensors_write(path, f->entries, (size_t)f->count, NULL, &err))
        fail_msg("%s", err.text);
    copy_file(folder, "config.json");
    copy_file(folder, "tokenizer.json");
    copy_file(folder, "tokenizer_config.json");
    expect_tokens(folder);
    golden_remove_folder(folder);
}

static void test_transformers_5(void **state)
{
    (void)state;
    files f;
    const naming n = {.embed = "model.embed_tokens.weight",
                      .norm = "model.norm.weight",
                      .head = "lm_head.weight",
                      .layer = "model.layers.",
                      .parts = {"input_layernorm", "post_attention_layernorm", "self_attn.q_proj",
                                "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
                      .router = "mlp.gate"};
    open_source(&f);
    add_common(&f, &n);
    for (int l = 0; l < LAYERS; l++) {
        char name[96];
        const mica_tensor gate_up = stacked(&f, l, "w1", "w3"), down = stacked(&f, l, "w2", NULL);
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.gate_up_proj", l);
        add(&f, name, &gate_up);
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.down_proj", l);
        add(&f, name, &down);
    }
    run_safetensors(&f, "model.safetensors");
    close_source(&f);
}

static void test_mistral(void **state)
{
    (void)state;
    files f;
    static const char *const names[] = {"w1", "w2", "w3"};
    const naming n = {.embed = "tok_embeddings.weight",
                      .norm = "norm.weight",
                      .head = "output.weight",
                      .layer = "layers.",
                      .parts = {"attention_norm", "ffn_norm", "attention.wq", "attention.wk",
                                "attention.wv", "attention.wo"},
                      .router = "feed_forward.gate",
                      .permute = true};
    open_source(&f);
    add_common(&f, &n);
    add_experts(&f, "experts", names);
    run_safetensors(&f, "consolidated.safetensors");
    close_source(&f);
}

/* ------------------------------------------------------------------------- GGUF -- */

static void put(mica_text *t, uint64_t value, int size)
{
    for (int i = 0; i < size; i++) {
        const char byte = (char)(value >> (8 * i));
        mica_text_add_bytes(t, &byte, 1);
    }
}

static void put_string(mica_text *t, const char *s)
{
    put(t, strlen(s), 8);
    mica_text_add_bytes(t, s, strlen(s));
}

enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, STRING = 8, ARRAY = 9 };

static void put_float(mica_text *t, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put(t, bits, 4);
}

static void put_number(mica_text *t, const char *key, int type, double value)
{
    put_string(t, key);
    put(t, (uint64_t)type, 4);
    if (type == F32)
        put_float(t, (float)value);
    else
        put(t, (uint64_t)value, type == BOOL ? 1 : 4);
}

/* Pieces in order of their ids, scores as SentencePiece's trainer gives them, kinds. */
static int put_vocabulary(mica_text *t)
{
    mica_json j = {0};
    mica_err err = {0};
    const char *pieces[1024] = {0};
    int count = 0;
    assert_int_equal(mica_json_open(&j, SOURCE "/tokenizer.json", &err), MICA_OK);
    const cJSON *vocab = mica_json_find(mica_json_find(j.root, "model"), "vocab");
    for (const cJSON *item = vocab->child; item; item = item->next, count++)
        pieces[(int)item->valuedouble] = item->string;
    const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                                "tokenizer.ggml.token_type"};
    static const int types[] = {STRING, F32, I32};
    for (int a = 0; a < 3; a++) {
        put_string(t, keys[a]);
        put(t, ARRAY, 4);
        put(t, (uint64_t)types[a], 4);
        put(t, (uint64_t)count, 8);
        for (int i = 0; i < count; i++)
            if (a == 0)
                put_string(t, pieces[i]);
            else if (a == 1)
                put_float(t, i < 259 ? 0.0f : -(float)(i - 259));
            else
                put(t, i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1, 4);
    }
    mica_json_close(&j);
    return 3;
}

static void put_text(mica_text *t, const char *key, const char *value)
{
    put_string(t, key);
    put(t, STRING, 4);
    put_string(t, value);
}

static void write_gguf(const files *f, const char *path)
{
    mica_text head = {0}, values = {0};
    mica_err err = {0};
    mica_file_out out;
    int count = put_vocabulary(&values);
    put_text(&values, "general.architecture", "llama");
    put_text(&values, "tokenizer.ggml.model", "llama");
    put_number(&values, "llama.embedding_length", U32, 128);
    put_number(&values, "llama.feed_forward_length", U32, 64);
    put_number(&values, "llama.block_count", U32, LAYERS);
    put_number(&values, "llama.attention.head_count", U32, HEADS);
    put_number(&values, "llama.attention.head_count_kv", U32, KV);
    put_number(&values, "llama.rope.dimension_count", U32, K);
    put_number(&values, "llama.expert_count", U32, EXPERTS);
    put_number(&values, "llama.expert_used_count", U32, 2);
    put_number(&values, "llama.context_length", U32, 32768);
    put_number(&values, "llama.attention.layer_norm_rms_epsilon", F32, 1e-5);
    put_number(&values, "llama.rope.freq_base", F32, 1e6);
    put_number(&values, "tokenizer.ggml.bos_token_id", U32, 1);
    put_number(&values, "tokenizer.ggml.eos_token_id", U32, 2);
    put_number(&values, "tokenizer.ggml.add_bos_token", BOOL, 1);
    count += 16;
    mica_text_add_bytes(&head, "GGUF", 4);
    put(&head, 3, 4);
    put(&head, (uint64_t)f->count, 8);
    put(&head, (uint64_t)count, 8);
    mica_text_add_bytes(&head, values.data, values.size);
    uint64_t at = 0;
    for (int i = 0; i < f->count; i++) {
        const mica_tensor *t = &f->tensors[i];
        put_string(&head, f->names[i]);
        put(&head, (uint64_t)t->ndim, 4);
        for (int d = t->ndim - 1; d >= 0; d--)
            put(&head, (uint64_t)t->shape_[d], 8);
        put(&head, 30, 4); /* BF16 */
        put(&head, at, 8);
        at += (mica_tensor_size(t) + 31) / 32 * 32;
    }
    while (head.size % 32)
        put(&head, 0, 1);
    assert_int_equal(mica_file_out_open(&out, path, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&out, head.data, head.size, &err), MICA_OK);
    for (int i = 0; i < f->count; i++) {
        static const char zeros[32];
        const size_t size = mica_tensor_size(&f->tensors[i]);
        assert_int_equal(mica_file_out_write(&out, f->tensors[i].data, size, &err), MICA_OK);
        assert_int_equal(mica_file_out_write(&out, zeros, (32 - size % 32) % 32, &err), MICA_OK);
    }
    assert_int_equal(mica_file_out_commit(&out, &err), MICA_OK);
    mica_text_deinit(&head);
    mica_text_deinit(&values);
}

static void run_gguf(bool merged)
{
    files f;
    static const char *const names[] = {"ffn_gate", "ffn_down", "ffn_up"};
    char folder[512], path[600];
    const naming n = {
        .embed = "token_embd.weight",
        .norm = "output_norm.weight",
        .head = "output.weight",
        .layer = "blk.",
        .parts = {"attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output"},
        .router = "ffn_gate_inp",
        .permute = true};
    open_source(&f);
    add_common(&f, &n);
    if (!merged)
        add_experts(&f, "%s.%d", names);
    for (int l = 0; l < LAYERS && merged; l++) {
        static const char *const ours[] = {"w1", "w2", "w3"};
        for (int i = 0; i < 3; i++) {
            char name[96];
            const mica_tensor t = stacked(&f, l, ours[i], NULL);
            snprintf(name, sizeof name, "blk.%d.%s_exps.weight", l, names[i]);
            add(&f, name, &t);
        }
    }
    golden_temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    write_gguf(&f, path);
    expect_tokens(path);
    golden_remove_folder(folder);
    close_source(&f);
}

static void test_gguf_merged(void **state)
{
    (void)state;
    run_gguf(true);
}

static void test_gguf_by_expert(void **state)
{
    (void)state;
    run_gguf(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transformers_5),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_gguf_merged),
        cmocka_unit_test(test_gguf_by_expert),
    };
    return cmocka_run_group_tests_name("mixtral_layouts", tests, NULL, NULL);
}
