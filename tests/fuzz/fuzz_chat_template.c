/* fuzz_chat_template.c - bytes as a chat template, rendered for a conversation. It ends, with text or with
 * a message that names its place. */
#include "text/chat_template.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const mica_message turns[] = {
        {"system", "Be brief."}, {"user", "a"}, {"assistant", "\xc3\xa9"}, {"user", ""}};
    const mica_chat_input input = {
        .messages = turns, .count = 4, .bos = "<s>", .eos = "</s>", .add_generation_prompt = true};
    mica_err err = {0};
    mica_text out = {0};
    char *source = mica_mem_strndup((const char *)data, size);
    if (!source)
        return 0;
    const mica_status st = mica_chat_template_render("fuzz", source, &input, &out, &err);
    if (st != MICA_OK && strncmp(err.text, "fuzz", 4) != 0)
        abort();
    mica_text_deinit(&out);
    mica_mem_free(source);
    return 0;
}
