/* test_lora_dora.c - DoRA against differences of the whole weight, computed here from peft's formula in f64:
 *
 *     w' = m / |w + s B A| * (w + s B A)      (tuners/lora/dora.py; |.| over each row)
 *
 * A file with `diff` = w' - w and one with A, B and m must give the same latents: alone, with a scale, on a
 * fused layer that the model splits, and behind or before another adapter of the same layer; on packed weights
 * of every container, too, where w is what their blocks decode to. */
#include "convert_support.h"

#include "base/file.h"
#include "base/mem.h"
#include "nn/lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK = 3, MOST_ROWS = 512 };

typedef struct layer {
    const char *model, *folder, *target, *weights[3]; /* rows of these, one behind the other */
    const char *packed; /* the transformer in another file, a whole path; NULL: the folder's */
} layer;

static const layer PLAIN = {"qwen_image/model",
                            "qwen_image/model/transformer",
                            "transformer_blocks.0.attn.to_q",
                            {"transformer_blocks.0.attn.to_q.weight"},
                            NULL};
static const layer FUSED = {"flux2_klein/model",
                            "flux2_klein/model/transformer",
                            "double_blocks.0.img_attn.qkv",
                            {"transformer_blocks.0.attn.to_q.weight",
                             "transformer_blocks.0.attn.to_k.weight",
                             "transformer_blocks.0.attn.to_v.weight"},
                            NULL};

/* The layer's weight and made-up factors, all f64. */
typedef struct numbers {
    int64_t O, D;
    double *w_OD, *up_Or, *down_rD, *length_O;
} numbers;

static double *new_doubles(int64_t n)
{
    double *x = calloc((size_t)n, sizeof *x);
    assert_non_null(x);
    return x;
}

static double noise(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (double)(float)((double)(*seed >> 8) / 8388608.0 - 1.0);
}

static numbers numbers_make(const layer *l, uint32_t seed)
{
    char path[512];
    mica_weights *files = NULL;
    numbers n = {.O = 0};
    snprintf(path, sizeof path, "%s/%s", MICA_TEST_DATA, l->folder);
    if (l->packed)
        snprintf(path, sizeof path, "%s", l->packed);
    assert_int_equal(mica_weights_open(&files, path, NULL), MICA_OK);
    for (int part = 0; part < 3 && l->weights[part]; part++) {
        const mica_tensor *w = mica_weights_find(files, l->weights[part]);
        assert_non_null(w);
        n.D = w->shape_[1];
        if (!n.w_OD)
            n.w_OD = new_doubles(MOST_ROWS * n.D);
        assert_true(n.O + w->shape_[0] <= MOST_ROWS);
        for (int64_t i = 0; i < mica_tensor_count(w); i++)
            n.w_OD[n.O * n.D + i] = (double)mica_tensor_read_f32(w, i);
        n.O += w->shape_[0];
    }
    mica_weights_close(&files);
    n.up_Or = new_doubles(n.O * RANK);
    n.down_rD = new_doubles(RANK * n.D);
    n.length_O = new_doubles(n.O);
    for (int64_t i = 0; i < n.O * RANK; i++)
        n.up_Or[i] = 0.3 * noise(&seed);
    for (int64_t i = 0; i < RANK * n.D; i++)
        n.down_rD[i] = 0.3 * noise(&seed);
    for (int64_t o = 0; o < n.O; o++)
        n.length_O[o] = (double)(float)(0.8 + 0.5 * noise(&seed));
    return n;
}

static void numbers_free(numbers *n)
{
    free(n->w_OD);
    free(n->up_Or);
    free(n->down_rD);
    free(n->length_O);
}

