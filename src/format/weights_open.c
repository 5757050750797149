/* weights_open.c - from a path to the files that make up one set of weights.
 *
 *     x.safetensors          that file
 *     x.index.json           every shard that its weight_map names, from the same folder
 *     x.gguf                 that file; of x-00001-of-00003.gguf all three
 *     folder                 its *.safetensors.index.json if there is one, else every
 *                            *.safetensors, else pytorch_model.bin, else its one ONNX file,
 *                            else its one GGUF file
 *
 * Folders often hold variants of one thing (`model.safetensors`, `model.fp16.safetensors`):
 * NAME.VARIANT.EXT is passed over when NAME.EXT is there, as diffusers does without `variant=`.
 * Shards are opened under the path that was given, not its resolution, because hub caches are
 * folders of links. A shard name with a separator in it never leaves the folder: it is refused.
 * Every problem of an index is listed (up to MAX_LISTED), so that one download repairs it. */
#include "base/json.h"
#include "base/mem.h"
#include "base/names.h"
#include "format/safetensors.h"
#include "format/weights_internal.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAFETENSORS_EXT ".safetensors"
#define INDEX_EXT       ".safetensors.index.json"
#define GGUF_EXT        ".gguf"
#define TORCH_NAME      "pytorch_model.bin"
#define ONNX_EXT        ".onnx"
#define MAX_LISTED      8

/* ---- several problems in one error text ---- */

typedef struct problems {
    char text[1600]; /* below MICA_ERR_TEXT, with room for a path before it */
    size_t used, count;
} problems;

static void add_problem(problems *p, const char *format, ...) MICA_PRINTF(2, 3);
static void add_problem(problems *p, const char *format, ...)
{
    if (p->count++ >= MAX_LISTED || p->used + 2 >= sizeof p->text)
        return;
    va_list args;
    p->text[p->used++] = '\n';
    va_start(args, format);
    const int n = vsnprintf(p->text + p->used, sizeof p->text - p->used, format, args);
    va_end(args);
    p->used = MICA_MIN(p->used + (size_t)MICA_MAX(n, 0), sizeof p->text - 1);
}

static mica_status report(const problems *p, const char *path, mica_status status, mica_err *err)
{
    if (p->count == 0)
        return MICA_OK;
    if (p->count == 1)
        return MICA_FAIL(err, status, "%s: %s", path, p->text + 1);
    if (p->count <= MAX_LISTED)
        return MICA_FAIL(err, status, "%s: %zu problems:%s", path, p->count, p->text);
    return MICA_FAIL(err, status, "%s: %zu problems, the first %d:%s", path, p->count, MAX_LISTED,
                     p->text);
}

/* ---- small path helpers ---- */

static mica_status no_memory(const char *path, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory while opening weights", path);
}

/* Opens folder/name into w. */
static mica_status take_from(mica_weights *w, const char *folder, const char *name, mica_err *err)
{
    char *path = mica_path_join(folder, name);
    if (path == NULL)
        return no_memory(folder, err);
    const mica_status st = mica_weights_take_file(w, path, err);
    mica_mem_free(path);
    return st;
}

/* ---- index ---- */

typedef struct index_row {
    const char *shard, *tensor; /* inside the JSON tree */
} index_row;

typedef struct shard_index {
    mica_json json;
    const char *path;
    char *folder;
    index_row *rows; /* by shard, then by tensor */
    size_t count;
} shard_index;

static int compare_rows(const void *a, const void *b)
{
    const index_row *x = a, *y = b;
    const int order = strcmp(x->shard, y->shard);
    return order != 0 ? order : strcmp(x->tensor, y->tensor);
}

static void close_index(shard_index *x)
{
    mica_json_close(&x->json);
    mica_mem_free(x->folder);
    mica_mem_free(x->rows);
}

static mica_status check_row(const shard_index *x, const cJSON *member, mica_err *err)
{
    if (!mica_tensor_name_is_valid(member->string))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: weight_map holds an invalid tensor name",
                         x->path);
    const char *shard = cJSON_IsString(member) ? member->valuestring : "";
    if (!mica_tensor_name_is_valid(shard))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: weight_map gives no usable file for tensor %s",
                         x->path, member->string);
    if (strpbrk(shard, "/\\") != NULL || strcmp(shard, ".") == 0 || strcmp(shard, "..") == 0)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: shard '%s' is refused: shards must lie beside their index", x->path,
                         shard);
    return MICA_OK;
}

