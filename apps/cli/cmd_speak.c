/* cmd_speak.c - `mica speak`: a text and a voice to sound.
 *
 *     parse ──► check (text, voices, files) ──► open model ──► generate ──► write
 *                  nothing slow before this         │ chunks
 *                                                   └──► standard output (--stream)
 *
 * Streams are cmd_speak_stream.c. */
#include "cmd_speak.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

mica_status speak_take_text(mica_status status, const char *text, mica_err *err)
{
    if (status)
        MICA_FAIL(err, status, "%s", text && text[0] ? text : mica_status_name(status));
    return status;
}

/* ---------------------------------------------------------------- checks -- */

mica_status speak_check_output(const char *path, bool floats, mica_err *err)
{
    static const char *const kinds[] = {"wav", "flac", "ogg", "opus", "mp3"};
    const char *dot = strrchr(path, '.'), *kind = NULL;
    for (size_t i = 0; dot && i < MICA_ARRAY_LEN(kinds); i++)
        if (strcasecmp(dot + 1, kinds[i]) == 0)
            kind = kinds[i];
    if (!kind)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "output '%s' must end in .wav, .flac, .ogg, .opus or .mp3", path);
    if (floats && strcmp(kind, "wav") != 0)
        return MICA_FAIL(err, MICA_E_USAGE, "--float is for .wav files, not for '%s'", path);
    return cli_output_check_folder(path, err);
}

static const char *output_path(const speak_args *a)
{
    return a->output ? a->output : "out.wav";
}

static bool writes_file(const speak_args *a)
{
    return a->output || !a->stream;
}

static mica_status check_file(const char *what, const char *path, mica_err *err)
{
    if (path && !mica_path_is_file(path))
        return MICA_FAIL(err, MICA_E_MISSING, "%s file '%s' does not exist", what, path);
    return MICA_OK;
}

static mica_status check_text(const speak_args *a, mica_err *err)
{
    if (!a->text && !a->phones)
        return MICA_FAIL(err, MICA_E_USAGE, "speak needs a text: -t TEXT");
    if (a->text && a->phones)
        return MICA_FAIL(err, MICA_E_USAGE, "--text and --phones both say what to speak");
    if (a->text && a->voice_text && strcmp(a->text, "-") == 0 && strcmp(a->voice_text, "-") == 0)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "only one of -t and --voice-text can read standard input");
    if (!a->voices.count && a->voice_text)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "--voice-text needs the recording it belongs to: --voice FILE");
    return MICA_OK;
}

static mica_status check_stream(const speak_args *a, mica_err *err)
{
    if (a->stream && a->common.json)
        return MICA_FAIL(err, MICA_E_USAGE, "--stream and --json both want standard output");
    if (a->chunk_tokens && !a->stream)
        return MICA_FAIL(err, MICA_E_USAGE, "--chunk-tokens is for streams: --stream wav or pcm");
    if (a->stream && isatty(STDOUT_FILENO))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "--stream writes sound to standard output; send it to a file or player");
    return MICA_OK;
}

static mica_status check_args(const speak_args *a, const char *model, mica_err *err)
{
    if (!model && !a->parts.synthesizer)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "speak needs a model: a GPT-SoVITS folder, or --semantic and --synthesizer");
    MICA_TRY(check_text(a, err));
    MICA_TRY(check_stream(a, err));
    MICA_TRY(check_file("codes", a->codes, err));
    MICA_TRY(check_file("phones", a->phones, err));
    MICA_TRY(check_file("tokens", a->tokens, err));
    if (a->timestamps)
        MICA_TRY(speak_check_timestamps(a->timestamps, err));
    if (a->trace)
        MICA_TRY(cli_output_check_folder(a->trace, err));
    return writes_file(a) ? speak_check_output(output_path(a), a->floats, err) : MICA_OK;
}

/* ---------------------------------------------------------------- voices -- */

