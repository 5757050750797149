/* audio_window.c - the best stretch of a long recording.
 *
 *     power    ▁▂▇█▆▁▁▃█▇▅▁▁▁▁▂▆█▇▂▁     frames of 10 ms
 *     quiet         ^^     ^^^^     ^     a tenth of the way from the floor to the loud frames, in dB
 *     pairs         [---- 3..10 s ----]   begin and end quiet
 *     score    speech frames / frames x (length / 10 s)^1/4, less clipped frames
 *
 * Floor and loud are the 10th and 90th of 100 parts of the frames by power, so that one bang
 * changes nothing. Without two quiet frames at the right distance every frame may be an edge. */
#include "media/audio_window.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_SECONDS 0.01
#define SILENCE_DB    (-90.0f)
#define CLIPPED       0.999f
#define QUIET_SHARE   0.1f

typedef struct frames {
    float *db; /* power of each frame */
    float *sorted;
    uint32_t *voiced, *clipped; /* before each frame: sums make any stretch cheap */
    size_t count, size;         /* size: samples of a frame */
    float quiet, speech;        /* dB */
} frames;

static int compare(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float frame_db(const float *samples, size_t n, bool *clips)
{
    double power = 0.0;
    *clips = false;
    for (size_t i = 0; i < n; i++) {
        power += (double)samples[i] * (double)samples[i];
        *clips |= fabsf(samples[i]) >= CLIPPED;
    }
    const double db = 10.0 * log10(power / (double)n + 1e-12);
    return (float)MICA_MAX(db, (double)SILENCE_DB);
}

static void measure(const mica_audio *a, frames *f)
{
    for (size_t i = 0; i < f->count; i++) {
        bool clips;
        f->db[i] = f->sorted[i] = frame_db(a->samples + i * f->size, f->size, &clips);
        f->clipped[i + 1] = f->clipped[i] + clips;
    }
    qsort(f->sorted, f->count, sizeof *f->sorted, compare);
    const float floor = f->sorted[f->count / 10], loud = f->sorted[f->count - 1 - f->count / 10];
    f->quiet = floor + QUIET_SHARE * (loud - floor);
    f->speech = floor + 0.5f * (loud - floor);
    for (size_t i = 0; i < f->count; i++)
        f->voiced[i + 1] = f->voiced[i] + (f->db[i] > f->speech);
}

static bool frames_init(frames *f, const mica_audio *a)
{
    *f = (frames){.size = MICA_MAX((size_t)(a->rate * FRAME_SECONDS), (size_t)1)};
    f->count = a->count / f->size;
    f->db = mica_mem_calloc(4 * (f->count + 1), sizeof *f->db);
    f->sorted = f->db != NULL ? f->db + f->count + 1 : NULL;
    f->voiced = mica_mem_calloc(2 * (f->count + 1), sizeof *f->voiced);
    f->clipped = f->voiced != NULL ? f->voiced + f->count + 1 : NULL;
    return f->db != NULL && f->voiced != NULL;
}

static void frames_deinit(frames *f)
{
    mica_mem_free(f->db);
    mica_mem_free(f->voiced);
}

static double score_of(const frames *f, size_t begin, size_t end)
{
    const double n = (double)(end - begin), whole = MICA_REFERENCE_LONGEST / FRAME_SECONDS;
    return (f->voiced[end] - f->voiced[begin]) / n * pow(n / whole, 0.25) -
           2.0 * (f->clipped[end] - f->clipped[begin]) / n;
}

/* The best pair of edges; false: no pair of quiet frames. */
static bool search(const frames *f, bool quiet_edges, size_t *begin, size_t *end)
{
    const size_t least = (size_t)ceil(MICA_REFERENCE_SHORTEST / FRAME_SECONDS);
    const size_t most = (size_t)(MICA_REFERENCE_LONGEST / FRAME_SECONDS);
    const size_t step = quiet_edges ? 1 : 10;
    double best = -10.0;
    for (size_t b = 0; b + least <= f->count; b += step) {
        if (quiet_edges && f->db[b] > f->quiet)
            continue;
        for (size_t e = b + least; e <= MICA_MIN(b + most, f->count); e += step) {
            if (quiet_edges && e < f->count && f->db[e] > f->quiet)
                continue;
            const double score = score_of(f, b, e);
            if (score > best) {
                best = score;
                *begin = b;
                *end = e;
            }
        }
    }
    return best > -10.0;
}

mica_status mica_audio_find_window(const mica_audio *a, const char *name, size_t *first,
                                   size_t *count, mica_err *err)
{
    const double seconds = (double)a->count / a->rate;
    frames f;
    if (seconds < MICA_REFERENCE_SHORTEST)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%s: %.2f seconds; a reference must have %g to %g seconds of speech", name,
                         seconds, MICA_REFERENCE_SHORTEST, MICA_REFERENCE_LONGEST);
    if (!frames_init(&f, a)) {
        frames_deinit(&f);
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to look for speech", name);
    }
    measure(a, &f);
    const bool silent = f.sorted[f.count - 1] <= SILENCE_DB;
    *first = 0;
    *count = a->count;
    if (!silent && seconds > MICA_REFERENCE_LONGEST) {
        size_t begin = 0, end = (size_t)(MICA_REFERENCE_LONGEST / FRAME_SECONDS);
        if (!search(&f, true, &begin, &end))
            (void)search(&f, false, &begin, &end);
        *first = begin * f.size;
        *count = (end - begin) * f.size;
    }
    frames_deinit(&f);
    return silent ? MICA_FAIL(err, MICA_E_USAGE, "%s: there is only silence in it", name) : MICA_OK;
}
