/* jpeg_picture.c - JPEG through libjpeg-turbo.
 *
 *     bytes ──► libjpeg ──► RGB rows ──► upright (EXIF orientation from the APP1 marker)
 *     rows  ──► libjpeg ──► 64 KiB pieces ──► sink;  APP1 "Exif" with the recipe
 *
 * libjpeg reports errors by longjmp out of error_exit; state lives in one jpeg_run on the
 * caller's frame (see png_picture.c). Warnings that mean lost pixels (a file that ends early,
 * broken entropy data) are errors here: a grey lower half is not a picture. CMYK files, which
 * Adobe programs store inverted, are multiplied down to RGB.
 *
 * libjpeg has no allocator hooks; its memory is given back by jpeg_destroy on every path. */
#include "base/mem.h"
#include "media/picture_codec.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#define DEFAULT_QUALITY 95
#define SINK_PIECE      65536
#define MAX_SCANS       64 /* real progressive files have about ten */
#define MAX_MARKER      65533

typedef struct jpeg_run {
    struct jpeg_error_mgr errors; /* first: libjpeg hands back its address */
    struct jpeg_progress_mgr progress;
    struct jpeg_destination_mgr sink;
    jmp_buf jump;
    const char *name;
    mica_err *err;
    struct jpeg_decompress_struct in;
    struct jpeg_compress_struct out;
    const uint8_t *data;
    size_t size;
    mica_picture *picture;
    const mica_picture_job *job;
    uint8_t *exif;
    size_t exif_size;
    uint8_t *row; /* one CMYK row */
    bool out_of_memory;
    char message[JMSG_LENGTH_MAX];
    uint8_t piece[SINK_PIECE];
} jpeg_run;

static void hook_exit(j_common_ptr info)
{
    jpeg_run *r = (jpeg_run *)info->err;
    r->errors.format_message(info, r->message);
    r->out_of_memory = r->errors.msg_code == JERR_OUT_OF_MEMORY;
    longjmp(r->jump, 1);
}

static void hook_message(j_common_ptr info, int level)
{
    const int code = info->err->msg_code;
    if (level < 0 &&
        (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE))
        hook_exit(info);
}

/* A small file may ask for thousands of passes over a large picture. */
static void hook_progress(j_common_ptr info)
{
    if (!info->is_decompressor)
        return;
    jpeg_run *r = (jpeg_run *)info->err;
    if (r->in.input_scan_number <= MAX_SCANS)
        return;
    snprintf(r->message, sizeof r->message, "more than %d scans", MAX_SCANS);
    longjmp(r->jump, 1);
}

static mica_status run_guarded(jpeg_run *run, mica_status (*body)(jpeg_run *r))
{
    jpeg_run *volatile r = run;
    run->in.err = run->out.err = jpeg_std_error(&run->errors);
    run->errors.error_exit = hook_exit;
    run->errors.emit_message = hook_message;
    run->progress.progress_monitor = hook_progress;
    if (setjmp(run->jump) == 0)
        return body(run);
    if (r->job && r->job->sink->status != MICA_OK)
        return r->job->sink->status; /* text is already there */
    if (r->out_of_memory)
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for JPEG data", r->name);
    return MICA_FAIL(r->err, MICA_E_FORMAT, "%s: JPEG error: %s", r->name, r->message);
}

bool mica_jpeg_probe(const uint8_t *data, size_t size)
{
    return size >= 3 && data[0] == 0xff && data[1] == 0xd8 && data[2] == 0xff;
}

/* --------------------------------------------------------------- reading -- */

/* The markers before the first scan: FF, code, length with its own two bytes, big-endian. */
const uint8_t *mica_jpeg_find_exif(const uint8_t *data, size_t size, size_t *found)
{
    enum { APP1 = 0xe1, SOS = 0xda, EOI = 0xd9, TAG = 6 };
    for (size_t at = 2; at + 4 <= size && data[at] == 0xff;) {
        const unsigned code = data[at + 1];
        if (code == 0xff) { /* fill */
            at++;
            continue;
        }
        const size_t length = (size_t)data[at + 2] << 8 | data[at + 3];
        if (code == SOS || code == EOI || length < 2 || length > size - at - 2)
            return NULL;
        const uint8_t *body = data + at + 4;
        if (code == APP1 && length - 2 > TAG && memcmp(body, "Exif\0", TAG) == 0) {
            *found = length - 2 - TAG;
            return body + TAG;
        }
        at += 2 + length;
    }
    return NULL;
}

