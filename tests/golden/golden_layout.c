/* golden_layout.c - see golden_layout.h. */
#include "golden_layout.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---------------------------------------------------------------------- one file -- */

/* Bits of an integer in MLX's form, 0 of another. */
static int mlx_bits(golden_encoding e)
{
    if (e == GOLDEN_MLX8 || e == GOLDEN_MLX8_AS_F32)
        return 8;
    return e == GOLDEN_MLX4 || e == GOLDEN_MLX4_AS_F32 ? 4 : 0;
}

static bool is_encoded(const golden_layout *layout, const char *name, const mica_tensor *t)
{
    if (mlx_bits(layout->encoding) && (t->ndim != 2 || t->shape_[1] % 32 != 0))
        return false;
    return layout->encoding != GOLDEN_KEEP && t->ndim == 2 && strstr(name, layout->encoded) &&
           strstr(name, "weight");
}

static void new_name(const golden_layout *layout, const char *name, char out[256])
{
    char renamed[256];
    if (layout->rename) {
        layout->rename(name, renamed);
        name = renamed;
    }
    if (layout->from && strncmp(name, layout->from, strlen(layout->from)) == 0)
        snprintf(out, 256, "%s%s", layout->to, name + strlen(layout->from));
    else
        snprintf(out, 256, "%s%s", layout->prefix ? layout->prefix : "", name);
}

/* -1: the name belongs to no fusion; else which part it is, and what stands before it. */
static int part_of(const golden_fusion *f, const char *name, size_t *stem)
{
    for (int i = 0; f && i < 4 && f->parts[i]; i++) {
        const size_t n = strlen(name), m = strlen(f->parts[i]);
        *stem = n >= m ? n - m : 0;
        if (n >= m && strcmp(name + *stem, f->parts[i]) == 0)
            return i;
    }
    return -1;
}

/* The parts of one fusion as one tensor. */
static mica_tensor fuse(golden_copy *f, const golden_fusion *fusion, const mica_weights *w,
                        const char *name, size_t stem)
{
    const mica_tensor *parts[4];
    int count = 0;
    for (; count < 4 && fusion->parts[count]; count++) {
        char part[256];
        snprintf(part, sizeof part, "%.*s%s", (int)stem, name, fusion->parts[count]);
        parts[count] = mica_weights_find(w, part);
    }
    golden_copy_add_rows(f, "", parts, count);
    return f->tensors[--f->count];
}

static void add_encoded(golden_copy *f, const char *name, const mica_tensor *t, golden_encoding e)
{
    if (mlx_bits(e))
        golden_copy_add_mlx(f, name, t, mlx_bits(e),
                            e == GOLDEN_MLX8_AS_F32 || e == GOLDEN_MLX4_AS_F32);
    else
        golden_copy_add_fp8(f, name, t, e == GOLDEN_FP8_SCALED || e == GOLDEN_FP8_SCALED_AS_F32,
                            e == GOLDEN_FP8_SCALED_AS_F32 || e == GOLDEN_FP8_PLAIN_AS_F32);
}

/* [O, C, kernel] as [O, kernel, C]. */
static mica_tensor channels_last(golden_copy *f, const mica_tensor *t)
{
    const size_t unit = (size_t)mica_dtype_get(t->dtype)->size;
    const int64_t O = t->shape_[0], C = t->shape_[1], K = mica_tensor_count(t) / (O * C);
    uint8_t *data = golden_copy_bytes(f, mica_tensor_size(t)), *to = data;
    int64_t shape[MICA_MAX_DIMS] = {O};
    for (int64_t o = 0; o < O; o++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t c = 0; c < C; c++, to += unit)
                memcpy(to, (const uint8_t *)t->data + (size_t)((o * C + c) * K + k) * unit, unit);
    for (int i = 2; i < t->ndim; i++)
        shape[i - 1] = t->shape_[i];
    shape[t->ndim - 1] = C;
    return mica_tensor_make(data, t->dtype, t->ndim, shape);
}

