/* engine.c - a loaded model behind mica_engine.
 *
 * Opening resolves what the user gave into parts, maps them and checks every tensor; no weight
 * data is read. Without a model the demo model is taken: `models/demo` beside the library's
 * folder (build tree) or `share/mica/models/demo` below the install prefix. */
#include "api/api.h"

#include "base/compiler.h"
#include "base/cpu.h"
#include "base/file.h"
#include "models/model_files.h"

#include <dlfcn.h>
#include <string.h>

#define VERSION_TEXT_2(a, b, c) #a "." #b "." #c
#define VERSION_TEXT(a, b, c)   VERSION_TEXT_2(a, b, c)

const char *mica_version(void)
{
    return VERSION_TEXT(MICA_VERSION_MAJOR, MICA_VERSION_MINOR, MICA_VERSION_PATCH);
}

mica_status api_options(void *out, size_t known, const void *options, size_t size, mica_err *err)
{
    memset(out, 0, known);
    if (!options || size < sizeof(size_t))
        return MICA_FAIL(err, MICA_E_USAGE, "the options' `size` is not set");
    memcpy(out, options, MICA_MIN(size, known));
    return MICA_OK;
}

mica_precision api_precision(const mica_engine *engine)
{
    const mica_precision p = engine->options.precision;
    return p == MICA_PRECISION_AUTO ? MICA_PRECISION_BF16 : p;
}

static mica_status check_options(const mica_engine_options *o, mica_err *err)
{
    if (o->device < MICA_DEVICE_AUTO || o->device > MICA_DEVICE_CUDA)
        return MICA_FAIL(err, MICA_E_USAGE, "unknown device %d", (int)o->device);
    if (o->precision < MICA_PRECISION_AUTO || o->precision > MICA_PRECISION_FP8)
        return MICA_FAIL(err, MICA_E_USAGE, "unknown precision %d", (int)o->precision);
    if (o->host_experts < -1)
        return MICA_FAIL(err, MICA_E_USAGE, "host_experts must be -1 or more, not %d",
                         o->host_experts);
    if (o->threads < 0 || o->threads > 1024)
        return MICA_FAIL(err, MICA_E_USAGE, "threads must be 0 (all) to 1024, not %d", o->threads);
    return MICA_OK;
}

/* AUTO: a GPU that can be used. Where there is a driver, whoever looks for the GPU hears why it rests. */
static mica_device choose_device(bool int8, mica_text *notes)
{
    mica_err why = {0};
    const bool usable = mica_backend_cuda_usable(&why) == MICA_OK;
    if (usable && !int8)
        return MICA_DEVICE_CUDA;
    if (usable)
        mica_text_add(notes, "the CPU computes: GPUs have no precision int8 here; they have bf16 "
                             "and, on Hopper, fp8");
    else if (mica_backend_cuda_has_driver())
        mica_text_add(notes, "the CPU computes: %s", why.text);
    return MICA_DEVICE_CPU;
}

mica_status api_resolve_device(mica_engine_options *o, mica_text *notes, mica_err *err)
{
    const bool fp8 = o->precision == MICA_PRECISION_FP8, int8 = o->precision == MICA_PRECISION_INT8;
    if (o->device == MICA_DEVICE_CUDA)
        MICA_TRY(mica_backend_cuda_usable(err));
    if (o->device == MICA_DEVICE_CUDA && int8)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "precision int8: not there on device cuda; use fp8, bf16 or f32");
    if (o->device == MICA_DEVICE_AUTO)
        o->device = choose_device(int8, notes);
    if (o->vram_limit && o->device == MICA_DEVICE_CPU)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "a limit of GPU memory (--vram) has no meaning on the CPU; leave it out, or "
            "take device cuda");
    if (o->host_experts && o->device == MICA_DEVICE_CPU)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "--cpu-experts is for a model on a GPU; without one the CPU computes "
                         "everything");
    if (fp8 && o->device == MICA_DEVICE_CPU)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "precision fp8: CPUs do not compute in fp8; use int8 or bf16 (fp8 weight "
                         "files work in every precision)");
    return MICA_OK;
}

/* ------------------------------------------------------------ demo model -- */

/* Folder of the shared library; NULL when the system does not tell. Freed by the caller. */
static char *library_folder(void)
{
    static const char anchor = 0;
    Dl_info info;
    if (!dladdr(&anchor, &info) || !info.dli_fname)
        return NULL;
    const char *slash = strrchr(info.dli_fname, '/');
    return slash ? mica_mem_strndup(info.dli_fname, (size_t)(slash - info.dli_fname))
                 : mica_mem_strdup(".");
}

