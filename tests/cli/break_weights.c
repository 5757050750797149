/* break_weights.c - makes a damaged copy of a safetensors file, for the tests of bad input.
 *
 *     break_weights IN OUT KIND [TENSOR]
 *
 *     [8 bytes: header length][header: JSON][data]      kinds change one of the three
 *
 *   empty              0 bytes                      truncated       the first 58 %
 *   header-length-max  length 2^63 - 1              header-length-8g
 *   header-length-0                                 header-text     not JSON
 *   shape-large        rows doubled, data as is     shape-small     rows and data halved
 *   shape-negative     first dimension -1           dtype-i64       dtype I64, data as is
 *   dtype-i16          same size, no float          offsets-beyond  ends behind the file
 *   drop               one tensor absent            nan             data of one tensor all NaN
 *
 * Without TENSOR it is the first one with two dimensions and an even number of rows. */
#include <cjson/cJSON.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct weight_file {
    uint8_t *bytes;
    size_t size;
    uint64_t header_size;
    cJSON *header;
} weight_file;

static void stop(const char *what)
{
    fprintf(stderr, "break_weights: %s\n", what);
    exit(2);
}

static weight_file read_file(const char *path)
{
    weight_file w = {0};
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        stop(path);
    const long size = ftell(file);
    rewind(file);
    w.size = (size_t)size;
    w.bytes = malloc(w.size + 1);
    if (size < 8 || !w.bytes || fread(w.bytes, 1, w.size, file) != w.size)
        stop(path);
    fclose(file);
    memcpy(&w.header_size, w.bytes, 8);
    w.header = cJSON_ParseWithLength((const char *)w.bytes + 8, w.header_size);
    if (!w.header)
        stop("the input is damaged already");
    return w;
}

static cJSON *pick_tensor(const weight_file *w, const char *name)
{
    cJSON *named = name ? cJSON_GetObjectItemCaseSensitive(w->header, name) : NULL;
    if (name && !named)
        stop("no tensor of that name");
    if (named)
        return named;
    for (cJSON *t = w->header->child; t; t = t->next) {
        const cJSON *shape = cJSON_GetObjectItem(t, "shape");
        if (shape && cJSON_GetArraySize(shape) == 2 && shape->child->valueint % 2 == 0)
            return t;
    }
    stop("no tensor to break");
    return NULL;
}

static void write_file(const char *path, uint64_t length, const void *header, size_t header_size,
                       const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(&length, 1, 8, file) != 8 ||
        fwrite(header, 1, header_size, file) != header_size ||
        fwrite(data, 1, size, file) != size || fclose(file))
        stop(path);
}

static void scale_rows(cJSON *tensor, double factor)
{
    cJSON *rows = cJSON_GetObjectItem(tensor, "shape")->child;
    cJSON_SetNumberValue(rows, rows->valuedouble * factor);
}

/* Changes the parsed header or the data; false when `kind` is not of this sort. */
static bool break_tensor(const weight_file *w, cJSON *tensor, const char *kind, uint8_t *data)
{
    cJSON *begin = cJSON_GetObjectItem(tensor, "data_offsets")->child, *end = begin->next;
    const size_t first = (size_t)begin->valuedouble, last = (size_t)end->valuedouble;
    if (strcmp(kind, "shape-large") == 0) {
        scale_rows(tensor, 2.0);
    } else if (strcmp(kind, "shape-small") == 0) {
        scale_rows(tensor, 0.5);
        cJSON_SetNumberValue(end, (double)(first + (last - first) / 2));
    } else if (strcmp(kind, "shape-negative") == 0) {
        cJSON_SetNumberValue(cJSON_GetObjectItem(tensor, "shape")->child, -1);
    } else if (strcmp(kind, "dtype-i64") == 0) {
        cJSON_SetValuestring(cJSON_GetObjectItem(tensor, "dtype"), "I64");
    } else if (strcmp(kind, "dtype-i16") == 0) {
        cJSON_SetValuestring(cJSON_GetObjectItem(tensor, "dtype"), "I16");
    } else if (strcmp(kind, "offsets-beyond") == 0) {
        cJSON_SetNumberValue(begin, begin->valuedouble + (double)w->size);
        cJSON_SetNumberValue(end, end->valuedouble + (double)w->size);
    } else if (strcmp(kind, "drop") == 0) {
        cJSON_Delete(cJSON_DetachItemViaPointer(w->header, tensor));
    } else if (strcmp(kind, "nan") == 0) {
        memset(data + first, 0xff, last - first); /* NaN in bf16, f16 and f32 */
    } else {
        return false;
    }
    return true;
}

/* Damage below the level of tensors; false when `kind` is not of this sort. */
static bool break_bytes(const weight_file *w, const char *path, const char *kind)
{
    const uint8_t *body = w->bytes + 8;
    const size_t body_size = w->size - 8;
    if (strcmp(kind, "empty") == 0) {
        FILE *file = fopen(path, "wb");
        if (!file || fclose(file))
            stop(path);
    } else if (strcmp(kind, "truncated") == 0) {
        write_file(path, w->header_size, body, w->size * 58 / 100 - 8, body, 0);
    } else if (strcmp(kind, "header-length-max") == 0) {
        write_file(path, INT64_MAX, body, body_size, body, 0);
    } else if (strcmp(kind, "header-length-8g") == 0) {
        write_file(path, (uint64_t)8 << 30, body, body_size, body, 0);
    } else if (strcmp(kind, "header-length-0") == 0) {
        write_file(path, 0, body, body_size, body, 0);
    } else if (strcmp(kind, "header-text") == 0) {
        w->bytes[8] = 'x';
        write_file(path, w->header_size, body, body_size, body, 0);
    } else {
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5)
        stop("usage: break_weights IN OUT KIND [TENSOR]");
    weight_file w = read_file(argv[1]);
    if (!break_bytes(&w, argv[2], argv[3])) {
        uint8_t *data = w.bytes + 8 + w.header_size;
        if (!break_tensor(&w, pick_tensor(&w, argv[4]), argv[3], data))
            stop("unknown kind");
        char *header = cJSON_PrintUnformatted(w.header);
        if (!header)
            stop("out of memory");
        write_file(argv[2], strlen(header), header, strlen(header), data,
                   w.size - 8 - w.header_size);
        cJSON_free(header);
    }
    cJSON_Delete(w.header);
    free(w.bytes);
    return 0;
}
