/* convert_folder.c - a model folder as another one: its networks converted, everything else copied.
 *
 *     IN/                                OUT/   (OUT.tmp.XXXXXX/ until it is whole)
 *       model_index.json, README, ...      copied
 *       transformer/, text_encoder/        converted; config.json with what MLX's programs look for
 *       vae/, tokenizer/, scheduler/       copied
 *
 *     IN/ of one network (a language model, one part)      model.safetensors, or shards and their index
 *     IN.gguf, or a folder that holds one, of a language model      the same, config.json and tokenizer from inside
 *     IN/ of a speech model      voice.safetensors (both checkpoints), HuBERT, BERT and g2pW in their folders,
 *                                speaker
 *
 * Not copied: hidden files, and weights beside those that are converted (other formats of the same model). */
#include "models/convert_folder.h"

#include "base/file.h"
#include "base/folder.h"
#include "base/names.h"
#include "models/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 6

static mica_status no_memory(const mica_convert_folder *f, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to convert it", f->input);
}

/* Files that hold weights or say where they are. */
static bool is_weights(const char *name)
{
    static const char *const ENDS[] = {".safetensors", ".gguf", ".ckpt", ".pth",     ".pt",
                                       ".bin",         ".onnx", ".h5",   ".msgpack", ".index.json"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(ENDS); i++)
        if (mica_name_ends(name, ENDS[i]))
            return true;
    return false;
}

static mica_status has(const mica_convert_folder *f, const char *name, bool *found, mica_err *err)
{
    char *path = mica_path_join(f->input, name);
    *found = path && (mica_path_is_dir(path) || mica_path_is_file(path));
    mica_mem_free(path);
    return path ? MICA_OK : no_memory(f, err);
}

/* ------------------------------------------------------------------- parts -- */

static mica_status add_part(mica_convert_folder *f, const mica_convert_request *request,
                            const char *name, const char *input, const char *synthesizer,
                            const char *stem, mica_err *err)
{
    mica_convert_part *part = &f->parts[f->count];
    mica_convert_request r = *request;
    if (f->count == MICA_CONVERT_PARTS)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: it has more than %d parts", f->input,
                         MICA_CONVERT_PARTS);
    r.input = input;
    r.synthesizer = synthesizer;
    r.semantic = NULL;
    r.stem = stem;
    part->name = mica_mem_strdup(name);
    if (!part->name)
        return no_memory(f, err);
    const mica_status st = mica_convert_plan_make(&part->plan, &r, err);
    if (st) {
        mica_mem_free(part->name);
        part->name = NULL;
        return st;
    }
    f->count++;
    return mica_convert_check_config(&part->plan, err);
}

