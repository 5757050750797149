/* cli_output.c - everything the program says, and the names of what it writes.
 *
 *     stdout   results: pictures made, reports, JSON, token ids
 *     stderr   "mica: ..." errors and notes, one line each; the progress bar
 *
 * Messages may quote names from files nobody trusts, so they are cleaned before a terminal
 * sees them. Paths given by the user are never used as formats. */
#include "cli.h"

#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Bytes of the control character that s begins with: C0, DEL, or C1 in UTF-8 (U+009B is ESC [). 0: it begins with
 * none. */
static size_t control_size(const char *s)
{
    const unsigned char byte = (unsigned char)s[0], next = byte ? (unsigned char)s[1] : 0;
    if (byte == 0xc2 && next >= 0x80 && next < 0xa0)
        return 2;
    return byte < 0x20 || byte == 0x7f;
}

void cli_make_printable(mica_text *text)
{
    for (size_t i = 0; i < text->size; i++) {
        const size_t n = control_size(text->data + i);
        if (n > 0 && text->data[i] != '\t' && text->data[i] != '\n') {
            memset(text->data + i, '?', n);
            i += n - 1;
        }
    }
}

static void print_line(const char *prefix, const char *text)
{
    mica_text line = {0};
    for (const char *s = text; *s; s++) {
        const size_t control = control_size(s);
        if (*s == '\n' && s[1] != '\0') {
            mica_text_add(&line, "%s", s > text && s[-1] == ':' ? " " : "; ");
            s += strspn(s + 1, " ");
        } else if (*s != '\n') {
            mica_text_add_bytes(&line, control > 0 ? "?" : s, 1);
            s += control > 1 ? control - 1 : 0;
        }
    }
    /* Even without memory for the cleaned text, the failure is told. */
    fprintf(stderr, "mica: %s%s\n", prefix, line.data ? line.data : "out of memory");
    mica_text_deinit(&line);
}

int cli_report(mica_status status, const char *text)
{
    const bool has_text = text && text[0];
    print_line("", has_text ? text : mica_status_name(status));
    return status == MICA_E_USAGE ? CLI_USAGE : CLI_FAILED;
}

int cli_report_err(const mica_err *err)
{
    return cli_report(err->status, err->text);
}

void cli_note(const char *text)
{
    print_line("note: ", text);
}

void cli_note_lines(const char *text)
{
    char line[1024];
    while (*text) {
        const size_t n = strcspn(text, "\n"), shown = MICA_MIN(n, sizeof line - 1);
        memcpy(line, text, shown);
        line[shown] = '\0';
        cli_note(line);
        text += n + (text[n] == '\n');
    }
}

int cli_print(const char *text)
{
    if (fputs(text, stdout) == EOF || fflush(stdout) == EOF) {
        mica_err err = {0};
        MICA_FAIL(&err, MICA_E_IO, "cannot write to standard output: %s", strerror(errno));
        return cli_report_err(&err);
    }
    return CLI_OK;
}

int cli_print_text(mica_text *text)
{
    const int exit_status =
        text->failed ? cli_report(MICA_E_NOMEM, NULL) : cli_print(text->data ? text->data : "");
    mica_text_deinit(text);
    return exit_status;
}

int cli_end(mica_status status, const mica_err *err, mica_text *text)
{
    if (!status)
        return cli_print_text(text);
    const int exit_status = cli_report_err(err);
    mica_text_deinit(text);
    return status == MICA_E_CANCELLED && cli_signals_caught() ? cli_signals_exit() : exit_status;
}

int cli_begin(const cli_spec *spec, int argc, char **argv, void *args, const char **operand)
{
    mica_err err = {0};
    mica_text page = {0};
    bool help = false;
    if (cli_parse(spec, argc, argv, args, operand, &help, &err))
        return cli_report_err(&err);
    if (!help)
        return CLI_GO;
    cli_help(spec, &page);
    return cli_print_text(&page);
}

/* ----------------------------------------------------------------- paths -- */

/* Points at the '.' of the last extension, or at the end of path. */
static const char *find_extension(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    return dot && dot != name ? dot : path + strlen(path);
}

static bool is_known_kind(const char *path)
{
    static const char *const kinds[] = {".png", ".jpg", ".jpeg", ".webp"};
    const char *extension = find_extension(path);
    for (size_t i = 0; i < MICA_ARRAY_LEN(kinds); i++)
        if (strcasecmp(extension, kinds[i]) == 0)
            return true;
    return false;
}

bool cli_output_is_jpeg(const char *path)
{
    const char *extension = find_extension(path);
    return strcasecmp(extension, ".jpg") == 0 || strcasecmp(extension, ".jpeg") == 0;
}

/* Access bits do not tell it all (root, read-only and special file systems): a temporary file is
 * begun beside the output and dropped. */
static mica_status try_to_write(const char *path, mica_err *err)
{
    mica_file_out file;
    MICA_TRY(mica_file_out_open(&file, path, err));
    mica_file_out_abort(&file);
    return MICA_OK;
}

mica_status cli_output_check_folder(const char *path, mica_err *err)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? mica_mem_strndup(path, slash == path ? 1 : (size_t)(slash - path))
                         : mica_mem_strdup(".");
    if (!folder)
        return MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
    mica_status status = MICA_OK;
    if (mica_path_is_dir(path) || path[0] == '\0' || (slash && slash[1] == '\0'))
        status = MICA_FAIL(err, MICA_E_IO, "output '%s' is a folder; give a file name", path);
    else if (!mica_path_is_dir(folder))
        status = MICA_FAIL(err, MICA_E_MISSING, "output folder '%s' does not exist", folder);
    else
        status = try_to_write(path, err);
    mica_mem_free(folder);
    return status;
}

mica_status cli_output_check(const char *path, mica_err *err)
{
    if (!is_known_kind(path))
        return MICA_FAIL(err, MICA_E_USAGE, "output '%s' must end in .png, .jpg, .jpeg or .webp",
                         path);
    return cli_output_check_folder(path, err);
}

mica_status cli_output_name(const char *path, int index, int count, char **out, mica_err *err)
{
    mica_text name = {0};
    const char *extension = find_extension(path);
    mica_text_add_bytes(&name, path, (size_t)(extension - path));
    if (count > 1)
        mica_text_add(&name, "-%d", index + 1);
    mica_text_add(&name, "%s", extension);
    *out = name.failed ? NULL : mica_mem_strdup(name.data);
    mica_text_deinit(&name);
    return *out ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
}
