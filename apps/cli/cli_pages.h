/* cli_pages.h - the manual page and the completion of shells, made from the command lines of all commands. */
#ifndef MICA_CLI_PAGES_H
#define MICA_CLI_PAGES_H

#include "cli_options.h"

/* mica.1. specs: up to NULL. */
void cli_man_page(const cli_spec *const *specs, const char *version, mica_text *out);
/* What bash reads to complete the words behind "mica". */
void cli_bash_completion(const cli_spec *const *specs, mica_text *out);

#endif
