/* speech_rules.c - rules on PCRE2, with limits on its steps. */
#include "speech/speech_rules.h"

#include "base/mem.h"
#include "base/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#define MATCH_LIMIT 2000000 /* steps of one match; real texts need hundreds */

struct mica_rules {
    size_t count;
    const mica_rule *rules; /* borrowed: static tables */
    pcre2_code **codes;
    pcre2_match_context *limits;
};

mica_slice mica_match_group(const mica_match *m, size_t group)
{
    if (group >= m->groups || m->offsets[2 * group] == PCRE2_UNSET)
        return (mica_slice){"", 0};
    return (mica_slice){m->text + m->offsets[2 * group],
                        m->offsets[2 * group + 1] - m->offsets[2 * group]};
}

bool mica_slice_is(mica_slice s, const char *text)
{
    return s.size == strlen(text) && memcmp(s.text, text, s.size) == 0;
}

void mica_rule_put(mica_text *out, const char *text)
{
    mica_text_add_bytes(out, text, strlen(text));
}

void mica_rule_put_slice(mica_text *out, mica_slice s)
{
    mica_text_add_bytes(out, s.text, s.size);
}

void mica_rule_first_group(mica_text *out, const mica_match *m)
{
    mica_rule_put_slice(out, mica_match_group(m, 1));
}

void mica_rules_close(mica_rules **r)
{
    if (*r == NULL)
        return;
    for (size_t i = 0; (*r)->codes != NULL && i < (*r)->count; i++)
        pcre2_code_free((*r)->codes[i]);
    pcre2_match_context_free((*r)->limits);
    mica_mem_free((*r)->codes);
    mica_mem_free(*r);
    *r = NULL;
}

static mica_status compile(mica_rules *r, mica_err *err)
{
    for (size_t i = 0; i < r->count; i++) {
        int code = 0;
        PCRE2_SIZE at = 0;
        r->codes[i] = pcre2_compile((PCRE2_SPTR)r->rules[i].pattern, PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF, &code, &at, NULL);
        if (r->codes[i] == NULL)
            return MICA_FAIL(err, MICA_E_INTERNAL, "rule %zu (%s): error %d at %zu", i,
                             r->rules[i].pattern, code, (size_t)at);
        (void)pcre2_jit_compile(r->codes[i], PCRE2_JIT_COMPLETE); /* without it only slower */
    }
    return MICA_OK;
}

mica_status mica_rules_open(mica_rules **out, const mica_rule *rules, size_t count, mica_err *err)
{
    mica_rules *r = mica_mem_calloc(1, sizeof *r);
    *out = NULL;
    if (r != NULL) {
        r->count = count;
        r->rules = rules;
        r->codes = mica_mem_calloc(count, sizeof *r->codes);
        r->limits = pcre2_match_context_create(NULL);
    }
    mica_status status;
    if (r == NULL || r->codes == NULL || r->limits == NULL)
        status = MICA_FAIL(err, MICA_E_NOMEM, "no memory for the rules of a language");
    else {
        pcre2_set_match_limit(r->limits, MATCH_LIMIT);
        status = compile(r, err);
    }
    if (status != MICA_OK)
        mica_rules_close(&r);
    *out = r;
    return status;
}

/* The end of the character at `at`: an empty match must not stand still. */
static size_t next_character(const mica_text *text, size_t at)
{
    uint32_t cp;
    return at < text->size ? at + mica_utf8_decode(text->data + at, text->size - at, &cp) : at + 1;
}

static mica_status replace_all(const mica_rules *r, size_t rule, const mica_text *text,
                               pcre2_match_data *data, mica_text *out, bool *changed, mica_err *err)
{
    size_t done = 0, at = 0;
    while (at <= text->size) {
        const int groups = pcre2_match(r->codes[rule], (PCRE2_SPTR)text->data, text->size, at,
                                       PCRE2_NO_UTF_CHECK, data, r->limits);
        if (groups == PCRE2_ERROR_NOMATCH)
            break;
        if (groups < 0)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "the text is too entangled for rule %s (error %d)",
                             r->rules[rule].pattern, groups);
        const size_t *offsets = pcre2_get_ovector_pointer(data);
        const mica_match m = {text->data, offsets, (size_t)groups, text->size};
        mica_text_add_bytes(out, text->data + done, offsets[0] - done);
        if (r->rules[rule].replace != NULL)
            r->rules[rule].replace(out, &m);
        else
            mica_text_add_bytes(out, r->rules[rule].literal, strlen(r->rules[rule].literal));
        done = offsets[1];
        at = offsets[1] > offsets[0] ? offsets[1] : next_character(text, offsets[1]);
        *changed = true;
    }
    mica_text_add_bytes(out, text->data + done, text->size - done);
    return MICA_OK;
}

static mica_status run_rule(const mica_rules *r, size_t rule, mica_text *text, mica_err *err)
{
    mica_text out = {0};
    bool changed = false;
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(r->codes[rule], NULL);
    if (data == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to match %s", r->rules[rule].pattern);
    mica_status status = replace_all(r, rule, text, data, &out, &changed, err);
    pcre2_match_data_free(data);
    if (status == MICA_OK && out.failed)
        status = MICA_FAIL(err, MICA_E_NOMEM, "no memory to rewrite the text");
    if (status == MICA_OK && changed) {
        mica_text_deinit(text);
        *text = out;
    } else
        mica_text_deinit(&out);
    return status;
}

mica_status mica_rules_run(const mica_rules *r, mica_text *text, mica_err *err)
{
    for (size_t i = 0; i < r->count; i++) {
        if (text->size == 0)
            return MICA_OK;
        MICA_TRY(run_rule(r, i, text, err));
    }
    return MICA_OK;
}
