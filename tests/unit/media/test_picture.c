/* test_picture.c - every kind of file against Pillow's pixels, round trips, recipes, full disks. */
#include "golden_file.h"

#include "base/file.h"
#include "base/mem.h"
#include "media/picture.h"

#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/mica_test_picture_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return rmdir(folder); /* fails when a test left a file, temporary ones included */
}

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static mica_picture read_ok(const char *path)
{
    mica_picture p;
    mica_err err = {0};
    if (mica_picture_read(&p, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return p;
}

static void write_ok(const mica_picture *p, const char *path, const mica_picture_text *texts,
                     size_t count, int quality)
{
    mica_err err = {0};
    if (mica_picture_write(p, path, texts, count, quality, &err) != MICA_OK)
        fail_msg("%s", err.text);
}

/* Largest difference of two pictures of one shape. */
static int difference(const mica_picture *a, const mica_picture *b)
{
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    assert_int_equal(a->channels, b->channels);
    int most = 0;
    for (int i = 0; i < a->width * a->height * a->channels; i++) {
        const int d = abs(a->pixels[i] - b->pixels[i]);
        most = d > most ? d : most;
    }
    return most;
}

/* Lossless kinds agree exactly. Lossy ones leave room for another version of the decoder:
 * rounding of its inverse transform and colour conversion. */
static void test_golden_files(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int room;
    } cases[] = {
        {"rgb.png", 0},           {"rgba.png", 0},        {"grey.png", 0},
        {"grey_alpha.png", 0},    {"bits.png", 0},        {"palette.png", 0},
        {"palette_alpha.png", 0}, {"turned.png", 0},      {"interlaced.png", 0},
        {"deep.png", 0},          {"deep_grey.png", 0},   {"rgb.jpg", 2},
        {"subsampled.jpg", 4},    {"progressive.jpg", 4}, {"grey.jpg", 2},
        {"cmyk.jpg", 3},          {"turned1.jpg", 2},     {"turned2.jpg", 2},
        {"turned3.jpg", 2},       {"turned4.jpg", 2},     {"turned5.jpg", 2},
        {"turned6.jpg", 2},       {"turned7.jpg", 2},     {"turned8.jpg", 2},
        {"lossless.webp", 0},     {"alpha.webp", 0},      {"lossy.webp", 2},
        {"lossy_alpha.webp", 2},  {"turned.webp", 0},
    };
    mica_weights *w = golden_open("pictures/pictures.safetensors");
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/pictures/%s", MICA_TEST_DATA, cases[i].name);
        mica_picture p = read_ok(path);
        const mica_tensor *t = mica_weights_find(w, cases[i].name);
        assert_non_null(t);
        const mica_picture want = {(int)t->shape_[1], (int)t->shape_[0], (int)t->shape_[2],
                                   t->data};
        if (p.width != want.width || p.height != want.height || p.channels != want.channels)
            fail_msg("%s: %dx%dx%d", cases[i].name, p.width, p.height, p.channels);
        const int d = difference(&p, &want);
        if (d > cases[i].room)
            fail_msg("%s: differs by %d", cases[i].name, d);
        mica_picture_deinit(&p);
    }
    mica_weights_close(&w);
}

static mica_picture make_picture(int width, int height, int channels)
{
    mica_picture p = {width, height, channels, NULL};
    p.pixels = mica_mem_alloc((size_t)width * (size_t)height * (size_t)channels);
    assert_non_null(p.pixels);
    for (int i = 0; i < width * height * channels; i++)
        p.pixels[i] = (uint8_t)(i * 7 + i / (width * channels) * 13);
    return p;
}

static void check_lossless(const char *name, int width, int height, int channels)
{
    mica_picture p = make_picture(width, height, channels);
    if (channels == 4)
        p.pixels[3] = 0; /* or libwebp would leave out an opaque alpha channel */
    write_ok(&p, path_of(name), NULL, 0, 0);
    mica_picture back = read_ok(path_of(name));
    assert_int_equal(difference(&p, &back), 0);
    mica_picture_deinit(&p);
    mica_picture_deinit(&back);
    unlink(path_of(name));
}

static void test_lossless_round_trips(void **state)
{
    (void)state;
    static const int sizes[][2] = {{1, 1}, {1, 9}, {16, 1}, {33, 17}, {300, 7}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(sizes); i++) {
        for (int channels = 3; channels <= 4; channels++) {
            check_lossless("a.png", sizes[i][0], sizes[i][1], channels);
            check_lossless("a.WEBP", sizes[i][0], sizes[i][1], channels);
        }
    }
}

static mica_picture smooth_picture(void)
{
    mica_picture p = make_picture(64, 48, 3);
    for (int i = 0; i < 64 * 48; i++) {
        p.pixels[3 * i] = (uint8_t)(i % 64 * 3);
        p.pixels[3 * i + 1] = (uint8_t)(i / 64 * 4);
        p.pixels[3 * i + 2] = (uint8_t)(255 - i % 64 * 2);
    }
    return p;
}

