/* webp_picture.c - WebP through libwebp, still pictures only.
 *
 *     RIFF size "WEBP"                        a file as libwebp writes it:  VP8L | VP8 | VP8X ALPH VP8
 *       VP8X  flags, canvas                   with a recipe: VP8X first, EXIF last (container
 *       ALPH  VP8 | VP8L                      specification, RFC 9649 section 2.7)
 *       EXIF
 *
 * The container is put together here instead of through libwebpmux: it is four chunks, and
 * one library less. Chunks are padded to even sizes, numbers are little-endian.
 * Animated files are refused: libwebp alone cannot decode them. */
#include "base/mem.h"
#include "media/picture_codec.h"

#include <string.h>
#include <webp/decode.h>
#include <webp/encode.h>

#define RIFF_HEADER  12u
#define CHUNK_HEADER 8u
#define VP8X_SIZE    10u
#define FLAG_EXIF    0x08u
#define FLAG_ALPHA   0x10u

static uint32_t get32le(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put32le(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

bool mica_webp_probe(const uint8_t *data, size_t size)
{
    return size >= RIFF_HEADER && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0;
}

/* Payload of the first chunk with this name, or NULL. */
static const uint8_t *find_chunk(const uint8_t *data, size_t size, const char *name, size_t *found)
{
    size_t at = RIFF_HEADER;
    while (at <= size && size - at >= CHUNK_HEADER) {
        const size_t n = get32le(data + at + 4), rest = size - at - CHUNK_HEADER;
        if (n > rest)
            return NULL;
        if (memcmp(data + at, name, 4) == 0) {
            *found = n;
            return data + at + CHUNK_HEADER;
        }
        at += CHUNK_HEADER + n + (n & 1);
    }
    return NULL;
}

const uint8_t *mica_webp_find_exif(const uint8_t *data, size_t size, size_t *found)
{
    const uint8_t *exif = find_chunk(data, size, "EXIF", found);
    if (exif && *found > 6 &&
        memcmp(exif, "Exif\0", 6) == 0) { /* some writers keep JPEG's prefix */
        exif += 6;
        *found -= 6;
    }
    return exif;
}

static int read_orientation(const uint8_t *data, size_t size)
{
    size_t n = 0;
    const uint8_t *exif = mica_webp_find_exif(data, size, &n);
    return exif ? mica_exif_orientation(exif, n) : 1;
}

static mica_status decode_failure(VP8StatusCode code, const char *name, mica_err *err)
{
    switch (code) {
    case VP8_STATUS_OUT_OF_MEMORY:
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for WebP data", name);
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: WebP error: the file ends too early", name);
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: WebP error: unsupported feature", name);
    default:
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: WebP error: damaged data (code %d)", name,
                         (int)code);
    }
}

mica_status mica_webp_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                             mica_err *err)
{
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return MICA_FAIL(err, MICA_E_INTERNAL, "%s: libwebp has another version than its headers",
                         name);
    VP8StatusCode code = WebPGetFeatures(data, size, &config.input);
    if (code != VP8_STATUS_OK)
        return decode_failure(code, name, err);
    if (config.input.has_animation)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: animated WebP is not supported", name);
    const int channels = config.input.has_alpha ? 4 : 3;
    MICA_TRY(mica_picture_alloc(p, name, (uint64_t)config.input.width,
                                (uint64_t)config.input.height, channels, err));
    config.output.colorspace = channels == 4 ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = p->pixels;
    config.output.u.RGBA.stride = p->width * channels;
    config.output.u.RGBA.size = (size_t)p->width * (size_t)p->height * (size_t)channels;
    code = WebPDecode(data, size, &config);
    WebPFreeDecBuffer(&config.output);
    if (code != VP8_STATUS_OK)
        return decode_failure(code, name, err);
    return mica_picture_orient(p, read_orientation(data, size), err);
}

/* --------------------------------------------------------------- writing -- */

typedef struct buffer {
    uint8_t *data;
    size_t size, cap;
} buffer;