static mica_status read_rows(shard_index *x, mica_err *err)
{
    const cJSON *root = x->json.root, *member;
    const cJSON *map = cJSON_IsObject(root) ? mica_json_find(root, "weight_map") : NULL;
    if (!cJSON_IsObject(map) || map->child == NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: no weight_map; this is not a weight index",
                         x->path);
    x->rows = mica_mem_calloc((size_t)cJSON_GetArraySize(map), sizeof *x->rows);
    if (x->rows == NULL)
        return no_memory(x->path, err);
    cJSON_ArrayForEach(member, map)
    {
        MICA_TRY(check_row(x, member, err));
        x->rows[x->count++] = (index_row){.shard = member->valuestring, .tensor = member->string};
    }
    qsort(x->rows, x->count, sizeof *x->rows, compare_rows);
    return MICA_OK;
}

/* "a/b/x.json" -> "a/b", "x.json" -> ".", "/x.json" -> "/". */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return mica_mem_strdup(".");
    return mica_mem_strndup(path, MICA_MAX((size_t)(slash - path), 1));
}

static mica_status read_index(shard_index *x, const char *path, mica_err *err)
{
    memset(x, 0, sizeof *x);
    x->path = path;
    MICA_TRY(mica_json_open(&x->json, path, err));
    x->folder = folder_of(path);
    const mica_status st = x->folder == NULL ? no_memory(path, err) : read_rows(x, err);
    if (st != MICA_OK)
        close_index(x);
    return st;
}

static bool is_new_shard(const shard_index *x, size_t i)
{
    return i == 0 || strcmp(x->rows[i - 1].shard, x->rows[i].shard) != 0;
}

static mica_status check_shards_exist(const shard_index *x, mica_err *err)
{
    problems p = {.count = 0};
    for (size_t i = 0; i < x->count; i++) {
        if (!is_new_shard(x, i))
            continue;
        char *path = mica_path_join(x->folder, x->rows[i].shard);
        if (path == NULL)
            return no_memory(x->path, err);
        if (!mica_path_is_file(path))
            add_problem(&p, "shard %s is missing", x->rows[i].shard);
        mica_mem_free(path);
    }
    return report(&p, x->path, MICA_E_MISSING, err);
}

/* Every row's tensor must come from the row's shard. */
static mica_status check_rows_found(const shard_index *x, const mica_weights *w, mica_err *err)
{
    problems p = {.count = 0};
    size_t file = 0; /* shards were opened in the order of rows */
    for (size_t i = 0; i < x->count; i++) {
        const index_row *row = &x->rows[i];
        file += i > 0 && is_new_shard(x, i);
        const mica_weights_entry *e = mica_weights_find_entry(w, row->tensor);
        if (e == NULL)
            add_problem(&p, "tensor %s is not in shard %s", row->tensor, row->shard);
        else if (e->file != file)
            add_problem(&p, "tensor %s is in %s, the index says %s", row->tensor,
                        mica_weights_file_path(w, e), row->shard);
    }
    return report(&p, x->path, MICA_E_MISSING, err);
}

static mica_status take_shards(const shard_index *x, mica_weights *w, mica_err *err)
{
    MICA_TRY(check_shards_exist(x, err));
    for (size_t i = 0; i < x->count; i++)
        if (is_new_shard(x, i))
            MICA_TRY(take_from(w, x->folder, x->rows[i].shard, err));
    MICA_TRY(mica_weights_index(w, err));
    return check_rows_found(x, w, err);
}

static mica_status open_index(mica_weights *w, const char *path, mica_err *err)
{
    shard_index x;
    MICA_TRY(read_index(&x, path, err));
    const mica_status st = take_shards(&x, w, err);
    close_index(&x);
    return st;
}

/* ---- folder ---- */

typedef struct folder_list {
    const char *path;
    char **names; /* all entries, sorted */
    size_t count;
} folder_list;

static bool has_name(const folder_list *f, const char *stem, size_t n, const char *ext)
{
    for (size_t i = 0; i < f->count; i++)
        if (strncmp(f->names[i], stem, n) == 0 && strcmp(f->names[i] + n, ext) == 0)
            return true;
    return false;
}

/* NAME.VARIANT.EXT beside NAME.EXT. */
static bool is_variant(const folder_list *f, const char *name, const char *ext)
{
    size_t n = strlen(name) - strlen(ext);
    while (n > 0 && name[n - 1] != '.')
        n--;
    return n > 1 && has_name(f, name, n - 1, ext);
}