static mica_status add_picture_parts(mica_convert_folder *f, const mica_convert_request *r,
                                     mica_err *err)
{
    static const struct {
        const char *name, *stem;
    } PARTS[] = {{"transformer", "diffusion_pytorch_model"}, {"text_encoder", "model"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++) {
        bool found;
        MICA_TRY(has(f, PARTS[i].name, &found, err));
        if (!found)
            continue;
        char *path = mica_path_join(f->input, PARTS[i].name);
        const mica_status st = path ? add_part(f, r, PARTS[i].name, path, NULL, PARTS[i].stem, err)
                                    : no_memory(f, err);
        mica_mem_free(path);
        MICA_TRY(st);
    }
    return MICA_OK;
}

/* What of `path` is behind the folder. */
static const char *below(const mica_convert_folder *f, const char *path)
{
    const size_t n = strlen(f->input);
    path += strncmp(path, f->input, n) == 0 ? n : 0;
    while (*path == '/')
        path++;
    return path;
}

/* Networks in folders of their own stay there; files come to the top. */
static mica_status add_speech_part(mica_convert_folder *f, const mica_convert_request *r,
                                   const char *path, const char *stem, mica_err *err)
{
    if (!path)
        return MICA_OK;
    const bool folder = mica_path_is_dir(path);
    return add_part(f, r, folder ? below(f, path) : "", path, NULL, folder ? "model" : stem, err);
}

/* g2pW's file becomes the model of its folder, where its lists are: they are looked for there. */
static mica_status add_g2pw(mica_convert_folder *f, const mica_convert_request *r, const char *path,
                            mica_err *err)
{
    const char *file = path ? strrchr(below(f, path), '/') : NULL;
    if (!file || mica_path_is_dir(path))
        return add_speech_part(f, r, path, "g2pw", err);
    char *folder = mica_mem_strndup(below(f, path), (size_t)(file - below(f, path)));
    const mica_status st =
        folder ? add_part(f, r, folder, path, NULL, "model", err) : no_memory(f, err);
    mica_mem_free(folder);
    return st;
}

static mica_status add_speech_parts(mica_convert_folder *f, const mica_convert_request *r,
                                    mica_err *err)
{
    const bool given[MICA_PART_COUNT] = {[MICA_PART_SEMANTIC] = r->semantic != NULL,
                                         [MICA_PART_SYNTHESIZER] = r->synthesizer != NULL};
    mica_model_parts parts = {0};
    mica_status st = mica_speech_parts_find(&parts, f->input, given, err);
    const char *semantic = r->semantic ? r->semantic : parts.path[MICA_PART_SEMANTIC];
    const char *synthesizer = r->synthesizer ? r->synthesizer : parts.path[MICA_PART_SYNTHESIZER];
    f->is_speech = true;
    if (!st && !(semantic && synthesizer))
        st = MICA_FAIL(err, MICA_E_UNSUPPORTED,
                       "%s: this is no model that is converted as a whole: a folder with "
                       "model_index.json or transformer/, of one network with its config.json, or "
                       "of a speech model; its parts can be converted one by one",
                       f->input);
    if (!st)
        st = add_part(f, r, "", semantic, strcmp(semantic, synthesizer) == 0 ? NULL : synthesizer,
                      "voice", err);
    if (!st)
        st = add_speech_part(f, r, parts.path[MICA_PART_HUBERT], "hubert", err);
    if (!st)
        st = add_speech_part(f, r, parts.path[MICA_PART_BERT], "bert", err);
    if (!st)
        st = add_speech_part(f, r, parts.path[MICA_PART_SPEAKER], "speaker", err);
    if (!st)
        st = add_g2pw(f, r, parts.path[MICA_PART_G2PW], err);
    mica_model_parts_deinit(&parts);
    return st;
}

/* Weights and a config.json at the top of the folder, or a GGUF file, which needs none. */
static mica_status is_network(const mica_convert_folder *f, bool *out, mica_err *err)
{
    char **names = NULL;
    size_t count = 0;
    bool weights = false, gguf = false, config;
    MICA_TRY(has(f, "config.json", &config, err));
    MICA_TRY(mica_path_list(f->input, &names, &count, err));
    for (size_t i = 0; i < count; i++) {
        weights |= names[i][0] != '.' && is_weights(names[i]);
        gguf |= names[i][0] != '.' && mica_stream_is_gguf(names[i]);
    }
    mica_path_list_free(&names, count);
    *out = (config && weights) || gguf;
    return MICA_OK;
}

/* A network whose settings lie in the file becomes a folder only where those and its tokenizer are known. */
static mica_status check_alone(const mica_convert_folder *f, const char *input, mica_err *err)
{
    const mica_convert_source *s = &f->parts[0].plan.sources[0];
    const bool whole = s->language && mica_weights_meta(s->weights, "tokenizer.ggml.tokens");
    if (whole || s->config_path)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_USAGE,
                     "%s: only a GGUF file of a language model, which has its tokenizer inside, "
                     "becomes a folder; name an output that ends in .safetensors or .gguf",
                     input);
}

/* Named by what it turns out to be. */
static mica_status add_network(mica_convert_folder *f, const mica_convert_request *r, mica_err *err)
{
    MICA_TRY(add_part(f, r, "", f->input, NULL, "model", err));
    const mica_model_part part = f->parts[0].plan.sources[0].part;
    MICA_TRY(check_alone(f, r->input, err));
    if (part != MICA_PART_TRANSFORMER && part != MICA_PART_VAE)
        return MICA_OK;
    mica_convert_folder_deinit(f);
    return add_part(f, r, "", f->input, NULL, "diffusion_pytorch_model", err);
}

static mica_status check_no_choice(const mica_convert_folder *f, const mica_convert_request *r,
                                   mica_err *err)
{
    if (!r->semantic && !r->synthesizer)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_USAGE,
                     "%s: this is no speech model, of whose parts --semantic and --synthesizer "
                     "choose one",
                     f->input);
}