static int append(const uint8_t *data, size_t size, const WebPPicture *picture)
{
    buffer *b = picture->custom_ptr;
    if (size > b->cap - b->size) {
        const size_t cap = (b->cap + size) * 2;
        uint8_t *grown = mica_mem_realloc(b->data, cap);
        if (!grown)
            return 0;
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
    return 1;
}

static mica_status encode_failure(WebPEncodingError code, const char *name, mica_err *err)
{
    if (code == VP8_ENC_ERROR_OUT_OF_MEMORY || code == VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY ||
        code == VP8_ENC_ERROR_BAD_WRITE)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for WebP data", name);
    return MICA_FAIL(err, MICA_E_INTERNAL, "%s: WebP encoder error %d", name, (int)code);
}

static mica_status encode_pixels(const mica_picture_job *job, buffer *out, mica_err *err)
{
    const mica_picture *p = job->picture;
    WebPConfig config;
    WebPPicture picture;
    if (!WebPConfigInit(&config) || !WebPPictureInit(&picture))
        return MICA_FAIL(err, MICA_E_INTERNAL, "%s: libwebp has another version than its headers",
                         job->name);
    config.lossless = job->quality == 0;
    config.exact = 1; /* keep colours under full transparency */
    if (job->quality)
        config.quality = (float)job->quality;
    picture.use_argb = 1;
    picture.width = p->width;
    picture.height = p->height;
    picture.writer = append;
    picture.custom_ptr = out;
    const int stride = p->width * p->channels;
    const int ok = (p->channels == 4 ? WebPPictureImportRGBA(&picture, p->pixels, stride)
                                     : WebPPictureImportRGB(&picture, p->pixels, stride)) &&
                   WebPEncode(&config, &picture);
    const WebPEncodingError code = picture.error_code;
    WebPPictureFree(&picture);
    return ok ? MICA_OK : encode_failure(code, job->name, err);
}

static void send_chunk(mica_picture_sink *sink, const char *name, const uint8_t *data, size_t size)
{
    uint8_t header[CHUNK_HEADER];
    memcpy(header, name, 4);
    put32le(header + 4, (uint32_t)size);
    mica_picture_sink_write(sink, header, sizeof header);
    mica_picture_sink_write(sink, data, size);
    if (size & 1)
        mica_picture_sink_write(sink, (const uint8_t[]){0}, 1);
}

/* `file` is what libwebp wrote; its VP8X chunk, if any, is replaced. */
static mica_status send_with_exif(const mica_picture_job *job, const buffer *file,
                                  const uint8_t *exif, size_t exif_size, mica_err *err)
{
    const size_t has_vp8x = memcmp(file->data + RIFF_HEADER, "VP8X", 4) == 0;
    const size_t skip = RIFF_HEADER + has_vp8x * (CHUNK_HEADER + VP8X_SIZE);
    const size_t total = 4 + CHUNK_HEADER + VP8X_SIZE + (file->size - skip) + CHUNK_HEADER +
                         exif_size + (exif_size & 1);
    if (total > UINT32_MAX - 1)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a WebP file holds at most 4 GiB", job->name);
    const uint32_t w = (uint32_t)job->picture->width - 1, h = (uint32_t)job->picture->height - 1;
    const uint8_t vp8x[VP8X_SIZE] = {
        (uint8_t)(FLAG_EXIF | (job->picture->channels == 4 ? FLAG_ALPHA : 0)),
        0,
        0,
        0,
        (uint8_t)w,
        (uint8_t)(w >> 8),
        (uint8_t)(w >> 16),
        (uint8_t)h,
        (uint8_t)(h >> 8),
        (uint8_t)(h >> 16)};
    uint8_t riff[RIFF_HEADER];
    memcpy(riff, "RIFF", 4);
    put32le(riff + 4, (uint32_t)total);
    memcpy(riff + 8, "WEBP", 4);
    mica_picture_sink_write(job->sink, riff, sizeof riff);
    send_chunk(job->sink, "VP8X", vp8x, sizeof vp8x);
    mica_picture_sink_write(job->sink, file->data + skip, file->size - skip);
    send_chunk(job->sink, "EXIF", exif, exif_size);
    return job->sink->status;
}

mica_status mica_webp_encode(const mica_picture_job *job, mica_err *err)
{
    const mica_picture *p = job->picture;
    if (p->width > WEBP_MAX_DIMENSION || p->height > WEBP_MAX_DIMENSION)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: %dx%d pixels; WebP takes at most %d per side, write a .png instead",
                         job->name, p->width, p->height, WEBP_MAX_DIMENSION);
    const char *parameters = mica_picture_find_parameters(job);
    buffer file = {0};
    uint8_t *exif = NULL;
    size_t exif_size = 0;
    mica_status st = encode_pixels(job, &file, err);
    if (st == MICA_OK && parameters)
        st = mica_exif_make_comment(parameters, &exif, &exif_size, err);
    if (st == MICA_OK && exif)
        st = send_with_exif(job, &file, exif, exif_size, err);
    else if (st == MICA_OK && !mica_picture_sink_write(job->sink, file.data, file.size))
        st = job->sink->status;
    mica_mem_free(exif);
    mica_mem_free(file.data);
    return st;
}
