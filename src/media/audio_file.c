/* audio_file.c - libsndfile over bytes in memory, in both directions.
 *
 *     file ──map──► bytes ──sf_open_virtual──► frames x channels ──mean──► samples
 *     samples ──► libsndfile ──► growing block ──► temporary file ──rename──► path
 *
 * The library never opens a path itself: what is read is a mapping whose size is known, and what
 * is written appears whole or not at all. Headers lie, so frames are read until they end and
 * counted against the limits; a header's own count only sizes the first block. */
#include "media/audio.h"

#include "base/checked.h"
#include "base/file.h"
#include "base/mem.h"

#include <math.h>
#include <sndfile.h>
#include <string.h>
#include <strings.h>

#define READ_FRAMES 4096
#define BLOCK_FIRST 65536
#define LOUDEST     1e6f /* what floats beyond this hold is no sound */

void mica_audio_deinit(mica_audio *a)
{
    mica_mem_free(a->samples);
    memset(a, 0, sizeof *a);
}

/* ---- a block of bytes as a file ---- */

typedef struct bytes_file {
    uint8_t *data;
    size_t size, cap, at;
    bool fixed;  /* a mapping: neither grown nor written */
    bool failed; /* no memory while writing */
} bytes_file;

static sf_count_t bytes_length(void *user)
{
    return (sf_count_t)((const bytes_file *)user)->size;
}

static sf_count_t bytes_seek(sf_count_t offset, int whence, void *user)
{
    bytes_file *f = user;
    const sf_count_t base = whence == SF_SEEK_CUR   ? (sf_count_t)f->at
                            : whence == SF_SEEK_END ? (sf_count_t)f->size
                                                    : 0;
    if (offset > (sf_count_t)f->size - base || offset < -base)
        return -1;
    f->at = (size_t)(base + offset);
    return base + offset;
}

static sf_count_t bytes_read(void *out, sf_count_t count, void *user)
{
    bytes_file *f = user;
    const size_t left = f->size - f->at, n = count < 0 ? 0 : MICA_MIN((size_t)count, left);
    memcpy(out, f->data + f->at, n);
    f->at += n;
    return (sf_count_t)n;
}

static bool bytes_reserve(bytes_file *f, size_t need)
{
    size_t grown = f->cap > 0 ? f->cap : BLOCK_FIRST;
    while (grown < need)
        if (!mica_mul_size(grown, 2, &grown))
            return false;
    if (grown == f->cap)
        return true;
    uint8_t *data = mica_mem_realloc(f->data, grown);
    if (data == NULL)
        return false;
    f->data = data;
    f->cap = grown;
    return true;
}

static sf_count_t bytes_write(const void *in, sf_count_t count, void *user)
{
    bytes_file *f = user;
    if (f->fixed || count < 0 || f->failed)
        return 0;
    if (!bytes_reserve(f, f->at + (size_t)count)) {
        f->failed = true;
        return 0;
    }
    memcpy(f->data + f->at, in, (size_t)count);
    f->at += (size_t)count;
    f->size = MICA_MAX(f->size, f->at);
    return count;
}

static sf_count_t bytes_tell(void *user)
{
    return (sf_count_t)((const bytes_file *)user)->at;
}

static SF_VIRTUAL_IO bytes_io = {bytes_length, bytes_seek, bytes_read, bytes_write, bytes_tell};

/* ---- in ---- */

static mica_status check_header(const SF_INFO *info, const char *name, mica_err *err)
{
    if (info->samplerate < MICA_AUDIO_MIN_RATE || info->samplerate > MICA_AUDIO_MAX_RATE)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: a rate of %d Hz; %d to %d can be read", name,
                         info->samplerate, MICA_AUDIO_MIN_RATE, MICA_AUDIO_MAX_RATE);
    if (info->channels < 1 || info->channels > MICA_AUDIO_MAX_CHANNELS)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %d channels; 1 to %d can be read", name,
                         info->channels, MICA_AUDIO_MAX_CHANNELS);
    return MICA_OK;
}

static mica_status append_frames(mica_audio *a, size_t *cap, const float *frames, size_t n,
                                 int channels, const char *name, mica_err *err)
{
    if (a->count + n > (size_t)a->rate * MICA_AUDIO_MAX_SECONDS)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: longer than %d seconds; cut it", name,
                         MICA_AUDIO_MAX_SECONDS);
    if (a->count + n > *cap) {
        const size_t grown = MICA_MAX(2 * *cap, (size_t)(4 * READ_FRAMES));
        float *samples = mica_mem_realloc(a->samples, grown * sizeof *samples);
        if (samples == NULL)
            return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its samples", name);
        a->samples = samples;
        *cap = grown;
    }
    for (size_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int c = 0; c < channels; c++)
            sum += frames[i * (size_t)channels + (size_t)c];
        if (!isfinite(sum))
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: sample %zu is not a number", name,
                             a->count + i);
        if (fabsf(sum) > LOUDEST)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: sample %zu is %g; sounds lie within -1 and 1",
                             name, a->count + i, (double)sum);
        a->samples[a->count + i] = sum / (float)channels;
    }
    a->count += n;
    return MICA_OK;
}

