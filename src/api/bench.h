/* bench.h - what the files of mica_bench_run share. */
#ifndef MICA_API_BENCH_H
#define MICA_API_BENCH_H

#include "api/api.h"

typedef struct api_bench {
    mica_bench_options options; /* but for its engine: */
    mica_engine_options engine;
    mica_report *report;
} api_bench;

/* One line for people: into the report and to the caller's callback. */
void api_bench_say(const api_bench *b, const char *format, ...) MICA_PRINTF(2, 3);
/* The run that is measured; `prompt` keeps its text. */
mica_image_options api_bench_picture(const api_bench *b, char prompt[64], int steps);

/* A run of `steps` steps on s. */
mica_status api_bench_once(const api_bench *b, mica_session *s, int steps);

/* bench_profile.c: one more run, operation by operation; ,"profile":[...] into the JSON. */
typedef mica_status api_bench_run(const api_bench *b, mica_session *s, void *user);
mica_status api_bench_profile(const api_bench *b, mica_session *s, api_bench_run *run, void *user);

/* An operand of small numbers from the session's pool. */
mica_tensor api_bench_ones(mica_backend *be, int ndim, const int64_t *shape);
/* Seconds of the product, the best of several. */
double api_bench_time_linear(mica_backend *be, const mica_linear_args *args);
/* bench_packed.c: packed weights against the bandwidth of memory and bf16; ,{...} into the JSON. */
mica_status api_bench_packed(const api_bench *b);

/* bench_caching.c: whole runs with step caching off, balanced and fast; JSON objects behind "runs":[. */
mica_status api_bench_caching(const api_bench *b, mica_engine *e);

/* bench_speech.c: a sentence of a speech model; one JSON object behind "runs":[. */
mica_status api_bench_speech(const api_bench *b, mica_engine *e);

/* bench_text.c: a prompt read and an answer written; one JSON object behind "runs":[. */
mica_status api_bench_text(const api_bench *b, mica_engine *e);

#endif
