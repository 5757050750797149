/* conversion.c - mica_convert: plan, run, and what became of every layer as a report. */
#include "api/api.h"

#include "base/clock.h"
#include "models/convert.h"

#include <stdio.h>
#include <string.h>

typedef struct convert_watch {
    const mica_convert_options *options;
    double start;
} convert_watch;

/* Numbers done in thousandths, so that 20 billion fit an int. */
static bool tell(void *user, uint64_t done, uint64_t all)
{
    const convert_watch *w = user;
    const mica_progress now = {.phase = MICA_PHASE_CONVERT,
                               .block = all ? (int)(1000.0 * (double)done / (double)all) : 1000,
                               .block_count = 1000,
                               .seconds = mica_clock_seconds() - w->start};
    return !w->options->progress || w->options->progress(w->options->progress_user, &now);
}

static bool is_packed(const mica_convert_item *item)
{
    return item->form >= MICA_CONVERT_BLOCKS;
}

/* ------------------------------------------------------------------ report -- */

typedef struct convert_sums {
    size_t packed;
    double numbers, error, worst;
    const char *worst_name;
    uint64_t bytes;
} convert_sums;

static convert_sums add_up(const mica_convert_plan *p)
{
    convert_sums s = {.worst_name = ""};
    for (size_t i = 0; i < p->item_count; i++) {
        const mica_convert_item *item = &p->items[i];
        if (!is_packed(item))
            continue;
        const double n = (double)mica_tensor_count(item->from);
        s.packed++;
        s.numbers += n;
        s.error += n * item->error;
        if (item->error > s.worst) {
            s.worst = item->error;
            s.worst_name = item->name;
        }
    }
    for (size_t i = 0; i < p->tensor_count; i++) {
        const mica_tensor t =
            mica_tensor_make(NULL, p->tensors[i].dtype, p->tensors[i].ndim, p->tensors[i].shape_);
        s.bytes += mica_tensor_size(&t);
    }
    return s;
}

/* "11.52 GB", "320.6 kB": models have all sizes. */
static const char *size_text(uint64_t bytes, char *buffer, size_t size)
{
    static const char *const UNITS[] = {"kB", "MB", "GB"};
    double v = (double)bytes * 1e-3;
    int unit = 0;
    for (; v >= 1000.0 && unit < 2; unit++)
        v *= 1e-3;
    snprintf(buffer, size, "%.4g %s", v, UNITS[unit]);
    return buffer;
}

static void write_text(mica_text *t, const mica_convert_plan *p, const mica_convert_options *o,
                       const convert_sums *s)
{
    char now[32], before[32];
    mica_text_add(t, "%s: %zu tensors, %.4g M parameters, %s, was %s\n", o->output, p->item_count,
                  (double)mica_weights_parameters(p->weights) * 1e-6,
                  size_text(s->bytes, now, sizeof now),
                  size_text(mica_weights_bytes(p->weights), before, sizeof before));
    mica_text_add(t, "  %zu packed, %zu kept", s->packed, p->item_count - s->packed);
    if (p->left_out)
        mica_text_add(t, ", %lld left out (a vision tower has a file of its own in GGUF)",
                      (long long)p->left_out);
    if (s->packed)
        mica_text_add(t, "; relative error %.4f on average, %.4f at most (%s)",
                      s->error / s->numbers, s->worst, s->worst_name);
    mica_text_add(t, "\n");
}

static void write_json(mica_text *j, const mica_convert_plan *p, const mica_convert_options *o,
                       const convert_sums *s, double seconds)
{
    mica_text_add(j, "{\"kind\":\"conversion\",\"input\":");
    mica_text_add_json_string(j, o->input);
    mica_text_add(j, ",\"output\":");
    mica_text_add_json_string(j, o->output);
    mica_text_add(j, ",\"type\":");
    mica_text_add_json_string(j, o->type);
    mica_text_add(j, ",\"family\":");
    mica_text_add_json_string(j, p->kind ? p->kind->id : "unknown");
    mica_text_add(j,
                  ",\"seconds\":%.3f,\"bytes_in\":%llu,\"bytes_out\":%llu,\"left_out\":%lld,"
                  "\"packed\":%zu,\"average_error\":%.6g,\"layers\":[",
                  seconds, (unsigned long long)mica_weights_bytes(p->weights),
                  (unsigned long long)s->bytes, (long long)p->left_out, s->packed,
                  s->packed ? s->error / s->numbers : 0.0);
    for (size_t i = 0; i < p->item_count; i++) {
        const mica_convert_item *item = &p->items[i];
        mica_text_add(j, "%s{\"name\":", i ? "," : "");
        mica_text_add_json_string(j, item->name);
        mica_text_add(j, ",\"from\":\"%s\",\"to\":\"%s\"", mica_dtype_get(item->from->dtype)->name,
                      mica_dtype_get(item->dtype)->name);
        if (item->group)
            mica_text_add(j, ",\"group\":%d", item->group);
        if (is_packed(item))
            mica_text_add(j, ",\"relative_error\":%.6g", item->error);
        mica_text_add(j, "}");
    }
    mica_text_add(j, "]}");
}

/* ------------------------------------------------------------------- entry -- */

static mica_status convert(mica_report *r, const mica_convert_options *o)
{
    mica_convert_plan plan;
    convert_watch watch = {.options = o, .start = mica_clock_seconds()};
    if (!o->input || !o->output || !o->type)
        return MICA_FAIL(&r->err, MICA_E_USAGE,
                         "a conversion needs an input, an output and a type");
    MICA_TRY(mica_convert_plan_make(&plan, o->input, o->output, o->type, &r->err));
    const mica_status st = mica_convert_run(&plan, o->output, tell, &watch, &r->err);
    if (!st) {
        const convert_sums sums = add_up(&plan);
        write_text(&r->text, &plan, o, &sums);
        write_json(&r->json, &plan, o, &sums, mica_clock_seconds() - watch.start);
    }
    mica_convert_plan_deinit(&plan);
    if (!st && (r->text.failed || r->json.failed))
        return MICA_FAIL(&r->err, MICA_E_NOMEM, "%s: no memory for the report", o->output);
    return st;
}

mica_status mica_convert(const mica_convert_options *options, mica_report **out)
{
    mica_convert_options o;
    mica_report *r = mica_mem_calloc(1, sizeof *r);
    *out = r;
    if (!r)
        return MICA_E_NOMEM;
    MICA_TRY(api_options(&o, sizeof o, options, options ? options->size : 0, &r->err));
    return convert(r, &o);
}
