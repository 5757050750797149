/* prompt_cache.c - see prompt_cache.h. An entry is read into memory and checked there: a file that another
 * process replaces or removes meanwhile does no harm. */
#include "diffusion/prompt_cache.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT        1 /* of entries; others count as absent */
#define DEFAULT_BYTES ((uint64_t)512 << 20)
#define MOST_BYTES    ((size_t)1 << 30) /* of one entry */
#define STALE_SECONDS 3600.0            /* unfinished files of processes that died */
#define NAME_DIGITS   32
#define ENDING        ".safetensors"

/* -------------------------------------------------------------------- key -- */

/* FNV-1a (Fowler, Noll, Vo) from two starting points. */
static uint64_t fnv(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* "cpu v4+vnni, bf16, 2 threads" without the threads, which change nothing. */
static void add_backend(const mica_backend *be, mica_text *key)
{
    const char *name = mica_backend_name(be), *at = strstr(name, " thread");
    size_t n = strlen(name);
    while (at && at > name && *at != ',')
        at--;
    n = at && at > name ? (size_t)(at - name) : n;
    mica_text_add(key, "%.*s", (int)n, name);
}

static void write_key(const mica_diffusion *d, const mica_prompt_key *k, mica_text *key)
{
    char hash[17];
    mica_weights_hash(k->encoder, hash);
    mica_text_add(key, "%d %d.%d.%d %s %s ", FORMAT, MICA_VERSION_MAJOR, MICA_VERSION_MINOR,
                  MICA_VERSION_PATCH, k->family, hash);
    add_backend(d->be, key);
    for (int i = 0; i < k->count; i++) {
        mica_text_add(key, "; %" PRId64 ": ", k->prompts[i].valid);
        for (int64_t j = 0; j < k->prompts[i].count; j++)
            mica_text_add(key, "%" PRId32 " ", k->prompts[i].ids[j]);
    }
}

/* Path of the entry for a key; NULL when memory ran out. */
static char *entry_path(const char *folder, const mica_text *key)
{
    char name[NAME_DIGITS + sizeof ENDING];
    snprintf(name, sizeof name, "%016" PRIx64 "%016" PRIx64 ENDING,
             fnv(UINT64_C(0xcbf29ce484222325), key->data, key->size),
             fnv(UINT64_C(0x9e3779b97f4a7c15), key->data, key->size));
    return mica_path_join(folder, name);
}

static bool is_wanted(const mica_diffusion *d)
{
    return d->options->prompt_cache && !d->run.taps;
}

/* ------------------------------------------------------------------- read -- */

static void digest_of(const mica_tensor *const *tensors, int count, char out[17])
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < count; i++)
        h = fnv(h, tensors[i]->data, mica_tensor_size(tensors[i]));
    snprintf(out, 17, "%016" PRIx64, h);
}

/* The tensors of an entry, in order, when all of it is as it was written. */
static bool check_entry(const mica_weights *w, const mica_prompt_key *k, const mica_text *key,
                        const mica_tensor *tensors[3])
{
    static const char *const NAMES[3] = {"valid", "text.0", "text.1"};
    const char *own = mica_weights_metadata(w, "key");
    const char *digest = mica_weights_metadata(w, "digest");
    char computed[17];
    for (int i = 0; i <= k->count; i++) {
        tensors[i] = mica_weights_find(w, NAMES[i]);
        if (!tensors[i] || !mica_tensor_is_contiguous(tensors[i]) ||
            tensors[i]->ndim != (i ? 2 : 1) ||
            tensors[i]->dtype != (i ? MICA_DTYPE_F32 : MICA_DTYPE_I32))
            return false;
    }
    if (tensors[0]->shape_[0] != k->count || !own || !digest || strcmp(own, key->data) != 0)
        return false;
    for (int i = 0; i < k->count; i++) {
        const int64_t *shape = tensors[i + 1]->shape_;
        if (((const int32_t *)tensors[0]->data)[i] != k->prompts[i].rows ||
            shape[0] != k->prompts[i].rows || shape[1] != k->width)
            return false;
    }
    digest_of(tensors, k->count + 1, computed);
    return strcmp(digest, computed) == 0;
}

static bool take_entry(mica_diffusion *d, const mica_prompt_key *k, const mica_tensor *tensors[3])
{
    const int32_t *valid = tensors[0]->data;
    for (int i = 0; i < k->count; i++) {
        const mica_tensor *t = tensors[i + 1];
        mica_tensor embeds = mica_act_tensor(d->be, MICA_POOL_SESSION, 2, t->shape_);
        mica_upload_f32(d->be, &embeds, t->data);
        d->text[i] = (mica_diffusion_text){embeds, valid[i]};
    }
    return !mica_backend_failed(d->be);
}

static bool read_entry(mica_diffusion *d, const mica_prompt_key *k, const mica_text *key,
                       const char *path)
{
    const mica_tensor *tensors[3];
    mica_weights *w = NULL;
    char *data = NULL;
    size_t size;
    bool found = mica_file_read(path, MOST_BYTES, &data, &size, NULL) == MICA_OK &&
                 mica_weights_open_memory(&w, path, data, size, NULL) == MICA_OK &&
                 check_entry(w, k, key, tensors);
    found = found && take_entry(d, k, tensors);
    mica_weights_close(&w);
    mica_mem_free(data);
    return found;
}