static void add_copy(golden_copy *f, const golden_layout *layout, const char *name,
                     const mica_tensor *t)
{
    char renamed[256];
    new_name(layout, name, renamed);
    if (layout->drop && strcmp(name, layout->drop) == 0)
        return;
    if (is_encoded(layout, name, t)) {
        add_encoded(f, renamed, t, layout->encoding);
        return;
    }
    mica_tensor copy = *t;
    if (layout->reshape && strcmp(name, layout->reshape) == 0) {
        int64_t shape[MICA_MAX_DIMS];
        memcpy(shape, t->shape_, sizeof shape);
        shape[t->ndim - 1]--;
        copy = mica_tensor_make(t->data, t->dtype, t->ndim, shape);
    }
    if (layout->channels_last && t->ndim > 1 && strstr(name, "gamma"))
        copy = mica_tensor_1d(t->data, t->dtype, t->shape_[0]);
    else if (layout->channels_last && t->ndim >= 4)
        copy = channels_last(f, t);
    if (layout->poison && strcmp(name, layout->poison) == 0) {
        uint16_t *data = golden_copy_bytes(f, mica_tensor_size(t));
        memcpy(data, t->data, mica_tensor_size(t));
        data[0] = 0x7fc0;
        copy.data = data;
    }
    golden_copy_add(f, renamed, &copy);
}

static void add_any(golden_copy *f, const golden_layout *layout, const mica_weights *w, size_t i)
{
    const char *name = mica_weights_name(w, i);
    size_t stem = 0;
    const int part = part_of(layout->fusion, name, &stem);
    if (part < 0) {
        add_copy(f, layout, name, mica_weights_tensor(w, i));
    } else if (part == 0) {
        char whole[256];
        const mica_tensor t = fuse(f, layout->fusion, w, name, stem);
        snprintf(whole, sizeof whole, "%.*s%s", (int)stem, name, layout->fusion->whole);
        add_copy(f, layout, whole, &t);
    }
}

void golden_layout_write(const char *from, const char *to, const golden_layout *layout)
{
    char path[512], marker[128];
    mica_weights *w = NULL;
    mica_err err = {0};
    snprintf(path, sizeof path, "%s%s", from[0] == '/' ? "" : MICA_TEST_DATA "/", from);
    assert_int_equal(mica_weights_open(&w, path, &err), MICA_OK);
    golden_copy *f = golden_copy_new();
    if (mlx_bits(layout->encoding)) { /* as mflux's ModelSaver */
        f->metadata[0] = "quantization_level";
        f->metadata[1] = mlx_bits(layout->encoding) == 8 ? "8" : "4";
        f->metadata[2] = "mflux_version";
        f->metadata[3] = "0.12.0";
    }
    for (size_t i = 0; i < mica_weights_count(w); i++)
        add_any(f, layout, w, i);
    const mica_tensor none = mica_tensor_1d(golden_copy_bytes(f, 1), MICA_DTYPE_F8_E4M3, 0);
    const mica_tensor two = mica_tensor_1d(golden_copy_bytes(f, 8), MICA_DTYPE_F32, 2);
    snprintf(marker, sizeof marker, "%sscaled_fp8", layout->prefix ? layout->prefix : "");
    if (layout->encoding == GOLDEN_FP8_SCALED)
        golden_copy_add(f, marker, &none);
    if (layout->extra)
        golden_copy_add(f, layout->extra, &two);
    golden_copy_write(&f, to);
    mica_weights_close(&w);
}

/* ----------------------------------------------------------------- a Comfy folder -- */

static void copy_part(const char *source, const char *part, const char *to,
                      const golden_layout *layout)
{
    char from[512], json[400];
    snprintf(from, sizeof from, "%s/%s", source, part);
    golden_layout_write(from, to, layout);
    snprintf(from, sizeof from, MICA_TEST_DATA "/%s/%s/config.json", source, part);
    snprintf(json, sizeof json, "%.*sjson", (int)(strlen(to) - strlen("safetensors")), to);
    golden_copy_text(from, json);
}