char *speak_voice_folder(void)
{
    const char *base = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (base && base[0] == '/')
        return mica_path_join(base, "mica/voices");
    return home && home[0] == '/' ? mica_path_join(home, ".local/share/mica/voices") : NULL;
}

/* A file as it is, else NAME.voice of the voices' folder. */
static mica_status find_voice(const char *name, char **out, mica_err *err)
{
    *out = NULL;
    if (mica_path_is_file(name)) {
        *out = mica_mem_strdup(name);
        return *out ? MICA_OK : MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
    }
    if (mica_path_is_dir(name))
        return MICA_FAIL(err, MICA_E_IO, "voice '%s' is a folder; give a sound file", name);
    char *folder = strchr(name, '/') ? NULL : speak_voice_folder();
    if (folder) {
        mica_text file = {0};
        mica_text_add(&file, "%s/%s.voice", folder, name);
        if (!file.failed && mica_path_is_file(file.data))
            *out = mica_mem_strdup(file.data);
        mica_text_deinit(&file);
    }
    mica_mem_free(folder);
    if (*out)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_MISSING,
                     "voice '%s' does not exist, neither as a file nor among the voices that 'mica "
                     "voice list' shows",
                     name);
}

mica_status speak_find_voices(speak_run *run, int wants, mica_err *err)
{
    const speak_args *a = run->args;
    if (a->voices.count < wants)
        return MICA_FAIL(err, MICA_E_USAGE, "a voice is needed: --voice FILE");
    if (a->voices.count > 16)
        return MICA_FAIL(err, MICA_E_USAGE, "%d voices; up to 16 can be averaged", a->voices.count);
    for (int i = 0; i < a->voices.count; i++) {
        MICA_TRY(find_voice(a->voices.values[i], &run->voice_paths[i], err));
        run->voices[i].path = run->voice_paths[i];
    }
    MICA_TRY(cli_text_read(a->voice_text, &run->voice_text, err));
    cli_note_invalid_text("transcript", run->voice_text, a->common.quiet);
    run->voices[0].text = run->voice_text;
    run->voices[0].language = a->voice_language;
    return MICA_OK;
}

/* --------------------------------------------------------------- running -- */

void speak_run_deinit(speak_run *run)
{
    mica_speech_close(&run->speech);
    mica_session_close(&run->session);
    mica_engine_close(&run->engine);
    for (int i = 0; i < CLI_MAX_TEXTS; i++)
        mica_mem_free(run->voice_paths[i]);
    mica_mem_free(run->text);
    mica_mem_free(run->voice_text);
}

mica_status speak_open(speak_run *run, mica_err *err)
{
    mica_engine_options options;
    const speak_parts *parts = &run->args->parts;
    const double start = mica_clock_seconds();
    cli_engine_fill(&run->args->engine, run->model, &options);
    options.semantic = parts->semantic;
    options.synthesizer = parts->synthesizer;
    options.hubert = parts->hubert;
    options.bert = parts->bert;
    options.speaker = parts->speaker;
    options.g2pw = parts->g2pw;
    mica_status status = mica_engine_open(&run->engine, &options);
    MICA_TRY(speak_take_text(status, run->engine ? mica_engine_errmsg(run->engine) : NULL, err));
    if (!run->args->common.quiet)
        cli_note_lines(mica_engine_notes(run->engine));
    status = mica_session_open(&run->session, run->engine);
    run->open_seconds = mica_clock_seconds() - start;
    return speak_take_text(status, run->session ? mica_session_errmsg(run->session) : NULL, err);
}

