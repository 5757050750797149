/* cmd_speak_result.c - when what is said, and what `mica speak` prints when it is done. */
#include "cmd_speak.h"

#include "base/clock.h"
#include "base/file.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define NAMED 3 /* sentences that may be wrong, in the summary */

static bool is_srt(const char *path)
{
    const size_t n = strlen(path);
    return n > 4 && strcasecmp(path + n - 4, ".srt") == 0;
}

mica_status speak_check_timestamps(const char *path, mica_err *err)
{
    const size_t n = strlen(path);
    if (!is_srt(path) && !(n > 5 && strcasecmp(path + n - 5, ".json") == 0))
        return MICA_FAIL(err, MICA_E_USAGE, "time stamps '%s' must end in .srt or .json", path);
    return cli_output_check_folder(path, err);
}

static double seconds_at(const speak_run *run, size_t sample)
{
    const int rate = mica_speech_rate(run->speech);
    return rate > 0 ? (double)sample / rate : 0.0;
}

/* 00:01:02,345 */
static void add_srt_time(mica_text *out, double seconds)
{
    const long ms = lround(seconds * 1000.0);
    mica_text_add(out, "%02ld:%02ld:%02ld,%03ld", ms / 3600000, ms / 60000 % 60, ms / 1000 % 60,
                  ms % 1000);
}

static void add_srt(const speak_run *run, mica_text *out)
{
    for (int i = 0; i < mica_speech_sentence_count(run->speech); i++) {
        mica_speech_sentence s = {.size = sizeof s};
        if (mica_speech_get_sentence(run->speech, i, &s))
            continue;
        mica_text_add(out, "%s%d\n", i ? "\n" : "", i + 1);
        add_srt_time(out, seconds_at(run, s.first));
        mica_text_add(out, " --> ");
        add_srt_time(out, seconds_at(run, s.first + s.count));
        mica_text_add(out, "\n");
        mica_text_add_bytes(out, s.text, strlen(s.text));
        mica_text_add(out, "\n");
    }
}

static const struct {
    mica_speech_doubt doubt;
    const char *name;
} DOUBTS[] = {{MICA_SPEECH_TOO_SHORT, "short"},
              {MICA_SPEECH_TOO_LONG, "long"},
              {MICA_SPEECH_LOOP, "loop"},
              {MICA_SPEECH_DROPPED, "dropped"},
              {MICA_SPEECH_REPEATED, "repeated"}};

/* null: nobody could tell; else the phones in question, none for most sentences. */
static void add_phones_json(const char *name, const char *phones, bool followed, mica_text *out)
{
    mica_text_add(out, ",\"%s\":", name);
    if (followed)
        mica_text_add_json_string(out, phones);
    else
        mica_text_add(out, "null");
}

static void add_doubts_json(const mica_speech_sentence *s, mica_text *out)
{
    const char *separator = "";
    mica_text_add(out, ",\"suspicious\":%s,\"doubts\":[", s->suspicious ? "true" : "false");
    for (size_t i = 0; i < MICA_ARRAY_LEN(DOUBTS); i++)
        if (s->doubts & (unsigned)DOUBTS[i].doubt) {
            mica_text_add(out, "%s\"%s\"", separator, DOUBTS[i].name);
            separator = ",";
        }
    mica_text_add(out, "]");
    add_phones_json("dropped", s->dropped, s->followed, out);
    add_phones_json("repeated", s->repeated, s->followed, out);
}

static void add_sentences_json(const speak_run *run, mica_text *out)
{
    mica_text_add(out, "[");
    for (int i = 0; i < mica_speech_sentence_count(run->speech); i++) {
        mica_speech_sentence s = {.size = sizeof s};
        if (mica_speech_get_sentence(run->speech, i, &s))
            continue;
        mica_text_add(out, "%s{\"text\":", i ? "," : "");
        mica_text_add_json_string(out, s.text);
        mica_text_add(out, ",\"start\":%.6f,\"end\":%.6f,\"tokens\":%d,\"retries\":%d",
                      seconds_at(run, s.first), seconds_at(run, s.first + s.count), s.tokens,
                      s.retries);
        add_doubts_json(&s, out);
        mica_text_add(out, "}");
    }
    mica_text_add(out, "]");
}

