/* cli_input.c - prompts from the command line, a file or standard input.
 *
 * A prompt is text: a NUL byte in a file is refused, because everything behind it would be
 * lost in silence. Invalid UTF-8 is let through; the library replaces it by U+FFFD. */
#include "cli.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

#define PROMPT_LIMIT ((size_t)1 << 20)

static mica_status read_stdin(char **data, size_t *size, mica_err *err)
{
    *data = mica_mem_alloc(PROMPT_LIMIT + 1);
    if (!*data)
        return MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
    *size = fread(*data, 1, PROMPT_LIMIT + 1, stdin);
    if (ferror(stdin))
        return MICA_FAIL(err, MICA_E_IO, "cannot read the prompt from standard input");
    if (*size > PROMPT_LIMIT)
        return MICA_FAIL(err, MICA_E_USAGE, "the prompt on standard input is longer than 1 MiB");
    (*data)[*size] = '\0';
    return MICA_OK;
}

/* A mark of the byte order, which some editors put before UTF-8, goes. */
static mica_status check_text(const char *source, char *data, size_t size, mica_err *err)
{
    static const char MARK[] = "\xef\xbb\xbf";
    if (memchr(data, '\0', size))
        return MICA_FAIL(err, MICA_E_USAGE, "prompt %s holds a NUL byte; it must be text", source);
    if (size >= 3 && memcmp(data, MARK, 3) == 0) {
        memmove(data, data + 3, size - 2); /* its NUL too */
        size -= 3;
    }
    if (size && data[size - 1] == '\n')
        data[--size] = '\0';
    if (size && data[size - 1] == '\r')
        data[size - 1] = '\0';
    return MICA_OK;
}

mica_status cli_text_read(const char *argument, char **out, mica_err *err)
{
    char *data = NULL;
    size_t size = 0;
    mica_status status = MICA_OK;
    *out = NULL;
    if (!argument)
        return MICA_OK;
    if (strcmp(argument, "-") == 0) {
        status = read_stdin(&data, &size, err);
        if (!status)
            status = check_text("on standard input", data, size, err);
    } else if (strcmp(argument, "@") == 0) {
        status = MICA_FAIL(err, MICA_E_USAGE, "@ is not followed by a file; write @@ to mean @");
    } else if (argument[0] == '@' && argument[1] != '@') {
        status = mica_file_read(argument + 1, PROMPT_LIMIT, &data, &size, err);
        if (!status)
            status = check_text(argument + 1, data, size, err);
    } else {
        data = mica_mem_strdup(argument[0] == '@' ? argument + 1 : argument);
        if (!data)
            status = MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
    }
    if (status)
        mica_mem_free(data);
    else
        *out = data;
    return status;
}

void cli_note_invalid_text(const char *what, const char *text, bool quiet)
{
    if (!text || quiet || mica_utf8_is_valid(text, strlen(text)))
        return;
    mica_err err = {0};
    MICA_FAIL(&err, MICA_OK, "the %s is not valid UTF-8; bad bytes are read as U+FFFD", what);
    cli_note(err.text);
}