/* Adobe files hold 255 - ink; others hold ink. */
static void cmyk_to_rgb(const uint8_t *cmyk, bool inverted, int width, uint8_t *rgb)
{
    for (int x = 0; x < width; x++, cmyk += 4, rgb += 3) {
        const int k = inverted ? cmyk[3] : 255 - cmyk[3];
        for (int i = 0; i < 3; i++) {
            const int light = inverted ? cmyk[i] : 255 - cmyk[i];
            rgb[i] = (uint8_t)((light * k + 127) / 255);
        }
    }
}

static mica_status read_rows(jpeg_run *r)
{
    mica_picture *p = r->picture;
    const bool cmyk = r->in.out_color_space == JCS_CMYK;
    if (cmyk && !(r->row = mica_mem_alloc((size_t)p->width * 4)))
        return MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for a row", r->name);
    while (r->in.output_scanline < r->in.output_height) {
        uint8_t *rgb = p->pixels + (size_t)r->in.output_scanline * (size_t)p->width * 3;
        JSAMPROW target = cmyk ? r->row : rgb;
        jpeg_read_scanlines(&r->in, &target, 1);
        if (cmyk)
            cmyk_to_rgb(r->row, r->in.saw_Adobe_marker, p->width, rgb);
    }
    return MICA_OK;
}

/* Huffman coding spends at least one bit on each block of 64 pixels: 512 pixels a byte. */
static mica_status check_plausible(const jpeg_run *r)
{
    const uint64_t pixels = (uint64_t)r->in.image_width * r->in.image_height;
    if (!r->in.arith_code && pixels / 512 > r->size)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: JPEG error: %zu bytes cannot hold the %ux%u pixels that the header "
                         "announces",
                         r->name, r->size, r->in.image_width, r->in.image_height);
    return MICA_OK;
}

static mica_status decode_body(jpeg_run *r)
{
    jpeg_create_decompress(&r->in);
    r->in.progress = &r->progress;
    jpeg_mem_src(&r->in, r->data, (unsigned long)r->size);
    jpeg_read_header(&r->in, TRUE);
    MICA_TRY(mica_picture_check_size(r->name, r->in.image_width, r->in.image_height, r->err));
    MICA_TRY(check_plausible(r));
    const bool four = r->in.jpeg_color_space == JCS_CMYK || r->in.jpeg_color_space == JCS_YCCK;
    r->in.out_color_space = four ? JCS_CMYK : JCS_RGB;
    MICA_TRY(
        mica_picture_alloc(r->picture, r->name, r->in.image_width, r->in.image_height, 3, r->err));
    jpeg_start_decompress(&r->in);
    MICA_TRY(read_rows(r));
    jpeg_finish_decompress(&r->in);
    size_t n = 0;
    const uint8_t *exif = mica_jpeg_find_exif(r->data, r->size, &n);
    return mica_picture_orient(r->picture, exif ? mica_exif_orientation(exif, n) : 1, r->err);
}

static jpeg_run *new_run(const char *name, mica_err *err)
{
    jpeg_run *r = mica_mem_calloc(1, sizeof *r);
    if (!r) {
        mica_err_set(err, MICA_E_NOMEM, "%s: no memory for JPEG data", name);
        return NULL;
    }
    r->name = name;
    r->err = err;
    return r;
}

mica_status mica_jpeg_decode(mica_picture *p, const char *name, const uint8_t *data, size_t size,
                             mica_err *err)
{
    jpeg_run *r = new_run(name, err);
    if (!r)
        return MICA_E_NOMEM;
    r->data = data;
    r->size = size;
    r->picture = p;
    const mica_status st = run_guarded(r, decode_body);
    jpeg_destroy_decompress(&r->in);
    mica_mem_free(r->row);
    mica_mem_free(r);
    return st;
}

