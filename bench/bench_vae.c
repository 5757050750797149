/* bench_vae.c - the Qwen-Image autoencoder at full size, or the one of FLUX.2 or Z-Image, random weights.
 *
 *     bench_vae [--kl Z] [--threads N] [--precision f32|bf16] [--rows N] [--encode] [--repeat N] [SIZE ...]
 *
 * --kl: the KL autoencoder with Z latent channels, 32: FLUX.2, 16: Z-Image.
 * Per SIZE (side of a square picture, default 256 and 512): seconds of the first run, which also
 * packs the weights, and of the best of all; GFLOP/s over convolutions, linears and attention (2
 * per multiply-add) and their share of the best matrix product measured between the runs; the
 * seconds the convolutions took; the peak of working memory and of the process, both after the
 * first run, before a measured product adds to them. --rows: rows of latents per band, 0
 * automatic, -1 all at once. Peaks do not fall again: give sizes in rising order. */
#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "models/qwen_image/qwen_image_vae.h"
#include "nn/kl_vae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench {
    mica_backend_options options;
    mica_vae_run_args args;
    bool encode;
    int repeat;
    int kl; /* latent channels; 0: Qwen-Image's */
    mica_qwen_vae *vae;
    mica_kl_vae *kl_vae;
    mica_backend *be;
} bench;

static void die(const char *what)
{
    fprintf(stderr, "bench_vae: %s\n", what);
    exit(1);
}

static void check(mica_status st, const mica_err *err)
{
    if (st != MICA_OK)
        die(err->text);
}

static double flops_of(mica_backend_counters c)
{
    return c.conv_flops + c.linear_flops + c.attention_flops;
}

static void fill_noise(mica_backend *be, const mica_tensor *t)
{
    const int64_t count = mica_tensor_count(t);
    float *x = mica_mem_alloc((size_t)count * sizeof *x);
    uint32_t seed = 1;
    if (!x)
        die("out of memory");
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    mica_upload_f32(be, t, x);
    mica_mem_free(x);
}

static double run_once(bench *b, mica_tensor *z, mica_tensor *picture)
{
    mica_err err = {0};
    const double start = mica_clock_seconds();
    if (b->kl_vae)
        check(b->encode ? mica_kl_vae_encode(b->kl_vae, b->be, picture, z, NULL, &b->args, &err)
                        : mica_kl_vae_decode(b->kl_vae, b->be, z, picture, &b->args, &err),
              &err);
    else
        check(b->encode ? mica_qwen_vae_encode(b->vae, b->be, picture, z, NULL, &b->args, &err)
                        : mica_qwen_vae_decode(b->vae, b->be, z, picture, &b->args, &err),
              &err);
    return mica_clock_seconds() - start;
}

static void bench_size(bench *b, int side)
{
    const mica_qwen_vae_config *c = b->kl ? NULL : mica_qwen_vae_get_config(b->vae);
    const int scale =
        c ? mica_qwen_vae_scale(c) : mica_kl_vae_scale(mica_kl_vae_get_config(b->kl_vae));
    const int64_t z_dim = c ? c->z_dim : b->kl;
    const mica_pool_mark mark = mica_pool_get_mark(b->be, MICA_POOL_SESSION);
    mica_tensor z = mica_state_tensor(b->be, MICA_POOL_SESSION, 3,
                                      (const int64_t[]){side / scale, side / scale, z_dim});
    mica_tensor picture =
        mica_state_tensor(b->be, MICA_POOL_SESSION, 3, (const int64_t[]){side, side, 3});
    fill_noise(b->be, b->encode ? &picture : &z);
    double first = 0.0, best = 0.0, conv = 0.0, flops = 0.0;
    double peak = mica_backend_measure_peak(b->be, b->options.precision);
    uint64_t rss = 0;
    for (int i = 0; i <= b->repeat; i++) {
        const mica_backend_counters before = mica_backend_get_counters(b->be);
        const double seconds = run_once(b, &z, &picture);
        const mica_backend_counters after = mica_backend_get_counters(b->be);
        flops = flops_of(after) - flops_of(before);
        first = i == 0 ? seconds : first;
        rss = i == 0 ? mica_clock_peak_rss() : rss;
        if (i == 0 || seconds < best) {
            best = seconds;
            conv = after.conv_seconds - before.conv_seconds;
        }
        peak = MICA_MAX(peak, mica_backend_measure_peak(b->be, b->options.precision));
    }
    if (peak <= 0.0)
        die("the matrix-product rate could not be measured");
    printf("%s %5d  first %7.3f s  best %7.3f s  %7.1f GFLOP  %6.1f GFLOP/s  "
           "%5.1f %% of %.1f  conv %7.3f s  "
           "scratch %6.1f MB  rss %6.1f MB\n",
           b->encode ? "encode" : "decode", side, first, best, flops * 1e-9, flops * 1e-9 / best,
           100.0 * flops / best / peak, peak * 1e-9, conv,
           (double)mica_pool_peak(b->be, MICA_POOL_STEP) * 1e-6, (double)rss * 1e-6);
    fflush(stdout);
    mica_pool_release(b->be, MICA_POOL_SESSION, mark);
}

