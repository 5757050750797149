/* test_picture_hostile.c - damaged and malicious picture files: one clear error, bounded memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

#include "base/mem.h"
#include "media/picture.h"
#include "media/picture_codec.h"

typedef struct bytes {
    uint8_t *data;
    size_t size;
} bytes;

static bytes load(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/pictures/%s", MICA_TEST_DATA, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s", path);
    bytes b = {malloc(1 << 20), 0};
    assert_non_null(b.data);
    b.size = fread(b.data, 1, 1 << 20, f);
    fclose(f);
    return b;
}

static void expect_failure(const uint8_t *data, size_t size, mica_status status,
                           const char *mention)
{
    mica_picture p;
    mica_err err = {0};
    const mica_status st = mica_picture_decode(&p, "input", data, size, &err);
    if (st != status)
        fail_msg("status %d instead of %d: \"%s\"", (int)st, (int)status, err.text);
    if (!strstr(err.text, mention) || strncmp(err.text, "input: ", 7) != 0)
        fail_msg("\"%s\" does not mention \"%s\" of \"input\"", err.text, mention);
    assert_null(p.pixels);
}

static void test_not_a_picture(void **state)
{
    (void)state;
    expect_failure((const uint8_t *)"GIF89a..........", 16, MICA_E_FORMAT, "not a PNG");
    expect_failure((const uint8_t *)"", 0, MICA_E_FORMAT, "not a PNG");
    expect_failure((const uint8_t *)"\x89PNG\r\n\x1a\n", 8, MICA_E_FORMAT, "ends too early");
    expect_failure((const uint8_t *)"\xff\xd8\xff\xe0", 4, MICA_E_FORMAT, "JPEG error");
    expect_failure((const uint8_t *)"RIFF\4\0\0\0WEBP", 12, MICA_E_FORMAT, "WebP error");
}

/* Every prefix fails. Lossless kinds say so from the first missing byte of pixels on. */
static void test_truncated(void **state)
{
    (void)state;
    static const char *const names[] = {"rgb.png",        "interlaced.png",   "palette_alpha.png",
                                        "lossless.webp",  "lossy_alpha.webp", "rgb.jpg",
                                        "progressive.jpg"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++) {
        bytes b = load(names[i]);
        const bool jpeg = strstr(names[i], ".jpg") != NULL;
        /* A JPEG that lost its end marker alone is complete, for us as for everyone. */
        for (size_t n = 12; n + (jpeg ? 32 : 1) <= b.size; n += n < 64 ? 1 : 97) {
            uint8_t *copy = malloc(n); /* exactly this long, for the sanitizer */
            memcpy(copy, b.data, n);
            mica_picture p;
            mica_err err = {0};
            const mica_status st = mica_picture_decode(&p, "input", copy, n, &err);
            if (st != MICA_E_FORMAT)
                fail_msg("%s cut to %zu of %zu bytes: status %d, \"%s\"", names[i], n, b.size,
                         (int)st, err.text);
            assert_null(p.pixels);
            free(copy);
        }
        free(b.data);
    }
}

