/* convert_check.c - whether a conversion's input and output fit each other, before anything is read. */
#include "models/convert_folder.h"

#include "base/file.h"
#include "base/folder.h"
#include "base/names.h"

#include <string.h>

/* Names of files that are not written: more likely a mistake than a folder's name. */
static bool is_other_file(const char *path)
{
    static const char *const ENDS[] = {".bin", ".ckpt", ".pth", ".pt", ".onnx", ".json", ".npz"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(ENDS); i++)
        if (mica_name_ends(path, ENDS[i]))
            return true;
    return false;
}

static bool has_entry(const char *folder, const char *name)
{
    char *path = mica_path_join(folder, name);
    const bool found = path && (mica_path_is_dir(path) || mica_path_is_file(path));
    mica_mem_free(path);
    return found;
}

static mica_status check_types(const mica_convert_request *r, mica_err *err)
{
    const mica_convert_type *type = mica_convert_type_find(r->type);
    const bool gguf = mica_stream_is_gguf(r->output);
    if (!type)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "type '%s' is not known; q8, q6, q5, q4 (in GGUF Q8_0, Q6_K, Q5_K, Q4_K), "
                         "f32, f16, bf16, fp8 "
                         "and int8 are",
                         r->type);
    if (gguf && type->small == MICA_DTYPE_COUNT)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: a GGUF file has no type %s; use q8, or .safetensors", r->output,
                         type->name);
    if (gguf && r->synthesizer)
        return MICA_FAIL(err, MICA_E_USAGE, "%s: a voice is written as .safetensors", r->output);
    return MICA_OK;
}

static mica_status check_file(const mica_convert_request *r, mica_err *err)
{
    const bool from_folder = mica_path_is_dir(r->input);
    if (mica_path_is_dir(r->output))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: this is a folder", r->output);
    if (from_folder &&
        (has_entry(r->input, "model_index.json") || has_entry(r->input, "transformer")))
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "%s: this is a whole model, which is converted to a folder; or convert its "
            "parts one by one: its transformer folder, its text_encoder folder",
            r->input);
    if (from_folder && mica_path_is_inside(r->output, r->input))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: it lies in %s, whose files are read as one model",
                         r->output, r->input);
    if (mica_path_is_same(r->input, r->output))
        return MICA_FAIL(err, MICA_E_USAGE, "%s: this is the input itself", r->output);
    return MICA_OK;
}

mica_status mica_convert_check(const mica_convert_request *r, bool *folder, mica_err *err)
{
    *folder = !mica_name_ends(r->output, ".safetensors") && !mica_stream_is_gguf(r->output);
    MICA_TRY(check_types(r, err));
    if (!mica_path_is_dir(r->input) && !mica_path_is_file(r->input))
        return MICA_FAIL(err, MICA_E_MISSING, "%s: no such file or folder", r->input);
    if (r->semantic && !mica_path_is_dir(r->input))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a text-to-semantic model is chosen from a folder; %s is a file",
                         r->input);
    if (!*folder)
        return check_file(r, err);
    const bool whole = mica_path_is_dir(r->input) || mica_stream_is_gguf(r->input);
    if (!whole || is_other_file(r->output) || r->output[0] == '\0')
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: the output ends in .safetensors or .gguf; of a folder, or of a "
                         "language model's GGUF file, it may be a folder, too",
                         r->output);
    return MICA_OK;
}
