/* picture_codec.h - what picture.c and the three codecs share; private to src/media.
 *
 *     picture.c ──► decode: bytes ──► png_picture.c | jpeg_picture.c | webp_picture.c ──► picture
 *               ──► encode: picture ──► codec ──► sink ──► a file under construction, or the caller
 *
 * A codec never opens a file. It reports its library's error texts with the name of the file. */
#ifndef MICA_MEDIA_PICTURE_CODEC_H
#define MICA_MEDIA_PICTURE_CODEC_H

#include "media/picture.h"

#define MICA_PICTURE_MAX_SIDE   65535
#define MICA_PICTURE_MAX_PIXELS (INT64_C(1) << 28)

/* Where an encoder's bytes go. Keeps the first failure; the error text is set where it happened. */
typedef struct mica_picture_sink {
    mica_picture_write_fn write;
    void *user;
    mica_err *err;
    mica_status status;
} mica_picture_sink;
/* False once anything failed. */
bool mica_picture_sink_write(mica_picture_sink *sink, const void *data, size_t size);

typedef struct mica_picture_job {
    const mica_picture *picture;
    const mica_picture_text *texts;
    size_t text_count;
    int quality; /* 1..100, or 0 for the codec's default */
    const char *name;
    mica_picture_sink *sink;
} mica_picture_job;

/* The limits of picture.h: MICA_E_FORMAT for an empty picture, MICA_E_UNSUPPORTED for a huge one. */
mica_status mica_picture_check_size(const char *name, uint64_t width, uint64_t height,
                                    mica_err *err);
/* Checks the size, then allocates pixels; p keeps only what is set here. */
mica_status mica_picture_alloc(mica_picture *p, const char *name, uint64_t width, uint64_t height,
                               int channels, mica_err *err);
/* Applies an EXIF orientation 1..8 (others: nothing to do) in place of p. */
mica_status mica_picture_orient(mica_picture *p, int orientation, mica_err *err);

bool mica_png_probe(const uint8_t *data, size_t size);
mica_status mica_png_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                            mica_err *err);
mica_status mica_png_encode(const mica_picture_job *job, mica_err *err);
mica_status mica_png_read_texts(const char *name, const uint8_t *data, size_t size,
                                mica_picture_text **texts, size_t *count, mica_err *err);

bool mica_jpeg_probe(const uint8_t *data, size_t size);
mica_status mica_jpeg_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                             mica_err *err);
/* The EXIF block of a file, at its TIFF header; NULL: none. */
const uint8_t *mica_jpeg_find_exif(const uint8_t *data, size_t size, size_t *found);
mica_status mica_jpeg_encode(const mica_picture_job *job, mica_err *err);

bool mica_webp_probe(const uint8_t *data, size_t size);
mica_status mica_webp_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                             mica_err *err);
const uint8_t *mica_webp_find_exif(const uint8_t *data, size_t size, size_t *found);
mica_status mica_webp_encode(const mica_picture_job *job, mica_err *err);

/* Orientation (1..8) of an EXIF block that begins with its TIFF header; 1 when absent or damaged. */
int mica_exif_orientation(const uint8_t *data, size_t size);
/* Its UserComment as UTF-8, freed with mica_mem_free; NULL: absent, damaged, of another character code, or no
 * memory. */
char *mica_exif_read_comment(const uint8_t *data, size_t size);
/* An EXIF block (TIFF header first) whose UserComment is `text` (UTF-8; written as UTF-16BE behind
 * the prefix "UNICODE\0", as common web UIs read it). Freed with mica_mem_free. */
mica_status mica_exif_make_comment(const char *text, uint8_t **data, size_t *size, mica_err *err);
/* The value of key "parameters" or NULL: what goes into an EXIF comment. */
const char *mica_picture_find_parameters(const mica_picture_job *job);

#endif
