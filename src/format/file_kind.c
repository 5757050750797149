/* file_kind.c - the magic numbers of files that people take for safetensors.
 *
 *     first bytes  ──►  kind: status and the rest of a sentence that begins with the path
 *
 * Rows are tried in order, longest knowledge first. The pickle rows are what torch.save wrote before
 * 1.6; the zip archives it writes since are read (torch_zip.c). */
#include "format/file_kind.h"

#include <string.h>

#define USE_SAFETENSORS "which is not read here; use the safetensors form of the model"

typedef struct magic_row {
    const char *bytes;
    size_t size;
    mica_file_kind kind;
} magic_row;

#define MAGIC(bytes) (bytes), sizeof(bytes) - 1

static const magic_row MAGIC_ROWS[] = {
    {MAGIC("FUGG"), {MICA_E_UNSUPPORTED, "a big-endian GGUF file; convert it to little-endian"}},
    {MAGIC("lmgg"), {MICA_E_UNSUPPORTED, "an old GGML file, " USE_SAFETENSORS}},
    {MAGIC("tjgg"), {MICA_E_UNSUPPORTED, "an old GGML file, " USE_SAFETENSORS}},
    {MAGIC("fmgg"), {MICA_E_UNSUPPORTED, "an old GGML file, " USE_SAFETENSORS}},
    {MAGIC("\x80\002"),
     {MICA_E_UNSUPPORTED, "a Python pickle (an old torch checkpoint?), " USE_SAFETENSORS}},
    {MAGIC("\x80\003"), {MICA_E_UNSUPPORTED, "a Python pickle, " USE_SAFETENSORS}},
    {MAGIC("\x80\004"), {MICA_E_UNSUPPORTED, "a Python pickle, " USE_SAFETENSORS}},
    {MAGIC("\x93NUMPY"), {MICA_E_UNSUPPORTED, "a NumPy array file, " USE_SAFETENSORS}},
    {MAGIC("\x89HDF\r\n\x1a\n"), {MICA_E_UNSUPPORTED, "an HDF5 file, " USE_SAFETENSORS}},
    {MAGIC("version https://git-lfs"),
     {MICA_E_FORMAT, "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"}},
    {MAGIC("<!DOCTYPE"), {MICA_E_FORMAT, "a web page, not weights; download the file again"}},
    {MAGIC("<!doctype"), {MICA_E_FORMAT, "a web page, not weights; download the file again"}},
    {MAGIC("<html"), {MICA_E_FORMAT, "a web page, not weights; download the file again"}},
    {MAGIC("\x1f\x8b"), {MICA_E_FORMAT, "a gzip archive; unpack it first"}},
    {MAGIC("\x28\xb5\x2f\xfd"), {MICA_E_FORMAT, "a zstd archive; unpack it first"}},
    {MAGIC("7z\xbc\xaf\x27\x1c"), {MICA_E_FORMAT, "a 7z archive; unpack it first"}},
    {MAGIC("\x89PNG"), {MICA_E_FORMAT, "a PNG picture, not weights"}},
    {MAGIC("\xff\xd8\xff"), {MICA_E_FORMAT, "a JPEG picture, not weights"}},
    {MAGIC("{"), {MICA_E_FORMAT, "JSON text, not weights; a weight index ends in .index.json"}},
};

const mica_file_kind *mica_file_kind_find(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(MAGIC_ROWS); i++) {
        const magic_row *row = &MAGIC_ROWS[i];
        if (size >= row->size && memcmp(data, row->bytes, row->size) == 0)
            return &row->kind;
    }
    return NULL;
}
