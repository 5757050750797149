/* picture.h - 8-bit pictures in and out, thin over libpng, libjpeg-turbo and libwebp.
 *
 * Pixels: rows top to bottom, channels interleaved, no padding. Reading gives 3 (RGB) or
 * 4 (RGBA) channels; grey and palette are expanded, 16 bit is reduced, an embedded
 * EXIF orientation of a JPEG is applied. Files are not trusted: dimensions are limited to
 * 65,535 per side and 268 million pixels, and every library error becomes a message. */
#ifndef MICA_MEDIA_PICTURE_H
#define MICA_MEDIA_PICTURE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct mica_picture {
    int width, height, channels;
    uint8_t *pixels; /* freed by mica_picture_deinit */
} mica_picture;
void mica_picture_deinit(mica_picture *p);

typedef struct mica_picture_text {
    const char *key;   /* Latin-1 keyword, 1-79 bytes */
    const char *value; /* UTF-8 */
} mica_picture_text;

/* Kind by content, not by name. */
mica_status mica_picture_read(mica_picture *p, const char *path, mica_err *err);
mica_status mica_picture_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                                mica_err *err);
/* Takes the bytes of a picture file, piece by piece in order. A failure, with its text in err, ends the encoding. */
typedef mica_status (*mica_picture_write_fn)(void *user, const void *data, size_t size,
                                             mica_err *err);
/* Kind by the extension of `name`: .png, .jpg/.jpeg, .webp (lossless unless quality is given: 0 = default).
 * PNG: text entries become iTXt (or tEXt when plain ASCII); JPEG and WebP: the value of key
 * "parameters" goes into EXIF UserComment. */
mica_status mica_picture_encode(const mica_picture *p, const char *name,
                                const mica_picture_text *texts, size_t text_count, int quality,
                                mica_picture_write_fn write, void *user, mica_err *err);
/* The same into a file, which appears whole or not at all. */
mica_status mica_picture_write(const mica_picture *p, const char *path,
                               const mica_picture_text *texts, size_t text_count, int quality,
                               mica_err *err);
/* "PNG", "JPEG" or "WebP", by content; NULL: no such file. */
const char *mica_picture_kind(const char *path);
/* The text entries of a PNG file; of a JPEG or WebP its EXIF UserComment as "parameters". *texts: key/value
 * copies in one block freed with mica_mem_free. */
mica_status mica_picture_read_texts(const char *path, mica_picture_text **texts, size_t *count,
                                    mica_err *err);

#endif