/* Hidden files are left out: macOS puts "._x.safetensors" beside files on foreign disks. */
static bool is_candidate(const folder_list *f, const char *name, const char *ext)
{
    return name[0] != '.' && mica_name_ends(name, ext) && !is_variant(f, name, ext);
}

static size_t count_candidates(const folder_list *f, const char *ext, const char **first)
{
    size_t count = 0;
    for (size_t i = f->count; i-- > 0;)
        if (is_candidate(f, f->names[i], ext)) {
            *first = f->names[i];
            count++;
        }
    return count;
}

/* "x-00002-of-00005" EXT: 5 digits each, as every hub tool writes them. Returns the total and the
 * length of "x-", or 0. */
static int shard_total(const char *name, const char *ext, size_t *stem)
{
    int part = 0, total = 0, length = 0;
    const size_t tail = strlen("00002-of-00005") + strlen(ext), n = strlen(name);
    if (!mica_name_ends(name, ext) || n <= tail || name[n - tail - 1] != '-')
        return 0;
    *stem = n - tail;
    if (sscanf(name + *stem, "%5d-of-%5d%n", &part, &total, &length) != 2 || length != 14)
        return 0;
    return total > 0 ? total : 0;
}

/* Numbered shards without an index: the numbers themselves tell what is missing. */
static mica_status check_numbered(const folder_list *f, mica_err *err)
{
    problems p = {.count = 0};
    for (size_t i = 0; i < f->count; i++) {
        const char *name = f->names[i];
        size_t stem = 0;
        const int total =
            is_candidate(f, name, SAFETENSORS_EXT) ? shard_total(name, SAFETENSORS_EXT, &stem) : 0;
        const bool is_first = i == 0 || strncmp(f->names[i - 1], name, stem) != 0;
        for (int k = 1; is_first && k <= total; k++) {
            char ext[64];
            snprintf(ext, sizeof ext, "%05d-of-%05d" SAFETENSORS_EXT, k, total);
            if (!has_name(f, name, stem, ext))
                add_problem(&p, "shard %.*s%s is missing", (int)stem, name, ext);
        }
    }
    return report(&p, f->path, MICA_E_MISSING, err);
}

/* Nothing to open: says what is there instead. */
static mica_status fail_empty(const folder_list *f, mica_err *err)
{
    static const char *const OTHER[] = {".ckpt", ".pth", ".pt", ".bin", ".onnx"};
    for (size_t i = 0; i < f->count; i++) {
        if (strcmp(f->names[i], "model_index.json") == 0)
            return MICA_FAIL(
                err, MICA_E_MISSING,
                "%s: no weights here but a model_index.json: this is a whole model, its "
                "parts are the folders inside",
                f->path);
        for (size_t k = 0; k < MICA_ARRAY_LEN(OTHER); k++)
            if (mica_name_ends(f->names[i], OTHER[k]))
                return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                                 "%s: no .safetensors file, only others such as %s; use the "
                                 "safetensors form of the model",
                                 f->path, mica_printable_text(f->names[i]));
    }
    return MICA_FAIL(err, MICA_E_MISSING, "%s: no .safetensors file in this folder", f->path);
}

/* ---- GGUF ---- */

/* "x-00001-of-00003.gguf": every part, from the same folder; anything else: that file. */
static mica_status take_gguf_parts(mica_weights *w, const char *folder, const char *name,
                                   mica_err *err)
{
    size_t stem = 0;
    const int total = shard_total(name, GGUF_EXT, &stem);
    if (total == 0)
        return take_from(w, folder, name, err);
    problems p = {.count = 0};
    for (int k = 1; k <= total; k++) {
        char *part = mica_mem_alloc(strlen(name) + 1);
        if (part == NULL)
            return no_memory(folder, err);
        snprintf(part, strlen(name) + 1, "%.*s%05d-of-%05d" GGUF_EXT, (int)stem, name, k, total);
        char *path = mica_path_join(folder, part);
        mica_status st = path == NULL ? no_memory(folder, err) : MICA_OK;
        if (st == MICA_OK && !mica_path_is_file(path))
            add_problem(&p, "part %s is missing", part);
        else if (st == MICA_OK && p.count == 0)
            st = mica_weights_take_file(w, path, err);
        mica_mem_free(path);
        mica_mem_free(part);
        MICA_TRY(st);
    }
    return report(&p, folder, MICA_E_MISSING, err);
}

