/* exif.c - the two fields of EXIF that pictures here need: orientation in, a comment in and out.
 *
 *   TIFF header   "II" | "MM", 42, offset of IFD0
 *   IFD           count, then 12-byte entries: tag, type, count, value or offset
 *   IFD0          0x0112 orientation (SHORT), 0x8769 offset of the Exif IFD
 *   Exif IFD      0x9286 UserComment (UNDEFINED): 8 bytes of character code, then text
 *
 * CIPA DC-008 (Exif 2.3) sections 4.5 and 4.6. Reading trusts nothing: anything out of place means
 * "no orientation", "no comment". */
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

/* The entry of `tag` in the IFD at `ifd`, with this type; NULL: none. */
static const uint8_t *find_entry(const uint8_t *data, size_t size, size_t ifd, unsigned tag,
                                 unsigned type, bool big)
{
    if (size < 2 || ifd > size - 2)
        return NULL;
    const size_t count = get16(data + ifd, big);
    if (count * ENTRY_SIZE > size - ifd - 2)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *entry = data + ifd + 2 + i * ENTRY_SIZE;
        if (get16(entry, big) == tag && get16(entry + 2, big) == type)
            return entry;
    }
    return NULL;
}

/* Order of bytes and the place of IFD0; false: no TIFF header. */
static bool read_header(const uint8_t *data, size_t size, bool *big, size_t *ifd)
{
    if (size < 8 || (memcmp(data, "II", 2) != 0 && memcmp(data, "MM", 2) != 0))
        return false;
    *big = data[0] == 'M';
    *ifd = get32(data + 4, *big);
    return get16(data + 2, *big) == 42;
}

int mica_exif_orientation(const uint8_t *data, size_t size)
{
    bool big;
    size_t ifd;
    if (!read_header(data, size, &big, &ifd))
        return 1;
    const uint8_t *entry = find_entry(data, size, ifd, TAG_ORIENTATION, TYPE_SHORT, big);
    const unsigned value = entry ? get16(entry + 8, big) : 1;
    return value >= 1 && value <= 8 ? (int)value : 1;
}

/* UTF-16 as UTF-8; what is no character becomes U+FFFD, a zero ends it. Writers do not agree whether the
 * order is the header's: a text whose first character is below U+0100, as most are, tells. */
static char *from_utf16(const uint8_t *p, size_t size, bool big)
{
    char *text = mica_mem_alloc(size / 2 * 3 + 1), *at = text;
    if (!text)
        return NULL;
    if (size >= 2 && (p[0] == 0) != (p[1] == 0))
        big = p[0] == 0;
    for (size_t i = 0; i + 2 <= size; i += 2) {
        uint32_t cp = get16(p + i, big);
        const unsigned next = i + 4 <= size ? get16(p + i + 2, big) : 0;
        if (cp == 0)
            break;
        if (cp >= 0xd800u && cp < 0xdc00u && next >= 0xdc00u && next < 0xe000u) {
            cp = 0x10000u + ((cp - 0xd800u) << 10) + (next - 0xdc00u);
            i += 2;
        } else if (cp >= 0xd800u && cp < 0xe000u) {
            cp = 0xfffdu;
        }
        at += mica_utf8_encode(cp, at);
    }
    *at = '\0';
    return text;
}

char *mica_exif_read_comment(const uint8_t *data, size_t size)
{
    enum { CODE = 8 };
    bool big;
    size_t ifd;
    if (!read_header(data, size, &big, &ifd))
        return NULL;
    const uint8_t *entry = find_entry(data, size, ifd, TAG_EXIF_IFD, TYPE_LONG, big);
    if (!entry)
        return NULL;
    entry = find_entry(data, size, get32(entry + 8, big), TAG_USER_COMMENT, TYPE_UNDEFINED, big);
    const size_t length = entry ? get32(entry + 4, big) : 0;
    const size_t at = entry ? get32(entry + 8, big) : 0;
    if (length < CODE || at > size || length > size - at)
        return NULL;
    const uint8_t *text = data + at + CODE;
    if (memcmp(data + at, "UNICODE", CODE) == 0)
        return from_utf16(text, length - CODE, big);
    const bool plain = memcmp(data + at, "ASCII\0\0", CODE) == 0 &&
                       mica_utf8_is_valid((const char *)text, length - CODE);
    return plain ? mica_mem_strndup((const char *)text, length - CODE) : NULL;
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
