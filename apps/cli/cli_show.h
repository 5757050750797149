/* cli_show.h - pictures in the terminal; see cli_show.c. */
#ifndef MICA_CLI_SHOW_H
#define MICA_CLI_SHOW_H

#include "base/json.h"
#include "base/status.h"

typedef enum cli_protocol {
    CLI_PROTOCOL_NONE = 0,
    CLI_PROTOCOL_KITTY,
    CLI_PROTOCOL_ITERM2,
    CLI_PROTOCOL_SIXEL
} cli_protocol;

typedef struct cli_pixels {
    const uint8_t *pixels; /* height * width * channels, 3 or 4 */
    int width, height, channels;
} cli_pixels;

/* What the terminal on standard output draws; NONE also when that is no terminal. */
cli_protocol cli_show_find(void);
/* Appends what makes a terminal draw the picture, which also lies in the file `path`. */
mica_status cli_show_add(cli_protocol protocol, const cli_pixels *p, const char *path,
                         mica_text *out, mica_err *err);

#endif
