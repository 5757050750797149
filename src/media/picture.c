/* picture.c - picks the codec, checks limits, turns pictures upright, writes files whole.
 *
 *     read:    map the file ──► kind by its first bytes ──► codec ──► orientation
 *     encode:  kind by extension ──► codec ──► the caller
 *     write:   the same ──► temporary file ──► fsync, rename
 *
 * What it does not do: colour management (profiles are ignored, as the reference pipelines
 * ignore them), animation (the first frame is read where the codec gives one). */
#include "media/picture.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/mem.h"
#include "media/picture_codec.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

typedef struct codec {
    const char *kind;
    const char *const *extensions; /* lower case, NULL at the end */
    bool (*probe)(const uint8_t *data, size_t size);
    mica_status (*decode)(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                          mica_err *err);
    mica_status (*encode)(const mica_picture_job *job, mica_err *err);
    const uint8_t *(*find_exif)(const uint8_t *data, size_t size, size_t *found); /* NULL: PNG */
} codec;

static const char *const png_names[] = {".png", NULL};
static const char *const jpeg_names[] = {".jpg", ".jpeg", NULL};
static const char *const webp_names[] = {".webp", NULL};
static const codec codecs[] = {
    {"PNG", png_names, mica_png_probe, mica_png_decode, mica_png_encode, NULL},
    {"JPEG", jpeg_names, mica_jpeg_probe, mica_jpeg_decode, mica_jpeg_encode, mica_jpeg_find_exif},
    {"WebP", webp_names, mica_webp_probe, mica_webp_decode, mica_webp_encode, mica_webp_find_exif},
};

void mica_picture_deinit(mica_picture *p)
{
    mica_mem_free(p->pixels);
    *p = (mica_picture){0};
}

mica_status mica_picture_check_size(const char *name, uint64_t width, uint64_t height,
                                    mica_err *err)
{
    if (width == 0 || height == 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: picture of %" PRIu64 "x%" PRIu64 " pixels", name,
                         width, height);
    if (width > MICA_PICTURE_MAX_SIDE || height > MICA_PICTURE_MAX_SIDE ||
        width * height > (uint64_t)MICA_PICTURE_MAX_PIXELS)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: %" PRIu64 "x%" PRIu64 " pixels; at most %d per side and %" PRId64
                         " in all are read",
                         name, width, height, MICA_PICTURE_MAX_SIDE, MICA_PICTURE_MAX_PIXELS);
    return MICA_OK;
}

mica_status mica_picture_alloc(mica_picture *p, const char *name, uint64_t width, uint64_t height,
                               int channels, mica_err *err)
{
    MICA_TRY(mica_picture_check_size(name, width, height, err));
    const size_t size = (size_t)width * (size_t)height * (size_t)channels; /* <= 2^30 */
    uint8_t *pixels = mica_mem_alloc(size);
    if (!pixels)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for %zu bytes of pixels", name, size);
    *p = (mica_picture){(int)width, (int)height, channels, pixels};
    return MICA_OK;
}

/* Target position of (x, y) for each EXIF orientation: bit 0 of the flags mirrors x, bit 1
 * mirrors y, bit 2 exchanges the axes first (TIFF 6.0, tag 274; CIPA DC-008). */
static const uint8_t orientation_flags[9] = {0, 0, 1, 3, 2, 4, 5, 7, 6};

mica_status mica_picture_orient(mica_picture *p, int orientation, mica_err *err)
{
    if (orientation < 2 || orientation > 8)
        return MICA_OK;
    const int flags = orientation_flags[orientation], n = p->channels;
    const bool exchange = (flags & 4) != 0;
    const int width = exchange ? p->height : p->width, height = exchange ? p->width : p->height;
    uint8_t *out = mica_mem_alloc((size_t)width * (size_t)height * (size_t)n);
    if (!out)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to turn a picture of %dx%d pixels", p->width,
                         p->height);
    const uint8_t *src = p->pixels;
    for (int y = 0; y < p->height; y++) {
        for (int x = 0; x < p->width; x++, src += n) {
            const int u = exchange ? y : x, v = exchange ? x : y;
            const int tx = (flags & 1) ? width - 1 - u : u, ty = (flags & 2) ? height - 1 - v : v;
            memcpy(out + ((size_t)ty * (size_t)width + (size_t)tx) * (size_t)n, src, (size_t)n);
        }
    }
    mica_mem_free(p->pixels);
    *p = (mica_picture){width, height, n, out};
    return MICA_OK;
}

static const codec *find_kind(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(codecs); i++)
        if (codecs[i].probe(data, size))
            return &codecs[i];
    return NULL;
}

mica_status mica_picture_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                                mica_err *err)
{
    *p = (mica_picture){0};
    const codec *c = find_kind(data, size);
    if (!c)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: not a PNG, JPEG or WebP picture", name);
    const mica_status st = c->decode(p, name, data, size, err);
    if (st != MICA_OK)
        mica_picture_deinit(p);
    return st;
}

mica_status mica_picture_read(mica_picture *p, const char *path, mica_err *err)
{
    *p = (mica_picture){0};
    mica_file_map map;
    MICA_TRY(mica_file_map_open(&map, path, err));
    const mica_status st = mica_picture_decode(p, path, map.data, map.size, err);
    mica_file_map_close(&map);
    return st;
}

