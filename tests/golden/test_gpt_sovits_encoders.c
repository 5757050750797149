/* test_gpt_sovits_encoders.c - HuBERT, BERT and the speaker network against the reference, from
 * checkpoints of torch and from safetensors. f32: relative L2 1e-5 at every tap; bf16: the bound of the
 * manifest. */
#include "gpt_sovits_support.h"

#include "base/mem.h"
#include "models/gpt_sovits/gpt_sovits_bert.h"
#include "models/gpt_sovits/gpt_sovits_hubert.h"
#include "models/gpt_sovits/gpt_sovits_speaker.h"
#include "media/spectrum.h"

#include <string.h>

#define BOUND 1e-5

static void run_hubert(gs_bench *b, const char *input, float **out, int64_t *count)
{
    mica_gs_hubert h;
    mica_err err = {0};
    gs_ok(mica_gs_hubert_open(&h, b->directory, 4, &b->arena, &err), &err);
    gs_ok(mica_gs_hubert_upload(&h, b->be, &err), &err);
    const mica_tensor *samples = gs_expected(b, input);
    const int64_t n = mica_tensor_count(samples), rows = mica_gs_hubert_frames(&h, n);
    mica_tensor y =
        mica_act_tensor(b->be, MICA_POOL_SESSION, 2, (const int64_t[]){rows, h.stack.width});
    gs_ok(mica_gs_hubert_run(&h, b->be, &b->run, samples->data, n, &y, &err), &err);
    *count = rows * h.stack.width;
    *out = mica_mem_calloc((size_t)*count, sizeof **out);
    mica_download_f32(b->be, *out, &y);
    mica_gs_hubert_drop(&h, b->be);
}

static void check_hubert(const char *model, mica_precision precision, double bound)
{
    static const char *const TAPS[] = {"conv_features",   "feature_projection",
                                       "hidden_states.0", "hidden_states.1",
                                       "hidden_states.2", "last_hidden_state"};
    gs_bench b;
    float *y;
    int64_t count;
    gs_open(&b, model, mica_gs_hubert_directory, "hubert", precision, 0);
    run_hubert(&b, "audio_16k", &y, &count);
    for (size_t i = 0; i < MICA_ARRAY_LEN(TAPS); i++)
        gs_near(&b, TAPS[i], TAPS[i], bound);
    gs_near_host(&b, y, count, "last_hidden_state", bound);
    mica_mem_free(y);
    gs_close(&b);
}

static void test_hubert(void **state)
{
    (void)state;
    check_hubert("models/chinese-hubert-base", MICA_PRECISION_F32, BOUND);
    check_hubert("converted/hubert.safetensors", MICA_PRECISION_F32, BOUND);
    check_hubert("models/chinese-hubert-base", MICA_PRECISION_BF16, 3e-2); /* f16: 2e-2 */
}

static void test_hubert_padded(void **state)
{
    (void)state;
    gs_bench b;
    float *one, *three;
    int64_t count;
    gs_open(&b, "models/chinese-hubert-base", mica_gs_hubert_directory, "hubert", 0, 1);
    run_hubert(&b, "audio_16k_padded", &one, &count);
    gs_near_host(&b, one, count, "last_hidden_state_padded", BOUND);
    gs_close(&b);
    gs_open(&b, "models/chinese-hubert-base", mica_gs_hubert_directory, "hubert", 0, 3);
    run_hubert(&b, "audio_16k_padded", &three, &count);
    assert_memory_equal(one, three, (size_t)count * sizeof *one); /* threads change nothing */
    gs_close(&b);
    mica_mem_free(one);
    mica_mem_free(three);
}

static void test_hubert_short(void **state)
{
    (void)state;
    gs_bench b;
    mica_gs_hubert h;
    mica_err err = {0};
    const float silence[399] = {0};
    gs_open(&b, "models/chinese-hubert-base", mica_gs_hubert_directory, "hubert", 0, 1);
    gs_ok(mica_gs_hubert_open(&h, b.directory, 4, &b.arena, &err), &err);
    assert_int_equal(mica_gs_hubert_frames(&h, 399), 0);
    assert_int_equal(mica_gs_hubert_frames(&h, 400), 1);
    assert_int_equal(mica_gs_hubert_run(&h, b.be, &b.run, silence, 399, NULL, &err), MICA_E_USAGE);
    gs_close(&b);
}

