/* fuzz_voice.c - arbitrary bytes as a .voice file.
 *
 * Beyond "no crash": a refusal has a text and leaves nothing; what is read is finite, not negative, text. */
#include "base/utf8.h"
#include "models/gpt_sovits/gpt_sovits_voice_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_gs_voice v;
    mica_err err = {.status = MICA_OK};
    if (mica_gs_voice_parse(&v, "input", data, size, &err) != MICA_OK) {
        require(err.text[0] && !v.codes && !v.style && !v.text && !v.language);
        return 0;
    }
    require(strlen(v.hash) == 16);
    for (int64_t i = 0; i < v.code_count; i++)
        require(v.codes[i] >= 0);
    for (int64_t i = 0; i < v.style_width; i++)
        require(isfinite(v.style[i]));
    require(!v.text || mica_utf8_is_valid(v.text, strlen(v.text)));
    mica_gs_voice_deinit(&v);
    return 0;
}
