/* golden_copy.c - see golden_copy.h. */
#include "golden_copy.h"

#include "base/file.h"
#include "base/half.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

golden_copy *golden_copy_new(void)
{
    golden_copy *f = mica_mem_calloc(1, sizeof *f);
    assert_non_null(f);
    mica_arena_init(&f->arena, 1 << 16);
    return f;
}

void *golden_copy_bytes(golden_copy *f, size_t n)
{
    void *p = mica_arena_calloc(&f->arena, 1, n ? n : 1);
    assert_non_null(p);
    return p;
}

void golden_copy_add(golden_copy *f, const char *name, const mica_tensor *t)
{
    assert_true(f->count < GOLDEN_COPY_TENSORS);
    f->tensors[f->count] = *t;
    f->entries[f->count] = (mica_safetensors_entry){
        mica_arena_strndup(&f->arena, name, strlen(name)), &f->tensors[f->count]};
    f->count++;
}

void golden_copy_add_rows(golden_copy *f, const char *name, const mica_tensor *const *parts,
                          int count)
{
    size_t size = 0, used = 0;
    int64_t rows = 0;
    for (int i = 0; i < count; i++) {
        assert_non_null(parts[i]);
        size += mica_tensor_size(parts[i]);
        rows += parts[i]->shape_[0];
    }
    char *data = golden_copy_bytes(f, size);
    for (int i = 0; i < count; i++) {
        memcpy(data + used, parts[i]->data, mica_tensor_size(parts[i]));
        used += mica_tensor_size(parts[i]);
    }
    const mica_tensor t = mica_tensor_2d(data, parts[0]->dtype, rows, parts[0]->shape_[1]);
    golden_copy_add(f, name, &t);
}

static uint8_t nearest_f8(float x)
{
    uint8_t best = 0;
    float distance = INFINITY;
    for (int code = 0; code < 256; code++) {
        const float v = mica_f8_e4m3_to_f32((uint8_t)code);
        if (!isnan(v) && fabsf(v - x) < distance) {
            distance = fabsf(v - x);
            best = (uint8_t)code;
        }
    }
    return best;
}

void golden_copy_add_fp8(golden_copy *f, const char *name, const mica_tensor *t, bool scaled,
                         bool as_f32)
{
    const int64_t n = mica_tensor_count(t);
    float most = 0.0f;
    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(mica_tensor_read_f32(t, i)));
    float *scale = golden_copy_bytes(f, sizeof *scale);
    uint8_t *codes = golden_copy_bytes(f, (size_t)n);
    float *values = golden_copy_bytes(f, (size_t)n * sizeof *values);
    *scale = scaled ? most / 448.0f : 1.0f;
    for (int64_t i = 0; i < n; i++) {
        codes[i] = nearest_f8(mica_tensor_read_f32(t, i) / *scale);
        values[i] = mica_f8_e4m3_to_f32(codes[i]) * *scale;
    }
    const mica_tensor out = as_f32
                                ? mica_tensor_make(values, MICA_DTYPE_F32, t->ndim, t->shape_)
                                : mica_tensor_make(codes, MICA_DTYPE_F8_E4M3, t->ndim, t->shape_);
    golden_copy_add(f, name, &out);
    if (!scaled || as_f32)
        return;
    char scale_name[256];
    const mica_tensor s = mica_tensor_make(scale, MICA_DTYPE_F32, 0, NULL);
    snprintf(scale_name, sizeof scale_name, "%.*sscale_weight",
             (int)(strlen(name) - strlen("weight")), name);
    golden_copy_add(f, scale_name, &s);
}