static void test_png_crc(void **state)
{
    (void)state;
    bytes b = load("rgb.png");
    for (size_t i = 29; i < 33; i++) { /* CRC of IHDR */
        b.data[i] ^= 1;
        expect_failure(b.data, b.size, MICA_E_FORMAT, "CRC");
        b.data[i] ^= 1;
    }
    const uint8_t *idat = memmem(b.data, b.size, "IDAT", 4);
    assert_non_null(idat);
    b.data[idat - b.data + 200] ^= 0x40;
    expect_failure(b.data, b.size, MICA_E_FORMAT, "PNG error");
    free(b.data);
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static size_t put_chunk(uint8_t *p, const char *kind, const uint8_t *data, size_t size)
{
    put32(p, (uint32_t)size);
    memcpy(p + 4, kind, 4);
    if (size)
        memcpy(p + 8, data, size);
    put32(p + 8 + size, (uint32_t)crc32(0, p + 4, (uInt)size + 4));
    return size + 12;
}

/* Signature and IHDR of an 8-bit picture; 33 bytes. */
static size_t put_png_head(uint8_t *p, uint32_t width, uint32_t height, int color_type)
{
    uint8_t ihdr[13] = {0};
    put32(ihdr, width);
    put32(ihdr + 4, height);
    ihdr[8] = 8;
    ihdr[9] = (uint8_t)color_type;
    memcpy(p, "\x89PNG\r\n\x1a\n", 8);
    return 8 + put_chunk(p + 8, "IHDR", ihdr, sizeof ihdr);
}

static void test_png_huge(void **state)
{
    (void)state;
    static const struct {
        uint32_t width, height;
        mica_status status;
        const char *mention;
    } cases[] = {
        {0x7fffffff, 0x7fffffff, MICA_E_FORMAT, "PNG error"},
        {65536, 1, MICA_E_FORMAT, "PNG error"},
        {65535, 65535, MICA_E_FORMAT, "cannot hold"},
        {16384, 16384, MICA_E_FORMAT, "cannot hold"},
        {0, 5, MICA_E_FORMAT, "PNG error"},
    };
    uint8_t data[256];
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        size_t n = put_png_head(data, cases[i].width, cases[i].height, 2);
        n += put_chunk(data + n, "IDAT", (const uint8_t *)"x", 1);
        n += put_chunk(data + n, "IEND", NULL, 0);
        expect_failure(data, n, cases[i].status, cases[i].mention);
    }
}

/* 20,000 x 20,000 grey pixels of zeros compress to some 400 kB: plausible, but above the limit. */
static void test_png_bomb(void **state)
{
    (void)state;
    const size_t size = 1 << 20;
    uint8_t *data = calloc(1, size);
    assert_non_null(data);
    size_t n = put_png_head(data, 20000, 20000, 0);
    n += put_chunk(data + n, "IDAT", NULL, 0);
    const uint64_t before = mica_mem_count();
    expect_failure(data, size, MICA_E_UNSUPPORTED, "268435456");
    assert_true(mica_mem_count() - before < 100);
    free(data);
}

/* 64 MiB of text in 64 KiB of file: refused by the limit on unpacked chunks, pixels unharmed. */
static void test_png_text_bomb(void **state)
{
    (void)state;
    const uLong unpacked = 64 << 20;
    uint8_t *zeros = malloc(unpacked), *data = malloc(1 << 20);
    assert_true(zeros && data);
    memset(zeros, 'a', unpacked);
    memcpy(data + (1 << 19), "key\0\0", 5);
    uLongf packed = (1 << 19) - 5;
    assert_int_equal(compress2(data + (1 << 19) + 5, &packed, zeros, unpacked, 9), Z_OK);
    bytes rgb = load("rgb.png");
    size_t n = 33;
    memcpy(data, rgb.data, n);
    uint8_t *text = malloc(packed + 5);
    memcpy(text, data + (1 << 19), packed + 5);
    n += put_chunk(data + n, "zTXt", text, packed + 5);
    memcpy(data + n, rgb.data + 33, rgb.size - 33);
    n += rgb.size - 33;
    mica_picture p;
    mica_err err = {0};
    assert_int_equal(mica_picture_decode(&p, "input", data, n, &err), MICA_OK);
    mica_picture_deinit(&p);
    mica_picture_text *texts = NULL;
    size_t count = 0;
    assert_int_equal(mica_png_read_texts("input", data, n, &texts, &count, &err), MICA_OK);
    for (size_t i = 0; i < count; i++)
        assert_true(strlen(texts[i].value) <= 16u << 20);
    mica_mem_free(texts);
    free(text);
    free(zeros);
    free(data);
    free(rgb.data);
}

static void test_jpeg_huge(void **state)
{
    (void)state;
    bytes b = load("rgb.jpg");
    uint8_t *sof = memmem(b.data, b.size, "\xff\xc0", 2);
    assert_non_null(sof);
    memcpy(sof + 5, "\xff\xdc\xff\xdc", 4); /* 65,500 x 65,500: libjpeg's own limit, above ours */
    expect_failure(b.data, b.size, MICA_E_UNSUPPORTED, "268435456");
    memcpy(sof + 5, "\x40\0\x40\0", 4);
    expect_failure(b.data, b.size, MICA_E_FORMAT, "cannot hold");
    memcpy(sof + 5, "\0\0\0\0", 4);
    expect_failure(b.data, b.size, MICA_E_FORMAT, "JPEG error");
    free(b.data);
}

