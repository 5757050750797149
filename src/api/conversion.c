/* conversion.c - mica_convert: plan, run, and what became of every layer as a report. */
#include "api/api.h"

#include "base/clock.h"
#include "models/convert_folder.h"

#include <stdio.h>
#include <string.h>

#define SHARD_BYTES 5000000000u /* of a file in a folder, as mlx-lm has it */

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
    size_t items, packed, changed; /* changed: to other floats */
    double numbers, error, worst;
    const char *worst_name;
    uint64_t bytes_in, bytes_out, parameters;
    long long left_out;
    bool was_packed; /* the input; errors are against what it holds */
} convert_sums;

static void add_up(convert_sums *s, const mica_convert_plan *p)
{
    for (size_t i = 0; i < p->item_count; i++) {
        const mica_convert_item *item = &p->items[i];
        double n = 1.0;
        for (int k = 0; k < item->ndim; k++)
            n *= (double)item->shape_[k];
        s->was_packed |= mica_dtype_is_packed(item->parts[0]->dtype);
        s->changed += item->form == MICA_CONVERT_FLOATS && item->dtype != item->parts[0]->dtype;
        if (!is_packed(item))
            continue;
        s->packed++;
        s->numbers += n;
        s->error += n * item->error;
        if (item->error > s->worst) {
            s->worst = item->error;
            s->worst_name = item->name;
        }
    }
    for (int i = 0; i < p->source_count; i++) {
        const mica_weights *w = mica_convert_tensors(&p->sources[i]);
        s->bytes_in += mica_weights_bytes(w);
        s->parameters += mica_weights_parameters(w);
    }
    s->items += p->item_count;
    s->bytes_out += p->bytes;
    s->left_out += p->left_out;
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

static void write_text(mica_text *t, const char *name, const convert_sums *s)
{
    char now[32], before[32];
    mica_text_add(t, "%s: %zu tensors, %.4g M parameters, %s, was %s\n", name, s->items,
                  (double)s->parameters * 1e-6, size_text(s->bytes_out, now, sizeof now),
                  size_text(s->bytes_in, before, sizeof before));
    mica_text_add(t, "  %zu packed, ", s->packed);
    if (s->changed)
        mica_text_add(t, "%zu to other floats, ", s->changed);
    mica_text_add(t, "%zu kept", s->items - s->packed - s->changed);
    if (s->left_out)
        mica_text_add(t, ", %lld left out (a vision tower has a file of its own in GGUF)",
                      s->left_out);
    if (s->packed)
        mica_text_add(t, "; relative error %.4f on average, %.4f at most (%s)",
                      s->error / s->numbers, s->worst, s->worst_name);
    else if (!s->changed)
        mica_text_add(t, "; no layer is one for this type, so nothing has changed");
    if (s->was_packed)
        mica_text_add(t, "; the input was packed before: its own error comes on top");
    mica_text_add(t, "\n");
}

static void write_layers(mica_text *j, const mica_convert_plan *p)
{
    for (size_t i = 0; i < p->item_count; i++) {
        const mica_convert_item *item = &p->items[i];
        mica_text_add(j, "%s{\"name\":", i ? "," : "");
        mica_text_add_json_string(j, item->name);
        mica_text_add(j, ",\"from\":\"%s\",\"to\":\"%s\"",
                      mica_dtype_get(item->parts[0]->dtype)->name,
                      mica_dtype_get(item->dtype)->name);
        if (item->group)
            mica_text_add(j, ",\"group\":%d", item->group);
        if (is_packed(item))
            mica_text_add(j, ",\"relative_error\":%.6g", item->error);
        mica_text_add(j, "}");
    }
}

static void write_sums(mica_text *j, const convert_sums *s)
{
    mica_text_add(j,
                  ",\"bytes_in\":%llu,\"bytes_out\":%llu,\"left_out\":%lld,\"packed\":%zu,"
                  "\"was_packed\":%s,\"average_error\":%.6g",
                  (unsigned long long)s->bytes_in, (unsigned long long)s->bytes_out, s->left_out,
                  s->packed, s->was_packed ? "true" : "false",
                  s->packed ? s->error / s->numbers : 0.0);
}

static void begin_json(mica_text *j, const mica_convert_options *o, const mica_convert_plan *p,
                       double seconds)
{
    const mica_model_kind *kind = p->sources[0].kind;
    mica_text_add(j, "{\"kind\":\"conversion\",\"input\":");
    mica_text_add_json_string(j, o->input);
    mica_text_add(j, ",\"output\":");
    mica_text_add_json_string(j, o->output);
    mica_text_add(j, ",\"type\":");
    mica_text_add_json_string(j, o->type);
    mica_text_add(j, ",\"family\":");
    mica_text_add_json_string(j, kind ? kind->id : "unknown");
    mica_text_add(j, ",\"seconds\":%.3f", seconds);
}

static void report_file(mica_report *r, const mica_convert_options *o, const mica_convert_plan *p,
                        double seconds)
{
    convert_sums sums = {.worst_name = ""};
    add_up(&sums, p);
    write_text(&r->text, o->output, &sums);
    begin_json(&r->json, o, p, seconds);
    write_sums(&r->json, &sums);
    mica_text_add(&r->json, ",\"layers\":[");
    write_layers(&r->json, p);
    mica_text_add(&r->json, "]}");
}

static void report_part(mica_report *r, const mica_convert_options *o,
                        const mica_convert_part *part, bool is_first)
{
    convert_sums sums = {.worst_name = ""};
    const char *between = *part->name ? "/" : "";
    char name[512];
    add_up(&sums, &part->plan);
    snprintf(name, sizeof name, "%s%s%s/%s", o->output, between, part->name, part->plan.files[0]);
    write_text(&r->text, name, &sums);
    mica_text_add(&r->json, "%s{\"part\":", is_first ? "" : ",");
    mica_text_add_json_string(&r->json, mica_model_part_name(part->plan.sources[0].part));
    mica_text_add(&r->json, ",\"folder\":");
    mica_text_add_json_string(&r->json, part->name);
    mica_text_add(&r->json, ",\"files\":[");
    for (size_t i = 0; i < part->plan.file_count; i++) {
        mica_text_add(&r->json, "%s", i ? "," : "");
        mica_text_add_json_string(&r->json, part->plan.files[i]);
    }
    mica_text_add(&r->json, "]");
    write_sums(&r->json, &sums);
    mica_text_add(&r->json, ",\"layers\":[");
    write_layers(&r->json, &part->plan);
    mica_text_add(&r->json, "]}");
}

static void report_folder(mica_report *r, const mica_convert_options *o,
                          const mica_convert_folder *f, double seconds)
{
    convert_sums sums = {.worst_name = ""};
    char copied[32];
    for (int i = 0; i < f->count; i++)
        add_up(&sums, &f->parts[i].plan);
    begin_json(&r->json, o, &f->parts[0].plan, seconds);
    write_sums(&r->json, &sums);
    mica_text_add(&r->json, ",\"bytes_copied\":%llu,\"parts\":[", (unsigned long long)f->copied);
    for (int i = 0; i < f->count; i++)
        report_part(r, o, &f->parts[i], i == 0);
    mica_text_add(&r->json, "]}");
    if (f->copied)
        mica_text_add(&r->text, "%s of other files copied\n",
                      size_text(f->copied, copied, sizeof copied));
}

/* ------------------------------------------------------------------- entry -- */

static mica_status convert_file(mica_report *r, const mica_convert_request *request,
                                const mica_convert_options *o, convert_watch *watch)
{
    mica_convert_plan plan;
    MICA_TRY(mica_convert_plan_make(&plan, request, &r->err));
    const mica_status st = mica_convert_run(&plan, NULL, tell, watch, &r->err);
    if (!st)
        report_file(r, o, &plan, mica_clock_seconds() - watch->start);
    mica_convert_plan_deinit(&plan);
    return st;
}

static mica_status convert_folder(mica_report *r, const mica_convert_request *request,
                                  const mica_convert_options *o, convert_watch *watch)
{
    mica_convert_folder folder;
    MICA_TRY(mica_convert_folder_make(&folder, request, o->replace, &r->err));
    const mica_status st = mica_convert_folder_run(&folder, o->replace, tell, watch, &r->err);
    if (!st)
        report_folder(r, o, &folder, mica_clock_seconds() - watch->start);
    mica_convert_folder_deinit(&folder);
    return st;
}

static mica_status convert(mica_report *r, const mica_convert_options *o)
{
    convert_watch watch = {.options = o, .start = mica_clock_seconds()};
    mica_convert_request request = {.input = o->input,
                                    .synthesizer = o->synthesizer,
                                    .semantic = o->semantic,
                                    .output = o->output,
                                    .type = o->type,
                                    .shard = o->shard_bytes ? o->shard_bytes : SHARD_BYTES};
    bool folder = false;
    if (!o->input || !o->output || !o->type)
        return MICA_FAIL(&r->err, MICA_E_USAGE,
                         "a conversion needs an input, an output and a type");
    MICA_TRY(mica_convert_check(&request, &folder, &r->err));
    MICA_TRY(folder ? convert_folder(r, &request, o, &watch)
                    : convert_file(r, &request, o, &watch));
    if (r->text.failed || r->json.failed)
        return MICA_FAIL(&r->err, MICA_E_NOMEM, "%s: no memory for the report", o->output);
    return MICA_OK;
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