bool mica_prompt_cache_find(mica_diffusion *d, const mica_prompt_key *k)
{
    mica_text key = {0};
    bool found = false;
    if (!is_wanted(d))
        return false;
    write_key(d, k, &key);
    char *path = key.failed ? NULL : entry_path(d->options->prompt_cache, &key);
    if (path)
        found = read_entry(d, k, &key, path);
    if (found) {
        mica_file_touch(path);
        d->prompt_cache_hits++;
    }
    mica_mem_free(path);
    mica_text_deinit(&key);
    return found;
}

/* ------------------------------------------------------------------ limit -- */

typedef struct kept_file {
    char *path;
    uint64_t size;
    double used;
} kept_file;

static int by_use(const void *a, const void *b)
{
    const kept_file *x = a, *y = b;
    return x->used < y->used ? -1 : x->used > y->used;
}

/* Whether a name is an entry's, or begins with one and is a file under construction. */
static bool is_entry(const char *name, bool *unfinished)
{
    const size_t n = strspn(name, "0123456789abcdef"), ending = sizeof ENDING - 1;
    const bool entry = n == NAME_DIGITS && strncmp(name + n, ENDING, ending) == 0;
    *unfinished = entry && name[n + ending] != '\0';
    return entry;
}

/* `newest`: when the entry just written was. */
static size_t list_entries(const char *folder, char *const *names, size_t count, double newest,
                           kept_file *out, uint64_t *total)
{
    size_t n = 0;
    *total = 0;
    for (size_t i = 0; i < count; i++) {
        bool unfinished;
        if (!is_entry(names[i], &unfinished))
            continue;
        kept_file f = {.path = mica_path_join(folder, names[i])};
        const bool there = f.path && mica_file_stat(f.path, &f.size, &f.used);
        if (there && unfinished && newest - f.used > STALE_SECONDS)
            mica_file_remove(f.path);
        if (!there || unfinished) {
            mica_mem_free(f.path);
            continue;
        }
        *total += f.size;
        out[n++] = f;
    }
    return n;
}

/* Removes what was not used for longest. Two processes that do it at once remove the same. */
static void limit_size(const char *folder, const char *written, uint64_t limit)
{
    char **names = NULL;
    size_t count = 0;
    uint64_t total, size;
    double newest;
    if (!mica_file_stat(written, &size, &newest) ||
        mica_path_list(folder, &names, &count, NULL) != MICA_OK)
        return;
    kept_file *files = mica_mem_calloc(count ? count : 1, sizeof *files);
    const size_t n = files ? list_entries(folder, names, count, newest, files, &total) : 0;
    if (files)
        qsort(files, n, sizeof *files, by_use);
    for (size_t i = 0; i < n; i++) {
        if (total > limit) {
            mica_file_remove(files[i].path);
            total -= files[i].size;
        }
        mica_mem_free(files[i].path);
    }
    mica_mem_free(files);
    mica_path_list_free(&names, count);
}

/* ------------------------------------------------------------------- keep -- */

/* Features on the host, as they will be uploaded. */
static mica_status download(mica_diffusion *d, const mica_prompt_key *k, mica_tensor host[2],
                            int32_t valid[2], mica_err *err)
{
    for (int i = 0; i < k->count; i++) {
        const mica_tensor *t = &d->text[i].embeds_TE;
        host[i] = mica_tensor_2d(NULL, MICA_DTYPE_F32, t->shape_[0], t->shape_[1]);
        host[i].data = mica_mem_alloc(mica_tensor_size(&host[i]));
        if (!host[i].data)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory to keep text features");
        mica_download_f32(d->be, host[i].data, t);
        valid[i] = (int32_t)d->text[i].valid;
    }
    return mica_backend_check(d->be, err);
}

static mica_status write_entry(mica_diffusion *d, const mica_prompt_key *k, const mica_text *key,
                               uint64_t limit, mica_err *err)
{
    static const char *const NAMES[3] = {"valid", "text.0", "text.1"};
    const char *folder = d->options->prompt_cache;
    mica_tensor host[2] = {{0}};
    int32_t valid[2] = {0};
    char digest[17];
    char *path = entry_path(folder, key);
    mica_status st = path ? download(d, k, host, valid, err)
                          : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a path");
    const mica_tensor counts = mica_tensor_1d(valid, MICA_DTYPE_I32, k->count);
    const mica_tensor *const tensors[3] = {&counts, &host[0], &host[1]};
    mica_safetensors_entry entries[3];
    for (int i = 0; i <= k->count; i++)
        entries[i] = (mica_safetensors_entry){NAMES[i], tensors[i]};
    if (!st) {
        digest_of(tensors, k->count + 1, digest);
        const char *const metadata[] = {"key", key->data, "digest", digest, NULL};
        st = mica_path_make_dirs(folder, err);
        if (!st)
            st = mica_safetensors_write(path, entries, (size_t)k->count + 1, metadata, err);
    }
    if (!st)
        limit_size(folder, path, limit);
    for (int i = 0; i < 2; i++)
        mica_mem_free(host[i].data);
    mica_mem_free(path);
    return st;
}

void mica_prompt_cache_keep(mica_diffusion *d, const mica_prompt_key *k)
{
    const uint64_t limit =
        d->options->prompt_cache_bytes ? d->options->prompt_cache_bytes : DEFAULT_BYTES;
    mica_text key = {0};
    mica_err err = {0};
    if (!is_wanted(d))
        return;
    write_key(d, k, &key);
    const mica_status st = key.failed ? MICA_FAIL(&err, MICA_E_NOMEM, "no memory for its key")
                                      : write_entry(d, k, &key, limit, &err);
    if (st)
        mica_run_notice(&d->run, "the prompt is not cached: %s", err.text);
    mica_text_deinit(&key);
}
