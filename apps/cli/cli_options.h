/* cli_options.h - one table per group of options; parser, checks and help all come from it.
 *
 *     argv ──► cli_parse(spec) ──► fields of the command's own struct (by offset)
 *                   │
 *                   └──► MICA_E_USAGE with one line of text
 *
 * Accepted spellings: --name value, --name=value, -x value, -xvalue; flags take no value;
 * `--` ends the options; a lone `-` is an operand. The value of an option may begin with a
 * dash. Given twice, the last one counts, but for CLI_TEXTS. Long names are never abbreviated. */
#ifndef MICA_CLI_OPTIONS_H
#define MICA_CLI_OPTIONS_H

#include "base/json.h"
#include "base/status.h"

#include <stddef.h>

#define CLI_MAX_DOUBLES 1000
#define CLI_MAX_TEXTS   64

typedef enum cli_kind {
    CLI_FLAG,      /* bool: set to true */
    CLI_INT,       /* int in [lo, hi], or one of `words` */
    CLI_SEED,      /* uint64_t, decimal, or "random": below 2^32, from the system */
    CLI_BYTES,     /* uint64_t above 0: a number and its unit, 8G or 1.5GiB or 700M; of 1024 */
    CLI_DOUBLE,    /* double in [lo, hi], finite */
    CLI_TEXT,      /* const char *, borrowed from argv */
    CLI_TEXTS,     /* cli_texts: as CLI_TEXT, and may be given more than once */
    CLI_WORD,      /* int: value of one of `words` */
    CLI_DOUBLES,   /* cli_doubles: comma-separated, each in [lo, hi] */
    CLI_CPU_LEVEL, /* int: mica_cpu_level, names from base/cpu.h */
    CLI_HELP,      /* no field: parsing ends with success */
    CLI_ELSEWHERE  /* what other programs call it; an error that tells `value`, the name here */
} cli_kind;

typedef struct cli_word {
    const char *name; /* NULL ends the list */
    int value;
} cli_word;

typedef struct cli_doubles {
    double values[CLI_MAX_DOUBLES];
    int count;
} cli_doubles;

typedef struct cli_texts {
    const char *values[CLI_MAX_TEXTS]; /* borrowed from argv */
    int count;
} cli_texts;

typedef struct cli_option {
    const char *name; /* without dashes; NULL: only a letter */
    char letter;      /* 0: none */
    cli_kind kind;
    size_t offset;         /* into the group's target */
    double lo, hi;         /* CLI_INT, CLI_DOUBLE, CLI_DOUBLES */
    const cli_word *words; /* CLI_WORD; CLI_INT: accepted beside numbers */
    const char *value;     /* name of the value in help */
    const char *help;      /* NULL: not listed */
} cli_option;

#define CLI_END                                                                                    \
    {                                                                                              \
        .name = NULL                                                                               \
    }

typedef struct cli_group {
    const char *title;         /* NULL ends the list */
    const cli_option *options; /* up to CLI_END */
    size_t base; /* where the struct that the offsets belong to lies in the command's own */
} cli_group;

typedef struct cli_spec {
    const char *name;  /* "mica image" */
    const char *usage; /* "[MODEL] -p PROMPT [options]" */
    const char *about; /* a few sentences */
    const cli_group *groups;
    int operand_limit; /* how many may be given */
    const char *operand_name;
} cli_spec;

/* argv[0] is the first argument behind the command's name. args: the command's struct, which holds the
 * defaults. operand[0 .. operand_limit), one at least, stay NULL where there is none. *help: the page was
 * asked for, and what stands behind was not read. */
mica_status cli_parse(const cli_spec *spec, int argc, char **argv, void *args, const char **operand,
                      bool *help, mica_err *err);
/* Whether a row of a table is one; false: CLI_END. */
static inline bool cli_is_option(const cli_option *o)
{
    return o->name || o->letter;
}
/* Appends the whole help page, 80 columns wide. */
void cli_help(const cli_spec *spec, mica_text *out);
/* Appends the help of one option with the words it takes, in one line. */
void cli_help_text(const cli_option *o, mica_text *out);
/* Appends the words an option takes; nothing where it takes none. */
void cli_option_words(const cli_option *o, const char *between, mica_text *out);
/* The candidate closest to `name` when it is close enough to be a typing error, or NULL. */
const char *cli_suggest(const char *name, const char *const *candidates, size_t count);

#endif