static mica_status read_frames(mica_audio *a, SNDFILE *file, int channels, const char *name,
                               mica_err *err)
{
    float *frames = mica_mem_alloc((size_t)READ_FRAMES * (size_t)channels * sizeof *frames);
    size_t cap = 0;
    mica_status status = MICA_OK;
    if (frames == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to read it", name);
    sf_count_t n;
    while (status == MICA_OK && (n = sf_readf_float(file, frames, READ_FRAMES)) > 0)
        status = append_frames(a, &cap, frames, (size_t)n, channels, name, err);
    if (status == MICA_OK && a->count == 0)
        status = MICA_FAIL(err, MICA_E_FORMAT, "%s: no samples in it%s%s", name,
                           sf_error(file) ? ": " : "", sf_error(file) ? sf_strerror(file) : "");
    mica_mem_free(frames);
    return status;
}

mica_status mica_audio_decode(mica_audio *a, const char *name, const uint8_t *data, size_t size,
                              mica_err *err)
{
    memset(a, 0, sizeof *a);
    if (size == 0)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the file is empty", name);
    bytes_file bytes = {.data = (uint8_t *)(uintptr_t)data, .size = size, .fixed = true};
    SF_INFO info = {0};
    SNDFILE *file = sf_open_virtual(&bytes_io, SFM_READ, &info, &bytes);
    if (file == NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: not a sound file that can be read: %s", name,
                         sf_strerror(NULL));
    mica_status status = check_header(&info, name, err);
    a->rate = info.samplerate;
    if (status == MICA_OK)
        status = read_frames(a, file, info.channels, name, err);
    sf_close(file);
    if (status != MICA_OK)
        mica_audio_deinit(a);
    return status;
}

mica_status mica_audio_read(mica_audio *a, const char *path, mica_err *err)
{
    mica_file_map map;
    memset(a, 0, sizeof *a);
    MICA_TRY(mica_file_map_open(&map, path, err));
    const mica_status status = mica_audio_decode(a, path, map.data, map.size, err);
    mica_file_map_close(&map);
    return status;
}

/* ---- out ---- */

static const struct audio_kind {
    const char *name;
    int format, pcm16; /* pcm16: subtype for 16-bit input */
} kinds[] = {{"wav", SF_FORMAT_WAV, SF_FORMAT_PCM_16},
             {"flac", SF_FORMAT_FLAC, SF_FORMAT_PCM_16},
             {"ogg", SF_FORMAT_OGG, SF_FORMAT_VORBIS},
             {"opus", SF_FORMAT_OGG, SF_FORMAT_OPUS},
             {"mp3", SF_FORMAT_MPEG, SF_FORMAT_MPEG_LAYER_III}};

static const struct audio_kind *find_kind(const char *name)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(kinds); i++)
        if (strcasecmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

const char *mica_audio_kind(const char *path)
{
    const char *dot = strrchr(path, '.');
    const struct audio_kind *kind = dot != NULL ? find_kind(dot + 1) : NULL;
    return kind != NULL ? kind->name : NULL;
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static int16_t pcm16_of(float x)
{
    const float scaled = x * 32768.0f;
    if (!(scaled > -32768.0f))
        return INT16_MIN;
    return scaled >= 32767.0f ? INT16_MAX : (int16_t)scaled;
}

void mica_audio_to_pcm16(const float *samples, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        put16(out + 2 * i, (uint16_t)pcm16_of(samples[i]));
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v & 0xffff);
    put16(p + 2, v >> 16);
}

void mica_audio_wav_header(uint8_t out[MICA_WAV_HEADER], int rate, uint64_t count)
{
    const bool is_known = count <= (UINT32_MAX - MICA_WAV_HEADER) / 2;
    memcpy(out, "RIFF....WAVEfmt \x10\0\0\0\1\0\1\0", 24);
    put32(out + 4, is_known ? (uint32_t)(MICA_WAV_HEADER - 8 + 2 * count) : UINT32_MAX);
    put32(out + 24, (uint32_t)rate);
    put32(out + 28, (uint32_t)rate * 2);
    memcpy(out + 32, "\2\0\x10\0data", 8);
    put32(out + 40, is_known ? (uint32_t)(2 * count) : UINT32_MAX);
}

static bool write_samples(const mica_audio *a, SNDFILE *file, mica_audio_depth depth)
{
    if (depth == MICA_AUDIO_FLOAT)
        return sf_writef_float(file, a->samples, (sf_count_t)a->count) == (sf_count_t)a->count;
    int16_t block[READ_FRAMES];
    for (size_t at = 0; at < a->count; at += READ_FRAMES) {
        const size_t n = MICA_MIN((size_t)READ_FRAMES, a->count - at);
        for (size_t i = 0; i < n; i++)
            block[i] = pcm16_of(a->samples[at + i]);
        if (sf_writef_short(file, block, (sf_count_t)n) != (sf_count_t)n)
            return false;
    }
    return true;
}

static bool opus_rate(int rate)
{
    return rate == 8000 || rate == 12000 || rate == 16000 || rate == 24000 || rate == 48000;
}

static mica_status check_format(const mica_audio *a, const struct audio_kind *kind,
                                const char *name, mica_audio_depth depth, SF_INFO *info,
                                mica_err *err)
{
    if (kind == NULL)
        return MICA_FAIL(err, MICA_E_USAGE, "%s: sound can be written as wav, flac, ogg, opus, mp3",
                         name);
    if (depth == MICA_AUDIO_FLOAT && kind->format != SF_FORMAT_WAV)
        return MICA_FAIL(err, MICA_E_USAGE, "float samples are for .wav files, not for .%s",
                         kind->name);
    if (kind->pcm16 == SF_FORMAT_OPUS && !opus_rate(a->rate))
        return MICA_FAIL(err, MICA_E_USAGE, "opus has no rate of %d Hz (8, 12, 16, 24, 48 kHz)",
                         a->rate);
    *info = (SF_INFO){.samplerate = a->rate, .channels = 1};
    info->format = kind->format | (depth == MICA_AUDIO_FLOAT ? SF_FORMAT_FLOAT : kind->pcm16);
    if (!sf_format_check(info))
        return MICA_FAIL(err, MICA_E_USAGE, "this libsndfile (%s) does not write .%s at %d Hz",
                         sf_version_string(), kind->name, a->rate);
    return MICA_OK;
}

/* ---- Ogg without chance ---- */

#define OGG_HEADER 27 /* of a page; behind it a byte for each segment */
#define OGG_SERIAL 14
#define OGG_SUM    22

/* CRC-32 of RFC 3533: polynomial 04c11db7, not reflected, from 0. */
static uint32_t ogg_sum(const uint8_t *page, size_t size)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum ^= (uint32_t)page[i] << 24;
        for (int bit = 0; bit < 8; bit++)
            sum = sum << 1 ^ (sum >> 31 ? 0x04c11db7u : 0);
    }
    return sum;
}

