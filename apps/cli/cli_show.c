/* cli_show.c - pictures in the terminal.
 *
 *     kitty     ESC _ G keys ; base64 of the pixels ESC \      in pieces of 4,096 characters
 *     iterm2    ESC ] 1337 ; File=... : base64 of the file BEL
 *     sixel     ESC P q palette, bands of six rows ESC \       216 colours, ordered dither
 *
 * The protocol is taken from what terminals say of themselves in the environment; where that says
 * nothing the terminal is asked whether it draws sixels (primary device attributes, CSI c). That lives
 * here because only the program may look at a terminal and its environment.
 *
 * References: kitty's "Terminal graphics protocol", iTerm2's "Inline Images Protocol", DEC STD 070
 * chapter 9 (sixels) and VT510 manual (DA1). */
#include "cli_show.h"

#include "base/file.h"
#include "base/mem.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define ASK_MILLISECONDS 300
#define KITTY_PIECE      4096
#define LEVELS           6 /* of each colour of a sixel palette */

/* ------------------------------------------------------------------- which -- */

static bool says(const char *variable, const char *word)
{
    const char *value = getenv(variable);
    return value && strstr(value, word);
}

/* The answer to CSI c, "ESC [ ? 62 ; 4 ; ... c": attribute 4 is sixels. */
static bool has_attribute_4(const char *answer)
{
    const char *p = strstr(answer, "\033[?");
    for (p = p ? p + 3 : NULL; p && *p && *p != 'c';) {
        char *end;
        const long value = strtol(p, &end, 10);
        if (value == 4 && end != p)
            return true;
        p = *end == ';' ? end + 1 : NULL;
    }
    return false;
}

static void read_answer(int terminal, char *answer, size_t cap)
{
    size_t n = 0;
    struct pollfd wait = {.fd = terminal, .events = POLLIN};
    while (n + 1 < cap && !memchr(answer, 'c', n) && poll(&wait, 1, ASK_MILLISECONDS) == 1) {
        const ssize_t got = read(terminal, answer + n, cap - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    answer[n] = '\0';
}

static bool draws_sixels(void)
{
    static const char question[] = "\033[c";
    char answer[128] = "";
    struct termios before, quiet;
    const int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0)
        return false;
    if (tcgetattr(terminal, &before) == 0) {
        quiet = before;
        quiet.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(terminal, TCSANOW, &quiet);
        if (write(terminal, question, sizeof question - 1) == (ssize_t)sizeof question - 1)
            read_answer(terminal, answer, sizeof answer);
        tcsetattr(terminal, TCSANOW, &before);
    }
    close(terminal);
    return has_attribute_4(answer);
}

cli_protocol cli_show_find(void)
{
    if (!isatty(STDOUT_FILENO))
        return CLI_PROTOCOL_NONE;
    if (getenv("KITTY_WINDOW_ID") || says("TERM", "kitty") || says("TERM", "ghostty"))
        return CLI_PROTOCOL_KITTY;
    if (says("TERM_PROGRAM", "iTerm") || says("TERM_PROGRAM", "WezTerm") ||
        says("LC_TERMINAL", "iTerm"))
        return CLI_PROTOCOL_ITERM2;
    if (!getenv("TERM") || says("TERM", "dumb"))
        return CLI_PROTOCOL_NONE;
    return draws_sixels() ? CLI_PROTOCOL_SIXEL : CLI_PROTOCOL_NONE;
}

/* ------------------------------------------------------------------- base64 -- */

static void add_base64(mica_text *out, const uint8_t *data, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        const size_t left = MICA_MIN(size - i, (size_t)3);
        const uint32_t v = (uint32_t)data[i] << 16 | (left > 1 ? (uint32_t)data[i + 1] << 8 : 0) |
                           (left > 2 ? data[i + 2] : 0);
        const char four[4] = {digits[v >> 18], digits[v >> 12 & 63],
                              left > 1 ? digits[v >> 6 & 63] : '=',
                              left > 2 ? digits[v & 63] : '='};
        mica_text_add_bytes(out, four, 4);
    }
}

static void add_kitty(const cli_pixels *p, mica_text *out)
{
    const size_t size = (size_t)p->width * (size_t)p->height * (size_t)p->channels;
    const size_t step = KITTY_PIECE / 4 * 3;
    for (size_t at = 0; at < size; at += step) {
        const bool more = at + step < size;
        mica_text_add(out, "\033_G");
        if (at == 0)
            mica_text_add(out, "a=T,q=2,f=%d,s=%d,v=%d,", 8 * p->channels, p->width, p->height);
        mica_text_add(out, "m=%d;", more);
        add_base64(out, p->pixels + at, MICA_MIN(step, size - at));
        mica_text_add(out, "\033\\");
    }
    mica_text_add(out, "\n");
}