/* One group: the range of its numbers in 2^bits - 1 steps, as MLX does it but for the sign of the scale. */
static void round_group(const mica_tensor *t, int64_t start, int group, int bits, uint32_t *words,
                        uint16_t scale_bias[2], float *values)
{
    float least = INFINITY, most = -INFINITY;
    for (int i = 0; i < group; i++) {
        least = fminf(least, mica_tensor_read_f32(t, start + i));
        most = fmaxf(most, mica_tensor_read_f32(t, start + i));
    }
    const float steps = (float)((1 << bits) - 1);
    scale_bias[0] = mica_f32_to_bf16(fmaxf((most - least) / steps, 1e-7f));
    scale_bias[1] = mica_f32_to_bf16(least);
    const float s = mica_bf16_to_f32(scale_bias[0]), b = mica_bf16_to_f32(scale_bias[1]);
    for (int i = 0; i < group; i++) {
        const float q = roundf((mica_tensor_read_f32(t, start + i) - b) / s);
        const uint32_t code = (uint32_t)fminf(fmaxf(q, 0.0f), steps);
        const int bit = i * bits;
        words[bit / 32] |= code << (bit % 32);
        if (bit % 32 + bits > 32)
            words[bit / 32 + 1] |= code >> (32 - bit % 32);
        values[i] = s * (float)code + b;
    }
}

/* `name` with another ending than ".weight". */
static void add_beside(golden_copy *f, const char *name, const char *ending, const mica_tensor *t)
{
    char whole[256];
    snprintf(whole, sizeof whole, "%.*s%s", (int)(strlen(name) - strlen(".weight")), name, ending);
    golden_copy_add(f, whole, t);
}

void golden_copy_add_mlx(golden_copy *f, const char *name, const mica_tensor *t, int bits,
                         bool as_f32)
{
    const int64_t rows = t->shape_[0], width = t->shape_[1];
    const int group = width % 64 ? 32 : 64, group_words = group * bits / 32;
    const int64_t groups = rows * (width / group);
    uint32_t *words = golden_copy_bytes(f, (size_t)(groups * group_words) * sizeof *words);
    uint16_t *scales = golden_copy_bytes(f, (size_t)groups * sizeof *scales);
    uint16_t *biases = golden_copy_bytes(f, (size_t)groups * sizeof *biases);
    float *values = golden_copy_bytes(f, (size_t)(rows * width) * sizeof *values);
    for (int64_t g = 0; g < groups; g++) {
        uint16_t scale_bias[2];
        round_group(t, g * group, group, bits, words + g * group_words, scale_bias,
                    values + g * group);
        scales[g] = scale_bias[0];
        biases[g] = scale_bias[1];
    }
    if (as_f32) {
        const mica_tensor plain = mica_tensor_2d(values, MICA_DTYPE_F32, rows, width);
        golden_copy_add(f, name, &plain);
        return;
    }
    const mica_tensor w = mica_tensor_2d(words, MICA_DTYPE_U32, rows, width / group * group_words);
    const mica_tensor s = mica_tensor_2d(scales, MICA_DTYPE_BF16, rows, width / group);
    const mica_tensor b = mica_tensor_2d(biases, MICA_DTYPE_BF16, rows, width / group);
    golden_copy_add(f, name, &w);
    add_beside(f, name, ".scales", &s);
    add_beside(f, name, ".biases", &b);
}

void golden_copy_write(golden_copy **f, const char *path)
{
    mica_err err = {0};
    const char *const *metadata = (*f)->metadata[0] ? (*f)->metadata : NULL;
    if (mica_safetensors_write(path, (*f)->entries, (*f)->count, metadata, &err))
        fail_msg("%s", err.text);
    mica_arena_deinit(&(*f)->arena);
    mica_mem_free(*f);
    *f = NULL;
}

void golden_copy_text(const char *from, const char *to)
{
    char *data = NULL;
    size_t size = 0;
    mica_file_out out;
    mica_err err = {0};
    assert_int_equal(mica_file_read(from, 1 << 20, &data, &size, &err), MICA_OK);
    assert_int_equal(mica_file_out_open(&out, to, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&out, data, size, &err), MICA_OK);
    assert_int_equal(mica_file_out_commit(&out, &err), MICA_OK);
    mica_mem_free(data);
}
