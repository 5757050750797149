/* fuzz_g2pw_lists.c - arbitrary bytes as the lists of characters beside g2pW.
 *
 *     bytes ─split at 0xff─► POLYPHONIC_CHARS.txt | MONOPHONIC_CHARS.txt | config.py ──► open
 *
 * The sizes of the network are those that the refusal of the wrong ones names, so that most inputs get
 * through. Then: every reading is one of ours or -1, lists are sorted, every character may be read. */
#include "base/file.h"
#include "models/gpt_sovits/gpt_sovits_readings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[] = "/tmp/mica-fuzz-XXXXXX";
static mica_speech_front *front;

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void write_file(const char *name, const uint8_t *data, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    require(f != NULL && (size == 0 || fwrite(data, 1, size, f) == size) && fclose(f) == 0);
}

static size_t write_part(const char *name, const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, 0xff, size) : NULL;
    const size_t n = end ? (size_t)(end - data) : size;
    write_file(name, data, n);
    return n + (end != NULL);
}

static mica_status open_lists(mica_gs_readings *r, mica_gs_list_sizes sizes, mica_arena *arena,
                              mica_err *err)
{
    *err = (mica_err){.status = MICA_OK};
    const mica_status st = mica_gs_readings_open(r, folder, &sizes, front, arena, err);
    require(st == MICA_OK || err->text[0] != '\0');
    return st;
}

static void check_lists(const mica_gs_readings *r)
{
    for (int64_t i = 1; i < r->character_count; i++)
        require(r->characters[i - 1].cp < r->characters[i].cp);
    for (int64_t i = 0; i < r->reading_count; i++)
        require(r->readings[i] >= -1);
    for (int64_t i = 0; i < r->single_count; i++)
        require(r->singles[i].reading >= 0);
    for (int64_t c = 0; c < r->character_count; c++) {
        int64_t may = 0;
        for (int64_t i = 0; i < r->reading_count; i++)
            may += r->may_CR[c * r->reading_count + i];
        require(may > 0);
    }
}

static void clean_up(void)
{
    static const char *const NAMES[] = {"POLYPHONIC_CHARS.txt", "MONOPHONIC_CHARS.txt",
                                        "config.py"};
    char path[256];
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, NAMES[i]);
        remove(path);
    }
    rmdir(folder);
    mica_speech_front_close(&front);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_arena arena;
    mica_gs_readings r;
    mica_err err = {0};
    long long list[2] = {0}, network[2] = {0};
    if (!front) {
        require(mica_speech_front_open(&front, &err) == MICA_OK);
        require(mkdtemp(folder) != NULL);
        atexit(clean_up);
    }
    size_t at = write_part("POLYPHONIC_CHARS.txt", data, size);
    at += write_part("MONOPHONIC_CHARS.txt", data + at, size - at);
    write_part("config.py", data + at, size - at);
    mica_arena_init(&arena, 1 << 16);
    if (open_lists(&r, (mica_gs_list_sizes){-1, -1}, &arena, &err) == MICA_E_FORMAT &&
        strstr(err.text, "has ") != NULL &&
        sscanf(strstr(err.text, "has "), "has %lld characters with %lld readings, the network %lld",
               &list[0], &list[1], &network[0]) == 3 &&
        open_lists(&r, (mica_gs_list_sizes){list[0], list[1]}, &arena, &err) == MICA_OK)
        check_lists(&r);
    mica_arena_deinit(&arena);
    return 0;
}
