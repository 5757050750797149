/* schedule_config.c - scheduler_config.json into a mica_schedule_config.
 *
 *     { "_class_name": "FlowMatchEulerDiscreteScheduler",
 *       "use_dynamic_shifting": true, "base_shift": 0.5, "max_shift": 0.9, ... }
 *
 * Four classes of the reference are understood; defaults of absent keys are those of the
 * class's constructor. The multistep classes have many settings that only diffusion models use:
 * the values that Mica's solvers implement are required, every other one is refused by name, so
 * that no file silently runs with another method than it asks for. */
#include "sample/schedule.h"

#include "base/json.h"

#include <string.h>

typedef struct reader {
    const mica_json *json;
    mica_schedule_config *c;
    mica_err *err;
} reader;

static mica_status read_count(const reader *r, const char *key, int64_t hi, int *out)
{
    int64_t v = *out;
    MICA_TRY(mica_json_opt_int(r->json, r->json->root, key, 1, hi, &v, r->err));
    *out = (int)v;
    return MICA_OK;
}

static mica_status read_number(const reader *r, const char *key, double lo, double hi, double *out)
{
    return mica_json_opt_double(r->json, r->json->root, key, lo, hi, out, r->err);
}

static mica_status read_flag(const reader *r, const char *key, bool *out)
{
    return mica_json_opt_bool(r->json, r->json->root, key, out, r->err);
}

static mica_status read_shift_type(const reader *r)
{
    const char *type = "exponential";
    if (mica_json_find(r->json->root, "time_shift_type"))
        MICA_TRY(mica_json_get_string(r->json, r->json->root, "time_shift_type", &type, r->err));
    if (!strcmp(type, "exponential"))
        r->c->time_shift_type = MICA_SHIFT_EXPONENTIAL;
    else if (!strcmp(type, "linear"))
        r->c->time_shift_type = MICA_SHIFT_LINEAR;
    else
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: time_shift_type is \"%s\"; it must be \"exponential\" or \"linear\"",
                         r->json->name, type);
    return MICA_OK;
}

static mica_status read_spacing(const reader *r)
{
    bool karras = false, exponential = false, beta = false;
    MICA_TRY(read_flag(r, "use_karras_sigmas", &karras));
    MICA_TRY(read_flag(r, "use_exponential_sigmas", &exponential));
    MICA_TRY(read_flag(r, "use_beta_sigmas", &beta));
    if (karras + exponential + beta > 1)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: only one of use_karras_sigmas, use_exponential_sigmas and "
                         "use_beta_sigmas can be true",
                         r->json->name);
    if (karras)
        r->c->spacing = MICA_SPACING_KARRAS;
    else if (exponential)
        r->c->spacing = MICA_SPACING_EXPONENTIAL;
    else if (beta)
        r->c->spacing = MICA_SPACING_BETA;
    return MICA_OK;
}

/* Keys that decide mu and the stretch; every class but Heun's has them. */
static mica_status read_shifting(const reader *r)
{
    mica_schedule_config *c = r->c;
    MICA_TRY(read_flag(r, "use_dynamic_shifting", &c->use_dynamic_shifting));
    MICA_TRY(read_number(r, "base_shift", -50.0, 50.0, &c->base_shift));
    MICA_TRY(read_number(r, "max_shift", -50.0, 50.0, &c->max_shift));
    MICA_TRY(read_count(r, "base_image_seq_len", 1 << 24, &c->base_image_seq_len));
    MICA_TRY(read_count(r, "max_image_seq_len", 1 << 24, &c->max_image_seq_len));
    if (c->base_image_seq_len == c->max_image_seq_len)
        return MICA_FAIL(r->err, MICA_E_FORMAT,
                         "%s: base_image_seq_len and max_image_seq_len are both %d; they must "
                         "differ",
                         r->json->name, c->base_image_seq_len);
    MICA_TRY(read_number(r, "shift_terminal", 0.0, 0.999, &c->shift_terminal));
    return read_shift_type(r);
}

static mica_status read_euler(const reader *r)
{
    r->c->solver = MICA_SOLVER_EULER;
    MICA_TRY(read_number(r, "shift", 1e-3, 1e3, &r->c->shift));
    MICA_TRY(read_shifting(r));
    MICA_TRY(read_spacing(r));
    MICA_TRY(read_flag(r, "invert_sigmas", &r->c->invert_sigmas));
    return read_flag(r, "stochastic_sampling", &r->c->stochastic_sampling);
}

static mica_status read_heun(const reader *r)
{
    r->c->solver = MICA_SOLVER_HEUN;
    return read_number(r, "shift", 1e-3, 1e3, &r->c->shift);
}