/* A stream's serial number is drawn anew each time: with one of ours the same sound is the same file. */
static void fix_serial(uint8_t *data, size_t size)
{
    for (size_t at = 0; at + OGG_HEADER <= size && memcmp(data + at, "OggS", 4) == 0;) {
        uint8_t *page = data + at;
        size_t n = OGG_HEADER + (size_t)page[OGG_HEADER - 1];
        for (size_t i = OGG_HEADER; at + i < size && i < OGG_HEADER + (size_t)page[OGG_HEADER - 1];
             i++)
            n += page[i];
        if (n > size - at)
            return;
        memcpy(page + OGG_SERIAL, "mica", 4);
        memset(page + OGG_SUM, 0, 4);
        const uint32_t sum = ogg_sum(page, n);
        for (int i = 0; i < 4; i++)
            page[OGG_SUM + i] = (uint8_t)(sum >> 8 * i);
        at += n;
    }
}

mica_status mica_audio_encode(const mica_audio *a, const char *kind, mica_audio_depth depth,
                              uint8_t **data, size_t *size, mica_err *err)
{
    SF_INFO info;
    *data = NULL;
    *size = 0;
    MICA_TRY(check_format(a, find_kind(kind), kind, depth, &info, err));
    bytes_file bytes = {0};
    SNDFILE *file = sf_open_virtual(&bytes_io, SFM_WRITE, &info, &bytes);
    if (file == NULL) {
        mica_mem_free(bytes.data);
        return MICA_FAIL(err, MICA_E_IO, "sound as %s: %s", kind, sf_strerror(NULL));
    }
    sf_command(file, SFC_SET_ADD_PEAK_CHUNK, NULL, SF_FALSE); /* it holds the time of day */
    bool ok = write_samples(a, file, depth);
    ok = sf_close(file) == 0 && ok && !bytes.failed;
    if (!ok) {
        mica_mem_free(bytes.data);
        return MICA_FAIL(err, bytes.failed ? MICA_E_NOMEM : MICA_E_IO,
                         "sound as %s could not be encoded", kind);
    }
    fix_serial(bytes.data, bytes.size);
    *data = bytes.data;
    *size = bytes.size;
    return MICA_OK;
}

mica_status mica_audio_write(const mica_audio *a, const char *path, mica_audio_depth depth,
                             mica_err *err)
{
    const char *kind = mica_audio_kind(path);
    uint8_t *data;
    size_t size;
    mica_file_out out;
    MICA_TRY(mica_audio_encode(a, kind != NULL ? kind : path, depth, &data, &size, err));
    mica_status status = mica_file_out_open(&out, path, err);
    if (status == MICA_OK) {
        status = mica_file_out_write(&out, data, size, err);
        if (status == MICA_OK)
            status = mica_file_out_commit(&out, err);
        else
            mica_file_out_abort(&out);
    }
    mica_mem_free(data);
    return status;
}
