/* cmd_speak_stream.c - sound to standard output while it is made.
 *
 *     a pipe    WAV header of open length, then samples; players read on to the end
 *     a file    the same, and at the end the header gets the length, whatever ended the run
 *     pcm       samples alone
 *
 * Every chunk is flushed. A reader that goes away ends the run with a message; Ctrl-C ends it and leaves what
 * was written, whole samples. */
#include "cmd_speak.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STREAM_SAMPLES 4096 /* converted at a time */

/* Where standard output stands if its bytes can be written again, else -1. */
static int64_t place_in_file(void)
{
    struct stat st;
    const int flags = fcntl(STDOUT_FILENO, F_GETFL);
    if (fstat(STDOUT_FILENO, &st) || !S_ISREG(st.st_mode) || flags < 0 || (flags & O_APPEND))
        return -1;
    return (int64_t)lseek(STDOUT_FILENO, 0, SEEK_CUR);
}

static bool cannot_write(speak_run *run)
{
    MICA_FAIL(&run->stream_err, MICA_E_IO, "cannot write to standard output: %s", strerror(errno));
    return false;
}

static bool put_bytes(speak_run *run, const void *bytes, size_t size)
{
    return fwrite(bytes, 1, size, stdout) == size || cannot_write(run);
}

static bool begin(speak_run *run, const mica_speech_chunk *chunk)
{
    uint8_t header[MICA_WAV_HEADER_SIZE];
    run->first_sound = mica_clock_seconds() - run->start;
    run->stream_begun = true;
    run->stream_rate = chunk->rate;
    run->stream_place = place_in_file();
    mica_wav_header(chunk->rate, MICA_WAV_OPEN, header);
    return run->args->stream != SPEAK_STREAM_WAV || put_bytes(run, header, sizeof header);
}

bool speak_take_chunk(void *user, const mica_speech_chunk *chunk)
{
    speak_run *run = user;
    uint8_t bytes[2 * STREAM_SAMPLES];
    if (!run->stream_begun && !begin(run, chunk))
        return false;
    for (size_t at = 0; at < chunk->count; at += STREAM_SAMPLES) {
        const size_t n = MICA_MIN((size_t)STREAM_SAMPLES, chunk->count - at);
        mica_wav_samples(chunk->samples + at, n, bytes);
        if (!put_bytes(run, bytes, 2 * n))
            return false;
        run->stream_samples += n;
    }
    return fflush(stdout) != EOF || cannot_write(run);
}

void speak_end_stream(speak_run *run)
{
    uint8_t header[MICA_WAV_HEADER_SIZE];
    if (run->args->stream != SPEAK_STREAM_WAV || !run->stream_begun || run->stream_place < 0)
        return;
    mica_wav_header(run->stream_rate, run->stream_samples, header);
    if (pwrite(STDOUT_FILENO, header, sizeof header, (off_t)run->stream_place) !=
            (ssize_t)sizeof header &&
        !run->stream_err.status)
        cannot_write(run);
}