static mica_status require_text(const reader *r, const char *key, const char *preset,
                                const char *wanted)
{
    const char *value = preset;
    if (mica_json_find(r->json->root, key))
        MICA_TRY(mica_json_get_string(r->json, r->json->root, key, &value, r->err));
    if (strcmp(value, wanted) != 0)
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                         "%s: %s is \"%s\"; only \"%s\" is supported here", r->json->name, key,
                         value, wanted);
    return MICA_OK;
}

static mica_status require_flag(const reader *r, const char *key, bool preset, bool wanted)
{
    bool value = preset;
    MICA_TRY(read_flag(r, key, &value));
    if (value != wanted)
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED, "%s: %s is %s; only %s is supported here",
                         r->json->name, key, value ? "true" : "false", wanted ? "true" : "false");
    return MICA_OK;
}

/* What DPMSolverMultistepScheduler and UniPCMultistepScheduler have in common. The presets
 * are the constructors' defaults: a file for a flow model must override the first two. */
static mica_status read_multistep(const reader *r)
{
    MICA_TRY(require_text(r, "prediction_type", "epsilon", "flow_prediction"));
    MICA_TRY(require_flag(r, "use_flow_sigmas", false, true));
    int order = 2;
    MICA_TRY(read_count(r, "solver_order", 100, &order));
    if (order != 2)
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                         "%s: solver_order is %d; only 2 is supported here", r->json->name, order);
    MICA_TRY(require_text(r, "final_sigmas_type", "zero", "zero"));
    MICA_TRY(require_flag(r, "thresholding", false, false));
    MICA_TRY(require_flag(r, "use_karras_sigmas", false, false));
    MICA_TRY(require_flag(r, "use_exponential_sigmas", false, false));
    MICA_TRY(require_flag(r, "use_beta_sigmas", false, false));
    MICA_TRY(read_number(r, "flow_shift", 1e-3, 1e3, &r->c->shift));
    return read_shifting(r);
}

static mica_status read_dpmpp(const reader *r)
{
    r->c->solver = MICA_SOLVER_DPMPP_2M;
    MICA_TRY(require_text(r, "algorithm_type", "dpmsolver++", "dpmsolver++"));
    MICA_TRY(require_text(r, "solver_type", "midpoint", "midpoint"));
    MICA_TRY(require_flag(r, "use_lu_lambdas", false, false));
    return read_multistep(r);
}

static mica_status read_unipc(const reader *r)
{
    r->c->solver = MICA_SOLVER_UNIPC;
    MICA_TRY(require_text(r, "solver_type", "bh2", "bh2"));
    MICA_TRY(require_flag(r, "predict_x0", true, true));
    MICA_TRY(require_flag(r, "lower_order_final", true, true));
    size_t disabled = 0;
    int64_t steps[1];
    if (mica_json_opt_ints(r->json, r->json->root, "disable_corrector", steps, 1, &disabled,
                           r->err) != MICA_OK ||
        disabled > 0)
        return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                         "%s: disable_corrector is set; only an empty list is supported here",
                         r->json->name);
    return read_multistep(r);
}

static mica_status read_class(const reader *r)
{
    static const struct {
        const char *name;
        mica_status (*read)(const reader *r);
    } classes[] = {
        {"FlowMatchEulerDiscreteScheduler", read_euler},
        {"FlowMatchHeunDiscreteScheduler", read_heun},
        {"DPMSolverMultistepScheduler", read_dpmpp},
        {"UniPCMultistepScheduler", read_unipc},
    };
    const char *name;
    MICA_TRY(mica_json_get_string(r->json, r->json->root, "_class_name", &name, r->err));
    MICA_TRY(read_count(r, "num_train_timesteps", 1000000, &r->c->num_train_timesteps));
    for (size_t i = 0; i < MICA_ARRAY_LEN(classes); i++)
        if (!strcmp(name, classes[i].name))
            return classes[i].read(r);
    return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                     "%s: scheduler class \"%s\" is not supported; use one of %s, %s, %s, %s",
                     r->json->name, name, classes[0].name, classes[1].name, classes[2].name,
                     classes[3].name);
}

static mica_status read_json(mica_schedule_config *c, const mica_json *json, mica_err *err)
{
    mica_schedule_config_init(c);
    const reader r = {json, c, err};
    return read_class(&r);
}

mica_status mica_schedule_config_read(mica_schedule_config *c, const char *path, mica_err *err)
{
    mica_json json;
    MICA_TRY(mica_json_open(&json, path, err));
    const mica_status st = read_json(c, &json, err);
    mica_json_close(&json);
    return st;
}

mica_status mica_schedule_config_parse(mica_schedule_config *c, const char *name, const char *text,
                                       size_t size, mica_err *err)
{
    mica_json json;
    MICA_TRY(mica_json_parse(&json, name, text, size, err));
    const mica_status st = read_json(c, &json, err);
    mica_json_close(&json);
    return st;
}
