/* cli_pages.c - what a distribution installs beside the program, made from the option tables: the manual page and
 * the completion of bash.
 *
 *     mica --man               ► share/man/man1/mica.1
 *     mica --completion bash   ► share/bash-completion/completions/mica
 *
 * Neither can disagree with the parser. The page is plain man(7); the completion knows commands, options and the
 * words of options, and leaves all else to bash, which completes files. */
#include "cli_pages.h"

#include "base/cpu.h"

#include <ctype.h>
#include <string.h>

/* ----------------------------------------------------------------- manual -- */

/* Text as roff takes it; `text` stands anywhere but at the beginning of a line. */
static void add_roff(mica_text *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\')
            mica_text_add(out, "\\e");
        else if (*text == '-')
            mica_text_add(out, "\\-");
        else
            mica_text_add_bytes(out, text, 1);
    }
}

static void add_line(mica_text *out, const char *text)
{
    mica_text_add(out, "\\&"); /* a point or an apostrophe may come first */
    add_roff(out, text);
    mica_text_add(out, "\n");
}

static void add_option_page(mica_text *out, const cli_option *o)
{
    mica_text help = {0};
    mica_text_add(out, ".TP\n");
    if (o->letter)
        mica_text_add(out, "\\fB\\-%c\\fR%s", o->letter, o->name ? ", " : "");
    if (o->name) {
        mica_text_add(out, "\\fB\\-\\-");
        add_roff(out, o->name);
        mica_text_add(out, "\\fR");
    }
    if (o->value) {
        mica_text_add(out, " \\fI");
        add_roff(out, o->value);
        mica_text_add(out, "\\fR");
    }
    mica_text_add(out, "\n");
    cli_help_text(o, &help);
    add_line(out, help.data ? help.data : "");
    out->failed |= help.failed;
    mica_text_deinit(&help);
}

static void add_command_page(mica_text *out, const cli_spec *spec)
{
    mica_text_add(out, ".SH ");
    for (const char *c = spec->name; *c; c++)
        mica_text_add(out, "%c", toupper((unsigned char)*c));
    mica_text_add(out, "\n.B %s\n", spec->name);
    add_line(out, spec->usage);
    mica_text_add(out, ".PP\n");
    add_line(out, spec->about);
    for (const cli_group *g = spec->groups; g->title; g++) {
        mica_text_add(out, ".SS %s\n", g->title);
        for (const cli_option *o = g->options; cli_is_option(o); o++)
            if (o->help)
                add_option_page(out, o);
    }
}

static const char page_end[] =
    ".SH EXIT STATUS\n"
    ".TP\n0\nsuccess\n"
    ".TP\n1\nthe work failed: a missing or damaged file, no memory, a full disk\n"
    ".TP\n2\nwrong usage\n"
    ".TP\n129, 130, 143\nits terminal closed, interrupted (Ctrl\\-C), terminated\n"
    ".SH FILES\n"
    ".TP\n\\fI$XDG_CACHE_HOME/mica/prompts\\fR (\\fI~/.cache/mica/prompts\\fR)\n"
    "text features of prompts\n"
    ".TP\n\\fI$XDG_DATA_HOME/mica/voices\\fR (\\fI~/.local/share/mica/voices\\fR)\n"
    "voices that \\fBmica voice make\\fR has kept under a name\n";

void cli_man_page(const cli_spec *const *specs, const char *version, mica_text *out)
{
    mica_text_add(out,
                  ".TH MICA 1 \"\" \"mica %s\" \"User Commands\"\n"
                  ".SH NAME\n"
                  "mica \\- make pictures, speech and text with open\\-weight models\n"
                  ".SH SYNOPSIS\n",
                  version);
    for (int i = 0; specs[i]; i++) {
        mica_text_add(out, "%s.B %s\n", i ? ".br\n" : "", specs[i]->name);
        add_line(out, specs[i]->usage);
    }
    mica_text_add(
        out, ".SH DESCRIPTION\n"
             "Runs generative models from the files as they were downloaded, on CPUs and NVIDIA "
             "GPUs.\nOptions are written \\fB\\-\\-name\\fR \\fIvalue\\fR, "
             "\\fB\\-\\-name=\\fIvalue\\fR, \\fB\\-x\\fR \\fIvalue\\fR or "
             "\\fB\\-x\\fIvalue\\fR; \\fB\\-\\-\\fR ends them. Of an option given twice "
             "the last one counts, but for those that may be repeated.\n");
    for (int i = 0; specs[i]; i++)
        add_command_page(out, specs[i]);
    mica_text_add(out, "%s", page_end);
}

/* ------------------------------------------------------------- completion -- */

/* "mica voice make" is completed behind "voice make". */
static const char *key_of(const cli_spec *spec)
{
    return strchr(spec->name, ' ') + 1;
}

static void add_option_words(mica_text *out, const cli_spec *spec)
{
    for (const cli_group *g = spec->groups; g->title; g++)
        for (const cli_option *o = g->options; cli_is_option(o); o++)
            if (o->help && o->name)
                mica_text_add(out, " --%s", o->name);
}

/* "    'image --solver') words='default euler' ;;" for each option that takes words. */
static void add_value_words(mica_text *out, const cli_spec *spec)
{
    for (const cli_group *g = spec->groups; g->title; g++)
        for (const cli_option *o = g->options; cli_is_option(o); o++) {
            if (!o->help || (!o->words && o->kind != CLI_CPU_LEVEL))
                continue;
            mica_text_add(out, "    '%s --%s') words='", key_of(spec), o->name);
            cli_option_words(o, " ", out);
            mica_text_add(out, "' ;;\n");
        }
}

void cli_bash_completion(const cli_spec *const *specs, mica_text *out)
{
    mica_text_add(out, "# bash completion of mica; made by `mica --completion bash`\n"
                       "_mica() {\n"
                       "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                       "    local key=${COMP_WORDS[1]} words=\n"
                       "    COMPREPLY=()\n"
                       "    [ \"$key\" = voice ] && [ \"$COMP_CWORD\" -gt 2 ] && key=\"voice "
                       "${COMP_WORDS[2]}\"\n"
                       "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                       "        words='");
    for (int i = 0; specs[i]; i++) { /* the two of voice are one word */
        const int length = (int)strcspn(key_of(specs[i]), " ");
        if (!i || strncmp(key_of(specs[i]), key_of(specs[i - 1]), (size_t)length) != 0)
            mica_text_add(out, "%.*s ", length, key_of(specs[i]));
    }
    mica_text_add(out, "help --help --version'\n"
                       "    elif [ \"$key\" = voice ]; then\n"
                       "        words='make list --help'\n"
                       "    else\n"
                       "    case \"$key $prev\" in\n");
    for (int i = 0; specs[i]; i++)
        add_value_words(out, specs[i]);
    mica_text_add(out, "    *)\n        case \"$cur\" in -*) case \"$key\" in\n");
    for (int i = 0; specs[i]; i++) {
        mica_text_add(out, "        '%s') words='", key_of(specs[i]));
        add_option_words(out, specs[i]);
        mica_text_add(out, "' ;;\n");
    }
    mica_text_add(
        out,
        "        esac ;; esac ;;\n"
        "    esac\n"
        "    fi\n"
        "    [ -z \"$words\" ] || mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
        "}\n"
        "complete -o bashdefault -o default -F _mica mica\n");
}