static void fill_options(speak_run *run, mica_speech_options *out)
{
    const speak_args *a = run->args;
    *out = (mica_speech_options){.size = sizeof *out,
                                 .text = run->text,
                                 .language = a->language,
                                 .cut = speak_cut_name(a->cut),
                                 .voices = run->voices,
                                 .voice_count = a->voices.count,
                                 .seed = a->seed,
                                 .top_k = a->top_k,
                                 .top_p = a->top_p,
                                 .temperature = a->temperature,
                                 .repetition_penalty = a->penalty,
                                 .greedy = a->greedy,
                                 .speed = a->speed,
                                 .batch = a->batch,
                                 .max_tokens = a->max_tokens,
                                 .chunk_tokens = a->chunk_tokens,
                                 .phones_path = a->phones,
                                 .codes_path = a->codes,
                                 .tokens_path = a->tokens,
                                 .trace_path = a->trace,
                                 .progress = cli_progress_update,
                                 .progress_user = &run->progress};
    /* For the library 0 means the default; a user who types 0 means none. */
    out->noise_scale = a->noise_scale == SPEAK_UNSET ? 0.0
                       : a->noise_scale == 0.0       ? -1.0
                                                     : a->noise_scale;
    out->pause = a->pause == SPEAK_UNSET ? 0.0 : a->pause == 0.0 ? -1.0 : a->pause;
    out->retries = a->retries == (int)SPEAK_UNSET ? 0 : a->retries == 0 ? -1 : a->retries;
    if (a->stream) {
        out->chunk = speak_take_chunk;
        out->chunk_user = run;
    }
}

static mica_status generate(speak_run *run, mica_err *err)
{
    mica_speech_options options;
    fill_options(run, &options);
    cli_signals_install();
    cli_progress_init(&run->progress, run->args->common.quiet);
    const double start = mica_clock_seconds();
    const mica_status status = mica_speech_generate(run->session, &options, &run->speech);
    run->run_seconds = mica_clock_seconds() - start;
    cli_progress_end(&run->progress);
    speak_end_stream(run);
    if (run->stream_err.status)
        return speak_take_text(run->stream_err.status, run->stream_err.text, err);
    MICA_TRY(speak_take_text(status, mica_session_errmsg(run->session), err));
    if (!run->args->common.quiet)
        cli_note_lines(mica_speech_notes(run->speech));
    return MICA_OK;
}

static mica_status write_sound(speak_run *run, mica_err *err)
{
    char message[MICA_ERR_TEXT] = "";
    const mica_status status = mica_speech_write(run->speech, output_path(run->args),
                                                 run->args->floats, message, sizeof message);
    return speak_take_text(status, message, err);
}

static mica_status run_speak(speak_run *run, mica_text *result, mica_err *err)
{
    const speak_args *a = run->args;
    run->start = mica_clock_seconds();
    MICA_TRY(check_args(a, run->model, err));
    MICA_TRY(speak_find_voices(run, a->tokens && a->phones ? 0 : 1, err));
    MICA_TRY(cli_text_read(a->text, &run->text, err));
    cli_note_invalid_text("text", run->text, a->common.quiet);
    MICA_TRY(speak_open(run, err));
    MICA_TRY(generate(run, err));
    if (writes_file(a))
        MICA_TRY(write_sound(run, err));
    if (a->timestamps)
        MICA_TRY(speak_write_timestamps(run, err));
    if (a->stream) { /* standard output is sound */
        mica_err note = {0};
        MICA_FAIL(&note, MICA_OK, "the first sound came after %.2f s", run->first_sound);
        if (!a->common.quiet)
            cli_note(note.text);
        return MICA_OK;
    }
    speak_describe(run, result);
    return result->failed ? MICA_FAIL(err, MICA_E_NOMEM, "out of memory") : MICA_OK;
}

int cmd_speak(int argc, char **argv)
{
    speak_args args = {
        .cut = 5, .noise_scale = SPEAK_UNSET, .pause = SPEAK_UNSET, .retries = (int)SPEAK_UNSET};
    mica_text result = {0};
    mica_err err = {0};
    speak_run run = {.args = &args};
    const int over = cli_begin(&cmd_speak_spec, argc, argv, &args, &run.model);
    if (over != CLI_GO)
        return over;
    const mica_status status = run_speak(&run, &result, &err);
    const int exit_status = cli_end(status, &err, &result);
    speak_run_deinit(&run);
    return exit_status;
}
