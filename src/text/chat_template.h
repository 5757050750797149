/* chat_template.h - a conversation as the text a model was trained on, by the template of its files.
 *
 *     messages + "{% for m in messages %}..."  ─►  "<s>[INST] Hello [/INST]"
 *
 * Templates are Jinja; what chat models of the Mistral and Llama kind use of it is understood
 * (docs/TEXT.md lists it). Anything else is refused with its place: a conversation that is rendered
 * almost right gives answers that are almost good, which nobody would notice. */
#ifndef MICA_TEXT_CHAT_TEMPLATE_H
#define MICA_TEXT_CHAT_TEMPLATE_H

#include "base/json.h"

#define MICA_CHAT_TEMPLATE_MAX_SIZE 65536

/* What a template sees. Strings may be NULL: "". */
typedef struct mica_chat_input {
    const mica_message *messages;
    int count;
    const char *bos, *eos;      /* spellings of these tokens */
    bool add_generation_prompt; /* the text ends where an answer begins */
} mica_chat_input;

/* Appends the text. `name` stands for the template in messages. */
mica_status mica_chat_template_render(const char *name, const char *source,
                                      const mica_chat_input *input, mica_text *out, mica_err *err);
/* Mixtral's own: [INST] ... [/INST], a system message before the first user's. */
extern const char mica_chat_template_mixtral[];
/* The template in chat_template.jinja or tokenizer_config.json beside a tokenizer (its folder, or the
 * tokenizer.json in it). *out stays NULL when there is none; freed with mica_mem_free. */
mica_status mica_chat_template_find(const char *tokenizer, char **out, mica_err *err);

#endif
