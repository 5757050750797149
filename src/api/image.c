/* image.c - finished pictures: access, and files with their recipe inside. */
#include "api/api.h"

#include "media/picture.h"

#include <stdio.h>

void mica_image_close(mica_image **image)
{
    mica_image *m = image ? *image : NULL;
    if (!m)
        return;
    for (int i = 0; i < m->count; i++) {
        if (m->recipes)
            mica_mem_free(m->recipes[i]);
        if (m->parameters)
            mica_mem_free(m->parameters[i]);
    }
    mica_mem_free(m->recipes);
    mica_mem_free(m->parameters);
    mica_mem_free(m->rgb);
    mica_mem_free(m);
    *image = NULL;
}

int mica_image_count(const mica_image *image)
{
    return image ? image->count : 0;
}

int mica_image_width(const mica_image *image)
{
    return image ? image->width : 0;
}

int mica_image_height(const mica_image *image)
{
    return image ? image->height : 0;
}

int mica_image_channels(const mica_image *image)
{
    return image ? image->channels : 0;
}

uint64_t mica_image_seed(const mica_image *image, int index)
{
    return image ? image->seed + (image->one_seed ? 0 : (uint64_t)index) : 0;
}

static size_t size_of(const mica_image *image)
{
    return (size_t)image->width * (size_t)image->height * (size_t)image->channels;
}

static bool has_index(const mica_image *image, int index)
{
    return image && index >= 0 && index < image->count;
}

const uint8_t *mica_image_rgb(const mica_image *image, int index)
{
    if (!has_index(image, index))
        return NULL;
    return image->rgb + (size_t)index * size_of(image);
}

const char *mica_image_recipe(const mica_image *image, int index)
{
    return has_index(image, index) ? image->recipes[index] : NULL;
}

/* Where the bytes of a picture go; `write` is NULL for a file. */
typedef struct target {
    const char *path; /* with `write` only a name */
    mica_write_fn write;
    void *user;
} target;

static mica_status pass_on(void *user, const void *data, size_t size, mica_err *err)
{
    const target *to = user;
    if (to->write(to->user, data, size))
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_IO, "the picture could not be written: its receiver stopped");
}

static mica_status put(const mica_image *image, int index, target *to, mica_err *err)
{
    if (!has_index(image, index) || !to->path)
        return MICA_FAIL(err, MICA_E_USAGE, "there is no picture %d to write", index);
    const mica_picture picture = {.width = image->width,
                                  .height = image->height,
                                  .channels = image->channels,
                                  .pixels = image->rgb + (size_t)index * size_of(image)};
    const mica_picture_text texts[] = {{"parameters", image->parameters[index]},
                                       {"mica", image->recipes[index]}};
    const size_t count = MICA_ARRAY_LEN(texts);
    if (to->write)
        return mica_picture_encode(&picture, to->path, texts, count, 0, pass_on, to, err);
    return mica_picture_write(&picture, to->path, texts, count, 0, err);
}

static mica_status tell(mica_status st, const mica_err *err, char *message, size_t size)
{
    if (message && size)
        snprintf(message, size, "%s", st ? err->text : "");
    return st;
}

mica_status mica_image_write(const mica_image *image, int index, const char *path, char *message,
                             size_t message_size)
{
    mica_err err = {0};
    target to = {.path = path};
    return tell(put(image, index, &to, &err), &err, message, message_size);
}

mica_status mica_image_encode(const mica_image *image, int index, const char *name,
                              mica_write_fn write, void *user, char *message, size_t message_size)
{
    mica_err err = {0};
    target to = {name, write, user};
    const mica_status st = write ? put(image, index, &to, &err)
                                 : MICA_FAIL(&err, MICA_E_USAGE, "there is nobody to write to");
    return tell(st, &err, message, message_size);
}
