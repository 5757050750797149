/* png_picture.c - PNG through libpng, with its text chunks.
 *
 *     bytes ──► libpng ──► rows: RGB or RGBA, 8 bits
 *                 expand palettes and grey, scale 16 bits to 8, tRNS becomes alpha
 *
 * libpng reports errors by longjmp. Everything that must survive a jump lives in one png_run on
 * the caller's frame, never in locals of the function that called setjmp, so no value can be
 * clobbered; what libpng allocates goes through base/mem.h.
 *
 * Bombs: sides and pixels are limited before the pixels are allocated, a picture that its file's
 * bytes could not encode is refused (deflate expands at most 1032-fold), and ancillary
 * chunks may not unpack to more than MAX_CHUNK_BYTES.
 *
 * What it does not do: APNG frames, gamma and colour profiles. */
#include "base/mem.h"
#include "base/utf8.h"
#include "media/picture_codec.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#define MAX_CHUNK_BYTES (16u << 20)
#define MAX_ALLOCATION  (2 * (png_alloc_size_t)MAX_CHUNK_BYTES)
#define MAX_CHUNKS      1000
#define MAX_KEYWORD     79

typedef struct png_run {
    const char *name;
    mica_err *err;
    png_structp png;
    png_infop info;
    const uint8_t *data; /* reading */
    size_t size, at;
    png_bytep *rows; /* reading pixels */
    uint8_t *row;    /* reading texts */
    mica_picture *picture;
    const mica_picture_job *job; /* writing */
    png_text *chunks;
    mica_picture_text **texts; /* reading texts */
    size_t *text_count;
    bool out_of_memory;
    char message[160];
} png_run;

/* libpng asks for as much as a chunk claims to have before it looks whether it is there (MAX_CHUNK_BYTES only makes
 * it warn). A row has half a megabyte, so nothing honest is larger than a chunk. */
static void *hook_alloc(png_structp png, png_alloc_size_t size)
{
    if (size > MAX_ALLOCATION)
        return NULL;
    void *p = mica_mem_alloc(size);
    if (!p)
        ((png_run *)png_get_mem_ptr(png))->out_of_memory = true;
    return p;
}

static void hook_free(png_structp png, void *p)
{
    (void)png;
    mica_mem_free(p);
}

static void hook_error(png_structp png, const char *text)
{
    png_run *r = png_get_error_ptr(png);
    snprintf(r->message, sizeof r->message, "%s", text);
    png_longjmp(png, 1);
}

/* Warnings are about ancillary chunks; none changes the pixels. */
static void hook_warning(png_structp png, const char *text)
{
    (void)png;
    (void)text;
}

static void hook_read(png_structp png, png_bytep out, size_t count)
{
    png_run *r = png_get_io_ptr(png);
    if (count > r->size - r->at)
        png_error(png, "the file ends too early");
    memcpy(out, r->data + r->at, count);
    r->at += count;
}

static void hook_write(png_structp png, png_bytep data, size_t count)
{
    png_run *r = png_get_io_ptr(png);
    if (!mica_picture_sink_write(r->job->sink, data, count))
        png_error(png, "write failed");
}

static void hook_flush(png_structp png)
{
    (void)png;
}

bool mica_png_probe(const uint8_t *data, size_t size)
{
    return size >= 8 && png_sig_cmp(data, 0, 8) == 0;
}

/* Calls body with libpng's errors caught. The volatile copy is the only local used after a jump. */
static mica_status run_guarded(png_run *run, mica_status (*body)(png_run *r))
{
    png_run *volatile r = run;
    if (setjmp(png_jmpbuf(run->png)) == 0)
        return body(run);
    if (r->job && r->job->sink->status != MICA_OK)
        return r->job->sink->status; /* text is already there */
    if (r->out_of_memory)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for PNG data", r->name);
    return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: PNG error: %s", r->name, r->message);
}

static mica_status start(png_run *r, bool writing)
{
    r->png = writing ? png_create_write_struct_2(PNG_LIBPNG_VER_STRING, r, hook_error, hook_warning,
                                                 r, hook_alloc, hook_free)
                     : png_create_read_struct_2(PNG_LIBPNG_VER_STRING, r, hook_error, hook_warning,
                                                r, hook_alloc, hook_free);
    if (r->png)
        r->info = png_create_info_struct(r->png);
    if (!r->info)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for PNG data", r->name);
    return MICA_OK;
}