/* w' of a DoRA over `now`, what the layer is by the adapters before; lengths are of the file's weight. */
static void decompose(const numbers *n, double s, double *now_OD)
{
    for (int64_t o = 0; o < n->O; o++) {
        double *sum = new_doubles(n->D), length = 0.0;
        for (int64_t d = 0; d < n->D; d++) {
            for (int r = 0; r < RANK; r++)
                sum[d] += s * n->up_Or[o * RANK + r] * n->down_rD[r * n->D + d];
            const double v = n->w_OD[o * n->D + d] + sum[d];
            length += v * v;
        }
        for (int64_t d = 0; d < n->D; d++) {
            double *v = &now_OD[o * n->D + d];
            *v = n->length_O[o] / sqrt(length) * (*v + sum[d]);
        }
        free(sum);
    }
}

static void add_plain(const numbers *n, double s, double *now_OD)
{
    for (int64_t o = 0; o < n->O; o++)
        for (int64_t d = 0; d < n->D; d++)
            for (int r = 0; r < RANK; r++)
                now_OD[o * n->D + d] += s * n->up_Or[o * RANK + r] * n->down_rD[r * n->D + d];
}

/* -------------------------------------------------------------------- files -- */

typedef struct entry {
    const char *ending;
    int64_t rows, columns;
    const double *values;
} entry;

