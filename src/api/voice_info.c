/* voice_info.c - what a .voice file says of itself, without a model. */
#include "api/api.h"

#include "base/utf8.h"
#include "models/gpt_sovits/gpt_sovits_voice_file.h"

#include <stdio.h>
#include <string.h>

/* As much of a text as fits, cut between characters. */
static void copy_text(char *to, size_t cap, const char *from)
{
    size_t n = 0;
    for (size_t size = from ? strlen(from) : 0; n < size;) {
        uint32_t cp;
        const size_t step = mica_utf8_decode(from + n, size - n, &cp);
        if (n + step >= cap)
            break;
        n += step;
    }
    if (n > 0)
        memcpy(to, from, n);
    to[n] = '\0';
}

static mica_status read_info(const char *path, mica_voice_info *info, mica_err *err)
{
    mica_gs_voice voice;
    mica_voice_info all = {.size = sizeof all};
    if (!path || !info || info->size < sizeof(size_t))
        return MICA_FAIL(err, MICA_E_USAGE, "no path, or no room for what a voice says");
    MICA_TRY(mica_gs_voice_read(&voice, path, err));
    memcpy(all.model_hash, voice.hash, sizeof all.model_hash);
    copy_text(all.language, sizeof all.language, voice.language);
    copy_text(all.text, sizeof all.text, voice.text);
    all.codes = (int)voice.code_count;
    mica_gs_voice_deinit(&voice);
    all.size = MICA_MIN(info->size, sizeof all);
    memcpy(info, &all, all.size);
    return MICA_OK;
}

mica_status mica_voice_read(const char *path, mica_voice_info *info, char *message,
                            size_t message_size)
{
    mica_err err = {0};
    const mica_status st = read_info(path, info, &err);
    if (message && message_size)
        snprintf(message, message_size, "%s", st ? err.text : "");
    return st;
}