static int number(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc)
        die("an option lacks its value");
    return atoi(argv[++*i]);
}

/* Returns the number of sizes. */
static int read_arguments(bench *b, int argc, char **argv, int *sizes)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--threads") == 0)
            b->options.threads = number(argc, argv, &i);
        else if (strcmp(argv[i], "--kl") == 0)
            b->kl = number(argc, argv, &i);
        else if (strcmp(argv[i], "--rows") == 0)
            b->args.tile_rows = number(argc, argv, &i);
        else if (strcmp(argv[i], "--repeat") == 0)
            b->repeat = number(argc, argv, &i);
        else if (strcmp(argv[i], "--encode") == 0)
            b->encode = true;
        else if (strcmp(argv[i], "--precision") == 0 && i + 1 < argc)
            b->options.precision =
                strcmp(argv[++i], "f32") == 0 ? MICA_PRECISION_F32 : MICA_PRECISION_BF16;
        else if (atoi(argv[i]) >= 8 && atoi(argv[i]) % 8 == 0 && count < 16)
            sizes[count++] = atoi(argv[i]);
        else
            die("sizes are multiples of 8; see the top of bench_vae.c for the options");
    }
    return count;
}

int main(int argc, char **argv)
{
    bench b = {.options = {.precision = MICA_PRECISION_BF16}, .repeat = 2};
    int sizes[16] = {256, 512}, count = read_arguments(&b, argc, argv, sizes);
    const mica_qwen_vae_config config = mica_qwen_vae_config_default();
    const mica_kl_vae_config kl_config = mica_kl_vae_config_default(b.kl);
    mica_weights *files = NULL;
    mica_arena arena;
    mica_err err = {0};
    if (b.kl != 0 && b.kl != 16 && b.kl != 32)
        die("--kl takes 16 or 32");
    mica_arena_init(&arena, 1 << 20);
    check(mica_weights_open_empty(&files, &err), &err);
    check(b.kl ? mica_kl_vae_fill(&kl_config, files, &arena, &err)
               : mica_qwen_vae_fill(&config, files, &arena, &err),
          &err);
    check(b.kl ? mica_kl_vae_open(&b.kl_vae, &kl_config, files, &err)
               : mica_qwen_vae_open(&b.vae, &config, files, &err),
          &err);
    check(mica_backend_open(&b.be, &b.options, &err), &err);
    printf("%s, %.1f million weights\n", mica_backend_name(b.be),
           (double)mica_weights_parameters(files) * 1e-6);
    for (int i = 0; i < (count ? count : 2); i++)
        bench_size(&b, sizes[i]);
    mica_backend_close(&b.be);
    mica_qwen_vae_close(&b.vae);
    mica_kl_vae_close(&b.kl_vae);
    mica_weights_close(&files);
    mica_arena_deinit(&arena);
    return 0;
}