static void test_likely_heads(void **state)
{
    (void)state;
    assert_int_equal(mica_gs_likely_heads(768, 64), 12); /* HuBERT-base */
    assert_int_equal(mica_gs_likely_heads(1024, 64), 16);
    assert_int_equal(mica_gs_likely_heads(64, 64), 4);
    assert_int_equal(mica_gs_likely_heads(300, 64), 4);
}

static void check_bert(const char *model, mica_precision precision, double bound)
{
    gs_bench b;
    mica_gs_bert bert;
    mica_err err = {0};
    gs_open(&b, model, mica_gs_bert_directory, "bert", precision, 0);
    gs_ok(mica_gs_bert_open(&bert, b.directory, 4, MICA_GS_BERT_SKIPPED, &b.arena, &err), &err);
    gs_ok(mica_gs_bert_upload(&bert, b.be, &err), &err);
    const mica_tensor *ids = gs_expected(&b, "input_ids");
    const int64_t n = mica_tensor_count(ids);
    float *features = mica_mem_calloc((size_t)((n - 2) * bert.stack.width), sizeof *features);
    gs_ok(mica_gs_bert_run(&bert, b.be, &b.run, ids->data, n, features, &err), &err);
    gs_near(&b, "bert.hidden_states.0", "hidden_states.0", bound);
    gs_near(&b, "bert.hidden_states.1", "hidden_states.1", bound);
    gs_near(&b, "bert.hidden_states.2", "hidden_states.2", bound);
    gs_near_host(&b, features, (n - 2) * bert.stack.width, "features", bound);
    const int32_t foreign[] = {1, 256, 2};
    assert_int_equal(mica_gs_bert_run(&bert, b.be, &b.run, foreign, 3, features, &err),
                     MICA_E_FORMAT);
    assert_int_equal(mica_gs_bert_run(&bert, b.be, &b.run, foreign, 2, features, &err),
                     MICA_E_USAGE);
    mica_gs_bert_drop(&bert, b.be);
    mica_mem_free(features);
    gs_close(&b);
}

static void test_bert(void **state)
{
    (void)state;
    check_bert("models/chinese-roberta-wwm-ext-large", MICA_PRECISION_F32, BOUND);
    check_bert("converted/bert.safetensors", MICA_PRECISION_F32, BOUND);
    check_bert("models/chinese-roberta-wwm-ext-large", MICA_PRECISION_BF16, 2e-2);
}

/* ERes2NetV2, with the filter banks of the reference and with our own. */
static void check_speaker(mica_precision precision, double bound)
{
    gs_bench b;
    mica_gs_speaker s;
    mica_err err = {0};
    gs_open(&b, "versions/speaker.ckpt", mica_gs_speaker_directory, "speaker", precision, 0);
    gs_ok(mica_gs_speaker_open(&s, b.directory, &b.arena, &err), &err);
    const mica_tensor *fbank = gs_expected(&b, "fbank"), *audio = gs_expected(&b, "audio_16k");
    float *out = mica_mem_calloc((size_t)mica_gs_speaker_width(&s), sizeof *out);
    gs_ok(mica_gs_speaker_run(&s, b.be, &b.run, fbank->data, fbank->shape_[0], out, &err), &err);
    gs_near_host(&b, out, mica_gs_speaker_width(&s), "sv_emb", bound);
    mica_spectrum own = {0};
    gs_ok(mica_spectrum_fbank16k(audio->data, (size_t)mica_tensor_count(audio), 80, &own, &err),
          &err);
    assert_int_equal(own.frames, fbank->shape_[0]);
    gs_near_host(&b, own.values_RB, (int64_t)(own.frames * own.bins), "fbank", 1e-4);
    mica_spectrum_deinit(&own);
    mica_mem_free(out);
    mica_gs_speaker_drop(&s, b.be);
    gs_close(&b);
}

static void test_speaker(void **state)
{
    (void)state;
    check_speaker(MICA_PRECISION_F32, BOUND);
    check_speaker(MICA_PRECISION_BF16, 3e-2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hubert),       cmocka_unit_test(test_hubert_padded),
        cmocka_unit_test(test_hubert_short), cmocka_unit_test(test_likely_heads),
        cmocka_unit_test(test_bert),         cmocka_unit_test(test_speaker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