static mica_status add_parts(mica_convert_folder *f, const mica_convert_request *r, mica_err *err)
{
    bool transformer, index, network;
    if (mica_path_is_file(f->input)) {
        MICA_TRY(check_no_choice(f, r, err));
        return add_network(f, r, err);
    }
    MICA_TRY(has(f, "transformer", &transformer, err));
    MICA_TRY(has(f, "model_index.json", &index, err));
    MICA_TRY(is_network(f, &network, err));
    if (transformer || index || network)
        MICA_TRY(check_no_choice(f, r, err));
    if (transformer)
        return add_picture_parts(f, r, err);
    if (index)
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: it has no folder transformer/; models of that kind are not known here", f->input);
    return network ? add_network(f, r, err) : add_speech_parts(f, r, err);
}

/* ------------------------------------------------------------------ checks -- */

static mica_status is_empty(const char *folder, bool *out, mica_err *err)
{
    char **names = NULL;
    size_t count = 0;
    MICA_TRY(mica_path_list(folder, &names, &count, err));
    mica_path_list_free(&names, count);
    *out = count == 0;
    return MICA_OK;
}

static mica_status check_place(const mica_convert_folder *f, bool replace, mica_err *err)
{
    bool empty = true;
    if (!mica_path_is_dir(f->input) && !mica_path_is_file(f->input))
        return MICA_FAIL(err, MICA_E_MISSING, "%s: no such file or folder", f->input);
    if (mica_path_is_file(f->output))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: a file is there; a folder is converted to a folder", f->output);
    if (mica_path_is_inside(f->output, f->input))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: it lies in %s, which is to be read", f->output,
                         f->input);
    if (mica_path_is_dir(f->output) && mica_path_is_inside(f->input, f->output))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: it holds %s, which is to be read", f->output,
                         f->input);
    if (mica_path_is_dir(f->output))
        MICA_TRY(is_empty(f->output, &empty, err));
    if (!empty && !replace)
        return MICA_FAIL(err, MICA_E_USAGE, "%s: it is there already; --force replaces it",
                         f->output);
    return MICA_OK;
}

mica_status mica_convert_folder_make(mica_convert_folder *f, const mica_convert_request *request,
                                     bool replace, mica_err *err)
{
    *f = (mica_convert_folder){.input = request->input, .output = request->output};
    MICA_TRY(check_place(f, replace, err));
    const mica_status st = add_parts(f, request, err);
    if (st)
        mica_convert_folder_deinit(f);
    return st;
}

void mica_convert_folder_deinit(mica_convert_folder *f)
{
    for (int i = 0; i < f->count; i++) {
        mica_convert_plan_deinit(&f->parts[i].plan);
        mica_mem_free(f->parts[i].name);
    }
    f->count = 0;
}

/* ----------------------------------------------------------------- running -- */

typedef struct mover {
    mica_convert_folder *f;
    const char *out;
    mica_convert_progress_fn progress;
    void *user;
    uint64_t done, all; /* numbers; of copied files a quarter of their bytes */
    uint64_t bytes;     /* that will be written */
    bool counts;        /* only adds up */
    mica_err *err;
} mover;

static bool tell_numbers(void *user, uint64_t done, uint64_t all)
{
    const mover *m = user;
    (void)all;
    return !m->progress || m->progress(m->user, m->done + done, m->all);
}

static bool tell_bytes(void *user, uint64_t bytes)
{
    return tell_numbers(user, bytes / 4, 0);
}

/* The part whose folder this is, or NULL. */
static const mica_convert_part *part_in(const mover *m, const char *folder)
{
    for (int i = 0; i < m->f->count; i++)
        if (strcmp(m->f->parts[i].name, folder) == 0)
            return &m->f->parts[i];
    return NULL;
}

/* Whether a file of `folder` (below the model's) stays behind: it is written anew, or superseded. */
static bool is_left(const mover *m, const char *folder, const char *name)
{
    const bool converted = part_in(m, folder) != NULL || folder[0] == '\0';
    if (name[0] == '.')
        return true;
    if (m->f->is_speech && mica_name_ends(name, ".onnx") && !part_in(m, folder)) /* not g2pW's */
        return false;
    if (converted && is_weights(name))
        return true;
    if (part_in(m, folder) && !m->f->is_speech && strcmp(name, "config.json") == 0)
        return true;
    return m->f->is_speech && (mica_name_ends(name, ".ckpt") || mica_name_ends(name, ".pth") ||
                               mica_name_ends(name, ".pt") || mica_name_ends(name, ".safetensors"));
}

static mica_status move_file(mover *m, const char *from, const char *to)
{
    uint64_t size = 0;
    double changed;
    if (!mica_file_stat(from, &size, &changed))
        return MICA_OK; /* a socket, a dangling link */
    if (m->counts) {
        m->bytes += size;
        m->all += size / 4;
        return MICA_OK;
    }
    MICA_TRY(mica_file_copy(from, to, tell_bytes, m, m->err));
    m->done += size / 4;
    m->f->copied += size;
    return MICA_OK;
}

