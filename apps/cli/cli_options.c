/* cli_options.c - the command-line parser; cli_options.h tells what it accepts.
 *
 * Numbers are taken whole or not at all: "12x", " 12", "1e400", "nan" and out-of-range values
 * are errors that name the option, the value and what would be right. Nothing is printed and
 * nothing is kept: values of CLI_TEXT point into argv. The program never calls setlocale, so
 * the decimal point is a point everywhere. */
#include "cli_options.h"

#include "base/cpu.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_CAP 64

/* ------------------------------------------------------------ suggestions -- */

/* Levenshtein distance of two names, at most NAME_CAP - 1 bytes each (longer: no match). */
static size_t edit_distance(const char *a, const char *b)
{
    const size_t n = strlen(a), m = strlen(b);
    size_t row[NAME_CAP];
    if (n >= NAME_CAP || m >= NAME_CAP)
        return NAME_CAP;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MICA_MIN(change, MICA_MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[m];
}

const char *cli_suggest(const char *name, const char *const *candidates, size_t count)
{
    /* One typing error in three letters, at most three in all. */
    size_t best = MICA_MIN(strlen(name) / 3 + 1, (size_t)3) + 1;
    const char *found = NULL;
    for (size_t i = 0; i < count; i++) {
        const size_t distance = edit_distance(name, candidates[i]);
        if (distance < best) {
            best = distance;
            found = candidates[i];
        }
    }
    return found;
}

/* ---------------------------------------------------------------- values -- */

/* What the user typed and where it goes. */
typedef struct assignment {
    const cli_option *option;
    const char *spelling; /* "--steps" or "-W", for messages */
    const char *text;
    void *field;
} assignment;

static mica_status fail_word(const assignment *a, mica_err *err)
{
    mica_text list = {0};
    cli_option_words(a->option, ", ", &list);
    if (a->option->kind == CLI_INT)
        mica_text_add(&list, ", or a whole number from %.0f to %.0f", a->option->lo, a->option->hi);
    MICA_FAIL(err, MICA_E_USAGE, "%s takes one of %s; got '%s'", a->spelling,
              list.data ? list.data : "its words", a->text);
    mica_text_deinit(&list);
    return MICA_E_USAGE;
}

static bool find_word(const cli_word *words, const char *text, int *out)
{
    for (const cli_word *w = words; w && w->name; w++) {
        if (strcmp(w->name, text) == 0) {
            *out = w->value;
            return true;
        }
    }
    return false;
}

static mica_status set_int(const assignment *a, mica_err *err)
{
    const cli_option *o = a->option;
    char *end = NULL;
    if (find_word(o->words, a->text, a->field))
        return MICA_OK;
    errno = 0;
    const long value = strtol(a->text, &end, 10);
    const bool is_number = end != a->text && *end == '\0' && !isspace((unsigned char)a->text[0]);
    if (!is_number && o->words)
        return fail_word(a, err);
    if (!is_number)
        return MICA_FAIL(err, MICA_E_USAGE, "%s takes a whole number; got '%s'", a->spelling,
                         a->text);
    if (errno == ERANGE || (double)value < o->lo || (double)value > o->hi)
        return MICA_FAIL(err, MICA_E_USAGE, "%s must be from %.0f to %.0f; got %s", a->spelling,
                         o->lo, o->hi, a->text);
    *(int *)a->field = (int)value;
    return MICA_OK;
}

/* Short enough to be typed again: results tell which it was. */
static mica_status draw_seed(const assignment *a, mica_err *err)
{
    uint32_t value;
    if (getentropy(&value, sizeof value) != 0)
        return MICA_FAIL(err, MICA_E_IO, "%s: the system gives no random numbers", a->spelling);
    *(uint64_t *)a->field = value;
    return MICA_OK;
}

static mica_status set_seed(const assignment *a, mica_err *err)
{
    char *end = NULL;
    if (strcmp(a->text, "random") == 0)
        return draw_seed(a, err);
    errno = 0;
    const unsigned long long value = strtoull(a->text, &end, 10);
    /* strtoull would take " 1" and negate "-1". */
    if (!isdigit((unsigned char)a->text[0]) || *end != '\0' || errno == ERANGE)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s takes a whole number from 0 to %" PRIu64 ", or random; got '%s'",
                         a->spelling, UINT64_MAX, a->text);
    *(uint64_t *)a->field = value;
    return MICA_OK;
}

