/* replay_main.c - runs a fuzz target over a stored corpus, without a fuzzer.
 *
 *     corpus/<name>/ ──► each file ──► whole input
 *                                 └──► the same cut at 16 places and with 64 bytes flipped
 *
 * Linked to one fuzz_<name>.c. The variants are the same in every run: a crash found here
 * is found again. Inputs are copied to a heap block of exactly their size, so that a
 * sanitizer sees the first byte read beyond. It judges nothing but "did not crash";
 * an empty or missing corpus is a failure, because it would test nothing. */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_LIMIT (16u << 20)
#define CUT_COUNT   16
#define FLIP_COUNT  64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool run_copy(const uint8_t *data, size_t size, size_t flip_at, uint8_t flip_bits)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return false;
    if (size)
        memcpy(copy, data, size);
    if (size)
        copy[flip_at % size] ^= flip_bits;
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    return true;
}

static bool run_variants(const uint8_t *data, size_t size)
{
    bool ok = run_copy(data, size, 0, 0);
    for (size_t i = 0; ok && i < CUT_COUNT; i++)
        ok = run_copy(data, size * i / CUT_COUNT, 0, 0);
    /* Places from a fixed linear congruential sequence (Numerical Recipes constants). */
    uint32_t state = 1;
    for (int i = 0; ok && i < FLIP_COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        ok = run_copy(data, size, state >> 3, (uint8_t)(1u << (state >> 29)));
    }
    return ok;
}

static bool run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(INPUT_LIMIT);
    bool ok = file && data;
    if (ok) {
        const size_t size = fread(data, 1, INPUT_LIMIT, file);
        ok = !ferror(file) && run_variants(data, size);
    }
    if (!ok)
        fprintf(stderr, "replay: cannot run %s\n", path);
    free(data);
    if (file)
        fclose(file);
    return ok;
}

static int run_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir) {
        fprintf(stderr, "replay: no corpus at %s\n", folder);
        return -1;
    }
    int count = 0;
    for (struct dirent *entry = readdir(dir); entry && count >= 0; entry = readdir(dir)) {
        char path[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        count = run_file(path) ? count + 1 : -1;
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        const int count = run_folder(argv[i]);
        if (count < 0)
            return 1;
        total += count;
    }
    printf("replayed %d inputs\n", total);
    return total > 0 ? 0 : 1;
}
