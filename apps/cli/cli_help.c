/* cli_help.c - help pages, laid out from the option tables.
 *
 *     Usage: mica image [MODEL] -p PROMPT [options]
 *
 *     Title
 *       -W, --width N              text wrapped at column 80, hanging at 29
 *
 * A page cannot disagree with the parser: both read the same rows. Values that must be one of
 * a few words, ranges and such are added behind the text of the row. */
#include "cli_options.h"

#include "base/cpu.h"

#include <string.h>

#define HELP_COLUMNS 80
#define HELP_INDENT  29

static void pad(mica_text *out, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        mica_text_add(out, " ");
}

/* Words of `text` from column `indent` on, wrapped; the cursor stands at `column`. */
static void wrap(mica_text *out, const char *text, size_t column, size_t indent)
{
    pad(out, column, indent);
    column = MICA_MAX(column, indent);
    for (bool first = true; *text; first = false) {
        const size_t length = strcspn(text, " ");
        if (!first && column + 1 + length > HELP_COLUMNS) {
            mica_text_add(out, "\n");
            pad(out, 0, indent);
            column = indent;
        } else if (!first) {
            mica_text_add(out, " ");
            column++;
        }
        mica_text_add_bytes(out, text, length);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    mica_text_add(out, "\n");
}

void cli_option_words(const cli_option *o, const char *between, mica_text *out)
{
    for (const cli_word *w = o->words; w && w->name; w++)
        mica_text_add(out, "%s%s", w == o->words ? "" : between, w->name);
    if (o->kind != CLI_CPU_LEVEL)
        return;
    for (int level = MICA_CPU_LEVEL_AUTO; level <= MICA_CPU_LEVEL_V4_AMX; level++)
        mica_text_add(out, "%s%s", level ? between : "",
                      mica_cpu_level_name((mica_cpu_level)level));
}

void cli_help_text(const cli_option *o, mica_text *out)
{
    const bool has_words = o->words || o->kind == CLI_CPU_LEVEL;
    mica_text_add(out, "%s%s", o->help, has_words ? ": " : "");
    cli_option_words(o, ", ", out);
}

static void add_option(const cli_option *o, mica_text *out)
{
    mica_text left = {0}, right = {0};
    if (o->letter)
        mica_text_add(&left, "  -%c%s", o->letter, o->name ? ", " : "");
    else
        mica_text_add(&left, "      ");
    if (o->name)
        mica_text_add(&left, "--%s", o->name);
    if (o->value)
        mica_text_add(&left, " %s", o->value);
    cli_help_text(o, &right);
    if (!left.failed && !right.failed) {
        mica_text_add(out, "%s", left.data);
        const bool fits = left.size + 2 <= HELP_INDENT;
        if (!fits)
            mica_text_add(out, "\n");
        wrap(out, right.data, fits ? left.size : 0, HELP_INDENT);
    }
    mica_text_deinit(&left);
    mica_text_deinit(&right);
}

void cli_help(const cli_spec *spec, mica_text *out)
{
    mica_text_add(out, "Usage: %s %s\n\n", spec->name, spec->usage);
    wrap(out, spec->about, 0, 0);
    for (const cli_group *g = spec->groups; g->title; g++) {
        mica_text_add(out, "\n%s\n", g->title);
        for (const cli_option *o = g->options; cli_is_option(o); o++)
            if (o->help)
                add_option(o, out);
    }
}