static void finish_reading(png_run *r)
{
    png_destroy_read_struct(&r->png, &r->info, NULL);
    mica_mem_free(r->rows);
    mica_mem_free(r->row);
}

/* ---------------------------------------------------------------- pixels -- */

static void open_stream(png_run *r)
{
    png_set_read_fn(r->png, r, hook_read);
    png_set_user_limits(r->png, MICA_PICTURE_MAX_SIDE, MICA_PICTURE_MAX_SIDE);
    png_set_chunk_malloc_max(r->png, MAX_CHUNK_BYTES);
    png_set_chunk_cache_max(r->png, MAX_CHUNKS);
    png_set_benign_errors(r->png, 1);
    png_read_info(r->png, r->info);
}

static void set_transforms(png_run *r)
{
    png_set_expand(r->png);
    png_set_scale_16(r->png);
    png_set_gray_to_rgb(r->png);
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
}

static mica_status check_plausible(const png_run *r, uint64_t raw_row_bytes, uint64_t height)
{
    const uint64_t most = 1032;
    if (raw_row_bytes * height / most > r->size)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: PNG error: %zu bytes cannot hold the %llu rows of %llu bytes that "
                         "the header announces",
                         r->name, r->size, (unsigned long long)height,
                         (unsigned long long)raw_row_bytes);
    return MICA_OK;
}

static int read_orientation(png_run *r)
{
    png_bytep exif = NULL;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(r->png, r->info, &size, &exif) == 0)
        return 1;
    return mica_exif_orientation(exif, size);
}

static mica_status decode_body(png_run *r)
{
    open_stream(r);
    const uint32_t width = png_get_image_width(r->png, r->info);
    const uint32_t height = png_get_image_height(r->png, r->info);
    MICA_TRY(check_plausible(r, png_get_rowbytes(r->png, r->info), height));
    set_transforms(r);
    const int channels = png_get_channels(r->png, r->info);
    if (channels < 3 || png_get_rowbytes(r->png, r->info) != (size_t)width * (size_t)channels)
        return MICA_FAIL(r->err, MICA_E_INTERNAL, "%s: PNG rows of %d channels", r->name, channels);
    MICA_TRY(mica_picture_alloc(r->picture, r->name, width, height, channels, r->err));
    r->rows = mica_mem_calloc(height, sizeof *r->rows);
    if (!r->rows)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for %u row pointers", r->name,
                         height);
    for (uint32_t y = 0; y < height; y++)
        r->rows[y] = r->picture->pixels + (size_t)y * width * (size_t)channels;
    png_read_image(r->png, r->rows);
    png_read_end(r->png, r->info);
    return mica_picture_orient(r->picture, read_orientation(r), r->err);
}

mica_status mica_png_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                            mica_err *err)
{
    png_run r = {.name = name, .err = err, .data = data, .size = size, .picture = p};
    mica_status st = start(&r, false);
    if (st == MICA_OK)
        st = run_guarded(&r, decode_body);
    finish_reading(&r);
    return st;
}

/* ----------------------------------------------------------------- texts -- */

static bool is_utf8_chunk(const png_text *t)
{
    return t->compression == PNG_ITXT_COMPRESSION_NONE ||
           t->compression == PNG_ITXT_COMPRESSION_zTXt;
}

/* UTF-8 of a chunk's value at out, NUL included; returns the bytes used. tEXt and zTXt hold Latin-1,
 * whose bytes are code points; damaged UTF-8 in iTXt becomes U+FFFD. At most 3 bytes per byte. */
static size_t put_value(const png_text *t, char *out)
{
    const size_t n = is_utf8_chunk(t) ? t->itxt_length : t->text_length;
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = (unsigned char)t->text[i];
        i += is_utf8_chunk(t) ? mica_utf8_decode(t->text + i, n - i, &cp) : 1;
        used += mica_utf8_encode(cp, out + used);
    }
    out[used] = '\0';
    return used + 1;
}

/* One block: the entries, then all strings. */
static mica_status copy_texts(png_run *r)
{
    png_text *chunks = NULL;
    const int count = png_get_text(r->png, r->info, &chunks, NULL);
    if (count <= 0)
        return MICA_OK;
    size_t cap = (size_t)count * sizeof(mica_picture_text);
    for (int i = 0; i < count; i++)
        cap += strlen(chunks[i].key) + 2 + 3 * (chunks[i].text_length + chunks[i].itxt_length);
    mica_picture_text *texts = mica_mem_alloc(cap);
    if (!texts)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for %zu bytes of text", r->name, cap);
    char *at = (char *)(texts + count);
    for (int i = 0; i < count; i++) {
        const size_t key_size = strlen(chunks[i].key) + 1;
        memcpy(at, chunks[i].key, key_size);
        texts[i].key = at;
        at += key_size;
        texts[i].value = at;
        at += put_value(&chunks[i], at);
    }
    *r->texts = texts;
    *r->text_count = (size_t)count;
    return MICA_OK;
}