/* The EXIF comment as if it were PNG's text "parameters". */
static mica_status read_comment(const codec *c, const uint8_t *data, size_t size,
                                mica_picture_text **texts, size_t *count, mica_err *err)
{
    static const char key[] = "parameters";
    size_t n = 0;
    const uint8_t *exif = c->find_exif(data, size, &n);
    char *comment = exif ? mica_exif_read_comment(exif, n) : NULL;
    if (!comment)
        return MICA_OK;
    const size_t length = strlen(comment) + 1;
    mica_picture_text *entry = mica_mem_alloc(sizeof *entry + sizeof key + length);
    if (entry) {
        char *at = (char *)(entry + 1);
        *entry = (mica_picture_text){.key = at, .value = at + sizeof key};
        memcpy(at, key, sizeof key);
        memcpy(at + sizeof key, comment, length);
        *texts = entry;
        *count = 1;
    }
    mica_mem_free(comment);
    return entry ? MICA_OK
                 : MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu bytes of text", length);
}

mica_status mica_picture_read_texts(const char *path, mica_picture_text **texts, size_t *count,
                                    mica_err *err)
{
    *texts = NULL;
    *count = 0;
    mica_file_map map;
    MICA_TRY(mica_file_map_open(&map, path, err));
    mica_status st;
    const codec *c = find_kind(map.data, map.size);
    if (!c)
        st = MICA_FAIL(err, MICA_E_FORMAT, "%s: not a PNG, JPEG or WebP file", path);
    else if (c->find_exif)
        st = read_comment(c, map.data, map.size, texts, count, err);
    else
        st = mica_png_read_texts(path, map.data, map.size, texts, count, err);
    mica_file_map_close(&map);
    return st;
}

const char *mica_picture_kind(const char *path)
{
    mica_file_map map;
    if (!mica_path_is_file(path) || mica_file_map_open(&map, path, NULL))
        return NULL;
    const codec *c = find_kind(map.data, map.size);
    mica_file_map_close(&map);
    return c ? c->kind : NULL;
}

static const codec *find_codec(const char *path)
{
    const size_t length = strlen(path);
    for (size_t i = 0; i < MICA_ARRAY_LEN(codecs); i++) {
        for (const char *const *e = codecs[i].extensions; *e; e++) {
            const size_t n = strlen(*e);
            if (length > n && strcasecmp(path + length - n, *e) == 0)
                return &codecs[i];
        }
    }
    return NULL;
}

const char *mica_picture_find_parameters(const mica_picture_job *job)
{
    for (size_t i = 0; i < job->text_count; i++)
        if (strcmp(job->texts[i].key, "parameters") == 0)
            return job->texts[i].value;
    return NULL;
}

bool mica_picture_sink_write(mica_picture_sink *sink, const void *data, size_t size)
{
    if (sink->status == MICA_OK)
        sink->status = sink->write(sink->user, data, size, sink->err);
    return sink->status == MICA_OK;
}

static mica_status check_picture(const mica_picture *p, const char *path, int quality,
                                 mica_err *err)
{
    if (!p->pixels || p->width < 1 || p->height < 1 || (p->channels != 3 && p->channels != 4))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: cannot write a picture of %dx%d pixels with %d channels", path,
                         p->width, p->height, p->channels);
    if (quality < 0 || quality > 100)
        return MICA_FAIL(err, MICA_E_USAGE, "%s: quality is %d; use 1 to 100", path, quality);
    return MICA_OK;
}

mica_status mica_picture_encode(const mica_picture *p, const char *name,
                                const mica_picture_text *texts, size_t text_count, int quality,
                                mica_picture_write_fn write, void *user, mica_err *err)
{
    const codec *c = find_codec(name);
    if (!c)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: the name must end in .png, .jpg, .jpeg or .webp to write a picture",
                         name);
    MICA_TRY(check_picture(p, name, quality, err));
    mica_picture_sink sink = {write, user, err, MICA_OK};
    const mica_picture_job job = {p, texts, text_count, quality, name, &sink};
    return c->encode(&job, err);
}

/* The file is begun with its first bytes, so that what cannot be encoded leaves nothing. */
typedef struct file_writer {
    mica_file_out file;
    const char *path;
    bool begun;
} file_writer;

static mica_status write_file(void *user, const void *data, size_t size, mica_err *err)
{
    file_writer *w = user;
    if (!w->begun)
        MICA_TRY(mica_file_out_open(&w->file, w->path, err));
    w->begun = true;
    return mica_file_out_write(&w->file, data, size, err);
}

mica_status mica_picture_write(const mica_picture *p, const char *path,
                               const mica_picture_text *texts, size_t text_count, int quality,
                               mica_err *err)
{
    file_writer w = {.path = path};
    const mica_status st =
        mica_picture_encode(p, path, texts, text_count, quality, write_file, &w, err);
    if (!st)
        return mica_file_out_commit(&w.file, err);
    if (w.begun)
        mica_file_out_abort(&w.file);
    return st;
}