/* Thousands of empty scans over one picture: each costs a pass. */
static void test_jpeg_scan_bomb(void **state)
{
    (void)state;
    bytes b = load("progressive.jpg");
    const uint8_t *sos = memmem(b.data, b.size, "\xff\xda", 2);
    assert_non_null(sos);
    const size_t head = (size_t)(sos - b.data), scan = 10 + 8;
    const size_t count = 5000;
    uint8_t *data = malloc(head + count * scan + 2);
    assert_non_null(data);
    memcpy(data, b.data, head);
    for (size_t i = 0; i < count; i++) /* refines one coefficient of one component; no data */
        memcpy(data + head + i * scan, "\xff\xda\0\x08\1\1\0\1\1\0\0\0\0\0\0\0\0\0", scan);
    memcpy(data + head + count * scan, "\xff\xd9", 2);
    mica_picture p;
    mica_err err = {0};
    assert_int_equal(mica_picture_decode(&p, "input", data, head + count * scan + 2, &err),
                     MICA_E_FORMAT);
    assert_null(p.pixels);
    free(data);
    free(b.data);
}

static void test_webp_refusals(void **state)
{
    (void)state;
    bytes b = load("animated.webp");
    expect_failure(b.data, b.size, MICA_E_UNSUPPORTED, "animated");
    free(b.data);
    b = load("lossless.webp");
    b.data[30] ^= 0x55;
    b.data[31] ^= 0xaa;
    mica_picture p;
    mica_err err = {0};
    if (mica_picture_decode(&p, "input", b.data, b.size, &err) != MICA_OK)
        assert_true(err.text[0] != '\0');
    mica_picture_deinit(&p);
    free(b.data);
}

/* Offsets and counts that point outside the block mean "upright". */
static void test_exif_damage(void **state)
{
    (void)state;
    uint8_t good[] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0};
    assert_int_equal(mica_exif_orientation(good, sizeof good), 6);
    for (size_t n = 0; n < sizeof good; n++) {
        uint8_t *copy = malloc(n + 1);
        memcpy(copy, good, n);
        assert_int_equal(mica_exif_orientation(copy, n), 1);
        free(copy);
    }
    static const struct {
        size_t at;
        uint8_t value;
    } damage[] = {{0, 'X'}, {2, 43}, {4, 200}, {7, 255}, {9, 255}, {10, 0}, {12, 4}, {18, 9}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(damage); i++) {
        uint8_t bad[sizeof good];
        memcpy(bad, good, sizeof good);
        bad[damage[i].at] = damage[i].value;
        assert_int_equal(mica_exif_orientation(bad, sizeof bad), 1);
    }
}

/* A block that is cut anywhere has no comment; halves of surrogate pairs are U+FFFD; either order of bytes. */
static void test_comment_damage(void **state)
{
    (void)state;
    uint8_t *block;
    size_t size;
    assert_int_equal(mica_exif_make_comment("ab\xf0\x9f\xa6\x8a", &block, &size, NULL), MICA_OK);
    for (size_t n = 0; n <= size; n++) {
        uint8_t *copy = malloc(n + 1);
        memcpy(copy, block, n);
        char *text = mica_exif_read_comment(copy, n);
        assert_true((text != NULL) == (n == size));
        if (text)
            assert_string_equal(text, "ab\xf0\x9f\xa6\x8a");
        mica_mem_free(text);
        free(copy);
    }
    block[size - 2] = 0x22; /* the second half */
    char *text = mica_exif_read_comment(block, size);
    assert_non_null(strstr(text, "ab\xef\xbf\xbd"));
    mica_mem_free(text);
    static const uint8_t little[] = {'a', 0, 'b', 0, 0x3e, 0xd8, 0x8a, 0xdd};
    memcpy(block + size - sizeof little, little, sizeof little);
    text = mica_exif_read_comment(block, size);
    assert_string_equal(text, "ab\xf0\x9f\xa6\x8a");
    mica_mem_free(text);
    mica_mem_free(block);
}