/* The unit may not be left out: "8" is more likely gigabytes than bytes. */
static mica_status set_bytes(const assignment *a, mica_err *err)
{
    static const char UNITS[] = "KMGT";
    char *end = NULL;
    const size_t length = strspn(a->text, ".0123456789");
    const double value = strtod(a->text, &end);
    const char *unit =
        a->text[length] ? strchr(UNITS, toupper((unsigned char)a->text[length])) : NULL;
    const char *rest = unit ? a->text + length + 1 : "";
    const bool is_whole = *rest == '\0' || strcmp(rest, "B") == 0 || strcmp(rest, "iB") == 0;
    double bytes = value;
    for (const char *u = UNITS; unit && u <= unit; u++)
        bytes *= 1024.0;
    if (length == 0 || end != a->text + length || !unit || !is_whole || !(bytes >= 1.0) ||
        bytes > 1e18)
        return MICA_FAIL(err, MICA_E_USAGE, "%s takes a size like 8G or 700M; got '%s'",
                         a->spelling, a->text);
    *(uint64_t *)a->field = (uint64_t)bytes;
    return MICA_OK;
}

/* One number that ends at `stop` (',' or end of text); *next is where it ended. */
static bool read_double(const char *text, double lo, double hi, double *out, const char **next)
{
    char *end = NULL;
    const size_t length = strspn(text, "+-.0123456789eE"); /* no blanks, hexadecimals, "inf" */
    const double value = strtod(text, &end);
    if (length == 0 || end != text + length || !isfinite(value) || value < lo || value > hi)
        return false;
    *out = value;
    *next = end;
    return true;
}

static mica_status set_double(const assignment *a, mica_err *err)
{
    const cli_option *o = a->option;
    const char *next = NULL;
    double value = 0.0;
    if (!read_double(a->text, o->lo, o->hi, &value, &next) || *next != '\0')
        return MICA_FAIL(err, MICA_E_USAGE, "%s takes a number from %g to %g; got '%s'",
                         a->spelling, o->lo, o->hi, a->text);
    *(double *)a->field = value;
    return MICA_OK;
}

static mica_status set_doubles(const assignment *a, mica_err *err)
{
    const cli_option *o = a->option;
    cli_doubles *list = a->field;
    const char *at = a->text;
    list->count = 0;
    for (;;) {
        double value = 0.0;
        const char *next = NULL;
        if (list->count == CLI_MAX_DOUBLES)
            return MICA_FAIL(err, MICA_E_USAGE, "%s takes at most %d numbers", a->spelling,
                             CLI_MAX_DOUBLES);
        if (!read_double(at, o->lo, o->hi, &value, &next) || (*next != ',' && *next != '\0'))
            return MICA_FAIL(err, MICA_E_USAGE,
                             "%s takes numbers from %g to %g separated by commas; number %d of "
                             "'%s' is not one",
                             a->spelling, o->lo, o->hi, list->count + 1, a->text);
        list->values[list->count++] = value;
        if (*next == '\0')
            return MICA_OK;
        at = next + 1;
    }
}

static mica_status add_text(const assignment *a, mica_err *err)
{
    cli_texts *list = a->field;
    if (list->count == CLI_MAX_TEXTS)
        return MICA_FAIL(err, MICA_E_USAGE, "%s may be given at most %d times", a->spelling,
                         CLI_MAX_TEXTS);
    list->values[list->count++] = a->text;
    return MICA_OK;
}

static mica_status set_cpu_level(const assignment *a, mica_err *err)
{
    mica_cpu_level level;
    if (!mica_cpu_level_parse(a->text, &level))
        return fail_word(a, err);
    *(int *)a->field = (int)level;
    return MICA_OK;
}

static mica_status assign(const assignment *a, mica_err *err)
{
    switch (a->option->kind) {
    case CLI_INT:
        return set_int(a, err);
    case CLI_SEED:
        return set_seed(a, err);
    case CLI_BYTES:
        return set_bytes(a, err);
    case CLI_DOUBLE:
        return set_double(a, err);
    case CLI_DOUBLES:
        return set_doubles(a, err);
    case CLI_CPU_LEVEL:
        return set_cpu_level(a, err);
    case CLI_WORD:
        return find_word(a->option->words, a->text, a->field) ? MICA_OK : fail_word(a, err);
    case CLI_TEXT:
        *(const char **)a->field = a->text;
        return MICA_OK;
    case CLI_TEXTS:
        return add_text(a, err);
    case CLI_FLAG:
        *(bool *)a->field = true;
        return MICA_OK;
    case CLI_HELP:
    case CLI_ELSEWHERE:
        break;
    }
    return MICA_OK;
}

static bool takes_value(const cli_option *o)
{
    return o->kind != CLI_FLAG && o->kind != CLI_HELP;
}

/* --------------------------------------------------------------- parsing -- */

typedef struct cursor {
    int argc, next;
    char **argv, *args; /* args: the command's struct */
    bool wants_help;
} cursor;

/* *base: where the struct of its group lies. */
static const cli_option *find_option(const cli_spec *spec, const char *name, size_t length,
                                     char letter, size_t *base)
{
    for (const cli_group *g = spec->groups; g->title; g++) {
        for (const cli_option *o = g->options; cli_is_option(o); o++) {
            const bool long_hit =
                name && o->name && strlen(o->name) == length && memcmp(o->name, name, length) == 0;
            if (long_hit || (letter && o->letter == letter)) {
                *base = g->base;
                return o;
            }
        }
    }
    return NULL;
}