static void write_file(const layer *l, const char *path, const entry *list, int count)
{
    char names[4][128];
    mica_tensor tensors[4];
    mica_safetensors_entry entries[4] = {{NULL, NULL}};
    mica_err err = {0};
    for (int i = 0; i < count; i++) {
        const int64_t n = list[i].rows * MICA_MAX(list[i].columns, 1);
        float *data = malloc((size_t)n * sizeof *data);
        for (int64_t k = 0; k < n; k++)
            data[k] = (float)list[i].values[k];
        snprintf(names[i], sizeof names[i], "%s%s%s",
                 strncmp(l->target, "double", 6) == 0 ? "diffusion_model." : "transformer.",
                 l->target, list[i].ending);
        tensors[i] = list[i].columns
                         ? mica_tensor_2d(data, MICA_DTYPE_F32, list[i].rows, list[i].columns)
                         : mica_tensor_1d(data, MICA_DTYPE_F32, list[i].rows);
        entries[i] = (mica_safetensors_entry){names[i], &tensors[i]};
    }
    if (mica_safetensors_write(path, entries, (size_t)count, NULL, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < count; i++)
        free(tensors[i].data);
}

/* LyCORIS' spelling of a DoRA. */
static void write_lycoris(const layer *l, const char *path, const numbers *n)
{
    const double alpha = RANK;
    const entry list[] = {{".lora_up.weight", n->O, RANK, n->up_Or},
                          {".lora_down.weight", RANK, n->D, n->down_rD},
                          {".dora_scale", n->O, 1, n->length_O},
                          {".alpha", 1, 0, &alpha}};
    write_file(l, path, list, 4);
}

static void write_lora(const layer *l, const char *path, const numbers *n, bool dora)
{
    const entry list[] = {{".lora_B.weight", n->O, RANK, n->up_Or},
                          {".lora_A.weight", RANK, n->D, n->down_rD},
                          {".lora_magnitude_vector", n->O, 0, n->length_O}};
    write_file(l, path, list, dora ? 3 : 2);
}

static void write_difference(const layer *l, const char *path, const numbers *n,
                             const double *now_OD)
{
    double *diff = new_doubles(n->O * n->D);
    for (int64_t i = 0; i < n->O * n->D; i++)
        diff[i] = now_OD[i] - n->w_OD[i];
    write_file(l, path, &(entry){".diff", n->O, n->D, diff}, 1);
    free(diff);
}

/* --------------------------------------------------------------------- runs -- */

typedef struct attached {
    const char *path;
    double scale;
} attached;

static mica_status attach(mica_model *m, mica_lora **lora, const attached *a, mica_err *err)
{
    mica_lora_match match;
    MICA_TRY(mica_lora_open(lora, a->path, err));
    return mica_lora_attach(*lora, m->kind->lora, m->kind->lora_weights(m), a->scale, &match, err);
}

static void run(const layer *l, const attached *files, int count, mica_precision p, golden_run *r)
{
    mica_err err = {0};
    mica_lora *loras[2] = {NULL, NULL};
    char folder[512];
    snprintf(folder, sizeof folder, MICA_TEST_DATA "/%s", l->model);
    mica_model *m = golden_model_open(&(mica_engine_options){
        .size = sizeof(mica_engine_options), .model = folder, .transformer = l->packed});
    const mica_image_options o = {.size = sizeof o,
                                  .prompt = "a fox",
                                  .width = 48,
                                  .height = 48,
                                  .steps = 2,
                                  .max_text_tokens = 32,
                                  .seed = 3};
    for (int i = 0; i < count; i++)
        if (attach(m, &loras[i], &files[i], &err))
            fail_msg("%s", err.text);
    golden_generate_ok(r, m, &(golden_setup){.precision = p, .threads = 1}, &o);
    golden_model_close(&m);
    for (int i = 0; i < count; i++)
        mica_lora_close(&loras[i]);
}

typedef struct paths {
    char folder[400], one[440], two[440], whole[440];
} paths;

static void paths_make(paths *p)
{
    golden_temp_folder(p->folder, sizeof p->folder);
    snprintf(p->one, sizeof p->one, "%s/one.safetensors", p->folder);
    snprintf(p->two, sizeof p->two, "%s/two.safetensors", p->folder);
    snprintf(p->whole, sizeof p->whole, "%s/whole.safetensors", p->folder);
}

static void compare(const layer *l, const paths *p, const attached *files, int count,
                    mica_precision precision, double bound)
{
    golden_run got, want, plain;
    run(l, files, count, precision, &got);
    run(l, &(attached){p->whole, 1.0}, 1, MICA_PRECISION_F32, &want);
    run(l, NULL, 0, MICA_PRECISION_F32, &plain);
    const mica_tensor *expected = mica_trace_find(want.trace, "step1.latents");
    golden_assert_near("step1.latents", mica_trace_find(got.trace, "step1.latents"), expected,
                       bound);
    /* The adapter matters, far beyond the bound. */
    assert_true(golden_relative_l2(mica_trace_find(plain.trace, "step1.latents"), expected) >
                3 * bound);
    golden_run_close(&got);
    golden_run_close(&want);
    golden_run_close(&plain);
}

static void check_alone(const layer *l, bool lycoris, double scale, mica_precision precision,
                        double bound)
{
    paths p;
    numbers n = numbers_make(l, 7);
    double *now = new_doubles(n.O * n.D);
    memcpy(now, n.w_OD, (size_t)(n.O * n.D) * sizeof *now);
    paths_make(&p);
    decompose(&n, scale, now);
    if (lycoris)
        write_lycoris(l, p.one, &n);
    else
        write_lora(l, p.one, &n, true);
    write_difference(l, p.whole, &n, now);
    compare(l, &p, &(attached){p.one, scale}, 1, precision, bound);
    golden_remove_folder(p.folder);
    numbers_free(&n);
    free(now);
}

static void test_alone(void **state)
{
    (void)state;
    check_alone(&PLAIN, false, 1.0, MICA_PRECISION_F32, 1e-5);
    check_alone(&PLAIN, false, 0.6, MICA_PRECISION_F32, 1e-5);
    check_alone(&FUSED, false, 0.7, MICA_PRECISION_F32, 1e-5);
    check_alone(&PLAIN, true, 1.0, MICA_PRECISION_F32, 1e-5);
    check_alone(&FUSED, true, 1.0, MICA_PRECISION_F32, 1e-5);
}

static void test_other_precisions(void **state)
{
    (void)state;
    check_alone(&PLAIN, false, 1.0, MICA_PRECISION_BF16, 2e-2);
    check_alone(&PLAIN, false, 1.0, MICA_PRECISION_INT8, 3e-2);
}

/* Two files on one layer: a LoRA and a DoRA in both orders, two DoRAs. */
static void check_two(bool first_is_dora, bool second_is_dora)
{
    paths p;
    numbers a = numbers_make(&FUSED, 11), b = numbers_make(&FUSED, 13);
    double *now = new_doubles(a.O * a.D);
    memcpy(now, a.w_OD, (size_t)(a.O * a.D) * sizeof *now);
    paths_make(&p);
    if (first_is_dora)
        decompose(&a, 0.5, now);
    else
        add_plain(&a, 0.5, now);
    if (second_is_dora)
        decompose(&b, 0.9, now);
    else
        add_plain(&b, 0.9, now);
    write_lora(&FUSED, p.one, &a, first_is_dora);
    write_lora(&FUSED, p.two, &b, second_is_dora);
    write_difference(&FUSED, p.whole, &a, now);
    compare(&FUSED, &p, (const attached[]){{p.one, 0.5}, {p.two, 0.9}}, 2, MICA_PRECISION_F32,
            1e-5);
    golden_remove_folder(p.folder);
    numbers_free(&a);
    numbers_free(&b);
    free(now);
}

static void test_two_files(void **state)
{
    (void)state;
    check_two(false, true);
    check_two(true, false);
    check_two(true, true);
}

/* The layer in a packed file: one weight, or three views of a fused one. */
static void check_packed(const layer *l, const char *type, const char *file)
{
    char dir[256], from[512], to[400];
    golden_temp_folder(dir, sizeof dir);
    snprintf(from, sizeof from, MICA_TEST_DATA "/%s", l->folder);
    snprintf(to, sizeof to, "%s/%s", dir, file);
    convert_ok(from, to, type, 0);
    layer packed = *l;
    packed.packed = to;
    if (l == &FUSED && strstr(file, ".gguf"))
        packed.weights[0] = "double_blocks.0.img_attn.qkv.weight", packed.weights[1] = NULL;
    print_message("%s %s\n", file, type);
    check_alone(&packed, false, 0.7, MICA_PRECISION_F32, 1e-5);
    check_alone(&packed, false, 1.0, MICA_PRECISION_BF16, 2e-2);
    golden_remove_folder(dir);
}

static void test_packed(void **state)
{
    (void)state;
    static const char *const TYPES[] = {"q4", "q5", "q6", "q8"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(TYPES); i++) {
        check_packed(&PLAIN, TYPES[i], "a.gguf");
        check_packed(&FUSED, TYPES[i], "a.gguf");
        check_packed(&PLAIN, TYPES[i], "a.safetensors");
    }
    check_packed(&FUSED, "q4", "a.safetensors");
    check_packed(&PLAIN, "int8", "a.safetensors");
    check_packed(&FUSED, "int8", "a.safetensors");
    check_packed(&PLAIN, "fp8", "a.safetensors");
}

/* A LoHa cannot be multiplied by rows through its factors. */
static void test_refusal(void **state)
{
    (void)state;
    paths p;
    mica_err err = {0};
    mica_lora *loras[2] = {NULL, NULL};
    numbers n = numbers_make(&PLAIN, 5);
    const entry loha[] = {{".hada_w1_a", n.O, RANK, n.up_Or},
                          {".hada_w1_b", RANK, n.D, n.down_rD},
                          {".hada_w2_a", n.O, RANK, n.up_Or},
                          {".hada_w2_b", RANK, n.D, n.down_rD}};
    mica_model *m = golden_model_open_folder(PLAIN.model);
    paths_make(&p);
    write_file(&PLAIN, p.one, loha, 4);
    write_lora(&PLAIN, p.two, &n, true);
    assert_int_equal(attach(m, &loras[0], &(attached){p.one, 1.0}, &err), MICA_OK);
    assert_int_equal(attach(m, &loras[1], &(attached){p.two, 1.0}, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "give the DoRA first"));
    golden_model_close(&m);
    mica_lora_close(&loras[0]);
    mica_lora_close(&loras[1]);
    golden_remove_folder(p.folder);
    numbers_free(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),     cmocka_unit_test(test_other_precisions),
        cmocka_unit_test(test_two_files), cmocka_unit_test(test_packed),
        cmocka_unit_test(test_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