static mica_status decode_failing_at(const bytes *b, uint64_t n)
{
    mica_picture p;
    mica_err err = {0};
    mica_mem_fail_at(n);
    const mica_status st = mica_picture_decode(&p, "input", b->data, b->size, &err);
    mica_mem_fail_at(0);
    assert_true(st == MICA_OK || (st == MICA_E_NOMEM && !p.pixels && err.text[0]));
    mica_picture_deinit(&p);
    return st;
}

static void test_decode_alloc_fail(void **state)
{
    (void)state;
    static const char *const names[] = {"interlaced.png", "palette_alpha.png", "turned.png",
                                        "turned6.jpg",    "cmyk.jpg",          "turned.webp"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++) {
        bytes b = load(names[i]);
        uint64_t n = 1;
        while (decode_failing_at(&b, n) != MICA_OK)
            n++;
        assert_true(n > 1);
        free(b.data);
    }
}

static void test_encode_alloc_fail(void **state)
{
    (void)state;
    static const char *const ends[] = {".png", ".jpg", ".webp"};
    static const mica_picture_text text = {"parameters", "fox 🦊"};
    uint8_t pixels[8 * 8 * 3] = {1, 2, 3};
    const mica_picture p = {8, 8, 3, pixels};
    char folder[] = "/tmp/mica_test_hostile_XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < MICA_ARRAY_LEN(ends); i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/a%s", folder, ends[i]);
        uint64_t n = 0;
        for (mica_status st = MICA_E_NOMEM; st != MICA_OK;) {
            mica_err err = {0};
            mica_mem_fail_at(++n);
            st = mica_picture_write(&p, path, &text, 1, 0, &err);
            mica_mem_fail_at(0);
            assert_true(st == MICA_OK || (st == MICA_E_NOMEM && err.text[0]));
            assert_true((access(path, F_OK) == 0) == (st == MICA_OK));
        }
        assert_true(n > 2);
        unlink(path);
    }
    assert_int_equal(rmdir(folder), 0); /* no temporary file is left */
}

static void test_texts_alloc_fail(void **state)
{
    (void)state;
    bytes b = load("rgb.png");
    uint8_t *data = malloc(b.size + 64);
    memcpy(data, b.data, 33);
    const size_t n = 33 + put_chunk(data + 33, "tEXt", (const uint8_t *)"k\0caf\xe9", 6);
    memcpy(data + n, b.data + 33, b.size - 33);
    mica_status st = MICA_E_NOMEM;
    for (uint64_t k = 1; st != MICA_OK; k++) {
        mica_picture_text *texts = NULL;
        size_t count = 0;
        mica_err err = {0};
        mica_mem_fail_at(k);
        st = mica_png_read_texts("input", data, n + b.size - 33, &texts, &count, &err);
        mica_mem_fail_at(0);
        /* libpng drops a text it has no memory for with a warning, the rest must hold */
        assert_true(st == MICA_OK || (st == MICA_E_NOMEM && !texts));
        if (st == MICA_OK && count == 1)
            assert_string_equal(texts[0].value, "caf\xc3\xa9"); /* Latin-1 becomes UTF-8 */
        if (st == MICA_OK && count == 0)
            st = MICA_E_NOMEM;
        mica_mem_free(texts);
    }
    free(data);
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_a_picture),     cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_png_crc),           cmocka_unit_test(test_png_huge),
        cmocka_unit_test(test_png_bomb),          cmocka_unit_test(test_png_text_bomb),
        cmocka_unit_test(test_jpeg_huge),         cmocka_unit_test(test_jpeg_scan_bomb),
        cmocka_unit_test(test_webp_refusals),     cmocka_unit_test(test_exif_damage),
        cmocka_unit_test(test_comment_damage),    cmocka_unit_test(test_decode_alloc_fail),
        cmocka_unit_test(test_encode_alloc_fail), cmocka_unit_test(test_texts_alloc_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