static mica_status find_demo(bool text, char **out, mica_err *err)
{
    /* Build tree; prefix/lib; prefix/lib/<architecture>. */
    static const char *const places[] = {"../models", "../share/mica/models",
                                         "../../share/mica/models"};
    char *folder = library_folder();
    *out = NULL;
    for (size_t i = 0; folder && i < MICA_ARRAY_LEN(places) && !*out; i++) {
        char *models = mica_path_join(folder, places[i]);
        char *path = models ? mica_path_join(models, text ? "demo_text" : "demo") : NULL;
        mica_mem_free(models);
        if (path && mica_path_is_dir(path))
            *out = path;
        else
            mica_mem_free(path);
    }
    mica_mem_free(folder);
    if (!*out)
        return MICA_FAIL(err, MICA_E_MISSING,
                         "no model given, and no demo model is installed; name a model folder");
    return MICA_OK;
}

static bool has_parts(const mica_engine_options *o)
{
    return o->transformer || o->text_encoder || o->vae || o->tokenizer || o->semantic ||
           o->synthesizer;
}

/* ----------------------------------------------------------------- open -- */

static mica_status open_synthetic_as(mica_engine *e, const char *id, const char *spec,
                                     mica_err *err)
{
    e->kind = mica_model_kind_find(id);
    e->name = mica_mem_strdup(id);
    if (!e->name)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a model's name");
    return e->kind->open_synthetic(&e->model, spec, err);
}

static mica_status open_synthetic(mica_engine *e, const char *spec, mica_err *err)
{
    char id[64] = "";
    const size_t n = strcspn(spec, ":");
    if (n < sizeof id) {
        memcpy(id, spec, n);
        id[n] = 0;
        e->kind = mica_model_kind_find(id);
    }
    if (!e->kind && strncmp(spec, "gpt-sovits-", 11) == 0) /* "gpt-sovits-v2" is "gpt-sovits:v2" */
        return open_synthetic_as(e, "gpt-sovits", spec + 11, err);
    if (!e->kind && strcmp(id, "mixtral-8x7b") == 0)
        return open_synthetic_as(e, "mixtral", spec + n + (spec[n] == ':'), err);
    if (!e->kind)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "\"%s\" is no synthetic model; there are qwen-image[:layers=N,text_layers=N], "
            "flux2-klein, z-image, gpt-sovits-v2, gpt-sovits-v2pro, gpt-sovits-v2proplus and "
            "mixtral-8x7b[:layers=N]",
            spec);
    e->name = mica_mem_strdup(spec);
    if (!e->name)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a model's name");
    return e->kind->open_synthetic(&e->model, spec + n + (spec[n] == ':'), err);
}

static mica_status open_files(mica_engine *e, const mica_engine_options *given, mica_err *err)
{
    mica_engine_options options = *given;
    mica_model_parts parts;
    char *demo = NULL;
    if (!options.model && !has_parts(&options)) {
        MICA_TRY(find_demo(given->demo_text, &demo, err));
        options.model = demo;
    }
    const char *name = options.model ? options.model : options.transformer;
    e->name = mica_mem_strdup(name ? name : "model");
    mica_status st = e->name ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "no memory for a name");
    if (!st)
        st = mica_model_defaults_read(&e->defaults, options.model, err);
    if (!st)
        st = mica_model_parts_resolve(&parts, &e->kind, &options, err);
    if (!st) {
        st = e->kind->open(&e->model, &parts, err);
        mica_model_parts_deinit(&parts);
    }
    mica_mem_free(demo);
    return st;
}

mica_status mica_engine_open(mica_engine **out, const mica_engine_options *options)
{
    mica_engine *e = mica_mem_calloc(1, sizeof *e);
    *out = e;
    if (!e)
        return MICA_E_NOMEM;
    MICA_TRY(
        api_options(&e->options, sizeof e->options, options, options ? options->size : 0, &e->err));
    MICA_TRY(check_options(&e->options, &e->err));
    MICA_TRY(api_resolve_device(&e->options, &e->notes, &e->err));
    if (e->options.cpu_level != MICA_CPU_LEVEL_AUTO)
        MICA_TRY(mica_cpu_set_level(e->options.cpu_level, &e->err));
    MICA_TRY(e->options.synthetic ? open_synthetic(e, e->options.synthetic, &e->err)
                                  : open_files(e, &e->options, &e->err));
    return api_loras_open(e, &e->options, &e->err);
}

void mica_engine_close(mica_engine **engine)
{
    mica_engine *e = engine ? *engine : NULL;
    if (!e)
        return;
    if (e->model)
        e->kind->close(&e->model);
    mica_model_defaults_deinit(&e->defaults);
    api_loras_close(e);
    mica_mem_free(e->name);
    mica_mem_free(e);
    *engine = NULL;
}

const char *mica_engine_device(const mica_engine *engine)
{
    return engine->options.device == MICA_DEVICE_CUDA ? "cuda" : "cpu";
}

const char *mica_engine_errmsg(const mica_engine *engine)
{
    return engine ? engine->err.text : mica_status_name(MICA_E_NOMEM);
}
