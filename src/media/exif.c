/* exif.c - the two fields of EXIF that pictures here need: orientation in, a comment out.
 *
 *   TIFF header   "II" | "MM", 42, offset of IFD0
 *   IFD           count, then 12-byte entries: tag, type, count, value or offset
 *   IFD0          0x0112 orientation (SHORT), 0x8769 offset of the Exif IFD
 *   Exif IFD      0x9286 UserComment (UNDEFINED): 8 bytes of character code, then text
 *
 * CIPA DC-008 (Exif 2.3) sections 4.5 and 4.6. Reading trusts nothing: anything out of place means
 * "no orientation". */
#include "base/mem.h"
#include "base/utf8.h"
#include "media/picture_codec.h"

#include <string.h>

#define TAG_ORIENTATION  0x0112u
#define TAG_EXIF_IFD     0x8769u
#define TAG_USER_COMMENT 0x9286u
#define TYPE_SHORT       3u
#define TYPE_LONG        4u
#define TYPE_UNDEFINED   7u
#define ENTRY_SIZE       12u

static unsigned get16(const uint8_t *p, bool big)
{
    return big ? (unsigned)p[0] << 8 | p[1] : (unsigned)p[1] << 8 | p[0];
}

static uint32_t get32(const uint8_t *p, bool big)
{
    const uint32_t a = get16(p, big), b = get16(p + 2, big);
    return big ? a << 16 | b : b << 16 | a;
}

int mica_exif_orientation(const uint8_t *data, size_t size)
{
    if (size < 8 || (memcmp(data, "II", 2) != 0 && memcmp(data, "MM", 2) != 0))
        return 1;
    const bool big = data[0] == 'M';
    const size_t ifd = get32(data + 4, big);
    if (get16(data + 2, big) != 42 || ifd > size - 2)
        return 1;
    const size_t count = get16(data + ifd, big);
    if (count * ENTRY_SIZE > size - ifd - 2)
        return 1;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *entry = data + ifd + 2 + i * ENTRY_SIZE;
        if (get16(entry, big) != TAG_ORIENTATION || get16(entry + 2, big) != TYPE_SHORT)
            continue;
        const unsigned value = get16(entry + 8, big);
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

static uint8_t *put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
    return p + 2;
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
    return put16(put16(p, v >> 16), v & 0xffffu);
}

/* An IFD of one entry. */
static uint8_t *put_ifd(uint8_t *p, unsigned tag, unsigned type, uint32_t count, uint32_t value)
{
    p = put16(p, 1);
    p = put32(put32(put16(put16(p, tag), type), count), value);
    return put32(p, 0); /* no further IFD */
}

/* UTF-16BE; a character takes at most twice its bytes in UTF-8. */
static uint8_t *put_utf16(uint8_t *p, const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        uint32_t cp;
        i += mica_utf8_decode(text + i, length - i, &cp);
        if (cp < 0x10000u) {
            p = put16(p, cp);
        } else {
            p = put16(p, 0xd800u + ((cp - 0x10000u) >> 10));
            p = put16(p, 0xdc00u + ((cp - 0x10000u) & 0x3ffu));
        }
    }
    return p;
}

mica_status mica_exif_make_comment(const char *text, uint8_t **data, size_t *size, mica_err *err)
{
    enum { IFD0 = 8, EXIF_IFD = IFD0 + 18, COMMENT = EXIF_IFD + 18, CODE = 8 };
    const size_t length = strlen(text), cap = COMMENT + CODE + 2 * length + 4;
    uint8_t *block = length < (1u << 28) ? mica_mem_alloc(cap) : NULL;
    if (!block)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu bytes of picture metadata", cap);
    uint8_t *end = block + COMMENT;
    memcpy(end, "UNICODE", CODE);
    end = put_utf16(end + CODE, text, length);
    memcpy(block, "MM\0\x2a\0\0\0\x08", 8);
    uint8_t *p = put_ifd(block + IFD0, TAG_EXIF_IFD, TYPE_LONG, 1, EXIF_IFD);
    put_ifd(p, TAG_USER_COMMENT, TYPE_UNDEFINED, (uint32_t)(end - block - COMMENT), COMMENT);
    *data = block;
    *size = (size_t)(end - block);
    return MICA_OK;
}
