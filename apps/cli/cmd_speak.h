/* cmd_speak.h - what the parts of `mica speak` and `mica voice` share.
 *
 *     cmd_speak_options.c   the command lines
 *     cmd_speak.c           checks, the run itself
 *     cmd_speak_stream.c    sound to standard output
 *     cmd_speak_result.c    what is written and printed about it: time stamps, summary, JSON
 *     cmd_voice.c           mica voice make | list */
#ifndef MICA_CLI_CMD_SPEAK_H
#define MICA_CLI_CMD_SPEAK_H

#include "cli.h"

/* Options whose 0 means something other than the library's 0 ("the default"). */
#define SPEAK_UNSET (-1.0)

typedef enum speak_stream {
    SPEAK_STREAM_NONE = 0,
    SPEAK_STREAM_WAV,
    SPEAK_STREAM_PCM
} speak_stream;

/* Parts of the model given one by one. */
typedef struct speak_parts {
    const char *semantic, *synthesizer, *hubert, *bert, *speaker, *g2pw;
} speak_parts;
extern const cli_option speak_parts_table[];

typedef struct speak_args {
    cli_common_args common;
    speak_parts parts;
    cli_engine_args engine;
    const char *text, *voice_text, *voice_language, *language, *output, *timestamps;
    cli_texts voices;
    int cut, top_k, batch, retries, max_tokens, chunk_tokens, stream;
    double top_p, temperature, penalty, noise_scale, speed, pause;
    uint64_t seed;
    bool greedy, floats;
    const char *codes, *phones, *tokens, *trace;
} speak_args;

/* One run and what it leaves behind. */
typedef struct speak_run {
    const speak_args *args;
    const char *model;
    char *text, *voice_text;
    char *voice_paths[CLI_MAX_TEXTS]; /* names resolved */
    mica_voice_input voices[CLI_MAX_TEXTS];
    mica_engine *engine;
    mica_session *session;
    mica_speech *speech;
    cli_progress progress;
    mica_err stream_err; /* the stream could not be written */
    bool stream_begun;
    int stream_rate;
    int64_t stream_place;    /* of the header in a file; -1: it is none */
    uint64_t stream_samples; /* written */
    double start, open_seconds, run_seconds,
        first_sound; /* first_sound: seconds until the first chunk; 0: none */
} speak_run;

const char *speak_cut_name(int word); /* "cut0".. of a --cut word */
/* Opens the model and a session. */
mica_status speak_open(speak_run *run, mica_err *err);
/* Resolves --voice and --voice-text into run->voices; wants: how many at least. */
mica_status speak_find_voices(speak_run *run, int wants, mica_err *err);
void speak_run_deinit(speak_run *run);
mica_status speak_take_text(mica_status status, const char *text, mica_err *err);
/* --output: the kind is known, float samples go with it, the folder can be written to. */
mica_status speak_check_output(const char *path, bool floats, mica_err *err);

/* Where voices are kept: $XDG_DATA_HOME/mica/voices, else ~/.local/share/mica/voices; NULL: neither is set, or no
 * memory. Freed with mica_mem_free. */
char *speak_voice_folder(void);

/* ---- cmd_speak_stream.c ---- */
bool speak_take_chunk(void *user, const mica_speech_chunk *chunk); /* a mica_speech_fn */
/* A stream into a file gets its length. */
void speak_end_stream(speak_run *run);

/* ---- cmd_speak_result.c ---- */
/* --timestamps: .srt or .json, by name. */
mica_status speak_check_timestamps(const char *path, mica_err *err);
mica_status speak_write_timestamps(const speak_run *run, mica_err *err);
void speak_describe(const speak_run *run, mica_text *out);

#endif
