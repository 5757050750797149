/* test_prompt_cache.c - entries of the prompt cache with the right key and a right digest over the wrong
 * tensors: they count as absent for every model, and the picture is that of a run without a cache.
 *
 *     run, kept ─► entry ─► crafted: other rows, widths, counts, dtypes ─► digest made anew ─► run
 *
 * Two crafted entries that are right in every shape show that this test's digest is the engine's: one
 * is taken, and so is one with other numbers, which changes the picture. */
#include "golden_support.h"

#include "base/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const MODELS[] = {"qwen_image/model", "flux2_klein/model", "z_image/model"};
static const golden_setup PLAIN = {.no_trace = true, .threads = 1};

/* ------------------------------------------------------------------ entries -- */

typedef enum kind {
    AS_IT_WAS,
    OTHER_NUMBERS,
    /* All from here on count as absent. */
    ROW_LESS,       /* text.0 and its count agree, with each other only */
    ROW_MORE,       /* the same */
    COUNT_LESS,     /* the count alone */
    COUNT_NEGATIVE, /* the same */
    HALF_WIDTH,     /* twice the rows of half the width */
    FLAT,           /* text.0 with one dimension */
    INTEGERS,       /* text.0 of another type of the same size */
    COUNTS_FLOAT,   /* `valid` of another type */
    ONE_COUNT,      /* `valid` with one number, text.1 still there */
    NO_TEXT,        /* text.1 absent */
    KINDS
} kind;

static char *entry_path(const char *folder)
{
    char **names = NULL, *path = NULL;
    size_t count = 0;
    mica_err err = {0};
    assert_int_equal(mica_path_list(folder, &names, &count, &err), MICA_OK);
    assert_int_equal(count, 1);
    path = mica_path_join(folder, names[0]);
    assert_non_null(path);
    mica_path_list_free(&names, count);
    return path;
}

/* FNV-1a of `valid`, text.0 and text.1, as src/diffusion/prompt_cache.c has it. */
static void digest_of(const mica_tensor *tensors, int count, char out[17])
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < count; i++) {
        const uint8_t *p = tensors[i].data;
        for (size_t j = 0; j < mica_tensor_size(&tensors[i]); j++)
            h = (h ^ p[j]) * UINT64_C(0x100000001b3);
    }
    snprintf(out, 17, "%016" PRIx64, h);
}

static void change(kind k, mica_tensor tensors[3], int *count)
{
    int32_t *valid = tensors[0].data;
    mica_tensor *text = &tensors[1];
    switch (k) {
    case AS_IT_WAS:
        break;
    case OTHER_NUMBERS:
        for (int64_t i = 0; i < mica_tensor_count(text); i++)
            ((float *)text->data)[i] *= i % 2 ? 1.5f : -1.0f;
        break;
    case ROW_LESS:
    case ROW_MORE: /* the buffers have room for one more */
        text->shape_[0] += k == ROW_MORE ? 1 : -1;
        valid[0] = (int32_t)text->shape_[0];
        break;
    case COUNT_LESS:
        valid[0]--;
        break;
    case COUNT_NEGATIVE:
        valid[0] = -valid[0];
        break;
    case HALF_WIDTH:
        *text =
            mica_tensor_2d(text->data, MICA_DTYPE_F32, 2 * text->shape_[0], text->shape_[1] / 2);
        break;
    case FLAT:
        *text = mica_tensor_1d(text->data, MICA_DTYPE_F32, mica_tensor_count(text));
        break;
    case INTEGERS:
        text->dtype = MICA_DTYPE_I32;
        break;
    case COUNTS_FLOAT:
        tensors[0].dtype = MICA_DTYPE_F32;
        break;
    case ONE_COUNT:
        tensors[0].shape_[0] = 1;
        break;
    case NO_TEXT:
    case KINDS:
        *count = 2;
        break;
    }
}

/* Writes `path` from the entry `good`. */
static void craft(const char *good, const char *path, kind k)
{
    static const char *const NAMES[3] = {"valid", "text.0", "text.1"};
    mica_weights *w = NULL;
    mica_err err = {0};
    mica_tensor tensors[3];
    mica_safetensors_entry entries[3] = {{NULL, NULL}};
    char digest[17];
    int count = 3;
    assert_int_equal(mica_weights_open(&w, good, &err), MICA_OK);
    for (int i = 0; i < 3; i++) {
        const mica_tensor *t = mica_weights_find(w, NAMES[i]);
        assert_non_null(t);
        tensors[i] = *t;
        tensors[i].data = calloc(1, 2 * mica_tensor_size(t));
        memcpy(tensors[i].data, t->data, mica_tensor_size(t));
    }
    void *const buffers[3] = {tensors[0].data, tensors[1].data, tensors[2].data};
    for (int i = 1; i < 3; i++) /* strides of its own, whatever a change makes of the shape */
        tensors[i] =
            mica_tensor_2d(buffers[i], MICA_DTYPE_F32, tensors[i].shape_[0], tensors[i].shape_[1]);
    change(k, tensors, &count);
    for (int i = 0; i < count; i++)
        entries[i] = (mica_safetensors_entry){NAMES[i], &tensors[i]};
    digest_of(tensors, count, digest);
    const char *const metadata[] = {"key", mica_weights_metadata(w, "key"), "digest", digest, NULL};
    assert_int_equal(mica_safetensors_write(path, entries, (size_t)count, metadata, &err), MICA_OK);
    mica_weights_close(&w);
    for (int i = 0; i < 3; i++)
        free(buffers[i]);
}

/* --------------------------------------------------------------------- runs -- */

static mica_image_options guided_options(const char *cache)
{
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = "a red fox in the snow",
                                .negative_prompt = "grey",
                                .width = 48,
                                .height = 48,
                                .steps = 1,
                                .guidance = 3.0,
                                .distilled = MICA_CHOICE_NO,
                                .max_text_tokens = 48,
                                .prompt_cache = cache,
                                .seed = 7};
}

static void check_model(const char *folder)
{
    char cache[512], good[600];
    golden_run plain, r;
    golden_temp_folder(cache, sizeof cache);
    snprintf(good, sizeof good, "%s.good", cache);
    mica_model *m = golden_model_open_folder(folder);
    mica_image_options o = guided_options(NULL);
    golden_generate_ok(&plain, m, &PLAIN, &o);
    o.prompt_cache = cache;
    golden_generate_ok(&r, m, &PLAIN, &o);
    golden_run_close(&r);
    char *path = entry_path(cache);
    assert_int_equal(rename(path, good), 0);
    const size_t n = 3 * 48 * 48;
    for (kind k = AS_IT_WAS; k < KINDS; k++) {
        craft(good, path, k);
        golden_generate_ok(&r, m, &PLAIN, &o);
        if (r.result.prompt_cache_hits != (k < ROW_LESS))
            fail_msg("%s: crafted entry %d: %d hits", folder, (int)k,
                     (int)r.result.prompt_cache_hits);
        const bool same = memcmp(r.result.rgb, plain.result.rgb, n) == 0;
        if (same != (k != OTHER_NUMBERS))
            fail_msg("%s: crafted entry %d: %s picture", folder, (int)k, same ? "same" : "other");
        golden_run_close(&r);
    }
    golden_run_close(&plain);
    golden_model_close(&m);
    mica_mem_free(path);
    mica_file_remove(good);
    golden_remove_folder(cache);
}

static void test_crafted_entries(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(MODELS); i++)
        check_model(MODELS[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crafted_entries)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