static void test_lossy_round_trips(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int quality, room;
    } cases[] = {{"a.jpg", 0, 8}, {"a.JPEG", 100, 4}, {"b.jpg", 30, 60}, {"a.webp", 90, 30}};
    mica_picture p = smooth_picture();
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        write_ok(&p, path_of(cases[i].name), NULL, 0, cases[i].quality);
        mica_picture back = read_ok(path_of(cases[i].name));
        const int d = difference(&p, &back);
        if (d > cases[i].room || d == 0)
            fail_msg("%s at quality %d: differs by %d", cases[i].name, cases[i].quality, d);
        mica_picture_deinit(&back);
        unlink(path_of(cases[i].name));
    }
    mica_picture_deinit(&p);
}

static const mica_picture_text recipe[] = {
    {"parameters", "a fox 🦊 in the snow — 雪の中\nSteps: 20, Seed: 7"},
    {"prompt", "plain ASCII, two\nlines"},
    {"Software", ""},
};

static void test_png_texts(void **state)
{
    (void)state;
    mica_picture p = make_picture(5, 4, 3);
    write_ok(&p, path_of("t.png"), recipe, MICA_ARRAY_LEN(recipe), 0);
    mica_picture_text *texts;
    size_t count;
    mica_err err = {0};
    if (mica_picture_read_texts(path_of("t.png"), &texts, &count, &err) != MICA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(count, MICA_ARRAY_LEN(recipe));
    for (size_t i = 0; i < MICA_ARRAY_LEN(recipe); i++) {
        size_t at = 0;
        while (at < count && strcmp(texts[at].key, recipe[i].key) != 0)
            at++;
        assert_true(at < count);
        assert_string_equal(texts[at].value, recipe[i].value);
    }
    mica_mem_free(texts);
    mica_picture back = read_ok(path_of("t.png"));
    assert_int_equal(difference(&p, &back), 0);
    mica_picture_deinit(&back);
    mica_picture_deinit(&p);
    unlink(path_of("t.png"));
}

static void test_texts_of_others(void **state)
{
    (void)state;
    mica_picture_text *texts;
    size_t count;
    mica_err err = {0};
    static const char *const none[] = {"rgb.png", "rgb.jpg", "turned3.jpg", "turned.webp"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(none); i++) {
        char path[256];
        snprintf(path, sizeof path, MICA_TEST_DATA "/pictures/%s", none[i]);
        assert_int_equal(mica_picture_read_texts(path, &texts, &count, &err), MICA_OK);
        assert_int_equal(count, 0);
        assert_null(texts);
    }
    assert_int_equal(
        mica_picture_read_texts(MICA_TEST_DATA "/pictures/README.md", &texts, &count, &err),
        MICA_E_FORMAT);
    assert_non_null(strstr(err.text, "not a PNG"));
}

static bool file_holds(const char *path, const void *bytes, size_t size)
{
    static uint8_t data[1 << 20];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    return memmem(data, n, bytes, size) != NULL;
}

/* "fox 🦊" in UTF-16BE behind the Exif character code. */
static void test_exif_comment(void **state)
{
    (void)state;
    static const uint8_t comment[] = {'U', 'N', 'I', 'C', 'O', 'D', 'E',  0,    0,    'f',
                                      0,   'o', 0,   'x', 0,   ' ', 0xd8, 0x3e, 0xdd, 0x8a};
    static const mica_picture_text texts[] = {{"other", "no"}, {"parameters", "fox 🦊"}};
    static const char *const names[] = {"e.jpg", "e.webp", "lossy.webp"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++) {
        for (int channels = 3; channels <= (i == 0 ? 3 : 4); channels++) {
            mica_picture p = make_picture(31, 8, channels);
            write_ok(&p, path_of(names[i]), texts, 2, i == 2 ? 80 : 0);
            assert_true(file_holds(path_of(names[i]), comment, sizeof comment));
            mica_picture back = read_ok(path_of(names[i]));
            if (i == 1)
                assert_int_equal(difference(&p, &back), 0);
            assert_int_equal(back.channels, channels);
            mica_picture_text *read = NULL;
            size_t count = 0;
            assert_int_equal(mica_picture_read_texts(path_of(names[i]), &read, &count, NULL),
                             MICA_OK);
            assert_int_equal(count, 1);
            assert_string_equal(read[0].key, "parameters");
            assert_string_equal(read[0].value, "fox 🦊");
            mica_mem_free(read);
            assert_string_equal(mica_picture_kind(path_of(names[i])), i ? "WebP" : "JPEG");
            mica_picture_deinit(&back);
            mica_picture_deinit(&p);
            unlink(path_of(names[i]));
        }
    }
}

static void expect_write_failure(const mica_picture *p, const char *path,
                                 const mica_picture_text *texts, size_t count, int quality,
                                 mica_status status, const char *mention)
{
    mica_err err = {0};
    assert_int_equal(mica_picture_write(p, path, texts, count, quality, &err), status);
    if (!strstr(err.text, mention))
        fail_msg("\"%s\" does not mention \"%s\"", err.text, mention);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_write_refusals(void **state)
{
    (void)state;
    static char long_key[100], long_text[70000];
    memset(long_key, 'k', sizeof long_key - 1);
    memset(long_text, 't', sizeof long_text - 1);
    const mica_picture_text bad_key = {long_key, "v"}, big = {"parameters", long_text};
    mica_picture p = make_picture(4, 4, 3), q = make_picture(4, 4, 4);
    const mica_picture none = {0};
    expect_write_failure(&p, path_of("a.gif"), NULL, 0, 0, MICA_E_USAGE, ".webp");
    expect_write_failure(&p, path_of("png"), NULL, 0, 0, MICA_E_USAGE, ".webp");
    expect_write_failure(&none, path_of("a.png"), NULL, 0, 0, MICA_E_USAGE, "0x0");
    expect_write_failure(&p, path_of("a.jpg"), NULL, 0, 101, MICA_E_USAGE, "101");
    expect_write_failure(&q, path_of("a.jpg"), NULL, 0, 0, MICA_E_UNSUPPORTED, "transparency");
    expect_write_failure(&p, path_of("a.png"), &bad_key, 1, 0, MICA_E_USAGE, "99 bytes");
    expect_write_failure(&p, path_of("a.jpg"), &big, 1, 0, MICA_E_UNSUPPORTED, ".png instead");
    expect_write_failure(&p, path_of("no/a.png"), NULL, 0, 0, MICA_E_IO, "no/a.png");
    mica_picture_deinit(&p);
    p = make_picture(16384, 1, 3);
    expect_write_failure(&p, path_of("a.webp"), NULL, 0, 0, MICA_E_UNSUPPORTED, "16383");
    mica_picture_deinit(&p);
    mica_picture_deinit(&q);
}

/* A limit on file sizes stands in for a full disk: write() fails half-way. */
static void test_full_disk(void **state)
{
    (void)state;
    static const char *const names[] = {"f.png", "f.jpg", "f.webp"};
    mica_picture p = make_picture(256, 256, 3);
    uint32_t noise = 1;
    for (int i = 0; i < 256 * 256 * 3; i++) { /* incompressible */
        noise = noise * 1664525u + 1013904223u;
        p.pixels[i] = (uint8_t)(noise >> 24);
    }
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 10000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++) {
        mica_err err = {0};
        setrlimit(RLIMIT_FSIZE, &small);
        const mica_status st = mica_picture_write(&p, path_of(names[i]), NULL, 0, 0, &err);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(st, MICA_E_IO);
        assert_non_null(strstr(err.text, names[i]));
        assert_int_not_equal(access(path_of(names[i]), F_OK), 0);
    }
    signal(SIGXFSZ, handler);
    mica_picture_deinit(&p);
}

typedef struct pieces {
    uint8_t *data;
    size_t size, limit; /* bytes that are taken; then it fails */
} pieces;

static mica_status take_piece(void *user, const void *data, size_t size, mica_err *err)
{
    pieces *p = user;
    if (p->size + size > p->limit)
        return MICA_FAIL(err, MICA_E_IO, "the pipe is broken");
    memcpy(p->data + p->size, data, size);
    p->size += size;
    return MICA_OK;
}

/* Bytes for the caller are those of the file, and a caller that stops ends the encoding with its own text. */
static void test_encode(void **state)
{
    (void)state;
    static const char *const names[] = {"e.png", "e.jpg", "e.webp"};
    const mica_picture_text text = {"parameters", "a fox"};
    mica_picture p = make_picture(64, 48, 3);
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++) {
        mica_file_map file;
        mica_err err = {0};
        write_ok(&p, path_of(names[i]), &text, 1, 0);
        assert_int_equal(mica_file_map_open(&file, path_of(names[i]), &err), MICA_OK);
        pieces all = {.data = mica_mem_calloc(1, file.size), .limit = file.size};
        assert_int_equal(mica_picture_encode(&p, names[i], &text, 1, 0, take_piece, &all, &err),
                         MICA_OK);
        assert_int_equal(all.size, file.size);
        assert_memory_equal(all.data, file.data, file.size);
        all.size = 0;
        all.limit = file.size - 1;
        assert_int_equal(mica_picture_encode(&p, names[i], &text, 1, 0, take_piece, &all, &err),
                         MICA_E_IO);
        assert_string_equal(err.text, "the pipe is broken");
        mica_mem_free(all.data);
        mica_file_map_close(&file);
        unlink(path_of(names[i]));
    }
    mica_picture_deinit(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_files),
        cmocka_unit_test(test_lossless_round_trips),
        cmocka_unit_test(test_lossy_round_trips),
        cmocka_unit_test(test_png_texts),
        cmocka_unit_test(test_texts_of_others),
        cmocka_unit_test(test_exif_comment),
        cmocka_unit_test(test_write_refusals),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_encode),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
