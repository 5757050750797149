/* convert_support.h - conversions in tests: of a file, of a folder; they must succeed, or fail with a text. */
#ifndef MICA_TESTS_CONVERT_SUPPORT_H
#define MICA_TESTS_CONVERT_SUPPORT_H

#include "golden_support.h"

#include "models/convert_folder.h"

/* From `from` to `to` as the program does it: a folder where `to` names no file. shard 0: no limit. */
void convert_ok(const char *from, const char *to, const char *type, uint64_t shard);
void convert_voice_ok(const char *semantic, const char *synthesizer, const char *to,
                      const char *type);
/* The text of the failure must hold `text`, and nothing may be left below `place` (NULL: not looked at). */
void convert_fails(const mica_convert_request *request, const char *text, const char *place);
/* Runs a request; frees everything. */
mica_status convert_run(const mica_convert_request *request, mica_convert_progress_fn progress,
                        void *user, mica_err *err);
/* How many entries a folder has. */
size_t convert_count(const char *folder);
/* The whole file, NUL-terminated; mica_mem_free. */
char *convert_read(const char *folder, const char *name);

#endif
