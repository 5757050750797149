/* speech_files.c - finds the parts of a speech model in a folder as its project lays it out.
 *
 *     pretrained_models/                       any folder, four levels deep: the whole project too
 *       chinese-hubert-base/                   a folder with weights is one part
 *       chinese-roberta-wwm-ext-large/
 *       s1v3.ckpt, gsv-v2final-pretrained/s1*.ckpt
 *       v2Pro/s2Gv2Pro.pth, ...
 *       sv/pretrained_eres2netv2*.ckpt
 *       G2PWModel/g2pW.onnx                  with its lists of characters
 *
 * Files are told apart by their tensors. What cannot be opened as weights or belongs to nobody
 * (discriminators, other networks) is passed over; two files for one part are an error, unless that
 * part was given by itself. A list of all of them is what mica_speech_parts_each gives.
 *
 * The folder may be anything, "/" too: of a walk that meets more names than a model's project has,
 * nothing is told but that it ended. Folders below it that may not be listed are passed over like
 * files that cannot be opened (the lost+found of a disk); the folder itself must be listable. */
#include "models/model_files.h"

#include "base/file.h"
#include "base/names.h"

#include <string.h>

#define DEPTH      4
#define MOST_NAMES 100000 /* a project with its sound clips and logs stays far below */

typedef struct finder {
    const char *dir;
    mica_model_parts *parts;
    const bool *given; /* [MICA_PART_COUNT]: not to be looked for */
    bool refused
        [MICA_PART_COUNT];    /* what was found will be refused: anything else comes before it */
    mica_speech_part_fn each; /* instead of `parts`; or NULL */
    void *user;
    size_t names; /* met so far */
    mica_err *err;
} finder;

static bool is_checkpoint(const char *name)
{
    static const char *const ENDS[] = {".ckpt", ".pth", ".pt", ".safetensors", ".onnx"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(ENDS); i++)
        if (name[0] != '.' && mica_name_ends(name, ENDS[i]))
            return true;
    return false;
}

/* A folder that holds the weights of one network, as the hub's tools write it. */
static bool is_network(const char *dir)
{
    static const char *const NAMES[] = {"pytorch_model.bin", "model.safetensors"};
    bool found = false;
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES) && !found; i++) {
        char *path = mica_path_join(dir, NAMES[i]);
        found = path && mica_path_is_file(path);
        mica_mem_free(path);
    }
    return found;
}

/* The parts that a file is: of a voice file two. None if it cannot be opened. True: it will be refused. */
static bool find_parts(const char *path, bool is[MICA_PART_COUNT])
{
    bool refused = false;
    mica_weights *w = NULL;
    const mica_model_kind *kind;
    memset(is, 0, MICA_PART_COUNT * sizeof *is);
    if (mica_weights_peek(&w, path, NULL) != MICA_OK)
        return false;
    for (int i = 0; (kind = mica_model_kind_at(i)) != NULL; i++) {
        refused |= kind->refuses && kind->refuses(w);
        for (int part = MICA_PART_SEMANTIC; kind->holds && part < MICA_PART_COUNT; part++)
            is[part] |= kind->holds(w, (mica_model_part)part);
    }
    mica_weights_close(&w);
    return refused;
}

static mica_status take_part(finder *f, const char *path, mica_model_part part, bool refused)
{
    if (f->each)
        return f->each(f->user, part, path, f->err);
    char **slot = &f->parts->path[part];
    if (f->given[part] || (*slot && strcmp(*slot, path) == 0))
        return MICA_OK;
    if (*slot && refused)
        return MICA_OK;
    if (*slot && f->refused[part]) {
        mica_mem_free(*slot);
        *slot = NULL;
    }
    f->refused[part] = refused;
    if (*slot)
        return MICA_FAIL(f->err, MICA_E_USAGE,
                         "%s and %s are both a %s; choose one with --%s ('mica inspect %s' lists "
                         "them all)",
                         *slot, path, mica_model_part_name(part), mica_model_part_option(part),
                         f->dir);
    *slot = mica_mem_strdup(path);
    return *slot ? MICA_OK
                 : MICA_FAIL(f->err, MICA_E_NOMEM, "no memory to look for the parts of the model");
}

static mica_status take(finder *f, const char *path)
{
    bool is[MICA_PART_COUNT];
    const bool refused = find_parts(path, is);
    for (int part = MICA_PART_SEMANTIC; part < MICA_PART_COUNT; part++)
        if (is[part])
            MICA_TRY(take_part(f, path, (mica_model_part)part, refused));
    return MICA_OK;
}

static mica_status walk(finder *f, const char *dir, int depth);

static mica_status meet(finder *f, const char *dir, const char *name, int depth)
{
    mica_status st = MICA_OK;
    char *path = mica_path_join(dir, name);
    if (!path)
        return MICA_FAIL(f->err, MICA_E_NOMEM, "no memory to look for the parts of the model");
    if (name[0] != '.' && mica_path_is_dir(path))
        st = is_network(path) ? take(f, path) : depth > 1 ? walk(f, path, depth - 1) : MICA_OK;
    else if (is_checkpoint(name) && mica_path_is_file(path))
        st = take(f, path);
    mica_mem_free(path);
    return st;
}

/* One level; `depth` levels are left, this one included. */
static mica_status walk(finder *f, const char *dir, int depth)
{
    char **names = NULL;
    size_t count = 0;
    const bool top = depth == DEPTH;
    mica_status st = mica_path_list(dir, &names, &count, top ? f->err : NULL);
    if (st && !top && st != MICA_E_NOMEM)
        return MICA_OK;
    f->names += count;
    if (!st && f->names > MOST_NAMES)
        st =
            MICA_FAIL(f->err, MICA_E_UNSUPPORTED,
                      "%s: more than %d files and folders to look through; name the model's folder "
                      "itself",
                      f->dir, MOST_NAMES);
    for (size_t i = 0; i < count && !st; i++)
        st = meet(f, dir, names[i], depth);
    mica_path_list_free(&names, count);
    return st;
}

mica_status mica_speech_parts_find(mica_model_parts *parts, const char *dir,
                                   const bool given[MICA_PART_COUNT], mica_err *err)
{
    finder f = {.dir = dir, .parts = parts, .given = given, .err = err};
    bool is[MICA_PART_COUNT];
    for (int part = MICA_PART_SEMANTIC; part < MICA_PART_COUNT;
         part++) /* found at the top already */
        f.refused[part] = parts->path[part] && find_parts(parts->path[part], is);
    return walk(&f, dir, DEPTH);
}

mica_status mica_speech_parts_each(const char *dir, mica_speech_part_fn each, void *user,
                                   mica_err *err)
{
    finder f = {.dir = dir, .each = each, .user = user, .err = err};
    return walk(&f, dir, DEPTH);
}