static mica_status fail_unknown(const cli_spec *spec, const char *spelling, mica_err *err)
{
    const char *names[128];
    size_t count = 0;
    for (const cli_group *g = spec->groups; g->title; g++)
        for (const cli_option *o = g->options; cli_is_option(o) && count < MICA_ARRAY_LEN(names);
             o++)
            if (o->name && o->help)
                names[count++] = o->name;
    const char *close = NULL;
    if (spelling[1] == '-')
        close = cli_suggest(spelling + 2, names, count);
    if (close)
        return MICA_FAIL(err, MICA_E_USAGE, "unknown option %s; did you mean --%s?", spelling,
                         close);
    return MICA_FAIL(err, MICA_E_USAGE, "unknown option %s; '%s --help' lists them", spelling,
                     spec->name);
}

/* Finishes one option: `attached` is the text behind = or behind the letter, or NULL. */
static mica_status take_option(cursor *c, const cli_option *o, size_t base, const char *spelling,
                               const char *attached, mica_err *err)
{
    assignment a = {
        .option = o, .spelling = spelling, .text = attached, .field = c->args + base + o->offset};
    if (o->kind == CLI_ELSEWHERE)
        return MICA_FAIL(err, MICA_E_USAGE, "%s is %s here", spelling, o->value);
    if (takes_value(o) && !attached) {
        if (c->next >= c->argc)
            return MICA_FAIL(err, MICA_E_USAGE, "%s needs a value", spelling);
        a.text = c->argv[c->next++];
    }
    if (!takes_value(o) && attached)
        return MICA_FAIL(err, MICA_E_USAGE, "%s takes no value", spelling);
    c->wants_help = c->wants_help || o->kind == CLI_HELP;
    return assign(&a, err);
}

static mica_status take_long(const cli_spec *spec, cursor *c, const char *argument, mica_err *err)
{
    const char *name = argument + 2;
    const size_t length = strcspn(name, "=");
    char spelling[NAME_CAP];
    size_t base = 0;
    const size_t shown = MICA_MIN(length + 2, sizeof spelling - 1);
    memcpy(spelling, argument, shown);
    spelling[shown] = '\0';
    const cli_option *o = find_option(spec, name, length, 0, &base);
    if (!o)
        return fail_unknown(spec, spelling, err);
    return take_option(c, o, base, spelling, name[length] == '=' ? name + length + 1 : NULL, err);
}

static mica_status take_short(const cli_spec *spec, cursor *c, const char *argument, mica_err *err)
{
    const char spelling[3] = {'-', argument[1], '\0'};
    size_t base = 0;
    const cli_option *o = find_option(spec, NULL, 0, argument[1], &base);
    if (!o)
        return fail_unknown(spec, spelling, err);
    return take_option(c, o, base, spelling, argument[2] ? argument + 2 : NULL, err);
}

static mica_status take_operand(const cli_spec *spec, const char *argument, const char **operand,
                                mica_err *err)
{
    if (spec->operand_limit == 0)
        return MICA_FAIL(err, MICA_E_USAGE, "%s takes no operand; got '%s'", spec->name, argument);
    int given = 0;
    while (given < spec->operand_limit && operand[given])
        given++;
    if (given == spec->operand_limit && given == 1)
        return MICA_FAIL(err, MICA_E_USAGE, "%s takes one %s; got '%s' and '%s'", spec->name,
                         spec->operand_name, *operand, argument);
    if (given == spec->operand_limit)
        return MICA_FAIL(err, MICA_E_USAGE, "%s takes %d operands; '%s' is one too many",
                         spec->name, given, argument);
    if (argument[0] == '\0')
        return MICA_FAIL(err, MICA_E_USAGE, "%s is empty", spec->operand_name);
    operand[given] = argument;
    return MICA_OK;
}

mica_status cli_parse(const cli_spec *spec, int argc, char **argv, void *args, const char **operand,
                      bool *help, mica_err *err)
{
    cursor c = {.argc = argc, .argv = argv, .args = args};
    bool options_end = false;
    for (int i = 0; i < MICA_MAX(spec->operand_limit, 1); i++)
        operand[i] = NULL;
    while (c.next < argc && !c.wants_help) {
        const char *argument = argv[c.next++];
        if (options_end || argument[0] != '-' || argument[1] == '\0')
            MICA_TRY(take_operand(spec, argument, operand, err));
        else if (strcmp(argument, "--") == 0)
            options_end = true;
        else if (argument[1] == '-')
            MICA_TRY(take_long(spec, &c, argument, err));
        else
            MICA_TRY(take_short(spec, &c, argument, err));
    }
    *help = c.wants_help;
    return MICA_OK;
}