static mica_status add_iterm2(const char *path, mica_text *out, mica_err *err)
{
    mica_file_map file;
    MICA_TRY(mica_file_map_open(&file, path, err));
    mica_text_add(out, "\033]1337;File=inline=1;size=%zu:", (size_t)file.size);
    add_base64(out, file.data, (size_t)file.size);
    mica_text_add(out, "\a\n");
    mica_file_map_close(&file);
    return MICA_OK;
}

/* ------------------------------------------------------------------- sixels -- */

/* Level 0..5 of a value, with a threshold from a 4 x 4 Bayer matrix; transparency over white. */
static int level_of(const cli_pixels *p, int x, int y, int c)
{
    static const int bayer[16] = {0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5};
    const uint8_t *at =
        p->pixels + ((size_t)y * (size_t)p->width + (size_t)x) * (size_t)p->channels;
    const int alpha = p->channels == 4 ? at[3] : 255;
    const int value = (at[c] * alpha + 255 * (255 - alpha)) / 255;
    return (value * (LEVELS - 1) * 16 + bayer[(y & 3) * 4 + (x & 3)] * 255) / (255 * 16);
}

static int colour_of(const cli_pixels *p, int x, int y)
{
    return (level_of(p, x, y, 0) * LEVELS + level_of(p, x, y, 1)) * LEVELS + level_of(p, x, y, 2);
}

static void add_run(mica_text *out, int count, int bits)
{
    if (count > 3)
        mica_text_add(out, "!%d%c", count, 63 + bits);
    for (int i = 0; i < count && count <= 3; i++)
        mica_text_add(out, "%c", 63 + bits);
}

/* One colour of a band of six rows: a character a column, bit k for row k. */
static void add_colour(const cli_pixels *p, const uint8_t *colours, int rows, int colour,
                       mica_text *out)
{
    int count = 0, last = -1;
    mica_text_add(out, "#%d", colour);
    for (int x = 0; x < p->width; x++) {
        int bits = 0;
        for (int k = 0; k < rows; k++)
            bits |= (colours[k * p->width + x] == colour) << k;
        if (bits != last) {
            add_run(out, count, last);
            count = 0;
            last = bits;
        }
        count++;
    }
    add_run(out, count, last);
    mica_text_add(out, "$");
}

static void add_band(const cli_pixels *p, uint8_t *colours, int top, mica_text *out)
{
    bool used[LEVELS * LEVELS * LEVELS] = {false};
    const int rows = MICA_MIN(6, p->height - top);
    for (int k = 0; k < rows; k++)
        for (int x = 0; x < p->width; x++) {
            const int c = colour_of(p, x, top + k);
            colours[k * p->width + x] = (uint8_t)c;
            used[c] = true;
        }
    for (int c = 0; c < LEVELS * LEVELS * LEVELS; c++)
        if (used[c])
            add_colour(p, colours, rows, c, out);
    mica_text_add(out, "-");
}

static mica_status add_sixels(const cli_pixels *p, mica_text *out, mica_err *err)
{
    uint8_t *colours = mica_mem_calloc((size_t)p->width * 6, 1);
    if (!colours)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to show a picture");
    mica_text_add(out, "\033P0;1q\"1;1;%d;%d", p->width, p->height);
    for (int c = 0; c < LEVELS * LEVELS * LEVELS; c++)
        mica_text_add(out, "#%d;2;%d;%d;%d", c, c / (LEVELS * LEVELS) * 20,
                      c / LEVELS % LEVELS * 20, c % LEVELS * 20);
    for (int top = 0; top < p->height; top += 6)
        add_band(p, colours, top, out);
    mica_text_add(out, "\033\\\n");
    mica_mem_free(colours);
    return MICA_OK;
}

mica_status cli_show_add(cli_protocol protocol, const cli_pixels *p, const char *path,
                         mica_text *out, mica_err *err)
{
    switch (protocol) {
    case CLI_PROTOCOL_KITTY:
        add_kitty(p, out);
        return MICA_OK;
    case CLI_PROTOCOL_ITERM2:
        return add_iterm2(path, out, err);
    case CLI_PROTOCOL_SIXEL:
        return add_sixels(p, out, err);
    case CLI_PROTOCOL_NONE:
        break;
    }
    return MICA_OK;
}