/* Text may stand behind the pixels, and libpng reaches it only through them. */
static mica_status skip_pixels(png_run *r)
{
    const uint32_t width = png_get_image_width(r->png, r->info);
    const uint32_t height = png_get_image_height(r->png, r->info);
    const size_t row_bytes = png_get_rowbytes(r->png, r->info);
    MICA_TRY(mica_picture_check_size(r->name, width, height, r->err));
    MICA_TRY(check_plausible(r, row_bytes, height));
    r->row = mica_mem_alloc(row_bytes);
    if (!r->row)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for a row", r->name);
    const int passes = png_set_interlace_handling(r->png);
    png_start_read_image(r->png);
    for (int pass = 0; pass < passes; pass++)
        for (uint32_t y = 0; y < height; y++)
            png_read_row(r->png, r->row, NULL);
    png_read_end(r->png, r->info);
    return MICA_OK;
}

static mica_status texts_body(png_run *r)
{
    open_stream(r);
    MICA_TRY(skip_pixels(r));
    return copy_texts(r);
}

mica_status mica_png_read_texts(const char *name, const uint8_t *data, size_t size,
                                mica_picture_text **texts, size_t *count, mica_err *err)
{
    png_run r = {.name = name, .err = err, .data = data, .size = size};
    r.texts = texts;
    r.text_count = count;
    mica_status st = start(&r, false);
    if (st == MICA_OK)
        st = run_guarded(&r, texts_body);
    finish_reading(&r);
    return st;
}

/* --------------------------------------------------------------- writing -- */

static bool is_plain_ascii(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s >= 0x7f || ((unsigned char)*s < 0x20 && *s != '\n'))
            return false;
    return true;
}

static mica_status set_texts(png_run *r)
{
    const size_t count = r->job->text_count;
    if (count == 0)
        return MICA_OK;
    r->chunks = count < MAX_CHUNKS ? mica_mem_calloc(count, sizeof *r->chunks) : NULL;
    if (!r->chunks)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for %zu text entries", r->name,
                         count);
    for (size_t i = 0; i < count; i++) {
        const mica_picture_text *t = &r->job->texts[i];
        const size_t length = strlen(t->key);
        if (length < 1 || length > MAX_KEYWORD)
            return MICA_FAIL(r->err, MICA_E_USAGE,
                             "%s: text keyword of %zu bytes; PNG takes 1 to %d", r->name, length,
                             MAX_KEYWORD);
        const bool plain = is_plain_ascii(t->value);
        /* libpng's struct is not const-correct; it only copies the strings. */
        memcpy(&r->chunks[i].key, &t->key, sizeof(char *));
        memcpy(&r->chunks[i].text, &t->value, sizeof(char *));
        r->chunks[i].compression = plain ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
        *(plain ? &r->chunks[i].text_length : &r->chunks[i].itxt_length) = strlen(t->value);
    }
    png_set_text(r->png, r->info, r->chunks, (int)count);
    return MICA_OK;
}

static mica_status encode_body(png_run *r)
{
    const mica_picture *p = r->job->picture;
    png_set_write_fn(r->png, r, hook_write, hook_flush);
    png_set_IHDR(r->png, r->info, (png_uint_32)p->width, (png_uint_32)p->height, 8,
                 p->channels == 4 ? PNG_COLOR_TYPE_RGBA : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    MICA_TRY(set_texts(r));
    png_write_info(r->png, r->info);
    for (int y = 0; y < p->height; y++)
        png_write_row(r->png, p->pixels + (size_t)y * (size_t)p->width * (size_t)p->channels);
    png_write_end(r->png, r->info);
    return MICA_OK;
}

mica_status mica_png_encode(const mica_picture_job *job, mica_err *err)
{
    png_run r = {.name = job->name, .err = err, .job = job};
    mica_status st = start(&r, true);
    if (st == MICA_OK)
        st = run_guarded(&r, encode_body);
    png_destroy_write_struct(&r.png, &r.info);
    mica_mem_free(r.chunks);
    return st;
}