static mica_status move_folder(mover *m, const char *folder, int depth);

static mica_status move_entry(mover *m, const char *folder, const char *name, int depth)
{
    char *rest = *folder ? mica_path_join(folder, name) : mica_mem_strdup(name);
    char *from = rest ? mica_path_join(m->f->input, rest) : NULL;
    char *to = rest ? mica_path_join(m->out, rest) : NULL;
    mica_status st = MICA_OK;
    if (!from || !to)
        st = no_memory(m->f, m->err);
    else if (mica_path_is_dir(from)) {
        if (name[0] != '.' && depth < DEPTH) {
            st = m->counts ? MICA_OK : mica_path_make_dirs(to, m->err);
            st = st ? st : move_folder(m, rest, depth + 1);
        }
    } else if (!is_left(m, folder, name))
        st = move_file(m, from, to);
    mica_mem_free(rest);
    mica_mem_free(from);
    mica_mem_free(to);
    return st;
}

static mica_status move_folder(mover *m, const char *folder, int depth)
{
    char **names = NULL;
    size_t count = 0;
    char *path = *folder ? mica_path_join(m->f->input, folder) : mica_mem_strdup(m->f->input);
    mica_status st = path ? mica_path_list(path, &names, &count, m->err) : no_memory(m->f, m->err);
    mica_mem_free(path);
    for (size_t i = 0; i < count && !st; i++)
        st = move_entry(m, folder, names[i], depth);
    mica_path_list_free(&names, count);
    return st;
}

/* Of a GGUF file. A tokenizer that lies beside it is copied and wins. */
static mica_status write_tokenizer(const mover *m, const mica_convert_part *part,
                                   const char *folder)
{
    bool beside = false;
    if (!mica_weights_meta(part->plan.sources[0].weights, "tokenizer.ggml.tokens") ||
        !part->plan.sources[0].language)
        return MICA_OK;
    MICA_TRY(has(m->f, "tokenizer.json", &beside, m->err));
    return beside ? MICA_OK : mica_convert_write_tokenizer(&part->plan, folder, m->err);
}

static mica_status run_part(mover *m, mica_convert_part *part)
{
    char *folder = *part->name ? mica_path_join(m->out, part->name) : mica_mem_strdup(m->out);
    mica_status st = folder ? mica_path_make_dirs(folder, m->err) : no_memory(m->f, m->err);
    if (!st)
        st = mica_convert_run(&part->plan, folder, tell_numbers, m, m->err);
    if (!st)
        st = mica_convert_write_index(&part->plan, folder, m->err);
    if (!st && !m->f->is_speech)
        st = mica_convert_write_config(&part->plan, folder, m->err);
    if (!st)
        st = write_tokenizer(m, part, folder);
    mica_mem_free(folder);
    m->done += part->plan.numbers;
    return st;
}

static mica_status check_room(const mover *m)
{
    const uint64_t room = mica_folder_room(m->f->output);
    if (m->bytes <= room)
        return MICA_OK;
    return MICA_FAIL(m->err, MICA_E_IO,
                     "%s: there is no room: %.4g GB are needed, %.4g GB are free", m->f->output,
                     (double)m->bytes * 1e-9, (double)room * 1e-9);
}

static mica_status fill(mover *m)
{
    const bool copies = mica_path_is_dir(m->f->input);
    m->counts = true;
    if (copies)
        MICA_TRY(move_folder(m, "", 0));
    for (int i = 0; i < m->f->count; i++) {
        m->all += m->f->parts[i].plan.numbers;
        m->bytes += m->f->parts[i].plan.bytes;
    }
    MICA_TRY(check_room(m));
    m->counts = false;
    for (int i = 0; i < m->f->count; i++)
        MICA_TRY(run_part(m, &m->f->parts[i]));
    return copies ? move_folder(m, "", 0) : MICA_OK;
}

mica_status mica_convert_folder_run(mica_convert_folder *f, bool replace,
                                    mica_convert_progress_fn progress, void *user, mica_err *err)
{
    mica_folder_out out;
    MICA_TRY(mica_folder_out_open(&out, f->output, err));
    mover m = {.f = f, .out = out.temp_path, .progress = progress, .user = user, .err = err};
    const mica_status st = fill(&m);
    if (!st)
        return mica_folder_out_commit(&out, replace, err);
    mica_folder_out_abort(&out);
    return st;
}