void golden_comfy_make(golden_comfy *c, const char *source, const golden_layout *transformer,
                       const golden_layout *text_encoder, const golden_layout *vae)
{
    char path[400], from[512];
    static const char *const FOLDERS[] = {"diffusion_models", "text_encoders", "vae"};
    golden_temp_folder(c->dir, sizeof c->dir);
    for (size_t i = 0; i < MICA_ARRAY_LEN(FOLDERS); i++) {
        snprintf(path, sizeof path, "%s/%s", c->dir, FOLDERS[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(c->transformer, sizeof c->transformer, "%s/diffusion_models/a.safetensors", c->dir);
    snprintf(c->text_encoder, sizeof c->text_encoder, "%s/text_encoders/b.safetensors", c->dir);
    snprintf(c->vae, sizeof c->vae, "%s/vae/c.safetensors", c->dir);
    snprintf(c->tokenizer, sizeof c->tokenizer, MICA_TEST_DATA "/%s/tokenizer", source);
    copy_part(source, "transformer", c->transformer, transformer);
    copy_part(source, "text_encoder", c->text_encoder, text_encoder);
    copy_part(source, "vae", c->vae, vae);
    snprintf(from, sizeof from, MICA_TEST_DATA "/%s/scheduler/scheduler_config.json", source);
    snprintf(path, sizeof path, "%s/scheduler_config.json", c->dir);
    golden_copy_text(from, path);
}

void golden_comfy_drop_config(const char *weights_path)
{
    char path[400];
    snprintf(path, sizeof path, "%.*sjson", (int)(strlen(weights_path) - strlen("safetensors")),
             weights_path);
    assert_int_equal(remove(path), 0);
}

mica_engine_options golden_comfy_options(const golden_comfy *c)
{
    return (mica_engine_options){
        .size = sizeof(mica_engine_options), .model = c->dir, .tokenizer = c->tokenizer};
}

void golden_comfy_remove(golden_comfy *c)
{
    golden_remove_folder(c->dir);
}

/* ---------------------------------------------------------------- a folder of mflux -- */

/* The index that stands beside the shards names every tensor. */
static void write_index(const char *folder, int bits)
{
    char path[600];
    mica_weights *w = NULL;
    mica_err err = {0};
    snprintf(path, sizeof path, "%s/0.safetensors", folder);
    assert_int_equal(mica_weights_open(&w, path, &err), MICA_OK);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    char level[16] = "None";
    if (bits)
        snprintf(level, sizeof level, "%d", bits);
    fprintf(f,
            "{\"metadata\": {\"quantization_level\": \"%s\", \"mflux_version\": \"0.12.0\"}, "
            "\"weight_map\": {",
            level);
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const char *name = mica_weights_name(w, i);
        const int stem = (int)(strlen(name) - MICA_MIN(strlen(name), strlen(".weight")));
        fprintf(f, "%s\"%s\": \"0.safetensors\"", i ? ", " : "", name);
        if (mica_dtype_is_packed(mica_weights_tensor(w, i)->dtype))
            fprintf(f, ", \"%.*s.scales\": \"0.safetensors\", \"%.*s.biases\": \"0.safetensors\"",
                    stem, name, stem, name);
    }
    fputs("}}\n", f);
    fclose(f);
    mica_weights_close(&w);
}

static void copy_files(const char *source, const char *dir, const char *const *names)
{
    char from[512], to[512];
    for (; *names; names++) {
        snprintf(from, sizeof from, MICA_TEST_DATA "/%s/%s", source, *names);
        snprintf(to, sizeof to, "%s/%s", dir, *names);
        golden_copy_text(from, to);
    }
}

void golden_mflux_replace(const char *dir, const char *part, const char *from,
                          const golden_layout *layout)
{
    char path[512];
    snprintf(path, sizeof path, "%.255s/%s/0.safetensors", dir, part);
    golden_layout_write(from, path, layout);
    snprintf(path, sizeof path, "%.255s/%s", dir, part);
    write_index(path, mlx_bits(layout->encoding));
}

void golden_mflux_make(char dir[256], const char *source, const golden_layout *transformer,
                       const golden_layout *text_encoder, const golden_layout *vae,
                       const char *const *keeps)
{
    static const char *const PARTS[] = {"transformer", "text_encoder", "vae"};
    static const char *const TOKENIZER[] = {"tokenizer/tokenizer.json",
                                            "tokenizer/tokenizer_config.json", NULL};
    const golden_layout *layouts[] = {transformer, text_encoder, vae};
    char path[512], from[512];
    golden_temp_folder(dir, 256);
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++) {
        snprintf(path, sizeof path, "%.255s/%s", dir, PARTS[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(from, sizeof from, "%s/%s", source, PARTS[i]);
        golden_mflux_replace(dir, PARTS[i], from, layouts[i]);
    }
    snprintf(path, sizeof path, "%.255s/tokenizer", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    copy_files(source, dir, TOKENIZER);
    copy_files(source, dir, keeps);
}

/* ------------------------------------------------------------------------ refusals -- */

void golden_expect_refused(const mica_engine_options *options, mica_status status,
                           const char *const *words)
{
    mica_model_parts parts;
    const mica_model_kind *kind;
    mica_model *m = NULL;
    mica_err err = {0};
    mica_status st = mica_model_parts_resolve(&parts, &kind, options, &err);
    if (!st) {
        st = kind->open(&m, &parts, &err);
        assert_null(m);
        mica_model_parts_deinit(&parts);
    }
    if (st != status)
        fail_msg("got %s (%s), expected %s", mica_status_name(st), err.text,
                 mica_status_name(status));
    for (; *words; words++)
        if (!strstr(err.text, *words))
            fail_msg("\"%s\" does not say \"%s\"", err.text, *words);
}