static mica_status open_gguf_file(mica_weights *w, const char *path, mica_err *err)
{
    const char *slash = strrchr(path, '/');
    char *folder = folder_of(path);
    if (folder == NULL)
        return no_memory(path, err);
    const mica_status st = take_gguf_parts(w, folder, slash ? slash + 1 : path, err);
    mica_mem_free(folder);
    return st == MICA_OK ? mica_weights_index(w, err) : st;
}

/* A folder without safetensors: its one GGUF file, in one part or several. */
static mica_status open_gguf_of(mica_weights *w, const folder_list *f, mica_err *err)
{
    const char *first = NULL, *last = NULL;
    size_t stem = 0, count = 0;
    for (size_t i = 0; i < f->count; i++) {
        if (f->names[i][0] == '.' || !mica_name_ends(f->names[i], GGUF_EXT))
            continue;
        last = f->names[i];
        first = first ? first : last;
        count++;
    }
    if (first == NULL)
        return fail_empty(f, err);
    const int total = shard_total(first, GGUF_EXT, &stem);
    if (count > 1 && (total == 0 || strncmp(first, last, stem) != 0 || count > (size_t)total))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: %zu GGUF files (%s and others); give one as the path", f->path, count,
                         mica_printable_text(first));
    MICA_TRY(take_gguf_parts(w, f->path, first, err));
    return mica_weights_index(w, err);
}

static mica_status open_listed(mica_weights *w, const folder_list *f, mica_err *err)
{
    const char *index = NULL, *first = NULL;
    const size_t indices = count_candidates(f, INDEX_EXT, &index);
    if (indices > 1)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: %zu weight indices (%s and others); give one as the path", f->path,
                         indices, mica_printable_text(index));
    if (indices == 1) {
        char *path = mica_path_join(f->path, index);
        const mica_status st = path == NULL ? no_memory(f->path, err) : open_index(w, path, err);
        mica_mem_free(path);
        return st;
    }
    if (count_candidates(f, SAFETENSORS_EXT, &first) == 0 &&
        count_candidates(f, GGUF_EXT, &first) == 0 &&
        has_name(f, TORCH_NAME, strlen(TORCH_NAME), "")) {
        MICA_TRY(take_from(w, f->path, TORCH_NAME, err));
        return mica_weights_index(w, err);
    }
    if (count_candidates(f, SAFETENSORS_EXT, &first) == 0 &&
        count_candidates(f, GGUF_EXT, &first) == 0 && count_candidates(f, ONNX_EXT, &first) == 1) {
        MICA_TRY(take_from(w, f->path, first, err));
        return mica_weights_index(w, err);
    }
    if (count_candidates(f, SAFETENSORS_EXT, &first) == 0)
        return open_gguf_of(w, f, err);
    MICA_TRY(check_numbered(f, err));
    for (size_t i = 0; i < f->count; i++)
        if (is_candidate(f, f->names[i], SAFETENSORS_EXT))
            MICA_TRY(take_from(w, f->path, f->names[i], err));
    return mica_weights_index(w, err);
}

static mica_status open_folder(mica_weights *w, const char *path, mica_err *err)
{
    folder_list f = {.path = path};
    MICA_TRY(mica_path_list(path, &f.names, &f.count, err));
    const mica_status st = open_listed(w, &f, err);
    mica_path_list_free(&f.names, f.count);
    return st;
}

/* ---- entry ---- */

static mica_status open_path(mica_weights *w, const char *path, mica_err *err)
{
    if (mica_path_is_dir(path))
        return open_folder(w, path, err);
    if (!mica_path_is_file(path))
        return MICA_FAIL(err, MICA_E_MISSING, "%s: no such file or folder", path);
    if (mica_name_ends(path, ".json"))
        return open_index(w, path, err);
    if (mica_name_ends(path, GGUF_EXT))
        return open_gguf_file(w, path, err);
    MICA_TRY(mica_weights_take_file(w, path, err));
    return mica_weights_index(w, err);
}

static mica_status open_new(mica_weights **out, const char *path, bool is_peek, mica_err *err)
{
    *out = NULL;
    MICA_TRY(mica_weights_new(out, path, err));
    (*out)->is_peek = is_peek;
    mica_status st = open_path(*out, path, err);
    if (st == MICA_OK)
        st = mica_weights_attach_scales(*out, err);
    if (st != MICA_OK)
        mica_weights_close(out);
    return st;
}

mica_status mica_weights_open(mica_weights **out, const char *path, mica_err *err)
{
    return open_new(out, path, false, err);
}

mica_status mica_weights_peek(mica_weights **out, const char *path, mica_err *err)
{
    return open_new(out, path, true, err);
}