mica_status speak_write_timestamps(const speak_run *run, mica_err *err)
{
    mica_text text = {0};
    mica_file_out out;
    if (is_srt(run->args->timestamps))
        add_srt(run, &text);
    else {
        mica_text_add(&text, "{\"sentences\":");
        add_sentences_json(run, &text);
        mica_text_add(&text, "}\n");
    }
    mica_status status = text.failed ? MICA_FAIL(err, MICA_E_NOMEM, "out of memory")
                                     : mica_file_out_open(&out, run->args->timestamps, err);
    if (status == MICA_OK) {
        status = mica_file_out_write(&out, text.data ? text.data : "", text.size, err);
        if (status == MICA_OK)
            status = mica_file_out_commit(&out, err);
        else
            mica_file_out_abort(&out);
    }
    mica_text_deinit(&text);
    return status;
}

static void add_notes_json(const speak_run *run, mica_text *out)
{
    const char *separator = "";
    mica_text_add(out, ",\"notes\":[");
    for (const char *at = mica_speech_notes(run->speech); *at;) {
        const size_t n = strcspn(at, "\n");
        mica_text line = {0};
        mica_text_add_bytes(&line, at, n);
        mica_text_add(out, "%s", separator);
        mica_text_add_json_string(out, line.data ? line.data : "");
        out->failed |= line.failed;
        mica_text_deinit(&line);
        separator = ",";
        at += n + (at[n] == '\n');
    }
    mica_text_add(out, "]");
}

static void add_json(const speak_run *run, mica_text *out)
{
    size_t count;
    const char *recipe = mica_speech_recipe(run->speech);
    (void)mica_speech_samples(run->speech, &count);
    const double spoken = seconds_at(run, count);
    mica_text_add(out, "{\"command\":\"speak\",\"version\":");
    mica_text_add_json_string(out, mica_version());
    mica_text_add(out, ",\"device\":\"%s\",\"parameters\":%s,\"output\":",
                  mica_engine_device(run->engine), recipe ? recipe : "null");
    mica_text_add_json_string(out, run->args->output ? run->args->output : "out.wav");
    mica_text_add(out,
                  ",\"rate\":%d,\"duration\":%.6f,\"sentences\":", mica_speech_rate(run->speech),
                  spoken);
    add_sentences_json(run, out);
    add_notes_json(run, out);
    mica_text_add(
        out,
        ",\"seconds\":{\"open\":%.6f,\"speak\":%.6f,\"total\":%.6f},\"real_time_factor\":%.6f}\n",
        run->open_seconds, run->run_seconds, mica_clock_seconds() - run->start,
        spoken > 0.0 ? run->run_seconds / spoken : 0.0);
}

/* Names the sentences that may be wrong, the first few of them. */
static void add_suspicious(const speak_run *run, mica_text *out)
{
    int count = 0;
    for (int i = 0; i < mica_speech_sentence_count(run->speech); i++) {
        mica_speech_sentence s = {.size = sizeof s};
        if (mica_speech_get_sentence(run->speech, i, &s) || !s.suspicious)
            continue;
        if (count++ >= NAMED)
            continue;
        mica_text_add(out, "%s %d \"%s\"", count == 1 ? "words may be lost or repeated in" : ",",
                      i + 1, s.text);
        if (s.dropped[0] || s.repeated[0])
            mica_text_add(out, " (%s%s%s%s%s)", s.dropped[0] ? "lost: " : "", s.dropped,
                          s.dropped[0] && s.repeated[0] ? "; " : "", s.repeated[0] ? "twice: " : "",
                          s.repeated);
    }
    if (count > NAMED)
        mica_text_add(out, " and %d more", count - NAMED);
    if (count)
        mica_text_add(out, "; try another --seed or more --retries\n");
}

void speak_describe(const speak_run *run, mica_text *out)
{
    size_t count;
    if (run->args->common.json)
        add_json(run, out);
    if (run->args->common.json || run->args->common.quiet)
        return;
    (void)mica_speech_samples(run->speech, &count);
    const int sentences = mica_speech_sentence_count(run->speech);
    mica_text_add(out, "%s  %.2f s, %d %s, %d Hz\n",
                  run->args->output ? run->args->output : "out.wav", seconds_at(run, count),
                  sentences, sentences == 1 ? "sentence" : "sentences",
                  mica_speech_rate(run->speech));
    add_suspicious(run, out);
    mica_text_add(out, "open %.2f s, speak %.2f s\n", run->open_seconds, run->run_seconds);
}