/* --------------------------------------------------------------- writing -- */

static void sink_init(j_compress_ptr info)
{
    jpeg_run *r = (jpeg_run *)info->err;
    r->sink.next_output_byte = r->piece;
    r->sink.free_in_buffer = SINK_PIECE;
}

static void sink_send(jpeg_run *r, size_t size)
{
    if (!mica_picture_sink_write(r->job->sink, r->piece, size))
        longjmp(r->jump, 1);
}

static boolean sink_empty(j_compress_ptr info)
{
    jpeg_run *r = (jpeg_run *)info->err;
    sink_send(r, SINK_PIECE);
    sink_init(info);
    return TRUE;
}

static void sink_term(j_compress_ptr info)
{
    jpeg_run *r = (jpeg_run *)info->err;
    sink_send(r, SINK_PIECE - r->sink.free_in_buffer);
}

static void set_parameters(jpeg_run *r)
{
    const mica_picture *p = r->job->picture;
    r->sink.init_destination = sink_init;
    r->sink.empty_output_buffer = sink_empty;
    r->sink.term_destination = sink_term;
    r->out.dest = &r->sink;
    r->out.image_width = (JDIMENSION)p->width;
    r->out.image_height = (JDIMENSION)p->height;
    r->out.input_components = 3;
    r->out.in_color_space = JCS_RGB;
    jpeg_set_defaults(&r->out);
    const int quality = r->job->quality ? r->job->quality : DEFAULT_QUALITY;
    jpeg_set_quality(&r->out, quality, TRUE);
    r->out.optimize_coding = TRUE;
    if (quality >= 90) /* full colour resolution: thin coloured lines stay sharp */
        r->out.comp_info[0].h_samp_factor = r->out.comp_info[0].v_samp_factor = 1;
}

static mica_status encode_body(jpeg_run *r)
{
    const mica_picture *p = r->job->picture;
    jpeg_create_compress(&r->out);
    set_parameters(r);
    jpeg_start_compress(&r->out, TRUE);
    if (r->exif)
        jpeg_write_marker(&r->out, JPEG_APP0 + 1, r->exif, (unsigned)r->exif_size);
    while (r->out.next_scanline < r->out.image_height) {
        JSAMPROW row = p->pixels + (size_t)r->out.next_scanline * (size_t)p->width * 3;
        jpeg_write_scanlines(&r->out, &row, 1);
    }
    jpeg_finish_compress(&r->out);
    return MICA_OK;
}

/* "Exif\0\0" and the block; an APP1 marker holds at most 65,533 bytes. */
static mica_status make_exif(jpeg_run *r)
{
    const char *parameters = mica_picture_find_parameters(r->job);
    if (!parameters)
        return MICA_OK;
    uint8_t *block = NULL;
    size_t size = 0;
    MICA_TRY(mica_exif_make_comment(parameters, &block, &size, r->err));
    mica_status st = MICA_OK;
    if (size + 6 > MAX_MARKER)
        st = MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                       "%s: the recipe needs %zu bytes and a JPEG takes %d; write a .png instead",
                       r->name, size + 6, MAX_MARKER);
    else if (!(r->exif = mica_mem_alloc(size + 6)))
        st = MICA_FAIL(r->err, MICA_E_NOMEM, "%s: no memory for metadata", r->name);
    if (st == MICA_OK) {
        memcpy(r->exif, "Exif\0", 6);
        memcpy(r->exif + 6, block, size);
        r->exif_size = size + 6;
    }
    mica_mem_free(block);
    return st;
}

mica_status mica_jpeg_encode(const mica_picture_job *job, mica_err *err)
{
    if (job->picture->channels != 3)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: a JPEG cannot hold transparency; write a .png or .webp instead",
                         job->name);
    jpeg_run *r = new_run(job->name, err);
    if (!r)
        return MICA_E_NOMEM;
    r->job = job;
    mica_status st = make_exif(r);
    if (st == MICA_OK) {
        st = run_guarded(r, encode_body);
        jpeg_destroy_compress(&r->out);
    }
    mica_mem_free(r->exif);
    mica_mem_free(r);
    return st;
}
